//! What is due, in the order of its time; what is due at one moment comes in the order in which it was put down.
//! In: a happening and its time. Out: the earliest. The heap moves small keys; the happenings stay where they are.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::sim::clock::God;
use crate::sim::happenings::Happening;

#[derive(Default)]
pub(crate) struct Agenda {
    heap: BinaryHeap<Reverse<(God, u64, u32)>>,
    /// By the last part of the key.
    slots: Vec<Option<Happening>>,
    free: Vec<u32>,
    put_down: u64,
}

impl Agenda {
    pub fn push(&mut self, at: God, what: Happening) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.slots[slot as usize] = Some(what);
        self.put_down += 1;
        self.heap.push(Reverse((at, self.put_down, slot)));
    }

    /// The earliest, if it is due by `until`.
    pub fn pop_by(&mut self, until: God) -> Option<(God, Happening)> {
        let Reverse((at, _, _)) = self.heap.peek()?;
        if *at > until {
            return None;
        }
        let Reverse((at, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        Some((at, self.slots[slot as usize].take().expect("a key of the heap has its happening")))
    }

    pub fn len(&self) -> usize {
        self.heap.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_comes_first_and_equals_in_their_order() {
        let mut agenda = Agenda::default();
        for (at, place) in [(5, 0), (3, 1), (5, 2), (3, 3)] {
            agenda.push(at, Happening::Deed(place));
        }
        let mut order = Vec::new();
        while let Some((at, Happening::Deed(place))) = agenda.pop_by(5) {
            order.push((at, place));
            if order.len() == 1 {
                agenda.push(4, Happening::Deed(4));
            }
        }
        assert_eq!(order, [(3, 1), (3, 3), (4, 4), (5, 0), (5, 2)]);
        agenda.push(6, Happening::Sweep);
        assert!(agenda.pop_by(5).is_none() && agenda.len() == 1);
    }
}

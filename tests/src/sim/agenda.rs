//! What is due, in the order of its time; what is due at one moment comes in the order in which it was put down.
//! In: a happening and its time. Out: the earliest. The heap moves small keys; the happenings stay where they are.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::sim::clock::God;
use crate::sim::happenings::Happening;

/// More happenings never wait at once, and more are never put down in a run.
const SLOT_BITS: u32 = 24;
const ORDER_BITS: u32 = 40;

#[derive(Default)]
pub(crate) struct Agenda {
    /// Time, order and slot as one number: 64, 40 and 24 bits.
    heap: BinaryHeap<Reverse<u128>>,
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
        assert!(slot < 1 << SLOT_BITS && self.put_down < 1 << ORDER_BITS, "more than any run puts down");
        let order = u128::from(self.put_down) << SLOT_BITS;
        self.heap.push(Reverse(u128::from(at) << (ORDER_BITS + SLOT_BITS) | order | u128::from(slot)));
    }

    /// The earliest, if it is due by `until`.
    pub fn pop_by(&mut self, until: God) -> Option<(God, Happening)> {
        let Reverse(key) = *self.heap.peek()?;
        let at = (key >> (ORDER_BITS + SLOT_BITS)) as God;
        if at > until {
            return None;
        }
        self.heap.pop();
        let slot = key as u32 % (1 << SLOT_BITS);
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

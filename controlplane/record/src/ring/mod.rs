//! The guard file: a ring of slots, one per group, that says how far the log must reach and brings it there.
//! In: groups, by number. Out: where their slots stand and what they wait for; from a whole file, what it knows.
//! Absent: when to write (`Ledger`, the engines), and the judgement over log and ring together (`replay`).
//!
//! A group is acknowledged when its slot is durable: *one* sync, of a file that was written in full when it was made, so
//! that the sync finds nothing to do but these blocks. The log gets the record later, together with others. That is
//! enough because a slot is overwritten only when the group in it is durable in the log: at every moment each
//! acknowledged group is in the log or carried by the ring, and a crash can tear nothing but the slot being written,
//! whose old group is in the log and whose new one nobody was told about.
//!
//! Every slot stands twice, in halves far apart: a page lost at rest must not make the store look shorter. Where two
//! copies differ, the one that verifies and is newer counts. A slot that is written a second time (snapshot, start,
//! close) is written half by half, each synced, so that one copy of the newest slot is whole at every moment. What is
//! noticed: another length, no slot that verifies, a group that is in neither log nor ring, a record that is not the
//! one its slot names, a ring older than the log. What cannot be: both copies of the newest slot lost together with the end of the log.

mod slot;

pub use slot::Slot;

use crate::damage::Damage;
use crate::error::StoreError;
use slot::HEAD_BYTES;

/// How many slots of which size. A constant of every engine: a file of another length is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Groups that the ring may be ahead of the log.
    pub slots: u64,
    /// A multiple of 4 KiB.
    pub slot_bytes: usize,
}

impl Shape {
    pub const fn file_bytes(&self) -> usize {
        2 * self.half_bytes()
    }

    /// The longest record a slot carries. Longer ones are made durable in the log first.
    pub const fn carry_bytes(&self) -> usize {
        self.slot_bytes - HEAD_BYTES
    }

    /// Offsets of the two copies of the slot of `group`.
    pub fn copies(&self, group: u64) -> [u64; 2] {
        let at = (group % self.slots) * self.slot_bytes as u64;
        [at, at + self.half_bytes() as u64]
    }

    /// The group whose slot that of `group` takes; 0 = it takes nobody's.
    pub fn evicted_by(&self, group: u64) -> u64 {
        group.saturating_sub(self.slots)
    }

    /// How many groups wait before the log is fed: half the ring, so that the other half takes groups meanwhile.
    pub const fn feed_at(&self) -> usize {
        self.slots as usize / 2
    }

    const fn half_bytes(&self) -> usize {
        self.slots as usize * self.slot_bytes
    }
}

/// What a guard file knows.
#[derive(Debug, Clone)]
pub struct Ring {
    newest: Slot,
    /// By `group % slots`; at most one for each place.
    slots: Vec<Option<Slot>>,
    halved: Vec<u64>,
    carried_from: u64,
}

impl Ring {
    /// Reads a whole file. Errs with `Format` if another version of this program made it, else with `Damaged` if its
    /// length is wrong or no slot verifies.
    pub fn read(shape: Shape, file: &[u8]) -> Result<Ring, StoreError> {
        if file.len() != shape.file_bytes() {
            // Where the slots stand is another question of another version; the first one always starts the file.
            if let Some(found) = slot::version(file).filter(|found| *found != slot::VERSION) {
                return Err(StoreError::Format { object: "guard file", found, expected: slot::VERSION });
            }
            let (expected, found) = (shape.file_bytes() as u64, file.len() as u64);
            return Err(Damage::GuardLength { expected, found }.into());
        }
        let (mut slots, mut halved) = (Vec::new(), Vec::new());
        for place in 0..shape.slots {
            let copies = shape.copies(place).map(|at| {
                let bytes = &file[at as usize..at as usize + shape.slot_bytes];
                // A slot in the place of another is a write that went astray.
                Slot::decode(bytes).filter(|slot| slot.group % shape.slots == place)
            });
            let [first, second] = copies;
            let differ = first.as_ref().map(Slot::age) != second.as_ref().map(Slot::age);
            let slot = [first, second].into_iter().flatten().max_by_key(Slot::age);
            halved.extend(slot.as_ref().filter(|_| differ).map(|slot| slot.group));
            slots.push(slot);
        }
        let newest = slots.iter().flatten().max_by_key(|slot| slot.age()).cloned().ok_or(Damage::GuardUnreadable)?;
        let mut ring = Ring { carried_from: newest.group + 1, newest, slots, halved };
        while ring.carries(ring.carried_from - 1) {
            ring.carried_from -= 1;
        }
        Ok(ring)
    }

    /// The slot that says how far the log must reach.
    pub fn newest(&self) -> &Slot {
        &self.newest
    }

    /// The slot of `group`, if it is there.
    pub fn slot(&self, group: u64) -> Option<&Slot> {
        self.slots[(group % self.slots.len() as u64) as usize].as_ref().filter(|slot| slot.group == group)
    }

    /// All groups from this one to the newest are carried; behind the newest if that is not.
    pub fn carried_from(&self) -> u64 {
        self.carried_from
    }

    /// Groups of whose slot one copy is missing, torn or older. After a crash that may be the newest.
    pub fn halved(&self) -> &[u64] {
        &self.halved
    }

    fn carries(&self, group: u64) -> bool {
        self.slot(group).is_some_and(|slot| !slot.carried.is_empty())
    }
}

//! What happens to a disk in memory: crashes, want of room, failed syncs, rot.
//! In: a fault and its place. Out: the bytes that are left. Absent: chance.

use super::{MemDisk, SHAPE};
use crate::ring::Ring;

/// What a power cut leaves of the writes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Nothing.
    Lost,
    /// The first `log_bytes` of the log's, and of the slot under way so many bytes in each of its copies.
    Torn { log_bytes: usize, slot_bytes: [usize; 2] },
    /// All of them: the process died, the machine did not.
    Kept,
}

/// A file of the simulated disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Log,
    Guard,
    Snapshot,
}

impl MemDisk {
    /// The member dies here. Load before the next write.
    pub fn crash(&mut self, crash: Crash) {
        let (log_bytes, slot_bytes) = match crash {
            Crash::Lost => (0, [0; 2]),
            Crash::Torn { log_bytes, slot_bytes } => (log_bytes, slot_bytes),
            Crash::Kept => (usize::MAX, [usize::MAX; 2]),
        };
        self.begin_next(slot_bytes);
        if let Some(log) = &mut self.log {
            let lost = self.unsynced.saturating_sub(log_bytes);
            log.truncate(log.len().saturating_sub(lost));
        }
        self.unsynced = 0;
        self.queue.clear();
        self.behind.clear();
        self.bodies().staged = None;
        self.ledger = None;
        self.sync_fails = false;
    }

    /// The oldest queued group was being written when the member died: its slot as far as `slot_bytes` say, or, if that
    /// cannot carry it, its record, behind everything the log lacked.
    fn begin_next(&mut self, slot_bytes: [usize; 2]) {
        let Some(write) = self.queue.pop_front() else { return };
        let carried = self.carries(&write);
        let Some(ledger) = &mut self.ledger else { return };
        if !carried {
            self.behind.push_back(write);
            // For want of room it got no further than that.
            let _ = self.feed();
        } else if let Some(file) =
            self.guard.as_mut().filter(|_| ledger.must_be_logged(write.tip.number) <= self.logged)
        {
            let mut slot = Vec::new();
            let copies = ledger.slot(&write.tip, false, &write.record, &mut slot);
            for (at, bytes) in copies.into_iter().zip(slot_bytes) {
                let (at, bytes) = (at as usize, bytes.min(slot.len()));
                file[at..at + bytes].copy_from_slice(&slot[..bytes]);
            }
        }
    }

    /// From now on no write may grow log and snapshot beyond this many bytes together; `None` = no limit. The ring does
    /// not grow.
    pub fn limit_bytes(&mut self, capacity: Option<usize>) {
        self.capacity_bytes = capacity;
    }

    /// The next sync of the ring fails with an I/O error, and with it this store until the next crash.
    pub fn fail_sync(&mut self) {
        self.sync_fails = true;
    }

    /// Bytes of a file; 0 if it is gone.
    pub fn part_bytes(&self, part: Part) -> usize {
        match part {
            Part::Log => self.log.as_ref().map_or(0, Vec::len),
            Part::Guard => self.guard.as_ref().map_or(0, Vec::len),
            Part::Snapshot => self.bodies().saved.as_ref().map_or(0, Vec::len),
        }
    }

    /// What the guard file knows now; `None` if it does not verify.
    pub fn ring(&self) -> Option<Ring> {
        Ring::read(SHAPE, self.guard.as_ref()?).ok()
    }

    /// Where the copies of the newest slot start in the guard file; `None` if there is none that verifies.
    pub fn newest_copies(&self) -> Option<[usize; 2]> {
        Some(SHAPE.copies(self.ring()?.newest().group).map(|at| at as usize))
    }

    /// Flips one bit; does nothing beyond the end.
    pub fn flip(&mut self, part: Part, byte: usize, bit: u8) {
        self.alter(part, |file| {
            if let Some(byte) = file.as_mut().and_then(|bytes| bytes.get_mut(byte)) {
                *byte ^= 1 << (bit % 8);
            }
        });
    }

    /// Cuts a file to `len` bytes.
    pub fn truncate(&mut self, part: Part, len: usize) {
        self.alter(part, |file| {
            if let Some(bytes) = file {
                bytes.truncate(len);
            }
        });
    }

    /// A copy of a file; `None` if it is gone.
    pub fn copy(&self, part: Part) -> Option<Vec<u8>> {
        match part {
            Part::Log => self.log.clone(),
            Part::Guard => self.guard.clone(),
            Part::Snapshot => self.bodies().saved.clone(),
        }
    }

    /// Puts another file in its place: an older copy, one of another member.
    pub fn replace(&mut self, part: Part, bytes: Vec<u8>) {
        self.alter(part, |file| *file = Some(bytes));
    }

    pub fn remove(&mut self, part: Part) {
        self.alter(part, |file| *file = None);
    }

    fn alter(&mut self, part: Part, change: impl FnOnce(&mut Option<Vec<u8>>)) {
        match part {
            Part::Log => change(&mut self.log),
            Part::Guard => change(&mut self.guard),
            Part::Snapshot => change(&mut self.bodies().saved),
        }
    }
}

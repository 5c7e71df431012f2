//! A member's disk: the real records over bytes in memory, and time between a write and its durability.
//! In: the writes a member asks for. Out: when each is durable, and what is left after a crash.
//! Absent: the store's thread. What is queued shares a sync, as in the shell.

use std::collections::BTreeMap;

use record::{Crash, Identity, Loaded, MemDisk, Part, RaftDisk, SnapshotMeta, StoreError};
use replica::Write;
use serde::{Deserialize, Serialize};

use crate::sim::chance::Chance;
use crate::sim::clock::{God, MS};

/// How long a sync takes, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Speed {
    pub sync_min: u64,
    pub sync_max: u64,
}

impl Speed {
    pub const NVME: Speed = Speed { sync_min: MS / 10, sync_max: MS };
    pub const SATA: Speed = Speed { sync_min: MS, sync_max: 12 * MS };
}

pub struct Disk {
    pub mem: MemDisk,
    speed: Speed,
    /// The last sync that was begun ends then; the next one begins no earlier.
    busy_until: God,
    /// Nothing becomes durable before.
    stalled_until: God,
    /// No room before.
    full_until: God,
    /// Snapshots that arrived and are not adopted yet, by their place in the log.
    arrived: BTreeMap<u64, (SnapshotMeta, Vec<u8>)>,
    chance: Chance,
}

impl Disk {
    /// `founded`: the store of a cluster's first members, which begins behind a snapshot; else one without a log.
    pub fn new(identity: Identity, founded: Option<(&SnapshotMeta, &[u8])>, speed: Speed, chance: Chance) -> Disk {
        let mut mem = MemDisk::create(identity);
        if let Some((meta, body)) = founded {
            mem.load().expect("a store just made is whole");
            mem.save_snapshot(meta, body).expect("a store just made takes a snapshot");
            let hard_state = record::HardState { term: meta.term, vote: 0, commit: meta.index };
            let group = record::Group { hard_state, restored: Some(meta.point()), entries: Vec::new() };
            mem.append_group(&group).expect("a log begins behind its snapshot");
        }
        Disk { mem, speed, busy_until: 0, stalled_until: 0, full_until: 0, arrived: BTreeMap::new(), chance }
    }

    pub fn load(&mut self) -> Result<Option<Loaded>, StoreError> {
        self.mem.load()
    }

    /// The body of the adopted snapshot, if it is the one described.
    pub fn snapshot(&mut self) -> Result<Option<(SnapshotMeta, Vec<u8>)>, StoreError> {
        self.mem.load_snapshot()
    }

    /// Keeps a body that came from the leader until its write adopts it.
    pub fn keep_arrived(&mut self, meta: SnapshotMeta, body: Vec<u8>) {
        self.arrived.insert(meta.index, (meta, body));
    }

    /// Queues the write. Gives the number of its group and when it will be durable.
    pub fn write(&mut self, now: God, write: &Write) -> Result<(u64, God), StoreError> {
        self.mem.limit_bytes((now < self.full_until).then_some(0));
        if let Some(meta) = &write.snapshot {
            let body = self.arrived.remove(&meta.index).filter(|(arrived, _)| arrived == meta);
            let (meta, body) = body.ok_or(record::Refused::NotStaged { index: meta.index })?;
            self.arrived.retain(|index, _| *index > meta.index);
            self.mem.save_snapshot(&meta, &body)?;
        }
        let number = self.mem.write(&write.group)?;
        let begun = now.max(self.busy_until).max(self.stalled_until);
        self.busy_until = begun + self.chance.within(self.speed.sync_min..=self.speed.sync_max);
        Ok((number, self.busy_until))
    }

    /// When a group that was to be durable by `planned` will be: later, if the disk stalled meanwhile.
    pub fn durable_at(&self, planned: God) -> God {
        planned.max(self.stalled_until)
    }

    pub fn sync(&mut self, through: u64) -> Result<(), StoreError> {
        self.mem.sync(through)
    }

    pub fn save_snapshot(&mut self, meta: &SnapshotMeta, body: &[u8]) -> Result<(), StoreError> {
        self.mem.save_snapshot(meta, body)
    }

    pub fn compact(&mut self, through: u64) -> Result<(), StoreError> {
        self.mem.compact(through)
    }

    /// There is no room for anything until then.
    pub fn full(&mut self, until: God) {
        self.full_until = until;
        self.mem.limit_bytes((until > 0).then_some(0));
    }

    pub fn is_stalled(&self, now: God) -> bool {
        now < self.stalled_until
    }

    pub fn stall(&mut self, until: God) {
        self.stalled_until = self.stalled_until.max(until);
    }

    /// The process ended and the machine did not: what was written is kept.
    pub fn process_died(&mut self) {
        self.crash(Crash::Kept);
    }

    /// The machine lost its power: of what was not synced, nothing, a part or all is kept.
    pub fn power_lost(&mut self) {
        let unsynced = self.mem.unsynced_bytes() as u64;
        let crash = match self.chance.below(4) {
            0 => Crash::Lost,
            1 => Crash::Kept,
            _ => {
                let log_bytes = self.chance.below(unsynced + 1) as usize;
                let slot_bytes = [self.slot_bytes(), self.slot_bytes()];
                Crash::Torn { log_bytes, slot_bytes }
            }
        };
        self.crash(crash);
    }

    /// How much of a copy of a slot was written: nothing, all of it, or its first pages.
    fn slot_bytes(&mut self) -> usize {
        match self.chance.below(3) {
            0 => 0,
            1 => usize::MAX,
            _ => 512 * self.chance.below(8) as usize,
        }
    }

    fn crash(&mut self, crash: Crash) {
        self.mem.crash(crash);
        self.arrived.clear();
        self.busy_until = 0;
    }

    /// Nothing of a store is on it.
    pub fn is_empty(&self) -> bool {
        [Part::Log, Part::Guard, Part::Snapshot].iter().all(|part| self.mem.part_bytes(*part) == 0)
    }

    /// Everything on it is gone.
    pub fn wipe(&mut self) {
        self.crash(Crash::Lost);
        for part in [Part::Log, Part::Guard, Part::Snapshot] {
            self.mem.remove(part);
        }
    }

    /// One bit of the log or of the snapshot is flipped; of the log if there is no snapshot. Or the log loses its end, or
    /// the newest slot of the guard file one of its copies.
    pub fn rot(&mut self, place: u64) {
        if place % 4 == 3
            && let Some(copies) = self.mem.newest_copies()
        {
            let copy = copies[(place >> 8) as usize % 2];
            return self.mem.flip(Part::Guard, copy + (place >> 9) as usize % 100, (place % 8) as u8);
        }
        if place % 4 == 1 {
            let bytes = self.mem.part_bytes(Part::Log);
            return self.mem.truncate(Part::Log, bytes.saturating_sub((place >> 8) as usize % 2_000));
        }
        let part =
            if place.is_multiple_of(3) && self.mem.part_bytes(Part::Snapshot) > 0 { Part::Snapshot } else { Part::Log };
        let bytes = self.mem.part_bytes(part) as u64;
        if bytes > 0 {
            self.mem.flip(part, ((place >> 8) % bytes) as usize, (place % 8) as u8);
        }
    }
}

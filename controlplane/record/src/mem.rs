//! A store in memory, over a disk that does exactly what its owner says: keep, lose, tear, fill up, fail, rot.
//! In: groups and faults. Out: what a member would find after a start. The records are the real ones.
//! Absent: chance and time. `write` queues, `sync` makes durable; between the two the simulator may let time pass, or
//! `crash`. Deterministic: every fault and its place is the caller's choice.

use crate::codec::Scan;
use crate::damage::Damage;
use crate::disk::{RaftDisk, SnapshotFolder, Stats};
use crate::error::{Refused, StoreError};
use crate::guard::{Guard, SLOT_BYTES};
use crate::ledger::Ledger;
use crate::replay::{owned, replay};
use crate::snapshot::{decode_snapshot, frames, snapshot_header, snapshot_meta};
use crate::tip::Tip;
use crate::types::{Group, Identity, Loaded, SnapshotMeta};
use bytes::Bytes;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What a power cut leaves of the writes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Nothing.
    Lost,
    /// The first `log_bytes` of them, and the guard of the oldest one if it was under way.
    Torn { log_bytes: usize, guard: bool },
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

pub struct MemDisk {
    identity: Identity,
    /// Durable bytes; `None` = the file is gone.
    log: Option<Vec<u8>>,
    guard: Option<Vec<u8>>,
    snapshots: Arc<Mutex<Bodies>>,
    /// Written, not synced, oldest first.
    queue: VecDeque<Write>,
    /// The last group that is durable.
    durable: Tip,
    ledger: Option<Ledger>,
    capacity_bytes: Option<usize>,
    sync_fails: bool,
    stats: Stats,
}

struct Write {
    tip: Tip,
    record: Vec<u8>,
}

#[derive(Default)]
struct Bodies {
    identity: Identity,
    saved: Option<Vec<u8>>,
    staged: Option<(SnapshotMeta, Vec<u8>)>,
}

impl MemDisk {
    /// The empty store of a new member, as durable as `controlplane::store` leaves it. Load it before writing.
    pub fn create(identity: Identity) -> Self {
        let mut disk = Self::absent(identity);
        let mut ledger = Ledger::new(identity);
        let (mut record, mut slot, mut guard) = (Vec::new(), Vec::new(), vec![0; 2 * SLOT_BYTES]);
        let tip = ledger.prepare(&Group::default(), &mut record).expect("an empty group follows nothing");
        for _ in 0..2 {
            let at = ledger.guard(&tip, false, &[], &mut slot) as usize;
            guard[at..at + slot.len()].copy_from_slice(&slot);
        }
        (disk.log, disk.guard) = (Some(record), Some(guard));
        disk
    }

    /// A disk on which this member never had a store.
    pub fn absent(identity: Identity) -> Self {
        Self {
            identity,
            log: None,
            guard: None,
            snapshots: Arc::new(Mutex::new(Bodies { identity, ..Bodies::default() })),
            queue: VecDeque::new(),
            durable: Tip::default(),
            ledger: None,
            capacity_bytes: None,
            sync_fails: false,
            stats: Stats::default(),
        }
    }

    /// Queues `group` for the next sync and gives back its number. Errs as `append_group` does, also when full.
    pub fn write(&mut self, group: &Group) -> Result<u64, StoreError> {
        let full = self.capacity_bytes.map(|capacity| capacity.saturating_sub(self.used_bytes()));
        let ledger = self.ledger.as_mut().ok_or(StoreError::NotLoaded)?;
        let mut record = Vec::new();
        let tip = ledger.prepare(group, &mut record)?;
        if full.is_some_and(|room| room < record.len()) {
            let error = StoreError::io("write", "log", io::ErrorKind::StorageFull.into());
            return ledger.watch(Err(error));
        }
        ledger.advance(tip, group, record.len() as u64);
        self.stats.appended(group, record.len() as u64, Duration::ZERO);
        self.queue.push_back(Write { tip, record });
        Ok(tip.number)
    }

    /// Makes every queued group up to number `through` durable, in order.
    pub fn sync(&mut self, through: u64) -> Result<(), StoreError> {
        let ledger = self.ledger.as_mut().ok_or(StoreError::NotLoaded)?;
        ledger.check_usable()?;
        while let Some(write) = self.queue.front().filter(|write| write.tip.number <= through) {
            if self.sync_fails {
                return ledger.watch(Err(StoreError::io("sync", "log", io::ErrorKind::Other.into())));
            }
            let carried = if Ledger::carries(&write.record) { &write.record[..] } else { &[] };
            put_guard(ledger, &mut self.guard, &write.tip, false, carried);
            self.log.get_or_insert_default().extend_from_slice(&write.record);
            self.durable = write.tip;
            self.queue.pop_front();
        }
        Ok(())
    }

    /// Number of the last durable group.
    pub fn durable_group(&self) -> u64 {
        self.durable.number
    }

    /// Bytes that a crash may lose.
    pub fn unsynced_bytes(&self) -> usize {
        self.queue.iter().map(|write| write.record.len()).sum()
    }

    /// The member dies here. Load before the next write.
    pub fn crash(&mut self, crash: Crash) {
        let (mut room, guard) = match crash {
            Crash::Lost => (0, false),
            Crash::Torn { log_bytes, guard } => (log_bytes, guard),
            Crash::Kept => (usize::MAX, false),
        };
        if let (true, Some(write), Some(ledger)) = (guard, self.queue.front(), self.ledger.as_mut()) {
            // Written beside the log only if it carries its group; otherwise it would have waited for the log.
            if Ledger::carries(&write.record) {
                put_guard(ledger, &mut self.guard, &write.tip, false, &write.record);
            }
        }
        for write in self.queue.drain(..) {
            let kept = room.min(write.record.len());
            self.log.get_or_insert_default().extend_from_slice(&write.record[..kept]);
            room -= kept;
        }
        self.bodies().staged = None;
        self.ledger = None;
        self.sync_fails = false;
    }

    /// From now on no write may grow log and snapshot beyond this many bytes together; `None` = no limit.
    pub fn limit_bytes(&mut self, capacity: Option<usize>) {
        self.capacity_bytes = capacity;
    }

    /// The next sync fails with an I/O error, and with it this store until the next crash.
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

    fn used_bytes(&self) -> usize {
        self.part_bytes(Part::Log) + self.part_bytes(Part::Snapshot) + self.unsynced_bytes()
    }

    fn bodies(&self) -> std::sync::MutexGuard<'_, Bodies> {
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_snapshot(&self) -> Result<Option<SnapshotMeta>, Damage> {
        let bodies = self.bodies();
        let Some(file) = &bodies.saved else { return Ok(None) };
        let fault = |fault| Damage::Snapshot { object: "in memory".into(), fault };
        let (owner, meta, _) = decode_snapshot(file.clone()).map_err(fault)?;
        owned("snapshot", &owner, &self.identity)?;
        Ok(Some(meta))
    }
}

/// Writes the next guard slot; it is durable at once.
fn put_guard(ledger: &mut Ledger, file: &mut Option<Vec<u8>>, tip: &Tip, clean: bool, carried: &[u8]) {
    let mut slot = Vec::new();
    let at = ledger.guard(tip, clean, carried, &mut slot) as usize;
    let file = file.get_or_insert_default();
    file.resize(2 * SLOT_BYTES, 0);
    file[at..at + slot.len()].copy_from_slice(&slot);
}

impl RaftDisk for MemDisk {
    fn load(&mut self) -> Result<Option<Loaded>, StoreError> {
        self.queue.clear();
        self.ledger = None;
        if self.log.is_none() && self.guard.is_none() && self.bodies().saved.is_none() {
            return Ok(None);
        }
        let guard_file = self.guard.clone().ok_or(Damage::Missing { part: "guard file" })?;
        let guard = Guard::newest(&guard_file.into())?;
        let log = Bytes::from(self.log.clone().ok_or(Damage::Missing { part: "log" })?);
        let snapshot = self.read_snapshot()?;
        let mut replayed = replay(&self.identity, Scan::new(log.clone()), &guard, snapshot.as_ref())?;
        let mut scan = Scan::new(log);
        scan.by_ref().take(replayed.kept).for_each(drop);
        let file = self.log.get_or_insert_default();
        file.truncate(scan.offset as usize);
        if let Some(record) = &replayed.redo {
            file.extend_from_slice(record);
        }
        let mut ledger = Ledger::resume(&mut replayed);
        self.durable = *ledger.tip();
        put_guard(&mut ledger, &mut self.guard, &self.durable, false, &[]);
        self.ledger = Some(ledger);
        if let Some(group) = &replayed.install {
            self.append_group(group)?;
        }
        Ok(Some(replayed.loaded))
    }

    fn append_group(&mut self, group: &Group) -> Result<u64, StoreError> {
        let number = self.write(group)?;
        self.sync(number)?;
        Ok(number)
    }

    fn snapshots(&self) -> Box<dyn SnapshotFolder> {
        Box::new(MemSnapshots(self.snapshots.clone()))
    }

    fn adopt_snapshot(&mut self, meta: &SnapshotMeta) -> Result<(), StoreError> {
        let room = self.capacity_bytes.map(|capacity| capacity.saturating_sub(self.used_bytes()));
        let ledger = self.ledger.as_mut().ok_or(StoreError::NotLoaded)?;
        ledger.check_snapshot(meta)?;
        let mut bodies = self.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, file) =
            bodies.staged.take_if(|(staged, _)| staged == meta).ok_or(Refused::NotStaged { index: meta.index })?;
        if room.is_some_and(|room| room < file.len()) {
            return ledger.watch(Err(StoreError::io("write", "snapshot", io::ErrorKind::StorageFull.into())));
        }
        bodies.saved = Some(file);
        ledger.saved(meta);
        put_guard(ledger, &mut self.guard, &self.durable, false, &[]);
        Ok(())
    }

    fn compact(&mut self, through_index: u64) -> Result<(), StoreError> {
        let ledger = self.ledger.as_mut().ok_or(StoreError::NotLoaded)?;
        // Only what is durable can be cut from the file, and its last record stays.
        let durable = (self.durable.number + 1).saturating_sub(ledger.first_number()) as usize;
        let count = ledger.removable(through_index)?.min(durable.saturating_sub(1));
        let bytes = ledger.removed(count) as usize;
        self.log.get_or_insert_default().drain(..bytes);
        Ok(())
    }

    fn close(&mut self) -> Result<(), StoreError> {
        self.sync(u64::MAX)?;
        let ledger = self.ledger.as_mut().ok_or(StoreError::NotLoaded)?;
        put_guard(ledger, &mut self.guard, &self.durable, true, &[]);
        self.ledger = None;
        Ok(())
    }

    fn stats(&self) -> Stats {
        let Some(ledger) = &self.ledger else { return self.stats };
        let (groups_kept, bytes_kept) = ledger.live();
        let snapshot_index = ledger.snapshot().index;
        Stats { groups_kept, bytes_kept, snapshot_index, poisoned: ledger.poisoned(), ..self.stats }
    }
}

struct MemSnapshots(Arc<Mutex<Bodies>>);

impl SnapshotFolder for MemSnapshots {
    fn stage(&self, meta: &SnapshotMeta, body: &[u8]) -> Result<(), StoreError> {
        if !meta.describes(body) {
            return Err(Refused::SnapshotBody.into());
        }
        let mut bodies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = snapshot_header(&bodies.identity, meta);
        frames(body).for_each(|(crc, frame)| {
            file.extend_from_slice(&crc);
            file.extend_from_slice(frame);
        });
        debug_assert!(snapshot_meta(&file).is_ok());
        bodies.staged = Some((meta.clone(), file));
        Ok(())
    }

    fn read(&self) -> Result<Option<(SnapshotMeta, Vec<u8>)>, StoreError> {
        let bodies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = &bodies.saved else { return Ok(None) };
        let fault = |fault| Damage::Snapshot { object: "in memory".into(), fault };
        let (_, meta, body) = decode_snapshot(file.clone()).map_err(fault)?;
        Ok(Some((meta, body)))
    }
}

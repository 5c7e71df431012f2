//! A store in memory, over a disk that does exactly what its owner says: keep, lose, tear, fill up, fail, rot.
//! In: groups and faults. Out: what a member would find after a start. The records, the ring and their judge are the real
//! ones. Absent: chance and time. `write` queues, `sync` makes durable; between the two the simulator may let time pass,
//! or `crash`. Deterministic: every fault and its place is the caller's choice. The log is fed as late as the ring allows
//! and synced only when a slot waits for it, so that as much as possible hangs on the ring.

mod faults;

pub use faults::{Crash, Part};

use crate::codec::Scan;
use crate::damage::Damage;
use crate::disk::{RaftDisk, SnapshotFolder, Stats};
use crate::error::{Refused, StoreError};
use crate::ledger::Ledger;
use crate::replay::{owned, replay};
use crate::ring::{Ring, Shape};
use crate::snapshot::{CRC_BYTES, FRAME_BYTES, decode_snapshot, frames, snapshot_header, snapshot_meta};
use crate::tip::Tip;
use crate::types::{Group, Identity, Loaded, SnapshotMeta};
use bytes::Bytes;
use planted::checked;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Small, so that a short life goes round it many times.
const SHAPE: Shape = Shape { slots: 8, slot_bytes: 8 << 10 };

pub struct MemDisk {
    identity: Identity,
    /// The bytes written; `None` = the file is gone. Of the log, the last `unsynced` ones are not durable.
    log: Option<Vec<u8>>,
    unsynced: usize,
    guard: Option<Vec<u8>>,
    snapshots: Arc<Mutex<Bodies>>,
    /// Not written yet, oldest first.
    queue: VecDeque<Write>,
    /// Durable in the ring, not written to the log yet, oldest first.
    behind: VecDeque<Write>,
    /// The last group that is durable, the last one written to the log, and the last one durable there.
    durable: Tip,
    fed: u64,
    logged: u64,
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
        let mut ledger = Ledger::new(identity, SHAPE);
        let mut record = Vec::new();
        let tip = ledger.prepare(&Group::default(), &mut record).expect("an empty group follows nothing");
        (disk.log, disk.guard) = (Some(record), Some(vec![0; SHAPE.file_bytes()]));
        put_slot(&mut ledger, &mut disk.guard, &tip, false, &[]);
        disk
    }

    /// A disk on which this member never had a store.
    pub fn absent(identity: Identity) -> Self {
        Self {
            identity,
            log: None,
            unsynced: 0,
            guard: None,
            snapshots: Arc::new(Mutex::new(Bodies { identity, ..Bodies::default() })),
            queue: VecDeque::new(),
            behind: VecDeque::new(),
            durable: Tip::default(),
            fed: 0,
            logged: 0,
            ledger: None,
            capacity_bytes: None,
            sync_fails: false,
            stats: Stats::default(),
        }
    }

    /// Queues `group` for the next sync and gives back its number. Errs as `append_group` does.
    pub fn write(&mut self, group: &Group) -> Result<u64, StoreError> {
        let ledger = self.ledger.as_mut().ok_or(StoreError::NotLoaded)?;
        let mut record = Vec::new();
        let tip = ledger.prepare(group, &mut record)?;
        ledger.advance(tip, group, record.len() as u64);
        self.stats.appended(group, record.len() as u64, Duration::ZERO);
        self.queue.push_back(Write { tip, record });
        Ok(tip.number)
    }

    /// Makes every queued group up to number `through` durable, in order.
    pub fn sync(&mut self, through: u64) -> Result<(), StoreError> {
        self.ledger.as_ref().ok_or(StoreError::NotLoaded)?.check_usable()?;
        while self.queue.front().is_some_and(|write| write.tip.number <= through) {
            let synced = self.sync_next();
            self.ledger.as_mut().ok_or(StoreError::NotLoaded)?.watch(synced)?;
        }
        Ok(())
    }

    /// Number of the last durable group.
    pub fn durable_group(&self) -> u64 {
        self.durable.number
    }

    /// Bytes of the log that a crash may lose.
    pub fn unsynced_bytes(&self) -> usize {
        let big = self.queue.front().filter(|write| !self.carries(write));
        let waiting = self.behind.iter().filter(|_| big.is_some()).chain(big);
        self.unsynced + waiting.map(|write| write.record.len()).sum::<usize>()
    }

    /// The oldest queued group becomes durable, after whatever that waits for.
    fn sync_next(&mut self) -> Result<(), StoreError> {
        let Some(write) = self.queue.front() else { return Ok(()) };
        let (tip, carried) = (write.tip, self.carries(write));
        if self.behind.len() >= SHAPE.feed_at() {
            self.feed()?;
        }
        if self.sync_fails {
            return Err(StoreError::io("sync", "guard file", io::ErrorKind::Other.into()));
        }
        let ledger = self.ledger.as_ref().ok_or(StoreError::NotLoaded)?;
        let awaited = ledger.must_be_logged(tip.number);
        if awaited > self.fed {
            self.feed()?;
        }
        if awaited > self.logged {
            self.sync_log();
        }
        let write = self.queue.pop_front().expect("it was there a moment ago");
        self.behind.push_back(write);
        if !carried {
            if let Err(error) = self.feed() {
                // Nothing queued comes before the one that found no room.
                self.queue.extend(self.behind.pop_back());
                self.queue.rotate_right(1);
                return Err(error);
            }
            self.sync_log();
        }
        let ledger = self.ledger.as_mut().ok_or(StoreError::NotLoaded)?;
        let record = self.behind.back().filter(|_| carried).map_or(&[][..], |write| &write.record);
        put_slot(ledger, &mut self.guard, &tip, false, record);
        self.durable = tip;
        Ok(())
    }

    /// Writes to the log what it lacks; a crash may still lose it.
    fn feed(&mut self) -> Result<(), StoreError> {
        while let Some(write) = self.behind.front() {
            let room = self.capacity_bytes.map(|capacity| capacity.saturating_sub(self.used_bytes()));
            if room.is_some_and(|room| room < write.record.len()) {
                return Err(StoreError::io("write", "log", io::ErrorKind::StorageFull.into()));
            }
            self.unsynced += write.record.len();
            self.fed = write.tip.number;
            self.log.get_or_insert_default().extend_from_slice(&write.record);
            self.behind.pop_front();
        }
        Ok(())
    }

    fn sync_log(&mut self) {
        (self.unsynced, self.logged) = (0, self.fed);
    }

    /// Brings the log to where the ring is, durably.
    fn drain(&mut self) -> Result<(), StoreError> {
        let fed = self.feed();
        self.ledger.as_mut().ok_or(StoreError::NotLoaded)?.watch(fed)?;
        self.sync_log();
        Ok(())
    }

    fn carries(&self, write: &Write) -> bool {
        self.ledger.as_ref().is_some_and(|ledger| ledger.carries(&write.record))
    }

    fn used_bytes(&self) -> usize {
        self.part_bytes(Part::Log) + self.part_bytes(Part::Snapshot)
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

/// Writes a slot; both copies are durable at once.
fn put_slot(ledger: &mut Ledger, file: &mut Option<Vec<u8>>, tip: &Tip, clean: bool, carried: &[u8]) {
    let mut slot = Vec::new();
    let file = file.get_or_insert_default();
    for at in ledger.slot(tip, clean, carried, &mut slot) {
        file[at as usize..at as usize + slot.len()].copy_from_slice(&slot);
    }
}

impl RaftDisk for MemDisk {
    fn load(&mut self) -> Result<Option<Loaded>, StoreError> {
        self.queue.clear();
        self.behind.clear();
        self.ledger = None;
        if self.log.is_none() && self.guard.is_none() && self.bodies().saved.is_none() {
            return Ok(None);
        }
        let ring = Ring::read(SHAPE, self.guard.as_ref().ok_or(Damage::Missing { part: "guard file" })?)?;
        let log = Bytes::from(self.log.clone().ok_or(Damage::Missing { part: "log" })?);
        let snapshot = self.read_snapshot()?;
        let mut replayed = replay(&self.identity, Scan::new(log), &ring, snapshot.as_ref())?;
        let mut ledger = Ledger::resume(&mut replayed, SHAPE);
        // What is live is what was kept, from the start of the file, and behind it what the ring carries.
        let redone: usize = replayed.redo.iter().map(|(_, record)| record.len()).sum();
        let file = self.log.get_or_insert_default();
        file.truncate(ledger.live().1 as usize - redone);
        replayed.redo.iter().for_each(|(_, record)| file.extend_from_slice(record));
        self.durable = *ledger.tip();
        self.fed = self.durable.number;
        self.sync_log();
        put_slot(&mut ledger, &mut self.guard, &self.durable, false, &[]);
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
        self.ledger.as_ref().ok_or(StoreError::NotLoaded)?.check_snapshot(meta)?;
        let taken = self.bodies().staged.take_if(|(staged, _)| staged == meta);
        let (_, file) = taken.ok_or(Refused::NotStaged { index: meta.index })?;
        // The slot is written anew and carries nothing: its group must be in the log.
        self.drain()?;
        let room = self.capacity_bytes.map(|capacity| capacity.saturating_sub(self.used_bytes()));
        let ledger = self.ledger.as_mut().ok_or(StoreError::NotLoaded)?;
        if room.is_some_and(|room| room < file.len()) {
            return ledger.watch(Err(StoreError::io("write", "snapshot", io::ErrorKind::StorageFull.into())));
        }
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner).saved = Some(file);
        ledger.saved(meta);
        put_slot(ledger, &mut self.guard, &self.durable, false, &[]);
        Ok(())
    }

    fn compact(&mut self, through_index: u64) -> Result<(), StoreError> {
        if self.ledger.as_ref().ok_or(StoreError::NotLoaded)?.removable(through_index)? == 0 {
            return Ok(());
        }
        self.drain()?;
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
        self.drain()?;
        let ledger = self.ledger.as_mut().ok_or(StoreError::NotLoaded)?;
        put_slot(ledger, &mut self.guard, &self.durable, true, &[]);
        self.ledger = None;
        Ok(())
    }

    fn stats(&self) -> Stats {
        let Some(ledger) = &self.ledger else { return self.stats };
        let (groups_kept, bytes_kept) = ledger.live();
        let (snapshot_index, groups_behind) = (ledger.snapshot().index, self.durable.number - self.logged);
        let poisoned = ledger.poisoned();
        Stats { groups_kept, bytes_kept, groups_behind, snapshot_index, poisoned, ..self.stats }
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
        file.reserve_exact(body.len() + CRC_BYTES * body.len().div_ceil(FRAME_BYTES));
        frames(body).for_each(|(crc, frame)| {
            file.extend_from_slice(&crc);
            file.extend_from_slice(frame);
        });
        checked!(snapshot_meta(&file).is_ok(), "a manifest just written cannot be read");
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

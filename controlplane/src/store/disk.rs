//! A `RaftDisk` out of a log, a guard file and a folder of snapshots: the order of writes that every engine shares.
//! In: groups. Out: durable groups. Absent: how an engine stores a record (`Log`).
//!
//! A group is durable with its slot in the guard file: one sync. The log gets it later, from the feeder's thread, and a
//! slot whose place is wanted waits for that. Why this suffices is told in `record::ring`.

use super::feeder::Feeder;
use super::fence::within;
use super::guard::{GuardFile, SHAPE};
use super::snapshot::Snapshots;
use record::{Found, Group, Ledger, Loaded, RaftDisk, SnapshotFolder, SnapshotMeta, Stats, StoreError, Tip, replay};
use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

/// Where records are kept, in order of their numbers.
pub(super) trait Log: Send {
    /// Everything that stands there, in order.
    fn records(&mut self) -> Result<Vec<Found>, StoreError>;

    /// Removes what follows the first `kept` records, the last of which has number `last`.
    fn cut(&mut self, kept: usize, last: u64) -> Result<(), StoreError>;

    /// Adds records, each with its number; durable on return. One sync for all of them.
    fn append(&mut self, records: &[(u64, Vec<u8>)]) -> Result<(), StoreError>;

    /// Makes durable whatever `records` saw.
    fn sync(&mut self) -> Result<(), StoreError>;

    /// Removes some of the records numbered below `first_kept`, oldest first; `false` when there is no more to be done.
    /// Whoever wants them gone asks again, so that other work need not wait for all of them.
    fn remove_below(&mut self, first_kept: u64) -> Result<bool, StoreError>;

    /// The log ends here in good order.
    fn close(&mut self) -> Result<(), StoreError>;
}

pub(super) struct Disk {
    /// Before `load`; then the feeder has it.
    log: Option<Box<dyn Log>>,
    guard: GuardFile,
    snapshots: Snapshots,
    /// `None` until `load` has found everything in order, and after `close`.
    open: Option<Open>,
    stats: Stats,
    /// The folder stays locked as long as somebody can write to it. Last: dropped after the engine let go.
    lock: Arc<File>,
}

/// A store that may be written.
struct Open {
    ledger: Ledger,
    feeder: Feeder,
}

impl Disk {
    pub fn new(log: Box<dyn Log>, guard: GuardFile, snapshots: Snapshots, lock: Arc<File>) -> Self {
        Self { log: Some(log), guard, snapshots, open: None, stats: Stats::default(), lock }
    }

    fn opened(&mut self) -> Result<&mut Open, StoreError> {
        self.open.as_mut().ok_or(StoreError::NotLoaded)
    }

    /// Runs `work` unless the disk is poisoned; any error but a refusal poisons it.
    fn with<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.opened()?.ledger.check_usable()?;
        let result = work(self);
        self.opened()?.ledger.watch(result)
    }

    fn write(&mut self, tip: &Tip, record: Vec<u8>) -> Result<(), StoreError> {
        let Open { ledger, feeder } = self.open.as_mut().ok_or(StoreError::NotLoaded)?;
        if !ledger.carries(&record) {
            // The ring must not be ahead of a group that it cannot put back.
            feeder.feed(tip.number, record)?;
            feeder.wait_for(tip.number)?;
            return self.guard.write(ledger, tip, &[]);
        }
        feeder.check()?;
        let awaited = ledger.must_be_logged(tip.number);
        if feeder.durable() < awaited {
            self.stats.waits_for_log += 1;
            feeder.wait_for(awaited)?;
        }
        self.guard.write(ledger, tip, &record)?;
        feeder.feed(tip.number, record)
    }

    /// Waits until the log has everything, then notes in the newest slot what has changed beside it.
    fn rewrite_slot(&mut self, clean: bool) -> Result<(), StoreError> {
        let Open { ledger, feeder } = self.open.as_mut().ok_or(StoreError::NotLoaded)?;
        feeder.wait_for(ledger.tip().number)?;
        self.guard.rewrite(ledger, clean)
    }
}

impl RaftDisk for Disk {
    fn load(&mut self) -> Result<Option<Loaded>, StoreError> {
        if let Some(Open { feeder, .. }) = self.open.take() {
            self.log = Some(feeder.stop()?);
        }
        let mut log = self.log.take().ok_or(StoreError::NotLoaded)?;
        let ring = self.guard.read()?;
        let snapshot = self.snapshots.newest()?;
        let mut replayed = replay(self.snapshots.identity(), log.records()?, &ring, snapshot.as_ref())?;
        let unfinished = replayed.unfinished.then(|| (replayed.kept, replayed.last_kept()));
        let redo: Vec<_> = replayed.redo.iter().map(|(number, record)| (*number, record.to_vec())).collect();
        let lock = self.lock.clone();
        let log = within("mend", "log", move || {
            let _lock = lock;
            if let Some((kept, last)) = unfinished {
                log.cut(kept, last)?;
            }
            if !redo.is_empty() {
                log.append(&redo)?;
            }
            // What survived a killed process may be in the page cache only, and from here on it counts.
            log.sync().map(|()| log)
        })?;
        self.snapshots.tidy(snapshot.as_ref())?;
        let mut ledger = Ledger::resume(&mut replayed, SHAPE);
        self.guard.rewrite(&mut ledger, false)?;
        let feeder = Feeder::start(log, ledger.tip().number, SHAPE.feed_at(), self.lock.clone())?;
        self.open = Some(Open { ledger, feeder });
        if let Some(group) = &replayed.install {
            self.append_group(group)?;
        }
        Ok(Some(replayed.loaded))
    }

    fn append_group(&mut self, group: &Group) -> Result<u64, StoreError> {
        let start = Instant::now();
        let mut record = Vec::new();
        let tip = self.opened()?.ledger.prepare(group, &mut record)?;
        let bytes = record.len() as u64;
        self.with(|disk| disk.write(&tip, record))?;
        self.opened()?.ledger.advance(tip, group, bytes);
        self.stats.appended(group, bytes, start.elapsed());
        Ok(tip.number)
    }

    fn snapshots(&self) -> Box<dyn SnapshotFolder> {
        Box::new(self.snapshots.clone())
    }

    fn adopt_snapshot(&mut self, meta: &SnapshotMeta) -> Result<(), StoreError> {
        self.opened()?.ledger.check_snapshot(meta)?;
        self.with(|disk| {
            disk.snapshots.adopt(meta)?;
            disk.opened()?.ledger.saved(meta);
            disk.rewrite_slot(false)?;
            disk.snapshots.tidy(Some(meta))
        })
    }

    fn compact(&mut self, through_index: u64) -> Result<(), StoreError> {
        let Open { ledger, feeder } = self.open.as_mut().ok_or(StoreError::NotLoaded)?;
        let count = ledger.removable(through_index)?;
        if count == 0 {
            return Ok(());
        }
        let asked = feeder.remove_below(ledger.first_number() + count as u64);
        ledger.watch(asked)?;
        ledger.removed(count);
        Ok(())
    }

    fn close(&mut self) -> Result<(), StoreError> {
        self.with(|disk| {
            let tip = disk.opened()?.ledger.tip().number;
            disk.opened()?.feeder.wait_for(tip)
        })?;
        let Some(Open { mut ledger, feeder }) = self.open.take() else { return Err(StoreError::NotLoaded) };
        let (mut log, lock) = (feeder.stop()?, self.lock.clone());
        within("close", "log", move || {
            let _lock = lock;
            log.close()
        })?;
        self.guard.rewrite(&mut ledger, true)
    }

    fn stats(&self) -> Stats {
        let Some(Open { ledger, feeder }) = &self.open else { return self.stats };
        let (groups_kept, bytes_kept) = ledger.live();
        let (snapshot_index, poisoned) = (ledger.snapshot().index, ledger.poisoned());
        let groups_behind = ledger.tip().number.saturating_sub(feeder.durable());
        Stats { groups_kept, bytes_kept, groups_behind, snapshot_index, poisoned, ..self.stats }
    }
}

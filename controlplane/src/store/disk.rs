//! A `RaftDisk` out of a log, a guard file and a folder of snapshots: the order of writes that every engine shares.
//! In: groups. Out: durable groups. Absent: how an engine stores a record (`Log`).

use super::guard::GuardFile;
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

    /// Adds a record; durable on return.
    fn append(&mut self, number: u64, record: &[u8]) -> Result<(), StoreError>;

    /// Makes durable whatever `records` saw.
    fn sync(&mut self) -> Result<(), StoreError>;

    /// Removes records numbered below `first_kept`, oldest first. Some may be left.
    fn remove_below(&mut self, first_kept: u64) -> Result<(), StoreError>;

    /// The log ends here in good order.
    fn close(&mut self) -> Result<(), StoreError>;
}

pub(super) struct Disk<L> {
    log: L,
    guard: GuardFile,
    snapshots: Snapshots,
    /// `None` until `load` has found everything in order, and after `close`.
    ledger: Option<Ledger>,
    /// The buffer of records.
    record: Vec<u8>,
    stats: Stats,
    /// The folder stays locked as long as somebody can write to it. Last: dropped after the engine let go.
    _lock: Arc<File>,
}

impl<L: Log> Disk<L> {
    pub fn new(log: L, guard: GuardFile, snapshots: Snapshots, lock: Arc<File>) -> Self {
        Self { log, guard, snapshots, ledger: None, record: Vec::new(), stats: Stats::default(), _lock: lock }
    }

    fn write(&mut self, tip: &Tip) -> Result<(), StoreError> {
        let ledger = self.ledger.as_mut().ok_or(StoreError::NotLoaded)?;
        if !Ledger::carries(&self.record) {
            // The guard must not be ahead of a group that it cannot put back.
            self.log.append(tip.number, &self.record)?;
            return self.guard.write(ledger, tip, false);
        }
        self.guard.begin(ledger, tip, &self.record);
        let logged = self.log.append(tip.number, &self.record);
        let guarded = self.guard.finish();
        logged.and(guarded)
    }

    /// Runs `work` unless the disk is poisoned; any error but a refusal poisons it.
    fn with<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.ledger.as_ref().ok_or(StoreError::NotLoaded)?.check_usable()?;
        let result = work(self);
        self.ledger.as_mut().ok_or(StoreError::NotLoaded)?.watch(result)
    }
}

impl<L: Log> RaftDisk for Disk<L> {
    fn load(&mut self) -> Result<Option<Loaded>, StoreError> {
        self.ledger = None;
        let guard = self.guard.read()?;
        let snapshot = self.snapshots.newest()?;
        let records = self.log.records()?;
        let mut replayed = replay(self.snapshots.identity(), records, &guard, snapshot.as_ref())?;
        let mut ledger = Ledger::resume(&mut replayed);
        let tip = *ledger.tip();
        if replayed.unfinished {
            self.log.cut(replayed.kept, tip.number - u64::from(replayed.redo.is_some()))?;
        }
        if let Some(record) = &replayed.redo {
            self.log.append(tip.number, record)?;
        }
        // What survived a killed process may be in the page cache only, and from here on it counts.
        self.log.sync()?;
        self.snapshots.tidy(snapshot.as_ref())?;
        self.guard.write(&mut ledger, &tip, false)?;
        self.ledger = Some(ledger);
        if let Some(group) = &replayed.install {
            self.append_group(group)?;
        }
        Ok(Some(replayed.loaded))
    }

    fn append_group(&mut self, group: &Group) -> Result<u64, StoreError> {
        let start = Instant::now();
        let mut record = std::mem::take(&mut self.record);
        let prepared = self.ledger.as_ref().ok_or(StoreError::NotLoaded)?.prepare(group, &mut record);
        self.record = record;
        let tip = prepared?;
        self.with(|disk| disk.write(&tip))?;
        let bytes = self.record.len() as u64;
        self.ledger.as_mut().ok_or(StoreError::NotLoaded)?.advance(tip, group, bytes);
        self.stats.appended(group, bytes, start.elapsed());
        Ok(tip.number)
    }

    fn snapshots(&self) -> Box<dyn SnapshotFolder> {
        Box::new(self.snapshots.clone())
    }

    fn adopt_snapshot(&mut self, meta: &SnapshotMeta) -> Result<(), StoreError> {
        self.ledger.as_ref().ok_or(StoreError::NotLoaded)?.check_snapshot(meta)?;
        self.with(|disk| {
            disk.snapshots.adopt(meta)?;
            let ledger = disk.ledger.as_mut().ok_or(StoreError::NotLoaded)?;
            ledger.saved(meta);
            let tip = *ledger.tip();
            disk.guard.write(ledger, &tip, false)?;
            disk.snapshots.tidy(Some(meta))
        })
    }

    fn compact(&mut self, through_index: u64) -> Result<(), StoreError> {
        let ledger = self.ledger.as_ref().ok_or(StoreError::NotLoaded)?;
        let count = ledger.removable(through_index)?;
        if count == 0 {
            return Ok(());
        }
        let first_kept = ledger.first_number() + count as u64;
        self.with(|disk| disk.log.remove_below(first_kept))?;
        self.ledger.as_mut().ok_or(StoreError::NotLoaded)?.removed(count);
        Ok(())
    }

    fn close(&mut self) -> Result<(), StoreError> {
        self.with(|disk| {
            disk.log.close()?;
            let ledger = disk.ledger.as_mut().ok_or(StoreError::NotLoaded)?;
            let tip = *ledger.tip();
            disk.guard.write(ledger, &tip, true)
        })?;
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

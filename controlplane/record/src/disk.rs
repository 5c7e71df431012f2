//! What a member asks of its disk. Implemented by sled, by plain segment files (`controlplane::store`), and in memory
//! (`MemDisk`); one contract test runs over all of them.
//! Absent: threads. Calls block until the promise they make holds; who must not block calls from a thread of its own.

use crate::error::StoreError;
use crate::types::{Group, Loaded, SnapshotMeta};
use std::time::Duration;

/// A member's store. After any error but `Refused`, every later call errs with `Poisoned`: the member must stop.
pub trait RaftDisk: Send {
    /// Everything this member ever acknowledged; `None` if there has never been a store. Must succeed before anything
    /// is written. Errs with `Damaged` if something is missing; the store must then never be used again.
    fn load(&mut self) -> Result<Option<Loaded>, StoreError>;

    /// Makes `group` durable and gives back its number. Only then may its messages be sent and its entries count. An error
    /// may come from work on earlier groups that went on in the background; they are durable all the same.
    /// Costs one sync whatever its size: merge what is queued with `Group::absorb`.
    fn append_group(&mut self, group: &Group) -> Result<u64, StoreError>;

    /// Where snapshot bodies are written and read, usable on another thread while groups are appended here.
    fn snapshots(&self) -> Box<dyn SnapshotFolder>;

    /// Makes a staged snapshot the member's snapshot, durably, and drops the one before. If it came from the leader,
    /// the group that starts the log behind it (`Group::restored`) is to be appended next.
    fn adopt_snapshot(&mut self, meta: &SnapshotMeta) -> Result<(), StoreError>;

    /// Stages and adopts in one go.
    fn save_snapshot(&mut self, meta: &SnapshotMeta, body: &[u8]) -> Result<(), StoreError> {
        self.snapshots().stage(meta, body)?;
        self.adopt_snapshot(meta)
    }

    /// The member's snapshot, verified.
    fn load_snapshot(&mut self) -> Result<Option<(SnapshotMeta, Vec<u8>)>, StoreError> {
        self.snapshots().read()
    }

    /// Forgets groups that hold nothing above `through_index`, which the snapshot must cover. Others may be appended
    /// before they are gone.
    fn compact(&mut self, through_index: u64) -> Result<(), StoreError>;

    /// Notes that the store ends here in good order. Nothing may be written afterwards.
    fn close(&mut self) -> Result<(), StoreError>;

    fn stats(&self) -> Stats;
}

/// Snapshot bodies, away from the thread that appends.
pub trait SnapshotFolder: Send {
    /// Writes the body and makes it durable, without the member depending on it yet. Replaces what was staged before.
    fn stage(&self, meta: &SnapshotMeta, body: &[u8]) -> Result<(), StoreError>;

    /// The adopted snapshot, verified; `None` if there is none.
    fn read(&self) -> Result<Option<(SnapshotMeta, Vec<u8>)>, StoreError>;
}

/// Counters since the store was opened, and sizes now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    pub groups_appended: u64,
    pub entries_appended: u64,
    /// Bytes of records, before whatever the engine adds.
    pub bytes_appended: u64,
    /// Time spent in appends until they were durable; zero in memory.
    pub append_time: Duration,
    pub append_time_last: Duration,
    pub append_time_max: Duration,
    /// Groups durable in the guard file that the log does not hold yet.
    pub groups_behind: u64,
    /// How many appends had to wait until the log had caught up.
    pub waits_for_log: u64,
    pub groups_kept: u64,
    pub bytes_kept: u64,
    pub snapshot_index: u64,
    pub poisoned: bool,
}

impl Stats {
    /// Counts one append.
    pub fn appended(&mut self, group: &Group, bytes: u64, took: Duration) {
        self.groups_appended += 1;
        self.entries_appended += group.entries.len() as u64;
        self.bytes_appended += bytes;
        self.append_time += took;
        self.append_time_last = took;
        self.append_time_max = self.append_time_max.max(took);
    }
}

//! The plain types of the store, in Raft's words.
//! In and out: values. Numbers are as Raft counts them: indices and terms start at 1, 0 means "none".
//! Absent: the meaning of an entry; `kind`, `data` and `context` belong to whoever proposed it.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::fmt;

/// Whose store this is. A member that lost data comes back under another `member`, never under the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Identity {
    pub cluster: [u8; 16],
    pub member: u64,
    pub incarnation: u64,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "member {} (incarnation {}) of cluster ", self.member, self.incarnation)?;
        self.cluster.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HardState {
    pub term: u64,
    /// The member voted for in `term`; 0 = nobody.
    pub vote: u64,
    pub commit: u64,
}

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogPoint {
    pub index: u64,
    pub term: u64,
}

/// One entry of the Raft log. A clone costs two reference counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    pub term: u64,
    pub index: u64,
    pub kind: u32,
    pub data: Bytes,
    pub context: Bytes,
}

impl Entry {
    pub fn point(&self) -> LogPoint {
        LogPoint { index: self.index, term: self.term }
    }
}

/// What becomes durable at once: one record, one sync. The store numbers groups itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group {
    /// Always whole, commit included, so that a commit index is never durable without the entries it came with.
    pub hard_state: HardState,
    /// The log starts anew behind this snapshot, received from the leader and saved *before* this group: everything
    /// older is void. `None` for ordinary groups and for snapshots a member takes of its own state.
    pub restored: Option<LogPoint>,
    /// Contiguous, ascending; an entry at an index that is already there replaces it and all behind it.
    pub entries: Vec<Entry>,
}

impl Group {
    /// Adds what came `later`, so that both cost one sync. The result replays to the same log as the two in order.
    pub fn absorb(&mut self, later: Group) {
        self.hard_state = later.hard_state;
        if later.restored.is_some() {
            self.restored = later.restored;
            self.entries = later.entries;
            return;
        }
        if let Some(first) = later.entries.first() {
            self.entries.truncate(self.entries.partition_point(|entry| entry.index < first.index));
            self.entries.extend(later.entries);
        }
    }
}

/// What a snapshot stands for. `hash` and `len` are those of its body.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotMeta {
    pub index: u64,
    pub term: u64,
    /// The membership at `index`, encoded by the replica; opaque here.
    pub membership: Vec<u8>,
    /// SHA-256 of the body.
    pub hash: [u8; 32],
    pub len: u64,
}

impl SnapshotMeta {
    /// The description of `body`; hashes it.
    pub fn of(point: LogPoint, membership: Vec<u8>, body: &[u8]) -> Self {
        let LogPoint { index, term } = point;
        Self { index, term, membership, hash: Sha256::digest(body).into(), len: body.len() as u64 }
    }

    pub fn point(&self) -> LogPoint {
        LogPoint { index: self.index, term: self.term }
    }

    /// Whether `body` is the one described.
    pub fn describes(&self, body: &[u8]) -> bool {
        self.len == body.len() as u64 && self.hash == <[u8; 32]>::from(Sha256::digest(body))
    }
}

/// What a member knows after a start: everything it ever acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    pub identity: Identity,
    /// `commit` is at least the snapshot's index and at most the last index.
    pub hard_state: HardState,
    /// Contiguous; starts right behind the snapshot.
    pub entries: Vec<Entry>,
    pub snapshot: Option<SnapshotMeta>,
    /// The number the next group will get; counts up for the life of the store.
    pub next_group: u64,
}

impl Loaded {
    /// The end of the log, or the snapshot's place if nothing is behind it.
    pub fn last(&self) -> LogPoint {
        let below = self.snapshot.as_ref().map(SnapshotMeta::point).unwrap_or_default();
        self.entries.last().map_or(below, Entry::point)
    }
}

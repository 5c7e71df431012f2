//! What can go wrong with work on a store. Operation and object in the text, the cause as `source`.
//! After the first `Io` or `Damaged` of a write the store is poisoned: a failed sync is never tried again, because the
//! kernel may have dropped the pages and would report success the second time. The member must stop.

use crate::damage::Damage;
use std::io;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum StoreError {
    #[error("cannot {operation} {object}")]
    Io {
        operation: &'static str,
        object: String,
        #[source]
        source: io::Error,
    },
    #[error("the data of this member is damaged; remove the member and let it rejoin under a new id")]
    Damaged(#[from] Damage),
    #[error("the store takes no more work after its first error: {first}")]
    Poisoned { first: String },
    #[error("a group was refused and nothing was written")]
    Refused(#[from] Refused),
    #[error("the store was not loaded before it was written to")]
    NotLoaded,
    #[error("{operation} of {object} took longer than {limit_s} s")]
    Timeout { operation: &'static str, object: String, limit_s: u64 },
    #[error("data folder {folder} is in use by another process; stop that one or give this member its own folder")]
    Locked { folder: String },
    #[error(
        "data folder {folder} belongs to cluster {found}, this member was told {expected}; check the path, or use an empty folder"
    )]
    OtherCluster { folder: String, found: String, expected: String },
    #[error("data folder {folder} was made by the {found} store, the configuration says {expected}; set it back")]
    OtherBackend { folder: String, found: String, expected: String },
    #[error(
        "the {object} has format version {found}, this program knows version {expected}; start the version that made it"
    )]
    Format { object: &'static str, found: u16, expected: u16 },
    #[error("data folder {folder} already has a store in it")]
    Exists { folder: String },
    #[error("data folder {folder} is not quarantined, so there is nothing to retire")]
    NotQuarantined { folder: String },
}

impl StoreError {
    pub fn io(operation: &'static str, object: impl Into<String>, source: io::Error) -> Self {
        Self::Io { operation, object: object.into(), source }
    }
}

/// Why a group or snapshot would not be a legal continuation of the log. A fault of the caller, found before any byte
/// is written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refused {
    #[error("term {new} is below term {old}")]
    TermBack { new: u64, old: u64 },
    #[error("the vote of term {term} changes from {old} to {new}")]
    VoteChanged { term: u64, old: u64, new: u64 },
    #[error("commit index {new} is below {old}")]
    CommitBack { new: u64, old: u64 },
    #[error("commit index {commit} is beyond the last index {last}")]
    CommitBeyondLog { commit: u64, last: u64 },
    #[error("entry {found} does not follow {last}")]
    Gap { found: u64, last: u64 },
    #[error("entry {index} would replace a committed one (commit index {commit})")]
    CommittedReplaced { index: u64, commit: u64 },
    #[error("entry {index} has term {term} outside {low} to {high}")]
    EntryTerm { index: u64, term: u64, low: u64, high: u64 },
    #[error("the log cannot start anew at {index}, below the commit index {commit}")]
    RestoredBelowCommit { index: u64, commit: u64 },
    #[error("no snapshot at {index} or later is saved")]
    SnapshotAbsent { index: u64 },
    #[error("snapshot at {index} is older than the one at {newest}")]
    SnapshotOlder { index: u64, newest: u64 },
    #[error("snapshot body and its hash or length differ")]
    SnapshotBody,
    #[error("no snapshot at {index} was staged")]
    NotStaged { index: u64 },
    #[error("an entry of {bytes} bytes is too big for a record")]
    TooBig { bytes: u64 },
}

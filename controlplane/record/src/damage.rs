//! What can be wrong with a store, and where. Each of these burns the member's id: it must rejoin under a new one.
//! Out: values that print as one line a person can act on.
//! Absent: any repair. A store cut back to its last good record has forgotten promises and is worse than none.

use crate::types::Identity;
use thiserror::Error;

/// Why a store must not be used again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Damage {
    #[error("the identity file does not verify: {why}")]
    IdentityUnreadable { why: String },
    #[error("the {part} is gone, but this store has existed")]
    Missing { part: &'static str },
    #[error("no slot of the guard file verifies")]
    GuardUnreadable,
    #[error("the guard file is {found} bytes long, not {expected}")]
    GuardLength { expected: u64, found: u64 },
    #[error("the log goes on to group {log}, the guard file has seen group {guard}: it is an older copy")]
    GuardOlder { log: u64, guard: u64 },
    #[error("group {group} is neither in the log nor carried by the guard file, which has seen group {guard}")]
    GroupLost { group: u64, guard: u64 },
    #[error("the store is empty, the guard knows {groups} groups")]
    Empty { groups: u64 },
    #[error("the {part} belongs to {found}, not to {expected}")]
    OtherOwner { part: &'static str, found: Box<Identity>, expected: Box<Identity> },
    #[error("group {group} does not verify: {fault}")]
    Record { group: u64, fault: RecordFault },
    #[error("group {expected} is missing, group {found} follows")]
    GroupMissing { expected: u64, found: u64 },
    #[error("group {group} is not chained to the one before it")]
    ChainBroken { group: u64 },
    #[error("group {group} breaks a rule of the log: {why}")]
    Rule { group: u64, why: String },
    #[error("the {what} is {found}, the guard has seen {guard}")]
    BelowGuard { what: &'static str, found: u64, guard: u64 },
    #[error("the store was closed at group {guard} but ends in something else")]
    ChangedWhileClosed { guard: u64 },
    #[error("entries {first} to {last} are in neither log nor snapshot")]
    EntriesMissing { first: u64, last: u64 },
    #[error("commit index {commit} is beyond the last index {last}")]
    CommitBeyondLog { commit: u64, last: u64 },
    #[error("the snapshot at {index} contradicts a committed entry of term {term}")]
    SnapshotContradicts { index: u64, term: u64 },
    #[error("snapshot {object} does not verify: {fault}")]
    Snapshot { object: String, fault: SnapshotFault },
    #[error("the storage engine gave up on its files: {why}")]
    Engine { why: String },
}

/// What is wrong with one record.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecordFault {
    #[error("{0} bytes are too few")]
    Short(usize),
    #[error("it does not start like a record")]
    Magic,
    #[error("format version {0} is unknown")]
    Version(u16),
    #[error("its header has a wrong checksum")]
    Header,
    #[error("it should be {expected} bytes long, {found} are there")]
    Length { expected: u64, found: u64 },
    #[error("the entry at index {0} has a wrong checksum")]
    Entry(u64),
    #[error("it has a wrong checksum")]
    Checksum,
    #[error("its lengths contradict each other")]
    Shape,
    #[error("part {0} is missing")]
    Part(u32),
    #[error("a key is not one of ours")]
    Key,
}

/// What is wrong with a snapshot file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SnapshotFault {
    #[error("it does not start like a snapshot")]
    Magic,
    #[error("format version {0} is unknown")]
    Version(u16),
    #[error("its header has a wrong checksum")]
    Header,
    #[error("it ends {missing} bytes early")]
    Short { missing: u64 },
    #[error("{0} bytes follow its end")]
    Long(u64),
    #[error("the frame at byte {0} has a wrong checksum")]
    Frame(u64),
    #[error("its body has a wrong hash")]
    Hash,
    #[error("its name says another place in the log")]
    Name,
}

//! What a member writes down, and how it knows later that all of it is still there.
//! In: groups of Raft entries with their HardState, snapshots. Out: bytes, and after a restart either exactly what was
//! acknowledged or a `Damage` that says what is missing – never something shorter.
//! Absent: no I/O and no clock. The engines in `controlplane::store` and the simulator's `MemDisk` use the same logic.
//!
//! Every group is one record: it names its owner, is chained to the record before it by checksum, and holds the
//! HardState together with the entries it came with, so both become durable at once or not at all. A conflicting suffix
//! is overwritten by the order of replay. Beside the records stands the guard file, a ring of slots in another place: a
//! group is acknowledged when its slot is durable, and the log may follow a few groups later. It says how far the records
//! must reach and carries those that are still missing; it alone can notice a store that looks clean but lost its end.

mod types;
mod damage;
mod error;
mod codec;
mod ring;
mod snapshot;
mod tip;
mod replay;
mod ledger;
mod disk;
mod mem;

pub use codec::{Assembler, PIECE_BYTES, Record, Scan, decode, piece_key, pieces};
pub use damage::{Damage, RecordFault, SnapshotFault};
pub use disk::{RaftDisk, SnapshotFolder, Stats};
pub use error::{Refused, StoreError};
pub use ledger::Ledger;
pub use mem::{Crash, MemDisk, Part};
pub use replay::{Found, Replayed, replay};
pub use ring::{Ring, Shape, Slot};
pub use snapshot::{FRAME_BYTES, decode_snapshot, frames, snapshot_header, snapshot_meta};
pub use tip::Tip;
pub use types::{Entry, Group, HardState, Identity, Loaded, LogPoint, SnapshotMeta};

/// The checksum used throughout: CRC-32, as in zlib.
pub fn checksum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

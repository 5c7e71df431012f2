//! The bytes of one slot of the guard file.
//! In: the tip of the log, and its record where that is carried. Out: a slot; back again, only if every byte verifies.
//! Absent: where slots stand and which one counts (`ring`).
//!
//! Little-endian. Head, 108 bytes: magic, version, flags, sequence, cluster, member, incarnation, term, vote, group, its
//! checksum, length of the carried record, last index and term, index of the snapshot, checksum over head and record.
//! Then the record.

use crate::codec::{identity_at, put_identity, u16_at, u32_at, u64_at};
use crate::tip::Tip;
use crate::types::{Identity, LogPoint};
use bytes::Bytes;

const MAGIC: u32 = u32::from_le_bytes(*b"QGRD");
/// 1 was a file of two slots, written in turn.
pub(super) const VERSION: u16 = 2;
const FLAG_CLEAN: u16 = 1;
pub(super) const HEAD_BYTES: usize = 108;
const CRC_AT: usize = HEAD_BYTES - 4;
const BLOCK_BYTES: usize = 4096;

/// What the store was when `group` was its last group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub identity: Identity,
    /// Counts the writes of the file: of two slots for one group the higher one counts.
    pub sequence: u64,
    pub term: u64,
    pub vote: u64,
    pub group: u64,
    /// Checksum of the group's record.
    pub group_crc: u32,
    pub last: LogPoint,
    /// Index of the newest snapshot; 0 = none.
    pub snapshot_index: u64,
    /// The store was closed in order after `group`, and nothing may differ.
    pub clean: bool,
    /// The record of `group`, or empty if that was durable in the log before this slot was written.
    pub carried: Bytes,
}

impl Slot {
    /// What orders slots by age.
    pub(super) fn age(&self) -> (u64, u64) {
        (self.group, self.sequence)
    }

    /// Writes the slot for `tip` into `out`, which is emptied first. What is written is a multiple of 4 KiB, so that
    /// the kernel never has to read before it writes.
    pub(crate) fn encode(
        identity: &Identity,
        sequence: u64,
        tip: &Tip,
        snapshot_index: u64,
        clean: bool,
        carried: &[u8],
        out: &mut Vec<u8>,
    ) {
        out.clear();
        let length = (HEAD_BYTES + carried.len()).next_multiple_of(BLOCK_BYTES);
        out.reserve(length);
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(if clean { FLAG_CLEAN } else { 0 }).to_le_bytes());
        out.extend_from_slice(&sequence.to_le_bytes());
        put_identity(out, identity);
        out.extend_from_slice(&tip.hard_state.term.to_le_bytes());
        out.extend_from_slice(&tip.hard_state.vote.to_le_bytes());
        out.extend_from_slice(&tip.number.to_le_bytes());
        out.extend_from_slice(&tip.crc.to_le_bytes());
        out.extend_from_slice(&(carried.len() as u32).to_le_bytes());
        for word in [tip.last.index, tip.last.term, snapshot_index] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&slot_crc(out, carried).to_le_bytes());
        out.extend_from_slice(carried);
        out.resize(length, 0);
    }

    /// The slot in `bytes`, if every byte of it verifies.
    pub(super) fn decode(bytes: &[u8]) -> Option<Slot> {
        if version(bytes) != Some(VERSION) || bytes.len() < HEAD_BYTES {
            return None;
        }
        let carried_len = u32_at(bytes, 76) as usize;
        let carried = bytes[HEAD_BYTES..].get(..carried_len)?;
        if slot_crc(&bytes[..CRC_AT], carried) != u32_at(bytes, CRC_AT) {
            return None;
        }
        Some(Slot {
            identity: identity_at(bytes, 16),
            sequence: u64_at(bytes, 8),
            term: u64_at(bytes, 48),
            vote: u64_at(bytes, 56),
            group: u64_at(bytes, 64),
            group_crc: u32_at(bytes, 72),
            last: LogPoint { index: u64_at(bytes, 80), term: u64_at(bytes, 88) },
            snapshot_index: u64_at(bytes, 96),
            clean: u16_at(bytes, 6) & FLAG_CLEAN != 0,
            carried: Bytes::copy_from_slice(carried),
        })
    }
}

/// The format version of a slot that starts here; `None` if none does.
pub(super) fn version(bytes: &[u8]) -> Option<u16> {
    (bytes.len() >= 6 && u32_at(bytes, 0) == MAGIC).then(|| u16_at(bytes, 4))
}

fn slot_crc(head: &[u8], carried: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(carried);
    hasher.finalize()
}

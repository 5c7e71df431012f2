//! The guard: a small file outside the store that says how far the store must reach.
//! In: the tip of the log. Out: a slot of bytes; from both slots, the newest guard that verifies.
//! Absent: when to write it. The rule of the writers: a guard is durable before its group is acknowledged.
//!
//! The file is two slots, written in turn, so that a torn write always leaves the one before. A guard written at the
//! same time as its group may survive a crash that the group did not; it therefore carries the record of that group,
//! which is put back at the next start. Groups too big to carry are made durable first and guarded second.

use crate::codec::{identity_at, put_identity, u16_at, u32_at, u64_at};
use crate::damage::Damage;
use crate::tip::Tip;
use crate::types::{Identity, LogPoint};
use bytes::Bytes;

const MAGIC: u32 = u32::from_le_bytes(*b"QGRD");
const VERSION: u16 = 1;
const FLAG_CLEAN: u16 = 1;
const HEAD_BYTES: usize = 108;
const CRC_AT: usize = HEAD_BYTES - 4;
const BLOCK_BYTES: usize = 4096;

/// Bytes of one slot; the file has two.
pub const SLOT_BYTES: usize = 64 * 1024;
/// The longest record a guard carries. About 200 entries of 256 bytes: above that one more sync is shared by so many
/// that writing the bytes twice costs more than it saves.
pub const CARRY_BYTES: usize = SLOT_BYTES - HEAD_BYTES;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    pub identity: Identity,
    /// Counts the writes of this file; the higher one of the two slots is valid, its parity chooses the slot.
    pub sequence: u64,
    pub term: u64,
    pub vote: u64,
    /// Number of the last group.
    pub group: u64,
    /// Checksum of the last group's record.
    pub group_crc: u32,
    pub last: LogPoint,
    /// Index of the newest snapshot; 0 = none.
    pub snapshot_index: u64,
    /// The store was closed in order after `group`, and nothing may differ.
    pub clean: bool,
    /// The record of `group`, or empty if that was durable before this guard was written.
    pub carried: Bytes,
}

impl Guard {
    /// Writes the slot for `tip` into `out`, which is emptied first; gives back the slot's offset in the file. What
    /// is written is a multiple of 4 KiB, so that the kernel never has to read before it writes.
    #[allow(clippy::too_many_arguments)]
    pub fn encode(
        identity: &Identity,
        sequence: u64,
        tip: &Tip,
        snapshot_index: u64,
        clean: bool,
        carried: &[u8],
        out: &mut Vec<u8>,
    ) -> u64 {
        assert!(carried.len() <= CARRY_BYTES, "the caller carries only what fits");
        out.clear();
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
        out.resize(out.len().next_multiple_of(BLOCK_BYTES), 0);
        (sequence % 2) * SLOT_BYTES as u64
    }

    /// The newest guard of a whole guard file.
    pub fn newest(file: &Bytes) -> Result<Guard, Damage> {
        let slots = (0..2).filter_map(|slot| {
            let start = (slot * SLOT_BYTES).min(file.len());
            Self::decode(&file.slice(start..(start + SLOT_BYTES).min(file.len())))
        });
        slots.max_by_key(|guard| guard.sequence).ok_or(Damage::GuardUnreadable)
    }

    /// The guard in one slot, if every byte of it verifies.
    fn decode(slot: &Bytes) -> Option<Guard> {
        if slot.len() < HEAD_BYTES || u32_at(slot, 0) != MAGIC || u16_at(slot, 4) != VERSION {
            return None;
        }
        let carried_len = u32_at(slot, 76) as usize;
        if carried_len > slot.len() - HEAD_BYTES {
            return None;
        }
        let carried = slot.slice(HEAD_BYTES..HEAD_BYTES + carried_len);
        if slot_crc(&slot[..CRC_AT], &carried) != u32_at(slot, CRC_AT) {
            return None;
        }
        Some(Guard {
            identity: identity_at(slot, 16),
            sequence: u64_at(slot, 8),
            term: u64_at(slot, 48),
            vote: u64_at(slot, 56),
            group: u64_at(slot, 64),
            group_crc: u32_at(slot, 72),
            last: LogPoint { index: u64_at(slot, 80), term: u64_at(slot, 88) },
            snapshot_index: u64_at(slot, 96),
            clean: u16_at(slot, 6) & FLAG_CLEAN != 0,
            carried,
        })
    }
}

fn slot_crc(head: &[u8], carried: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(carried);
    hasher.finalize()
}

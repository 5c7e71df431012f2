//! The bytes of a group, and the pieces of at most 4 KiB in which sled gets them.
//! In: a group and the tip it follows. Out: one record; back again, only if every byte verifies.
//! Absent: judgement over several records (`replay`), and over what may be written (`tip`).
//!
//! Little-endian. Header, 124 bytes: magic, version, flags, length of all, cluster, member, incarnation, number,
//! checksum of the record before, count of entries, HardState, last index and term after this group, restored index
//! and term, checksum of the header. Then the entries, each with a head of 32 bytes that ends in its own checksum.
//! Then the checksum over everything.

use crate::damage::RecordFault;
use crate::replay::Found;
use crate::types::{Entry, Group, HardState, Identity, LogPoint};
use bytes::Bytes;
use planted::{checked, planted};

const MAGIC: u32 = u32::from_le_bytes(*b"QREC");
const VERSION: u16 = 1;
const FLAG_RESTORED: u16 = 1;
pub(crate) const HEADER_BYTES: usize = 124;
const ENTRY_HEAD_BYTES: usize = 32;
const CRC_BYTES: usize = 4;
const KEY_BYTES: usize = 12;

/// Key and value together. sled never syncs pages that outgrow its segments, and a leaf of 17 such pieces does not.
pub const PIECE_BYTES: usize = 4096;

/// A record that verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub identity: Identity,
    pub number: u64,
    /// Checksum of the record before this one.
    pub previous: u32,
    /// Checksum of this one.
    pub crc: u32,
    /// The end of the log once this group is in it.
    pub last: LogPoint,
    pub group: Group,
}

/// Writes the record into `out`, which is emptied first, and gives back its checksum.
pub(crate) fn encode(
    identity: &Identity,
    number: u64,
    previous: u32,
    last: LogPoint,
    group: &Group,
    out: &mut Vec<u8>,
) -> u32 {
    let length = encoded_len(group);
    out.clear();
    out.reserve(length);
    let restored = group.restored.unwrap_or_default();
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(if group.restored.is_some() { FLAG_RESTORED } else { 0 }).to_le_bytes());
    out.extend_from_slice(&(length as u64).to_le_bytes());
    put_identity(out, identity);
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&previous.to_le_bytes());
    out.extend_from_slice(&(group.entries.len() as u32).to_le_bytes());
    let HardState { term, vote, commit } = group.hard_state;
    for word in [term, vote, commit, last.index, last.term, restored.index, restored.term] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&crc32fast::hash(out).to_le_bytes());
    for entry in &group.entries {
        let start = out.len();
        out.extend_from_slice(&entry.term.to_le_bytes());
        out.extend_from_slice(&entry.index.to_le_bytes());
        out.extend_from_slice(&entry.kind.to_le_bytes());
        out.extend_from_slice(&(entry.context.len() as u32).to_le_bytes());
        out.extend_from_slice(&(entry.data.len() as u32).to_le_bytes());
        let crc_at = out.len();
        out.extend_from_slice(&[0; CRC_BYTES]);
        out.extend_from_slice(&entry.context);
        out.extend_from_slice(&entry.data);
        let crc = entry_crc(&out[start..crc_at], &out[crc_at + CRC_BYTES..]);
        out[crc_at..crc_at + CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
    }
    let crc = crc32fast::hash(out);
    out.extend_from_slice(&crc.to_le_bytes());
    checked!(out.len() == length, "a record of {} bytes was said to have {length}", out.len());
    crc
}

/// Bytes of the record of `group`.
pub(crate) fn encoded_len(group: &Group) -> usize {
    let entries: usize = group.entries.iter().map(|e| ENTRY_HEAD_BYTES + e.context.len() + e.data.len()).sum();
    HEADER_BYTES + entries + CRC_BYTES
}

/// The record in `bytes`, which must hold exactly one. Entries share the memory of `bytes`.
pub fn decode(bytes: &Bytes) -> Result<Record, RecordFault> {
    let length = header_length(bytes)?;
    if length != bytes.len() as u64 {
        return Err(RecordFault::Length { expected: length, found: bytes.len() as u64 });
    }
    let crc_at = bytes.len() - CRC_BYTES;
    let crc = u32_at(bytes, crc_at);
    let count = u32_at(bytes, 60) as usize;
    // Entries first: a damaged one is named by its index, the checksum over all only says that something is wrong.
    let mut entries = Vec::with_capacity(count.min(bytes.len() / ENTRY_HEAD_BYTES));
    let mut at = HEADER_BYTES;
    for _ in 0..count {
        let data_at = at + ENTRY_HEAD_BYTES;
        if data_at > crc_at {
            return Err(RecordFault::Shape);
        }
        let (index, context_len, data_len) = (u64_at(bytes, at + 8), u32_at(bytes, at + 20), u32_at(bytes, at + 24));
        let context_end = data_at + context_len as usize;
        let end = context_end + data_len as usize;
        if end > crc_at {
            return Err(RecordFault::Entry(index));
        }
        let damaged = entry_crc(&bytes[at..at + 28], &bytes[data_at..end]) != u32_at(bytes, at + 28);
        if damaged && !planted!("entry-without-its-checksum") {
            return Err(RecordFault::Entry(index));
        }
        entries.push(Entry {
            term: u64_at(bytes, at),
            index,
            kind: u32_at(bytes, at + 16),
            context: bytes.slice(data_at..context_end),
            data: bytes.slice(context_end..end),
        });
        at = end;
    }
    if at != crc_at {
        return Err(RecordFault::Shape);
    }
    if crc32fast::hash(&bytes[..crc_at]) != crc && !planted!("entry-without-its-checksum") {
        return Err(RecordFault::Checksum);
    }
    let point = |at| LogPoint { index: u64_at(bytes, at), term: u64_at(bytes, at + 8) };
    let restored = (u16_at(bytes, 6) & FLAG_RESTORED != 0).then(|| point(104));
    let hard_state = HardState { term: u64_at(bytes, 64), vote: u64_at(bytes, 72), commit: u64_at(bytes, 80) };
    Ok(Record {
        identity: identity_at(bytes, 16),
        number: u64_at(bytes, 48),
        previous: u32_at(bytes, 56),
        crc,
        last: point(88),
        group: Group { hard_state, restored, entries },
    })
}

/// The length a record claims in its verified header.
fn header_length(bytes: &[u8]) -> Result<u64, RecordFault> {
    if bytes.len() < HEADER_BYTES {
        return Err(RecordFault::Short(bytes.len()));
    }
    if u32_at(bytes, 0) != MAGIC {
        return Err(RecordFault::Magic);
    }
    if u16_at(bytes, 4) != VERSION {
        return Err(RecordFault::Version(u16_at(bytes, 4)));
    }
    if crc32fast::hash(&bytes[..HEADER_BYTES - CRC_BYTES]) != u32_at(bytes, HEADER_BYTES - CRC_BYTES) {
        return Err(RecordFault::Header);
    }
    let length = u64_at(bytes, 8);
    if length < (HEADER_BYTES + CRC_BYTES) as u64 {
        return Err(RecordFault::Shape);
    }
    Ok(length)
}

fn entry_crc(head: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(body);
    hasher.finalize()
}

/// The records written one behind the other in `bytes`, in order; ends with the first one that is not whole.
pub struct Scan {
    rest: Bytes,
    /// Offset of `rest` in what was given.
    pub offset: u64,
}

impl Scan {
    pub fn new(bytes: Bytes) -> Self {
        Self { rest: bytes, offset: 0 }
    }
}

impl Iterator for Scan {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        if self.rest.is_empty() {
            return None;
        }
        let found = self.rest.len() as u64;
        let fault = match header_length(&self.rest) {
            Ok(length) if length <= found => {
                self.offset += length;
                return Some(Found::Record(self.rest.split_to(length as usize)));
            }
            Ok(expected) => RecordFault::Length { expected, found },
            Err(fault) => fault,
        };
        self.rest = Bytes::new();
        Some(Found::Unreadable(fault))
    }
}

/// The pieces of a record, in order, each with its key. Key and value together are at most `PIECE_BYTES`.
pub fn pieces(number: u64, record: &[u8]) -> impl Iterator<Item = ([u8; KEY_BYTES], &[u8])> {
    let chunks = record.chunks(PIECE_BYTES - KEY_BYTES);
    chunks.enumerate().map(move |(part, chunk)| (piece_key(number, part as u32), chunk))
}

/// Big-endian, so that keys sort in the order of groups and parts.
pub fn piece_key(number: u64, part: u32) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&number.to_be_bytes());
    key[8..].copy_from_slice(&part.to_be_bytes());
    key
}

/// Puts pieces, given in the order of their keys, back together.
#[derive(Default)]
pub struct Assembler {
    number: Option<u64>,
    parts: u32,
    bytes: Vec<u8>,
    fault: Option<RecordFault>,
}

impl Assembler {
    /// Takes the next piece; gives back the record before it once that is complete.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Option<Found> {
        let Ok(key) = <[u8; KEY_BYTES]>::try_from(key) else {
            return Some(Found::Unreadable(RecordFault::Key));
        };
        let number = u64::from_be_bytes(key[..8].try_into().expect("eight bytes"));
        let part = u32::from_be_bytes(key[8..].try_into().expect("four bytes"));
        let done = if self.number == Some(number) { None } else { self.take() };
        self.number = Some(number);
        if part != self.parts && self.fault.is_none() {
            self.fault = Some(RecordFault::Part(self.parts));
        }
        self.parts += 1;
        self.bytes.extend_from_slice(value);
        done
    }

    /// The record the pieces so far make up, if there are any.
    pub fn take(&mut self) -> Option<Found> {
        self.number.take()?;
        self.parts = 0;
        let bytes = Bytes::from(std::mem::take(&mut self.bytes));
        Some(self.fault.take().map_or(Found::Record(bytes), Found::Unreadable))
    }
}

pub(crate) fn put_identity(out: &mut Vec<u8>, identity: &Identity) {
    out.extend_from_slice(&identity.cluster);
    out.extend_from_slice(&identity.member.to_le_bytes());
    out.extend_from_slice(&identity.incarnation.to_le_bytes());
}

pub(crate) fn identity_at(bytes: &[u8], at: usize) -> Identity {
    Identity {
        cluster: bytes[at..at + 16].try_into().expect("sixteen bytes"),
        member: u64_at(bytes, at + 16),
        incarnation: u64_at(bytes, at + 24),
    }
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

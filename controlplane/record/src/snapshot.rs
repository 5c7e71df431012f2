//! The bytes of a snapshot file: a manifest, then the body in frames.
//! In: meta and body. Out: header and frames to write one after the other; back again, only if every byte verifies.
//! Absent: files. The manifest stands first and names length and hash, so a torn or foreign body cannot pass.
//!
//! Little-endian. Manifest: magic, version, zero, cluster, member, incarnation, index, term, body length, SHA-256,
//! length of the membership, membership, checksum. Each frame: checksum, then up to 64 KiB of body.

use planted::planted;

use crate::codec::{identity_at, put_identity, u16_at, u32_at, u64_at};
use crate::damage::SnapshotFault;
use crate::types::{Identity, LogPoint, SnapshotMeta};

const MAGIC: u32 = u32::from_le_bytes(*b"QSNP");
const VERSION: u16 = 1;
const FIXED_BYTES: usize = 100;
pub(crate) const CRC_BYTES: usize = 4;

/// Bytes of body in a frame; the last one may be shorter.
pub const FRAME_BYTES: usize = 64 * 1024;

/// The manifest.
pub fn snapshot_header(identity: &Identity, meta: &SnapshotMeta) -> Vec<u8> {
    let mut out = Vec::with_capacity(FIXED_BYTES + meta.membership.len() + CRC_BYTES);
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    put_identity(&mut out, identity);
    for word in [meta.index, meta.term, meta.len] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&meta.hash);
    out.extend_from_slice(&(meta.membership.len() as u32).to_le_bytes());
    out.extend_from_slice(&meta.membership);
    out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    out
}

/// The body in frames: checksum and bytes of each, to be written in this order.
pub fn frames(body: &[u8]) -> impl Iterator<Item = ([u8; CRC_BYTES], &[u8])> {
    body.chunks(FRAME_BYTES).map(|frame| (crc32fast::hash(frame).to_le_bytes(), frame))
}

/// Manifest of a snapshot file, whose it is, and where its frames start.
pub fn snapshot_meta(file: &[u8]) -> Result<(Identity, SnapshotMeta, usize), SnapshotFault> {
    let short = |needed: usize| SnapshotFault::Short { missing: (needed - file.len()) as u64 };
    if file.len() < FIXED_BYTES {
        return Err(short(FIXED_BYTES));
    }
    if u32_at(file, 0) != MAGIC {
        return Err(SnapshotFault::Magic);
    }
    if u16_at(file, 4) != VERSION {
        return Err(SnapshotFault::Version(u16_at(file, 4)));
    }
    let crc_at = FIXED_BYTES + u32_at(file, FIXED_BYTES - 4) as usize;
    if file.len() < crc_at + CRC_BYTES {
        return Err(short(crc_at + CRC_BYTES));
    }
    if crc32fast::hash(&file[..crc_at]) != u32_at(file, crc_at) {
        return Err(SnapshotFault::Header);
    }
    let point = LogPoint { index: u64_at(file, 40), term: u64_at(file, 48) };
    let meta = SnapshotMeta {
        index: point.index,
        term: point.term,
        membership: file[FIXED_BYTES..crc_at].to_vec(),
        hash: file[64..96].try_into().expect("thirty-two bytes"),
        len: u64_at(file, 56),
    };
    Ok((identity_at(file, 8), meta, crc_at + CRC_BYTES))
}

/// Meta and body of a whole snapshot file, and whose it is. The body comes back in the memory of `file`.
pub fn decode_snapshot(mut file: Vec<u8>) -> Result<(Identity, SnapshotMeta, Vec<u8>), SnapshotFault> {
    let (identity, meta, start) = snapshot_meta(&file)?;
    let frame_count = meta.len.div_ceil(FRAME_BYTES as u64);
    let expected = meta.len.saturating_add(frame_count * CRC_BYTES as u64).saturating_add(start as u64);
    let found = file.len() as u64;
    if found < expected {
        return Err(SnapshotFault::Short { missing: expected - found });
    }
    if found > expected {
        return Err(SnapshotFault::Long(found - expected));
    }
    let (mut from, mut to) = (start, 0);
    while from < file.len() {
        let frame = from + CRC_BYTES..(from + CRC_BYTES + FRAME_BYTES).min(file.len());
        if crc32fast::hash(&file[frame.clone()]) != u32_at(&file, from) && !planted!("snapshot-without-its-hash") {
            return Err(SnapshotFault::Frame(from as u64));
        }
        file.copy_within(frame.clone(), to);
        (from, to) = (frame.end, to + frame.len());
    }
    file.truncate(to);
    if !meta.describes(&file) && !planted!("snapshot-without-its-hash") {
        return Err(SnapshotFault::Hash);
    }
    Ok((identity, meta, file))
}

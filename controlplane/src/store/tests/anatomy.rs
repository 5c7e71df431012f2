//! What the bytes of a data folder are for: every file cut into named classes, so that damage can be done to each of them.
//! In: the bytes of a file. Out: classes, in order. Absent: whether they verify; the specimen is whole.

use crate::store::guard::SHAPE;
use std::ops::Range;
use std::path::Path;

/// Which part of a store a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Identity,
    Owner,
    Guard,
    Segment,
    Snapshot,
    /// sled's own files, whose inside is nobody's business but sled's.
    Engine,
    Lock,
}

impl Part {
    /// By its path below the data folder.
    pub fn of(path: &Path) -> Part {
        let text = path.to_str().expect("names of ours are UTF-8");
        match text {
            "lock" => Part::Lock,
            "owner" => Part::Owner,
            "member/identity" => Part::Identity,
            "member/guard" => Part::Guard,
            _ if text.starts_with("member/snapshots/") => Part::Snapshot,
            _ if text.ends_with(".log") => Part::Segment,
            _ => Part::Engine,
        }
    }

    /// What a person must be told about damage to it: one of these words.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Part::Identity => &["identity file"],
            Part::Owner => &["owner file"],
            Part::Guard => &["guard file"],
            Part::Snapshot => &["snapshot"],
            // Groups, and the entries in them, are what a log consists of.
            Part::Segment | Part::Engine => {
                &["the log ", "group ", "last group", "entries ", "storage engine", "store is empty"]
            }
            Part::Lock => &[],
        }
    }

    /// The classes of the bytes of such a file.
    pub fn classes(self, bytes: &[u8]) -> Vec<(&'static str, Range<usize>)> {
        let mut classes = match self {
            Part::Identity | Part::Owner => lines(bytes),
            Part::Guard => slots(bytes),
            Part::Segment => records(bytes, 0..bytes.len()),
            Part::Snapshot => snapshot(bytes),
            Part::Engine => engine(bytes),
            Part::Lock => Vec::new(),
        };
        classes.retain(|(_, class)| !class.is_empty());
        classes
    }
}

/// Names and values of an identity file.
fn lines(bytes: &[u8]) -> Vec<(&'static str, Range<usize>)> {
    let (mut classes, mut at) = (Vec::new(), 0);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let space = line.iter().position(|byte| *byte == b' ').expect("a name and a value");
        classes.push(("name", at..at + space));
        classes.push(("value", at + space..at + line.len()));
        at += line.len();
    }
    classes
}

fn slots(bytes: &[u8]) -> Vec<(&'static str, Range<usize>)> {
    let slot = |start: usize| {
        let carried = start + 108 + u32_at(bytes, start + 76) as usize;
        let end = start + SHAPE.slot_bytes;
        let fields =
            [("magic", 4), ("version", 2), ("flags", 2), ("sequence", 8), ("owner", 32), ("term", 8), ("vote", 8)];
        let more = [("group", 8), ("group checksum", 4), ("length", 4), ("last", 16), ("snapshot", 8), ("checksum", 4)];
        let mut classes = fields_of(start, fields.into_iter().chain(more));
        classes.extend([("carried record", start + 108..carried), ("beyond", carried..end)]);
        classes
    };
    let group = |start: usize| u64_at(bytes, start + 64);
    let starts = (0..bytes.len()).step_by(SHAPE.slot_bytes);
    let newest = starts.clone().map(group).max().expect("a slot");
    let classes = |start: usize| match group(start) + 2 > newest {
        true => slot(start),
        // What is true of one older slot is true of the others.
        false => vec![("older slot", start..start + 108), ("older record", start + 108..start + SHAPE.slot_bytes)],
    };
    starts.flat_map(classes).collect()
}

/// The records one behind the other in `within`.
fn records(bytes: &[u8], within: Range<usize>) -> Vec<(&'static str, Range<usize>)> {
    let (mut classes, mut at) = (Vec::new(), within.start);
    while at < within.end {
        let (end, count) = (at + u64_at(bytes, at + 8) as usize, u32_at(bytes, at + 60) as usize);
        let fields = [("magic", 4), ("version", 2), ("flags", 2), ("length", 8), ("owner", 32), ("number", 8)];
        let more =
            [("chain", 4), ("count", 4), ("hard state", 24), ("last", 16), ("restored", 16), ("head checksum", 4)];
        classes.extend(fields_of(at, fields.into_iter().chain(more)));
        let mut entry = at + 124;
        for number in 0..count {
            let (context, data) = (u32_at(bytes, entry + 20) as usize, u32_at(bytes, entry + 24) as usize);
            // What is true of the first entry and of the last one is true of those between.
            if number == 0 || number + 1 == count {
                let fields = [("entry point", 16), ("entry kind", 4), ("entry lengths", 8), ("entry checksum", 4)];
                let more = [("context", context), ("data", data)];
                classes.extend(fields_of(entry, fields.into_iter().chain(more)));
            }
            entry += 32 + context + data;
        }
        classes.push(("record checksum", end - 4..end));
        at = end;
    }
    classes
}

fn snapshot(bytes: &[u8]) -> Vec<(&'static str, Range<usize>)> {
    let membership = u32_at(bytes, 96) as usize;
    let fields = [("magic", 4), ("version", 2), ("zero", 2), ("owner", 32), ("place", 16), ("length", 8), ("hash", 32)];
    let more = [("membership length", 4), ("membership", membership), ("head checksum", 4)];
    let mut classes = fields_of(0, fields.into_iter().chain(more));
    let mut at = 104 + membership;
    while at < bytes.len() {
        let end = (at + 4 + record::FRAME_BYTES).min(bytes.len());
        classes.extend([("frame checksum", at..at + 4), ("frame", at + 4..end)]);
        at = end;
    }
    classes
}

/// The heads of sled's segments, our own bytes as far as they can be found among its pages, and everything.
fn engine(bytes: &[u8]) -> Vec<(&'static str, Range<usize>)> {
    let whole = 0..bytes.len();
    let segments = whole.clone().step_by(512 << 10).map(|at| ("segment head", at..(at + 32).min(bytes.len())));
    let ours = bytes.windows(4).enumerate().filter(|(_, word)| word == b"QREC");
    let ours = ours.map(|(at, _)| ("record head", at..(at + 124).min(bytes.len())));
    segments.chain(ours).chain([("anything", whole.clone())]).collect()
}

fn fields_of(start: usize, fields: impl Iterator<Item = (&'static str, usize)>) -> Vec<(&'static str, Range<usize>)> {
    let place = |at: &mut usize, (name, len)| {
        let field = (name, *at..*at + len);
        *at += len;
        Some(field)
    };
    fields.scan(start, place).collect()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

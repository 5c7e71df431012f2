//! What the oracles know of a member's log: each entry as it was written, and with which group.
//! In: entries as a member writes them, or finds them. Out: digests, requests, the places of `BeginFencing`.
//! Absent: what is durable; the disk knows, by the group.

use std::collections::BTreeMap;

use cluster::{Command, Incarnation, NodeId, RequestId};

/// Entries by term, index and digest: each is decoded once, whoever writes it.
pub(crate) type Known = BTreeMap<(u64, u64, u64), Parsed>;

/// What the oracles need to know of an entry.
#[derive(Clone, Copy, Debug)]
pub struct Parsed {
    request: Option<RequestId>,
    fencing: Option<(NodeId, Incarnation)>,
}

/// A member's log, entry by entry.
#[derive(Default)]
pub struct Mirror {
    pub entries: BTreeMap<u64, Mirrored>,
    /// Places of `BeginFencing` entries.
    pub fencings: BTreeMap<u64, (NodeId, Incarnation)>,
}

#[derive(Clone, Copy, Debug)]
pub struct Mirrored {
    pub term: u64,
    pub digest: u64,
    pub request: Option<cluster::RequestId>,
    /// The group it was written with; durable with it.
    pub group: u64,
}

impl Mirror {
    pub fn truncate_from(&mut self, index: u64) {
        // Almost always nothing is.
        if self.entries.last_key_value().is_some_and(|(last, _)| *last >= index) {
            self.entries.split_off(&index);
            self.fencings.split_off(&index);
        }
    }
}

/// Gives the fencing that the entry begins, if nobody has written that entry before.
pub(crate) fn mirror_entry(
    parsed: &mut Known,
    mirror: &mut Mirror,
    entry: &record::Entry,
    group: u64,
) -> Option<(NodeId, Incarnation)> {
    let (digest, entries) = (digest(entry), parsed.len());
    let known = *parsed.entry((entry.term, entry.index, digest)).or_insert_with(|| {
        let command =
            (entry.kind == 0 && !entry.data.is_empty()).then(|| proto::log::decode(&entry.data).ok()).flatten();
        let fencing = match command.as_ref().map(|entry| &entry.command) {
            Some(Command::BeginFencing { node, incarnation, .. }) => Some((*node, *incarnation)),
            _ => None,
        };
        Parsed { request: command.and_then(|entry| entry.request), fencing }
    });
    if let Some(fencing) = known.fencing {
        mirror.fencings.insert(entry.index, fencing);
    }
    let mirrored = Mirrored { term: entry.term, digest, request: known.request, group };
    mirror.entries.insert(entry.index, mirrored);
    known.fencing.filter(|_| parsed.len() > entries)
}

fn digest(entry: &record::Entry) -> u64 {
    let words = entry.data.iter().fold(0xcbf2_9ce4_8422_2325 ^ u64::from(entry.kind), |word, byte| {
        (word ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    words ^ entry.term.rotate_left(32)
}

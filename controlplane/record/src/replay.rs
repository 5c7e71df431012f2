//! From what a store holds to what a member knows, or to the reason why it must not start.
//! In: the records in order, the ring of the guard file, the newest snapshot. Out: `Replayed`, or `Damage` that names the
//! place. Absent: repair of what stands nowhere else. Where the log ends, or breaks off, the ring goes on as far as it
//! carries every group up to its newest. Left out is a broken write *behind* the newest: it was never acknowledged.
//! One group behind it is kept if it verifies; it may have been sent although nobody was told.

use crate::codec::{Record, decode};
use crate::damage::{Damage, RecordFault};
use crate::ledger::Spans;
use crate::ring::{Ring, Slot};
use crate::tip::Tip;
use crate::types::{Entry, Group, Identity, Loaded, LogPoint, SnapshotMeta};
use bytes::Bytes;
use planted::planted;

/// What stands at one place of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Record(Bytes),
    Unreadable(RecordFault),
}

/// A store that holds everything it promised, and what is left to do before it may be written again.
#[derive(Debug)]
pub struct Replayed {
    pub loaded: Loaded,
    /// How many of the records found stay; what follows them is an unfinished write, to be removed.
    pub kept: usize,
    pub unfinished: bool,
    /// The ring is ahead of the log: these records, each with its number, belong behind those that are kept.
    pub redo: Vec<(u64, Bytes)>,
    /// A snapshot from the leader was saved, but not the group that starts the log anew behind it: to be appended.
    pub install: Option<Group>,
    pub(crate) tip: Tip,
    pub(crate) spans: Spans,
    pub(crate) sequence: u64,
}

impl Replayed {
    /// Number of the last record that stays where it was found.
    pub fn last_kept(&self) -> u64 {
        self.tip.number - self.redo.len() as u64
    }
}

/// Judges a store. `snapshot` has been verified against its own manifest; records are verified here.
pub fn replay(
    identity: &Identity,
    found: impl IntoIterator<Item = Found>,
    ring: &Ring,
    snapshot: Option<&SnapshotMeta>,
) -> Result<Replayed, Damage> {
    let guard = ring.newest();
    owned("guard file", &guard.identity, identity)?;
    let mut chain = Chain { identity, ring, tip: None, spans: Spans::default(), log: Vec::new(), floor: 0 };
    let (mut kept, mut unfinished) = (0, false);
    for place in found {
        if !chain.take(place)? {
            unfinished = true;
            break;
        }
        kept += 1;
    }
    let redo = chain.reach_newest()?;
    let Chain { tip, spans, log, floor, .. } = chain;
    let tip = tip.ok_or(Damage::Empty { groups: guard.group })?;
    if guard.clean && (unfinished || !redo.is_empty() || tip.number != guard.group) {
        return Err(Damage::ChangedWhileClosed { guard: guard.group });
    }
    // The log is never ahead by more than one group: one too big to carry, whose slot is written next.
    if tip.number > guard.group + 1 {
        return Err(Damage::GuardOlder { log: tip.number, guard: guard.group });
    }
    check_snapshot_reaches(guard, snapshot)?;
    let saved = snapshot.map(SnapshotMeta::point).unwrap_or_default();
    let (entries, install) = tail(log, floor, &tip, saved)?;

    let mut hard_state = install.as_ref().map_or(tip.hard_state, |group| group.hard_state);
    hard_state.commit = hard_state.commit.max(saved.index);
    let last = entries.last().map_or(saved.index, |entry| entry.index);
    if hard_state.commit > last {
        return Err(Damage::CommitBeyondLog { commit: hard_state.commit, last });
    }
    let next_group = tip.number + 1 + u64::from(install.is_some());
    let loaded = Loaded { identity: *identity, hard_state, entries, snapshot: snapshot.cloned(), next_group };
    Ok(Replayed { loaded, kept, unfinished, redo, install, tip, spans, sequence: guard.sequence })
}

/// Errs if `part` names somebody else as its owner.
pub(crate) fn owned(part: &'static str, found: &Identity, expected: &Identity) -> Result<(), Damage> {
    if found == expected {
        return Ok(());
    }
    Err(Damage::OtherOwner { part, found: Box::new(*found), expected: Box::new(*expected) })
}

/// The chain of records as far as it has been read.
struct Chain<'a> {
    identity: &'a Identity,
    ring: &'a Ring,
    tip: Option<Tip>,
    spans: Spans,
    /// The entries behind `floor`, contiguous.
    log: Vec<Entry>,
    floor: u64,
}

impl Chain<'_> {
    /// Takes what stands at the next place. `false`: an unfinished write that nobody was told about; nothing behind it
    /// counts.
    fn take(&mut self, place: Found) -> Result<bool, Damage> {
        let expected = self.tip.map_or(1, |tip| tip.number + 1);
        // A store that was compacted may start anywhere up to the newest group, so a first place is never "unfinished".
        // What the ring carries from here to its end can be written again, whatever stands in its place.
        let acknowledged = self.tip.is_none() || expected < self.ring.carried_from();
        let record = match place {
            Found::Record(bytes) => decode(&bytes).map(|record| (record, bytes.len())),
            Found::Unreadable(fault) => Err(fault),
        };
        let (record, len) = match record {
            Ok(record) => record,
            Err(fault) if acknowledged => return Err(Damage::Record { group: expected, fault }),
            Err(_) => return Ok(false),
        };
        owned("log", &record.identity, self.identity)?;
        if let Some(tip) = self.tip {
            if record.number != expected {
                let missing = Damage::GroupMissing { expected, found: record.number };
                return if acknowledged { Err(missing) } else { Ok(false) };
            }
            if record.previous != tip.crc {
                return if acknowledged { Err(Damage::ChainBroken { group: expected }) } else { Ok(false) };
            }
        } else {
            self.check_start(&record)?;
        }
        self.extend(record, len)?;
        Ok(true)
    }

    /// The first record left by compaction may be any, but not one behind the newest slot: the last group is always
    /// kept.
    fn check_start(&self, record: &Record) -> Result<(), Damage> {
        let newest = self.ring.newest();
        let next = newest.group + 1;
        if record.number > next {
            return Err(Damage::GroupMissing { expected: next, found: record.number });
        }
        if record.number == next && record.previous != newest.group_crc {
            return Err(Damage::ChainBroken { group: next });
        }
        Ok(())
    }

    fn extend(&mut self, record: Record, len: usize) -> Result<(), Damage> {
        let Record { number, crc, last, group, .. } = record;
        if let Some(tip) = self.tip {
            let computed = tip.check(&group).map_err(|why| Damage::Rule { group: number, why: why.to_string() })?;
            if computed != last {
                let why = format!("it ends at index {}, not {}", computed.index, last.index);
                return Err(Damage::Rule { group: number, why });
            }
        }
        if let Some(seen) = self.ring.slot(number) {
            check_guarded(seen, &group, last, crc)?;
        }
        self.spans.push(number, &group, last.index, len as u64);
        self.tip = Some(Tip { number, crc, last, hard_state: group.hard_state });
        self.lay_down(group, last);
        Ok(())
    }

    /// Puts the entries of a group into the log, over whatever they replace.
    fn lay_down(&mut self, group: Group, last: LogPoint) {
        if let Some(restored) = group.restored {
            self.log.clear();
            self.floor = restored.index;
        }
        match group.entries.first() {
            Some(first) if self.spans.len() > 1 && first.index > self.floor => {
                self.log.truncate((first.index - 1 - self.floor) as usize);
            }
            Some(first) => {
                self.log.clear();
                self.floor = first.index - 1;
            }
            None if self.spans.len() == 1 => self.floor = last.index,
            None => {}
        }
        self.log.extend(group.entries);
    }

    /// Errs unless the chain ends at or behind the newest slot, or can be continued to it by what the ring carries: that
    /// is given back, to be written again.
    fn reach_newest(&mut self) -> Result<Vec<(u64, Bytes)>, Damage> {
        let guard = self.ring.newest().group;
        let Some(tip) = self.tip else {
            return Err(Damage::Empty { groups: guard });
        };
        if planted!("guard-file-not-asked") {
            return Ok(Vec::new());
        }
        let mut redo = Vec::new();
        for group in tip.number + 1..=guard {
            let lost = Damage::GroupLost { group, guard };
            let carried = self.ring.slot(group).map(|slot| &slot.carried).filter(|carried| !carried.is_empty());
            let Some(record) = carried.cloned() else { return Err(lost) };
            if !self.take(Found::Record(record.clone()))? {
                return Err(lost);
            }
            redo.push((group, record));
        }
        Ok(redo)
    }
}

/// What the log holds as the group of a slot must be what the slot saw.
fn check_guarded(seen: &Slot, group: &Group, last: LogPoint, crc: u32) -> Result<(), Damage> {
    for (what, found, guard) in [
        ("term", group.hard_state.term, seen.term),
        ("vote", group.hard_state.vote, seen.vote),
        ("last index", last.index, seen.last.index),
        ("last term", last.term, seen.last.term),
        ("checksum of a group", u64::from(crc), u64::from(seen.group_crc)),
    ] {
        if found != guard {
            return Err(Damage::BelowGuard { what, found, guard });
        }
    }
    Ok(())
}

fn check_snapshot_reaches(guard: &Slot, snapshot: Option<&SnapshotMeta>) -> Result<(), Damage> {
    match snapshot {
        None if guard.snapshot_index > 0 => Err(Damage::Missing { part: "snapshot" }),
        Some(meta) if meta.index < guard.snapshot_index => {
            Err(Damage::BelowGuard { what: "snapshot index", found: meta.index, guard: guard.snapshot_index })
        }
        _ => Ok(()),
    }
}

/// The entries behind the snapshot, and the group still to be written if the log does not belong to it: then the
/// member died between saving a leader's snapshot and starting its log anew.
fn tail(mut log: Vec<Entry>, floor: u64, tip: &Tip, saved: LogPoint) -> Result<(Vec<Entry>, Option<Group>), Damage> {
    if floor > saved.index {
        return Err(Damage::EntriesMissing { first: saved.index + 1, last: floor });
    }
    let own_term = if tip.last.index == saved.index {
        Some(tip.last.term)
    } else {
        // The entry *at* the snapshot; absent if compaction took it, and then everything above continues it.
        saved.index.checked_sub(floor + 1).and_then(|at| log.get(at as usize)).map(|entry| entry.term)
    };
    let foreign = own_term.is_some_and(|term| term != saved.term);
    if foreign && tip.hard_state.commit >= saved.index {
        return Err(Damage::SnapshotContradicts { index: saved.index, term: saved.term });
    }
    if !foreign && saved.index <= tip.last.index {
        log.drain(..((saved.index - floor) as usize).min(log.len()));
        return Ok((log, None));
    }
    let mut hard_state = tip.hard_state;
    if hard_state.term < saved.term {
        // A vote is durable before it is sent, so no vote was given in a term that is not on disk.
        (hard_state.term, hard_state.vote) = (saved.term, 0);
    }
    hard_state.commit = saved.index;
    Ok((Vec::new(), Some(Group { hard_state, restored: Some(saved), entries: Vec::new() })))
}

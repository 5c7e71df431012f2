//! The bookkeeping every engine shares: what the next record is, what its slot says and waits for, what may be compacted,
//! and that nothing happens after the first error.
//! In: groups. Out: bytes to be written, then told that they are. Absent: writing.

use crate::codec::{encode, encoded_len};
use crate::error::{Refused, StoreError};
use crate::replay::Replayed;
use crate::ring::{Shape, Slot};
use crate::tip::Tip;
use crate::types::{Group, Identity, LogPoint, SnapshotMeta};
use planted::planted;
use std::collections::VecDeque;
use std::error::Error;

#[derive(Debug)]
pub struct Ledger {
    identity: Identity,
    shape: Shape,
    tip: Tip,
    spans: Spans,
    sequence: u64,
    snapshot: LogPoint,
    poison: Option<String>,
}

impl Ledger {
    /// For a store before its first group.
    pub fn new(identity: Identity, shape: Shape) -> Self {
        let (tip, spans, snapshot) = (Tip::default(), Spans::default(), LogPoint::default());
        Self { identity, shape, tip, spans, sequence: 0, snapshot, poison: None }
    }

    /// For a store that was just replayed.
    pub fn resume(replayed: &mut Replayed, shape: Shape) -> Self {
        Self {
            identity: replayed.loaded.identity,
            shape,
            tip: replayed.tip,
            spans: std::mem::take(&mut replayed.spans),
            sequence: replayed.sequence,
            snapshot: replayed.loaded.snapshot.as_ref().map(SnapshotMeta::point).unwrap_or_default(),
            poison: None,
        }
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn tip(&self) -> &Tip {
        &self.tip
    }

    pub fn snapshot(&self) -> LogPoint {
        self.snapshot
    }

    /// Records and their bytes that compaction has not taken yet.
    pub fn live(&self) -> (u64, u64) {
        (self.spans.len() as u64, self.spans.bytes)
    }

    /// Writes the record of `group` into `record` and gives back the tip it leads to. Errs, with nothing changed, if
    /// the store is poisoned or the group cannot follow.
    pub fn prepare(&self, group: &Group, record: &mut Vec<u8>) -> Result<Tip, StoreError> {
        self.check_usable()?;
        let last = self.tip.check(group)?;
        if let Some(restored) = group.restored.filter(|restored| restored.index > self.snapshot.index) {
            return Err(Refused::SnapshotAbsent { index: restored.index }.into());
        }
        let biggest = group.entries.iter().map(|entry| entry.data.len().max(entry.context.len())).max();
        if biggest.is_some_and(|bytes| bytes > u32::MAX as usize) || group.entries.len() > u32::MAX as usize {
            return Err(Refused::TooBig { bytes: encoded_len(group) as u64 }.into());
        }
        let number = self.tip.number + 1;
        let crc = encode(&self.identity, number, self.tip.crc, last, group, record);
        Ok(Tip { number, crc, last, hard_state: group.hard_state })
    }

    /// The group that led to `tip` is written.
    pub fn advance(&mut self, tip: Tip, group: &Group, record_bytes: u64) {
        self.spans.push(tip.number, group, tip.last.index, record_bytes);
        self.tip = tip;
    }

    /// Whether the slot of this record carries it, so that the log may get it later. Otherwise the log comes first.
    pub fn carries(&self, record: &[u8]) -> bool {
        record.len() <= self.shape.carry_bytes()
    }

    /// The group that must be durable in the log before the slot of `number` is written: the one it takes the place of,
    /// and with it all before that. 0 = none.
    pub fn must_be_logged(&self, number: u64) -> u64 {
        if planted!("slot-taken-early") {
            return 0;
        }
        self.shape.evicted_by(number)
    }

    /// Writes the slot for `tip` into `slot`; gives back the offsets of its two copies in the guard file. `carried` is the
    /// record of `tip`, or empty if that is durable in the log already.
    pub fn slot(&mut self, tip: &Tip, clean: bool, carried: &[u8], slot: &mut Vec<u8>) -> [u64; 2] {
        self.sequence += 1;
        Slot::encode(&self.identity, self.sequence, tip, self.snapshot.index, clean, carried, slot);
        let [first, second] = self.shape.copies(tip.number);
        if planted!("slot-written-once") { [first, first] } else { [first, second] }
    }

    /// Errs if `meta` is older than the snapshot there is.
    pub fn check_snapshot(&self, meta: &SnapshotMeta) -> Result<(), StoreError> {
        self.check_usable()?;
        if meta.index == 0 || meta.index < self.snapshot.index {
            return Err(Refused::SnapshotOlder { index: meta.index, newest: self.snapshot.index }.into());
        }
        Ok(())
    }

    /// The snapshot is saved.
    pub fn saved(&mut self, meta: &SnapshotMeta) {
        self.snapshot = meta.point();
    }

    /// How many records, from the oldest, hold nothing above `through`. The last record always stays: it holds the
    /// HardState. Errs if no snapshot reaches that far.
    pub fn removable(&self, through: u64) -> Result<usize, StoreError> {
        self.check_usable()?;
        if through > self.snapshot.index {
            return Err(Refused::SnapshotAbsent { index: through }.into());
        }
        Ok(self.spans.all.partition_point(|span| span.last_index <= through).min(self.spans.len().saturating_sub(1)))
    }

    /// Number of the oldest record.
    pub fn first_number(&self) -> u64 {
        self.spans.all.front().map_or(self.tip.number + 1, |span| span.number)
    }

    /// The oldest `count` records are gone; gives back their bytes.
    pub fn removed(&mut self, count: usize) -> u64 {
        let bytes = self.spans.all.drain(..count).map(|span| span.bytes).sum();
        self.spans.bytes -= bytes;
        bytes
    }

    pub fn check_usable(&self) -> Result<(), StoreError> {
        match &self.poison {
            Some(first) => Err(StoreError::Poisoned { first: first.clone() }),
            None => Ok(()),
        }
    }

    pub fn poisoned(&self) -> bool {
        self.poison.is_some()
    }

    /// Passes `result` on; any error but a refusal ends this store for good.
    pub fn watch<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error) = &result
            && !matches!(error, StoreError::Refused(_) | StoreError::Poisoned { .. })
        {
            self.poison.get_or_insert_with(|| chain_text(error));
        }
        result
    }
}

/// An error and all its causes in one line.
fn chain_text(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// Which indices each record still holds, oldest first. `last_index` never falls from one to the next.
#[derive(Debug, Default)]
pub(crate) struct Spans {
    all: VecDeque<Span>,
    /// Sum over `all`.
    bytes: u64,
}

#[derive(Debug)]
struct Span {
    number: u64,
    /// The highest index of this record that no later record replaced.
    last_index: u64,
    bytes: u64,
}

impl Spans {
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn push(&mut self, number: u64, group: &Group, last_index: u64, bytes: u64) {
        let starts_at = group.restored.map(|restored| restored.index + 1);
        if let Some(first) = starts_at.or(group.entries.first().map(|entry| entry.index)) {
            self.all
                .iter_mut()
                .rev()
                .take_while(|span| span.last_index >= first)
                .for_each(|span| span.last_index = first - 1);
        }
        self.all.push_back(Span { number, last_index, bytes });
        self.bytes += bytes;
    }
}

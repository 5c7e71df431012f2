//! The log above the last snapshot, in memory, in front of the store: what was proposed, what is durable, what it means.
//! In: entries as Raft hands them out, durability as the store reports it. Out: entries, terms, meanings.
//! Absent: no I/O. Entries stand here before they are durable (raft needs to read them at once), marked as such.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use cluster::{Command, Incarnation, MemberId, Membership, NodeId};
use planted::checked;
use record::{Entry, HardState, LogPoint, SnapshotMeta};

use crate::codec::{self, MembershipChange};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A new leader's empty entry.
    Settle,
    Command(Arc<cluster::Entry>),
    Membership(MembershipChange),
    /// Written by a newer version, or damaged: whoever must apply it stops.
    Unreadable(Arc<str>),
}

#[derive(Debug)]
struct Logged {
    entry: Entry,
    /// `None`: applied, and nobody asks again.
    meaning: Option<Meaning>,
}

/// What this member has just encoded to be proposed, oldest first, until raft hands the entries out: a leader need not
/// read from their bytes what it wrote there a moment ago.
#[derive(Debug, Default)]
pub struct Encoded(VecDeque<(LogPoint, Bytes, Arc<cluster::Entry>)>);

impl Encoded {
    /// `data` are the bytes of `entry`, which is to stand at `point`, above all before it.
    pub fn put(&mut self, point: LogPoint, data: Bytes, entry: Arc<cluster::Entry>) {
        self.0.push_back((point, data, entry));
    }

    /// What `entry` means, if it is the very one: the same place in the same term, and the same bytes, not only equal ones.
    fn take(&mut self, entry: &Entry) -> Option<Meaning> {
        while let Some((point, data, meant)) = self.0.pop_front_if(|(point, ..)| point.index <= entry.index) {
            let same_bytes = std::ptr::eq(&raw const data[..], &raw const entry.data[..]);
            if point == entry.point() && same_bytes && entry.kind == codec::NORMAL {
                return Some(Meaning::Command(meant));
            }
        }
        None
    }
}

#[derive(Debug)]
pub struct Tail {
    /// The place right below `entries`.
    below: LogPoint,
    entries: VecDeque<Logged>,
    /// The last place known durable. Behind a snapshot that is being taken in it is still where it was before.
    durable: LogPoint,
    /// The highest index this member has told a leader it holds.
    vouched: u64,
    snapshot: Option<SnapshotMeta>,
    pub hard_state: HardState,
    /// As of the last applied configuration entry, or the snapshot.
    pub membership: Membership,
    /// Unapplied configuration entries and what each makes of the membership before it; ascending.
    changes: BTreeMap<u64, Membership>,
    /// Places of `BeginFencing` entries above the state, by incarnation; ascending.
    fencings: BTreeMap<(NodeId, Incarnation), Vec<LogPoint>>,
}

impl Tail {
    pub fn new(
        hard_state: HardState,
        membership: Membership,
        snapshot: Option<SnapshotMeta>,
        entries: Vec<Entry>,
    ) -> Tail {
        let below = snapshot.as_ref().map(SnapshotMeta::point).unwrap_or_default();
        let mut tail = Tail {
            below,
            entries: VecDeque::new(),
            durable: below,
            vouched: 0,
            snapshot,
            hard_state,
            membership,
            changes: BTreeMap::new(),
            fencings: BTreeMap::new(),
        };
        tail.append(&entries, &mut Encoded::default());
        tail.durable = tail.last();
        tail
    }

    pub fn first_index(&self) -> u64 {
        self.below.index + 1
    }

    pub fn last(&self) -> LogPoint {
        self.entries.back().map_or(self.below, |logged| logged.entry.point())
    }

    pub fn durable(&self) -> LogPoint {
        self.durable
    }

    /// How far this member answers for its log: what is durable, and what it has said to be so. A snapshot that is
    /// being taken in leaves `durable` where the log before it can still be told; of what was beneath it, the word given
    /// is all that is left.
    pub fn held(&self) -> LogPoint {
        LogPoint { index: self.durable.index.max(self.vouched), ..self.durable }
    }

    /// A leader was told that everything up to `index` is held; it was durable then.
    pub fn vouch(&mut self, index: u64) {
        self.vouched = self.vouched.max(index);
    }

    pub fn is_durable(&self, index: u64) -> bool {
        index <= self.durable.index
    }

    pub fn snapshot(&self) -> Option<&SnapshotMeta> {
        self.snapshot.as_ref()
    }

    /// Whether `member` is in the membership of the last snapshot.
    pub fn snapshot_knows(&self, member: MemberId) -> bool {
        let membership = self.snapshot.as_ref().and_then(|meta| codec::decode_membership(&meta.membership));
        membership.is_some_and(|it| it.votes(member) || it.learners.contains(&member))
    }

    pub fn term(&self, index: u64) -> Option<u64> {
        if index == self.below.index { Some(self.below.term) } else { self.at(index).map(|logged| logged.entry.term) }
    }

    /// What the entry at `index` asks for, once: to apply it. What is applied is not kept a second time beside its bytes.
    pub fn take_meaning(&mut self, index: u64) -> Option<Meaning> {
        let offset = index.checked_sub(self.first_index())?;
        self.entries.get_mut(offset as usize)?.meaning.take()
    }

    /// Entries of `low..high`, as many as fit `bytes_max`, at least one.
    pub fn entries(&self, low: u64, high: u64, bytes_max: u64) -> impl Iterator<Item = &Entry> {
        let mut bytes = 0u64;
        let from = (low - self.first_index()) as usize;
        self.entries.range(from..from + (high - low) as usize).map(|logged| &logged.entry).take_while(move |entry| {
            let first = bytes == 0;
            bytes += (entry.data.len() + entry.context.len() + 24) as u64;
            first || bytes <= bytes_max
        })
    }

    /// Takes in entries that are not durable yet. Whatever stands at or above the first one's index is replaced. What is
    /// not among `encoded` is read from its bytes.
    pub fn append(&mut self, entries: &[Entry], encoded: &mut Encoded) {
        let Some(first) = entries.first().map(|entry| entry.index) else { return };
        self.truncate_from(first);
        for entry in entries.iter().cloned() {
            let meaning = encoded.take(&entry);
            checked!(meaning.iter().all(|meaning| *meaning == codec::meaning(&entry)), "what was written differs");
            let meaning = meaning.unwrap_or_else(|| codec::meaning(&entry));
            match &meaning {
                Meaning::Membership(change) => {
                    let before = self.newest_membership();
                    self.changes.insert(entry.index, change.after(before, entry.point()));
                }
                Meaning::Command(command) => {
                    if let Command::BeginFencing { node, incarnation, .. } = command.command {
                        self.fencings.entry((node, incarnation)).or_default().push(entry.point());
                    }
                }
                Meaning::Settle | Meaning::Unreadable(_) => {}
            }
            self.entries.push_back(Logged { entry, meaning: Some(meaning) });
        }
    }

    fn truncate_from(&mut self, index: u64) {
        let keep = index.saturating_sub(self.first_index()) as usize;
        if keep >= self.entries.len() {
            return;
        }
        self.entries.truncate(keep);
        self.vouched = self.vouched.min(index - 1);
        if self.durable.index >= index {
            self.durable = self.last();
        }
        self.changes.split_off(&index);
        // A truncated entry lifts the refusal.
        self.fencings.retain(|_, places| {
            places.retain(|place| place.index < index);
            !places.is_empty()
        });
    }

    /// Everything up to `index` at `term` is durable; nothing if it has been replaced meanwhile.
    pub fn persisted(&mut self, point: LogPoint) {
        if self.term(point.index) == Some(point.term) && point.index > self.durable.index {
            self.durable = point;
        }
    }

    /// The membership by the newest configuration entry in the log, or beneath it.
    pub fn newest_membership(&self) -> &Membership {
        self.changes.last_key_value().map_or(&self.membership, |(_, membership)| membership)
    }

    /// Whether a configuration entry waits to be applied.
    pub fn has_unapplied_change(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Where unapplied `BeginFencing` entries of this incarnation stand, oldest first.
    pub fn fencings(&self, node: NodeId, incarnation: Incarnation) -> &[LogPoint] {
        self.fencings.get(&(node, incarnation)).map_or(&[], Vec::as_slice)
    }

    /// The entry at `index`, which meant this, was applied: the state speaks for it from here on.
    pub fn applied(&mut self, index: u64, meaning: &Meaning, membership: Option<Membership>) {
        if let Some(membership) = membership {
            self.changes.remove(&index);
            self.membership = membership;
        }
        if let Meaning::Command(entry) = meaning
            && let Command::BeginFencing { node, incarnation, .. } = entry.command
        {
            // The state may have refused it, and a later one may still stand in the log.
            if let Some(places) = self.fencings.get_mut(&(node, incarnation)) {
                places.retain(|place| place.index > index);
                if places.is_empty() {
                    self.fencings.remove(&(node, incarnation));
                }
            }
        }
    }

    /// The log starts anew behind a snapshot of the leader's, which is not durable yet.
    pub fn restore(&mut self, snapshot: SnapshotMeta, membership: Membership) {
        // What was durable stays so until the snapshot is: it promises nothing of what the snapshot brings.
        if self.durable.index >= snapshot.index {
            let index = snapshot.index - 1;
            self.durable = LogPoint { index, term: self.term(index).unwrap_or_default() };
        }
        self.below = snapshot.point();
        self.entries.clear();
        self.changes.clear();
        self.fencings.clear();
        self.membership = membership;
        self.snapshot = Some(snapshot);
    }

    /// A snapshot of our own state is saved; keeps `keep` entries below it for members that lag.
    pub fn compact(&mut self, snapshot: SnapshotMeta, keep: u64) -> u64 {
        let through = snapshot.index.saturating_sub(keep).max(self.below.index);
        if let Some(term) = self.term(through) {
            self.entries.drain(..(through - self.below.index) as usize);
            self.below = LogPoint { index: through, term };
        }
        self.snapshot = Some(snapshot);
        self.below.index
    }

    fn at(&self, index: u64) -> Option<&Logged> {
        index.checked_sub(self.first_index()).and_then(|offset| self.entries.get(offset as usize))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use cluster::{FenceCause, WallTime};

    use super::*;

    /// The state refuses the first (the brake is on, say) and takes the second: between the two, nothing that stands in
    /// the log may be acknowledged.
    #[test]
    fn a_fencing_that_is_refused_does_not_lift_the_refusal_of_a_later_one() {
        let (node, incarnation) = (NodeId(1), Incarnation(7));
        let command = Command::BeginFencing { node, incarnation, cause: FenceCause::Silence };
        let data = Bytes::from(codec::encode(&cluster::Entry { at: WallTime(0), request: None, command }));
        let entry = |index| Entry { term: 1, index, kind: codec::NORMAL, data: data.clone(), context: Bytes::new() };
        let mut tail = Tail::new(HardState::default(), Membership::default(), None, vec![entry(1), entry(2)]);
        let apply = |tail: &mut Tail, index| {
            let meaning = tail.take_meaning(index).expect("not applied yet");
            tail.applied(index, &meaning, None);
        };
        apply(&mut tail, 1);
        assert_eq!(tail.fencings(node, incarnation), [LogPoint { term: 1, index: 2 }]);
        apply(&mut tail, 2);
        assert!(tail.fencings(node, incarnation).is_empty());
        tail.append(&[entry(3)], &mut Encoded::default());
        tail.append(&[Entry { term: 2, data: Bytes::new(), ..entry(3) }], &mut Encoded::default());
        assert!(tail.fencings(node, incarnation).is_empty(), "a truncated entry lifts the refusal");
    }

    /// The leader that proposed at this place may have been replaced, and led again: only the very entry counts.
    #[test]
    fn what_was_encoded_counts_for_no_other_entry_at_its_place() {
        let meant = |at| Arc::new(cluster::Entry { at: WallTime(at), request: None, command: Command::Settle });
        let bytes = |at| Bytes::from(codec::encode(&meant(at)));
        let entry = |term, data: &Bytes| Entry {
            term,
            index: 5,
            kind: codec::NORMAL,
            data: data.clone(),
            context: Bytes::new(),
        };
        let ours = bytes(1);
        let takes = |entry: Entry| {
            let mut encoded = Encoded::default();
            encoded.put(LogPoint { term: 2, index: 4 }, bytes(0), meant(0));
            encoded.put(LogPoint { term: 2, index: 5 }, ours.clone(), meant(1));
            let taken = encoded.take(&entry);
            assert!(encoded.0.is_empty(), "what lies below is over");
            taken
        };
        assert_eq!(takes(entry(2, &ours)), Some(Meaning::Command(meant(1))));
        assert_eq!(takes(entry(3, &ours)), None, "another term");
        assert_eq!(takes(entry(2, &bytes(1))), None, "equal bytes of another hand");
        assert_eq!(takes(Entry { kind: codec::CHANGE, ..entry(2, &ours) }), None, "another kind");
    }
}

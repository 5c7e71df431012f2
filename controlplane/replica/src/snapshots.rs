//! When to take a snapshot, and how one that arrived becomes the state.
//! In: applied indexes, what the store says. Out: `BuildSnapshot`, `Compact`, `Installed`.
//! Absent: bodies; the shell encodes, saves and carries them.

use cluster::{MemberId, Moment, Revision, Span, State};
use planted::planted;
use record::{LogPoint, SnapshotMeta};

use crate::codec;
use crate::message::RaftMessage;
use crate::{Effect, Halt, KEEP_BELOW_SNAPSHOT, Replica};

/// After a snapshot that could not be saved: a full disk is not filled by trying.
const TRY_AGAIN: Span = Span::seconds(5);

pub struct Snapshots {
    every: u64,
    building: bool,
    /// The last attempt failed: none before this.
    not_before: Moment,
    arrived: Option<State>,
    /// A snapshot of the leader's being written: the number of the write, and its index.
    installing: Option<(u64, u64)>,
}

impl Snapshots {
    pub fn new(every: u64) -> Snapshots {
        Snapshots { every: every.max(1), building: false, not_before: Moment(0), arrived: None, installing: None }
    }

    pub fn failed(&mut self, now: Moment) {
        self.building = false;
        self.not_before = now + TRY_AGAIN;
    }

    /// The index that may be told to Raft as applied, once its snapshot is durable.
    pub fn installed(&mut self, persisted: u64) -> Option<u64> {
        self.installing.take_if(|(number, _)| *number <= persisted).map(|(_, index)| index)
    }
}

impl Replica {
    pub(crate) fn snapshot_arrived(&mut self, from: MemberId, message: RaftMessage, state: State) {
        let fits = message.snapshot.as_ref().is_some_and(|meta| {
            state.revision().0 == meta.index
                && codec::decode_membership(&meta.membership).as_ref() == Some(state.membership())
        });
        if message.from != from || message.to != self.id || !fits {
            return;
        }
        let index = state.revision().0;
        self.consensus.step(message);
        // Only the one raft took: it may have taken another just before, and this one is older.
        if self.consensus.takes_snapshot(index) {
            self.snapshots.arrived = Some(state);
        }
    }

    /// Raft took the snapshot: the state jumps.
    pub(crate) fn install(&mut self, number: u64, meta: SnapshotMeta) {
        let Some(state) = self.snapshots.arrived.take().filter(|state| state.revision().0 == meta.index) else {
            let error = "raft took a snapshot whose body never came".into();
            return self.halt(Halt::Unreadable { index: meta.index, error });
        };
        self.snapshots.installing = Some((number, meta.index));
        self.leases.restored(self.now, &state);
        self.machine.restore(state);
        self.membership_since = self.now;
        let late = u64::from(planted!("watch-resumes-one-too-late"));
        self.effects.push(Effect::Installed { revision: Revision(meta.index + late) });
    }

    pub(crate) fn maybe_snapshot(&mut self) {
        let tail = self.consensus.tail();
        let last = tail.snapshot().map_or(0, |meta| meta.index);
        let applied = self.machine.applied();
        // A newcomer can only take a snapshot that knows it.
        let newcomer = self.leading && tail.membership.learners.iter().any(|id| !tail.snapshot_knows(*id));
        let due = (applied >= last + self.snapshots.every || newcomer) && self.now >= self.snapshots.not_before;
        let (Some(state), Some(term)) = (self.machine.state(), tail.term(applied)) else { return };
        if due && !self.snapshots.building && self.snapshots.installing.is_none() {
            self.snapshots.building = true;
            let membership = codec::encode_membership(&tail.membership);
            let mut point = LogPoint { index: applied, term };
            if planted!("applied-index-not-with-the-state") {
                point = tail.durable();
            }
            self.effects.push(Effect::BuildSnapshot { point, membership, state: Box::new(state.clone()) });
        }
    }

    pub(crate) fn snapshot_saved(&mut self, meta: SnapshotMeta) {
        self.snapshots.building = false;
        let newer = self.consensus.tail().snapshot().is_none_or(|known| known.index < meta.index);
        if newer && meta.index <= self.machine.applied() {
            let keep = KEEP_BELOW_SNAPSHOT.min(self.snapshots.every);
            let through = self.consensus.tail_mut().compact(meta, keep);
            self.effects.push(Effect::Compact { through });
        }
    }
}

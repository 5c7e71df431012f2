//! What is here, epoch by epoch, and how far each has come. In: orders given and facts that came back. Out: which epochs
//! live, which are ending. An epoch leaves this list by one door only: closed, on disk.
//! Absent: what is wanted; `reconcile` compares.

use std::collections::BTreeMap;

use cluster::{ContainerId, End, Epoch, Incarnation, Moment, OnQuorumLoss, Span};

pub type Key = (ContainerId, Epoch);

/// One epoch of one container on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    pub incarnation: Incarnation,
    pub policy: OnQuorumLoss,
    pub stop_grace: Span,
    pub phase: Phase,
}

/// Moves downwards only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its intent is being written; no deed was done.
    Beginning {
        intent: u64,
    },
    /// Ordered to start.
    Starting,
    Running,
    /// Told to stop, and that is being written: no restart of the agent undoes it. No deed was done yet.
    Halting {
        intent: u64,
    },
    /// Ordered to stop; nothing turns it back *(handover)*. `end` is what its closing will say.
    Stopping {
        end: End,
        again: Option<Moment>,
    },
    /// Nothing of it is left; its closing is being written.
    Closing {
        end: End,
        record: u64,
    },
}

#[derive(Clone, Debug, Default)]
pub struct Actual {
    works: BTreeMap<Key, Work>,
}

impl Actual {
    /// By container, then epoch, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &Work)> {
        self.works.iter().map(|(key, work)| (*key, work))
    }

    pub fn get(&self, key: Key) -> Option<&Work> {
        self.works.get(&key)
    }

    pub fn get_mut(&mut self, key: Key) -> Option<&mut Work> {
        self.works.get_mut(&key)
    }

    pub fn insert(&mut self, key: Key, work: Work) {
        self.works.insert(key, work);
    }

    pub fn remove(&mut self, key: Key) -> Option<Work> {
        self.works.remove(&key)
    }

    pub fn is_empty(&self) -> bool {
        self.works.is_empty()
    }

    /// Whether any epoch of `container` is here, ending ones included.
    pub fn has(&self, container: ContainerId) -> bool {
        self.works.range((container, Epoch(0))..=(container, Epoch(u64::MAX))).next().is_some()
    }

    /// The keys of works for which `claim` holds.
    pub fn keys_where(&self, claim: impl Fn(Key, &Work) -> bool) -> Vec<Key> {
        self.iter().filter(|(key, work)| claim(*key, work)).map(|(key, _)| key).collect()
    }
}

impl Work {
    /// Nobody has ordered its end yet.
    pub fn is_living(&self) -> bool {
        matches!(self.phase, Phase::Beginning { .. } | Phase::Starting | Phase::Running)
    }

    /// No deed was done to end it.
    pub fn is_untouched(&self) -> bool {
        self.is_living() || matches!(self.phase, Phase::Halting { .. })
    }
}

//! Applies what is committed, in order, and remembers what the state was after each entry.
//! In: meanings of entries. Out: what came of each. The state hash of the last entries is kept for comparison.
//! Absent: no decision; `cluster::apply` makes those.

use std::collections::VecDeque;

use cluster::{Applied, Membership, Revision, State, StateHash};

/// Hashes kept for comparison with members that are ahead or behind.
const HASHES: usize = 8_192;

pub struct Machine {
    state: Option<State>,
    /// By revision, ascending, contiguous except at snapshots.
    hashes: VecDeque<(Revision, StateHash)>,
}

impl Machine {
    pub fn new(state: Option<State>) -> Machine {
        let mut machine = Machine { state: None, hashes: VecDeque::new() };
        if let Some(state) = state {
            machine.restore(state);
        }
        machine
    }

    pub fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }

    /// The index of the last applied entry; 0 without a state.
    pub fn applied(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.revision().0)
    }

    pub fn restore(&mut self, state: State) {
        self.hashes.clear();
        self.hashes.push_back((state.revision(), state.hash()));
        self.state = Some(state);
    }

    pub fn command(&mut self, index: u64, entry: &cluster::Entry) -> Option<Applied> {
        let state = self.state.as_mut()?;
        let applied = cluster::apply(state, Revision(index), entry);
        self.note();
        Some(applied)
    }

    pub fn membership(&mut self, index: u64, membership: Membership) -> Option<Applied> {
        let state = self.state.as_mut()?;
        let applied = cluster::apply_membership(state, Revision(index), membership);
        self.note();
        Some(applied)
    }

    /// What the state was after `revision`, while it is remembered.
    pub fn hash_at(&self, revision: Revision) -> Option<StateHash> {
        let at = self.hashes.binary_search_by_key(&revision, |(revision, _)| *revision).ok()?;
        Some(self.hashes[at].1)
    }

    fn note(&mut self) {
        let Some(state) = &self.state else { return };
        if self.hashes.len() == HASHES {
            self.hashes.pop_front();
        }
        self.hashes.push_back((state.revision(), state.hash()));
    }
}

//! Compares what members say their state was after the same entry. The one who is alone with its answer stops.
//! In: gossip, own hashes. Out: a reason to halt.
//! Absent: no repair; a member that differs has a bug or bad memory, and comes back under a new id.

use std::collections::BTreeMap;

use cluster::{MemberId, Revision, StateHash};

use crate::Halt;
use crate::log::Tail;
use crate::machine::Machine;

#[derive(Default)]
pub struct Comparison {
    /// Keyed by member: what it said of a revision not applied here yet.
    ahead: BTreeMap<MemberId, (Revision, StateHash)>,
    /// Keyed by member: whether it agreed when last compared.
    agrees: BTreeMap<MemberId, bool>,
}

impl Comparison {
    pub fn heard(
        &mut self,
        from: MemberId,
        revision: Revision,
        hash: StateHash,
        machine: &Machine,
        tail: &Tail,
    ) -> Option<Halt> {
        if revision.0 > machine.applied() {
            self.ahead.insert(from, (revision, hash));
            return None;
        }
        let ours = machine.hash_at(revision)?;
        self.agrees.insert(from, ours == hash);
        if ours == hash {
            return None;
        }
        // Alone against a majority, or one against one: in doubt, stop.
        let voters = tail.membership.all_voters();
        let against = voters.iter().filter(|voter| self.agrees.get(voter) == Some(&false)).count();
        let others_may_agree = voters.len() - against > voters.len() / 2;
        (!others_may_agree).then_some(Halt::StateDiffers { revision, other: from, ours, theirs: hash })
    }

    /// The state moved on: what was said ahead of it can be compared now.
    pub fn applied(&mut self, machine: &Machine, tail: &Tail) -> Option<Halt> {
        if self.ahead.is_empty() {
            return None;
        }
        let applied = machine.applied();
        let due: Vec<_> = self.ahead.extract_if(.., |_, (revision, _)| revision.0 <= applied).collect();
        due.into_iter().find_map(|(from, (revision, hash))| self.heard(from, revision, hash, machine, tail))
    }
}

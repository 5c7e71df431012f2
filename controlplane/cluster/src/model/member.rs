//! A control-plane member as the cluster knows it. Whether it votes is Raft's to say, kept in the same state.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ids::{MemberId, Name, Revision, SecretHash};

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    pub id: MemberId,
    pub name: Name,
    /// Where members and agents reach it, `host:port`.
    pub peer_address: Arc<str>,
    /// Where clients reach it, `host:port`.
    pub api_address: Arc<str>,
    /// Opens every stream from this member to the others.
    pub secret: SecretHash,
    pub added: Revision,
}

/// Who votes, as of one configuration entry. Each list ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Membership {
    /// Term and index of the entry that made it; (0, 0) is the bootstrap *(b8)*.
    pub term: u64,
    pub index: u64,
    pub voters: Arc<[MemberId]>,
    /// The outgoing majority's voters while the configuration is joint, else empty.
    pub outgoing: Arc<[MemberId]>,
    pub learners: Arc<[MemberId]>,
    /// Learners as soon as the joint configuration is left.
    pub learners_next: Arc<[MemberId]>,
    pub auto_leave: bool,
}

impl Membership {
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    pub fn votes(&self, member: MemberId) -> bool {
        self.voters.contains(&member) || self.outgoing.contains(&member)
    }

    /// Every voter of either majority, ascending, once.
    pub fn all_voters(&self) -> Vec<MemberId> {
        let mut all: Vec<MemberId> = self.voters.iter().chain(self.outgoing.iter()).copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Whether those for whom `holds` is true form a majority; of both sets when joint.
    pub fn majority(&self, holds: impl Fn(MemberId) -> bool) -> bool {
        let carries = |voters: &[MemberId]| voters.iter().filter(|id| holds(**id)).count() > voters.len() / 2;
        carries(&self.voters) && (self.outgoing.is_empty() || carries(&self.outgoing))
    }

    /// The largest value that a majority (of both sets when joint) has reached; `None` while no majority has any.
    /// Source: the quorum-lease rule, "the majority-th newest".
    pub fn majority_value<T: Ord + Copy>(&self, value: impl Fn(MemberId) -> Option<T>) -> Option<T> {
        let of = |voters: &[MemberId]| {
            let mut values: Vec<T> = voters.iter().filter_map(|id| value(*id)).collect();
            values.sort_unstable_by(|a, b| b.cmp(a));
            values.get(voters.len() / 2).copied()
        };
        let incoming = of(&self.voters)?;
        if self.outgoing.is_empty() {
            Some(incoming)
        } else {
            of(&self.outgoing).map(|outgoing| outgoing.min(incoming))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u64]) -> Arc<[MemberId]> {
        ids.iter().map(|id| MemberId(*id)).collect()
    }

    #[test]
    fn majority_value_needs_a_majority_of_both_sets() {
        let three = Membership { voters: ids(&[1, 2, 3]), ..Membership::default() };
        assert_eq!(three.majority_value(|id| Some(id.0 * 10)), Some(20));
        assert_eq!(three.majority_value(|id| (id.0 == 3).then_some(30)), None);
        let joint = Membership { outgoing: ids(&[4, 5, 6]), ..three };
        assert_eq!(joint.majority_value(|id| Some(100 - id.0 * 10)), Some(50));
        assert_eq!(joint.majority_value(|id| (id.0 < 4).then_some(1)), None);
        assert!(!joint.majority(|id| id.0 < 4));
    }
}

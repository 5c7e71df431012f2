//! The form of log entries and of membership changes, and the border to raft's numbers.
//! In: bytes that were proposed here or by a peer. Out: what they mean, or `Unreadable`.
//! Absent: rust-protobuf; its parser never sees a byte (RUSTSEC-2024-0437).

use std::sync::Arc;

use bytes::Bytes;
use cluster::{MemberId, Membership};
use prost::Message;
use record::{Entry, LogPoint};

use crate::log::Meaning;

/// Raft's numbers for the kinds of entries.
pub const NORMAL: u32 = 0;
pub const CHANGE: u32 = 2;

/// One change of who votes: enters a joint configuration, or (empty) leaves it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MembershipChange {
    pub steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    AddVoter(MemberId),
    AddLearner(MemberId),
    Remove(MemberId),
}

/// Raft's ConfChangeV2 on the wire, field numbers as in raft's own eraftpb.proto.
#[derive(Clone, PartialEq, Message)]
struct ConfChange {
    #[prost(int32, tag = "1")]
    transition: i32,
    #[prost(message, repeated, tag = "2")]
    changes: Vec<ConfChangeSingle>,
}

#[derive(Clone, PartialEq, Message)]
struct ConfChangeSingle {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(uint64, tag = "2")]
    node_id: u64,
}

pub fn encode(entry: &cluster::Entry) -> Vec<u8> {
    proto::log::encode(entry)
}

/// What an entry of the log asks for.
pub fn meaning(entry: &Entry) -> Meaning {
    match entry.kind {
        NORMAL if entry.data.is_empty() => Meaning::Settle,
        NORMAL => match proto::log::decode(&entry.data) {
            Ok(command) => Meaning::Command(Arc::new(command)),
            Err(error) => Meaning::Unreadable(error.to_string().into()),
        },
        CHANGE => match MembershipChange::decode(&entry.data) {
            Ok(change) => Meaning::Membership(change),
            Err(error) => Meaning::Unreadable(error),
        },
        kind => Meaning::Unreadable(format!("entry kind {kind}").into()),
    }
}

impl MembershipChange {
    pub fn decode(bytes: &Bytes) -> Result<MembershipChange, Arc<str>> {
        let change = ConfChange::decode(bytes.clone()).map_err(|error| Arc::from(error.to_string()))?;
        let step = |single: &ConfChangeSingle| match single.kind {
            0 => Ok(Step::AddVoter(MemberId(single.node_id))),
            1 => Ok(Step::Remove(MemberId(single.node_id))),
            2 => Ok(Step::AddLearner(MemberId(single.node_id))),
            kind => Err(Arc::from(format!("membership change of kind {kind}"))),
        };
        Ok(MembershipChange { steps: change.changes.iter().map(step).collect::<Result<_, _>>()? })
    }

    /// The membership this makes of `before`. The same rule as raft's; `machine` checks that both agree.
    pub fn after(&self, before: &Membership, at: LogPoint) -> Membership {
        let mut voters = before.voters.to_vec();
        let mut learners = before.learners.to_vec();
        let mut learners_next = before.learners_next.to_vec();
        let mut outgoing = Vec::new();
        if self.steps.is_empty() {
            learners.append(&mut learners_next);
        } else {
            outgoing = voters.clone();
        }
        for step in &self.steps {
            let (Step::AddVoter(id) | Step::AddLearner(id) | Step::Remove(id)) = *step;
            voters.retain(|voter| *voter != id);
            learners.retain(|learner| *learner != id);
            learners_next.retain(|learner| *learner != id);
            match step {
                Step::AddVoter(_) => voters.push(id),
                Step::AddLearner(_) if outgoing.contains(&id) => learners_next.push(id),
                Step::AddLearner(_) => learners.push(id),
                Step::Remove(_) => {}
            }
        }
        Membership {
            term: at.term,
            index: at.index,
            voters: sorted(voters),
            outgoing: sorted(outgoing),
            learners: sorted(learners),
            learners_next: sorted(learners_next),
            auto_leave: false,
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct StoredMembership {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
    #[prost(uint64, repeated, tag = "3")]
    voters: Vec<u64>,
    #[prost(uint64, repeated, tag = "4")]
    outgoing: Vec<u64>,
    #[prost(uint64, repeated, tag = "5")]
    learners: Vec<u64>,
    #[prost(uint64, repeated, tag = "6")]
    learners_next: Vec<u64>,
    #[prost(bool, tag = "7")]
    auto_leave: bool,
}

/// The form in which a snapshot's description carries the membership beneath it *(b8)*.
pub fn encode_membership(membership: &Membership) -> Vec<u8> {
    let ids = |from: &[MemberId]| from.iter().map(|id| id.0).collect();
    StoredMembership {
        term: membership.term,
        index: membership.index,
        voters: ids(&membership.voters),
        outgoing: ids(&membership.outgoing),
        learners: ids(&membership.learners),
        learners_next: ids(&membership.learners_next),
        auto_leave: membership.auto_leave,
    }
    .encode_to_vec()
}

/// `None` for bytes that are not a membership, or one without voters.
pub fn decode_membership(bytes: &[u8]) -> Option<Membership> {
    let stored = StoredMembership::decode(bytes).ok().filter(|stored| !stored.voters.is_empty())?;
    let ids = |from: Vec<u64>| sorted(from.into_iter().map(MemberId).collect());
    Some(Membership {
        term: stored.term,
        index: stored.index,
        voters: ids(stored.voters),
        outgoing: ids(stored.outgoing),
        learners: ids(stored.learners),
        learners_next: ids(stored.learners_next),
        auto_leave: stored.auto_leave,
    })
}

pub fn sorted(mut ids: Vec<MemberId>) -> Arc<[MemberId]> {
    ids.sort_unstable();
    ids.dedup();
    ids.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_joint_until_it_is_left() {
        let before = Membership { voters: sorted(vec![MemberId(1)]), ..Membership::default() };
        let learner = MembershipChange { steps: vec![Step::AddLearner(MemberId(2))] };
        let joint = learner.after(&before, LogPoint { term: 1, index: 5 });
        assert!(joint.is_joint() && joint.learners.contains(&MemberId(2)) && !joint.votes(MemberId(2)));
        let left = MembershipChange::default().after(&joint, LogPoint { term: 1, index: 6 });
        assert!(!left.is_joint() && left.learners.contains(&MemberId(2)));
        let demoted = MembershipChange { steps: vec![Step::AddVoter(MemberId(2)), Step::AddLearner(MemberId(1))] };
        let joint = demoted.after(&left, LogPoint { term: 1, index: 7 });
        assert!(joint.votes(MemberId(1)) && joint.votes(MemberId(2)) && joint.learners_next.contains(&MemberId(1)));
    }
}

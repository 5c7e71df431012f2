//! What members say to each other, between the replica's values and messages.
//! From the wire everything is checked once; who sent it is the stream's matter.

use std::sync::Arc;

use bytes::Bytes;
use cluster::{Incarnation, MemberId, NodeId, Revision, Span, StateHash};
use proto::convert::ConvertError;
use proto::wire::{self, peer_message::Message as Wire};
use record::{Entry, LogPoint, SnapshotMeta};
use replica::{NodeAge, PeerMessage, RaftMessage, decode_membership};

type Result<T> = std::result::Result<T, ConvertError>;

pub fn into_wire(message: PeerMessage) -> wire::PeerMessage {
    let message = match message {
        PeerMessage::Raft(message) => Wire::Raft(raft_into_wire(*message)),
        PeerMessage::Hello { durable } => {
            Wire::Hello(wire::PeerHello { durable: Some(point_into_wire(durable)), ..wire::PeerHello::default() })
        }
        PeerMessage::YouLostData { had, have } => Wire::YouLostData(wire::YouLostData { had, have }),
        PeerMessage::AskAges { round, nodes } => {
            let node = |(node, incarnation): &(NodeId, Incarnation)| wire::NodeIncarnation {
                node: node.0,
                incarnation: incarnation.0,
            };
            Wire::AskAges(wire::AskAges { round, nodes: nodes.iter().map(node).collect() })
        }
        PeerMessage::Ages { round, ages, started_cold, up_for } => Wire::Ages(wire::Ages {
            round,
            ages: ages.iter().map(age_into_wire).collect(),
            started_cold,
            up_for_ns: up_for.0,
        }),
        PeerMessage::AskRemaining { round, node, incarnation, fencing } => Wire::AskRemaining(wire::AskRemaining {
            round,
            node: node.0,
            incarnation: incarnation.0,
            fencing: Some(point_into_wire(fencing)),
        }),
        PeerMessage::Remaining { round, node, incarnation, fencing, remaining } => Wire::Remaining(wire::Remaining {
            round,
            node: node.0,
            incarnation: incarnation.0,
            fencing: Some(point_into_wire(fencing)),
            remaining_ns: remaining.0,
        }),
        PeerMessage::StateHash { revision, hash } => Wire::StateHash(wire::StateHash {
            revision: revision.0,
            hash: Bytes::copy_from_slice(&hash.0.to_be_bytes()),
        }),
    };
    wire::PeerMessage { message: Some(message) }
}

/// `from` is who opened the stream: a raft message of anybody else is refused.
pub fn from_wire(from: MemberId, message: wire::PeerMessage) -> Result<PeerMessage> {
    Ok(match message.message.ok_or_else(|| ConvertError::missing("message"))? {
        Wire::Raft(message) => {
            let message = raft_from_wire(message)?;
            if message.from != from {
                return Err(ConvertError::invalid("raft.from", format!("is {}, on a stream of {from}", message.from)));
            }
            PeerMessage::Raft(Box::new(message))
        }
        Wire::YouLostData(wire::YouLostData { had, have }) => PeerMessage::YouLostData { had, have },
        Wire::AskAges(wire::AskAges { round, nodes }) => {
            let nodes: Arc<[_]> = nodes.iter().map(|node| (NodeId(node.node), Incarnation(node.incarnation))).collect();
            PeerMessage::AskAges { round, nodes }
        }
        Wire::Ages(wire::Ages { round, ages, started_cold, up_for_ns }) => PeerMessage::Ages {
            round,
            ages: ages.iter().map(age_from_wire).collect(),
            started_cold,
            up_for: Span(up_for_ns),
        },
        Wire::AskRemaining(wire::AskRemaining { round, node, incarnation, fencing }) => PeerMessage::AskRemaining {
            round,
            node: NodeId(node),
            incarnation: Incarnation(incarnation),
            fencing: point(fencing)?,
        },
        Wire::Remaining(wire::Remaining { round, node, incarnation, fencing, remaining_ns }) => {
            PeerMessage::Remaining {
                round,
                node: NodeId(node),
                incarnation: Incarnation(incarnation),
                fencing: point(fencing)?,
                remaining: Span(remaining_ns),
            }
        }
        Wire::StateHash(wire::StateHash { revision, hash }) => {
            PeerMessage::StateHash { revision: Revision(revision), hash: StateHash(wide("state_hash.hash", &hash)?) }
        }
        Wire::Hello(_) => return Err(ConvertError::invalid("hello", "was said already")),
        Wire::Refused(refused) => return Err(ConvertError::invalid("", format!("refused: {}", refused.text))),
    })
}

pub fn point_into_wire(point: LogPoint) -> wire::LogPoint {
    wire::LogPoint { term: point.term, index: point.index }
}

pub fn point(point: Option<wire::LogPoint>) -> Result<LogPoint> {
    let wire::LogPoint { term, index } = point.ok_or_else(|| ConvertError::missing("point"))?;
    Ok(LogPoint { index, term })
}

pub fn raft_into_wire(message: RaftMessage) -> wire::RaftMessage {
    let RaftMessage {
        kind,
        to,
        from,
        term,
        log_term,
        index,
        entries,
        commit,
        commit_term,
        snapshot,
        request_snapshot,
        reject,
        reject_hint,
        context,
        priority,
    } = message;
    wire::RaftMessage {
        msg_type: kind,
        to: to.0,
        from: from.0,
        term,
        log_term,
        index,
        entries: entries.into_iter().map(entry_into_wire).collect(),
        commit,
        commit_term,
        snapshot: snapshot.as_ref().map(meta_into_wire),
        request_snapshot,
        reject,
        reject_hint,
        context: context.into(),
        priority,
    }
}

pub fn raft_from_wire(message: wire::RaftMessage) -> Result<RaftMessage> {
    let wire::RaftMessage {
        msg_type,
        to,
        from,
        term,
        log_term,
        index,
        entries,
        commit,
        commit_term,
        snapshot,
        request_snapshot,
        reject,
        reject_hint,
        context,
        priority,
    } = message;
    Ok(RaftMessage {
        kind: msg_type,
        to: MemberId(to),
        from: MemberId(from),
        term,
        log_term,
        index,
        entries: entries.into_iter().map(entry_from_wire).collect(),
        commit,
        commit_term,
        snapshot: snapshot.map(meta_from_wire).transpose()?,
        request_snapshot,
        reject,
        reject_hint,
        context: context.to_vec(),
        priority,
    })
}

pub fn meta_into_wire(meta: &SnapshotMeta) -> wire::SnapshotMeta {
    let SnapshotMeta { index, term, membership, hash, len } = meta;
    wire::SnapshotMeta {
        term: *term,
        index: *index,
        membership: Bytes::copy_from_slice(membership),
        bytes: *len,
        hash: Bytes::copy_from_slice(hash),
    }
}

pub fn meta_from_wire(meta: wire::SnapshotMeta) -> Result<SnapshotMeta> {
    let wire::SnapshotMeta { term, index, membership, bytes, hash } = meta;
    decode_membership(&membership).ok_or_else(|| ConvertError::invalid("snapshot.membership", "is none"))?;
    let hash = hash.as_ref().try_into().map_err(|_| ConvertError::invalid("snapshot.hash", "is not a SHA-256"))?;
    Ok(SnapshotMeta { index, term, membership: membership.to_vec(), hash, len: bytes })
}

fn entry_into_wire(entry: Entry) -> wire::RaftEntry {
    let Entry { term, index, kind, data, context } = entry;
    wire::RaftEntry { kind, term, index, data, context }
}

fn entry_from_wire(entry: wire::RaftEntry) -> Entry {
    let wire::RaftEntry { kind, term, index, data, context } = entry;
    Entry { term, index, kind, data, context }
}

fn age_into_wire(age: &NodeAge) -> wire::NodeAge {
    let NodeAge { node, incarnation, age } = age;
    wire::NodeAge { node: node.0, incarnation: incarnation.0, age_ns: age.0 }
}

fn age_from_wire(age: &wire::NodeAge) -> NodeAge {
    let wire::NodeAge { node, incarnation, age_ns } = *age;
    NodeAge { node: NodeId(node), incarnation: Incarnation(incarnation), age: Span(age_ns) }
}

/// 128 bits, big-endian.
pub fn wide(field: &str, bytes: &[u8]) -> Result<u128> {
    let bytes = bytes.try_into().map_err(|_| ConvertError::invalid(field, "has not 16 bytes"))?;
    Ok(u128::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raft(from: u64) -> PeerMessage {
        PeerMessage::Raft(Box::new(RaftMessage {
            kind: 3,
            to: MemberId(2),
            from: MemberId(from),
            term: 4,
            log_term: 3,
            index: 17,
            entries: vec![Entry { term: 4, index: 18, kind: 2, data: Bytes::from_static(b"x"), context: Bytes::new() }],
            commit: 16,
            commit_term: 3,
            context: vec![1, 2],
            priority: -1,
            ..RaftMessage::default()
        }))
    }

    #[test]
    fn what_members_say_survives_the_wire() {
        let fencing = LogPoint { index: 9, term: 2 };
        let age = NodeAge { node: NodeId(1), incarnation: Incarnation(5), age: Span(7) };
        let all = [
            raft(1),
            PeerMessage::YouLostData { had: 9, have: 4 },
            PeerMessage::AskAges { round: 1, nodes: [(NodeId(1), Incarnation(5))].into() },
            PeerMessage::Ages { round: 1, ages: vec![age], started_cold: true, up_for: Span(8) },
            PeerMessage::AskRemaining { round: 2, node: NodeId(1), incarnation: Incarnation(5), fencing },
            PeerMessage::Remaining {
                round: 2,
                node: NodeId(1),
                incarnation: Incarnation(5),
                fencing,
                remaining: Span(6),
            },
            PeerMessage::StateHash { revision: Revision(3), hash: StateHash(u128::MAX - 1) },
        ];
        for message in all {
            assert_eq!(from_wire(MemberId(1), into_wire(message.clone())), Ok(message));
        }
    }

    #[test]
    fn nobody_speaks_for_another_member() {
        assert_eq!(
            from_wire(MemberId(1), into_wire(raft(3))).map_err(|error| error.field),
            Err("raft.from".to_owned())
        );
    }
}

//! What members say to each other, as values; `codec` gives them their form on the wire.
//! In and out: one `PeerMessage` at a time, between authenticated members of one cluster and generation.
//! Absent: snapshot bodies (they travel in chunks, beside) and Raft's local messages (they never leave).

use std::sync::Arc;

use cluster::{Incarnation, MemberId, NodeId, Revision, Span, StateHash};
use record::{Entry, LogPoint, SnapshotMeta};

#[derive(Clone, Debug, PartialEq)]
pub enum PeerMessage {
    Raft(Box<RaftMessage>),
    /// The first word on every stream: how far the speaker's log is durable. A leader that knows it had more answers
    /// `YouLostData` instead of letting it vote or panic.
    Hello {
        durable: LogPoint,
    },
    YouLostData {
        had: u64,
        have: u64,
    },
    /// Leader: how long since you last acknowledged these? Binds nobody.
    AskAges {
        round: u64,
        nodes: Arc<[(NodeId, Incarnation)]>,
    },
    Ages {
        round: u64,
        ages: Vec<NodeAge>,
        started_cold: bool,
        up_for: Span,
    },
    /// Leader, after `Fencing` at `fencing` is committed: how long may a lease you helped to grant still be good?
    AskRemaining {
        round: u64,
        node: NodeId,
        incarnation: Incarnation,
        fencing: LogPoint,
    },
    /// Given only once the refusal is in force.
    Remaining {
        round: u64,
        node: NodeId,
        incarnation: Incarnation,
        fencing: LogPoint,
        remaining: Span,
    },
    /// Gossip: what my state was after the entry at `revision`.
    StateHash {
        revision: Revision,
        hash: StateHash,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAge {
    pub node: NodeId,
    pub incarnation: Incarnation,
    /// Since the last acknowledgement; since the start of counting if there was none.
    pub age: Span,
}

/// Raft's message, field by field. `kind` and the meaning of the fields are Raft's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RaftMessage {
    pub kind: i32,
    pub to: MemberId,
    pub from: MemberId,
    pub term: u64,
    pub log_term: u64,
    pub index: u64,
    pub entries: Vec<Entry>,
    pub commit: u64,
    pub commit_term: u64,
    /// The description of the snapshot this message brings; its body was taken in before.
    pub snapshot: Option<SnapshotMeta>,
    pub request_snapshot: u64,
    pub reject: bool,
    pub reject_hint: u64,
    pub context: Vec<u8>,
    pub priority: i64,
}

impl RaftMessage {
    /// Raft's number for a leader's heartbeat.
    const HEARTBEAT: i32 = 8;

    /// Raft's number for the answer to it.
    const HEARTBEAT_ANSWER: i32 = 9;

    /// Raft's numbers for a candidate's questions, and for a leader's word to become one at once.
    const VOTE: [i32; 3] = [5, 14, 17];

    pub fn is_heartbeat(&self) -> bool {
        self.kind == Self::HEARTBEAT
    }

    pub fn is_heartbeat_answer(&self) -> bool {
        self.kind == Self::HEARTBEAT_ANSWER
    }

    /// Asks for a vote, or to ask for votes.
    pub fn asks_for_vote(&self) -> bool {
        Self::VOTE.contains(&self.kind)
    }
}

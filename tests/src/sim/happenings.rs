//! Everything that may be due, for whom, and what travels with it.
//! In and out: nothing; the world hands each to the process it is for.

use std::sync::Arc;

use cluster::agent::{Heartbeat, HeartbeatReply, ToAgent, ToLeader};
use cluster::planner::Plan as Planned;
use cluster::{Command, ContainerId, Epoch, Generation, MemberId, NodeId, Revision};
use decide::GuardSays;
use record::{LogPoint, SnapshotMeta};
use replica::{Change, Link, PeerMessage, RaftMessage};

use crate::sim::clock::God;
use crate::sim::net::Site;
/// Something that is due. `life` names the process it is for.
#[derive(Debug)]
pub enum Happening {
    /// Of the schedule, by place.
    Deed(usize),
    /// A look at everything that runs, by the oracles.
    Sweep,
    Member {
        member: MemberId,
        life: u32,
        what: ToMember,
    },
    /// From another machine, for whatever process listens there.
    Mail {
        member: MemberId,
        mail: Mail,
    },
    Node {
        node: NodeId,
        life: u32,
        what: ToNode,
    },
    Guard {
        node: NodeId,
        life: u32,
        what: ToGuard,
    },
    /// The kernel and the helpers of a node; they outlive agents and end with the boot.
    Hands {
        node: NodeId,
        boot: u128,
        act: Act,
    },
    Client {
        client: u32,
        what: ToClient,
    },
    /// A supervisor starts it again.
    StartMember {
        member: MemberId,
        life: u32,
    },
    StartAgent {
        node: NodeId,
        life: u32,
    },
    StartGuard {
        node: NodeId,
        life: u32,
    },
    /// Both ends of a broken stream notice, each in its time.
    SessionEnds {
        link: Link,
        end: End,
    },
    /// The power switch of a node was asked for, for this incarnation.
    Switch {
        member: MemberId,
        life: u32,
        node: NodeId,
        incarnation: cluster::Incarnation,
    },
    /// Power returns to a machine once the receipt is there *(12)*.
    SwitchOn {
        node: NodeId,
    },
    /// A machine that rebooted itself is back.
    Booted {
        site: Site,
    },
    Operator,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Agent,
    Member,
}

/// From a member's own hands.
#[derive(Debug)]
pub enum ToMember {
    Tick,
    Turn,
    Synced { group: u64, number: u64, planned: God },
    SnapshotBuilt(Box<Built>),
    SnapshotSent { peer: MemberId, taken: bool },
    Planned { plan: Box<Planned> },
    Unreachable { peer: MemberId },
}

/// From elsewhere.
#[derive(Debug)]
pub enum Mail {
    Peer { from: MemberId, generation: Generation, stream: u64, words: Box<(LogPoint, PeerMessage)> },
    Snapshot(Box<Shipment>),
    Heartbeat { link: Link, node: NodeId, heartbeat: Box<Heartbeat> },
    Open { link: Link },
    Said { link: Link, message: Box<ToLeader> },
    Question { client: u32, question: u64, attempt: u32, ask: Box<Wish> },
}

/// A snapshot as a member builds it.
#[derive(Debug)]
pub struct Built {
    pub meta: SnapshotMeta,
    pub body: Vec<u8>,
}

/// A snapshot on its way, with the message that announces it.
#[derive(Debug)]
pub struct Shipment {
    pub from: MemberId,
    pub from_life: u32,
    pub generation: Generation,
    pub message: Box<RaftMessage>,
    pub meta: SnapshotMeta,
    pub body: Vec<u8>,
}

/// What a client or an operator wants of a member.
#[derive(Clone, Debug, PartialEq)]
pub enum Wish {
    Propose {
        sequence: u64,
        command: Command,
    },
    Read,
    /// One container; of what this member happens to know, if `stale`.
    Look {
        name: Arc<str>,
        stale: bool,
    },
    Change(Change),
    Transfer(Option<MemberId>),
}

#[derive(Debug)]
pub enum ToNode {
    Wake {
        number: u64,
    },
    Reply(Box<HeartbeatReply>),
    Accepted {
        link: Link,
    },
    Refused {
        link: Link,
        hint: Option<MemberId>,
    },
    Said {
        link: Link,
        message: Box<ToAgent>,
    },
    JournalSynced {
        sequence: u64,
    },
    Slot(GuardSays),
    Looked {
        ask: u64,
    },
    /// It looks at what it watches.
    Finds,
    Happened {
        container: ContainerId,
        epoch: Epoch,
        what: Box<decide::Happened>,
    },
}

#[derive(Debug)]
pub enum ToGuard {
    Wake { number: u64 },
    Emptied { incarnation: cluster::Incarnation },
    Recorded { incarnation: cluster::Incarnation },
}

#[derive(Clone, Debug)]
pub enum Act {
    Claim {
        container: ContainerId,
        epoch: Epoch,
    },
    Run {
        container: ContainerId,
        epoch: Epoch,
    },
    /// Its tasks end, by signal or by themselves.
    End {
        container: ContainerId,
        epoch: Epoch,
    },
    /// Unmounted, nothing left; the agent is told if it asked.
    Gone {
        container: ContainerId,
        epoch: Epoch,
        tell: bool,
    },
    Prepared {
        container: ContainerId,
        epoch: Epoch,
    },
}

#[derive(Debug)]
pub enum ToClient {
    Answer { question: u64, attempt: u32, answer: Box<Answered> },
    Timeout { question: u64, attempt: u32 },
    Again { question: u64, attempt: u32 },
}

/// An answer as it travels to a client.
#[derive(Clone, Debug)]
pub enum Answered {
    Applied { revision: Revision, outcome: cluster::Outcome },
    State { revision: Revision },
    Seen { revision: Revision, view: Option<crate::history::View> },
    Done,
    NotLeader { hint: Option<MemberId> },
    Again,
    Refused(String),
}

impl Happening {
    pub(crate) fn code(&self) -> u64 {
        match self {
            Happening::Deed(_) => 1,
            Happening::Sweep => 2,
            Happening::Member { member, .. } => 3 ^ (member.0 << 4),
            Happening::Mail { member, .. } => 4 ^ (member.0 << 4),
            Happening::Node { node, .. } => 5 ^ (node.0 << 4),
            Happening::Guard { node, .. } => 6 ^ (node.0 << 4),
            Happening::Hands { node, .. } => 7 ^ (node.0 << 4),
            Happening::Client { .. } => 8,
            Happening::StartMember { .. } => 9,
            Happening::StartAgent { .. } => 10,
            Happening::StartGuard { .. } => 11,
            Happening::SessionEnds { .. } => 12,
            Happening::Operator => 13,
            Happening::Booted { .. } => 15,
            Happening::Switch { node, .. } | Happening::SwitchOn { node } => 14 ^ (node.0 << 4),
        }
    }
}

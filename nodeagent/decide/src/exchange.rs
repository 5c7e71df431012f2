//! What reaches the mind of a node and what it orders: `Input` and `Effect`.
//! In: words of the members, facts of the hands, the guard and the journal, and time. Out: orders, each a value that can
//! be printed. Effects are carried out in their order; those on one container strictly so.
//! Absent: no connection, no path, no process; the hands know those.

use std::sync::Arc;

use cluster::agent::{Heartbeat, HeartbeatReply, MembershipIdentity, ToAgent, ToLeader, WantedSpec, Watch};
use cluster::{
    AgentRun, BootId, ContainerId, Epoch, Exit, Generation, Incarnation, MemberId, Moment, NodeFacts, NodeId,
    NodeReport, OnQuorumLoss, Span,
};

use crate::journal::Record;

/// What a node is, for as long as its agent lives.
#[derive(Clone, Debug)]
pub struct Config {
    pub node: NodeId,
    /// The one the node was told to serve; the journal may still be of an earlier one.
    pub generation: Generation,
    /// As the kernel names this boot.
    pub boot: BootId,
    /// Drawn at random when the agent started; not 0.
    pub run: AgentRun,
    /// `facts.terms` is replaced by the terms that are in force.
    pub facts: NodeFacts,
    /// A guard lived when the agent started. Where none did, nothing outlived it that ends with its guard.
    pub guard_found: bool,
}

/// What arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time passed; due at the moment of the last `Effect::Wake`, welcome at any.
    Tick,
    /// A voter answered a heartbeat.
    Reply(HeartbeatReply),
    /// A session with the leader is open.
    LeaderConnected {
        member: MemberId,
    },
    LeaderLost,
    FromLeader(ToAgent),
    /// Every record up to `sequence` survives a loss of power.
    JournalDurable {
        sequence: u64,
    },
    /// What the guard's slot holds; wanted at the start and after every change.
    Guard(GuardSays),
    /// Answers `Effect::Look` of that number.
    Found {
        ask: u64,
        workloads: Vec<Workload>,
    },
    /// A fact about one epoch of one container.
    Happened {
        container: ContainerId,
        epoch: Epoch,
        what: Happened,
    },
    /// The runtimes, the room or the class of the node changed; told at the next registration, the class at once.
    Facts(Box<NodeFacts>),
    /// All that is found of the node and of what it watches; whenever one part of it changed.
    Finds(Arc<NodeReport>),
    /// Leave gracefully: stop everything, latch, say so. There is no way back.
    Leave,
}

/// What became of an order, or came about by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// Its claim is written and its first task runs.
    Started,
    /// It could not be started; what was done so far may be left behind.
    StartFailed {
        reason: Arc<str>,
    },
    /// The claim in its private area is higher, another's at the same epoch, or unreadable.
    ClaimRefused {
        reason: Arc<str>,
    },
    /// Its first task ended by itself; the rest may be left behind.
    Exited {
        exit: Exit,
    },
    /// Its tasks were killed and its guard is gone: where the kernel ends it with the guard, that is the node's doing.
    EndedWithGuard,
    /// No task of it is left, its areas are unmounted, its network is gone.
    Stopped,
    StopFailed {
        reason: Arc<str>,
    },
    /// Room, template and storage are there; its private area is not mounted *(10)*.
    Prepared,
    CannotPrepare {
        reason: Arc<str>,
    },
}

/// One epoch of one container as the control groups and the mount table show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Workload {
    pub container: ContainerId,
    pub epoch: Epoch,
    pub incarnation: Incarnation,
    /// Of the tree it lives in.
    pub policy: OnQuorumLoss,
    pub shape: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// Its first task lives.
    Alive,
    /// Tasks without the first one, or a mount.
    Remains,
}

/// What the guard's slot holds of the newest incarnation in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuardSays {
    /// 0 = none was ever opened on this boot.
    pub incarnation: Incarnation,
    pub deadline: Option<Moment>,
    /// L in force: no deadline further away is taken.
    pub lease: Span,
    /// K in force.
    pub kill: Span,
    /// The incarnation is latched: no deadline will be taken for it again.
    pub latched: bool,
    /// The guard's record, on disk: nothing of the incarnation's `stop` tree is left.
    pub ended: bool,
    /// A guard watches the slot now.
    pub alive: bool,
}

/// What the mind orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Heartbeat {
        to: Audience,
        heartbeat: Heartbeat,
    },
    /// The newest membership that was heard of: who is reached for heartbeats from now on.
    Membership(Arc<MembershipIdentity>),
    ToLeader(ToLeader),
    /// Look for the leader and connect; repeated while there is no session.
    SeekLeader,
    /// Append, then answer `Input::JournalDurable`. Sequences rise by one.
    Journal {
        sequence: u64,
        record: Record,
    },
    /// Put into the guard's slot. `None` opens the incarnation there: it holds no lease yet and runs nothing.
    Deadline {
        incarnation: Incarnation,
        at: Option<Moment>,
    },
    /// Put L and K into the guard's slot: the furthest deadline it takes, and how long an end may take.
    GuardTerms {
        lease: Span,
        kill: Span,
    },
    /// Latch the incarnation in the guard's slot, opening it there if need be; the guard ends its `stop` tree and
    /// records that.
    Latch {
        incarnation: Incarnation,
    },
    /// Read control groups and mount table, answer `Input::Found`. The first of an agent's life after the `starters`
    /// of every incarnation were emptied.
    Look {
        ask: u64,
    },
    /// Claim, mount, start. Answers `Started`, `StartFailed` or `ClaimRefused`.
    Start {
        container: ContainerId,
        epoch: Epoch,
        incarnation: Incarnation,
        policy: OnQuorumLoss,
        spec: Arc<WantedSpec>,
    },
    /// Signal, after `grace` kill, see the tree empty, unmount. Answers `Stopped` or `StopFailed`. Also for what has
    /// ended already, and may come again with a shorter grace, which then counts.
    Stop {
        container: ContainerId,
        epoch: Epoch,
        grace: Span,
    },
    /// As the target of a handover away from `epoch`. Never mounts the private area *(10)*.
    Prepare {
        container: ContainerId,
        epoch: Epoch,
        spec: Arc<WantedSpec>,
    },
    /// The handover will not come; drop what was prepared.
    Unprepare {
        container: ContainerId,
        epoch: Epoch,
    },
    /// Look at this from now on, at nothing else, and answer `Input::Finds` with all that is found when that changes.
    Watch(Arc<Watch>),
    /// Left for good, and the leader knows, or there was nothing to leave. The agent may end.
    Farewell,
    /// Send `Tick` then; replaces the wake before.
    Wake {
        at: Moment,
    },
    /// A line for the log.
    Say(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Every voter of either set of the newest membership, or every known member before the first.
    Voters,
    Member(MemberId),
}

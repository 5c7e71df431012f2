//! What reaches the mind of a member, and what it orders: plain data, one thing that happened or one order each.
//! Absent: behaviour.

use std::collections::BTreeMap;
use std::sync::Arc;

use cluster::agent::{Heartbeat, HeartbeatReply, ToAgent, ToLeader};
use cluster::command::Command;
use cluster::planner::{Observed, Plan};
use cluster::{
    Applied, Event, Generation, Incarnation, MemberId, Membership, Moment, NodeId, Rejected, RequestId, Revision,
    State, StateHash, WallTime,
};
use record::{LogPoint, SnapshotMeta};

use crate::leadership::{NodeView, Transition};
use crate::message::{PeerMessage, RaftMessage};
use crate::raft::{Role, Write};

/// Names one question of a client while it is open; chosen by the shell, never reused while open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Names one agent stream; chosen by the shell, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link(pub u64);

/// Entries applied since the last snapshot that make a new one: a few seconds of a busy cluster, a quarter of a second to
/// replay, some 40 MB of memory.
pub const SNAPSHOT_EVERY: u64 = 40_000;
/// Entries kept below a snapshot for members that lag a little: a short absence costs no snapshot.
pub const KEEP_BELOW_SNAPSHOT: u64 = 10_000;

pub struct Config {
    pub id: MemberId,
    pub cluster: cluster::ClusterId,
    /// By the lease clock, read after the data folder's lock was held *(18)*.
    pub started: Moment,
    /// Whether this process found a log: a cluster whose majority has just done so gives its nodes time to come up.
    pub cold: bool,
    pub snapshot_every: u64,
}

/// What a member starts from.
#[derive(Debug)]
pub struct Start {
    /// The state of the snapshot, or of the bootstrap; `None` for a newcomer that waits for its first snapshot.
    pub state: Option<State>,
    pub snapshot: Option<SnapshotMeta>,
    pub hard_state: record::HardState,
    /// Above the snapshot.
    pub entries: Vec<record::Entry>,
}

/// Things that arrived.
#[derive(Debug)]
pub enum Input {
    /// At least every [`Replica::tick_every`]; `monotonic` is the clock that does not count suspend.
    Tick {
        monotonic: Moment,
        wall: WallTime,
    },
    Peer {
        from: MemberId,
        message: PeerMessage,
    },
    /// A stream to `peer` broke, or a message to it was dropped.
    PeerUnreachable {
        peer: MemberId,
    },
    /// The stream of a snapshot to `peer` ended.
    SnapshotSent {
        peer: MemberId,
        taken: bool,
    },
    /// A snapshot's body has arrived whole and its hash is right; comes with the message that announced it.
    SnapshotArrived {
        from: MemberId,
        message: Box<RaftMessage>,
        state: Box<State>,
    },
    /// Writes up to this number are durable.
    Persisted {
        number: u64,
    },
    /// The snapshot asked for by `BuildSnapshot` is durable.
    SnapshotSaved {
        meta: SnapshotMeta,
    },
    /// It could not be built or saved; tried again a little later.
    SnapshotFailed,
    Propose {
        ticket: Ticket,
        request: Option<RequestId>,
        command: Command,
    },
    Read {
        ticket: Ticket,
    },
    ChangeMembership {
        ticket: Ticket,
        change: Change,
    },
    TransferLeader {
        ticket: Ticket,
        to: Option<MemberId>,
    },
    Heartbeat {
        link: Link,
        from: NodeId,
        heartbeat: Heartbeat,
    },
    /// An agent's session with this member as leader.
    AgentOpened {
        link: Link,
        node: NodeId,
        /// The one it was told to serve.
        generation: Generation,
    },
    AgentSaid {
        link: Link,
        message: ToLeader,
    },
    AgentClosed {
        link: Link,
    },
    Planned {
        plan: Box<Plan>,
    },
    /// A fence method answered for exactly this incarnation and boot.
    FenceConfirmed {
        node: NodeId,
        incarnation: Incarnation,
        method: Arc<str>,
        evidence: Arc<str>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    AddLearner(MemberId),
    Promote(MemberId),
    Remove(MemberId),
}

/// Orders to the hands, to be carried out in order.
#[derive(Debug)]
pub enum Effect {
    /// Make durable, then say `Persisted`; several may be merged into one sync.
    Persist(Write),
    Send {
        to: MemberId,
        message: PeerMessage,
    },
    /// Stream the body of `meta` to `to`, then this message; then say `SnapshotSent`.
    SendSnapshot {
        to: MemberId,
        meta: SnapshotMeta,
        message: Box<RaftMessage>,
    },
    /// Save the state as a snapshot; then say `SnapshotSaved`.
    BuildSnapshot {
        point: LogPoint,
        membership: Vec<u8>,
        state: Box<State>,
    },
    /// The store may forget entries up to `through`.
    Compact {
        through: u64,
    },
    Answer {
        ticket: Ticket,
        answer: Answer,
    },
    Reply {
        link: Link,
        reply: HeartbeatReply,
    },
    ToAgent {
        link: Link,
        message: ToAgent,
    },
    /// Close the session: this member does not lead, or the node opened another.
    DropAgent {
        link: Link,
    },
    /// Applied in this order; one per entry.
    Applied {
        revision: Revision,
        events: Vec<Event>,
        at: WallTime,
    },
    /// The state jumped: a snapshot of the leader's was installed. Watchers below it are told `compacted`.
    Installed {
        revision: Revision,
    },
    /// Think on another thread, come back with `Planned`.
    Plan {
        state: Box<State>,
        observed: Observed,
        /// The time of people, as entries proposed now would have it.
        now: WallTime,
    },
    /// Start fence methods for this incarnation; its `Fencing` is committed *(12)*.
    Fence {
        node: NodeId,
        incarnation: Incarnation,
    },
    /// This member may not go on; say why and stop the process.
    Halt {
        reason: Halt,
    },
    /// One line for the log.
    Say {
        level: Level,
        text: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Info,
    Warn,
    Error,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    #[error("the state after entry {revision} differs from member {other}'s: {ours} here, {theirs} there")]
    StateDiffers { revision: Revision, other: MemberId, ours: StateHash, theirs: StateHash },
    #[error("entry {index} cannot be read: {error}")]
    Unreadable { index: u64, error: Arc<str> },
    #[error("the leader knows this member to have held the log up to {had}, and it holds {have}: data was lost")]
    LostData { had: u64, have: u64 },
    #[error("this member was removed from the cluster")]
    Removed,
    #[error("invariant broken after entry {revision}: {what}")]
    Invariant { revision: Revision, what: Arc<str> },
}

#[derive(Debug)]
pub enum Answer {
    /// The entry of a proposal is applied; its outcome is inside, its events went with [`Effect::Applied`].
    Applied(Applied),
    /// At least as new as everything acknowledged before the read was asked for.
    /// In a box, as in the orders above: answers and orders are moved often, and most are small.
    State(Box<State>),
    Done,
    Failed(ProposeError),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    #[error("this member does not lead")]
    NotLeader { hint: Option<MemberId> },
    #[error("too much is under way; try again")]
    Overloaded,
    #[error("leadership changed on the way: the outcome is unknown, ask again with the same request id")]
    Lost,
    #[error("{0}")]
    Refused(String),
    /// Refused as things are at this moment; what stands in the way passes by itself.
    #[error("{0}")]
    NotNow(String),
    #[error("no leader could be reached in time")]
    NoQuorum,
    #[error(transparent)]
    Rejected(#[from] Rejected),
}

/// What a member shows of itself.
#[derive(Clone, Debug)]
pub struct Status {
    pub id: MemberId,
    pub role: Role,
    pub term: u64,
    pub leader: Option<MemberId>,
    /// By the lease clock: when it last heard from a leader; as leader, when it sent the last word that a majority has
    /// answered. `None` if there was neither since it started.
    pub leader_heard: Option<Moment>,
    pub commit: u64,
    pub applied: Revision,
    pub durable: LogPoint,
    pub last: LogPoint,
    pub first_index: u64,
    /// Leader only: what each member holds durably.
    pub matched: BTreeMap<MemberId, u64>,
    /// Leader only: what the leader thinks of each node that is not plainly well.
    pub nodes: BTreeMap<NodeId, NodeView>,
    pub transitions: Vec<Transition>,
}

impl Halt {
    pub(crate) fn membership(index: u64, expected: &Membership, made: &Membership) -> Halt {
        let what = format!("raft made {made:?} where our rule makes {expected:?}").into();
        Halt::Invariant { revision: Revision(index), what }
    }
}

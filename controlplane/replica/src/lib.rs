//! The mind of a member: Raft, the replicated state, node leases, and everything a leader owes its cluster.
//!
//! In: `Input`s with the time of this member's lease clock. Out: `Effect`s, to be carried out in order. Between them
//! nothing waits, nothing is read from outside, and the same inputs give the same effects.
//! `handle` takes in one thing that happened; `turn`, called once after a batch of them, lets Raft speak: that is where
//! proposals of the batch become one append, reads one ReadIndex, and writes one sync.
//! Absent: no thread, no clock, no disk, no network, no randomness.

mod codec;
mod leadership;
mod leases;
mod log;
mod machine;
mod message;
mod raft;
mod comparison;
mod membership;
mod reads;
mod snapshots;
mod tick;

use std::collections::BTreeMap;
use std::sync::Arc;

use cluster::agent::{Heartbeat, HeartbeatReply, ToAgent, ToLeader};
use cluster::command::{Command, Entry};
use cluster::planner::{Observed, Plan};
use cluster::{
    Applied, Event, Incarnation, MemberId, Membership, Moment, NodeId, Rejected, RequestId, Revision, Span, State,
    StateHash, WallTime,
};
use record::{LogPoint, SnapshotMeta};

pub use crate::codec::{MembershipChange, Step, decode_membership, encode_membership};
use crate::comparison::Comparison;
use crate::leadership::{Desk, Leadership, Pending};
pub use crate::leadership::{NodeView, Transition};
pub use crate::leases::Leases;
pub use crate::log::{Meaning, Tail};
use crate::machine::Machine;
use crate::membership::Changing;
pub use crate::message::{NodeAge, PeerMessage, RaftMessage};
use crate::raft::Consensus;
pub use crate::raft::{CannotStart, Role, Write};
use crate::reads::Reads;
use crate::snapshots::Snapshots;
use crate::tick::TickClock;

/// Names one question of a client while it is open; chosen by the shell, never reused while open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Names one agent stream; chosen by the shell, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link(pub u64);

/// Entries applied since the last snapshot that make a new one.
pub const SNAPSHOT_EVERY: u64 = 10_000;
/// Entries kept below a snapshot for members that lag a little: a short absence costs no snapshot.
pub const KEEP_BELOW_SNAPSHOT: u64 = 2_000;

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
        state: State,
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
        state: State,
        observed: Observed,
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
#[expect(clippy::large_enum_variant, reason = "moved once, from the effect to whoever asked")]
pub enum Answer {
    /// The entry of a proposal is applied; its outcome is inside.
    Applied(Applied),
    /// At least as new as everything acknowledged before the read was asked for.
    State(State),
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

pub struct Replica {
    id: MemberId,
    now: Moment,
    wall: WallTime,
    clock: TickClock,
    consensus: Consensus,
    machine: Machine,
    leases: Leases,
    leadership: Leadership,
    proposals: Vec<Proposal>,
    /// Who waits for which entry, keyed by index.
    open: BTreeMap<u64, Origin>,
    reads: Reads,
    changing: Option<Changing>,
    transfer: Option<Ticket>,
    /// Writes that are not durable yet, by number: when they were ordered.
    writing: BTreeMap<u64, Moment>,
    /// When leadership was last handed on because of the disk.
    moved_for_disk: Option<Moment>,
    /// Peers that lost data: their Raft messages are not listened to.
    amnesiac: BTreeMap<MemberId, LostLog>,
    comparison: Comparison,
    snapshots: Snapshots,
    cold: bool,
    started: Moment,
    /// What this member knew as committed when it stopped: its state says nothing before it is there again.
    committed_before: u64,
    membership_since: Moment,
    leading: bool,
    halted: bool,
    effects: Vec<Effect>,
}

/// How far a peer's log was durable, and is.
#[derive(Clone, Copy, Debug)]
struct LostLog {
    had: u64,
    have: u64,
}

/// Who waits for an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Client(Ticket),
    /// A duty of the leader's own.
    Duty,
    Registration(Link),
}

struct Proposal {
    origin: Origin,
    key: Option<Pending>,
    request: Option<RequestId>,
    command: Command,
}

impl Replica {
    /// A member as it comes back from its store, or a newcomer. Errs if the store contradicts itself.
    pub fn new(config: Config, start: Start, now: Moment) -> Result<Replica, CannotStart> {
        let Start { state, snapshot, mut hard_state, entries } = start;
        let machine = Machine::new(state);
        // A commit index alone is not synced: what is applied was committed.
        hard_state.commit = hard_state.commit.max(machine.applied());
        let membership = machine.state().map(|state| state.membership().clone()).unwrap_or_default();
        let tail = Tail::new(hard_state, membership, snapshot, entries);
        let committed_before = tail.hard_state.commit;
        let consensus = Consensus::new(config.id, tail, machine.applied())?;
        let mut leases = Leases::new(config.id, config.started);
        leases.membership(config.started, consensus.tail());
        if let Some(state) = machine.state() {
            leases.restored(config.started, state);
        }
        Ok(Replica {
            id: config.id,
            now,
            wall: WallTime(0),
            clock: TickClock::new(now),
            consensus,
            machine,
            leases,
            leadership: Leadership::default(),
            proposals: Vec::new(),
            open: BTreeMap::new(),
            reads: Reads::new(config.id, config.started),
            changing: None,
            transfer: None,
            writing: BTreeMap::new(),
            moved_for_disk: None,
            amnesiac: BTreeMap::new(),
            comparison: Comparison::default(),
            snapshots: Snapshots::new(config.snapshot_every),
            cold: config.cold,
            started: config.started,
            committed_before,
            membership_since: now,
            leading: false,
            halted: false,
            effects: Vec::new(),
        })
    }

    /// How often `Tick` is wanted: the length of a Raft tick, which follows the lease profile.
    pub fn tick_every(&self) -> Span {
        tick::raft_tick(self.state())
    }

    /// The applied state; `None` until a newcomer has its first snapshot.
    pub fn state(&self) -> Option<&State> {
        self.machine.state()
    }

    pub fn leader(&self) -> Option<MemberId> {
        self.consensus.leader()
    }

    /// Leads, and has applied an entry of its own term.
    pub fn is_leader(&self) -> bool {
        self.leading && self.leadership.is_settled()
    }

    /// What the store must hold for this member to have spoken truly: for checks from outside.
    pub fn tail(&self) -> &Tail {
        self.consensus.tail()
    }

    pub fn status(&self) -> Status {
        let tail = self.consensus.tail();
        let known = tail.membership.all_voters().into_iter().chain(tail.membership.learners.iter().copied());
        Status {
            id: self.id,
            role: self.consensus.role(),
            term: self.consensus.term(),
            leader: self.consensus.leader(),
            commit: self.consensus.commit(),
            applied: Revision(self.machine.applied()),
            durable: tail.durable(),
            last: tail.last(),
            first_index: tail.first_index(),
            matched: known.filter_map(|id| Some((id, self.consensus.matched(id)?))).collect(),
            nodes: self.leadership.views(),
            transitions: self.leadership.transitions(),
        }
    }

    /// Takes in one thing that happened. Nothing is sent before the next `turn`.
    pub fn handle(&mut self, now: Moment, input: Input) {
        if self.halted {
            return self.refuse(input);
        }
        self.now = self.now.max(now);
        self.notice_gap();
        match input {
            Input::Tick { monotonic, wall } => self.tick(monotonic, wall),
            Input::Peer { from, message } => self.peer(from, message),
            Input::PeerUnreachable { peer } => self.consensus.report_unreachable(peer),
            Input::SnapshotSent { peer, taken } => self.consensus.report_snapshot(peer, taken),
            Input::SnapshotArrived { from, message, state } => self.snapshot_arrived(from, *message, *state),
            Input::Persisted { number } => self.persisted(number),
            Input::SnapshotSaved { meta } => self.snapshot_saved(meta),
            Input::SnapshotFailed => self.snapshots.failed(self.now),
            Input::Propose { ticket, request, command } => {
                self.proposals.push(Proposal { origin: Origin::Client(ticket), key: None, request, command });
            }
            Input::Read { ticket } => self.reads.ask(ticket, self.now),
            Input::ChangeMembership { ticket, change } => self.change_membership(ticket, change),
            Input::TransferLeader { ticket, to } => self.transfer_leader(ticket, to),
            Input::Heartbeat { link, from, heartbeat } => self.heartbeat(link, from, heartbeat),
            Input::AgentOpened { link, node } => {
                if self.is_leader() {
                    self.duty(|leadership, desk| leadership.agent_opened(link, node, desk));
                } else {
                    self.effects.push(Effect::DropAgent { link });
                }
            }
            Input::AgentSaid { link, message } => {
                self.duty(|leadership, desk| leadership.agent_said(link, message, desk));
            }
            Input::AgentClosed { link } => self.leadership.agent_closed(link),
            Input::Planned { plan } => {
                if self.is_leader() {
                    self.duty(|leadership, desk| leadership.planned(*plan, desk));
                }
            }
            Input::FenceConfirmed { node, incarnation, method, evidence } => {
                let open = self.state().and_then(|state| state.node(node)).is_some_and(|node| {
                    matches!(node.health, cluster::Health::Fencing { incarnation: current, .. } if current == incarnation)
                });
                if open && self.leading {
                    self.leadership.confirmed(node, incarnation, cluster::Proof::Confirmed { method, evidence });
                    self.duty(Leadership::tick);
                }
            }
        }
    }

    /// Lets Raft speak about everything taken in since the last turn. The effects are to be carried out in order.
    pub fn turn(&mut self, now: Moment) -> Vec<Effect> {
        self.now = self.now.max(now);
        if !self.halted {
            // Applying may propose (plans, registrations), and what is proposed should leave with this turn.
            loop {
                self.flush_proposals();
                self.reads.flush(&mut self.consensus, self.now);
                let mut spoke = false;
                while !self.halted
                    && let Some(turn) = self.consensus.turn()
                {
                    spoke = true;
                    self.carry(turn);
                }
                if self.halted || !spoke {
                    break;
                }
                self.notice_role();
                self.duty(Leadership::settled_turn);
                if self.proposals.is_empty() {
                    break;
                }
            }
            self.notice_role();
            self.answer_reads();
            self.maybe_snapshot();
        }
        std::mem::take(&mut self.effects)
    }

    fn carry(&mut self, turn: raft::Turn) {
        self.send(turn.messages);
        if let Some(write) = turn.persist {
            self.writing.insert(write.number, self.now);
            let installed = write.snapshot.clone().map(|meta| (write.number, meta));
            self.effects.push(Effect::Persist(write));
            if let Some((number, meta)) = installed {
                self.install(number, meta);
            }
            self.leases.membership(self.now, self.consensus.tail());
        }
        for (context, index) in turn.reads {
            self.reads.confirmed(context, index);
        }
        for index in turn.committed {
            if !self.halted {
                self.apply(index);
            }
        }
    }

    fn send(&mut self, messages: Vec<RaftMessage>) {
        for message in messages {
            let to = message.to;
            let effect = match message.snapshot.clone() {
                Some(meta) => Effect::SendSnapshot { to, meta, message: Box::new(message) },
                None => Effect::Send { to, message: PeerMessage::Raft(Box::new(message)) },
            };
            self.effects.push(effect);
        }
    }

    fn persisted(&mut self, number: u64) {
        self.writing = self.writing.split_off(&(number + 1));
        let messages = self.consensus.persisted(number);
        if let Some(index) = self.snapshots.installed(number) {
            self.consensus.applied(index);
        }
        self.send(messages);
    }

    fn apply(&mut self, index: u64) {
        let tail = self.consensus.tail();
        let (Some(meaning), Some(term)) = (tail.meaning(index).cloned(), tail.term(index)) else {
            let error = "it is committed and not in the log".into();
            return self.halt(Halt::Unreadable { index, error });
        };
        let mut membership = None;
        let applied = match meaning {
            Meaning::Settle => {
                let entry = Entry { at: WallTime(0), request: None, command: Command::Settle };
                self.machine.command(index, &entry)
            }
            Meaning::Command(entry) => self.machine.command(index, &entry),
            Meaning::Membership(change) => {
                let expected = change.after(&tail.membership, LogPoint { index, term });
                match self.consensus.apply_change(&change, LogPoint { index, term }) {
                    Ok(made) if made == expected => {}
                    Ok(made) => return self.halt(Halt::membership(index, &expected, &made)),
                    Err(error) => return self.halt(Halt::Unreadable { index, error: error.into() }),
                }
                membership = Some(expected.clone());
                self.machine.membership(index, expected)
            }
            Meaning::Unreadable(error) => return self.halt(Halt::Unreadable { index, error }),
        };
        let Some(applied) = applied else {
            let error = "no state to apply it to".into();
            return self.halt(Halt::Unreadable { index, error });
        };
        let changed = membership.is_some();
        self.consensus.tail_mut().applied(index, membership);
        self.consensus.applied(index);
        if changed {
            self.membership_since = self.now;
            self.leases.membership(self.now, self.consensus.tail());
            self.membership_applied();
        } else if let Some(changing) = self.changing.take_if(|changing| changing.index == index) {
            // Raft puts an empty entry in the place of a change it thinks untimely.
            self.answer(changing.ticket, Answer::Failed(ProposeError::Lost));
        }
        self.applied(index, term, applied);
    }

    fn applied(&mut self, index: u64, term: u64, applied: Applied) {
        for event in &applied.events {
            if let Event::NodeRegistered { node, incarnation, .. } = event {
                self.leases.registered(self.now, *node, *incarnation);
            }
        }
        self.notice_role();
        if self.leading && term == self.consensus.term() {
            self.leadership.settle();
        }
        let at = self.state().map(State::clock).unwrap_or_default();
        let events = applied.events.clone();
        self.effects.push(Effect::Applied { revision: Revision(index), events, at });
        if self.leading {
            self.leadership.entry_done(index, self.now);
            self.duty(|leadership, desk| leadership.applied(desk, &applied.events, &applied.outcome));
        }
        match self.open.remove(&index) {
            Some(Origin::Client(ticket)) => self.answer(ticket, Answer::Applied(applied)),
            Some(Origin::Registration(link)) => {
                self.duty(|leadership, desk| leadership.registered(link, &applied.outcome, desk));
            }
            Some(Origin::Duty) | None => {}
        }
        if let Some(reason) = self.comparison.applied(&self.machine, self.consensus.tail()) {
            self.halt(reason);
        }
    }

    /// Everything proposed since the last turn becomes one append.
    fn flush_proposals(&mut self) {
        let mut payloads = Vec::new();
        let mut origins = Vec::new();
        for proposal in std::mem::take(&mut self.proposals) {
            if let Err(error) = self.may_propose(&proposal.command) {
                self.not_proposed(proposal.origin, proposal.key, error);
                continue;
            }
            let Proposal { origin, key, request, command } = proposal;
            payloads.push(codec::encode(&Entry { at: self.wall, request, command }));
            origins.push((origin, key));
        }
        if payloads.is_empty() {
            return;
        }
        match self.consensus.propose(payloads) {
            Ok(indexes) => {
                for (index, (origin, key)) in indexes.zip(origins) {
                    self.open.insert(index, origin);
                    if let Some(key) = key {
                        self.leadership.proposed(index, key);
                    }
                }
            }
            Err(raft::Dropped) => {
                for (origin, key) in origins {
                    self.not_proposed(origin, key, ProposeError::Overloaded);
                }
            }
        }
    }

    fn may_propose(&self, command: &Command) -> Result<(), ProposeError> {
        if self.consensus.role() != Role::Leader {
            return Err(ProposeError::NotLeader { hint: self.leader().filter(|leader| *leader != self.id) });
        }
        // Fencing is for a leader that knows its own term's entry and every membership applied *(a1)*.
        let fences = matches!(command, Command::BeginFencing { .. } | Command::RecordFenced { .. });
        if fences && (!self.leadership.is_settled() || self.consensus.tail().has_unapplied_change()) {
            return Err(ProposeError::Overloaded);
        }
        Ok(())
    }

    fn not_proposed(&mut self, origin: Origin, key: Option<Pending>, error: ProposeError) {
        if let Some(key) = key {
            self.leadership.dropped(&key);
        }
        if let Origin::Client(ticket) = origin {
            self.answer(ticket, Answer::Failed(error));
        }
    }

    fn peer(&mut self, from: MemberId, message: PeerMessage) {
        match message {
            PeerMessage::Raft(message) => self.raft_message(from, *message),
            PeerMessage::Hello { durable } => self.hello(from, durable),
            PeerMessage::YouLostData { had, .. } => {
                let have = self.consensus.tail().durable().index;
                if have < had {
                    self.halt(Halt::LostData { had, have });
                } else {
                    let durable = self.consensus.tail().durable();
                    self.effects.push(Effect::Send { to: from, message: PeerMessage::Hello { durable } });
                }
            }
            PeerMessage::AskAges { round, nodes } => {
                let age = |&(node, incarnation): &(NodeId, Incarnation)| NodeAge {
                    node,
                    incarnation,
                    age: self.leases.age(self.now, node, incarnation),
                };
                let ages = nodes.iter().map(age).collect();
                let up_for = self.now.since(self.started);
                let message = PeerMessage::Ages { round, ages, started_cold: self.cold, up_for };
                self.effects.push(Effect::Send { to: from, message });
            }
            PeerMessage::Ages { ages, started_cold, up_for, .. } => {
                self.leadership.ages(self.now, from, &ages, started_cold, up_for);
            }
            PeerMessage::AskRemaining { round, node, incarnation, fencing } => {
                if let Some(remaining) = self.remaining(node, incarnation, fencing) {
                    let message = PeerMessage::Remaining { round, node, incarnation, fencing, remaining };
                    self.effects.push(Effect::Send { to: from, message });
                }
            }
            PeerMessage::Remaining { round, node, incarnation, fencing, remaining } => {
                let drift = self.state().map_or(0, |state| state.settings().terms.drift_ppm);
                let of = (node, incarnation, fencing, round);
                self.leadership.remaining(self.now, from, of, remaining, drift);
            }
            PeerMessage::StateHash { revision, hash } => {
                let tail = self.consensus.tail();
                if let Some(reason) = self.comparison.heard(from, revision, hash, &self.machine, tail) {
                    self.halt(reason);
                }
            }
        }
    }

    fn raft_message(&mut self, from: MemberId, message: RaftMessage) {
        if let Some(LostLog { had, have }) = self.amnesiac.get(&from).copied() {
            // It goes on, so the word may have been lost on the way.
            let message = PeerMessage::YouLostData { had, have };
            return self.effects.push(Effect::Send { to: from, message });
        }
        let stranger = message.from != from || message.to != self.id;
        // A leader's heartbeat that commits beyond our log says that we acknowledged what we do not hold.
        let last = self.consensus.tail().last().index;
        if !stranger && message.is_heartbeat() && message.commit > last && message.term >= self.consensus.term() {
            return self.halt(Halt::LostData { had: message.commit, have: last });
        }
        if !stranger && message.snapshot.is_none() {
            self.consensus.step(message);
        }
    }

    /// How far a peer's log is durable, as it says when its stream opens.
    fn hello(&mut self, from: MemberId, durable: LogPoint) {
        match self.consensus.matched(from) {
            Some(had) if had > durable.index => {
                let have = durable.index;
                self.amnesiac.insert(from, LostLog { had, have });
                let message = PeerMessage::YouLostData { had, have };
                self.effects.push(Effect::Send { to: from, message });
            }
            _ => {
                self.amnesiac.remove(&from);
            }
        }
    }

    /// `None` until the refusal that this answer rests on is in force: the very `Fencing` asked about must be durable
    /// in this member's log, or applied.
    fn remaining(&self, node: NodeId, incarnation: Incarnation, fencing: LogPoint) -> Option<Span> {
        let state = self.state().filter(|_| self.has_caught_up())?;
        let applied = state.node(node).is_some_and(|node| {
            matches!(&node.health, cluster::Health::Fencing { incarnation: current, begun, .. }
                if *current == incarnation && begun.0 == fencing.index)
        });
        let tail = self.consensus.tail();
        let logged = tail.fencings(node, incarnation).contains(&fencing);
        let in_force = tail.is_durable(fencing.index) && (applied || logged);
        let longest = state.settings().longest_wait();
        in_force.then(|| self.leases.remaining(self.now, node, incarnation, longest))
    }

    /// The state is at least where it was when this member stopped. Before that it may not know the longest terms that
    /// were legal when it acknowledged something it has forgotten, nor who is current *(18)*.
    fn has_caught_up(&self) -> bool {
        self.machine.applied() >= self.committed_before
    }

    fn heartbeat(&mut self, link: Link, from: NodeId, heartbeat: Heartbeat) {
        let Some(state) = self.machine.state().filter(|_| self.has_caught_up()) else { return };
        let answer = self.leases.answer(self.now, from, &heartbeat, state, self.consensus.tail());
        let reply = HeartbeatReply { member: self.id, echo: heartbeat, answer };
        self.effects.push(Effect::Reply { link, reply });
    }

    /// Runs a duty of the leader's on what is true now, and takes up what it asks for.
    fn duty(&mut self, duty: impl FnOnce(&mut Leadership, &mut Desk<'_>)) {
        let Some(state) = self.machine.state().filter(|_| self.leading) else { return };
        let mut desk = Desk {
            now: self.now,
            wall: self.wall,
            me: self.id,
            state,
            tail: self.consensus.tail(),
            leases: &self.leases,
            propose: Vec::new(),
            effects: Vec::new(),
            transfer: None,
            leave_joint: false,
            cold: self.cold.then(|| self.now.since(self.started)),
            membership_since: self.membership_since,
        };
        duty(&mut self.leadership, &mut desk);
        let Desk { propose, effects, transfer, leave_joint, .. } = desk;
        self.effects.extend(effects);
        let proposal = |(origin, key, command)| Proposal { origin, key, request: None, command };
        self.proposals.extend(propose.into_iter().map(proposal));
        if let Some(to) = transfer {
            self.consensus.transfer_leader(to);
        }
        if leave_joint {
            self.leave_joint();
        }
    }

    /// Whether this member began or ceased to lead; what it owed as leader ends with it.
    fn notice_role(&mut self) {
        let leads = self.consensus.role() == Role::Leader;
        if leads == self.leading {
            return;
        }
        self.leading = leads;
        let term = self.consensus.term();
        self.say(Level::Info, if leads { format!("leads term {term}") } else { format!("follows in term {term}") });
        if leads {
            self.leadership.resign();
            return;
        }
        let links = self.leadership.resign();
        self.effects.extend(links.into_iter().map(|link| Effect::DropAgent { link }));
        for (_, origin) in std::mem::take(&mut self.open) {
            self.not_proposed(origin, None, ProposeError::Lost);
        }
        if let Some(changing) = self.changing.take() {
            self.answer(changing.ticket, Answer::Failed(ProposeError::Lost));
        }
        if let Some(ticket) = self.transfer.take() {
            self.answer(ticket, Answer::Done);
        }
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.effects.push(Effect::Answer { ticket, answer });
    }

    fn say(&mut self, level: Level, text: String) {
        self.effects.push(Effect::Say { level, text });
    }

    /// Nobody who asked is left without an answer: the process is over with the halt.
    fn halt(&mut self, reason: Halt) {
        if std::mem::replace(&mut self.halted, true) {
            return;
        }
        let open = std::mem::take(&mut self.open).into_values();
        let proposed = std::mem::take(&mut self.proposals).into_iter().map(|proposal| proposal.origin);
        let clients = open.chain(proposed).filter_map(|origin| match origin {
            Origin::Client(ticket) => Some(ticket),
            Origin::Duty | Origin::Registration(_) => None,
        });
        let tickets: Vec<Ticket> = clients
            .chain(self.reads.abandon())
            .chain(self.changing.take().map(|changing| changing.ticket))
            .chain(self.transfer.take())
            .collect();
        for ticket in tickets {
            self.answer(ticket, Answer::Failed(ProposeError::Lost));
        }
        self.effects.push(Effect::Halt { reason });
    }

    /// What comes after the halt changes nothing.
    fn refuse(&mut self, input: Input) {
        if let Input::Propose { ticket, .. }
        | Input::Read { ticket }
        | Input::ChangeMembership { ticket, .. }
        | Input::TransferLeader { ticket, .. } = input
        {
            self.answer(ticket, Answer::Failed(ProposeError::Lost));
        }
    }
}

impl Halt {
    fn membership(index: u64, expected: &Membership, made: &Membership) -> Halt {
        let what = format!("raft made {made:?} where our rule makes {expected:?}").into();
        Halt::Invariant { revision: Revision(index), what }
    }
}

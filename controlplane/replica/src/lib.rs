//! The mind of a member: Raft, the replicated state, node leases, and everything a leader owes its cluster.
//!
//! In: `Input`s with the time of this member's lease clock. Out: `Effect`s, to be carried out in order. Between them
//! nothing waits, nothing is read from outside, and the same inputs give the same effects.
//! `handle` takes in one thing that happened; `turn`, called once after a batch of them, lets Raft speak: that is where
//! proposals of the batch become one append, reads one ReadIndex, and writes one sync.
//! Absent: no thread, no clock, no disk, no network, no randomness.

mod exchange;
mod codec;
mod leadership;
mod leases;
mod log;
mod machine;
mod message;
mod raft;
mod proposals;
mod applying;
mod peers;
mod comparison;
mod membership;
mod reads;
mod hearing;
mod snapshots;
mod tick;
pub mod recovery;

use std::collections::BTreeMap;

use cluster::{MemberId, Moment, Revision, Span, State, WallTime};
use planted::planted;

pub use crate::codec::{MembershipChange, Step, decode_membership, encode_membership};
use crate::comparison::Comparison;
pub use crate::exchange::*;
use crate::hearing::Hearing;
use crate::leadership::{Desk, Leadership};
pub use crate::leadership::{NodeView, Seen, Transition};
pub use crate::leases::Leases;
pub use crate::log::{Meaning, Tail};
use crate::machine::Machine;
use crate::membership::{Changing, Transfer};
pub use crate::message::{NodeAge, PeerMessage, RaftMessage};
use crate::peers::LostLog;
use crate::proposals::{Origin, Proposal};
use crate::raft::Consensus;
pub use crate::raft::{CannotStart, Role, Write};
use crate::reads::Reads;
use crate::snapshots::Snapshots;
use crate::tick::TickClock;

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
    transfer: Option<Transfer>,
    /// Writes that are not durable yet, by number: when they were ordered.
    writing: BTreeMap<u64, Moment>,
    /// When leadership was last handed on because of the disk.
    moved_for_disk: Option<Moment>,
    /// When something last came from the leader of the present term.
    leader_heard: Option<Moment>,
    /// When this member last woke from a sleep, while what comes may have lain in its queue all the time: until the leader
    /// has answered something that was asked since.
    woken: Option<Moment>,
    hearing: Hearing,
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

impl Replica {
    /// A member as it comes back from its store, or a newcomer. Errs if the store contradicts itself.
    pub fn new(config: Config, start: Start, now: Moment) -> Result<Replica, CannotStart> {
        let Start { state, snapshot, mut hard_state, entries } = start;
        let machine = Machine::new(state);
        // A commit index alone is not synced: what is applied was committed.
        hard_state.commit = hard_state.commit.max(machine.applied());
        let mut membership = machine.state().map(|state| state.membership().clone()).unwrap_or_default();
        if planted!("membership-beneath-forgotten") {
            (membership.term, membership.index) = (0, 0);
        }
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
            leader_heard: None,
            woken: None,
            hearing: Hearing::default(),
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
            leader_heard: self.leader_heard.max(self.majority_heard()),
            commit: self.consensus.commit(),
            applied: Revision(self.machine.applied()),
            durable: tail.held(),
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
            Input::AgentOpened { link, node, generation } => {
                // One that serves another generation registers there, and runs what it is told there.
                let ours = self.state().is_some_and(|state| state.generation() == generation);
                if self.is_leader() && (ours || planted!("session-of-another-generation")) {
                    self.leadership.agent_opened(link, node);
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
                let proof = cluster::Proof::Confirmed { method, evidence };
                if open && self.leading {
                    self.leadership.confirmed(node, incarnation, proof);
                    self.duty(Leadership::tick);
                } else {
                    self.duty(|leadership, desk| leadership.confirmed_late(node, incarnation, proof, desk));
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
            if let Some(asked) = self.reads.confirmed(context, index) {
                self.hearing.confirmed(asked);
                if self.woken.take_if(|woken| *woken <= asked).is_some() {
                    self.leader_heard = self.leader_heard.max(Some(asked));
                }
            }
        }
        for index in turn.committed {
            if !self.halted {
                self.apply(index);
            }
        }
    }

    fn send(&mut self, messages: Vec<RaftMessage>) {
        for mut message in messages {
            hearing::date(&mut message, self.now);
            let to = message.to;
            let effect = match message.snapshot.clone() {
                Some(meta) => Effect::SendSnapshot { to, meta, message: Box::new(message) },
                None => Effect::Send { to, message: PeerMessage::Raft(Box::new(message)) },
            };
            self.effects.push(effect);
        }
    }

    fn persisted(&mut self, number: u64) {
        while let Some(oldest) = self.writing.first_entry().filter(|oldest| *oldest.key() <= number) {
            oldest.remove();
        }
        let messages = self.consensus.persisted(number);
        if let Some(index) = self.snapshots.installed(number) {
            self.consensus.applied(index);
        }
        self.send(messages);
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

    /// As leader: when it sent the last word that a majority has answered.
    fn majority_heard(&self) -> Option<Moment> {
        let membership = self.consensus.tail().newest_membership();
        self.leading.then(|| self.hearing.heard(self.id, self.now, membership)).filter(|heard| *heard > Moment(0))
    }

    /// Whether this member began or ceased to lead; what it owed as leader ends with it.
    fn notice_role(&mut self) {
        let leads = self.consensus.role() == Role::Leader;
        if leads == self.leading {
            return;
        }
        self.leader_heard = self.leader_heard.max(self.majority_heard());
        self.hearing = Hearing::default();
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
        if let Some(transfer) = self.transfer.take() {
            self.answer(transfer.ticket, Answer::Done);
        }
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
            .chain(self.transfer.take().map(|transfer| transfer.ticket))
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

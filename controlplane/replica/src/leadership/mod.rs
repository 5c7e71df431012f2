//! What a leader owes its cluster, tick by tick: notice silence, fence with proof, plan, push what is decided.
//! In: the state, what voters say of the nodes, the time. Out: commands to propose, questions to voters, words to agents.
//! Leader-local: a new leader begins with nothing and asks every voter; whatever must survive it is in the log *(2)*.
//! Absent: no vote and no log; a duty proposes, and what it proposed may be lost.

mod brake;
mod fencing;
mod handovers;
mod sessions;
mod silence;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use cluster::command::Command;
use cluster::planner::Observed;
use cluster::{Event, Incarnation, MemberId, Moment, NodeId, Outcome, Proof, Span, State, WallTime};
use planted::planted;

use crate::leadership::brake::BrakeWatch;
use crate::leadership::fencing::Duty;
use crate::leadership::handovers::Overdue;
use crate::leadership::sessions::Sessions;
use crate::leadership::silence::Silence;
use crate::leases::Leases;
use crate::log::Tail;
use crate::message::{NodeAge, PeerMessage};
use crate::proposals::Origin;
use crate::{Effect, Link};

/// How often voters are asked about nodes that are silent or being fenced: a fraction of the shortest margin.
const ASK_EVERY: Span = Span::millis(60);
/// Transitions of the leader's own view that are remembered for people.
const TRANSITIONS: usize = 256;

/// What the leader thinks of a node. No fact, never in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    pub silent_for: Span,
    /// Silent beyond the suspicion time: nothing new is placed there.
    pub suspect: bool,
    /// What a majority says at least; `None` while too few have answered.
    pub majority_age: Option<Span>,
    /// Why nothing is done about it, when that is so.
    pub held_back: Option<Arc<str>>,
}

/// A change of the leader's own view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    pub at: WallTime,
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub what: Seen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Suspected,
    HeardAgain,
}

/// Leader-local; `None` in the replica while another leads.
#[derive(Default)]
pub struct Leadership {
    /// An entry of the own term is applied: from here on the leader may plan, push, fence and answer agents.
    settled: bool,
    silence: Silence,
    duties: BTreeMap<NodeId, Duty>,
    /// Fence methods that succeeded, until the receipt is applied: a proposal that is dropped is made again.
    confirmed: BTreeMap<(NodeId, Incarnation), Proof>,
    brake: BrakeWatch,
    overdue: Overdue,
    sessions: Sessions,
    /// Proposals of duties under way, so that none is made twice. Cleared by outcome *or* loss.
    pending: BTreeMap<u64, Pending>,
    pending_keys: BTreeSet<Pending>,
    planning: Planning,
    transitions: VecDeque<Transition>,
    /// When a transfer for the sake of an unheard node was last made *(b16)*.
    moved_for_node: Option<Moment>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pending {
    Fencing(NodeId, Incarnation),
    Receipt(NodeId, Incarnation),
    Barrier(NodeId),
    Brake,
    Handover(cluster::ContainerId),
    Planned,
}

#[derive(Default)]
struct Planning {
    /// Something changed that a plan could use.
    wanted: bool,
    under_way: bool,
    last: Option<Moment>,
    suspects: BTreeSet<NodeId>,
}

/// What a duty reads and writes.
pub struct Desk<'a> {
    pub now: Moment,
    pub wall: WallTime,
    pub me: MemberId,
    pub state: &'a State,
    pub tail: &'a Tail,
    pub leases: &'a Leases,
    /// Commands to propose, in order.
    pub propose: Vec<(Origin, Option<Pending>, Command)>,
    pub effects: Vec<Effect>,
    /// Asks for the leadership to move to this member.
    pub transfer: Option<MemberId>,
    /// Asks for the joint configuration to be left.
    pub leave_joint: bool,
    /// How long this member is up, if it began with a log.
    pub cold: Option<Span>,
    /// When the newest applied membership was applied here.
    pub membership_since: Moment,
}

impl Desk<'_> {
    fn ask_voters(&mut self, message: PeerMessage) {
        for voter in self.tail.newest_membership().all_voters() {
            if voter != self.me {
                self.effects.push(Effect::Send { to: voter, message: message.clone() });
            }
        }
    }
}

impl Leadership {
    pub fn is_settled(&self) -> bool {
        self.settled || planted!("own-term-entry-not-awaited")
    }

    /// An own-term entry is applied.
    pub fn settle(&mut self) {
        if !self.settled {
            self.settled = true;
            self.planning.wanted = true;
            self.silence.look_at_all();
        }
    }

    /// Everything a leader does when time has passed.
    pub fn tick(&mut self, desk: &mut Desk<'_>) {
        if !self.is_settled() {
            return;
        }
        self.silence.watch(desk, &mut self.transitions);
        self.brake.watch(desk, &self.silence, &mut self.pending_keys);
        self.begin_fencing(desk);
        self.finish_fencing(desk);
        self.overdue.watch(desk, &mut self.pending_keys);
        self.move_for_unheard(desk);
        let joint = desk.tail.membership.is_joint() && !planted!("joint-never-left");
        if joint && !desk.tail.has_unapplied_change() {
            desk.leave_joint = true;
        }
        self.sessions.repeat(desk);
        let suspects = self.silence.suspects();
        let unfinished = desk.state.unplaced().next().is_some() || desk.state.handovers().next().is_some();
        let stale = self.planning.last.is_none_or(|last| desk.now.since(last) >= Span::seconds(1));
        self.planning.wanted |= self.planning.suspects != suspects || (unfinished && stale);
        self.plan(desk);
    }

    /// Entries were applied: what follows for plans, agents and duties.
    pub fn applied(&mut self, desk: &mut Desk<'_>, events: &[Event], outcome: &Outcome) {
        for event in events {
            self.planning.wanted |=
                !matches!(event, Event::ContainerAnnotated { .. } | Event::ContainerStarting { .. });
            match event {
                Event::NodeRegistered { node, .. } => self.silence.registered(desk.now, *node),
                Event::NodeRemoved { node, .. } => self.silence.forget(*node),
                Event::SettingsChanged { .. } => {
                    self.silence.look_at_all();
                    self.sessions.all_dirty();
                }
                _ => {}
            }
        }
        self.sessions.applied(desk.state, events, outcome);
    }

    /// After everything of a turn is applied: push and plan once.
    pub fn settled_turn(&mut self, desk: &mut Desk<'_>) {
        if self.is_settled() {
            self.sessions.push(desk);
            self.plan(desk);
        }
    }

    fn plan(&mut self, desk: &mut Desk<'_>) {
        let in_flight = self.pending_keys.contains(&Pending::Planned);
        if !self.planning.wanted || self.planning.under_way || in_flight {
            return;
        }
        let suspects = self.silence.suspects();
        self.planning = Planning { wanted: false, under_way: true, last: Some(desk.now), suspects: suspects.clone() };
        let state = Box::new(desk.state.clone());
        desk.effects.push(Effect::Plan { state, observed: Observed { suspects }, now: desk.wall });
    }

    /// A plan came back. Its commands are proposed whole; `apply` checks each against what is true by then.
    pub fn planned(&mut self, plan: cluster::planner::Plan, desk: &mut Desk<'_>) {
        self.planning.under_way = false;
        let count = plan.commands.len();
        for (at, command) in plan.commands.into_iter().enumerate() {
            let last = at + 1 == count;
            desk.propose.push((Origin::Duty, last.then_some(Pending::Planned), command));
        }
        if count > 0 {
            self.pending_keys.insert(Pending::Planned);
        }
    }

    /// A duty's proposal got this index.
    pub fn proposed(&mut self, index: u64, key: Pending) {
        self.pending.insert(index, key);
    }

    /// It was dropped before it got one.
    pub fn dropped(&mut self, key: &Pending) {
        if planted!("dropped-proposal-stays-pending") {
            return;
        }
        self.pending_keys.remove(key);
        if let Pending::Barrier(node) = key
            && let Some(duty) = self.duties.get_mut(node)
        {
            duty.barrier_dropped();
        }
    }

    /// The entry at `index` was applied, as proposed or replaced by another: whatever waited may be tried again.
    pub fn entry_done(&mut self, index: u64, now: Moment) {
        while let Some(first) = self.pending.first_entry().filter(|first| *first.key() <= index) {
            let (at, key) = first.remove_entry();
            self.pending_keys.remove(&key);
            if let Pending::Receipt(node, incarnation) = key {
                // Taken or refused: a proof that the state refuses is not better the second time.
                self.confirmed.remove(&(node, incarnation));
            }
            if let Pending::Barrier(node) = key
                && let Some(duty) = self.duties.get_mut(&node)
            {
                duty.barrier_applied(at, now);
            }
        }
    }

    /// This member's clock stood still: waits begin again, and the gap is evidence against nobody *(a2)*.
    pub fn stalled(&mut self) {
        self.duties.clear();
        self.silence.stalled();
        self.brake.stalled();
        self.overdue.stalled();
    }

    /// Stops leading: every session ends, every duty is the next leader's.
    pub fn resign(&mut self) -> Vec<Link> {
        let links = self.sessions.links();
        let transitions = std::mem::take(&mut self.transitions);
        *self = Leadership { transitions, ..Leadership::default() };
        links
    }

    /// A voter answers how long ago it acknowledged the nodes asked about.
    pub fn ages(&mut self, now: Moment, asked: (MemberId, u64), ages: &[NodeAge], start: (bool, Span)) {
        self.silence.answered(now, asked, ages, start);
    }

    pub fn views(&self) -> BTreeMap<NodeId, NodeView> {
        self.silence.views()
    }

    pub fn transitions(&self) -> Vec<Transition> {
        self.transitions.iter().cloned().collect()
    }

    /// A node that a majority hears and the leader does not, for two leases: let a peer lead that hears it *(b16)*. Who is
    /// still asked after two leases more has not got rid of the leadership: that peer was out of reach, another may not be.
    fn move_for_unheard(&mut self, desk: &mut Desk<'_>) {
        let patience = desk.state.settings().terms.lease * 2;
        let recently = self.moved_for_node.is_some_and(|moved| desk.now.since(moved) < patience);
        if recently || desk.transfer.is_some() {
            return;
        }
        if let Some(to) = self.silence.heard_elsewhere(desk) {
            self.moved_for_node = Some(desk.now);
            desk.transfer = Some(to);
        }
    }
}

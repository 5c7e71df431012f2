//! What other members say, and what this one answers. In: their messages, already known to be theirs. Out: Raft's steps,
//! ages and remaining times, and the word for a member that lost data.

use cluster::agent::{Heartbeat, HeartbeatReply};
use cluster::{Incarnation, MemberId, NodeId, Span};
use planted::planted;
use record::LogPoint;

use crate::message::{NodeAge, PeerMessage, RaftMessage};
use crate::{Effect, Halt, Link, Replica, hearing};

/// How far a peer's log was durable, and is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LostLog {
    pub had: u64,
    pub have: u64,
}

impl Replica {
    pub(crate) fn peer(&mut self, from: MemberId, message: PeerMessage) {
        match message {
            PeerMessage::Raft(message) => self.raft_message(from, *message),
            PeerMessage::Hello { durable } => self.hello(from, durable),
            PeerMessage::YouLostData { had, .. } => {
                let have = self.consensus.tail().held().index;
                if have < had {
                    self.halt(Halt::LostData { had, have });
                } else {
                    let durable = self.consensus.tail().held();
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
            PeerMessage::Ages { round, ages, started_cold, up_for } => {
                self.leadership.ages(self.now, (from, round), &ages, (started_cold, up_for));
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

    pub(crate) fn raft_message(&mut self, from: MemberId, mut message: RaftMessage) {
        if let Some(LostLog { had, have }) = self.amnesiac.get(&from).copied() {
            // It goes on, so the word may have been lost on the way.
            let message = PeerMessage::YouLostData { had, have };
            return self.effects.push(Effect::Send { to: from, message });
        }
        let stranger = message.from != from || message.to != self.id;
        // A leader's heartbeat that commits beyond our log says that we acknowledged what we do not hold.
        let last = self.consensus.tail().last().index;
        let beyond = message.is_heartbeat() && message.commit > last && message.term >= self.consensus.term();
        if !stranger && beyond && !planted!("rejoins-under-the-burnt-id") {
            return self.halt(Halt::LostData { had: message.commit, have: last });
        }
        // Without a state it has nothing to vote with: a newcomer waits for its snapshot, and who lost everything could
        // help a candidate that lacks what it once acknowledged.
        let votes = !message.asks_for_vote() || self.state().is_some() || planted!("rejoins-under-the-burnt-id");
        if !stranger && votes && message.snapshot.is_none() {
            if let Some(sent) = hearing::dated(&mut message)
                && message.term == self.consensus.term()
            {
                self.hearing.answered(from, sent);
            }
            self.consensus.step(message);
            if self.consensus.leader() == Some(from) && self.woken.is_none() {
                self.leader_heard = Some(self.now);
            }
        }
    }

    /// How far a peer's log is durable, as it says when its stream opens. A voter has had a log since before it could
    /// vote, whoever leads by now and whatever that one has seen of it.
    pub(crate) fn hello(&mut self, from: MemberId, durable: LogPoint) {
        if planted!("rejoins-under-the-burnt-id") {
            return;
        }
        let voter = self.consensus.tail().newest_membership().votes(from).then_some(1);
        match self.consensus.matched(from).max(voter) {
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
    pub(crate) fn remaining(&self, node: NodeId, incarnation: Incarnation, fencing: LogPoint) -> Option<Span> {
        let state = self.state().filter(|_| self.has_caught_up())?;
        let applied = state.node(node).is_some_and(|node| {
            matches!(&node.health, cluster::Health::Fencing { incarnation: current, begun, .. }
                if *current == incarnation && begun.0 == fencing.index)
        });
        let tail = self.consensus.tail();
        let logged = tail.fencings(node, incarnation).contains(&fencing);
        let in_force = tail.is_durable(fencing.index) && (applied || logged);
        let longest = state.settings().longest_wait();
        (in_force || planted!("remaining-before-the-refusal"))
            .then(|| self.leases.remaining(self.now, node, incarnation, longest))
    }

    /// The state is at least where it was when this member stopped. Before that it may not know the longest terms that
    /// were legal when it acknowledged something it has forgotten, nor who is current *(18)*.
    pub(crate) fn has_caught_up(&self) -> bool {
        self.machine.applied() >= self.committed_before
    }

    pub(crate) fn heartbeat(&mut self, link: Link, from: NodeId, heartbeat: Heartbeat) {
        let Some(state) = self.machine.state().filter(|_| self.has_caught_up()) else { return };
        let answer = self.leases.answer(self.now, from, &heartbeat, state, self.consensus.tail());
        let reply = HeartbeatReply { member: self.id, echo: heartbeat, answer };
        self.effects.push(Effect::Reply { link, reply });
    }
}

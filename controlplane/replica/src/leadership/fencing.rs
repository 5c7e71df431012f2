//! Begins fencing when a majority says so, and finishes every fencing that is open, whoever began it *(2)*.
//! In: silence, the brake, the remaining times voters report. Out: `BeginFencing`, `RecordFenced`.
//! Leader-local: answers and waits; a new leader, or one whose clock stood still, asks and waits again.
//! Source: safety.md, "Quorum leases" 4 and 5.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use cluster::command::Command;
use cluster::{
    Assignment, Brake, FenceCause, Health, Incarnation, MemberId, Moment, NodeId, Order, Proof, Span, State,
};
use planted::planted;
use record::LogPoint;

use super::{ASK_EVERY, Desk, Leadership, Pending};
use crate::Effect;
use crate::message::PeerMessage;
use crate::proposals::Origin;

/// One open `Fencing`.
pub struct Duty {
    incarnation: Incarnation,
    fencing: LogPoint,
    /// Rounds are numbered so that an answer to an earlier question of an earlier duty counts for nothing.
    round: u64,
    since: Moment,
    asked: Option<Moment>,
    /// Keyed by voter: by our clock, when the last lease it may have helped to grant is over.
    over_at: BTreeMap<MemberId, Moment>,
    barrier: Option<Barrier>,
}

/// An own-term entry appended after `Fencing` was applied; from its commit a full W is waited *(a1)*.
struct Barrier {
    membership: u64,
    index: Option<u64>,
    applied: Option<Moment>,
}

impl Duty {
    pub fn barrier_dropped(&mut self) {
        self.barrier = None;
    }

    pub fn barrier_applied(&mut self, index: u64, now: Moment) {
        if let Some(barrier) = &mut self.barrier
            && barrier.applied.is_none()
        {
            barrier.index = Some(index);
            barrier.applied = Some(now);
        }
    }
}

impl Leadership {
    pub(super) fn begin_fencing(&mut self, desk: &mut Desk<'_>) {
        let settings = desk.state.settings();
        let mut longest = settings.terms_fading.iter().map(|terms| terms.lease).fold(settings.terms.lease, Ord::max);
        if planted!("fencing-at-suspicion") {
            longest = settings.terms.suspicion();
        }
        let silent: Vec<(NodeId, Incarnation, Span)> = self.silence.older_than(longest).collect();
        if silent.is_empty() {
            return;
        }
        let held_back = self.held_back(desk);
        for (node, incarnation, _) in silent {
            self.silence.hold_back(node, held_back);
            let pending = Pending::Fencing(node, incarnation);
            if held_back.is_none() && self.pending_keys.insert(pending.clone()) {
                let command = Command::BeginFencing { node, incarnation, cause: FenceCause::Silence };
                desk.propose.push((Origin::Duty, Some(pending), command));
                if planted!("fence-method-before-fencing") {
                    desk.effects.push(Effect::Fence { node, incarnation });
                }
            }
        }
    }

    /// Why no fencing may begin on time alone now.
    fn held_back(&self, desk: &Desk<'_>) -> Option<&'static str> {
        let membership = desk.tail.newest_membership();
        let fewest = if membership.is_joint() {
            membership.voters.len().min(membership.outgoing.len())
        } else {
            membership.voters.len()
        };
        if fewest < 3 && !planted!("small-cluster-fences") {
            return Some("fewer than three voters: time alone fences nobody");
        }
        if desk.tail.has_unapplied_change() {
            return Some("a change of membership is not applied yet");
        }
        if desk.state.brake() != Brake::Off || self.brake.trips(desk) {
            return Some("the brake is on: too many nodes fell silent together");
        }
        if !self.brake.knows(desk) && !planted!("brake-never-trips") {
            return Some("the leader is new: it asks first who else is silent");
        }
        if self.silence.whole_cluster_started(desk, desk.state.settings().boot_grace) {
            return Some("the whole cluster has just started");
        }
        None
    }

    pub(super) fn finish_fencing(&mut self, desk: &mut Desk<'_>) {
        let open: Vec<(NodeId, Incarnation, u64)> = desk
            .state
            .fencing()
            .filter_map(|node| match &node.health {
                Health::Fencing { incarnation, begun, .. } => Some((node.id, *incarnation, begun.0)),
                _ => None,
            })
            .filter(|(_, _, index)| {
                !planted!("open-fencing-is-the-beginners") || desk.tail.term(*index) == Some(desk.tail.hard_state.term)
            })
            .collect();
        self.duties.retain(|node, duty| open.iter().any(|(id, of, _)| id == node && *of == duty.incarnation));
        self.confirmed.retain(|(node, incarnation), _| open.iter().any(|(id, of, _)| id == node && of == incarnation));
        for (node, incarnation, index) in open {
            if let Entry::Vacant(place) = self.duties.entry(node) {
                let term = desk.tail.term(index).unwrap_or(0);
                let fencing = LogPoint { index, term };
                place.insert(Duty::new(desk.now, incarnation, fencing));
                // What the boot known here is shown to have ended says nothing of a later one.
                if !desk.state.node(node).is_some_and(|node| node.may_serve_elsewhere()) {
                    desk.effects.push(Effect::Fence { node, incarnation });
                }
            }
            self.finish(desk, node);
        }
    }

    fn finish(&mut self, desk: &mut Desk<'_>, node: NodeId) {
        let Some(duty) = self.duties.get_mut(&node) else { return };
        if let Some(proof) = self.confirmed.get(&(node, duty.incarnation)) {
            let receipt = Pending::Receipt(node, duty.incarnation);
            if !desk.tail.has_unapplied_change() && self.pending_keys.insert(receipt.clone()) {
                let command = Command::RecordFenced { node, incarnation: duty.incarnation, proof: proof.clone() };
                desk.propose.push((Origin::Duty, Some(receipt), command));
            }
            return;
        }
        let proves = desk.state.node(node).is_some_and(|node| node.lease_proves_end());
        if !proves || desk.tail.has_unapplied_change() {
            return;
        }
        duty.ask(desk, node);
        let receipt = Pending::Receipt(node, duty.incarnation);
        if let Some(voters) = duty.is_over(desk, node, &mut self.pending_keys)
            && self.pending_keys.insert(receipt.clone())
        {
            let proof = Proof::LeaseOver { voters, waited: desk.now.since(duty.since) };
            let command = Command::RecordFenced { node, incarnation: duty.incarnation, proof };
            desk.propose.push((Origin::Duty, Some(receipt), command));
        }
    }

    /// A fence method succeeded for exactly this incarnation, whose `Fencing` is open.
    pub fn confirmed(&mut self, node: NodeId, incarnation: Incarnation, proof: Proof) {
        self.confirmed.insert((node, incarnation), proof);
    }

    /// The lease's end was proven first; what it does not cover, the containers that keep running, still waits for this.
    pub fn confirmed_late(&mut self, node: NodeId, incarnation: Incarnation, proof: Proof, desk: &mut Desk<'_>) {
        if self.settled && awaits_receipt(desk.state, node, incarnation) {
            desk.propose.push((Origin::Duty, None, Command::RecordFenced { node, incarnation, proof }));
        }
    }

    /// A voter says how long the last lease it may have helped to grant can still be good.
    pub fn remaining(
        &mut self,
        now: Moment,
        from: MemberId,
        (node, incarnation, fencing, round): (NodeId, Incarnation, LogPoint, u64),
        remaining: Span,
        drift_ppm: u32,
    ) {
        if let Some(duty) = self.duties.get_mut(&node)
            && duty.incarnation == incarnation
            && duty.fencing == fencing
            && duty.round == round
        {
            // Told by its clock, waited by ours: ours may be the faster one.
            let drift = if planted!("drift-forgotten") { 0 } else { u64::from(drift_ppm) };
            let over_at = now + remaining.scaled_up(1_000_000 + drift, 1_000_000 - drift);
            // After the refusal nothing is granted any more: an answer that says less is simply nearer to the truth.
            duty.over_at.entry(from).and_modify(|known| *known = over_at.min(*known)).or_insert(over_at);
        }
    }
}

/// Whether something on `node` may run on under `incarnation` although that is over.
pub(super) fn awaits_receipt(state: &State, node: NodeId, incarnation: Incarnation) -> bool {
    let awaits = |assignment: &Assignment| {
        assignment.incarnation == incarnation && matches!(assignment.order, Order::AwaitingReceipt { .. })
    };
    state.claims(node).any(|(container, _)| container.assignment().is_some_and(awaits))
}

impl Duty {
    fn new(now: Moment, incarnation: Incarnation, fencing: LogPoint) -> Duty {
        // The moment tells this duty's questions from those of one that was given up after a stall.
        Duty { incarnation, fencing, round: now.0, since: now, asked: None, over_at: BTreeMap::new(), barrier: None }
    }

    fn ask(&mut self, desk: &mut Desk<'_>, node: NodeId) {
        let longest = desk.state.settings().longest_wait();
        let own = desk.leases.remaining(desk.now, node, self.incarnation, longest);
        self.over_at.insert(desk.me, desk.now + own);
        let complete = desk.tail.newest_membership().all_voters().iter().all(|id| self.over_at.contains_key(id));
        let due = self.asked.is_none_or(|asked| desk.now.since(asked) >= ASK_EVERY);
        if due && !complete {
            self.asked = Some(desk.now);
            desk.ask_voters(PeerMessage::AskRemaining {
                round: self.round,
                node,
                incarnation: self.incarnation,
                fencing: self.fencing,
            });
        }
    }

    /// The majority for which every lease is over; `None` while there is none.
    fn is_over(
        &mut self,
        desk: &mut Desk<'_>,
        node: NodeId,
        pending: &mut std::collections::BTreeSet<Pending>,
    ) -> Option<Arc<[MemberId]>> {
        let membership = desk.tail.newest_membership();
        let over = |member: MemberId| self.over_at.get(&member).is_some_and(|at| *at <= desk.now);
        let earliest = membership.majority_value(|member| self.over_at.get(&member).copied().map(Reverse))?.0;
        if earliest > desk.now {
            return None;
        }
        let voters = membership.all_voters().into_iter().filter(|member| over(*member)).collect();
        let drift = u64::from(desk.state.settings().terms.drift_ppm);
        let full = desk.state.settings().longest_wait().scaled_up(1_000_000 + drift, 1_000_000 - drift);
        let young = membership.index > 0 && desk.now.since(desk.membership_since) < full;
        let settled = !membership.is_joint() && !young && self.barrier.is_none();
        if settled || planted!("young-membership-not-waited") {
            return Some(voters);
        }
        // The membership that governs is too new for what voters remember of the one before: a full W, from an entry
        // of our own that everybody who could still acknowledge has to have behind the refusal.
        if self.barrier.as_ref().is_none_or(|barrier| barrier.membership != membership.index) {
            if !pending.insert(Pending::Barrier(node)) {
                return None;
            }
            self.barrier = Some(Barrier { membership: membership.index, index: None, applied: None });
            desk.propose.push((Origin::Duty, Some(Pending::Barrier(node)), Command::Settle));
            return None;
        }
        let waited = self.barrier.as_ref().and_then(|barrier| barrier.applied)?;
        (desk.now.since(waited) >= full).then_some(voters)
    }
}

//! How an incarnation ends: fencing begins, a receipt proves it over, and only then its containers are free.
//! In: causes and proofs. Out: the same promise every time: what a receipt does not cover stays where it is.
//! Source: safety.md, "Quorum leases" 4 to 7, 9, 10.

use std::sync::Arc;

use planted::planted;

use super::{Done, Outcome, Rejected, Step, valid, wrong_state};
use crate::event::Event;
use crate::model::container::{Container, OnQuorumLoss, Order, Placement, Unplaced};
use crate::model::fence::{FenceCause, Proof, Receipt, ReceiptScope};
use crate::model::ids::{Incarnation, NodeId};
use crate::model::node::{Health, Node};
use crate::names::Names;
use crate::state::{Brake, Claim};

/// With fewer voters a lease proves nothing worth betting on: one lost member stops every lease *(b12)*.
const VOTERS_FOR_TIME: usize = 3;

impl Step<'_> {
    pub(super) fn begin_fencing(&mut self, id: NodeId, incarnation: Incarnation, cause: &FenceCause) -> Outcome {
        let mut node = self.node(id)?;
        let current = node.health.incarnation();
        if incarnation != current || node.health == Health::Joined {
            return Err(Rejected::StaleIncarnation { node: id, given: incarnation, current });
        }
        let Health::Up { boot, .. } = node.health else {
            return Err(wrong_state(format!("{} {incarnation} is {} already", node.name, node.health)));
        };
        match cause {
            FenceCause::Silence => self.time_may_fence()?,
            FenceCause::Operator { reason } | FenceCause::OutsideFact { evidence: reason } => valid::reason(reason)?,
            FenceCause::RebootSeen { .. } | FenceCause::StopOverdue => {}
            FenceCause::Recovered { .. } => return Err(wrong_state("only a recovery begins this".to_owned())),
        }
        node.health = Health::Fencing { incarnation, boot, begun: self.index, cause: cause.clone() };
        let name = node.name.clone();
        self.events.push(Event::FencingBegun { node: id, name, incarnation, cause: cause.clone() });
        self.say_who_is_awaited(&node);
        self.state.put_node(node);
        if planted!("fencing-frees") {
            self.release_covered(id, incarnation, &Proof::Guard);
        }
        Ok(Done::Node(id))
    }

    /// Time proves nothing here: that must not look like waiting for it.
    pub(super) fn say_who_is_awaited(&mut self, node: &Node) {
        if node.awaits_operator() {
            let (name, incarnation) = (node.name.clone(), node.health.incarnation());
            let reason = node.facts.as_ref().map_or_else(Arc::default, |facts| Arc::clone(&facts.class_reason));
            self.events.push(Event::FencingAwaitsOperator { node: node.id, name, incarnation, reason });
        }
    }

    /// Silence alone fences only with the brake off and enough voters to tell a lost node from a lost network.
    fn time_may_fence(&self) -> Result<(), Rejected> {
        if let Brake::On { silent, of, .. } = self.state.brake() {
            let problem = format!("the brake is on: {silent} of {of} nodes fell silent together");
            return Err(wrong_state(problem));
        }
        let membership = self.state.membership();
        let few = |voters: usize| voters < VOTERS_FOR_TIME && !planted!("small-cluster-fences");
        if few(membership.voters.len()) || (membership.is_joint() && few(membership.outgoing.len())) {
            return Err(wrong_state(format!("with fewer than {VOTERS_FOR_TIME} voters time alone fences nobody")));
        }
        Ok(())
    }

    pub(super) fn record_fenced(&mut self, id: NodeId, incarnation: Incarnation, proof: &Proof) -> Outcome {
        let node = self.node(id)?;
        let current = node.health.incarnation();
        match proof {
            Proof::Confirmed { method: reason, .. } | Proof::Operator { reason } => valid::reason(reason)?,
            Proof::LeaseOver { .. } | Proof::Left | Proof::Guard | Proof::Empty => {}
        }
        if incarnation != current || node.health == Health::Joined {
            return self.record_old_incarnation(&node, incarnation, proof);
        }
        let not_proof = |problem: &str| Rejected::NotProof { node: id, problem: problem.into() };
        match &node.health {
            Health::Joined => unreachable!("answered above"),
            Health::Up { .. } if proof.needs_open_fencing() => {
                return Err(not_proof("this proof needs an open fencing; begin that first"));
            }
            Health::Up { .. } | Health::Fencing { .. } => {
                if !node.is_ended_by(proof) && node.may_serve_elsewhere() {
                    let problem = "it may serve an earlier generation; let it cross over, or confirm that it is down";
                    return Err(not_proof(problem));
                }
                if !node.is_ended_by(proof) {
                    return Err(not_proof("in class F0 the end of a lease proves nothing; confirm that it is off"));
                }
            }
            // A stronger proof, for what the first one did not cover.
            Health::Fenced { .. } => {
                if proof.scope() != ReceiptScope::Node || !self.awaits_proof(id, incarnation, proof) {
                    return Err(wrong_state(format!("{} {incarnation} is fenced already", node.name)));
                }
            }
        }
        self.fence(&node, proof.clone());
        self.settle_terms();
        Ok(Done::Node(id))
    }

    /// A further proof about an incarnation before the current one: only what is still awaited from it is released.
    fn record_old_incarnation(&mut self, node: &Node, incarnation: Incarnation, proof: &Proof) -> Outcome {
        let names_it = matches!(proof, Proof::Confirmed { .. } | Proof::Operator { .. });
        if !names_it || !self.awaits_receipt(node.id, incarnation) {
            let current = node.health.incarnation();
            return Err(Rejected::StaleIncarnation { node: node.id, given: incarnation, current });
        }
        let (name, proof) = (node.name.clone(), proof.clone());
        self.events.push(Event::NodeFenced { node: node.id, name, incarnation, proof: proof.clone() });
        self.release_covered(node.id, incarnation, &proof);
        Ok(Done::Node(node.id))
    }

    /// Records the receipt for the current incarnation of `node` and frees what it covers.
    pub(super) fn fence(&mut self, node: &Node, proof: Proof) {
        let incarnation = node.health.incarnation();
        let boot = node.health.boot().expect("only a node that registered is fenced");
        let receipt = Receipt { node: node.id, incarnation, boot, proof: proof.clone(), recorded: self.index };
        self.state.put_node(Node { health: Health::Fenced { receipt: Arc::new(receipt) }, ..node.clone() });
        let name = node.name.clone();
        self.events.push(Event::NodeFenced { node: node.id, name, incarnation, proof: proof.clone() });
        self.release_covered(node.id, incarnation, &proof);
    }

    fn release_covered(&mut self, id: NodeId, incarnation: Incarnation, proof: &Proof) {
        for (container, claim) in self.claims_on(id) {
            let Some(assignment) = container.assignment() else { continue };
            match claim {
                Claim::Owner if !covers(proof, incarnation, assignment.incarnation) => {}
                Claim::Owner if proof.scope() == ReceiptScope::Node || planted!("time-frees-kept") => {
                    self.displace(container)
                }
                Claim::Owner => match assignment.on_quorum_loss {
                    OnQuorumLoss::Stop => self.displace(container),
                    OnQuorumLoss::Keep => self.await_receipt(container),
                },
                Claim::Target => self.lose_target(container, incarnation, proof),
            }
        }
    }

    /// Whether anything on `id` may still run under exactly this incarnation after its receipt.
    pub(super) fn awaits_receipt(&self, id: NodeId, incarnation: Incarnation) -> bool {
        self.awaited(id).any(|awaited| awaited == incarnation)
    }

    fn awaits_proof(&self, id: NodeId, incarnation: Incarnation, proof: &Proof) -> bool {
        self.awaited(id).any(|awaited| covers(proof, incarnation, awaited))
    }

    /// The incarnations under which containers on `id` await a receipt.
    fn awaited(&self, id: NodeId) -> impl Iterator<Item = Incarnation> {
        self.state.claims(id).filter_map(|(container, _)| match container.assignment() {
            Some(assignment) if matches!(assignment.order, Order::AwaitingReceipt { .. }) => {
                Some(assignment.incarnation)
            }
            _ => None,
        })
    }

    /// The same boot is back and what it kept still runs there: it goes on, now under the new incarnation.
    pub(super) fn adopt_kept(&mut self, id: NodeId, old: Incarnation) {
        for (mut container, _) in self.claims_on(id) {
            let order = super::containers::order_for(container.desired);
            if let Placement::Assigned(assignment) = &mut container.placement
                && assignment.incarnation == old
                && matches!(assignment.order, Order::AwaitingReceipt { .. })
            {
                assignment.incarnation = Incarnation(self.index.0);
                if planted!("adopted-under-another-policy") {
                    assignment.on_quorum_loss = OnQuorumLoss::Stop;
                }
                assignment.order = order;
                self.put(container);
            }
        }
    }

    fn claims_on(&self, id: NodeId) -> Vec<(Container, Claim)> {
        self.state.claims(id).map(|(container, claim)| (Container::clone(container), claim)).collect()
    }

    /// The node that had it is proven to run it no more.
    fn displace(&mut self, mut container: Container) {
        let Some(assignment) = container.assignment() else { return };
        let (from, epoch) = (assignment.node, assignment.epoch);
        container.displacements += 1;
        let name = container.spec.name.clone();
        self.events.push(Event::ContainerDisplaced { container: container.id, name, from, epoch });
        self.unplace(container, Unplaced::Displaced { from });
    }

    fn await_receipt(&mut self, mut container: Container) {
        let Placement::Assigned(assignment) = &mut container.placement else { return };
        assignment.order = Order::AwaitingReceipt { since: self.index };
        let (on, epoch, name) = (assignment.node, assignment.epoch, container.spec.name.clone());
        self.events.push(Event::ContainerAwaitsReceipt { container: container.id, name, on, epoch });
        self.put(container);
    }

    /// The target of a handover is gone: before `Handoff` the source just keeps it, after it the source still has to
    /// close the epoch first.
    fn lose_target(&mut self, container: Container, lost: Incarnation, proof: &Proof) {
        let order = container.assignment().map(|assignment| &assignment.order);
        if let Some(Order::Prepare { target, target_incarnation, .. }) = order
            && *target_incarnation == lost
        {
            let target = self.state.node_name(*target);
            let reason = match proof {
                Proof::Empty => format!("{target} registered anew before it was ready, {lost} is over"),
                proof => format!("{target} {lost} is fenced: {proof}"),
            };
            self.back_to_run(container, reason.into());
        }
    }
}

/// An operator vouches for the machine, so for whatever ran on it before as well; every other proof names one
/// incarnation.
fn covers(proof: &Proof, named: Incarnation, assigned: Incarnation) -> bool {
    match proof {
        Proof::Operator { .. } => assigned <= named,
        _ => assigned == named,
    }
}

//! A container changes its node while nothing is lost: prepare, hand off, close, run elsewhere.
//! The rule that matters: before `Handoff` everything goes back to the source at the same epoch; after it only forward.

use std::sync::Arc;

use planted::planted;

use super::{Done, Outcome, Rejected, Step, valid, wrong_state};
use crate::event::Event;
use crate::model::container::{Assignment, Container, Order, Placement, Unplaced};
use crate::model::decision::{Decision, Trigger};
use crate::model::ids::{ContainerId, Epoch, Incarnation, NodeId};
use crate::names::Names;
use crate::placement;

impl Step<'_> {
    pub(super) fn begin_handover(
        &mut self,
        id: ContainerId,
        epoch: Epoch,
        target: NodeId,
        decision: &Decision,
    ) -> Outcome {
        let (container, assignment) = self.assigned(id, epoch)?;
        if assignment.order != Order::Run {
            return Err(wrong_state(format!("{} is not simply running", container.spec.name)));
        }
        if assignment.node == target {
            let target = self.state.node_name(target);
            return Err(wrong_state(format!("{} is on {target} already", container.spec.name)));
        }
        let incarnation = self.current_incarnation(target)?;
        self.check_target(&container, target, incarnation, decision)?;
        self.prepare(container, target, incarnation, decision.clone());
        Ok(Done::Container(id))
    }

    /// Reserves the room on `target`. Everything was checked.
    pub(super) fn prepare(
        &mut self,
        mut container: Container,
        target: NodeId,
        incarnation: Incarnation,
        why: Decision,
    ) {
        let Placement::Assigned(assignment) = &mut container.placement else { return };
        let since = self.index;
        assignment.order = Order::Prepare { target, target_incarnation: incarnation, ready: false, since };
        let (from, epoch, name) = (assignment.node, assignment.epoch, container.spec.name.clone());
        self.events.push(Event::HandoverBegun { container: container.id, name, from, to: target, epoch });
        container.decision = Some(self.index);
        self.state.put_decision(self.index, why);
        self.put(container);
    }

    /// The target has room, template and storage at hand.
    pub(super) fn prepared(&mut self, mut container: Container) {
        let Placement::Assigned(assignment) = &mut container.placement else { return };
        let Order::Prepare { target, ready, .. } = &mut assignment.order else { return };
        if !std::mem::replace(ready, true) {
            let (to, epoch, name) = (*target, assignment.epoch, container.spec.name.clone());
            self.events.push(Event::HandoverReady { container: container.id, name, to, epoch });
            self.put(container);
        }
    }

    pub(super) fn begin_handoff(&mut self, id: ContainerId, epoch: Epoch) -> Outcome {
        let (mut container, mut assignment) = self.assigned(id, epoch)?;
        let Order::Prepare { target, target_incarnation, ready: true, .. } = assignment.order else {
            return Err(wrong_state(format!("the target of {} is not ready", container.spec.name)));
        };
        let current = self.current_incarnation(target)?;
        if current != target_incarnation {
            return Err(Rejected::StaleIncarnation { node: target, given: target_incarnation, current });
        }
        assignment.order = Order::Handoff { target, target_incarnation, since: self.index };
        let (from, name) = (assignment.node, container.spec.name.clone());
        container.placement = Placement::Assigned(assignment);
        self.put(container);
        self.events.push(Event::HandoffBegun { container: id, name, from, epoch });
        if planted!("target-owns-at-handoff")
            && let Ok(container) = self.container(id)
        {
            self.hand_over(container, from, target, target_incarnation);
        }
        Ok(Done::Container(id))
    }

    pub(super) fn abort_handover(&mut self, id: ContainerId, epoch: Epoch, reason: &Arc<str>) -> Outcome {
        valid::reason(reason)?;
        let (container, assignment) = self.assigned(id, epoch)?;
        match assignment.order {
            Order::Prepare { .. } => self.back_to_run(container, Arc::clone(reason)),
            Order::Handoff { .. } if planted!("handoff-goes-back") => self.back_to_run(container, Arc::clone(reason)),
            Order::Handoff { .. } | Order::Blocked { .. } => {
                let problem = format!("{} is past its handoff; it can only go forward", container.spec.name);
                return Err(wrong_state(problem));
            }
            _ => return Err(wrong_state(format!("{} is not being handed over", container.spec.name))),
        }
        Ok(Done::Container(id))
    }

    /// From `Prepare` back to the source at the same epoch.
    pub(super) fn back_to_run(&mut self, mut container: Container, reason: Arc<str>) {
        let Placement::Assigned(assignment) = &mut container.placement else { return };
        assignment.order = Order::Run;
        let (epoch, name) = (assignment.epoch, container.spec.name.clone());
        self.events.push(Event::HandoverAborted { container: container.id, name, epoch, reason });
        self.put(container);
    }

    pub(super) fn block_handover(&mut self, id: ContainerId, epoch: Epoch) -> Outcome {
        let (mut container, mut assignment) = self.assigned(id, epoch)?;
        let Order::Handoff { target, .. } = assignment.order else {
            return Err(wrong_state(format!("{} is not past its handoff", container.spec.name)));
        };
        assignment.order = Order::Blocked { target, since: self.index };
        let (on, name) = (assignment.node, container.spec.name.clone());
        container.placement = Placement::Assigned(assignment);
        self.put(container);
        self.events.push(Event::HandoverBlocked { container: id, name, on, epoch });
        Ok(Done::Container(id))
    }

    /// The source has closed its epoch after `Handoff`. The target gets it at once, if it still may; what the planner
    /// decided stays the decision. Otherwise that is said, and it waits for a place like any other.
    pub(super) fn hand_over(&mut self, container: Container, from: NodeId, target: NodeId, prepared: Incarnation) {
        let called = self.state.node_name(target);
        let current = self.state.node(target).and_then(|node| node.up());
        let lost = match placement::feasible(self.state, &container, target) {
            _ if current != Some(prepared) => Some(format!("{called} is no longer up as {prepared}")),
            Err(rejection) => Some(format!("{called}: {rejection}")),
            Ok(_) => None,
        };
        if let Some(why) = lost {
            let (name, epoch) = (container.spec.name.clone(), container.epoch);
            let reason = format!("{why}; it goes where there is a place").into();
            self.events.push(Event::HandoverAborted { container: container.id, name, epoch, reason });
            return self.unplace(container, Unplaced::Moving { from });
        }
        let decision = container.decision.and_then(|revision| self.state.decision(revision));
        let trigger = decision.map_or(Trigger::Moved { by_request: false }, |decision| decision.trigger.clone());
        let home = match trigger {
            Trigger::Moved { by_request: true } => Some(target),
            _ => container.home,
        };
        self.hand_to(Container { home, ..container }, target, prepared, trigger);
    }

    /// The container and its assignment, if `epoch` is the one in force.
    fn assigned(&self, id: ContainerId, epoch: Epoch) -> Result<(Container, Assignment), Rejected> {
        let container = self.container(id)?;
        match container.assignment() {
            Some(assignment) if assignment.epoch == epoch => {
                let assignment = assignment.clone();
                Ok((container, assignment))
            }
            _ if epoch != container.epoch => {
                Err(Rejected::StaleEpoch { container: id, given: epoch, current: container.epoch })
            }
            _ => Err(wrong_state(format!("{} is assigned to nobody", container.spec.name))),
        }
    }
}

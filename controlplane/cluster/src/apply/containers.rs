//! What people want of containers and where the planner puts them.
//! The rule that matters: an assignment is given only to what nobody may run, under an epoch never given before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use planted::planted;

use super::{Done, Kind, Outcome, Rejected, Step, invalid, not_found, valid, wrong_state};
use crate::event::Event;
use crate::model::container::{
    AfterStop, Assignment, Container, ContainerSpec, Desired, OnQuorumLoss, Order, Placement, Unplaced,
};
use crate::model::decision::{Decision, Trigger};
use crate::model::ids::{ContainerId, Epoch, Incarnation, NodeId};
use crate::placement::{self, Rejection, Unplaceable};

impl Step<'_> {
    pub(super) fn create_container(
        &mut self,
        spec: &Arc<ContainerSpec>,
        annotations: &Arc<BTreeMap<String, String>>,
        desired: Desired,
    ) -> Outcome {
        if desired == Desired::Deleted {
            return Err(invalid("desired", "a container begins running or stopped"));
        }
        valid::spec(self.state, spec)?;
        valid::annotations(annotations)?;
        self.state.template(&spec.template).ok_or_else(|| not_found(Kind::Template, &spec.template))?;
        self.state.storage(&spec.storage).ok_or_else(|| not_found(Kind::Storage, &spec.storage))?;
        if let Some(holder) = self.state.container_named(&spec.name) {
            let holder = holder.id.to_string().into();
            return Err(Rejected::NameTaken { kind: Kind::Container, name: spec.name.as_str().into(), holder });
        }
        let id = self.state.new_container_id();
        let reason = if desired == Desired::Running { Unplaced::New } else { Unplaced::Stopped };
        self.state.put_container(Container {
            id,
            spec: Arc::clone(spec),
            annotations: Arc::clone(annotations),
            desired,
            placement: Placement::Unplaced { since: self.index, reason },
            epoch: Epoch(0),
            home: None,
            restarts: Arc::default(),
            start_failures: Arc::default(),
            displacements: 0,
            decision: None,
            created: self.index,
        });
        self.events.push(Event::ContainerCreated { container: id, name: spec.name.clone() });
        Ok(Done::Container(id))
    }

    pub(super) fn set_desired(&mut self, id: ContainerId, desired: Desired) -> Outcome {
        let mut container = self.container(id)?;
        if container.desired == Desired::Deleted && desired != Desired::Deleted {
            return Err(wrong_state(format!("{} is being deleted", container.spec.name)));
        }
        let changed = container.desired != desired;
        container.desired = desired;
        if changed {
            let name = container.spec.name.clone();
            self.events.push(Event::ContainerDesired { container: id, name, desired });
        }
        match desired {
            Desired::Running => self.start(container, changed),
            Desired::Stopped | Desired::Deleted => self.stop(container, changed),
        }
        Ok(Done::Container(id))
    }

    /// A person's start gives a new budget and forgets where it failed; an epoch that is being closed is let close first.
    fn start(&mut self, mut container: Container, changed: bool) {
        let reason = match &mut container.placement {
            Placement::Assigned(assignment) => {
                if let Order::Stop { then: then @ AfterStop::Rest } = &mut assignment.order {
                    *then = AfterStop::Restart;
                }
                None
            }
            Placement::Unplaced { reason: Unplaced::New, .. } if !changed => None,
            Placement::Unplaced { .. } => Some(Unplaced::New),
        };
        match reason {
            Some(reason) => {
                container.restarts = Arc::default();
                container.start_failures = Arc::default();
                self.unplace(container, reason);
            }
            None => self.put(container),
        }
    }

    fn stop(&mut self, mut container: Container, changed: bool) {
        match &mut container.placement {
            Placement::Unplaced { .. } if changed => self.unplace(container, Unplaced::Stopped),
            Placement::Unplaced { .. } => {}
            Placement::Assigned(assignment) => {
                match &assignment.order {
                    Order::Run | Order::Stop { .. } => assignment.order = Order::Stop { then: AfterStop::Rest },
                    Order::Prepare { .. } => {
                        assignment.order = Order::Stop { then: AfterStop::Rest };
                        let (name, epoch) = (container.spec.name.clone(), assignment.epoch);
                        let reason = "it is to stop".into();
                        self.events.push(Event::HandoverAborted { container: container.id, name, epoch, reason });
                    }
                    // On its way to a closed epoch or to a receipt: what is wanted is done then.
                    Order::Handoff { .. } | Order::Blocked { .. } | Order::AwaitingReceipt { .. } => {}
                }
                self.put(container);
            }
        }
    }

    pub(super) fn restart_container(&mut self, id: ContainerId) -> Outcome {
        let mut container = self.container(id)?;
        wanted_running(&container)?;
        let Placement::Assigned(assignment) = &mut container.placement else {
            self.start(container, true);
            return Ok(Done::Container(id));
        };
        match &assignment.order {
            Order::Stop { .. } => return Ok(Done::Container(id)),
            Order::Run => assignment.order = Order::Stop { then: AfterStop::Restart },
            Order::Prepare { .. } | Order::Handoff { .. } | Order::Blocked { .. } | Order::AwaitingReceipt { .. } => {
                let doing = doing(&assignment.order);
                return Err(wrong_state(format!("{} is {doing}; try again afterwards", container.spec.name)));
            }
        }
        self.put(container);
        Ok(Done::Container(id))
    }

    pub(super) fn move_container(&mut self, id: ContainerId, target: Option<NodeId>) -> Outcome {
        let container = self.container(id)?;
        wanted_running(&container)?;
        let from = container.assignment().map(|assignment| assignment.node);
        if let Some(assignment) = container.assignment() {
            if assignment.order != Order::Run {
                let doing = doing(&assignment.order);
                return Err(wrong_state(format!("{} is {doing}; try again afterwards", container.spec.name)));
            }
            if target == Some(assignment.node) {
                return Err(wrong_state(format!("{} is on {} already", container.spec.name, assignment.node)));
            }
        }
        let decision = self.decide_move(&container, from, target)?;
        let node = decision.chosen.expect("a move is decided only with a target");
        let incarnation = self.current_incarnation(node)?;
        if from.is_some() {
            self.prepare(container, node, incarnation, decision);
        } else {
            self.assign(container, node, incarnation, decision);
        }
        Ok(Done::Container(id))
    }

    fn decide_move(
        &self,
        container: &Container,
        from: Option<NodeId>,
        target: Option<NodeId>,
    ) -> Result<Decision, Rejected> {
        let trigger = Trigger::Moved { by_request: true };
        if let Some(target) = target {
            self.node(target)?;
            return placement::decide_for(self.state, container, trigger, target)
                .map_err(|rejection| infeasible(container.id, target, &rejection));
        }
        let decision = placement::decide(self.state, container, trigger, from, &BTreeSet::new());
        match Unplaceable::of(&decision) {
            None => Ok(decision),
            Some(nowhere) => {
                let problem = format!("no other node may take {}: {}", container.spec.name, nowhere.summary());
                Err(wrong_state(problem))
            }
        }
    }

    pub(super) fn annotate_container(
        &mut self,
        id: ContainerId,
        changes: &BTreeMap<String, Option<String>>,
    ) -> Outcome {
        let mut container = self.container(id)?;
        let mut annotations = BTreeMap::clone(&container.annotations);
        for (key, value) in changes {
            match value {
                Some(value) => annotations.insert(key.clone(), value.clone()),
                None => annotations.remove(key),
            };
        }
        valid::annotations(&annotations)?;
        if annotations != *container.annotations {
            container.annotations = Arc::new(annotations);
            self.events.push(Event::ContainerAnnotated { container: id, name: container.spec.name.clone() });
            self.put(container);
        }
        Ok(Done::Container(id))
    }

    /// What is assigned stays as it is: its epoch was begun under the policy it has *(7, a4)*.
    pub(super) fn set_on_quorum_loss(&mut self, id: ContainerId, on_quorum_loss: OnQuorumLoss) -> Outcome {
        let mut container = self.container(id)?;
        if container.spec.on_quorum_loss != on_quorum_loss {
            Arc::make_mut(&mut container.spec).on_quorum_loss = on_quorum_loss;
            if planted!("policy-of-the-running-epoch")
                && let Placement::Assigned(assignment) = &mut container.placement
            {
                assignment.on_quorum_loss = on_quorum_loss;
            }
            let name = container.spec.name.clone();
            self.events.push(Event::ContainerPolicyChanged { container: id, name, on_quorum_loss });
            self.put(container);
        }
        Ok(Done::Container(id))
    }

    pub(super) fn assign_container(
        &mut self,
        id: ContainerId,
        after: Epoch,
        node: NodeId,
        incarnation: Incarnation,
        decision: &Decision,
    ) -> Outcome {
        let container = self.container(id)?;
        if after != container.epoch {
            return Err(Rejected::StaleEpoch { container: id, given: after, current: container.epoch });
        }
        wanted_running(&container)?;
        match &container.placement {
            Placement::Unplaced { reason: Unplaced::Held { .. }, .. } => {
                return Err(wrong_state(format!("{} is held; start it", container.spec.name)));
            }
            Placement::Unplaced { .. } => {}
            Placement::Assigned(assignment) => {
                return Err(wrong_state(format!("{} is assigned to {}", container.spec.name, assignment.node)));
            }
        }
        self.check_target(&container, node, incarnation, decision)?;
        self.assign(container, node, incarnation, decision.clone());
        Ok(Done::Container(id))
    }

    pub(super) fn record_unplaceable(&mut self, id: ContainerId, decision: &Decision) -> Outcome {
        let mut container = self.container(id)?;
        if decision.container != id || decision.chosen.is_some() {
            return Err(invalid("decision", "it is about another container or has a place"));
        }
        if !container.wants_place() {
            return Err(wrong_state(format!("{} does not wait for a place", container.spec.name)));
        }
        let nowhere = Unplaceable { container: id, rejections: Arc::clone(&decision.rejections) };
        let (name, reason) = (container.spec.name.clone(), nowhere.summary().into());
        self.events.push(Event::ContainerUnplaceable { container: id, name, reason });
        container.decision = Some(self.index);
        self.state.put_decision(self.index, decision.clone());
        self.put(container);
        Ok(Done::Container(id))
    }

    pub(super) fn hold_container(&mut self, id: ContainerId, after: Epoch, reason: &Arc<str>) -> Outcome {
        let container = self.container(id)?;
        valid::reason(reason)?;
        if after != container.epoch {
            return Err(Rejected::StaleEpoch { container: id, given: after, current: container.epoch });
        }
        if !container.wants_place() {
            return Err(wrong_state(format!("{} does not wait for a place", container.spec.name)));
        }
        self.hold(container, Arc::clone(reason));
        Ok(Done::Container(id))
    }

    pub(super) fn hold(&mut self, container: Container, reason: Arc<str>) {
        let (id, name) = (container.id, container.spec.name.clone());
        self.events.push(Event::ContainerHeld { container: id, name, reason: Arc::clone(&reason) });
        self.unplace(container, Unplaced::Held { reason });
    }

    /// What every new owner must pass, whoever chose it: current, feasible, and the one the decision names.
    pub(super) fn check_target(
        &self,
        container: &Container,
        node: NodeId,
        incarnation: Incarnation,
        decision: &Decision,
    ) -> Result<(), Rejected> {
        if decision.container != container.id || decision.chosen != Some(node) {
            return Err(invalid("decision", "it is about another container or another node"));
        }
        let current = self.current_incarnation(node)?;
        if incarnation != current {
            return Err(Rejected::StaleIncarnation { node, given: incarnation, current });
        }
        placement::feasible(self.state, container, node).map_err(|rejection| infeasible(container.id, node, &rejection))
    }

    /// The incarnation that may be given work: asked before every assignment, whoever wants it. None while any node may
    /// run any container on behalf of an earlier generation *(a5)*.
    pub(super) fn current_incarnation(&self, node: NodeId) -> Result<Incarnation, Rejected> {
        if let Some(awaited) = self.state.awaited_from_before() {
            return Err(wrong_state(format!("{} may serve an earlier generation of the cluster", awaited.name)));
        }
        let node = self.node(node)?;
        node.up().ok_or_else(|| wrong_state(format!("{} is {}", node.name, node.health)))
    }

    /// Gives it to `node` under the next epoch. Everything was checked.
    pub(super) fn assign(
        &mut self,
        mut container: Container,
        node: NodeId,
        incarnation: Incarnation,
        decision: Decision,
    ) {
        let deliberate = matches!(decision.trigger, Trigger::Created | Trigger::Moved { by_request: true });
        if deliberate || container.home.is_none() {
            container.home = Some(node);
        }
        container.decision = Some(self.index);
        let trigger = decision.trigger.clone();
        self.state.put_decision(self.index, decision);
        self.hand_to(container, node, incarnation, trigger);
    }

    /// The one place where an assignment is born.
    pub(super) fn hand_to(
        &mut self,
        mut container: Container,
        node: NodeId,
        incarnation: Incarnation,
        trigger: Trigger,
    ) {
        let mut epoch = container.epoch.next();
        if planted!("epoch-stays-with-the-node")
            && self.state.status(container.id).is_some_and(|status| status.node == node)
        {
            epoch = container.epoch;
        }
        container.epoch = epoch;
        container.placement = Placement::Assigned(Assignment {
            node,
            incarnation,
            epoch,
            on_quorum_loss: container.spec.on_quorum_loss,
            order: Order::Run,
            since: self.index,
        });
        let (id, name) = (container.id, container.spec.name.clone());
        self.events.push(Event::ContainerAssigned { container: id, name, node, epoch, trigger });
        self.put(container);
    }

    /// Nobody may run it from here on. What is wanted of it decides what becomes of it.
    pub(super) fn unplace(&mut self, mut container: Container, reason: Unplaced) {
        let (id, name) = (container.id, container.spec.name.clone());
        let reason = match container.desired {
            Desired::Running => reason,
            Desired::Stopped | Desired::Deleted => Unplaced::Stopped,
        };
        let deleted = container.desired == Desired::Deleted;
        container.placement = Placement::Unplaced { since: self.index, reason };
        self.put(container);
        if deleted {
            self.state.drop_container(id);
            self.events.push(Event::ContainerDeleted { container: id, name });
        }
    }
}

/// What an assignment is told when nothing else is under way.
pub(crate) fn order_for(desired: Desired) -> Order {
    match desired {
        Desired::Running => Order::Run,
        Desired::Stopped | Desired::Deleted => Order::Stop { then: AfterStop::Rest },
    }
}

fn wanted_running(container: &Container) -> Result<(), Rejected> {
    match container.desired {
        Desired::Running => Ok(()),
        desired => Err(wrong_state(format!("{} is wanted {desired}; start it first", container.spec.name))),
    }
}

fn doing(order: &Order) -> &'static str {
    match order {
        Order::Run => "running",
        Order::Stop { .. } => "being stopped",
        Order::Prepare { .. } | Order::Handoff { .. } => "being handed over",
        Order::Blocked { .. } => "blocked in a handover",
        Order::AwaitingReceipt { .. } => "waiting for proof that its machine is off",
    }
}

fn infeasible(container: ContainerId, node: NodeId, rejection: &Rejection) -> Rejected {
    Rejected::Infeasible { container, node, reason: rejection.to_string().into() }
}

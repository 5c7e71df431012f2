//! Containers: what is wanted, who may run them, what was seen.

use std::sync::Arc;

use cluster::{
    AfterStop, Assignment, Class, Container, ContainerId, ContainerSpec, Desired, End, Epoch, Exit, Incarnation,
    NodeId, Observed, OnQuorumLoss, Order, Placement, RestartCondition, RestartPolicy, Revision, Span, StartFailure,
    Status, Unplaced, WallTime,
};

use super::{ConvertError, NOTHING, Result, choice, each, name, part, required, same_variants, text};
use crate::wire::{self, end, exit, observed, order, placement, unplaced};

same_variants! {
    Class = wire::Class { Guaranteed, BestEffort, None }
    OnQuorumLoss = wire::OnQuorumLoss { Stop, Keep }
    RestartCondition = wire::RestartCondition { Always, OnFailure, Never }
    Desired = wire::Desired { Running, Stopped, Deleted }
    AfterStop = wire::AfterStop { Rest, Restart }
}

impl From<&RestartPolicy> for wire::RestartPolicy {
    fn from(policy: &RestartPolicy) -> wire::RestartPolicy {
        let RestartPolicy { condition, max, period } = *policy;
        wire::RestartPolicy { condition: wire::RestartCondition::from(condition).into(), max, period_ns: period.0 }
    }
}

impl TryFrom<wire::RestartPolicy> for RestartPolicy {
    type Error = ConvertError;

    fn try_from(policy: wire::RestartPolicy) -> Result<RestartPolicy> {
        Ok(RestartPolicy {
            condition: choice::<wire::RestartCondition, _>("condition", policy.condition)?,
            max: policy.max,
            period: Span(policy.period_ns),
        })
    }
}

impl From<&ContainerSpec> for wire::ContainerSpec {
    fn from(spec: &ContainerSpec) -> wire::ContainerSpec {
        let ContainerSpec {
            name,
            template,
            storage,
            command,
            environment,
            resources,
            class,
            priority,
            possible_owners,
            preferred_owners,
            restart,
            on_quorum_loss,
            stop_grace,
            application_templates,
        } = spec;
        let nodes = |nodes: &[NodeId]| nodes.iter().map(|id| id.0).collect();
        wire::ContainerSpec {
            name: name.to_string(),
            template: template.to_string(),
            storage: storage.to_string(),
            command: command.iter().map(|word| word.to_string()).collect(),
            environment: (**environment).clone(),
            resources: Some(resources.into()),
            class: wire::Class::from(*class).into(),
            priority: u32::from(*priority),
            possible_owners: nodes(possible_owners),
            preferred_owners: preferred_owners.iter().map(|tier| wire::OwnerTier { nodes: nodes(tier) }).collect(),
            restart: Some(restart.into()),
            on_quorum_loss: wire::OnQuorumLoss::from(*on_quorum_loss).into(),
            stop_grace_ns: stop_grace.0,
            application_templates: application_templates.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<wire::ContainerSpec> for ContainerSpec {
    type Error = ConvertError;

    fn try_from(spec: wire::ContainerSpec) -> Result<ContainerSpec> {
        let nodes = |nodes: Vec<u64>| nodes.into_iter().map(NodeId).collect();
        Ok(ContainerSpec {
            name: name("name", &spec.name)?,
            template: name("template", &spec.template)?,
            storage: name("storage", &spec.storage)?,
            command: spec.command.into_iter().map(String::into_boxed_str).collect(),
            environment: Arc::new(spec.environment),
            resources: part("resources", spec.resources)?,
            class: choice::<wire::Class, _>("class", spec.class)?,
            priority: spec
                .priority
                .try_into()
                .map_err(|_| ConvertError::invalid("priority", format!("{} is too high", spec.priority)))?,
            possible_owners: nodes(spec.possible_owners),
            preferred_owners: spec
                .preferred_owners
                .into_iter()
                .map(|tier| tier.nodes.into_iter().map(NodeId).collect())
                .collect(),
            restart: part("restart", spec.restart)?,
            on_quorum_loss: choice::<wire::OnQuorumLoss, _>("on_quorum_loss", spec.on_quorum_loss)?,
            stop_grace: Span(spec.stop_grace_ns),
            application_templates: spec
                .application_templates
                .iter()
                .map(|template| name("application_templates", template))
                .collect::<Result<_>>()?,
        })
    }
}

impl From<&Exit> for wire::Exit {
    fn from(exit: &Exit) -> wire::Exit {
        let exit = match *exit {
            Exit::Code(code) => exit::Exit::Code(code),
            Exit::Signal(signal) => exit::Exit::Signal(signal),
            Exit::Unknown => exit::Exit::Unknown(NOTHING),
        };
        wire::Exit { exit: Some(exit) }
    }
}

impl TryFrom<wire::Exit> for Exit {
    type Error = ConvertError;

    fn try_from(exit: wire::Exit) -> Result<Exit> {
        Ok(match required("exit", exit.exit)? {
            exit::Exit::Code(code) => Exit::Code(code),
            exit::Exit::Signal(signal) => Exit::Signal(signal),
            exit::Exit::Unknown(_) => Exit::Unknown,
        })
    }
}

impl From<&End> for wire::End {
    fn from(end: &End) -> wire::End {
        let end = match end {
            End::Stopped => end::End::Stopped(NOTHING),
            End::Exited(exit) => end::End::Exited(exit.into()),
            End::StartFailed { reason } => end::End::StartFailed(text(reason)),
            End::Refused { reason } => end::End::Refused(text(reason)),
        };
        wire::End { end: Some(end) }
    }
}

impl TryFrom<wire::End> for End {
    type Error = ConvertError;

    fn try_from(end: wire::End) -> Result<End> {
        Ok(match required("end", end.end)? {
            end::End::Stopped(_) => End::Stopped,
            end::End::Exited(exit) => End::Exited(part("exited", Some(exit))?),
            end::End::StartFailed(reason) => End::StartFailed { reason: reason.into() },
            end::End::Refused(reason) => End::Refused { reason: reason.into() },
        })
    }
}

impl From<&Observed> for wire::Observed {
    fn from(observed: &Observed) -> wire::Observed {
        let observed = match observed {
            Observed::Starting => observed::Observed::Starting(NOTHING),
            Observed::Running => observed::Observed::Running(NOTHING),
            Observed::Stopping => observed::Observed::Stopping(NOTHING),
            Observed::Closed { end } => observed::Observed::Closed(end.into()),
        };
        wire::Observed { observed: Some(observed) }
    }
}

impl TryFrom<wire::Observed> for Observed {
    type Error = ConvertError;

    fn try_from(observed: wire::Observed) -> Result<Observed> {
        Ok(match required("observed", observed.observed)? {
            observed::Observed::Starting(_) => Observed::Starting,
            observed::Observed::Running(_) => Observed::Running,
            observed::Observed::Stopping(_) => Observed::Stopping,
            observed::Observed::Closed(end) => Observed::Closed { end: part("closed", Some(end))? },
        })
    }
}

impl From<&Status> for wire::Status {
    fn from(status: &Status) -> wire::Status {
        let Status { node, epoch, observed, since } = status;
        wire::Status { node: node.0, epoch: epoch.0, observed: Some(observed.into()), since: since.0 }
    }
}

impl TryFrom<wire::Status> for Status {
    type Error = ConvertError;

    fn try_from(status: wire::Status) -> Result<Status> {
        Ok(Status {
            node: NodeId(status.node),
            epoch: Epoch(status.epoch),
            observed: part("observed", status.observed)?,
            since: Revision(status.since),
        })
    }
}

impl From<&Order> for wire::Order {
    fn from(order: &Order) -> wire::Order {
        let order = match *order {
            Order::Run => order::Order::Run(NOTHING),
            Order::Stop { then } => order::Order::Stop(wire::AfterStop::from(then).into()),
            Order::Prepare { target, target_incarnation, ready, since } => order::Order::Prepare(order::Prepare {
                target: target.0,
                target_incarnation: target_incarnation.0,
                ready,
                since: since.0,
            }),
            Order::Handoff { target, target_incarnation, since } => order::Order::Handoff(order::Handoff {
                target: target.0,
                target_incarnation: target_incarnation.0,
                since: since.0,
            }),
            Order::Blocked { target, since } => {
                order::Order::Blocked(order::Blocked { target: target.0, since: since.0 })
            }
            Order::AwaitingReceipt { since } => order::Order::AwaitingReceiptSince(since.0),
        };
        wire::Order { order: Some(order) }
    }
}

impl TryFrom<wire::Order> for Order {
    type Error = ConvertError;

    fn try_from(order: wire::Order) -> Result<Order> {
        Ok(match required("order", order.order)? {
            order::Order::Run(_) => Order::Run,
            order::Order::Stop(then) => Order::Stop { then: choice::<wire::AfterStop, _>("stop", then)? },
            order::Order::Prepare(prepare) => Order::Prepare {
                target: NodeId(prepare.target),
                target_incarnation: Incarnation(prepare.target_incarnation),
                ready: prepare.ready,
                since: Revision(prepare.since),
            },
            order::Order::Handoff(handoff) => Order::Handoff {
                target: NodeId(handoff.target),
                target_incarnation: Incarnation(handoff.target_incarnation),
                since: Revision(handoff.since),
            },
            order::Order::Blocked(blocked) => {
                Order::Blocked { target: NodeId(blocked.target), since: Revision(blocked.since) }
            }
            order::Order::AwaitingReceiptSince(since) => Order::AwaitingReceipt { since: Revision(since) },
        })
    }
}

impl From<&Assignment> for wire::Assignment {
    fn from(assignment: &Assignment) -> wire::Assignment {
        let Assignment { node, incarnation, epoch, on_quorum_loss, order, since } = assignment;
        wire::Assignment {
            node: node.0,
            incarnation: incarnation.0,
            epoch: epoch.0,
            on_quorum_loss: wire::OnQuorumLoss::from(*on_quorum_loss).into(),
            order: Some(order.into()),
            since: since.0,
        }
    }
}

impl TryFrom<wire::Assignment> for Assignment {
    type Error = ConvertError;

    fn try_from(assignment: wire::Assignment) -> Result<Assignment> {
        Ok(Assignment {
            node: NodeId(assignment.node),
            incarnation: Incarnation(assignment.incarnation),
            epoch: Epoch(assignment.epoch),
            on_quorum_loss: choice::<wire::OnQuorumLoss, _>("on_quorum_loss", assignment.on_quorum_loss)?,
            order: part("order", assignment.order)?,
            since: Revision(assignment.since),
        })
    }
}

impl From<&Unplaced> for wire::Unplaced {
    fn from(reason: &Unplaced) -> wire::Unplaced {
        let reason = match reason {
            Unplaced::New => unplaced::Reason::New(NOTHING),
            Unplaced::Displaced { from } => unplaced::Reason::DisplacedFrom(from.0),
            Unplaced::Ended { on, exit } => {
                unplaced::Reason::Ended(unplaced::Ended { on: on.0, exit: Some(exit.into()) })
            }
            Unplaced::StartFailed { on, reason } => {
                unplaced::Reason::StartFailed(unplaced::StartFailed { on: on.0, reason: text(reason) })
            }
            Unplaced::Stopped => unplaced::Reason::Stopped(NOTHING),
            Unplaced::Moving { from } => unplaced::Reason::MovingFrom(from.0),
            Unplaced::Held { reason } => unplaced::Reason::Held(text(reason)),
        };
        wire::Unplaced { reason: Some(reason) }
    }
}

impl TryFrom<wire::Unplaced> for Unplaced {
    type Error = ConvertError;

    fn try_from(reason: wire::Unplaced) -> Result<Unplaced> {
        Ok(match required("reason", reason.reason)? {
            unplaced::Reason::New(_) => Unplaced::New,
            unplaced::Reason::DisplacedFrom(from) => Unplaced::Displaced { from: NodeId(from) },
            unplaced::Reason::Ended(ended) => {
                Unplaced::Ended { on: NodeId(ended.on), exit: part("ended.exit", ended.exit)? }
            }
            unplaced::Reason::StartFailed(failed) => {
                Unplaced::StartFailed { on: NodeId(failed.on), reason: failed.reason.into() }
            }
            unplaced::Reason::Stopped(_) => Unplaced::Stopped,
            unplaced::Reason::MovingFrom(from) => Unplaced::Moving { from: NodeId(from) },
            unplaced::Reason::Held(reason) => Unplaced::Held { reason: reason.into() },
        })
    }
}

impl From<&Placement> for wire::Placement {
    fn from(placement: &Placement) -> wire::Placement {
        let placement = match placement {
            Placement::Unplaced { since, reason } => {
                placement::Placement::Unplaced(placement::Nowhere { since: since.0, reason: Some(reason.into()) })
            }
            Placement::Assigned(assignment) => placement::Placement::Assigned(assignment.into()),
        };
        wire::Placement { placement: Some(placement) }
    }
}

impl TryFrom<wire::Placement> for Placement {
    type Error = ConvertError;

    fn try_from(placement: wire::Placement) -> Result<Placement> {
        Ok(match required("placement", placement.placement)? {
            placement::Placement::Unplaced(nowhere) => {
                Placement::Unplaced { since: Revision(nowhere.since), reason: part("unplaced.reason", nowhere.reason)? }
            }
            placement::Placement::Assigned(assignment) => Placement::Assigned(part("assigned", Some(assignment))?),
        })
    }
}

impl From<&StartFailure> for wire::StartFailure {
    fn from(failure: &StartFailure) -> wire::StartFailure {
        let StartFailure { node, at, reason } = failure;
        wire::StartFailure { node: node.0, at_unix_ms: at.0, reason: text(reason) }
    }
}

impl TryFrom<wire::StartFailure> for StartFailure {
    type Error = ConvertError;

    fn try_from(failure: wire::StartFailure) -> Result<StartFailure> {
        let wire::StartFailure { node, at_unix_ms, reason } = failure;
        Ok(StartFailure { node: NodeId(node), at: WallTime(at_unix_ms), reason: reason.into() })
    }
}

impl From<&Container> for wire::Container {
    fn from(container: &Container) -> wire::Container {
        let Container {
            id,
            spec,
            annotations,
            desired,
            placement,
            epoch,
            home,
            restarts,
            start_failures,
            displacements,
            decision,
            created,
        } = container;
        wire::Container {
            id: id.0,
            spec: Some((&**spec).into()),
            annotations: (**annotations).clone(),
            desired: wire::Desired::from(*desired).into(),
            placement: Some(placement.into()),
            epoch: epoch.0,
            home: home.map(|node| node.0),
            restarts: restarts.iter().map(|at| at.0).collect(),
            displacements: *displacements,
            decision: decision.map(|revision| revision.0),
            created: created.0,
            start_failures: start_failures.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::Container> for Container {
    type Error = ConvertError;

    fn try_from(container: wire::Container) -> Result<Container> {
        Ok(Container {
            id: ContainerId(container.id),
            spec: Arc::new(part("spec", container.spec)?),
            annotations: Arc::new(container.annotations),
            desired: choice::<wire::Desired, _>("desired", container.desired)?,
            placement: part("placement", container.placement)?,
            epoch: Epoch(container.epoch),
            home: container.home.map(NodeId),
            restarts: container.restarts.into_iter().map(WallTime).collect(),
            start_failures: each::<_, StartFailure, _>("start_failures", container.start_failures)?,
            displacements: container.displacements,
            decision: container.decision.map(Revision),
            created: Revision(container.created),
        })
    }
}

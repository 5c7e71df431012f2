//! Commands: the entries of the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use cluster::command::{Command, Entry, IntentOrder, Registration, Report, Reported, SettingsChange};
use cluster::{
    AgentRun, BootId, ContainerId, Epoch, Incarnation, MemberId, NodeId, RequestId, SecretHash, SessionId, Span,
    WallTime,
};

use super::object::template_defaults;
use super::{
    ConvertError, NOTHING, Result, choice, each, maybe, name, part, required, same_variants, text, wide, wide_bytes,
};
use crate::wire::{self, log_entry, report};

same_variants! {
    IntentOrder = wire::IntentOrder { Cordon, Uncordon, Drain, Maintenance, Return }
}

impl From<&RequestId> for wire::RequestId {
    fn from(request: &RequestId) -> wire::RequestId {
        let RequestId { session, sequence } = *request;
        wire::RequestId { session: wide_bytes(session.0), sequence }
    }
}

impl TryFrom<wire::RequestId> for RequestId {
    type Error = ConvertError;

    fn try_from(request: wire::RequestId) -> Result<RequestId> {
        Ok(RequestId { session: SessionId(wide("session", &request.session)?), sequence: request.sequence })
    }
}

impl From<&Report> for wire::Report {
    fn from(report: &Report) -> wire::Report {
        let Report { container, epoch, what } = report;
        let what = match what {
            Reported::Observed(observed) => report::What::Observed(observed.into()),
            Reported::Prepared => report::What::Prepared(NOTHING),
            Reported::CannotPrepare { reason } => report::What::CannotPrepare(text(reason)),
        };
        wire::Report { container: container.0, epoch: epoch.0, what: Some(what) }
    }
}

impl TryFrom<wire::Report> for Report {
    type Error = ConvertError;

    fn try_from(report: wire::Report) -> Result<Report> {
        let what = match required("what", report.what)? {
            report::What::Observed(observed) => Reported::Observed(part("observed", Some(observed))?),
            report::What::Prepared(_) => Reported::Prepared,
            report::What::CannotPrepare(reason) => Reported::CannotPrepare { reason: reason.into() },
        };
        Ok(Report { container: ContainerId(report.container), epoch: Epoch(report.epoch), what })
    }
}

impl From<&SettingsChange> for wire::SettingsChange {
    fn from(change: &SettingsChange) -> wire::SettingsChange {
        let SettingsChange {
            terms,
            brake,
            boot_grace,
            handover_budget,
            handovers_per_node,
            handovers,
            rejoin_cordoned,
        } = change;
        wire::SettingsChange {
            terms: terms.as_ref().map(Into::into),
            brake: brake.as_ref().map(Into::into),
            boot_grace_ns: boot_grace.map(|span| span.0),
            handover_budget_ns: handover_budget.map(|span| span.0),
            handovers_per_node: *handovers_per_node,
            handovers: *handovers,
            rejoin_cordoned: *rejoin_cordoned,
        }
    }
}

impl TryFrom<wire::SettingsChange> for SettingsChange {
    type Error = ConvertError;

    fn try_from(change: wire::SettingsChange) -> Result<SettingsChange> {
        Ok(SettingsChange {
            terms: maybe("terms", change.terms)?,
            brake: maybe("brake", change.brake)?,
            boot_grace: change.boot_grace_ns.map(Span),
            handover_budget: change.handover_budget_ns.map(Span),
            handovers_per_node: change.handovers_per_node,
            handovers: change.handovers,
            rejoin_cordoned: change.rejoin_cordoned,
        })
    }
}

impl From<&Registration> for wire::RegisterNode {
    fn from(registration: &Registration) -> wire::RegisterNode {
        let Registration { node, ends, boot, empty, facts, run } = registration;
        wire::RegisterNode {
            node: node.0,
            ends: ends.0,
            boot: wide_bytes(boot.0),
            empty: *empty,
            facts: Some(facts.into()),
            run: run.0,
        }
    }
}

impl TryFrom<wire::RegisterNode> for Registration {
    type Error = ConvertError;

    fn try_from(registration: wire::RegisterNode) -> Result<Registration> {
        Ok(Registration {
            node: NodeId(registration.node),
            ends: Incarnation(registration.ends),
            boot: BootId(wide("boot", &registration.boot)?),
            empty: registration.empty,
            facts: part("facts", registration.facts)?,
            run: AgentRun(registration.run),
        })
    }
}

impl From<&Entry> for wire::LogEntry {
    fn from(entry: &Entry) -> wire::LogEntry {
        let Entry { at, request, command } = entry;
        wire::LogEntry {
            feature_level: crate::level::of_command(command),
            at_unix_ms: at.0,
            request: request.as_ref().map(Into::into),
            command: Some(command.into()),
        }
    }
}

impl TryFrom<wire::LogEntry> for Entry {
    type Error = ConvertError;

    fn try_from(entry: wire::LogEntry) -> Result<Entry> {
        crate::readable(entry.feature_level)?;
        Ok(Entry {
            at: WallTime(entry.at_unix_ms),
            request: maybe("request", entry.request)?,
            command: part("command", entry.command)?,
        })
    }
}

impl From<&Command> for log_entry::Command {
    fn from(command: &Command) -> log_entry::Command {
        use log_entry::Command as Said;
        match command {
            Command::Settle => Said::Settle(NOTHING),

            Command::AddMember { name, peer_address, api_address, secret } => Said::AddMember(wire::AddMember {
                name: name.to_string(),
                peer_address: text(peer_address),
                api_address: text(api_address),
                secret: wide_bytes(secret.0),
            }),
            Command::RemoveMember { member } => Said::RemoveMember(member.0),
            Command::UpdateSettings { settings } => Said::UpdateSettings((&**settings).into()),
            Command::TripBrake { silent, of } => Said::TripBrake(wire::TripBrake { silent: *silent, of: *of }),
            Command::ReleaseBrake => Said::ReleaseBrake(NOTHING),

            Command::JoinNode { name, role, labels, failure_domain, secret } => Said::JoinNode(wire::JoinNode {
                name: name.to_string(),
                role: wire::NodeRole::from(*role).into(),
                labels: labels.clone(),
                failure_domain: text(failure_domain),
                secret: wide_bytes(secret.0),
            }),
            Command::RegisterNode(registration) => Said::RegisterNode((&**registration).into()),
            Command::SetNodeRole { node, role } => {
                Said::SetNodeRole(wire::SetNodeRole { node: node.0, role: wire::NodeRole::from(*role).into() })
            }
            Command::SetNodeIntent { node, intent } => Said::SetNodeIntent(wire::SetNodeIntent {
                node: node.0,
                intent: wire::IntentOrder::from(*intent).into(),
            }),
            Command::AcknowledgeTerms { node, incarnation, terms } => Said::AcknowledgeTerms(wire::AcknowledgeTerms {
                node: node.0,
                incarnation: incarnation.0,
                terms: Some(terms.into()),
            }),
            Command::NoteNodeClass { node, incarnation, class, reason } => Said::NoteNodeClass(wire::NoteNodeClass {
                node: node.0,
                incarnation: incarnation.0,
                class: wire::FencingClass::from(*class).into(),
                reason: text(reason),
            }),
            Command::ReportNode { node, incarnation, report } => Said::ReportNode(wire::ReportNode {
                node: node.0,
                incarnation: incarnation.0,
                report: Some((&**report).into()),
            }),
            Command::BeginFencing { node, incarnation, cause } => Said::BeginFencing(wire::BeginFencing {
                node: node.0,
                incarnation: incarnation.0,
                cause: Some(cause.into()),
            }),
            Command::RecordFenced { node, incarnation, proof } => Said::RecordFenced(wire::RecordFenced {
                node: node.0,
                incarnation: incarnation.0,
                proof: Some(proof.into()),
            }),
            Command::RemoveNode { node } => Said::RemoveNode(node.0),

            Command::CreateContainer { spec, annotations, desired } => Said::CreateContainer(wire::CreateContainer {
                spec: Some((&**spec).into()),
                annotations: (**annotations).clone(),
                desired: wire::Desired::from(*desired).into(),
            }),
            Command::SetDesired { container, desired } => Said::SetDesired(wire::SetDesired {
                container: container.0,
                desired: wire::Desired::from(*desired).into(),
            }),
            Command::RestartContainer { container } => Said::RestartContainer(container.0),
            Command::MoveContainer { container, target } => {
                Said::MoveContainer(wire::MoveContainer { container: container.0, target: target.map(|node| node.0) })
            }
            Command::AnnotateContainer { container, changes } => Said::AnnotateContainer(annotate(*container, changes)),
            Command::SetOnQuorumLoss { container, on_quorum_loss } => Said::SetOnQuorumLoss(wire::SetOnQuorumLoss {
                container: container.0,
                on_quorum_loss: wire::OnQuorumLoss::from(*on_quorum_loss).into(),
            }),
            Command::Assign { container, after, node, incarnation, decision } => Said::Assign(wire::Assign {
                container: container.0,
                after: after.0,
                node: node.0,
                incarnation: incarnation.0,
                decision: Some((&**decision).into()),
            }),
            Command::RecordUnplaceable { container, decision } => Said::RecordUnplaceable(wire::RecordUnplaceable {
                container: container.0,
                decision: Some((&**decision).into()),
            }),
            Command::HoldContainer { container, after, reason } => Said::HoldContainer(wire::HoldContainer {
                container: container.0,
                after: after.0,
                reason: text(reason),
            }),
            Command::BeginHandover { container, epoch, target, decision } => Said::BeginHandover(wire::BeginHandover {
                container: container.0,
                epoch: epoch.0,
                target: target.0,
                decision: Some((&**decision).into()),
            }),
            Command::BeginHandoff { container, epoch } => {
                Said::BeginHandoff(wire::ContainerEpoch { container: container.0, epoch: epoch.0 })
            }
            Command::AbortHandover { container, epoch, reason } => Said::AbortHandover(wire::AbortHandover {
                container: container.0,
                epoch: epoch.0,
                reason: text(reason),
            }),
            Command::BlockHandover { container, epoch } => {
                Said::BlockHandover(wire::ContainerEpoch { container: container.0, epoch: epoch.0 })
            }
            Command::ReportStatus { node, incarnation, reports } => Said::ReportStatus(wire::ReportStatus {
                node: node.0,
                incarnation: incarnation.0,
                reports: reports.iter().map(Into::into).collect(),
            }),

            Command::RegisterTemplate { name, version, digest, kind, path, bytes, defaults } => {
                Said::RegisterTemplate(wire::Template {
                    name: name.to_string(),
                    version: text(version),
                    digest: text(digest),
                    kind: wire::TemplateKind::from(*kind).into(),
                    path: text(path),
                    registered: 0,
                    bytes: *bytes,
                    command: defaults.command.iter().map(ToString::to_string).collect(),
                    environment: (*defaults.environment).clone(),
                    working_dir: text(&defaults.working_dir),
                })
            }
            Command::RemoveTemplate { name } => Said::RemoveTemplate(name.to_string()),
            Command::RegisterStorage { name, kind } => {
                Said::RegisterStorage(wire::Storage { name: name.to_string(), kind: Some(kind.into()), registered: 0 })
            }
            Command::RemoveStorage { name } => Said::RemoveStorage(name.to_string()),
        }
    }
}

impl TryFrom<log_entry::Command> for Command {
    type Error = ConvertError;

    fn try_from(command: log_entry::Command) -> Result<Command> {
        use log_entry::Command as Said;
        Ok(match command {
            Said::Settle(_) => Command::Settle,

            Said::AddMember(said) => Command::AddMember {
                name: name("name", &said.name)?,
                peer_address: said.peer_address.into(),
                api_address: said.api_address.into(),
                secret: SecretHash(wide("secret", &said.secret)?),
            },
            Said::RemoveMember(member) => Command::RemoveMember { member: MemberId(member) },
            Said::UpdateSettings(change) => Command::UpdateSettings { settings: Box::new(change.try_into()?) },
            Said::TripBrake(said) => Command::TripBrake { silent: said.silent, of: said.of },
            Said::ReleaseBrake(_) => Command::ReleaseBrake,

            Said::JoinNode(said) => Command::JoinNode {
                name: name("name", &said.name)?,
                role: choice::<wire::NodeRole, _>("role", said.role)?,
                labels: said.labels,
                failure_domain: said.failure_domain.into(),
                secret: SecretHash(wide("secret", &said.secret)?),
            },
            Said::RegisterNode(said) => Command::RegisterNode(Box::new(said.try_into()?)),
            Said::SetNodeRole(said) => {
                Command::SetNodeRole { node: NodeId(said.node), role: choice::<wire::NodeRole, _>("role", said.role)? }
            }
            Said::SetNodeIntent(said) => Command::SetNodeIntent {
                node: NodeId(said.node),
                intent: choice::<wire::IntentOrder, _>("intent", said.intent)?,
            },
            Said::AcknowledgeTerms(said) => Command::AcknowledgeTerms {
                node: NodeId(said.node),
                incarnation: Incarnation(said.incarnation),
                terms: part("terms", said.terms)?,
            },
            Said::NoteNodeClass(said) => Command::NoteNodeClass {
                node: NodeId(said.node),
                incarnation: Incarnation(said.incarnation),
                class: choice::<wire::FencingClass, _>("class", said.class)?,
                reason: said.reason.into(),
            },
            Said::ReportNode(said) => Command::ReportNode {
                node: NodeId(said.node),
                incarnation: Incarnation(said.incarnation),
                report: Arc::new(part("report", said.report)?),
            },
            Said::BeginFencing(said) => Command::BeginFencing {
                node: NodeId(said.node),
                incarnation: Incarnation(said.incarnation),
                cause: part("cause", said.cause)?,
            },
            Said::RecordFenced(said) => Command::RecordFenced {
                node: NodeId(said.node),
                incarnation: Incarnation(said.incarnation),
                proof: part("proof", said.proof)?,
            },
            Said::RemoveNode(node) => Command::RemoveNode { node: NodeId(node) },

            Said::CreateContainer(said) => Command::CreateContainer {
                spec: Arc::new(part("spec", said.spec)?),
                annotations: Arc::new(said.annotations),
                desired: choice::<wire::Desired, _>("desired", said.desired)?,
            },
            Said::SetDesired(said) => Command::SetDesired {
                container: ContainerId(said.container),
                desired: choice::<wire::Desired, _>("desired", said.desired)?,
            },
            Said::RestartContainer(container) => Command::RestartContainer { container: ContainerId(container) },
            Said::MoveContainer(said) => {
                Command::MoveContainer { container: ContainerId(said.container), target: said.target.map(NodeId) }
            }
            Said::AnnotateContainer(said) => Command::AnnotateContainer {
                container: ContainerId(said.container),
                changes: annotations(said.set, said.remove)?,
            },
            Said::SetOnQuorumLoss(said) => Command::SetOnQuorumLoss {
                container: ContainerId(said.container),
                on_quorum_loss: choice::<wire::OnQuorumLoss, _>("on_quorum_loss", said.on_quorum_loss)?,
            },
            Said::Assign(said) => Command::Assign {
                container: ContainerId(said.container),
                after: Epoch(said.after),
                node: NodeId(said.node),
                incarnation: Incarnation(said.incarnation),
                decision: Box::new(part("decision", said.decision)?),
            },
            Said::RecordUnplaceable(said) => Command::RecordUnplaceable {
                container: ContainerId(said.container),
                decision: Box::new(part("decision", said.decision)?),
            },
            Said::HoldContainer(said) => Command::HoldContainer {
                container: ContainerId(said.container),
                after: Epoch(said.after),
                reason: said.reason.into(),
            },
            Said::BeginHandover(said) => Command::BeginHandover {
                container: ContainerId(said.container),
                epoch: Epoch(said.epoch),
                target: NodeId(said.target),
                decision: Box::new(part("decision", said.decision)?),
            },
            Said::BeginHandoff(said) => {
                Command::BeginHandoff { container: ContainerId(said.container), epoch: Epoch(said.epoch) }
            }
            Said::AbortHandover(said) => Command::AbortHandover {
                container: ContainerId(said.container),
                epoch: Epoch(said.epoch),
                reason: said.reason.into(),
            },
            Said::BlockHandover(said) => {
                Command::BlockHandover { container: ContainerId(said.container), epoch: Epoch(said.epoch) }
            }
            Said::ReportStatus(said) => Command::ReportStatus {
                node: NodeId(said.node),
                incarnation: Incarnation(said.incarnation),
                reports: each("reports", said.reports)?,
            },

            Said::RegisterTemplate(said) => Command::RegisterTemplate {
                name: name("name", &said.name)?,
                version: said.version.into(),
                digest: said.digest.into(),
                kind: choice::<wire::TemplateKind, _>("kind", said.kind)?,
                path: said.path.into(),
                bytes: said.bytes,
                defaults: template_defaults(said.command, said.environment, said.working_dir),
            },
            Said::RemoveTemplate(said) => Command::RemoveTemplate { name: name("name", &said)? },
            Said::RegisterStorage(said) => {
                Command::RegisterStorage { name: name("name", &said.name)?, kind: part("kind", said.kind)? }
            }
            Said::RemoveStorage(said) => Command::RemoveStorage { name: name("name", &said)? },
        })
    }
}

fn annotate(container: ContainerId, changes: &BTreeMap<String, Option<String>>) -> wire::AnnotateContainer {
    let set = changes.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?))).collect();
    let remove = changes.iter().filter(|(_, value)| value.is_none()).map(|(key, _)| key.clone()).collect();
    wire::AnnotateContainer { container: container.0, set, remove }
}

/// What is set and what is removed as one map; a key is in one of them.
pub(super) fn annotations(
    set: BTreeMap<String, String>,
    remove: Vec<String>,
) -> Result<BTreeMap<String, Option<String>>> {
    let mut changes: BTreeMap<_, _> = set.into_iter().map(|(key, value)| (key, Some(value))).collect();
    for (place, key) in remove.into_iter().enumerate() {
        if changes.get(&key).is_some_and(Option::is_some) {
            return Err(ConvertError::invalid(format!("remove[{place}]"), format!("{key:?} is also set")));
        }
        changes.insert(key, None);
    }
    Ok(changes)
}

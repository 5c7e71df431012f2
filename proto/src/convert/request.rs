//! What people ask for, as commands to the state.
//! In: requests of the public API and the state their names are looked up in. Out: the request id and the command.
//! Absent: limits on what a command may hold; `apply` has those, once, for every way in.

mod named;

use std::collections::BTreeMap;
use std::sync::Arc;

use cluster::command::{Command, IntentOrder, SettingsChange};
use cluster::{
    BrakeSettings, Class, ContainerSpec, Desired, FenceCause, Health, Name, NodeId, OnQuorumLoss, Profile, Proof,
    RequestId, Resources, RestartCondition, RestartPolicy, Role, SecretHash, Span, State, StorageKind, TemplateKind,
};

use super::command::annotations;
use super::object::template_defaults;
use super::{ConvertError, Result, choice, name, required};
use crate::v1::{self, submit_request::Change};

pub use named::{container, member, node, request_id, storage};

const PRIORITY: u16 = 500;
const STOP_GRACE: Span = Span::seconds(30);

/// A request that has its effect once, however often it is sent under its id.
pub trait Identified {
    /// Empty where the caller chose none.
    fn request_id(&self) -> &str;

    /// Gives it this id.
    fn identify(&mut self, request_id: String);
}

/// A request that becomes one command.
pub trait Mutation: Identified {
    /// Where in the request the object stands that the command is made of; empty if that is the request itself.
    const OBJECT: &'static str = "";

    /// The path in the request of what `apply` calls `field`.
    fn path_of(field: &str) -> String {
        let below = if Self::OBJECT.is_empty() { "" } else { "." };
        format!("{}{below}{}", Self::OBJECT, said_as(field))
    }

    /// The same of this request: one that is a choice of several knows which was made.
    fn paths(&self) -> Paths {
        Self::path_of
    }

    /// The command, with names looked up in `state`. Whether it may be carried out is for `apply` to say.
    fn command(self, state: &State) -> Result<Command>;
}

/// From the model's fields to paths in one kind of request.
pub type Paths = fn(&str) -> String;

/// What messages call a field of the model: it has spans where they have milliseconds, and is flatter than they are.
pub fn said_as(field: &str) -> String {
    match field {
        "api_address" => "address.api",
        "boot_grace" => "boot_grace_ms",
        "handover_budget" => "handover_budget_ms",
        "kind.directory.path" => "directory.path",
        "peer_address" => "address.peer",
        "restart.period" => "restart.period_ms",
        "stop_grace" => "stop_grace_ms",
        same => same,
    }
    .to_owned()
}

/// The two things a member proposes for a mutating request.
pub fn proposal(request: impl Mutation, state: &State) -> Result<(RequestId, Command)> {
    let id = request_id(request.request_id())?;
    Ok((id, request.command(state)?))
}

/// The command that admits a node; `secret` is what its secret hashes to.
pub fn join_node(request: v1::JoinRequest, secret: SecretHash) -> Result<Command> {
    let v1::JoinRequest { request_id: _, name: called, role, labels, failure_domain } = request;
    Ok(Command::JoinNode {
        name: name("name", &called)?,
        role: unset_or::<v1::NodeRole, _>("role", role, Role::Active)?,
        labels,
        failure_domain: failure_domain.into(),
        secret,
    })
}

/// The command that admits a member; `secret` is what its secret hashes to.
pub fn add_member(request: v1::AddMemberRequest, secret: SecretHash) -> Result<Command> {
    let v1::AddMemberRequest { request_id: _, name: called, address, learner: _ } = request;
    let address = required("address", address)?;
    Ok(Command::AddMember {
        name: name("name", &called)?,
        peer_address: address.peer.into(),
        api_address: address.api.into(),
        secret,
    })
}

/// What must be decided before the operator's word of `request` can be taken: the fencing it closes. `None` if that is open.
pub fn confirm_down_begins(request: &v1::ConfirmDownRequest, state: &State) -> Result<Option<Command>> {
    let node = node(state, "node", &request.node)?;
    Ok(match &node.health {
        Health::Fencing { .. } => None,
        health => Some(Command::BeginFencing {
            node: node.id,
            incarnation: health.incarnation(),
            cause: FenceCause::Operator { reason: request.reason.clone().into() },
        }),
    })
}

/// The lease profile that a request names; `None` if it names none.
pub fn profile(field: &str, value: i32) -> Result<Option<Profile>> {
    match v1::LeaseProfile::try_from(value) {
        Ok(v1::LeaseProfile::Unspecified) => Ok(None),
        Ok(v1::LeaseProfile::Fast) => Ok(Some(Profile::Fast)),
        Ok(v1::LeaseProfile::Default) => Ok(Some(Profile::Default)),
        Ok(v1::LeaseProfile::Relaxed) => Ok(Some(Profile::Relaxed)),
        Err(_) => Err(ConvertError::invalid(field, format!("profile {value} is not known here"))),
    }
}

/// An enum of the API whose zero stands for `default`.
pub(super) fn unset_or<T, U>(field: &str, value: i32, default: U) -> Result<U>
where
    T: TryFrom<i32>,
    U: TryFrom<T, Error = ConvertError>,
{
    if value == 0 { Ok(default) } else { choice::<T, U>(field, value) }
}

super::same_variants! {
    Role = v1::NodeRole { Active, Standby }
    Class = v1::ContainerClass { Guaranteed, BestEffort, None }
    OnQuorumLoss = v1::OnQuorumLoss { Stop, Keep }
    RestartCondition = v1::RestartCondition { Always, OnFailure, Never }
    Desired = v1::DesiredState { Running, Stopped, Deleted }
    TemplateKind = v1::TemplateKind { Os, Application }
}

fn millis(field: &str, millis: u64) -> Result<Span> {
    /// A century; what is longer is a unit mistaken, and would overflow nanoseconds.
    const MILLIS_MAX: u64 = 100 * 366 * 24 * 60 * 60 * 1_000;
    if millis > MILLIS_MAX {
        return Err(ConvertError::invalid(field, format!("{millis} ms is more than a century")));
    }
    Ok(Span::millis(millis))
}

/// The spec and the annotations of a new container.
fn spec(spec: v1::ContainerSpec, state: &State) -> Result<(ContainerSpec, BTreeMap<String, String>)> {
    let v1::ContainerSpec {
        name: called,
        template,
        command,
        environment,
        annotations,
        resources,
        class,
        priority,
        possible_owners,
        preferred_owners,
        restart,
        on_quorum_loss,
        storage,
        stop_grace_ms,
        application_templates,
    } = spec;
    let v1::Resources { cpu_millis, memory_bytes } = required("resources", resources)?;
    let priority = match priority {
        None => PRIORITY,
        Some(given) => {
            u16::try_from(given).map_err(|_| ConvertError::invalid("priority", format!("{given} is above 1000")))?
        }
    };
    // Below three voters no time-based fence is to be had: there an exclusive stop would only stop *(b12)*.
    let few_voters = state.membership().voters.len() < 3;
    let usual = if few_voters { OnQuorumLoss::Keep } else { OnQuorumLoss::Stop };
    let tiers = preferred_owners.into_iter().enumerate();
    let called = name("name", &called)?;
    let template = name("template", &template)?;
    let storage = name("storage", &storage)?;
    // `apply` says the same without knowing where it was asked for.
    if registered(state, "template", &template)?.kind == TemplateKind::Application {
        let problem = format!("{template} is an application template; they are laid over one of an OS");
        let hint = "name one of an OS here, and this one under application_templates (`--app`)";
        return Err(ConvertError::invalid("template", problem).hint(hint));
    }
    let application_templates = application_templates
        .iter()
        .enumerate()
        .map(|(place, called)| {
            let field = format!("application_templates[{place}]");
            let called = name(&field, called)?;
            registered(state, &field, &called)?;
            Ok(called)
        })
        .collect::<Result<_>>()?;
    if state.storage(&storage).is_none() {
        let hint = "list them with `quoratectl storage list`";
        return Err(ConvertError::not_found("storage", format!("there is no storage {storage}")).hint(hint));
    }
    let spec = ContainerSpec {
        name: called,
        template,
        storage,
        command: command.into_iter().map(String::into_boxed_str).collect(),
        environment: Arc::new(environment),
        resources: Resources { cpu_millis, memory_bytes },
        class: unset_or::<v1::ContainerClass, _>("class", class, Class::Guaranteed)?,
        priority,
        possible_owners: owners(state, "possible_owners", &possible_owners)?,
        preferred_owners: tiers
            .map(|(place, tier)| owners(state, &format!("preferred_owners[{place}].nodes"), &tier.nodes))
            .collect::<Result<_>>()?,
        restart: restart_policy(restart.unwrap_or_default()).map_err(|error| error.under("restart"))?,
        on_quorum_loss: unset_or::<v1::OnQuorumLoss, _>("on_quorum_loss", on_quorum_loss, usual)?,
        stop_grace: stop_grace_ms.map_or(Ok(STOP_GRACE), |given| millis("stop_grace_ms", given))?,
        application_templates,
    };
    Ok((spec, annotations))
}

fn registered<'s>(state: &'s State, field: &str, template: &Name) -> Result<&'s Arc<cluster::Template>> {
    state.template(template).ok_or_else(|| {
        let hint = "list them with `quoratectl template list`";
        ConvertError::not_found(field, format!("there is no template {template}")).hint(hint)
    })
}

fn owners(state: &State, field: &str, names: &[String]) -> Result<Arc<[NodeId]>> {
    let owner = |(place, name): (usize, &String)| Ok(node(state, &format!("{field}[{place}]"), name)?.id);
    names.iter().enumerate().map(owner).collect()
}

fn restart_policy(policy: v1::RestartPolicy) -> Result<RestartPolicy> {
    let v1::RestartPolicy { condition, max, period_ms } = policy;
    let usual = RestartPolicy::default();
    Ok(RestartPolicy {
        condition: unset_or::<v1::RestartCondition, _>("condition", condition, usual.condition)?,
        max: max.unwrap_or(usual.max),
        period: period_ms.map_or(Ok(usual.period), |given| millis("period_ms", given))?,
    })
}

macro_rules! identified {
    ($($request:ident),+) => {$(
        impl Identified for v1::$request {
            fn request_id(&self) -> &str {
                &self.request_id
            }

            fn identify(&mut self, request_id: String) {
                self.request_id = request_id;
            }
        }
    )+};
}

identified!(JoinRequest, AddMemberRequest, ImportTemplateRequest, SyncTemplatesRequest, DiscardTemplateRequest);

/// Requests whose command is made of little: who asks, and one expression. Before it stands the object it is about, or
/// how its fields are called where that is not as everywhere.
macro_rules! mutations {
    ($($request:ident $($object:literal)? $([$paths:expr])?, $said:ident, $state:ident => $command:expr;)+) => {$(
        identified!($request);

        impl Mutation for v1::$request {
            $(const OBJECT: &'static str = $object;)?

            $(fn path_of(field: &str) -> String {
                $paths(field)
            })?

            fn command(self, $state: &State) -> Result<Command> {
                let $said = self;
                $command
            }
        }
    )+};
}

fn intent(state: &State, reference: &str, intent: IntentOrder) -> Result<Command> {
    Ok(Command::SetNodeIntent { node: node(state, "node", reference)?.id, intent })
}

/// What is refused about annotations is refused about those that would be set.
fn annotate_path(field: &str) -> String {
    if field == "annotations" { "set".to_owned() } else { said_as(field) }
}

fn desired(state: &State, reference: &str, desired: Desired) -> Result<Command> {
    Ok(Command::SetDesired { container: container(state, "container", reference)?.id, desired })
}

mutations! {
    UpdateSettingsRequest, said, _state => settings_change(said);
    ReleaseBrakeRequest, _said, _state => Ok(Command::ReleaseBrake);
    RemoveMemberRequest, said, state => Ok(Command::RemoveMember { member: member(state, "member", &said.member)? });

    SetNodeRoleRequest, said, state => Ok(Command::SetNodeRole {
        node: node(state, "node", &said.node)?.id,
        role: choice::<v1::NodeRole, _>("role", said.role)?,
    });
    CordonRequest, said, state => intent(state, &said.node, IntentOrder::Cordon);
    UncordonRequest, said, state => intent(state, &said.node, IntentOrder::Uncordon);
    DrainRequest, said, state => intent(state, &said.node, IntentOrder::Drain);
    MaintainRequest, said, state => intent(state, &said.node, IntentOrder::Maintenance);
    ReturnRequest, said, state => intent(state, &said.node, IntentOrder::Return);
    ConfirmDownRequest, said, state => confirm_down(&said, state);
    RemoveNodeRequest, said, state => Ok(Command::RemoveNode { node: node(state, "node", &said.node)?.id });

    CreateContainerRequest "spec", said, state => create_container(said, state);
    StartContainerRequest, said, state => desired(state, &said.container, Desired::Running);
    StopContainerRequest, said, state => desired(state, &said.container, Desired::Stopped);
    DeleteContainerRequest, said, state => desired(state, &said.container, Desired::Deleted);
    RestartContainerRequest, said, state => {
        Ok(Command::RestartContainer { container: container(state, "container", &said.container)?.id })
    };
    MoveContainerRequest, said, state => Ok(Command::MoveContainer {
        container: container(state, "container", &said.container)?.id,
        target: match said.node.as_str() {
            "" => None,
            target => Some(node(state, "node", target)?.id),
        },
    });
    AnnotateContainerRequest [annotate_path], said, state => Ok(Command::AnnotateContainer {
        container: container(state, "container", &said.container)?.id,
        changes: annotations(said.set, said.remove)?,
    });
    SetOnQuorumLossRequest, said, state => Ok(Command::SetOnQuorumLoss {
        container: container(state, "container", &said.container)?.id,
        on_quorum_loss: choice::<v1::OnQuorumLoss, _>("on_quorum_loss", said.on_quorum_loss)?,
    });

    RegisterTemplateRequest "template", said, _state => {
        let template = required("template", said.template)?;
        register_template(template).map_err(|error| error.under("template"))
    };
    RemoveTemplateRequest, said, _state => Ok(Command::RemoveTemplate { name: name("template", &said.template)? });
    RegisterStorageRequest "storage", said, state => {
        let storage = required("storage", said.storage)?;
        register_storage(storage, state).map_err(|error| error.under("storage"))
    };
    RemoveStorageRequest, said, _state => Ok(Command::RemoveStorage { name: name("storage", &said.storage)? });
}

/// One change of a stream is one of the requests above: each by its field in the message, its variant, its request.
macro_rules! submitted {
    ($($field:literal $variant:ident $request:ident;)+) => {
        impl Identified for v1::SubmitRequest {
            /// Empty also when there is no change in it; asking for the command then says so.
            fn request_id(&self) -> &str {
                match &self.change {
                    $(Some(Change::$variant(change)) => change.request_id(),)+
                    None => "",
                }
            }

            fn identify(&mut self, request_id: String) {
                match &mut self.change {
                    $(Some(Change::$variant(change)) => change.identify(request_id),)+
                    None => {}
                }
            }
        }

        impl Mutation for v1::SubmitRequest {
            fn paths(&self) -> Paths {
                match &self.change {
                    $(Some(Change::$variant(_)) => {
                        |field| format!(concat!($field, ".{}"), v1::$request::path_of(field))
                    })+
                    None => Self::path_of,
                }
            }

            fn command(self, state: &State) -> Result<Command> {
                match required("change", self.change)? {
                    $(Change::$variant(change) => change.command(state).map_err(|error| error.under($field)),)+
                }
            }
        }
    };
}

submitted! {
    "create" Create CreateContainerRequest;
    "start" Start StartContainerRequest;
    "stop" Stop StopContainerRequest;
    "restart" Restart RestartContainerRequest;
    "move" Move MoveContainerRequest;
    "delete" Delete DeleteContainerRequest;
    "annotate" Annotate AnnotateContainerRequest;
    "set_on_quorum_loss" SetOnQuorumLoss SetOnQuorumLossRequest;
}

fn settings_change(request: v1::UpdateSettingsRequest) -> Result<Command> {
    let v1::UpdateSettingsRequest {
        request_id: _,
        lease_profile,
        brake,
        boot_grace_ms,
        handover_budget_ms,
        handovers_per_node,
        handovers,
        rejoin_cordoned,
    } = request;
    let span = |field: &str, given: Option<u64>| given.map(|given| millis(field, given)).transpose();
    let terms = match lease_profile {
        None => None,
        Some(given) => {
            let profile = profile("lease_profile", given)?;
            Some(profile.ok_or_else(|| ConvertError::invalid("lease_profile", "names no profile"))?.terms())
        }
    };
    let change = SettingsChange {
        terms,
        brake: brake.map(brake_settings).transpose().map_err(|error| error.under("brake"))?,
        boot_grace: span("boot_grace_ms", boot_grace_ms)?,
        handover_budget: span("handover_budget_ms", handover_budget_ms)?,
        handovers_per_node,
        handovers,
        rejoin_cordoned,
    };
    if change == SettingsChange::default() {
        return Err(ConvertError::invalid("", "nothing is to be changed").hint("give at least one setting"));
    }
    Ok(Command::UpdateSettings { settings: Box::new(change) })
}

fn brake_settings(brake: v1::BrakeSettings) -> Result<BrakeSettings> {
    let v1::BrakeSettings { enabled, nodes_min, percent, quiet_ms, longest_ms } = brake;
    let (quiet, longest) = (millis("quiet_ms", quiet_ms)?, millis("longest_ms", longest_ms)?);
    Ok(BrakeSettings { enabled, nodes_min, percent, quiet, longest })
}

fn confirm_down(request: &v1::ConfirmDownRequest, state: &State) -> Result<Command> {
    let node = node(state, "node", &request.node)?;
    let current = node.health.incarnation();
    if request.incarnation != current.0 {
        let problem = format!("{} is meant, but {} is at {current}", request.incarnation, node.name);
        return Err(ConvertError::invalid("incarnation", problem).hint("look again: the machine may have come back"));
    }
    if request.reason.trim().is_empty() {
        return Err(ConvertError::missing("reason").hint("say who looked at the machine, and how"));
    }
    let proof = Proof::Operator { reason: request.reason.as_str().into() };
    Ok(Command::RecordFenced { node: node.id, incarnation: current, proof })
}

fn create_container(request: v1::CreateContainerRequest, state: &State) -> Result<Command> {
    let desired = unset_or::<v1::DesiredState, _>("desired", request.desired, Desired::Running)?;
    if desired == Desired::Deleted {
        return Err(ConvertError::invalid("desired", "a container is not created to be deleted"));
    }
    let (spec, annotations) = spec(required("spec", request.spec)?, state).map_err(|error| error.under("spec"))?;
    Ok(Command::CreateContainer { spec: Arc::new(spec), annotations: Arc::new(annotations), desired })
}

fn register_template(template: v1::Template) -> Result<Command> {
    let v1::Template { name: called, version, digest, kind, path, bytes, command, environment, working_dir, .. } =
        template;
    Ok(Command::RegisterTemplate {
        name: name("name", &called)?,
        version: version.into(),
        digest: digest.into(),
        kind: unset_or::<v1::TemplateKind, _>("kind", kind, TemplateKind::Os)?,
        path: path.into(),
        bytes,
        defaults: template_defaults(command, environment, working_dir),
    })
}

fn register_storage(storage: v1::Storage, state: &State) -> Result<Command> {
    let v1::Storage { name: called, kind, .. } = storage;
    let kind = match required("directory", kind)? {
        v1::storage::Kind::Directory(directory) => {
            StorageKind::Directory { path: storage_path("directory.path", &directory.path)? }
        }
        v1::storage::Kind::Local(local) => StorageKind::Local { path: storage_path("local.path", &local.path)? },
    };
    let name = name("name", &called)?;
    let same = |other: &&Arc<cluster::Storage>| other.name != name && other.kind.path() == kind.path();
    if let Some(other) = state.storages().find(same) {
        let field = format!("{}.path", kind.word());
        let problem = format!("{} is storage {} already", kind.path(), other.name);
        return Err(ConvertError::invalid(field, problem).hint("use that one, or another folder"));
    }
    Ok(Command::RegisterStorage { name, kind })
}

/// One way to write each path, so that two storages on one are seen.
fn storage_path(field: &str, path: &str) -> Result<Arc<str>> {
    let wrong = |problem: String| Err(ConvertError::invalid(field, problem));
    if !path.starts_with('/') {
        return wrong(format!("{path:?} is not absolute"));
    }
    let path = path.trim_end_matches('/');
    if path.is_empty() {
        return wrong("the root of a node's file system is no storage".to_owned());
    }
    if path.split('/').skip(1).any(|part| matches!(part, "" | ".")) {
        return wrong(format!("{path:?} has a part that says nothing; write it the short way"));
    }
    Ok(path.into())
}

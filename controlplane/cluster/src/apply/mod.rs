//! Carries out one command on the state, whole or not at all.
//! In: a state, the index of the entry, the entry. Out: what came of it and the events, in order.
//! Absent: no I/O error and no clock can occur here; a refusal is plain data and part of the replicated result.

mod valid;
mod members;
mod settings;
mod objects;
mod nodes;
mod fencing;
mod containers;
mod handover;
mod reports;
mod findings;
#[cfg(test)]
mod tests;

pub(crate) use containers::order_for;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use planted::checked;

use crate::command::{Command, Entry};
use crate::event::Event;
use crate::model::container::Container;
use crate::model::ids::{ContainerId, Epoch, Incarnation, MemberId, NodeId, Revision};
use crate::model::member::Membership;
use crate::model::node::{Intent, Node};
use crate::model::template::Template;
use crate::names::{Ids, Names, Tell};
use crate::sessions::{Remembered, Seen};
use crate::state::State;

/// What an entry came to. The same on every member, remembered under its request id.
pub type Outcome = Result<Done, Rejected>;

/// What a command that was carried out gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Done {
    Nothing,
    Member(MemberId),
    Node(NodeId),
    /// Registered; the incarnation is the index of the entry.
    Registered(Incarnation),
    Container(ContainerId),
}

/// One applied entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Of the entry, or of the earlier one that this request repeats.
    pub revision: Revision,
    pub outcome: Outcome,
    /// Empty for a refusal and for a repetition.
    pub events: Vec<Event>,
    pub repeated: bool,
}

/// A command refused by the state. Plain data, the same on every member. Each has a stable reason code and the field
/// it is about; the text says what to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rejected {
    NotFound {
        kind: Kind,
        what: Arc<str>,
    },
    NameTaken {
        kind: Kind,
        name: Arc<str>,
        holder: Arc<str>,
    },
    Invalid {
        field: &'static str,
        problem: Arc<str>,
    },
    /// The state is not one in which this can be done.
    WrongState {
        problem: Arc<str>,
    },
    InUse {
        kind: Kind,
        what: Arc<str>,
        by: Arc<str>,
    },
    /// Somebody else's incarnation, or an older one.
    StaleIncarnation {
        node: NodeId,
        given: Incarnation,
        current: Incarnation,
    },
    StaleEpoch {
        container: ContainerId,
        given: Epoch,
        current: Epoch,
    },
    /// The old incarnation must be fenced first; its `Fencing` is open or about to be.
    NotFenced {
        node: NodeId,
        old: Incarnation,
    },
    /// This kind of proof proves nothing about a node of this class, or needs an open `Fencing` first.
    NotProof {
        node: NodeId,
        problem: Arc<str>,
    },
    Infeasible {
        container: ContainerId,
        node: NodeId,
        reason: Arc<str>,
    },
    RequestExpired,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Member,
    Node,
    Container,
    Template,
    Storage,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kind::Member => "member",
            Kind::Node => "node",
            Kind::Container => "container",
            Kind::Template => "template",
            Kind::Storage => "storage",
        })
    }
}

impl Tell for Rejected {
    fn tell(&self, names: &impl Names, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejected::NotFound { kind, what } => write!(f, "no {kind} {what}"),
            Rejected::NameTaken { kind, name, holder } => {
                write!(f, "{kind} {name} exists already ({holder}); choose another name")
            }
            Rejected::Invalid { field, problem } => write!(f, "{field}: {problem}"),
            Rejected::WrongState { problem } => f.write_str(problem),
            Rejected::InUse { kind, what, by } => write!(f, "{kind} {what} is in use by {by}"),
            Rejected::StaleIncarnation { node, given, current } => {
                write!(f, "{}: incarnation {given} is not current; {current} is", names.node_name(*node))
            }
            Rejected::StaleEpoch { container, given, current } => {
                write!(f, "{}: epoch {given} is not current; {current} is", names.container_name(*container))
            }
            Rejected::NotFenced { node, old } => {
                let node = names.node_name(*node);
                write!(f, "{node}: incarnation {old} must be fenced before a new one; wait for its receipt")
            }
            Rejected::NotProof { node, problem } => write!(f, "{}: {problem}", names.node_name(*node)),
            Rejected::Infeasible { container, node, reason } => {
                write!(f, "{} cannot run on {}: {reason}", names.container_name(*container), names.node_name(*node))
            }
            Rejected::RequestExpired => f.write_str(
                "the request is older than what is remembered of its session; ask for the object's state, then begin a \
                 new session",
            ),
        }
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tell(&Ids, f)
    }
}

impl std::error::Error for Rejected {}

impl Rejected {
    /// The stable word for programs, in kebab case.
    pub fn code(&self) -> &'static str {
        match self {
            Rejected::NotFound { .. } => "not-found",
            Rejected::NameTaken { .. } => "name-taken",
            Rejected::Invalid { .. } => "invalid",
            Rejected::WrongState { .. } => "wrong-state",
            Rejected::InUse { .. } => "in-use",
            Rejected::StaleIncarnation { .. } => "stale-incarnation",
            Rejected::StaleEpoch { .. } => "stale-epoch",
            Rejected::NotFenced { .. } => "not-fenced",
            Rejected::NotProof { .. } => "not-proof",
            Rejected::Infeasible { .. } => "infeasible",
            Rejected::RequestExpired => "request-expired",
        }
    }

    /// The field of the request it is about, where there is one.
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Rejected::Invalid { field, .. } => Some(field),
            Rejected::NameTaken { .. } => Some("name"),
            _ => None,
        }
    }
}

/// Applies the normal entry at `index`. A repeated request changes nothing but the revision.
/// `index` must be above the state's revision: entries come in order, once.
pub fn apply(state: &mut State, index: Revision, entry: &Entry) -> Applied {
    assert!(index > state.revision(), "entry {index} after {} was applied", state.revision());
    state.advance(index, entry.at);
    let Some(request) = entry.request else { return Step::begin(state, index).carry_out(&entry.command) };
    let refused = |rejected| Applied { revision: index, outcome: Err(rejected), events: Vec::new(), repeated: false };
    match state.sessions().look_up(request, state.clock()) {
        Seen::Before(Remembered { revision, outcome }) => {
            Applied { revision, outcome, events: Vec::new(), repeated: true }
        }
        Seen::Expired => refused(Rejected::RequestExpired),
        Seen::Ahead(millis) => {
            let problem = format!(
                "its session was born {} s after now by the cluster's clock, and too many such are known; set the clock \
                 of the machine that drew it, or of the member that leads",
                millis / 1_000
            );
            refused(Rejected::Invalid { field: "request_id", problem: problem.into() })
        }
        Seen::Never => {
            let applied = Step::begin(state, index).carry_out(&entry.command);
            state.remember(request, Remembered { revision: index, outcome: applied.outcome.clone() });
            applied
        }
    }
}

/// Applies a configuration entry: who votes from here on.
pub fn apply_membership(state: &mut State, index: Revision, membership: Membership) -> Applied {
    assert!(index > state.revision(), "entry {index} after {} was applied", state.revision());
    state.advance(index, state.clock());
    let Membership { voters, outgoing, learners, .. } = membership.clone();
    state.set_membership(membership);
    let events = vec![Event::MembershipChanged { voters, outgoing, learners }];
    Applied { revision: index, outcome: Ok(Done::Nothing), events, repeated: false }
}

/// One command being carried out. Every arm checks all it needs before its first write, so a refusal leaves no trace.
struct Step<'a> {
    state: &'a mut State,
    index: Revision,
    events: Vec<Event>,
    /// Nodes that may have lost their last claim in this step.
    touched: BTreeSet<NodeId>,
}

impl<'a> Step<'a> {
    fn begin(state: &'a mut State, index: Revision) -> Step<'a> {
        Step { state, index, events: Vec::new(), touched: BTreeSet::new() }
    }

    fn carry_out(mut self, command: &Command) -> Applied {
        let outcome = self.dispatch(command);
        checked!(outcome.is_ok() || self.events.is_empty(), "a refusal left events: {outcome:?}");
        self.note_drained();
        Applied { revision: self.index, outcome, events: self.events, repeated: false }
    }

    fn dispatch(&mut self, command: &Command) -> Outcome {
        use Command::*;
        match command {
            Settle => Ok(Done::Nothing),

            AddMember { name, peer_address, api_address, secret } => {
                self.add_member(name, peer_address, api_address, *secret)
            }
            RemoveMember { member } => self.remove_member(*member),
            UpdateSettings { settings } => self.update_settings(settings),
            TripBrake { silent, of } => self.trip_brake(*silent, *of),
            ReleaseBrake => self.release_brake(),

            JoinNode { name, role, labels, failure_domain, secret } => {
                self.join_node(name, *role, labels, failure_domain, *secret)
            }
            RegisterNode(registration) => self.register_node(registration),
            SetNodeRole { node, role } => self.set_node_role(*node, *role),
            SetNodeIntent { node, intent } => self.set_node_intent(*node, *intent),
            AcknowledgeTerms { node, incarnation, terms } => self.acknowledge_terms(*node, *incarnation, *terms),
            NoteNodeClass { node, incarnation, class, reason } => {
                self.note_node_class(*node, *incarnation, *class, reason)
            }
            ReportNode { node, incarnation, report } => self.report_node(*node, *incarnation, report),
            BeginFencing { node, incarnation, cause } => self.begin_fencing(*node, *incarnation, cause),
            RecordFenced { node, incarnation, proof } => self.record_fenced(*node, *incarnation, proof),
            RemoveNode { node } => self.remove_node(*node),

            CreateContainer { spec, annotations, desired } => self.create_container(spec, annotations, *desired),
            SetDesired { container, desired } => self.set_desired(*container, *desired),
            RestartContainer { container } => self.restart_container(*container),
            MoveContainer { container, target } => self.move_container(*container, *target),
            AnnotateContainer { container, changes } => self.annotate_container(*container, changes),
            SetOnQuorumLoss { container, on_quorum_loss } => self.set_on_quorum_loss(*container, *on_quorum_loss),
            Assign { container, after, node, incarnation, decision } => {
                self.assign_container(*container, *after, *node, *incarnation, decision)
            }
            RecordUnplaceable { container, decision } => self.record_unplaceable(*container, decision),
            HoldContainer { container, after, reason } => self.hold_container(*container, *after, reason),
            BeginHandover { container, epoch, target, decision } => {
                self.begin_handover(*container, *epoch, *target, decision)
            }
            BeginHandoff { container, epoch } => self.begin_handoff(*container, *epoch),
            AbortHandover { container, epoch, reason } => self.abort_handover(*container, *epoch, reason),
            BlockHandover { container, epoch } => self.block_handover(*container, *epoch),
            ReportStatus { node, incarnation, reports } => self.report_status(*node, *incarnation, reports),

            RegisterTemplate { name, version, digest, kind, path, bytes, defaults } => {
                let (name, version, registered) = (name.clone(), Arc::clone(version), self.index);
                let (digest, path, defaults) = (Arc::clone(digest), Arc::clone(path), Arc::clone(defaults));
                let (kind, bytes) = (*kind, *bytes);
                self.register_template(Template { name, version, digest, kind, path, registered, bytes, defaults })
            }
            RemoveTemplate { name } => self.remove_template(name),
            RegisterStorage { name, kind } => self.register_storage(name, kind),
            RemoveStorage { name } => self.remove_storage(name),
        }
    }

    /// A draining node is drained when its last claim has gone.
    fn note_drained(&mut self) {
        for id in std::mem::take(&mut self.touched) {
            let Some(node) = self.state.node(id) else { continue };
            if matches!(node.intent, Intent::Draining { .. }) && self.state.claim_count(id) == 0 {
                self.events.push(Event::NodeDrained { node: id, name: node.name.clone() });
            }
        }
    }

    /// Writes a container and notes which nodes it may have left.
    fn put(&mut self, container: Container) {
        if let Some(old) = self.state.container(container.id).and_then(|old| old.assignment()) {
            self.touched.insert(old.node);
            self.touched.extend(old.target());
        }
        self.state.put_container(container);
    }

    fn container(&self, id: ContainerId) -> Result<Container, Rejected> {
        let found = self.state.container(id).map(|container| Container::clone(container));
        found.ok_or_else(|| not_found(Kind::Container, id))
    }

    fn node(&self, id: NodeId) -> Result<Node, Rejected> {
        self.state.node(id).map(|node| Node::clone(node)).ok_or_else(|| not_found(Kind::Node, id))
    }
}

fn not_found(kind: Kind, what: impl fmt::Display) -> Rejected {
    Rejected::NotFound { kind, what: what.to_string().into() }
}

fn wrong_state(problem: impl Into<String>) -> Rejected {
    Rejected::WrongState { problem: problem.into().into() }
}

fn invalid(field: &'static str, problem: impl Into<String>) -> Rejected {
    Rejected::Invalid { field, problem: problem.into().into() }
}

//! Carries out one command on the state, whole or not at all.
//! In: a state, the index of the entry, the entry. Out: what came of it and the events, in order.
//! Absent: no I/O error and no clock can occur here; a refusal is plain data and part of the replicated result.

use std::fmt;
use std::sync::Arc;

use crate::command::Entry;
use crate::event::Event;
use crate::model::ids::{ContainerId, Epoch, Incarnation, MemberId, NodeId, Revision};
use crate::model::member::Membership;
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Rejected {
    #[error("no {kind} {what}")]
    NotFound { kind: Kind, what: Arc<str> },
    #[error("{kind} {name} exists already ({holder}); choose another name")]
    NameTaken { kind: Kind, name: Arc<str>, holder: Arc<str> },
    #[error("{field}: {problem}")]
    Invalid { field: &'static str, problem: Arc<str> },
    /// The state is not one in which this can be done.
    #[error("{problem}")]
    WrongState { problem: Arc<str> },
    #[error("{kind} {what} is in use by {by}")]
    InUse { kind: Kind, what: Arc<str>, by: Arc<str> },
    /// Somebody else's incarnation, or an older one.
    #[error("{node}: incarnation {given} is not current; {current} is")]
    StaleIncarnation { node: NodeId, given: Incarnation, current: Incarnation },
    #[error("{container}: epoch {given} is not current; {current} is")]
    StaleEpoch { container: ContainerId, given: Epoch, current: Epoch },
    /// The old incarnation must be fenced first; its `Fencing` is open or about to be.
    #[error("{node}: incarnation {old} must be fenced before a new one; wait for its receipt")]
    NotFenced { node: NodeId, old: Incarnation },
    /// This kind of proof proves nothing about a node of this class, or needs an open `Fencing` first.
    #[error("{node}: {problem}")]
    NotProof { node: NodeId, problem: Arc<str> },
    #[error("{container} cannot run on {node}: {reason}")]
    Infeasible { container: ContainerId, node: NodeId, reason: Arc<str> },
    #[error("the request is older than what is remembered of its session; ask for the object's state, then begin a new session")]
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
    let _ = (state, entry);
    Applied { revision: index, outcome: Ok(Done::Nothing), events: Vec::new(), repeated: false }
}

/// Applies a configuration entry: who votes from here on.
pub fn apply_membership(state: &mut State, index: Revision, membership: Membership) -> Applied {
    let _ = (state, membership);
    Applied { revision: index, outcome: Ok(Done::Nothing), events: Vec::new(), repeated: false }
}

//! Where a container may go and where it goes best. One judge, used by the planner *and* by `apply`.
//! In: the state and a container. Out: `feasible` (one rejection or none) and candidates, best first.
//! Absent: no options and no weights; the order of `Score`'s fields is the policy.

pub mod score;
mod rules;
mod ranking;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use ranking::{Ranking, Seat, Unplaceable};
pub use rules::CPU_OVERCOMMIT;
pub use score::Score;

use crate::model::container::Container;
use crate::model::decision::{Decision, Trigger};
use crate::model::ids::{Name, NodeId};
use crate::state::State;

/// Whether `container` may be given to `node` as the state is. Room it has claimed there already counts as free.
/// Errs with the first rule that says no.
pub fn feasible(state: &State, container: &Container, node: NodeId) -> Result<(), Rejection> {
    let node = state.node(node).ok_or(Rejection::NotUp)?;
    rules::Seeker::of(state, container).at(node, state.used(node.id)).judge()
}

/// Nodes that may take `container`, best first; `exclude` and the suspects are left out. Ties end at the smaller node
/// id, so all members agree.
pub fn candidates(
    state: &State,
    container: &Container,
    exclude: Option<NodeId>,
    suspects: &BTreeSet<NodeId>,
) -> Vec<(NodeId, Score)> {
    let seats = seats_but(state, exclude);
    let mut scores: Vec<Score> = Ranking::of(state, container, &seats, suspects).scores().cloned().collect();
    scores.sort();
    scores.into_iter().map(|score| (score.node, score)).collect()
}

/// The choice for `container` and why; `chosen` is `None` when no node may take it.
pub fn decide(
    state: &State,
    container: &Container,
    trigger: Trigger,
    exclude: Option<NodeId>,
    suspects: &BTreeSet<NodeId>,
) -> Decision {
    let seats = seats_but(state, exclude);
    Ranking::of(state, container, &seats, suspects).decision(container.id, trigger, &seats, state.revision())
}

fn seats_but(state: &State, exclude: Option<NodeId>) -> Vec<Seat> {
    let mut seats = Seat::all(state);
    seats.retain(|seat| Some(seat.node()) != exclude);
    seats
}

/// The decision that puts `container` on the one node somebody asked for.
pub fn decide_for(
    state: &State,
    container: &Container,
    trigger: Trigger,
    target: NodeId,
) -> Result<Decision, Rejection> {
    let node = state.node(target).ok_or(Rejection::NotUp)?;
    let seeker = rules::Seeker::of(state, container);
    let case = seeker.at(node, state.used(node.id));
    case.judge()?;
    let score = Score::of(&case);
    Ok(Decision {
        container: container.id,
        trigger,
        chosen: Some(target),
        candidates: Arc::new([(target, score)]),
        feasible: 1,
        rejections: Arc::new([]),
        based_on: state.revision(),
    })
}

/// Why a node may not take a container. The first rule that says no is named; each has a stable reason code.
/// New ones come last: what was there before hashes by its place in the list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Rejection {
    /// Not up: never registered, fencing or fenced.
    NotUp,
    /// Cordoned, draining or in maintenance.
    NotSchedulable,
    /// The leader's own view: silent. Planner only; never in `apply`.
    Suspect,
    NotPossibleOwner,
    TemplateUnknown {
        template: Name,
    },
    StorageUnknown {
        storage: Name,
    },
    NoRuntime,
    CpuShort {
        missing_millis: u64,
    },
    MemoryShort {
        missing_bytes: u64,
    },
    /// Could not start it there lately.
    StartFailedHere {
        reason: Arc<str>,
    },
    StorageLost {
        storage: Name,
        fault: Arc<str>,
    },
    /// The storage is local, and its private area lies on another node.
    AreaElsewhere {
        storage: Name,
        home: NodeId,
    },
    /// The node says that it finds it on no storage, nor on the one the container is on.
    TemplateMissing {
        template: Name,
        storage: Name,
    },
    /// The node says that it is not what its digest says.
    TemplateDamaged {
        template: Name,
        storage: Name,
    },
    /// Its agent would not do all that the container asks for.
    AgentTooOld,
}

impl Rejection {
    pub fn code(&self) -> &'static str {
        match self {
            Rejection::NotUp => "not-up",
            Rejection::NotSchedulable => "not-schedulable",
            Rejection::Suspect => "suspect",
            Rejection::NotPossibleOwner => "not-possible-owner",
            Rejection::TemplateUnknown { .. } => "template-unknown",
            Rejection::StorageUnknown { .. } => "storage-unknown",
            Rejection::TemplateMissing { .. } => "template-missing",
            Rejection::TemplateDamaged { .. } => "template-damaged",
            Rejection::AgentTooOld => "agent-too-old",
            Rejection::NoRuntime => "no-runtime",
            Rejection::CpuShort { .. } => "cpu-short",
            Rejection::MemoryShort { .. } => "memory-short",
            Rejection::StartFailedHere { .. } => "start-failed-here",
            Rejection::StorageLost { .. } => "storage-lost",
            Rejection::AreaElsewhere { .. } => "area-elsewhere",
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejection::NotUp => f.write_str("the node is not up"),
            Rejection::NotSchedulable => f.write_str("the node takes no new work"),
            Rejection::Suspect => f.write_str("the node is silent"),
            Rejection::NotPossibleOwner => f.write_str("not among the possible owners"),
            Rejection::TemplateUnknown { template } => write!(f, "template {template} is not registered"),
            Rejection::StorageUnknown { storage } => write!(f, "storage {storage} is not registered"),
            Rejection::TemplateMissing { template, storage } => write!(
                f,
                "template {template} is on no storage the node sees; \
                 `quoratectl template sync {template} --storage {storage}` brings it"
            ),
            Rejection::TemplateDamaged { template, storage } => {
                write!(f, "template {template} is damaged on storage {storage}; import it anew under another name")
            }
            Rejection::AgentTooOld => {
                f.write_str("its agent has not said that it knows of application templates: upgrade it, if it is older")
            }
            Rejection::NoRuntime => f.write_str("no runtime works there"),
            Rejection::CpuShort { missing_millis } => write!(f, "{missing_millis} mCPU short"),
            Rejection::MemoryShort { missing_bytes } => {
                write!(f, "{} MiB memory short", missing_bytes.div_ceil(1 << 20))
            }
            Rejection::StartFailedHere { reason } => write!(f, "could not start there: {reason}"),
            Rejection::StorageLost { storage, fault } => write!(f, "storage {storage} is lost there: {fault}"),
            Rejection::AreaElsewhere { storage, home } => {
                write!(f, "its private area lies on {home} alone, storage {storage} is local")
            }
        }
    }
}

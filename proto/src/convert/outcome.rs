//! What commands came to.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use cluster::apply::{Done, Kind, Outcome, Rejected};
use cluster::{ContainerId, Epoch, Incarnation, MemberId, NodeId};

use super::{ConvertError, NOTHING, Result, choice, part, required, same_variants, text};
use crate::wire::{self, done, outcome, rejected};

same_variants! {
    Kind = wire::Kind { Member, Node, Container, Template, Storage }
}

impl From<&Done> for wire::Done {
    fn from(done: &Done) -> wire::Done {
        let done = match *done {
            Done::Nothing => done::Done::Nothing(NOTHING),
            Done::Member(id) => done::Done::Member(id.0),
            Done::Node(id) => done::Done::Node(id.0),
            Done::Registered(incarnation) => done::Done::Registered(incarnation.0),
            Done::Container(id) => done::Done::Container(id.0),
        };
        wire::Done { done: Some(done) }
    }
}

impl TryFrom<wire::Done> for Done {
    type Error = ConvertError;

    fn try_from(done: wire::Done) -> Result<Done> {
        Ok(match required("done", done.done)? {
            done::Done::Nothing(_) => Done::Nothing,
            done::Done::Member(id) => Done::Member(MemberId(id)),
            done::Done::Node(id) => Done::Node(NodeId(id)),
            done::Done::Registered(incarnation) => Done::Registered(Incarnation(incarnation)),
            done::Done::Container(id) => Done::Container(ContainerId(id)),
        })
    }
}

impl From<&Rejected> for wire::Rejected {
    fn from(reason: &Rejected) -> wire::Rejected {
        use rejected::Rejected as Shown;
        let kind = |kind: &Kind| wire::Kind::from(*kind).into();
        let rejected = match reason {
            Rejected::NotFound { kind: of, what } => {
                Shown::NotFound(rejected::NotFound { kind: kind(of), what: text(what) })
            }
            Rejected::NameTaken { kind: of, name, holder } => {
                Shown::NameTaken(rejected::NameTaken { kind: kind(of), name: text(name), holder: text(holder) })
            }
            Rejected::Invalid { field, problem } => {
                Shown::Invalid(rejected::Invalid { field: (*field).to_owned(), problem: text(problem) })
            }
            Rejected::WrongState { problem } => Shown::WrongState(text(problem)),
            Rejected::InUse { kind: of, what, by } => {
                Shown::InUse(rejected::InUse { kind: kind(of), what: text(what), by: text(by) })
            }
            Rejected::StaleIncarnation { node, given, current } => {
                Shown::StaleIncarnation(rejected::StaleIncarnation { node: node.0, given: given.0, current: current.0 })
            }
            Rejected::StaleEpoch { container, given, current } => {
                Shown::StaleEpoch(rejected::StaleEpoch { container: container.0, given: given.0, current: current.0 })
            }
            Rejected::NotFenced { node, old } => Shown::NotFenced(rejected::NotFenced { node: node.0, old: old.0 }),
            Rejected::NotProof { node, problem } => {
                Shown::NotProof(rejected::NotProof { node: node.0, problem: text(problem) })
            }
            Rejected::Infeasible { container, node, reason } => {
                Shown::Infeasible(rejected::Infeasible { container: container.0, node: node.0, reason: text(reason) })
            }
            Rejected::RequestExpired => Shown::RequestExpired(NOTHING),
        };
        wire::Rejected { rejected: Some(rejected) }
    }
}

impl TryFrom<wire::Rejected> for Rejected {
    type Error = ConvertError;

    fn try_from(reason: wire::Rejected) -> Result<Rejected> {
        use rejected::Rejected as Shown;
        let kind = |kind: i32| choice::<wire::Kind, Kind>("kind", kind);
        Ok(match required("rejected", reason.rejected)? {
            Shown::NotFound(of) => Rejected::NotFound { kind: kind(of.kind)?, what: of.what.into() },
            Shown::NameTaken(of) => {
                Rejected::NameTaken { kind: kind(of.kind)?, name: of.name.into(), holder: of.holder.into() }
            }
            Shown::Invalid(of) => Rejected::Invalid { field: field_name(&of.field)?, problem: of.problem.into() },
            Shown::WrongState(problem) => Rejected::WrongState { problem: problem.into() },
            Shown::InUse(of) => Rejected::InUse { kind: kind(of.kind)?, what: of.what.into(), by: of.by.into() },
            Shown::StaleIncarnation(of) => Rejected::StaleIncarnation {
                node: NodeId(of.node),
                given: Incarnation(of.given),
                current: Incarnation(of.current),
            },
            Shown::StaleEpoch(of) => Rejected::StaleEpoch {
                container: ContainerId(of.container),
                given: Epoch(of.given),
                current: Epoch(of.current),
            },
            Shown::NotFenced(of) => Rejected::NotFenced { node: NodeId(of.node), old: Incarnation(of.old) },
            Shown::NotProof(of) => Rejected::NotProof { node: NodeId(of.node), problem: of.problem.into() },
            Shown::Infeasible(of) => Rejected::Infeasible {
                container: ContainerId(of.container),
                node: NodeId(of.node),
                reason: of.reason.into(),
            },
            Shown::RequestExpired(_) => Rejected::RequestExpired,
        })
    }
}

/// The model names fields by constants of the program; a name read back becomes one by being kept for good.
/// There are as many as the program has fields; a peer that sends more than `KEPT` different ones is refused.
fn field_name(text: &str) -> Result<&'static str> {
    const KEPT: usize = 512;
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(text) {
        return Ok(known);
    }
    if names.len() >= KEPT || text.len() > 128 {
        return Err(ConvertError::invalid("invalid.field", "is not the name of a field"));
    }
    let kept: &'static str = Box::leak(text.into());
    names.insert(kept);
    Ok(kept)
}

impl From<&Outcome> for wire::Outcome {
    fn from(outcome: &Outcome) -> wire::Outcome {
        let outcome = match outcome {
            Ok(done) => outcome::Outcome::Done(done.into()),
            Err(rejected) => outcome::Outcome::Rejected(rejected.into()),
        };
        wire::Outcome { outcome: Some(outcome) }
    }
}

/// The outcome a message holds. A function, since `Outcome` is a plain `Result` and belongs to nobody.
pub(crate) fn outcome(message: Option<wire::Outcome>) -> Result<Outcome> {
    let message = required("outcome", message)?;
    Ok(match required("outcome", message.outcome)? {
        outcome::Outcome::Done(done) => Ok(part("done", Some(done))?),
        outcome::Outcome::Rejected(rejected) => Err(part("rejected", Some(rejected))?),
    })
}

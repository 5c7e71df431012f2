//! What one container may do, seen by its name: it is created, annotated, deleted, and created anew.
//! In: the operations on one name. Out: an anomaly if no order explains them.
//! Absent: where it runs. A delete is a promise: from its effect on the container may be gone at any moment.

use std::collections::BTreeMap;

use crate::history::linear::{Model, Operand, Verdict, check};
use crate::history::{Anomaly, Call, End, Operation, Refusal, Reply, Rule, View};

pub struct Container;

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    #[default]
    Absent,
    Present {
        /// Unknown until an answer names it.
        id: Option<u64>,
        annotations: BTreeMap<String, String>,
        leaving: bool,
    },
}

impl Model for Container {
    type State = Object;
    type Call = Call;
    type Reply = Reply;

    fn initial() -> Object {
        Object::Absent
    }

    fn step(state: &Object, call: &Call, reply: Option<&Reply>) -> Vec<Object> {
        let gone = matches!(state, Object::Present { leaving: true, .. }).then_some(Object::Absent);
        gone.iter().chain([state]).flat_map(|state| step(state, call, reply)).collect()
    }

    fn helps(before: &Object, after: &Object, call: &Call, reply: &Reply) -> bool {
        match (call, reply) {
            (Call::Look, Reply::Saw(Some(view))) => distance(after, view) < distance(before, view),
            // Everything else asks only whether it is there.
            _ => presence(before) != presence(after),
        }
    }
}

/// How far an object is from what a look shows: another container that stays, one that leaves, none, wrong annotations.
fn distance(state: &Object, view: &View) -> usize {
    match state {
        Object::Present { id: Some(id), leaving, .. } if *id != view.id => usize::MAX - usize::from(*leaving),
        Object::Absent => usize::MAX - 2,
        Object::Present { annotations, .. } => {
            let differs = |key: &&String| annotations.get(*key) != view.annotations.get(*key);
            let more = view.annotations.keys().filter(|key| !annotations.contains_key(*key));
            annotations.keys().chain(more).filter(differs).count()
        }
    }
}

/// Whether it is there, as which, and whether it may be gone at any moment.
fn presence(state: &Object) -> Option<(Option<u64>, bool)> {
    match state {
        Object::Absent => None,
        Object::Present { id, leaving, .. } => Some((*id, *leaving)),
    }
}

fn step(state: &Object, call: &Call, reply: Option<&Reply>) -> Option<Object> {
    // A refusal for a reason this model does not follow says nothing about the object.
    if matches!(reply, Some(Reply::Refused(Refusal::Other))) {
        return Some(state.clone());
    }
    match (state, call, reply) {
        (Object::Absent, Call::Create, Some(Reply::Done { .. }) | None) => {
            let id = match reply {
                Some(Reply::Done { id }) => *id,
                _ => None,
            };
            Some(Object::Present { id, annotations: BTreeMap::new(), leaving: false })
        }
        (Object::Present { .. }, Call::Create, Some(Reply::Refused(Refusal::Taken))) => Some(state.clone()),
        (_, Call::Look, Some(Reply::Saw(view))) => match (state, view) {
            (Object::Absent, None) => Some(Object::Absent),
            (Object::Present { id, annotations, leaving }, Some(view)) => {
                let same = id.is_none_or(|id| id == view.id) && *annotations == view.annotations;
                same.then(|| Object::Present { id: Some(view.id), annotations: annotations.clone(), leaving: *leaving })
            }
            _ => None,
        },
        (_, Call::Annotate { of, .. } | Call::Delete { of } | Call::Change { of }, _) => aimed(state, call, *of, reply),
        _ => None,
    }
}

/// A call for a container that exists, by name or by id.
fn aimed(state: &Object, call: &Call, of: Option<u64>, reply: Option<&Reply>) -> Option<Object> {
    let (id, annotations, leaving) = match state {
        Object::Present { id, annotations, leaving } if of.is_none() || id.is_none() || *id == of => {
            (*id, annotations, *leaving)
        }
        _ => return matches!(reply, Some(Reply::Refused(Refusal::Unknown))).then(|| state.clone()),
    };
    match reply {
        Some(Reply::Done { .. }) | None => {}
        // Its id is not known yet: it may be another than the one that was asked for.
        Some(Reply::Refused(Refusal::Unknown)) if of.is_some() && id.is_none() => return Some(state.clone()),
        _ => return None,
    }
    let mut annotations = annotations.clone();
    if let Call::Annotate { key, value, .. } = call {
        match value {
            Some(value) => annotations.insert(key.clone(), value.clone()),
            None => annotations.remove(key),
        };
    }
    let leaving = leaving || matches!(call, Call::Delete { .. });
    Some(Object::Present { id: id.or(of), annotations, leaving })
}

/// Judges the operations on one name.
pub(super) fn linear(object: &str, operations: &[&Operation], budget: usize, anomalies: &mut Vec<Anomaly>) {
    // A read nobody was answered says nothing; a stale one is judged by its revision.
    let says_something = |operation: &&&Operation| {
        let silent = matches!(operation.call, Call::Look | Call::Change { .. }) && operation.end == End::Unknown;
        operation.call != Call::LookStale && !silent
    };
    let operations: Vec<&Operation> = operations.iter().filter(says_something).copied().collect();
    let operands: Vec<Operand<'_, Container>> = operations
        .iter()
        .map(|operation| Operand {
            call: &operation.call,
            begun: operation.begun,
            answer: match &operation.end {
                End::Answered { at, reply, .. } => Some((*at, reply)),
                End::Unknown => None,
            },
            claims: match &operation.end {
                // A look at a revision comes after what was written there.
                End::Answered { revision: Some(revision), .. } => {
                    Some(2 * revision + u64::from(operation.call == Call::Look))
                }
                _ => None,
            },
        })
        .collect();
    match check(&operands, budget) {
        Verdict::Linearizable => {}
        Verdict::Undecided => {
            let what = format!("{object}: {} operations were too many to order", operations.len());
            anomalies.push(Anomaly { rule: Rule::Undecided, what });
        }
        Verdict::Broken { stuck, explained } => {
            let Operation { client, call, begun, end, .. } = operations[stuck];
            let what = format!(
                "{object}: no order explains {call:?} of client {client}, begun at {begun}: {end:?} ({explained} of {} are)",
                operations.len()
            );
            anomalies.push(Anomaly { rule: Rule::Linearizable, what });
        }
    }
}

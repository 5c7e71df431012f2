//! Writes down what clients and watchers saw, for the judge in `history`, which knows nothing of the product.
//! In: questions as they end, events as members tell their watchers of them. Out: the history of a run.
//! Absent: judgement; and god's knowledge, but for one clock that all clients share.

use std::collections::BTreeMap;
use std::sync::Arc;

use cluster::apply::{Done, Kind, Rejected};
use cluster::{Command, Container, Desired, Event as Told, MemberId, Outcome, Revision};

use crate::history::{Call, End, Event, History, Operation, Refusal, Reply, View, Watch};
use crate::sim::clock::God;
use crate::sim::happenings::{Answered, Wish};

#[derive(Default)]
pub struct Histories {
    history: History,
    /// The watch that each member's watchers are in.
    open: BTreeMap<MemberId, usize>,
    /// The generation they are of is over.
    closed: bool,
    /// What was first told of each revision, and its texts.
    words: BTreeMap<Revision, (Vec<Told>, Vec<Arc<str>>)>,
}

/// What a question means to the judge: the object it is about, and what is asked of it.
#[derive(Clone, Debug)]
pub(crate) struct About {
    object: String,
    call: Call,
    request: Option<String>,
}

impl About {
    /// `name`: of the container the question is about.
    pub fn of(client: u32, name: &str, wish: &Wish) -> Option<About> {
        let (call, sequence) = match wish {
            Wish::Look { stale: true, .. } => (Call::LookStale, None),
            Wish::Look { stale: false, .. } => (Call::Look, None),
            Wish::Propose { sequence, command } => (call_of(command)?, Some(sequence)),
            Wish::Read | Wish::Change(_) | Wish::Transfer(_) => return None,
        };
        let request = sequence.map(|sequence| format!("client {client}, {sequence}"));
        Some(About { object: name.to_owned(), call, request })
    }
}

fn call_of(command: &Command) -> Option<Call> {
    Some(match command {
        Command::CreateContainer { .. } => Call::Create,
        Command::SetDesired { container, desired: Desired::Deleted } => Call::Delete { of: Some(container.0) },
        Command::SetDesired { container, .. }
        | Command::RestartContainer { container }
        | Command::SetOnQuorumLoss { container, .. }
        | Command::MoveContainer { container, .. } => Call::Change { of: Some(container.0) },
        Command::AnnotateContainer { container, changes } => {
            let (key, value) = changes.iter().next()?;
            Call::Annotate { of: Some(container.0), key: key.clone(), value: value.clone() }
        }
        _ => return None,
    })
}

/// What a look shows of a container.
pub(crate) fn view(container: &Container) -> View {
    let annotations = container.annotations.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    View { id: container.id.0, annotations }
}

impl Histories {
    /// `answer`: `None` if nobody knows what came of it.
    pub fn ended(&mut self, client: u32, about: &About, begun: God, now: God, answer: Option<&Answered>) {
        if self.closed {
            return;
        }
        let end = match answer {
            Some(Answered::Applied { revision, outcome }) => match reply(outcome) {
                Some(reply) => End::Answered { at: now, revision: Some(revision.0), reply },
                None => End::Unknown,
            },
            Some(Answered::Seen { revision, view }) => {
                End::Answered { at: now, revision: Some(revision.0), reply: Reply::Saw(view.clone()) }
            }
            _ => End::Unknown,
        };
        let About { object, call, request } = about.clone();
        self.history.operations.push(Operation { client: client.into(), request, object, call, begun, end });
    }

    /// The watchers of `member` begin anew behind `after`.
    pub fn watches_from(&mut self, member: MemberId, after: Revision) {
        if self.closed {
            return;
        }
        self.open.insert(member, self.history.watches.len());
        self.history.watches.push(Watch { client: member.0, after: after.0, seen: Vec::new() });
    }

    pub fn told(&mut self, member: MemberId, revision: Revision, events: &[Told]) {
        let Some(watch) = self.open.get(&member).filter(|_| !self.closed && !events.is_empty()) else { return };
        let in_words = || events.iter().map(|event| event.to_string().into()).collect();
        // Each member tells the same, and one that starts anew all over again: it is put into words once.
        let (first, words) = self.words.entry(revision).or_insert_with(|| (events.to_vec(), in_words()));
        let others: Vec<Arc<str>>;
        let words = if first == events {
            &*words
        } else {
            others = in_words();
            &others
        };
        let seen = &mut self.history.watches[*watch].seen;
        seen.extend((0..).zip(words).map(|(place, text)| Event {
            revision: revision.0,
            place,
            text: text.clone(),
            request: None,
        }));
    }

    /// Nothing more belongs to it: what is promised to clients holds within a generation.
    pub fn close(&mut self) {
        self.closed = true;
    }

    pub fn into_history(self) -> History {
        self.history
    }
}

/// What an outcome tells a client; `None` if it does not say whether the request had its effect.
fn reply(outcome: &Outcome) -> Option<Reply> {
    Some(match outcome {
        Ok(Done::Container(id)) => Reply::Done { id: Some(id.0) },
        Ok(_) => Reply::Done { id: None },
        Err(Rejected::RequestExpired) => return None,
        Err(Rejected::NotFound { kind: Kind::Container, .. }) => Reply::Refused(Refusal::Unknown),
        Err(Rejected::NameTaken { kind: Kind::Container, .. }) => Reply::Refused(Refusal::Taken),
        Err(_) => Reply::Refused(Refusal::Other),
    })
}

//! Judges what clients saw, and nothing else: data in, anomalies out. Fed by the simulator and by real processes.
//! In: operations with the times of one clock, what watches delivered. Out: every anomaly, in the words of a person.
//! `linear` is the search, `container` what one object may do, `order` what revisions say, `watch` streams of events.
//! Absent: the product's code; a checker that shared it would share its mistakes.
//!
//! How to feed it: one [`Operation`] an attempt. Attempts that repeat a request carry the same `request` and are taken
//! together. An attempt whose answer never came, or was "outcome unknown", ends [`End::Unknown`]; one that certainly
//! changed nothing (refused before it was proposed) is left out. Times are nanoseconds of one clock that all clients
//! share, `begun` before the request leaves, `at` after the answer is there.

mod container;
mod linear;
mod order;
mod register;
mod watch;

use std::collections::BTreeMap;
use std::fmt;

pub use container::{Container, Object};
pub use linear::{Model, Operand, Verdict, check};
pub use register::{Register, RegisterCall, RegisterReply};
pub use watch::{Event, Watch};

/// Nanoseconds of the clock all clients share.
pub type Time = u64;

/// Steps of the search for one object before it gives up; far more than a sound history of a thousand operations needs.
const BUDGET: usize = 2_000_000;

/// What a run of clients saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    pub operations: Vec<Operation>,
    pub watches: Vec<Watch>,
}

/// One attempt of one client on one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub client: u64,
    /// The same for every attempt at one request; `None` for reads.
    pub request: Option<String>,
    /// The container's name.
    pub object: String,
    pub call: Call,
    pub begun: Time,
    pub end: End,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Create,
    /// Sets one annotation, or removes it. `of`: the id it was aimed at, where it was aimed at one.
    Annotate {
        of: Option<u64>,
        key: String,
        value: Option<String>,
    },
    /// Deleting takes its time: from the answer on it may be gone at any moment.
    Delete {
        of: Option<u64>,
    },
    /// Changes something that this model does not follow: a start, a stop, a move.
    Change {
        of: Option<u64>,
    },
    /// As new as everything acknowledged before it began.
    Look,
    /// Asked for with `--stale`: some state that once was.
    LookStale,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// `revision`: the applied index the answer names.
    Answered { at: Time, revision: Option<u64>, reply: Reply },
    /// It may have its effect at any time after it began, or never.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Carried out; `id` if the answer names the object's.
    Done {
        id: Option<u64>,
    },
    Refused(Refusal),
    /// What a look showed; `None`: there is no such container.
    Saw(Option<View>),
}

/// Why nothing was changed, as far as it says something about the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such container.
    Unknown,
    /// The name is taken.
    Taken,
    /// Anything else: limits, states this model does not follow.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub id: u64,
    pub annotations: BTreeMap<String, String>,
}

/// Something that cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anomaly {
    pub rule: Rule,
    pub what: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// No order of the operations explains the answers.
    Linearizable,
    /// The search gave up: neither sound nor broken.
    Undecided,
    /// Revisions contradict the order in which things happened.
    RealTime,
    /// One request was answered in two ways, or had two effects.
    OnceOnly,
    /// A stale read shows what never was at its revision.
    Stale,
    /// A watch left something out, told it twice or in another order, or two watches disagree.
    Watch,
}

impl Rule {
    pub fn name(self) -> &'static str {
        match self {
            Rule::Linearizable => "Linearizable",
            Rule::Undecided => "Undecided",
            Rule::RealTime => "RealTime",
            Rule::OnceOnly => "OnceOnly",
            Rule::Stale => "Stale",
            Rule::Watch => "Watch",
        }
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule.name(), self.what)
    }
}

/// Everything wrong with `history`; empty for a sound one.
pub fn judge(history: &History) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    let operations = order::merged(&history.operations, &mut anomalies);
    order::real_time(&operations, &mut anomalies);
    let mut objects: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in &operations {
        objects.entry(&operation.object).or_default().push(operation);
    }
    for (object, operations) in objects {
        order::stale(&operations, &mut anomalies);
        container::linear(object, &operations, BUDGET, &mut anomalies);
    }
    watch::check(&operations, &history.watches, &mut anomalies);
    anomalies
}

#[cfg(test)]
mod tests;

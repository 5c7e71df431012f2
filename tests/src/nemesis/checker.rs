//! The judge of the nemesis. In: what containers wrote about themselves, as lines of JSON from the shared folder or from the
//! observer, and what clients asked and were told. Out: everything that breaks the promise, and what of it class F1 exposes.
//! Shares no code with the product, nor with the lab's own checker; is itself judged by forged histories, at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

/// Who wrote a line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Runner {
    pub epoch: u64,
    pub node: String,
    pub incarnation: u64,
    pub boot: String,
}

impl fmt::Display for Runner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let boot = self.boot.get(..8).unwrap_or(&self.boot);
        write!(out, "e{} on {} i{} boot {boot}", self.epoch, self.node, self.incarnation)
    }
}

/// From the first line of a runner to its last; nanoseconds of the boot-time clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    pub runner: Runner,
    pub first_ns: u64,
    pub last_ns: u64,
    /// The sequence number that is due next.
    due: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    Unreadable(String),
    /// `stale` still wrote when `newer` had begun.
    Overlap {
        container: String,
        stale: Runner,
        newer: Runner,
        from_ns: u64,
        until_ns: u64,
    },
    /// One epoch, two runners.
    Shared {
        container: String,
        one: Runner,
        other: Runner,
    },
    /// A lower epoch began after a higher one.
    Backwards {
        container: String,
        from: Runner,
        to: Runner,
    },
    /// Its lines do not count upwards: it was started twice, or lines are missing.
    Gap {
        container: String,
        runner: Runner,
        due: u64,
        found: u64,
    },
    /// Nothing runs where something should.
    Lost {
        container: String,
    },
    /// A write was acknowledged and is not there.
    Unacknowledged {
        key: String,
        acknowledged: u64,
        found: Option<u64>,
    },
    /// A read gave what it must not give.
    Read {
        key: String,
        why: String,
    },
}

impl fmt::Display for Broken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Unreadable(line) => write!(out, "unreadable line {line:?}"),
            Broken::Overlap { container, stale, newer, from_ns, until_ns } => {
                let ms = (until_ns - from_ns) / 1_000_000;
                write!(out, "OVERLAP of {container}: {stale} still wrote {ms} ms after {newer} had begun")
            }
            Broken::Shared { container, one, other } => {
                write!(out, "OVERLAP of {container}: one epoch ran as {one} and as {other}")
            }
            Broken::Backwards { container, from, to } => write!(out, "{container}: {to} began after {from}"),
            Broken::Gap { container, runner, due, found } => {
                write!(out, "{container}: {runner} wrote line {found} where line {due} was due")
            }
            Broken::Lost { container } => write!(out, "LOST: {container} does not run"),
            Broken::Unacknowledged { key, acknowledged, found } => {
                write!(out, "LOST ACKNOWLEDGEMENT: {key} was told {acknowledged} and holds {found:?}")
            }
            Broken::Read { key, why } => write!(out, "a read of {key} {why}"),
        }
    }
}

/// Whose record is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// The shared folder: every line must be there.
    Storage,
    /// The observer: lines may be missing, those that came must be in order.
    Observer,
}

/// Takes lines one by one, in the order of their record.
#[derive(Debug)]
pub struct Judge {
    record: Record,
    lives: BTreeMap<String, Vec<Life>>,
    /// What order alone shows; what times show is found when asked.
    broken: Vec<Broken>,
    pub lines: u64,
}

impl Judge {
    pub fn new(record: Record) -> Judge {
        Judge { record, lives: BTreeMap::new(), broken: Vec::new(), lines: 0 }
    }

    pub fn take(&mut self, line: &str) {
        let Some((container, runner, sequence, at_ns)) = parse(line) else {
            self.broken.push(Broken::Unreadable(line.to_owned()));
            return;
        };
        self.lines += 1;
        let lives = self.lives.entry(container.clone()).or_default();
        let at = lives.iter().rposition(|life| life.runner == runner).unwrap_or_else(|| {
            lives.push(Life { runner: runner.clone(), first_ns: at_ns, last_ns: at_ns, due: 0 });
            lives.len() - 1
        });
        // Records are written in the order of things: a line behind that of another runner was written later.
        if let Some(newer) = lives[at + 1..].iter().find(|other| other.runner.epoch > runner.epoch) {
            let (stale, newer, from_ns) = (runner.clone(), newer.runner.clone(), newer.first_ns);
            let known =
                |it: &Broken| matches!(it, Broken::Overlap { stale: s, newer: n, .. } if *s == stale && *n == newer);
            if !self.broken.iter().any(known) {
                let until_ns = at_ns.max(from_ns);
                self.broken.push(Broken::Overlap { container: container.clone(), stale, newer, from_ns, until_ns });
            }
        }
        let life = &mut lives[at];
        let fits = match self.record {
            Record::Storage => sequence == life.due,
            Record::Observer => sequence >= life.due,
        };
        if !fits || at_ns < life.last_ns {
            self.broken.push(Broken::Gap { container, runner, due: life.due, found: sequence });
        }
        life.due = sequence + 1;
        life.last_ns = life.last_ns.max(at_ns);
    }

    /// Whole lines of a file; what has no end was cut off with the power and says nothing.
    pub fn take_all(&mut self, text: &str) {
        text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).for_each(|line| self.take(line));
    }

    /// By first line.
    pub fn lives(&self, container: &str) -> &[Life] {
        self.lives.get(container).map_or(&[], Vec::as_slice)
    }

    /// The life that wrote last.
    pub fn latest(&self, container: &str) -> Option<&Life> {
        self.lives(container).iter().max_by_key(|life| life.last_ns)
    }

    /// Everything that is wrong with what was taken so far.
    pub fn broken(&self) -> Vec<Broken> {
        let mut found = self.broken.clone();
        for (container, lives) in &self.lives {
            let mut lives = lives.clone();
            lives.sort_by_key(|life| (life.first_ns, life.runner.epoch));
            for (at, one) in lives.iter().enumerate() {
                for other in &lives[at + 1..] {
                    found.extend(together(container, one, other));
                }
            }
        }
        // What order and times both show is one fault; the longer account of it is kept.
        let mut kept: Vec<Broken> = Vec::new();
        for fault in found {
            match kept.iter_mut().find(|it| is_same(it, &fault)) {
                Some(before) if length(before) < length(&fault) => *before = fault,
                Some(_) => {}
                None => kept.push(fault),
            }
        }
        kept
    }
}

/// What is wrong with two lives of one container, of which `one` began first.
fn together(container: &str, one: &Life, other: &Life) -> Vec<Broken> {
    let mut found = Vec::new();
    let container = container.to_owned();
    let (first, second) = (one.runner.clone(), other.runner.clone());
    if first.epoch == second.epoch {
        found.push(Broken::Shared { container: container.clone(), one: first.clone(), other: second.clone() });
    } else if first.epoch > second.epoch {
        found.push(Broken::Backwards { container: container.clone(), from: first.clone(), to: second.clone() });
    }
    if one.last_ns >= other.first_ns {
        let (from_ns, until_ns) = (other.first_ns, one.last_ns.min(other.last_ns));
        found.push(Broken::Overlap { container, stale: first, newer: second, from_ns, until_ns });
    }
    found
}

fn is_same(one: &Broken, other: &Broken) -> bool {
    match (one, other) {
        (Broken::Overlap { container, stale, newer, .. }, Broken::Overlap { container: c, stale: s, newer: n, .. }) => {
            container == c && stale == s && newer == n
        }
        _ => false,
    }
}

fn length(broken: &Broken) -> u64 {
    match broken {
        Broken::Overlap { from_ns, until_ns, .. } => until_ns - from_ns,
        _ => 0,
    }
}

fn parse(line: &str) -> Option<(String, Runner, u64, u64)> {
    let value: Value = serde_json::from_str(line).ok()?;
    let object = value.as_object().filter(|object| object.len() == 7)?;
    let text = |key: &str| object.get(key)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let number = |key: &str| object.get(key)?.as_u64();
    let runner = Runner {
        epoch: number("epoch")?,
        node: text("node")?,
        incarnation: number("incarnation")?,
        boot: text("boot")?,
    };
    Some((text("container")?, runner, number("sequence")?, number("at_ns")?))
}

/// A node that could not be stopped by its own guard, which class F1 does not promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposure {
    pub node: String,
    pub from_ns: u64,
    pub until_ns: u64,
}

/// Splits what is broken into what breaks the promise and how long (ns) what class F1 exposes lasted: the stale runner was
/// on the node meanwhile, and the newer one began meanwhile.
pub fn judge(broken: Vec<Broken>, exposures: &[Exposure]) -> (Vec<Broken>, Vec<u64>) {
    let mut lengths = Vec::new();
    let exposed = |fault: &Broken| match fault {
        Broken::Overlap { stale, newer, from_ns, until_ns, .. } => exposures.iter().any(|it| {
            it.node == stale.node
                && it.node != newer.node
                && stale.epoch < newer.epoch
                && it.from_ns <= *from_ns
                && *until_ns <= it.until_ns
        }),
        _ => false,
    };
    let violations = broken.into_iter().filter(|fault| {
        let is = exposed(fault);
        if is {
            lengths.push(length(fault));
        }
        !is
    });
    (violations.collect(), lengths)
}

/// How a call ended, as its caller knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    /// It certainly had no effect.
    Failed,
    /// Nobody answered: it may have had its effect, or have it yet.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Write(u64),
    /// What came back; nothing if the key was never written, or no answer came.
    Read(Option<u64>),
}

/// One call of one client. Values of a key are written once each; 0 is never written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    pub client: u64,
    /// The member that was asked (the last one, where it was asked again).
    pub member: u64,
    pub key: String,
    pub call: Call,
    pub from_ns: u64,
    pub to_ns: u64,
    pub outcome: Outcome,
}

/// Everything wrong with keys that have one writer each, which writes rising values: `ends` is what they hold at the end.
/// A write whose caller was not told may come at any time, even after newer ones: it excuses its own value, nothing else.
pub fn single_writer(ops: &[Op], ends: &BTreeMap<String, Option<u64>>) -> Vec<Broken> {
    let mut by_key: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
    ops.iter().for_each(|op| by_key.entry(&op.key).or_default().push(op));
    by_key.into_iter().flat_map(|(key, ops)| of_key(key, &ops, ends.get(key).copied().flatten())).collect()
}

fn of_key(key: &str, ops: &[&Op], end: Option<u64>) -> Vec<Broken> {
    let mut found = Vec::new();
    let written = |op: &&&Op| matches!(op.call, Call::Write(_));
    let value = |op: &Op| match op.call {
        Call::Write(value) => value,
        Call::Read(value) => value.unwrap_or(0),
    };
    let acknowledged: Vec<&&Op> = ops.iter().filter(written).filter(|op| op.outcome == Outcome::Ok).collect();
    let possible: BTreeMap<u64, u64> = ops
        .iter()
        .filter(written)
        .filter(|op| op.outcome != Outcome::Failed)
        .map(|op| (value(op), op.from_ns))
        .collect();
    let late = |got: u64| {
        let unknown =
            |op: &&&Op| matches!(op.call, Call::Write(value) if value == got) && op.outcome == Outcome::Unknown;
        ops.iter().any(|op| unknown(&op))
    };
    let last = acknowledged.iter().map(|op| value(op)).max().unwrap_or(0);
    if end.unwrap_or(0) < last && !late(end.unwrap_or(0)) {
        found.push(Broken::Unacknowledged { key: key.to_owned(), acknowledged: last, found: end });
    }
    let mut say = |why: String| found.push(Broken::Read { key: key.to_owned(), why });
    if end.is_some_and(|end| !possible.contains_key(&end)) {
        say(format!("at the end gave {end:?}, which nobody wrote"));
    }
    let reads: Vec<&&Op> =
        ops.iter().filter(|op| matches!(op.call, Call::Read(_)) && op.outcome == Outcome::Ok).collect();
    for read in &reads {
        let got = value(read);
        let told = acknowledged.iter().filter(|write| write.to_ns < read.from_ns).map(|write| value(write)).max();
        if got < told.unwrap_or(0) && !late(got) {
            say(format!("through member {} gave {got} after {told:?} had been acknowledged", read.member));
        }
        if got > 0 && possible.get(&got).is_none_or(|from_ns| *from_ns > read.to_ns) {
            say(format!("through member {} gave {got} before anybody wrote it", read.member));
        }
        let before = reads.iter().filter(|other| other.to_ns < read.from_ns).map(|other| value(other)).max();
        if got < before.unwrap_or(0) && !late(got) {
            say(format!("through member {} gave {got} after another gave {before:?}", read.member));
        }
    }
    found
}

/// A read of what a member had at hand, and how old that was by its own account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    pub from_ns: u64,
    pub revision: u64,
    pub age_ns: u64,
}

/// By how much (ns) the ages of the looks fell short of the truth, one for each that did: what it lacked had been
/// acknowledged longer ago than it said it was old. `acknowledged` is (revision, when).
pub fn understated(acknowledged: &[(u64, u64)], looks: &[Look]) -> Vec<u64> {
    let mut acknowledged = acknowledged.to_vec();
    acknowledged.sort_unstable();
    // From each revision on, when the first of them was known.
    let mut first = u64::MAX;
    for (_, at_ns) in acknowledged.iter_mut().rev() {
        first = first.min(*at_ns);
        *at_ns = first;
    }
    let short = |look: &Look| {
        let lacked = acknowledged.partition_point(|(revision, _)| *revision <= look.revision);
        let (_, since_ns) = acknowledged.get(lacked)?;
        look.from_ns.checked_sub(*since_ns)?.checked_sub(look.age_ns).filter(|short| *short > 0)
    };
    looks.iter().filter_map(short).collect()
}

/// Those of `acknowledged` that are not among `present`.
pub fn missing(acknowledged: &BTreeSet<String>, present: &BTreeSet<String>) -> Vec<Broken> {
    acknowledged
        .difference(present)
        .map(|name| Broken::Unacknowledged { key: name.clone(), acknowledged: 1, found: None })
        .collect()
}

#[cfg(test)]
#[path = "forged.rs"]
mod forged;

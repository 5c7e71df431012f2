//! What the leader still has to be told. In: the newest word about each epoch. Out: the words that are due, all at once.
//! A word is repeated, ever more slowly, until a desired set shows that it was taken or a newer word takes its place: a
//! report may be lost with any leader. Absent: whether the state believes it; repeating changes nothing there.

use std::collections::BTreeMap;

use cluster::command::{Report, Reported};
use cluster::{ContainerId, Epoch, Moment, Observed, OnQuorumLoss, Revision, Span};

use crate::actual::Key;

/// When to say something again that may have been lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeat {
    pub due: Moment,
    pause: Span,
}

impl Repeat {
    /// A lost report costs at most this much of a recovery.
    const FIRST: Span = Span::millis(1_000);
    /// What stands unchanged for long is said often enough to repair a leader that was restored.
    const LAST: Span = Span::seconds(60);
    /// What a handover waits for: it may have been given up and ordered again meanwhile, which looks the same from here.
    const AWAITED: Span = Span::seconds(2);

    pub fn at_once(now: Moment) -> Repeat {
        Repeat { due: now, pause: Repeat::FIRST }
    }

    pub fn said(&mut self, now: Moment) {
        self.said_up_to(now, Repeat::LAST);
    }

    fn said_up_to(&mut self, now: Moment, longest: Span) {
        self.due = now + self.pause;
        self.pause = (self.pause * 2).min(longest);
    }
}

#[derive(Clone, Debug)]
struct Word {
    what: Reported,
    policy: OnQuorumLoss,
    repeat: Repeat,
    /// The newest revision seen when it was first said.
    said: Option<Revision>,
}

#[derive(Clone, Debug, Default)]
pub struct Reports {
    words: BTreeMap<Key, Word>,
}

impl Reports {
    /// Says `what` of an epoch from now on; the same word again changes nothing.
    pub fn say(&mut self, now: Moment, (container, epoch): Key, policy: OnQuorumLoss, what: Reported) {
        let word = Word { what, policy, repeat: Repeat::at_once(now), said: None };
        match self.words.get(&(container, epoch)) {
            Some(standing) if standing.what == word.what => {}
            _ => drop(self.words.insert((container, epoch), word)),
        }
    }

    pub fn retract(&mut self, key: Key) {
        self.words.remove(&key);
    }

    /// Forgets closings that a set of `revision`, accepted after they were said, no longer asks for. `asks` tells whether
    /// that set still names the epoch.
    pub fn settle(&mut self, revision: Revision, asks: impl Fn(ContainerId, Epoch) -> bool) {
        self.words.retain(|(container, epoch), word| {
            !word.is_closing() || asks(*container, *epoch) || word.said.is_none_or(|said| revision <= said)
        });
    }

    /// A new incarnation owes no word about what its forerunner's receipt covers: only `keep` epochs outlive one.
    pub fn begin_anew(&mut self, now: Moment) {
        self.words.retain(|_, word| word.policy == OnQuorumLoss::Keep);
        self.repeat_all(now);
    }

    /// Another leader listens.
    pub fn repeat_all(&mut self, now: Moment) {
        for word in self.words.values_mut() {
            word.repeat = Repeat::at_once(now);
            word.said = None;
        }
    }

    /// What is due, by container and epoch. While `hold_closings`, closings wait.
    pub fn take_due(&mut self, now: Moment, seen: Revision, hold_closings: bool) -> Vec<Report> {
        let due =
            self.words.iter_mut().filter(|(_, word)| word.repeat.due <= now && !(hold_closings && word.is_closing()));
        due.map(|((container, epoch), word)| {
            word.repeat.said_up_to(now, if word.is_awaited() { Repeat::AWAITED } else { Repeat::LAST });
            word.said.get_or_insert(seen);
            Report { container: *container, epoch: *epoch, what: word.what.clone() }
        })
        .collect()
    }

    pub fn next_due(&self, hold_closings: bool) -> Option<Moment> {
        let waiting = self.words.values().filter(|word| !(hold_closings && word.is_closing()));
        waiting.map(|word| word.repeat.due).min()
    }
}

impl Word {
    fn is_awaited(&self) -> bool {
        matches!(self.what, Reported::Prepared | Reported::CannotPrepare { .. })
    }

    fn is_closing(&self) -> bool {
        matches!(self.what, Reported::Observed(Observed::Closed { .. }))
    }
}

//! The outside oracle: what a store must hold, known by the process that did not write it.
//! In: what the writer said it began and what it said was durable, in order. Out: a verdict over the store that is found
//! afterwards. Absent: trust. The content is computed here a second time, from the seed alone; not a byte of it comes
//! from the writer or from its disk.

use super::model::{Model, Step};
use super::{Backend, OpenOutcome, open};
use crate::store::Quarantine;
use crate::store::guard::SHAPE;
use std::fmt;
use std::path::Path;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Everything acknowledged is there, byte for byte, and at most the one step beyond it that was under way.
    Intact,
    /// The store says itself that it must not be used.
    Quarantined(String),
    /// Something acknowledged is gone or is something else, and the store did not notice.
    Wrong(String),
}

/// What was acknowledged by one store, from its making on.
pub(super) struct Oracle {
    pub seed: u64,
    /// What is durable.
    model: Model,
    /// Number of the last group that is durable.
    group: u64,
    /// Steps begun since the making; the last one may be under way.
    steps: u64,
    under_way: Option<Step>,
    pub counts: Counts,
}

/// Figures for people.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub cycles: u64,
    /// Groups acknowledged; those too big for a slot to carry; snapshots, own and received.
    pub groups: u64,
    pub big: u64,
    pub snapshots: u64,
    /// Steps that were durable although the writer did not live to say so.
    pub unheard: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cycles, groups, big, snapshots, unheard } = self;
        write!(
            f,
            "{cycles} cycles, {groups} groups acknowledged ({big} above what a slot carries), {snapshots} snapshots, \
             {unheard} unacknowledged ones kept"
        )
    }
}

impl Oracle {
    /// For a store that was just made.
    pub fn new(seed: u64) -> Self {
        Self { seed, model: Model::default(), group: 1, steps: 0, under_way: None, counts: Counts::default() }
    }

    /// For a store in which `model` is durable, `group` its last group.
    pub fn knowing(model: &Model, group: u64) -> Self {
        Self { model: model.clone(), group, ..Self::new(0) }
    }

    /// How many steps were begun; the writer goes on from here.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The writer begins its next step.
    pub fn begun(&mut self) -> &Step {
        let step = next(&self.model, self.seed, self.steps);
        self.steps += 1;
        self.under_way.insert(step)
    }

    /// The writer says that the step it began is durable.
    pub fn acknowledged(&mut self) {
        let step = self.under_way.take().expect("nothing is acknowledged that was not begun");
        self.model = std::mem::take(&mut self.model).after(&step);
        if !matches!(step, Step::Snapshot(..)) {
            self.group += 1;
            self.counts.groups += 1;
            self.counts.big += u64::from(is_big(&step));
        }
        self.counts.snapshots += u64::from(!matches!(step, Step::Append(_)));
    }

    /// Opens the store as the next start of the member would. What was under way is either done or was never begun.
    pub fn judge(&mut self, folder: &Path, backend: Backend) -> Verdict {
        self.counts.cycles += 1;
        let (mut disk, loaded) = match open(folder, backend) {
            OpenOutcome::Ready(disk, loaded) => (disk, *loaded),
            OpenOutcome::Quarantined(Quarantine { reason, .. }) => return Verdict::Quarantined(reason),
            OpenOutcome::Fresh => return Verdict::Wrong("the store looks as if it had never been".into()),
        };
        let found = Model::of(&loaded);
        let under_way = self.under_way.take();
        if found != self.model {
            let after = under_way.map(|step| self.model.clone().after(&step));
            if after.as_ref() != Some(&found) {
                return Verdict::Wrong(format!("found {}, acknowledged {}", brief(&found), brief(&self.model)));
            }
            self.counts.unheard += 1;
            self.model = found;
        }
        if !(self.group + 1..=self.group + 2).contains(&loaded.next_group) {
            return Verdict::Wrong(format!("group {} was acknowledged, {} is next", self.group, loaded.next_group));
        }
        self.group = loaded.next_group - 1;
        let body = disk.load_snapshot().expect("it was verified a moment ago").map(|(meta, _)| meta);
        if body != self.model.snapshot {
            return Verdict::Wrong(format!("the snapshot is {body:?}"));
        }
        Verdict::Intact
    }
}

/// The `number`-th step of the history that `seed` stands for: writer and oracle agree on it without a word.
pub(super) fn next(model: &Model, seed: u64, number: u64) -> Step {
    let luck = mix(seed, number);
    let [choice, size, ..] = luck.to_le_bytes();
    let size = match size {
        // Several groups of every hundred are too big for a slot, and some for a handful of pieces.
        0..=23 => 6_000 + usize::from(size) * 700,
        24..=26 => 150_000,
        _ => (luck >> 16) as usize % 900,
    };
    model.step(choice, size)
}

pub(super) fn is_big(step: &Step) -> bool {
    let Step::Append(group) = step else { return false };
    group.entries.iter().map(|entry| entry.data.len()).sum::<usize>() > SHAPE.carry_bytes()
}

/// SplitMix64.
pub(super) fn mix(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn brief(model: &Model) -> String {
    let snapshot = model.snapshot.as_ref().map_or(0, |meta| meta.index);
    let last = model.entries.last().map_or(snapshot, |entry| entry.index);
    format!("{:?} with entries to {last} above a snapshot at {snapshot}", model.hard_state)
}

//! Makes a failing run short: fewer deeds, less time, fewer machines, calmer links, while it still fails alike.
//! In: a plan, and a judge that names what is broken. Out: the shortest plan found, and how many runs that took.
//! Absent: luck; the same plan shrinks to the same plan. Source: delta debugging (Zeller, Hildebrandt 2002).

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::sim::clock::{God, MS, SECOND};
use crate::sim::deeds::{Deed, Machine, Plan};
use crate::sim::disk::Speed;
use crate::sim::net::Weather;

/// What a deed draws of chance is missing from all that follows once it is left out: each shorter run is tried with so
/// many seeds.
const LUCK: u64 = 3;

/// A failure, as far as a shorter run must show the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    pub oracle: &'static str,
    pub at: God,
}

pub struct Shrunk {
    pub plan: Plan,
    pub failure: Failure,
    pub runs: usize,
}

/// `None` if `plan` does not fail. At most `runs` runs are spent.
pub fn shrink(plan: &Plan, runs: usize, judge: impl FnMut(&Plan) -> Option<Failure>) -> Option<Shrunk> {
    let mut shrinking = Shrinking { plan: plan.clone(), failure: Failure { oracle: "", at: 0 }, judge, left: runs };
    shrinking.failure = (shrinking.judge)(plan)?;
    loop {
        let before = shrinking.plan.clone();
        shrinking.end_sooner();
        shrinking.drop_containers();
        shrinking.drop_deeds();
        shrinking.drop_machines();
        shrinking.calm();
        shrinking.shorten_delays();
        shrinking.close_gaps();
        if shrinking.plan == before || shrinking.left == 0 {
            let Shrinking { plan, failure, left, .. } = shrinking;
            return Some(Shrunk { plan, failure, runs: runs - left });
        }
    }
}

struct Shrinking<J> {
    plan: Plan,
    failure: Failure,
    judge: J,
    left: usize,
}

impl<J: FnMut(&Plan) -> Option<Failure>> Shrinking<J> {
    /// Takes `smaller` over if it is another plan and breaks the same promise.
    fn accepts(&mut self, smaller: Plan) -> bool {
        let peopled = !smaller.layout.members().is_empty() && !smaller.layout.nodes().is_empty();
        if smaller == self.plan || !peopled {
            return false;
        }
        let seed = smaller.seed;
        for luck in 0..LUCK {
            if self.left == 0 {
                return false;
            }
            self.left -= 1;
            let smaller = Plan { seed: seed ^ luck << 32, ..smaller.clone() };
            if let Some(failure) = (self.judge)(&smaller).filter(|failure| failure.oracle == self.failure.oracle) {
                (self.plan, self.failure) = (smaller, failure);
                return true;
            }
        }
        false
    }

    fn with(&self, change: impl FnOnce(&mut Plan)) -> Plan {
        let mut plan = self.plan.clone();
        change(&mut plan);
        plan
    }

    /// What comes after the failure had no part in it; perhaps the last faults before it had none either.
    fn end_sooner(&mut self) {
        let at = self.failure.at;
        let cut = |until: God| {
            move |plan: &mut Plan| {
                plan.faults_until = plan.faults_until.min(until);
                plan.schedule.retain(|timed| timed.at <= until);
            }
        };
        self.accepts(self.with(cut(at + MS)));
        let mut step = self.plan.faults_until / 2;
        while step >= SECOND {
            let until = self.plan.faults_until.saturating_sub(step);
            if !self.accepts(self.with(cut(until))) {
                step /= 2;
            }
        }
    }

    fn drop_containers(&mut self) {
        let named = |deed: &Deed| match deed {
            Deed::Ask { ask, .. } => ask.name().cloned(),
            _ => None,
        };
        let names: BTreeSet<Arc<str>> = self.plan.schedule.iter().filter_map(|timed| named(&timed.deed)).collect();
        for name in names {
            self.accepts(self.with(|plan| plan.schedule.retain(|timed| named(&timed.deed).as_ref() != Some(&name))));
        }
    }

    /// In halves, quarters, …, one by one.
    fn drop_deeds(&mut self) {
        let mut chunk = self.plan.schedule.len().div_ceil(2);
        while chunk > 0 {
            let mut from = 0;
            while from < self.plan.schedule.len() {
                let to = (from + chunk).min(self.plan.schedule.len());
                let smaller = self.with(|plan| {
                    plan.schedule.drain(from..to);
                });
                if !self.accepts(smaller) {
                    from = to;
                }
            }
            chunk = if chunk == 1 { 0 } else { chunk.div_ceil(2) };
        }
    }

    /// Machines from the end, so that the others keep their places; then what lives on those that must stay.
    fn drop_machines(&mut self) {
        let last_without = |plan: &mut Plan| {
            plan.layout.machines.pop();
        };
        while self.plan.layout.machines.len() > 1 && self.accepts(self.with(last_without)) {}
        for place in (0..self.plan.layout.machines.len()).rev() {
            let machine = self.plan.layout.machines[place];
            for smaller in [Machine { member: false, ..machine }, Machine { node: None, ..machine }] {
                self.accepts(self.with(|plan| plan.layout.machines[place] = smaller));
            }
        }
    }

    /// Whatever the layout adds to the trouble.
    fn calm(&mut self) {
        let changes: [fn(&mut Plan); 8] = [
            |plan| plan.layout.weather = Weather::CALM,
            |plan| plan.layout.weather.straggle_ppm = 0,
            |plan| plan.layout.weather.loss_ppm = 0,
            |plan| plan.layout.weather.duplicate_ppm = 0,
            |plan| plan.layout.disk = Speed::NVME,
            |plan| plan.layout.tick_stretch = 1,
            |plan| plan.layout.power_switch = false,
            |plan| plan.layout.snapshot_every = 10_000,
        ];
        for change in changes {
            self.accepts(self.with(change));
        }
        for place in 0..self.plan.layout.machines.len() {
            self.accepts(self.with(|plan| plan.layout.machines[place].rate_ppm = 0));
        }
    }

    /// Lengths of faults and extra delays, by halves.
    fn shorten_delays(&mut self) {
        for place in 0..self.plan.schedule.len() {
            let mut again = true;
            while again {
                let smaller = self.with(|plan| {
                    for length in plan.schedule[place].deed.lengths() {
                        if *length > 10 * MS {
                            *length /= 2;
                        }
                    }
                });
                again = self.accepts(smaller);
            }
        }
    }

    /// Time in which nothing is done.
    fn close_gaps(&mut self) {
        for place in 0..self.plan.schedule.len() {
            let mut again = true;
            while again {
                let before = if place == 0 { 0 } else { self.plan.schedule[place - 1].at };
                let gap = self.plan.schedule[place].at - before;
                again = gap > 200 * MS
                    && self.accepts(self.with(|plan| {
                        for timed in &mut plan.schedule[place..] {
                            timed.at -= gap / 2;
                        }
                        plan.faults_until -= gap / 2;
                    }));
            }
        }
    }
}

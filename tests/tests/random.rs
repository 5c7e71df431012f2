//! A handful of seeds in the default run; `cargo sim` runs thousands. And the simulator's own promises: it repeats itself,
//! it loses nothing, and it bites.

use tests::sim::clock::SECOND;
use tests::sim::deeds::{Deed, Plan, Timed};
use tests::sim::net::Site;
use tests::sim::run::{Outcome, run};
use tests::sim::transcript::Transcript;

const LENGTH: u64 = 20 * SECOND;

fn play(plan: &Plan) -> Outcome {
    run(plan, Transcript::default())
}

#[test]
fn promises_hold_for_a_handful_of_seeds() {
    for seed in 1..=12 {
        let outcome = play(&Plan::random(seed, LENGTH));
        assert_eq!(outcome.violation, None, "cargo sim --seed {seed} --seconds 20 --trace");
        assert!(outcome.answers > 0 && outcome.recovery.is_some(), "seed {seed} did nothing");
    }
}

#[test]
fn same_seed_gives_the_same_run() {
    for seed in [3, 4] {
        let (first, second) = (play(&Plan::random(seed, LENGTH)), play(&Plan::random(seed, LENGTH)));
        assert_eq!(first.counts.trace, second.counts.trace);
        assert_eq!((first.counts.handled, first.events), (second.counts.handled, second.events));
    }
    assert_ne!(play(&Plan::random(3, LENGTH)).counts.trace, play(&Plan::random(4, LENGTH)).counts.trace);
}

/// A node whose lease clock is far slower than ε allows runs on after its receipt: the oracles must see that, or they
/// see nothing.
#[test]
fn a_clock_outside_its_bound_is_found_out() {
    let silent = Site(1);
    let found = |seed| {
        let mut plan = Plan::random(seed, LENGTH);
        plan.schedule.retain(|timed| matches!(timed.deed, Deed::Ask { .. }));
        plan.schedule.push(Timed { at: SECOND, deed: Deed::Rate { at: silent, ppm: -400_000 } });
        plan.schedule.push(Timed { at: 8 * SECOND, deed: Deed::Isolate(silent) });
        plan.schedule.sort_by_key(|timed| timed.at);
        play(&plan).violation.is_some_and(|violation| ["SingleRunner", "FenceAfterLease"].contains(&violation.oracle))
    };
    let blind: Vec<u64> = (1..=5).filter(|seed| !found(*seed)).collect();
    assert!(blind.len() <= 1, "seeds {blind:?} noticed nothing");
}

//! A handful of seeds in the default run; `cargo sim` runs thousands. And the simulator's own promises: it repeats itself,
//! it loses nothing, and it bites.

use tests::sim::clock::SECOND;
use tests::sim::deeds::{Deed, Plan, Timed};
use tests::sim::net::Site;
use tests::sim::regression;
use tests::sim::run::{Outcome, failure, run};
use tests::sim::shrink::{Failure, shrink};
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
        plan.layout.machines.iter_mut().for_each(|machine| machine.rate_ppm = 0);
        plan.schedule.push(Timed { at: SECOND, deed: Deed::Rate { at: silent, ppm: -400_000 } });
        plan.schedule.push(Timed { at: 8 * SECOND, deed: Deed::Isolate(silent) });
        plan.schedule.sort_by_key(|timed| timed.at);
        play(&plan)
            .violation
            .is_some_and(|violation| ["SingleRunner", "FenceAfterLease", "Patience"].contains(&violation.oracle))
    };
    let blind: Vec<u64> = (1..=5).filter(|seed| !found(*seed)).collect();
    assert!(blind.len() <= 1, "seeds {blind:?} noticed nothing");
}

/// What once broke a promise is played again for ever.
#[test]
fn what_once_failed_holds() {
    let mut played = 0;
    for file in std::fs::read_dir(regression::folder()).expect("tests/regressions is there") {
        let path = file.expect("it can be listed").path();
        let text = std::fs::read_to_string(&path).expect("a regression can be read");
        let plan = regression::read(&text).unwrap_or_else(|problem| panic!("{}: {problem}", path.display()));
        assert_eq!(play(&plan).violation, None, "cargo sim --plan {}", path.display());
        played += 1;
    }
    assert!(played > 0, "there is nothing in {}", regression::folder().display());
}

/// A planted oracle: it breaks when a guard was killed and, at whatever time, a container was displaced.
fn planted(plan: &Plan) -> Option<Failure> {
    let outcome = play(plan);
    let broken = outcome.counts.faults.contains_key("kill guard") && outcome.events.contains_key("container-displaced");
    broken.then_some(Failure { oracle: "Planted", at: outcome.simulated })
}

#[test]
fn a_failing_run_shrinks_to_its_few_causes() {
    let (plan, shrunk) = (1..100)
        .find_map(|seed| {
            let plan = Some(Plan::random(seed, LENGTH)).filter(|plan| plan.schedule.len() > 40)?;
            let shrunk = shrink(&plan, 200, planted)?;
            Some((plan, shrunk))
        })
        .expect("some seed does both");
    let deeds: Vec<String> = shrunk.plan.schedule.iter().map(|timed| timed.deed.to_string()).collect();
    assert!(deeds.len() <= 5, "{deeds:#?}");
    assert!(deeds.iter().any(|deed| deed.contains("guard")), "{deeds:#?}");
    assert!(shrunk.plan.faults_until <= LENGTH && shrunk.plan.layout.machines.len() <= plan.layout.machines.len());
    // What is written down is what failed.
    let text = regression::write(&shrunk.plan, "A guard is killed, and a container is displaced.");
    println!("{text}");
    let again = regression::read(&text).expect("it was just written");
    assert_eq!(again, shrunk.plan);
    assert_eq!(planted(&again), Some(shrunk.failure));
    assert_eq!(failure(&again), None, "no promise of the product is broken in it");
}

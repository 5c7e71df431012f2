//! `cargo sim`: runs seeds, or one seed with its last lines. Exit code 1 if a promise was broken, 2 for bad arguments.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tests::sim::clock::{MS, SECOND};
use tests::sim::deeds::Plan;
use tests::sim::mutants;
use tests::sim::run::{Outcome, run};
use tests::sim::transcript::Transcript;

const USAGE: &str = "\
usage: cargo sim [--seeds N] [--from S] [--seconds T] [--threads N] [--keep-going]
       cargo sim --seed K [--seconds T] [--trace] [--schedule]
       cargo sim --mutants [--help]

  --seeds N      how many seeds (200)
  --from S       the first of them (1)
  --seconds T    simulated seconds of faults in each; healing and recovery come on top (60)
  --threads N    seeds at a time (as many as there are cores)
  --keep-going   do not stop at the first seed that breaks a promise
  --seed K       one seed only
  --trace        its last 200 lines, whatever comes of it
  --schedule     what is done to it and when
  --mutants      whether each planted bug is found, and after how many seeds";

/// So many seeds visit every transition; a run of as many that does not has lost some of its teeth.
const COVERING: u64 = 500;

/// Steps of the node, container, lease, membership and handover tables, by the event or the mark that shows them.
const TABLES: &[&str] = &[
    "brake-released",
    "brake-tripped",
    "container-annotated",
    "container-assigned",
    "container-awaits-receipt",
    "container-closed",
    "container-created",
    "container-deleted",
    "container-desired",
    "container-displaced",
    "container-held",
    "container-running",
    "container-starting",
    "container-stopping",
    "container-unplaceable",
    "fence asked for",
    "fencing-begun",
    "guard latched",
    "guard rebooted the machine",
    "handoff-begun",
    "handover-aborted",
    "handover-begun",
    "handover-blocked",
    "handover-ready",
    "member halted",
    "member-added",
    "member-removed",
    "membership-changed",
    "node-drained",
    "node-fenced",
    "node-intent-changed",
    "node-registered",
    "node-role-changed",
    "power switch confirmed",
    "settings-changed",
    "snapshot built",
    "snapshot installed",
];

struct Options {
    seeds: u64,
    from: u64,
    seconds: u64,
    threads: usize,
    keep_going: bool,
    seed: Option<u64>,
    trace: bool,
    schedule: bool,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some(mutants) = words.first().filter(|word| *word == "--mutants").and(words.get(1..)) {
        return mutants::main(mutants);
    }
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("{problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match options.seed {
        Some(seed) => one(seed, &options),
        None => many(&options),
    }
}

fn options(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    let mut options = Options {
        seeds: 200,
        from: 1,
        seconds: 60,
        threads,
        keep_going: false,
        seed: None,
        trace: false,
        schedule: false,
    };
    while let Some(word) = words.next() {
        let mut number = || -> Result<u64, String> {
            let text = words.next().ok_or(format!("{word} needs a number"))?;
            text.parse().map_err(|_| format!("{word} needs a number, not {text:?}"))
        };
        match word.as_str() {
            "--seeds" => options.seeds = number()?,
            "--from" => options.from = number()?,
            "--seconds" => options.seconds = number()?,
            "--threads" => options.threads = number()?.max(1) as usize,
            "--seed" => options.seed = Some(number()?),
            "--keep-going" => options.keep_going = true,
            "--trace" => options.trace = true,
            "--schedule" => options.schedule = true,
            "--help" | "-h" => return Err("the simulator of Quorate".to_owned()),
            other => return Err(format!("{other} is not known")),
        }
    }
    Ok(options)
}

fn one(seed: u64, options: &Options) -> ExitCode {
    let plan = Plan::random(seed, options.seconds * SECOND);
    if options.schedule {
        println!("{:?}", plan.layout);
        for timed in &plan.schedule {
            println!("{:>9.3} {}", timed.at as f64 / SECOND as f64, timed.deed);
        }
    }
    let outcome = run(&plan, Transcript::traced());
    if options.trace || outcome.violation.is_some() {
        outcome.trace.iter().for_each(|line| println!("{line}"));
    }
    let mut total = Total::default();
    total.add(&outcome);
    total.print(Duration::ZERO);
    println!("trace hash {:016x}", outcome.counts.trace);
    match outcome.violation {
        Some(violation) => {
            println!("seed {seed}: {violation}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

fn many(options: &Options) -> ExitCode {
    let begun = Instant::now();
    let next = AtomicU64::new(options.from);
    let stop = AtomicBool::new(false);
    let total = Mutex::new(Total::default());
    let end = options.from + options.seeds;
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let plan = Plan::random(seed, options.seconds * SECOND);
                    let outcome = run(&plan, Transcript::default());
                    if outcome.violation.is_some() && !options.keep_going {
                        stop.store(true, Ordering::Relaxed);
                    }
                    total.lock().expect("no seed panics while it adds up").add(&outcome);
                }
            });
        }
    });
    let total = total.into_inner().expect("no seed panics while it adds up");
    total.print(begun.elapsed());
    let unseen = total.never_visited();
    if options.seeds >= COVERING && !unseen.is_empty() {
        println!("never visited: {}", unseen.join(", "));
        return ExitCode::FAILURE;
    }
    if total.broken.is_empty() {
        return ExitCode::SUCCESS;
    }
    if let Some((seed, _)) = total.broken.iter().min_by_key(|(seed, _)| *seed)
        && !options.keep_going
    {
        println!("\nthe last lines of seed {seed}:");
        let plan = Plan::random(*seed, options.seconds * SECOND);
        run(&plan, Transcript::traced()).trace.iter().for_each(|line| println!("{line}"));
    }
    println!();
    for (seed, violation) in &total.broken {
        println!("seed {seed}: {violation}");
    }
    let seconds = options.seconds;
    println!("again with: cargo sim --seed {} --seconds {seconds} --trace", total.broken[0].0);
    ExitCode::FAILURE
}

#[derive(Default)]
struct Total {
    seeds: u64,
    simulated: u64,
    happenings: u64,
    lost: u64,
    exposures: u64,
    answers: u64,
    faults: BTreeMap<&'static str, u64>,
    events: BTreeMap<&'static str, u64>,
    transitions: BTreeMap<&'static str, u64>,
    failovers: Vec<u64>,
    recoveries: Vec<u64>,
    broken: Vec<(u64, String)>,
}

impl Total {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.simulated += outcome.simulated;
        self.happenings += outcome.counts.handled;
        self.lost += outcome.counts.lost;
        self.exposures += outcome.exposures;
        self.answers += outcome.answers as u64;
        for (to, from) in [
            (&mut self.faults, &outcome.counts.faults),
            (&mut self.events, &outcome.events),
            (&mut self.transitions, &outcome.counts.transitions),
        ] {
            from.iter().for_each(|(what, count)| *to.entry(what).or_default() += count);
        }
        self.failovers.extend(&outcome.counts.failovers);
        self.recoveries.extend(outcome.recovery);
        if let Some(violation) = &outcome.violation {
            self.broken.push((outcome.seed, violation.to_string()));
        }
    }

    fn never_visited(&self) -> Vec<&'static str> {
        let seen = |step: &&&str| self.events.contains_key(**step) || self.transitions.contains_key(**step);
        TABLES.iter().filter(|step| !seen(step)).copied().collect()
    }

    fn print(&self, took: Duration) {
        let hours = self.simulated as f64 / (3_600 * SECOND) as f64;
        println!(
            "{} seeds, {hours:.1} simulated hours, {} happenings, {} messages lost, {} answers, in {:.1} s",
            self.seeds,
            self.happenings,
            self.lost,
            self.answers,
            took.as_secs_f64()
        );
        list("faults", &self.faults);
        list("events", &self.events);
        list("transitions", &self.transitions);
        distribution("power cut to running elsewhere", &self.failovers);
        distribution("healed to well", &self.recoveries);
        println!("exposures of class F1 (a whole node stood still): {}", self.exposures);
        println!("broken promises: {}", self.broken.len());
    }
}

fn list(title: &str, counts: &BTreeMap<&'static str, u64>) {
    let words: Vec<String> = counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
    println!("{title}: {}", words.join(", "));
}

fn distribution(title: &str, times: &[u64]) {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at = |percent: usize| sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)));
    let millis = |nanos: Option<&u64>| nanos.map_or(0, |nanos| nanos / MS);
    println!(
        "{title}: {} times, p50 {} ms, p99 {} ms, max {} ms",
        sorted.len(),
        millis(at(50)),
        millis(at(99)),
        millis(sorted.last())
    );
}

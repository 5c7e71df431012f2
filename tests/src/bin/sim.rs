//! `cargo sim`: runs seeds, or one seed with its last lines. Exit code 1 if a promise was broken, 2 for bad arguments.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cluster::Profile;
use rustix::time::ClockId;
use tests::sim::clock::{MS, SECOND};
use tests::sim::coverage::Coverage;
use tests::sim::deeds::Plan;
use tests::sim::doubt::{self, Doubt, HOUR};
use tests::sim::run::{Outcome, failure, run};
use tests::sim::shrink::shrink;
use tests::sim::tally::{Line, Tally};
use tests::sim::transcript::Transcript;
use tests::sim::{mutants, regression};

const USAGE: &str = "\
usage: cargo sim [--seeds N] [--from S] [--seconds T | --hours H] [--threads N] [--keep-going] [--tally FILE]
       cargo sim --seed K [--seconds T] [--trace] [--schedule] [--shrink]
       cargo sim --plan FILE [--trace] [--schedule] [--shrink]
       cargo sim --doubt [--hours H] [--profile fast|default|relaxed]
       cargo sim --mutants [--help]

  --seeds N      how many seeds (200)
  --from S       the first of them (1)
  --seconds T    simulated seconds of faults in each; healing and recovery come on top (60)
  --hours H      so many simulated hours of faults in each; with --doubt, in all (24)
  --threads N    seeds at a time (as many as there are cores)
  --keep-going   do not stop at the first seed that breaks a promise, nor shrink it
  --tally FILE   writes down what each seed came to, and leaves out those that FILE has: a run in pieces, of one commit
  --seed K       one seed only
  --trace        its last 200 lines, whatever comes of it
  --plan FILE    what such a file of tests/regressions describes
  --schedule     what is done to it and when
  --shrink       makes it as short as it can while it breaks the same promise, and writes it to tests/regressions;
                 done by itself for the first of many seeds that fails
  --coverage     every step of the tables that was taken, with how often
  --doubt        nothing breaks, everything stalls: how often is a healthy node fenced by mistake?
  --profile P    under this lease profile (default)
  --mutants      whether each planted bug is found, and after how many seeds";

/// Runs that may be spent on making a failing one short.
const SHRINKING: usize = 3_000;
const DOUBT_HOURS: u64 = 24;
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
    "container-policy-changed",
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
    "recovered from a majority",
    "recovered from fewer",
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
    plan: Option<String>,
    trace: bool,
    schedule: bool,
    shrink: bool,
    coverage: bool,
    doubt: bool,
    hours: Option<u64>,
    tally: Option<PathBuf>,
    profile: Profile,
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
    let length = options.seconds * SECOND;
    match (&options.plan, options.seed) {
        _ if options.doubt => doubt(&options),
        (Some(file), _) => match std::fs::read_to_string(file)
            .map_err(|error| error.to_string())
            .and_then(|text| regression::read(&text))
        {
            Ok(plan) => one(&plan, &options),
            Err(problem) => {
                eprintln!("{file}: {problem}");
                ExitCode::from(2)
            }
        },
        (None, Some(seed)) => one(&Plan::random(seed, length), &options),
        (None, None) => many(&options),
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
        plan: None,
        trace: false,
        schedule: false,
        shrink: false,
        coverage: false,
        doubt: false,
        hours: None,
        tally: None,
        profile: Profile::Default,
    };
    while let Some(word) = words.next() {
        let mut text = || words.next().ok_or(format!("{word} needs a word behind it"));
        let mut number = || -> Result<u64, String> {
            let text = text()?;
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
            "--shrink" => options.shrink = true,
            "--coverage" => options.coverage = true,
            "--doubt" => options.doubt = true,
            "--hours" => options.hours = Some(number()?),
            "--tally" => options.tally = Some(text()?.into()),
            "--plan" => options.plan = Some(text()?),
            "--profile" => {
                let name = text()?;
                let named = |profile: &Profile| profile.name() == name;
                options.profile = Profile::ALL.into_iter().find(named).ok_or(format!("{name} is no profile"))?;
            }
            "--help" | "-h" => return Err("the simulator of Quorate".to_owned()),
            other => return Err(format!("{other} is not known")),
        }
    }
    if let Some(hours) = options.hours {
        options.seconds = hours * HOUR / SECOND;
    }
    Ok(options)
}

fn one(plan: &Plan, options: &Options) -> ExitCode {
    let seed = plan.seed;
    if options.schedule {
        println!("{:?}", plan.layout);
        for timed in &plan.schedule {
            println!("{:>9.3} {}", timed.at as f64 / SECOND as f64, timed.deed);
        }
    }
    let outcome = run(plan, Transcript::traced());
    if options.trace || outcome.violation.is_some() {
        outcome.trace.iter().for_each(|line| println!("{line}"));
    }
    let mut total = Total::default();
    total.add(&outcome);
    total.print(Duration::ZERO, options.coverage);
    println!("trace hash {:016x}", outcome.counts.trace);
    match outcome.violation {
        Some(violation) => {
            println!("seed {seed}: {violation}");
            if options.shrink {
                shorter(plan);
            }
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

/// Shrinks a failing run and writes it down where it is played again for ever.
fn shorter(plan: &Plan) {
    let Some(shrunk) = shrink(plan, SHRINKING, failure) else { return };
    let Plan { seed, schedule, faults_until, .. } = &shrunk.plan;
    let violation = run(&shrunk.plan, Transcript::default()).violation.map(|violation| violation.to_string());
    let why = violation.unwrap_or_default();
    let path = regression::folder().join(format!("{}-{seed}.txt", shrunk.failure.oracle.to_lowercase()));
    println!(
        "\nshrunk in {} runs from {} deeds in {} s to {} in {} s:",
        shrunk.runs,
        plan.schedule.len(),
        plan.faults_until / SECOND,
        schedule.len(),
        faults_until / SECOND,
    );
    for timed in schedule {
        println!("{:>9.3} {}", timed.at as f64 / SECOND as f64, timed.deed);
    }
    println!("{why}");
    match std::fs::write(&path, regression::write(&shrunk.plan, &why)) {
        Ok(()) => println!("written to {}: commit it with what mends it", path.display()),
        Err(error) => println!("{} cannot be written: {error}", path.display()),
    }
}

fn doubt(options: &Options) -> ExitCode {
    let begun = Instant::now();
    let next = AtomicU64::new(options.from);
    let total = Mutex::new(Doubt::default());
    let end = options.from + options.hours.unwrap_or(DOUBT_HOURS);
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let hour = doubt::hour(seed, options.profile);
                    total.lock().expect("no hour panics while it adds up").add(hour);
                }
            });
        }
    });
    let Doubt { simulated, stalls, fenced, latched, brakes, leaders, broken } =
        total.into_inner().expect("no hour panics while it adds up");
    println!(
        "{} profile, {:.1} simulated hours of five nodes and three members, {stalls} stalls, in {:.1} s",
        options.profile.name(),
        hours(simulated),
        begun.elapsed().as_secs_f64()
    );
    println!("healthy nodes fenced by mistake: {fenced}; guards fired: {latched}; brake tripped: {brakes}");
    println!("changes of leader: {leaders}; {}", speed(simulated));
    broken.iter().for_each(|what| println!("{what}"));
    let well = broken.is_empty() && (options.profile != Profile::Default || fenced + latched == 0);
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn hours(simulated: u64) -> f64 {
    simulated as f64 / HOUR as f64
}

fn processor(of: ClockId) -> Duration {
    let used = rustix::time::clock_gettime(of);
    Duration::new(used.tv_sec as u64, used.tv_nsec as u32)
}

/// By the processor's time of this whole process.
fn speed(simulated: u64) -> String {
    let used = processor(ClockId::ProcessCPUTime).as_secs_f64();
    format!("{:.2} simulated hours per second of processor time ({used:.1} s)", hours(simulated) / used)
}

fn many(options: &Options) -> ExitCode {
    let tally = match options.tally.as_ref().map(|path| Tally::open(path, options.seconds)).transpose() {
        Ok(tally) => Mutex::new(tally),
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    let known =
        |seed| tally.lock().expect("no seed panics while it is written down").as_ref().is_some_and(|it| it.has(seed));
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
                    if known(seed) {
                        continue;
                    }
                    let before = processor(ClockId::ThreadCPUTime);
                    let outcome = run(&Plan::random(seed, options.seconds * SECOND), Transcript::default());
                    let line = Line::of(&outcome, (processor(ClockId::ThreadCPUTime) - before).as_millis() as u64);
                    if let Some(tally) = &mut *tally.lock().expect("no seed panics while it is written down") {
                        tally.add(seed, line).expect("there is room for a line");
                    }
                    if outcome.violation.is_some() && !options.keep_going {
                        stop.store(true, Ordering::Relaxed);
                    }
                    total.lock().expect("no seed panics while it adds up").add(&outcome);
                }
            });
        }
    });
    let total = total.into_inner().expect("no seed panics while it adds up");
    total.print(begun.elapsed(), options.coverage);
    if let Some(tally) = tally.into_inner().expect("no seed panics while it is written down") {
        print!("{}", tally.told());
    }
    let unseen = total.never_visited();
    if total.seeds >= COVERING && total.broken.is_empty() && !unseen.is_empty() {
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
        shorter(&plan);
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
    operations: u64,
    coverage: Coverage,
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
        self.operations += outcome.operations as u64;
        self.coverage.add(&outcome.counts.coverage);
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

    fn never_visited(&self) -> Vec<String> {
        let seen = |step: &&&str| self.events.contains_key(**step) || self.transitions.contains_key(**step);
        let marks = TABLES.iter().filter(|step| !seen(step)).map(|step| (*step).to_owned());
        let steps = self.coverage.missing().into_iter().map(|(table, from, to)| format!("{table}: {from} to {to}"));
        marks.chain(steps).collect()
    }

    fn print(&self, took: Duration, coverage: bool) {
        let hours = hours(self.simulated);
        println!(
            "{} seeds, {hours:.1} simulated hours, {} happenings, {} messages lost, {} answers, in {:.1} s",
            self.seeds,
            self.happenings,
            self.lost,
            self.answers,
            took.as_secs_f64()
        );
        println!("{}", speed(self.simulated));
        let Total { seeds, operations, .. } = self;
        println!("{seeds} histories of {operations} operations judged for linearizability, reads through every member");
        list("faults", &self.faults);
        list("events", &self.events);
        list("transitions", &self.transitions);
        distribution("power cut to running elsewhere", &self.failovers);
        distribution("healed to well", &self.recoveries);
        println!("steps of the tables taken: {}", self.coverage.steps().count());
        if coverage {
            for ((table, from, to), count) in self.coverage.steps() {
                println!("  {table}: {from} to {to} {count}");
            }
        }
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

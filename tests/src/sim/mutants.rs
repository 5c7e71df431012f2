//! `cargo sim --mutants`: switches each planted bug on by itself and counts the seeds until the simulator finds it.
//! In: how many seeds at most, which bugs. Out: a table, and exit code 1 if one was not found.
//! The seeds are those of every run, and each that finds a bug is run again without it: it must be clean.
//! Absent: from ordinary builds, the bugs. There this builds the one that has them, in `target/mutants`, and runs that.

pub const USAGE: &str = "\
usage: cargo sim --mutants [--quick] [--only NAME] [--seeds N] [--from S] [--seconds T] [--threads N] [--trace] [--list]

  --quick        only those that are found within a few seeds
  --only NAME    one of them; may be given more than once
  --seeds N      how many seeds each may need (3000)
  --from S       the first of them (1)
  --seconds T    simulated seconds of faults in each seed (60)
  --threads N    seeds at a time (as many as there are cores)
  --trace        the last lines of each seed that finds one
  --list         what is planted, and what each stands for";

/// Runs what the words after `--mutants` ask for.
#[cfg(not(quorate_mutants))]
pub fn main(words: &[String]) -> std::process::ExitCode {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, ExitCode};

    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let error = Command::new(cargo)
        .current_dir(root)
        .env("RUSTFLAGS", format!("{flags} --cfg quorate_mutants").trim_start())
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .args(["run", "--quiet", "--profile", "sim", "--target-dir", "target/mutants", "-p", "tests", "--bin", "sim"])
        .args(["--", "--mutants"])
        .args(words)
        .exec();
    eprintln!("the build with planted bugs cannot be run by cargo: {error}");
    ExitCode::FAILURE
}

#[cfg(quorate_mutants)]
pub use hunt::main;

#[cfg(quorate_mutants)]
mod hunt {
    use std::process::ExitCode;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Instant;

    use planted::{Bug, ELSEWHERE, QUICK, TABLE};

    use super::USAGE;
    use crate::sim::checks::Violation;
    use crate::sim::clock::SECOND;
    use crate::sim::deeds::Plan;
    use crate::sim::run::{Outcome, run};
    use crate::sim::transcript::Transcript;

    /// What the words ask for.
    struct Hunt {
        quick: bool,
        list: bool,
        trace: bool,
        only: Vec<String>,
        seeds: u64,
        from: u64,
        seconds: u64,
        threads: usize,
    }

    /// The first seed that finds a bug, and by which oracle.
    struct Found {
        seed: u64,
        by: Violation,
    }

    pub fn main(words: &[String]) -> ExitCode {
        match Hunt::read(words) {
            Ok(hunt) if hunt.list => list(),
            Ok(hunt) => hunt.go(),
            Err(problem) => {
                eprintln!("{problem}\n\n{USAGE}");
                ExitCode::from(2)
            }
        }
    }

    fn list() -> ExitCode {
        TABLE.iter().for_each(|bug| println!("{:<36} {:<50} {}", bug.name, bug.stands_for, bug.mistake));
        ELSEWHERE.iter().for_each(|(mark, why)| println!("not here: {mark}: {why}"));
        ExitCode::SUCCESS
    }

    impl Hunt {
        fn read(words: &[String]) -> Result<Hunt, String> {
            let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
            let mut hunt = Hunt {
                quick: false,
                list: false,
                trace: false,
                only: Vec::new(),
                seeds: 3_000,
                from: 1,
                seconds: 60,
                threads,
            };
            let mut words = words.iter();
            while let Some(word) = words.next() {
                let mut text = || words.next().ok_or(format!("{word} needs a word more"));
                let number = |text: &String| text.parse().map_err(|_| format!("{word} needs a number, not {text:?}"));
                match word.as_str() {
                    "--help" | "-h" => return Err("the planted bugs".to_owned()),
                    "--quick" => hunt.quick = true,
                    "--list" => hunt.list = true,
                    "--trace" => hunt.trace = true,
                    "--only" => hunt.only.push(text()?.clone()),
                    "--seeds" => hunt.seeds = number(text()?)?,
                    "--from" => hunt.from = number(text()?)?,
                    "--seconds" => hunt.seconds = number(text()?)?,
                    "--threads" => hunt.threads = number(text()?)?.max(1) as usize,
                    _ => return Err(format!("{word} is not known")),
                }
            }
            match hunt.only.iter().find(|name| TABLE.iter().all(|bug| bug.name != *name)) {
                Some(name) => Err(format!("no bug is called {name}; --list shows them")),
                None => Ok(hunt),
            }
        }

        fn wants(&self, bug: &Bug) -> bool {
            let named = self.only.is_empty() || self.only.iter().any(|name| name == bug.name);
            named && (!self.quick || QUICK.contains(&bug.name))
        }

        fn go(&self) -> ExitCode {
            // Bugs make minds panic, and the oracle that notices says so.
            std::panic::set_hook(Box::new(|_| ()));
            let begun = Instant::now();
            let (mut caught, mut missed) = (0, Vec::new());
            println!("{:<36} {:<18} {:>5} {:>7}  what was seen", "planted", "caught by", "seeds", "time");
            for bug in TABLE.iter().filter(|bug| self.wants(bug)) {
                let since = Instant::now();
                let reached = AtomicU64::new(0);
                let found = self.find(bug, &reached);
                let took = format!("{:.1} s", since.elapsed().as_secs_f64());
                match found {
                    Some(Found { seed, by }) => {
                        if self.trace {
                            let outcome = planted::with(bug.name, || self.play(seed, Transcript::traced()));
                            outcome.trace.iter().for_each(|line| println!("{line}"));
                        }
                        let seeds = seed - self.from + 1;
                        println!("{:<36} {:<18} {seeds:>5} {took:>7}  {}", bug.name, by.oracle, by.what);
                        caught += 1;
                    }
                    None => {
                        let reached = reached.into_inner();
                        let seeds = self.seeds;
                        println!(
                            "{:<36} {:<18} {seeds:>5} {took:>7}  its place was passed {reached} times",
                            bug.name, "NOT CAUGHT"
                        );
                        missed.push(bug.name);
                    }
                }
            }
            let seconds = begun.elapsed().as_secs();
            println!("{caught} planted bugs caught, {} not, in {seconds} s", missed.len());
            if missed.is_empty() && caught > 0 {
                return ExitCode::SUCCESS;
            }
            println!("not caught: {}", missed.join(", "));
            ExitCode::FAILURE
        }

        /// The first seed that finds `bug` and is clean without it. `reached` counts how often its place was passed.
        fn find(&self, bug: &Bug, reached: &AtomicU64) -> Option<Found> {
            let next = AtomicU64::new(self.from);
            let first = Mutex::new(None::<Found>);
            let end = self.from + self.seeds;
            let known = || first.lock().expect("no seed panics").as_ref().map_or(end, |found| found.seed);
            std::thread::scope(|scope| {
                for _ in 0..self.threads {
                    scope.spawn(|| {
                        loop {
                            let seed = next.fetch_add(1, Ordering::Relaxed);
                            if seed >= known() {
                                return;
                            }
                            let outcome = planted::with(bug.name, || self.play(seed, Transcript::default()));
                            reached.fetch_add(planted::reached(), Ordering::Relaxed);
                            let Some(by) = outcome.violation else { continue };
                            if let Some(violation) = self.play(seed, Transcript::default()).violation {
                                println!("seed {seed} breaks a promise without any planted bug: {violation}");
                                continue;
                            }
                            let mut first = first.lock().expect("no seed panics");
                            if first.as_ref().is_none_or(|found| seed < found.seed) {
                                *first = Some(Found { seed, by });
                            }
                        }
                    });
                }
            });
            first.into_inner().expect("no seed panics")
        }

        fn play(&self, seed: u64, transcript: Transcript) -> Outcome {
            run(&Plan::random(seed, self.seconds * SECOND), transcript)
        }
    }
}

//! A long run in pieces: what each seed came to, in a file that the next piece goes on from.
//! In: finished seeds. Out: one line each, at once, so that a run may be ended at any moment; sums over the whole file.
//! Absent: sums of different things: a piece of another commit, another build or another length is refused.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use crate::sim::clock::MS;
use crate::sim::run::Outcome;

const COLUMNS: &str = "# seed, simulated ms, processor ms, happenings, messages lost, operations judged, what broke";

/// What one seed came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub simulated_ms: u64,
    /// Of the processor, this thread's.
    pub used_ms: u64,
    pub happenings: u64,
    pub lost: u64,
    pub operations: u64,
    pub broken: Option<String>,
}

pub struct Tally {
    file: File,
    seeds: BTreeMap<u64, Line>,
}

impl Line {
    pub fn of(outcome: &Outcome, used_ms: u64) -> Line {
        Line {
            simulated_ms: outcome.simulated / MS,
            used_ms,
            happenings: outcome.counts.handled,
            lost: outcome.counts.lost,
            operations: outcome.operations as u64,
            broken: outcome.violation.as_ref().map(|violation| violation.to_string().replace('\n', " ")),
        }
    }

    fn read(text: &str) -> Option<(u64, Line)> {
        let mut words = text.splitn(7, ' ');
        let mut number = || words.next()?.parse::<u64>().ok();
        let seed = number()?;
        let (simulated_ms, used_ms, happenings, lost, operations) =
            (number()?, number()?, number()?, number()?, number()?);
        let broken = Some(words.next()?).filter(|text| *text != "-").map(str::to_owned);
        Some((seed, Line { simulated_ms, used_ms, happenings, lost, operations, broken }))
    }

    fn text(&self, seed: u64) -> String {
        let Line { simulated_ms, used_ms, happenings, lost, operations, broken } = self;
        let broken = broken.as_deref().unwrap_or("-");
        format!("{seed} {simulated_ms} {used_ms} {happenings} {lost} {operations} {broken}\n")
    }
}

impl Tally {
    /// Begins a file, or goes on with one. Errs if it cannot be read, or holds something that must not be added to.
    /// `seconds`: of faults in each seed.
    pub fn open(path: &Path, seconds: u64) -> Result<Tally, String> {
        let head = format!("# seeds of {seconds} s, {}", build()?);
        let problem = |error: std::io::Error| format!("{}: {error}", path.display());
        let before = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(problem(error)),
        };
        let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(problem)?;
        let seeds = match before.lines().next() {
            Some(other) if other != head => {
                return Err(format!("{} is of another run\n  there: {other}\n  here:  {head}", path.display()));
            }
            Some(_) => {
                // The last line may have been cut off in the middle; its seed is run again.
                if !before.ends_with('\n') {
                    file.write_all(b"\n").map_err(problem)?;
                }
                let whole = before.rsplit_once('\n').map_or("", |(whole, _)| whole);
                whole.lines().filter_map(Line::read).collect()
            }
            None => {
                write!(file, "{head}\n{COLUMNS}\n").map_err(problem)?;
                BTreeMap::new()
            }
        };
        Ok(Tally { file, seeds })
    }

    pub fn has(&self, seed: u64) -> bool {
        self.seeds.contains_key(&seed)
    }

    /// Written down before anything else is begun.
    pub fn add(&mut self, seed: u64, line: Line) -> std::io::Result<()> {
        self.file.write_all(line.text(seed).as_bytes())?;
        self.seeds.insert(seed, line);
        Ok(())
    }

    /// Sums over every piece, and what broke.
    pub fn told(&self) -> String {
        let sum = |of: fn(&Line) -> u64| self.seeds.values().map(of).sum::<u64>();
        let hours = sum(|line| line.simulated_ms) as f64 / 3_600_000.0;
        let used = sum(|line| line.used_ms) as f64 / 1_000.0;
        let broken: Vec<_> = self.seeds.iter().filter_map(|(seed, line)| Some((seed, line.broken.as_ref()?))).collect();
        let mut text = format!(
            "all pieces: {} seeds, {hours:.1} simulated hours in {used:.0} s of processor time ({:.2} an hour of it a second), {} happenings, {} messages lost, {} operations judged; broken: {}\n",
            self.seeds.len(),
            hours / used,
            sum(|line| line.happenings),
            sum(|line| line.lost),
            sum(|line| line.operations),
            broken.len()
        );
        for (seed, what) in broken {
            let _ = writeln!(text, "seed {seed}: {what}");
        }
        text
    }
}

/// The commit of this checkout, and this very program: two builds of one commit may differ where somebody is at work.
fn build() -> Result<String, String> {
    let git = |words: &[&str]| -> Result<String, String> {
        let output = Command::new("git")
            .args(words)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .map_err(|error| format!("git {}: {error}", words.join(" ")))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["describe", "--always", "--abbrev=12", "--dirty"])?;
    let program = std::env::current_exe().and_then(std::fs::read).map_err(|error| format!("this program: {error}"))?;
    let print = program
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |word, byte| (word ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    Ok(format!("commit {commit}, build {print:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(used_ms: u64, broken: Option<&str>) -> Line {
        let broken = broken.map(str::to_owned);
        Line { simulated_ms: 3_600_000, used_ms, happenings: 10, lost: 1, operations: 2, broken }
    }

    #[test]
    fn a_run_goes_on_where_it_was_ended() {
        let path = std::env::temp_dir().join(format!("quorate-tally-{}", std::process::id()));
        let mut tally = Tally::open(&path, 3_600).expect("a new file");
        tally.add(1, line(1_000, None)).expect("room");
        tally.add(3, line(2_000, Some("SingleRunner broken at 1.000 s: twice"))).expect("room");
        drop(tally);
        // Ended in the middle of a line.
        let whole = std::fs::read_to_string(&path).expect("text");
        std::fs::write(&path, format!("{whole}4 36000")).expect("room");
        let mut tally = Tally::open(&path, 3_600).expect("its own file");
        assert_eq!([1, 2, 3, 4].map(|seed| tally.has(seed)), [true, false, true, false]);
        tally.add(4, line(1_000, None)).expect("room");
        let told = Tally::open(&path, 3_600).expect("its own file").told();
        assert!(told.contains("3 seeds, 3.0 simulated hours in 4 s"), "{told}");
        assert!(told.contains("broken: 1\nseed 3: SingleRunner"), "{told}");
        assert!(Tally::open(&path, 60).is_err(), "seeds of another length do not add up");
        std::fs::remove_file(&path).expect("it is there");
    }
}

//! What runs in the playground's containers, and what their own records say.
//! In: the environment the agent gives a container. Out: one line every few milliseconds, appended to the container's
//! private area; later, from those lines alone: how often it ran, where, and whether it ever ran twice.
//! Nothing here asks the cluster: this is the other side of the proof.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

/// Between two lines: finer than anything that is claimed about overlaps.
const EVERY: Duration = Duration::from_millis(10);
const FILE: &str = "witness.log";

/// The clock that all playground machines share: they are one kernel.
pub fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// `quoratectl dev witness`: runs until it is ended.
pub fn run() -> Result<()> {
    let word = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set: not in a container"));
    let area = PathBuf::from(word("QUORATE_PRIVATE_AREA")?);
    let (epoch, node) = (word("QUORATE_EPOCH")?, word("QUORATE_NODE")?);
    let incarnation = word("QUORATE_INCARNATION")?;
    let path = area.join(FILE);
    let mut file = File::options().create(true).append(true).open(&path).with_context(|| format!("open {path:?}"))?;
    for sequence in 0u64.. {
        // One write per line: O_APPEND makes each whole, whoever else writes.
        let line = format!("{epoch} {node} {incarnation} {sequence} {}\n", now_ns());
        file.write_all(line.as_bytes()).with_context(|| format!("append to {path:?}"))?;
        std::thread::sleep(EVERY);
    }
    Ok(())
}

/// One unbroken life of a container, by its own lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub epoch: u64,
    pub node: String,
    pub incarnation: u64,
    pub first_ns: u64,
    pub last_ns: u64,
    pub lines: u64,
}

/// What one container wrote, by epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub runs: Vec<Run>,
    /// What must never be: in words, one for each.
    pub violations: Vec<String>,
}

/// Reads `<private area>/witness.log`; a container that never wrote has an empty record.
pub fn read(private_area: &Path) -> Result<Record> {
    let path = private_area.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(judge(&text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Record::default()),
        Err(error) => Err(error).with_context(|| format!("read {path:?}")),
    }
}

/// Two lives overlap if either wrote within the other's time, or if an older epoch wrote after a newer one began.
pub fn judge(text: &str) -> Record {
    let mut record = Record::default();
    let mut runs: BTreeMap<(u64, String, u64), Run> = BTreeMap::new();
    let mut newest = 0;
    // A last line without its end was cut off by the power: it is no evidence.
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let Some((epoch, node, incarnation, at)) = parse(line) else {
            record.violations.push(format!("unreadable line {line:?}"));
            continue;
        };
        if epoch < newest {
            record.violations.push(format!("epoch {epoch} on {node} wrote after epoch {newest} had begun"));
        }
        newest = newest.max(epoch);
        let run = runs.entry((epoch, node.to_owned(), incarnation)).or_insert_with(|| Run {
            epoch,
            node: node.to_owned(),
            incarnation,
            first_ns: at,
            last_ns: at,
            lines: 0,
        });
        run.first_ns = run.first_ns.min(at);
        run.last_ns = run.last_ns.max(at);
        run.lines += 1;
    }
    record.runs = runs.into_values().collect();
    for (at, one) in record.runs.iter().enumerate() {
        for other in &record.runs[at + 1..] {
            if one.epoch == other.epoch {
                record.violations.push(format!("epoch {} ran on {} and on {}", one.epoch, one.node, other.node));
            }
            if one.first_ns <= other.last_ns && other.first_ns <= one.last_ns {
                let shared = one.last_ns.min(other.last_ns) - one.first_ns.max(other.first_ns);
                record.violations.push(format!(
                    "epoch {} on {} and epoch {} on {} ran together for {} ms",
                    one.epoch,
                    one.node,
                    other.epoch,
                    other.node,
                    shared / 1_000_000
                ));
            }
        }
    }
    record
}

fn parse(line: &str) -> Option<(u64, &str, u64, u64)> {
    let mut words = line.split(' ');
    let epoch = words.next()?.parse().ok()?;
    let node = words.next()?;
    let incarnation = words.next()?.parse().ok()?;
    let _sequence: u64 = words.next()?.parse().ok()?;
    let at = words.next()?.parse().ok()?;
    words.next().is_none().then_some((epoch, node, incarnation, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_life_after_another_is_what_was_promised() {
        let record = judge("1 n1 5 0 100\n1 n1 5 1 200\n2 n2 9 0 300\n2 n2 9 1 40");
        assert_eq!(record.violations, Vec::<String>::new());
        assert_eq!(record.runs.len(), 2);
        assert_eq!((record.runs[1].first_ns, record.runs[1].last_ns), (300, 300));
    }

    #[test]
    fn every_forged_double_run_is_found() {
        for forged in [
            "1 n1 5 0 100\n2 n2 9 0 150\n1 n1 5 1 200\n",
            "1 n1 5 0 100\n1 n2 9 0 150\n",
            "1 n1 5 0 100\n1 n1 6 0 150\n",
            "1 n1 5 0 100\n1 n1 5 1 300\n2 n2 9 0 200\n",
            "2 n2 9 0 100\n1 n1 5 0 200\n",
            "garbage\n",
        ] {
            assert!(!judge(forged).violations.is_empty(), "{forged:?} passed");
        }
    }
}

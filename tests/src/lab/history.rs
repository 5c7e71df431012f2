//! The independent checker: what a container wrote about itself, and whether that can have been one life after another.
//! In: the lines of one private area, `epoch node incarnation sequence boottime_ns`. Out: its lives in order of time, and
//! every fault found. Shares nothing with the program whose promise it checks, and is itself checked on forged histories.

use std::collections::BTreeMap;
use std::fmt;

/// Who wrote a line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Runner {
    pub epoch: u64,
    pub node: String,
    pub incarnation: u64,
}

impl fmt::Display for Runner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "e{} on {} i{}", self.epoch, self.node, self.incarnation)
    }
}

/// All that one runner wrote, from its first line to its last; times in nanoseconds of the boot-time clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    pub runner: Runner,
    pub first_ns: u64,
    pub last_ns: u64,
    pub lines: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not a line of a witness.
    Unreadable(String),
    /// `stale` still wrote after `newer` had begun.
    Together { stale: Runner, newer: Runner, for_ns: u64 },
    /// One epoch, two runners.
    Shared { epoch: u64, one: Runner, other: Runner },
    /// In order of time, a lower epoch began after a higher one.
    Backwards { from: Runner, to: Runner },
    /// A runner's lines do not count 0, 1, 2, …: it was started twice, or lines are missing.
    Broken { runner: Runner, expected: u64, found: u64 },
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Unreadable(line) => write!(out, "unreadable line {line:?}"),
            Fault::Together { stale, newer, for_ns } => {
                write!(out, "{stale} still wrote {} ms after {newer} had begun", for_ns / 1_000_000)
            }
            Fault::Shared { epoch, one, other } => write!(out, "epoch {epoch} ran as {one} and as {other}"),
            Fault::Backwards { from, to } => write!(out, "{to} began after {from}"),
            Fault::Broken { runner, expected, found } => {
                write!(out, "{runner} wrote line {found} where line {expected} was due")
            }
        }
    }
}

/// One container's own account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// By first line.
    pub lives: Vec<Life>,
    pub faults: Vec<Fault>,
}

struct Line {
    runner: Runner,
    sequence: u64,
    at_ns: u64,
}

impl History {
    pub fn parse(text: &str) -> History {
        let mut faults = Vec::new();
        let mut lines = Vec::new();
        // What has no end was cut off with the power: it says nothing.
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            match read(line) {
                Some(line) => lines.push(line),
                None => faults.push(Fault::Unreadable(line.to_owned())),
            }
        }
        let lives = lives(&lines, &mut faults);
        order(&lives, &mut faults);
        History { lives, faults }
    }

    /// The life that wrote last.
    pub fn latest(&self) -> Option<&Life> {
        self.lives.iter().max_by_key(|life| life.last_ns)
    }
}

fn read(line: &str) -> Option<Line> {
    let words: Vec<&str> = line.split(' ').collect();
    let [epoch, node, incarnation, sequence, at_ns] = words.as_slice() else { return None };
    if node.is_empty() {
        return None;
    }
    let runner =
        Runner { epoch: epoch.parse().ok()?, node: (*node).to_owned(), incarnation: incarnation.parse().ok()? };
    Some(Line { runner, sequence: sequence.parse().ok()?, at_ns: at_ns.parse().ok()? })
}

/// Lives by their first line; each must count its lines without a gap and without going back in time.
fn lives(lines: &[Line], faults: &mut Vec<Fault>) -> Vec<Life> {
    let mut found: BTreeMap<&Runner, Life> = BTreeMap::new();
    for line in lines {
        let life = found.entry(&line.runner).or_insert_with(|| Life {
            runner: line.runner.clone(),
            first_ns: line.at_ns,
            last_ns: line.at_ns,
            lines: 0,
        });
        if line.sequence != life.lines || line.at_ns < life.last_ns {
            faults.push(Fault::Broken { runner: line.runner.clone(), expected: life.lines, found: line.sequence });
        }
        life.first_ns = life.first_ns.min(line.at_ns);
        life.last_ns = life.last_ns.max(line.at_ns);
        life.lines = line.sequence + 1;
    }
    let mut lives: Vec<Life> = found.into_values().collect();
    lives.sort_by_key(|life| (life.first_ns, life.runner.epoch));
    lives
}

/// Every pair is looked at: lives are few, and a pair that is skipped is a fault that is missed.
fn order(lives: &[Life], faults: &mut Vec<Fault>) {
    for (at, earlier) in lives.iter().enumerate() {
        for later in &lives[at + 1..] {
            if earlier.runner.epoch == later.runner.epoch {
                let (one, other) = (earlier.runner.clone(), later.runner.clone());
                faults.push(Fault::Shared { epoch: one.epoch, one, other });
            } else if earlier.runner.epoch > later.runner.epoch {
                faults.push(Fault::Backwards { from: earlier.runner.clone(), to: later.runner.clone() });
            }
            if earlier.last_ns >= later.first_ns {
                let for_ns = earlier.last_ns.min(later.last_ns) - later.first_ns;
                let (stale, newer) = (earlier.runner.clone(), later.runner.clone());
                faults.push(Fault::Together { stale, newer, for_ns });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        History::parse(text).faults.iter().map(Fault::to_string).collect()
    }

    #[test]
    fn one_life_after_another_has_no_fault() {
        let text = "1 a 5 0 100\n1 a 5 1 200\n2 b 7 0 300\n2 b 7 1 400\n5 a 9 0 500\n5 a 9";
        let history = History::parse(text);
        assert_eq!(history.faults, []);
        let ran: Vec<String> = history.lives.iter().map(|life| format!("{} x{}", life.runner, life.lines)).collect();
        assert_eq!(ran, ["e1 on a i5 x2", "e2 on b i7 x2", "e5 on a i9 x1"]);
        assert_eq!(history.latest().map(|life| life.last_ns), Some(500));
    }

    #[test]
    fn nothing_written_is_no_life() {
        assert_eq!(History::parse(""), History::default());
        assert_eq!(History::parse("1 a 5 0 10"), History::default());
    }

    #[test]
    fn every_forged_history_is_seen_through() {
        for (forged, says) in [
            // The old one goes on while the new one runs.
            ("1 a 5 0 100\n2 b 7 0 150\n1 a 5 1 200\n2 b 7 1 250\n", "e1 on a i5 still wrote 0 ms after e2 on b i7"),
            // One line too late is enough, wherever it stands in the file.
            ("1 a 5 0 100\n1 a 5 1 2000000300\n2 b 7 0 300\n2 b 7 1 3000000000\n", "still wrote 2000 ms after"),
            // In the same nanosecond.
            ("1 a 5 0 100\n2 b 7 0 100\n", "still wrote 0 ms"),
            // The new one within the life of the old one.
            ("1 a 5 0 100\n2 b 7 0 200\n2 b 7 1 210\n1 a 5 1 900\n", "e1 on a i5 still wrote"),
            // One epoch on two nodes, one after the other.
            ("1 a 5 0 100\n1 b 7 0 200\n", "epoch 1 ran as e1 on a i5 and as e1 on b i7"),
            // One epoch in two incarnations of a node.
            ("1 a 5 0 100\n1 a 6 0 200\n", "epoch 1 ran as e1 on a i5 and as e1 on a i6"),
            // An old epoch started again after a newer one.
            ("2 b 7 0 100\n1 a 5 0 200\n", "e1 on a i5 began after e2 on b i7"),
            ("1 a 5 0 100\n3 b 7 0 200\n2 c 8 0 300\n", "e2 on c i8 began after e3 on b i7"),
            // Started twice under one epoch by one node.
            ("1 a 5 0 100\n1 a 5 1 110\n1 a 5 0 200\n", "wrote line 0 where line 2 was due"),
            // Two processes of one runner, taking turns.
            ("1 a 5 0 100\n1 a 5 0 101\n1 a 5 1 110\n1 a 5 1 111\n", "wrote line 0 where line 1 was due"),
            // Lines taken out, time turned back.
            ("1 a 5 0 100\n1 a 5 2 120\n", "wrote line 2 where line 1 was due"),
            ("1 a 5 0 100\n1 a 5 1 90\n", "e1 on a i5 wrote line 1"),
            // Not ours.
            ("hello\n", "unreadable line \"hello\""),
            ("1 a 5 0 100 7\n", "unreadable"),
            ("\n", "unreadable"),
            ("1 a 5 0 -3\n", "unreadable"),
        ] {
            let found = faults(forged);
            assert!(found.iter().any(|fault| fault.contains(says)), "{forged:?}: {found:?} does not say {says:?}");
        }
    }

    #[test]
    fn lives_that_do_not_follow_each_other_in_the_file_are_compared_as_well() {
        let found = faults("1 a 5 0 100\n2 b 7 0 200\n3 c 8 0 300\n1 a 5 1 350\n");
        assert_eq!(found.len(), 2, "{found:?}");
    }
}

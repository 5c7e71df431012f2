//! What a person would want to read of a run: deeds, applied events, what really ran, each with its time.
//! In: lines as they occur. Out: text. Off by default: a thousand seeds nobody reads cost nothing.

use std::collections::VecDeque;
use std::fmt;

use crate::sim::clock::{God, MS, SECOND};

/// Lines of detail kept before a failure.
const TRACE: usize = 200;

/// Kinds of lines, from the plot to the last detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Show {
    Deeds,
    Events,
    Runs,
    Guards,
    Leaders,
    Members,
    Agents,
    Clients,
    Detail,
}

pub struct Line {
    pub show: Show,
    pub text: String,
}

#[derive(Default)]
pub struct Transcript {
    shown: Vec<Show>,
    lines: Vec<String>,
    /// The last lines of any kind, if wanted.
    trace: Option<VecDeque<String>>,
}

impl Transcript {
    /// Keeps lines of these kinds.
    pub fn of(shown: &[Show]) -> Transcript {
        Transcript { shown: shown.to_vec(), ..Transcript::default() }
    }

    /// Keeps the last lines of every kind.
    pub fn traced() -> Transcript {
        Transcript { trace: Some(VecDeque::new()), ..Transcript::default() }
    }

    pub fn wants(&self, show: Show) -> bool {
        self.trace.is_some() || self.shown.contains(&show)
    }

    pub fn note(&mut self, now: God, line: Line) {
        let text = format!("{} {}", Stamp(now), line.text);
        if let Some(trace) = &mut self.trace {
            if trace.len() == TRACE {
                trace.pop_front();
            }
            trace.push_back(text.clone());
        }
        if self.shown.contains(&line.show) {
            self.lines.push(text);
        }
    }

    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    pub fn trace(&self) -> impl Iterator<Item = &String> {
        self.trace.iter().flatten()
    }
}

/// God's time as seconds with three decimals, right-aligned.
pub struct Stamp(pub God);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>4}.{:03}", self.0 / SECOND, self.0 % SECOND / MS)
    }
}

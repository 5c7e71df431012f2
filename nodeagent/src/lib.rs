//! The node agent: the shell around `decide`.
//! Facts come in by `link`, `guarding`, `work` and the clock; the mind decides; `agent` carries out in order.
//! Absent: no choice is made here. Reading order: `agent` (the circle), then each door and hand.

pub mod config;
pub mod identity;
pub mod agent;
pub mod link;
pub mod work;
pub mod hands;
pub mod errands;
mod copies;
mod surroundings;
pub mod shelves;
pub mod guarding;
pub mod journal;
pub mod control;
pub mod drivers;
pub mod clock;
pub mod durable;

use std::error::Error;

/// `error` with everything beneath it, for one line of the log.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        text.push_str(": ");
        text.push_str(&deeper.to_string());
        cause = deeper.source();
    }
    text
}

//! The figures of the README's "Measured": each is a program that brings up real processes, loads them, and says what it saw.
//! In: a size. Out: one line for people, or one JSON object; the load average stands beside every figure, since a
//! machine that does something else meanwhile measures that too.
//! Absent: no figure that was not measured by this run.

pub mod crowd;
pub mod failover;
pub mod heartbeats;
mod line;
pub mod members;
pub mod usage;
pub mod writes;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The same findings for people and for programs.
pub struct Figure {
    pub text: String,
    pub json: Value,
}

impl Figure {
    /// Adds when and on what it was measured.
    pub fn new(text: String, mut json: Value) -> Figure {
        let load = usage::load_average();
        let cores = std::thread::available_parallelism().map_or(1, |count| count.get());
        if let Some(fields) = json.as_object_mut() {
            fields.insert("load_average".into(), json!(load));
            fields.insert("cores".into(), json!(cores));
        }
        Figure { text: format!("{text}; {cores} cores, load average {load:.1}"), json }
    }
}

/// Durations of many equal things.
#[derive(Default, Serialize, Deserialize)]
pub struct Sample {
    micros: Vec<u32>,
}

impl Sample {
    pub fn add(&mut self, took: Duration) {
        self.micros.push(took.as_micros().try_into().unwrap_or(u32::MAX));
    }

    pub fn absorb(&mut self, other: Sample) {
        self.micros.extend(other.micros);
    }

    pub fn len(&self) -> usize {
        self.micros.len()
    }

    pub fn is_empty(&self) -> bool {
        self.micros.is_empty()
    }

    /// The smallest that `share` of all do not exceed, nearest rank, in milliseconds; 0 of none.
    pub fn quantile_ms(&mut self, share: f64) -> f64 {
        if self.micros.is_empty() {
            return 0.0;
        }
        self.micros.sort_unstable();
        let rank = (share * self.micros.len() as f64).ceil().max(1.0) as usize;
        f64::from(self.micros[rank.min(self.micros.len()) - 1]) / 1_000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let mut sample = Sample::default();
        (1..=100).rev().for_each(|ms| sample.add(Duration::from_millis(ms)));
        assert_eq!([0.5, 0.99, 1.0].map(|share| sample.quantile_ms(share)), [50.0, 99.0, 100.0]);
        assert_eq!(Sample::default().quantile_ms(0.5), 0.0);
    }
}

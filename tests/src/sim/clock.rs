//! The clocks of one boot of one machine, beside god's.
//! In: god's time, in nanoseconds since the run began. Out: what the machine reads, and when it will read it.
//! Absent: jumps of the lease clock; within a boot it only runs, fast or slow. A reboot gets a new `Clock`.

use cluster::{Moment, Span};

/// God's time: nanoseconds since the run began. Nobody inside the world ever sees one.
pub type God = u64;

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1_000 * MS;

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// At this moment of god's …
    since: God,
    /// … the lease clock read this.
    reading: u64,
    /// How much faster than god's it runs, in parts per million.
    rate_ppm: i64,
    /// What the monotonic clock did not count.
    slept: u64,
}

impl Clock {
    /// A machine that has been up for `reading` nanoseconds.
    pub fn new(god: God, reading: u64, rate_ppm: i64) -> Clock {
        Clock { since: god, reading, rate_ppm, slept: 0 }
    }

    /// The lease clock (`CLOCK_BOOTTIME`).
    pub fn lease(&self, god: God) -> Moment {
        let passed = u128::from(god.saturating_sub(self.since));
        Moment(self.reading + (passed * self.speed() / 1_000_000) as u64)
    }

    /// The clock that does not count suspend (`CLOCK_MONOTONIC`).
    pub fn monotonic(&self, god: God) -> Moment {
        Moment(self.lease(god).0.saturating_sub(self.slept))
    }

    /// The first moment of god's at which the lease clock reads `moment` or more.
    pub fn when(&self, moment: Moment) -> God {
        let ahead = u128::from(moment.0.saturating_sub(self.reading));
        self.since + (ahead * 1_000_000).div_ceil(self.speed()) as u64
    }

    /// God's length of a span of this clock, rounded up.
    pub fn length(&self, span: Span) -> u64 {
        (u128::from(span.0) * 1_000_000).div_ceil(self.speed()) as u64
    }

    /// Runs at another rate from here on.
    pub fn set_rate(&mut self, god: God, rate_ppm: i64) {
        self.reading = self.lease(god).0;
        self.since = god;
        self.rate_ppm = rate_ppm;
    }

    /// The machine was suspended for `length` of god's time until `god`; the lease clock counted it.
    pub fn slept(&mut self, length: u64) {
        self.slept += (u128::from(length) * self.speed() / 1_000_000) as u64;
    }

    /// Nothing on the machine happened for `length` of god's time until now, and no clock of it went on.
    pub fn stood_still(&mut self, length: u64) {
        self.since += length;
    }

    fn speed(&self) -> u128 {
        (1_000_000 + self.rate_ppm) as u128
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_when_it_was_said_to_be_read() {
        for rate in [-5_000, -1, 0, 3, 5_000] {
            let mut clock = Clock::new(17, 1_000_003, rate);
            clock.set_rate(9_999, -rate);
            for ahead in [0, 1, 7, 1_000_000, 3 * SECOND] {
                let moment = clock.lease(12_345) + Span(ahead);
                let god = clock.when(moment);
                assert!(clock.lease(god) >= moment && (ahead == 0 || clock.lease(god - 1) < moment));
            }
        }
        let mut clock = Clock::new(0, 0, 0);
        clock.slept(SECOND);
        assert_eq!(clock.lease(3 * SECOND).since(clock.monotonic(3 * SECOND)), Span::seconds(1));
    }
}

//! Time as a value: the quiet crates are told it and never ask.
//! In: nanoseconds of one machine's lease clock. Out: moments that compare only with moments of the same clock.
//! Absent: no clock, no time zone, no conversion between machines.

use std::fmt;
use std::ops::{Add, Mul, Sub};

use serde::{Deserialize, Serialize};

/// A reading of one machine's lease clock (`CLOCK_BOOTTIME`), in nanoseconds. Means nothing on another machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub u64);

/// A length of time, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Span(pub u64);

/// Milliseconds since 1970 by some leader's wall clock, forced by the state to never go back.
/// For people and for budgets of minutes; no lease and no fence ever looks at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallTime(pub u64);

impl Span {
    pub const ZERO: Span = Span(0);

    pub const fn millis(millis: u64) -> Span {
        Span(millis.saturating_mul(1_000_000))
    }

    pub const fn seconds(seconds: u64) -> Span {
        Span::millis(seconds.saturating_mul(1_000))
    }

    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    pub const fn saturating_sub(self, other: Span) -> Span {
        Span(self.0.saturating_sub(other.0))
    }

    /// `self` × `numerator` ∕ `denominator`, rounded up: a wait may become longer by rounding, never shorter.
    pub const fn scaled_up(self, numerator: u64, denominator: u64) -> Span {
        let product = self.0 as u128 * numerator as u128;
        Span(product.div_ceil(denominator as u128) as u64)
    }
}

impl Moment {
    /// How long ago `earlier` was; zero if it lies in the future.
    pub const fn since(self, earlier: Moment) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Span> for Moment {
    type Output = Moment;
    fn add(self, span: Span) -> Moment {
        Moment(self.0.saturating_add(span.0))
    }
}

impl Sub<Span> for Moment {
    type Output = Moment;
    fn sub(self, span: Span) -> Moment {
        Moment(self.0.saturating_sub(span.0))
    }
}

impl Add for Span {
    type Output = Span;
    fn add(self, other: Span) -> Span {
        Span(self.0.saturating_add(other.0))
    }
}

impl Mul<u64> for Span {
    type Output = Span;
    fn mul(self, times: u64) -> Span {
        Span(self.0.saturating_mul(times))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_millis() {
            millis if millis >= 10_000 => write!(f, "{}.{} s", millis / 1_000, millis % 1_000 / 100),
            millis if millis >= 1_000 => write!(f, "{}.{:02} s", millis / 1_000, millis % 1_000 / 10),
            millis => write!(f, "{millis} ms"),
        }
    }
}

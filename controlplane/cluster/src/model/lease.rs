//! The terms of node leases and what follows from them by arithmetic.
//! In: five lengths of time. Out: the wait W after which a silent node provably runs nothing.
//! Absent: no clock and no lease; `replica` and `decide` keep those. Source: safety.md, "Quorum leases".

use planted::planted;
use serde::{Deserialize, Serialize};

use super::time::Span;

/// One set of lease terms. Every heartbeat names the terms in use, so that two sets can be legal during a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseTerms {
    /// L: how long a lease lasts from the send of the heartbeat that earned it.
    pub lease: Span,
    /// How often an agent sends a heartbeat to every voter.
    pub heartbeat: Span,
    /// K: from the end of the lease to "no task can run", by the guard.
    pub kill: Span,
    /// μ: scheduling margin of the guard's wake-up.
    pub margin: Span,
    /// ε: how far the rate of any lease clock may be off, in parts per million.
    pub drift_ppm: u32,
}

/// The named sets of terms an operator chooses from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    Fast,
    #[default]
    Default,
    Relaxed,
}

impl Profile {
    pub const ALL: [Profile; 3] = [Profile::Fast, Profile::Default, Profile::Relaxed];

    pub const fn terms(self) -> LeaseTerms {
        let (lease, heartbeat, kill, margin) = match self {
            Profile::Fast => (1_500, 300, 250, 100),
            Profile::Default => (3_000, 600, 300, 200),
            Profile::Relaxed => (10_000, 2_000, 5_000, 500),
        };
        LeaseTerms {
            lease: Span::millis(lease),
            heartbeat: Span::millis(heartbeat),
            kill: Span::millis(kill),
            margin: Span::millis(margin),
            drift_ppm: 5_000,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Profile::Fast => "fast",
            Profile::Default => "default",
            Profile::Relaxed => "relaxed",
        }
    }

    pub fn of(terms: LeaseTerms) -> Option<Profile> {
        Profile::ALL.into_iter().find(|profile| profile.terms() == terms)
    }
}

impl LeaseTerms {
    /// W = (L + K + μ) · (1+ε)/(1−ε): by a member's clock, how long after its last acknowledgement a node may still run
    /// anything. The node's clock may be slow by ε while the member's is fast by ε.
    pub fn wait(self) -> Span {
        let mut sum = Span(self.lease.0 + self.kill.0 + self.margin.0);
        if planted!("wait-without-kill") {
            sum = Span(self.lease.0 + self.margin.0);
        }
        if planted!("drift-forgotten") {
            return sum;
        }
        sum.scaled_up(1_000_000 + self.drift_ppm as u64, 1_000_000 - self.drift_ppm as u64)
    }

    /// Silence that the leader calls suspicious: two heartbeats missed and half of a third. Binds nobody.
    pub const fn suspicion(self) -> Span {
        Span(self.heartbeat.0 * 5 / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_those_of_the_safety_page() {
        let waits = Profile::ALL.map(|profile| profile.terms().wait().as_millis());
        assert_eq!(waits, [1_868, 3_535, 15_655]);
    }
}

//! The clocks of this machine, read in one place.
//! In: nothing. Out: the lease clock (`CLOCK_BOOTTIME`, counts suspend), the clock beside it that does not, the wall clock.
//! Absent: decisions. Timers only wake; whoever decides reads the lease clock again.

use std::time::{SystemTime, UNIX_EPOCH};

use cluster::{Moment, Span, WallTime};
use rustix::time::{ClockId, clock_gettime};

/// Two reads this near to each other are of one moment; far below what is taken for a suspend.
const SAME_MOMENT: Span = Span::millis(5);
/// A machine that deschedules us between two reads this often in a row is in no state to be judged.
const READS_MAX: usize = 8;

/// The clock every lease and every wait is counted by.
pub fn lease_clock() -> Moment {
    read(ClockId::Boottime)
}

/// Stands still while the machine is suspended: together with the lease clock it shows that the observer slept.
pub fn monotonic() -> Moment {
    read(ClockId::Monotonic)
}

/// Both clocks as of one moment: being descheduled between two reads must not look like a suspend.
pub fn lease_and_monotonic() -> (Moment, Moment) {
    let mut before = lease_clock();
    for _ in 0..READS_MAX {
        let awake = monotonic();
        let after = lease_clock();
        if after.since(before) <= SAME_MOMENT {
            return (after, awake);
        }
        before = after;
    }
    (before, monotonic())
}

/// For people and logs; nothing is decided by it.
pub fn wall() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn read(clock: ClockId) -> Moment {
    let time = clock_gettime(clock);
    let (seconds, nanos) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    Moment(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lease_clock_is_never_behind_the_one_that_sleeps() {
        let monotonic = monotonic();
        assert!(lease_clock() >= monotonic);
        let (lease, awake) = lease_and_monotonic();
        assert!(lease >= awake && awake >= monotonic);
        assert!(wall() > WallTime(1_600_000_000_000));
    }
}

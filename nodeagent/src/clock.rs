//! The lease clock of this machine and the name of its boot: the only place of the agent that asks for either.
//! `CLOCK_BOOTTIME` goes on while the machine sleeps, so a lease cannot outlive a suspend.

use std::io;
use std::time::Duration;

use cluster::{BootId, Moment, Span};
use rustix::time::{ClockId, clock_gettime};

/// Now, by the lease clock.
pub fn now() -> Moment {
    let time = clock_gettime(ClockId::Boottime);
    Moment(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// How long to sleep until `at`; zero when it has passed. Timers only wake: whoever wakes asks `now` again.
pub fn until(at: Moment) -> Duration {
    duration(at.since(now()))
}

pub fn duration(span: Span) -> Duration {
    Duration::from_nanos(span.0)
}

/// What the kernel names this boot.
pub fn boot_id() -> io::Result<BootId> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    parse_boot_id(text.trim()).ok_or_else(|| io::Error::other(format!("the kernel's boot id {text:?} is no UUID")))
}

/// A UUID, with or without dashes; `None` for anything else.
pub fn parse_boot_id(text: &str) -> Option<BootId> {
    uuid::Uuid::parse_str(text).ok().map(|uuid| BootId(uuid.as_u128()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_clock_is_the_guards_clock() {
        let before = guard::boottime_ns();
        let ours = now().0;
        assert!(before <= ours && ours <= guard::boottime_ns());
    }

    #[test]
    fn boot_is_named_alike_by_kernel_and_parser() {
        assert_eq!(boot_id().expect("boot id"), boot_id().expect("boot id"));
        assert_eq!(parse_boot_id("00000000-0000-0000-0000-0000000000ff"), Some(BootId(255)));
        assert_eq!(parse_boot_id("boot"), None);
    }
}

//! What a process used, as the kernel counts it.
//! In: a pid. Out: processor time, memory. Absent: anything the process says about itself.

use std::fs;
use std::time::Duration;

/// Kernel ticks a second: USER_HZ, which is 100 on every Linux a program can meet.
const TICKS: u64 = 100;

/// Processor time of `pid` so far, user and system, all threads; zero when it is gone.
pub fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // After the name, which may hold anything, in parentheses: state is field 3, utime 14, stime 15.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = |at: usize| rest.split_whitespace().nth(at - 3).and_then(|text| text.parse::<u64>().ok());
    let ticks = field(14).unwrap_or(0) + field(15).unwrap_or(0);
    Duration::from_millis(ticks * 1_000 / TICKS)
}

/// Resident memory of `pid` now, in MiB; 0 when it is gone.
pub fn resident_mib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("");
    line.split_whitespace().next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) / 1_024
}

/// Runnable tasks, mean over the last minute.
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

/// Lets this process and its children hold as many descriptors as the machine permits: at least `wanted`, or an error
/// that says what to raise.
pub fn allow_descriptors(wanted: u64) -> Result<(), String> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let raised = Rlimit { current: Some(wanted), maximum: now.maximum.map(|maximum| maximum.max(wanted)) };
    setrlimit(Resource::Nofile, raised).map_err(|error| {
        format!("{wanted} open files are needed and {:?} allowed ({error}): raise `ulimit -n`", now.current)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_has_memory_and_a_dead_one_has_nothing() {
        assert!(resident_mib(std::process::id()) > 0);
        assert_eq!((resident_mib(u32::MAX), cpu_time(u32::MAX)), (0, Duration::ZERO));
    }
}

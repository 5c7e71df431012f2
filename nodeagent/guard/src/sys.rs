//! The few doors of the kernel that rustix does not open: `clone3` with namespaces and a cgroup, real-time priority,
//! signal dispositions. Declared against the C library that std links anyway; no crate behind it.

use std::ffi::{c_int, c_long};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::time::{ClockId, clock_gettime};

pub const CLONE_NEWNS: u64 = 0x0002_0000;
pub const CLONE_NEWUTS: u64 = 0x0400_0000;
pub const CLONE_NEWIPC: u64 = 0x0800_0000;
pub const CLONE_NEWUSER: u64 = 0x1000_0000;
pub const CLONE_NEWPID: u64 = 0x2000_0000;
const CLONE_PIDFD: u64 = 0x0000_1000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `clone3` has this number on every architecture.
const SYS_CLONE3: c_long = 435;
const SCHED_FIFO: c_int = 1;
/// Children go back to ordinary priority: a workload must never inherit the guard's.
const SCHED_RESET_ON_FORK: c_int = 0x4000_0000;
pub const SIGINT: c_int = 2;
pub const SIGHUP: c_int = 1;
pub const SIGQUIT: c_int = 3;
pub const SIGUSR1: c_int = 10;
pub const SIGUSR2: c_int = 12;
pub const SIGTERM: c_int = 15;
const SIGCHLD: u64 = 17;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn sched_setscheduler(pid: c_int, policy: c_int, param: *const SchedParam) -> c_int;
    fn signal(signal: c_int, disposition: usize) -> usize;
    fn kill(pid: c_int, signal: c_int) -> c_int;
}

#[repr(C)]
struct SchedParam {
    priority: c_int,
}

/// `struct clone_args` of linux/sched.h, version 2 (with `cgroup`).
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

pub enum Fork {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

/// Forks into new namespaces (`flags`) and, where given, into a cgroup v2 directory.
///
/// # Safety
/// The calling process must have one thread: the child may allocate and take locks.
pub unsafe fn fork_into(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: flags | CLONE_PIDFD,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: SIGCHLD,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: the arguments live across the call; without a stack of its own the child returns here like after fork.
    match unsafe { syscall(SYS_CLONE3, &raw mut args, size_of::<CloneArgs>()) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        // SAFETY: the kernel stored a fresh descriptor owned by nobody else.
        pid => Ok(Fork::Parent { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// First-in-first-out real-time priority for this process, not for its children.
pub fn become_realtime() -> io::Result<()> {
    let param = SchedParam { priority: 50 };
    // SAFETY: `param` lives across the call.
    match unsafe { sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &raw const param) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets what happens on `number`: the address of an `extern "C" fn(c_int)`.
pub fn on_signal(number: c_int, disposition: usize) {
    // SAFETY: the callers pass a function that only calls async-signal-safe functions.
    unsafe { signal(number, disposition) };
}

/// `kill(2)`, for signal handlers and for pid numbers that came from a namespace of our own.
pub fn send_signal(pid: c_int, number: c_int) -> io::Result<()> {
    // SAFETY: plain numbers.
    match unsafe { kill(pid, number) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Nanoseconds since boot, suspend included: the only clock deadlines are compared with.
pub fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Turns a wait status into one number: the exit code, or 128 plus the signal that ended it.
pub fn exit_code(status: rustix::process::WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    }
}

/// The kernel's id of this boot, without line end; empty where /proc does not give it.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// Clock ticks since boot at which `pid` was started; `None` when there is no such process. Distinguishes a process
/// from a later one with the same number.
pub fn start_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold spaces and brackets; what follows the last bracket is numbers. Field 22 is the 20th there.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

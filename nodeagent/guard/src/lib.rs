//! The dead man's switch of a node: ends every workload when the lease is over, whatever became of the agent.
//! In: a deadline the agent moves in shared memory. Out: dead namespaces, and a record on disk that says so.
//! Reading order: `slot` (what agent and guard share), `switch` (the quiet loop), `init` (the process workloads are
//! born from), `starter` (how the agent speaks to it).
//! Absent: no async, no threads, no allocation once the quiet loop runs, no decision about leases.

pub mod cgroup;
mod init;
pub mod record;
pub mod selftest;
pub mod slot;
pub mod starter;
mod switch;
mod sys;
pub mod wire;

pub use slot::{FencingClass, IncarnationState, NamespaceState, Slot, SlotError, SlotState, Terms};
pub use switch::{CgroupChoice, Config, GuardError, NamespaceChoice, run_guard};
pub use sys::boottime_ns;

/// What becomes of a workload when the lease of its node ends. The numbers travel in the slot and on the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Policy {
    /// Ends with the lease, and with the guard by the kernel's hand.
    Stop = 0,
    /// Runs on; only an outside fence or an operator's confirmation ever moves it.
    Keep = 1,
}

impl Policy {
    pub const ALL: [Policy; 2] = [Policy::Stop, Policy::Keep];

    /// The word used in paths and on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Policy::Stop => "stop",
            Policy::Keep => "keep",
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Policy> {
        Policy::ALL.into_iter().find(|policy| *policy as u8 == number)
    }
}

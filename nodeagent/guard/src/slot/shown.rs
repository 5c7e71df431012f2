//! What the slot shows, as values: terms, namespaces, incarnations, and the fencing class they add up to.
//! Absent: no word of the page; `Slot` reads those.

use super::facts;

/// What became of ends that were not done within K.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun {
    /// Since the boot; at least 1.
    pub times: u8,
    /// Rehearsals in a row that were done in time since the last.
    pub rehearsed: u8,
}

impl Overrun {
    /// One late end under a moment's load is no verdict for ever, and an end that is late again and again is one: each
    /// time it takes twice as many.
    pub fn needed(self) -> u8 {
        const FIRST: u8 = 3;
        const DOUBLED_AT_MOST: u8 = 5;
        FIRST << self.times.saturating_sub(1).min(DOUBLED_AT_MOST)
    }

    pub(super) fn read(facts: u64) -> Option<Overrun> {
        let byte = |from: u32| (facts >> from) as u8;
        let found = Overrun { times: byte(facts::OVERRUNS), rehearsed: byte(facts::REHEARSED) };
        (facts & facts::WAS_OVERDUE != 0).then_some(found)
    }
}

/// Why an incarnation was latched. The numbers are in the slot and in the record on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatchReason {
    /// Its deadline passed.
    Deadline = 1,
    /// The agent asked: a graceful leave, or a new registration.
    Agent = 2,
    /// The guard started and found no valid deadline.
    NoDeadline = 3,
}

impl LatchReason {
    pub fn from_number(number: u64) -> Option<LatchReason> {
        match number {
            1 => Some(LatchReason::Deadline),
            2 => Some(LatchReason::Agent),
            3 => Some(LatchReason::NoDeadline),
            _ => None,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            LatchReason::Deadline => "deadline",
            LatchReason::Agent => "agent",
            LatchReason::NoDeadline => "no-deadline",
        }
    }
}

/// The part of the lease terms the guard enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// L: no deadline further away than this is accepted.
    pub lease_ms: u32,
    /// K: from the deadline to "no task can run".
    pub kill_ms: u32,
}

impl Terms {
    pub(super) fn pack(self) -> u64 {
        u64::from(self.lease_ms) << 32 | u64::from(self.kill_ms)
    }

    pub(super) fn unpack(word: u64) -> Terms {
        Terms { lease_ms: (word >> 32) as u32, kill_ms: word as u32 }
    }
}

/// Where the namespace of one policy of one incarnation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceState {
    /// Not asked for, or asked and not yet served.
    None = 0,
    /// Its starter listens.
    Ready = 1,
    /// It could not be made; the guard's log says why.
    Failed = 2,
    /// Its init ended, and with it everything inside. Ask again for a fresh one.
    Lost = 3,
}

impl NamespaceState {
    pub(super) fn from_number(number: u64) -> NamespaceState {
        match number {
            1 => NamespaceState::Ready,
            2 => NamespaceState::Failed,
            3 => NamespaceState::Lost,
            _ => NamespaceState::None,
        }
    }
}

/// One incarnation as the slot shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IncarnationState {
    pub incarnation: u64,
    /// Boot time in ns; 0 before the first lease.
    pub deadline_ns: u64,
    /// Terminal: it never heartbeats again and starts nothing.
    pub latched: Option<LatchReason>,
    /// The latch is on disk: only now may anybody be told.
    pub latch_recorded: bool,
    /// Boot time in ns at which nothing of policy `stop` was left.
    pub dead_at_ns: Option<u64>,
    /// "Incarnation ended", scope `stop`, is on disk: the proof that may leave the node.
    pub ended: bool,
    /// Boot time in ns at which K was over and something still lived.
    pub overdue_at_ns: Option<u64>,
    /// By policy.
    pub namespace: [NamespaceState; 2],
    /// Pids as the guard sees them, by policy; 0 where there is none.
    pub init_pid: [i32; 2],
}

/// Everything the slot shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotState {
    pub guard_pid: i32,
    /// Boot time in ns of its last tick; at most 20 ms old while it lives and is not stopped.
    pub guard_tick_ns: u64,
    /// The latest the guard ever woke, in ns; above μ the node's promise of K is in doubt.
    pub lateness_ns: u64,
    pub guard_starts: u64,
    pub agent_pid: i32,
    pub agent_tick_ns: u64,
    pub facts: u64,
    pub terms: Terms,
    /// At most eight, in no order.
    pub incarnations: Vec<IncarnationState>,
}

/// What this node's guard is good for by itself: F0 or F1 of the fencing classes, with the reason in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FencingClass {
    /// False: F0, nothing is promised on time alone. True: F1.
    pub enforced: bool,
    pub reason: String,
}

impl SlotState {
    /// The class the guard alone can carry. F1 needs an end by the kernel's hand, and that ends are done within K: after
    /// one that was not, as many rehearsals in a row as `Overrun::needed`.
    pub fn fencing_class(&self) -> FencingClass {
        let has = |bit| self.facts & bit != 0;
        let overrun = Overrun::read(self.facts);
        let enforced = has(facts::PID_NAMESPACE) && overrun.is_none();
        let mut reason = if let Some(overrun) = overrun {
            let Overrun { rehearsed, .. } = overrun;
            format!(
                "an end was not done within K and no reboot is allowed; {rehearsed} of {} rehearsals in a row were",
                overrun.needed()
            )
        } else if has(facts::USER_NAMESPACE) {
            "workloads live in a pid namespace (user namespace) that ends with the guard".to_owned()
        } else if has(facts::PID_NAMESPACE) {
            "workloads live in a pid namespace that ends with the guard".to_owned()
        } else {
            "no pid namespace: nothing ends the workloads if agent and guard are killed together".to_owned()
        };
        reason.push_str(if has(facts::CGROUP_KILL) { "; cgroup.kill works" } else { "; no cgroup.kill" });
        reason.push_str(match (has(facts::REBOOT_ALLOWED), has(facts::WATCHDOG)) {
            (true, _) => "; reboots when an end hangs",
            (false, true) => "; hardware watchdog behind it",
            (false, false) => "; an end that hangs is only reported",
        });
        match (self.facts >> facts::OVERRUNS) as u8 {
            0 => {}
            times if enforced => reason.push_str(&format!("; class lost {times} times and shown again")),
            _ => {}
        }
        FencingClass { enforced, reason }
    }
}

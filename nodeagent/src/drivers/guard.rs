//! The agent's end of the guard: deadlines in, facts out, and the last resort against a guard that was stopped.
//! In: orders of the mind. Out: `GuardSays`, the class of this node with its reason. Absent: no decision about leases.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster::{Incarnation, Moment, Span};
use decide::GuardSays;
use guard::{FencingClass, IncarnationState, NamespaceState, Policy, Slot, SlotError, SlotState, Terms};
use rustix::process::{Pid, Signal};

/// Ticks come every 20 ms; ten missed are no accident of scheduling.
const STOPPED_AFTER: Duration = Duration::from_millis(200);

/// The slot of this node, attached.
pub struct GuardLink {
    slot: Slot,
    run_dir: PathBuf,
}

impl GuardLink {
    /// Errs until a guard has made the slot.
    pub fn attach(slot: &Path, run_dir: impl Into<PathBuf>) -> Result<GuardLink, SlotError> {
        Ok(GuardLink { slot: Slot::open(slot)?, run_dir: run_dir.into() })
    }

    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// What the mind wants to know: the newest incarnation, whatever became of it.
    pub fn says(&self) -> GuardSays {
        let state = self.slot.state();
        let newest = newest(&state);
        let span = |milliseconds: u32| Span::millis(u64::from(milliseconds));
        GuardSays {
            incarnation: newest.map_or(Incarnation(0), |found| Incarnation(found.incarnation)),
            deadline: newest.filter(|found| found.deadline_ns != 0).map(|found| Moment(found.deadline_ns)),
            lease: span(state.terms.lease_ms),
            kill: span(state.terms.kill_ms),
            // Said only once it is on disk: what a crash could undo is no latch.
            latched: newest.is_some_and(|found| found.latched.is_some()),
            ended: newest.is_some_and(|found| found.ended),
            alive: self.is_alive(),
        }
    }

    /// Opens `incarnation` without a lease, or moves its deadline forward.
    pub fn set_deadline(&self, incarnation: Incarnation, at: Option<Moment>) -> Result<(), SlotError> {
        self.slot.open_incarnation(incarnation.0)?;
        match at {
            Some(at) => self.slot.set_deadline(incarnation.0, at.0),
            None => Ok(()),
        }
    }

    /// Puts L and K in force; `says` shows when they are. `margin` is μ: wakes later than that are a warning.
    pub fn want_terms(&self, lease: Span, kill: Span, margin: Span) {
        let milliseconds = |span: Span| u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
        let terms = Terms { lease_ms: milliseconds(lease), kill_ms: milliseconds(kill) };
        self.slot.want_terms(terms, milliseconds(margin));
    }

    /// Latches `incarnation`, opening it if need be.
    pub fn latch(&self, incarnation: Incarnation) -> Result<(), SlotError> {
        match self.slot.open_incarnation(incarnation.0) {
            // Older than the newest: long ended, and its entry used again.
            Err(SlotError::Reused { .. }) => Ok(()),
            other => other.and_then(|()| self.slot.latch(incarnation.0)),
        }
    }

    /// Whether a starter listens for `policy` under `incarnation`; asks for a fresh namespace where one was lost.
    pub fn namespace_ready(&self, incarnation: Incarnation, policy: Policy) -> Result<bool, SlotError> {
        let state = self.slot.incarnation(incarnation.0).ok_or(SlotError::Unknown { incarnation: incarnation.0 })?;
        match state.namespace[policy as usize] {
            NamespaceState::Ready => Ok(true),
            NamespaceState::None => Ok(false),
            NamespaceState::Lost | NamespaceState::Failed => {
                self.slot.ask_namespace(incarnation.0, policy)?;
                Ok(false)
            }
        }
    }

    /// F0 or F1, and why.
    pub fn fencing_class(&self) -> FencingClass {
        self.slot.state().fencing_class()
    }

    /// A guard ticks: neither dead nor stopped.
    pub fn is_alive(&self) -> bool {
        self.slot.guard_silence_ns() < STOPPED_AFTER.as_nanos() as u64
    }

    /// Says that the agent lives, and wakes a guard that somebody stopped. True when the guard is well.
    pub fn tick(&self) -> bool {
        self.slot.agent_tick();
        let alive = self.is_alive();
        if !alive {
            self.signal(Signal::CONT);
        }
        alive
    }

    /// The agent's last resort when its lease is over and the guard does not act: the kernel ends every `stop` workload
    /// with the guard.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        let number = self.slot.state().guard_pid;
        let name = std::fs::read_to_string(format!("/proc/{number}/comm")).unwrap_or_default();
        // The number may be another's by now: the guard is a program of ours or nothing.
        if name.trim_end().starts_with("quorate-guard")
            && let Some(pid) = Pid::from_raw(number)
        {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

fn newest(state: &SlotState) -> Option<&IncarnationState> {
    state.incarnations.iter().max_by_key(|found| found.incarnation)
}

//! Rehearsals: after an end that overran K, throw-away trees are ended as a real one is, until enough in a row were ended in
//! time. In: the boot time, K. Out: in the slot, how each went. A step at a time, so that no real end ever waits for one.
//! Absent: what it takes to be of class F1 again; the slot counts.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::process::Signal;

use super::{Charge, Init, MILLISECOND, SWEEP_NS, Switch, TICK_NS};
use crate::cgroup::{self, Tree};
use crate::record::Note;
use crate::slot::{entries, facts};
use crate::sys::{self, Fork, boottime_ns};
use crate::{Policy, selftest};

/// What its tree is called, above every registration; one that is found at a start belongs to nobody and is ended.
const NUMBER: u64 = u64::MAX;
const STOP: usize = Policy::Stop as usize;
/// Between two of them: nothing near a load of its own.
const PAUSE_NS: u64 = 500 * MILLISECOND;
/// A tree that does not stand by then shows nothing, and is taken away.
const GROWN_WITHIN_NS: u64 = 10_000 * MILLISECOND;
/// Processes below the first one, each with so much memory to give back.
const CHILDREN: usize = 8;
const BYTES_EACH: usize = 1 << 20;

#[derive(Default)]
pub(super) struct Rehearsal {
    charge: Option<Charge>,
    /// Boot time at which its end is due, as a lease's is; `None` until the tree stands.
    due: Option<u64>,
    /// K was over, and that was noted.
    late: bool,
    since: u64,
    next: u64,
}

impl Rehearsal {
    /// The first process of its namespace has ended, and with it everything in there.
    pub(super) fn lost(&mut self, pid: i32) -> bool {
        let Some(charge) = &mut self.charge else { return false };
        let ours = charge.inits[STOP].as_ref().is_some_and(|init| init.pid == pid);
        if ours {
            charge.inits[STOP] = None;
        }
        ours
    }
}

impl Switch {
    /// The next step of a rehearsal, where one is needed. When to look again.
    pub(super) fn rehearse(&mut self, now: u64) -> u64 {
        if self.rehearsal.charge.is_none() {
            // Where nothing enforces an end there is nothing to show; and a real end that hangs shows enough.
            let needed = self.slot.overrun().is_some() && self.facts & facts::PID_NAMESPACE != 0 && !self.is_ending();
            if !needed {
                return u64::MAX;
            }
            if now < self.rehearsal.next {
                return self.rehearsal.next;
            }
            self.raise(now);
        }
        let Some(charge) = &mut self.rehearsal.charge else { return self.rehearsal.next };
        match (self.rehearsal.due, &mut charge.inits[STOP]) {
            // It ended before its end was due: that shows nothing.
            (None, None) => self.clear_away(now),
            (None, Some(init)) => {
                let stands = init.ready.as_ref().is_some_and(|ready| rustix::io::read(ready, &mut [0u8; 1]) == Ok(1));
                if stands {
                    self.rehearsal.due = Some(now + TICK_NS);
                } else if now > self.rehearsal.since + GROWN_WITHIN_NS {
                    let _ = rustix::process::pidfd_send_signal(&init.pidfd, Signal::KILL);
                }
                now + TICK_NS
            }
            (Some(due), _) if now < due => due,
            (Some(due), _) => self.end_rehearsed(due),
        }
    }

    fn is_ending(&self) -> bool {
        let hangs = |at| self.slot.entry_state(at).is_some_and(|it| it.latched.is_some() && it.dead_at_ns.is_none());
        entries().any(hangs)
    }

    /// One sweep, as `end` sweeps.
    fn end_rehearsed(&mut self, due: u64) -> u64 {
        let kill_ns = u64::from(self.slot.terms_in_force().kill_ms) * MILLISECOND;
        let Some(charge) = &self.rehearsal.charge else { return u64::MAX };
        if let Some(tree) = &charge.tree {
            tree.kill_stop();
        }
        if let Some(init) = &charge.inits[STOP] {
            let _ = rustix::process::pidfd_send_signal(&init.pidfd, Signal::KILL);
        }
        let dead = charge.inits[STOP].is_none() && charge.tree.as_ref().is_none_or(Tree::stop_is_empty);
        let now = boottime_ns();
        let in_time = now <= due + kill_ns;
        if (dead || !in_time) && !self.rehearsal.late {
            self.rehearsal.late = !in_time;
            let left = self.slot.rehearsed(in_time);
            self.scribe.note(Note::Rehearsed { after_ns: now - due, in_time, left: left.into() });
        }
        if dead { self.clear_away(now) } else { now + SWEEP_NS }
    }

    fn clear_away(&mut self, now: u64) -> u64 {
        if let Some(tree) = self.rehearsal.charge.take().and_then(|charge| charge.tree) {
            // A group that was killed once kills what is born into it, on newer kernels: the next one gets new groups.
            cgroup::remove_empty(&tree.path);
        }
        self.rehearsal = Rehearsal { next: now + PAUSE_NS, ..Rehearsal::default() };
        self.rehearsal.next
    }

    fn raise(&mut self, now: u64) {
        self.rehearsal.next = now + PAUSE_NS;
        let mut charge = self.charge(NUMBER);
        match self.grow(&charge) {
            Ok(init) => {
                charge.inits[STOP] = Some(init);
                self.rehearsal.since = now;
                self.rehearsal.charge = Some(charge);
            }
            Err(error) => eprintln!("quorate-guard: ERROR rehearsal of an end: {error}"),
        }
    }

    /// Forks the first process of a tree like that of workloads. In the child this never comes back.
    fn grow(&mut self, charge: &Charge) -> io::Result<Init> {
        let (ready, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        rustix::fs::fcntl_setfl(&ready, OFlags::NONBLOCK)?;
        let branch = charge.tree.as_ref().map(|tree| &tree.branch(Policy::Stop).folder);
        let home = branch.map(|branch| cgroup::leaf(branch, "init")).transpose()?;
        // SAFETY: the guard has one thread.
        match unsafe { sys::fork_into(self.namespaces(), home.as_ref().map(AsFd::as_fd)) }? {
            Fork::Parent { pid, pidfd } => Ok(Init { pid, pidfd, ready: Some(ready) }),
            Fork::Child => {
                drop((ready, home));
                self.let_go();
                live(writer)
            }
        }
    }
}

/// In the child: some life, and then nothing but waiting for its end.
fn live(ready: OwnedFd) -> ! {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let _ = std::fs::write("/proc/self/oom_score_adj", "0");
    for _ in 0..CHILDREN {
        // SAFETY: forked from a process with one thread, so this one has one as well.
        match unsafe { sys::fork_into(0, None) } {
            Ok(Fork::Parent { .. }) => {}
            Ok(Fork::Child) => {
                drop(ready);
                let _ = rustix::process::setsid();
                let memory = vec![1u8; BYTES_EACH];
                std::hint::black_box(&memory);
                selftest::sleep_for_ever()
            }
            Err(_) => std::process::exit(1),
        }
    }
    // A guard that died meanwhile sends no signal any more: nobody reads this then.
    if rustix::io::write(&ready, b"r") != Ok(1) {
        std::process::exit(1);
    }
    drop(ready);
    selftest::sleep_for_ever()
}

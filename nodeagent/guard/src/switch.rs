//! The quiet loop: waits for deadlines and ends what has outlived its own.
//! In: the slot's deadlines, latches and wishes; exits of the inits. Out: kills, and what it saw, in the slot and to
//! the scribe. Order of an end: latch, starters, namespace, trees, again until nothing lives, then the record.
//! Absent while it is quiet: allocation, disk, locks, anything that can make it wait but its own timer. Making the
//! namespaces of a new incarnation is the exception: a fork and a few files, milliseconds, and never waited for.

mod namespaces;
mod rehearsal;

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use rustix::mm::MlockAllFlags;
use rustix::process::{PidfdFlags, Signal, WaitOptions};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use crate::cgroup::{self, Hierarchy, Tree};
use crate::record::{self, Note, Scribe};
use crate::slot::{ENTRIES, LatchReason, NamespaceState, Slot, SlotError, Terms, entries, entry, facts};
use crate::sys::{self, boottime_ns};
use crate::{Policy, selftest};
use namespaces::adopt_init;
use rehearsal::Rehearsal;

const MILLISECOND: u64 = 1_000_000;
/// The slot's tick, and the longest a latch or a wish waits to be seen.
const TICK_NS: u64 = 20 * MILLISECOND;
/// Between two sweeps of an end that is not done.
const SWEEP_NS: u64 = MILLISECOND;
/// How long an agent may be silent before the log says so; its deadline is what counts.
const AGENT_SILENCE_NS: u64 = 1_000 * MILLISECOND;
/// Hardware watchdogs count in seconds.
const PET_NS: u64 = 500 * MILLISECOND;
/// Registration numbers begin above it.
const PROVING: u64 = 0;
const PROVING_RETRY_NS: u64 = 1_000 * MILLISECOND;

/// Where cgroup trees are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupChoice {
    /// At a place of its own in the cgroup2 hierarchy, if there is one.
    Auto,
    At(PathBuf),
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceChoice {
    /// Pid namespaces, by a user namespace where this process has no privilege.
    Auto,
    /// None: the node is F0.
    None,
}

/// What the guard is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    pub slot: PathBuf,
    /// Sockets, locks and logs; gone after a reboot.
    pub run_dir: PathBuf,
    /// Records; must survive a reboot.
    pub state_dir: PathBuf,
    /// K until the agent names terms.
    pub kill_ms: u32,
    pub allow_reboot: bool,
    pub watchdog: Option<PathBuf>,
    pub cgroup_root: CgroupChoice,
    pub namespaces: NamespaceChoice,
}

/// Why the guard could not start, or not go on.
#[derive(Debug)]
pub enum GuardError {
    Slot(SlotError),
    /// `operation` on `path` failed.
    Io {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// Another guard holds the lock in this run directory.
    Running {
        path: PathBuf,
    },
}

impl fmt::Display for GuardError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GuardError::Slot(error) => error.fmt(out),
            GuardError::Io { operation, path, .. } => write!(out, "{operation} {}", path.display()),
            GuardError::Running { path } => write!(out, "another guard holds {}", path.display()),
        }
    }
}

impl std::error::Error for GuardError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            GuardError::Slot(error) => error.source(),
            GuardError::Io { source, .. } => Some(source),
            GuardError::Running { .. } => None,
        }
    }
}

/// Runs the guard in this process, which must have one thread. Comes back only when it cannot start.
pub fn run_guard(config: Config) -> Result<std::convert::Infallible, GuardError> {
    let mut switch = Switch::start(config)?;
    loop {
        let wake_at = switch.turn();
        switch.sleep_until(wake_at);
    }
}

struct Switch {
    slot: Slot,
    config: Config,
    /// Kept for its record lock, which a fork does not inherit.
    _lock: OwnedFd,
    scribe: Scribe,
    timer: OwnedFd,
    watchdog: Option<OwnedFd>,
    /// Refers to this very process; given to inits so that they can tell whether it still lives.
    own_pidfd: OwnedFd,
    hierarchy: Option<Hierarchy>,
    cgroup_root: Option<PathBuf>,
    facts: u64,
    charges: [Option<Charge>; ENTRIES],
    /// A namespace of no incarnation: no lease, so no workload; the agent proves its runtimes in it.
    proving: Charge,
    proving_since: u64,
    rehearsal: Rehearsal,
    petted_at: u64,
    agent_reported_silent: bool,
}

/// What the guard holds of one incarnation.
struct Charge {
    incarnation: u64,
    tree: Option<Tree>,
    inits: [Option<Init>; 2],
    /// Found at a start with namespaces served: without a valid deadline it is ended first.
    inherited: bool,
    latch_noted: bool,
    death_noted: bool,
    latched_at: u64,
}

impl Charge {
    fn of(incarnation: u64) -> Charge {
        Charge {
            incarnation,
            tree: None,
            inits: [None, None],
            inherited: false,
            latch_noted: false,
            death_noted: false,
            latched_at: 0,
        }
    }
}

struct Init {
    pid: i32,
    pidfd: OwnedFd,
    /// Until it says that it listens.
    ready: Option<OwnedFd>,
}

impl Switch {
    fn start(config: Config) -> Result<Switch, GuardError> {
        let io = |operation, path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| GuardError::Io { operation, path, source }
        };
        for folder in [&config.run_dir, &config.state_dir] {
            make_private_folder(folder).map_err(io("create folder", folder))?;
        }
        // The name an agent knows this process by.
        let _ = rustix::thread::set_name(c"quorate-guard");
        let lock = take_lock(&config.run_dir.join("guard.lock"))?;
        record::prune(&config.state_dir).map_err(io("read records in", &config.state_dir))?;
        let slot = Slot::create(&config.slot).map_err(GuardError::Slot)?;

        let hierarchy = Hierarchy::find().filter(|_| config.cgroup_root != CgroupChoice::None);
        let cgroup_root = usable_cgroup_root(&config, hierarchy.as_ref());
        let watchdog = match &config.watchdog {
            Some(path) => Some(
                rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                    .map_err(|error| io("open watchdog", path)(error.into()))?,
            ),
            None => None,
        };
        let mut found = namespace_facts(config.namespaces);
        let mut note = |fact, holds: bool| found |= if holds { fact } else { 0 };
        note(facts::CGROUP_KILL, cgroup_root.is_some());
        note(facts::REBOOT_ALLOWED, config.allow_reboot);
        note(facts::WATCHDOG, watchdog.is_some());
        note(facts::REALTIME, sys::become_realtime().is_ok());
        // The kernel's memory killer would take the one process that must not die.
        let _ = fs::write("/proc/self/oom_score_adj", "-1000");

        let scribe = Scribe::start(&slot, &config.state_dir).map_err(io("start scribe for", &config.state_dir))?;
        let proc = Path::new("/proc");
        let timer = rustix::time::timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)
            .map_err(|error| io("make timer of", proc)(error.into()))?;
        let own_pidfd = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
            .map_err(|error| io("open own pid in", proc)(error.into()))?;
        note(facts::MEMORY_LOCKED, rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE).is_ok());
        if slot.terms_wanted().is_none() {
            slot.terms_taken(Terms { lease_ms: u32::MAX, kill_ms: config.kill_ms });
        }
        let mut switch = Switch {
            slot,
            config,
            _lock: lock,
            scribe,
            timer,
            watchdog,
            own_pidfd,
            hierarchy,
            cgroup_root,
            facts: found,
            charges: Default::default(),
            proving: Charge::of(PROVING),
            proving_since: 0,
            rehearsal: Rehearsal::default(),
            petted_at: 0,
            agent_reported_silent: false,
        };
        switch.inherit();
        switch.prove();
        switch.slot.guard_begins(found);
        if switch.slot.reexec_asked() {
            switch.slot.reexec_answered(false);
        }
        Ok(switch)
    }

    /// Takes over what an earlier guard left: inits that still live, and trees nobody answers for, which end now.
    fn inherit(&mut self) {
        for (index, at) in entries().enumerate() {
            let Some(state) = self.slot.entry_state(at) else { continue };
            let served = Policy::ALL.iter().any(|policy| self.slot.read(at + entry::SERVED + *policy as usize) != 0);
            let mut charge = self.charge(state.incarnation);
            charge.inherited = served;
            charge.death_noted = state.ended;
            charge.latch_noted = state.latch_recorded;
            charge.latched_at = boottime_ns();
            for policy in Policy::ALL {
                let pid = state.init_pid[policy as usize];
                let ticks = self.slot.read(at + entry::INIT_TICKS + policy as usize);
                match adopt_init(pid, ticks, policy) {
                    Some(init) => charge.inits[policy as usize] = Some(init),
                    None if pid != 0 => self.namespace_lost(at, state.incarnation, policy),
                    None => {}
                }
            }
            self.charges[index] = Some(charge);
        }
        self.end_strangers();
    }

    /// Trees of incarnations the slot does not know. Their `keep` branch is left to the agent.
    fn end_strangers(&self) {
        let Some(found) = self.cgroup_root.as_ref().and_then(|root| fs::read_dir(root).ok()) else { return };
        for folder in found.flatten() {
            let name = folder.file_name();
            let Some(incarnation) = name.to_str().and_then(|name| name.strip_prefix('i')?.parse::<u64>().ok()) else {
                continue;
            };
            if incarnation != PROVING && self.slot.incarnation(incarnation).is_none() {
                for branch in ["starters", "stop"] {
                    if let Ok(branch) = cgroup::Branch::open(&folder.path().join(branch)) {
                        branch.kill();
                    }
                }
                cgroup::remove_empty(&folder.path());
            }
        }
    }

    /// Keeps the namespace of no incarnation alive; it is the first thing an agent looks for.
    fn prove(&mut self) {
        let now = boottime_ns();
        if self.proving.inits[Policy::Stop as usize].is_none() && now > self.proving_since + PROVING_RETRY_NS {
            self.proving_since = now;
            let mut proving = self.charge(PROVING);
            match self.bear(&proving, Policy::Stop) {
                Ok(init) => proving.inits[Policy::Stop as usize] = Some(init),
                Err(error) => eprintln!("quorate-guard: ERROR namespace for proofs: {error}"),
            }
            self.proving = proving;
        }
    }

    fn charge(&self, incarnation: u64) -> Charge {
        let tree = self.cgroup_root.as_ref().and_then(|root| {
            Tree::create(root, incarnation)
                .inspect_err(|error| {
                    eprintln!("quorate-guard: WARN no cgroup tree for incarnation {incarnation}: {error}")
                })
                .ok()
        });
        Charge { tree, ..Charge::of(incarnation) }
    }

    /// Looks at everything once: the boot time at which to look again.
    fn turn(&mut self) -> u64 {
        let now = boottime_ns();
        self.slot.guard_tick(now);
        self.take_terms();
        self.reap();
        let mut wake_at = now + TICK_NS;
        for (index, at) in entries().enumerate() {
            wake_at = wake_at.min(self.look_at(index, at));
        }
        wake_at = wake_at.min(self.rehearse(now));
        self.prove();
        self.watch_agent(now);
        self.pet(now);
        if self.slot.reexec_asked() {
            self.reexec();
        }
        wake_at
    }

    fn sleep_until(&self, wake_at: u64) {
        let spec = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec { tv_sec: (wake_at / 1_000_000_000) as i64, tv_nsec: (wake_at % 1_000_000_000) as i64 },
        };
        if rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec).is_ok() {
            let mut expirations = [0u8; 8];
            let _ = rustix::io::read(&self.timer, &mut expirations);
        }
        self.slot.note_lateness(boottime_ns().saturating_sub(wake_at));
    }

    fn take_terms(&self) {
        if let Some(terms) = self.slot.terms_wanted()
            && terms != self.slot.terms_in_force()
        {
            // The agent cut the deadlines before it asked, so from here on this guard enforces the new ones.
            self.slot.terms_taken(terms);
            self.scribe.note(Note::TermsTaken { lease_ms: terms.lease_ms.into(), kill_ms: terms.kill_ms.into() });
        }
    }

    /// Notices inits that ended. Everything in their pid namespace ended before them.
    fn reap(&mut self) {
        while let Ok(Some((pid, _))) = rustix::process::wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            if pid == self.scribe.pid {
                // Without a scribe nothing is recorded; what was noted to the old one is noted again.
                if let Ok(scribe) = Scribe::start(&self.slot, &self.config.state_dir) {
                    self.scribe = scribe;
                    for charge in self.charges.iter_mut().flatten() {
                        (charge.latch_noted, charge.death_noted) = (false, false);
                    }
                }
                continue;
            }
            if self.proving.inits[Policy::Stop as usize].as_ref().is_some_and(|init| init.pid == pid) {
                self.proving.inits[Policy::Stop as usize] = None;
                continue;
            }
            if self.rehearsal.lost(pid) {
                continue;
            }
            for (index, at) in entries().enumerate() {
                let Some(charge) = &mut self.charges[index] else { continue };
                let incarnation = charge.incarnation;
                for policy in Policy::ALL {
                    let slot = &mut charge.inits[policy as usize];
                    if slot.as_ref().is_some_and(|init| init.pid == pid) {
                        let failed = slot.take().is_some_and(|init| init.ready.is_some());
                        if failed {
                            self.slot.write(at + entry::NAMESPACE + policy as usize, NamespaceState::Failed as u64);
                            self.slot.write(at + entry::INIT_PID + policy as usize, 0);
                        } else {
                            lost(&self.slot, &self.scribe, at, incarnation, policy);
                        }
                    }
                }
            }
        }
    }

    fn namespace_lost(&self, at: usize, incarnation: u64, policy: Policy) {
        lost(&self.slot, &self.scribe, at, incarnation, policy);
    }

    /// One entry: latches, ends, or serves it. When to look again.
    fn look_at(&mut self, index: usize, at: usize) -> u64 {
        let never = u64::MAX;
        let Some(state) = self.slot.entry_state(at) else { return never };
        if self.charges[index].as_ref().is_none_or(|charge| charge.incarnation != state.incarnation) {
            self.charges[index] = Some(self.charge(state.incarnation));
        }
        let Some(charge) = &mut self.charges[index] else { return never };
        let now = boottime_ns();
        if state.latched.is_some() {
            return self.end(index, at);
        }
        if state.deadline_ns == 0 && charge.inherited {
            self.slot.set_latch(at, LatchReason::NoDeadline);
            return self.end(index, at);
        }
        if state.deadline_ns != 0 && now >= state.deadline_ns {
            let reason = if charge.inherited { LatchReason::NoDeadline } else { LatchReason::Deadline };
            self.slot.set_latch(at, reason);
            return self.end(index, at);
        }
        charge.inherited = false;
        for policy in Policy::ALL {
            self.serve_namespace(index, at, policy);
        }
        if state.deadline_ns == 0 { never } else { state.deadline_ns }
    }

    /// One sweep of an end. When to sweep again.
    fn end(&mut self, index: usize, at: usize) -> u64 {
        let Some(charge) = &mut self.charges[index] else { return u64::MAX };
        let now = boottime_ns();
        if charge.latched_at == 0 {
            charge.latched_at = now;
        }
        // Starters first: what they start afterwards, they would start into a tree already swept.
        if let Some(tree) = &charge.tree {
            tree.kill_stop();
        }
        if let Some(init) = &charge.inits[Policy::Stop as usize] {
            let _ = rustix::process::pidfd_send_signal(&init.pidfd, Signal::KILL);
        }
        let Some(state) = self.slot.entry_state(at) else { return u64::MAX };
        if !charge.latch_noted {
            let due = if state.deadline_ns == 0 { now } else { state.deadline_ns };
            let note = Note::Latched {
                incarnation: charge.incarnation,
                reason: state.latched.map_or(0, |reason| reason as u64),
                late_ns: charge.latched_at.saturating_sub(due),
            };
            charge.latch_noted = self.scribe.note(note);
        }
        let dead = charge.inits[Policy::Stop as usize].is_none()
            && charge.tree.as_ref().is_none_or(Tree::stop_is_empty)
            // Without a namespace and without a tree nothing proves that nothing is left.
            && (self.facts & facts::PID_NAMESPACE != 0 || charge.tree.is_some());
        if dead {
            if state.dead_at_ns.is_none() {
                self.slot.write(at + entry::DEAD_AT, now);
            }
            // The latch is on disk before the end is: nobody may ever read the second without the first.
            if !charge.death_noted && state.latch_recorded {
                let after_ns = now.saturating_sub(charge.latched_at);
                charge.death_noted = self.scribe.note(Note::Dead { incarnation: charge.incarnation, after_ns });
            }
            return u64::MAX;
        }
        let kill_ns = u64::from(self.slot.terms_in_force().kill_ms) * MILLISECOND;
        let due = if state.deadline_ns == 0 { charge.latched_at } else { charge.latched_at.min(state.deadline_ns) };
        if state.overdue_at_ns.is_none() && now > due + kill_ns {
            self.overdue(at, state.incarnation, now);
        }
        now + SWEEP_NS
    }

    /// K is over and something lives: the last resort, where the operator allowed it.
    fn overdue(&self, at: usize, incarnation: u64, now: u64) {
        if self.config.allow_reboot {
            // Not sysrq: reboot(2) stays inside a pid namespace, should this node be one.
            let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
        }
        self.slot.write(at + entry::OVERDUE_AT, now);
        let needed = self.slot.overran().into();
        self.scribe.note(Note::Overdue { incarnation, needed });
    }

    fn watch_agent(&mut self, now: u64) {
        let (pid, ticked_at) = self.slot.agent_last();
        let silence_ns = now.saturating_sub(ticked_at);
        let silent = ticked_at != 0 && silence_ns > AGENT_SILENCE_NS;
        if silent && !self.agent_reported_silent {
            self.scribe.note(Note::AgentSilent { pid, silence_ns });
        }
        self.agent_reported_silent = silent;
    }

    /// The hardware watchdog is content while every end due is done.
    fn pet(&mut self, now: u64) {
        let Some(watchdog) = &self.watchdog else { return };
        let kill_ns = u64::from(self.slot.terms_in_force().kill_ms) * MILLISECOND;
        let right = entries().all(|at| {
            self.slot.entry_state(at).is_none_or(|state| {
                state.dead_at_ns.is_some() || state.deadline_ns == 0 || now < state.deadline_ns + kill_ns
            })
        });
        if right && now >= self.petted_at + PET_NS {
            let _ = rustix::io::write(watchdog, b"\0");
            self.petted_at = now;
        }
    }

    /// In a child: what only the guard may hold, an open watchdog above all, and the other inits' pipes.
    fn let_go(&mut self) {
        self.watchdog = None;
        self.charges = Default::default();
        self.proving = Charge::of(PROVING);
        self.rehearsal = Rehearsal::default();
        self.scribe.let_go();
    }

    /// Becomes the binary on disk, if that one passes its own test against this slot.
    fn reexec(&mut self) {
        let refuse = |reason: &dyn fmt::Display| {
            eprintln!("quorate-guard: WARN stays the binary it is: {reason}");
            self.slot.reexec_answered(true);
        };
        let program = match std::env::current_exe() {
            // The kernel marks a replaced binary so; the new one has the old name.
            Ok(path) => PathBuf::from(path.to_string_lossy().trim_end_matches(" (deleted)")),
            Err(error) => return refuse(&error),
        };
        match Command::new(&program).arg("--self-test").arg("--slot").arg(&self.config.slot).status() {
            Ok(status) if status.success() => {}
            Ok(status) => return refuse(&format_args!("the self-test of {} ended with {status}", program.display())),
            Err(error) => return refuse(&error),
        }
        if let Some(init) = &self.proving.inits[Policy::Stop as usize] {
            let _ = rustix::process::pidfd_send_signal(&init.pidfd, Signal::KILL);
        }
        // The arguments stay; the inits stay its children; the new life answers the request.
        let error = Command::new(&program).args(std::env::args_os().skip(1)).exec();
        refuse(&error);
    }
}

fn lost(slot: &Slot, scribe: &Scribe, at: usize, incarnation: u64, policy: Policy) {
    slot.write(at + entry::NAMESPACE + policy as usize, NamespaceState::Lost as u64);
    slot.write(at + entry::INIT_PID + policy as usize, 0);
    // After a latch the loss is the end that was wanted.
    if slot.read(at + entry::LATCHED) == 0 {
        scribe.note(Note::NamespaceLost { incarnation, policy: policy as u64 });
    }
}

fn make_private_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// A record lock dies with the process and is not inherited by a fork: exactly as long as the guard.
fn take_lock(path: &Path) -> Result<OwnedFd, GuardError> {
    let io =
        |source: rustix::io::Errno| GuardError::Io { operation: "lock", path: path.to_owned(), source: source.into() };
    let file =
        rustix::fs::open(path, OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR).map_err(io)?;
    match rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => Err(GuardError::Running { path: path.to_owned() }),
        Err(error) => Err(io(error)),
    }
}

/// The folder for trees, if one can be made there and killed.
fn usable_cgroup_root(config: &Config, hierarchy: Option<&Hierarchy>) -> Option<PathBuf> {
    let root = match &config.cgroup_root {
        CgroupChoice::None => return None,
        CgroupChoice::At(path) => fs::create_dir_all(path).map(|()| path.clone()),
        CgroupChoice::Auto => cgroup::default_root(hierarchy?, &config.run_dir),
    };
    root.and_then(|root| selftest::cgroup_kill(&root).map(|()| root))
        .inspect_err(|error| eprintln!("quorate-guard: INFO no cgroup.kill here: {error}"))
        .ok()
}

fn namespace_facts(choice: NamespaceChoice) -> u64 {
    match choice {
        NamespaceChoice::None => 0,
        NamespaceChoice::Auto if selftest::namespaces(false).is_ok() => facts::PID_NAMESPACE,
        NamespaceChoice::Auto => match selftest::namespaces(true) {
            Ok(()) => facts::PID_NAMESPACE | facts::USER_NAMESPACE,
            Err(error) => {
                eprintln!("quorate-guard: WARN no pid namespaces here, this node is F0: {error}");
                0
            }
        },
    }
}

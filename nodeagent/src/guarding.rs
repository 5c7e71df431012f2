//! Keeps a guard alive on the slot and carries the mind's words into it.
//! In: deadlines, terms, latches. Out: `GuardSays`, whenever it changed. The guard outlives the agent: it is started into
//! a session of its own and is never told to end while a workload may run.
//! Absent: no deadline is made up here, and nothing waits: the slot is memory.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::{Incarnation, Moment, Span};
use decide::GuardSays;
use guard::SlotError;
use rustix::process::{Pid, Signal};

use crate::config::{Config, GuardConfig, GuardStart};
use crate::drivers::guard::GuardLink;
use crate::{chain, clock};

/// Between two tries to start one.
const START_AGAIN: Duration = Duration::from_millis(300);
/// From its start to its first tick, on a busy machine.
const FIRST_TICK_WITHIN: Duration = Duration::from_secs(10);
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

#[derive(Debug, thiserror::Error)]
pub enum GuardingError {
    #[error("guard slot")]
    Slot(#[from] SlotError),
    #[error("{operation} {path}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("guard did not begin to watch {slot} within {} s; see {log}", FIRST_TICK_WITHIN.as_secs())]
    NoGuard { slot: PathBuf, log: PathBuf },
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> GuardingError {
    let path = path.to_owned();
    move |source| GuardingError::Io { operation, path, source }
}

/// Where agent and guard of one node meet.
#[derive(Clone, Debug)]
pub struct Places {
    pub slot: PathBuf,
    pub run_dir: PathBuf,
    /// The guard's records.
    pub records: PathBuf,
    pub log: PathBuf,
}

/// The agent's end of the slot.
pub struct Guarding {
    config: GuardConfig,
    places: Places,
    link: Arc<GuardLink>,
    child: Option<Child>,
    /// It lived before this agent looked for it.
    found: bool,
    started: Option<Instant>,
    /// Ordered and not yet in the slot, because it was full.
    pending: Vec<(Incarnation, Pending)>,
    said: Option<GuardSays>,
    reported_stopped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    Open,
    Latch,
}

impl Guarding {
    /// Finds the guard of this node or starts one, and waits until it watches the slot. Blocks.
    pub fn begin(config: &Config) -> Result<Guarding, GuardingError> {
        let places = Places::find(config)?;
        forget_another_boot(config, &places)?;
        let mut child = None;
        let since = Instant::now();
        let mut started: Option<Instant> = None;
        let found = GuardLink::attach(&places.slot, &places.run_dir).is_ok_and(|link| is_there(&link));
        let link = loop {
            if let Some(link) = watched(&places)? {
                break link;
            }
            rouse(&places);
            if config.guard.start == GuardStart::Agent && started.is_none_or(|at| at.elapsed() > START_AGAIN) {
                reap(&mut child);
                if child.is_none() {
                    child = Some(start(&config.guard, &places)?);
                }
                started = Some(Instant::now());
            }
            if since.elapsed() > FIRST_TICK_WITHIN {
                return Err(GuardingError::NoGuard { slot: places.slot, log: places.log });
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let guarding = Guarding {
            config: config.guard.clone(),
            places,
            link: Arc::new(link),
            child,
            found,
            started,
            pending: Vec::new(),
            said: None,
            reported_stopped: false,
        };
        guarding.link.tick();
        guarding.note_pid();
        Ok(guarding)
    }

    pub fn was_found(&self) -> bool {
        self.found
    }

    pub fn link(&self) -> &Arc<GuardLink> {
        &self.link
    }

    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Says that the agent lives, looks after the guard, and gives back what the slot holds if that changed.
    /// To be called at least every 100 ms.
    pub fn look(&mut self) -> Option<GuardSays> {
        let alive = self.link.tick();
        self.carry_out_pending();
        if !alive {
            self.revive();
        }
        let says = self.link.says();
        if self.said == Some(says) {
            return None;
        }
        if self.said.is_none_or(|before| before.alive != says.alive) {
            self.note_pid();
            self.reported_stopped = false;
        }
        self.said = Some(says);
        self.said
    }

    pub fn deadline(&mut self, incarnation: Incarnation, at: Option<Moment>) {
        let Some(at) = at else { return self.order(incarnation, Pending::Open) };
        match self.link.set_deadline(incarnation, Some(at)) {
            // The mind learns of a latch by the next look.
            Ok(()) | Err(SlotError::Latched { .. }) => {}
            Err(error) => tracing::error!(%incarnation, error = %chain(&error), "deadline was not taken"),
        }
    }

    pub fn terms(&self, lease: Span, kill: Span, margin: Span) {
        self.link.want_terms(lease, kill, margin);
    }

    pub fn latch(&mut self, incarnation: Incarnation) {
        self.order(incarnation, Pending::Latch);
    }

    /// Ends the guard. Only after a farewell: nothing runs any more that it would have to end.
    pub fn dismiss(mut self) {
        if self.config.start == GuardStart::External {
            return;
        }
        if let Some(pid) = self.guard_pid() {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    fn order(&mut self, incarnation: Incarnation, what: Pending) {
        if !self.pending.contains(&(incarnation, what)) {
            self.pending.push((incarnation, what));
        }
        self.carry_out_pending();
    }

    fn carry_out_pending(&mut self) {
        let link = &self.link;
        self.pending.retain(|(incarnation, what)| {
            let done = match what {
                Pending::Open => match link.set_deadline(*incarnation, None) {
                    // Below one that was opened before: the newest in the slot tells the mind so.
                    Err(SlotError::Reused { .. }) => Ok(()),
                    other => other,
                },
                Pending::Latch => link.latch(*incarnation),
            };
            if let Err(error) = &done {
                tracing::warn!(%incarnation, error = %chain(error), "guard slot cannot take it yet");
            }
            done.is_err()
        });
    }

    /// A stopped guard was told to go on; one that lets a deadline pass is killed, and the kernel ends the workloads with
    /// it; a dead one gets a successor.
    fn revive(&mut self) {
        if outlived_by_a_lease(&self.link) {
            self.link.kill();
        }
        if self.config.start == GuardStart::External {
            return;
        }
        reap(&mut self.child);
        if let Some(pid) = self.guard_pid() {
            if !self.reported_stopped {
                tracing::error!(guard = pid.as_raw_nonzero().get(), "guard does not tick; telling it to go on");
                self.reported_stopped = true;
            }
            return;
        }
        if self.started.is_some_and(|at| at.elapsed() < START_AGAIN) {
            return;
        }
        self.started = Some(Instant::now());
        match start(&self.config, &self.places) {
            Ok(child) => {
                tracing::warn!(guard = child.id(), "guard was gone and is started again");
                self.child = Some(child);
            }
            Err(error) => tracing::error!(error = %chain(&error), "guard cannot be started"),
        }
    }

    /// The guard's process, if it is there; by its name, because a number may have been given to another.
    fn guard_pid(&self) -> Option<Pid> {
        let number = self.link.slot().state().guard_pid;
        is_guard(number).then(|| Pid::from_raw(number)).flatten()
    }

    /// For whoever plays the machine's power switch.
    fn note_pid(&self) {
        let path = self.places.run_dir.join("guard.pid");
        let _ = fs::write(path, format!("{}\n", self.link.slot().state().guard_pid));
    }
}

impl Places {
    fn find(config: &Config) -> Result<Places, GuardingError> {
        let run_dir = config.run_dir.clone();
        for folder in [&run_dir, &config.state_dir] {
            make_private(folder).map_err(io_error("make folder", folder))?;
        }
        let slot = match &config.guard.slot {
            Some(slot) => slot.clone(),
            None => slot_in_memory(&run_dir)?,
        };
        let records = config.state_dir.join("guard");
        Ok(Places { slot, records, log: run_dir.join("guard.log"), run_dir })
    }
}

/// A page of a file on disk makes whoever writes it wait while the kernel writes it back; so where the run folder is on a
/// disk the slot lies in shared memory, under a name made from the folder.
fn slot_in_memory(run_dir: &Path) -> Result<PathBuf, GuardingError> {
    let in_memory = |path: &Path| rustix::fs::statfs(path).is_ok_and(|found| found.f_type == TMPFS_MAGIC);
    let shm = Path::new("/dev/shm");
    if in_memory(run_dir) || !in_memory(shm) {
        return Ok(run_dir.join("slot"));
    }
    let user = rustix::process::getuid().as_raw();
    let folder = shm.join(format!("quorate-{user}"));
    make_private(&folder).map_err(io_error("make folder", &folder))?;
    let found = fs::symlink_metadata(&folder).map_err(io_error("look at", &folder))?;
    if !found.is_dir() || found.uid() != user || found.mode() & 0o077 != 0 {
        // Somebody else made it: their page could hold any deadline.
        return Ok(run_dir.join("slot"));
    }
    let place = fs::canonicalize(run_dir).map_err(io_error("find", run_dir))?;
    let words = place.to_string_lossy();
    let name = crc32fast::hash(words.as_bytes());
    let turned: String = words.chars().rev().collect();
    let slot = folder.join(format!("{name:08x}{:08x}.slot", crc32fast::hash(turned.as_bytes())));
    let link = run_dir.join("slot");
    if fs::read_link(&link).ok().as_deref() != Some(&slot) {
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(&slot, &link).map_err(io_error("link", &link))?;
    }
    Ok(slot)
}

fn make_private(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// What the run folder holds is of one boot. Of another it is worthless, and a deadline in it would be wrong.
fn forget_another_boot(config: &Config, places: &Places) -> Result<(), GuardingError> {
    let kernel = clock::boot_id().map_err(io_error("read", Path::new("/proc/sys/kernel/random/boot_id")))?;
    let now = format!("{kernel} {}\n", config.boot);
    let path = places.run_dir.join("boot");
    let before = fs::read_to_string(&path).unwrap_or_default();
    if before == now {
        return Ok(());
    }
    let same_kernel = before.split(' ').next() == Some(&kernel.to_string());
    let guarded = watched(places).is_ok_and(|link| link.is_some());
    if same_kernel && guarded {
        tracing::warn!("another boot id was given while the guard of the last one lives; it stays in charge");
    } else {
        let _ = fs::remove_file(&places.slot);
        for entry in fs::read_dir(&places.run_dir).map_err(io_error("read", &places.run_dir))?.flatten() {
            if entry.path().extension() == Some(OsStr::new("sock")) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
    fs::write(&path, now).map_err(io_error("write", &path))
}

/// The slot, if a guard watches it now.
fn watched(places: &Places) -> Result<Option<GuardLink>, SlotError> {
    match GuardLink::attach(&places.slot, &places.run_dir) {
        Ok(link) => {
            let watched = link.is_alive() && is_guard(link.slot().state().guard_pid);
            Ok(watched.then_some(link))
        }
        Err(SlotError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        // A guard that is just making it has not sized it yet.
        Err(SlotError::Layout { version: 0, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A guard that somebody stopped holds its place, so no other can begin: it goes on, or, where it let a deadline pass, is
/// killed. Nobody else may be left to do that: the agent before this one may have ended in the same moment.
fn rouse(places: &Places) {
    if let Ok(link) = GuardLink::attach(&places.slot, &places.run_dir)
        && is_guard(link.slot().state().guard_pid)
        && !link.tick()
        && outlived_by_a_lease(&link)
    {
        tracing::error!("a guard that does not tick has let a deadline pass; the kernel ends the workloads with it");
        link.kill();
    }
}

/// A deadline has passed and its guard has not acted.
fn outlived_by_a_lease(link: &GuardLink) -> bool {
    let says = link.says();
    !says.latched && says.deadline.is_some_and(|at| at < clock::now())
}

/// Whether the guard's process lives, whatever it does.
pub fn is_there(link: &GuardLink) -> bool {
    is_guard(link.slot().state().guard_pid)
}

fn is_guard(pid: i32) -> bool {
    let state = |text: &str| text.rsplit(')').next().and_then(|rest| rest.trim().chars().next());
    pid > 0
        && fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|text| text.contains("(quorate-guard)") && !matches!(state(&text), Some('Z' | 'X')))
}

fn reap(child: &mut Option<Child>) {
    if child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None))) {
        *child = None;
    }
}

fn start(config: &GuardConfig, places: &Places) -> Result<Child, GuardingError> {
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&places.log)
        .map_err(io_error("open", &places.log))?;
    let errors = log.try_clone().map_err(io_error("open", &places.log))?;
    let mut command = Command::new(&config.program);
    command
        .arg("--slot")
        .arg(&places.slot)
        .arg("--run-dir")
        .arg(&places.run_dir)
        .arg("--state-dir")
        .arg(&places.records)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors);
    if let Some(root) = &config.cgroup_root {
        command.arg("--cgroup-root").arg(root);
    }
    if let Some(watchdog) = &config.watchdog {
        command.arg("--watchdog").arg(watchdog);
    }
    if config.no_namespaces {
        command.arg("--no-namespaces");
    }
    if config.allow_reboot {
        command.arg("--allow-reboot");
    }
    // SAFETY: setsid is safe between fork and exec, and nothing else is done there.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            Ok(())
        });
    }
    command.spawn().map_err(io_error("start", &config.program))
}

//! A guard of one's own: its folder, slot and control groups, and workloads that are known by a marker in their arguments. Ends
//! with the test, however that ends.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use guard::starter::{Action, Client, Label, Mode, Start};
use guard::{NamespaceState, Policy, Slot, boottime_ns};

pub const PATIENCE: Duration = Duration::from_secs(20);
pub const HOUR_NS: u64 = 3_600_000_000_000;

/// A guard of its own, ended with the test.
pub struct Rig {
    pub folder: PathBuf,
    pub marker: String,
    pub guard: Child,
    pub slot: Slot,
    pub user: Option<u32>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        let keep: Vec<i32> = self.slot.state().incarnations.iter().map(|state| state.init_pid[1]).collect();
        let _ = self.guard.kill();
        let _ = self.guard.wait();
        for pid in keep.into_iter().filter_map(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        until("nothing of the test lives", || processes_with(&self.marker).is_empty());
        guard::cgroup::remove_default_root(&self.folder.join("run"));
        // What a failed test leaves is worth a look.
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// Pids of live processes with `marker` among their arguments, as the host numbers them.
pub fn processes_with(marker: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A zombie has no command line any more.
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if arguments.split(|byte| *byte == 0).any(|argument| argument == marker.as_bytes()) {
            found.push(pid);
        }
    }
    found
}

impl Rig {
    pub fn new(name: &str) -> Rig {
        Rig::with(name, None, &[])
    }

    pub fn with(name: &str, user: Option<u32>, options: &[&str]) -> Rig {
        let folder = std::env::temp_dir().join(format!("quorate-guard-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("folder");
        if let Some(user) = user {
            std::os::unix::fs::chown(&folder, Some(user), Some(user)).expect("chown");
        }
        let (guard, slot) = launch(&folder, user, options);
        Rig { marker: format!("{name}-{}", std::process::id()), folder, guard, slot, user }
    }

    pub fn run_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// Opens an incarnation, gives it a lease of an hour, and waits for its namespaces.
    pub fn incarnation(&self, incarnation: u64) {
        self.slot.open_incarnation(incarnation).expect("open");
        self.slot.set_deadline(incarnation, boottime_ns() + HOUR_NS).expect("deadline");
        until("namespaces are ready", || {
            let state = self.slot.incarnation(incarnation).expect("known");
            assert!(!state.namespace.contains(&NamespaceState::Failed), "{state:?}");
            state.namespace == [NamespaceState::Ready; 2]
        });
    }

    pub fn client(&self, policy: Policy, incarnation: u64) -> Client {
        Client::connect(&self.run_dir(), policy, incarnation).expect("connect")
    }

    pub fn exec(&self, script: &str) -> Action {
        Action::Exec {
            argv: ["/bin/sh", "-c", script, self.marker.as_str()].map(OsString::from).to_vec(),
            env: vec![("PATH".into(), "/usr/bin:/bin".into())],
            cwd: self.folder.clone(),
            log: Some(self.folder.join("log")),
            isolate: Some("inside".into()),
        }
    }

    pub fn start(&self, client: &mut Client, container: u64, script: &str) -> u64 {
        let start = Start {
            label: Label { container, epoch: 1, incarnation: 1, runtime: "process".into(), name: "test".into() },
            mode: Mode::Workload,
            action: self.exec(script),
            leaf: Some(format!("c{container}")),
        };
        client.start(start, PATIENCE).expect("start")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub fn kill_guard(&mut self) {
        self.guard.kill().expect("kill");
        self.guard.wait().expect("wait");
    }

    pub fn restart_guard(&mut self) {
        let (guard, slot) = launch(&self.folder, self.user, &[]);
        (self.guard, self.slot) = (guard, slot);
    }
}

pub fn launch(folder: &Path, user: Option<u32>, options: &[&str]) -> (Child, Slot) {
    let built = Path::new(env!("CARGO_BIN_EXE_quorate-guard"));
    // Another user may not reach where it was built.
    let near = folder.join("quorate-guard");
    if user.is_some() && !near.exists() {
        std::fs::copy(built, &near).expect("a copy of the program");
    }
    let mut command = Command::new(if user.is_some() { &near } else { built });
    command.arg("--slot").arg(folder.join("slot"));
    command.arg("--run-dir").arg(folder.join("run"));
    command.arg("--state-dir").arg(folder.join("state"));
    command.args(options).stdin(Stdio::null());
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let guard = command.spawn().expect("spawn");
    let pid = guard.id() as i32;
    let mut slot = None;
    until("the guard ticks", || {
        slot = Slot::open(&folder.join("slot")).ok();
        slot.as_ref().is_some_and(|slot| slot.state().guard_pid == pid && slot.guard_silence_ns() < 1_000_000_000)
    });
    (guard, slot.expect("opened"))
}

/// Says why a test is not run.
pub fn skip(why: &str) {
    eprintln!("NOT RUN: {why}");
}

pub fn root() -> bool {
    rustix::process::getuid().is_root()
}

pub const TICKING: &str = "while :; do sleep 1; done";

//! One machine of the playground: a pid namespace whose first process starts its services and starts them again.
//! In: a spec file. Out: a tree of real processes that dies as a whole when its first process is killed: that is how
//! the playground cuts the power, with no goodbye to anybody.
//! Where the kernel gives no pid namespace the tree is killed process by process, and the playground says so.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use super::net::Plug;

/// Pause before a service that ended is started again: a supervisor's, not a spinning loop's.
const AGAIN_AFTER: Duration = Duration::from_millis(150);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    pub name: String,
    pub services: Vec<Service>,
    /// Where the first process notes what it runs: service name → pid in its namespace.
    pub running: PathBuf,
    /// Where the outer process notes the pid of the first process.
    pub pid_file: PathBuf,
    /// Its place in the playground's network; `None` where all share that of the host.
    pub plug: Option<Plug>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Service {
    pub name: String,
    pub argv: Vec<String>,
    pub log: PathBuf,
    /// Not started before this file exists.
    pub needs: Option<PathBuf>,
}

/// Where a machine's tree begins, as seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    pub pid: i32,
    /// Killing `pid` kills everything by the kernel's hand.
    pub namespace: bool,
}

/// Starts the machine and comes back when its first process is there.
pub fn power_on(spec: &Spec, spec_file: &Path) -> Result<Root> {
    let _ = fs::remove_file(&spec.pid_file);
    fs::write(spec_file, serde_json::to_vec_pretty(spec)?).with_context(|| format!("write {spec_file:?}"))?;
    let log = File::create(spec_file.with_extension("log"))?;
    let mut outer = Command::new(std::env::current_exe()?);
    outer.args(["dev", "machine"]).arg(spec_file).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // Its own session: a ctrl-C here, or the end of this process, is not a power cut.
    // Safety: setsid is async-signal-safe and touches nothing of ours.
    unsafe { outer.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into)) };
    let mut child = outer.spawn().context("start the machine's first process")?;
    let limit = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        if let Ok(text) = fs::read(&spec.pid_file)
            && let Ok(root) = serde_json::from_slice(&text)
        {
            return Ok(root);
        }
        if let Some(status) = child.try_wait()? {
            let log = fs::read_to_string(spec_file.with_extension("log")).unwrap_or_default();
            anyhow::bail!("machine {} did not start ({status}): {}", spec.name, log.trim());
        }
        anyhow::ensure!(std::time::Instant::now() < limit, "machine {} did not start within 10 s", spec.name);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `quoratectl dev machine`: makes the namespaces, starts the first process in them, waits for its end.
/// Must run before any thread is started.
pub fn outer(spec_file: &Path) -> Result<()> {
    let spec: Spec = serde_json::from_slice(&fs::read(spec_file)?)?;
    if let Some(plug) = spec.plug {
        plug.connect()?;
    }
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    let mut flags = UnshareFlags::NEWPID | UnshareFlags::NEWNS;
    if !uid.is_root() {
        flags |= UnshareFlags::NEWUSER;
    }
    // Safety: this process has one thread and shares no memory or descriptors with another.
    let namespace = match unsafe { rustix::thread::unshare_unsafe(flags) } {
        Ok(()) => {
            if !uid.is_root() {
                fs::write("/proc/self/setgroups", "deny").context("map users")?;
                fs::write("/proc/self/uid_map", format!("0 {} 1", uid.as_raw())).context("map users")?;
                fs::write("/proc/self/gid_map", format!("0 {} 1", gid.as_raw())).context("map groups")?;
            }
            true
        }
        Err(error) => {
            eprintln!("no pid namespace for machine {}: {error}", spec.name);
            false
        }
    };
    let mut first = Command::new(std::env::current_exe()?)
        .args(["dev", "machine-first"])
        .arg(spec_file)
        .args(namespace.then_some("--own-proc"))
        .spawn()?;
    let root = Root { pid: first.id() as i32, namespace };
    let partial = spec.pid_file.with_extension("partial");
    fs::write(&partial, serde_json::to_vec(&root)?)?;
    fs::rename(&partial, &spec.pid_file)?;
    first.wait()?;
    Ok(())
}

/// `quoratectl dev machine-first`: pid 1 of the machine. Starts its services, starts them again, buries orphans.
pub fn first(spec_file: &Path, own_proc: bool) -> Result<()> {
    let spec: Spec = serde_json::from_slice(&fs::read(spec_file)?)?;
    if own_proc {
        use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .context("make mounts private")?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("proc", "/proc", "proc", flags, None).context("mount /proc")?;
    }
    // Without a namespace this makes orphans fall to this process all the same.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("become a reaper")?;
    let mut running: BTreeMap<i32, usize> = BTreeMap::new();
    let mut waiting: Vec<usize> = (0..spec.services.len()).collect();
    loop {
        waiting.retain(|at| {
            let service = &spec.services[*at];
            if service.needs.as_ref().is_some_and(|needs| !needs.exists()) {
                return true;
            }
            match start(service) {
                Ok(child) => {
                    running.insert(child.id() as i32, *at);
                    false
                }
                Err(error) => {
                    eprintln!("start {}: {error}", service.name);
                    true
                }
            }
        });
        note(&spec, &running)?;
        // With something to start again soon, only look; otherwise sleep until a child ends.
        let options = if waiting.is_empty() { WaitOptions::empty() } else { WaitOptions::NOHANG };
        match rustix::process::wait(options) {
            Ok(Some((pid, status))) => {
                if let Some(at) = running.remove(&pid.as_raw_nonzero().get()) {
                    eprintln!("{} ended ({status:?})", spec.services[at].name);
                    waiting.push(at);
                    std::thread::sleep(AGAIN_AFTER);
                }
            }
            Ok(None) | Err(rustix::io::Errno::CHILD) => std::thread::sleep(Duration::from_millis(20)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for services"),
        }
    }
}

fn start(service: &Service) -> io::Result<Child> {
    let log = File::options().create(true).append(true).open(&service.log)?;
    Command::new(&service.argv[0])
        .args(&service.argv[1..])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
}

fn note(spec: &Spec, running: &BTreeMap<i32, usize>) -> Result<()> {
    let names: BTreeMap<&str, i32> = running.iter().map(|(pid, at)| (spec.services[*at].name.as_str(), *pid)).collect();
    let partial = spec.running.with_extension("partial");
    fs::write(&partial, serde_json::to_vec(&names)?)?;
    fs::rename(&partial, &spec.running)?;
    Ok(())
}

impl Root {
    pub fn is_alive(self) -> bool {
        Pid::from_raw(self.pid).is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
    }

    /// Everything on the machine is gone when this returns.
    pub fn power_off(self) -> Result<()> {
        let mut rest = tree(self.pid);
        // In a namespace the kernel takes all with the first process. Without one the first process is stopped, so that
        // it starts nothing again, and goes last: orphans fall to it, and nobody escapes.
        send(self.pid, if self.namespace { Signal::KILL } else { Signal::STOP });
        let limit = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            if !self.namespace {
                rest = tree(self.pid);
                let below: Vec<i32> = rest.iter().skip(1).copied().filter(|pid| !is_gone(*pid)).collect();
                let doomed = if below.is_empty() { &rest[..1] } else { &below[..] };
                doomed.iter().for_each(|pid| send(*pid, Signal::KILL));
            }
            if rest.iter().all(|pid| is_gone(*pid)) {
                return Ok(());
            }
            anyhow::ensure!(std::time::Instant::now() < limit, "processes outlive their machine: {rest:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Stops or continues every process of the machine.
    pub fn signal_all(self, signal: Signal) {
        tree(self.pid).into_iter().for_each(|pid| send(pid, signal));
    }

    /// The pid, as seen from outside, of a service that the first process knows by its own numbers.
    pub fn service(self, running: &Path, name: &str) -> Result<i32> {
        let names: BTreeMap<String, i32> = serde_json::from_slice(&fs::read(running)?)?;
        let inner = *names.get(name).with_context(|| format!("no {name} is running on that machine"))?;
        if !self.namespace {
            return Ok(inner);
        }
        let matches = |pid: &i32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap_or_default();
            let last = numbers.split_whitespace().last().and_then(|last| last.parse().ok());
            last == Some(inner) && parent.trim() == self.pid.to_string()
        };
        tree(self.pid).into_iter().find(matches).with_context(|| format!("{name} ended just now"))
    }
}

pub fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // A process that is gone already needs no signal.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// `root` and everything below it, parents first.
fn tree(root: i32) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if let Some((_, parent)) = stat(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut tree = vec![root];
    let mut at = 0;
    while let Some(pid) = tree.get(at).copied() {
        tree.extend(children.get(&pid).into_iter().flatten());
        at += 1;
    }
    tree
}

/// State and parent of a process.
fn stat(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.next()?.parse().ok()?))
}

/// A zombie runs nothing: only its parent's attention is missing.
fn is_gone(pid: i32) -> bool {
    stat(pid).is_none_or(|(state, _)| matches!(state, 'Z' | 'X'))
}

//! Makes the namespace of one policy what it is for: mounts of its own, /proc, an end that comes with the guard's.
//! In: what the guard hands over at birth. Out: words, where a step fails; nothing is half set up and used.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::Signal;

use super::{Birth, is_readable};
use crate::Policy;

/// Hides the cgroup2 mount from runtimes that refuse a hybrid host. A mount that came from a more privileged namespace
/// is locked and can only be covered; where neither is allowed the probe says which runtime minds.
fn hide(mount: &Path) {
    if rustix::mount::unmount(mount, UnmountFlags::DETACH).is_err() {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let _ = rustix::mount::mount("none", mount, "tmpfs", flags, None);
    }
}

pub(super) fn set_up(birth: &Birth) -> Result<(), String> {
    let step = |name: &'static str| move |error: rustix::io::Errno| format!("{name}: {}", io::Error::from(error));
    if birth.greeting.user_namespace {
        map_user(birth.user_id, birth.group_id).map_err(|error| format!("map user: {error}"))?;
    }
    if birth.greeting.pid_namespace {
        // Mounts made outside come in, mounts made in here stay in here and end with the namespace.
        rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
            .map_err(step("make mounts private"))?;
        mount_proc().map_err(step("mount /proc"))?;
        if let Some(mount) = &birth.hide {
            hide(mount);
        }
    }
    let _ = fs::write("/proc/self/oom_score_adj", "0");
    let _ =
        rustix::thread::set_name(if birth.greeting.policy == Policy::Stop { c"quorate-stop" } else { c"quorate-keep" });
    // Nothing of the guard's terminal or pipes is held open by what outlives it.
    let log =
        fs::File::options().append(true).create(true).open(&birth.log).map_err(|error| format!("open log: {error}"))?;
    let null = fs::File::open("/dev/null").map_err(|error| format!("open /dev/null: {error}"))?;
    rustix::stdio::dup2_stdin(&null).map_err(step("redirect stdin"))?;
    rustix::stdio::dup2_stdout(&log).map_err(step("redirect stdout"))?;
    rustix::stdio::dup2_stderr(&log).map_err(step("redirect stderr"))?;
    let _ = rustix::process::setsid();
    if !birth.greeting.pid_namespace {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(step("adopt orphans"))?;
    }
    if birth.greeting.policy == Policy::Stop {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(step("tie to the guard"))?;
        // The guard may have died before the line above; then nobody would send the signal any more.
        if is_readable(birth.guard.as_fd()) {
            return Err("the guard is gone".to_owned());
        }
    }
    Ok(())
}

/// Root inside, the unprivileged user outside.
fn map_user(user_id: u32, group_id: u32) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user_id} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group_id} 1"))
}

pub(super) fn mount_proc() -> rustix::io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match rustix::mount::mount("proc", "/proc", "proc", flags, None) {
        // Inside a container whose /proc is partly masked the kernel refuses an unmasked one. The namespace holds
        // without; only `ps` in here shows other numbers.
        Err(rustix::io::Errno::PERM) => Ok(()),
        other => other,
    }
}

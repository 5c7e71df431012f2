//! What a process does between its fork and its exec: the one action it was born for, or the word why not.
//! In: a start. Out: nothing comes back; the reason of a failure goes into a pipe that success closes.

use std::ffi::{CString, c_int};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{Signal, WaitOptions};

use super::namespace::mount_proc;
use crate::sys::{self, Fork};
use crate::wire::{Action, Mode, Start};

/// In the child: does the action, or says why not.
pub(super) fn begin(start: Start, failure: OwnedFd, isolated: bool, in_namespace: bool) -> ! {
    let workload = start.mode == Mode::Workload;
    let outcome = match start.action {
        Action::Exec { argv, env, cwd, log, isolate } => {
            if workload && !in_namespace {
                // The best there is without a pid namespace: the first process ends with the starter.
                let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
            }
            match isolate.filter(|_| isolated).map_or(Ok(Side::Workload), |hostname| isolate_here(&hostname)) {
                Err(error) => Err(error),
                Ok(Side::Init { workload }) => {
                    // The pipe ends with the workload's exec; this copy would keep it open.
                    drop(failure);
                    be_init_of(workload)
                }
                Ok(Side::Workload) => {
                    let _ = rustix::process::setsid();
                    if workload {
                        let _ = rustix::thread::set_no_new_privs(true);
                    }
                    Err(exec(&argv, &env, &cwd, log.as_deref()))
                }
            }
        }
        Action::Mount { kind, source, target, options, bind } => mount(&kind, &source, &target, &options, bind),
        Action::Unmount { target } => rustix::mount::unmount(&target, UnmountFlags::DETACH)
            .map_err(|error| format!("unmount {}: {}", target.display(), io::Error::from(error))),
    };
    if let Err(reason) = &outcome {
        let _ = rustix::io::write(&failure, reason.as_bytes());
    }
    std::process::exit(if outcome.is_ok() { 0 } else { 127 });
}

/// Replaces this process; comes back only with the reason why it could not.
fn exec(
    argv: &[std::ffi::OsString],
    env: &[(std::ffi::OsString, std::ffi::OsString)],
    cwd: &Path,
    log: Option<&Path>,
) -> String {
    let output = || -> io::Result<Stdio> {
        match log {
            Some(path) => Ok(fs::File::options().append(true).create(true).open(path)?.into()),
            None => Ok(Stdio::null()),
        }
    };
    let (stdout, stderr) = match (output(), output()) {
        (Ok(stdout), Ok(stderr)) => (stdout, stderr),
        (Err(error), _) | (_, Err(error)) => {
            return format!("open log {}: {error}", log.unwrap_or(Path::new("/dev/null")).display());
        }
    };
    let error = Command::new(&argv[0])
        .args(&argv[1..])
        .env_clear()
        .envs(env.iter().map(|(name, value)| (name, value)))
        .current_dir(cwd)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .exec();
    format!("execute {} in {}: {error}", argv[0].display(), cwd.display())
}

fn mount(kind: &str, source: &Path, target: &Path, options: &str, bind: bool) -> Result<(), String> {
    let outcome = if bind {
        rustix::mount::mount_bind_recursive(source, target).and_then(|()| match options {
            "ro" => rustix::mount::mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, c""),
            _ => Ok(()),
        })
    } else {
        let options = CString::new(options).map_err(|_| "mount options hold a zero byte".to_owned())?;
        rustix::mount::mount(source, target, kind, MountFlags::empty(), options.as_c_str())
    };
    outcome.map_err(|error| format!("mount {kind} on {}: {}", target.display(), io::Error::from(error)))
}

/// The process a workload's pid 1 passes signals on to; 0 before there is one.
static WORKLOAD: AtomicI32 = AtomicI32::new(0);

extern "C" fn pass_on(signal: c_int) {
    let workload = WORKLOAD.load(Ordering::Acquire);
    if workload > 0 {
        let _ = sys::send_signal(workload, signal);
    }
}

enum Side {
    /// Pid 1 of the fresh namespace.
    Init {
        workload: i32,
    },
    Workload,
}

/// In a fresh set of namespaces: this process stays as their pid 1 (a program that is pid 1 itself would ignore
/// SIGTERM), its child becomes the workload. Comes back in both.
fn isolate_here(hostname: &str) -> Result<Side, String> {
    let step = |name: &'static str| move |error: rustix::io::Errno| format!("{name}: {}", io::Error::from(error));
    rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(step("make mounts private"))?;
    mount_proc().map_err(step("mount /proc"))?;
    rustix::system::sethostname(hostname.as_bytes()).map_err(step("set host name"))?;
    for signal in [sys::SIGTERM, sys::SIGINT, sys::SIGHUP, sys::SIGQUIT, sys::SIGUSR1, sys::SIGUSR2] {
        sys::on_signal(signal, pass_on as *const () as usize);
    }
    // SAFETY: forked from a process with one thread, so this one has one as well.
    match unsafe { sys::fork_into(0, None) }.map_err(|error| format!("fork: {error}"))? {
        Fork::Child => Ok(Side::Workload),
        Fork::Parent { pid, .. } => Ok(Side::Init { workload: pid }),
    }
}

/// Reaps until the workload ends, then ends with its code and takes everything else in the namespace along.
fn be_init_of(workload: i32) -> ! {
    WORKLOAD.store(workload, Ordering::Release);
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == workload => {
                std::process::exit(sys::exit_code(status));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => std::process::exit(255),
        }
    }
}

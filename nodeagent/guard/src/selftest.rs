//! Proves on this machine, now, what the guard relies on. In: a slot, if there is one. Out: one line per finding.
//! Run before a re-execution: a binary that does not know the live slot never takes over.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitOptions};

use crate::cgroup::{self, Branch, Hierarchy};
use crate::slot::Slot;
use crate::sys::{self, Fork};

/// Prints what works; errs with the first thing the guard cannot do without.
pub fn run(slot: Option<&Path>) -> Result<(), String> {
    if let Some(path) = slot {
        Slot::open(path).map_err(|error| error.to_string())?;
        println!("slot layout: known");
    }
    let before = sys::boottime_ns();
    if before == 0 || sys::boottime_ns() < before {
        return Err("the boot time clock does not run".to_owned());
    }
    println!("boot time clock: runs");
    match namespaces(false) {
        Ok(()) => println!("pid namespace: yes"),
        Err(error) => match namespaces(true) {
            Ok(()) => println!("pid namespace: by user namespace ({error})"),
            Err(_) => println!("pid namespace: no ({error}); this node is F0"),
        },
    }
    match Hierarchy::find() {
        None => println!("cgroup.kill: no (cgroup2 is not mounted)"),
        Some(hierarchy) => {
            let place = std::env::temp_dir().join(format!("self-test-{}", std::process::id()));
            let outcome = cgroup::default_root(&hierarchy, &place).and_then(|root| {
                let outcome = cgroup_kill(&root);
                cgroup::remove_empty(&root);
                outcome
            });
            match outcome {
                Ok(()) => println!("cgroup.kill: yes"),
                Err(error) => println!("cgroup.kill: no ({error})"),
            }
        }
    }
    Ok(())
}

/// Makes a pid namespace as the inits get one and sees it die: errs with why that is not to be had.
pub fn namespaces(by_user_namespace: bool) -> io::Result<()> {
    let user = if by_user_namespace { sys::CLONE_NEWUSER } else { 0 };
    // SAFETY: called by programs with one thread.
    let fork = || unsafe { sys::fork_into(sys::CLONE_NEWPID | sys::CLONE_NEWNS | sys::CLONE_NEWIPC | user, None) };
    die_by_kill(fork, |pidfd| Ok(rustix::process::pidfd_send_signal(pidfd, Signal::KILL)?))
}

/// Sees a child live in a cgroup, kills it by that, and sees it die.
pub fn cgroup_kill(root: &Path) -> io::Result<()> {
    let folder = root.join("probe");
    cgroup::remove_empty(&folder);
    std::fs::create_dir_all(&folder)?;
    let outcome = Branch::open(&folder).and_then(|branch| {
        // SAFETY: called by programs with one thread.
        die_by_kill(
            || unsafe { sys::fork_into(0, Some(branch.folder.as_fd())) },
            |_| {
                branch.kill();
                Ok(())
            },
        )
    });
    cgroup::remove_empty(&folder);
    outcome
}

/// Forks, waits until the child says that it lives, kills it and waits until it is dead.
fn die_by_kill(
    fork: impl FnOnce() -> io::Result<Fork>,
    kill: impl FnOnce(&OwnedFd) -> io::Result<()>,
) -> io::Result<()> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    match fork()? {
        Fork::Child => {
            let _ = rustix::io::write(&writer, b"l");
            sleep_for_ever()
        }
        Fork::Parent { pid, pidfd } => {
            drop(writer);
            let lived = rustix::io::read(&reader, &mut [0u8; 1])? == 1;
            kill(&pidfd)?;
            wait_for_death(pid, &pidfd)?;
            if lived { Ok(()) } else { Err(io::Error::other("a child was killed at birth")) }
        }
    }
}

/// Until it is killed, at the latest with its parent.
pub(crate) fn sleep_for_ever() -> ! {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    loop {
        let _ = poll(&mut [], None);
    }
}

fn wait_for_death(pid: i32, pidfd: &impl AsFd) -> io::Result<()> {
    let mut set = [PollFd::new(pidfd, PollFlags::IN)];
    if poll(&mut set, Some(&Timespec { tv_sec: 2, tv_nsec: 0 }))? == 0 {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "a killed child did not die"));
    }
    rustix::process::waitpid(Pid::from_raw(pid), WaitOptions::empty())?;
    Ok(())
}

//! The namespaces of an incarnation: each made when the agent asks for it, its init forked, adopted after a re-execution.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, WaitOptions};

use super::{Charge, Init, Switch};
use crate::init::{self, Birth};
use crate::record::Note;
use crate::slot::{NamespaceState, entry, facts};
use crate::sys::{self, Fork};
use crate::wire::Greeting;
use crate::{Policy, cgroup, starter};

impl Switch {
    /// Makes the namespace the agent asked for, and hears when its starter listens.
    pub(super) fn serve_namespace(&mut self, index: usize, at: usize, policy: Policy) {
        let which = policy as usize;
        let wanted = self.slot.read(at + entry::WANTED + which);
        let Some(charge) = &mut self.charges[index] else { return };
        let incarnation = charge.incarnation;
        if let Some(init) = &mut charge.inits[which] {
            let Some(ready) = &init.ready else { return };
            if rustix::io::read(ready, &mut [0u8; 1]) == Ok(1) {
                init.ready = None;
                self.slot.write(at + entry::NAMESPACE + which, NamespaceState::Ready as u64);
                self.scribe.note(Note::NamespaceReady { incarnation, policy: which as u64 });
            }
            return;
        }
        if wanted == self.slot.read(at + entry::SERVED + which) {
            return;
        }
        let Some(charge) = self.charges[index].take() else { return };
        let born = self.bear(&charge, policy);
        self.charges[index] = Some(charge);
        self.slot.write(at + entry::SERVED + which, wanted);
        match born {
            Ok(init) => {
                self.slot.write(at + entry::NAMESPACE + which, NamespaceState::None as u64);
                self.slot.write(at + entry::INIT_TICKS + which, sys::start_ticks(init.pid).unwrap_or(0));
                self.slot.write(at + entry::INIT_PID + which, init.pid as u64);
                if let Some(charge) = &mut self.charges[index] {
                    charge.inits[which] = Some(init);
                }
            }
            Err(error) => {
                eprintln!("quorate-guard: ERROR namespace for {} workloads: {error}", policy.word());
                self.slot.write(at + entry::NAMESPACE + which, NamespaceState::Failed as u64);
            }
        }
    }

    /// Forks the init of one policy. In the child this never comes back.
    pub(super) fn bear(&mut self, charge: &Charge, policy: Policy) -> io::Result<Init> {
        let run_dir = &self.config.run_dir;
        let socket = starter::socket_path(run_dir, policy, charge.incarnation);
        match fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = starter::by_short_path(&socket, |path| UnixListener::bind(path))?;
        listener.set_nonblocking(true)?;
        let (ready, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        rustix::fs::fcntl_setfl(&ready, OFlags::NONBLOCK)?;

        let has = |fact| self.facts & fact != 0;
        let branch = charge.tree.as_ref().map(|tree| &tree.branch(policy).folder);
        let starters = match (&charge.tree, policy) {
            (Some(tree), Policy::Stop) => Some(tree.starters().folder.try_clone()?),
            // Ending a `keep` workload in order needs its runtime, also after the latch.
            (Some(tree), Policy::Keep) => Some(cgroup::leaf(&tree.keep.folder, "helpers")?),
            (None, _) => None,
        };
        let home = branch.map(|branch| cgroup::leaf(branch, "init")).transpose()?;
        let hide = self.hierarchy.as_ref().filter(|found| found.hybrid && !has(facts::USER_NAMESPACE));
        let cgroup =
            charge.tree.as_ref().and_then(|tree| self.hierarchy.as_ref()?.name_of(&tree.path.join(policy.word())));
        let birth = Birth {
            greeting: Greeting {
                incarnation: charge.incarnation,
                policy,
                pid_namespace: has(facts::PID_NAMESPACE),
                user_namespace: has(facts::USER_NAMESPACE),
                cgroup,
                unified_hidden: hide.is_some() && has(facts::PID_NAMESPACE),
            },
            listener,
            ready: writer,
            guard: self.own_pidfd.try_clone()?,
            branch: branch.map(OwnedFd::try_clone).transpose()?,
            starters,
            hide: hide.map(|found| found.mount.clone()),
            log: run_dir.join(format!("starter-{}-{}.log", policy.word(), charge.incarnation)),
            user_id: rustix::process::getuid().as_raw(),
            group_id: rustix::process::getgid().as_raw(),
        };
        // SAFETY: the guard has one thread.
        match unsafe { sys::fork_into(self.namespaces(), home.as_ref().map(AsFd::as_fd)) }? {
            Fork::Parent { pid, pidfd } => Ok(Init { pid, pidfd, ready: Some(ready) }),
            Fork::Child => {
                drop((ready, home));
                self.let_go();
                init::live(birth, &self.slot)
            }
        }
    }

    /// What a first process is born into.
    pub(super) fn namespaces(&self) -> u64 {
        let mut flags = 0;
        if self.facts & facts::PID_NAMESPACE != 0 {
            flags |= sys::CLONE_NEWPID | sys::CLONE_NEWNS | sys::CLONE_NEWIPC;
        }
        if self.facts & facts::USER_NAMESPACE != 0 {
            flags |= sys::CLONE_NEWUSER;
        }
        flags
    }
}

/// An init of an earlier life of this guard, if it is the same process still: a child after a re-execution, for `keep`
/// also a stranger's child.
pub(super) fn adopt_init(number: i32, ticks: u64, policy: Policy) -> Option<Init> {
    let pid = Pid::from_raw(number)?;
    if sys::start_ticks(number)? != ticks {
        return None;
    }
    let ours = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
    match (ours, policy) {
        (Ok(None), _) | (Err(_), Policy::Keep) => {}
        // Not our child: its guard died, and by the kernel's hand it is dying too.
        (Err(_), Policy::Stop) | (Ok(Some(_)), _) => return None,
    }
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
    Some(Init { pid: number, pidfd, ready: None })
}

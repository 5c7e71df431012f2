//! The init of one policy's namespace, and its starter: every workload and every helper is born here.
//! In: requests on a socket, exits of children. Out: replies, exits. Forked by the guard, one per incarnation and
//! policy; that of `stop` gets SIGKILL when the guard dies, and the kernel then ends the whole pid namespace.
//! It outlives the agent, so it is also the memory of what runs.
//! Absent: no decision but one: nothing starts without a lease.

mod child;
mod namespace;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::AtFlags;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitOptions};

use crate::slot::Slot;
use crate::sys::{self, Fork, boottime_ns};
use crate::wire::{self, Action, Greeting, Message, Mode, Reply, Request, Start, Task, TaskState};
use crate::{Policy, cgroup};

/// Exits of processes nobody had claimed yet; a runtime's container may end before the runtime does.
const ORPHANS_KEPT: usize = 256;
/// A workload its runtime does not let go of within this is none the starter could reap.
const INHERIT_NS: u64 = 2_000_000_000;
/// Nothing is waited for by time alone; this is how soon an orphan is reaped and a latch noticed.
const IDLE_MS: i64 = 200;
/// While a killed tree is watched until it is empty.
const BUSY_MS: i64 = 5;

/// What the guard hands to a new init.
pub(crate) struct Birth {
    pub greeting: Greeting,
    pub listener: UnixListener,
    /// Gets a byte when the starter listens.
    pub ready: OwnedFd,
    /// Readable once the guard is dead.
    pub guard: OwnedFd,
    /// cgroup branch of the policy, and where short helpers are born.
    pub branch: Option<OwnedFd>,
    pub starters: Option<OwnedFd>,
    /// Where cgroup2 is mounted, if it is to be hidden.
    pub hide: Option<PathBuf>,
    pub log: PathBuf,
    pub user_id: u32,
    pub group_id: u32,
}

/// Becomes the init; never comes back.
pub(crate) fn live(birth: Birth, slot: &Slot) -> ! {
    if let Err(error) = namespace::set_up(&birth) {
        eprintln!("quorate-guard: ERROR namespace for {} workloads: {error}", birth.greeting.policy.word());
        std::process::exit(1);
    }
    let _ = rustix::io::write(&birth.ready, b"r");
    drop(birth.ready);
    let mut init = Init {
        slot,
        greeting: birth.greeting,
        listener: Some(birth.listener),
        branch: birth.branch,
        starters: birth.starters,
        connections: BTreeMap::new(),
        entries: BTreeMap::new(),
        orphans: VecDeque::new(),
        next: 1,
    };
    loop {
        init.turn();
    }
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut set = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut set, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

struct Init<'a> {
    slot: &'a Slot,
    greeting: Greeting,
    /// Taken away in children.
    listener: Option<UnixListener>,
    branch: Option<OwnedFd>,
    starters: Option<OwnedFd>,
    connections: BTreeMap<u64, Connection>,
    entries: BTreeMap<u64, Entry>,
    orphans: VecDeque<(i32, i32)>,
    next: u64,
}

struct Connection {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    watching: bool,
    settling: bool,
    closed: bool,
}

struct Entry {
    task: Task,
    mode: Mode,
    /// Of the process followed now: the helper of a `Through` first, then what it left behind.
    pid: i32,
    pidfd: Option<OwnedFd>,
    /// Closed by a successful exec; else brings the reason why not.
    failure: Option<OwnedFd>,
    reason: Vec<u8>,
    /// The connection that waits for the answer.
    asker: Option<u64>,
    /// Exit code of the process followed, once reaped.
    ended: Option<i32>,
    ended_at_ns: u64,
}

/// A start that was not begun.
struct Refused {
    no_lease: bool,
    reason: String,
}

impl Init<'_> {
    fn turn(&mut self) {
        self.wait();
        self.accept();
        for token in self.connections.keys().copied().collect::<Vec<_>>() {
            self.read(token);
        }
        self.reap();
        self.refuse_what_lost_its_lease();
        for id in self.entries.keys().copied().collect::<Vec<_>>() {
            self.advance(id);
        }
        self.answer_settled();
        self.flush();
    }

    fn wait(&mut self) {
        let mut set = Vec::with_capacity(1 + self.connections.len() + 2 * self.entries.len());
        set.extend(self.listener.iter().map(|listener| PollFd::new(listener, PollFlags::IN)));
        for connection in self.connections.values() {
            let out = if connection.output.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            set.push(PollFd::new(&connection.stream, PollFlags::IN | out));
        }
        let mut timeout_ms = IDLE_MS;
        for entry in self.entries.values() {
            match (&entry.pidfd, entry.ended) {
                (Some(pidfd), None) => set.push(PollFd::new(pidfd, PollFlags::IN)),
                _ if !matches!(entry.task.state, TaskState::Exited { .. }) => timeout_ms = BUSY_MS,
                _ => {}
            }
            set.extend(entry.failure.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        }
        let _ = poll(&mut set, Some(&Timespec { tv_sec: 0, tv_nsec: timeout_ms * 1_000_000 }));
    }

    fn accept(&mut self) {
        while let Some(Ok((stream, _))) = self.listener.as_ref().map(UnixListener::accept) {
            if stream.set_nonblocking(true).is_ok() {
                let token = self.number();
                let connection = Connection {
                    stream,
                    input: Vec::new(),
                    output: Vec::new(),
                    watching: false,
                    settling: false,
                    closed: false,
                };
                self.connections.insert(token, connection);
            }
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    fn read(&mut self, token: u64) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let mut bytes = [0u8; 4096];
        loop {
            match connection.stream.read(&mut bytes) {
                Ok(0) => connection.closed = true,
                Ok(length) => {
                    connection.input.extend_from_slice(&bytes[..length]);
                    if connection.input.len() <= wire::FRAME_BYTES_MAX + 4 {
                        continue;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => connection.closed = true,
            }
            break;
        }
        loop {
            let Some(connection) = self.connections.get_mut(&token) else { return };
            match wire::take_frame(&mut connection.input).map(|frame| frame.map(|frame| Request::parse(&frame))) {
                Ok(None) => return,
                Ok(Some(Ok(request))) => self.serve(token, request),
                Ok(Some(Err(malformed))) | Err(malformed) => {
                    eprintln!("quorate-guard: starter: connection closed: {malformed}");
                    connection.closed = true;
                    return;
                }
            }
        }
    }

    fn serve(&mut self, token: u64, request: Request) {
        let reply = match request {
            Request::Hello => Reply::Greeting(self.greeting.clone()),
            Request::List => Reply::Tasks(self.entries.values().map(|entry| entry.task.clone()).collect()),
            Request::Start(start) => match self.start(token, *start) {
                Ok(()) => return,
                Err(Refused { no_lease, reason }) => Reply::Refused { no_lease, reason },
            },
            Request::Signal { id, signal, tree } => self.signal(id, signal, tree),
            Request::Forget { id } => self.forget(id),
            Request::Watch => {
                if let Some(connection) = self.connections.get_mut(&token) {
                    connection.watching = true;
                    for entry in self.entries.values().filter(|entry| entry.is_over()) {
                        connection.output.extend(Reply::Exited(entry.task.clone()).frame());
                    }
                }
                return;
            }
            Request::Settle => {
                if let Some(connection) = self.connections.get_mut(&token) {
                    connection.settling = true;
                }
                for entry in self.entries.values().filter(|entry| entry.task.state == TaskState::Starting) {
                    self.kill(entry);
                }
                return;
            }
        };
        self.reply(token, &reply);
    }

    fn reply(&mut self, token: u64, reply: &Reply) {
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.output.extend(reply.frame());
        }
    }

    fn start(&mut self, token: u64, start: Start) -> Result<(), Refused> {
        let refused = |reason: String| Refused { no_lease: false, reason };
        if start.mode != Mode::Run && !self.slot.may_start(self.greeting.incarnation) {
            let reason = format!("incarnation {} holds no lease or is latched", self.greeting.incarnation);
            return Err(Refused { no_lease: true, reason });
        }
        if let Some(leaf) = &start.leaf
            && !is_leaf_name(leaf)
        {
            return Err(refused(format!("{leaf:?} is no name for a cgroup leaf")));
        }
        if let Action::Exec { argv, .. } = &start.action
            && argv.is_empty()
        {
            return Err(refused("empty argument vector".to_owned()));
        }
        let leaf = match (&self.branch, &start.leaf) {
            (Some(branch), Some(name)) => {
                Some(cgroup::fresh_leaf(branch, name).map_err(|error| refused(format!("make cgroup leaf: {error}")))?)
            }
            _ => None,
        };
        if let Mode::Through { pid_file } = &start.mode {
            // A pid of an earlier start must not be taken for this one's.
            match fs::remove_file(pid_file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(refused(format!("remove old {}: {error}", pid_file.display())));
                }
                _ => {}
            }
        }
        let isolated = matches!(&start.action, Action::Exec { isolate: Some(_), .. }) && self.greeting.pid_namespace;
        let flags =
            if isolated { sys::CLONE_NEWPID | sys::CLONE_NEWNS | sys::CLONE_NEWIPC | sys::CLONE_NEWUTS } else { 0 };
        let (failure, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
            .map_err(|error| refused(format!("make pipe: {}", io::Error::from(error))))?;
        let home = leaf.as_ref().or(self.starters.as_ref()).map(AsFd::as_fd);
        // SAFETY: the init has one thread.
        match unsafe { sys::fork_into(flags, home) }.map_err(|error| refused(format!("fork: {error}")))? {
            Fork::Child => {
                drop((failure, leaf));
                self.let_go();
                child::begin(start, writer, isolated, self.greeting.pid_namespace)
            }
            Fork::Parent { pid, pidfd } => {
                let id = self.number();
                let task = Task {
                    id,
                    label: start.label,
                    pid,
                    since_ns: boottime_ns(),
                    state: TaskState::Starting,
                    leaf: start.leaf.filter(|_| leaf.is_some()),
                };
                let entry = Entry {
                    task,
                    mode: start.mode,
                    pid,
                    pidfd: Some(pidfd),
                    failure: Some(failure),
                    reason: Vec::new(),
                    asker: Some(token),
                    ended: None,
                    ended_at_ns: 0,
                };
                self.entries.insert(id, entry);
                Ok(())
            }
        }
    }

    /// In a child: nothing of the starter's stays open, or a peer would wait for an end of file that never comes.
    fn let_go(&mut self) {
        self.listener = None;
        self.connections.clear();
        self.entries.clear();
        self.branch = None;
        self.starters = None;
    }

    fn signal(&mut self, id: u64, signal: i32, tree: bool) -> Reply {
        let Some(entry) = self.entries.get(&id) else {
            return Reply::Refused { no_lease: false, reason: format!("no task {id}") };
        };
        if entry.ended.is_none()
            && let Err(error) = sys::send_signal(entry.pid, signal)
        {
            return Reply::Refused { no_lease: false, reason: format!("signal {signal} to task {id}: {error}") };
        }
        if let (true, Some(branch), Some(leaf)) = (tree, &self.branch, &entry.task.leaf) {
            cgroup::kill_leaf(branch, leaf);
        }
        Reply::Done
    }

    fn forget(&mut self, id: u64) -> Reply {
        match self.entries.get(&id) {
            Some(entry) if !entry.is_over() => {
                Reply::Refused { no_lease: false, reason: format!("task {id} has not ended") }
            }
            Some(_) => {
                self.remove(id);
                Reply::Done
            }
            None => Reply::Done,
        }
    }

    fn remove(&mut self, id: u64) {
        if let Some(leaf) = self.entries.remove(&id).and_then(|entry| entry.task.leaf)
            && let Some(branch) = &self.branch
        {
            let _ = rustix::fs::unlinkat(branch, leaf, AtFlags::REMOVEDIR);
        }
    }

    fn kill(&self, entry: &Entry) {
        if entry.ended.is_none() {
            let _ = sys::send_signal(entry.pid, Signal::KILL.as_raw());
        }
        if let (Some(branch), Some(leaf)) = (&self.branch, &entry.task.leaf) {
            cgroup::kill_leaf(branch, leaf);
        }
    }

    /// Reaps everything that ended, orphans included.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let (pid, code) = (pid.as_raw_nonzero().get(), sys::exit_code(status));
            match self.entries.values_mut().find(|entry| entry.pid == pid && entry.ended.is_none()) {
                Some(entry) => {
                    entry.ended = Some(code);
                    entry.ended_at_ns = boottime_ns();
                    entry.pidfd = None;
                }
                None => {
                    self.orphans.push_back((pid, code));
                    if self.orphans.len() > ORPHANS_KEPT {
                        self.orphans.pop_front();
                    }
                }
            }
        }
    }

    /// A runtime that is still at work when the latch falls would start something after it.
    fn refuse_what_lost_its_lease(&mut self) {
        if self.greeting.incarnation == 0 {
            return;
        }
        if self.slot.incarnation(self.greeting.incarnation).is_none_or(|state| state.latched.is_some()) {
            if self.entries.is_empty() && self.greeting.policy == Policy::Keep {
                // Nothing of its own runs and nothing ever will.
                std::process::exit(0);
            }
            for entry in self.entries.values() {
                if entry.mode != Mode::Run && entry.task.state == TaskState::Starting {
                    self.kill(entry);
                }
            }
        }
    }

    /// Moves one task on as far as it goes.
    fn advance(&mut self, id: u64) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.hear_failure();
        if entry.is_over() {
            return;
        }
        let begun = entry.failure.is_none() && entry.reason.is_empty();
        match (entry.ended, &entry.mode) {
            (None, Mode::Workload) if begun && entry.task.state == TaskState::Starting => {
                entry.task.state = TaskState::Running;
                self.answer(id, |entry| Reply::Started { id, pid: entry.pid });
            }
            (None, _) => {}
            (Some(_), _) if !entry.reason.is_empty() => {
                self.answer(id, |entry| Reply::Refused {
                    no_lease: false,
                    reason: String::from_utf8_lossy(&entry.reason).into_owned(),
                });
                self.remove(id);
            }
            (Some(code), Mode::Run) => {
                self.answer(id, |_| Reply::Ended { code });
                self.remove(id);
            }
            (Some(0), Mode::Through { pid_file }) if entry.task.state == TaskState::Starting => {
                let pid_file = pid_file.clone();
                self.take_over(id, &pid_file);
            }
            (Some(code), Mode::Through { .. }) if entry.task.state == TaskState::Starting => self.give_up(id, code),
            (Some(code), _) => self.finish(id, code),
        }
    }

    /// The runtime has done its work: from now on the task is what it left behind.
    fn take_over(&mut self, id: u64, pid_file: &Path) {
        let left =
            fs::read_to_string(pid_file).ok().and_then(|text| text.trim().parse::<i32>().ok()).and_then(Pid::from_raw);
        let Some((entry, pid)) = self.entries.get_mut(&id).zip(left) else { return self.give_up(id, 0) };
        let number = pid.as_raw_nonzero().get();
        match rustix::process::waitpid(Some(pid), WaitOptions::NOHANG) {
            Ok(None) => {
                entry.pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok();
                entry.ended = None;
            }
            Ok(Some((_, status))) => entry.ended = Some(sys::exit_code(status)),
            Err(_) => match self.orphans.iter().rev().find(|(orphan, _)| *orphan == number) {
                Some((_, code)) => entry.ended = Some(*code),
                // The runtime may have had a helper of its own that is still ending: then it becomes ours in a moment.
                None if sys::send_signal(number, 0).is_ok() && boottime_ns() < entry.ended_at_ns + INHERIT_NS => return,
                None => return self.give_up(id, 0),
            },
        }
        entry.pid = number;
        entry.task.pid = number;
        entry.task.state = TaskState::Running;
        self.answer(id, |_| Reply::Started { id, pid: number });
    }

    /// A start that came to nothing: nothing of it stays.
    fn give_up(&mut self, id: u64, code: i32) {
        let Some(entry) = self.entries.get(&id) else { return };
        if !self.is_empty(entry) {
            return self.kill(entry);
        }
        self.answer(id, |_| Reply::Refused {
            no_lease: false,
            reason: match code {
                0 => "the runtime left no process behind".to_owned(),
                code => format!("the runtime ended with code {code}"),
            },
        });
        self.remove(id);
    }

    /// Says that a task is over, and only when no task of it is left.
    fn finish(&mut self, id: u64, code: i32) {
        let Some(entry) = self.entries.get(&id) else { return };
        // Where it had no namespace of its own, its session is what can be found of it.
        let _ = sys::send_signal(-entry.pid, Signal::KILL.as_raw());
        if !self.is_empty(entry) {
            return self.kill(entry);
        }
        // Over before its beginning was told: both are told, in this order.
        self.answer(id, |entry| Reply::Started { id, pid: entry.pid });
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.task.state = TaskState::Exited { code, at_ns: boottime_ns() };
            let exited = Reply::Exited(entry.task.clone()).frame();
            for connection in self.connections.values_mut().filter(|connection| connection.watching) {
                connection.output.extend_from_slice(&exited);
            }
        }
    }

    fn is_empty(&self, entry: &Entry) -> bool {
        match (&self.branch, &entry.task.leaf) {
            (Some(branch), Some(leaf)) => cgroup::leaf_is_empty(branch, leaf),
            _ => true,
        }
    }

    fn answer(&mut self, id: u64, reply: impl FnOnce(&Entry) -> Reply) {
        if let Some(entry) = self.entries.get_mut(&id)
            && let Some(asker) = entry.asker.take()
        {
            let reply = reply(entry);
            self.reply(asker, &reply);
        }
    }

    fn answer_settled(&mut self) {
        if self.entries.values().all(|entry| entry.task.state != TaskState::Starting) {
            for connection in self.connections.values_mut().filter(|connection| connection.settling) {
                connection.settling = false;
                connection.output.extend(Reply::Done.frame());
            }
        }
    }

    fn flush(&mut self) {
        for connection in self.connections.values_mut() {
            while !connection.output.is_empty() {
                match connection.stream.write(&connection.output) {
                    Ok(length) => drop(connection.output.drain(..length)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => {
                        connection.closed = true;
                        break;
                    }
                }
            }
        }
        self.connections.retain(|_, connection| !connection.closed);
    }
}

impl Entry {
    fn is_over(&self) -> bool {
        matches!(self.task.state, TaskState::Exited { .. })
    }

    /// Reads what the child says about why it could not begin; the pipe closes when it could.
    fn hear_failure(&mut self) {
        let Some(pipe) = &self.failure else { return };
        let mut bytes = [0u8; 1024];
        loop {
            match rustix::io::read(pipe, &mut bytes) {
                Ok(0) => break self.failure = None,
                Ok(length) => self.reason.extend_from_slice(&bytes[..length]),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => break,
            }
        }
    }
}

fn is_leaf_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.bytes().all(allowed)
}

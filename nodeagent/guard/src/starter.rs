//! How the agent speaks to the starter: the init of one policy's namespace, from which everything is born.
//! In: orders to start, signal, list. Out: what runs, and what ended. One request at a time per connection; a second
//! connection carries the exits. An agent that restarts connects again and finds everything still listed.
//! Absent: no decision; the starter itself checks the lease.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode as FileMode, OFlags};

use crate::Policy;
use crate::wire::{self, Message};
pub use crate::wire::{Action, Greeting, Label, Mode, Reply, Request, Start, Task, TaskState};

/// Why the starter did not do it.
#[derive(Debug)]
pub enum StarterError {
    /// It cannot be reached, or went away during the call: for policy `stop` everything inside is dead then.
    Gone { operation: &'static str, source: io::Error },
    /// It answered no. `no_lease`: the incarnation holds no lease now, or is latched.
    Refused { no_lease: bool, reason: String },
    /// It answered something else: agent and guard are of different releases.
    Unexpected { operation: &'static str },
    /// No answer within the time given; the call may still take effect.
    TimedOut { operation: &'static str },
}

impl fmt::Display for StarterError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StarterError::Gone { operation, .. } => write!(out, "{operation}: starter is gone"),
            StarterError::Refused { reason, .. } => write!(out, "starter refused: {reason}"),
            StarterError::Unexpected { operation } => write!(out, "{operation}: starter answered out of protocol"),
            StarterError::TimedOut { operation } => write!(out, "{operation}: starter did not answer in time"),
        }
    }
}

impl std::error::Error for StarterError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StarterError::Gone { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Where the starter of `policy` and `incarnation` listens.
pub fn socket_path(run_dir: &Path, policy: Policy, incarnation: u64) -> PathBuf {
    run_dir.join(format!("starter-{}-{incarnation}.sock", policy.word()))
}

/// Incarnations with a starter socket of `policy` in `run_dir`, rising; whether it still answers shows on connecting.
pub fn incarnations(run_dir: &Path, policy: Policy) -> io::Result<Vec<u64>> {
    let prefix = format!("starter-{}-", policy.word());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(run_dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(&prefix)?.strip_suffix(".sock"));
        found.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

/// Runs `with` on a path to the socket that is short enough for a socket address, however deep the folder lies.
pub(crate) fn by_short_path<T>(socket: &Path, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let folder = socket.parent().unwrap_or(Path::new("."));
    let name = socket.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, FileMode::empty())?;
    with(&Path::new(&format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name))
}

/// One connection to a starter.
pub struct Client {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Client {
    /// Errs with `Gone` where nothing listens: no such incarnation, or its namespace is dead.
    pub fn connect(run_dir: &Path, policy: Policy, incarnation: u64) -> Result<Client, StarterError> {
        let path = socket_path(run_dir, policy, incarnation);
        let stream = by_short_path(&path, |path| UnixStream::connect(path))
            .map_err(|source| StarterError::Gone { operation: "connect", source })?;
        Ok(Client { stream, buffer: Vec::new() })
    }

    pub fn greeting(&mut self) -> Result<Greeting, StarterError> {
        match self.call("greet", &Request::Hello, Duration::from_secs(5))? {
            Reply::Greeting(greeting) => Ok(greeting),
            _ => Err(StarterError::Unexpected { operation: "greet" }),
        }
    }

    /// Starts a workload (`Mode::Workload` or `Mode::Through`): its task id. `TimedOut` leaves the start under way.
    pub fn start(&mut self, start: Start, within: Duration) -> Result<u64, StarterError> {
        match self.call("start", &Request::Start(Box::new(start)), within)? {
            Reply::Started { id, .. } => Ok(id),
            _ => Err(StarterError::Unexpected { operation: "start" }),
        }
    }

    /// Runs a short task to its end: its exit code.
    pub fn run(&mut self, label: Label, action: Action, within: Duration) -> Result<i32, StarterError> {
        let start = Start { label, mode: Mode::Run, action, leaf: None };
        match self.call("run", &Request::Start(Box::new(start)), within)? {
            Reply::Ended { code } => Ok(code),
            _ => Err(StarterError::Unexpected { operation: "run" }),
        }
    }

    /// Every task that was not forgotten, by rising id.
    pub fn list(&mut self) -> Result<Vec<Task>, StarterError> {
        match self.call("list", &Request::List, Duration::from_secs(5))? {
            Reply::Tasks(tasks) => Ok(tasks),
            _ => Err(StarterError::Unexpected { operation: "list" }),
        }
    }

    /// Sends `signal` to the first process of a task; with `tree`, everything in its cgroup leaf is killed as well.
    /// A task that has exited is no error.
    pub fn signal(&mut self, id: u64, signal: i32, tree: bool) -> Result<(), StarterError> {
        self.done("signal", &Request::Signal { id, signal, tree }, Duration::from_secs(5))
    }

    /// Drops an exited task. Errs with `Refused` while it lives.
    pub fn forget(&mut self, id: u64) -> Result<(), StarterError> {
        self.done("forget", &Request::Forget { id }, Duration::from_secs(5))
    }

    /// Ends every start that is still under way, so that what `list` shows afterwards is what runs.
    pub fn settle(&mut self, within: Duration) -> Result<(), StarterError> {
        self.done("settle", &Request::Settle, within)
    }

    /// Turns the connection into a stream of exits, beginning with those not yet forgotten.
    pub fn watch(mut self) -> Result<Watch, StarterError> {
        self.send("watch", &Request::Watch)?;
        Ok(Watch { client: self })
    }

    fn done(&mut self, operation: &'static str, request: &Request, within: Duration) -> Result<(), StarterError> {
        match self.call(operation, request, within)? {
            Reply::Done => Ok(()),
            _ => Err(StarterError::Unexpected { operation }),
        }
    }

    fn call(&mut self, operation: &'static str, request: &Request, within: Duration) -> Result<Reply, StarterError> {
        self.send(operation, request)?;
        match self.receive(operation, within)? {
            Some(Reply::Refused { no_lease, reason }) => Err(StarterError::Refused { no_lease, reason }),
            Some(reply) => Ok(reply),
            None => {
                // The late answer would be taken for that of the next request.
                let _ = self.stream.shutdown(std::net::Shutdown::Both);
                Err(StarterError::TimedOut { operation })
            }
        }
    }

    fn send(&mut self, operation: &'static str, request: &Request) -> Result<(), StarterError> {
        self.stream.write_all(&request.frame()).map_err(|source| StarterError::Gone { operation, source })
    }

    /// The next message; `None` when none came in time.
    fn receive(&mut self, operation: &'static str, within: Duration) -> Result<Option<Reply>, StarterError> {
        let gone = |source| StarterError::Gone { operation, source };
        let until = std::time::Instant::now() + within;
        loop {
            if let Some(frame) =
                wire::take_frame(&mut self.buffer).map_err(|_| StarterError::Unexpected { operation })?
            {
                return Reply::parse(&frame).map(Some).map_err(|_| StarterError::Unexpected { operation });
            }
            let left = until.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left)).map_err(gone)?;
            let mut bytes = [0u8; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(gone(io::ErrorKind::UnexpectedEof.into())),
                Ok(length) => self.buffer.extend_from_slice(&bytes[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(error) => return Err(gone(error)),
            }
        }
    }
}

/// A connection that carries exits only.
pub struct Watch {
    client: Client,
}

impl Watch {
    /// The next exit; `None` when nothing ended in time. Errs with `Gone` when the starter died: for policy `stop`,
    /// everything in it is dead.
    pub fn next(&mut self, within: Duration) -> Result<Option<Task>, StarterError> {
        match self.client.receive("watch", within)? {
            Some(Reply::Exited(task)) => Ok(Some(task)),
            Some(_) => Err(StarterError::Unexpected { operation: "watch" }),
            None => Ok(None),
        }
    }
}

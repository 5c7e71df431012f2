//! The words on the starter's socket. Shape: a frame is its length (u32, little end first) and that many bytes; the
//! bytes begin with the protocol version and a kind; strings and lists carry their length. Reading checks everything
//! once: what comes out is whole.

mod frame;

use std::ffi::OsString;
use std::path::PathBuf;

use crate::Policy;
pub use frame::{FRAME_BYTES_MAX, Malformed, Message, PROTOCOL, Reader, take_frame};
use frame::{put_option, put_os};

/// Whose task it is. Lives in the starter, so an agent that restarts finds it again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label {
    pub container: u64,
    pub epoch: u64,
    pub incarnation: u64,
    /// The driver that asked: `process`, `crun`, `runc`.
    pub runtime: String,
    /// For people.
    pub name: String,
}

/// How a start is answered, and what stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A short task: answered with its exit code when it ends, then forgotten. Needs no lease.
    Run,
    /// A workload: answered when its program has begun, listed until forgotten.
    Workload,
    /// A runtime that leaves a workload behind and writes its pid to this file: answered when the runtime has ended
    /// well and the workload is taken over, listed until forgotten.
    Through { pid_file: PathBuf },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A program by argument vector; never a shell.
    Exec {
        argv: Vec<OsString>,
        /// All of its environment.
        env: Vec<(OsString, OsString)>,
        cwd: PathBuf,
        /// Receives stdout and stderr, appended; /dev/null without.
        log: Option<PathBuf>,
        /// In pid, mount, ipc and uts namespaces of its own with this host name, under an init that passes signals on.
        isolate: Option<String>,
    },
    /// mount(2) in the starter's mount namespace. `source` is what the kernel should show or bind.
    Mount { kind: String, source: PathBuf, target: PathBuf, options: String, bind: bool },
    /// umount(2) there, detached.
    Unmount { target: PathBuf },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    pub label: Label,
    pub mode: Mode,
    pub action: Action,
    /// Leaf of the policy's cgroup branch to be born into; without, and for `Run` by default, `starters`.
    pub leaf: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Hello,
    Start(Box<Start>),
    List,
    /// A signal to the first process of a task; with `tree`, SIGKILL to everything in its leaf as well.
    Signal {
        id: u64,
        signal: i32,
        tree: bool,
    },
    /// Drops an exited task and removes its leaf.
    Forget {
        id: u64,
    },
    /// From now on this connection carries `Reply::Exited` only: first of all exited tasks not yet forgotten.
    Watch,
    /// Kills every task that has not finished starting. Answered `Done` when none is left.
    Settle,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// A runtime is still at work on it.
    Starting,
    Running,
    /// No task is left of it. `code`: exit code, or 128 plus the signal.
    Exited {
        code: i32,
        at_ns: u64,
    },
}

/// One task of the starter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    pub id: u64,
    pub label: Label,
    /// As numbered inside the starter's pid namespace.
    pub pid: i32,
    /// Boot time in ns.
    pub since_ns: u64,
    pub state: TaskState,
    pub leaf: Option<String>,
}

/// What the starter is and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    pub incarnation: u64,
    pub policy: Policy,
    pub pid_namespace: bool,
    pub user_namespace: bool,
    /// Name of this policy's branch from the top of the cgroup2 hierarchy; `None` without.
    pub cgroup: Option<String>,
    /// cgroup2 is hidden in here, because this host has version 1 hierarchies as well and older runtimes refuse that.
    pub unified_hidden: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Greeting(Greeting),
    Started {
        id: u64,
        pid: i32,
    },
    /// A `Run` ended.
    Ended {
        code: i32,
    },
    Tasks(Vec<Task>),
    Exited(Task),
    Done,
    /// Not done, nothing left behind. `no_lease`: the incarnation holds none or is latched.
    Refused {
        no_lease: bool,
        reason: String,
    },
}

impl Message for Label {
    fn write(&self, out: &mut Vec<u8>) {
        for number in [self.container, self.epoch, self.incarnation] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        put_os(out, &self.runtime);
        put_os(out, &self.name);
    }

    fn read(from: &mut Reader<'_>) -> Result<Label, Malformed> {
        Ok(Label {
            container: from.u64()?,
            epoch: from.u64()?,
            incarnation: from.u64()?,
            runtime: from.text()?,
            name: from.text()?,
        })
    }
}

impl Message for Action {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Action::Exec { argv, env, cwd, log, isolate } => {
                out.push(1);
                out.extend_from_slice(&(argv.len() as u32).to_le_bytes());
                argv.iter().for_each(|argument| put_os(out, argument));
                out.extend_from_slice(&(env.len() as u32).to_le_bytes());
                for (name, value) in env {
                    put_os(out, name);
                    put_os(out, value);
                }
                put_os(out, cwd);
                put_option(out, log.as_ref(), |out, log| put_os(out, log));
                put_option(out, isolate.as_ref(), |out, name| put_os(out, name));
            }
            Action::Mount { kind, source, target, options, bind } => {
                out.push(2);
                put_os(out, kind);
                put_os(out, source);
                put_os(out, target);
                put_os(out, options);
                out.push(u8::from(*bind));
            }
            Action::Unmount { target } => {
                out.push(3);
                put_os(out, target);
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Action, Malformed> {
        Ok(match from.u8()? {
            1 => Action::Exec {
                argv: from.list(Reader::os)?,
                env: from.list(|from| Ok((from.os()?, from.os()?)))?,
                cwd: from.path()?,
                log: from.option(Reader::path)?,
                isolate: from.option(Reader::text)?,
            },
            2 => Action::Mount {
                kind: from.text()?,
                source: from.path()?,
                target: from.path()?,
                options: from.text()?,
                bind: from.flag()?,
            },
            3 => Action::Unmount { target: from.path()? },
            _ => return Err(Malformed("unknown action")),
        })
    }
}

impl Message for Start {
    fn write(&self, out: &mut Vec<u8>) {
        self.label.write(out);
        match &self.mode {
            Mode::Run => out.push(1),
            Mode::Workload => out.push(2),
            Mode::Through { pid_file } => {
                out.push(3);
                put_os(out, pid_file);
            }
        }
        self.action.write(out);
        put_option(out, self.leaf.as_ref(), |out, leaf| put_os(out, leaf));
    }

    fn read(from: &mut Reader<'_>) -> Result<Start, Malformed> {
        Ok(Start {
            label: Label::read(from)?,
            mode: match from.u8()? {
                1 => Mode::Run,
                2 => Mode::Workload,
                3 => Mode::Through { pid_file: from.path()? },
                _ => return Err(Malformed("unknown mode")),
            },
            action: Action::read(from)?,
            leaf: from.option(Reader::text)?,
        })
    }
}

impl Message for Request {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Request::Hello => out.push(1),
            Request::Start(start) => {
                out.push(2);
                start.write(out);
            }
            Request::List => out.push(3),
            Request::Signal { id, signal, tree } => {
                out.push(4);
                out.extend_from_slice(&id.to_le_bytes());
                out.extend_from_slice(&signal.to_le_bytes());
                out.push(u8::from(*tree));
            }
            Request::Forget { id } => {
                out.push(5);
                out.extend_from_slice(&id.to_le_bytes());
            }
            Request::Watch => out.push(6),
            Request::Settle => out.push(7),
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Request, Malformed> {
        Ok(match from.u8()? {
            1 => Request::Hello,
            2 => Request::Start(Box::new(Start::read(from)?)),
            3 => Request::List,
            4 => Request::Signal { id: from.u64()?, signal: from.i32()?, tree: from.flag()? },
            5 => Request::Forget { id: from.u64()? },
            6 => Request::Watch,
            7 => Request::Settle,
            _ => return Err(Malformed("unknown request")),
        })
    }
}

impl Message for Task {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_le_bytes());
        self.label.write(out);
        out.extend_from_slice(&self.pid.to_le_bytes());
        out.extend_from_slice(&self.since_ns.to_le_bytes());
        match self.state {
            TaskState::Starting => out.push(1),
            TaskState::Running => out.push(2),
            TaskState::Exited { code, at_ns } => {
                out.push(3);
                out.extend_from_slice(&code.to_le_bytes());
                out.extend_from_slice(&at_ns.to_le_bytes());
            }
        }
        put_option(out, self.leaf.as_ref(), |out, leaf| put_os(out, leaf));
    }

    fn read(from: &mut Reader<'_>) -> Result<Task, Malformed> {
        Ok(Task {
            id: from.u64()?,
            label: Label::read(from)?,
            pid: from.i32()?,
            since_ns: from.u64()?,
            state: match from.u8()? {
                1 => TaskState::Starting,
                2 => TaskState::Running,
                3 => TaskState::Exited { code: from.i32()?, at_ns: from.u64()? },
                _ => return Err(Malformed("unknown state")),
            },
            leaf: from.option(Reader::text)?,
        })
    }
}

impl Message for Greeting {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.incarnation.to_le_bytes());
        out.push(self.policy as u8);
        out.push(u8::from(self.pid_namespace));
        out.push(u8::from(self.user_namespace));
        put_option(out, self.cgroup.as_ref(), |out, name| put_os(out, name));
        out.push(u8::from(self.unified_hidden));
    }

    fn read(from: &mut Reader<'_>) -> Result<Greeting, Malformed> {
        Ok(Greeting {
            incarnation: from.u64()?,
            policy: Policy::from_number(from.u8()?).ok_or(Malformed("unknown policy"))?,
            pid_namespace: from.flag()?,
            user_namespace: from.flag()?,
            cgroup: from.option(Reader::text)?,
            unified_hidden: from.flag()?,
        })
    }
}

impl Message for Reply {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Reply::Greeting(greeting) => {
                out.push(1);
                greeting.write(out);
            }
            Reply::Started { id, pid } => {
                out.push(2);
                out.extend_from_slice(&id.to_le_bytes());
                out.extend_from_slice(&pid.to_le_bytes());
            }
            Reply::Ended { code } => {
                out.push(3);
                out.extend_from_slice(&code.to_le_bytes());
            }
            Reply::Tasks(tasks) => {
                out.push(4);
                out.extend_from_slice(&(tasks.len() as u32).to_le_bytes());
                tasks.iter().for_each(|task| task.write(out));
            }
            Reply::Exited(task) => {
                out.push(5);
                task.write(out);
            }
            Reply::Done => out.push(6),
            Reply::Refused { no_lease, reason } => {
                out.push(7);
                out.push(u8::from(*no_lease));
                put_os(out, reason);
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Reply, Malformed> {
        Ok(match from.u8()? {
            1 => Reply::Greeting(Greeting::read(from)?),
            2 => Reply::Started { id: from.u64()?, pid: from.i32()? },
            3 => Reply::Ended { code: from.i32()? },
            4 => Reply::Tasks(from.list(Task::read)?),
            5 => Reply::Exited(Task::read(from)?),
            6 => Reply::Done,
            7 => Reply::Refused { no_lease: from.flag()?, reason: from.text()? },
            _ => return Err(Malformed("unknown reply")),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn start() -> Start {
        Start {
            label: Label { container: 7, epoch: 3, incarnation: 12, runtime: "crun".into(), name: "web-1".into() },
            mode: Mode::Through { pid_file: "/run/pid".into() },
            action: Action::Exec {
                argv: vec!["crun".into(), OsString::from_vec(vec![0xff, b'x'])],
                env: vec![("A".into(), "b=c".into())],
                cwd: "/".into(),
                log: Some("/log".into()),
                isolate: None,
            },
            leaf: Some("c7-3".into()),
        }
    }

    #[test]
    fn every_message_comes_back_as_it_went() {
        let task = Task {
            id: 4,
            label: start().label,
            pid: 99,
            since_ns: 5,
            state: TaskState::Exited { code: 137, at_ns: 6 },
            leaf: None,
        };
        let mount = Action::Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: "/t".into(),
            options: "lowerdir=/l".into(),
            bind: false,
        };
        for request in [
            Request::Hello,
            Request::Start(Box::new(start())),
            Request::Start(Box::new(Start { mode: Mode::Run, action: mount, leaf: None, ..start() })),
            Request::Start(Box::new(Start {
                mode: Mode::Workload,
                action: Action::Unmount { target: "/t".into() },
                ..start()
            })),
            Request::List,
            Request::Signal { id: 1, signal: 15, tree: true },
            Request::Forget { id: 2 },
            Request::Watch,
            Request::Settle,
        ] {
            assert_eq!(Request::parse(&request.frame()[4..]), Ok(request));
        }
        let greeting = Greeting {
            incarnation: 9,
            policy: Policy::Keep,
            pid_namespace: true,
            user_namespace: false,
            cgroup: Some("/q/i9/keep".into()),
            unified_hidden: true,
        };
        for reply in [
            Reply::Greeting(greeting),
            Reply::Started { id: 1, pid: 2 },
            Reply::Ended { code: -1 },
            Reply::Tasks(vec![task.clone(), Task { state: TaskState::Starting, ..task.clone() }]),
            Reply::Exited(task),
            Reply::Done,
            Reply::Refused { no_lease: true, reason: "over".into() },
        ] {
            assert_eq!(Reply::parse(&reply.frame()[4..]), Ok(reply));
        }
    }

    #[test]
    fn every_shortened_or_lengthened_message_is_refused() {
        let frame = Request::Start(Box::new(start())).frame();
        for length in 4..frame.len() {
            assert!(Request::parse(&frame[4..length]).is_err(), "cut at {length}");
        }
        let mut longer = frame.clone();
        longer.push(0);
        assert_eq!(Request::parse(&longer[4..]), Err(Malformed("bytes left over")));
        let mut foreign = frame;
        foreign[4] = PROTOCOL + 1;
        assert_eq!(Request::parse(&foreign[4..]), Err(Malformed("another protocol version")));
    }

    #[test]
    fn frames_are_taken_one_by_one_and_long_ones_refused() {
        let mut buffer = Request::Hello.frame();
        buffer.extend(Request::List.frame());
        let last = buffer.pop().expect("a byte");
        assert_eq!(Request::parse(&take_frame(&mut buffer).expect("fits").expect("whole")), Ok(Request::Hello));
        assert_eq!(take_frame(&mut buffer), Ok(None));
        buffer.push(last);
        assert_eq!(Request::parse(&take_frame(&mut buffer).expect("fits").expect("whole")), Ok(Request::List));
        let mut long = (FRAME_BYTES_MAX as u32 + 1).to_le_bytes().to_vec();
        assert_eq!(take_frame(&mut long), Err(Malformed("frame too long")));
    }
}

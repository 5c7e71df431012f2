//! What every runtime does: start one epoch of one container, end it, and say what is there.
//! In: `StartSpec`, built by the caller down to the last variable. Out: facts about whole trees of processes, never
//! about a first process alone. What runs is known by the starter's labels and survives an agent's restart.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::time::Duration;

use cluster::{ContainerId, Epoch, Incarnation, OnQuorumLoss};
use guard::starter::StarterError;

/// One epoch of one container: the key of everything a runtime knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Workload {
    pub container: ContainerId,
    pub epoch: Epoch,
    /// The registration it was started under.
    pub incarnation: Incarnation,
    /// Of the tree it lives in.
    pub policy: OnQuorumLoss,
}

impl fmt::Display for Workload {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.container, self.epoch)
    }
}

/// All a runtime needs to start a container.
#[derive(Clone, Debug)]
pub struct StartSpec {
    pub workload: Workload,
    /// For people; never a path.
    pub name: String,
    /// Argument vector, not empty.
    pub command: Vec<String>,
    /// The whole environment, `QUORATE_…` included. With `QUORATE_PRIVATE_AREA` the OCI runtime passes /data on.
    pub env: Vec<(String, String)>,
    /// Exists and is claimed. `process` starts in it; `oci` binds it to /data.
    pub private_area: PathBuf,
    /// Where it starts in its root file system; `None` is the private area. `process` always starts there.
    pub working_dir: Option<String>,
    /// What the root file system is made of, the lowest first: the OS template, then its application templates in their
    /// order. Empty is the node's own root.
    pub layers: Vec<PathBuf>,
    /// 0 is no limit.
    pub cpu_millis: u64,
    /// 0 is no limit.
    pub memory_bytes: u64,
    pub hostname: String,
}

/// A workload a runtime found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub workload: Workload,
    /// Boot time in ns at which it was started.
    pub since_ns: u64,
    /// False: its first process has ended and `stop` has not cleared it away yet.
    pub alive: bool,
}

/// The first process of a workload ended, and with it the whole tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exited {
    pub workload: Workload,
    /// Exit code, or 128 plus the signal.
    pub code: i32,
}

/// A way to run containers.
pub trait Runtime: Send + Sync {
    /// `crun`, `runc`, `process`.
    fn name(&self) -> &'static str;

    /// Runs the workload; comes back when its program has begun. What an earlier failed start of this container left
    /// is cleared away first; after an error nothing of this one is left either.
    fn start(&self, spec: &StartSpec) -> Result<(), DriverError>;

    /// Sends SIGTERM, after `grace` SIGKILL, and comes back when no task is left and all that was made for it is gone.
    /// Also for what has ended already or was never there. A second call with a shorter grace counts.
    fn stop(&self, workload: &Workload, grace: Duration) -> Result<(), DriverError>;

    /// Everything this runtime has started and nobody has stopped, whoever the agent was then. Starts under way when
    /// it is first asked are ended, not counted.
    fn found(&self) -> Result<Vec<Found>, DriverError>;

    /// Tells every exit from now on, and those nobody has cleared away yet. An exit may be told twice.
    fn watch(&self, exits: Sender<Exited>);
}

/// Why a driver did not do it.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The incarnation holds no lease now, or is latched. Nothing was started.
    #[error("start {workload}: no lease")]
    NoLease { workload: Workload },
    /// This container has a living workload already.
    #[error("start {workload}: {living} still lives")]
    StillLives { workload: Workload, living: Workload },
    #[error("stop {workload}: tasks are left {waited_ms} ms after the kill")]
    WillNotDie { workload: Workload, waited_ms: u64 },
    /// The runtime said so, in its own words.
    #[error("{operation} {workload}: {reason}")]
    Runtime { operation: &'static str, workload: Workload, reason: String },
    #[error("{operation} {workload}")]
    Starter { operation: &'static str, workload: Workload, source: StarterError },
    #[error("{operation} {}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    /// The starter of a whole policy cannot be asked.
    #[error("{operation}")]
    Unreachable { operation: &'static str, source: StarterError },
}

impl DriverError {
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> DriverError {
        let path = path.into();
        move |source| DriverError::Io { operation, path, source }
    }

    /// From the starter's answer to an order about `workload`.
    pub(crate) fn starter(operation: &'static str, workload: Workload) -> impl FnOnce(StarterError) -> DriverError {
        move |source| match source {
            StarterError::Refused { no_lease: true, .. } => DriverError::NoLease { workload },
            StarterError::Refused { reason, .. } => DriverError::Runtime { operation, workload, reason },
            source => DriverError::Starter { operation, workload, source },
        }
    }
}

/// The policy as the guard names it.
pub(crate) fn guard_policy(policy: OnQuorumLoss) -> ::guard::Policy {
    match policy {
        OnQuorumLoss::Stop => ::guard::Policy::Stop,
        OnQuorumLoss::Keep => ::guard::Policy::Keep,
    }
}

//! What is done to a cluster from outside, as data: faults, what operators and clients ask for.
//! A layout and a schedule of deeds, each harmless where it does not fit, so that any part of a schedule may be left out
//! without changing the meaning of the rest.
//! Absent: how a deed is done; the world knows. Which are done in the run of a seed: `swarm`.

use std::sync::Arc;

use cluster::{OnQuorumLoss, Profile, Role};
use serde::{Deserialize, Serialize};

use crate::sim::clock::God;
use crate::sim::disk::Speed;
use crate::sim::net::{Site, Weather};

/// One machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub member: bool,
    pub node: Option<Role>,
    /// How much faster than god's its lease clock runs, in parts per million; within ±ε.
    pub rate_ppm: i64,
}

/// What a run starts from. Machine `k` of the list is `Site(k + 1)`; its node is n(k+1), its member m(k+1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layout {
    pub machines: Vec<Machine>,
    pub profile: Profile,
    pub weather: Weather,
    pub disk: Speed,
    pub snapshot_every: u64,
    /// Settings that are short where a run is short; times in milliseconds.
    pub boot_grace_ms: u64,
    pub brake_quiet_ms: u64,
    pub clients: u32,
    /// A member's timer fires after so many of the ticks it asked for: a busy machine is late. 1 or more.
    pub tick_stretch: u64,
    /// Every node has a power switch that the members can ask: class F3.
    pub power_switch: bool,
}

/// Where in its work a member dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CrashPoint {
    BeforePersist,
    AfterPersist,
    BeforeSend,
    BeforeApplied,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Deed {
    PowerOff(Site),
    PowerOn(Site),
    /// Everything on it stands still, clocks go on.
    Freeze(Site),
    /// Likewise, and the clock that does not count suspend does not count it.
    Suspend(Site),
    /// Likewise, and no clock counts it: what a hypervisor does to a machine. Outside what F1 promises for a node.
    StopClock(Site),
    Thaw(Site),
    /// The wall clock jumps by so many milliseconds.
    Wall {
        at: Site,
        ms: i64,
    },
    /// Nothing gets from the first to the second.
    Cut(Site, Site),
    Mend(Site, Site),
    /// Nothing gets in or out.
    Isolate(Site),
    Rejoin(Site),
    /// Extra delay one way.
    Slow(Site, Site, u64),
    /// Every stream of the machine breaks; the next ones work.
    ResetStreams(Site),
    Weather(Weather),

    /// Its supervisor starts it again after `down`.
    KillMember {
        at: Site,
        down: u64,
    },
    /// It dies at the `after`-th time it gets to this point; with the machine's power if `power`.
    CrashMember {
        at: Site,
        point: CrashPoint,
        after: u32,
        power: bool,
    },
    PauseMember(Site),
    ResumeMember(Site),
    KillAgent {
        at: Site,
        down: u64,
    },
    PauseAgent(Site),
    ResumeAgent(Site),
    /// Agent and guard at once: the kernel ends what must not outlive them.
    KillGuard {
        at: Site,
        down: u64,
    },
    KillNode {
        at: Site,
        down: u64,
    },

    StallDisk {
        at: Site,
        length: u64,
    },
    FailSync(Site),
    /// No room for anything more, for a while.
    FullDisk {
        at: Site,
        length: u64,
    },
    /// For a while snapshots that leave this member break off midway, or arrive with a bit flipped.
    BreakSnapshots {
        at: Site,
        length: u64,
    },
    /// The member's folder is empty at its next start, under the same id.
    WipeDisk(Site),
    /// One bit of what is stored flips; noticed at the next start.
    RotDisk {
        at: Site,
        place: u64,
    },

    /// Within ±ε.
    Rate {
        at: Site,
        ppm: i64,
    },
    /// What the runtime does on this machine for a while: every stop takes this long, every start fails.
    SlowStops {
        at: Site,
        length: u64,
        stop: u64,
    },
    FailStarts {
        at: Site,
        length: u64,
    },
    /// No storage answers on this machine for a while.
    LoseStorage {
        at: Site,
        length: u64,
    },
    /// No kill works there for a while: tasks wait in the kernel.
    HangKills {
        at: Site,
        length: u64,
    },
    /// The runtime says that starts failed which did not.
    LyingStarts {
        at: Site,
        length: u64,
    },
    /// The first task of some container there ends by itself.
    Exit {
        at: Site,
        code: i32,
    },

    TransferLeader(Option<Site>),
    AddMember(Site),
    RemoveMember(Site),
    /// Graceful: everything stops, the incarnation is latched, the agent says so and ends. Back at the next power-on.
    Leave(Site),
    /// The operator looked: the machine is off. Asked for only where it is.
    ConfirmDown(Site),
    /// The first desired set its incarnation was ever sent arrives there once more.
    Replay(Site),
    /// A machine made from a copy of this node's disk speaks to the members, once.
    Clone(Site),
    /// The node's last registration and farewell reach the leader once more.
    Echo(Site),
    /// The member there is the survivor of a new generation, or one of those that are read with it.
    Recover {
        at: Site,
        with: Vec<Site>,
    },
    /// The node is told to serve the newest generation.
    Cross(Site),
    Ask {
        client: u32,
        ask: Ask,
    },
}

/// What a client asks for. Containers and nodes by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    Create {
        name: Arc<str>,
        memory_mib: u64,
        policy: OnQuorumLoss,
        preferred: Option<Site>,
    },
    Start(Arc<str>),
    Stop(Arc<str>),
    Delete(Arc<str>),
    Restart(Arc<str>),
    Move {
        name: Arc<str>,
        to: Option<Site>,
    },
    Annotate {
        name: Arc<str>,
        key: Arc<str>,
        value: Arc<str>,
    },
    /// What it shall do without a majority, from its next epoch on.
    SetPolicy {
        name: Arc<str>,
        policy: OnQuorumLoss,
    },
    Cordon(Site),
    Uncordon(Site),
    Drain(Site),
    Maintain(Site),
    Return(Site),
    /// An operator wants a node fenced, and be it well.
    Fence(Site),
    SetRole(Site, Role),
    SetProfile(Profile),
    ReleaseBrake,
    Read,
    /// At one container, through any member; at what that member happens to know, if `stale`.
    Look {
        name: Arc<str>,
        stale: bool,
    },
}

impl Ask {
    /// The container it is about.
    pub fn name(&self) -> Option<&Arc<str>> {
        match self {
            Ask::Create { name, .. }
            | Ask::Start(name)
            | Ask::Stop(name)
            | Ask::Delete(name)
            | Ask::Restart(name)
            | Ask::Move { name, .. }
            | Ask::Annotate { name, .. }
            | Ask::SetPolicy { name, .. }
            | Ask::Look { name, .. } => Some(name),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timed {
    pub at: God,
    pub deed: Deed,
}

/// A whole run as data.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub seed: u64,
    pub layout: Layout,
    /// By time.
    pub schedule: Vec<Timed>,
    /// Until then things break; afterwards everything is healed and must recover.
    pub faults_until: God,
}

impl Layout {
    pub fn sites(&self) -> impl Iterator<Item = Site> + use<> {
        (1..=self.machines.len() as u32).map(Site)
    }

    pub fn members(&self) -> Vec<Site> {
        self.sites().filter(|site| self.machines[site.0 as usize - 1].member).collect()
    }

    pub fn nodes(&self) -> Vec<Site> {
        self.sites().filter(|site| self.machines[site.0 as usize - 1].node.is_some()).collect()
    }
}

impl Deed {
    /// How long things take, for whoever wants them shorter.
    pub fn lengths(&mut self) -> Vec<&mut u64> {
        match self {
            Deed::Slow(_, _, length)
            | Deed::KillMember { down: length, .. }
            | Deed::KillAgent { down: length, .. }
            | Deed::KillGuard { down: length, .. }
            | Deed::KillNode { down: length, .. }
            | Deed::StallDisk { length, .. }
            | Deed::FailStarts { length, .. }
            | Deed::LoseStorage { length, .. }
            | Deed::LyingStarts { length, .. }
            | Deed::FullDisk { length, .. }
            | Deed::BreakSnapshots { length, .. }
            | Deed::HangKills { length, .. } => vec![length],
            Deed::SlowStops { length, stop, .. } => vec![length, stop],
            _ => Vec::new(),
        }
    }

    /// Whether it makes anything worse: not done any more once everything was healed.
    pub(crate) fn breaks(&self) -> bool {
        !matches!(
            self,
            Deed::PowerOn(_)
                | Deed::Thaw(_)
                | Deed::Mend(..)
                | Deed::Rejoin(_)
                | Deed::ResumeMember(_)
                | Deed::ResumeAgent(_)
                | Deed::AddMember(_)
        )
    }
}

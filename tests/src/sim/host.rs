//! Machines and what lives on them: a member with its disk, a node with its agent, its guard and what it really runs.
//! In and out: nothing; this is what the world keeps of each. The deeds are in `world`, `members`, `agents`.

use std::collections::{BTreeMap, VecDeque};

use cluster::agent::MembershipIdentity;
use cluster::{BootId, ContainerId, Epoch, Generation, Incarnation, MemberId, Moment, NodeId, OnQuorumLoss, Span};
use decide::{Agent, GuardSays, Guardian, Journal, Record};
use record::{Identity, SnapshotMeta};
use replica::{Link, Replica, Ticket};
use std::sync::Arc;

use crate::sim::checks::Standing;
use crate::sim::clock::{Clock, God, MS};
use crate::sim::deeds::CrashPoint;
use crate::sim::disk::Disk;
use crate::sim::happenings::Happening;
use crate::sim::mirror::Mirror;
use crate::sim::net::Site;

/// One machine. Dead while it has no power; what stands still keeps its memory.
pub struct Machine {
    pub site: Site,
    pub clock: Clock,
    pub rate_ppm: i64,
    pub powered: bool,
    pub boot: BootId,
    pub frozen_since: Option<God>,
    /// What stands still is suspended: one of its clocks does not count that.
    pub suspended: bool,
    pub thawed_at: Option<God>,
    /// What stands still has no clock either.
    pub clock_stopped: bool,
    /// Until then its clocks may deceive it about leases.
    pub blind_until: God,
    /// What its wall clock is off by.
    pub wall_ms: i64,
    pub wall_jumped: bool,
    /// What arrived while everything stood still.
    pub waiting: Vec<Happening>,
    pub member: Option<MemberId>,
    pub node: Option<NodeId>,
    /// K and μ that were last in force here, for `standing`.
    pub after_lease: Span,
}

impl Machine {
    pub fn standing(&self, god: God) -> Standing {
        let grace = self.after_lease.0 + 100 * MS;
        let just_thawed = self.thawed_at.is_some_and(|at| god.saturating_sub(at) <= grace);
        Standing {
            clock: self.clock,
            exposed: self.frozen_since.is_some() || just_thawed || god < self.blind_until,
            blind: self.clock_stopped || god < self.blind_until,
        }
    }

    pub fn lives(&self) -> bool {
        self.powered && self.frozen_since.is_none()
    }
}

/// A member: its store, and its process while it has one.
pub struct Member {
    pub id: MemberId,
    pub site: Site,
    pub identity: Identity,
    /// What its papers say.
    pub generation: Generation,
    pub disk: Disk,
    /// Counts processes; what belongs to an earlier one is void.
    pub life: u32,
    pub process: Option<MemberProcess>,
    pub paused: bool,
    pub waiting: Vec<Happening>,
    /// It must not be started again: its data is damaged or lost, or it was removed.
    pub retired: Option<String>,
    /// Its data was damaged behind its back.
    pub damaged: bool,
    /// What its log holds, as written: for the oracles.
    pub mirror: Mirror,
    /// Until then what it sends of snapshots breaks off or is wrong.
    pub snapshots_break_until: God,
    /// Dies at this point when the count gets to zero; with the machine if the flag says so.
    pub crash: Option<(CrashPoint, u32, bool)>,
}

pub struct MemberProcess {
    pub replica: Replica,
    pub turn_due: bool,
    /// The revision and hash of the state the oracles have seen.
    pub shown: Option<(cluster::Revision, cluster::StateHash)>,
    pub led: Option<u64>,
    pub tickets: BTreeMap<Ticket, Asker>,
    pub next_ticket: u64,
    /// The newest stream heard of each peer.
    pub streams: BTreeMap<MemberId, u64>,
    /// Snapshots being built, by index.
    pub building: Option<SnapshotMeta>,
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    pub client: u32,
    pub question: u64,
    pub attempt: u32,
}

/// A node: what survives its agent, and its agent and guard while they live.
pub struct Node {
    pub id: NodeId,
    pub site: Site,
    /// What its identity says.
    pub generation: Generation,
    pub capacity_mib: u64,
    /// What is durable of the journal.
    pub journal: Journal,
    /// Ordered and not durable yet, oldest first.
    pub unsynced: VecDeque<(u64, Record)>,
    pub life: u32,
    pub agent: Option<AgentProcess>,
    pub agent_paused: bool,
    pub waiting: Vec<Happening>,
    pub guard: Option<Guardian>,
    /// Counts guards; wakes of an earlier one are void.
    pub guard_life: u32,
    pub guard_wake: u64,
    /// The slot, while no guard watches it.
    pub slot: GuardSays,
    /// Left gracefully: started again by the next boot only.
    pub left: bool,
    /// The first desired set that was sent to its newest incarnation.
    pub old_set: Option<Arc<cluster::agent::DesiredSet>>,
    /// And to the one before it.
    pub older_set: Option<Arc<cluster::agent::DesiredSet>>,
    pub works: BTreeMap<(ContainerId, Epoch), Work>,
    pub fail_starts_until: God,
    /// Until then no storage answers there.
    pub storage_lost_until: God,
    pub slow_stops: (God, u64),
    /// Until then no kill works: tasks wait in the kernel.
    pub hung_until: God,
    /// Until then the runtime says that what it started failed.
    pub lying_until: God,
    /// The last registration and the last farewell, by kind.
    pub said: BTreeMap<u8, cluster::agent::ToLeader>,
}

pub struct AgentProcess {
    pub agent: Agent,
    pub wake: u64,
    pub membership: Option<Arc<MembershipIdentity>>,
    pub session: Option<Link>,
    /// An attempt to open a session, and since when.
    pub seeking: Option<(Link, God)>,
    pub hint: Option<MemberId>,
    pub tried: usize,
    pub said: Moment,
    /// What it was last told to look at.
    pub watch: Arc<cluster::agent::Watch>,
}

/// One epoch of one container as the kernel has it.
#[derive(Clone, Debug)]
pub struct Work {
    pub incarnation: Incarnation,
    pub policy: OnQuorumLoss,
    pub phase: WorkPhase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkPhase {
    /// A helper in `starters` is at it.
    Starting,
    /// Its tasks execute.
    Alive,
    /// The first task is gone, the rest and the mount are there.
    Remains,
}

/// One stream between an agent and a member it takes for the leader.
pub struct Session {
    pub node: NodeId,
    /// As the agent's hello said.
    pub generation: Generation,
    pub agent_life: u32,
    pub member: MemberId,
    pub member_life: u32,
    /// Nothing gets through any more; both ends will notice.
    pub broken: bool,
    /// Which ends have noticed that it is over.
    pub ended: (bool, bool),
    /// The last arrival in each direction: a stream keeps its order.
    pub up: God,
    pub down: God,
}

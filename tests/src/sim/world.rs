//! The world: one thread, one heap of happenings by time, god's clock.
//! In: a plan. Out: a run, the same for the same plan. Each happening is handed to the process it is for, if that process
//! lives; what a process orders becomes new happenings. Reading order: here, then `members`, `agents`, `clients`, `acts`.
//! Absent: any decision about the cluster; the real `Replica`, `Agent`, `Guardian` and record logic make those.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use cluster::agent::{Heartbeat, HeartbeatReply, ToAgent, ToLeader};
use cluster::planner::Plan as Planned;
use cluster::{
    Bootstrap, ClusterId, Command, ContainerId, Entry, Epoch, Member as MemberRecord, MemberId, Name, NodeId,
    Resources, Revision, SecretHash, Settings, Span, State, StorageKind, TemplateKind, WallTime,
};
use decide::{GuardSays, Journal};
use record::{Identity, LogPoint, SnapshotMeta};
use replica::{Change, Link, PeerMessage, RaftMessage};

use crate::sim::agenda::Agenda;
use crate::sim::chance::Chance;
use crate::sim::checks::Checks;
use crate::sim::clients::{Client, Operator};
use crate::sim::clock::{Clock, God, MS, SECOND};
use crate::sim::coverage::Coverage;
use crate::sim::deeds::{Layout, Plan};
use crate::sim::disk::Disk;
use crate::sim::histories::Histories;
use crate::sim::host::{Machine, Member, Mirror, Node, Session};
use crate::sim::net::{Fate, Net, Site};
use crate::sim::rules::Rules;
use crate::sim::transcript::{Line, Transcript};

/// The whole of a cluster and everything around it.
pub struct World {
    pub now: God,
    pub layout: Layout,
    pub(crate) plan: Vec<crate::sim::deeds::Timed>,
    agenda: Agenda,
    pub(crate) net: Net,
    pub machines: BTreeMap<Site, Machine>,
    pub members: BTreeMap<MemberId, Member>,
    pub nodes: BTreeMap<NodeId, Node>,
    pub(crate) sessions: BTreeMap<Link, Session>,
    pub(crate) next_link: u64,
    /// The stream between two members, by direction: its number, and the processes it joins.
    pub(crate) streams: BTreeMap<(MemberId, MemberId), (u64, u32, u32)>,
    pub(crate) next_stream: u64,
    pub clients: Vec<Client>,
    pub(crate) operator: Operator,
    /// The claim files on the shared storage: the highest epoch written, and by whom.
    pub(crate) claims: BTreeMap<ContainerId, (Epoch, NodeId, u128)>,
    /// Containers whose machine died under them: the epoch that ran, and since when.
    pub(crate) dark: BTreeMap<ContainerId, (Epoch, God)>,
    /// The newest state any member has applied.
    pub newest: State,
    pub checks: Checks,
    pub(crate) histories: Histories,
    pub(crate) rules: Rules,
    pub transcript: Transcript,
    pub counts: Counts,
    pub(crate) cluster: ClusterId,
    pub(crate) seed: u64,
    pub(crate) boots: u64,
    /// The foundation every member of the first hour starts from.
    pub(crate) chance: Chance,
    pub(crate) runtime_chance: Chance,
    pub(crate) parsed: BTreeMap<(u64, u64, u64), crate::sim::members::Parsed>,
    pub(crate) healed: bool,
    /// Happenings since time last moved.
    standstill: u32,
}

/// What a run was made of.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub scheduled: u64,
    pub handled: u64,
    /// For a process that was gone, a session that was closed, a wake that was replaced.
    pub void: u64,
    /// Of messages, never scheduled.
    pub lost: u64,
    pub deeds: u64,
    pub deeds_idle: u64,
    /// By kind of deed.
    pub faults: BTreeMap<&'static str, u64>,
    pub trace: u64,
    /// Silence to the first start elsewhere, in nanoseconds; one a container moved by failover.
    pub failovers: Vec<u64>,
    pub transitions: BTreeMap<&'static str, u64>,
    pub coverage: Coverage,
}

impl Counts {
    pub(crate) fn mix(&mut self, word: u64) {
        self.trace = (self.trace ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17);
    }
}

/// Something that is due. `life` names the process it is for.
#[derive(Debug)]
pub enum Happening {
    /// Of the schedule, by place.
    Deed(usize),
    /// A look at everything that runs, by the oracles.
    Sweep,
    Member {
        member: MemberId,
        life: u32,
        what: ToMember,
    },
    /// From another machine, for whatever process listens there.
    Mail {
        member: MemberId,
        mail: Mail,
    },
    Node {
        node: NodeId,
        life: u32,
        what: ToNode,
    },
    Guard {
        node: NodeId,
        life: u32,
        what: ToGuard,
    },
    /// The kernel and the helpers of a node; they outlive agents and end with the boot.
    Hands {
        node: NodeId,
        boot: u128,
        act: Act,
    },
    Client {
        client: u32,
        what: ToClient,
    },
    /// A supervisor starts it again.
    StartMember {
        member: MemberId,
        life: u32,
    },
    StartAgent {
        node: NodeId,
        life: u32,
    },
    StartGuard {
        node: NodeId,
        life: u32,
    },
    /// Both ends of a broken stream notice, each in its time.
    SessionEnds {
        link: Link,
        end: End,
    },
    /// The power switch of a node was asked for, for this incarnation.
    Switch {
        member: MemberId,
        life: u32,
        node: NodeId,
        incarnation: cluster::Incarnation,
    },
    /// Power returns to a machine once the receipt is there *(12)*.
    SwitchOn {
        node: NodeId,
    },
    /// A machine that rebooted itself is back.
    Booted {
        site: Site,
    },
    Operator,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Agent,
    Member,
}

/// From a member's own hands.
#[derive(Debug)]
pub enum ToMember {
    Tick,
    Turn,
    Synced { group: u64, number: u64, planned: God },
    SnapshotBuilt(Box<Built>),
    SnapshotSent { peer: MemberId, taken: bool },
    Planned { plan: Box<Planned> },
    Unreachable { peer: MemberId },
}

/// From elsewhere.
#[derive(Debug)]
pub enum Mail {
    Peer { from: MemberId, stream: u64, words: Box<(LogPoint, PeerMessage)> },
    Snapshot(Box<Shipment>),
    Heartbeat { link: Link, node: NodeId, heartbeat: Box<Heartbeat> },
    Open { link: Link },
    Said { link: Link, message: Box<ToLeader> },
    Question { client: u32, question: u64, attempt: u32, ask: Box<Wish> },
}

/// A snapshot as a member builds it.
#[derive(Debug)]
pub struct Built {
    pub meta: SnapshotMeta,
    pub body: Vec<u8>,
}

/// A snapshot on its way, with the message that announces it.
#[derive(Debug)]
pub struct Shipment {
    pub from: MemberId,
    pub from_life: u32,
    pub message: Box<RaftMessage>,
    pub meta: SnapshotMeta,
    pub body: Vec<u8>,
}

/// What a client or an operator wants of a member.
#[derive(Clone, Debug, PartialEq)]
pub enum Wish {
    Propose {
        sequence: u64,
        command: Command,
    },
    Read,
    /// One container; of what this member happens to know, if `stale`.
    Look {
        name: Arc<str>,
        stale: bool,
    },
    Change(Change),
    Transfer(Option<MemberId>),
}

#[derive(Debug)]
pub enum ToNode {
    Wake { number: u64 },
    Reply(Box<HeartbeatReply>),
    Accepted { link: Link },
    Refused { link: Link, hint: Option<MemberId> },
    Said { link: Link, message: Box<ToAgent> },
    JournalSynced { sequence: u64 },
    Slot(GuardSays),
    Looked { ask: u64 },
    Happened { container: ContainerId, epoch: Epoch, what: Box<decide::Happened> },
}

#[derive(Debug)]
pub enum ToGuard {
    Wake { number: u64 },
    Emptied { incarnation: cluster::Incarnation },
    Recorded { incarnation: cluster::Incarnation },
}

#[derive(Clone, Debug)]
pub enum Act {
    Claim {
        container: ContainerId,
        epoch: Epoch,
    },
    Run {
        container: ContainerId,
        epoch: Epoch,
    },
    /// Its tasks end, by signal or by themselves.
    End {
        container: ContainerId,
        epoch: Epoch,
    },
    /// Unmounted, nothing left; the agent is told if it asked.
    Gone {
        container: ContainerId,
        epoch: Epoch,
        tell: bool,
    },
    Prepared {
        container: ContainerId,
        epoch: Epoch,
    },
}

#[derive(Debug)]
pub enum ToClient {
    Answer { question: u64, attempt: u32, answer: Box<Answered> },
    Timeout { question: u64, attempt: u32 },
    Again { question: u64, attempt: u32 },
}

/// An answer as it travels to a client.
#[derive(Clone, Debug)]
pub enum Answered {
    Applied { revision: Revision, outcome: cluster::Outcome },
    State { revision: Revision },
    Seen { revision: Revision, view: Option<crate::history::View> },
    Done,
    NotLeader { hint: Option<MemberId> },
    Again,
    Refused(String),
}

pub(crate) const DISK_CLUSTER: [u8; 16] = *b"quorate-sim-disk";
/// More than ever happens at one moment, unless two processes keep each other busy without end.
const STANDSTILL: u32 = 50_000;
/// Wall clocks begin here; nothing that matters looks at them.
const EPOCH_MS: u64 = 1_800_000_000_000;

impl World {
    pub fn new(plan: &Plan, transcript: Transcript) -> World {
        let Plan { seed, layout, schedule, .. } = plan.clone();
        let cluster = ClusterId(0x5eed_0000_0000_0000_0000_0000_0000_0000 | u128::from(seed));
        let state = foundation(cluster, &layout);
        let mut world = World {
            now: 0,
            net: Net::new(layout.weather, Chance::new(seed, "net")),
            layout,
            plan: schedule,
            agenda: Agenda::default(),
            machines: BTreeMap::new(),
            members: BTreeMap::new(),
            nodes: BTreeMap::new(),
            sessions: BTreeMap::new(),
            next_link: 1,
            streams: BTreeMap::new(),
            next_stream: 1,
            clients: Vec::new(),
            operator: Operator::default(),
            claims: BTreeMap::new(),
            dark: BTreeMap::new(),
            newest: state.clone(),
            checks: Checks::default(),
            histories: Histories::default(),
            rules: Rules::default(),
            transcript,
            counts: Counts::default(),
            cluster,
            seed,
            boots: 0,
            chance: Chance::new(seed, "world"),
            runtime_chance: Chance::new(seed, "runtime"),
            parsed: BTreeMap::new(),
            healed: false,
            standstill: 0,
        };
        world.populate(&state);
        world
    }

    fn populate(&mut self, state: &State) {
        let body: Vec<u8> = crate::sim::members::snapshot_of(state);
        let point = LogPoint { index: state.revision().0, term: 1 };
        let meta = SnapshotMeta::of(point, replica::encode_membership(state.membership()), &body);
        let machines = self.layout.machines.clone();
        let (mut members, mut nodes) = (0, 0);
        for (place, machine) in machines.iter().enumerate() {
            let site = Site(place as u32 + 1);
            let boot = self.new_boot();
            let clock = Clock::new(0, 10 * SECOND + place as u64 * SECOND, machine.rate_ppm);
            let member = machine.member.then(|| {
                members += 1;
                MemberId(members)
            });
            let node = machine.node.map(|_| {
                nodes += 1;
                NodeId(nodes)
            });
            let after_lease = Span(state.settings().terms.kill.0 + state.settings().terms.margin.0);
            let standing = Machine {
                site,
                clock,
                rate_ppm: machine.rate_ppm,
                powered: true,
                boot,
                frozen_since: None,
                suspended: false,
                thawed_at: None,
                clock_stopped: false,
                blind_until: 0,
                wall_ms: 0,
                wall_jumped: false,
                waiting: Vec::new(),
                member,
                node,
                after_lease,
            };
            self.machines.insert(site, standing);
            if let Some(id) = member {
                self.add_member_host(id, site, Some((&meta, &body)));
                let boots = self.jitter(MS);
                self.after(boots, Happening::StartMember { member: id, life: 0 });
            }
            if let Some(id) = node {
                let journal = Journal::fresh(boot, state.settings().terms);
                self.nodes.insert(id, Node::new(id, site, journal));
                let boots = self.jitter(MS);
                self.after(boots, Happening::StartGuard { node: id, life: 0 });
                self.after(boots + MS, Happening::StartAgent { node: id, life: 0 });
            }
        }
        for number in 0..=self.layout.clients {
            self.clients.push(Client::new(number, self.seed));
        }
        for place in 0..self.plan.len() {
            self.at(self.plan[place].at, Happening::Deed(place));
        }
        self.after(SECOND, Happening::Sweep);
    }

    pub(crate) fn add_member_host(&mut self, id: MemberId, site: Site, founded: Option<(&SnapshotMeta, &[u8])>) {
        let identity = Identity { cluster: DISK_CLUSTER, member: id.0, incarnation: 1 };
        let chance = Chance::new(self.seed ^ id.0.wrapping_mul(0x9e37_79b9), "disk");
        let disk = Disk::new(identity, founded, self.layout.disk, chance);
        let member = Member {
            id,
            site,
            identity,
            disk,
            life: 0,
            process: None,
            paused: false,
            waiting: Vec::new(),
            retired: None,
            damaged: false,
            snapshots_break_until: 0,
            mirror: Mirror::default(),
            crash: None,
        };
        self.members.insert(id, member);
    }

    pub(crate) fn new_boot(&mut self) -> cluster::BootId {
        self.boots += 1;
        cluster::BootId(u128::from(self.boots) << 96 | 0xb007)
    }

    // ── Time ───────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn at(&mut self, at: God, what: Happening) {
        self.counts.scheduled += 1;
        self.agenda.push(at.max(self.now), what);
    }

    pub(crate) fn after(&mut self, delay: u64, what: Happening) {
        self.at(self.now + delay, what);
    }

    /// A little time, as things take.
    pub(crate) fn jitter(&mut self, about: u64) -> u64 {
        about / 2 + self.chance.below(about + 1)
    }

    /// Goes on until `until`, or until a promise is broken. A mind that panics has broken one.
    pub fn run(&mut self, until: God) {
        let whole = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while self.checks.first.is_none() {
                let Some((at, what)) = self.agenda.pop_by(until) else { break };
                self.standstill = if at > self.now { 0 } else { self.standstill + 1 };
                self.now = at;
                self.dispatch(what);
                if self.standstill > STANDSTILL {
                    self.checks.violate(at, "Livelock", format!("{STANDSTILL} happenings at one moment"));
                }
            }
        }));
        if let Err(panic) = whole {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            self.checks.violate(self.now, "Panic", text.unwrap_or("without a word").to_owned());
        } else if self.checks.first.is_none() {
            self.now = self.now.max(until);
        }
    }

    /// Nothing was scheduled and forgotten: the simulator's own conservation law.
    pub fn unaccounted(&self) -> i64 {
        let waiting: usize = self.machines.values().map(|machine| machine.waiting.len()).sum::<usize>()
            + self.members.values().map(|member| member.waiting.len()).sum::<usize>()
            + self.nodes.values().map(|node| node.waiting.len()).sum::<usize>();
        let known = self.counts.handled + self.counts.void + self.agenda.len() as u64 + waiting as u64;
        self.counts.scheduled as i64 - known as i64
    }

    fn dispatch(&mut self, what: Happening) {
        if let Some(site) = self.site_of(&what)
            && let Some(machine) = self.machines.get_mut(&site)
        {
            if !machine.powered {
                return self.void(what);
            }
            if machine.frozen_since.is_some() {
                return machine.waiting.push(what);
            }
        }
        let code = what.code();
        let now = self.now;
        self.counts.mix(now ^ (code << 56));
        match what {
            Happening::Deed(place) => {
                self.counts.handled += 1;
                let deed = self.plan[place].deed.clone();
                self.act_out(&deed);
            }
            Happening::Sweep => {
                self.counts.handled += 1;
                self.sweep();
                self.after(SECOND, Happening::Sweep);
            }
            Happening::Member { member, life, what } => self.member_event(member, life, what),
            Happening::Mail { member, mail } => self.mail(member, mail),
            Happening::Node { node, life, what } => self.node_event(node, life, what),
            Happening::Guard { node, life, what } => self.guard_event(node, life, what),
            Happening::Hands { node, boot, act } => self.hands(node, boot, act),
            Happening::Client { client, what } => {
                self.counts.handled += 1;
                self.client_event(client, what);
            }
            Happening::StartMember { member, life } => self.start_member(member, life),
            Happening::StartAgent { node, life } => self.start_agent(node, life),
            Happening::StartGuard { node, life } => self.start_guard(node, life),
            Happening::SessionEnds { link, end } => self.session_ends(link, end),
            Happening::Switch { member, life, node, incarnation } => self.switch_off(member, life, node, incarnation),
            Happening::SwitchOn { node } => self.switch_on(node),
            Happening::Booted { site } => {
                self.counts.handled += 1;
                self.power_on(site);
            }
            Happening::Operator => {
                self.counts.handled += 1;
                self.operate();
            }
        }
    }

    /// Counted as taken in, for a process that is gone.
    pub(crate) fn void(&mut self, what: Happening) {
        drop(what);
        self.counts.void += 1;
    }

    fn site_of(&self, what: &Happening) -> Option<Site> {
        match what {
            Happening::Member { member, .. }
            | Happening::Mail { member, .. }
            | Happening::StartMember { member, .. } => self.members.get(member).map(|member| member.site),
            Happening::Node { node, .. }
            | Happening::Guard { node, .. }
            | Happening::Hands { node, .. }
            | Happening::StartAgent { node, .. }
            | Happening::StartGuard { node, .. } => self.nodes.get(node).map(|node| node.site),
            Happening::Deed(_)
            | Happening::Sweep
            | Happening::Client { .. }
            | Happening::SessionEnds { .. }
            | Happening::Switch { .. }
            | Happening::SwitchOn { .. }
            | Happening::Booted { .. }
            | Happening::Operator => None,
        }
    }

    // ── The network ────────────────────────────────────────────────────────────────────────────────────────────────

    /// A message that stands alone. False if it was lost.
    pub(crate) fn toss(&mut self, from: Site, to: Site, mail: impl Fn() -> Happening) -> bool {
        match self.net.toss(from, to) {
            Fate::Lost => {
                self.counts.lost += 1;
                return false;
            }
            Fate::Once(delay) => self.after(delay, mail()),
            Fate::Twice(one, two) => {
                self.after(one, mail());
                self.after(two, mail());
            }
        }
        true
    }

    pub(crate) fn member_site(&self, member: MemberId) -> Site {
        self.members.get(&member).map_or(Site(0), |member| member.site)
    }

    pub(crate) fn node_site(&self, node: NodeId) -> Site {
        self.nodes.get(&node).map_or(Site(0), |node| node.site)
    }

    // ── Oracles over everything ────────────────────────────────────────────────────────────────────────────────────

    fn sweep(&mut self) {
        let (machines, now) = (&self.machines, self.now);
        self.checks.sweep(now, |site| machines[&site].standing(now));
        for violation in cluster::invariants::check(&self.newest) {
            self.checks.violate(now, "State", violation.to_string());
        }
        self.judge_unheard();
    }

    pub(crate) fn note(&mut self, line: Line) {
        let now = self.now;
        self.transcript.note(now, line);
    }

    pub fn wall(&self) -> WallTime {
        WallTime(EPOCH_MS + self.now / MS)
    }

    /// As that machine's clock on the wall has it.
    pub(crate) fn wall_at(&self, site: Site) -> WallTime {
        let off = self.machines.get(&site).map_or(0, |machine| machine.wall_ms);
        WallTime(self.wall().0.saturating_add_signed(off))
    }

    /// The member that leads and may act, if one does: the one with the highest term.
    pub fn leader(&self) -> Option<MemberId> {
        let leads = |member: &&Member| {
            member.process.as_ref().is_some_and(|process| process.replica.is_leader())
                && self.machines[&member.site].lives()
                && !member.paused
        };
        let term = |member: &&Member| member.process.as_ref().and_then(|process| process.led);
        self.members.values().filter(leads).max_by_key(term).map(|member| member.id)
    }

    /// Every voter of the newest applied membership.
    pub fn voters(&self) -> BTreeSet<MemberId> {
        self.newest.membership().all_voters().into_iter().collect()
    }
}

impl Happening {
    fn code(&self) -> u64 {
        match self {
            Happening::Deed(_) => 1,
            Happening::Sweep => 2,
            Happening::Member { member, .. } => 3 ^ (member.0 << 4),
            Happening::Mail { member, .. } => 4 ^ (member.0 << 4),
            Happening::Node { node, .. } => 5 ^ (node.0 << 4),
            Happening::Guard { node, .. } => 6 ^ (node.0 << 4),
            Happening::Hands { node, .. } => 7 ^ (node.0 << 4),
            Happening::Client { .. } => 8,
            Happening::StartMember { .. } => 9,
            Happening::StartAgent { .. } => 10,
            Happening::StartGuard { .. } => 11,
            Happening::SessionEnds { .. } => 12,
            Happening::Operator => 13,
            Happening::Booted { .. } => 15,
            Happening::Switch { node, .. } | Happening::SwitchOn { node } => 14 ^ (node.0 << 4),
        }
    }
}

impl Node {
    fn new(id: NodeId, site: Site, journal: Journal) -> Node {
        Node {
            id,
            site,
            capacity_mib: 4_096,
            journal,
            unsynced: VecDeque::new(),
            life: 0,
            agent: None,
            agent_paused: false,
            waiting: Vec::new(),
            guard: None,
            guard_life: 0,
            guard_wake: 0,
            slot: GuardSays::default(),
            left: false,
            old_set: None,
            older_set: None,
            works: BTreeMap::new(),
            fail_starts_until: 0,
            slow_stops: (0, 0),
            hung_until: 0,
            lying_until: 0,
            said: BTreeMap::new(),
        }
    }

    pub fn facts(&self, power_switch: bool) -> cluster::NodeFacts {
        let (class, reason) = match power_switch {
            true => (cluster::FencingClass::F3, ""),
            false => (cluster::FencingClass::F1, "a guard, and no power switch"),
        };
        cluster::NodeFacts {
            class,
            class_reason: reason.into(),
            capacity: Resources { cpu_millis: 8_000, memory_bytes: self.capacity_mib << 20 },
            runtimes: [Arc::from("process")].into(),
            runtimes_refused: [].into(),
            version: "sim".into(),
            terms: self.journal.terms,
        }
    }
}

/// The state a cluster of this layout starts from: members, nodes that may register, one template, one storage.
fn foundation(cluster: ClusterId, layout: &Layout) -> State {
    let name = |text: String| Name::new(&text).expect("a name of letters and digits");
    let settings = Settings {
        terms: layout.profile.terms(),
        boot_grace: Span::millis(layout.boot_grace_ms),
        brake: cluster::BrakeSettings {
            quiet: Span::millis(layout.brake_quiet_ms),
            longest: Span::millis(3 * layout.brake_quiet_ms),
            ..Settings::default().brake
        },
        ..Settings::default()
    };
    let members = (1..=layout.members().len() as u64)
        .map(|id| MemberRecord {
            id: MemberId(id),
            name: name(format!("m{id}")),
            peer_address: format!("m{id}:7441").into(),
            api_address: format!("m{id}:7440").into(),
            secret: SecretHash(u128::from(id)),
            added: Revision(0),
        })
        .collect();
    let mut state = State::bootstrap(Bootstrap { cluster, settings, members });
    let mut commands: Vec<Command> = layout
        .machines
        .iter()
        .filter_map(|machine| machine.node)
        .zip(1u64..)
        .map(|(role, id)| Command::JoinNode {
            name: name(format!("n{id}")),
            role,
            labels: BTreeMap::new(),
            failure_domain: "".into(),
            secret: SecretHash(1_000 + u128::from(id)),
        })
        .collect();
    commands.push(Command::RegisterTemplate {
        name: name("base".into()),
        version: "1".into(),
        digest: "".into(),
        kind: TemplateKind::Os,
        path: "".into(),
    });
    commands.push(Command::RegisterStorage {
        name: name("shared".into()),
        kind: StorageKind::Directory { path: "/shared".into() },
    });
    for command in commands {
        let revision = Revision(state.revision().0 + 1);
        let entry = Entry { at: WallTime(EPOCH_MS), request: None, command };
        cluster::apply(&mut state, revision, &entry).outcome.expect("the foundation of a simulated cluster is legal");
    }
    state
}

//! What is done to a cluster from outside, as data: faults, what operators and clients ask for.
//! In: a seed. Out: a layout and a schedule of deeds, each harmless where it does not fit, so that any part of a schedule
//! may be left out without changing the meaning of the rest.
//! Absent: how a deed is done; the world knows. Swarm style: each seed leaves whole kinds of faults out (Groce et al.,
//! "Swarm testing", 2012), because a world in which everything always breaks never gets anywhere.

use std::fmt;
use std::sync::Arc;

use cluster::{OnQuorumLoss, Profile, Role};
use serde::{Deserialize, Serialize};

use crate::sim::chance::Chance;
use crate::sim::clock::{God, MS, SECOND};
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

/// Kinds of faults a seed has switched on.
#[derive(Clone, Copy, Debug, Default)]
struct Swarm {
    power: bool,
    freeze: bool,
    cuts: bool,
    slow: bool,
    weather: bool,
    members: bool,
    crash_points: bool,
    agents: bool,
    disks: bool,
    damage: bool,
    clocks: bool,
    runtime: bool,
    leadership: bool,
    membership: bool,
    operators: bool,
    terms: bool,
    graceful: bool,
    switch: bool,
    clones: bool,
}

impl Plan {
    /// The run that belongs to `seed`: `length` of faults and work.
    pub fn random(seed: u64, length: u64) -> Plan {
        let mut chance = Chance::new(seed, "swarm");
        let swarm = Swarm::draw(&mut chance);
        let layout = Layout::draw(&mut chance, &swarm);
        let mut schedule = Vec::new();
        faults(&mut Chance::new(seed, "faults"), &swarm, &layout, length, &mut schedule);
        work(&mut Chance::new(seed, "work"), &swarm, &layout, length, &mut schedule);
        schedule.sort_by_key(|timed| timed.at);
        Plan { seed, layout, schedule, faults_until: length }
    }
}

impl Swarm {
    fn draw(chance: &mut Chance) -> Swarm {
        // One seed in 16 is quiet: nothing may go wrong where nothing is done.
        if chance.one_in(16) {
            return Swarm { operators: chance.one_in(2), ..Swarm::default() };
        }
        let mut on = |of: u64| chance.below(of) == 0;
        Swarm {
            power: on(2),
            freeze: on(4),
            cuts: on(2),
            slow: on(4),
            weather: on(3),
            members: on(2),
            crash_points: on(3),
            agents: on(2),
            disks: on(4),
            damage: on(6),
            clocks: on(3),
            runtime: on(4),
            leadership: on(3),
            membership: on(5),
            operators: on(2),
            terms: on(4),
            graceful: on(5),
            switch: on(6),
            clones: on(8),
        }
    }
}

impl Layout {
    fn draw(chance: &mut Chance, swarm: &Swarm) -> Layout {
        let members = *chance.pick(&[3, 3, 3, 3, 5]);
        let nodes = chance.within(3..=5) as usize;
        // Members live on the machines of the first nodes; one of them often alone.
        let alone = usize::from(chance.one_in(2));
        let machines = nodes.max(members) + alone;
        let epsilon = 4_900i64;
        let machines = (0..machines)
            .map(|place| Machine {
                member: place < members - alone || place == machines - 1 && alone == 1,
                node: (place < nodes)
                    .then(|| if place == nodes - 1 && chance.one_in(2) { Role::Standby } else { Role::Active }),
                rate_ppm: if !swarm.clocks {
                    0
                } else if chance.one_in(2) {
                    *chance.pick(&[-epsilon, epsilon])
                } else {
                    chance.below(2 * epsilon as u64 + 1) as i64 - epsilon
                },
            })
            .collect();
        let weather = if swarm.weather {
            Weather {
                delay_min: MS / 5,
                delay_max: *chance.pick(&[MS, 5 * MS, 20 * MS]),
                loss_ppm: *chance.pick(&[0, 1_000, 20_000]),
                duplicate_ppm: *chance.pick(&[0, 1_000, 20_000]),
                straggle_ppm: *chance.pick(&[0, 500, 5_000]),
                straggle_max: *chance.pick(&[SECOND, 4 * SECOND, 60 * SECOND]),
            }
        } else {
            Weather::CALM
        };
        Layout {
            machines,
            // The longest leases show best what clocks that differ can do.
            profile: match swarm.clocks && chance.one_in(4) {
                true => Profile::Relaxed,
                false => *chance.pick(&[Profile::Fast, Profile::Default, Profile::Default]),
            },
            weather,
            disk: *chance.pick(&[Speed::NVME, Speed::SATA]),
            snapshot_every: *chance.pick(&[20, 60, 10_000]),
            boot_grace_ms: *chance.pick(&[0, 5_000]),
            brake_quiet_ms: 8_000,
            clients: chance.within(2..=4) as u32,
            tick_stretch: *chance.pick(&[1, 2, 4, 4]),
            power_switch: swarm.switch,
        }
    }

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

/// How often, on average, one fault begins.
const FAULT_EVERY: u64 = 4 * SECOND;

fn faults(chance: &mut Chance, swarm: &Swarm, layout: &Layout, length: u64, schedule: &mut Vec<Timed>) {
    let kinds: Vec<Kind> = Kind::ALL.iter().copied().filter(|kind| kind.is_on(swarm)).collect();
    if kinds.is_empty() {
        return;
    }
    let every = *chance.pick(&[FAULT_EVERY / 2, FAULT_EVERY, 3 * FAULT_EVERY]);
    let (members, nodes) = (layout.members(), layout.nodes());
    let sites: Vec<Site> = layout.sites().collect();
    let mut at = 3 * SECOND;
    loop {
        at += chance.below(2 * every) + MS;
        if at >= length {
            break;
        }
        let (site, other) = (*chance.pick(&sites), *chance.pick(&sites));
        let (member, node) = (*chance.pick(&members), *chance.pick(&nodes));
        let short = chance.within(50 * MS..=2 * SECOND);
        let long = chance.within(SECOND..=15 * SECOND);
        let mut add = |at: God, deed: Deed| schedule.push(Timed { at, deed });
        match chance.pick(&kinds) {
            Kind::Power if chance.one_in(8) => {
                // Everything at once; members are back first, and some nodes only much later.
                for site in &sites {
                    let members_first = if members.contains(site) { chance.below(SECOND) } else { long };
                    add(at, Deed::PowerOff(*site));
                    add(at + short + members_first, Deed::PowerOn(*site));
                }
            }
            Kind::Power => {
                add(at, Deed::PowerOff(site));
                if chance.one_in(4) {
                    add(at + chance.within(SECOND..=3 * SECOND), Deed::ConfirmDown(site));
                }
                add(at + long, Deed::PowerOn(site));
            }
            Kind::Freeze => {
                add(at, if chance.one_in(4) { Deed::Suspend(site) } else { Deed::Freeze(site) });
                add(at + if chance.one_in(3) { long } else { short }, Deed::Thaw(site));
            }
            Kind::Cut => {
                // Now and then longer than a leader may go without hearing a node that others hear.
                let long = if chance.one_in(3) { 2 * long } else { long };
                add(at, Deed::Cut(site, other));
                add(at + long, Deed::Mend(site, other));
            }
            Kind::Isolate => {
                add(at, Deed::Isolate(site));
                add(at + long, Deed::Rejoin(site));
            }
            Kind::Flap => {
                for beat in 0..chance.within(2..=6) {
                    add(at + beat * short, Deed::Isolate(site));
                    add(at + beat * short + short / 2, Deed::Rejoin(site));
                }
            }
            Kind::Split => {
                let half: Vec<Site> = sites.iter().copied().filter(|_| chance.one_in(2)).collect();
                for one in &half {
                    for two in sites.iter().filter(|two| !half.contains(two)) {
                        add(at, Deed::Cut(*one, *two));
                        add(at, Deed::Cut(*two, *one));
                        add(at + long, Deed::Mend(*one, *two));
                        add(at + long, Deed::Mend(*two, *one));
                    }
                }
            }
            Kind::Slow => {
                add(at, Deed::Slow(site, other, short));
                add(at + long, Deed::Mend(site, other));
            }
            Kind::Reset => add(at, Deed::ResetStreams(site)),
            Kind::StopClock => {
                add(at, Deed::StopClock(site));
                add(at + if chance.one_in(3) { long } else { short }, Deed::Thaw(site));
            }
            Kind::Wall => add(at, Deed::Wall { at: site, ms: chance.below(7_200_001) as i64 - 3_600_000 }),
            Kind::FullDisk => add(at, Deed::FullDisk { at: member, length: long }),
            Kind::Snapshots => {
                // Somebody falls behind, and what would bring him back is slow, breaks off, or is wrong.
                let from = *chance.pick(&members);
                add(at, Deed::KillMember { at: member, down: long });
                add(at, Deed::BreakSnapshots { at: from, length: 2 * long });
                add(at + long, Deed::Slow(from, member, short));
                add(at + 2 * long, Deed::Mend(from, member));
            }
            Kind::LyingStarts => add(at, Deed::LyingStarts { at: node, length: long }),
            Kind::Clone => {
                for beat in 0..chance.within(1..=12) {
                    add(at + beat * short / 2, Deed::Clone(node));
                }
            }
            Kind::Echo => {
                add(at, Deed::Echo(node));
                add(at + short, Deed::Echo(node));
            }
            Kind::Divided => {
                // The membership changes, and falls apart while it does.
                add(at, Deed::RemoveMember(member));
                for other in sites.iter().filter(|other| **other != site) {
                    let after = chance.below(SECOND);
                    if chance.one_in(2) {
                        add(at + after, Deed::Cut(site, *other));
                        add(at + after, Deed::Cut(*other, site));
                    }
                }
                add(at + long, Deed::Rejoin(site));
            }
            Kind::KillMember => add(at, Deed::KillMember { at: member, down: short }),
            Kind::Amnesia => {
                // Most members forget whom they have acknowledged, just when a node falls silent.
                add(at, Deed::Isolate(node));
                for member in &members {
                    let (later, down) = (chance.below(SECOND), chance.below(200 * MS));
                    if !chance.one_in(4) {
                        add(at + later, Deed::KillMember { at: *member, down });
                    }
                }
                add(at + long, Deed::Rejoin(node));
            }
            Kind::PauseMember => {
                add(at, Deed::PauseMember(member));
                add(at + if chance.one_in(3) { long } else { short }, Deed::ResumeMember(member));
            }
            Kind::CrashPoint => {
                use CrashPoint::*;
                let point = *chance.pick(&[BeforePersist, AfterPersist, BeforeSend, BeforeApplied]);
                let (after, power) = (chance.below(40) as u32, chance.one_in(3));
                add(at, Deed::CrashMember { at: member, point, after, power });
                add(at + long, Deed::PowerOn(member));
            }
            Kind::KillAgent => {
                let down = if chance.one_in(4) { long } else { short };
                add(at, Deed::KillAgent { at: node, down });
            }
            Kind::PauseAgent => {
                add(at, Deed::PauseAgent(node));
                add(at + if chance.one_in(2) { long } else { short }, Deed::ResumeAgent(node));
            }
            Kind::KillGuard => add(at, Deed::KillGuard { at: node, down: short }),
            Kind::KillNode => add(at, Deed::KillNode { at: node, down: short }),
            Kind::StallDisk => add(at, Deed::StallDisk { at: member, length: *chance.pick(&[short, short, long]) }),
            Kind::FailSync => add(at, Deed::FailSync(member)),
            Kind::Wipe => add(at, Deed::WipeDisk(member)),
            Kind::Rot => add(at, Deed::RotDisk { at: member, place: chance.draw() }),
            Kind::Replay => add(at, Deed::Replay(node)),
            Kind::Rate => add(at, Deed::Rate { at: site, ppm: chance.below(9_001) as i64 - 4_500 }),
            Kind::SlowStops => add(at, Deed::SlowStops { at: node, length: long, stop: long }),
            Kind::HangKills => {
                // Somebody wants to move what cannot be ended.
                add(at, Deed::HangKills { at: node, length: 2 * long });
                for number in 1..=4 {
                    let ask = Ask::Move { name: format!("c-{number}").into(), to: None };
                    add(at + short, Deed::Ask { client: 0, ask });
                }
            }
            Kind::FailStarts => add(at, Deed::FailStarts { at: node, length: short }),
            Kind::Exit if chance.one_in(4) => {
                // It ends while nobody leads, and its agent ends before anybody could be told.
                for member in &members {
                    add(at, Deed::KillMember { at: *member, down: 2 * SECOND });
                }
                add(at + 200 * MS, Deed::Exit { at: node, code: 1 });
                add(at + 600 * MS, Deed::KillAgent { at: node, down: 100 * MS });
            }
            Kind::Exit => {
                // Once, or so often that nobody starts it any more.
                let times = if chance.one_in(2) { 1 } else { chance.within(8..=24) };
                for time in 0..times {
                    add(at + time * 500 * MS, Deed::Exit { at: node, code: chance.below(3) as i32 });
                }
            }
            Kind::Transfer if chance.one_in(3) => {
                // To somebody who will not take it, while there is something to decide.
                add(at, Deed::Exit { at: node, code: 1 });
                add(at + 60 * MS, Deed::PauseMember(member));
                add(at + 61 * MS, Deed::TransferLeader(Some(member)));
                add(at + 61 * MS + short, Deed::ResumeMember(member));
            }
            Kind::Transfer => add(at, Deed::TransferLeader(chance.one_in(2).then_some(member))),
            Kind::Membership => {
                add(at, Deed::RemoveMember(member));
                add(at + short, Deed::AddMember(member));
            }
            Kind::Leave => {
                add(at, Deed::Leave(node));
                add(at + long, Deed::PowerOff(node));
                add(at + long + short, Deed::PowerOn(node));
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Power,
    Freeze,
    Cut,
    Isolate,
    Flap,
    Split,
    Slow,
    Reset,
    KillMember,
    Amnesia,
    PauseMember,
    CrashPoint,
    KillAgent,
    PauseAgent,
    KillGuard,
    KillNode,
    StallDisk,
    FailSync,
    Wipe,
    Rot,
    Replay,
    Rate,
    SlowStops,
    HangKills,
    FailStarts,
    Exit,
    Transfer,
    Membership,
    Leave,
    StopClock,
    Wall,
    FullDisk,
    Snapshots,
    LyingStarts,
    Clone,
    Echo,
    Divided,
}

impl Kind {
    const ALL: [Kind; 37] = [
        Kind::Power,
        Kind::Freeze,
        Kind::Cut,
        Kind::Isolate,
        Kind::Flap,
        Kind::Split,
        Kind::Slow,
        Kind::Reset,
        Kind::KillMember,
        Kind::Amnesia,
        Kind::PauseMember,
        Kind::CrashPoint,
        Kind::KillAgent,
        Kind::PauseAgent,
        Kind::KillGuard,
        Kind::KillNode,
        Kind::StallDisk,
        Kind::FailSync,
        Kind::Wipe,
        Kind::Rot,
        Kind::Replay,
        Kind::Rate,
        Kind::SlowStops,
        Kind::HangKills,
        Kind::FailStarts,
        Kind::Exit,
        Kind::Transfer,
        Kind::Membership,
        Kind::Leave,
        Kind::StopClock,
        Kind::Wall,
        Kind::FullDisk,
        Kind::Snapshots,
        Kind::LyingStarts,
        Kind::Clone,
        Kind::Echo,
        Kind::Divided,
    ];

    fn is_on(self, swarm: &Swarm) -> bool {
        match self {
            Kind::Power => swarm.power,
            Kind::Freeze | Kind::StopClock => swarm.freeze,
            Kind::Cut | Kind::Isolate | Kind::Flap | Kind::Split => swarm.cuts,
            Kind::Slow | Kind::Reset | Kind::Replay | Kind::Echo => swarm.slow,
            Kind::Clone => swarm.clones,
            Kind::KillMember | Kind::Amnesia | Kind::PauseMember => swarm.members,
            Kind::CrashPoint => swarm.crash_points,
            Kind::KillAgent | Kind::PauseAgent | Kind::KillGuard | Kind::KillNode => swarm.agents,
            Kind::StallDisk | Kind::FailSync | Kind::FullDisk | Kind::Snapshots => swarm.disks,
            Kind::Wipe | Kind::Rot => swarm.damage,
            Kind::Rate | Kind::Wall => swarm.clocks,
            Kind::SlowStops | Kind::HangKills | Kind::FailStarts | Kind::LyingStarts | Kind::Exit => swarm.runtime,
            Kind::Transfer => swarm.leadership,
            Kind::Membership | Kind::Divided => swarm.membership,
            Kind::Leave => swarm.graceful,
        }
    }
}

fn work(chance: &mut Chance, swarm: &Swarm, layout: &Layout, length: u64, schedule: &mut Vec<Timed>) {
    let nodes = layout.nodes();
    let names: Vec<Arc<str>> = (1..=chance.within(4..=9)).map(|number| Arc::from(format!("c-{number}"))).collect();
    let mut add = |at: God, client: u32, ask: Ask| schedule.push(Timed { at, deed: Deed::Ask { client, ask } });
    for (place, name) in names.iter().enumerate() {
        let policy = if chance.one_in(8) { OnQuorumLoss::Keep } else { OnQuorumLoss::Stop };
        let preferred = chance.one_in(3).then(|| *chance.pick(&nodes));
        let memory_mib = chance.within(1..=4) * 256;
        let at = SECOND + place as u64 * 20 * MS;
        add(at, 0, Ask::Create { name: name.clone(), memory_mib, policy, preferred });
    }
    let every = *chance.pick(&[200 * MS, SECOND, 3 * SECOND]);
    let mut at = 2 * SECOND;
    let mut count = 0u64;
    loop {
        at += chance.below(2 * every) + MS;
        if at >= length {
            return;
        }
        count += 1;
        let client = chance.below(u64::from(layout.clients)) as u32;
        let (name, node) = (chance.pick(&names).clone(), *chance.pick(&nodes));
        // Now and then everybody looks while somebody writes.
        if chance.one_in(8) {
            for client in 0..layout.clients {
                add(at + chance.below(5 * MS), client, Ask::Look { name: name.clone(), stale: false });
            }
        }
        let ask = match chance.below(if swarm.operators { 31 } else { 18 }) {
            14..=16 => Ask::Look { name, stale: false },
            17 => Ask::Look { name, stale: true },
            0..=7 => Ask::Annotate { name, key: format!("k{}", count % 5).into(), value: count.to_string().into() },
            8..=9 => Ask::Read,
            10 => Ask::Stop(name),
            11..=12 => Ask::Start(name),
            13 => Ask::Restart(name),
            18..=19 => Ask::Move { name, to: chance.one_in(2).then_some(node) },
            20 => Ask::Cordon(node),
            21..=22 => Ask::Uncordon(node),
            23 if chance.one_in(3) => Ask::Maintain(node),
            23 => Ask::Drain(node),
            24..=25 => Ask::Return(node),
            26 => Ask::SetRole(node, if chance.one_in(3) { Role::Standby } else { Role::Active }),
            27 => Ask::Delete(name),
            28 => Ask::Create { name, memory_mib: 256, policy: OnQuorumLoss::Stop, preferred: None },
            29 => Ask::Fence(node),
            _ if swarm.terms => Ask::SetProfile(*chance.pick(&[Profile::Fast, Profile::Default])),
            _ => Ask::ReleaseBrake,
        };
        add(at, client, ask);
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
            | Deed::LyingStarts { length, .. }
            | Deed::FullDisk { length, .. }
            | Deed::BreakSnapshots { length, .. }
            | Deed::HangKills { length, .. } => vec![length],
            Deed::SlowStops { length, stop, .. } => vec![length, stop],
            _ => Vec::new(),
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { f.write_str("the clients") } else { write!(f, "machine {}", self.0) }
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |nanos: &u64| format!("{}.{:03} s", nanos / SECOND, nanos % SECOND / MS);
        match self {
            Deed::PowerOff(site) => write!(f, "{site} loses power"),
            Deed::PowerOn(site) => write!(f, "{site} gets power"),
            Deed::Freeze(site) => write!(f, "{site} stands still"),
            Deed::Suspend(site) => write!(f, "{site} is suspended"),
            Deed::StopClock(site) => write!(f, "{site} stands still, and its clocks"),
            Deed::Thaw(site) => write!(f, "{site} goes on"),
            Deed::Wall { at, ms } => write!(f, "wall clock of {at} jumps by {ms:+} ms"),
            Deed::Cut(from, to) => write!(f, "nothing gets from {from} to {to}"),
            Deed::Mend(from, to) => write!(f, "link from {from} to {to} is well"),
            Deed::Isolate(site) => write!(f, "{site} is cut off"),
            Deed::Rejoin(site) => write!(f, "{site} is connected"),
            Deed::Slow(from, to, extra) => write!(f, "link from {from} to {to} is slow by {}", seconds(extra)),
            Deed::ResetStreams(site) => write!(f, "streams of {site} break"),
            Deed::Weather(_) => f.write_str("the weather of the network changes"),
            Deed::KillMember { at, .. } => write!(f, "member on {at} is killed"),
            Deed::CrashMember { at, point, after, .. } => {
                write!(f, "member on {at} will die at {point:?} number {after}")
            }
            Deed::PauseMember(site) => write!(f, "member on {site} is paused"),
            Deed::ResumeMember(site) => write!(f, "member on {site} goes on"),
            Deed::KillAgent { at, .. } => write!(f, "agent on {at} is killed"),
            Deed::PauseAgent(site) => write!(f, "agent on {site} is paused"),
            Deed::ResumeAgent(site) => write!(f, "agent on {site} goes on"),
            Deed::KillGuard { at, .. } => write!(f, "guard on {at} is killed"),
            Deed::KillNode { at, .. } => write!(f, "agent and guard on {at} are killed"),
            Deed::StallDisk { at, length } => write!(f, "disk of {at} stalls for {}", seconds(length)),
            Deed::FailSync(site) => write!(f, "next sync on {site} fails"),
            Deed::FullDisk { at, length } => write!(f, "disk of {at} is full for {}", seconds(length)),
            Deed::BreakSnapshots { at, length } => write!(f, "snapshots from {at} break for {}", seconds(length)),
            Deed::WipeDisk(site) => write!(f, "member on {site} loses its disk"),
            Deed::RotDisk { at, .. } => write!(f, "a bit flips on the disk of {at}"),
            Deed::Rate { at, ppm } => write!(f, "clock of {at} runs at {ppm:+} ppm"),
            Deed::SlowStops { at, stop, .. } => write!(f, "stops on {at} take {}", seconds(stop)),
            Deed::HangKills { at, length } => write!(f, "no kill works on {at} for {}", seconds(length)),
            Deed::FailStarts { at, length } => write!(f, "starts on {at} fail for {}", seconds(length)),
            Deed::LyingStarts { at, length } => write!(f, "starts on {at} are said to fail for {}", seconds(length)),
            Deed::Exit { at, code } => write!(f, "a container on {at} exits with {code}"),
            Deed::TransferLeader(Some(site)) => write!(f, "leadership is to move to {site}"),
            Deed::TransferLeader(None) => f.write_str("leadership is to move"),
            Deed::AddMember(site) => write!(f, "a member is to be added on {site}"),
            Deed::RemoveMember(site) => write!(f, "the member on {site} is to be removed"),
            Deed::Leave(site) => write!(f, "node on {site} leaves"),
            Deed::ConfirmDown(site) => write!(f, "operator confirms that {site} is off"),
            Deed::Replay(site) => write!(f, "an old desired set arrives on {site} once more"),
            Deed::Clone(site) => write!(f, "a clone of the node on {site} speaks"),
            Deed::Echo(site) => write!(f, "old words of the node on {site} arrive once more"),
            Deed::Ask { client, ask } => write!(f, "client {client} asks: {ask}"),
        }
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ask::Create { name, .. } => write!(f, "create {name}"),
            Ask::Start(name) => write!(f, "start {name}"),
            Ask::Stop(name) => write!(f, "stop {name}"),
            Ask::Delete(name) => write!(f, "delete {name}"),
            Ask::Restart(name) => write!(f, "restart {name}"),
            Ask::Move { name, to: Some(to) } => write!(f, "move {name} to n{}", to.0),
            Ask::Move { name, to: None } => write!(f, "move {name}"),
            Ask::Annotate { name, key, value } => write!(f, "annotate {name} {key}={value}"),
            Ask::Cordon(site) => write!(f, "cordon n{}", site.0),
            Ask::Uncordon(site) => write!(f, "uncordon n{}", site.0),
            Ask::Drain(site) => write!(f, "drain n{}", site.0),
            Ask::Fence(site) => write!(f, "fence n{}", site.0),
            Ask::Maintain(site) => write!(f, "maintain n{}", site.0),
            Ask::Return(site) => write!(f, "return n{}", site.0),
            Ask::SetRole(site, role) => write!(f, "make n{} {role}", site.0),
            Ask::SetProfile(profile) => write!(f, "set profile {}", profile.name()),
            Ask::ReleaseBrake => f.write_str("release the brake"),
            Ask::Read => f.write_str("read"),
            Ask::Look { name, stale: false } => write!(f, "look at {name}"),
            Ask::Look { name, stale: true } => write!(f, "look at {name}, stale"),
        }
    }
}

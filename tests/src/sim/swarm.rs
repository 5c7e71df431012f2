//! The run that belongs to a seed: a layout, and a schedule of what breaks and what is asked for.
//! In: a seed, a length. Out: a plan. Each kind of fault is a few deeds that make sense together.
//! Swarm style: each seed leaves whole kinds of faults out (Groce et al., "Swarm testing", 2012), because a world in which
//! everything always breaks never gets anywhere.

use std::sync::Arc;

use cluster::{OnQuorumLoss, Profile, Role};

use crate::sim::chance::Chance;
use crate::sim::clock::{God, MS, SECOND};
use crate::sim::deeds::{Ask, CrashPoint, Deed, Layout, Machine, Plan, Timed};
use crate::sim::disk::Speed;
use crate::sim::net::{Site, Weather};
use crate::sim::recovery::recoveries;

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
        recoveries(&mut Chance::new(seed, "recovery"), &layout, length, &mut schedule);
        policies(&mut Chance::new(seed, "policies"), &layout, length, &mut schedule);
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
            // The last: as good as never in two minutes, now and then in an hour.
            snapshot_every: *chance.pick(&[20, 60, 2_000]),
            boot_grace_ms: *chance.pick(&[0, 5_000]),
            brake_quiet_ms: 8_000,
            clients: chance.within(2..=4) as u32,
            tick_stretch: *chance.pick(&[1, 2, 4, 4]),
            power_switch: swarm.switch,
        }
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

/// In some seeds people change their mind about what a container shall do without a majority, while it runs; now and then
/// its next epoch follows at once.
fn policies(chance: &mut Chance, layout: &Layout, length: u64, schedule: &mut Vec<Timed>) {
    if !chance.one_in(3) {
        return;
    }
    let mut at = 3 * SECOND;
    loop {
        at += chance.below(20 * SECOND) + MS;
        if at >= length {
            return;
        }
        let client = chance.below(u64::from(layout.clients)) as u32;
        let name: Arc<str> = format!("c-{}", chance.within(1..=6)).into();
        let policy = if chance.one_in(2) { OnQuorumLoss::Keep } else { OnQuorumLoss::Stop };
        let mut add = |at: God, ask: Ask| schedule.push(Timed { at, deed: Deed::Ask { client, ask } });
        add(at, Ask::SetPolicy { name: name.clone(), policy });
        match chance.below(4) {
            0 => add(at + chance.below(SECOND), Ask::Restart(name)),
            1 => add(at + chance.below(SECOND), Ask::Move { name, to: None }),
            _ => {}
        }
    }
}

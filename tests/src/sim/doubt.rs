//! The unit of doubt: how often a healthy node is fenced by mistake, in a world where nothing ever really breaks.
//! In: hours, a profile. Out: how many stalls there were, how many nodes were fenced, how many guards fired.
//! Stalls are those of a busy machine: a disk that syncs nothing for half a second, a processor that is somebody else's
//! nine tenths of the time, a process or a machine that stands still for a second.

use std::sync::Arc;

use cluster::{OnQuorumLoss, Profile, Role};

use crate::sim::chance::Chance;
use crate::sim::clock::{MS, SECOND};
use crate::sim::deeds::{Ask, Deed, Layout, Machine, Plan, Timed};
use crate::sim::disk::Speed;
use crate::sim::net::Weather;
use crate::sim::run::run;
use crate::sim::transcript::Transcript;

pub const HOUR: u64 = 3_600 * SECOND;
/// How often something stalls somewhere, on average.
const STALL_EVERY: u64 = 6 * SECOND;
const PAUSE: u64 = SECOND;
const DISK_STALL: u64 = SECOND / 2;

/// What a time of stalls came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doubt {
    pub simulated: u64,
    pub stalls: u64,
    /// `Fencing` begun against a node that was well.
    pub fenced: u64,
    /// Guards that ended what ran.
    pub latched: u64,
    pub brakes: u64,
    /// Changes of leader, from which nobody should suffer.
    pub leaders: u64,
    pub broken: Vec<String>,
}

impl Doubt {
    pub fn add(&mut self, other: Doubt) {
        self.simulated += other.simulated;
        self.stalls += other.stalls;
        self.fenced += other.fenced;
        self.latched += other.latched;
        self.brakes += other.brakes;
        self.leaders += other.leaders;
        self.broken.extend(other.broken);
    }
}

/// One hour. Three members on the machines of the first nodes, five nodes.
pub fn hour(seed: u64, profile: Profile) -> Doubt {
    let plan = plan(seed, profile, HOUR);
    let outcome = run(&plan, Transcript::default());
    let event = |kind: &str| outcome.events.get(kind).copied().unwrap_or(0);
    let stalls = plan.schedule.iter().filter(|timed| stalls(&timed.deed)).count() as u64;
    Doubt {
        simulated: outcome.simulated,
        stalls,
        fenced: event("fencing-begun"),
        latched: outcome.counts.transitions.get("guard latched").copied().unwrap_or(0),
        brakes: event("brake-tripped"),
        leaders: outcome.leaders.saturating_sub(1),
        broken: outcome.violation.iter().map(|violation| format!("seed {seed}: {violation}")).collect(),
    }
}

fn stalls(deed: &Deed) -> bool {
    matches!(deed, Deed::StallDisk { .. } | Deed::Freeze(_) | Deed::PauseMember(_) | Deed::PauseAgent(_))
}

/// As data, so that an hour that fences somebody can be looked at.
pub fn plan(seed: u64, profile: Profile, length: u64) -> Plan {
    let machine = |member| Machine { member, node: Some(Role::Active), rate_ppm: 0 };
    let layout = Layout {
        machines: [true, true, true, false, false].map(machine).to_vec(),
        profile,
        weather: Weather { delay_max: 5 * MS, loss_ppm: 100, ..Weather::CALM },
        disk: Speed::SATA,
        snapshot_every: 1_000,
        boot_grace_ms: 0,
        brake_quiet_ms: 60_000,
        clients: 2,
        tick_stretch: 1,
        power_switch: false,
    };
    let mut chance = Chance::new(seed, "doubt");
    let mut schedule = Vec::new();
    let mut add = |at: u64, deed: Deed| schedule.push(Timed { at, deed });
    for number in 1..=6 {
        let name: Arc<str> = format!("c-{number}").into();
        let ask = Ask::Create { name, memory_mib: 256, policy: OnQuorumLoss::Stop, preferred: None };
        add(3 * SECOND, Deed::Ask { client: 0, ask });
    }
    let mut at = 10 * SECOND;
    while at < length - 20 * SECOND {
        let name: Arc<str> = format!("c-{}", chance.within(1..=6)).into();
        let ask = Ask::Annotate { name, key: "k".into(), value: at.to_string().into() };
        add(at, Deed::Ask { client: 1, ask });
        at += chance.below(2 * STALL_EVERY);
        let (site, member) = (*chance.pick(&layout.nodes()), *chance.pick(&layout.members()));
        match chance.below(5) {
            0 => add(at, Deed::StallDisk { at: member, length: DISK_STALL }),
            1 => {
                add(at, Deed::Freeze(site));
                add(at + PAUSE, Deed::Thaw(site));
            }
            2 => {
                add(at, Deed::PauseMember(member));
                add(at + PAUSE, Deed::ResumeMember(member));
            }
            3 => {
                add(at, Deed::PauseAgent(site));
                add(at + PAUSE, Deed::ResumeAgent(site));
            }
            // Starved for some seconds: 90 ms of every 100 are somebody else's.
            _ => {
                for turn in 0..chance.within(10..=50) {
                    add(at + turn * 100 * MS, Deed::Freeze(site));
                    add(at + turn * 100 * MS + 90 * MS, Deed::Thaw(site));
                }
            }
        }
    }
    schedule.sort_by_key(|timed| timed.at);
    Plan { seed, layout, schedule, faults_until: length }
}

//! How a world begins: machines, members behind their first snapshot, nodes that may register, clients.
//! In: a plan. Out: a world at its first moment, everything about to start.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use cluster::{
    Bootstrap, ClusterId, Command, Entry, Generation, Member as MemberRecord, MemberId, Name, NodeId, Resources,
    Revision, SecretHash, Settings, Span, State, StorageKind, TemplateKind, WallTime,
};
use decide::{GuardSays, Journal};
use record::{Identity, LogPoint, SnapshotMeta};

use crate::sim::agenda::Agenda;
use crate::sim::chance::Chance;
use crate::sim::checks::Checks;
use crate::sim::clients::{Client, Operator};
use crate::sim::clock::{Clock, MS, SECOND};
use crate::sim::deeds::{Layout, Plan};
use crate::sim::disk::Disk;
use crate::sim::happenings::Happening;
use crate::sim::histories::Histories;
use crate::sim::host::{Machine, Member, Node};
use crate::sim::mirror::Mirror;
use crate::sim::net::{Net, Site};
use crate::sim::rules::Rules;
use crate::sim::table::Table;
use crate::sim::transcript::Transcript;
use crate::sim::world::{Counts, EPOCH_MS, World};

const DISK_CLUSTER: [u8; 16] = *b"quorate-sim-disk";

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
            machines: Table::default(),
            members: Table::default(),
            nodes: Table::default(),
            sessions: BTreeMap::new(),
            next_link: 1,
            streams: BTreeMap::new(),
            next_stream: 1,
            clients: Vec::new(),
            operator: Operator::default(),
            claims: BTreeMap::new(),
            dark: BTreeMap::new(),
            newest: state.clone(),
            looked_at: Default::default(),
            looks: Default::default(),
            checks: Checks::of(state.generation()),
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
            bodies: Default::default(),
            healed: false,
            standstill: 0,
        };
        world.populate(&state);
        world
    }

    fn populate(&mut self, state: &State) {
        let body = crate::sim::bodies::encode(state);
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
        self.deed_is_due(0);
        self.after(SECOND, Happening::Sweep);
    }

    pub(crate) fn add_member_host(&mut self, id: MemberId, site: Site, founded: Option<(&SnapshotMeta, &[u8])>) {
        let generation = self.newest.generation();
        let identity = Identity { cluster: DISK_CLUSTER, member: id.0, incarnation: generation.number };
        let chance = Chance::new(self.seed ^ id.0.wrapping_mul(0x9e37_79b9), "disk");
        let disk = Disk::new(identity, founded, self.layout.disk, chance);
        let member = Member {
            id,
            site,
            identity,
            generation,
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
}

impl Node {
    fn new(id: NodeId, site: Site, journal: Journal) -> Node {
        Node {
            id,
            site,
            generation: Generation::numbered(1),
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
            storage_lost_until: 0,
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
        bytes: 0,
        defaults: Default::default(),
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

//! One of everything that is written down: every command in every shape it can have, and a state that holds every kind of object.
//! Values differ from field to field, so that fields mixed up show.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use cluster::agent::{
    Answer, DesiredItem, DesiredSet, Heartbeat, HeartbeatReply, MembershipIdentity, Refusal, SpecDigest, ToAgent,
    ToLeader, Wanted, WantedSpec, Watch,
};
use cluster::apply::{Done, Kind, Rejected};
use cluster::command::{Command, Entry, IntentOrder, Registration, Report, Reported, SettingsChange};
use cluster::placement::{Rejection, Score};
use cluster::sessions::{Remembered, Session, Sessions};
use cluster::*;

pub fn name(text: &str) -> Name {
    Name::new(text).expect("a good name")
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub fn terms() -> LeaseTerms {
    LeaseTerms {
        lease: Span(3_000_000_001),
        heartbeat: Span(600_000_002),
        kill: Span(300_000_003),
        margin: Span(200_000_004),
        drift_ppm: 5_005,
    }
}

fn request() -> RequestId {
    RequestId { session: SessionId(0x0199_c3a0_7a51_7e0c_b4a2_5f0f_6f1c_9b1e), sequence: 17 }
}

fn boot(seed: u8) -> BootId {
    BootId(u128::from_be_bytes([seed; 16]))
}

pub fn spec() -> ContainerSpec {
    ContainerSpec {
        name: name("web-1"),
        template: name("debian-12"),
        storage: name("shared"),
        command: [Box::from("/bin/sh"), Box::from("-c"), Box::from("sleep 1\n")].into(),
        environment: Arc::new(map(&[("EMPTY", ""), ("PATH", "/bin"), ("ZÜRICH", "ü")])),
        resources: Resources { cpu_millis: 250, memory_bytes: 1 << 30 },
        class: Class::BestEffort,
        priority: 700,
        possible_owners: [NodeId(1), NodeId(2), NodeId(300)].into(),
        preferred_owners: [Arc::from([NodeId(2)]), Arc::from([NodeId(1), NodeId(300)])].into(),
        restart: RestartPolicy { condition: RestartCondition::OnFailure, max: 5, period: Span::seconds(77) },
        on_quorum_loss: OnQuorumLoss::Keep,
        stop_grace: Span::millis(1_234),
        application_templates: Arc::default(),
    }
}

/// Everything at its default or empty: what the encoding leaves out must come back as well.
fn bare_spec() -> ContainerSpec {
    ContainerSpec {
        command: [].into(),
        environment: Arc::default(),
        class: Class::None,
        priority: 0,
        possible_owners: [].into(),
        preferred_owners: [].into(),
        restart: RestartPolicy { condition: RestartCondition::Never, max: 0, period: Span::ZERO },
        on_quorum_loss: OnQuorumLoss::Stop,
        stop_grace: Span::ZERO,
        ..spec()
    }
}

fn facts() -> NodeFacts {
    NodeFacts {
        class: FencingClass::F1,
        class_reason: "no outside fence is set up".into(),
        capacity: Resources { cpu_millis: 8_000, memory_bytes: 64 << 30 },
        runtimes: [Arc::from("oci"), Arc::from("process")].into(),
        runtimes_refused: [Arc::from("crun: 1.8.1 refuses a hybrid cgroup host")].into(),
        version: "0.1.0".into(),
        terms: terms(),
    }
}

fn rejections() -> Vec<Rejection> {
    vec![
        Rejection::NotUp,
        Rejection::NotSchedulable,
        Rejection::Suspect,
        Rejection::NotPossibleOwner,
        Rejection::TemplateUnknown { template: name("debian-12") },
        Rejection::StorageUnknown { storage: name("shared") },
        Rejection::NoRuntime,
        Rejection::CpuShort { missing_millis: 0 },
        Rejection::MemoryShort { missing_bytes: 4_096 },
        Rejection::StartFailedHere { reason: "no such file".into() },
    ]
}

fn decision(trigger: Trigger, chosen: Option<NodeId>) -> Decision {
    let score = |node: u64, role: Role| Score {
        astray: node == 3,
        role,
        preferred_tier: 1,
        memory_headroom: Reverse(512),
        cpu_headroom: Reverse(384),
        node: NodeId(node),
    };
    let counts = rejections().into_iter().enumerate().map(|(place, reason)| RejectionCount {
        reason,
        nodes: place as u32,
        examples: (0..place as u64 % 4).map(NodeId).collect(),
    });
    Decision {
        container: ContainerId(12),
        trigger,
        chosen,
        candidates: [(NodeId(2), score(2, Role::Active)), (NodeId(3), score(3, Role::Standby))].into(),
        feasible: 2,
        rejections: counts.collect(),
        based_on: Revision(41),
    }
}

fn triggers() -> Vec<Trigger> {
    vec![
        Trigger::Created,
        Trigger::Started,
        Trigger::Failover { from: NodeId(1) },
        Trigger::Restart,
        Trigger::Moved { by_request: true },
        Trigger::Moved { by_request: false },
        Trigger::Drain { from: NodeId(3) },
        Trigger::Retry,
    ]
}

fn causes() -> Vec<FenceCause> {
    vec![
        FenceCause::Silence,
        FenceCause::Operator { reason: "smoke".into() },
        FenceCause::RebootSeen { boot: boot(9) },
        FenceCause::StopOverdue,
        FenceCause::OutsideFact { evidence: "switch says off".into() },
    ]
}

fn proofs() -> Vec<Proof> {
    vec![
        Proof::LeaseOver { voters: [MemberId(1), MemberId(3)].into(), waited: Span::millis(3_535) },
        Proof::Confirmed { method: "ipmi".into(), evidence: "chassis power is off".into() },
        Proof::Operator { reason: "I pulled the plug".into() },
        Proof::Left,
        Proof::Guard,
        Proof::Empty,
    ]
}

fn ends() -> Vec<End> {
    vec![
        End::Stopped,
        End::Exited(Exit::Code(-1)),
        End::Exited(Exit::Signal(9)),
        End::Exited(Exit::Unknown),
        End::StartFailed { reason: "no such file".into() },
        End::Refused { reason: "claim of epoch 9".into() },
    ]
}

fn reports() -> Vec<Report> {
    let observed = [Observed::Starting, Observed::Running, Observed::Stopping];
    let closed = ends().into_iter().map(|end| Observed::Closed { end });
    let observed = observed.into_iter().chain(closed).map(Reported::Observed);
    let rest = [Reported::Prepared, Reported::CannotPrepare { reason: "no room".into() }];
    let report = |(place, what): (usize, Reported)| Report {
        container: ContainerId(100 + place as u64),
        epoch: Epoch(place as u64),
        what,
    };
    observed.chain(rest).enumerate().map(report).collect()
}

fn settings_change() -> SettingsChange {
    SettingsChange {
        terms: Some(terms()),
        brake: Some(BrakeSettings {
            enabled: true,
            nodes_min: 3,
            percent: 30,
            quiet: Span::seconds(300),
            longest: Span::seconds(900),
        }),
        boot_grace: Some(Span::ZERO),
        handover_budget: Some(Span::seconds(5)),
        handovers_per_node: Some(2),
        handovers: Some(8),
        rejoin_cordoned: Some(false),
    }
}

/// Every command, by the name of its field in log.proto, with a number where there is more than one shape.
pub fn commands() -> Vec<(String, Command)> {
    let (container, node, incarnation, epoch) = (ContainerId(12), NodeId(3), Incarnation(44), Epoch(7));
    let mut all: Vec<(&str, Vec<Command>)> = vec![
        ("settle", vec![Command::Settle]),
        (
            "add_member",
            vec![Command::AddMember {
                name: name("m-2"),
                peer_address: "10.0.0.2:7441".into(),
                api_address: "10.0.0.2:7440".into(),
                secret: SecretHash(0x1234 << 112),
            }],
        ),
        ("remove_member", vec![Command::RemoveMember { member: MemberId(2) }]),
        (
            "update_settings",
            vec![
                Command::UpdateSettings { settings: Box::default() },
                Command::UpdateSettings { settings: Box::new(settings_change()) },
            ],
        ),
        ("trip_brake", vec![Command::TripBrake { silent: 4, of: 9 }]),
        ("release_brake", vec![Command::ReleaseBrake]),
        (
            "join_node",
            vec![Command::JoinNode {
                name: name("node-3"),
                role: Role::Standby,
                labels: map(&[("rack", "7"), ("disk", "ssd")]),
                failure_domain: "rack-7".into(),
                secret: SecretHash(u128::MAX),
            }],
        ),
        (
            "register_node",
            vec![Command::RegisterNode(Box::new(Registration {
                node,
                ends: Incarnation(0),
                boot: boot(5),
                empty: true,
                facts: facts(),
                run: AgentRun(0),
            }))],
        ),
        ("set_node_role", vec![Command::SetNodeRole { node, role: Role::Active }]),
        (
            "note_node_class",
            vec![Command::NoteNodeClass {
                node,
                incarnation,
                class: FencingClass::F0,
                reason: "an end overran".into(),
            }],
        ),
        ("report_node", vec![Command::ReportNode { node, incarnation, report: Arc::new(report()) }]),
        ("acknowledge_terms", vec![Command::AcknowledgeTerms { node, incarnation, terms: terms() }]),
        ("remove_node", vec![Command::RemoveNode { node }]),
        ("restart_container", vec![Command::RestartContainer { container }]),
        (
            "move_container",
            vec![
                Command::MoveContainer { container, target: None },
                Command::MoveContainer { container, target: Some(node) },
            ],
        ),
        (
            "annotate_container",
            vec![Command::AnnotateContainer {
                container,
                changes: [("a", Some("1")), ("b", None), ("c", Some(""))]
                    .map(|(key, value)| (key.to_owned(), value.map(str::to_owned)))
                    .into(),
            }],
        ),
        (
            "set_on_quorum_loss",
            [OnQuorumLoss::Stop, OnQuorumLoss::Keep]
                .map(|on_quorum_loss| Command::SetOnQuorumLoss { container, on_quorum_loss })
                .into(),
        ),
        (
            "record_unplaceable",
            vec![Command::RecordUnplaceable { container, decision: Box::new(decision(Trigger::Retry, None)) }],
        ),
        ("hold_container", vec![Command::HoldContainer { container, after: epoch, reason: "5 restarts".into() }]),
        (
            "begin_handover",
            vec![Command::BeginHandover {
                container,
                epoch,
                target: node,
                decision: Box::new(decision(Trigger::Drain { from: NodeId(2) }, Some(node))),
            }],
        ),
        ("begin_handoff", vec![Command::BeginHandoff { container, epoch }]),
        ("abort_handover", vec![Command::AbortHandover { container, epoch, reason: "no room".into() }]),
        ("block_handover", vec![Command::BlockHandover { container, epoch }]),
        (
            "report_status",
            vec![
                Command::ReportStatus { node, incarnation, reports: Vec::new() },
                Command::ReportStatus { node, incarnation, reports: reports() },
            ],
        ),
        (
            "register_template",
            [TemplateKind::Os, TemplateKind::Application]
                .map(|kind| Command::RegisterTemplate {
                    name: name("debian-12"),
                    version: "12.11".into(),
                    digest: format!("sha256:{}", "ab".repeat(32)).into(),
                    kind,
                    path: "templates/debian-12".into(),
                    bytes: 0,
                    defaults: Default::default(),
                })
                .into(),
        ),
        ("remove_template", vec![Command::RemoveTemplate { name: name("debian-12") }]),
        (
            "register_storage",
            vec![Command::RegisterStorage {
                name: name("shared"),
                kind: StorageKind::Directory { path: "/srv/shared".into() },
            }],
        ),
        ("remove_storage", vec![Command::RemoveStorage { name: name("shared") }]),
    ];
    let orders =
        [IntentOrder::Cordon, IntentOrder::Uncordon, IntentOrder::Drain, IntentOrder::Maintenance, IntentOrder::Return];
    all.push(("set_node_intent", orders.map(|intent| Command::SetNodeIntent { node, intent }).into()));
    let begin = |cause| Command::BeginFencing { node, incarnation, cause };
    all.push(("begin_fencing", causes().into_iter().map(begin).collect()));
    let record = |proof| Command::RecordFenced { node, incarnation, proof };
    all.push(("record_fenced", proofs().into_iter().map(record).collect()));
    let create = |(spec, desired)| Command::CreateContainer {
        spec: Arc::new(spec),
        annotations: Arc::new(map(&[("team", "web")])),
        desired,
    };
    all.push(("create_container", [(spec(), Desired::Running), (bare_spec(), Desired::Stopped)].map(create).into()));
    let desired = [Desired::Running, Desired::Stopped, Desired::Deleted];
    all.push(("set_desired", desired.map(|desired| Command::SetDesired { container, desired }).into()));
    let assign = |trigger| Command::Assign {
        container,
        after: epoch,
        node,
        incarnation,
        decision: Box::new(decision(trigger, Some(node))),
    };
    all.push(("assign", triggers().into_iter().map(assign).collect()));

    let numbered = |(field, shapes): (&str, Vec<Command>)| {
        let many = shapes.len() > 1;
        let field = field.to_owned();
        shapes
            .into_iter()
            .enumerate()
            .map(move |(place, command)| (if many { format!("{field}.{place}") } else { field.clone() }, command))
    };
    all.into_iter().flat_map(numbered).collect()
}

/// An entry for each command, about half of them from a client. Time and request follow from the name alone, so that a new
/// sample changes no other.
pub fn entries() -> Vec<(String, Entry)> {
    let entry = |(name, command): (String, Command)| {
        let sum: u64 = name.bytes().map(u64::from).sum();
        let request = (sum % 2 == 1).then(request);
        (name, Entry { at: WallTime(1_790_000_000_000 + sum), request, command })
    };
    commands().into_iter().map(entry).collect()
}

fn rejected() -> Vec<Rejected> {
    let mut all: Vec<Rejected> = [Kind::Member, Kind::Node, Kind::Container, Kind::Template, Kind::Storage]
        .map(|kind| Rejected::NotFound { kind, what: "x".into() })
        .into();
    all.extend([
        Rejected::NameTaken { kind: Kind::Node, name: "a".into(), holder: "n1".into() },
        Rejected::Invalid { field: "resources.memory_bytes", problem: "too little".into() },
        Rejected::WrongState { problem: "not drained".into() },
        Rejected::InUse { kind: Kind::Storage, what: "shared".into(), by: "web".into() },
        Rejected::StaleIncarnation { node: NodeId(1), given: Incarnation(2), current: Incarnation(3) },
        Rejected::StaleEpoch { container: ContainerId(1), given: Epoch(2), current: Epoch(3) },
        Rejected::NotFenced { node: NodeId(1), old: Incarnation(2) },
        Rejected::NotProof { node: NodeId(1), problem: "class F0".into() },
        Rejected::Infeasible { container: ContainerId(1), node: NodeId(2), reason: "no room".into() },
        Rejected::RequestExpired,
    ]);
    all
}

fn placements() -> Vec<Placement> {
    let unplaced = vec![
        Unplaced::New,
        Unplaced::Displaced { from: NodeId(1) },
        Unplaced::Ended { on: NodeId(2), exit: Exit::Code(3) },
        Unplaced::StartFailed { on: NodeId(1), reason: "no such file".into() },
        Unplaced::Stopped,
        Unplaced::Moving { from: NodeId(3) },
        Unplaced::Held { reason: "5 restarts".into() },
    ];
    let (target, target_incarnation, since) = (NodeId(2), Incarnation(21), Revision(33));
    let orders = vec![
        Order::Run,
        Order::Stop { then: AfterStop::Rest },
        Order::Stop { then: AfterStop::Restart },
        Order::Prepare { target, target_incarnation, ready: false, since },
        Order::Prepare { target, target_incarnation, ready: true, since },
        Order::Handoff { target, target_incarnation, since },
        Order::Blocked { target, since },
        Order::AwaitingReceipt { since },
    ];
    let unplaced = unplaced.into_iter().map(|reason| Placement::Unplaced { since: Revision(31), reason });
    let assigned = orders.into_iter().map(|order| {
        Placement::Assigned(Assignment {
            node: NodeId(1),
            incarnation: Incarnation(20),
            epoch: Epoch(8),
            on_quorum_loss: OnQuorumLoss::Keep,
            order,
            since: Revision(32),
        })
    });
    unplaced.chain(assigned).collect()
}

fn containers() -> Vec<Container> {
    let container = |(place, placement): (usize, Placement)| Container {
        id: ContainerId(1 + place as u64),
        spec: Arc::new(ContainerSpec { name: name(&format!("web-{place}")), ..spec() }),
        annotations: Arc::new(map(&[("place", &place.to_string())])),
        desired: [Desired::Running, Desired::Stopped, Desired::Deleted][place % 3],
        placement,
        epoch: Epoch(8),
        home: (place % 2 == 0).then_some(NodeId(2)),
        restarts: (0..place as u64 % 3).map(WallTime).collect(),
        start_failures: (0..place as u64 % 2)
            .map(|node| StartFailure { node: NodeId(node), at: WallTime(5), reason: "no such file".into() })
            .collect(),
        displacements: place as u32,
        decision: (place % 2 == 1).then_some(Revision(30)),
        created: Revision(29),
    };
    placements().into_iter().enumerate().map(container).collect()
}

fn nodes() -> Vec<Node> {
    let (incarnation, boot) = (Incarnation(20), boot(6));
    let mut healths = vec![Health::Joined, Health::Up { incarnation, boot }];
    healths.extend(causes().into_iter().map(|cause| Health::Fencing { incarnation, boot, begun: Revision(25), cause }));
    healths.extend(proofs().into_iter().map(|proof| {
        let receipt = Receipt { node: NodeId(1), incarnation, boot, proof, recorded: Revision(26) };
        Health::Fenced { receipt: Arc::new(receipt) }
    }));
    let intents = [
        Intent::Schedulable,
        Intent::Cordoned,
        Intent::Draining { since: Revision(24) },
        Intent::Maintenance { since: Revision(23) },
    ];
    let classes = [FencingClass::F0, FencingClass::F1, FencingClass::F2, FencingClass::F3];
    let node = |(place, health): (usize, Health)| Node {
        id: NodeId(1 + place as u64),
        name: name(&format!("node-{place}")),
        role: if place % 2 == 0 { Role::Active } else { Role::Standby },
        intent: intents[place % 4],
        health,
        secret: SecretHash(place as u128),
        labels: Arc::new(map(&[("rack", "7")])),
        failure_domain: "rack-7".into(),
        facts: (place > 0).then(|| Arc::new(NodeFacts { class: classes[place % 4], ..facts() })),
        joined: Revision(2),
        registered_by: RegisteredBy::default(),
    };
    healths.into_iter().enumerate().map(node).collect()
}

/// A state with every kind of object in every shape. It need not be one that commands can lead to.
pub fn state() -> State {
    let members = (1..=4).map(|id| Member {
        id: MemberId(id),
        name: name(&format!("member-{id}")),
        peer_address: format!("10.0.0.{id}:7441").into(),
        api_address: format!("10.0.0.{id}:7440").into(),
        secret: SecretHash(u128::from(id)),
        added: Revision(id),
    });
    let observed = reports().into_iter().filter_map(|report| match report.what {
        Reported::Observed(observed) => Some(observed),
        _ => None,
    });
    let status = |(place, observed): (usize, Observed)| {
        let status = Status { node: NodeId(1), epoch: Epoch(8), observed, since: Revision(34) };
        (ContainerId(1 + place as u64), Arc::new(status))
    };
    let decision = |(place, trigger): (usize, Trigger)| {
        let chosen = (place % 2 == 0).then_some(NodeId(2));
        (Revision(30 + place as u64), Arc::new(decision(trigger, chosen)))
    };
    let done = [
        Done::Nothing,
        Done::Member(MemberId(4)),
        Done::Node(NodeId(2)),
        Done::Registered(Incarnation(20)),
        Done::Container(ContainerId(3)),
    ];
    let outcomes = done.into_iter().map(Ok).chain(rejected().into_iter().map(Err));
    let results = outcomes
        .enumerate()
        .map(|(place, outcome)| (place as u64 * 3, Remembered { revision: Revision(40 + place as u64), outcome }));
    let sessions = [
        (SessionId(7 << 76), Session { forgotten: Some(0), results: results.collect() }),
        (SessionId((7 << 76) + 1), Session::default()),
    ];
    State::restore(Truth {
        cluster: ClusterId(0xc1u128 << 120),
        generation: Generation::numbered(2),
        revision: Revision(60),
        clock: WallTime(1_790_000_000_123),
        next_member: 5,
        next_node: 40,
        next_container: 41,
        membership: Membership {
            term: 3,
            index: 50,
            voters: [MemberId(1), MemberId(2)].into(),
            outgoing: [MemberId(1), MemberId(3)].into(),
            learners: [MemberId(4)].into(),
            learners_next: [MemberId(3)].into(),
            auto_leave: true,
        },
        members: members.map(|member| (member.id, Arc::new(member))).collect(),
        nodes: nodes().into_iter().map(|node| (node.id, Arc::new(node))).collect(),
        node_reports: Default::default(),
        containers: containers().into_iter().map(|container| (container.id, Arc::new(container))).collect(),
        statuses: observed.enumerate().map(status).collect(),
        templates: [TemplateKind::Os, TemplateKind::Application]
            .into_iter()
            .enumerate()
            .map(|(place, kind)| {
                let template = Template {
                    name: name(&format!("template-{place}")),
                    version: "1".into(),
                    digest: "".into(),
                    kind,
                    path: "".into(),
                    registered: Revision(3),
                    bytes: 0,
                    defaults: Default::default(),
                };
                (template.name.clone(), Arc::new(template))
            })
            .collect(),
        storages: [Storage {
            name: name("shared"),
            kind: StorageKind::Directory { path: "/srv/shared".into() },
            registered: Revision(4),
        }]
        .into_iter()
        .map(|storage| (storage.name.clone(), Arc::new(storage)))
        .collect(),
        settings: Arc::new(Settings {
            terms: terms(),
            terms_fading: vec![Profile::Fast.terms(), Profile::Relaxed.terms()],
            rejoin_cordoned: true,
            ..Settings::default()
        }),
        brake: Brake::On { since: Revision(51), silent: 4, of: 9 },
        decisions: triggers().into_iter().enumerate().map(decision).collect(),
        sessions: Sessions::restore(sessions, Some(SessionId(6))),
    })
}

/// Said by the second node; not in `state`, which the first level can hold.
pub fn kept_report() -> (NodeId, Arc<KeptReport>) {
    let (incarnation, since, report) = (Incarnation(20), Revision(21), Arc::new(report()));
    (NodeId(2), Arc::new(KeptReport { incarnation, since, report }))
}

/// One finding of each kind.
pub fn report() -> NodeReport {
    let areas = [AreaMethod::Unknown, AreaMethod::Overlay, AreaMethod::Reflink, AreaMethod::Copy];
    let finding = |(place, areas): (usize, AreaMethod)| {
        let fault = if place == 0 { "its path is no folder".into() } else { "".into() };
        let (bytes_total, bytes_free) = (1 << 40, (1 << 39) + place as u64);
        let latency = Span::millis(10 + place as u64);
        (name(&format!("storage-{place}")), StorageFinding { fault, bytes_total, bytes_free, latency, areas })
    };
    NodeReport { storages: Arc::new(areas.into_iter().enumerate().map(finding).collect()), ..NodeReport::default() }
}

pub fn heartbeat() -> Heartbeat {
    Heartbeat {
        generation: Generation::numbered(1),
        node: NodeId(2),
        incarnation: Incarnation(3),
        boot: boot(4),
        terms: terms(),
        sequence: 5,
        sent_at: Moment(6),
    }
}

pub fn heartbeat_replies() -> Vec<HeartbeatReply> {
    let identity = MembershipIdentity {
        term: 7,
        index: 8,
        voters: [MemberId(1), MemberId(2)].into(),
        outgoing: [MemberId(3)].into(),
        addresses: [(MemberId(1), Arc::from("10.0.0.1:7441"))].into(),
    };
    let refusals =
        [Refusal::NotCurrent, Refusal::UnknownTerms, Refusal::Fencing, Refusal::OtherGeneration, Refusal::NotVoter];
    let answers = std::iter::once(Answer::Acknowledged(Arc::new(identity))).chain(refusals.map(Answer::Refused));
    answers.map(|answer| HeartbeatReply { member: MemberId(1), echo: heartbeat(), answer }).collect()
}

pub fn to_leader() -> Vec<ToLeader> {
    let incarnation = Incarnation(20);
    let (boot, run) = (boot(7), AgentRun(0));
    let registration = Registration { node: NodeId(1), ends: incarnation, boot, empty: false, facts: facts(), run };
    let mut all = vec![
        ToLeader::Register(Box::new(registration)),
        ToLeader::Report { incarnation, reports: reports() },
        ToLeader::TermsInForce { incarnation, terms: terms() },
        ToLeader::ClassChanged { incarnation, class: FencingClass::F0, reason: "an end overran".into() },
        ToLeader::Finds { incarnation, report: Arc::new(report()) },
        ToLeader::Holding { incarnation, revision: Revision(60), missing: vec![ContainerId(1), ContainerId(2)] },
    ];
    all.extend(proofs().into_iter().map(|proof| ToLeader::Ended { incarnation, proof }));
    all
}

pub fn to_agent() -> Vec<ToAgent> {
    let state = state();
    let item = |(place, wanted): (usize, Wanted)| DesiredItem {
        container: ContainerId(1 + place as u64),
        epoch: Epoch(8),
        on_quorum_loss: if place == 0 { OnQuorumLoss::Stop } else { OnQuorumLoss::Keep },
        wanted,
        spec: SpecDigest(u128::MAX - place as u128),
    };
    let wanted = WantedSpec {
        container: ContainerId(1),
        spec: Arc::new(spec()),
        template: state.templates().next().expect("a template").clone(),
        storage: state.storages().next().expect("a storage").clone(),
        applications: Arc::default(),
    };
    let set = DesiredSet {
        generation: Generation::numbered(2),
        incarnation: Incarnation(20),
        revision: Revision(61),
        terms: terms(),
        items: [Wanted::Run, Wanted::Stop, Wanted::Prepare].into_iter().enumerate().map(item).collect(),
        specs: vec![(SpecDigest(u128::MAX), Arc::new(wanted))],
        watch: Arc::default(),
    };
    vec![
        ToAgent::Registered {
            generation: Generation::numbered(2),
            incarnation: Incarnation(20),
            revision: Revision(20),
            terms: terms(),
        },
        ToAgent::NotRegistered { current: Incarnation(0), reason: "must be fenced first".into() },
        ToAgent::Desired(Arc::new(set.clone())),
        ToAgent::Desired(Arc::new(DesiredSet { watch: Arc::new(Watch::of(&state)), ..set })),
        ToAgent::Void { incarnation: Incarnation(20) },
    ]
}

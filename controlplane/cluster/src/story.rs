//! A small cluster for tests. Every step is judged by the invariants, and a refusal must leave no trace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::apply::{Applied, Done, Outcome, Rejected, apply};
use crate::command::{Command, Entry, Registration, Report, Reported};
use crate::digest::StateHash;
use crate::event::Event;
use crate::model::container::*;
use crate::model::decision::{Decision, Trigger};
use crate::model::fence::{FenceCause, FencingClass, Proof};
use crate::model::ids::*;
use crate::model::inventory::{Inventory, Shelf};
use crate::model::lease::Profile;
use crate::model::member::Member;
use crate::model::node::{Health, NodeFacts, Role};
use crate::model::report::NodeReport;
use crate::model::resources::Resources;
use crate::model::settings::Settings;
use crate::model::storage::StorageKind;
use crate::model::template::TemplateKind;
use crate::model::time::{Span, WallTime};
use crate::state::{Bootstrap, State};
use crate::{invariants, planner};

pub const GIB: u64 = 1 << 30;

pub struct Story {
    pub state: State,
    pub now: WallTime,
    pub suspects: BTreeSet<NodeId>,
    /// Every event so far.
    pub events: Vec<Event>,
}

pub fn name(text: &str) -> Name {
    Name::new(text).expect("a good name")
}

pub fn member(id: u64) -> Member {
    Member {
        id: MemberId(id),
        name: name(&format!("m{id}")),
        peer_address: format!("127.0.0.1:{}", 7_000 + id).into(),
        api_address: format!("127.0.0.1:{}", 8_000 + id).into(),
        secret: SecretHash(u128::from(id)),
        added: Revision(1),
    }
}

pub fn facts(memory_gib: u64) -> NodeFacts {
    NodeFacts {
        class: FencingClass::F1,
        class_reason: "no power switch".into(),
        capacity: Resources { cpu_millis: 8_000, memory_bytes: memory_gib * GIB },
        runtimes: Arc::new(["process".into()]),
        runtimes_refused: Arc::new([]),
        version: "test".into(),
        terms: Profile::Default.terms(),
    }
}

pub fn spec(text: &str) -> ContainerSpec {
    ContainerSpec {
        name: name(text),
        template: name("debian"),
        storage: name("shared"),
        command: Arc::default(),
        environment: Arc::default(),
        resources: Resources { cpu_millis: 500, memory_bytes: GIB },
        class: Class::Guaranteed,
        priority: 500,
        possible_owners: Arc::default(),
        preferred_owners: Arc::default(),
        restart: RestartPolicy::default(),
        on_quorum_loss: OnQuorumLoss::Stop,
        stop_grace: Span::seconds(30),
        application_templates: Arc::default(),
    }
}

impl Story {
    /// Three members, one template, one storage, no node.
    pub fn bare() -> Story {
        Story::of(3)
    }

    pub fn of(members: u64) -> Story {
        let bootstrap = Bootstrap {
            cluster: ClusterId(7),
            settings: Settings::default(),
            members: (1..=members).map(member).collect(),
        };
        let state = State::bootstrap(bootstrap);
        let mut story = Story { state, now: WallTime(1_000_000), suspects: BTreeSet::new(), events: Vec::new() };
        story.template("debian", TemplateKind::Os, "");
        let kind = StorageKind::Directory { path: "/srv/shared".into() };
        story.done(Command::RegisterStorage { name: name("shared"), kind });
        story
    }

    /// `active` nodes of 8 GiB, n1 and on, and one standby after them.
    pub fn with_nodes(active: u64) -> Story {
        let mut story = Story::bare();
        for _ in 0..active {
            story.node(Role::Active, 8);
        }
        story.node(Role::Standby, 8);
        story
    }

    pub fn template(&mut self, called: &str, kind: TemplateKind, path: &str) {
        let (name, version, path) = (name(called), "12".into(), path.into());
        let defaults = Default::default();
        self.done(Command::RegisterTemplate { name, version, digest: "".into(), kind, path, bytes: 0, defaults });
    }

    /// `node` says what it finds on storages: which templates are whole, which damaged; all others it looked for in vain.
    pub fn reports_templates(&mut self, node: NodeId, shelves: &[(&str, &[&str], &[&str])]) {
        let names = |names: &[&str]| names.iter().map(|text| name(text)).collect();
        let seen = self.state.revision();
        let shelf = |(storage, present, damaged): &(&str, &[&str], &[&str])| {
            (name(storage), Shelf { seen, present: names(present), damaged: names(damaged) })
        };
        let templates = Inventory { shelves: Arc::new(shelves.iter().map(shelf).collect()) };
        let report = Arc::new(NodeReport { templates, ..NodeReport::default() });
        let incarnation = self.health(node).incarnation();
        self.done(Command::ReportNode { node, incarnation, report });
    }

    /// A new node that has joined and registered; its boot id is its number.
    pub fn node(&mut self, role: Role, memory_gib: u64) -> NodeId {
        let id = NodeId(self.state.truth().next_node);
        let joined = self.done(Command::JoinNode {
            name: name(&format!("node-{}", id.0)),
            role,
            labels: BTreeMap::new(),
            failure_domain: "".into(),
            secret: SecretHash(1),
        });
        assert_eq!(joined, Done::Node(id));
        self.register(id, u128::from(id.0), false, facts(memory_gib)).expect("a first registration is taken");
        id
    }

    pub fn register(&mut self, node: NodeId, boot: u128, empty: bool, facts: NodeFacts) -> Outcome {
        let ends = self.health(node).incarnation();
        let (boot, run) = (BootId(boot), AgentRun(0));
        self.outcome(Command::RegisterNode(Box::new(Registration { node, ends, boot, empty, facts, run })))
    }

    pub fn health(&self, node: NodeId) -> Health {
        self.state.node(node).expect("a node of this story").health.clone()
    }

    pub fn incarnation(&self, node: NodeId) -> Incarnation {
        self.health(node).incarnation()
    }

    pub fn create(&mut self, spec: ContainerSpec) -> ContainerId {
        let command =
            Command::CreateContainer { spec: Arc::new(spec), annotations: Arc::default(), desired: Desired::Running };
        match self.done(command) {
            Done::Container(id) => id,
            other => panic!("created {other:?}"),
        }
    }

    /// Created, planned, started.
    pub fn run(&mut self, spec: ContainerSpec) -> ContainerId {
        let id = self.create(spec);
        self.plan();
        self.observe(id, Observed::Running);
        id
    }

    pub fn container(&self, id: ContainerId) -> &Container {
        self.state.container(id).expect("a container of this story")
    }

    pub fn on(&self, id: ContainerId) -> Option<NodeId> {
        self.container(id).assignment().map(|assignment| assignment.node)
    }

    pub fn order(&self, id: ContainerId) -> Order {
        self.container(id).assignment().expect("an assignment").order.clone()
    }

    pub fn reason(&self, id: ContainerId) -> Unplaced {
        match &self.container(id).placement {
            Placement::Unplaced { reason, .. } => reason.clone(),
            Placement::Assigned(assignment) => panic!("{id} is on {}", assignment.node),
        }
    }

    /// The owner reports on it.
    pub fn observe(&mut self, id: ContainerId, observed: Observed) {
        let Assignment { node, incarnation, epoch, .. } = *self.container(id).assignment().expect("an assignment");
        self.report(node, incarnation, id, epoch, Reported::Observed(observed)).expect("the owner may report");
    }

    pub fn close(&mut self, id: ContainerId, end: End) {
        self.observe(id, Observed::Closed { end });
    }

    /// The target of a handover reports on it.
    pub fn target_says(&mut self, id: ContainerId, what: Reported) {
        let Order::Prepare { target, target_incarnation, .. } = self.order(id) else { panic!("{id} is not prepared") };
        let epoch = self.container(id).epoch;
        self.report(target, target_incarnation, id, epoch, what).expect("the target may report");
    }

    pub fn report(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        container: ContainerId,
        epoch: Epoch,
        what: Reported,
    ) -> Outcome {
        let reports = vec![Report { container, epoch, what }];
        self.outcome(Command::ReportStatus { node, incarnation, reports })
    }

    pub fn begin_fencing(&mut self, node: NodeId, cause: FenceCause) -> Outcome {
        let incarnation = self.incarnation(node);
        self.outcome(Command::BeginFencing { node, incarnation, cause })
    }

    pub fn record_fenced(&mut self, node: NodeId, proof: Proof) -> Outcome {
        let incarnation = self.incarnation(node);
        self.outcome(Command::RecordFenced { node, incarnation, proof })
    }

    /// Silence, then a lease that is over.
    pub fn lose(&mut self, node: NodeId) {
        self.begin_fencing(node, FenceCause::Silence).expect("silence may fence");
        self.record_fenced(node, lease_over()).expect("a lease that is over is proof");
    }

    /// Plans and applies until there is nothing more to do. Gives the number of commands.
    pub fn plan(&mut self) -> usize {
        let mut commands = 0;
        for _ in 0..20 {
            let observed = planner::Observed { suspects: self.suspects.clone() };
            let plan = planner::plan(&self.state, &observed, self.now);
            if plan.commands.is_empty() {
                return commands;
            }
            commands += plan.commands.len();
            for command in plan.commands {
                self.done(command);
            }
        }
        panic!("the planner does not come to rest");
    }

    pub fn done(&mut self, command: Command) -> Done {
        let text = format!("{command:?}");
        self.outcome(command).unwrap_or_else(|rejected| panic!("{text}\nwas refused: {rejected}"))
    }

    pub fn refused(&mut self, command: Command) -> Rejected {
        let text = format!("{command:?}");
        match self.outcome(command) {
            Ok(done) => panic!("{text}\nwas done: {done:?}"),
            Err(rejected) => rejected,
        }
    }

    pub fn outcome(&mut self, command: Command) -> Outcome {
        self.apply(Entry { at: self.now, request: None, command }).outcome
    }

    pub fn apply(&mut self, entry: Entry) -> Applied {
        let before = self.state.clone();
        let index = Revision(before.revision().0 + 1);
        let applied = apply(&mut self.state, index, &entry);
        let violations = [invariants::check(&self.state), invariants::check_step(&before, &self.state)].concat();
        assert!(violations.is_empty(), "{:?}\n{violations:#?}", entry.command);
        if applied.outcome.is_err() || applied.repeated {
            assert!(applied.events.is_empty(), "{:?} left {:?}", entry.command, applied.events);
            assert_eq!(but_for_the_entry(&before), but_for_the_entry(&self.state), "{:?} left a trace", entry.command);
        }
        for old in before.containers().filter(|old| old.assignment().is_some()) {
            let freed = |event: &Event| match event {
                Event::ContainerClosed { container, .. } | Event::ContainerDisplaced { container, .. } => {
                    *container == old.id
                }
                _ => false,
            };
            let gone = self.state.container(old.id).is_none();
            assert!(!gone || applied.events.iter().any(freed), "{} vanished: {:?}", old.id, entry.command);
        }
        self.events.extend(applied.events.iter().cloned());
        applied
    }

    /// The kinds of all events about `container`.
    pub fn life(&self, container: ContainerId) -> Vec<&'static str> {
        self.events.iter().filter(|event| event.container() == Some(container)).map(Event::kind).collect()
    }
}

/// The hash of the state as if no entry had passed: revision, clock and memory of requests left out.
fn but_for_the_entry(state: &State) -> StateHash {
    let mut state = state.clone();
    state.truth.sessions = Default::default();
    state.truth.revision = Revision(0);
    state.truth.clock = WallTime(0);
    State::restore(state.truth).hash()
}

pub fn lease_over() -> Proof {
    Proof::LeaseOver { voters: Arc::new([MemberId(1), MemberId(2)]), waited: Span::millis(3_600) }
}

pub fn chosen(container: ContainerId, node: NodeId) -> Box<Decision> {
    Box::new(Decision {
        container,
        trigger: Trigger::Retry,
        chosen: Some(node),
        candidates: Arc::default(),
        feasible: 1,
        rejections: Arc::default(),
        based_on: Revision(0),
    })
}

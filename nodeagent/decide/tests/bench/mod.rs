//! A node on a bench: the real mind and the real guard logic over a journal, a slot and a tree that the test can hold,
//! and a clock that only the test moves. Everything the mind orders is kept in order; what it asks of disk, guard and
//! tree is answered at once unless the test holds that back.
#![allow(dead_code, reason = "each test file uses its part of the bench")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use cluster::agent::*;
use cluster::command::{Registration, Report, Reported};
use cluster::*;
use decide::*;

pub const NODE: NodeId = NodeId(3);
pub const BOOT: BootId = BootId(0xb007);

pub fn ms(millis: u64) -> Moment {
    Moment(0) + Span::millis(millis)
}

pub fn terms() -> LeaseTerms {
    Profile::Default.terms()
}

pub fn facts() -> NodeFacts {
    NodeFacts {
        class: FencingClass::F1,
        class_reason: "bench".into(),
        capacity: Resources::default(),
        runtimes: ["bench".into()].into(),
        runtimes_refused: [].into(),
        version: "0".into(),
        terms: terms(),
    }
}

pub fn membership(index: u64, voters: &[u64]) -> Arc<MembershipIdentity> {
    Arc::new(MembershipIdentity {
        term: 1,
        index,
        voters: voters.iter().copied().map(MemberId).collect(),
        outgoing: [].into(),
        addresses: [].into(),
    })
}

pub fn spec(container: u64) -> Arc<WantedSpec> {
    let name = |text: &str| Name::new(text).expect("a constant name is well formed");
    Arc::new(WantedSpec {
        container: ContainerId(container),
        spec: Arc::new(ContainerSpec {
            name: name("a"),
            template: name("t"),
            storage: name("s"),
            command: [].into(),
            environment: Arc::default(),
            resources: Resources::default(),
            class: Class::Guaranteed,
            priority: 500,
            possible_owners: [].into(),
            preferred_owners: [].into(),
            restart: RestartPolicy::default(),
            on_quorum_loss: OnQuorumLoss::Stop,
            stop_grace: Span::seconds(10),
            application_templates: Arc::default(),
        }),
        template: Arc::new(Template {
            name: name("t"),
            version: "1".into(),
            digest: "".into(),
            kind: TemplateKind::Os,
            path: "".into(),
            registered: Revision(1),
            bytes: 0,
            defaults: Default::default(),
        }),
        storage: Arc::new(Storage {
            name: name("s"),
            kind: StorageKind::Directory { path: "/s".into() },
            registered: Revision(1),
        }),
        applications: Arc::default(),
    })
}

pub fn item(container: u64, epoch: u64, wanted: Wanted) -> DesiredItem {
    DesiredItem {
        container: ContainerId(container),
        epoch: Epoch(epoch),
        on_quorum_loss: OnQuorumLoss::Stop,
        wanted,
        spec: SpecDigest(u128::from(container)),
    }
}

pub fn kept(item: DesiredItem) -> DesiredItem {
    DesiredItem { on_quorum_loss: OnQuorumLoss::Keep, ..item }
}

/// What the bench answers by itself.
#[derive(Clone, Copy)]
pub struct Answers {
    pub disk: bool,
    pub guard: bool,
    pub look: bool,
    /// Starts start and stops stop.
    pub hands: bool,
    /// A sweep of the guard finds the tree empty, and its record reaches the disk.
    pub sweep: bool,
}

impl Answers {
    pub const ALL: Answers = Answers { disk: true, guard: true, look: true, hands: true, sweep: true };
}

pub struct Bench {
    pub now: Moment,
    pub boot: BootId,
    /// What the node was told to serve.
    pub generation: Generation,
    /// How many agents have lived.
    pub runs: u64,
    pub agent: Agent,
    pub guardian: Guardian,
    /// Whether it lives when the next agent starts.
    pub guard_found: bool,
    /// What is on disk, and what is ordered but not yet durable.
    pub disk: Journal,
    pub unwritten: VecDeque<(u64, Record)>,
    /// What has tasks: tree and mount table in one.
    pub tree: BTreeMap<(ContainerId, Epoch), Workload>,
    pub looks: Vec<u64>,
    pub answers: Answers,
    /// Everything ordered since the last `take`, except `Wake` and `Say`.
    pub orders: Vec<Effect>,
    pub wake: Option<Moment>,
}

impl Bench {
    /// A node that never registered, with an agent that has not moved yet.
    pub fn fresh() -> Bench {
        Bench::over(Journal::fresh(BOOT, terms()), Guardian::new(), BOOT)
    }

    pub fn over(disk: Journal, guardian: Guardian, boot: BootId) -> Bench {
        let generation = Generation::numbered(1);
        let config = Config { node: NODE, generation, boot, run: AgentRun(1), facts: facts(), guard_found: true };
        Bench {
            now: ms(10_000),
            boot,
            generation,
            runs: 1,
            agent: Agent::new(config, disk.clone()),
            guardian,
            guard_found: true,
            disk,
            unwritten: VecDeque::new(),
            tree: BTreeMap::new(),
            looks: Vec::new(),
            answers: Answers::ALL,
            orders: Vec::new(),
            wake: None,
        }
    }

    /// Awake and connected to the leader, about to be registered.
    pub fn connected() -> Bench {
        let mut bench = Bench::fresh();
        bench.start();
        bench.send(Input::LeaderConnected { member: MemberId(1) });
        bench
    }

    /// Registered as `i5` at `r5`, armed, without a lease.
    pub fn registered() -> Bench {
        let mut bench = Bench::connected();
        bench.register_as(5);
        bench
    }

    /// `registered`, with a lease from now on.
    pub fn leased() -> Bench {
        let mut bench = Bench::registered();
        bench.grant();
        bench.take();
        bench
    }

    /// `leased`, with container 1 running at epoch 7.
    pub fn running() -> Bench {
        Bench::running_as(item(1, 7, Wanted::Run))
    }

    pub fn running_as(item: DesiredItem) -> Bench {
        let mut bench = Bench::leased();
        bench.want(10, &[item]);
        assert!(bench.tree.contains_key(&(item.container, item.epoch)), "it runs");
        bench.take();
        bench
    }

    /// First tick of an agent's life, with the guard's word.
    pub fn start(&mut self) {
        self.send(Input::Tick);
        self.send(Input::Guard(self.guardian.slot()));
    }

    /// The agent is killed and another starts over what is on disk, in the slot and in the tree.
    pub fn restart(&mut self) {
        self.unwritten.clear();
        self.looks.clear();
        self.runs += 1;
        let config = Config {
            node: NODE,
            generation: self.generation,
            boot: self.boot,
            run: AgentRun(self.runs),
            facts: facts(),
            guard_found: self.guard_found,
        };
        self.agent = Agent::new(config, self.disk.clone());
        self.take();
        self.start();
    }

    pub fn register_as(&mut self, incarnation: u64) -> Vec<Effect> {
        self.send(Input::FromLeader(ToAgent::Registered {
            generation: self.generation,
            incarnation: Incarnation(incarnation),
            revision: Revision(incarnation),
            terms: terms(),
        }))
    }

    /// Voters 1 and 2 of three acknowledge the newest heartbeat as it would be sent now.
    pub fn grant(&mut self) {
        for member in [1, 2] {
            self.reply(member, Answer::Acknowledged(membership(1, &[1, 2, 3])));
        }
    }

    pub fn reply(&mut self, member: u64, answer: Answer) -> Vec<Effect> {
        let echo = self.heartbeat();
        self.send(Input::Reply(HeartbeatReply { member: MemberId(member), echo, answer }))
    }

    /// A heartbeat as the current incarnation sends it at this moment.
    pub fn heartbeat(&self) -> Heartbeat {
        Heartbeat {
            generation: self.agent.journal().generation,
            node: NODE,
            incarnation: self.agent.incarnation(),
            boot: self.boot,
            terms: self.agent.journal().terms,
            sequence: 1,
            sent_at: self.now,
        }
    }

    pub fn set(&self, revision: u64, items: &[DesiredItem]) -> DesiredSet {
        DesiredSet {
            generation: self.generation,
            incarnation: self.agent.incarnation(),
            revision: Revision(revision),
            terms: self.agent.journal().terms,
            items: items.to_vec(),
            specs: items.iter().map(|item| (item.spec, spec(item.container.0))).collect(),
            watch: Arc::default(),
        }
    }

    pub fn want(&mut self, revision: u64, items: &[DesiredItem]) -> Vec<Effect> {
        self.push(self.set(revision, items))
    }

    pub fn push(&mut self, set: DesiredSet) -> Vec<Effect> {
        self.send(Input::FromLeader(ToAgent::Desired(Arc::new(set))))
    }

    pub fn happened(&mut self, container: u64, epoch: u64, what: Happened) -> Vec<Effect> {
        self.send(Input::Happened { container: ContainerId(container), epoch: Epoch(epoch), what })
    }

    /// Moves the clock and ticks agent and guard, in steps as short as they ask for.
    pub fn run(&mut self, millis: u64) {
        let end = self.now + Span::millis(millis);
        while self.now < end {
            let next = self.wake.filter(|at| *at > self.now).unwrap_or(end);
            let guard = self.guardian.slot().deadline.filter(|at| *at > self.now).unwrap_or(end);
            let sweep = if self.guardian.slot().latched { self.now + Span::millis(20) } else { end };
            self.now = next.min(guard).min(sweep).min(end);
            self.tell_guard(GuardInput::Tick);
            self.send(Input::Tick);
        }
    }

    /// `run`, with every voter acknowledging every heartbeat.
    pub fn run_leased(&mut self, millis: u64) {
        for _ in 0..millis / 100 {
            self.run(100);
            self.grant();
        }
    }

    /// Gives one input to the agent; gives back what it ordered in that turn and in those that the bench's own answers
    /// brought about.
    pub fn send(&mut self, input: Input) -> Vec<Effect> {
        let mark = self.orders.len();
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for effect in self.agent.handle(self.now, input) {
                inputs.extend(self.carry_out(effect));
            }
        }
        self.orders[mark..].to_vec()
    }

    pub fn tell_guard(&mut self, input: GuardInput) {
        for input in self.guard_turn(input) {
            self.send(input);
        }
    }

    fn guard_turn(&mut self, input: GuardInput) -> Vec<Input> {
        let mut inputs = Vec::new();
        let mut queue = VecDeque::from([input]);
        while let Some(input) = queue.pop_front() {
            for effect in self.guardian.handle(self.now, input) {
                match effect {
                    GuardEffect::Sweep { incarnation } if self.answers.sweep => {
                        self.tree.retain(|_, workload| workload.policy == OnQuorumLoss::Keep);
                        queue.push_back(GuardInput::Emptied { incarnation });
                    }
                    GuardEffect::Record { incarnation } => queue.push_back(GuardInput::Recorded { incarnation }),
                    GuardEffect::Show(slot) if self.answers.guard => inputs.push(Input::Guard(slot)),
                    _ => {}
                }
            }
        }
        inputs
    }

    fn carry_out(&mut self, effect: Effect) -> Vec<Input> {
        match &effect {
            Effect::Wake { at } => {
                self.wake = Some(*at);
                return Vec::new();
            }
            Effect::Say(_) => return Vec::new(),
            _ => self.orders.push(effect.clone()),
        }
        if let Some(input) = Guardian::input_of(&effect) {
            return self.guard_turn(input);
        }
        match effect {
            Effect::Journal { sequence, record } => {
                self.unwritten.push_back((sequence, record));
                if self.answers.disk { self.sync() } else { Vec::new() }
            }
            Effect::Look { ask } => {
                self.looks.push(ask);
                if self.answers.look { self.show() } else { Vec::new() }
            }
            Effect::Start { container, epoch, incarnation, policy, .. } if self.answers.hands => {
                let workload = Workload { container, epoch, incarnation, policy, shape: Shape::Alive };
                self.tree.insert((container, epoch), workload);
                vec![Input::Happened { container, epoch, what: Happened::Started }]
            }
            Effect::Stop { container, epoch, .. } if self.answers.hands => {
                self.tree.remove(&(container, epoch));
                vec![Input::Happened { container, epoch, what: Happened::Stopped }]
            }
            _ => Vec::new(),
        }
    }

    /// Everything ordered reaches the disk.
    pub fn sync(&mut self) -> Vec<Input> {
        let mut inputs = Vec::new();
        for (sequence, record) in self.unwritten.drain(..) {
            self.disk.apply(&record);
            inputs.push(Input::JournalDurable { sequence });
        }
        inputs
    }

    pub fn show(&mut self) -> Vec<Input> {
        let workloads: Vec<Workload> = self.tree.values().copied().collect();
        self.looks.drain(..).map(|ask| Input::Found { ask, workloads: workloads.clone() }).collect()
    }

    /// `sync` or `show`, held back until now.
    pub fn release(&mut self, inputs: Vec<Input>) {
        for input in inputs {
            self.send(input);
        }
    }

    pub fn take(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.orders)
    }
}

/// One line per order, without what a claim is rarely about.
pub fn lines(effects: &[Effect]) -> Vec<String> {
    effects.iter().map(line).collect()
}

pub fn line(effect: &Effect) -> String {
    match effect {
        Effect::Heartbeat { to: Audience::Voters, heartbeat } => format!("heartbeat {}", heartbeat.incarnation),
        Effect::Heartbeat { to: Audience::Member(member), heartbeat } => {
            format!("heartbeat {} to {member}", heartbeat.incarnation)
        }
        Effect::Membership(_) => "membership".to_owned(),
        Effect::ToLeader(word) => to_leader(word),
        Effect::SeekLeader => "seek".to_owned(),
        Effect::Journal { record, .. } => format!("journal {}", journal(record)),
        Effect::Deadline { incarnation, at: None } => format!("open {incarnation}"),
        Effect::Deadline { incarnation, at: Some(at) } => format!("deadline {incarnation} {}", at.0 / 1_000_000),
        Effect::GuardTerms { lease, kill } => format!("guard L {} K {}", lease.as_millis(), kill.as_millis()),
        Effect::Latch { incarnation } => format!("latch {incarnation}"),
        Effect::Look { .. } => "look".to_owned(),
        Effect::Start { container, epoch, incarnation, policy, .. } => {
            format!("start {container} {epoch} {incarnation} {policy:?}").to_lowercase()
        }
        Effect::Stop { container, epoch, grace } => format!("stop {container} {epoch} {}", grace.as_millis()),
        Effect::Prepare { container, epoch, .. } => format!("prepare {container} {epoch}"),
        Effect::Unprepare { container, epoch } => format!("unprepare {container} {epoch}"),
        Effect::Watch(watch) => {
            let names = watch.storages.iter().map(|storage| format!(" {}", storage.name));
            format!("watch{}", names.collect::<String>())
        }
        Effect::Farewell => "farewell".to_owned(),
        Effect::Wake { .. } => "wake".to_owned(),
        Effect::Say(text) => format!("say {text}"),
    }
}

fn journal(record: &Record) -> String {
    match record {
        Record::Registered { incarnation, .. } => format!("registered {incarnation}"),
        Record::Adopted { incarnation, .. } => format!("adopted {incarnation}"),
        Record::Latched { incarnation } => format!("latched {incarnation}"),
        Record::Over { incarnation, proof: Some(proof) } => format!("over {incarnation} {proof:?}").to_lowercase(),
        Record::Over { incarnation, proof: None } => format!("over {incarnation}"),
        Record::Terms { terms } => format!("terms {}", terms.lease.as_millis()),
        Record::Seen { revision } => format!("seen {revision}"),
        Record::Begun { container, epoch, .. } => format!("begun {container} {epoch}"),
        Record::Ran { container, epoch } => format!("ran {container} {epoch}"),
        Record::Stopping { container, epoch } => format!("stopping {container} {epoch}"),
        Record::Closed { container, epoch, end } => format!("closed {container} {epoch}: {end}"),
        Record::Forgotten { containers } => {
            let containers: Vec<String> = containers.iter().map(|container| format!(" {container}")).collect();
            format!("forgotten{}", containers.concat())
        }
    }
}

fn to_leader(word: &ToLeader) -> String {
    match word {
        ToLeader::Register(registration) => {
            let Registration { ends, empty, .. } = &**registration;
            format!("register ends {ends}{}", if *empty { ", empty" } else { "" })
        }
        ToLeader::Report { reports, .. } => {
            let words: Vec<String> = reports.iter().map(report).collect();
            format!("report {}", words.join("; "))
        }
        ToLeader::Ended { incarnation, proof } => format!("ended {incarnation} {proof:?}").to_lowercase(),
        ToLeader::TermsInForce { terms, .. } => format!("in force {}", terms.lease.as_millis()),
        ToLeader::ClassChanged { class, .. } => format!("class {class}"),
        ToLeader::Finds { incarnation, report } => {
            let finding = |(name, finding): (&Name, &StorageFinding)| {
                let fault = if finding.is_usable() { "well" } else { &*finding.fault };
                format!(" {name} {fault}")
            };
            format!("finds {incarnation}{}", report.storages.iter().map(finding).collect::<String>())
        }
        ToLeader::Holding { revision, missing, .. } => {
            let missing: Vec<String> = missing.iter().map(|container| format!(" {container}")).collect();
            format!("holding {revision}{}", missing.concat())
        }
    }
}

fn report(report: &Report) -> String {
    let what = match &report.what {
        Reported::Observed(Observed::Closed { end }) => format!("closed, {end}"),
        Reported::Observed(observed) => format!("{observed:?}").to_lowercase(),
        Reported::Prepared => "prepared".to_owned(),
        Reported::CannotPrepare { reason } => format!("cannot prepare, {reason}"),
    };
    format!("{} {} {what}", report.container, report.epoch)
}

/// Where in `effects` the first line beginning with `start` stands.
#[track_caller]
pub fn position(effects: &[Effect], start: &str) -> usize {
    find(effects, start).unwrap_or_else(|| panic!("no {start:?} in {:#?}", lines(effects)))
}

pub fn find(effects: &[Effect], start: &str) -> Option<usize> {
    lines(effects).iter().position(|line| line.starts_with(start))
}

pub fn has(effects: &[Effect], start: &str) -> bool {
    find(effects, start).is_some()
}

#[track_caller]
pub fn in_order(effects: &[Effect], starts: &[&str]) {
    let places: Vec<usize> = starts.iter().map(|start| position(effects, start)).collect();
    assert!(places.is_sorted(), "not in the order {starts:?}: {:#?}", lines(effects));
}

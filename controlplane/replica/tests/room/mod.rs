//! Members in one process, joined by a queue: no network, no disk, a clock that moves when told.
//! In: inputs, cuts, stalls. Out: what the members say, kept to be looked at.

#![allow(dead_code, reason = "each test file uses what it needs")]

pub use std::collections::{BTreeMap, BTreeSet, VecDeque};
pub use std::sync::Arc;

pub use cluster::agent::{Answer as Beat, Heartbeat, ToAgent, ToLeader};
pub use cluster::command::{Command, Registration};
pub use cluster::{Role, *};
pub use record::{Entry, HardState, LogPoint, SnapshotMeta};
pub use replica::*;

pub struct Room {
    pub now: Moment,
    pub members: BTreeMap<MemberId, Replica>,
    pub cut: BTreeSet<MemberId>,
    pub snapshots: BTreeMap<MemberId, (SnapshotMeta, State)>,
    pub answers: BTreeMap<Ticket, Answer>,
    pub to_agents: Vec<(MemberId, Link, ToAgent)>,
    /// Sessions that a member ended.
    pub dropped: Vec<Link>,
    pub beats: Vec<(MemberId, Beat)>,
    pub next: u64,
    /// Writes of these members wait.
    pub stalled_disks: BTreeSet<MemberId>,
    pub waiting_writes: Vec<(MemberId, u64)>,
    /// What is on the disks that were never stalled.
    pub logs: BTreeMap<MemberId, (HardState, Vec<Entry>)>,
    /// Snapshots on their way are kept here instead of delivered, and said to be lost.
    pub intercept: bool,
    pub intercepted: Vec<(MemberId, Input)>,
    /// Snapshots cannot be saved.
    pub full_disks: bool,
    pub builds: usize,
    pub may_halt: bool,
    pub halted: BTreeMap<MemberId, Halt>,
    pub answered: BTreeSet<Ticket>,
    /// Everything said between members since it was last cleared.
    pub sent: Vec<(MemberId, MemberId, PeerMessage)>,
}

pub fn member(id: u64) -> Member {
    Member {
        id: MemberId(id),
        name: Name::new(&format!("m{id}")).unwrap(),
        peer_address: format!("127.0.0.1:{id}").into(),
        api_address: format!("127.0.0.1:1{id}").into(),
        secret: SecretHash(id.into()),
        added: Revision(1),
    }
}

impl Room {
    pub fn new(ids: &[u64]) -> Room {
        let members = ids.iter().map(|id| member(*id)).collect();
        let state = State::bootstrap(Bootstrap { cluster: ClusterId(1), settings: Settings::default(), members });
        let mut room = Room {
            now: Moment(1_000_000_000),
            members: BTreeMap::new(),
            cut: BTreeSet::new(),
            snapshots: BTreeMap::new(),
            answers: BTreeMap::new(),
            to_agents: Vec::new(),
            dropped: Vec::new(),
            beats: Vec::new(),
            next: 0,
            stalled_disks: BTreeSet::new(),
            waiting_writes: Vec::new(),
            logs: BTreeMap::new(),
            intercept: false,
            intercepted: Vec::new(),
            full_disks: false,
            builds: 0,
            may_halt: false,
            halted: BTreeMap::new(),
            answered: BTreeSet::new(),
            sent: Vec::new(),
        };
        for id in ids {
            room.start(MemberId(*id), Some(state.clone()));
        }
        room
    }

    pub fn start(&mut self, id: MemberId, state: Option<State>) {
        let snapshot = state
            .as_ref()
            .map(|state| SnapshotMeta::of(LogPoint { index: 1, term: 1 }, encode_membership(state.membership()), b""));
        if let (Some(meta), Some(state)) = (&snapshot, &state) {
            self.snapshots.insert(id, (meta.clone(), state.clone()));
        }
        let commit = state.as_ref().map_or(0, |_| 1);
        let hard_state = HardState { term: commit, vote: 0, commit };
        let config = Config { id, cluster: ClusterId(1), started: self.now, cold: false, snapshot_every: 50 };
        let start = Start { state, snapshot, hard_state, entries: Vec::new() };
        self.members.insert(id, Replica::new(config, start, self.now).unwrap());
    }

    /// The process of `id` dies and comes back from its disk.
    pub fn restart(&mut self, id: MemberId) {
        let (snapshot, state) = self.snapshots[&id].clone();
        let (hard_state, log) = self.logs[&id].clone();
        let entries = log.into_iter().filter(|entry| entry.index > snapshot.index).collect();
        let config = Config { id, cluster: ClusterId(1), started: self.now, cold: true, snapshot_every: 50 };
        let start = Start { state: Some(state), snapshot: Some(snapshot), hard_state, entries };
        self.members.insert(id, Replica::new(config, start, self.now).unwrap());
    }

    pub fn run(&mut self, time: Span) {
        let until = self.now + time;
        while self.now < until {
            self.now = self.now + Span::millis(25);
            for id in self.members.keys().copied().collect::<Vec<_>>() {
                let tick = Input::Tick { monotonic: self.now, wall: WallTime(self.now.0 / 1_000_000) };
                self.input(id, tick);
            }
        }
    }

    pub fn input(&mut self, to: MemberId, input: Input) {
        let mut queue = VecDeque::from([(to, input)]);
        while let Some((id, input)) = queue.pop_front() {
            let Some(replica) = self.members.get_mut(&id) else { continue };
            replica.handle(self.now, input);
            self.carry_out(id, &mut queue);
        }
    }

    /// Several inputs before the member speaks, as when they queued up.
    pub fn batch(&mut self, to: MemberId, inputs: Vec<Input>) {
        let Some(replica) = self.members.get_mut(&to) else { return };
        for input in inputs {
            replica.handle(self.now, input);
        }
        let mut queue = VecDeque::new();
        self.carry_out(to, &mut queue);
        for (id, input) in queue {
            self.input(id, input);
        }
    }

    /// The disk of `id` works again.
    pub fn heal_disk(&mut self, id: MemberId) {
        self.stalled_disks.remove(&id);
        let (done, rest) = std::mem::take(&mut self.waiting_writes).into_iter().partition(|(of, _)| *of == id);
        self.waiting_writes = rest;
        let done: Vec<(MemberId, u64)> = done;
        for (id, number) in done {
            self.input(id, Input::Persisted { number });
        }
    }

    /// Lets `id` speak, and carries out what it orders; what follows goes to `queue`.
    fn carry_out(&mut self, id: MemberId, queue: &mut VecDeque<(MemberId, Input)>) {
        let Some(replica) = self.members.get_mut(&id) else { return };
        for effect in replica.turn(self.now) {
            match effect {
                Effect::Persist(write) if !self.stalled_disks.contains(&id) => {
                    let (hard_state, log) = self.logs.entry(id).or_default();
                    *hard_state = write.group.hard_state;
                    if let Some(first) = write.group.entries.first() {
                        log.retain(|entry| entry.index < first.index);
                        log.extend(write.group.entries);
                    }
                    queue.push_back((id, Input::Persisted { number: write.number }));
                }
                Effect::Persist(write) => {
                    self.waiting_writes.push((id, write.number));
                }
                Effect::Send { to, message } => {
                    self.sent.push((id, to, message.clone()));
                    if !self.cut.contains(&id) && !self.cut.contains(&to) {
                        queue.push_back((to, Input::Peer { from: id, message }));
                    }
                }
                Effect::SendSnapshot { to, message, .. } => {
                    let state = Box::new(self.snapshots[&id].1.clone());
                    let arrives = Input::SnapshotArrived { from: id, message, state };
                    let lost = self.intercept || self.cut.contains(&id) || self.cut.contains(&to);
                    if self.intercept {
                        self.intercepted.push((to, arrives));
                    } else if !lost {
                        queue.push_back((to, arrives));
                    }
                    queue.push_back((id, Input::SnapshotSent { peer: to, taken: !lost }));
                }
                Effect::BuildSnapshot { .. } if self.full_disks => {
                    self.builds += 1;
                    queue.push_back((id, Input::SnapshotFailed));
                }
                Effect::BuildSnapshot { point, membership, state } => {
                    let meta = SnapshotMeta::of(point, membership, b"");
                    self.snapshots.insert(id, (meta.clone(), *state));
                    queue.push_back((id, Input::SnapshotSaved { meta }));
                }
                Effect::Answer { ticket, answer } => {
                    assert!(self.answered.insert(ticket), "{ticket:?} is answered twice");
                    self.answers.insert(ticket, answer);
                }
                Effect::Plan { state, observed, now } => {
                    let plan = Box::new(planner::plan(&state, &observed, now));
                    queue.push_back((id, Input::Planned { plan }));
                }
                Effect::ToAgent { link, message } => self.to_agents.push((id, link, message)),
                Effect::DropAgent { link } => self.dropped.push(link),
                Effect::Reply { reply, .. } => self.beats.push((id, reply.answer)),
                Effect::Halt { reason } => {
                    assert!(self.may_halt, "{id} halts: {reason}");
                    self.halted.insert(id, reason);
                }
                _ => {}
            }
        }
    }

    pub fn leader(&mut self) -> MemberId {
        for _ in 0..200 {
            let leads =
                |(id, replica): (&MemberId, &Replica)| (replica.is_leader() && !self.cut.contains(id)).then_some(*id);
            if let Some(id) = self.members.iter().find_map(leads) {
                return id;
            }
            self.run(Span::millis(25));
        }
        panic!("no leader within 5 s");
    }

    pub fn ask(&mut self, to: MemberId, input: impl FnOnce(Ticket) -> Input) -> Answer {
        self.next += 1;
        let ticket = Ticket(self.next);
        self.input(to, input(ticket));
        for _ in 0..400 {
            if let Some(answer) = self.answers.remove(&ticket) {
                return answer;
            }
            self.run(Span::millis(25));
        }
        panic!("no answer within 10 s");
    }

    pub fn propose(&mut self, command: Command) -> Applied {
        let leader = self.leader();
        match self.ask(leader, |ticket| Input::Propose { ticket, request: None, command }) {
            Answer::Applied(applied) => applied,
            other => panic!("{other:?}"),
        }
    }

    pub fn join(&mut self, name: &str, link: u64) -> (NodeId, Incarnation) {
        let joined = self.propose(Command::JoinNode {
            name: Name::new(name).unwrap(),
            role: Role::Active,
            labels: BTreeMap::new(),
            failure_domain: "".into(),
            secret: SecretHash(7),
        });
        let Ok(apply::Done::Node(node)) = joined.outcome else { panic!("{joined:?}") };
        let registered = self.register(node, Incarnation(0), 1, link);
        (node, registered)
    }

    pub fn register(&mut self, node: NodeId, ends: Incarnation, boot: u128, link: u64) -> Incarnation {
        let leader = self.leader();
        let link = Link(link);
        self.input(leader, Input::AgentOpened { link, node, generation: cluster::Generation::numbered(1) });
        let facts = NodeFacts {
            class: FencingClass::F1,
            class_reason: "".into(),
            capacity: Resources { cpu_millis: 4_000, memory_bytes: 8 << 30 },
            runtimes: [Arc::from("process")].into(),
            runtimes_refused: [].into(),
            version: "test".into(),
            terms: Profile::Default.terms(),
        };
        let registration = Registration { node, ends, boot: BootId(boot), empty: false, facts, run: AgentRun(0) };
        self.to_agents.clear();
        self.input(leader, Input::AgentSaid { link, message: ToLeader::Register(Box::new(registration)) });
        match self.to_agents.iter().find(|(_, to, _)| *to == link) {
            Some((_, _, ToAgent::Registered { incarnation, .. })) => *incarnation,
            other => panic!("{other:?}"),
        }
    }

    pub fn beat(&mut self, node: NodeId, incarnation: Incarnation, boot: u128) -> Vec<Beat> {
        self.beats.clear();
        let heartbeat = Heartbeat {
            generation: Generation::numbered(1),
            node,
            incarnation,
            boot: BootId(boot),
            terms: Profile::Default.terms(),
            sequence: 1,
            sent_at: self.now,
        };
        for id in self.members.keys().copied().filter(|id| !self.cut.contains(id)).collect::<Vec<_>>() {
            self.input(id, Input::Heartbeat { link: Link(99), from: node, heartbeat });
        }
        self.beats.iter().map(|(_, answer)| answer.clone()).collect()
    }

    /// `count` entries that mean nothing.
    pub fn fill(&mut self, count: usize) {
        for _ in 0..count {
            self.next += 1;
            let name = Name::new(&format!("t{}", self.next)).unwrap();
            let kind = TemplateKind::Os;
            let command = Command::RegisterTemplate {
                name,
                version: "1".into(),
                digest: "".into(),
                kind,
                path: "".into(),
                bytes: 0,
                defaults: Default::default(),
            };
            self.propose(command);
        }
    }

    pub fn health(&mut self, node: NodeId) -> Health {
        let leader = self.leader();
        self.members[&leader].state().unwrap().node(node).unwrap().health.clone()
    }
}

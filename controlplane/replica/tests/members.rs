//! Members in one process, joined by a queue: no network, no disk, a clock that moves when told.
//! Shows the protocol's plain paths; what goes wrong on the way is the simulator's matter.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use cluster::agent::{Answer as Beat, Heartbeat, ToAgent, ToLeader};
use cluster::command::{Command, Registration};
use cluster::*;
use record::{HardState, LogPoint, SnapshotMeta};
use replica::*;

struct Room {
    now: Moment,
    members: BTreeMap<MemberId, Replica>,
    cut: BTreeSet<MemberId>,
    snapshots: BTreeMap<MemberId, (SnapshotMeta, State)>,
    answers: BTreeMap<Ticket, Answer>,
    to_agents: Vec<(MemberId, Link, ToAgent)>,
    beats: Vec<(MemberId, Beat)>,
    next: u64,
}

fn member(id: u64) -> Member {
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
    fn new(ids: &[u64]) -> Room {
        let members = ids.iter().map(|id| member(*id)).collect();
        let state = State::bootstrap(Bootstrap { cluster: ClusterId(1), settings: Settings::default(), members });
        let mut room = Room {
            now: Moment(1_000_000_000),
            members: BTreeMap::new(),
            cut: BTreeSet::new(),
            snapshots: BTreeMap::new(),
            answers: BTreeMap::new(),
            to_agents: Vec::new(),
            beats: Vec::new(),
            next: 0,
        };
        for id in ids {
            room.start(MemberId(*id), Some(state.clone()));
        }
        room
    }

    fn start(&mut self, id: MemberId, state: Option<State>) {
        let snapshot = state.as_ref().map(|state| {
            SnapshotMeta::of(LogPoint { index: 1, term: 1 }, encode_membership(state.membership()), b"")
        });
        if let (Some(meta), Some(state)) = (&snapshot, &state) {
            self.snapshots.insert(id, (meta.clone(), state.clone()));
        }
        let commit = state.as_ref().map_or(0, |_| 1);
        let hard_state = HardState { term: commit, vote: 0, commit };
        let config = Config { id, cluster: ClusterId(1), started: self.now, cold: false, snapshot_every: 50 };
        let start = Start { state, snapshot, hard_state, entries: Vec::new() };
        self.members.insert(id, Replica::new(config, start, self.now).unwrap());
    }

    fn run(&mut self, time: Span) {
        let until = self.now + time;
        while self.now < until {
            self.now = self.now + Span::millis(25);
            for id in self.members.keys().copied().collect::<Vec<_>>() {
                let tick = Input::Tick { monotonic: self.now, wall: WallTime(self.now.0 / 1_000_000) };
                self.input(id, tick);
            }
        }
    }

    fn input(&mut self, to: MemberId, input: Input) {
        let mut queue = VecDeque::from([(to, input)]);
        while let Some((id, input)) = queue.pop_front() {
            let Some(replica) = self.members.get_mut(&id) else { continue };
            replica.handle(self.now, input);
            for effect in replica.turn(self.now) {
                match effect {
                    Effect::Persist(write) => queue.push_back((id, Input::Persisted { number: write.number })),
                    Effect::Send { to, message } if !self.cut.contains(&id) && !self.cut.contains(&to) => {
                        queue.push_back((to, Input::Peer { from: id, message }));
                    }
                    Effect::SendSnapshot { to, message, .. } => {
                        let state = Box::new(self.snapshots[&id].1.clone());
                        queue.push_back((to, Input::SnapshotArrived { from: id, message, state }));
                        queue.push_back((id, Input::SnapshotSent { peer: to, taken: true }));
                    }
                    Effect::BuildSnapshot { point, membership, state } => {
                        let meta = SnapshotMeta::of(point, membership, b"");
                        self.snapshots.insert(id, (meta.clone(), state));
                        queue.push_back((id, Input::SnapshotSaved { meta }));
                    }
                    Effect::Answer { ticket, answer } => {
                        self.answers.insert(ticket, answer);
                    }
                    Effect::Plan { state, observed } => {
                        let plan = Box::new(planner::plan(&state, &observed, state.clock()));
                        queue.push_back((id, Input::Planned { plan }));
                    }
                    Effect::ToAgent { link, message } => self.to_agents.push((id, link, message)),
                    Effect::Reply { reply, .. } => self.beats.push((id, reply.answer)),
                    Effect::Halt { reason } => panic!("{id} halts: {reason}"),
                    _ => {}
                }
            }
        }
    }

    fn leader(&mut self) -> MemberId {
        for _ in 0..200 {
            let leads = |(id, replica): (&MemberId, &Replica)| {
                (replica.is_leader() && !self.cut.contains(id)).then_some(*id)
            };
            if let Some(id) = self.members.iter().find_map(leads) {
                return id;
            }
            self.run(Span::millis(25));
        }
        panic!("no leader within 5 s");
    }

    fn ask(&mut self, to: MemberId, input: impl FnOnce(Ticket) -> Input) -> Answer {
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

    fn propose(&mut self, command: Command) -> Applied {
        let leader = self.leader();
        match self.ask(leader, |ticket| Input::Propose { ticket, request: None, command }) {
            Answer::Applied(applied) => applied,
            other => panic!("{other:?}"),
        }
    }

    fn join(&mut self, name: &str, link: u64) -> (NodeId, Incarnation) {
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

    fn register(&mut self, node: NodeId, ends: Incarnation, boot: u128, link: u64) -> Incarnation {
        let leader = self.leader();
        let link = Link(link);
        self.input(leader, Input::AgentOpened { link, node });
        let facts = NodeFacts {
            class: FencingClass::F1,
            class_reason: "".into(),
            capacity: Resources { cpu_millis: 4_000, memory_bytes: 8 << 30 },
            runtimes: [Arc::from("process")].into(),
            runtimes_refused: [].into(),
            version: "test".into(),
            terms: Profile::Default.terms(),
        };
        let registration = Registration { node, ends, boot: BootId(boot), empty: false, facts };
        self.to_agents.clear();
        self.input(leader, Input::AgentSaid { link, message: ToLeader::Register(Box::new(registration)) });
        match self.to_agents.iter().find(|(_, to, _)| *to == link) {
            Some((_, _, ToAgent::Registered { incarnation, .. })) => *incarnation,
            other => panic!("{other:?}"),
        }
    }

    fn beat(&mut self, node: NodeId, incarnation: Incarnation, boot: u128) -> Vec<Beat> {
        self.beats.clear();
        let heartbeat = Heartbeat {
            generation: Generation(1),
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

    fn health(&mut self, node: NodeId) -> Health {
        let leader = self.leader();
        self.members[&leader].state().unwrap().node(node).unwrap().health.clone()
    }
}

#[test]
fn three_members_agree_and_read_their_writes() {
    let mut room = Room::new(&[1, 2, 3]);
    let applied = room.propose(Command::RegisterStorage {
        name: Name::new("shared").unwrap(),
        kind: StorageKind::Directory { path: "/srv".into() },
    });
    assert!(applied.outcome.is_ok());
    for id in [1, 2, 3] {
        let answer = room.ask(MemberId(id), |ticket| Input::Read { ticket });
        let Answer::State(state) = answer else { panic!("{answer:?}") };
        assert!(state.storage(&Name::new("shared").unwrap()).is_some());
    }
    room.run(Span::seconds(2));
    let hashes: BTreeSet<_> = room.members.values().map(|replica| replica.state().unwrap().hash().0).collect();
    assert_eq!(hashes.len(), 1);
}

#[test]
fn a_cluster_grows_from_one_member_and_sheds_the_first() {
    let mut room = Room::new(&[1]);
    for id in [2, 3] {
        let name = Name::new(&format!("m{id}")).unwrap();
        room.propose(Command::AddMember {
            name,
            peer_address: "a:1".into(),
            api_address: "a:2".into(),
            secret: SecretHash(9),
        });
        room.start(MemberId(id), None);
        for change in [Change::AddLearner(MemberId(id)), Change::Promote(MemberId(id))] {
            room.run(Span::seconds(2));
            let answer = room.ask(MemberId(1), |ticket| Input::ChangeMembership { ticket, change });
            assert!(matches!(answer, Answer::Done), "{change:?}: {answer:?}");
        }
    }
    let answer = room.ask(MemberId(1), |ticket| Input::TransferLeader { ticket, to: Some(MemberId(3)) });
    assert!(matches!(answer, Answer::Done), "{answer:?}");
    assert_eq!(room.leader(), MemberId(3));
    room.run(Span::seconds(2));
    room.cut.insert(MemberId(1));
    let change = Change::Remove(MemberId(1));
    let answer = room.ask(MemberId(3), |ticket| Input::ChangeMembership { ticket, change });
    assert!(matches!(answer, Answer::Done), "{answer:?}");
    assert_eq!(&*room.members[&MemberId(3)].tail().membership.voters, &[MemberId(2), MemberId(3)]);
}

#[test]
fn a_silent_node_is_fenced_after_its_wait_and_not_before() {
    let mut room = Room::new(&[1, 2, 3]);
    let (node, incarnation) = room.join("n1", 1);
    for _ in 0..10 {
        room.run(Span::millis(600));
        assert!(room.beat(node, incarnation, 1).iter().all(|beat| matches!(beat, Beat::Acknowledged(_))));
    }
    let silent_since = room.now;
    let wait = Profile::Default.terms().wait();
    let mut fencing_after = None;
    loop {
        room.run(Span::millis(25));
        let silent_for = room.now.since(silent_since);
        match room.health(node) {
            Health::Fencing { .. } => {
                fencing_after.get_or_insert(silent_for);
                assert!(room.beat(node, incarnation, 1).iter().all(|beat| matches!(beat, Beat::Refused(_))));
            }
            Health::Fenced { .. } => {
                assert!(silent_for >= wait, "fenced after {silent_for}");
                assert!(silent_for <= wait + Span::millis(200), "fenced after {silent_for}");
                break;
            }
            _ => assert!(silent_for < Span::seconds(4)),
        }
    }
    assert!(fencing_after.is_some_and(|after| after >= Profile::Default.terms().lease), "{fencing_after:?}");
}

#[test]
fn a_node_and_the_leader_lost_together_cost_no_extra_wait() {
    let mut room = Room::new(&[1, 2, 3]);
    let (node, incarnation) = room.join("n1", 1);
    // The wait that a young membership asks for must be over.
    for _ in 0..10 {
        room.run(Span::millis(600));
        room.beat(node, incarnation, 1);
    }
    let silent_since = room.now;
    let leader = room.leader();
    room.cut.insert(leader);
    while !matches!(room.health(node), Health::Fenced { .. }) {
        room.run(Span::millis(25));
        assert!(room.now.since(silent_since) < Span::seconds(4), "took {}", room.now.since(silent_since));
    }
    assert!(room.now.since(silent_since) >= Profile::Default.terms().wait());
}

#[test]
fn another_boot_id_waits_for_the_old_incarnation() {
    let mut room = Room::new(&[1, 2, 3]);
    let (node, incarnation) = room.join("n1", 1);
    room.beat(node, incarnation, 1);
    let leader = room.leader();
    let facts = room.members[&leader].state().unwrap().node(node).unwrap().facts.clone().unwrap();
    let registration = Registration { node, ends: incarnation, boot: BootId(2), empty: false, facts: (*facts).clone() };
    room.input(leader, Input::AgentOpened { link: Link(5), node });
    room.to_agents.clear();
    room.input(leader, Input::AgentSaid { link: Link(5), message: ToLeader::Register(Box::new(registration)) });
    assert!(room.to_agents.iter().any(|(_, _, said)| matches!(said, ToAgent::NotRegistered { .. })));
    assert!(matches!(room.health(node), Health::Fencing { cause: FenceCause::RebootSeen { .. }, .. }));
    room.run(Span::seconds(5));
    assert!(matches!(room.health(node), Health::Fenced { .. }));
    let again = room.register(node, incarnation, 2, 6);
    assert!(again > incarnation);
}

#[test]
fn nothing_is_fenced_on_time_with_fewer_than_three_voters() {
    let mut room = Room::new(&[1]);
    let (node, incarnation) = room.join("n1", 1);
    room.beat(node, incarnation, 1);
    room.run(Span::seconds(20));
    assert!(matches!(room.health(node), Health::Up { .. }));
    let leader = room.leader();
    let view = &room.members[&leader].status().nodes[&node];
    assert!(view.suspect && view.held_back.as_deref().is_some_and(|why| why.contains("three voters")), "{view:?}");
}

#[test]
fn a_lagging_member_is_brought_back_by_a_snapshot() {
    let mut room = Room::new(&[1, 2, 3]);
    room.leader();
    room.cut.insert(MemberId(2));
    for at in 0..300 {
        let name = Name::new(&format!("t{at}")).unwrap();
        let kind = TemplateKind::Os;
        let command =
            Command::RegisterTemplate { name, version: "1".into(), digest: "".into(), kind, path: "".into() };
        room.propose(command);
    }
    room.cut.clear();
    room.run(Span::seconds(5));
    let hashes: BTreeSet<_> = room.members.values().map(|replica| replica.state().unwrap().hash().0).collect();
    assert_eq!(hashes.len(), 1);
    assert!(room.members[&MemberId(2)].tail().first_index() > 200);
}

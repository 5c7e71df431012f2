//! The protocol's plain paths among members in one room; what goes wrong on the way is the simulator's matter, and
//! `adversary`'s.

mod room;

use room::*;

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

/// A leader that was stopped finds in its queue what was answered before: that says nothing about what was decided since.
#[test]
fn a_leader_that_was_stopped_knows_how_old_its_knowledge_is() {
    let mut room = Room::new(&[1, 2, 3]);
    let leader = room.leader();
    room.run(Span::seconds(1));
    let age = |room: &Room, id| room.now.since(room.members[&id].status().leader_heard.expect("somebody"));
    for id in [1, 2, 3].map(MemberId) {
        assert!(age(&room, id) <= Span::millis(200), "{id}: {}", age(&room, id));
    }
    room.sent.clear();
    room.run(Span::millis(200));
    let answers: Vec<Input> = std::mem::take(&mut room.sent)
        .into_iter()
        .filter(|(from, to, _)| *to == leader && *from != leader)
        .map(|(from, _, message)| Input::Peer { from, message })
        .collect();
    assert!(answers.iter().any(|it| matches!(it, Input::Peer { message: PeerMessage::Raft(it), .. } if it.kind == 9)));

    let stopped = room.members.remove(&leader).expect("it leads");
    room.run(Span::seconds(5));
    room.members.insert(leader, stopped);
    room.cut.insert(leader);
    for answer in answers {
        room.input(leader, answer);
    }
    assert!(room.members[&leader].is_leader(), "nobody has told it yet");
    assert!(age(&room, leader) >= Span::seconds(5), "{}", age(&room, leader));
    room.cut.clear();
    room.run(Span::seconds(1));
    assert!(age(&room, leader) <= Span::millis(200), "{}", age(&room, leader));
}

/// So does a follower: what the leader sent before is not heard now, and only an answer to a question is.
#[test]
fn a_follower_that_was_stopped_knows_how_old_its_knowledge_is() {
    let mut room = Room::new(&[1, 2, 3]);
    let leader = room.leader();
    let stopped = [1, 2, 3].map(MemberId).into_iter().find(|id| *id != leader).expect("two follow");
    room.run(Span::seconds(1));
    let age = |room: &Room| room.now.since(room.members[&stopped].status().leader_heard.expect("somebody"));
    room.sent.clear();
    room.run(Span::millis(200));
    let queued: Vec<Input> = std::mem::take(&mut room.sent)
        .into_iter()
        .filter(|(from, to, _)| *from == leader && *to == stopped)
        .map(|(from, _, message)| Input::Peer { from, message })
        .collect();
    assert!(!queued.is_empty() && age(&room) <= Span::millis(200), "{}", age(&room));

    let follower = room.members.remove(&stopped).expect("it follows");
    room.run(Span::seconds(5));
    room.members.insert(stopped, follower);
    room.cut.insert(stopped);
    for message in queued {
        room.input(stopped, message);
    }
    room.run(Span::millis(100));
    assert!(age(&room) >= Span::seconds(5), "{}", age(&room));
    room.cut.clear();
    room.run(Span::seconds(1));
    assert!(age(&room) <= Span::millis(200), "{}", age(&room));
}

/// Budgets of minutes rest on it: one member that led with a clock ten years ahead stopped them for ten years.
#[test]
fn time_goes_on_where_a_clock_was_ahead() {
    let mut room = Room::new(&[1, 2, 3]);
    let leader = room.leader();
    let far = WallTime(room.now.0 / 1_000_000 + 315_576_000_000);
    room.input(leader, Input::Tick { monotonic: room.now, wall: far });
    room.propose(Command::Settle);
    let clock = |room: &mut Room| {
        room.propose(Command::Settle);
        let leader = room.leader();
        room.members[&leader].state().expect("it leads").clock().0
    };
    assert!(clock(&mut room) >= far.0);
    for next in [1, 2, 3].map(MemberId) {
        let leads = room.leader();
        room.input(leads, Input::TransferLeader { ticket: Ticket(7_000 + next.0), to: Some(next) });
        let before = clock(&mut room);
        room.run(Span::seconds(10));
        let passed = clock(&mut room) - before;
        assert!((9_000..=11_000).contains(&passed), "{passed} ms in ten seconds");
    }
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
    let (boot, facts, run) = (BootId(2), (*facts).clone(), AgentRun(0));
    let registration = Registration { node, ends: incarnation, boot, empty: false, facts, run };
    room.input(leader, Input::AgentOpened { link: Link(5), node, generation: cluster::Generation::numbered(1) });
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
    room.fill(300);
    room.cut.clear();
    room.run(Span::seconds(5));
    let hashes: BTreeSet<_> = room.members.values().map(|replica| replica.state().unwrap().hash().0).collect();
    assert_eq!(hashes.len(), 1);
    assert!(room.members[&MemberId(2)].tail().first_index() > 200);
}

/// An agent that knows its leader by two names opens a session by each, keeps the one that welcomed it first and lets go of
/// the other: the leader must not have ended the one that is kept.
#[test]
fn a_session_that_says_nothing_ends_no_other() {
    let mut room = Room::new(&[1, 2, 3]);
    let (node, incarnation) = room.join("n1", 1);
    let leader = room.leader();
    let holding = |link| {
        let message = ToLeader::Holding { incarnation, revision: Revision(u64::MAX), missing: Vec::new() };
        Input::AgentSaid { link: Link(link), message }
    };
    room.input(leader, holding(1));
    room.input(leader, Input::AgentOpened { link: Link(2), node, generation: cluster::Generation::numbered(1) });
    assert!(room.dropped.is_empty(), "{:?}", room.dropped);
    room.input(leader, Input::AgentClosed { link: Link(2) });
    room.to_agents.clear();
    let cause = FenceCause::Operator { reason: "test".into() };
    room.propose(Command::BeginFencing { node, incarnation, cause });
    let told = |room: &Room, link| {
        let void = |said: &ToAgent| matches!(said, ToAgent::Void { .. });
        room.to_agents.iter().any(|(_, to, said)| *to == Link(link) && void(said))
    };
    assert!(told(&room, 1), "the first session goes on: {:?}", room.to_agents);

    room.input(leader, Input::AgentOpened { link: Link(3), node, generation: cluster::Generation::numbered(1) });
    room.input(leader, holding(3));
    assert_eq!(room.dropped, [Link(1)], "who speaks over a new session has done with the old one");
    assert!(told(&room, 3));
}

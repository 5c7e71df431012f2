//! Executions that an adversary constructed: each broke a promise or wedged the cluster before it was made a test.

mod room;

use room::*;

const ONE: MemberId = MemberId(1);

/// Some member that does not lead.
fn follower(room: &mut Room) -> MemberId {
    let leader = room.leader();
    room.members.keys().copied().find(|id| *id != leader).unwrap()
}

fn beat_for(room: &mut Room, node: NodeId, incarnation: Incarnation, beats: usize) {
    for _ in 0..beats {
        room.run(Span::millis(600));
        room.beat(node, incarnation, 1);
    }
}

/// A voter that took in a `Fencing` only as part of a snapshot could lose both with its power, acknowledge the node
/// again, and the receipt it had helped to would be wrong.
#[test]
fn a_snapshot_that_is_not_durable_yet_promises_nothing() {
    let mut room = Room::new(&[1, 2, 3]);
    let (node, incarnation) = room.join("n1", 1);
    let (leader, lagging) = (room.leader(), follower(&mut room));
    room.cut.insert(lagging);
    let cause = FenceCause::Operator { reason: "test".into() };
    let begun = room.propose(Command::BeginFencing { node, incarnation, cause });
    room.fill(150);
    let term = room.members[&leader].status().term;
    let durable_before = room.members[&lagging].tail().durable();
    room.stalled_disks.insert(lagging);
    room.cut.clear();
    room.run(Span::millis(500));
    let replica = &room.members[&lagging];
    assert!(matches!(replica.state().unwrap().node(node).unwrap().health, Health::Fencing { .. }), "snapshot taken");
    assert_eq!(replica.tail().durable(), durable_before);

    let ask = |room: &mut Room| {
        room.sent.clear();
        let fencing = LogPoint { index: begun.revision.0, term };
        let message = PeerMessage::AskRemaining { round: 1, node, incarnation, fencing };
        room.input(lagging, Input::Peer { from: leader, message });
        room.sent.iter().any(|(from, _, said)| *from == lagging && matches!(said, PeerMessage::Remaining { .. }))
    };
    assert!(!ask(&mut room), "answered on a refusal that a loss of power would undo");
    room.heal_disk(lagging);
    assert!(ask(&mut room));
}

/// The disk stands still: entries wait for it, then a snapshot that replaces them. When the first write is done the
/// leader is told, and the member, which cannot tell the log beneath the snapshot any more, must not deny its own word:
/// it would be taken for one that lost data.
#[test]
fn what_was_acknowledged_beneath_a_snapshot_is_not_denied() {
    let mut room = Room::new(&[1, 2, 3]);
    let (leader, lagging) = (room.leader(), follower(&mut room));
    room.stalled_disks.insert(lagging);
    room.fill(5);
    let written = room.waiting_writes.clone();
    room.cut.insert(lagging);
    room.fill(150);
    room.cut.clear();
    room.run(Span::millis(500));
    assert!(room.waiting_writes.len() > written.len(), "a snapshot waits for the disk as well");
    for (id, number) in written {
        room.input(id, Input::Persisted { number });
        let had = room.members[&leader].status().matched[&lagging];
        let durable = room.members[&lagging].status().durable;
        assert!(durable.index >= had, "the leader was told of {had}, and now it is {}", durable.index);
        room.input(leader, Input::Peer { from: lagging, message: PeerMessage::Hello { durable } });
    }
    room.heal_disk(lagging);
    assert!(room.halted.is_empty());
}

/// Two snapshots arrive before the member speaks, the older one last: raft takes the newer.
#[test]
fn an_older_snapshot_that_arrives_late_stops_nobody() {
    let mut room = Room::new(&[1, 2, 3]);
    let lagging = follower(&mut room);
    room.cut.insert(lagging);
    room.fill(150);
    room.intercept = true;
    room.cut.clear();
    room.run(Span::millis(500));
    let older = room.intercepted.pop().expect("a snapshot was sent").1;
    room.fill(150);
    room.intercepted.clear();
    room.run(Span::millis(500));
    let newer = room.intercepted.pop().expect("another one was sent").1;
    room.batch(lagging, vec![newer, older]);
    room.intercept = false;
    room.run(Span::seconds(2));
    let hashes: BTreeSet<_> = room.members.values().map(|replica| replica.state().unwrap().hash().0).collect();
    assert_eq!(hashes.len(), 1);
}

#[test]
fn a_full_disk_is_not_asked_for_snapshots_without_pause() {
    let mut room = Room::new(&[1]);
    room.full_disks = true;
    room.leader();
    room.fill(60);
    room.run(Span::seconds(12));
    assert!((2..=4).contains(&room.builds), "{} attempts in 12 s", room.builds);
    room.full_disks = false;
    room.run(Span::seconds(6));
    assert!(room.members[&ONE].tail().snapshot().unwrap().index > 50);
}

/// An operator who knows better releases the brake: the silence that tripped it must not trip it again at once.
#[test]
fn a_brake_that_was_released_lets_pass_what_it_held_back() {
    let mut room = Room::new(&[1, 2, 3]);
    let nodes: Vec<_> = (1..=3).map(|at| room.join(&format!("n{at}"), at)).collect();
    room.run(Span::seconds(20));
    let leader = room.leader();
    assert!(matches!(room.members[&leader].state().unwrap().brake(), Brake::On { .. }));
    assert!(nodes.iter().all(|(node, _)| matches!(room.health(*node), Health::Up { .. })));
    room.propose(Command::ReleaseBrake);
    room.run(Span::seconds(5));
    assert!(nodes.iter().all(|(node, _)| matches!(room.health(*node), Health::Fenced { .. })));
}

#[test]
fn an_agent_that_restarted_is_told_that_it_should_run_nothing() {
    let mut room = Room::new(&[1, 2, 3]);
    let (node, incarnation) = room.join("n1", 1);
    let leader = room.leader();
    let told = |room: &mut Room, link: u64, revision: Revision| {
        room.to_agents.clear();
        let holding = ToLeader::Holding { incarnation, revision, missing: Vec::new() };
        room.input(leader, Input::AgentSaid { link: Link(link), message: holding });
        room.to_agents.iter().any(|(_, to, said)| *to == Link(link) && matches!(said, ToAgent::Desired(_)))
    };
    let held = room.members[&leader].state().unwrap().revision();
    assert!(!told(&mut room, 1, held), "told already");
    room.input(leader, Input::AgentOpened { link: Link(2), node, generation: cluster::Generation::numbered(1) });
    assert!(told(&mut room, 2, held));
    assert!(!told(&mut room, 2, held));
}

/// An agent that was told to leave repeats that its incarnation is over until it hears that this is known. Another one
/// had been registered since, by itself or by a clone, and nobody answered.
#[test]
fn who_says_that_an_incarnation_of_long_ago_is_over_is_told_that_it_is_known() {
    let mut room = Room::new(&[1, 2, 3]);
    let (node, first) = room.join("n1", 1);
    let leader = room.leader();
    let left = ToLeader::Ended { incarnation: first, proof: Proof::Left };
    room.input(leader, Input::AgentSaid { link: Link(1), message: left.clone() });
    assert!(matches!(room.health(node), Health::Fenced { .. }));
    let second = room.register(node, first, 1, 2);
    let told = |room: &mut Room| {
        room.to_agents.clear();
        room.input(leader, Input::AgentSaid { link: Link(2), message: left.clone() });
        room.to_agents.iter().any(|(.., said)| matches!(said, ToAgent::Void { incarnation } if *incarnation == first))
    };
    assert!(told(&mut room));
    let cause = FenceCause::Operator { reason: "test".into() };
    room.propose(Command::BeginFencing { node, incarnation: second, cause });
    assert!(told(&mut room));
    assert!(matches!(room.health(node), Health::Fencing { incarnation, .. } if incarnation == second));
}

/// The proposal that a fence method brings is dropped while leadership is being moved to a member that just died.
#[test]
fn a_confirmed_fence_is_not_lost_with_a_dropped_proposal() {
    let mut room = Room::new(&[1, 2, 3]);
    let (node, incarnation) = room.join("n1", 1);
    let cause = FenceCause::Operator { reason: "test".into() };
    room.propose(Command::BeginFencing { node, incarnation, cause });
    let (leader, dead) = (room.leader(), follower(&mut room));
    room.run(Span::millis(100));
    room.cut.insert(dead);
    room.input(leader, Input::TransferLeader { ticket: Ticket(1_000_000), to: Some(dead) });
    let refused = Input::Propose { ticket: Ticket(1_000_001), request: None, command: Command::Settle };
    room.input(leader, refused);
    assert!(matches!(room.answers[&Ticket(1_000_001)], Answer::Failed(ProposeError::Overloaded)));
    let (method, evidence) = (Arc::from("power"), Arc::from("off"));
    room.input(leader, Input::FenceConfirmed { node, incarnation, method, evidence });
    assert!(matches!(room.health(node), Health::Fencing { .. }));
    room.run(Span::millis(1_000));
    let Health::Fenced { receipt } = room.health(node) else { panic!("{:?}", room.health(node)) };
    assert!(matches!(receipt.proof, Proof::Confirmed { .. }));
}

#[test]
fn whoever_waits_for_a_member_that_halts_is_answered() {
    let mut room = Room::new(&[1, 2, 3]);
    room.may_halt = true;
    let leader = room.leader();
    room.run(Span::seconds(2));
    for id in [1, 2, 3].map(MemberId) {
        if id != leader {
            room.cut.insert(id);
        }
    }
    let learner = Change::AddLearner(MemberId(9));
    room.input(leader, Input::Propose { ticket: Ticket(101), request: None, command: Command::Settle });
    room.input(leader, Input::Read { ticket: Ticket(102) });
    room.input(leader, Input::ChangeMembership { ticket: Ticket(103), change: learner });
    room.input(leader, Input::TransferLeader { ticket: Ticket(104), to: None });
    assert!((101..=104).all(|ticket| !room.answered.contains(&Ticket(ticket))));
    let from = follower(&mut room);
    room.input(leader, Input::Peer { from, message: PeerMessage::YouLostData { had: u64::MAX, have: 1 } });
    assert!(matches!(room.halted[&leader], Halt::LostData { .. }));
    room.input(leader, Input::Propose { ticket: Ticket(105), request: None, command: Command::Settle });
    room.input(leader, Input::Read { ticket: Ticket(106) });
    for ticket in 101..=106 {
        let answer = &room.answers[&Ticket(ticket)];
        assert!(matches!(answer, Answer::Failed(ProposeError::Lost)), "{ticket}: {answer:?}");
    }
}

/// A voter wakes, and the question lies before the tick, and the heartbeats of the time it slept behind both.
#[test]
fn a_voter_that_slept_does_not_call_its_sleep_silence() {
    let mut room = Room::new(&[1, 2, 3]);
    let (node, incarnation) = room.join("n1", 1);
    beat_for(&mut room, node, incarnation, 8);
    let (leader, sleeper) = (room.leader(), follower(&mut room));
    room.now = room.now + Span::seconds(5);
    room.sent.clear();
    let nodes = [(node, incarnation)].into();
    room.input(sleeper, Input::Peer { from: leader, message: PeerMessage::AskAges { round: 1, nodes } });
    let age = room.sent.iter().find_map(|(from, _, said)| match said {
        PeerMessage::Ages { ages, .. } if *from == sleeper => Some(ages[0].age),
        _ => None,
    });
    assert!(age.is_some_and(|age| age < Profile::Default.terms().lease), "{age:?}");
}

/// One word of the leader's is lost: the peer that lost data must still hear that it did.
#[test]
fn a_peer_that_lost_data_is_told_until_it_stops() {
    let mut room = Room::new(&[1, 2, 3]);
    room.may_halt = true;
    room.leader();
    room.fill(20);
    let (leader, peer) = (room.leader(), follower(&mut room));
    let durable = LogPoint { index: 3, term: 1 };
    room.cut.insert(peer);
    room.input(leader, Input::Peer { from: peer, message: PeerMessage::Hello { durable } });
    room.cut.clear();
    room.sent.clear();
    room.run(Span::seconds(1));
    let told = |(from, to, said): &(MemberId, MemberId, PeerMessage)| {
        *from == leader && *to == peer && matches!(said, PeerMessage::YouLostData { .. })
    };
    assert!(room.sent.iter().any(told));
    // Here it was a mistake, and the peer's answer cleared it up: it takes part again.
    assert!(room.halted.is_empty());
    let applied = room.propose(Command::Settle).revision;
    room.run(Span::seconds(1));
    assert!(room.members[&peer].status().applied >= applied);
}

/// A voter helped to grant a long lease, restarts, and is asked before it has applied again that such terms exist: what
/// it cannot know has to be counted with them all the same.
#[test]
fn a_voter_that_restarted_speaks_when_its_state_is_where_it_was() {
    let mut room = Room::new(&[1, 2, 3]);
    let (node, incarnation) = room.join("n1", 1);
    let relaxed = Profile::Relaxed.terms();
    let settings = cluster::command::SettingsChange { terms: Some(relaxed), ..Default::default() };
    room.propose(Command::UpdateSettings { settings: Box::new(settings) });
    let (leader, voter) = (room.leader(), follower(&mut room));
    let cause = FenceCause::Operator { reason: "test".into() };
    let begun = room.propose(Command::BeginFencing { node, incarnation, cause }).revision;
    let fencing = LogPoint { index: begun.0, term: room.members[&leader].status().term };
    room.restart(voter);
    let ask = |room: &mut Room| {
        room.sent.clear();
        let message = PeerMessage::AskRemaining { round: 1, node, incarnation, fencing };
        room.input(voter, Input::Peer { from: leader, message });
        room.sent.iter().find_map(|(from, _, said)| match said {
            PeerMessage::Remaining { remaining, .. } if *from == voter => Some(*remaining),
            _ => None,
        })
    };
    assert_eq!(ask(&mut room), None, "its state is still that of its snapshot");
    assert!(ask(&mut room).is_some_and(|remaining| remaining >= relaxed.wait()));
}

/// It is heard by everybody, so nobody elects another, and it applies nothing, so nothing fails over.
#[test]
fn a_leader_whose_disk_stands_still_hands_on() {
    let mut room = Room::new(&[1, 2, 3]);
    let stuck = room.leader();
    room.run(Span::seconds(2));
    room.stalled_disks.insert(stuck);
    room.input(stuck, Input::Propose { ticket: Ticket(1_000), request: None, command: Command::Settle });
    room.run(Span::seconds(5));
    assert!(!room.members[&stuck].is_leader());
    assert_ne!(room.leader(), stuck);
    room.propose(Command::Settle);
    assert!(matches!(room.answers[&Ticket(1_000)], Answer::Failed(ProposeError::Lost)));
    room.heal_disk(stuck);
    room.run(Span::seconds(2));
    let hashes: BTreeSet<_> = room.members.values().map(|replica| replica.state().unwrap().hash().0).collect();
    assert_eq!(hashes.len(), 1);
}

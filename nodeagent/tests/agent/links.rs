//! Links to the members: they come back, follow the leader, and find their way when everybody known was replaced.

use super::*;

#[test]
fn restarted_member_is_heard_again_long_before_the_lease_ends() {
    let shared = Shared::new(patient_terms());
    let mut members: Vec<Member> = (1..=3).map(|id| Member::start(id, &shared, ANY)).collect();
    agree(&shared, &members.iter().collect::<Vec<_>>());
    // One seed is enough: the others are learned from its acknowledgements.
    let mut machine = Machine::new("restarted", &shared, &[&members[0]]);
    machine.start(&[]);
    machine.until_registered(1);
    machine.run(5, 1, OnQuorumLoss::Stop);
    let addresses: Vec<SocketAddr> = members.iter().map(|member| member.address).collect();
    let known = || fs::read_to_string(machine.state_dir().join("members")).unwrap_or_default();
    until("the members are noted", || addresses.iter().all(|address| known().contains(&address.to_string())));

    // All of them at once, on the same ports.
    members.clear();
    let count = shared.truth().heartbeats.len();
    members.extend((1..=3).map(|id| Member::start(id, &shared, addresses[id as usize - 1])));
    let begun = Instant::now();
    until("heartbeats arrive again", || shared.truth().heartbeats.len() >= count + 3);
    assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
    until("the session is open again", || shared.truth().sessions.len() >= 2);
    assert_eq!(shared.truth().registrations.len(), 1, "nothing was lost by it");
    machine.run(7, 1, OnQuorumLoss::Stop);
}

/// Cut off while its members are replaced one by one, a node knows only addresses at which nobody is any more. One that it
/// was given beside them, such as a name, leads back: by the leader's acknowledgements it learns who votes now.
#[test]
fn node_whose_voters_were_all_replaced_finds_back_by_an_address_it_was_given() {
    let shared = Shared::new(Profile::Fast.terms());
    let old: Vec<Member> = (1..=3).map(|id| Member::start(id, &shared, ANY)).collect();
    agree(&shared, &old.iter().collect::<Vec<_>>());
    // Nobody is there yet.
    let standing_in = Member::start(9, &shared, ANY);
    let given = standing_in.address;
    drop(standing_in);
    let mut machine = Machine::new("replaced", &shared, &old.iter().collect::<Vec<_>>());
    machine.start(&["--member", &given.to_string()]);
    machine.until_registered(1);
    until("the lease is held", || machine.status().is_some_and(|status| status.lease_left_ms > Some(0)));

    drop(old);
    shared.change(|truth| (truth.leader, truth.membership) = (0, None));
    let trouble = || machine.status().and_then(|status| status.trouble).unwrap_or_default();
    until("it says what to do", || trouble().contains("--member HOST:PORT"));
    assert!(trouble().contains(&given.to_string()), "and whom it asks: {}", trouble());

    let mut new = vec![Member::start(4, &shared, given)];
    new.extend([5, 6].map(|id| Member::start(id, &shared, ANY)));
    agree_later(&shared, &new.iter().collect::<Vec<_>>());
    shared.change(|truth| truth.leader = 4);
    machine.until_registered(2);
    machine.run(5, 1, OnQuorumLoss::Stop);
    assert_eq!(machine.status().expect("it answers").trouble, None);
    let known = || fs::read_to_string(machine.state_dir().join("members")).unwrap_or_default();
    until("the new members are noted", || new.iter().all(|member| known().contains(&member.address.to_string())));
}

#[test]
fn session_follows_the_leader_and_does_not_wait_for_a_dead_one() {
    let shared = Shared::new(patient_terms());
    let mut members: Vec<Member> = (1..=3).map(|id| Member::start(id, &shared, ANY)).collect();
    agree(&shared, &members.iter().collect::<Vec<_>>());
    let mut machine = Machine::new("leader", &shared, &members.iter().collect::<Vec<_>>());
    machine.start(&[]);
    machine.until_registered(1);
    machine.run(5, 1, OnQuorumLoss::Stop);

    // The leader steps down.
    shared.change(|truth| truth.leader = 2);
    until("the session moved", || shared.truth().sessions.ends_with(&[2]));
    machine.run(6, 1, OnQuorumLoss::Stop);

    // The leader's machine loses its power.
    shared.change(|truth| truth.leader = 3);
    drop(members.remove(1));
    until("the session moved", || shared.truth().sessions.ends_with(&[3]));
    machine.run(7, 1, OnQuorumLoss::Stop);
    assert_eq!(shared.truth().registrations.len(), 1);
}

#[test]
fn leader_that_falls_silent_behind_open_connections_is_left_for_another() {
    let shared = Shared::new(patient_terms());
    let members: Vec<Member> = (1..=3).map(|id| Member::start(id, &shared, ANY)).collect();
    agree(&shared, &members.iter().collect::<Vec<_>>());
    let mut machine = Machine::new("silent", &shared, &members.iter().collect::<Vec<_>>());
    machine.start(&[]);
    machine.until_registered(1);
    until("the lease is held", || machine.status().is_some_and(|status| status.lease_left_ms > Some(0)));
    {
        // Not told to the session: nothing arrives from it any more, and nothing breaks it.
        let mut truth = shared.truth();
        (truth.leader, truth.mute) = (2, 1);
    }
    until("the session moved", || shared.truth().sessions.ends_with(&[2]));
    machine.run(5, 1, OnQuorumLoss::Stop);
    assert_eq!(shared.truth().registrations.len(), 1, "two of three still answer");
}

#[test]
fn leader_in_doubt_keeps_its_one_session_while_the_others_still_name_it() {
    let shared = Shared::new(patient_terms());
    let members: Vec<Member> = (1..=3).map(|id| Member::start(id, &shared, ANY)).collect();
    agree(&shared, &members.iter().collect::<Vec<_>>());
    let mut machine = Machine::new("doubt", &shared, &members.iter().collect::<Vec<_>>());
    machine.start(&[]);
    machine.until_registered(1);
    until("the lease is held", || machine.status().is_some_and(|status| status.lease_left_ms > Some(0)));
    let asked = {
        let mut truth = shared.truth();
        truth.mute = 1;
        truth.asked_in_vain
    };
    // Three rounds through both others, one after the other: whatever the first two did has happened.
    until("the others were asked", || shared.truth().asked_in_vain >= asked + 6);
    assert_eq!(shared.truth().sessions, [1], "a second session would have ended the first");
    machine.run(5, 1, OnQuorumLoss::Stop);
    assert_eq!(shared.truth().registrations.len(), 1);
}

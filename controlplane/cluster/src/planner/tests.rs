use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Observed, explain, plan};
use crate::command::{Command, IntentOrder, Reported};
use crate::model::container::*;
use crate::model::decision::Trigger;
use crate::model::fence::Proof;
use crate::model::ids::*;
use crate::model::node::Role;
use crate::model::report::{NodeReport, StorageFinding};
use crate::model::resources::Resources;
use crate::model::storage::StorageKind;
use crate::planner::drain_blockers;
use crate::story::*;

const N1: NodeId = NodeId(1);
const N2: NodeId = NodeId(2);

fn sized(name: &str, memory_gib: u64) -> ContainerSpec {
    let base = spec(name);
    ContainerSpec { resources: Resources { memory_bytes: memory_gib * GIB, ..base.resources }, ..base }
}

fn drain(node: NodeId) -> Command {
    Command::SetNodeIntent { node, intent: IntentOrder::Drain }
}

/// Carries every handover one phase on, until none is under way.
fn carry_out_handovers(story: &mut Story) {
    let next = |story: &Story| story.state.handovers().next().cloned();
    while let Some(container) = next(story) {
        match story.order(container.id) {
            Order::Prepare { ready: false, .. } => story.target_says(container.id, Reported::Prepared),
            Order::Handoff { .. } => story.close(container.id, End::Stopped),
            order => panic!("{order:?} does not move"),
        }
        story.plan();
    }
}

#[test]
fn standby_is_used_last() {
    let mut story = Story::with_nodes(2);
    let standby = NodeId(3);
    let all: Vec<ContainerId> = (0..5).map(|i| story.run(sized(&format!("c{i}"), 4))).collect();
    let places: Vec<NodeId> = all.iter().map(|id| story.on(*id).unwrap()).collect();
    assert_eq!(places, [N1, N2, N1, N2, standby]);
}

#[test]
fn higher_priority_gets_the_room() {
    let mut story = Story::bare();
    story.node(Role::Active, 8);
    let low = story.create(ContainerSpec { priority: 100, ..sized("low", 8) });
    let high = story.create(ContainerSpec { priority: 900, ..sized("high", 8) });
    story.plan();
    assert_eq!((story.on(high), story.on(low)), (Some(N1), None));
}

#[test]
fn no_room_anywhere_is_said_once_and_ends_when_room_turns_up() {
    let mut story = Story::bare();
    story.node(Role::Active, 8);
    let (first, second) = (story.run(sized("first", 8)), story.create(sized("second", 8)));
    assert_eq!((story.plan(), story.plan()), (1, 0));
    let decision = explain(&story.state, story.container(second));
    assert_eq!((decision.chosen, decision.rejections[0].reason.code()), (None, "memory-short"));
    story.done(Command::SetDesired { container: first, desired: Desired::Stopped });
    story.close(first, End::Stopped);
    story.plan();
    assert_eq!(story.on(second), Some(N1));
}

#[test]
fn changed_reason_is_recorded_again() {
    let mut story = Story::bare();
    story.node(Role::Active, 8);
    story.create(sized("big", 9));
    assert_eq!(story.plan(), 1);
    story.done(Command::SetNodeIntent { node: N1, intent: IntentOrder::Cordon });
    assert_eq!((story.plan(), story.plan()), (1, 0));
}

#[test]
fn suspects_get_nothing_new_and_lose_nothing() {
    let mut story = Story::with_nodes(2);
    let old = story.run(ContainerSpec { preferred_owners: Arc::new([Arc::new([N1])]), ..spec("old") });
    story.suspects = BTreeSet::from([N1]);
    let new = story.run(ContainerSpec { preferred_owners: Arc::new([Arc::new([N1])]), ..spec("new") });
    assert_eq!((story.on(old), story.on(new)), (Some(N1), Some(N2)));
}

#[test]
fn failover_leaves_down_what_its_policy_keeps_down() {
    let mut story = Story::with_nodes(2);
    let home: Arc<[Arc<[NodeId]>]> = Arc::new([Arc::new([N1])]);
    let with =
        |name: &str, class, priority| ContainerSpec { class, priority, preferred_owners: home.clone(), ..spec(name) };
    let none = story.run(with("none", Class::None, 500));
    let manual = story.run(with("manual", Class::Guaranteed, 0));
    let web = story.run(with("web", Class::Guaranteed, 1));
    story.lose(N1);
    story.plan();
    assert_eq!([none, manual, web].map(|id| story.on(id)), [None, None, Some(N2)]);
    story.done(Command::SetDesired { container: manual, desired: Desired::Running });
    story.plan();
    assert_eq!(story.on(manual), Some(N2), "a person may start it");
}

#[test]
fn class_none_is_restarted_in_place_or_not_at_all() {
    let mut story = Story::with_nodes(2);
    let web = story.run(ContainerSpec { class: Class::None, ..spec("web") });
    let home = story.on(web).unwrap();
    story.done(Command::SetNodeIntent { node: home, intent: IntentOrder::Cordon });
    story.close(web, End::Exited(Exit::Code(1)));
    story.plan();
    assert_eq!(story.on(web), None);
    story.done(Command::SetNodeIntent { node: home, intent: IntentOrder::Uncordon });
    story.plan();
    assert_eq!(story.on(web), Some(home));
}

#[test]
fn possible_owners_bind_and_preferred_owners_lead() {
    let mut story = Story::with_nodes(2);
    let only = story.run(ContainerSpec { possible_owners: Arc::new([NodeId(3)]), ..spec("only") });
    let tiers: Arc<[Arc<[NodeId]>]> = Arc::new([Arc::new([N2]), Arc::new([N1])]);
    let likes: Vec<ContainerId> = (0..3)
        .map(|i| story.run(ContainerSpec { preferred_owners: tiers.clone(), ..sized(&format!("c{i}"), 4) }))
        .collect();
    assert_eq!(story.on(only), Some(NodeId(3)), "a standby may be named");
    assert_eq!(likes.iter().map(|id| story.on(*id).unwrap()).collect::<Vec<_>>(), [N2, N2, N1]);
}

#[test]
fn cpu_is_promised_four_times_and_memory_once() {
    let mut story = Story::bare();
    story.node(Role::Active, 64);
    let busy = |i: usize| {
        let resources = Resources { cpu_millis: 8_000, memory_bytes: GIB };
        ContainerSpec { resources, ..spec(&format!("c{i}")) }
    };
    let all: Vec<ContainerId> = (0..5).map(|i| story.create(busy(i))).collect();
    story.plan();
    assert_eq!(all.iter().filter(|id| story.on(**id).is_some()).count(), 4);
    let decision = explain(&story.state, story.container(all[4]));
    assert_eq!(decision.rejections[0].reason.code(), "cpu-short");
}

#[test]
fn drain_moves_everything_a_few_at_a_time() {
    let mut story = Story::with_nodes(3);
    let home: Arc<[Arc<[NodeId]>]> = Arc::new([Arc::new([N1])]);
    let all: Vec<ContainerId> =
        (0..6).map(|i| story.run(ContainerSpec { preferred_owners: home.clone(), ..spec(&format!("c{i}")) })).collect();
    story.done(drain(N1));
    story.plan();
    assert_eq!(story.state.handovers().count(), 2, "as many at once as the settings allow per node");
    carry_out_handovers(&mut story);
    assert!(all.iter().all(|id| story.on(*id).is_some_and(|node| node == N2 || node == NodeId(3))));
    assert_eq!(story.events.iter().filter(|event| event.kind() == "node-drained").count(), 1);
    let decision = story.state.decision(story.container(all[0]).decision.unwrap()).unwrap();
    assert_eq!(decision.trigger, Trigger::Drain { from: N1 });
    assert_eq!(story.container(all[0]).home, Some(N1), "a drain does not change home");
}

#[test]
fn drain_names_what_has_nowhere_to_go() {
    let mut story = Story::with_nodes(2);
    let stuck = story.run(ContainerSpec { possible_owners: Arc::new([N1]), ..spec("stuck") });
    story.run(ContainerSpec { preferred_owners: Arc::new([Arc::new([N1])]), ..spec("free") });
    story.done(drain(N1));
    story.plan();
    carry_out_handovers(&mut story);
    let blockers = drain_blockers(&story.state, N1);
    assert_eq!(blockers.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [stuck]);
    assert_eq!(
        blockers[0].1.to_string(),
        "no node may take c1\n     2  not-possible-owner  not among the possible owners (n2 n3)"
    );
    assert_eq!(story.plan(), 0);
}

#[test]
fn drain_waits_for_one_blocked_handover_but_not_with_the_rest() {
    let mut story = Story::with_nodes(2);
    let home: Arc<[Arc<[NodeId]>]> = Arc::new([Arc::new([N1])]);
    let all: Vec<ContainerId> =
        (0..4).map(|i| story.run(ContainerSpec { preferred_owners: home.clone(), ..spec(&format!("c{i}")) })).collect();
    story.done(drain(N1));
    story.plan();
    for id in &all[..2] {
        story.target_says(*id, Reported::Prepared);
    }
    story.plan();
    for id in &all[..2] {
        story.done(Command::BlockHandover { container: *id, epoch: Epoch(1) });
    }
    story.plan();
    assert!(matches!(story.order(all[2]), Order::Prepare { .. }));
}

#[test]
fn handover_whose_target_is_cordoned_goes_back() {
    let mut story = Story::with_nodes(2);
    let web = story.run(spec("web"));
    story.done(Command::MoveContainer { container: web, target: Some(N2) });
    story.done(Command::SetNodeIntent { node: N2, intent: IntentOrder::Cordon });
    story.plan();
    assert_eq!((story.order(web), story.on(web)), (Order::Run, Some(N1)));
}

#[test]
fn node_that_shuts_down_does_not_get_back_what_it_gave_up() {
    let mut story = Story::with_nodes(2);
    let web = story.run(sized("web", 8));
    story.close(web, End::Stopped);
    story.plan();
    assert_eq!(story.on(web), Some(N2));
}

#[test]
fn plan_is_the_same_for_the_same_input_and_changes_nothing() {
    let mut story = Story::with_nodes(3);
    for i in 0..12 {
        story.create(sized(&format!("c{i}"), 1 + i % 3));
    }
    let hash = story.state.hash();
    let observed = Observed { suspects: BTreeSet::from([N2]) };
    let first = plan(&story.state, &observed, story.now);
    assert_eq!(first, plan(&story.state.clone(), &observed, story.now));
    assert_eq!((story.state.hash(), first.based_on), (hash, story.state.revision()));
    assert_eq!(first.commands.len(), 12);
}

#[test]
fn grouped_planning_decides_as_one_by_one_would() {
    let mut grouped = Story::with_nodes(3);
    let mut single = Story::with_nodes(3);
    for i in 0..20 {
        let spec = || ContainerSpec { priority: 100 + (i % 4) as u16, ..sized(&format!("c{i}"), 1 + i % 3) };
        grouped.create(spec());
        single.create(spec());
    }
    grouped.plan();
    let next = |story: &Story| story.state.unplaced().find(|container| container.decision.is_none()).cloned();
    while let Some(container) = next(&single) {
        let mut decision = explain(&single.state, &container);
        let (id, after) = (container.id, container.epoch);
        decision.trigger = Trigger::Created;
        let command = match decision.chosen {
            Some(node) => {
                let incarnation = single.incarnation(node);
                Command::Assign { container: id, after, node, incarnation, decision: Box::new(decision) }
            }
            None => Command::RecordUnplaceable { container: id, decision: Box::new(decision) },
        };
        single.done(command);
    }
    let places = |story: &Story| story.state.containers().map(|c| story.on(c.id)).collect::<Vec<_>>();
    assert_eq!(places(&grouped), places(&single));
    let why = |story: &Story| {
        let decisions = story.state.containers().map(|c| story.state.decision(c.decision.unwrap()).unwrap().clone());
        decisions.map(|d| (d.chosen, d.candidates.clone(), d.feasible, d.rejections.clone())).collect::<Vec<_>>()
    };
    assert_eq!(why(&grouped), why(&single));
}

/// What `node` finds of the one storage there is.
fn finds(story: &mut Story, node: NodeId, fault: &str) {
    let finding = StorageFinding { fault: fault.into(), ..StorageFinding::default() };
    let report = Arc::new(NodeReport {
        storages: Arc::new(BTreeMap::from([(name("shared"), finding)])),
        ..NodeReport::default()
    });
    let incarnation = story.incarnation(node);
    story.done(Command::ReportNode { node, incarnation, report });
}

#[test]
fn storage_lost_on_a_node_moves_what_needs_it_and_nothing_else() {
    let mut story = Story::with_nodes(2);
    let disks = name("disks");
    let kind = StorageKind::Directory { path: "/srv/disks".into() };
    story.done(Command::RegisterStorage { name: disks.clone(), kind });
    let at_home: Arc<[Arc<[NodeId]>]> = Arc::new([Arc::new([N1])]);
    let stricken = story.run(ContainerSpec { preferred_owners: at_home.clone(), ..spec("stricken") });
    let other = story.run(ContainerSpec { preferred_owners: at_home, storage: disks, ..spec("other") });
    assert_eq!((story.on(stricken), story.on(other)), (Some(N1), Some(N1)));
    finds(&mut story, N1, "it hangs");
    story.plan();
    assert!(matches!(story.order(stricken), Order::Prepare { target: N2, .. }), "{:?}", story.order(stricken));
    assert_eq!(story.order(other), Order::Run);
    let decided = story.container(stricken).decision.and_then(|at| story.state.decision(at)).expect("decided");
    assert_eq!(decided.trigger.to_string(), "n1 has lost storage shared");
    story.target_says(stricken, Reported::Prepared);
    story.plan();
    story.close(stricken, End::Stopped);
    assert_eq!(story.on(stricken), Some(N2), "the source's word that it has ended is the receipt");
    assert!(story.health(N1).incarnation() == story.incarnation(N1) && story.state.node(N1).unwrap().up().is_some());
}

#[test]
fn storage_lost_everywhere_moves_nothing_and_unknown_is_no_fault() {
    let mut story = Story::with_nodes(2);
    let web = story.run(spec("web"));
    let on = story.on(web).expect("it runs");
    for node in [N1, N2, NodeId(3)] {
        finds(&mut story, node, "it hangs");
    }
    story.plan();
    assert_eq!(story.order(web), Order::Run, "nowhere to go");
    let waiting = story.create(spec("late"));
    story.plan();
    let decided = story.container(waiting).decision.and_then(|at| story.state.decision(at)).expect("decided");
    assert_eq!(decided.rejections.iter().map(|count| count.reason.code()).collect::<Vec<_>>(), ["storage-lost"]);
    let back = if on == N1 { N2 } else { N1 };
    finds(&mut story, back, "");
    story.plan();
    assert_eq!(story.on(waiting), Some(back));
    assert!(matches!(story.order(web), Order::Prepare { target, .. } if target == back));
}

#[test]
fn what_lies_on_a_local_storage_waits_for_its_own_node() {
    let mut story = Story::with_nodes(2);
    let disks = name("disks");
    story
        .done(Command::RegisterStorage { name: disks.clone(), kind: StorageKind::Local { path: "/srv/disks".into() } });
    let web = story.run(ContainerSpec { storage: disks, ..spec("web") });
    let home = story.on(web).expect("it runs");
    let moved =
        story.outcome(Command::MoveContainer { container: web, target: Some(if home == N1 { N2 } else { N1 }) });
    assert_eq!(moved.expect_err("its area is not there").code(), "infeasible");
    let incarnation = story.incarnation(home);
    story.done(Command::RecordFenced { node: home, incarnation, proof: Proof::Left });
    story.plan();
    assert_eq!(story.on(web), None, "it is not failed over");
    let decided = story.container(web).decision.and_then(|at| story.state.decision(at)).expect("decided");
    assert!(decided.rejections.iter().any(|count| count.reason.code() == "area-elsewhere"), "{decided:?}");
    story.register(home, 99, false, facts(8)).expect("it comes back");
    story.plan();
    assert_eq!(story.on(web), Some(home));
}

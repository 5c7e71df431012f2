use std::sync::Arc;

use crate::apply::{Done, Rejected};
use crate::command::{Command, Registration, SettingsChange};
use crate::event::Event;
use crate::model::container::*;
use crate::model::fence::{FenceCause, FencingClass, Proof};
use crate::model::ids::*;
use crate::model::lease::Profile;
use crate::model::node::{Health, Intent, NodeFacts, Role};
use crate::state::Brake;
use crate::story::*;

const N1: NodeId = NodeId(1);
const N2: NodeId = NodeId(2);

fn operator() -> Proof {
    Proof::Operator { reason: "i pulled the plug".into() }
}

fn kept(name: &str) -> ContainerSpec {
    ContainerSpec { on_quorum_loss: OnQuorumLoss::Keep, preferred_owners: only(N1), ..spec(name) }
}

fn only(node: NodeId) -> Arc<[Arc<[NodeId]>]> {
    Arc::new([Arc::new([node])])
}

#[test]
fn lost_node_gives_up_its_containers_only_after_the_receipt() {
    let mut story = Story::with_nodes(2);
    let web = story.run(ContainerSpec { preferred_owners: only(N1), ..spec("web") });
    assert_eq!(story.on(web), Some(N1));
    story.begin_fencing(N1, FenceCause::Silence).unwrap();
    assert_eq!(story.plan(), 0, "nothing moves while fencing is open");
    assert_eq!(story.on(web), Some(N1));
    story.record_fenced(N1, lease_over()).unwrap();
    assert_eq!(story.reason(web), Unplaced::Displaced { from: N1 });
    story.plan();
    assert_eq!(story.on(web), Some(N2));
    assert_eq!((story.container(web).epoch, story.container(web).displacements), (Epoch(2), 1));
    assert_eq!(story.container(web).home, Some(N1), "failover never changes home");
}

#[test]
fn fencing_begins_once_and_only_for_the_current_incarnation() {
    let mut story = Story::with_nodes(1);
    let incarnation = story.incarnation(N1);
    let late = Command::BeginFencing { node: N1, incarnation: Incarnation(1), cause: FenceCause::Silence };
    assert!(matches!(story.refused(late), Rejected::StaleIncarnation { current, .. } if current == incarnation));
    story.begin_fencing(N1, FenceCause::Silence).unwrap();
    assert!(matches!(story.begin_fencing(N1, FenceCause::Silence), Err(Rejected::WrongState { .. })));
    story.record_fenced(N1, lease_over()).unwrap();
    assert!(matches!(story.begin_fencing(N1, FenceCause::Silence), Err(Rejected::WrongState { .. })));
}

#[test]
fn proofs_by_time_or_by_hand_need_an_open_fencing_and_the_nodes_own_word_does_not() {
    for proof in [lease_over(), operator(), Proof::Confirmed { method: "ipmi".into(), evidence: "off".into() }] {
        let mut story = Story::with_nodes(1);
        assert!(matches!(story.record_fenced(N1, proof.clone()), Err(Rejected::NotProof { .. })));
        story.begin_fencing(N1, FenceCause::Operator { reason: "drill".into() }).unwrap();
        story.record_fenced(N1, proof).unwrap();
    }
    for proof in [Proof::Left, Proof::Guard, Proof::Empty] {
        let mut story = Story::with_nodes(1);
        story.record_fenced(N1, proof).unwrap();
    }
}

#[test]
fn time_proves_nothing_about_a_node_of_class_f0() {
    let mut story = Story::bare();
    let weak = NodeFacts { class: FencingClass::F0, ..facts(8) };
    let node = story.node(Role::Active, 8);
    story.record_fenced(node, Proof::Left).unwrap();
    story.register(node, 1, false, weak).unwrap();
    let web = story.run(spec("web"));
    story.begin_fencing(node, FenceCause::Silence).unwrap();
    assert!(matches!(story.record_fenced(node, lease_over()), Err(Rejected::NotProof { .. })));
    assert_eq!(story.on(web), Some(node));
    story.record_fenced(node, operator()).unwrap();
    assert_eq!(story.reason(web), Unplaced::Displaced { from: node });
}

/// What was said since `from` of classes and of who is waited for.
fn said_of_classes(story: &Story, from: usize) -> Vec<String> {
    let is_one = |event: &&Event| matches!(event.kind(), "node-class-changed" | "fencing-awaits-operator");
    story.events[from..].iter().filter(is_one).map(|event| event.to_string()).collect()
}

#[test]
fn class_that_changes_while_a_node_serves_is_said_and_counts() {
    let mut story = Story::with_nodes(1);
    let web = story.run(spec("web"));
    let node = story.on(web).unwrap();
    let (incarnation, from) = (story.incarnation(node), story.events.len());
    let note = |class, reason: &str| Command::NoteNodeClass { node, incarnation, class, reason: reason.into() };
    story.done(note(FencingClass::F0, "an end overran"));
    story.done(note(FencingClass::F0, "an end overran; 1 of 3"));
    assert_eq!(said_of_classes(&story, from).len(), 1, "{:?}", said_of_classes(&story, from));
    assert_eq!(story.state.node(node).unwrap().class(), FencingClass::F0);
    story.done(note(FencingClass::F1, "shown again"));
    assert_eq!(said_of_classes(&story, from)[1], "node-1 is fencing class F1: shown again");

    // While it is being fenced it may only fall, and then the end of its lease proves nothing any more.
    story.begin_fencing(node, FenceCause::Silence).unwrap();
    assert!(!story.state.node(node).unwrap().awaits_operator());
    assert!(matches!(story.refused(note(FencingClass::F1, "all well")), Rejected::WrongState { .. }));
    story.done(note(FencingClass::F0, "its end hangs"));
    assert!(matches!(story.record_fenced(node, lease_over()), Err(Rejected::NotProof { .. })));
    assert!(story.state.node(node).unwrap().awaits_operator());
    let said = said_of_classes(&story, from);
    assert!(said[3].contains("waits for an operator (its end hangs)") && said[3].contains("confirm-down"), "{said:?}");
    assert!(matches!(story.refused(note(FencingClass::F1, "all well")), Rejected::WrongState { .. }));
    story.record_fenced(node, operator()).unwrap();
    assert!(matches!(story.refused(note(FencingClass::F1, "late")), Rejected::StaleIncarnation { .. }));
}

#[test]
fn fencing_of_a_node_whose_lease_proves_nothing_says_who_is_waited_for() {
    let mut story = Story::with_nodes(1);
    let weak = NodeFacts { class: FencingClass::F0, class_reason: "no pid namespaces".into(), ..facts(8) };
    let from = story.events.len();
    story.record_fenced(N1, Proof::Left).unwrap();
    story.register(N1, 1, false, weak.clone()).unwrap();
    story.begin_fencing(N1, FenceCause::Silence).unwrap();
    let said = said_of_classes(&story, from);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(
        said[0].starts_with("node-1 is fencing class F0: if it is lost, an operator must confirm that"),
        "{said:?}"
    );
    assert!(said[1].contains("waits for an operator (no pid namespaces)"), "{said:?}");
    story.record_fenced(N1, operator()).unwrap();
    story.register(N1, 1, false, weak).unwrap();
    assert_eq!(said_of_classes(&story, from).len(), 2, "the same class again is no news");
    story.record_fenced(N1, Proof::Left).unwrap();
    story.register(N1, 1, false, facts(8)).unwrap();
    assert_eq!(said_of_classes(&story, from).len(), 3, "its return is");
}

#[test]
fn brake_stops_fencing_by_time_and_nothing_else() {
    let mut story = Story::with_nodes(3);
    story.begin_fencing(N2, FenceCause::Silence).unwrap();
    story.done(Command::TripBrake { silent: 3, of: 4 });
    assert!(matches!(story.begin_fencing(N1, FenceCause::Silence), Err(Rejected::WrongState { .. })));
    story.record_fenced(N2, lease_over()).unwrap();
    story.begin_fencing(N1, FenceCause::OutsideFact { evidence: "pdu port off".into() }).unwrap();
    story.done(Command::ReleaseBrake);
    assert_eq!(story.state.brake(), Brake::Off);
    story.begin_fencing(NodeId(3), FenceCause::Silence).unwrap();
}

#[test]
fn fewer_than_three_voters_fence_nobody_by_time() {
    let mut story = Story::of(2);
    let node = story.node(Role::Active, 8);
    assert!(matches!(story.begin_fencing(node, FenceCause::Silence), Err(Rejected::WrongState { .. })));
    story.begin_fencing(node, FenceCause::Operator { reason: "it burns".into() }).unwrap();
}

#[test]
fn kept_container_stays_until_a_proof_about_the_machine() {
    let mut story = Story::with_nodes(2);
    let (keep, stop) =
        (story.run(kept("keep")), story.run(ContainerSpec { preferred_owners: only(N1), ..spec("stop") }));
    story.lose(N1);
    assert!(matches!(story.order(keep), Order::AwaitingReceipt { .. }));
    story.plan();
    assert_eq!((story.on(keep), story.on(stop)), (Some(N1), Some(N2)));
    assert!(matches!(story.record_fenced(N1, lease_over()), Err(Rejected::WrongState { .. })));
    story.record_fenced(N1, operator()).unwrap();
    story.plan();
    assert_eq!((story.on(keep), story.container(keep).epoch), (Some(N2), Epoch(2)));
    assert!(matches!(story.record_fenced(N1, operator()), Err(Rejected::WrongState { .. })), "nothing waits any more");
}

#[test]
fn policy_on_quorum_loss_belongs_to_the_epoch() {
    let mut story = Story::with_nodes(2);
    let keep = story.run(kept("keep"));
    // No command changes a spec yet; the day one does, the running epoch keeps what it was started under.
    let spec = ContainerSpec { on_quorum_loss: OnQuorumLoss::Stop, ..kept("keep") };
    let changed = Container { spec: Arc::new(spec), ..story.container(keep).clone() };
    story.state.put_container(changed);
    story.record_fenced(N1, Proof::Guard).unwrap();
    assert!(matches!(story.order(keep), Order::AwaitingReceipt { .. }), "the guard's record covers stop only");
}

#[test]
fn same_boot_takes_up_what_it_kept_and_another_boot_does_not() {
    let mut story = Story::with_nodes(2);
    let keep = story.run(kept("keep"));
    story.lose(N1);
    story.register(N1, 1, false, facts(8)).unwrap();
    assert_eq!((story.order(keep), story.container(keep).epoch), (Order::Run, Epoch(1)));
    assert_eq!(story.container(keep).assignment().unwrap().incarnation, story.incarnation(N1));

    story.lose(N1);
    let old = story.incarnation(N1);
    story.register(N1, 99, true, facts(8)).unwrap();
    assert!(matches!(story.order(keep), Order::AwaitingReceipt { .. }), "another boot may be another machine");
    let new = story.run(ContainerSpec { preferred_owners: only(N1), ..spec("new") });
    assert_eq!((story.on(keep), story.on(new)), (Some(N1), Some(N1)));
    let guess = Command::RecordFenced { node: N1, incarnation: old, proof: Proof::Guard };
    assert!(matches!(story.refused(guess), Rejected::StaleIncarnation { .. }));
    story.done(Command::RecordFenced { node: N1, incarnation: old, proof: operator() });
    assert_eq!(story.reason(keep), Unplaced::Displaced { from: N1 });
    assert!(matches!(story.health(N1), Health::Up { .. }), "the new incarnation is not touched by it");
    assert_eq!(story.on(new), Some(N1), "nor what runs under it");
}

#[test]
fn empty_node_of_the_same_boot_is_its_own_receipt() {
    for fencing in [false, true] {
        let mut story = Story::with_nodes(2);
        let (keep, stop) =
            (story.run(kept("keep")), story.run(ContainerSpec { preferred_owners: only(N1), ..spec("stop") }));
        if fencing {
            story.begin_fencing(N1, FenceCause::Silence).unwrap();
        }
        story.register(N1, 1, true, facts(8)).unwrap();
        assert!(matches!(story.health(N1), Health::Up { .. }));
        for id in [keep, stop] {
            assert_eq!(story.reason(id), Unplaced::Displaced { from: N1 });
        }
    }
}

#[test]
fn registration_without_proof_waits_for_the_receipt() {
    let mut story = Story::with_nodes(1);
    let old = story.incarnation(N1);
    for (boot, empty) in [(1, false), (2, true), (2, false)] {
        assert_eq!(story.register(N1, boot, empty, facts(8)), Err(Rejected::NotFenced { node: N1, old }));
    }
    story.begin_fencing(N1, FenceCause::RebootSeen { boot: BootId(2) }).unwrap();
    assert_eq!(story.register(N1, 2, true, facts(8)), Err(Rejected::NotFenced { node: N1, old }));
    story.record_fenced(N1, lease_over()).unwrap();
    assert_eq!(story.register(N1, 2, false, facts(8)), Ok(Done::Registered(Incarnation(story.state.revision().0))));
}

#[test]
fn late_duplicate_of_a_registration_is_refused() {
    let mut story = Story::with_nodes(1);
    let (current, facts) = (story.incarnation(N1), facts(8));
    let late = Registration { node: N1, ends: Incarnation(0), boot: BootId(1), empty: true, facts, run: AgentRun(0) };
    let refused = story.refused(Command::RegisterNode(Box::new(late)));
    assert_eq!(refused, Rejected::StaleIncarnation { node: N1, given: Incarnation(0), current });
}

#[test]
fn registration_whose_answer_was_lost_is_answered_again_and_only_that_one() {
    let mut story = Story::with_nodes(1);
    story.record_fenced(N1, Proof::Left).unwrap();
    let (ended, facts) = (story.incarnation(N1), facts(8));
    let first = Registration { node: N1, ends: ended, boot: BootId(1), empty: true, facts, run: AgentRun(7) };
    let register = |registration: &Registration| Command::RegisterNode(Box::new(registration.clone()));
    assert!(matches!(story.done(register(&first)), Done::Registered(_)));
    let current = story.incarnation(N1);
    let events = story.events.len();
    let later = Registration { facts: crate::story::facts(4), ..first.clone() };
    for again in [&first, &later] {
        assert_eq!(story.done(register(again)), Done::Registered(current));
        assert_eq!((story.incarnation(N1), story.events.len()), (current, events), "it has no second effect");
    }
    // Another run of the agent, another boot, another forerunner, or none that says who it is: somebody else's.
    let stale = Rejected::StaleIncarnation { node: N1, given: ended, current };
    for other in [
        Registration { run: AgentRun(8), ..first.clone() },
        Registration { run: AgentRun(0), ..first.clone() },
        Registration { boot: BootId(2), ..first.clone() },
    ] {
        assert_eq!(story.refused(register(&other)), stale);
    }
    let other = Registration { ends: Incarnation(0), ..first.clone() };
    assert!(matches!(story.refused(register(&other)), Rejected::StaleIncarnation { .. }));
    // Once the incarnation is no longer up there is nothing to be given again.
    story.begin_fencing(N1, FenceCause::StopOverdue).unwrap();
    assert_eq!(story.refused(register(&first)), stale);
}

#[test]
fn fenced_node_may_come_back_cordoned() {
    let mut story = Story::with_nodes(2);
    let settings = Box::new(SettingsChange { rejoin_cordoned: Some(true), ..SettingsChange::default() });
    story.done(Command::UpdateSettings { settings });
    story.lose(N1);
    story.register(N1, 5, false, facts(8)).unwrap();
    assert_eq!(story.state.node(N1).unwrap().intent, Intent::Cordoned);
    story.record_fenced(N2, Proof::Left).unwrap();
    story.register(N2, 5, false, facts(8)).unwrap();
    assert_eq!(story.state.node(N2).unwrap().intent, Intent::Schedulable, "a graceful leave is no loss");
}

#[test]
fn old_terms_are_legal_until_every_unfenced_node_has_the_new_ones() {
    let mut story = Story::with_nodes(2);
    let (fast, old) = (Profile::Fast.terms(), Profile::Default.terms());
    let settings = Box::new(SettingsChange { terms: Some(fast), ..SettingsChange::default() });
    story.done(Command::UpdateSettings { settings });
    for node in [N1, N2] {
        assert!(story.state.settings().legal(old));
        let incarnation = story.incarnation(node);
        story.done(Command::AcknowledgeTerms { node, incarnation, terms: fast });
    }
    assert_eq!(story.state.settings().terms_fading, [old], "the standby has not followed yet");
    story.lose(NodeId(3));
    assert!(!story.state.settings().legal(old));
}

#[test]
fn node_with_work_cannot_be_removed() {
    let mut story = Story::with_nodes(2);
    let keep = story.run(kept("keep"));
    assert!(matches!(story.refused(Command::RemoveNode { node: N1 }), Rejected::WrongState { .. }));
    story.lose(N1);
    assert!(matches!(story.refused(Command::RemoveNode { node: N1 }), Rejected::InUse { .. }));
    story.record_fenced(N1, operator()).unwrap();
    story.done(Command::RemoveNode { node: N1 });
    assert_eq!(story.reason(keep), Unplaced::Displaced { from: N1 });
    story.plan();
    assert_eq!(story.on(keep), Some(N2));
    assert_ne!(story.node(Role::Active, 8), N1, "an id is never used again");
}

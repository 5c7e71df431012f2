use std::sync::Arc;

use crate::apply::Rejected;
use crate::command::{Command, IntentOrder, Report, Reported};
use crate::event::Event;
use crate::model::container::*;
use crate::model::fence::{FenceCause, Proof};
use crate::model::ids::*;
use crate::model::node::Health;
use crate::story::*;

/// One container on n1 with a handover to n2 begun.
fn prepared(ready: bool) -> (Story, ContainerId) {
    let mut story = Story::with_nodes(2);
    let home: Arc<[Arc<[NodeId]>]> = Arc::new([Arc::new([NodeId(1)])]);
    let web = story.run(ContainerSpec { preferred_owners: home, ..spec("web") });
    story.done(Command::MoveContainer { container: web, target: Some(NodeId(2)) });
    if ready {
        story.target_says(web, Reported::Prepared);
    }
    (story, web)
}

fn handed_off() -> (Story, ContainerId) {
    let (mut story, web) = prepared(true);
    story.done(Command::BeginHandoff { container: web, epoch: Epoch(1) });
    (story, web)
}

#[test]
fn handoff_needs_a_ready_target() {
    let (mut story, web) = prepared(false);
    let handoff = Command::BeginHandoff { container: web, epoch: Epoch(1) };
    assert!(matches!(story.refused(handoff.clone()), Rejected::WrongState { .. }));
    story.target_says(web, Reported::Prepared);
    story.done(handoff);
}

#[test]
fn room_is_reserved_at_the_target_until_the_end() {
    let (mut story, web) = prepared(true);
    let used = |story: &Story| [NodeId(1), NodeId(2)].map(|node| story.state.used(node).memory_bytes / GIB);
    assert_eq!(used(&story), [1, 1]);
    story.done(Command::BeginHandoff { container: web, epoch: Epoch(1) });
    assert_eq!(used(&story), [1, 1]);
    story.close(web, End::Stopped);
    assert_eq!(used(&story), [0, 1]);
}

#[test]
fn before_handoff_everything_goes_back_at_the_same_epoch() {
    let (mut story, web) = prepared(true);
    story.done(Command::AbortHandover { container: web, epoch: Epoch(1), reason: "changed my mind".into() });
    assert_eq!((story.order(web), story.on(web), story.container(web).epoch), (Order::Run, Some(NodeId(1)), Epoch(1)));

    let (mut story, web) = prepared(false);
    story.target_says(web, Reported::CannotPrepare { reason: "no room".into() });
    assert_eq!(story.order(web), Order::Run);

    let (mut story, web) = prepared(true);
    story.lose(NodeId(2));
    assert_eq!((story.order(web), story.on(web)), (Order::Run, Some(NodeId(1))));
}

#[test]
fn after_handoff_it_only_goes_forward() {
    let (mut story, web) = handed_off();
    let abort = Command::AbortHandover { container: web, epoch: Epoch(1), reason: "changed my mind".into() };
    assert!(matches!(story.refused(abort), Rejected::WrongState { .. }));
    story.done(Command::SetDesired { container: web, desired: Desired::Stopped });
    assert!(matches!(story.order(web), Order::Handoff { .. }));
    story.close(web, End::Stopped);
    assert_eq!(story.reason(web), Unplaced::Stopped);
}

#[test]
fn target_lost_after_handoff_waits_for_the_source_to_close() {
    let (mut story, web) = handed_off();
    story.lose(NodeId(2));
    assert_eq!((story.plan(), story.on(web)), (0, Some(NodeId(1))));
    story.close(web, End::Stopped);
    assert_eq!(story.reason(web), Unplaced::Moving { from: NodeId(1) });
    story.plan();
    assert_eq!((story.on(web), story.container(web).epoch), (Some(NodeId(1)), Epoch(2)));
}

#[test]
fn source_lost_at_any_phase_frees_it_by_the_receipt_alone() {
    for (mut story, web) in [prepared(false), prepared(true), handed_off()] {
        story.begin_fencing(NodeId(1), FenceCause::Silence).unwrap();
        assert_eq!(story.on(web), Some(NodeId(1)));
        story.record_fenced(NodeId(1), lease_over()).unwrap();
        assert_eq!(story.reason(web), Unplaced::Displaced { from: NodeId(1) });
        story.plan();
        assert_eq!((story.on(web), story.container(web).epoch), (Some(NodeId(2)), Epoch(2)));
    }
}

#[test]
fn target_that_came_back_as_another_incarnation_is_not_the_target() {
    let (mut story, web) = handed_off();
    story.record_fenced(NodeId(2), Proof::Left).unwrap();
    story.register(NodeId(2), 9, false, facts(8)).unwrap();
    story.close(web, End::Stopped);
    assert_eq!(story.reason(web), Unplaced::Moving { from: NodeId(1) });
    assert!(aborted(&story).ends_with("it goes where there is a place"), "{}", aborted(&story));

    let (mut story, web) = prepared(true);
    story.record_fenced(NodeId(2), Proof::Left).unwrap();
    story.register(NodeId(2), 9, false, facts(8)).unwrap();
    assert_eq!(story.order(web), Order::Run);
    assert!(aborted(&story).contains("is fenced: left gracefully"), "{}", aborted(&story));
}

#[test]
fn target_that_registers_anew_before_it_is_ready_ends_the_move_aloud() {
    for ready in [false, true] {
        let (mut story, web) = prepared(ready);
        let Health::Up { incarnation, boot } = story.health(NodeId(2)) else { panic!("the target is up") };
        story.register(NodeId(2), boot.0, true, facts(8)).unwrap();
        assert!(story.incarnation(NodeId(2)) > incarnation);
        assert_eq!((story.order(web), story.on(web)), (Order::Run, Some(NodeId(1))), "back at the source");
        assert!(aborted(&story).contains("registered anew before it was ready"), "{}", aborted(&story));
        // A word of the incarnation before, or of the new one about the old order, is about nothing.
        for incarnation in [incarnation, story.incarnation(NodeId(2))] {
            let reports = vec![Report { container: web, epoch: Epoch(1), what: Reported::Prepared }];
            let _ = story.outcome(Command::ReportStatus { node: NodeId(2), incarnation, reports });
            assert_eq!(story.order(web), Order::Run);
        }
        story.done(Command::MoveContainer { container: web, target: Some(NodeId(2)) });
        story.target_says(web, Reported::Prepared);
        assert!(matches!(story.order(web), Order::Prepare { ready: true, .. }), "ordered again, it goes on");
    }
}

/// Why the last handover that was given up was.
fn aborted(story: &Story) -> String {
    let of = |event: &Event| match event {
        Event::HandoverAborted { reason, .. } => Some(reason.to_string()),
        _ => None,
    };
    story.events.iter().rev().find_map(of).unwrap_or_default()
}

#[test]
fn blocked_handover_ends_by_a_late_close_or_by_a_receipt() {
    let (mut story, web) = handed_off();
    story.done(Command::BlockHandover { container: web, epoch: Epoch(1) });
    assert_eq!((story.plan(), story.on(web)), (0, Some(NodeId(1))));
    story.close(web, End::Stopped);
    assert_eq!(story.reason(web), Unplaced::Moving { from: NodeId(1) });

    let (mut story, web) = handed_off();
    story.done(Command::BlockHandover { container: web, epoch: Epoch(1) });
    story.lose(NodeId(1));
    assert_eq!(story.reason(web), Unplaced::Displaced { from: NodeId(1) });
}

#[test]
fn container_that_ends_while_prepared_is_treated_as_its_policy_says() {
    let (mut story, web) = prepared(true);
    story.close(web, End::Exited(Exit::Code(1)));
    assert_eq!(story.reason(web), Unplaced::Ended { on: NodeId(1), exit: Exit::Code(1) });
}

#[test]
fn drained_is_said_when_the_last_claim_goes() {
    let (mut story, web) = handed_off();
    story.done(Command::SetNodeIntent { node: NodeId(1), intent: IntentOrder::Drain });
    assert!(!story.events.iter().any(|event| event.kind() == "node-drained"));
    story.close(web, End::Stopped);
    assert_eq!(story.events.last().unwrap().kind(), "node-drained");
    story.done(Command::SetNodeIntent { node: NodeId(1), intent: IntentOrder::Maintenance });
    let full = Command::SetNodeIntent { node: NodeId(2), intent: IntentOrder::Maintenance };
    assert!(matches!(story.refused(full), Rejected::WrongState { .. }));
}

//! Commands at random, right ones and stale ones, in any order. The story judges every step by the invariants, so this
//! test only has to throw.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use crate::command::{Command, Entry, IntentOrder, Registration, Report, Reported, SettingsChange};
use crate::model::container::*;
use crate::model::fence::{FenceCause, FencingClass, Proof};
use crate::model::ids::*;
use crate::model::lease::Profile;
use crate::model::node::{NodeFacts, Role};
use crate::state::Claim;
use crate::story::*;

/// Four small numbers: what to do, to whom, how, and whether rightly or with something stale.
type Throw = (u8, u8, u8, u8);

const ACTIVE: u64 = 3;
const NODES: u64 = ACTIVE + 1;

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_commands_breaks_an_invariant(throws in prop::collection::vec(any::<Throw>(), 1..160)) {
        let mut story = Story::with_nodes(ACTIVE);
        for (step, throw) in throws.into_iter().enumerate() {
            story.now.0 += u64::from(throw.3) * 10_000;
            match command(&story, throw) {
                Some(command) => {
                    let session = SessionId(u128::from(throw.1 % 2));
                    let request = (throw.2.is_multiple_of(4)).then_some(RequestId { session, sequence: step as u64 / 3 });
                    story.apply(Entry { at: story.now, request, command });
                }
                None => { story.plan(); }
            }
        }
        // Whatever happened: a proof about every machine and a fresh start, and nothing is wedged.
        for node in story.state.nodes().map(|node| node.id).collect::<Vec<_>>() {
            let _ = story.begin_fencing(node, FenceCause::OutsideFact { evidence: "off".into() });
            let _ = story.record_fenced(node, Proof::Operator { reason: "off".into() });
            prop_assert_eq!(story.state.claims(node).filter(|(_, claim)| *claim == Claim::Owner).count(), 0);
            story.register(node, 1_000, false, facts(8)).expect("a fenced node may register");
        }
        story.plan();
        for container in story.state.unplaced().cloned().collect::<Vec<_>>() {
            prop_assert!(story.life(container.id).contains(&"container-unplaceable"), "{:?}", container.placement);
        }
    }
}

fn command(story: &Story, (kind, who, how, wrong): Throw) -> Option<Command> {
    let node = NodeId(1 + u64::from(who) % NODES);
    let stale = u64::from(wrong.is_multiple_of(8));
    let incarnation =
        Incarnation(story.state.node(node).map_or(0, |node| node.health.incarnation().0).saturating_sub(stale));
    let count = story.state.truth().next_container - 1;
    // Handovers are rare and deep: now and then one under way is picked on purpose.
    let under_way = story.state.handovers().next().filter(|_| who.is_multiple_of(3)).map(|container| container.id);
    let container = under_way.unwrap_or(ContainerId(1 + u64::from(who) % count.max(1)));
    let found = story.state.container(container);
    let epoch = Epoch(found.map_or(0, |container| container.epoch.0).saturating_sub(stale));
    Some(match kind % 22 {
        0..=1 => return None,
        2..=3 => Command::CreateContainer {
            spec: Arc::new(any_spec(who, how)),
            annotations: Arc::default(),
            desired: desired(how / 4 % 2),
        },
        4 => Command::SetDesired { container, desired: desired(how % 3) },
        5 => Command::RestartContainer { container },
        6 => Command::MoveContainer {
            container,
            target: (how.is_multiple_of(2)).then_some(NodeId(1 + u64::from(how) % NODES)),
        },
        7 if how % 4 == 1 => Command::SetOnQuorumLoss {
            container,
            on_quorum_loss: if how % 8 == 1 { OnQuorumLoss::Keep } else { OnQuorumLoss::Stop },
        },
        7 => Command::AnnotateContainer {
            container,
            changes: BTreeMap::from([("k".into(), (how.is_multiple_of(2)).then(|| "v".into()))]),
        },
        8 => Command::Assign { container, after: epoch, node, incarnation, decision: chosen(container, node) },
        9 => Command::BeginHandover { container, epoch, target: node, decision: chosen(container, node) },
        10 => Command::BeginHandoff { container, epoch },
        11 if how.is_multiple_of(2) => Command::AbortHandover { container, epoch, reason: "random".into() },
        11 => Command::BlockHandover { container, epoch },
        12..=14 => report(story, container, epoch, node, incarnation, how),
        15 => Command::BeginFencing { node, incarnation, cause: cause(how) },
        16..=17 => Command::RecordFenced { node, incarnation, proof: proof(how) },
        18 => registration(story, node, Incarnation(incarnation.0), how),
        19 => Command::SetNodeIntent { node, intent: intent(how) },
        20 if how.is_multiple_of(3) => Command::HoldContainer { container, after: epoch, reason: "random".into() },
        20 if how % 3 == 1 => Command::TripBrake { silent: 3, of: 4 },
        20 => Command::ReleaseBrake,
        _ if how.is_multiple_of(4) => Command::RemoveNode { node },
        _ if how % 4 == 1 => {
            Command::SetNodeRole { node, role: if who.is_multiple_of(2) { Role::Active } else { Role::Standby } }
        }
        _ => {
            let terms = Some(Profile::ALL[usize::from(how) % 3].terms());
            Command::UpdateSettings { settings: Box::new(SettingsChange { terms, ..SettingsChange::default() }) }
        }
    })
}

fn any_spec(who: u8, how: u8) -> ContainerSpec {
    let memory = 1 + u64::from(how % 5);
    let base = spec(&format!("c{}", who % 12));
    ContainerSpec {
        resources: crate::model::resources::Resources { memory_bytes: memory * GIB, ..base.resources },
        class: if how.is_multiple_of(7) { Class::None } else { Class::Guaranteed },
        priority: if how.is_multiple_of(6) { 0 } else { 500 },
        on_quorum_loss: if how.is_multiple_of(3) { OnQuorumLoss::Keep } else { OnQuorumLoss::Stop },
        restart: RestartPolicy { max: u32::from(how % 3), ..RestartPolicy::default() },
        ..base
    }
}

/// Mostly what the owner or the target would say, now and then what somebody else says.
fn report(
    story: &Story,
    container: ContainerId,
    epoch: Epoch,
    node: NodeId,
    incarnation: Incarnation,
    how: u8,
) -> Command {
    let assignment = story.state.container(container).and_then(|container| container.assignment());
    let speaker = match assignment {
        Some(Assignment { order: Order::Prepare { target, target_incarnation, .. }, .. }) if how.is_multiple_of(2) => {
            (*target, *target_incarnation)
        }
        Some(assignment) if !how.is_multiple_of(16) => (assignment.node, assignment.incarnation),
        _ => (node, incarnation),
    };
    let what = match how % 8 {
        0 => Reported::Prepared,
        1 => Reported::Observed(Observed::Starting),
        2 => Reported::CannotPrepare { reason: "random".into() },
        3 => Reported::Observed(Observed::Running),
        4 => Reported::Observed(Observed::Stopping),
        5 => Reported::Observed(Observed::Closed { end: End::Stopped }),
        6 => Reported::Observed(Observed::Closed { end: End::Exited(Exit::Code(i32::from(how / 8 % 2))) }),
        _ => Reported::Observed(Observed::Closed { end: End::StartFailed { reason: "random".into() } }),
    };
    Command::ReportStatus { node: speaker.0, incarnation: speaker.1, reports: vec![Report { container, epoch, what }] }
}

fn registration(story: &Story, node: NodeId, ends: Incarnation, how: u8) -> Command {
    let boot = story.state.node(node).and_then(|node| node.health.boot()).unwrap_or_default();
    let boot = if how.is_multiple_of(3) { BootId(u128::from(how)) } else { boot };
    let class = if how.is_multiple_of(5) { FencingClass::F0 } else { FencingClass::F1 };
    let facts = NodeFacts { class, ..facts(4 + u64::from(how % 8)) };
    let run = AgentRun(u64::from(how / 64));
    Command::RegisterNode(Box::new(Registration { node, ends, boot, empty: how.is_multiple_of(2), facts, run }))
}

fn desired(how: u8) -> Desired {
    [Desired::Running, Desired::Stopped, Desired::Deleted][usize::from(how)]
}

fn intent(how: u8) -> IntentOrder {
    use IntentOrder::*;
    [Cordon, Uncordon, Drain, Maintenance, Return][usize::from(how) % 5]
}

fn cause(how: u8) -> FenceCause {
    match how % 3 {
        0 => FenceCause::Silence,
        1 => FenceCause::StopOverdue,
        _ => FenceCause::Operator { reason: "random".into() },
    }
}

fn proof(how: u8) -> Proof {
    match how % 6 {
        0 | 1 => lease_over(),
        2 => Proof::Operator { reason: "random".into() },
        3 => Proof::Guard,
        4 => Proof::Left,
        _ => Proof::Confirmed { method: "random".into(), evidence: "off".into() },
    }
}

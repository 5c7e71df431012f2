//! Requests become commands or an error that names the field; what people are shown is in their words.

use crate::samples;

use cluster::command::Command;
use cluster::{Container, ContainerId, Desired, Node, NodeId, OnQuorumLoss, Placement, Proof, RestartCondition, State};
use proto::convert::request::{Mutation, proposal};
use proto::convert::view::{self, Sight};
use proto::convert::{ConvertError, Fault};
use proto::v1;

const ID: &str = "0199c3a0-7a51-7e0c-b4a2-5f0f6f1c9b1e/1";

fn spec() -> v1::ContainerSpec {
    v1::ContainerSpec {
        name: "db-1".into(),
        template: "template-0".into(),
        storage: "shared".into(),
        resources: Some(v1::Resources { cpu_millis: 100, memory_bytes: 1 << 20 }),
        ..v1::ContainerSpec::default()
    }
}

fn create(spec: v1::ContainerSpec) -> v1::CreateContainerRequest {
    v1::CreateContainerRequest { request_id: ID.into(), spec: Some(spec), desired: 0 }
}

fn refused(request: impl Mutation) -> ConvertError {
    proposal(request, &samples::state()).expect_err("it must be refused")
}

#[test]
fn what_is_left_unset_gets_its_default() {
    let state = samples::state();
    let (id, command) = proposal(create(spec()), &state).expect("a good request");
    assert_eq!(id.sequence, 1);
    let Command::CreateContainer { spec, desired, annotations } = command else { panic!("{command:?}") };
    assert_eq!((desired, annotations.len()), (Desired::Running, 0));
    assert_eq!((spec.priority, spec.stop_grace.as_millis()), (500, 30_000));
    assert_eq!((spec.restart.condition, spec.restart.max), (RestartCondition::Always, 3));
    assert_eq!(state.membership().voters.len(), 2);
    assert_eq!(spec.on_quorum_loss, OnQuorumLoss::Keep, "two voters fence nobody on time");
}

#[test]
fn owners_are_looked_up_by_name_and_by_id() {
    let owners = v1::ContainerSpec {
        possible_owners: vec!["node-0".into(), "@n2".into()],
        preferred_owners: vec![v1::OwnerTier { nodes: vec!["node-1".into()] }],
        ..spec()
    };
    let (_, command) = proposal(create(owners), &samples::state()).expect("both exist");
    let Command::CreateContainer { spec, .. } = command else { panic!("{command:?}") };
    assert_eq!(&*spec.possible_owners, [NodeId(1), NodeId(2)]);
    assert_eq!(&*spec.preferred_owners[0], [NodeId(2)]);
}

#[test]
fn every_refusal_names_its_field() {
    let with = |change: fn(&mut v1::ContainerSpec)| {
        let mut spec = spec();
        change(&mut spec);
        refused(create(spec))
    };
    let cases = [
        (with(|spec| spec.name = "../x".into()), Fault::Invalid, "spec.name"),
        (with(|spec| spec.name.clear()), Fault::Invalid, "spec.name"),
        (with(|spec| spec.name = "x".repeat(300)), Fault::Invalid, "spec.name"),
        (with(|spec| spec.name = "a\nb".into()), Fault::Invalid, "spec.name"),
        (with(|spec| spec.name = "-rf".into()), Fault::Invalid, "spec.name"),
        (with(|spec| spec.name = "pаypal".into()), Fault::Invalid, "spec.name"),
        (with(|spec| spec.template = "Debian".into()), Fault::Invalid, "spec.template"),
        (with(|spec| spec.resources = None), Fault::Invalid, "spec.resources"),
        (with(|spec| spec.class = 99), Fault::Invalid, "spec.class"),
        (with(|spec| spec.priority = Some(70_000)), Fault::Invalid, "spec.priority"),
        (with(|spec| spec.stop_grace_ms = Some(u64::MAX)), Fault::Invalid, "spec.stop_grace_ms"),
        (
            with(|spec| spec.possible_owners = vec!["node-0".into(), "gone".into()]),
            Fault::NotFound,
            "spec.possible_owners[1]",
        ),
        (
            with(|spec| spec.preferred_owners = vec![v1::OwnerTier { nodes: vec!["@c1".into()] }]),
            Fault::Invalid,
            "spec.preferred_owners[0].nodes[0]",
        ),
        (refused(v1::CreateContainerRequest { request_id: ID.into(), ..Default::default() }), Fault::Invalid, "spec"),
        (with(|spec| spec.template = "nothing".into()), Fault::NotFound, "spec.template"),
        (with(|spec| spec.storage = "nowhere".into()), Fault::NotFound, "spec.storage"),
        (refused(v1::CreateContainerRequest::default()), Fault::Invalid, "request_id"),
        (refused(v1::CreateContainerRequest { desired: 3, ..create(spec()) }), Fault::Invalid, "desired"),
        (
            refused(v1::StopContainerRequest { request_id: ID.into(), container: "nobody".into() }),
            Fault::NotFound,
            "container",
        ),
        (
            refused(v1::SetNodeRoleRequest { request_id: ID.into(), node: "@n1".into(), role: 0 }),
            Fault::Invalid,
            "role",
        ),
        (refused(v1::UpdateSettingsRequest { request_id: ID.into(), ..Default::default() }), Fault::Invalid, ""),
        (
            refused(v1::RegisterStorageRequest {
                request_id: ID.into(),
                storage: Some(v1::Storage {
                    name: "s".into(),
                    kind: Some(v1::storage::Kind::Directory(v1::DirectoryStorage { path: "srv".into() })),
                    ..Default::default()
                }),
            }),
            Fault::Invalid,
            "storage.directory.path",
        ),
        (
            refused(v1::AnnotateContainerRequest {
                request_id: ID.into(),
                container: "@c1".into(),
                set: [("a".to_owned(), "1".to_owned())].into(),
                remove: vec!["a".into()],
            }),
            Fault::Invalid,
            "remove[0]",
        ),
    ];
    for (error, fault, field) in cases {
        assert_eq!((error.fault, error.field.as_str()), (fault, field), "{error}");
        assert!(!error.problem.is_empty());
    }
}

#[test]
fn what_apply_refuses_is_named_as_in_the_request() {
    assert_eq!(v1::CreateContainerRequest::path_of("resources.cpu_millis"), "spec.resources.cpu_millis");
    assert_eq!(v1::CreateContainerRequest::path_of("stop_grace"), "spec.stop_grace_ms");
    assert_eq!(v1::RegisterTemplateRequest::path_of("digest"), "template.digest");
    assert_eq!(v1::UpdateSettingsRequest::path_of("boot_grace"), "boot_grace_ms");
    assert_eq!(v1::AnnotateContainerRequest::path_of("annotations"), "set");
    assert_eq!(v1::RegisterStorageRequest::path_of("kind.directory.path"), "storage.directory.path");
    let submitted = |change| v1::SubmitRequest { change: Some(change) }.paths();
    let create = submitted(v1::submit_request::Change::Create(v1::CreateContainerRequest::default()));
    assert_eq!(create("stop_grace"), "create.spec.stop_grace_ms");
    let annotate = submitted(v1::submit_request::Change::Annotate(v1::AnnotateContainerRequest::default()));
    assert_eq!(annotate("annotations"), "annotate.set");
}

#[test]
fn a_word_about_another_incarnation_is_not_taken() {
    let say = |incarnation| v1::ConfirmDownRequest {
        request_id: ID.into(),
        node: "node-1".into(),
        incarnation,
        reason: "ann looked: the rack has no power".into(),
    };
    assert_eq!(refused(say(19)).field, "incarnation");
    let (_, command) = proposal(say(20), &samples::state()).expect("the current one");
    let Command::RecordFenced { node, proof: Proof::Operator { reason }, .. } = command else { panic!("{command:?}") };
    assert_eq!((node, &*reason), (NodeId(2), "ann looked: the rack has no power"));
    let silent = v1::ConfirmDownRequest { reason: " ".into(), ..say(20) };
    assert_eq!(refused(silent).field, "reason");
}

#[test]
fn a_change_in_a_stream_is_the_same_request() {
    let change = v1::submit_request::Change::Create(create(v1::ContainerSpec { name: "X".into(), ..spec() }));
    assert_eq!(refused(v1::SubmitRequest { change: Some(change) }).field, "create.spec.name");
    let stop = v1::StopContainerRequest { request_id: ID.into(), container: "web-0".into() };
    let said = v1::SubmitRequest { change: Some(v1::submit_request::Change::Stop(stop)) };
    let (_, command) = proposal(said, &samples::state()).expect("a good request");
    assert_eq!(command, Command::SetDesired { container: ContainerId(1), desired: Desired::Stopped });
    assert_eq!(refused(v1::SubmitRequest { change: None }).field, "request_id");
}

fn shown(state: &State, container: &Container, suspects: &[u64]) -> v1::Container {
    view::container(state, container, |node| suspects.contains(&node.0))
}

#[test]
fn each_container_is_shown_in_one_word() {
    use v1::ContainerState::*;
    let state = samples::state();
    let words: Vec<_> = state.containers().map(|container| shown(&state, container, &[]).state()).collect();
    let expected = [
        // No place: new, displaced, ended, start failed, stopped, moving, held; wanted running, stopped, deleted in turn.
        Unplaced, Stopped, Stopped, Unplaced, Stopped, Stopped, Held,
        // On n1, which only joined: its report says that the epoch is closed.
        Assigned, Stopping, Stopping, Moving, Moving, Moving, Blocked, Recovering,
    ];
    assert_eq!(words, expected);
    let run = state.container(ContainerId(8)).expect("the one under `Run`");
    assert_eq!(shown(&state, run, &[1]).state(), Unmonitored, "its node is silent");
    let assignment = shown(&state, run, &[]).assignment.expect("it has a place");
    assert_eq!((assignment.node.as_str(), assignment.epoch), ("node-0", 8));
}

#[test]
fn counts_add_up() {
    let state = samples::state();
    let containers = view::container_counts(&state, |_| false);
    let v1::ContainerCounts { wanted, running, starting, unplaced, stopped, failed } = containers;
    assert_eq!((running + starting + unplaced + stopped + failed) as usize, state.container_count());
    assert_eq!(wanted, 5);
    let sight = |node: NodeId| Sight { suspect: node.0 == 2, silent: None };
    let v1::NodeCounts { up, suspect, fencing, fenced, joined } = view::node_counts(&state, sight);
    assert_eq!((up, suspect, fencing, fenced, joined), (0, 1, 5, 6, 1));
}

#[test]
fn why_says_the_choice_and_the_refusals() {
    let state = samples::state();
    let placed = state.containers().find(|container| container.decision.is_some()).expect("there is one");
    let why = view::why(&state, placed, |_| false);
    assert!(why.lines[0].starts_with("web-1 (c2) is stopped"), "{:?}", why.lines);
    let decision = why.decision.as_ref().expect("it is kept");
    assert_eq!((decision.id, decision.chosen.as_str()), (30, "node-1"));
    assert_eq!(decision.candidates.len(), 2);
    assert!(why.lines.iter().any(|line| line.contains("4096") || line.contains("memory short")), "{:?}", why.lines);
    let example =
        decision.examples.iter().find(|example| example.rule == "not-up" || example.rule == "not-schedulable");
    assert_eq!(example.expect("an example").node, "@n0", "a node that is gone is shown by its id");
}

#[test]
fn a_fencing_that_waits_for_an_operator_says_so_of_the_node_and_of_what_was_there() {
    let state = samples::state();
    let shown_node = |node: &Node| view::node(&state, node, Sight::default()).awaits_operator;
    let (waiting, others): (Vec<_>, Vec<_>) = state.nodes().partition(|node| node.awaits_operator());
    assert!(!waiting.is_empty() && others.iter().all(|node| shown_node(node).is_empty()));
    for node in waiting {
        let text = shown_node(node);
        let order = format!("`quoratectl node confirm-down {}`", node.name);
        assert!(text.starts_with("class F0") && text.ends_with(&order), "{text}");
        let mut there = Container::clone(state.container(ContainerId(8)).expect("the one under `Run`"));
        let Placement::Assigned(assignment) = &mut there.placement else { panic!("{:?}", there.placement) };
        assignment.node = node.id;
        let why = view::why(&state, &there, |_| false).lines;
        assert!(why[1].contains("waits for an operator") && why[1].ends_with(&order), "{why:?}");
    }
}

#[test]
fn a_container_on_a_node_that_time_cannot_fence_says_what_that_means() {
    let state = samples::state();
    let why_on = |node: &Node| {
        let mut there = Container::clone(state.container(ContainerId(8)).expect("the one under `Run`"));
        let Placement::Assigned(assignment) = &mut there.placement else { panic!("{:?}", there.placement) };
        assignment.node = node.id;
        view::why(&state, &there, |_| false).lines.join("\n")
    };
    let known = state.nodes().filter(|node| node.facts.is_some() && !node.awaits_operator());
    let (safe, weak): (Vec<_>, Vec<_>) = known.partition(|node| node.class().lease_proves_end());
    assert!(!weak.is_empty() && !safe.is_empty());
    assert!(weak.iter().all(|node| why_on(node).contains("if it is lost, this waits for an operator")));
    assert!(safe.iter().all(|node| !why_on(node).contains("if it is lost")));
}

#[test]
fn a_node_is_shown_with_what_fences_it() {
    let state = samples::state();
    let of = |id| view::node(&state, state.node(NodeId(id)).expect("known"), Sight::default());
    assert_eq!((of(1).health(), of(1).lease_ms), (v1::NodeHealth::Joined, 0));
    assert_eq!((of(3).health(), of(3).fencing_cause.is_empty()), (v1::NodeHealth::Fencing, false));
    let receipt = of(8).receipt.expect("it is fenced");
    assert_eq!((receipt.kind(), receipt.whole_node), (v1::ReceiptKind::LeaseOver, false));
    assert!(of(3).drain.is_some(), "the third one drains");
    let shown = view::settings(state.settings());
    assert_eq!(shown.lease_profile(), v1::LeaseProfile::Unspecified, "the terms of the sample are those of no profile");
    assert_eq!(shown.lease_terms_fading.len(), 2);
}

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::agent::WantedSpec;
use crate::apply::Rejected;
use crate::command::{Command, Reported};
use crate::model::container::*;
use crate::model::ids::*;
use crate::model::resources::Resources;
use crate::model::template::TemplateKind;
use crate::model::time::Span;
use crate::story::*;

const N1: NodeId = NodeId(1);
const N2: NodeId = NodeId(2);

fn create(spec: ContainerSpec) -> Command {
    Command::CreateContainer { spec: Arc::new(spec), annotations: Arc::default(), desired: Desired::Running }
}

fn exited(code: i32) -> End {
    End::Exited(Exit::Code(code))
}

#[test]
fn bad_specs_are_refused_with_the_field() {
    let mut story = Story::with_nodes(1);
    let long = "x".repeat(65 << 10);
    let tier = |nodes: &[NodeId]| -> Arc<[Arc<[NodeId]>]> { Arc::new([nodes.into()]) };
    let resources = |cpu_millis, memory_bytes| Resources { cpu_millis, memory_bytes };
    let bad = [
        ("resources.cpu_millis", ContainerSpec { resources: resources(0, GIB), ..spec("a") }),
        ("resources.cpu_millis", ContainerSpec { resources: resources(u64::MAX, GIB), ..spec("a") }),
        ("resources.memory_bytes", ContainerSpec { resources: resources(1, 512), ..spec("a") }),
        ("resources.memory_bytes", ContainerSpec { resources: resources(1, u64::MAX), ..spec("a") }),
        ("priority", ContainerSpec { priority: 1_001, ..spec("a") }),
        ("stop_grace", ContainerSpec { stop_grace: Span::seconds(1_201), ..spec("a") }),
        ("command", ContainerSpec { command: Arc::new([long.as_str().into()]), ..spec("a") }),
        ("command", ContainerSpec { command: Arc::new(["a\0b".into()]), ..spec("a") }),
        ("environment", ContainerSpec { environment: Arc::new([("A=B".into(), "".into())].into()), ..spec("a") }),
        ("environment", ContainerSpec { environment: Arc::new([("A".into(), long.clone())].into()), ..spec("a") }),
        ("possible_owners", ContainerSpec { possible_owners: Arc::new([NodeId(77)]), ..spec("a") }),
        ("possible_owners", ContainerSpec { possible_owners: Arc::new([N1, N1]), ..spec("a") }),
        ("preferred_owners", ContainerSpec { preferred_owners: tier(&[N1, N1]), ..spec("a") }),
        ("preferred_owners", ContainerSpec { preferred_owners: tier(&[]), ..spec("a") }),
        (
            "preferred_owners",
            ContainerSpec { possible_owners: Arc::new([N2]), preferred_owners: tier(&[N1]), ..spec("a") },
        ),
    ];
    for (field, spec) in bad {
        assert_eq!(story.refused(create(spec)).field(), Some(field));
    }
    let foreign = ContainerSpec { template: name("windows"), ..spec("a") };
    assert!(matches!(story.refused(create(foreign)), Rejected::NotFound { .. }));
    let annotations = Arc::new(BTreeMap::from([("note".to_owned(), long)]));
    let spec = Arc::new(spec("a"));
    let refused = story.refused(Command::CreateContainer { spec, annotations, desired: Desired::Running });
    assert_eq!(refused.field(), Some("annotations"));
    assert_eq!(story.state.container_count(), 0);
}

/// `count` application templates, `app-0` and on.
fn with_applications(story: &mut Story, count: usize) -> Vec<Name> {
    let names: Vec<Name> = (0..count).map(|number| name(&format!("app-{number}"))).collect();
    names.iter().for_each(|name| story.template(name.as_str(), TemplateKind::Application, "templates/app"));
    names
}

#[test]
fn layers_are_application_templates_each_once_over_an_os() {
    let mut story = Story::with_nodes(1);
    let apps = with_applications(&mut story, 17);
    story.template("bare", TemplateKind::Application, "");
    let over = |template: &str, apps: &[Name]| ContainerSpec {
        template: name(template),
        application_templates: apps.into(),
        ..spec("a")
    };
    let bad = [
        ("application_templates", over("debian", &apps)),
        ("application_templates", over("debian", &[apps[0].clone(), apps[1].clone(), apps[0].clone()])),
        ("application_templates", over("debian", &[name("debian")])),
        ("application_templates", over("debian", &[name("bare")])),
        ("template", over("app-0", &apps[1..2])),
    ];
    for (field, spec) in bad {
        assert_eq!(story.refused(create(spec)).field(), Some(field));
    }
    assert!(matches!(story.refused(create(over("debian", &[name("gone")]))), Rejected::NotFound { .. }));
    assert_eq!(story.state.container_count(), 0);
    story.done(create(over("debian", &apps[..16])));
}

#[test]
fn templates_laid_over_others_are_kept_while_a_container_is_made_of_them() {
    let mut story = Story::with_nodes(1);
    let apps = with_applications(&mut story, 2);
    story.reports_templates(N1, &[]);
    let id = story.run(ContainerSpec { application_templates: apps.clone().into(), ..spec("a") });
    for template in apps.iter().chain([&name("debian")]) {
        let refused = story.refused(Command::RemoveTemplate { name: template.clone() });
        assert!(matches!(refused, Rejected::InUse { .. }), "{template}: {refused}");
    }
    let container = story.state.container(id).expect("there").clone();
    let wanted = WantedSpec::of(&story.state, &container).expect("all of it is registered");
    let layers: Vec<&str> = wanted.layers().map(|template| template.name.as_str()).collect();
    assert_eq!(layers, ["debian", "app-0", "app-1"]);
    story.done(Command::SetDesired { container: id, desired: Desired::Deleted });
    story.close(id, End::Stopped);
    for name in apps {
        story.done(Command::RemoveTemplate { name });
    }
}

#[test]
fn what_a_spec_is_made_of_counts_in_its_hash_and_nothing_that_it_does_not_say() {
    let plain = spec("a");
    let hash = crate::digest::of(&plain);
    let layered = |names: &[&str]| {
        let application_templates = names.iter().map(|text| name(text)).collect();
        crate::digest::of(&ContainerSpec { application_templates, ..plain.clone() })
    };
    assert_eq!(layered(&[]), hash);
    let [one, two, turned] = [layered(&["x"]), layered(&["x", "y"]), layered(&["y", "x"])];
    assert!(hash != one && one != two && two != turned);
    assert_eq!(
        format!("{hash:032x}"),
        "9ffa8c448a5fae959b2ca677ce6fc1a7",
        "specs of older snapshots would hash otherwise"
    );
}

#[test]
fn name_is_free_again_after_deletion_and_the_id_is_not() {
    let mut story = Story::with_nodes(1);
    let first = story.run(spec("web"));
    assert!(matches!(story.refused(create(spec("web"))), Rejected::NameTaken { .. }));
    story.done(Command::SetDesired { container: first, desired: Desired::Deleted });
    assert!(matches!(story.refused(create(spec("web"))), Rejected::NameTaken { .. }), "it still runs");
    let undelete = Command::SetDesired { container: first, desired: Desired::Running };
    assert!(matches!(story.refused(undelete), Rejected::WrongState { .. }));
    story.close(first, End::Stopped);
    assert!(story.state.container(first).is_none() && story.state.status(first).is_none());
    assert_ne!(story.run(spec("web")), first);
}

#[test]
fn stopping_keeps_the_claim_until_the_epoch_is_closed() {
    let mut story = Story::with_nodes(1);
    let web = story.run(spec("web"));
    story.done(Command::SetDesired { container: web, desired: Desired::Stopped });
    assert_eq!(story.order(web), Order::Stop { then: AfterStop::Rest });
    story.done(Command::SetDesired { container: web, desired: Desired::Running });
    assert_eq!(story.order(web), Order::Stop { then: AfterStop::Restart }, "an epoch being closed never runs again");
    story.close(web, End::Stopped);
    story.plan();
    assert_eq!((story.on(web), story.container(web).epoch), (Some(N1), Epoch(2)));
}

#[test]
fn restart_closes_the_epoch_and_begins_the_next_in_place() {
    let mut story = Story::with_nodes(2);
    let web = story.run(spec("web"));
    let (home, _) = (story.on(web).unwrap(), story.run(spec("other")));
    story.done(Command::RestartContainer { container: web });
    story.close(web, exited(0));
    story.plan();
    assert_eq!((story.on(web), story.container(web).epoch), (Some(home), Epoch(2)));
    assert!(story.container(web).restarts.is_empty(), "a restart on request costs no budget");
}

#[test]
fn container_that_ends_is_restarted_in_place_until_its_budget_is_spent() {
    let mut story = Story::with_nodes(2);
    let web = story.run(spec("web"));
    let home = story.on(web);
    for restart in 1..=3 {
        story.now.0 += 1_000;
        story.close(web, exited(1));
        assert_eq!(story.container(web).restarts.len(), restart);
        story.plan();
        assert_eq!(story.on(web), home);
    }
    story.close(web, exited(1));
    assert!(matches!(story.reason(web), Unplaced::Held { .. }));
    assert_eq!(story.plan(), 0);
    story.done(Command::SetDesired { container: web, desired: Desired::Running });
    story.plan();
    assert!(story.on(web).is_some() && story.container(web).restarts.is_empty(), "a start gives a new budget");
}

#[test]
fn restart_budget_slides_with_time() {
    let mut story = Story::with_nodes(1);
    let web = story.run(spec("web"));
    for _ in 0..10 {
        story.now.0 += 6 * 60 * 1_000;
        story.close(web, exited(1));
        story.plan();
        assert_eq!(story.on(web), Some(N1));
    }
    assert!(story.container(web).restarts.len() <= 3);
}

#[test]
fn restart_policy_says_which_ends_are_final() {
    for (condition, end, runs) in [
        (RestartCondition::Always, exited(0), true),
        (RestartCondition::OnFailure, exited(0), false),
        (RestartCondition::OnFailure, exited(2), true),
        (RestartCondition::OnFailure, End::Exited(Exit::Signal(9)), true),
        (RestartCondition::Never, exited(2), false),
    ] {
        let mut story = Story::with_nodes(1);
        let restart = RestartPolicy { condition, ..RestartPolicy::default() };
        let web = story.run(ContainerSpec { restart, ..spec("web") });
        story.close(web, end);
        story.plan();
        assert_eq!(story.on(web).is_some(), runs, "{condition:?}");
    }
}

#[test]
fn node_that_cannot_start_it_is_left_out_until_it_ran_somewhere() {
    let mut story = Story::with_nodes(2);
    let web = story.create(spec("web"));
    story.plan();
    let first = story.on(web).unwrap();
    story.close(web, End::StartFailed { reason: "no such image".into() });
    story.plan();
    let second = story.on(web).unwrap();
    assert_ne!(first, second);
    assert_eq!(story.container(web).start_failures.len(), 1);
    story.observe(web, Observed::Running);
    assert!(story.container(web).start_failures.is_empty());
}

#[test]
fn container_no_node_can_start_waits_an_hour_and_says_why_once() {
    let mut story = Story::with_nodes(1);
    let web = story.create(spec("web"));
    for _ in 0..2 {
        story.plan();
        story.close(web, End::StartFailed { reason: "broken".into() });
    }
    assert_eq!(story.plan(), 1, "that there is no place is recorded once");
    assert_eq!(story.plan(), 0);
    assert!(story.life(web).ends_with(&["container-unplaceable"]));
    story.now.0 += StartFailure::COUNTS_FOR.as_millis();
    story.plan();
    assert!(story.on(web).is_some());
}

#[test]
fn report_of_another_epoch_node_or_incarnation_changes_nothing() {
    let mut story = Story::with_nodes(2);
    let web = story.run(spec("web"));
    let (node, epoch) = (story.on(web).unwrap(), story.container(web).epoch);
    let other = if node == N1 { N2 } else { N1 };
    let closed = || Reported::Observed(Observed::Closed { end: End::Stopped });
    let (right, wrong) = (story.incarnation(node), story.incarnation(other));
    story.report(other, wrong, web, epoch, closed()).unwrap();
    story.report(node, wrong, web, epoch, closed()).unwrap();
    story.report(node, right, web, Epoch(0), closed()).unwrap();
    assert_eq!(story.on(web), Some(node));
    let future = story.report(node, right, web, epoch.next(), closed());
    assert_eq!(future.unwrap_err().field(), Some("reports.epoch"));
    let unknown = story.report(node, right, ContainerId(99), epoch, closed());
    assert_eq!(unknown.unwrap_err().field(), Some("reports.container"));
}

#[test]
fn status_moves_only_forward_within_an_epoch() {
    let mut story = Story::with_nodes(1);
    let web = story.run(spec("web"));
    story.observe(web, Observed::Starting);
    assert_eq!(story.state.status(web).unwrap().observed, Observed::Running);
    story.observe(web, Observed::Stopping);
    story.observe(web, Observed::Running);
    assert_eq!(story.state.status(web).unwrap().observed, Observed::Stopping);
}

#[test]
fn stale_epoch_is_refused() {
    let mut story = Story::with_nodes(2);
    let web = story.create(spec("web"));
    let assign = |node: NodeId, after: u64, incarnation: Incarnation| Command::Assign {
        container: web,
        after: Epoch(after),
        node,
        incarnation,
        decision: chosen(web, node),
    };
    let (i1, i2) = (story.incarnation(N1), story.incarnation(N2));
    assert!(matches!(story.refused(assign(N1, 1, i1)), Rejected::StaleEpoch { .. }));
    assert!(matches!(story.refused(assign(N1, 0, i2)), Rejected::StaleIncarnation { .. }));
    story.done(assign(N1, 0, i1));
    assert!(matches!(story.refused(assign(N2, 0, i2)), Rejected::StaleEpoch { .. }));
    assert!(matches!(story.refused(assign(N2, 1, i2)), Rejected::WrongState { .. }));
}

#[test]
fn apply_itself_refuses_what_is_not_feasible() {
    let mut story = Story::with_nodes(1);
    let web = story.create(ContainerSpec { possible_owners: Arc::new([N1]), ..spec("web") });
    let incarnation = story.incarnation(N2);
    let decision = chosen(web, N2);
    let command = Command::Assign { container: web, after: Epoch(0), node: N2, incarnation, decision };
    assert!(matches!(story.refused(command), Rejected::Infeasible { .. }));
}

#[test]
fn deliberate_moves_change_home_and_record_their_decision() {
    let mut story = Story::with_nodes(2);
    let web = story.run(spec("web"));
    let from = story.on(web).unwrap();
    assert!(matches!(
        story.refused(Command::MoveContainer { container: web, target: Some(from) }),
        Rejected::WrongState { .. }
    ));
    story.done(Command::MoveContainer { container: web, target: None });
    story.target_says(web, Reported::Prepared);
    story.plan();
    assert!(matches!(story.order(web), Order::Handoff { .. }));
    story.close(web, End::Stopped);
    let to = story.on(web).unwrap();
    assert_ne!(from, to);
    assert_eq!((story.container(web).home, story.container(web).epoch), (Some(to), Epoch(2)));
    let decision = story.state.decision(story.container(web).decision.unwrap()).unwrap();
    assert_eq!(decision.chosen, Some(to));
}

#[test]
fn move_of_one_without_a_place_starts_it_there() {
    let mut story = Story::with_nodes(2);
    let home: Arc<[Arc<[NodeId]>]> = Arc::new([Arc::new([N1])]);
    let web = story.run(ContainerSpec { class: Class::None, preferred_owners: home, ..spec("web") });
    story.lose(N1);
    assert_eq!((story.plan(), story.on(web)), (0, None));
    let lost = Command::MoveContainer { container: web, target: Some(N1) };
    assert!(matches!(story.refused(lost), Rejected::Infeasible { .. }));
    story.done(Command::MoveContainer { container: web, target: Some(N2) });
    assert_eq!((story.on(web), story.container(web).home, story.container(web).epoch), (Some(N2), Some(N2), Epoch(2)));
}

#[test]
fn annotations_change_key_by_key_and_stay_bounded() {
    let mut story = Story::with_nodes(1);
    let web = story.create(spec("web"));
    let annotate = |key: &str, value: Option<String>| Command::AnnotateContainer {
        container: web,
        changes: BTreeMap::from([(key.to_owned(), value)]),
    };
    story.done(annotate("owner", Some("ops".into())));
    story.done(annotate("gone", None));
    assert_eq!(story.refused(annotate("big", Some("x".repeat(64 << 10)))).field(), Some("annotations"));
    assert_eq!(story.refused(annotate("", Some("x".into()))).field(), Some("annotations"));
    assert_eq!(*story.container(web).annotations, BTreeMap::from([("owner".to_owned(), "ops".to_owned())]));
    story.done(annotate("owner", None));
    assert!(story.container(web).annotations.is_empty());
}

#[test]
fn a_changed_policy_waits_for_the_next_epoch() {
    let mut story = Story::with_nodes(2);
    let web = story.run(spec("web"));
    let policies = |story: &Story| {
        let container = story.container(web);
        (container.assignment().map(|assignment| assignment.on_quorum_loss), container.spec.on_quorum_loss)
    };
    let keep = Command::SetOnQuorumLoss { container: web, on_quorum_loss: OnQuorumLoss::Keep };
    story.done(keep.clone());
    assert_eq!(policies(&story), (Some(OnQuorumLoss::Stop), OnQuorumLoss::Keep));
    // What runs still ends with its lease, so a receipt by time frees it; what follows outlives its own.
    story.lose(story.on(web).expect("it runs"));
    story.plan();
    assert_eq!(policies(&story), (Some(OnQuorumLoss::Keep), OnQuorumLoss::Keep));
    story.done(keep);
    let changes = story.life(web).iter().filter(|kind| **kind == "container-policy-changed").count();
    assert_eq!(changes, 1, "what changes nothing is no event");
}

#[test]
fn used_templates_and_storages_cannot_be_removed() {
    let mut story = Story::with_nodes(1);
    let web = story.run(spec("web"));
    let (template, storage) =
        (Command::RemoveTemplate { name: name("debian") }, Command::RemoveStorage { name: name("shared") });
    assert!(matches!(story.refused(template.clone()), Rejected::InUse { .. }));
    assert!(matches!(story.refused(storage.clone()), Rejected::InUse { .. }));
    story.done(Command::SetDesired { container: web, desired: Desired::Deleted });
    story.close(web, End::Stopped);
    story.done(template);
    story.done(storage);
}

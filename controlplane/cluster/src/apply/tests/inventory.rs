//! Where templates are, as nodes say: who is refused for what is missing, and who is not.

use std::sync::Arc;

use crate::apply::Rejected;
use crate::command::Command;
use crate::model::container::*;
use crate::model::ids::*;
use crate::model::inventory::{Inventory, Shelf, TemplateSight};
use crate::model::report::NodeReport;
use crate::model::storage::StorageKind;
use crate::model::template::TemplateKind;
use crate::placement::{self, Rejection};
use crate::story::*;

const N1: NodeId = NodeId(1);
const N2: NodeId = NodeId(2);

/// Two nodes and a standby, an imported template `os`, a storage `fast` beside `shared`.
fn story() -> Story {
    let mut story = Story::with_nodes(2);
    imported(&mut story, "os", TemplateKind::Os, 'a');
    imported(&mut story, "app", TemplateKind::Application, 'b');
    story.done(Command::RegisterStorage {
        name: name("fast"),
        kind: StorageKind::Directory { path: "/srv/fast".into() },
    });
    story
}

fn imported(story: &mut Story, called: &str, kind: TemplateKind, digit: char) {
    let hex = digit.to_string().repeat(64);
    story.done(Command::RegisterTemplate {
        name: name(called),
        version: "".into(),
        digest: format!("sha256:{hex}").into(),
        kind,
        path: crate::model::template::Template::imported_path(&hex).into(),
        bytes: 0,
        defaults: Default::default(),
    });
}

fn of(template: &str, storage: &str) -> ContainerSpec {
    ContainerSpec { template: name(template), storage: name(storage), ..spec("web") }
}

/// Why `node` may not take the container.
fn verdict(story: &Story, id: ContainerId, node: NodeId) -> Option<Rejection> {
    placement::feasible(&story.state, story.container(id), node).err()
}

fn missing(template: &str, storage: &str) -> Option<Rejection> {
    Some(Rejection::TemplateMissing { template: name(template), storage: name(storage) })
}

#[test]
fn only_who_says_that_it_is_missing_is_refused() {
    let mut story = story();
    let web = story.create(of("os", "shared"));
    assert_eq!(verdict(&story, web, N1), None, "nobody has looked yet");
    story.reports_templates(N1, &[("shared", &[], &[])]);
    story.reports_templates(N2, &[("fast", &[], &[])]);
    assert_eq!(verdict(&story, web, N1), missing("os", "shared"));
    assert_eq!(verdict(&story, web, N2), None, "it could not look at shared");
    story.plan();
    assert_eq!(story.container(web).assignment().map(|it| it.node), Some(N2));
    story.reports_templates(N1, &[("shared", &["os"], &[])]);
    assert_eq!(verdict(&story, web, N1), None);
}

#[test]
fn with_every_node_refused_it_waits_and_says_what_to_do_and_starts_when_it_is_brought() {
    let mut story = story();
    for node in [N1, N2, NodeId(3)] {
        story.reports_templates(node, &[("shared", &[], &["os"])]);
    }
    story.reports_templates(N2, &[("shared", &[], &[])]);
    let web = story.create(of("os", "shared"));
    story.plan();
    let decision =
        story.container(web).decision.and_then(|at| story.state.decision(at)).expect("it is said why").clone();
    assert_eq!(decision.chosen, None);
    let said: Vec<String> =
        decision.rejections.iter().map(|it| format!("{} {}: {}", it.nodes, it.reason.code(), it.reason)).collect();
    let damaged = "2 template-damaged: template os is damaged on storage shared; import it anew under another name";
    let lacking = "1 template-missing: template os is on no storage the node sees; \
                   `quoratectl template sync os --storage shared` brings it";
    assert_eq!(said, [damaged, lacking]);
    let incarnation = story.incarnation(N1);
    let decision = Box::new(crate::model::decision::Decision { chosen: Some(N1), ..(*decision).clone() });
    let refused = story.refused(Command::Assign { container: web, after: Epoch(0), node: N1, incarnation, decision });
    assert!(matches!(refused, Rejected::Infeasible { .. }), "{refused}");
    story.reports_templates(N2, &[("shared", &["os"], &[])]);
    story.plan();
    assert_eq!(story.container(web).assignment().map(|it| it.node), Some(N2));
}

#[test]
fn a_copy_on_another_storage_will_do_where_a_digest_says_that_it_is_the_same() {
    let mut story = story();
    story.template("by-hand", TemplateKind::Os, "templates/by-hand");
    story.reports_templates(N1, &[("fast", &["by-hand", "os"], &[]), ("shared", &[], &["os"])]);
    let web = story.create(of("os", "shared"));
    assert_eq!(verdict(&story, web, N1), None);
    let other = story.create(ContainerSpec { name: name("other"), ..of("by-hand", "shared") });
    assert_eq!(verdict(&story, other, N1), missing("by-hand", "shared"));
}

#[test]
fn what_was_said_before_the_template_or_by_the_incarnation_before_counts_no_more() {
    let mut story = story();
    story.reports_templates(N1, &[("shared", &[], &[])]);
    imported(&mut story, "new", TemplateKind::Os, 'c');
    let web = story.create(of("new", "shared"));
    assert_eq!(verdict(&story, web, N1), None, "it was looked for before it was there");
    story.reports_templates(N1, &[("shared", &["os"], &[])]);
    assert_eq!(verdict(&story, web, N1), missing("new", "shared"));
    let template = story.state.template(&name("new")).expect("there").clone();
    let sight = |story: &Story| story.state.sight(story.state.node(N1).expect("there"), &template);
    assert_eq!(sight(&story), TemplateSight::Unknown, "nobody has looked on fast");
    story.reports_templates(N1, &[("fast", &[], &[]), ("shared", &["os"], &[])]);
    assert_eq!(sight(&story), TemplateSight::Absent);
    // It comes back after its power was lost: what it said then may have been mended meanwhile.
    story.lose(N1);
    story.register(N1, 77, false, facts(8)).expect("it is a new incarnation");
    assert_eq!(verdict(&story, web, N1), None);
    assert_eq!(sight(&story), TemplateSight::Unknown);
}

#[test]
fn every_layer_counts_and_agents_that_report_nothing_get_none() {
    let mut story = story();
    let web = story.create(ContainerSpec { application_templates: Arc::new([name("app")]), ..of("os", "shared") });
    assert_eq!(verdict(&story, web, N1), Some(Rejection::AgentTooOld));
    story.reports_templates(N1, &[("shared", &["os"], &[])]);
    assert_eq!(verdict(&story, web, N1), missing("app", "shared"));
    story.reports_templates(N1, &[("shared", &["app", "os"], &[])]);
    assert_eq!(verdict(&story, web, N1), None);
}

#[test]
fn an_inventory_that_would_fill_the_log_is_refused() {
    let mut story = story();
    let incarnation = story.incarnation(N1);
    let mut refused = |present: Vec<Name>| {
        let shelf = Shelf { seen: Revision(1), present: present.into(), damaged: Arc::default() };
        let templates = Inventory { shelves: Arc::new([(name("shared"), shelf)].into()) };
        let report = Arc::new(NodeReport { templates, ..NodeReport::default() });
        story.refused(Command::ReportNode { node: N1, incarnation, report }).field()
    };
    assert_eq!(refused((0..10_001).map(|it| name(&format!("t{it:05}"))).collect()), Some("report.templates"));
    assert_eq!(refused(vec![name("b"), name("a")]), Some("report.templates"));
    assert_eq!(refused(vec![name("a"), name("a")]), Some("report.templates"));
}

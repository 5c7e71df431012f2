//! What nodes find is believed of the incarnation that serves, kept apart from the node, and bounded.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::apply::Rejected;
use crate::command::Command;
use crate::event::Event;
use crate::model::fence::{FenceCause, Proof};
use crate::model::ids::{Incarnation, NodeId};
use crate::model::report::{NodeReport, StorageFinding};
use crate::story::{Story, facts, name};

const NODE: NodeId = NodeId(1);

fn report(fault: &str) -> Arc<NodeReport> {
    let finding = StorageFinding { fault: fault.into(), ..StorageFinding::default() };
    Arc::new(NodeReport { storages: Arc::new(BTreeMap::from([(name("shared"), finding)])), ..NodeReport::default() })
}

fn says(story: &Story, fault: &str) -> Command {
    Command::ReportNode { node: NODE, incarnation: story.incarnation(NODE), report: report(fault) }
}

/// Events about storages, oldest first.
fn news(story: &Story) -> Vec<String> {
    let about = |event: &&Event| matches!(event, Event::StorageLost { .. } | Event::StorageBack { .. });
    story.events.iter().filter(about).map(ToString::to_string).collect()
}

#[test]
fn only_a_storage_that_is_lost_or_back_is_news() {
    let mut story = Story::with_nodes(1);
    for fault in ["", "it hangs", "it hangs", "its path is no folder", "", ""] {
        let command = says(&story, fault);
        story.done(command);
    }
    let lost = "node-1 has lost storage shared: it hangs; nothing that needs it can run there";
    assert_eq!(news(&story), [lost, "node-1 has storage shared again"]);
}

#[test]
fn report_of_another_incarnation_or_of_nobody_is_refused() {
    let mut story = Story::with_nodes(1);
    let current = story.incarnation(NODE);
    for given in [Incarnation(0), Incarnation(current.0 - 1), Incarnation(current.0 + 1)] {
        let refused = story.outcome(Command::ReportNode { node: NODE, incarnation: given, report: report("") });
        assert_eq!(refused, Err(Rejected::StaleIncarnation { node: NODE, given, current }));
    }
    let nobody = Command::ReportNode { node: NodeId(99), incarnation: current, report: report("") };
    assert_eq!(story.outcome(nobody).expect_err("there is no such node").code(), "not-found");
    story.done(Command::BeginFencing {
        node: NODE,
        incarnation: current,
        cause: FenceCause::Operator { reason: "it smokes".into() },
    });
    let late = says(&story, "");
    assert_eq!(story.outcome(late).expect_err("it is being fenced").code(), "stale-incarnation");
    assert_eq!(story.state.node_report(NODE), None);
}

#[test]
fn what_a_node_said_outlives_its_incarnation_and_ends_with_the_node() {
    let mut story = Story::with_nodes(1);
    let command = says(&story, "it hangs");
    story.done(command);
    let said = story.state.node_report(NODE).cloned().expect("it was said");
    let incarnation = story.incarnation(NODE);
    story.done(Command::RecordFenced { node: NODE, incarnation, proof: Proof::Left });
    story.register(NODE, 77, false, facts(8)).expect("it comes back");
    assert_eq!(story.state.node_report(NODE), Some(&said), "until the new incarnation has looked");
    let incarnation = story.incarnation(NODE);
    story.done(Command::RecordFenced { node: NODE, incarnation, proof: Proof::Left });
    story.done(Command::RemoveNode { node: NODE });
    assert_eq!(story.state.node_report(NODE), None);
}

#[test]
fn report_that_would_fill_the_log_is_refused() {
    let mut story = Story::with_nodes(1);
    let incarnation = story.incarnation(NODE);
    let many = (0..2_000).map(|number| (name(&format!("s{number}")), StorageFinding::default())).collect();
    for report in [
        Arc::new(NodeReport { storages: Arc::new(many), ..NodeReport::default() }),
        report(&"x".repeat(5_000)),
        report("a\u{1b}[2J"),
    ] {
        let refused = story.outcome(Command::ReportNode { node: NODE, incarnation, report });
        assert_eq!(refused.expect_err("it is too much").field(), Some("report.storages"));
    }
}

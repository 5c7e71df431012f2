//! How many entries one member applies per second: creations, assignments, reports and annotations.
//! `cargo run --release -p cluster --example apply_rate`
#![allow(clippy::disallowed_types, reason = "a measurement needs a clock")]

mod measured;

use std::collections::BTreeMap;
use std::time::Instant;

use cluster::command::{Report, Reported};
use cluster::planner::{Observed, plan};
use cluster::*;
use measured::Measured;

const NODES: u64 = 1_000;
const CONTAINERS: u64 = 20_000;

fn main() {
    let mut cluster = Measured::new(NODES, 64);
    measure("create", CONTAINERS, || (1..=CONTAINERS).for_each(|number| cluster.create(number, 1_024)));
    let commands = plan(&cluster.state, &Observed::default(), cluster.state.clock()).commands;
    measure("assign", CONTAINERS, || commands.into_iter().for_each(|command| cluster.done(command)));
    let reports: Vec<Command> = cluster.state.containers().map(|container| running(container)).collect();
    measure("report", CONTAINERS, || reports.into_iter().for_each(|command| cluster.done(command)));
    // As a member applies them: each group is published, and shares everything with the state that goes on.
    for (round, sessions, group) in [(1, 64, 200_000), (2, 64, 64), (3, 1_000, 256)] {
        let entries: Vec<Entry> = (1..=200_000).map(|number| annotated(round, number, sessions)).collect();
        let what = format!("annotate with 256 bytes, {sessions} sessions, published by {group}");
        let mut published = cluster.state.clone();
        measure(&what, entries.len() as u64, || {
            for entries in entries.chunks(group) {
                for entry in entries {
                    let index = Revision(cluster.state.revision().0 + 1);
                    apply(&mut cluster.state, index, entry).outcome.expect("a command that is right");
                }
                published = cluster.state.clone();
            }
        });
        assert_eq!(published.revision(), cluster.state.revision());
    }
}

fn annotated(round: u64, number: u64, sessions: u64) -> Entry {
    let session = SessionId(u128::from((round << 32) | (number % sessions)));
    let changes = BTreeMap::from([("note".into(), Some(format!("{round}-{number:0>254}")))]);
    let command = Command::AnnotateContainer { container: ContainerId(1 + number % 100), changes };
    Entry { at: WallTime(number), request: Some(RequestId { session, sequence: number }), command }
}

fn running(container: &Container) -> Command {
    let Assignment { node, incarnation, epoch, .. } = *container.assignment().expect("it was assigned");
    let what = Reported::Observed(cluster::Observed::Running);
    Command::ReportStatus { node, incarnation, reports: vec![Report { container: container.id, epoch, what }] }
}

fn measure(what: &str, entries: u64, work: impl FnOnce()) {
    let begin = Instant::now();
    work();
    let rate = entries as f64 / begin.elapsed().as_secs_f64();
    println!("{what}: {rate:.0} entries/s");
}

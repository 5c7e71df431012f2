//! What 1,000,000 running containers on 10,000 nodes cost in memory, and what a copy of that state costs.
//! `cargo run --release -p cluster --example million`; fails above 1 GiB.
#![allow(clippy::disallowed_types, reason = "a measurement needs a clock")]

mod measured;

use std::time::Instant;

use cluster::command::{Report, Reported};
use cluster::planner::{Observed, plan};
use cluster::*;
use measured::Measured;

const NODES: u64 = 10_000;
const CONTAINERS: u64 = 1_000_000;
const LIMIT_MIB: u64 = 1_024;

fn main() {
    let begin = Instant::now();
    let mut cluster = Measured::new(NODES, 256);
    // In portions, as they would come; a plan of everything at once would be measured with it.
    for number in 1..=CONTAINERS {
        cluster.create(number, 512);
        if number.is_multiple_of(20_000) {
            let commands = plan(&cluster.state, &Observed::default(), cluster.state.clock()).commands;
            commands.into_iter().for_each(|command| cluster.done(command));
        }
    }
    let ids: Vec<ContainerId> = cluster.state.containers().map(|container| container.id).collect();
    for id in ids {
        let Assignment { node, incarnation, epoch, .. } =
            *cluster.state.container(id).and_then(|container| container.assignment()).expect("it was assigned");
        let reports = vec![Report { container: id, epoch, what: Reported::Observed(cluster::Observed::Running) }];
        cluster.done(Command::ReportStatus { node, incarnation, reports });
    }
    println!("{} containers on {} nodes, built in {:.1?}", cluster.state.container_count(), NODES, begin.elapsed());
    let begin = Instant::now();
    let copy = cluster.state.clone();
    println!("a copy: {:.1?}", begin.elapsed());
    drop(copy);
    let resident = resident_mib();
    println!("resident: {resident} MiB");
    assert!(resident <= LIMIT_MIB, "{resident} MiB are more than {LIMIT_MIB}");
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the kernel tells");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS is there");
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number of KiB");
    kib / 1_024
}

//! How long planning 10,000 containers over 1,000 nodes takes: all of one spec, of ten, and each of its own.
//! `cargo run --release -p cluster --example plan_10k`
#![allow(clippy::disallowed_types, reason = "a measurement needs a clock")]

mod measured;

use std::time::Instant;

use cluster::planner::{Observed, plan};
use measured::Measured;

const NODES: u64 = 1_000;
const CONTAINERS: u64 = 10_000;

fn main() {
    for kinds in [1, 10, 100, 1_000, CONTAINERS] {
        let mut cluster = Measured::new(NODES, 64);
        (1..=CONTAINERS).for_each(|number| cluster.create(number, 1_024 + number % kinds));
        let begin = Instant::now();
        let plan = plan(&cluster.state, &Observed::default(), cluster.state.clock());
        let took = begin.elapsed();
        println!("{CONTAINERS} containers of {kinds} kinds over {NODES} nodes: planned in {took:.1?}");
        assert_eq!(plan.commands.len() as u64, CONTAINERS);
        plan.commands.into_iter().for_each(|command| cluster.done(command));
        assert_eq!(cluster.state.unplaced().count(), 0);
    }
}

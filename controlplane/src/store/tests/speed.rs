//! How fast groups become durable. Not a test: it prints figures and asserts nothing.
//! `cargo test --release -p controlplane --lib store::tests::speed -- --ignored --nocapture`

use super::model::entries;
use super::{BACKENDS, create};
use record::{Entry, Group, HardState, LogPoint, SnapshotMeta};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const ENTRY_BYTES: usize = 256;
const LASTS: Duration = Duration::from_secs(2);
/// Taken as the replica does, so that compaction is part of the figure.
const SNAPSHOT_EVERY: u64 = 10_000;

#[test]
#[ignore = "prints figures"]
fn appends_per_second() {
    println!(
        "{:>8} {:>14} {:>12} {:>12} {:>10} {:>10}",
        "store", "entries/group", "entries/s", "groups/s", "p50", "p99"
    );
    for backend in BACKENDS {
        for size in [1, 32, 64, 256, 512, 1024] {
            let folder = TempDir::new().expect("a folder");
            let mut disk = create(folder.path(), backend);
            let template = entries(1, 1, size, ENTRY_BYTES);
            let (mut last, mut snapshot, mut took) = (0, 0, Vec::new());
            let start = Instant::now();
            while start.elapsed() < LASTS {
                let hard_state = HardState { term: 1, vote: 1, commit: last };
                let numbered = template.iter().zip(last + 1..).map(|(entry, index)| Entry { index, ..entry.clone() });
                let group = Group { hard_state, restored: None, entries: numbered.collect() };
                let before = Instant::now();
                disk.append_group(&group).expect("durable");
                took.push(before.elapsed());
                last += size;
                if last - snapshot > SNAPSHOT_EVERY {
                    snapshot = last - size;
                    let meta = SnapshotMeta::of(LogPoint { index: snapshot, term: 1 }, vec![], b"");
                    disk.save_snapshot(&meta, b"").expect("durable");
                    disk.compact(snapshot).expect("covered");
                }
            }
            let seconds = start.elapsed().as_secs_f64();
            took.sort_unstable();
            let at = |share: usize| format!("{} µs", took[took.len() * share / 100].as_micros());
            let (per_second, groups) = (last as f64 / seconds, took.len() as f64 / seconds);
            let (p50, p99) = (at(50), at(99));
            println!("{:>8} {size:>14} {per_second:>12.0} {groups:>12.0} {p50:>10} {p99:>10}", backend.to_string());
        }
    }
}

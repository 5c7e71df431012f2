//! How fast groups become durable, with nothing else on the disk. It prints figures; nothing depends on them.
//! `cargo run --release -p controlplane --example store_speed -- [FOLDER] [SECONDS]`

use anyhow::Context;
use controlplane::store::{Backend, Folder};
use record::{Entry, Group, HardState, Identity, LogPoint, RaftDisk, SnapshotMeta};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const ENTRY_BYTES: usize = 300;
/// Taken as the replica does, so that compaction is part of the figure.
const SNAPSHOT_EVERY: u64 = 10_000;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let place = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let lasts = Duration::from_secs(arguments.next().map_or(Ok(3), |text| text.parse()).context("seconds")?);
    println!(
        "{:>8} {:>14} {:>10} {:>10} {:>9} {:>9} {:>9} {:>12}",
        "store", "entries/group", "groups/s", "entries/s", "p50 µs", "p99 µs", "max µs", "cpu µs/group"
    );
    for backend in [Backend::Sled, Backend::File] {
        for size in [1, 20, 64, 340, 1024] {
            let path = place.join(format!("store-speed-{}", std::process::id()));
            let identity = Identity { cluster: *b"cluster-for-test", member: 1, incarnation: 1 };
            let outcome = Folder::lock(&path)?
                .create(backend, identity)
                .map_err(anyhow::Error::from)
                .and_then(|(mut disk, _)| measure(disk.as_mut(), size, lasts));
            std::fs::remove_dir_all(&path).with_context(|| path.display().to_string())?;
            println!("{:>8} {size:>14} {}", backend.to_string(), outcome?);
        }
    }
    Ok(())
}

/// The figures of groups of `size` entries, one after the other.
fn measure(disk: &mut dyn RaftDisk, size: u64, lasts: Duration) -> anyhow::Result<String> {
    let (mut last, mut snapshot, mut took) = (0, 0, Vec::new());
    let (start, cpu) = (Instant::now(), cpu_time()?);
    while start.elapsed() < lasts {
        let entry = |index| Entry { term: 1, index, data: vec![index as u8; ENTRY_BYTES].into(), ..Entry::default() };
        let hard_state = HardState { term: 1, vote: 1, commit: last };
        let group = Group { hard_state, restored: None, entries: (last + 1..=last + size).map(entry).collect() };
        let before = Instant::now();
        disk.append_group(&group)?;
        took.push(before.elapsed());
        last += size;
        if last - snapshot > SNAPSHOT_EVERY {
            snapshot = last - size;
            let meta = SnapshotMeta::of(LogPoint { index: snapshot, term: 1 }, vec![], b"");
            disk.save_snapshot(&meta, b"")?;
            disk.compact(snapshot)?;
        }
    }
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_time()? - cpu);
    took.sort_unstable();
    let at = |share: usize| took[(took.len() - 1) * share / 1000].as_micros();
    let (groups, per_group) = (took.len() as f64 / seconds, cpu.as_micros() as usize / took.len());
    let entries = last as f64 / seconds;
    let (p50, p99, max) = (at(500), at(990), at(1000));
    Ok(format!("{groups:>10.0} {entries:>10.0} {p50:>9} {p99:>9} {max:>9} {per_group:>12}"))
}

/// Processor time of this process so far, all threads; the kernel counts hundredths of a second.
fn cpu_time() -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| -> anyhow::Result<u64> { Ok(fields.get(at).context("a short stat file")?.parse()?) };
    Ok(Duration::from_millis(10 * (ticks(11)? + ticks(12)?)))
}

//! Processes killed while they write: everything they reported as durable is there.
//! The writer is this test binary, started again; it reports through its standard output.

use super::model::{Model, entries};
use super::{BACKENDS, Backend, create, open, ready};
use crate::store::OpenOutcome;
use record::{Group, Loaded, LogPoint, RaftDisk, SnapshotMeta};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

const FOLDER: &str = "QUORATE_TEST_WRITER_FOLDER";
const BACKEND: &str = "QUORATE_TEST_WRITER_BACKEND";
const CYCLES: usize = 4;

/// What the writer said last: group, last index, term, commit, snapshot index.
pub(super) type Report = [u64; 5];

#[test]
fn a_killed_process_loses_nothing_it_reported() {
    for backend in BACKENDS {
        let folder = TempDir::new().expect("a folder");
        drop(create(folder.path(), backend));
        for cycle in 0..CYCLES {
            // Another place in the writer's work each time.
            let last =
                interrupted_writer(folder.path(), backend, 40 + 37 * cycle, |child| child.kill().expect("it runs"));
            let (_, loaded) = ready(folder.path(), backend);
            check(&loaded, last);
        }
    }
}

/// The writer's last report before it died of what `strike` did to it, after at least `reports` of them.
pub(super) fn interrupted_writer(
    folder: &Path,
    backend: Backend,
    reports: usize,
    strike: impl Fn(&mut Child),
) -> Report {
    let name = format!("{}::writer", module_path!().split_once("::").expect("a path in the crate").1);
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args([&name, "--exact", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env(BACKEND, backend.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("this binary starts");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let (mut seen, mut last) = (0, None);
    for line in lines {
        // The last line may be cut off in the middle.
        let Some(report) = line.ok().as_deref().and_then(parse) else { continue };
        last = Some(report);
        seen += 1;
        if seen == reports {
            strike(&mut child);
        }
    }
    child.wait().expect("it ran");
    assert!(seen >= reports, "the writer ended by itself after {seen} reports");
    last.expect("it reported")
}

fn parse(line: &str) -> Option<Report> {
    let body = line.strip_prefix("durable ")?.strip_suffix(" .")?;
    let words: Vec<u64> = body.split(' ').map(|word| word.parse().ok()).collect::<Option<_>>()?;
    words.try_into().ok()
}

pub(super) fn check(loaded: &Loaded, [group, last, term, commit, snapshot]: Report) {
    assert!(loaded.next_group > group, "group {group} was durable, the next is {}", loaded.next_group);
    assert!(loaded.hard_state.term >= term && loaded.hard_state.commit >= commit, "{:?}", loaded.hard_state);
    assert!(loaded.snapshot.as_ref().map_or(0, |meta| meta.index) >= snapshot);
    if loaded.next_group == group + 1 {
        assert_eq!((loaded.last().index, loaded.hard_state.term), (last, term));
    }
    assert!(loaded.last().index >= commit);
    for entry in &loaded.entries {
        assert_eq!(*entry, entries(entry.index, entry.term, 1, size_of(entry.index)).remove(0));
    }
}

/// Mostly small; now and then too big for the guard to carry the group.
fn size_of(index: u64) -> usize {
    if index.is_multiple_of(50) { 70_000 } else { (index * 97 % 900) as usize }
}

#[test]
#[ignore = "the writer that a_killed_process_loses_nothing_it_reported starts and kills"]
fn writer() {
    // Whoever runs all ignored tests gets here too; there is nothing to write then.
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let backend: Backend = std::env::var(BACKEND).expect("started by the test above").parse().expect("a backend");
    let OpenOutcome::Ready(mut disk, loaded) = open(Path::new(&folder), backend) else { panic!("not ready") };
    let mut model = Model::of(&loaded);
    let (mut last, mut out) = (loaded.last(), std::io::stdout().lock());
    for round in loaded.next_group.. {
        let number = write(disk.as_mut(), &mut model, &mut last, round);
        let snapshot = model.snapshot.as_ref().map_or(0, |meta| meta.index);
        let state = model.hard_state;
        writeln!(out, "durable {number} {} {} {} {snapshot} .", last.index, state.term, state.commit).expect("a pipe");
        out.flush().expect("a pipe");
    }
}

/// One group: more entries, now and then a new term over the uncommitted end, now and then a snapshot and compaction.
fn write(disk: &mut dyn RaftDisk, model: &mut Model, last: &mut LogPoint, round: u64) -> u64 {
    let state = &mut model.hard_state;
    let mut from = last.index + 1;
    state.commit = state.commit.max(last.index.saturating_sub(2));
    if round.is_multiple_of(7) || state.term == 0 {
        state.term += 1;
        from = from.min(state.commit + 1);
    }
    let (until, term) = (from + round % 33 + 1, state.term);
    let entries = (from..until).flat_map(|index| entries(index, term, 1, size_of(index))).collect();
    let group = Group { hard_state: *state, restored: None, entries };
    *last = LogPoint { index: until - 1, term };
    let number = disk.append_group(&group).expect("it follows");
    if round.is_multiple_of(11) && state.commit > model.snapshot.as_ref().map_or(0, |meta| meta.index) {
        // The term at the commit index is not tracked here: ask the store itself.
        let loaded = disk.load().expect("intact").expect("exists");
        let at = loaded.entries.iter().find(|entry| entry.index == loaded.hard_state.commit).expect("committed");
        let meta = SnapshotMeta::of(at.point(), vec![1], &[round as u8; 100_000]);
        disk.save_snapshot(&meta, &[round as u8; 100_000]).expect("newer");
        disk.compact(meta.index).expect("covered");
        model.snapshot = Some(meta);
    }
    number
}

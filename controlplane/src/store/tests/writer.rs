//! A process that writes through the real store until it is struck down, and says through a pipe what it began and what
//! was durable. It is this test binary, started again.

use super::model::{Model, Step, perform};
use super::oracle::{Oracle, is_big, mix, next};
use super::{Backend, OpenOutcome, open, wrong};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Folder, backend, disk, seed, number of the first step.
const TASK: &str = "QUORATE_TEST_WRITER";
/// What the writer says stands behind this; the test runner says other things on the same pipe.
const MARK: &str = "@writer ";
/// A writer that has not been struck by then is struck wherever it is.
const STEPS_MAX: u64 = 160;

/// What the writer's disk does when it is asked to sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syncs {
    Really,
    /// It says that it did. Nothing of the kind is ever shipped: the loops must notice it.
    NotTheLog,
    NotTheGuard,
}

/// Runs a writer on `folder` until `strike`, and tells the oracle what it hears. Where it is struck depends on the
/// cycle: while it opens the store, in a snapshot, in a snapshot of the leader's, in a group too big for a slot,
/// anywhere.
pub(super) fn struck_writer(
    folder: &Path,
    backend: Backend,
    syncs: Syncs,
    oracle: &mut Oracle,
    strike: impl FnOnce(&mut Child),
) {
    let (cycle, luck) = (oracle.counts.cycles, mix(!oracle.seed, oracle.counts.cycles));
    let (patience, pause) = (luck % 40, Duration::from_micros((luck >> 20) % 2_000));
    let mut child = start(folder, backend, syncs, oracle);
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let (mut strike, mut begun) = (Some(strike), 0);
    for line in lines {
        // The last line may be cut off in the middle: every word ends in a full stop.
        let line = line.unwrap_or_default();
        let word = line.split_once(MARK).and_then(|(_, word)| word.strip_suffix('.'));
        let due = match word {
            Some("opening") => (cycle % 5 == 1).then_some(pause * 20),
            Some("begun") => {
                begun += 1;
                let step = oracle.begun();
                let here = match cycle % 5 {
                    2 => matches!(step, Step::Snapshot(..)),
                    3 => matches!(step, Step::Install(..)),
                    4 => is_big(step),
                    _ => true,
                };
                (begun > STEPS_MAX || here && begun > patience).then_some(pause)
            }
            Some("durable") => {
                oracle.acknowledged();
                None
            }
            _ => None,
        };
        if let Some(pause) = due
            && let Some(strike) = strike.take()
        {
            // The pipe is always late by about the same: somewhere in the next moments, not always at one place.
            let now = Instant::now();
            while now.elapsed() < pause {
                std::hint::spin_loop();
            }
            strike(&mut child);
        }
    }
    child.wait().expect("it ran");
    assert!(strike.is_none(), "the writer ended by itself after {begun} steps");
}

fn start(folder: &Path, backend: Backend, syncs: Syncs, oracle: &Oracle) -> Child {
    let name = format!("{}::writer", module_path!().split_once("::").expect("a path in the crate").1);
    let task = format!("{} {backend} {syncs:?} {} {}", folder.display(), oracle.seed, oracle.steps());
    Command::new(std::env::current_exe().expect("this binary"))
        .args([&name, "--exact", "--ignored", "--nocapture"])
        .env(TASK, task)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("this binary starts")
}

#[test]
#[ignore = "the process that the loops start and strike down"]
fn writer() {
    // Whoever runs all ignored tests gets here too; there is nothing to write then.
    let Ok(task) = std::env::var(TASK) else { return };
    let [folder, backend, syncs, seed, first] = *task.split(' ').collect::<Vec<_>>() else { panic!("{task}") };
    let (folder, backend): (_, Backend) = (Path::new(folder), backend.parse().expect("a backend"));
    let [seed, first] = [seed, first].map(|word| word.parse().expect("a number"));
    let mut out = std::io::stdout().lock();
    let mut say = |word: &str| {
        writeln!(out, "{MARK}{word}.").and_then(|()| out.flush()).expect("a pipe");
    };
    say("opening");
    let (mut disk, loaded) = match syncs {
        "Really" => {
            let OpenOutcome::Ready(disk, loaded) = open(folder, backend) else { panic!("not ready") };
            (disk, *loaded)
        }
        "NotTheLog" => wrong::open(folder, backend, Syncs::NotTheLog),
        "NotTheGuard" => wrong::open(folder, backend, Syncs::NotTheGuard),
        _ => panic!("{task}"),
    };
    let mut model = Model::of(&loaded);
    for number in first.. {
        let step = next(&model, seed, number);
        say("begun");
        perform(disk.as_mut(), &step);
        say("durable");
        model = model.after(&step);
    }
}

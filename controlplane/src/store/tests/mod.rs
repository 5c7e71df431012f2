//! The store from outside: one contract for every engine, damage to every file, processes killed while they write.

mod anatomy;
mod contract;
mod crash;
mod damage;
mod feeder;
mod folder;
mod full;
mod log;
mod loop_disk;
mod oracle;
mod power;
mod succession;
mod writer;
mod wrong;
/// The same legal histories that `record` is tested with.
#[path = "../../../record/tests/it/model.rs"]
#[allow(dead_code)]
mod model;

use super::{Backend, Folder, OpenOutcome, Quarantine};
use model::{IDENTITY, Model, perform};
use record::{Loaded, RaftDisk, StoreError};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const BACKENDS: [Backend; 2] = [Backend::Sled, Backend::File];

/// A history with everything in it: terms, votes, overwritten ends, own and received snapshots, compaction.
const HISTORY: &[u8] = &[5, 37, 1, 8, 5, 1, 2, 69, 5, 131, 5, 5, 1, 16, 37, 1, 2, 7, 72, 13];

fn create(path: &Path, backend: Backend) -> Box<dyn RaftDisk> {
    patiently(|| Folder::lock(path)?.create(backend, IDENTITY)).0
}

fn open(path: &Path, backend: Backend) -> OpenOutcome {
    patiently(|| Folder::lock(path)?.open(backend, Some(IDENTITY.cluster)))
}

/// Tests share a process, and some start children: between fork and exec a child holds every lock of the others,
/// after the owner let go of it too.
fn patiently<T>(work: impl Fn() -> Result<T, StoreError>) -> T {
    try_patiently(work).unwrap_or_else(|error| panic!("{error:?}"))
}

/// The same for work that may err otherwise.
fn try_patiently<T>(work: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match work() {
            Err(StoreError::Locked { .. }) if Instant::now() < deadline => {}
            Err(StoreError::Io { operation: "open", source, .. })
                if source.to_string().contains("could not acquire lock") && Instant::now() < deadline => {}
            outcome => return outcome,
        }
        std::thread::yield_now();
    }
}

fn ready(path: &Path, backend: Backend) -> (Box<dyn RaftDisk>, Loaded) {
    match open(path, backend) {
        OpenOutcome::Ready(disk, loaded) => (disk, *loaded),
        OpenOutcome::Fresh => panic!("{} lost its store", path.display()),
        OpenOutcome::Quarantined(Quarantine { reason, .. }) => panic!("{} is quarantined: {reason}", path.display()),
    }
}

/// Writes `choices`, each with entries of `size` bytes.
fn write(disk: &mut dyn RaftDisk, choices: &[u8], size: usize) -> Model {
    choices.iter().fold(Model::default(), |model, &choice| {
        let step = model.step(choice, size);
        perform(disk, &step);
        model.after(&step)
    })
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("a file")),
        }
    }
}

/// All files below `path`, sorted.
fn files(path: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).expect("a folder") {
        let entry = entry.expect("an entry");
        match entry.file_type().expect("a type").is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found.sort();
    found
}

/// How many times a loop strikes; `./tests/run` says more or fewer.
fn cycles() -> u64 {
    std::env::var("QUORATE_STORE_CYCLES").ok().map_or(10, |text| text.parse().expect("a number of cycles"))
}

/// A folder in memory where there is one: for what is about bytes and not about syncs.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.expect("a folder")
}

/// Says that something was not tested, past the capture of the test runner, and in the file named by `QUORATE_NOT_RUN`.
fn not_run(what: &str, why: &str) {
    let line = format!("NOT RUN: {what}: {why}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(file) = std::env::var_os("QUORATE_NOT_RUN")
        && let Ok(mut file) = std::fs::File::options().create(true).append(true).open(file)
    {
        let _ = file.write_all(line.as_bytes());
    }
}

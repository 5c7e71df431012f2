//! The log lags behind the ring, and nothing depends on how far: it may be slow, stand still, fail.

use super::model::{IDENTITY, Model, entries, perform};
use super::{Backend, Folder, create, patiently, ready};
use crate::store::disk::{Disk, Log};
use crate::store::feeder::Feeder;
use crate::store::file::FileLog;
use crate::store::guard::{GuardFile, SHAPE};
use crate::store::snapshot::Snapshots;
use record::{Found, Group, HardState, RaftDisk, Ring, StoreError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use tempfile::TempDir;

/// Plain files behind a gate.
struct Gated {
    log: FileLog,
    guard: PathBuf,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    /// Each append waits until the ring is full, and looks whether it still has what it is about to write.
    waits_for_full_ring: AtomicBool,
    /// Appends fail from this one on; 0 = never.
    fails_from: AtomicU64,
    appends: AtomicU64,
    /// Removals wait while this is `true`.
    no_removals: Mutex<bool>,
    /// There is always more to remove.
    endless_removals: AtomicBool,
    opened: Condvar,
}

impl Gated {
    fn ring(&self) -> Ring {
        // The writer may be between two halves of a slot.
        Ring::read(SHAPE, &std::fs::read(&self.guard).expect("a guard file")).expect("it verifies")
    }

    fn look_whether_the_ring_has(&self, records: &[(u64, Vec<u8>)]) {
        let ring = self.ring();
        for (number, record) in records {
            let slot = ring.slot(*number).unwrap_or_else(|| panic!("group {number} is in neither ring nor log"));
            assert_eq!(&slot.carried, record, "group {number}");
        }
    }
}

impl Log for Gated {
    fn records(&mut self) -> Result<Vec<Found>, StoreError> {
        self.log.records()
    }

    fn cut(&mut self, kept: usize, last: u64) -> Result<(), StoreError> {
        self.log.cut(kept, last)
    }

    fn append(&mut self, records: &[(u64, Vec<u8>)]) -> Result<(), StoreError> {
        let number = 1 + self.gate.appends.fetch_add(1, Ordering::SeqCst);
        if (1..=number).contains(&self.gate.fails_from.load(Ordering::SeqCst)) {
            return Err(StoreError::io("write", "log", ErrorKind::StorageFull.into()));
        }
        let full = records.first().map_or(0, |(first, _)| first + SHAPE.slots - 1);
        while self.gate.waits_for_full_ring.load(Ordering::SeqCst) && self.ring().newest().group < full {
            std::thread::yield_now();
        }
        // Whoever would go on now is given every occasion.
        for _ in 0..if self.gate.waits_for_full_ring.load(Ordering::SeqCst) { 50 } else { 0 } {
            self.look_whether_the_ring_has(records);
            std::thread::yield_now();
        }
        self.log.append(records)
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.log.sync()
    }

    fn remove_below(&mut self, first_kept: u64) -> Result<bool, StoreError> {
        if self.gate.endless_removals.load(Ordering::SeqCst) {
            return Ok(true);
        }
        let mut closed = self.gate.no_removals.lock().expect("nobody panics with it");
        while *closed {
            closed = self.gate.opened.wait(closed).expect("nobody panics with it");
        }
        self.log.remove_below(first_kept)
    }

    fn close(&mut self) -> Result<(), StoreError> {
        self.log.close()
    }
}

/// A new store in `path` over a gated log.
fn gated(path: &Path) -> (Box<dyn RaftDisk>, Arc<Gate>) {
    drop(create(path, Backend::File));
    let folder = patiently(|| Folder::lock(path));
    let gate = Arc::new(Gate::default());
    let log = FileLog::open(&folder.log()).expect("a log");
    let log = Box::new(Gated { log, guard: folder.guard(), gate: gate.clone() });
    let guard = GuardFile::open(&folder.guard()).expect("a guard file");
    let snapshots = Snapshots::new(folder.snapshots(), IDENTITY);
    let mut disk = Box::new(Disk::new(log, guard, snapshots, folder.lock.clone()));
    disk.load().expect("intact").expect("it exists");
    (disk, gate)
}

fn group(model: &Model) -> Group {
    let last = model.entries.last().map_or(0, |entry| entry.index);
    let hard_state = HardState { term: 1, vote: 2, commit: last };
    Group { hard_state, restored: None, entries: entries(last + 1, 1, 1, 300) }
}

/// Appends until the first error; what was acknowledged is in `model`.
fn append(disk: &mut dyn RaftDisk, model: &mut Model, groups: u64) -> Result<(), StoreError> {
    for _ in 0..groups {
        let group = group(model);
        disk.append_group(&group)?;
        *model = std::mem::take(model).after(&super::model::Step::Append(group));
    }
    Ok(())
}

/// Whenever the waiting begins (before the feeder has taken the records, while it writes them, after), it ends.
#[test]
fn whoever_waits_for_the_log_is_told() {
    let folder = TempDir::new().expect("a folder");
    let log = FileLog::create(folder.path(), 1, b"the first record").expect("room");
    let lock = Arc::new(tempfile::tempfile().expect("a file"));
    let feeder = Feeder::start(Box::new(log), 1, SHAPE.feed_at(), lock).expect("a thread");
    let mut last = 1;
    for round in 0..600 {
        let before = last;
        for _ in 0..=round % 5 {
            last += 1;
            feeder.feed(last, vec![round as u8; 100]).expect("room");
        }
        if round % 7 < 3 {
            std::thread::yield_now();
        }
        feeder.wait_for(if round % 11 == 0 { before } else { last }).expect("room");
    }
    feeder.wait_for(last).expect("room");
    assert_eq!(feeder.durable(), last);
}

#[test]
fn a_slot_stays_until_its_group_is_durable_in_the_log() {
    let folder = TempDir::new().expect("a folder");
    let (mut disk, gate) = gated(folder.path());
    gate.waits_for_full_ring.store(true, Ordering::SeqCst);
    let mut model = Model::default();
    append(disk.as_mut(), &mut model, 60).expect("room");
    gate.waits_for_full_ring.store(false, Ordering::SeqCst);
    let stats = disk.stats();
    assert!(stats.waits_for_log > 0 && stats.groups_behind <= SHAPE.slots, "{stats:?}");
    let appends = gate.appends.load(Ordering::SeqCst);
    assert!((1..=60 / SHAPE.feed_at() as u64).contains(&appends), "{appends} syncs of the log for 60 groups");
    drop(disk);
    assert_eq!(Model::of(&ready(folder.path(), Backend::File).1), model);
}

#[test]
fn a_log_that_fails_ends_the_store_and_loses_nothing() {
    for fails_from in 1..4 {
        let folder = TempDir::new().expect("a folder");
        let (mut disk, gate) = gated(folder.path());
        gate.fails_from.store(fails_from, Ordering::SeqCst);
        let mut model = Model::default();
        let error = append(disk.as_mut(), &mut model, 60).expect_err("the log fails");
        assert!(
            matches!(&error, StoreError::Io { source, .. } if source.kind() == ErrorKind::StorageFull),
            "{error:?}"
        );
        let taken = model.entries.len() as u64;
        assert!(taken <= (fails_from + 1) * SHAPE.slots, "it was noticed after {taken} groups");
        let more = [disk.append_group(&group(&model)).map(drop), disk.compact(0), disk.close()];
        assert!(more.iter().all(|it| matches!(it, Err(StoreError::Poisoned { .. }))), "{more:?}");
        drop(disk);
        let found = Model::of(&ready(folder.path(), Backend::File).1);
        let entries = found.entries.len() as u64;
        assert!((taken..=taken + 1).contains(&entries) && found.entries.starts_with(&model.entries), "{entries}");
    }
}

#[test]
fn a_log_that_fails_when_it_is_waited_for_says_so_there() {
    // A group too big for a slot, a snapshot, the end: each waits for the log.
    for what in 0..3 {
        let folder = TempDir::new().expect("a folder");
        let (mut disk, gate) = gated(folder.path());
        gate.fails_from.store(1, Ordering::SeqCst);
        let mut model = Model::default();
        append(disk.as_mut(), &mut model, 2).expect("the ring takes them");
        let big = Group { entries: entries(3, 1, 1, SHAPE.slot_bytes), ..group(&model) };
        let meta = record::SnapshotMeta::of(model.entries[0].point(), vec![], b"");
        let error = match what {
            0 => disk.append_group(&big).map(drop),
            1 => disk.save_snapshot(&meta, b""),
            _ => disk.close(),
        };
        assert!(matches!(error, Err(StoreError::Io { .. })), "{what}: {error:?}");
        drop(disk);
        let found = Model::of(&ready(folder.path(), Backend::File).1);
        assert_eq!((found.hard_state, found.entries.last()), (model.hard_state, model.entries.last()), "{what}");
    }
}

/// As sled does where a thread of its own met an error of the disk. What was acknowledged is in the ring; the folder stays
/// locked until nobody can write there any more.
#[test]
fn a_log_that_never_answers_ends_the_store_and_keeps_the_folder() {
    let folder = TempDir::new().expect("a folder");
    let (mut disk, gate) = gated(folder.path());
    let mut model = Model::default();
    append(disk.as_mut(), &mut model, 5).expect("room");
    *gate.no_removals.lock().expect("nobody panics with it") = true;
    perform(disk.as_mut(), &model.step(2, 10));
    model = model.clone().after(&model.step(2, 10));
    let error = append(disk.as_mut(), &mut model, 3 * SHAPE.slots).expect_err("the ring is full");
    assert!(matches!(error, StoreError::Timeout { .. }), "{error:?}");
    assert!(matches!(disk.compact(0), Err(StoreError::Poisoned { .. })));
    drop(disk);
    assert!(matches!(Folder::lock(folder.path()), Err(StoreError::Locked { .. })));
    *gate.no_removals.lock().expect("nobody panics with it") = false;
    gate.opened.notify_all();
    assert_eq!(Model::of(&ready(folder.path(), Backend::File).1), model);
}

#[test]
fn a_compaction_holds_up_nobody() {
    let folder = TempDir::new().expect("a folder");
    let (mut disk, gate) = gated(folder.path());
    let mut model = Model::default();
    append(disk.as_mut(), &mut model, 20).expect("room");
    *gate.no_removals.lock().expect("nobody panics with it") = true;
    perform(disk.as_mut(), &model.step(2, 10));
    model = model.clone().after(&model.step(2, 10));
    // The removal stands still for as long as these take.
    append(disk.as_mut(), &mut model, SHAPE.slots).expect("the ring has room");
    *gate.no_removals.lock().expect("nobody panics with it") = false;
    gate.opened.notify_all();
    append(disk.as_mut(), &mut model, 20).expect("room");
    disk.close().expect("in good order");
    drop(disk);
    assert_eq!(Model::of(&ready(folder.path(), Backend::File).1), model);
}

/// Nor does one of very many records, on a slow disk: it goes on between what is fed.
#[test]
fn a_compaction_without_end_holds_up_nobody() {
    let folder = TempDir::new().expect("a folder");
    let (mut disk, gate) = gated(folder.path());
    let mut model = Model::default();
    append(disk.as_mut(), &mut model, 20).expect("room");
    gate.endless_removals.store(true, Ordering::SeqCst);
    perform(disk.as_mut(), &model.step(2, 10));
    model = model.clone().after(&model.step(2, 10));
    append(disk.as_mut(), &mut model, 5 * SHAPE.slots).expect("the log is fed all the while");
    disk.close().expect("in good order");
    drop(disk);
    assert_eq!(Model::of(&ready(folder.path(), Backend::File).1), model);
}

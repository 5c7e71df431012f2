//! What is left of a write that was never acknowledged goes away, and the log goes on in its place.

use super::model::{Model, perform};
use super::{BACKENDS, Backend, create, ready, write};
use crate::store::disk::Log;
use crate::store::file::FileLog;
use crate::store::sled::SledLog;
use record::Found;
use std::path::Path;
use tempfile::TempDir;

fn log(path: &Path, backend: Backend) -> Box<dyn Log> {
    let folder = path.join("member/log");
    match backend {
        Backend::Sled => Box::new(SledLog::open(&folder).expect("whole")),
        Backend::File => Box::new(FileLog::open(&folder).expect("whole")),
    }
}

#[test]
fn an_unfinished_write_is_removed_and_the_log_goes_on() {
    for backend in BACKENDS {
        let folder = TempDir::new().expect("a folder");
        let mut disk = create(folder.path(), backend);
        let mut model = write(disk.as_mut(), &[5, 229, 1, 5, 2, 5], 100);
        drop(disk);
        let next_group = ready(folder.path(), backend).1.next_group;
        let mut engine = log(folder.path(), backend);
        engine.append(&[(next_group, vec![0xa5; 9000])]).expect("room");
        drop(engine);
        for choice in [5, 8, 1] {
            let (mut disk, loaded) = ready(folder.path(), backend);
            assert_eq!(Model::of(&loaded), model, "{backend}");
            let step = model.step(choice, 5000);
            perform(disk.as_mut(), &step);
            model = model.after(&step);
        }
        assert_eq!(Model::of(&ready(folder.path(), backend).1), model, "{backend}");
    }
}

#[test]
fn an_engine_gives_back_what_it_got_and_forgets_what_it_may() {
    for backend in BACKENDS {
        let folder = TempDir::new().expect("a folder");
        drop(create(folder.path(), backend));
        let mut engine = log(folder.path(), backend);
        let first = engine.records().expect("whole");
        assert_eq!(first.len(), 1);
        // Bytes that are a record only to the engine's eye: the first one, again and again.
        let Found::Record(record) = first[0].clone() else { panic!("whole") };
        // One by one, then several with one sync, over more than a segment.
        (2..=30).for_each(|number| engine.append(&[(number, record.to_vec())]).expect("room"));
        let rest: Vec<_> = (31..=50).map(|number| (number, record.to_vec())).collect();
        engine.append(&rest).expect("room");
        assert_eq!(engine.records().expect("whole"), vec![Found::Record(record.clone()); 50]);
        engine.cut(30, 30).expect("it can be cut");
        assert_eq!(engine.records().expect("whole").len(), 30);
        while engine.remove_below(11).expect("it can be compacted") {}
        let left = engine.records().expect("whole").len();
        assert!((20..=30).contains(&left), "{left} are left");
        engine.sync().and_then(|()| engine.close()).expect("it can be closed");
        drop(engine);
        assert_eq!(log(folder.path(), backend).records().expect("whole").len(), left);
    }
}

/// sled keeps a record in pieces, and a compaction is several batches: whichever is the last one before a crash, what is
/// left starts with a whole record.
#[test]
fn a_compaction_that_is_interrupted_leaves_no_half_record() {
    let folder = TempDir::new().expect("a folder");
    drop(create(folder.path(), Backend::Sled));
    let mut engine = SledLog::open(&folder.path().join("member/log")).expect("whole");
    // A hundred pieces each, which do not divide what a batch takes.
    let record = |number: u64| vec![number as u8; 100 * 4_000];
    (2..=30).for_each(|number| engine.append(&[(number, record(number))]).expect("room"));
    let (mut batches, mut left) = (0, 30);
    while engine.remove_below(29).expect("it can be compacted") {
        let found = engine.records().expect("readable");
        assert!(found.len() < left, "a batch that removes nothing");
        (batches, left) = (batches + 1, found.len());
        for (found, number) in found.iter().zip(31 - left as u64..) {
            assert_eq!(*found, Found::Record(record(number).into()), "group {number} after {batches} batches");
        }
    }
    assert!(batches > 3 && left == 2, "{batches} batches, {left} are left");
}

/// sled itself takes the file that it was about to write for the one it wrote.
#[test]
fn a_start_of_sled_that_was_cut_off_is_no_damage() {
    for bytes in [&b""[..], b"half of what sled", &[0; 5000]] {
        let folder = TempDir::new().expect("a folder");
        let mut disk = create(folder.path(), Backend::Sled);
        let model = write(disk.as_mut(), &[5, 229, 1, 5], 100);
        drop(disk);
        let unfinished = folder.path().join("member/log/snap.00000000000FFFFF.generating");
        std::fs::write(unfinished, bytes).expect("written");
        assert_eq!(Model::of(&ready(folder.path(), Backend::Sled).1), model);
    }
}

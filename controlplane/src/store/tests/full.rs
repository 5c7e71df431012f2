//! A disk that fills up: the store says so and stops, is never taken for damaged, and is whole once there is room again.
//! ext4 on a loop device, where room is promised late: a write may be taken and its sync refused. Needs root.

use super::loop_disk::LoopDisk;
use super::model::attempt;
use super::oracle::{Oracle, Verdict, mix};
use super::{BACKENDS, Folder, create, cycles, open, ready, try_patiently};
use crate::store::OpenOutcome;
use record::{RaftDisk, StoreError};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

const IMAGE_BYTES: u64 = 32 << 20;
/// Left free at most: less than the log of a few steps, for compaction gives room back.
const ROOM_BYTES: u64 = 160 << 10;

#[test]
fn a_full_disk_loses_nothing_and_is_no_damage() {
    for backend in BACKENDS {
        let Some(disk) = LoopDisk::new("a full disk loses nothing", IMAGE_BYTES) else { return };
        let (folder, ballast) = (disk.mount.join("data"), disk.mount.join("ballast"));
        drop(create(&folder, backend));
        let (mut oracle, mut stopped) = (Oracle::new(0x6675_6c6c), 0);
        for cycle in 0..cycles() {
            let (mut store, _) = ready(&folder, backend);
            fill(&ballast, mix(3, cycle) % ROOM_BYTES);
            let error = write_until_full(store.as_mut(), &mut oracle);
            assert!(is_full(&error), "{backend}, cycle {cycle}: {error:?}");
            // A snapshot that could not even be staged has changed nothing; whatever else failed is the last thing it did.
            let later = store.append_group(&record::Group::default());
            let over = matches!(later, Err(StoreError::Poisoned { .. }));
            assert!(over || error.to_string().contains("staged"), "{backend}, cycle {cycle}: {error:?}, {later:?}");
            drop(store);
            // Started again while there is no room: it opens, or says why not.
            match try_patiently(|| Folder::lock(&folder)?.open(backend, None)) {
                Ok(OpenOutcome::Ready(..)) => {}
                Ok(OpenOutcome::Fresh) => panic!("{backend}, cycle {cycle}: it looks new"),
                Ok(OpenOutcome::Quarantined(found)) => panic!("{backend}, cycle {cycle}: {}", found.reason),
                Err(error) => {
                    stopped += 1;
                    assert!(is_full(&error), "{backend}, cycle {cycle}: {error:?}");
                }
            }
            fs::remove_file(&ballast).expect("a file");
            assert_eq!(oracle.judge(&folder, backend), Verdict::Intact, "{backend}, cycle {cycle}");
        }
        println!("full disk, {backend}: {}, 0 missing; {stopped} starts refused for want of room", oracle.counts);
        assert!(matches!(open(&folder, backend), OpenOutcome::Ready(..)));
    }
}

/// A file that takes all room but `room` bytes.
fn fill(ballast: &Path, room: u64) {
    let mut file = File::create(ballast).expect("room for a name");
    let block = vec![0x5a; 64 << 10];
    let full = loop {
        if let Err(error) = file.write_all(&block).and_then(|()| file.sync_data()) {
            break error;
        }
    };
    assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
    let len = file.metadata().expect("a file").len();
    file.set_len(len.saturating_sub(room)).and_then(|()| file.sync_all()).expect("it can be cut");
}

fn write_until_full(disk: &mut dyn RaftDisk, oracle: &mut Oracle) -> StoreError {
    for _ in 0..10_000 {
        let step = oracle.begun().clone();
        match attempt(disk, &step) {
            Ok(()) => oracle.acknowledged(),
            Err(error) => return error,
        }
    }
    panic!("the disk takes everything")
}

fn is_full(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { source, .. } if source.kind() == ErrorKind::StorageFull)
}

//! Power cuts, full disks and failed syncs: what was acknowledged is there, and nothing is written after an error.

use crate::model::{IDENTITY, Model, Step, perform, written};
use proptest::prelude::*;
use record::{Crash, Group, HardState, LogPoint, MemDisk, RaftDisk, SnapshotMeta, StoreError};
use std::error::Error;

proptest! {
    /// Groups are written, some are synced, then the power goes: what is found is a prefix of what was written that
    /// holds at least everything synced.
    #[test]
    fn a_power_cut_loses_only_what_was_not_synced(
        before in prop::collection::vec(any::<u8>(), 0..10),
        after in prop::collection::vec(any::<u8>(), 1..6),
        synced in 0..6usize, size in prop_oneof![Just(10usize), Just(20_000)],
        log_bytes in 0..60_000usize, guard in any::<bool>(),
    ) {
        let (mut disk, mut model) = written(&before, 10);
        let mut states = vec![model.clone()];
        for choice in after {
            let Step::Append(group) = model.step(choice, size) else { continue };
            disk.write(&group).expect("legal");
            model = model.after(&Step::Append(group));
            states.push(model.clone());
        }
        let synced = synced.min(states.len() - 1);
        disk.sync(disk.durable_group() + synced as u64).expect("no fault");
        disk.crash(Crash::Torn { log_bytes, guard });
        let loaded = Model::of(&disk.load().expect("a crash is no damage").expect("exists"));
        prop_assert!(states[synced..].contains(&loaded), "{} synced", synced);
        let again = Model::of(&disk.load().expect("a second start finds the same").expect("exists"));
        prop_assert_eq!(loaded, again);
    }

    /// A crash between saving the leader's snapshot and starting the log anew is finished at the next start.
    #[test]
    fn a_half_installed_snapshot_is_finished(before in prop::collection::vec(any::<u8>(), 0..12), ahead in 0..5u64) {
        let (mut disk, model) = written(&before, 10);
        let hard_state = HardState { term: model.hard_state.term + 1, vote: 0, commit: model.hard_state.commit + 1 + ahead };
        let point = LogPoint { index: hard_state.commit, term: hard_state.term };
        let meta = SnapshotMeta::of(point, vec![9], b"body");
        disk.save_snapshot(&meta, b"body").expect("newer");
        disk.crash(Crash::Lost);
        let loaded = disk.load().expect("a crash is no damage").expect("exists");
        prop_assert_eq!(&Model::of(&loaded), &Model { hard_state, entries: vec![], snapshot: Some(meta) });
        // The log goes on behind the snapshot, also after another start.
        let entries = crate::model::entries(point.index + 1, point.term, 2, 10);
        disk.append_group(&Group { hard_state, restored: None, entries: entries.clone() }).expect("it follows");
        disk.crash(Crash::Lost);
        prop_assert_eq!(disk.load().expect("intact").expect("exists").entries, entries);
    }
}

#[test]
fn a_group_that_only_the_guard_kept_is_written_again() {
    let (mut disk, model) = written(&[5, 37, 1], 10);
    let step = model.step(5, 100);
    let Step::Append(group) = &step else { panic!("an append") };
    disk.write(group).expect("legal");
    disk.crash(Crash::Torn { log_bytes: 0, guard: true });
    assert_eq!(Model::of(&disk.load().expect("carried").expect("exists")), model.clone().after(&step));
}

#[test]
fn a_kept_but_unacknowledged_group_stays() {
    let (mut disk, model) = written(&[5, 37, 1], 10);
    let step = model.step(5, 100);
    let Step::Append(group) = &step else { panic!("an append") };
    disk.write(group).expect("legal");
    disk.crash(Crash::Kept);
    assert_eq!(Model::of(&disk.load().expect("intact").expect("exists")), model.after(&step));
}

#[test]
fn nothing_is_written_after_a_failed_sync() {
    let (mut disk, model) = written(&[5], 10);
    let Step::Append(group) = model.step(5, 10) else { panic!("an append") };
    let number = disk.write(&group).expect("legal");
    disk.fail_sync();
    let first = disk.sync(number).expect_err("the disk fails");
    assert_eq!(first.to_string(), "cannot sync log");
    assert!(first.source().is_some());
    for result in [disk.append_group(&group).map(drop), disk.sync(number), disk.compact(0), disk.close()] {
        assert!(matches!(result, Err(StoreError::Poisoned { .. })), "{result:?}");
    }
    assert!(disk.stats().poisoned);
    disk.crash(Crash::Lost);
    assert_eq!(Model::of(&disk.load().expect("intact").expect("exists")), model);
}

#[test]
fn a_full_disk_stops_the_member_and_loses_nothing() {
    let (mut disk, model) = written(&[5, 37], 10);
    disk.limit_bytes(Some(0));
    let Step::Append(group) = model.step(5, 10) else { panic!("an append") };
    assert!(matches!(disk.append_group(&group), Err(StoreError::Io { .. })));
    assert!(matches!(disk.append_group(&group), Err(StoreError::Poisoned { .. })));
    disk.crash(Crash::Lost);
    disk.limit_bytes(None);
    assert_eq!(Model::of(&disk.load().expect("intact").expect("exists")), model);
    disk.append_group(&group).expect("there is room again");
}

proptest! {
    /// A disk that is full, or that fails, at any step of any history, and a crash after it: nothing more is taken, and
    /// what was acknowledged is there once there is room again.
    #[test]
    fn a_disk_that_fails_at_any_step_loses_nothing_it_acknowledged(
        choices in prop::collection::vec(any::<u8>(), 1..16), at in 0..16usize, full in any::<bool>(),
        size in prop_oneof![Just(10usize), Just(20_000)],
        crash in prop_oneof![
            Just(Crash::Lost), Just(Crash::Kept),
            (0..60_000usize, any::<bool>()).prop_map(|(log_bytes, guard)| Crash::Torn { log_bytes, guard }),
        ],
    ) {
        let at = at % choices.len();
        let (mut disk, before) = written(&choices[..at], size);
        let step = before.step(choices[at], size);
        if full {
            disk.limit_bytes(Some(0));
        } else {
            disk.fail_sync();
        }
        let after = before.clone().after(&step);
        let acknowledged = match attempt(&mut disk, &step) {
            Ok(()) => true,
            Err(error) => {
                let told = format!("{error}: {:?}", error.source());
                let names = told.contains("log") || told.contains("snapshot");
                prop_assert!(names && matches!(error, StoreError::Io { .. }), "{told}");
                let next = before.step(5, 10);
                let later = attempt(&mut disk, &next).expect_err("it takes nothing more");
                prop_assert!(matches!(later, StoreError::Poisoned { .. } | StoreError::Refused(_)), "{later:?}");
                false
            }
        };
        disk.crash(crash);
        disk.limit_bytes(None);
        let found = Model::of(&disk.load().expect("a full or failing disk is no damage").expect("exists"));
        prop_assert!(found == after || (!acknowledged && found == before), "acknowledged: {acknowledged}");
        let next = found.step(5, 10);
        perform(&mut disk, &next);
        prop_assert_eq!(Model::of(&disk.load().expect("intact").expect("exists")), found.after(&next));
    }
}

/// Carries out a step up to the first error.
fn attempt(disk: &mut MemDisk, step: &Step) -> Result<(), StoreError> {
    match step {
        Step::Append(group) => disk.append_group(group).map(drop),
        Step::Snapshot(meta, body) => {
            disk.save_snapshot(meta, body)?;
            disk.compact(meta.index)
        }
        Step::Install(meta, body, group) => {
            disk.save_snapshot(meta, body)?;
            disk.append_group(group).map(drop)
        }
    }
}

#[test]
fn compaction_keeps_what_the_snapshot_does_not_cover() {
    let mut disk = MemDisk::create(IDENTITY);
    disk.load().expect("new");
    let mut model = Model::default();
    for choice in [5, 5, 5, 5, 1, 5] {
        let step = model.step(choice, 100);
        perform(&mut disk, &step);
        model = model.after(&step);
    }
    let before = disk.stats();
    assert!(matches!(disk.compact(1), Err(StoreError::Refused(_))), "no snapshot covers it");
    let step = model.step(2, 10);
    perform(&mut disk, &step);
    model = model.after(&step);
    let after = disk.stats();
    assert!(after.groups_kept < before.groups_kept && after.bytes_kept < before.bytes_kept, "{after:?}");
    assert_eq!(Model::of(&disk.load().expect("intact").expect("exists")), model);
}

#[test]
fn an_older_or_foreign_snapshot_is_refused() {
    let (mut disk, model) = written(&[5, 37, 1, 2], 10);
    let meta = model.snapshot.expect("one was taken");
    let older = SnapshotMeta::of(LogPoint { index: meta.index - 1, term: 1 }, vec![], b"x");
    assert!(matches!(disk.save_snapshot(&older, b"x"), Err(StoreError::Refused(_))));
    let newer = SnapshotMeta::of(LogPoint { index: meta.index + 1, term: 1 }, vec![], b"x");
    assert!(matches!(disk.save_snapshot(&newer, b"y"), Err(StoreError::Refused(_))), "the hash is another");
    assert!(matches!(disk.adopt_snapshot(&newer), Err(StoreError::Refused(_))), "nothing was staged");
    assert_eq!(disk.load_snapshot().expect("intact").expect("exists").0, meta);
}

//! Power cuts, full disks and failed syncs: what was acknowledged is there, and nothing is written after an error.

use crate::model::{IDENTITY, Model, Step, attempt, perform, written};
use proptest::prelude::*;
use record::{Crash, Group, HardState, LogPoint, MemDisk, Part, RaftDisk, SnapshotMeta, StoreError};
use std::error::Error;

fn crash() -> impl Strategy<Value = Crash> {
    let bytes = || prop_oneof![Just(0), 0..9_000usize, Just(usize::MAX)];
    let torn = (prop_oneof![0..600usize, 0..90_000usize], bytes(), bytes());
    prop_oneof![
        1 => Just(Crash::Lost),
        1 => Just(Crash::Kept),
        4 => torn.prop_map(|(log_bytes, first, second)| Crash::Torn { log_bytes, slot_bytes: [first, second] }),
    ]
}

proptest! {
    /// Groups are written, some are synced, then the power goes, and one of the two copies of a slot is lost as well: what
    /// is found is everything synced, and at most the one group that was under way.
    #[test]
    fn a_power_cut_loses_only_what_was_not_synced(
        before in prop::collection::vec(any::<u8>(), 0..10),
        after in prop::collection::vec((any::<u8>(), prop_oneof![4 => Just(10usize), 1 => Just(9_000)]), 1..40),
        synced in 0..40usize, crash in crash(), rot in prop::option::of((0..2usize, 0..16usize, 0..300usize)),
    ) {
        let (mut disk, mut model) = written(&before, 10);
        let mut states = vec![model.clone()];
        for (choice, size) in after {
            let Step::Append(group) = model.step(choice, size) else { continue };
            disk.write(&group).expect("legal");
            model = model.after(&Step::Append(group));
            states.push(model.clone());
        }
        let synced = synced.min(states.len() - 1);
        disk.sync(disk.durable_group() + synced as u64).expect("no fault");
        disk.crash(crash);
        if let Some((copy, slot, byte)) = rot {
            let half = disk.part_bytes(Part::Guard) / 2;
            disk.flip(Part::Guard, copy * half + slot % 8 * (half / 8) + byte, byte as u8);
        }
        let loaded = Model::of(&disk.load().expect("a crash is no damage").expect("exists"));
        prop_assert!(states[synced..].iter().take(2).any(|state| *state == loaded), "{} synced", synced);
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
fn a_group_that_only_the_guard_file_kept_is_written_again() {
    let (_, model) = written(&[5, 37, 1], 10);
    let step = model.step(5, 100);
    let Step::Append(group) = &step else { panic!("an append") };
    for copy in 0..2 {
        let (mut disk, _) = written(&[5, 37, 1], 10);
        disk.write(group).expect("legal");
        let mut slot_bytes = [0; 2];
        slot_bytes[copy] = usize::MAX;
        disk.crash(Crash::Torn { log_bytes: 0, slot_bytes });
        assert_eq!(Model::of(&disk.load().expect("carried").expect("exists")), model.clone().after(&step));
    }
}

/// Nothing is ever synced but what the ring asks for: however far round it is, the log and the ring have it all.
#[test]
fn a_long_run_survives_the_loss_of_everything_unsynced() {
    for steps in 1..40 {
        let (mut disk, mut model) = written(&[], 10);
        for at in 0..steps {
            // Every eleventh group is too big to carry.
            let step = model.step(5, if at % 11 == 10 { 9_000 } else { 50 });
            perform(&mut disk, &step);
            model = model.after(&step);
        }
        let behind = disk.stats().groups_behind;
        assert!(behind <= 8, "the ring has eight slots, the log lacks {behind} groups");
        disk.crash(Crash::Lost);
        assert_eq!(Model::of(&disk.load().expect("carried").expect("exists")), model, "after {steps} groups");
    }
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
    assert_eq!(first.to_string(), "cannot sync guard file");
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
    // The ring takes some more, and they count.
    let (mut model, mut taken) = (model, 0);
    let error = loop {
        let step = model.step(5, 10);
        let Step::Append(group) = &step else { panic!("an append") };
        match disk.append_group(group) {
            Ok(_) => (model, taken) = (model.after(&step), taken + 1),
            Err(error) => break error,
        }
        assert!(taken <= 8, "a full log is noticed after {taken} groups");
    };
    assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
    let Step::Append(group) = model.step(5, 10) else { panic!("an append") };
    assert!(matches!(disk.append_group(&group), Err(StoreError::Poisoned { .. })));
    disk.crash(Crash::Lost);
    disk.limit_bytes(None);
    assert_eq!(Model::of(&disk.load().expect("intact").expect("exists")), model);
    disk.append_group(&group).expect("there is room again");
}

/// What is queued behind a group that found no room was not begun.
#[test]
fn nothing_comes_before_the_group_that_found_no_room() {
    for crash in [Crash::Lost, Crash::Kept] {
        let (mut disk, before) = written(&[5, 37], 10);
        let (big, small) = (before.step(5, 20_000), before.clone().after(&before.step(5, 20_000)).step(5, 10));
        let [Step::Append(big), Step::Append(small)] = [big, small] else { panic!("appends") };
        disk.write(&big).expect("it follows");
        let last = disk.write(&small).expect("it follows");
        disk.limit_bytes(Some(0));
        assert!(matches!(disk.sync(last), Err(StoreError::Io { .. })));
        disk.crash(crash);
        disk.limit_bytes(None);
        assert_eq!(Model::of(&disk.load().expect("a full disk is no damage").expect("exists")), before, "{crash:?}");
    }
}

proptest! {
    /// A disk that is full, or that fails, at any step of any history, and a crash after it: nothing more is taken, and
    /// what was acknowledged is there once there is room again.
    #[test]
    fn a_disk_that_fails_at_any_step_loses_nothing_it_acknowledged(
        choices in prop::collection::vec(any::<u8>(), 1..16), at in 0..16usize, full in any::<bool>(),
        size in prop_oneof![Just(10usize), Just(20_000)],
        crash in crash(),
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
                let names = ["log", "snapshot", "guard file"].iter().any(|name| told.contains(name));
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

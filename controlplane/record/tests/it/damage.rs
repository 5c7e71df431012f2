//! Intact or quarantined, never shorter: one fault at every place of every file.

use crate::model::{IDENTITY, Model, written};
use record::{Damage, Found, Identity, MemDisk, Part, RaftDisk, Scan, StoreError};

/// A history with everything in it: terms, votes, overwritten ends, own and received snapshots, compaction.
const HISTORY: &[u8] = &[5, 37, 1, 8, 5, 1, 2, 69, 5, 131, 5, 5, 1, 16, 37, 1, 2, 7, 72, 13];

/// The fault either changes nothing that is known, or is found. Gives back the damage.
fn intact_or_quarantined(fault: impl FnOnce(&mut MemDisk)) -> Option<Damage> {
    let (mut disk, model) = written(HISTORY, 40);
    fault(&mut disk);
    match disk.load() {
        Ok(Some(loaded)) => {
            assert_eq!(Model::of(&loaded), model, "a fault changed what the member knows");
            None
        }
        Ok(None) => panic!("a fault made the store look as if it had never existed"),
        Err(StoreError::Damaged(damage)) => Some(damage),
        Err(other) => panic!("damage was reported as {other}"),
    }
}

#[test]
fn every_flipped_bit_of_the_log_is_found() {
    let (disk, _) = written(HISTORY, 40);
    let log = disk.copy(Part::Log).expect("exists");
    let Some(Found::Record(last)) = Scan::new(log.clone().into()).last() else { panic!("the log is whole") };
    for byte in 0..log.len() {
        let damage = intact_or_quarantined(|disk| disk.flip(Part::Log, byte, (byte % 8) as u8));
        // The last group is carried by the guard, so a fault in it is undone.
        assert_eq!(damage.is_some(), byte < log.len() - last.len(), "byte {byte}: {damage:?}");
    }
}

#[test]
fn every_flipped_bit_of_the_guard_leaves_the_other_slot() {
    let (disk, _) = written(HISTORY, 40);
    // Every byte of the two heads and of what they carry, then samples of the rest, which holds old bytes.
    let slot = disk.part_bytes(Part::Guard) / 2;
    for byte in (0..600).chain(slot..slot + 600).chain((600..2 * slot).step_by(997)) {
        let damage = intact_or_quarantined(|disk| disk.flip(Part::Guard, byte, (byte % 8) as u8));
        assert_eq!(damage, None, "byte {byte}");
    }
}

#[test]
fn every_flipped_bit_of_the_snapshot_is_found() {
    let (disk, _) = written(HISTORY, 40);
    for byte in 0..disk.part_bytes(Part::Snapshot) {
        let damage = intact_or_quarantined(|disk| disk.flip(Part::Snapshot, byte, (byte % 8) as u8));
        assert!(matches!(damage, Some(Damage::Snapshot { .. })), "byte {byte}: {damage:?}");
    }
}

#[test]
fn no_shortened_file_passes_for_a_whole_one() {
    let (disk, _) = written(HISTORY, 40);
    for part in [Part::Log, Part::Snapshot] {
        for len in 0..disk.part_bytes(part) {
            let damage = intact_or_quarantined(|disk| disk.truncate(part, len));
            assert!(damage.is_some() || part == Part::Log, "{part:?} cut to {len}");
        }
    }
    assert_eq!(intact_or_quarantined(|disk| disk.truncate(Part::Guard, 0)), Some(Damage::GuardUnreadable));
}

#[test]
fn a_missing_file_is_named() {
    let missing = |part| intact_or_quarantined(|disk| disk.remove(part)).expect("it is gone").to_string();
    assert_eq!(missing(Part::Log), "the log is gone, but this store has existed");
    assert_eq!(missing(Part::Guard), "the guard file is gone, but this store has existed");
    assert_eq!(missing(Part::Snapshot), "the snapshot is gone, but this store has existed");
}

#[test]
fn an_empty_log_under_a_guard_is_damage() {
    let damage = intact_or_quarantined(|disk| disk.truncate(Part::Log, 0));
    assert!(matches!(damage, Some(Damage::Empty { groups: 15.. })), "{damage:?}");
}

#[test]
fn a_member_without_any_file_is_new() {
    assert!(MemDisk::absent(IDENTITY).load().expect("nothing is wrong").is_none());
    let (mut disk, _) = written(HISTORY, 40);
    [Part::Log, Part::Guard, Part::Snapshot].into_iter().for_each(|part| disk.remove(part));
    assert!(disk.load().expect("nothing is left to contradict it").is_none());
}

#[test]
fn an_acknowledged_group_may_be_cut_off_only_if_the_guard_carries_it() {
    // The group is too big to carry: it was durable first, so its absence is a loss.
    let (mut disk, model) = written(&[5, 5], 10);
    let step = model.step(133, 40_000);
    crate::model::perform(&mut disk, &step);
    let len = disk.part_bytes(Part::Log);
    disk.truncate(Part::Log, len - 1);
    let damage = disk.load().expect_err("the last group is torn");
    assert!(matches!(damage, StoreError::Damaged(Damage::Record { group: 4, .. })), "{damage:?}");
}

#[test]
fn a_file_of_another_member_is_refused() {
    let other = MemDisk::create(Identity { member: 8, ..IDENTITY });
    for part in [Part::Log, Part::Guard] {
        let foreign = other.copy(part).expect("exists");
        let damage = intact_or_quarantined(|disk| disk.replace(part, foreign));
        assert!(matches!(damage, Some(Damage::OtherOwner { .. })), "{part:?}: {damage:?}");
    }
}

#[test]
fn an_older_copy_of_a_file_is_refused() {
    let (old, _) = written(&HISTORY[..12], 40);
    for part in [Part::Log, Part::Snapshot] {
        let stale = old.copy(part).expect("exists");
        let damage = intact_or_quarantined(|disk| disk.replace(part, stale));
        assert!(damage.is_some(), "an old {part:?} passed for the newest");
    }
}

#[test]
fn a_store_that_grew_after_a_clean_close_is_refused() {
    let (mut disk, model) = written(HISTORY, 40);
    disk.close().expect("in good order");
    assert_eq!(Model::of(&disk.load().expect("intact").expect("exists")), model);
    disk.close().expect("in good order");
    let len = disk.part_bytes(Part::Log);
    disk.truncate(Part::Log, len - 1);
    assert!(disk.load().is_err());
}

//! Intact or quarantined, never shorter: one fault at every place of every file.

use crate::model::{IDENTITY, Model, written};
use record::{Damage, Found, Identity, MemDisk, Part, RaftDisk, Scan, StoreError, decode};

/// A history with everything in it: terms, votes, overwritten ends, own and received snapshots, compaction. Of its last six
/// groups, which the ring carries, the log holds four.
const HISTORY: &[u8] = &[5, 37, 1, 8, 5, 1, 2, 69, 5, 131, 5, 5, 1, 16, 37, 1, 2, 7, 72, 13, 5, 37, 5];

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
    let carried_from = disk.ring().expect("whole").carried_from();
    let (mut carried, mut byte) = (0, 0);
    for found in Scan::new(log.clone().into()) {
        let Found::Record(record) = found else { panic!("the log is whole") };
        let number = decode(&record).expect("whole").number;
        for _ in 0..record.len() {
            let damage = intact_or_quarantined(|disk| disk.flip(Part::Log, byte, (byte % 8) as u8));
            // What the ring carries to its end is written again, so a fault in it is undone.
            assert_eq!(damage.is_some(), number < carried_from, "byte {byte}: {damage:?}");
            byte += 1;
        }
        carried += u64::from(number >= carried_from);
    }
    assert_eq!(byte, log.len());
    assert!(carried > 0, "the ring carries nothing that is in the log as well");
}

#[test]
fn every_flipped_bit_of_one_copy_leaves_the_other() {
    let (disk, _) = written(HISTORY, 40);
    let half = disk.part_bytes(Part::Guard) / 2;
    let slot = half / 8;
    for copy in [0, half] {
        // Every byte of the newest head and the start of what it carries, then samples of the rest.
        let newest = disk.newest_copies().expect("whole");
        for start in (copy..copy + half).step_by(slot) {
            let step = if newest.contains(&start) { 1 } else { 13 };
            for byte in (start..start + 300).step_by(step).chain((start + 300..start + slot).step_by(1997)) {
                let damage = intact_or_quarantined(|disk| disk.flip(Part::Guard, byte, (byte % 8) as u8));
                assert_eq!(damage, None, "byte {byte}");
            }
        }
        let zeroed = intact_or_quarantined(|disk| {
            let mut file = disk.copy(Part::Guard).expect("exists");
            file[copy..copy + half].fill(0);
            disk.replace(Part::Guard, file);
        });
        assert_eq!(zeroed, None, "a whole half");
    }
}

#[test]
fn both_copies_of_a_slot_that_the_log_needs_are_missed() {
    let whole = written(HISTORY, 40).0.ring().expect("whole");
    let newest = whole.newest().group;
    assert!(newest >= whole.carried_from() + 2, "the ring carries {} to {newest}", whole.carried_from());
    // Without the log's end everything hangs on the ring.
    let cut_log = |disk: &mut MemDisk| {
        let log = disk.copy(Part::Log).expect("exists");
        let before = |found: &Found| match found {
            Found::Record(record) => decode(record).expect("whole").number < whole.carried_from(),
            Found::Unreadable(_) => false,
        };
        let len = Scan::new(log.into()).take_while(before).map(|found| match found {
            Found::Record(record) => record.len(),
            Found::Unreadable(_) => 0,
        });
        disk.truncate(Part::Log, len.sum());
    };
    assert_eq!(intact_or_quarantined(cut_log), None, "all of it is carried");
    for group in whole.carried_from()..newest {
        let damage = intact_or_quarantined(|disk| {
            cut_log(disk);
            let half = disk.part_bytes(Part::Guard) / 2;
            let at = (group % 8) as usize * (half / 8);
            [at, half + at].into_iter().for_each(|at| disk.flip(Part::Guard, at + 20, 0));
        });
        assert!(matches!(damage, Some(Damage::GroupLost { .. })), "{group}: {damage:?}");
    }
}

#[test]
fn a_ring_that_carries_another_history_is_refused() {
    let (ours, theirs) = ([5, 5, 5, 5], [5, 5, 37, 5]);
    let ring = |history| written(history, 40).0.copy(Part::Guard).expect("exists");
    let (our_ring, mut mixed) = (ring(&ours), ring(&theirs));
    let (mut disk, _) = written(&ours, 40);
    disk.close().expect("in good order");
    disk.replace(Part::Guard, mixed.clone());
    let seen = disk.load().expect_err("group 4 is another");
    assert!(matches!(seen, StoreError::Damaged(Damage::BelowGuard { .. })), "{seen:?}");

    // The log ends before the two part. Theirs alone continues it; with our last group in it nothing fits together.
    let half = mixed.len() / 2;
    let slot = 5 * half / 8..6 * half / 8;
    let (mut disk, _) = written(&ours, 40);
    disk.replace(Part::Guard, mixed.clone());
    assert!(disk.load().is_ok());
    for start in [slot.start, half + slot.start] {
        mixed[start..start + slot.len()].copy_from_slice(&our_ring[start..start + slot.len()]);
    }
    let (mut disk, _) = written(&ours, 40);
    disk.replace(Part::Guard, mixed);
    let seen = disk.load().expect_err("group 5 does not follow their group 4");
    assert!(matches!(seen, StoreError::Damaged(Damage::GroupLost { group: 5, guard: 5 })), "{seen:?}");
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
    let whole = disk.part_bytes(Part::Guard);
    for len in [0, 1, 4096, whole / 2, whole - 1] {
        let damage = intact_or_quarantined(|disk| disk.truncate(Part::Guard, len));
        assert_eq!(damage, Some(Damage::GuardLength { expected: whole as u64, found: len as u64 }));
    }
    let zeroed = intact_or_quarantined(|disk| disk.replace(Part::Guard, vec![0; whole]));
    assert_eq!(zeroed, Some(Damage::GuardUnreadable));
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
    for part in [Part::Log, Part::Guard, Part::Snapshot] {
        let stale = old.copy(part).expect("exists");
        let damage = intact_or_quarantined(|disk| disk.replace(part, stale));
        assert!(damage.is_some(), "an old {part:?} passed for the newest");
    }
}

/// The ring is half of the store: an older one lacks groups that the log has not got yet.
#[test]
fn a_guard_file_older_than_the_log_is_refused() {
    for groups_later in 0..20 {
        let (mut disk, mut model) = written(&[5, 5], 40);
        let older = disk.copy(Part::Guard).expect("exists");
        for _ in 0..groups_later {
            let step = model.step(5, 40);
            crate::model::perform(&mut disk, &step);
            model = model.after(&step);
        }
        // All of it in the log.
        disk.close().expect("in good order");
        disk.replace(Part::Guard, older);
        let found = disk.load();
        match groups_later {
            0 | 1 => assert_eq!(Model::of(&found.expect("nothing is missing").expect("exists")), model),
            _ => assert!(
                matches!(found, Err(StoreError::Damaged(Damage::GuardOlder { guard: 3, log })) if log == 3 + groups_later),
                "{groups_later}: {found:?}"
            ),
        }
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

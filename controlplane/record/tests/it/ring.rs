//! The guard file by itself: which slot counts, what one lost copy costs, what two cost.

use crate::model::IDENTITY;
use record::{Damage, HardState, Ledger, LogPoint, Ring, Shape, StoreError, Tip};

const SHAPE: Shape = Shape { slots: 4, slot_bytes: 8192 };
const SLOT: usize = SHAPE.slot_bytes;
const HALF: usize = 4 * SLOT;

fn tip(number: u64) -> Tip {
    let hard_state = HardState { term: 3, vote: 7, commit: number };
    Tip { number, crc: number as u32 * 5, last: LogPoint { index: number * 2, term: 2 }, hard_state }
}

fn carried(number: u64) -> Vec<u8> {
    vec![number as u8; 5000]
}

/// A file in which groups 1 to `newest` have had their slot, and its ledger.
fn written(newest: u64) -> (Ledger, Vec<u8>) {
    let (mut ledger, mut file) = (Ledger::new(IDENTITY, SHAPE), vec![0; SHAPE.file_bytes()]);
    for number in 1..=newest {
        write(&mut ledger, &mut file, number, &carried(number));
    }
    (ledger, file)
}

fn write(ledger: &mut Ledger, file: &mut [u8], number: u64, record: &[u8]) {
    let mut slot = Vec::new();
    for at in ledger.slot(&tip(number), false, record, &mut slot).map(|at| at as usize) {
        file[at..at + slot.len()].copy_from_slice(&slot);
    }
}

fn read(file: &[u8]) -> Ring {
    Ring::read(SHAPE, file).expect("something verifies")
}

fn places(group: u64) -> [usize; 2] {
    SHAPE.copies(group).map(|at| at as usize)
}

#[test]
fn a_slot_comes_back_as_it_was_and_the_ring_knows_the_newest_groups() {
    let (_, file) = written(10);
    let ring = read(&file);
    let newest = ring.newest();
    assert_eq!((newest.identity, newest.sequence, newest.group), (IDENTITY, 10, 10));
    assert_eq!((newest.term, newest.vote, newest.group_crc), (3, 7, 50));
    assert_eq!((newest.last, newest.snapshot_index, newest.clean), (LogPoint { index: 20, term: 2 }, 0, false));
    assert_eq!(newest.carried, carried(10));
    assert_eq!((ring.carried_from(), ring.halved()), (7, &[][..]));
    for group in 0..15 {
        assert_eq!(ring.slot(group).map(|slot| slot.group), (7..=10).contains(&group).then_some(group));
    }
    assert_eq!(read(&written(3).1).carried_from(), 1);
}

#[test]
fn one_copy_is_enough_and_two_are_told_from_none() {
    let (_, whole) = written(10);
    for group in 7..=10 {
        let [first, second] = places(group);
        for byte in (0..110).chain([200, 108 + 4999]) {
            for copy in [first, second] {
                let mut file = whole.clone();
                file[copy + byte] ^= 4;
                let ring = read(&file);
                assert_eq!((ring.newest().group, ring.carried_from(), ring.halved()), (10, 7, &[group][..]), "{byte}");
            }
            let mut file = whole.clone();
            [first, second].into_iter().for_each(|copy| file[copy + byte] ^= 4);
            let ring = read(&file);
            assert_eq!(ring.newest().group, if group == 10 { 9 } else { 10 });
            assert_eq!(ring.carried_from(), if group == 10 { 7 } else { group + 1 });
            assert!(ring.slot(group).is_none() && ring.halved().is_empty());
        }
    }
}

#[test]
fn what_is_not_carried_ends_what_the_ring_can_put_back() {
    let (mut ledger, mut file) = written(10);
    write(&mut ledger, &mut file, 11, &[]);
    assert_eq!(read(&file).carried_from(), 12);
    write(&mut ledger, &mut file, 12, &carried(12));
    let ring = read(&file);
    assert_eq!((ring.newest().group, ring.carried_from()), (12, 12));
    assert!(ledger.carries(&vec![0; SHAPE.carry_bytes()]) && !ledger.carries(&vec![0; SHAPE.carry_bytes() + 1]));
}

#[test]
fn a_slot_waits_for_the_group_it_takes_the_place_of() {
    let ledger = Ledger::new(IDENTITY, SHAPE);
    assert_eq!((1..8).map(|group| ledger.must_be_logged(group)).collect::<Vec<_>>(), [0, 0, 0, 0, 1, 2, 3]);
    for group in 5..40 {
        assert_eq!(SHAPE.copies(group), SHAPE.copies(ledger.must_be_logged(group)), "the same place");
        assert!((1..4).all(|later| SHAPE.copies(group) != SHAPE.copies(group + later)));
    }
}

/// Written a second time, half by half: wherever a crash tears it, the slot is there, as it was or as it will be.
#[test]
fn a_slot_that_is_written_again_is_never_away() {
    let (mut ledger, before) = written(10);
    let mut slot = Vec::new();
    let copies = ledger.slot(&tip(10), true, &[], &mut slot).map(|at| at as usize);
    let mut file = before.clone();
    for copy in copies {
        for torn in 0..slot.len() {
            let mut file = file.clone();
            file[copy..copy + torn].copy_from_slice(&slot[..torn]);
            let ring = read(&file);
            assert_eq!(ring.newest().group, 10, "torn after {torn} bytes");
            assert!(ring.newest().clean || ring.newest().carried == carried(10), "torn after {torn} bytes");
        }
        file[copy..copy + slot.len()].copy_from_slice(&slot);
        assert!(read(&file).newest().clean, "the newer copy counts");
    }
    assert_eq!(read(&file).halved(), &[]);
}

#[test]
fn a_slot_that_went_astray_counts_for_nothing() {
    let (_, mut file) = written(10);
    let ([from, _], [to, other]) = (places(10), places(9));
    for to in [to, other] {
        file.copy_within(from..from + SLOT, to);
    }
    let ring = read(&file);
    assert!(ring.slot(9).is_none());
    assert_eq!((ring.newest().group, ring.carried_from()), (10, 10));
}

#[test]
fn another_length_is_damage_and_another_version_is_said() {
    let (_, file) = written(8);
    for len in [0, 5, SLOT, HALF, 2 * HALF - 1] {
        let Err(StoreError::Damaged(damage)) = Ring::read(SHAPE, &file[..len]) else { panic!("{len} bytes passed") };
        assert_eq!(damage, Damage::GuardLength { expected: 2 * HALF as u64, found: len as u64 });
    }
    let longer = [&file[..], &[0; 4096]].concat();
    assert!(matches!(Ring::read(SHAPE, &longer), Err(StoreError::Damaged(Damage::GuardLength { .. }))));
    // Two slots of 64 KiB, written in turn.
    let mut old = vec![0; 128 << 10];
    old[..6].copy_from_slice(b"QGRD\x01\x00");
    let said = Ring::read(SHAPE, &old).expect_err("another version").to_string();
    assert_eq!(
        said,
        "the guard file has format version 1, this program knows version 2; start the version that made it"
    );
    assert!(matches!(Ring::read(SHAPE, &vec![0; 2 * HALF]), Err(StoreError::Damaged(Damage::GuardUnreadable))));
}

#[test]
fn the_layout_of_a_slot_is_frozen() {
    let mut slot = Vec::new();
    let copies = Ledger::new(IDENTITY, SHAPE).slot(&tip(6), true, b"record", &mut slot);
    assert_eq!((copies, slot.len()), ([2 * SLOT as u64, (HALF + 2 * SLOT) as u64], 4096));
    let hex: String = slot[..114].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        concat!(
            "51475244",
            "0200",
            "0100",
            "0100000000000000", // magic, version, flags, sequence
            "636c75737465722d666f722d74657374",
            "0700000000000000",
            "0300000000000000", // owner
            "0300000000000000",
            "0700000000000000", // term, vote
            "0600000000000000",
            "1e000000",
            "06000000", // group, its checksum, carried bytes
            "0c00000000000000",
            "0200000000000000",
            "0000000000000000", // last, snapshot
            "f27bbefe",         // checksum
            "7265636f7264",
        )
    );
}

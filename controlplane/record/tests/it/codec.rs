use crate::model::{IDENTITY, entries, written};
use bytes::Bytes;
use proptest::prelude::*;
use record::{
    Assembler, Entry, Found, Group, HardState, Ledger, LogPoint, PIECE_BYTES, RaftDisk, RecordFault, Refused, Ring,
    Scan, Shape, SnapshotMeta, StoreError, Tip, decode, decode_snapshot, frames, pieces, snapshot_header,
};

const SHAPE: Shape = Shape { slots: 2, slot_bytes: 4096 };

fn record_of(group: &Group) -> (Tip, Bytes) {
    let mut record = Vec::new();
    let tip = Ledger::new(IDENTITY, SHAPE).prepare(group, &mut record).expect("a first group");
    (tip, record.into())
}

fn group() -> impl Strategy<Value = Group> {
    let entry = (any::<u32>(), prop::collection::vec(any::<u8>(), 0..600), prop::collection::vec(any::<u8>(), 0..40));
    (1..u64::MAX, any::<u64>(), prop::collection::vec(entry, 0..30)).prop_map(|(term, vote, parts)| {
        let entry = |(at, (kind, data, context)): (usize, (u32, Vec<u8>, Vec<u8>))| Entry {
            term,
            index: at as u64 + 1,
            kind,
            data: data.into(),
            context: context.into(),
        };
        let commit = parts.len() as u64;
        let entries = parts.into_iter().enumerate().map(entry).collect();
        Group { hard_state: HardState { term, vote, commit }, restored: None, entries }
    })
}

proptest! {
    #[test]
    fn a_group_comes_back_as_it_was(group in group()) {
        let (tip, bytes) = record_of(&group);
        let record = decode(&bytes).expect("just written");
        prop_assert_eq!(record.group, group);
        prop_assert_eq!((record.identity, record.number, record.previous), (IDENTITY, 1, 0));
        prop_assert_eq!((record.crc, record.last), (tip.crc, tip.last));
    }

    #[test]
    fn pieces_fit_and_come_back_together(group in group(), number in any::<u64>()) {
        let (_, bytes) = record_of(&group);
        let mut assembler = Assembler::default();
        for (key, value) in pieces(number, &bytes) {
            prop_assert!(key.len() + value.len() <= PIECE_BYTES);
            prop_assert_eq!(assembler.push(&key, value), None);
        }
        prop_assert_eq!(assembler.take(), Some(Found::Record(bytes)));
        prop_assert_eq!(assembler.take(), None);
    }

    #[test]
    fn no_flipped_bit_in_a_record_passes(group in group(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut bytes = record_of(&group).1.to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(decode(&bytes.into()).is_err());
    }

    #[test]
    fn no_shortened_record_passes(group in group(), at in any::<prop::sample::Index>()) {
        let (_, bytes) = record_of(&group);
        prop_assert!(decode(&bytes.slice(..at.index(bytes.len()))).is_err());
    }

    #[test]
    fn bytes_from_anywhere_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let bytes = Bytes::from(bytes);
        prop_assert!(decode(&bytes).is_err());
        prop_assert!(decode_snapshot(bytes.to_vec()).is_err());
        prop_assert!(Ring::read(SHAPE, &bytes).is_err());
        let mut whole = bytes.to_vec();
        whole.resize(SHAPE.file_bytes(), 0xa5);
        prop_assert!(Ring::read(SHAPE, &whole).is_err());
        prop_assert!(Scan::new(bytes).all(|found| matches!(found, Found::Unreadable(_))));
    }

    #[test]
    fn a_snapshot_comes_back_and_no_flipped_bit_passes(
        len in 0..200_000usize, seed in any::<u8>(), at in any::<prop::sample::Index>(), bit in 0..8u8,
    ) {
        let body: Vec<u8> = (0..len).map(|at| (at / 7) as u8 ^ seed).collect();
        let meta = SnapshotMeta::of(LogPoint { index: 9, term: 2 }, vec![seed; 5], &body);
        let mut file = snapshot_header(&IDENTITY, &meta);
        for (crc, frame) in frames(&body) {
            file.extend_from_slice(&crc);
            file.extend_from_slice(frame);
        }
        prop_assert_eq!(decode_snapshot(file.clone()), Ok((IDENTITY, meta, body)));
        let at = at.index(file.len());
        prop_assert!(decode_snapshot(file[..at].to_vec()).is_err());
        file[at] ^= 1 << bit;
        // Two bytes of the manifest are reserved, but checksummed like the rest.
        prop_assert!(decode_snapshot(file).is_err());
    }

    #[test]
    fn every_legal_history_replays_to_what_it_says(choices in prop::collection::vec(any::<u8>(), 0..60)) {
        let (mut disk, model) = written(&choices, 20);
        let loaded = disk.load().expect("intact").expect("exists");
        prop_assert_eq!(crate::model::Model::of(&loaded), model);
    }

    #[test]
    fn merged_groups_replay_like_single_ones(choices in prop::collection::vec(any::<u8>(), 1..20)) {
        let (_, model) = written(&[5, 5, 1], 20);
        let (mut disk, _) = written(&[5, 5, 1], 20);
        let (mut expected, mut merged) = (model, None::<Group>);
        for choice in choices {
            let crate::model::Step::Append(group) = expected.step(choice, 10) else { continue };
            expected = expected.after(&crate::model::Step::Append(group.clone()));
            match &mut merged {
                Some(merged) => merged.absorb(group),
                None => merged = Some(group),
            }
        }
        if let Some(merged) = merged {
            disk.append_group(&merged).expect("legal");
        }
        let loaded = disk.load().expect("intact").expect("exists");
        prop_assert_eq!(crate::model::Model::of(&loaded), expected);
    }
}

#[test]
fn an_entry_of_more_than_a_mebibyte_is_cut_and_comes_back() {
    let hard_state = HardState { term: 1, vote: 0, commit: 0 };
    let group = Group { hard_state, restored: None, entries: entries(1, 1, 2, 3 << 20) };
    let (_, bytes) = record_of(&group);
    let mut assembler = Assembler::default();
    assert!(pieces(4, &bytes).all(|(key, value)| assembler.push(&key, value).is_none()));
    let Some(Found::Record(back)) = assembler.take() else { panic!("all parts were given") };
    assert_eq!(decode(&back).expect("intact").group, group);
}

#[test]
fn a_missing_or_foreign_piece_is_named() {
    let group = Group {
        hard_state: HardState { term: 1, ..Default::default() },
        restored: None,
        entries: entries(1, 1, 5, 4000),
    };
    let (_, bytes) = record_of(&group);
    let parts: Vec<_> = pieces(4, &bytes).collect();
    let mut assembler = Assembler::default();
    for (key, value) in parts.iter().enumerate().filter(|(at, _)| *at != 2).map(|(_, part)| part) {
        assert_eq!(assembler.push(key, value), None);
    }
    assert_eq!(assembler.take(), Some(Found::Unreadable(RecordFault::Part(2))));
    assert_eq!(assembler.push(b"some key", b""), Some(Found::Unreadable(RecordFault::Key)));
}

#[test]
fn the_layout_of_a_record_is_frozen() {
    let hard_state = HardState { term: 2, vote: 7, commit: 1 };
    let data =
        Entry { term: 2, index: 1, kind: 9, data: Bytes::from_static(b"data"), context: Bytes::from_static(b"id") };
    let (_, bytes) = record_of(&Group { hard_state, restored: None, entries: vec![data] });
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        concat!(
            "51524543",
            "0100",
            "0000",
            "a600000000000000", // magic, version, flags, length
            "636c75737465722d666f722d74657374",
            "0700000000000000",
            "0300000000000000", // owner
            "0100000000000000",
            "00000000",
            "01000000", // number, previous, entries
            "0200000000000000",
            "0700000000000000",
            "0100000000000000", // HardState
            "0100000000000000",
            "0200000000000000",
            "0000000000000000",
            "0000000000000000", // last, restored
            "c80345db",         // header
            "0200000000000000",
            "0100000000000000",
            "09000000",
            "02000000",
            "04000000",
            "8bb71030",
            "6964",
            "64617461",
            "95f8ba83",
        )
    );
}

#[test]
fn groups_that_raft_could_not_write_are_refused_and_change_nothing() {
    let (mut disk, model) = written(&[5, 37, 1, 5], 10);
    let hard_state = model.hard_state;
    let last = model.entries.last().expect("entries were written").index;
    let of = |hard_state, entries| Group { hard_state, restored: None, entries };
    let restored = Some(LogPoint { index: last + 5, term: 1 });
    let cases = [
        (of(HardState { term: 0, ..hard_state }, vec![]), "TermBack"),
        (of(HardState { commit: 0, ..hard_state }, vec![]), "CommitBack"),
        (of(HardState { commit: last + 1, ..hard_state }, vec![]), "CommitBeyondLog"),
        (of(hard_state, entries(last + 2, 1, 1, 1)), "Gap"),
        (of(hard_state, entries(0, 1, 1, 1)), "Gap"),
        (of(hard_state, [entries(last + 1, 1, 1, 1), entries(last + 3, 1, 1, 1)].concat()), "Gap"),
        (of(hard_state, entries(hard_state.commit, 1, 1, 1)), "CommittedReplaced"),
        (of(hard_state, entries(last + 1, 2, 1, 1)), "EntryTerm"),
        (of(hard_state, entries(last + 1, 0, 1, 1)), "EntryTerm"),
        (Group { hard_state, restored, entries: vec![] }, "SnapshotAbsent"),
        (Group { hard_state, restored: Some(LogPoint::default()), entries: vec![] }, "RestoredBelowCommit"),
    ];
    for (group, expected) in cases {
        let Err(StoreError::Refused(why)) = disk.append_group(&group) else { panic!("{expected} was let through") };
        assert!(format!("{why:?}").starts_with(expected), "{why:?} instead of {expected}");
    }
    let vote = |vote| of(HardState { vote, ..hard_state }, vec![]);
    disk.append_group(&vote(2)).expect("a first vote");
    let again = disk.append_group(&vote(3));
    assert!(matches!(again, Err(StoreError::Refused(Refused::VoteChanged { old: 2, new: 3, .. }))), "{again:?}");
    let loaded = disk.load().expect("intact").expect("exists");
    assert_eq!((loaded.entries, loaded.hard_state), (model.entries, HardState { vote: 2, ..hard_state }));
}

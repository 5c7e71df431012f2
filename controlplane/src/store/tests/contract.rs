//! What every `RaftDisk` does alike, whatever is below it.

use super::model::{IDENTITY, Model, entries, perform};
use super::{BACKENDS, Backend, HISTORY, create, ready};
use record::{Crash, Group, HardState, LogPoint, MemDisk, RaftDisk, Refused, SnapshotMeta, StoreError};
use tempfile::TempDir;

/// A disk that can be closed and opened again.
enum Rig {
    Mem(Box<MemDisk>),
    Folder(TempDir, Backend, Option<Box<dyn RaftDisk>>),
}

impl Rig {
    fn all() -> Vec<Rig> {
        let mut memory = MemDisk::create(IDENTITY);
        memory.load().expect("new");
        let folders = BACKENDS.map(|backend| {
            let folder = TempDir::new().expect("a folder");
            let disk = create(folder.path(), backend);
            Rig::Folder(folder, backend, Some(disk))
        });
        [Rig::Mem(Box::new(memory))].into_iter().chain(folders).collect()
    }

    fn disk(&mut self) -> &mut dyn RaftDisk {
        match self {
            Rig::Mem(disk) => disk.as_mut(),
            Rig::Folder(_, _, disk) => disk.as_mut().expect("open").as_mut(),
        }
    }

    /// What the member knows after a start that follows a killed process.
    fn restart(&mut self) -> (Model, u64) {
        let loaded = match self {
            Rig::Mem(disk) => {
                disk.crash(Crash::Lost);
                disk.load().expect("intact").expect("exists")
            }
            Rig::Folder(folder, backend, disk) => {
                drop(disk.take());
                let (opened, loaded) = ready(folder.path(), *backend);
                *disk = Some(opened);
                loaded
            }
        };
        assert_eq!(loaded.identity, IDENTITY);
        (Model::of(&loaded), loaded.next_group)
    }

    fn name(&self) -> String {
        match self {
            Rig::Mem(_) => "memory".to_owned(),
            Rig::Folder(_, backend, _) => backend.to_string(),
        }
    }
}

#[test]
fn a_new_store_knows_nothing_and_stays() {
    for mut rig in Rig::all() {
        let (model, next_group) = rig.restart();
        assert_eq!((model, next_group), (Model::default(), 2), "{}", rig.name());
        assert!(rig.disk().load_snapshot().expect("intact").is_none());
    }
}

#[test]
fn everything_acknowledged_is_there_after_every_step() {
    for mut rig in Rig::all() {
        let mut model = Model::default();
        for &choice in HISTORY {
            let step = model.step(choice, 200);
            perform(rig.disk(), &step);
            model = model.after(&step);
            assert_eq!(rig.restart().0, model, "{} after {step:?}", rig.name());
        }
        let snapshot = rig.disk().load_snapshot().expect("intact");
        assert_eq!(snapshot.map(|(meta, _)| meta), model.snapshot, "{}", rig.name());
    }
}

#[test]
fn all_engines_number_and_count_alike() {
    let mut seen = Vec::new();
    for mut rig in Rig::all() {
        super::write(rig.disk(), HISTORY, 50);
        let mut stats = rig.disk().stats();
        (stats.append_time, stats.append_time_last, stats.append_time_max) = Default::default();
        // When the log is fed is each engine's own business.
        (stats.groups_behind, stats.waits_for_log) = Default::default();
        seen.push((stats, rig.restart().1));
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:#?}");
}

#[test]
fn an_entry_of_three_mebibytes_and_a_group_of_thousands_come_back() {
    for mut rig in Rig::all() {
        let hard_state = HardState { term: 1, vote: 7, commit: 0 };
        let mut group = Group { hard_state, restored: None, entries: entries(1, 1, 1, 3 << 20) };
        group.entries.extend(entries(2, 1, 5000, 256));
        rig.disk().append_group(&group).expect("legal");
        let expected = Model { hard_state, entries: group.entries, snapshot: None };
        assert_eq!(rig.restart().0, expected, "{}", rig.name());
    }
}

#[test]
fn a_refused_group_changes_nothing_and_the_next_one_is_taken() {
    for mut rig in Rig::all() {
        let mut model = super::write(rig.disk(), &[5, 5], 10);
        let gap = Group { hard_state: model.hard_state, restored: None, entries: entries(90, 1, 1, 1) };
        let refused = rig.disk().append_group(&gap);
        assert!(matches!(refused, Err(StoreError::Refused(Refused::Gap { found: 90, .. }))), "{refused:?}");
        let step = model.step(5, 10);
        perform(rig.disk(), &step);
        model = model.after(&step);
        assert_eq!(rig.restart().0, model, "{}", rig.name());
    }
}

#[test]
fn a_half_installed_snapshot_is_finished_at_the_next_start() {
    for mut rig in Rig::all() {
        super::write(rig.disk(), &[5, 69, 5], 10);
        let meta = SnapshotMeta::of(LogPoint { index: 500, term: 9 }, vec![4], b"from the leader");
        rig.disk().save_snapshot(&meta, b"from the leader").expect("newer");
        let hard_state = HardState { term: 9, vote: 0, commit: 500 };
        let expected = Model { hard_state, entries: vec![], snapshot: Some(meta) };
        let (model, next_group) = rig.restart();
        assert_eq!(model, expected, "{}", rig.name());
        let next = Group { hard_state, restored: None, entries: entries(501, 9, 1, 10) };
        assert_eq!(rig.disk().append_group(&next).expect("it follows"), next_group);
    }
}

#[test]
fn a_staged_snapshot_is_nobodys_until_it_is_adopted() {
    for mut rig in Rig::all() {
        super::write(rig.disk(), &[5, 1], 10);
        let meta = SnapshotMeta::of(LogPoint { index: 1, term: 1 }, vec![4], b"body");
        let elsewhere = rig.disk().snapshots();
        elsewhere.stage(&meta, b"body").expect("it fits");
        assert!(elsewhere.read().expect("intact").is_none());
        assert!(rig.restart().0.snapshot.is_none(), "{}", rig.name());
        let late = rig.disk().adopt_snapshot(&meta);
        assert!(matches!(late, Err(StoreError::Refused(Refused::NotStaged { index: 1 }))), "{late:?}");
        elsewhere.stage(&meta, b"body").expect("it fits");
        rig.disk().adopt_snapshot(&meta).expect("staged");
        assert_eq!(elsewhere.read().expect("intact"), Some((meta.clone(), b"body".to_vec())));
        assert_eq!(rig.restart().0.snapshot, Some(meta), "{}", rig.name());
    }
}

#[test]
fn a_closed_disk_takes_nothing_and_opens_again() {
    for mut rig in Rig::all() {
        let model = super::write(rig.disk(), HISTORY, 10);
        rig.disk().close().expect("in good order");
        let late = rig.disk().append_group(&Group::default());
        assert!(matches!(late, Err(StoreError::NotLoaded)), "{late:?}");
        assert_eq!(rig.restart().0, model, "{}", rig.name());
    }
}

#[test]
fn compaction_frees_space_and_keeps_the_rest() {
    for mut rig in Rig::all() {
        let mut model = Model::default();
        for round in 0..40 {
            for choice in [229, 229, 1, 5, 2] {
                let step = model.step(choice, 20_000);
                perform(rig.disk(), &step);
                model = model.after(&step);
            }
            let kept = rig.disk().stats().bytes_kept;
            assert!(kept < 1_000_000, "{}: {kept} bytes kept after round {round}", rig.name());
        }
        assert_eq!(rig.restart().0, model, "{}", rig.name());
    }
}

//! Who may open a data folder, and what becomes of a damaged one.

use super::model::{IDENTITY, Model};
use super::{BACKENDS, Backend, Folder, OpenOutcome, create, open, patiently, ready, write};
use crate::store::retire;
use record::{Identity, StoreError};
use std::fs;
use tempfile::TempDir;

#[test]
fn an_empty_folder_is_fresh_and_is_made_if_missing() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("a/b");
    assert!(matches!(open(&path, Backend::Sled), OpenOutcome::Fresh));
    assert!(path.is_dir());
}

#[test]
fn a_folder_is_held_until_the_disk_is_gone() {
    for backend in BACKENDS {
        let folder = TempDir::new().expect("a folder");
        let disk = create(folder.path(), backend);
        let Err(locked) = Folder::lock(folder.path()) else { panic!("it was given away twice") };
        assert!(matches!(locked, StoreError::Locked { .. }));
        assert!(locked.to_string().ends_with("stop that one or give this member its own folder"), "{locked}");
        drop(disk);
        ready(folder.path(), backend);
    }
}

#[test]
fn another_cluster_or_another_backend_is_an_error_and_no_damage() {
    for (backend, other) in [(Backend::Sled, Backend::File), (Backend::File, Backend::Sled)] {
        let folder = TempDir::new().expect("a folder");
        drop(create(folder.path(), backend));
        let locked = patiently(|| Folder::lock(folder.path()));
        let foreign = locked.open(backend, Some([0xab; 16])).err().expect("another cluster").to_string();
        assert!(foreign.contains("belongs to cluster 636c7573"), "{foreign}");
        assert!(foreign.contains("was told abababab"), "{foreign}");
        let engine = locked.open(other, None).err().expect("another engine").to_string();
        assert!(engine.contains(&format!("made by the {backend} store, the configuration says {other}")), "{engine}");
        drop(locked);
        ready(folder.path(), backend);
    }
}

#[test]
fn a_store_is_not_made_over_another() {
    let folder = TempDir::new().expect("a folder");
    drop(create(folder.path(), Backend::File));
    let again = patiently(|| Folder::lock(folder.path())).create(Backend::File, IDENTITY);
    assert!(matches!(again.err(), Some(StoreError::Exists { .. })));
}

#[test]
fn an_interrupted_creation_is_fresh_again() {
    for backend in BACKENDS {
        let folder = TempDir::new().expect("a folder");
        drop(create(folder.path(), backend));
        fs::write(folder.path().join("creating"), b"").expect("a file");
        assert!(matches!(open(folder.path(), backend), OpenOutcome::Fresh));
        let mut disk = create(folder.path(), backend);
        let model = write(disk.as_mut(), &[5, 1], 10);
        drop(disk);
        assert_eq!(Model::of(&ready(folder.path(), backend).1), model);
    }
}

#[test]
fn a_quarantined_store_stays_so_until_it_is_retired() {
    for backend in BACKENDS {
        let folder = TempDir::new().expect("a folder");
        write(create(folder.path(), backend).as_mut(), &[5, 1], 10);
        let early = patiently(|| Folder::lock(folder.path())).retire();
        assert!(matches!(early, Err(StoreError::NotQuarantined { .. })));
        let guard = folder.path().join("member/guard");
        let whole = fs::read(&guard).expect("a file");
        fs::remove_file(&guard).expect("a file");
        let OpenOutcome::Quarantined(first) = open(folder.path(), backend) else { panic!("the guard is gone") };
        assert_eq!(first.reason, "the guard file is gone, but this store has existed");
        assert_eq!(first.identity, Some(IDENTITY));

        // Even if the fault goes away, the answer stays.
        fs::write(&guard, whole).expect("a file");
        let OpenOutcome::Quarantined(second) = open(folder.path(), backend) else { panic!("it was forgotten") };
        assert_eq!(first, second);
        let anew = patiently(|| Folder::lock(folder.path())).create(backend, IDENTITY);
        assert!(matches!(anew.err(), Some(StoreError::Exists { .. })));

        let retired = patiently(|| retire(folder.path()));
        assert_eq!(retired, folder.path().join("retired-1"));
        assert!(fs::metadata(retired.join("identity")).expect("kept").permissions().readonly());
        assert!(fs::read_to_string(retired.join("quarantined")).expect("kept").contains("guard file is gone"));
        assert!(matches!(open(folder.path(), backend), OpenOutcome::Fresh));
        let fresh = Identity { member: 8, ..IDENTITY };
        let made = patiently(|| Folder::lock(folder.path())).create(backend, fresh).expect("fresh");
        assert_eq!(made.1.identity, fresh);
    }
}

//! A store that takes the place of another: whatever ends in between, one of the two stands, whole.

use std::fs;
use std::path::Path;

use record::{Identity, StoreError};
use tempfile::TempDir;

use super::model::IDENTITY;
use super::{BACKENDS, Backend, Folder, OpenOutcome, create, patiently, write};

const HEIR: Identity = Identity { incarnation: IDENTITY.incarnation + 1, ..IDENTITY };

/// A store with a history, and its heir made whole in `next/`.
fn both(path: &Path, backend: Backend) -> Folder {
    let mut disk = create(path, backend);
    write(&mut *disk, &[5, 37, 1], 40);
    disk.close().expect("closed");
    drop(disk);
    fs::write(path.join("member.toml"), "before").expect("papers");
    let folder = patiently(|| Folder::lock(path));
    let next = folder.next().expect("a folder");
    let (mut disk, _) = next.create(backend, HEIR).expect("made");
    disk.close().expect("closed");
    drop(disk);
    fs::write(folder.next_path().join("member.toml"), "after").expect("papers");
    folder
}

/// Who owns the store that the next start finds, and what its papers say.
fn found(path: &Path, backend: Backend) -> (u64, String) {
    let folder = patiently(|| Folder::lock(path));
    let OpenOutcome::Ready(_, loaded) = folder.open(backend, Some(IDENTITY.cluster)).expect("opened") else {
        panic!("nothing whole stands in {}", path.display())
    };
    for rest in ["next", "succeeding"] {
        assert!(!path.join(rest).exists(), "{rest} is left");
    }
    (loaded.identity.incarnation, fs::read_to_string(path.join("member.toml")).expect("papers"))
}

#[test]
fn an_heir_that_was_never_called_goes_and_the_store_stays() {
    for backend in BACKENDS {
        let temporary = TempDir::new().expect("a folder");
        drop(both(temporary.path(), backend));
        assert_eq!(found(temporary.path(), backend), (IDENTITY.incarnation, "before".to_owned()));
    }
}

/// The steps behind the moment, each done or not when the power goes.
#[test]
fn an_heir_that_was_called_stands_wherever_it_was_cut_off() {
    let renames =
        [("member", "aside"), ("next/member", "member"), ("next/owner", "owner"), ("next/member.toml", "member.toml")];
    for backend in BACKENDS {
        for done in 0..=renames.len() {
            let temporary = TempDir::new().expect("a folder");
            let path = temporary.path();
            let folder = both(path, backend);
            folder.begin_succession("aside").expect("begun");
            for (from, to) in &renames[..done] {
                fs::rename(path.join(from), path.join(to)).expect("renamed");
            }
            drop(folder);
            assert_eq!(found(path, backend), (HEIR.incarnation, "after".to_owned()), "cut off after {done} steps");
            assert!(path.join("aside/identity").exists(), "the store before is kept");
        }
    }
}

#[test]
fn the_store_before_is_never_opened_again() {
    let temporary = TempDir::new().expect("a folder");
    let path = temporary.path();
    let folder = both(path, Backend::File);
    let aside = folder.succeed("generation-1", "its cluster went on").expect("succeeded");
    drop(folder);
    let put_back = TempDir::new().expect("a folder");
    super::copy(&aside, &put_back.path().join("member"));
    match patiently(|| Folder::lock(put_back.path())).open(Backend::File, None).expect("opened") {
        OpenOutcome::Quarantined(quarantine) => assert_eq!(quarantine.reason, "its cluster went on"),
        OpenOutcome::Fresh | OpenOutcome::Ready(..) => panic!("it is used again"),
    }
}

#[test]
fn an_heir_that_is_not_whole_is_not_called() {
    let temporary = TempDir::new().expect("a folder");
    let folder = both(temporary.path(), Backend::File);
    fs::remove_file(folder.next_path().join("member.toml")).expect("removed");
    assert!(matches!(folder.begin_succession("aside"), Err(StoreError::Io { .. })));
    drop(folder);
    assert_eq!(found(temporary.path(), Backend::File).0, IDENTITY.incarnation);
}

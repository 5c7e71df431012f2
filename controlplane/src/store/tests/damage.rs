//! Intact or quarantined, never shorter: one fault at a time, in every file of a data folder.

use super::model::Model;
use super::{BACKENDS, Backend, HISTORY, OpenOutcome, copy, create, files, open, ready, write};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A store to be damaged, again and again, and what is in it.
struct Specimen {
    folder: TempDir,
    backend: Backend,
    model: Model,
}

impl Specimen {
    fn new(backend: Backend, clean: bool) -> Self {
        let folder = TempDir::new().expect("a folder");
        let mut disk = create(folder.path(), backend);
        let model = write(disk.as_mut(), HISTORY, 300);
        if clean {
            disk.close().expect("in good order");
        }
        drop(disk);
        Self { folder, backend, model }
    }

    /// Does `fault` to a copy of the file `part`. `true`: the store is quarantined; `false`: it is whole.
    fn quarantined(&self, part: &Path, fault: impl FnOnce(&mut Vec<u8>)) -> bool {
        let folder = TempDir::new().expect("a folder");
        copy(self.folder.path(), folder.path());
        let path = folder.path().join(part);
        let mut bytes = fs::read(&path).expect("a file");
        fault(&mut bytes);
        fs::write(&path, bytes).expect("a file");
        self.judge(folder.path(), part)
    }

    fn judge(&self, folder: &Path, part: &Path) -> bool {
        match open(folder, self.backend) {
            OpenOutcome::Quarantined(_) => {
                let again = open(folder, self.backend);
                assert!(matches!(again, OpenOutcome::Quarantined(_)), "the mark was forgotten");
                true
            }
            OpenOutcome::Ready(_, loaded) => {
                assert_eq!(Model::of(&loaded), self.model, "a fault in {} went unseen", part.display());
                false
            }
            OpenOutcome::Fresh => panic!("a fault in {} made the store look new", part.display()),
        }
    }

    /// The files of the store, relative to the folder, with their lengths.
    fn parts(&self) -> Vec<(std::path::PathBuf, usize)> {
        let relative = |path: std::path::PathBuf| {
            let len = fs::metadata(&path).expect("a file").len() as usize;
            (path.strip_prefix(self.folder.path()).expect("below it").to_owned(), len)
        };
        files(&self.folder.path().join("member")).into_iter().map(relative).collect()
    }
}

/// `count` places in `len` bytes: the first ones, the last ones, and some between, not at round numbers.
fn places(len: usize, count: usize) -> impl Iterator<Item = usize> {
    let between = (0..count).map(move |at| (at * 2_654_435_761) % len.max(1));
    [0, len.saturating_sub(1)].into_iter().chain(between).filter(move |at| *at < len)
}

/// sled opens slowly in a debug build; its own files get fewer hits by default.
fn trials(backend: Backend) -> usize {
    let scale = std::env::var("QUORATE_DAMAGE_TRIALS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    scale * if backend == Backend::Sled { 8 } else { 60 }
}

#[test]
fn a_flipped_bit_anywhere_is_harmless_or_found() {
    for backend in BACKENDS {
        for clean in [true, false] {
            let specimen = Specimen::new(backend, clean);
            let mut found = 0;
            for (part, len) in specimen.parts() {
                for at in places(len, trials(backend)) {
                    found += u32::from(specimen.quarantined(&part, |bytes| bytes[at] ^= 1 << (at % 8)));
                }
            }
            assert!(found > 10, "only {found} faults were found in {backend}");
        }
    }
}

#[test]
fn a_zeroed_page_anywhere_is_harmless_or_found() {
    for backend in BACKENDS {
        let specimen = Specimen::new(backend, false);
        for (part, len) in specimen.parts() {
            for at in places(len, trials(backend) / 4) {
                let page = at / 4096 * 4096..(at / 4096 * 4096 + 4096).min(len);
                specimen.quarantined(&part, |bytes| bytes[page].fill(0));
            }
        }
    }
}

#[test]
fn a_shortened_file_is_harmless_or_found() {
    for backend in BACKENDS {
        let specimen = Specimen::new(backend, true);
        for (part, len) in specimen.parts() {
            for keep in [0, len / 4, len / 2, len * 3 / 4, len.saturating_sub(4096), len.saturating_sub(1)] {
                specimen.quarantined(&part, |bytes| bytes.truncate(keep));
            }
        }
    }
}

#[test]
fn an_empty_or_missing_log_is_found() {
    for backend in BACKENDS {
        let specimen = Specimen::new(backend, false);
        for (part, _) in specimen.parts() {
            let name = part.file_name().expect("a name").to_string_lossy();
            if name != "db" && !name.ends_with(".log") {
                continue;
            }
            assert!(specimen.quarantined(&part, Vec::clear), "{} was emptied", part.display());
            let folder = TempDir::new().expect("a folder");
            copy(specimen.folder.path(), folder.path());
            fs::remove_file(folder.path().join(&part)).expect("a file");
            assert!(specimen.judge(folder.path(), &part), "{} is missing", part.display());
        }
    }
}

#[test]
fn any_missing_file_is_harmless_or_found() {
    for backend in BACKENDS {
        let specimen = Specimen::new(backend, false);
        for (part, _) in specimen.parts() {
            let folder = TempDir::new().expect("a folder");
            copy(specimen.folder.path(), folder.path());
            fs::remove_file(folder.path().join(&part)).expect("a file");
            let quarantined = specimen.judge(folder.path(), &part);
            let ours = !part.starts_with("member/log");
            assert!(quarantined || !ours, "{} is missing and nobody noticed", part.display());
        }
    }
}

#[test]
fn an_older_copy_of_the_log_is_found() {
    for backend in BACKENDS {
        let folder = TempDir::new().expect("a folder");
        let mut disk = create(folder.path(), backend);
        let model = write(disk.as_mut(), &[5, 5, 1], 100);
        drop(disk);
        let backup = TempDir::new().expect("a folder");
        copy(&folder.path().join("member/log"), backup.path());
        let (mut disk, _) = ready(folder.path(), backend);
        for _ in 0..2 {
            super::perform(disk.as_mut(), &model.step(1, 100));
        }
        drop(disk);
        fs::remove_dir_all(folder.path().join("member/log")).expect("a folder");
        copy(backup.path(), &folder.path().join("member/log"));
        assert!(matches!(open(folder.path(), backend), OpenOutcome::Quarantined(_)), "{backend}");
    }
}

#[test]
fn an_unfinished_write_behind_the_guard_is_dropped() {
    let specimen = Specimen::new(Backend::File, false);
    for (part, _) in specimen.parts().into_iter().filter(|(part, _)| part.extension().is_some_and(|s| s == "log")) {
        for garbage in [&b"QREC"[..], &[0; 4096], &[0xff; 70_000]] {
            assert!(
                !specimen.quarantined(&part, |bytes| bytes.extend_from_slice(garbage)),
                "it was never acknowledged"
            );
        }
    }
    // After a clean close there is no unfinished write.
    let specimen = Specimen::new(Backend::File, true);
    for (part, _) in specimen.parts().into_iter().filter(|(part, _)| part.extension().is_some_and(|s| s == "log")) {
        assert!(specimen.quarantined(&part, |bytes| bytes.extend_from_slice(b"QREC")), "the store was closed");
    }
}

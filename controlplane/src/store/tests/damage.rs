//! Intact or quarantined, never shorter and never other content: one fault at a time, in every file of a data folder and
//! every class of its bytes. What is quarantined says which part it is about, stays so, and keeps the evidence; what is
//! intact can be written on. Cases: more with `QUORATE_STORE_CYCLES`.

use super::anatomy::Part;
use super::model::{Model, perform};
use super::oracle::{Oracle, Verdict, mix};
use super::{BACKENDS, Backend, HISTORY, copy, create, cycles, files, open, ready, scratch, write};
use crate::store::OpenOutcome;
use crate::store::guard::SHAPE;
use record::{Found, Ring, Scan, decode};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const PAGE: usize = 4096;

/// What happens to a file.
#[derive(Debug, Clone)]
enum Fault {
    Flip {
        at: usize,
    },
    Zero(Range<usize>),
    /// A page of somebody else.
    Foreign(Range<usize>),
    Truncate(usize),
    Grown(Vec<u8>),
    Missing,
}

impl Fault {
    /// Whether there is a difference at all.
    fn strike(&self, path: &Path) -> bool {
        let before = fs::read(path).expect("a file");
        let mut bytes = before.clone();
        match self {
            Fault::Flip { at } => bytes[*at] ^= 1 << (at % 8),
            Fault::Zero(range) => bytes[range.clone()].fill(0),
            Fault::Foreign(range) => bytes[range.clone()].fill(0xa5),
            Fault::Truncate(keep) => bytes.truncate(*keep),
            Fault::Grown(more) => bytes.extend_from_slice(more),
            Fault::Missing => {
                fs::remove_file(path).expect("a file");
                return true;
            }
        }
        fs::write(path, &bytes).expect("a file");
        bytes != before
    }

    /// The first byte it touches.
    fn from(&self, len: usize) -> usize {
        match self {
            Fault::Flip { at } | Fault::Truncate(at) => *at,
            Fault::Zero(range) | Fault::Foreign(range) => range.start,
            Fault::Grown(_) => len,
            Fault::Missing => 0,
        }
    }
}

/// A store to be damaged, again and again, and what is in it.
struct Specimen {
    folder: TempDir,
    backend: Backend,
    clean: bool,
    model: Model,
    next_group: u64,
    /// The segment written to.
    newest: PathBuf,
    /// The first group that the guard file can put back, with all that follow.
    carried_from: u64,
}

/// How many cases ended how.
#[derive(Debug, Default)]
struct Tally {
    intact: u32,
    quarantined: u32,
    classes: BTreeSet<&'static str>,
}

impl Specimen {
    /// A history with everything in it, over several segments; of the last groups, which the ring carries, some are in the
    /// log and some are not.
    fn new(backend: Backend, clean: bool) -> Self {
        let folder = scratch();
        let mut disk = create(folder.path(), backend);
        let history = [HISTORY, &[229, 1, 229, 229, 37]].concat();
        let mut model = write(disk.as_mut(), &history, 6_000);
        for choice in [5, 37, 1, 5, 5, 37, 5] {
            let step = model.step(choice, 300);
            perform(disk.as_mut(), &step);
            model = model.after(&step);
            while disk.stats().groups_behind >= SHAPE.feed_at() as u64 {
                std::thread::yield_now();
            }
        }
        let next_group = 2 + disk.stats().groups_appended;
        if clean {
            disk.close().expect("in good order");
        }
        drop(disk);
        let newest = files(&folder.path().join("member/log")).pop().expect("a log");
        let newest = newest.strip_prefix(folder.path()).expect("below it").to_owned();
        let ring = fs::read(folder.path().join("member/guard")).expect("a file");
        let carried_from = Ring::read(SHAPE, &ring).expect("whole").carried_from();
        Self { folder, backend, clean, model, next_group, newest, carried_from }
    }

    /// Numbers and bytes of the records in a segment.
    fn records(&self, segment: &Path) -> Vec<(u64, usize)> {
        let bytes = fs::read(self.folder.path().join(segment)).expect("a file");
        let number = |found| match found {
            Found::Record(record) => (decode(&record).expect("whole").number, record.len()),
            Found::Unreadable(_) => panic!("{} is whole", segment.display()),
        };
        Scan::new(bytes.into()).map(number).collect()
    }

    /// How many bytes of a segment stand nowhere else.
    fn only_here(&self, segment: &Path) -> usize {
        let records = self.records(segment).into_iter();
        records.filter(|(number, _)| *number < self.carried_from).map(|(_, len)| len).sum()
    }

    /// Whether something stands behind a segment that stands nowhere else.
    fn goes_on(&self, segment: &Path) -> bool {
        self.records(segment).last().is_some_and(|(number, _)| number + 1 < self.carried_from)
    }

    /// Every file below the data folder, by its path in it.
    fn parts(&self) -> Vec<(PathBuf, Part, Vec<u8>)> {
        let relative = |path: PathBuf| {
            let below = path.strip_prefix(self.folder.path()).expect("below it").to_owned();
            (below.clone(), Part::of(&below), fs::read(path).expect("a file"))
        };
        files(self.folder.path()).into_iter().map(relative).collect()
    }

    fn copy(&self) -> TempDir {
        let folder = scratch();
        copy(self.folder.path(), folder.path());
        folder
    }

    /// Does `fault` to a copy; `None` if it changed nothing.
    fn case(&self, path: &Path, part: Part, fault: &Fault) -> Option<Verdict> {
        let folder = self.copy();
        let what = format!("{fault:?} of {} ({})", path.display(), self.backend);
        fault.strike(&folder.path().join(path)).then(|| self.judge(folder.path(), part, &what))
    }

    fn judge(&self, folder: &Path, part: Part, what: &str) -> Verdict {
        let evidence = self.evidence(folder);
        let verdict = Oracle::knowing(&self.model, self.next_group - 1).judge(folder, self.backend);
        match &verdict {
            Verdict::Wrong(why) => panic!("{what} went unseen: {why}"),
            Verdict::Quarantined(reason) => {
                assert!(part.names().iter().any(|word| reason.contains(word)), "{what} is told as {reason:?}");
                let OpenOutcome::Quarantined(again) = open(folder, self.backend) else { panic!("{what}: forgotten") };
                assert_eq!(again.reason, *reason, "{what}");
                assert!(evidence == self.evidence(folder), "{what}: the evidence was changed");
            }
            Verdict::Intact => {
                let (mut disk, loaded) = ready(folder, self.backend);
                let model = Model::of(&loaded);
                let step = model.step(5, 2_000);
                perform(disk.as_mut(), &step);
                drop(disk);
                assert_eq!(Model::of(&ready(folder, self.backend).1), model.after(&step), "{what}: written on");
            }
        }
        verdict
    }

    /// What must not change once it is damaged; sled rewrites its own files when it opens them.
    fn evidence(&self, folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let ours = |path: &PathBuf| {
            let below = path.strip_prefix(folder).expect("below it");
            !below.ends_with("quarantined") && below.starts_with("member") && Part::of(below) != Part::Engine
        };
        let found = files(folder).into_iter().filter(ours);
        found.map(|path| (path.clone(), fs::read(path).expect("a file"))).collect()
    }

    /// Whether such a fault must be noticed: it destroys something that stands nowhere else.
    fn is_loss(&self, path: &Path, part: Part, len: usize, fault: &Fault) -> bool {
        match part {
            Part::Identity | Part::Snapshot => true,
            // What the ring cannot put back. Behind that stands an unfinished write, unless the store was closed.
            Part::Segment => match fault {
                Fault::Grown(_) => self.clean || path != self.newest && self.goes_on(path),
                _ => fault.from(len) < self.only_here(path),
            },
            Part::Guard => matches!(fault, Fault::Missing | Fault::Truncate(_) | Fault::Grown(_)),
            Part::Engine | Part::Owner | Part::Lock => false,
        }
    }
}

/// Every kind of fault, at every class of the bytes of a file.
fn faults(part: Part, bytes: &[u8], seed: u64) -> Vec<(&'static str, Fault)> {
    let (len, more) = (bytes.len(), cycles() / 10);
    let mut faults = vec![("file", Fault::Missing), ("file", Fault::Grown(b"QREC".to_vec()))];
    faults.push(("file", Fault::Grown(vec![0; PAGE])));
    faults.extend(
        [0, len / 4, len / 2, len * 3 / 4, len.saturating_sub(PAGE), len.saturating_sub(1)]
            .map(|keep| ("file", Fault::Truncate(keep))),
    );
    let draw = |number: u64, within: &Range<usize>| within.start + mix(seed, number) as usize % within.len();
    for (number, (class, range)) in (0..).zip(part.classes(bytes)) {
        let places = (0..more).map(|at| draw(number * 1_000 + at, &range));
        let places = [range.start, range.end - 1].into_iter().chain(places);
        faults.extend(places.map(|at| (class, Fault::Flip { at })));
        faults.push((class, Fault::Truncate(range.start)));
        faults.push((class, Fault::Zero(range.start..range.end.min(range.start + PAGE))));
    }
    let pages = (0..len.div_ceil(PAGE)).map(|page| page * PAGE..(page * PAGE + PAGE).min(len));
    let every = (len / PAGE / (8 * more as usize + 1)).max(1);
    for page in pages.skip(seed as usize % every).step_by(every) {
        faults.extend([("page", Fault::Zero(page.clone())), ("page", Fault::Foreign(page))]);
    }
    faults
}

/// The whole catalogue over `specimen`, in the parts that `wanted` names; sled's own files get a sample of `sample`.
fn fuzz(specimen: &Specimen, sample: usize, wanted: impl Fn(Part) -> bool) {
    let mut tallies: BTreeMap<Part, Tally> = BTreeMap::new();
    for (path, part, bytes) in specimen.parts().into_iter().filter(|(_, part, _)| wanted(*part)) {
        let mut faults = faults(part, &bytes, 17);
        if part == Part::Engine {
            // In order of luck, so that every class has its share.
            faults.sort_by_key(|(_, fault)| mix(99, fault.from(bytes.len()) as u64));
            faults.truncate(if bytes.len() > PAGE { sample } else { sample / 8 });
        }
        for (class, fault) in faults {
            let Some(verdict) = specimen.case(&path, part, &fault) else { continue };
            let quarantined = matches!(verdict, Verdict::Quarantined(_));
            let loss = specimen.is_loss(&path, part, bytes.len(), &fault);
            assert!(quarantined || !loss, "{fault:?} of {} ({class}) was not noticed", path.display());
            let elsewhere = part == Part::Guard && !loss;
            assert!(!(quarantined && elsewhere), "{fault:?} of {} ({class}) has another copy", path.display());
            let tally = tallies.entry(part).or_default();
            tally.intact += u32::from(!quarantined);
            tally.quarantined += u32::from(quarantined);
            tally.classes.insert(class);
        }
    }
    let sum = |count: fn(&Tally) -> u32| tallies.values().map(count).sum::<u32>();
    let (intact, quarantined) = (sum(|tally| tally.intact), sum(|tally| tally.quarantined));
    let closed = if specimen.clean { "closed" } else { "killed" };
    println!(
        "damage, {}, {closed}: {} cases, {intact} intact, {quarantined} quarantined, 0 unseen",
        specimen.backend,
        intact + quarantined
    );
    for (part, Tally { intact, quarantined, classes }) in &tallies {
        println!("    {part:?}: {intact} intact, {quarantined} quarantined, in {} classes of bytes", classes.len());
    }
    assert!(intact > 0 && quarantined > 0, "faults of one kind only");
}

#[test]
fn every_fault_in_our_own_files_is_harmless_or_found() {
    for clean in [true, false] {
        fuzz(&Specimen::new(Backend::File, clean), 0, |_| true);
    }
}

#[test]
fn every_fault_in_the_files_of_sled_is_harmless_or_found() {
    for clean in [true, false] {
        fuzz(&Specimen::new(Backend::Sled, clean), 7 * cycles() as usize, |part| part == Part::Engine);
    }
}

/// The catalogue's oracle against a store that is whole in itself and shorter: it is called wrong, not intact.
#[test]
fn the_oracle_of_the_catalogue_notices_what_is_shorter_or_other() {
    for backend in BACKENDS {
        let specimen = Specimen::new(backend, false);
        let shorter = scratch();
        drop(create(shorter.path(), backend));
        let step = specimen.model.step(5, 10);
        let other = specimen.copy();
        perform(ready(other.path(), backend).0.as_mut(), &step);
        for folder in [shorter, other] {
            let verdict = Oracle::knowing(&specimen.model, specimen.next_group - 1).judge(folder.path(), backend);
            assert!(matches!(verdict, Verdict::Wrong(_)), "{verdict:?}");
        }
    }
}

#[test]
fn a_missing_folder_is_found() {
    for backend in BACKENDS {
        for (missing, says) in [("member", "member folder"), ("member/log", "log"), ("member/snapshots", "snapshot")] {
            for with_snapshot in [true, false] {
                let folder = scratch();
                let mut disk = create(folder.path(), backend);
                write(disk.as_mut(), if with_snapshot { &[5, 1, 2, 5] } else { &[5, 1, 5] }, 100);
                drop(disk);
                fs::remove_dir_all(folder.path().join(missing)).expect("a folder");
                let OpenOutcome::Quarantined(found) = open(folder.path(), backend) else { panic!("{missing} is gone") };
                assert!(found.reason.contains(says), "{missing}: {}", found.reason);
                assert_eq!(found.identity, Some(super::model::IDENTITY), "whom to remove is known");
            }
        }
    }
}

/// The mark is as well kept as what it is about: some stores are condemned for what only the leader knows.
#[test]
fn a_condemned_store_stays_so_whatever_happens_to_the_mark() {
    let folder = scratch();
    write(create(folder.path(), Backend::File).as_mut(), &[5, 1], 10);
    super::patiently(|| super::Folder::lock(folder.path())).condemn("the leader knows of more").expect("marked");
    let marks = files(folder.path()).into_iter().filter(|path| path.ends_with("quarantined"));
    let marks: Vec<_> = marks.map(|path| path.strip_prefix(folder.path()).expect("below it").to_owned()).collect();
    assert!(marks.len() > 1, "there is one mark only");
    let len = fs::read(folder.path().join(&marks[0])).expect("a mark").len();
    let flips = (0..len).map(|at| Fault::Flip { at });
    let faults = [Fault::Missing, Fault::Truncate(0), Fault::Truncate(7), Fault::Zero(0..len), Fault::Foreign(0..len)];
    for (mark, fault) in marks.iter().flat_map(|mark| flips.clone().chain(faults.clone()).map(move |it| (mark, it))) {
        let copied = scratch();
        copy(folder.path(), copied.path());
        fault.strike(&copied.path().join(mark));
        let found = open(copied.path(), Backend::File);
        assert!(matches!(found, OpenOutcome::Quarantined(_)), "{fault:?} of {}", mark.display());
        // And it can be put aside.
        super::patiently(|| crate::store::retire(copied.path()));
        assert!(matches!(open(copied.path(), Backend::File), OpenOutcome::Fresh));
    }
}

/// As far as the ring reaches back it is continued, and nothing is missing; further back it is found.
#[test]
fn an_older_copy_of_the_log_is_continued_or_found() {
    for (backend, more) in BACKENDS.into_iter().flat_map(|backend| [(backend, 2), (backend, 30)]) {
        let folder = scratch();
        write(create(folder.path(), backend).as_mut(), &[5, 5, 1], 100);
        // Opened once more, so that the log has it all.
        let mut model = Model::of(&ready(folder.path(), backend).1);
        let backup = scratch();
        copy(&folder.path().join("member/log"), backup.path());
        let (mut disk, _) = ready(folder.path(), backend);
        for _ in 0..more {
            let step = model.step(1, 100);
            perform(disk.as_mut(), &step);
            model = model.after(&step);
        }
        drop(disk);
        fs::remove_dir_all(folder.path().join("member/log")).expect("a folder");
        copy(backup.path(), &folder.path().join("member/log"));
        match open(folder.path(), backend) {
            OpenOutcome::Ready(_, loaded) => assert!(more == 2 && Model::of(&loaded) == model, "{backend}, {more}"),
            OpenOutcome::Quarantined(_) => assert_eq!(more, 30, "{backend}"),
            OpenOutcome::Fresh => panic!("{backend}, {more}: it looks new"),
        }
    }
}

#[test]
fn an_unfinished_write_behind_the_guard_is_dropped() {
    for clean in [false, true] {
        let specimen = Specimen::new(Backend::File, clean);
        for garbage in [&b"QREC"[..], &[0; PAGE], &[0xff; 70_000]] {
            let verdict = specimen.case(&specimen.newest, Part::Segment, &Fault::Grown(garbage.to_vec()));
            // It was never acknowledged. After a clean close there is no unfinished write.
            let dropped = verdict == Some(Verdict::Intact);
            assert_eq!(dropped, !clean, "{verdict:?}");
        }
    }
}

//! The log in sled, with the discipline that makes it durable.
//! In: records. Out: durable records. Absent: judgement, and trust: sled's `flush` does not sync (it never calls
//! fdatasync), so an own handle on its file does; sled panics on damage, so it is opened behind a fence; sled never
//! syncs values that outgrow its segments, so none is above 4 KiB and `blobs/` must stay empty.

use super::disk::Log;
use super::durable::{exists, io, open_file, remove_file, sync_folder};
use super::fence::within;
use ::sled::{Batch, Config, Db, Tree};
use record::{Assembler, Damage, Found, StoreError, piece_key, pieces};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::ops::RangeBounds;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

const TREE: &str = "wal";
/// The log is read once, at the start; afterwards sled needs its newest pages only.
const CACHE_BYTES: u64 = 32 << 20;
/// Keys removed in one batch, to the end of the record: each batch is one write of sled, and appends wait for it.
const REMOVE_KEYS_MAX: usize = 512;
/// The data folder is locked, so whoever holds sled's own lock is a handle of this process: sled's threads let go of it a
/// moment after it was dropped.
const LET_GO_LIMIT: Duration = Duration::from_secs(2);
const LET_GO_LOOK: Duration = Duration::from_millis(2);

pub(super) struct SledLog {
    folder: PathBuf,
    db: Db,
    tree: Tree,
    /// Own handle on sled's file; syncing it is what makes `flush` durable. sled locks with flock(2), which closing a
    /// second handle does not undo.
    fence: File,
}

impl SledLog {
    /// A new log with one record in it, durable down to the folders.
    pub fn create(folder: &Path, number: u64, record: &[u8]) -> Result<Self, StoreError> {
        let mut log = Self::open_any(folder)?;
        log.append(&[(number, record.to_vec())])?;
        log.fence.sync_all().map_err(io("sync", &db_path(folder)))?;
        for entry in fs::read_dir(folder).map_err(io("list", folder))? {
            let path = entry.map_err(io("list", folder))?.path();
            File::open(&path).and_then(|file| file.sync_all()).map_err(io("sync", &path))?;
        }
        sync_folder(folder)?;
        Ok(log)
    }

    /// Opens an existing log. sled would make a new, empty one in place of a missing file.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let db = db_path(folder);
        if !exists(&db)? || fs::metadata(&db).map_err(io("look at", &db))?.len() == 0 {
            return Err(Damage::Missing { part: "log" }.into());
        }
        Self::open_any(folder)
    }

    fn open_any(folder: &Path) -> Result<Self, StoreError> {
        remove_unfinished(folder)?;
        let path = folder.to_owned();
        let (db, tree) = fenced("open", folder, move || {
            let config = Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
            let until = Instant::now() + LET_GO_LIMIT;
            let db = loop {
                match config.open() {
                    Err(::sled::Error::Io(error)) if is_held(&error) && Instant::now() < until => {
                        thread::sleep(LET_GO_LOOK);
                    }
                    outcome => break outcome?,
                }
            };
            let tree = db.open_tree(TREE)?;
            Ok((db, tree))
        })?;
        let fence = open_file(&db_path(folder))?;
        let log = Self { folder: folder.to_owned(), db, tree, fence };
        log.check_blobs()?;
        Ok(log)
    }

    /// From here on `flush` is sled's alone; what that is worth is for a test to show.
    #[cfg(test)]
    pub fn fence_elsewhere(&mut self, elsewhere: File) {
        self.fence = elsewhere;
    }

    /// Any file there holds a page that sled does not sync.
    fn check_blobs(&self) -> Result<(), StoreError> {
        let blobs = self.folder.join("blobs");
        let mut listing = fs::read_dir(&blobs).map_err(io("list", &blobs))?;
        if listing.next().is_none() {
            return Ok(());
        }
        Err(Damage::Engine { why: format!("{} is not empty", blobs.display()) }.into())
    }

    fn flush(&self) -> Result<(), StoreError> {
        guarded(&self.folder, "flush", || self.db.flush())?;
        self.fence.sync_data().map_err(|source| io("sync", &db_path(&self.folder))(source))
    }

    /// Removes the first records of `range` in one batch, which a crash does wholly or not at all; `false` if there are
    /// none, and then that is durable. Whole records only: what is left of half a record would be taken for damage by the
    /// next start.
    fn remove_some(&self, range: impl RangeBounds<[u8; 12]>) -> Result<bool, StoreError> {
        let removed = guarded(&self.folder, "compact", || {
            let (mut batch, mut removed, mut newest) = (Batch::default(), 0, None);
            for key in self.tree.range(range).keys() {
                let key = key?;
                let number = key.get(..8).map(<[u8]>::to_vec);
                if removed >= REMOVE_KEYS_MAX && number != newest {
                    break;
                }
                batch.remove(key);
                (removed, newest) = (removed + 1, number);
            }
            self.tree.apply_batch(batch)?;
            Ok(removed > 0)
        })?;
        if !removed {
            self.flush()?;
            self.check_blobs()?;
        }
        Ok(removed)
    }
}

impl Log for SledLog {
    fn records(&mut self) -> Result<Vec<Found>, StoreError> {
        let tree = self.tree.clone();
        fenced("read", &self.folder, move || {
            let (mut assembler, mut found) = (Assembler::default(), Vec::new());
            for piece in tree.iter() {
                let (key, value) = piece?;
                found.extend(assembler.push(&key, &value));
            }
            found.extend(assembler.take());
            Ok(found)
        })
    }

    fn cut(&mut self, _kept: usize, last: u64) -> Result<(), StoreError> {
        while self.remove_some(piece_key(last + 1, 0)..)? {}
        Ok(())
    }

    fn append(&mut self, records: &[(u64, Vec<u8>)]) -> Result<(), StoreError> {
        guarded(&self.folder, "append to", || {
            let mut batch = Batch::default();
            for (key, piece) in records.iter().flat_map(|(number, record)| pieces(*number, record)) {
                batch.insert(&key, piece);
            }
            self.tree.apply_batch(batch)
        })?;
        self.flush()
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.flush()
    }

    fn remove_below(&mut self, first_kept: u64) -> Result<bool, StoreError> {
        self.remove_some(..piece_key(first_kept, 0))
    }

    fn close(&mut self) -> Result<(), StoreError> {
        self.flush()
    }
}

/// sled notes where its pages are in a file that it writes aside and renames. Cut off in between, by a full disk or a
/// killed process, the next `open` takes what was written so far for the finished file, and finds it corrupt. Nothing
/// rests on it yet: the file before it is removed only after the renaming.
fn remove_unfinished(folder: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(folder).map_err(io("list", folder))? {
        let path = entry.map_err(io("list", folder))?.path();
        if path.extension().is_some_and(|suffix| suffix == "generating") {
            remove_file(&path)?;
        }
    }
    Ok(())
}

fn db_path(folder: &Path) -> PathBuf {
    folder.join("db")
}

/// Runs `work` on a thread of its own: sled panics on damage, and might hang.
fn fenced<T: Send + 'static>(
    operation: &'static str,
    folder: &Path,
    work: impl FnOnce() -> ::sled::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    let place = folder.to_owned();
    within(operation, &folder.display().to_string(), move || guarded(&place, operation, work))
}

/// Runs `work` and turns sled's errors and panics into ours.
fn guarded<T>(
    folder: &Path,
    operation: &'static str,
    work: impl FnOnce() -> ::sled::Result<T>,
) -> Result<T, StoreError> {
    let why = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(::sled::Error::Io(source))) if !tells_of_damage(&source) => return Err(io(operation, folder)(source)),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
            (Some(text), _) => format!("panic: {text}"),
            (None, Some(text)) => format!("panic: {text}"),
            (None, None) => "panic".to_owned(),
        },
    };
    Err(Damage::Engine { why: format!("{operation}: {why}") }.into())
}

/// Whether an I/O error is sled's verdict on its files. What the kernel refuses (no space, no permission, a broken
/// device, a lock that is held) says nothing about what is stored. sled repeats an earlier error without its number.
fn tells_of_damage(error: &std::io::Error) -> bool {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::InvalidData => true,
        ErrorKind::Other => error.raw_os_error().is_none() && !is_held(error),
        _ => false,
    }
}

/// Whether it says that another handle holds sled's lock.
fn is_held(error: &std::io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

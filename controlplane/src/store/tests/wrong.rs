//! Disks that lie, as a store would that somebody made faster: what they call durable is only written, in the log or in
//! the ring. They show that the power-cut loop would notice.

use super::model::IDENTITY;
use super::writer::Syncs;
use super::{Backend, Folder, patiently};
use crate::store::disk::{Disk, Log};
use crate::store::file::FileLog;
use crate::store::guard::GuardFile;
use crate::store::sled::SledLog;
use crate::store::snapshot::Snapshots;
use record::{Found, Loaded, RaftDisk, StoreError};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The store at `path`, over a log or a guard file that does not sync. The rest is real.
pub(super) fn open(path: &Path, backend: Backend, syncs: Syncs) -> (Box<dyn RaftDisk>, Loaded) {
    let folder = patiently(|| Folder::lock(path));
    let mut guard = GuardFile::open(&folder.guard()).expect("a guard file");
    if syncs == Syncs::NotTheGuard {
        guard.never_sync();
    }
    let snapshots = Snapshots::new(folder.snapshots(), IDENTITY);
    let log: Box<dyn Log> = match backend {
        Backend::Sled if syncs == Syncs::NotTheGuard => Box::new(SledLog::open(&folder.log()).expect("a log")),
        Backend::File if syncs == Syncs::NotTheGuard => Box::new(FileLog::open(&folder.log()).expect("a log")),
        // sled's own `flush`, taken at its word.
        Backend::Sled => {
            let mut log = SledLog::open(&folder.log()).expect("a log");
            log.fence_elsewhere(tempfile::tempfile_in("/dev/shm").expect("a file on another file system"));
            Box::new(log)
        }
        Backend::File => Box::new(Unsynced { log: FileLog::open(&folder.log()).expect("a log"), folder: folder.log() }),
    };
    let mut disk = Box::new(Disk::new(log, guard, snapshots, folder.lock.clone()));
    let loaded = disk.load().expect("intact").expect("it exists");
    (disk, loaded)
}

/// Plain files, written and not synced.
struct Unsynced {
    log: FileLog,
    folder: PathBuf,
}

impl Log for Unsynced {
    fn records(&mut self) -> Result<Vec<Found>, StoreError> {
        self.log.records()
    }

    fn cut(&mut self, kept: usize, last: u64) -> Result<(), StoreError> {
        self.log.cut(kept, last)
    }

    fn append(&mut self, records: &[(u64, Vec<u8>)]) -> Result<(), StoreError> {
        let newest = super::files(&self.folder).pop().expect("there is always a segment");
        let mut file = File::options().append(true).open(&newest).expect("it was listed a moment ago");
        let written = records.iter().try_for_each(|(_, record)| file.write_all(record));
        written.map_err(|source| StoreError::io("write", newest.display().to_string(), source))
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn remove_below(&mut self, first_kept: u64) -> Result<bool, StoreError> {
        self.log.remove_below(first_kept)
    }

    fn close(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

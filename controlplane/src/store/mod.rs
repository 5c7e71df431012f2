//! A member's data folder: who owns it, whether it may be used, and the disk that the replica writes to.
//! In: a path, a backend, groups and snapshots. Out: `RaftDisk`, or the reason why this member must not start.
//! Absent: what records mean and when they are damaged (`record`). sled is named in `sled.rs` and nowhere else.
//!
//! ```text
//! lock          held for the life of the process
//! creating      while a new store is being made; what is there then was never promised to anybody
//! owner         the identity once more: there was a store here, so a folder without one has lost it
//! quarantined   why this store must never be used again, in words; once more as member/quarantined
//! member/identity, member/guard, member/log/, member/snapshots/
//! retired-1/    a damaged store, kept read-only for whoever wants to look
//! next/         a store that is to take the place of this one; `succeeding` says that it does
//! generation-1/ the store before a recovery, kept likewise
//! ```

mod durable;
mod disk;
mod feeder;
mod fence;
mod guard;
mod snapshot;
mod sled;
mod file;
mod identity;
mod succession;
#[cfg(test)]
mod tests;

pub use snapshot::Snapshots;

use self::disk::{Disk, Log};
use self::durable::{create_folder, exists, io, remove_file, sync_folder, write_durably};
use self::guard::{GuardFile, SHAPE};
use self::identity::IdentityFile;
use record::{Damage, Group, Identity, Ledger, Loaded, RaftDisk, StoreError};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// Which engine keeps the log. Chosen when the store is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    #[default]
    Sled,
    /// Plain segment files: faster, and no recovery code but our own.
    File,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Sled => "sled",
            Backend::File => "file",
        })
    }
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "sled" => Ok(Backend::Sled),
            "file" => Ok(Backend::File),
            other => Err(format!("unknown store '{other}', expected sled or file")),
        }
    }
}

/// What is in a data folder.
pub enum OpenOutcome {
    /// No store, and nothing that says there was one: a new member. `Folder::create` makes it.
    Fresh,
    Ready(Box<dyn RaftDisk>, Box<Loaded>),
    /// The store lost something. It stays so until `Folder::retire`; the member id in it must never speak again.
    Quarantined(Quarantine),
}

/// Why a store is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantine {
    /// The damage as it was found first.
    pub reason: String,
    /// The id to be removed from the cluster; `None` if not even that could be read.
    pub identity: Option<Identity>,
}

/// A data folder, locked against every other process for as long as this value or a disk opened from it lives. Take
/// the lock before the member's start is read from the clock: another process may still be answering until then.
pub struct Folder {
    path: PathBuf,
    lock: Arc<File>,
}

impl Folder {
    /// Makes the folder if it is missing, and finishes a succession that was cut off. Errs with `Locked` if another process
    /// holds it.
    pub fn lock(path: &Path) -> Result<Self, StoreError> {
        create_folder(path)?;
        let lock_path = path.join("lock");
        let options = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = options.map_err(io("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {
                let folder = Self { path: path.to_owned(), lock: Arc::new(lock) };
                folder.finish_succession()?;
                Ok(folder)
            }
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked { folder: path.display().to_string() }),
            Err(TryLockError::Error(source)) => Err(io("lock", &lock_path)(source)),
        }
    }

    /// Opens what is there and checks all of it. `cluster`, if the member was told one, must be the folder's. Damage
    /// is an outcome, not an error: nothing is changed then but the mark. (sled itself rewrites its files when it is
    /// opened; the records are judged after that.)
    pub fn open(&self, backend: Backend, cluster: Option<[u8; 16]>) -> Result<OpenOutcome, StoreError> {
        if let Some(quarantine) = self.quarantine()? {
            return Ok(OpenOutcome::Quarantined(quarantine));
        }
        if exists(&self.creating())? {
            self.abandon_creation()?;
        }
        if !exists(&self.member())? {
            if exists(&self.owner())? {
                return Ok(OpenOutcome::Quarantined(self.set_quarantine(&Damage::Missing { part: "member folder" })?));
            }
            return Ok(OpenOutcome::Fresh);
        }
        match self.open_member(backend, cluster) {
            Ok((disk, loaded)) => Ok(OpenOutcome::Ready(disk, Box::new(loaded))),
            Err(StoreError::Damaged(damage)) => Ok(OpenOutcome::Quarantined(self.set_quarantine(&damage)?)),
            Err(other) => Err(other),
        }
    }

    /// Makes the store of a new member. Errs with `Exists` unless `open` said `Fresh`. A crash or an error on the way
    /// leaves a folder that is `Fresh` again.
    pub fn create(&self, backend: Backend, identity: Identity) -> Result<(Box<dyn RaftDisk>, Loaded), StoreError> {
        if exists(&self.creating())? {
            self.abandon_creation()?;
        }
        if exists(&self.member())? || self.quarantine()?.is_some() {
            return Err(StoreError::Exists { folder: self.path.display().to_string() });
        }
        write_durably(&self.creating(), b"a store is being made here\n")?;
        let member = self.member();
        for folder in [member.clone(), self.log(), self.snapshots()] {
            create_folder(&folder)?;
        }
        // The first group makes the difference between a store that is new and one that lost everything.
        let mut ledger = Ledger::new(identity, SHAPE);
        let (first, mut record) = (Group::default(), Vec::new());
        let tip = ledger.prepare(&first, &mut record)?;
        let log: Box<dyn Log> = match backend {
            Backend::Sled => {
                let (folder, lock) = (self.log(), self.lock.clone());
                Box::new(fence::within("make", "log", move || {
                    let _lock = lock;
                    sled::SledLog::create(&folder, tip.number, &record)
                })?)
            }
            Backend::File => Box::new(file::FileLog::create(&self.log(), tip.number, &record)?),
        };
        GuardFile::create(&self.guard(), &mut ledger, &tip)?;
        let file = IdentityFile { identity, backend };
        file.write(&member.join("identity"))?;
        sync_folder(&member)?;
        file.write(&self.owner())?;
        remove_file(&self.creating())?;
        sync_folder(&self.path)?;
        self.load(log, GuardFile::open(&self.guard())?, identity)
    }

    /// Puts a quarantined store aside, read-only, so that a new member can be made here under a new id. Gives back
    /// where it is now. Errs with `NotQuarantined` if there is no reason for it.
    pub fn retire(&self) -> Result<PathBuf, StoreError> {
        let Some(quarantine) = self.quarantine()? else {
            return Err(StoreError::NotQuarantined { folder: self.path.display().to_string() });
        };
        if !exists(&self.mark())? {
            self.mark_quarantined(&quarantine.reason)?;
        }
        let taken = |number: &u32| self.path.join(format!("retired-{number}"));
        let mut number = 1;
        while exists(&taken(&number))? {
            number += 1;
        }
        let retired = taken(&number);
        if exists(&self.member())? {
            fs::rename(self.member(), &retired).map_err(io("retire", &self.member()))?;
        } else {
            create_folder(&retired)?;
        }
        write_durably(&retired.join("quarantined"), quarantine.reason.as_bytes())?;
        remove_file(&self.owner())?;
        // The mark last: as long as it is there, this can be done again.
        remove_file(&self.mark())?;
        sync_folder(&self.path)?;
        durable::make_read_only(&retired)?;
        Ok(retired)
    }

    /// The engine that keeps the store here. Errs with `Damaged` if nothing says so.
    pub fn backend(&self) -> Result<Backend, StoreError> {
        IdentityFile::read(&self.member().join("identity")).map(|file| file.backend)
    }

    /// Whether this folder is quarantined, and why.
    pub fn quarantine(&self) -> Result<Option<Quarantine>, StoreError> {
        for mark in [self.mark(), self.inner_mark()] {
            if exists(&mark)? {
                // It counts whatever has become of its words.
                let text = fs::read(&mark).map_err(io("read", &mark))?;
                let text = String::from_utf8_lossy(&text);
                let reason = text.lines().next().unwrap_or("the reason was not recorded").to_owned();
                return Ok(Some(Quarantine { reason, identity: self.identity() }));
            }
        }
        Ok(None)
    }

    /// Burns the store for a reason that its records do not show, such as a leader that knows of more. The disk must be
    /// closed.
    pub fn condemn(&self, reason: &str) -> Result<Quarantine, StoreError> {
        self.mark_quarantined(reason)
    }

    fn set_quarantine(&self, damage: &Damage) -> Result<Quarantine, StoreError> {
        self.mark_quarantined(&damage.to_string())
    }

    fn mark_quarantined(&self, reason: &str) -> Result<Quarantine, StoreError> {
        let text = format!(
            "{reason}\nThis store must not be used again. Remove the member from the cluster and let it rejoin under \
             a new id: quoratectl member rejoin.\n"
        );
        // Two marks, for the loss of one must not be the loss of all: what a leader knows no record shows.
        let inner = if exists(&self.member())? { write_durably(&self.inner_mark(), text.as_bytes()) } else { Ok(()) };
        write_durably(&self.mark(), text.as_bytes()).and(inner)?;
        Ok(Quarantine { reason: reason.to_owned(), identity: self.identity() })
    }

    fn identity(&self) -> Option<Identity> {
        let files = [self.member().join("identity"), self.owner()];
        files.iter().find_map(|path| IdentityFile::read(path).ok()).map(|file| file.identity)
    }

    fn open_member(
        &self,
        backend: Backend,
        cluster: Option<[u8; 16]>,
    ) -> Result<(Box<dyn RaftDisk>, Loaded), StoreError> {
        let file = IdentityFile::read(&self.member().join("identity"))?;
        let folder = || self.path.display().to_string();
        if let Some(expected) = cluster.filter(|expected| *expected != file.identity.cluster) {
            let (found, expected) = (identity::hex(&file.identity.cluster), identity::hex(&expected));
            return Err(StoreError::OtherCluster { folder: folder(), found, expected });
        }
        if file.backend != backend {
            let (found, expected) = (file.backend.to_string(), backend.to_string());
            return Err(StoreError::OtherBackend { folder: folder(), found, expected });
        }
        let guard = GuardFile::open(&self.guard())?;
        if !exists(&self.log())? {
            return Err(Damage::Missing { part: "log" }.into());
        }
        let log: Box<dyn Log> = match backend {
            Backend::Sled => Box::new(sled::SledLog::open(&self.log())?),
            Backend::File => Box::new(file::FileLog::open(&self.log())?),
        };
        let ready = self.load(log, guard, file.identity)?;
        if IdentityFile::read(&self.owner()).ok().as_ref() != Some(&file) {
            file.write(&self.owner())?;
        }
        Ok(ready)
    }

    fn load(
        &self,
        log: Box<dyn Log>,
        guard: GuardFile,
        identity: Identity,
    ) -> Result<(Box<dyn RaftDisk>, Loaded), StoreError> {
        let snapshots = Snapshots::new(self.snapshots(), identity);
        let mut disk = Box::new(Disk::new(log, guard, snapshots, self.lock.clone()));
        let loaded = disk.load()?.expect("a guard is there, so there is a store or damage");
        Ok((disk, loaded))
    }

    /// A crash interrupted `create`: nothing was promised, so what is there goes.
    fn abandon_creation(&self) -> Result<(), StoreError> {
        if exists(&self.member())? {
            fs::remove_dir_all(self.member()).map_err(io("remove the unfinished", &self.member()))?;
            sync_folder(&self.path)?;
        }
        remove_file(&self.owner())?;
        remove_file(&self.creating())?;
        sync_folder(&self.path)
    }

    fn member(&self) -> PathBuf {
        self.path.join("member")
    }

    fn log(&self) -> PathBuf {
        self.member().join("log")
    }

    fn snapshots(&self) -> PathBuf {
        self.member().join("snapshots")
    }

    fn guard(&self) -> PathBuf {
        self.member().join("guard")
    }

    fn creating(&self) -> PathBuf {
        self.path.join("creating")
    }

    fn owner(&self) -> PathBuf {
        self.path.join("owner")
    }

    fn mark(&self) -> PathBuf {
        self.path.join("quarantined")
    }

    fn inner_mark(&self) -> PathBuf {
        self.member().join("quarantined")
    }
}

/// Puts the quarantined store in `data_dir` aside; see `Folder::retire`. For use while no member runs there.
pub fn retire(data_dir: &Path) -> Result<PathBuf, StoreError> {
    Folder::lock(data_dir)?.retire()
}

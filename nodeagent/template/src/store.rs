//! Templates on a storage: `templates/sha256-<hex>/`, each whole or not there.
//! In: a tree that was put together beside them. Out: the same under its digest, durable before it has that name.
//! A crash leaves a folder `.new-…` at most, which the next import of the same owner removes.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, fsync, syncfs};
use serde::{Deserialize, Serialize};

use crate::beneath::Beneath;
use crate::digest::Digest;
use crate::error::ImportError;
use crate::folder;
use crate::image::Image;
use crate::progress::{Meter, Phase};
use crate::tree::{self, Description};

const ROOTFS: &str = "rootfs";
const TREE: &str = "tree";
const MANIFEST: &str = "manifest.json";
/// What each source was the last time, so that it need not be read again.
const ORIGINS: &str = "origins";
/// Beside a template: which import brought it last.
const CLAIM: &str = "claim";
/// Held while a template is claimed or discarded, so that one of the two comes first.
const LOCK: &str = ".lock";
const FORMAT: u32 = 1;
/// Differences that are named.
const NAMED_MAX: usize = 3;

/// What `manifest.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// The version of the description and of these files.
    pub format: u32,
    pub digest: String,
    pub entries: u64,
    /// Of all files' content, each counted once.
    pub bytes: u64,
}

/// What is known of a source that cannot change: an image by its manifest's digest, an archive by its own.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    pub digest: String,
    pub image: Option<Image>,
    pub notes: Vec<String>,
}

/// What became of a template that was to be discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discarded {
    Gone,
    Absent,
    /// It stays: another import brought it since.
    Claimed,
}

/// The templates of one storage.
pub struct Store {
    folder: PathBuf,
    owner: String,
}

impl Store {
    /// Those of the storage at `path`, which must be there: a share that is not mounted is not made. `owner` tells those
    /// apart who may import at the same time, as the name of a node.
    pub fn open(path: &Path, owner: &str) -> Result<Store, ImportError> {
        if !path.is_absolute() || !path.is_dir() {
            let why = "which is no absolute path to a folder that is there";
            return Err(ImportError::Unusable { found: path.to_owned(), why });
        }
        let store = Store::at(path, owner);
        make_folder(&store.folder, 0o755)?;
        make_folder(&store.folder.join(ORIGINS), 0o700)?;
        Ok(store)
    }

    /// The same to look only: nothing is made.
    pub fn at(path: &Path, owner: &str) -> Store {
        let plain = owner.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' });
        Store { owner: plain.collect(), folder: path.join("templates") }
    }

    /// Below the storage, as a template's path is registered.
    pub fn path_of(digest: &Digest) -> String {
        format!("templates/sha256-{}/{ROOTFS}", digest.hex())
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("sha256-{}", digest.hex()))
    }

    /// What is said of a template that is there.
    pub fn find(&self, digest: &Digest) -> Result<Option<Kept>, ImportError> {
        let path = self.place(digest).join(MANIFEST);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.place(digest).exists() => return Ok(None),
            Err(error) => return Err(ImportError::io("read", &path)(error)),
        };
        let kept: Kept = serde_json::from_slice(&text)
            .map_err(|error| ImportError::Spoilt { digest: *digest, what: format!("{MANIFEST}: {error}") })?;
        if kept.digest != digest.to_string() || kept.format != FORMAT {
            let what = format!("{MANIFEST} is of format {} and about {}", kept.format, kept.digest);
            return Err(ImportError::Spoilt { digest: *digest, what });
        }
        Ok(Some(kept))
    }

    /// Reads a template again and compares it with its digest. Errs with what differs.
    pub fn verify(&self, digest: &Digest, meter: &Meter<'_>) -> Result<Kept, ImportError> {
        let kept = self.find(digest)?.ok_or(ImportError::Absent { digest: *digest })?;
        meter.phase(Phase::Checking, kept.bytes)?;
        let place = self.place(digest);
        let found = tree::describe(&mut folder::open_at(&place.join(ROOTFS))?, meter)?;
        if found.digest() == *digest {
            return Ok(kept);
        }
        let told = fs::read_to_string(place.join(TREE)).unwrap_or_default();
        let what = match Digest::of(told.as_bytes()) == *digest {
            true => differences(&told, &found.text),
            false => "its description is damaged too".to_owned(),
        };
        Err(ImportError::Spoilt { digest: *digest, what })
    }

    /// Removes a template, unless another import than `claim` has brought it since.
    pub fn discard(&self, digest: &Digest, claim: &str) -> Result<Discarded, ImportError> {
        let stage = self.stage()?;
        let place = self.place(digest);
        let _lock = self.lock()?;
        if !place.exists() {
            return Ok(Discarded::Absent);
        }
        if self.claimed(digest) != claim {
            return Ok(Discarded::Claimed);
        }
        // Gone for everybody in one step; what is in it is removed with the stage.
        fs::rename(&place, stage.path.join("gone")).map_err(ImportError::io("discard", &place))?;
        sync(&self.folder)?;
        self.forget(digest);
        Ok(Discarded::Gone)
    }

    /// Who brought it last; empty where nobody says.
    pub fn claimed(&self, digest: &Digest) -> String {
        fs::read_to_string(self.place(digest).join(CLAIM)).unwrap_or_default()
    }

    /// Marks a template as brought by this import too, if it is there.
    pub fn claim(&self, digest: &Digest, claim: &str) -> Result<Option<Kept>, ImportError> {
        let stage = self.stage()?;
        let fresh = stage.path.join(CLAIM);
        write_file(&fresh, claim.as_bytes())?;
        let _lock = self.lock()?;
        let Some(kept) = self.find(digest)? else { return Ok(None) };
        let path = self.place(digest).join(CLAIM);
        fs::rename(&fresh, &path).map_err(ImportError::io("claim", &path))?;
        sync(&self.place(digest))?;
        Ok(Some(kept))
    }

    /// Alone among all who claim and discard on this storage, until it is dropped.
    fn lock(&self) -> Result<File, ImportError> {
        let path = self.folder.join(LOCK);
        let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = opened.map_err(ImportError::io("open", &path))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|errno| ImportError::io("lock", &path)(errno.into()))?;
        Ok(lock)
    }

    /// Forgets which sources were this template. What cannot be forgotten leads nowhere.
    fn forget(&self, digest: &Digest) {
        for entry in fs::read_dir(self.folder.join(ORIGINS)).into_iter().flatten().flatten() {
            let known = fs::read(entry.path()).ok().and_then(|text| serde_json::from_slice::<Known>(&text).ok());
            if known.is_some_and(|known| known.digest == digest.to_string()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// What this source turned out to be, if the template is still there.
    pub fn known(&self, origin: &Digest) -> Option<(Known, Kept)> {
        let text = fs::read(self.origin(origin)).ok()?;
        let known: Known = serde_json::from_slice(&text).ok()?;
        let kept = self.find(&known.digest.parse().ok()?).ok()??;
        Some((known, kept))
    }

    /// Remembers it. A shortcut only: what is lost is found out again.
    pub fn remember(&self, origin: &Digest, known: &Known) -> Result<(), ImportError> {
        let stage = self.stage()?;
        let fresh = stage.path.join("origin");
        write_file(&fresh, &serde_json::to_vec(known).expect("plain data"))?;
        let path = self.origin(origin);
        fs::rename(&fresh, &path).map_err(ImportError::io("keep", &path))
    }

    fn origin(&self, origin: &Digest) -> PathBuf {
        self.folder.join(ORIGINS).join(origin.hex())
    }

    /// A folder beside the templates, on the same file system, that goes away unless it is kept.
    pub fn stage(&self) -> Result<Stage, ImportError> {
        self.sweep()?;
        for number in 0_u32.. {
            let path = self.folder.join(format!("{}{}-{number}", self.stages(), std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(ImportError::io("make folder", &path)(error)),
                Ok(()) => {
                    let lock = File::open(&path).map_err(ImportError::io("open", &path))?;
                    let locked = flock(&lock, FlockOperation::NonBlockingLockExclusive);
                    locked.map_err(|errno| ImportError::io("lock", &path)(errno.into()))?;
                    return Ok(Stage { path, lock });
                }
            }
        }
        unreachable!("numbers do not end before a storage is full")
    }

    fn stages(&self) -> String {
        format!(".new-{}-", self.owner)
    }

    /// Removes what imports of this owner left that did not end.
    fn sweep(&self) -> Result<(), ImportError> {
        let failed = |error| ImportError::io("list", &self.folder)(error);
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if !entry.file_name().to_string_lossy().starts_with(&self.stages()) {
                continue;
            }
            // Whoever still works in it holds its lock.
            let Ok(lock) = File::open(entry.path()) else { continue };
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                clear(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Makes the staged tree durable and gives it its name; `true` where it was there already.
    pub fn keep(&self, stage: &Stage, described: &Description, claim: &str) -> Result<(Kept, bool), ImportError> {
        let digest = described.digest();
        if let Some(kept) = self.claim(&digest, claim)? {
            return Ok((kept, true));
        }
        let kept =
            Kept { format: FORMAT, digest: digest.to_string(), entries: described.entries, bytes: described.bytes };
        let whole = stage.path.join("whole");
        make_folder(&whole, 0o700)?;
        let failed = |error| ImportError::io("keep", &whole)(error);
        fs::rename(stage.rootfs(), whole.join(ROOTFS)).map_err(failed)?;
        write_file(&whole.join(TREE), described.text.as_bytes())?;
        write_file(&whole.join(CLAIM), claim.as_bytes())?;
        let mut manifest = serde_json::to_vec_pretty(&kept).expect("plain data");
        manifest.push(b'\n');
        write_file(&whole.join(MANIFEST), &manifest)?;
        // One call for the whole file system instead of one for each of a hundred thousand files.
        syncfs(&stage.lock).map_err(|errno| failed(errno.into()))?;
        match fs::rename(&whole, self.place(&digest)) {
            Ok(()) => sync(&self.folder).map(|()| (kept, false)),
            // Another node was faster; a folder that is not empty is never replaced.
            Err(error) => self.claim(&digest, claim)?.map(|kept| (kept, true)).ok_or_else(|| failed(error)),
        }
    }
}

/// A folder of somebody who imports.
pub struct Stage {
    path: PathBuf,
    lock: File,
}

impl Stage {
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn rootfs(&self) -> PathBuf {
        self.path.join(ROOTFS)
    }

    /// A new, empty root.
    pub fn make_rootfs(&self) -> Result<Beneath, ImportError> {
        make_folder(&self.rootfs(), 0o755)?;
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.rootfs(), mode).map_err(ImportError::io("set mode of", &self.rootfs()))?;
        folder::open_at(&self.rootfs())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next import.
        let _ = clear(&self.path);
    }
}

/// Removes a folder and everything in it, also where folders in it may not be written to.
fn clear(path: &Path) -> Result<(), ImportError> {
    if fs::remove_dir_all(path).is_ok() || !path.exists() {
        return Ok(());
    }
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        let _ = fs::set_permissions(&folder, fs::Permissions::from_mode(0o700));
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        folders.extend(entries.flatten().filter(|it| it.file_type().is_ok_and(|it| it.is_dir())).map(|it| it.path()));
    }
    fs::remove_dir_all(path).map_err(ImportError::io("remove", path))
}

fn make_folder(path: &Path, mode: u32) -> Result<(), ImportError> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(ImportError::io("make folder", path)(error)),
        _ => Ok(()),
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), ImportError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(ImportError::io("write", path))
}

fn sync(folder: &Path) -> Result<(), ImportError> {
    let opened = File::open(folder).map_err(ImportError::io("open", folder))?;
    fsync(&opened).map_err(|errno| ImportError::io("sync", folder)(errno.into()))
}

/// The first paths that are told otherwise by one than by the other, both in order.
fn differences(told: &str, found: &str) -> String {
    let path = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let (mut told, mut found) = (told.lines().peekable(), found.lines().peekable());
    let mut named = Vec::new();
    let mut more = 0;
    loop {
        let line = match (told.peek(), found.peek()) {
            (None, None) => break,
            (Some(a), Some(b)) if a == b => {
                told.next();
                found.next();
                continue;
            }
            (Some(a), Some(b)) if path(a) == path(b) => {
                found.next();
                format!("{} is changed", path(told.next().expect("peeked")))
            }
            (Some(a), b) if b.is_none_or(|b| path(a) < path(b)) => {
                format!("{} is gone", path(told.next().expect("peeked")))
            }
            _ => format!("{} is new", path(found.next().expect("peeked"))),
        };
        if named.len() < NAMED_MAX { named.push(line) } else { more += 1 }
    }
    if more > 0 {
        named.push(format!("and {more} more"));
    }
    named.join(", ")
}

/// Names what an import of `source` under the settings `how` would be.
pub fn origin_of(kind: &str, source: &Digest, how: &str) -> Digest {
    Digest::of(format!("{kind} {source} {how}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_name_the_paths() {
        let told = "a d 0755 0 0 -\nb f 0644 0 0 1:x\nd f 0644 0 0 1:x\n";
        let found = "a d 0755 0 0 -\nb f 0644 0 0 1:y\nc f 0644 0 0 1:x\n";
        assert_eq!(differences(told, found), "b is changed, c is new, d is gone");
        let many: String = (0..9).map(|n| format!("{n} d 0755 0 0 -\n")).collect();
        assert_eq!(differences(&many, ""), "0 is gone, 1 is gone, 2 is gone, and 6 more");
    }
}

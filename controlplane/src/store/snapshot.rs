//! Snapshots as plain files: written aside, synced, renamed, and only then the member's.
//! In: meta and body. Out: the newest one, verified byte for byte. Absent: the format (`record`), and whether the
//! newest file is new enough, which only the guard knows.

use super::durable::{create_file, exists, io, remove_file, sync_folder};
use record::{
    Damage, Identity, Refused, SnapshotFault, SnapshotFolder, SnapshotMeta, StoreError, decode_snapshot, frames,
    snapshot_header, snapshot_meta,
};
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

const SUFFIX: &str = "snapshot";
const STAGED: &str = "staged";
/// More than any manifest: the membership in it is a few addresses.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;

/// The folder of a member's snapshots; a clone names the same folder. One writer at a time.
#[derive(Debug, Clone)]
pub struct Snapshots {
    folder: PathBuf,
    identity: Identity,
}

impl Snapshots {
    pub(super) fn new(folder: PathBuf, identity: Identity) -> Self {
        Self { folder, identity }
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What the newest snapshot stands for; all of it is read and verified. `None` if there is none.
    pub(super) fn newest(&self) -> Result<Option<SnapshotMeta>, StoreError> {
        Ok(self.read()?.map(|(meta, _)| meta))
    }

    /// Makes the staged snapshot the newest one.
    pub(super) fn adopt(&self, meta: &SnapshotMeta) -> Result<(), StoreError> {
        let staged = self.folder.join(STAGED);
        let absent = Refused::NotStaged { index: meta.index };
        if !exists(&staged)? {
            return Err(absent.into());
        }
        let mut head = Vec::new();
        let opened = File::open(&staged).and_then(|file| file.take(MANIFEST_BYTES_MAX).read_to_end(&mut head));
        opened.map_err(io("read", &staged))?;
        if !snapshot_meta(&head).is_ok_and(|(identity, found, _)| identity == self.identity && found == *meta) {
            return Err(absent.into());
        }
        fs::rename(&staged, self.path_of(meta)).map_err(io("rename", &staged))?;
        sync_folder(&self.folder)
    }

    /// Removes every file but the snapshot `newest`, and makes what is left durable.
    pub(super) fn tidy(&self, newest: Option<&SnapshotMeta>) -> Result<(), StoreError> {
        let keep = newest.map(|meta| self.path_of(meta));
        for entry in fs::read_dir(&self.folder).map_err(io("list", &self.folder))? {
            let path = entry.map_err(io("list", &self.folder))?.path();
            if Some(&path) != keep.as_ref() {
                remove_file(&path)?;
            }
        }
        sync_folder(&self.folder)
    }

    fn path_of(&self, meta: &SnapshotMeta) -> PathBuf {
        // Fixed width, so that names sort like indices.
        self.folder.join(format!("{:020}-{:020}.{SUFFIX}", meta.index, meta.term))
    }

    /// The file with the highest index; `None` if there is none. Errs with `Damaged` if the folder is gone.
    fn newest_path(&self) -> Result<Option<PathBuf>, StoreError> {
        if !exists(&self.folder)? {
            return Err(Damage::Missing { part: "snapshot folder" }.into());
        }
        let mut newest = None;
        for entry in fs::read_dir(&self.folder).map_err(io("list", &self.folder))? {
            let path = entry.map_err(io("list", &self.folder))?.path();
            if path.extension().is_some_and(|suffix| suffix == SUFFIX) {
                newest = newest.max(Some(path));
            }
        }
        Ok(newest)
    }

    fn verify(&self, path: &Path, bytes: Vec<u8>) -> Result<(SnapshotMeta, Vec<u8>), Damage> {
        let object = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (identity, meta, body) =
            decode_snapshot(bytes).map_err(|fault| Damage::Snapshot { object: object.clone(), fault })?;
        if identity != self.identity {
            let (found, expected) = (Box::new(identity), Box::new(self.identity));
            return Err(Damage::OtherOwner { part: "snapshot", found, expected });
        }
        if self.path_of(&meta) != path {
            return Err(Damage::Snapshot { object, fault: SnapshotFault::Name });
        }
        Ok((meta, body))
    }
}

impl SnapshotFolder for Snapshots {
    fn stage(&self, meta: &SnapshotMeta, body: &[u8]) -> Result<(), StoreError> {
        if !meta.describes(body) {
            return Err(Refused::SnapshotBody.into());
        }
        let (staged, temporary) = (self.folder.join(STAGED), self.folder.join("staged.tmp"));
        let mut out = BufWriter::new(create_file(&temporary)?);
        let write = |out: &mut BufWriter<File>| {
            out.write_all(&snapshot_header(&self.identity, meta))?;
            for (crc, frame) in frames(body) {
                out.write_all(&crc)?;
                out.write_all(frame)?;
            }
            out.flush()?;
            out.get_ref().sync_all()
        };
        write(&mut out).map_err(io("write", &temporary))?;
        fs::rename(&temporary, &staged).map_err(io("rename", &temporary))
    }

    fn read(&self) -> Result<Option<(SnapshotMeta, Vec<u8>)>, StoreError> {
        loop {
            let Some(path) = self.newest_path()? else { return Ok(None) };
            match fs::read(&path) {
                Ok(bytes) => return Ok(Some(self.verify(&path, bytes)?)),
                // A newer one was adopted in between, and this one is gone: look again.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(io("read", &path)(error)),
            }
        }
    }
}

//! The guard file on disk. In: slots. Out: durable slots. Absent: what they say and where they stand (`record::ring`).

use super::durable::{create_file, io, open_file};
use record::{Damage, Ledger, Ring, Shape, StoreError, Tip};
use std::fs::{self, File};
use std::io as std_io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// 16 MiB. A slot holds the 350 entries of 256 bytes that a thousand clients bring along during one sync; half the ring is
/// what a member writes while sled takes the other half. The tests of this room go round a small one often.
pub(super) const SHAPE: Shape = match cfg!(test) {
    true => Shape { slots: 8, slot_bytes: 16 << 10 },
    false => Shape { slots: 64, slot_bytes: 128 << 10 },
};

pub(super) struct GuardFile {
    path: PathBuf,
    file: File,
    /// What makes it durable.
    sync: fn(&File) -> std_io::Result<()>,
    /// The buffer of slots.
    slot: Vec<u8>,
}

impl GuardFile {
    /// A new file with the slot of `tip`, the first group, in it. All of it is written, zeros too: later slots touch only
    /// blocks that the file system has given and marked as written, so that their sync writes nothing else.
    pub fn create(path: &Path, ledger: &mut Ledger, tip: &Tip) -> Result<(), StoreError> {
        let file = create_file(path)?;
        let (mut whole, mut slot) = (vec![0; SHAPE.file_bytes()], Vec::new());
        for at in ledger.slot(tip, false, &[], &mut slot).map(|at| at as usize) {
            whole[at..at + slot.len()].copy_from_slice(&slot);
        }
        file.write_all_at(&whole, 0).and_then(|()| file.sync_all()).map_err(io("write", path))
    }

    /// Errs with `Damaged` if it is missing.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if !super::exists(path)? {
            return Err(Damage::Missing { part: "guard file" }.into());
        }
        Ok(Self { path: path.to_owned(), file: open_file(path)?, sync: File::sync_data, slot: Vec::new() })
    }

    /// From here on nothing is synced; what that is worth is for a test to show.
    #[cfg(test)]
    pub fn never_sync(&mut self) {
        self.sync = |_| Ok(());
    }

    /// What the file knows. Says which slots stand there only once.
    pub fn read(&self) -> Result<Ring, StoreError> {
        let bytes = fs::read(&self.path).map_err(io("read", &self.path))?;
        let ring = Ring::read(SHAPE, &bytes)?;
        for group in ring.halved() {
            let path = self.path.display();
            tracing::warn!(group, "one of two copies in {path} does not count: torn by a crash, or damaged");
        }
        Ok(ring)
    }

    /// Writes the slot of the group that leads to `tip`, both copies, and makes it durable. The group whose place it takes
    /// must be durable in the log, and so must its own unless `carried` is its record.
    pub fn write(&mut self, ledger: &mut Ledger, tip: &Tip, carried: &[u8]) -> Result<(), StoreError> {
        let copies = ledger.slot(tip, false, carried, &mut self.slot);
        let written = copies.into_iter().try_for_each(|at| self.file.write_all_at(&self.slot, at));
        written.and_then(|()| (self.sync)(&self.file)).map_err(io("write", &self.path))
    }

    /// Writes the slot of the newest group again, one copy after the other, so that one of them is whole at every moment.
    /// The group must be durable in the log.
    pub fn rewrite(&mut self, ledger: &mut Ledger, clean: bool) -> Result<(), StoreError> {
        let tip = *ledger.tip();
        for at in ledger.slot(&tip, clean, &[], &mut self.slot) {
            let written = self.file.write_all_at(&self.slot, at).and_then(|()| (self.sync)(&self.file));
            written.map_err(io("write", &self.path))?;
        }
        Ok(())
    }
}

//! The guard file, and the thread that syncs it while the log is being synced.
//! In: slots with their offset. Out: durable. Absent: what a guard says (`record::Guard`).

use super::durable::{create_file, io, open_file};
use record::{Damage, Guard, Ledger, SLOT_BYTES, StoreError, Tip};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::{io as std_io, thread};

pub(super) struct GuardFile {
    path: PathBuf,
    file: Arc<File>,
    /// The buffer of slots; away while `begin` is under way.
    slot: Vec<u8>,
    hand: Option<SyncSender<(u64, Vec<u8>)>>,
    back: Receiver<(Vec<u8>, std_io::Result<()>)>,
    thread: Option<JoinHandle<()>>,
}

impl GuardFile {
    /// A new file with `tip` in both slots, so that the loss of one is never the loss of all.
    pub fn create(path: &Path, ledger: &mut Ledger, tip: &Tip) -> Result<(), StoreError> {
        let file = create_file(path)?;
        let (mut whole, mut slot) = (vec![0; 2 * SLOT_BYTES], Vec::new());
        for _ in 0..2 {
            let at = ledger.guard(tip, false, &[], &mut slot) as usize;
            whole[at..at + slot.len()].copy_from_slice(&slot);
        }
        file.write_all_at(&whole, 0).and_then(|()| file.sync_all()).map_err(io("write", path))
    }

    /// Errs with `Damaged` if it is missing.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if !super::exists(path)? {
            return Err(Damage::Missing { part: "guard file" }.into());
        }
        let file = Arc::new(open_file(path)?);
        // One slot at a time: the writer waits for it before the next.
        let (hand, work) = sync_channel::<(u64, Vec<u8>)>(1);
        let (done, back) = sync_channel(1);
        let theirs = file.clone();
        let body = move || {
            for (offset, slot) in work {
                let result = write_slot(&theirs, offset, &slot);
                if done.send((slot, result)).is_err() {
                    return;
                }
            }
        };
        let thread =
            thread::Builder::new().name("store-guard".into()).spawn(body).map_err(io("start a thread for", path))?;
        Ok(Self { path: path.to_owned(), file, slot: Vec::new(), hand: Some(hand), back, thread: Some(thread) })
    }

    /// The newest guard in the file.
    pub fn read(&self) -> Result<Guard, StoreError> {
        let bytes = fs::read(&self.path).map_err(io("read", &self.path))?;
        Ok(Guard::newest(&bytes.into())?)
    }

    /// Writes the guard of `tip` and makes it durable. The group must be durable already.
    pub fn write(&mut self, ledger: &mut Ledger, tip: &Tip, clean: bool) -> Result<(), StoreError> {
        let offset = ledger.guard(tip, clean, &[], &mut self.slot);
        write_slot(&self.file, offset, &self.slot).map_err(io("write", &self.path))
    }

    /// Starts to write the guard of `tip` together with its record. To be followed by `finish`.
    pub fn begin(&mut self, ledger: &mut Ledger, tip: &Tip, record: &[u8]) {
        let mut slot = std::mem::take(&mut self.slot);
        let offset = ledger.guard(tip, false, record, &mut slot);
        let hand = self.hand.as_ref().expect("the thread lives as long as this");
        hand.send((offset, slot)).expect("the thread ends only when the channel does");
    }

    /// Waits until what was begun is durable.
    pub fn finish(&mut self) -> Result<(), StoreError> {
        let (slot, result) = self.back.recv().expect("the thread ends only when the channel does");
        self.slot = slot;
        result.map_err(io("write", &self.path))
    }
}

fn write_slot(file: &File, offset: u64, slot: &[u8]) -> std_io::Result<()> {
    file.write_all_at(slot, offset)?;
    file.sync_data()
}

impl Drop for GuardFile {
    fn drop(&mut self) {
        drop(self.hand.take());
        if let Some(thread) = self.thread.take() {
            // It holds nothing that could panic; and if it did, the store is at its end anyway.
            let _ = thread.join();
        }
    }
}

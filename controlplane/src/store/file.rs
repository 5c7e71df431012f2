//! The log as plain segment files, record behind record. The exit if sled disappoints: same records, nothing between.
//! In: records. Out: durable records. Absent: judgement. A segment is named by the number of its first record.

use super::disk::Log;
use super::durable::{create_file, io, open_file, remove_file, sync_folder};
use bytes::Bytes;
use record::{Found, Scan, StoreError};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Big enough that making a segment is rare, small enough that compaction frees space soon. The tests of this room get
/// many small ones.
const SEGMENT_BYTES: u64 = if cfg!(test) { 64 << 10 } else { 16 << 20 };
const SUFFIX: &str = "log";

pub(super) struct FileLog {
    folder: PathBuf,
    /// Numbers of the first record of each segment, ascending; the last one is written to.
    segments: Vec<u64>,
    active: File,
    active_bytes: u64,
}

impl FileLog {
    /// A new log with one record in it, durable down to the folder.
    pub fn create(folder: &Path, number: u64, record: &[u8]) -> Result<Self, StoreError> {
        let path = segment_path(folder, number);
        let mut file = create_file(&path)?;
        file.write_all(record).and_then(|()| file.sync_all()).map_err(io("write", &path))?;
        sync_folder(folder)?;
        Self::open(folder)
    }

    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let mut segments = Vec::new();
        for entry in fs::read_dir(folder).map_err(io("list", folder))? {
            let path = entry.map_err(io("list", folder))?.path();
            let name = path.file_stem().and_then(|stem| u64::from_str_radix(stem.to_str()?, 16).ok());
            if let Some(first) = name.filter(|first| segment_path(folder, *first) == path) {
                segments.push(first);
            }
        }
        segments.sort_unstable();
        let Some(last) = segments.last() else {
            return Err(record::Damage::Missing { part: "log" }.into());
        };
        let (active, active_bytes) = open_at_end(&segment_path(folder, *last))?;
        Ok(Self { folder: folder.to_owned(), segments, active, active_bytes })
    }

    fn path(&self, first: u64) -> PathBuf {
        segment_path(&self.folder, first)
    }

    fn read(&self, first: u64) -> Result<Bytes, StoreError> {
        let path = self.path(first);
        Ok(fs::read(&path).map_err(io("read", &path))?.into())
    }

    fn active_path(&self) -> PathBuf {
        self.path(*self.segments.last().expect("there is always a segment"))
    }

    fn rotate(&mut self, number: u64) -> Result<(), StoreError> {
        self.active.sync_data().map_err(io("write", &self.active_path()))?;
        self.active = create_file(&self.path(number))?;
        self.active_bytes = 0;
        sync_folder(&self.folder)?;
        self.segments.push(number);
        Ok(())
    }
}

impl Log for FileLog {
    fn records(&mut self) -> Result<Vec<Found>, StoreError> {
        let mut found = Vec::new();
        for first in &self.segments {
            found.extend(Scan::new(self.read(*first)?));
        }
        Ok(found)
    }

    fn cut(&mut self, mut kept: usize, _last: u64) -> Result<(), StoreError> {
        let mut at = 0;
        while at < self.segments.len() {
            let mut scan = Scan::new(self.read(self.segments[at])?);
            let whole = scan.by_ref().take(kept).filter(|found| matches!(found, Found::Record(_))).count();
            kept -= whole;
            if kept == 0 {
                let path = self.path(self.segments[at]);
                let (file, _) = open_at_end(&path)?;
                file.set_len(scan.offset).and_then(|()| file.sync_all()).map_err(io("cut", &path))?;
                break;
            }
            at += 1;
        }
        for first in self.segments.drain((at + 1).min(self.segments.len())..) {
            remove_file(&segment_path(&self.folder, first))?;
        }
        sync_folder(&self.folder)?;
        (self.active, self.active_bytes) = open_at_end(&self.active_path())?;
        Ok(())
    }

    fn append(&mut self, records: &[(u64, Vec<u8>)]) -> Result<(), StoreError> {
        for (number, record) in records {
            if self.active_bytes >= SEGMENT_BYTES {
                self.rotate(*number)?;
            }
            self.active.write_all(record).map_err(|source| io("write", &self.active_path())(source))?;
            self.active_bytes += record.len() as u64;
        }
        self.active.sync_data().map_err(|source| io("write", &self.active_path())(source))
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        for first in &self.segments {
            let path = self.path(*first);
            open_file(&path)?.sync_all().map_err(io("sync", &path))?;
        }
        sync_folder(&self.folder)
    }

    fn remove_below(&mut self, first_kept: u64) -> Result<bool, StoreError> {
        // A segment may go once the next one starts at or below what is kept. Oldest first and one by one, so that a
        // crash never leaves a gap.
        let goes = self.segments.get(1).is_some_and(|next| *next <= first_kept);
        if goes {
            remove_file(&self.path(self.segments[0]))?;
            sync_folder(&self.folder)?;
            self.segments.remove(0);
        }
        Ok(goes)
    }

    fn close(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

fn segment_path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:016x}.{SUFFIX}"))
}

fn open_at_end(path: &Path) -> Result<(File, u64), StoreError> {
    let mut file = open_file(path)?;
    let end = file.seek(SeekFrom::End(0)).map_err(io("open", path))?;
    Ok((file, end))
}

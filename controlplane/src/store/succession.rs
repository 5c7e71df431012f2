//! A member's next store takes the place of the one it has: all of it at one moment, whatever ends in between.
//! In: a store and papers made whole in `next/`. Out: the folder with those, the store before put aside for whoever wants to
//! look. Absent: what is in the new store.
//!
//! The one moment is the mark `succeeding`. Without it `next/` was never promised to anybody and goes; with it every step
//! that is left is taken by whoever locks the folder next, before anything is read.

use std::fs;
use std::path::PathBuf;

use record::StoreError;

use super::Folder;
use super::durable::{exists, io, make_read_only, remove_file, sync_folder, write_durably};

/// What moves from `next/`, in this order: the store before what says whose it is.
const PARTS: [&str; 3] = ["member", "owner", "member.toml"];

impl Folder {
    /// An empty folder for what comes next. What an earlier attempt left in it is gone.
    pub fn next(&self) -> Result<Folder, StoreError> {
        self.finish_succession()?;
        Folder::lock(&self.next_path())
    }

    /// Where the papers of the next store are written.
    pub fn next_path(&self) -> PathBuf {
        self.path.join("next")
    }

    /// What stands in `next/` is the store from here on; the one before is kept under the name `aside`, and never opened
    /// again because of `why`. The disk in it must be closed. When this errs, one of the two stands, whole.
    pub fn succeed(&self, aside: &str, why: &str) -> Result<PathBuf, StoreError> {
        self.begin_succession(&format!("{aside}\n{why}"))?;
        self.finish_succession()?;
        Ok(self.path.join(aside))
    }

    /// The moment. `told`: the name of the place for the store before, and in a second line why it is not used again.
    pub(super) fn begin_succession(&self, told: &str) -> Result<(), StoreError> {
        for part in PARTS {
            let missing = self.next_path().join(part);
            if !exists(&missing)? {
                return Err(io("look for", &missing)(std::io::ErrorKind::NotFound.into()));
            }
        }
        write_durably(&self.succeeding(), told.as_bytes())
    }

    /// Goes on with what was cut off, or removes what never began.
    pub(super) fn finish_succession(&self) -> Result<(), StoreError> {
        let next = self.next_path();
        if exists(&self.succeeding())? {
            let told = fs::read_to_string(self.succeeding()).map_err(io("read", &self.succeeding()))?;
            let (name, why) = told.split_once('\n').unwrap_or((&told, "another store took its place"));
            let aside = self.path.join(name);
            for part in PARTS {
                self.succeed_part(part, &aside)?;
            }
            if exists(&aside)? && !exists(&aside.join("quarantined"))? {
                write_durably(&aside.join("quarantined"), why.as_bytes())?;
            }
            remove_file(&self.succeeding())?;
            sync_folder(&self.path)?;
            if exists(&aside)? {
                make_read_only(&aside)?;
            }
        }
        if exists(&next)? {
            fs::remove_dir_all(&next).map_err(io("remove the rest of", &next))?;
            sync_folder(&self.path)?;
        }
        Ok(())
    }

    fn succeed_part(&self, part: &str, aside: &std::path::Path) -> Result<(), StoreError> {
        let (new, place) = (self.next_path().join(part), self.path.join(part));
        if !exists(&new)? {
            return Ok(());
        }
        if part == "member" && exists(&place)? {
            fs::rename(&place, aside).map_err(io("put aside", &place))?;
            sync_folder(&self.path)?;
        }
        fs::rename(&new, &place).map_err(io("put in place", &new))?;
        sync_folder(&self.path)
    }

    fn succeeding(&self) -> PathBuf {
        self.path.join("succeeding")
    }
}

//! Which templates this node finds on which storage, for whoever starts containers. In: what was found at the last look, what
//! a reading found damaged, that something was brought or taken away. Out: where a layer can be had.
//! Absent: the looking itself, and which templates there should be; see `surroundings`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cluster::{Name, Template};
use tokio::sync::Notify;

/// Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Shelves(Arc<Inner>);

#[derive(Default)]
struct Inner {
    known: Mutex<Known>,
    stale: Notify,
}

#[derive(Default)]
struct Known {
    /// By storage: the folder it lies in, and what is whole there.
    whole: BTreeMap<Name, (PathBuf, Arc<[Name]>)>,
    /// Storage's folder and digest of what was read and is not what it should be, until a reading says otherwise.
    damaged: BTreeSet<(PathBuf, Box<str>)>,
}

impl Shelves {
    /// The folder of a storage on which an imported template is, if `own` is not the one to take it from.
    pub fn elsewhere(&self, own: &Path, template: &Template) -> Option<PathBuf> {
        if !template.is_imported() {
            return None;
        }
        let known = self.known();
        let has_it =
            |(folder, names): &&(PathBuf, Arc<[Name]>)| folder != own && names.binary_search(&template.name).is_ok();
        known.whole.values().find(has_it).map(|(folder, _)| folder.clone())
    }

    pub fn is_damaged(&self, folder: &Path, digest: &str) -> bool {
        self.known().damaged.contains(&(folder.to_owned(), digest.into()))
    }

    /// A copy was read from its first byte to its last.
    pub fn was_read(&self, folder: &Path, digest: &str, is_whole: bool) {
        let copy = (folder.to_owned(), digest.into());
        let changed = match is_whole {
            true => self.known().damaged.remove(&copy),
            false => self.known().damaged.insert(copy),
        };
        if changed {
            self.changed();
        }
    }

    /// Something was brought or taken away: what was found before may be wrong now.
    pub fn changed(&self) {
        self.0.stale.notify_one();
    }

    /// Comes back when [`Shelves::changed`] was called since it last did.
    pub async fn stale(&self) {
        self.0.stale.notified().await;
    }

    /// All that was found at the last look, by storage.
    pub fn put(&self, whole: BTreeMap<Name, (PathBuf, Arc<[Name]>)>) {
        self.known().whole = whole;
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

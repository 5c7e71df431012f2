//! Which templates a node finds on which storage, as it says itself.
//! Absence is a word too: a node says it of what it was told to look for, and of nothing that was registered later.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ids::{Name, Revision};
use super::storage::Storage;
use super::template::Template;

/// By storage. One that could not be looked at, or not yet, is missing here: nothing is known of what is on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Inventory {
    pub shelves: Arc<BTreeMap<Name, Shelf>>,
}

/// The templates on one storage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shelf {
    /// Every template registered up to here was looked for: one that is not named below is not there.
    pub seen: Revision,
    /// Ascending.
    pub present: Arc<[Name]>,
    /// There, and not what their digest says. Ascending; in no other list.
    pub damaged: Arc<[Name]>,
}

/// What a node knows of a template; the better comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TemplateSight {
    Present,
    /// Nobody has looked since it was registered, or nobody can.
    Unknown,
    Damaged,
    Absent,
}

impl Inventory {
    /// What is said of `template` on `storage`.
    pub fn sight(&self, template: &Template, storage: &Storage) -> TemplateSight {
        match self.shelves.get(&storage.name) {
            Some(shelf) if shelf.seen >= template.registered.max(storage.registered) => shelf.sight(&template.name),
            _ => TemplateSight::Unknown,
        }
    }
}

impl Shelf {
    fn sight(&self, template: &Name) -> TemplateSight {
        if self.present.binary_search(template).is_ok() {
            TemplateSight::Present
        } else if self.damaged.binary_search(template).is_ok() {
            TemplateSight::Damaged
        } else {
            TemplateSight::Absent
        }
    }
}

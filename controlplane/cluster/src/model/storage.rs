//! Where private areas live.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ids::{Name, Revision};

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Storage {
    pub name: Name,
    pub kind: StorageKind,
    pub registered: Revision,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StorageKind {
    /// A shared file system that every node sees at the same absolute path.
    Directory { path: Arc<str> },
    /// A folder on each node's own disks, at the same absolute path: what lies there lies on one node alone.
    Local { path: Arc<str> },
}

/// The first kind hashes as it did when it was the only one: state hashes of older snapshots stay true.
impl Hash for StorageKind {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            StorageKind::Directory { path } => path.hash(state),
            StorageKind::Local { path } => (self.word(), path).hash(state),
        }
    }
}

impl StorageKind {
    /// Where it is mounted, the same on every node.
    pub fn path(&self) -> &Arc<str> {
        match self {
            StorageKind::Directory { path } | StorageKind::Local { path } => path,
        }
    }

    /// Another node cannot go on with what lies there.
    pub fn is_local(&self) -> bool {
        matches!(self, StorageKind::Local { .. })
    }

    /// In one word, as people give it.
    pub fn word(&self) -> &'static str {
        match self {
            StorageKind::Directory { .. } => "directory",
            StorageKind::Local { .. } => "local",
        }
    }
}

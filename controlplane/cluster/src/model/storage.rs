//! Where private areas live.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ids::{Name, Revision};

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Storage {
    pub name: Name,
    pub kind: StorageKind,
    pub registered: Revision,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StorageKind {
    /// A shared file system that every node sees at the same absolute path.
    Directory { path: Arc<str> },
}

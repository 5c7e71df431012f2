//! What a node finds of itself and its surroundings while it serves: said by its agent, kept apart from `Node` because it
//! changes more often, and replaced as a whole.
//! One field a concern. Each is bounded by `apply`, and rounded by whoever finds it: what trembles would fill the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ids::{Incarnation, Name, Revision};
use super::inventory::Inventory;
use super::time::Span;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodeReport {
    /// What it finds of each storage it was told to watch, as far as it has looked.
    pub storages: Arc<BTreeMap<Name, StorageFinding>>,
    pub templates: Inventory,
}

/// The last report of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeptReport {
    /// Which incarnation said it. That of one before the current says what was found then.
    pub incarnation: Incarnation,
    pub since: Revision,
    pub report: Arc<NodeReport>,
}

/// A storage as one node finds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StorageFinding {
    /// Why nothing that needs it can run here; empty where something can.
    pub fault: Arc<str>,
    /// Of the file system it lies on.
    pub bytes_total: u64,
    /// Rounded down.
    pub bytes_free: u64,
    /// From the order to write a little to its being durable, rounded up.
    pub latency: Span,
    pub areas: AreaMethod,
}

/// How a private area is made of its template there: the best way the file system allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AreaMethod {
    /// Not tried.
    #[default]
    Unknown,
    /// A layer of its own over the template, which is not copied.
    Overlay,
    /// A copy of the template that shares its blocks.
    Reflink,
    Copy,
}

impl StorageFinding {
    pub fn is_usable(&self) -> bool {
        self.fault.is_empty()
    }
}

//! OS and application templates: named, versioned, addressed by digest, placed only where a runtime can find them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ids::{Name, Revision};

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Template {
    pub name: Name,
    pub version: Arc<str>,
    /// What the content hashes to, `sha256:…`; empty for a template that is only a label of commands.
    pub digest: Arc<str>,
    pub kind: TemplateKind,
    /// Directory below the shared storage that holds the root file system; empty = the node's own.
    pub path: Arc<str>,
    pub registered: Revision,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TemplateKind {
    #[default]
    Os,
    Application,
}

//! OS and application templates: named, versioned, addressed by digest, placed only where a runtime can find them.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ids::{Name, Revision};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    pub name: Name,
    pub version: Arc<str>,
    /// What the content hashes to, `sha256:…`; empty for a template that is only a label of commands.
    pub digest: Arc<str>,
    pub kind: TemplateKind,
    /// Directory below the shared storage that holds the root file system; empty = the node's own.
    pub path: Arc<str>,
    pub registered: Revision,
    /// Of all its files' content; 0 where nobody counted them.
    pub bytes: u64,
    pub defaults: Arc<TemplateDefaults>,
}

/// What a template had before it could be imported hashes as it did: state hashes of older snapshots stay true.
impl Hash for Template {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Template { name, version, digest, kind, path, registered, bytes, defaults } = self;
        (name, version, digest, kind, path, registered).hash(state);
        if *bytes != 0 || **defaults != TemplateDefaults::default() {
            (bytes, defaults).hash(state);
        }
    }
}

impl Template {
    /// Its place follows from its digest, on every storage, and so does all that it holds.
    pub fn is_imported(&self) -> bool {
        self.digest.strip_prefix("sha256:").is_some_and(|hex| *self.path == *Template::imported_path(hex))
    }

    /// Below a storage, where an import puts what has the SHA-256 `hex`.
    pub fn imported_path(hex: &str) -> String {
        format!("templates/sha256-{hex}/rootfs")
    }
}

/// How a template's containers are run where they do not say themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TemplateDefaults {
    /// Argument vector; empty = its init.
    pub command: Arc<[Box<str>]>,
    pub environment: Arc<BTreeMap<String, String>>,
    /// Where the first program starts; empty = the private area.
    pub working_dir: Arc<str>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TemplateKind {
    #[default]
    Os,
    Application,
}

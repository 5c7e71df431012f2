//! Copies of templates on the storages this node sees: looked for, read again, discarded.
//! In: a place on a storage. Out: what was found there; what cannot be looked at is a finding too.
//! Absent: which templates there should be.

use std::ops::ControlFlow;
use std::path::Path;

use cluster::NodeId;
use proto::wire::{TemplateFound, TemplatePlace, TemplatePresence as Is};
use template::{Digest, Discarded, ImportError, Progress};

/// Whether it is there. Of what was imported its manifest is read, of anything else only that its folder is there.
pub fn look(place: &TemplatePlace) -> TemplateFound {
    let storage = Path::new(&place.storage_path);
    let Some(digest) = imported(place) else {
        return match storage.read_dir() {
            Err(error) => found(Is::Unreadable, format!("look into {}: {error}", storage.display())),
            Ok(_) if storage.join(&place.path).is_dir() => found(Is::Present, String::new()),
            Ok(_) => found(Is::Absent, String::new()),
        };
    };
    match template::look(storage, &digest) {
        Ok(Some((kept, claim))) => TemplateFound { bytes: kept.bytes, claim, ..found(Is::Present, String::new()) },
        Ok(None) => found(Is::Absent, String::new()),
        Err(error) => wrong(&error),
    }
}

/// Whether it is what its digest says. Errs only where it was called off.
pub fn verify(
    place: &TemplatePlace,
    tell: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<TemplateFound, ImportError> {
    let Some(digest) = imported(place) else {
        return Ok(found(Is::Unreadable, "it was not imported, and nothing says what it should hold".to_owned()));
    };
    match template::verify(Path::new(&place.storage_path), &digest, tell) {
        Ok(kept) => Ok(TemplateFound { bytes: kept.bytes, ..found(Is::Present, String::new()) }),
        Err(ImportError::CalledOff) => Err(ImportError::CalledOff),
        Err(error) => Ok(wrong(&error)),
    }
}

/// Removes it, unless it was brought again since its claim was seen.
pub fn discard(place: &TemplatePlace, node: NodeId) -> TemplateFound {
    let Some(digest) = imported(place) else {
        return found(Is::Unreadable, "it was not imported: it is not ours to remove".to_owned());
    };
    let storage = Path::new(&place.storage_path);
    match template::discard(storage, &node.to_string(), &digest, &place.claim) {
        Ok(Discarded::Gone) => {
            tracing::info!(%digest, storage = place.storage_path, "template is discarded");
            found(Is::Discarded, String::new())
        }
        Ok(Discarded::Absent) => found(Is::Absent, String::new()),
        Ok(Discarded::Claimed) => found(Is::Claimed, String::new()),
        Err(error) => found(Is::Unreadable, error.line()),
    }
}

/// The digest of a place where an import would have put it.
fn imported(place: &TemplatePlace) -> Option<Digest> {
    let digest = place.digest.parse().ok()?;
    (template::path_of(&digest) == place.path).then_some(digest)
}

fn wrong(error: &ImportError) -> TemplateFound {
    let presence = match error {
        ImportError::Absent { .. } => return found(Is::Absent, String::new()),
        ImportError::Spoilt { .. } | ImportError::Entry { .. } => Is::Damaged,
        _ => Is::Unreadable,
    };
    found(presence, error.line())
}

fn found(presence: Is, problem: String) -> TemplateFound {
    TemplateFound { presence: presence.into(), problem, ..TemplateFound::default() }
}

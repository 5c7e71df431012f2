//! Templates that are on a storage, seen again: looked for, read again, removed.
//! In: the storage, the digest. Out: what is there. Looking and reading change nothing, and make no folder.
//! Absent: whether anybody still wants a template; who orders it to be discarded knows that.

use std::ops::ControlFlow;
use std::path::Path;

use crate::digest::Digest;
use crate::error::ImportError;
use crate::progress::{Meter, Progress};
use crate::store::{Discarded, Kept, Store};

/// What is said of the template, and who brought it last; `None` where it is not there. Its tree is not read.
pub fn look(storage: &Path, digest: &Digest) -> Result<Option<(Kept, String)>, ImportError> {
    let store = reachable(storage, "")?;
    Ok(store.find(digest)?.map(|kept| (kept, store.claimed(digest))))
}

/// Reads it again. Errs with [`ImportError::Spoilt`] or [`ImportError::Entry`] where it is not what its digest says.
pub fn verify(
    storage: &Path,
    digest: &Digest,
    tell: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Kept, ImportError> {
    reachable(storage, "")?.verify(digest, &Meter::new(tell))
}

/// Removes it, unless it was brought again since `claim` was seen. `owner` is this node's.
pub fn discard(storage: &Path, owner: &str, digest: &Digest, claim: &str) -> Result<Discarded, ImportError> {
    let store = reachable(storage, owner)?;
    if store.find(digest).is_ok_and(|kept| kept.is_none()) {
        return Ok(Discarded::Absent);
    }
    store.discard(digest, claim)
}

/// Below every storage, the root file system of what has this digest.
pub fn path_of(digest: &Digest) -> String {
    Store::path_of(digest)
}

fn reachable(storage: &Path, owner: &str) -> Result<Store, ImportError> {
    // A share that is not mounted is often an empty folder; one that is gone is none.
    storage.read_dir().map_err(ImportError::io("look into", storage))?;
    Ok(Store::at(storage, owner))
}

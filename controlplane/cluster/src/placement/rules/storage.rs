//! The storage of its private area must be registered.

use super::Case;
use crate::placement::Rejection;

pub(super) fn rule(case: &Case) -> Result<(), Rejection> {
    let storage = &case.container.spec.storage;
    match case.state.storage(storage) {
        Some(_) => Ok(()),
        None => Err(Rejection::StorageUnknown { storage: storage.clone() }),
    }
}

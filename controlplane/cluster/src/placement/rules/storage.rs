//! The storage of its private area must be registered.

use super::Case;
use crate::placement::Rejection;

pub(super) fn rule(case: &Case) -> Result<(), Rejection> {
    if case.seeker.storage.is_some() {
        return Ok(());
    }
    Err(Rejection::StorageUnknown { storage: case.container.spec.storage.clone() })
}

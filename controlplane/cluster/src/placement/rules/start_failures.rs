//! Where it could not be started lately it is not tried again soon.

use super::Case;
use crate::placement::Rejection;

pub(super) fn rule(case: &Case) -> Result<(), Rejection> {
    match case.container.start_failures.iter().find(|failure| failure.node == case.node.id) {
        Some(failure) if failure.counts(case.seeker.now()) => {
            Err(Rejection::StartFailedHere { reason: std::sync::Arc::clone(&failure.reason) })
        }
        _ => Ok(()),
    }
}

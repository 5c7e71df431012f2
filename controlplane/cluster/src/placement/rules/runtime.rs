//! A node that proved no runtime can start nothing.

use super::Case;
use crate::placement::Rejection;

pub(super) fn rule(case: &Case) -> Result<(), Rejection> {
    match &case.node.facts {
        Some(facts) if !facts.runtimes.is_empty() => Ok(()),
        _ => Err(Rejection::NoRuntime),
    }
}

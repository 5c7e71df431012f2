//! Only a node that is up may take anything: not one that never registered, is being fenced or is fenced.

use super::Case;
use crate::placement::Rejection;

pub(super) fn rule(case: &Case) -> Result<(), Rejection> {
    if case.node.up().is_some() { Ok(()) } else { Err(Rejection::NotUp) }
}

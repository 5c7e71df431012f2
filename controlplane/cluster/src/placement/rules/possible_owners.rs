//! The possible owners, where there are any, are the only nodes.

use super::Case;
use crate::placement::Rejection;

pub(super) fn rule(case: &Case) -> Result<(), Rejection> {
    let owners = &case.container.spec.possible_owners;
    if owners.is_empty() || owners.contains(&case.node.id) { Ok(()) } else { Err(Rejection::NotPossibleOwner) }
}

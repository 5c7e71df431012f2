//! The possible owners, where there are any, are the only nodes. One of class `none` that ended by itself has only the
//! node it ended on.

use super::Case;
use crate::model::container::{Class, Placement, Unplaced};
use crate::placement::Rejection;

pub(super) fn rule(case: &Case) -> Result<(), Rejection> {
    let spec = &case.container.spec;
    let may = spec.possible_owners.is_empty() || spec.possible_owners.contains(&case.node.id);
    let bound_elsewhere = match &case.container.placement {
        Placement::Unplaced { reason: Unplaced::Ended { on, .. }, .. } => {
            spec.class == Class::None && *on != case.node.id
        }
        _ => false,
    };
    if may && !bound_elsewhere { Ok(()) } else { Err(Rejection::NotPossibleOwner) }
}

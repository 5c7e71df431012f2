//! A cordoned, draining or resting node takes nothing new.

use super::Case;
use crate::placement::Rejection;

pub(super) fn rule(case: &Case) -> Result<(), Rejection> {
    if case.node.accepts_new_work() { Ok(()) } else { Err(Rejection::NotSchedulable) }
}

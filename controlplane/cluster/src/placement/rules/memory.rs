//! Memory is given out once: a node never promises more than it has.

use super::Case;
use crate::placement::Rejection;

pub(super) fn rule(case: &Case) -> Result<(), Rejection> {
    let wanted = case.used_by_others.plus(case.container.spec.resources).memory_bytes;
    match wanted.saturating_sub(case.node.capacity().memory_bytes) {
        0 => Ok(()),
        missing_bytes => Err(Rejection::MemoryShort { missing_bytes }),
    }
}

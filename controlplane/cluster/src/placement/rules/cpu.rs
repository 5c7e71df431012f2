//! CPU is given out four times: shares are rarely used at once, and being short of them only slows.

use super::Case;
use crate::placement::Rejection;

/// Promised shares per core. Source: semantics.md 5.
pub const CPU_OVERCOMMIT: u64 = 4;

pub(super) fn rule(case: &Case) -> Result<(), Rejection> {
    let wanted = case.used_by_others.plus(case.container.spec.resources).cpu_millis;
    match wanted.saturating_sub(case.node.capacity().cpu_millis.saturating_mul(CPU_OVERCOMMIT)) {
        0 => Ok(()),
        missing_millis => Err(Rejection::CpuShort { missing_millis }),
    }
}

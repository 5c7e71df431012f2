//! The storage of its private area must be registered, and not lost on the node; what nobody has found yet is no fault.
//! A local one holds the area on one node alone: that of its home, once it has one.

use super::Case;
use crate::placement::Rejection;

pub(super) fn rule(case: &Case) -> Result<(), Rejection> {
    let wanted = &case.container.spec.storage;
    let Some(storage) = case.seeker.storage else {
        return Err(Rejection::StorageUnknown { storage: wanted.clone() });
    };
    if storage.kind.is_local()
        && let Some(home) = case.container.home.filter(|home| *home != case.node.id)
    {
        return Err(Rejection::AreaElsewhere { storage: wanted.clone(), home });
    }
    let report = case.seeker.report_of(case.node.id);
    match report.and_then(|report| report.storages.get(wanted)).filter(|finding| !finding.is_usable()) {
        None => Ok(()),
        Some(finding) => {
            Err(Rejection::StorageLost { storage: wanted.clone(), fault: std::sync::Arc::clone(&finding.fault) })
        }
    }
}

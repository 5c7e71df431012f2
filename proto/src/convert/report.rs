//! What nodes find of themselves and their surroundings.

use std::collections::BTreeMap;
use std::sync::Arc;

use cluster::{AreaMethod, NodeReport, Span, StorageFinding};

use super::{ConvertError, Result, choice, name, same_variants, text};
use crate::wire;

same_variants! {
    AreaMethod = wire::AreaMethod { Unknown, Overlay, Reflink, Copy }
}

impl From<&NodeReport> for wire::NodeReport {
    fn from(report: &NodeReport) -> wire::NodeReport {
        let NodeReport { storages } = report;
        let finding = |(storage, finding): (&cluster::Name, &StorageFinding)| {
            let StorageFinding { fault, bytes_total, bytes_free, latency, areas } = finding;
            wire::StorageFinding {
                storage: storage.to_string(),
                fault: text(fault),
                bytes_total: *bytes_total,
                bytes_free: *bytes_free,
                latency_ns: latency.0,
                areas: wire::AreaMethod::from(*areas).into(),
            }
        };
        wire::NodeReport { storages: storages.iter().map(finding).collect() }
    }
}

impl TryFrom<wire::NodeReport> for NodeReport {
    type Error = ConvertError;

    fn try_from(report: wire::NodeReport) -> Result<NodeReport> {
        let wire::NodeReport { storages } = report;
        let mut found = BTreeMap::new();
        for (place, finding) in storages.into_iter().enumerate() {
            let at = |error: ConvertError| error.under(&format!("storages[{place}]"));
            let storage = name("storage", &finding.storage).map_err(at)?;
            let areas = choice::<wire::AreaMethod, _>("areas", finding.areas).map_err(at)?;
            let finding = StorageFinding {
                fault: finding.fault.into(),
                bytes_total: finding.bytes_total,
                bytes_free: finding.bytes_free,
                latency: Span(finding.latency_ns),
                areas,
            };
            if found.insert(storage, finding).is_some() {
                return Err(at(ConvertError::invalid("storage", "is named twice")));
            }
        }
        Ok(NodeReport { storages: Arc::new(found) })
    }
}

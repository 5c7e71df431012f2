//! What nodes find of themselves and their surroundings.

use std::collections::BTreeMap;
use std::sync::Arc;

use cluster::{AreaMethod, Inventory, NodeReport, Revision, Shelf, Span, StorageFinding};

use super::{ConvertError, Result, choice, name, same_variants, text};
use crate::wire;

same_variants! {
    AreaMethod = wire::AreaMethod { Unknown, Overlay, Reflink, Copy }
}

impl From<&NodeReport> for wire::NodeReport {
    fn from(report: &NodeReport) -> wire::NodeReport {
        let NodeReport { storages, templates } = report;
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
        wire::NodeReport {
            storages: storages.iter().map(finding).collect(),
            templates: templates.shelves.iter().map(shelf).collect(),
        }
    }
}

impl TryFrom<wire::NodeReport> for NodeReport {
    type Error = ConvertError;

    fn try_from(report: wire::NodeReport) -> Result<NodeReport> {
        let wire::NodeReport { storages, templates } = report;
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
        Ok(NodeReport { storages: Arc::new(found), templates: inventory(templates)? })
    }
}

fn shelf((storage, shelf): (&cluster::Name, &Shelf)) -> wire::Shelf {
    let Shelf { seen, present, damaged } = shelf;
    let names = |names: &[cluster::Name]| names.iter().map(ToString::to_string).collect();
    wire::Shelf { storage: storage.to_string(), seen: seen.0, present: names(present), damaged: names(damaged) }
}

fn inventory(shelves: Vec<wire::Shelf>) -> Result<Inventory> {
    let mut found = BTreeMap::new();
    for (place, shelf) in shelves.into_iter().enumerate() {
        let at = |error: ConvertError| error.under(&format!("templates[{place}]"));
        let names =
            |field: &str, names: &[String]| names.iter().map(|it| name(field, it)).collect::<Result<Arc<[_]>>>();
        let storage = name("storage", &shelf.storage).map_err(at)?;
        let shelf = Shelf {
            seen: Revision(shelf.seen),
            present: names("present", &shelf.present).map_err(at)?,
            damaged: names("damaged", &shelf.damaged).map_err(at)?,
        };
        if found.insert(storage, shelf).is_some() {
            return Err(at(ConvertError::invalid("storage", "is named twice")));
        }
    }
    Ok(Inventory { shelves: Arc::new(found) })
}

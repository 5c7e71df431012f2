//! Storages, and what nodes find of them and of themselves.

use cluster::{AreaMethod, Container, Name, Node, NodeReport, State, Storage, StorageFinding, StorageKind};

use super::millis;
use crate::v1;

/// What the node said last of what it finds.
pub fn node_report(state: &State, node: &Node) -> Option<v1::NodeReport> {
    let kept = state.node_report(node.id)?;
    let NodeReport { storages, templates: _ } = &*kept.report;
    Some(v1::NodeReport {
        storages: storages.iter().map(|(storage, found)| storage_finding(node, storage, found)).collect(),
        incarnation: kept.incarnation.0,
        revision: kept.since.0,
    })
}

/// A storage as `node` sees it.
pub fn storage_finding(node: &Node, storage: &Name, found: &StorageFinding) -> v1::StorageFinding {
    let areas = match found.areas {
        AreaMethod::Unknown => v1::AreaMethod::Unknown,
        AreaMethod::Overlay => v1::AreaMethod::Overlay,
        AreaMethod::Reflink => v1::AreaMethod::Reflink,
        AreaMethod::Copy => v1::AreaMethod::Copy,
    };
    v1::StorageFinding {
        storage: storage.to_string(),
        node: node.name.to_string(),
        usable: found.is_usable(),
        fault: found.fault.to_string(),
        bytes_total: found.bytes_total,
        bytes_free: found.bytes_free,
        latency_ms: millis(found.latency),
        areas: areas.into(),
    }
}

/// How many containers on the node have their private area there alone.
pub fn containers_bound(state: &State, node: &Node) -> u32 {
    let bound = state.claims(node.id).filter(|(container, _)| is_bound(state, container));
    u32::try_from(bound.count()).unwrap_or(u32::MAX)
}

/// Its private area lies on one node alone.
pub(super) fn is_bound(state: &State, container: &Container) -> bool {
    state.storage(&container.spec.storage).is_some_and(|storage| storage.kind.is_local())
}

pub fn storage(state: &State, storage: &Storage) -> v1::Storage {
    let Storage { name, kind, registered } = storage;
    let kind = match kind {
        StorageKind::Directory { path } => {
            v1::storage::Kind::Directory(v1::DirectoryStorage { path: path.to_string() })
        }
        StorageKind::Local { path } => v1::storage::Kind::Local(v1::LocalStorage { path: path.to_string() }),
    };
    let (mut usable, mut lost) = (0, 0);
    for (_, found) in seen_by(state, name) {
        *if found.is_usable() { &mut usable } else { &mut lost } += 1;
    }
    v1::Storage {
        name: name.to_string(),
        kind: Some(kind),
        registered_revision: registered.0,
        containers: state.storage_uses(name),
        nodes_usable: usable,
        nodes_lost: lost,
        findings: Vec::new(),
    }
}

/// How each node that has looked sees it, by node.
pub fn storage_findings(state: &State, name: &Name) -> Vec<v1::StorageFinding> {
    let mut findings: Vec<_> = seen_by(state, name).map(|(node, found)| storage_finding(node, name, found)).collect();
    findings.sort_unstable_by(|one, other| one.node.cmp(&other.node));
    findings
}

/// What was found by nodes that serve; of the others nothing that was found counts.
fn seen_by<'s>(state: &'s State, name: &Name) -> impl Iterator<Item = (&'s Node, &'s StorageFinding)> {
    let nodes = state.nodes().filter(|node| node.up().is_some());
    let name = name.clone();
    nodes.filter_map(move |node| Some((&**node, state.node_report(node.id)?.report.storages.get(&name)?)))
}

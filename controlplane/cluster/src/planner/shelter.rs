//! Moves what needs a storage away from where that is lost, by handover: the source ends and unmounts just that and says so,
//! which is the receipt; the node and everything else on it stay as they are. All at once: it stands still anyway.
//! Absent: what happens where it cannot be ended; the leader's patience with handovers has an end.

use std::collections::BTreeSet;

use super::Desk;
use super::drain::movable;
use crate::command::Command;
use crate::model::decision::Trigger;
use crate::model::ids::{Name, NodeId};
use crate::state::State;

pub(super) fn shelter_from_lost_storages(desk: &mut Desk) {
    let stricken: Vec<(NodeId, BTreeSet<Name>)> = desk
        .scratch
        .nodes()
        .filter(|node| node.up().is_some())
        .map(|node| (node.id, lost(&desk.scratch, node.id)))
        .collect();
    for (from, lost) in stricken.into_iter().filter(|(_, lost)| !lost.is_empty()) {
        for container in movable(&desk.scratch, from) {
            if desk.is_full() {
                return;
            }
            let storage = container.spec.storage.clone();
            if !lost.contains(&storage) {
                continue;
            }
            let decision = Box::new(desk.decide(&container, |_, _| Trigger::StorageLost { from, storage }));
            let Some(target) = decision.chosen else { continue };
            let (id, epoch) = (container.id, container.epoch);
            desk.propose(Command::BeginHandover { container: id, epoch, target, decision }, Some(target));
        }
    }
}

/// The storages that the node says it has lost.
fn lost(state: &State, node: NodeId) -> BTreeSet<Name> {
    let kept = state.node_report(node).into_iter();
    let found = kept.flat_map(|kept| kept.report.storages.iter());
    found.filter(|(_, finding)| !finding.is_usable()).map(|(name, _)| name.clone()).collect()
}

//! What nodes find of themselves and their surroundings: kept as said, in place of what was said before.
//! Only what people must know of becomes an event: something that containers need is lost on a node, or is back.

use std::sync::Arc;

use super::{Done, Outcome, Rejected, Step, valid};
use crate::event::Event;
use crate::model::ids::{Incarnation, NodeId};
use crate::model::node::Node;
use crate::model::report::{KeptReport, NodeReport};

impl Step<'_> {
    /// Believed of the incarnation that serves alone: of one before it, the node itself knows better by now.
    pub(super) fn report_node(&mut self, id: NodeId, incarnation: Incarnation, report: &Arc<NodeReport>) -> Outcome {
        let node = self.node(id)?;
        if node.up() != Some(incarnation) {
            let current = node.health.incarnation();
            return Err(Rejected::StaleIncarnation { node: id, given: incarnation, current });
        }
        valid::report(report)?;
        let before = self.state.node_report(id).map(|kept| Arc::clone(&kept.report)).unwrap_or_default();
        self.note_storages(&node, &before, report);
        let kept = KeptReport { incarnation, since: self.index, report: Arc::clone(report) };
        self.state.put_node_report(id, kept);
        Ok(Done::Node(id))
    }

    fn note_storages(&mut self, node: &Node, before: &NodeReport, now: &NodeReport) {
        for (storage, finding) in now.storages.iter() {
            let was_usable = before.storages.get(storage).is_none_or(|finding| finding.is_usable());
            let (id, name, storage) = (node.id, node.name.clone(), storage.clone());
            if was_usable && !finding.is_usable() {
                let fault = Arc::clone(&finding.fault);
                self.events.push(Event::StorageLost { node: id, name, storage, fault });
            } else if !was_usable && finding.is_usable() {
                self.events.push(Event::StorageBack { node: id, name, storage });
            }
        }
    }
}

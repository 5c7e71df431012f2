//! Decides when a handover has taken too long. In: handovers in the state. Out: abort before `Handoff`, block after *(b14)*;
//! where it was moved because its storage is lost there, the node is fenced instead.
//! Leader-local: the times; a new leader counts again from its own beginning.

use std::collections::{BTreeMap, BTreeSet};

use cluster::command::Command;
use cluster::{
    Assignment, Container, ContainerId, FenceCause, Health, Incarnation, Moment, NodeId, Order, Placement, Revision,
    Span, State,
};
use planted::planted;

use super::{Desk, Pending};
use crate::proposals::Origin;

/// From `Prepare` until the target must be ready: templates and storage are there already, so this is generous.
const PREPARE_BUDGET: Span = Span::seconds(30);
/// What killing and reporting may take beyond the container's own grace and the budget, before an alarm is raised.
const REPORT_BUDGET: Span = Span::seconds(5);

#[derive(Default)]
pub struct Overdue {
    /// Keyed by container: the phase it is in, named by the entry that began it, and when that was first seen.
    seen: BTreeMap<ContainerId, (Revision, Moment)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Prepare,
    Handoff,
}

/// The node that holds it is being fenced because it could not stop something: the receipt settles this as well.
fn is_ending(state: &State, assignment: &Assignment) -> bool {
    let node = state.node(assignment.node);
    node.is_some_and(|node| matches!(node.health, Health::Fencing { cause: FenceCause::StopOverdue, .. }))
}

/// The node that holds `container` after its storage was lost there, if the end of its lease would end it.
fn stricken(state: &State, container: &Container, assignment: &Assignment) -> Option<(NodeId, Incarnation)> {
    let node = state.node(assignment.node).filter(|node| node.class().lease_proves_end())?;
    let found = state.node_report(node.id)?.report.storages.get(&container.spec.storage)?;
    (!found.is_usable() && node.up() == Some(assignment.incarnation)).then_some((node.id, assignment.incarnation))
}

impl Overdue {
    pub fn stalled(&mut self) {
        self.seen.clear();
    }

    pub fn watch(&mut self, desk: &mut Desk<'_>, pending: &mut BTreeSet<Pending>) {
        let mut seen = BTreeMap::new();
        for container in desk.state.handovers() {
            let Placement::Assigned(assignment) = &container.placement else { continue };
            let (phase, begun, budget) = match assignment.order {
                Order::Prepare { since, .. } => (Phase::Prepare, since, PREPARE_BUDGET),
                Order::Handoff { since, .. } => {
                    let budget = desk.state.settings().handover_budget;
                    (Phase::Handoff, since, container.spec.stop_grace + budget + REPORT_BUDGET)
                }
                _ => continue,
            };
            let since = match self.seen.get(&container.id) {
                Some((known, since)) if *known == begun => *since,
                _ => desk.now,
            };
            seen.insert(container.id, (begun, since));
            if desk.now.since(since) < budget || !pending.insert(Pending::Handover(container.id)) {
                continue;
            }
            let stricken = stricken(desk.state, container, assignment);
            if phase == Phase::Handoff && is_ending(desk.state, assignment) {
                pending.remove(&Pending::Handover(container.id));
                continue;
            }
            let (container, epoch) = (container.id, assignment.epoch);
            let command = match phase {
                Phase::Prepare => {
                    let reason = "the target did not get ready in time".into();
                    Command::AbortHandover { container, epoch, reason }
                }
                Phase::Handoff if planted!("handoff-goes-back") => {
                    let reason = "the source did not stop in time".into();
                    Command::AbortHandover { container, epoch, reason }
                }
                // What hangs with its storage is ended with its node, where that proves anything: nothing else would.
                Phase::Handoff if let Some((node, incarnation)) = stricken => {
                    Command::BeginFencing { node, incarnation, cause: FenceCause::StopOverdue }
                }
                Phase::Handoff => Command::BlockHandover { container, epoch },
            };
            desk.propose.push((Origin::Duty, Some(Pending::Handover(container)), command));
        }
        self.seen = seen;
    }
}

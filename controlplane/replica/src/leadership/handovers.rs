//! Decides when a handover has taken too long. In: handovers in the state. Out: abort before `Handoff`, block after *(b14)*.
//! Leader-local: the times; a new leader counts again from its own beginning.

use std::collections::{BTreeMap, BTreeSet};

use cluster::command::Command;
use cluster::{ContainerId, Epoch, Moment, Order, Placement, Span};

use super::{Desk, Pending};
use crate::Origin;

/// From `Prepare` until the target must be ready: templates and storage are there already, so this is generous.
const PREPARE_BUDGET: Span = Span::seconds(30);
/// What killing and reporting may take beyond the container's own grace and the budget, before an alarm is raised.
const REPORT_BUDGET: Span = Span::seconds(5);

#[derive(Default)]
pub struct Overdue {
    /// Keyed by container: the phase it was first seen in, and when.
    seen: BTreeMap<ContainerId, (Epoch, Phase, Moment)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Prepare,
    Handoff,
}

impl Overdue {
    pub fn stalled(&mut self) {
        self.seen.clear();
    }

    pub fn watch(&mut self, desk: &mut Desk<'_>, pending: &mut BTreeSet<Pending>) {
        let mut seen = BTreeMap::new();
        for container in desk.state.handovers() {
            let Placement::Assigned(assignment) = &container.placement else { continue };
            let (phase, budget) = match assignment.order {
                Order::Prepare { .. } => (Phase::Prepare, PREPARE_BUDGET),
                Order::Handoff { .. } => {
                    let budget = desk.state.settings().handover_budget;
                    (Phase::Handoff, container.spec.stop_grace + budget + REPORT_BUDGET)
                }
                _ => continue,
            };
            let since = match self.seen.get(&container.id) {
                Some((epoch, known, since)) if *epoch == assignment.epoch && *known == phase => *since,
                _ => desk.now,
            };
            seen.insert(container.id, (assignment.epoch, phase, since));
            if desk.now.since(since) < budget || !pending.insert(Pending::Handover(container.id)) {
                continue;
            }
            let (container, epoch) = (container.id, assignment.epoch);
            let command = match phase {
                Phase::Prepare => {
                    let reason = "the target did not get ready in time".into();
                    Command::AbortHandover { container, epoch, reason }
                }
                Phase::Handoff => Command::BlockHandover { container, epoch },
            };
            desk.propose.push((Origin::Duty, Some(Pending::Handover(container)), command));
        }
        self.seen = seen;
    }
}

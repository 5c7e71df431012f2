//! Gives a place to every container that waits for one, highest priority first, and says once why where there is none.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Desk;
use crate::command::Command;
use crate::model::container::{Container, Placement, Unplaced};
use crate::model::decision::{Decision, RejectionCount, Trigger};
use crate::model::ids::NodeId;
use crate::model::node::Intent;
use crate::placement::{self, Rejection};
use crate::state::State;

pub(super) fn place_waiting(desk: &mut Desk) {
    let waiting: Vec<Arc<Container>> = desk.scratch.unplaced().cloned().collect();
    for container in waiting {
        if desk.is_full() {
            return;
        }
        let decision = Box::new(desk.decide(&container, |scratch, chosen| trigger(scratch, &container, chosen)));
        match decision.chosen {
            Some(node) => {
                let Some(incarnation) = desk.scratch.node(node).and_then(|node| node.up()) else { continue };
                let (id, after) = (container.id, container.epoch);
                desk.propose(Command::Assign { container: id, after, node, incarnation, decision }, Some(node));
            }
            None if is_recorded(&desk.scratch, &container, &decision) => {}
            None => desk.propose(Command::RecordUnplaceable { container: container.id, decision }, None),
        }
    }
}

/// What the planner would decide for `container` now, with every rejection counted; for `why`.
pub fn explain(state: &State, container: &Container) -> Decision {
    let mut decision = placement::decide(state, container, Trigger::Retry, None, &BTreeSet::new());
    decision.trigger = trigger(state, container, decision.chosen);
    decision
}

fn trigger(state: &State, container: &Container, chosen: Option<NodeId>) -> Trigger {
    let Placement::Unplaced { reason, .. } = &container.placement else {
        return Trigger::Moved { by_request: false };
    };
    match reason {
        Unplaced::New if container.epoch.0 == 0 => Trigger::Created,
        Unplaced::New | Unplaced::Stopped | Unplaced::Held { .. } => Trigger::Started,
        Unplaced::Displaced { from } => Trigger::Failover { from: *from },
        Unplaced::Ended { .. } => Trigger::Restart,
        Unplaced::StartFailed { .. } => Trigger::Retry,
        Unplaced::Moving { from } if chosen == Some(*from) => Trigger::Restart,
        Unplaced::Moving { from } => match state.node(*from).map(|node| node.intent) {
            Some(Intent::Draining { .. }) => Trigger::Drain { from: *from },
            _ => Trigger::Moved { by_request: false },
        },
    }
}

/// Whether the same was recorded since it lost its place. A decision too old to be kept counts as the same: it cannot
/// be compared, and recording it again would push out the next one.
fn is_recorded(state: &State, container: &Container, decision: &Decision) -> bool {
    let (Placement::Unplaced { since, .. }, Some(recorded)) = (&container.placement, container.decision) else {
        return false;
    };
    let same =
        |earlier: &Decision| earlier.chosen.is_none() && reasons(&earlier.rejections) == reasons(&decision.rejections);
    recorded > *since && state.decision(recorded).is_none_or(|earlier| same(earlier))
}

/// The reasons alone: amounts and counts change all the time, and who is suspect comes and goes.
fn reasons(rejections: &[RejectionCount]) -> BTreeSet<&'static str> {
    let lasting = rejections.iter().filter(|count| count.reason != Rejection::Suspect);
    lasting.map(|count| count.reason.code()).collect()
}

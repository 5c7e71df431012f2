//! Handovers under way: those whose target is ready go on, those whose target is lost go back.

use super::Desk;
use crate::command::Command;
use crate::model::container::{Assignment, Container, Order};
use crate::names::Names;
use crate::placement;
use crate::state::State;

pub(super) fn carry_on(desk: &mut Desk) {
    let under_way: Vec<_> = desk.scratch.handovers().cloned().collect();
    for container in under_way {
        let Some(Assignment { epoch, order: Order::Prepare { target, ready, .. }, .. }) = container.assignment() else {
            continue;
        };
        let (id, epoch, target) = (container.id, *epoch, *target);
        if let Some(reason) = lost_target(&desk.scratch, &container) {
            desk.propose(Command::AbortHandover { container: id, epoch, reason: reason.into() }, Some(target));
        } else if *ready && !desk.observed.suspects.contains(&target) {
            desk.propose(Command::BeginHandoff { container: id, epoch }, None);
        }
    }
}

/// Why the target of a prepared handover can no longer take it.
fn lost_target(state: &State, container: &Container) -> Option<String> {
    let Order::Prepare { target, target_incarnation, .. } = container.assignment()?.order else { return None };
    let called = || state.node_name(target);
    if state.node(target).and_then(|node| node.up()) != Some(target_incarnation) {
        return Some(format!("{} is no longer up as {target_incarnation}", called()));
    }
    placement::feasible(state, container, target).err().map(|rejection| format!("{}: {rejection}", called()))
}

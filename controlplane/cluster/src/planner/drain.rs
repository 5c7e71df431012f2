//! Empties draining nodes by handover, so many at once as the settings allow, and names what has nowhere to go.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Desk;
use crate::command::Command;
use crate::model::container::{Container, Order};
use crate::model::decision::Trigger;
use crate::model::ids::{ContainerId, NodeId};
use crate::model::node::{Intent, Node};
use crate::placement::{self, Unplaceable};
use crate::state::{Claim, State};

pub(super) fn empty_draining(desk: &mut Desk) {
    let draining: Vec<NodeId> = desk.scratch.nodes().filter(|node| drains(node)).map(|node| node.id).collect();
    if draining.is_empty() {
        return;
    }
    let settings = desk.scratch.settings();
    let (per_node, in_all) = (settings.handovers_per_node, settings.handovers);
    let mut under_way = under_way(&desk.scratch);
    for from in draining {
        for container in movable(&desk.scratch, from) {
            if desk.is_full() || under_way.values().sum::<u32>() >= in_all {
                return;
            }
            if under_way.get(&from).copied().unwrap_or(0) >= per_node {
                break;
            }
            let decision = Box::new(desk.decide(&container, |_, _| Trigger::Drain { from }));
            let Some(target) = decision.chosen else { continue };
            let (id, epoch) = (container.id, container.epoch);
            desk.propose(Command::BeginHandover { container: id, epoch, target, decision }, Some(target));
            *under_way.entry(from).or_default() += 1;
        }
    }
}

/// What keeps `node` from being drained, highest priority first: running there, and no other node may take it.
pub fn drain_blockers(state: &State, node: NodeId) -> Vec<(ContainerId, Unplaceable)> {
    let blocker = |container: Arc<Container>| {
        let trigger = Trigger::Drain { from: node };
        let decision = placement::decide(state, &container, trigger, Some(node), &BTreeSet::new());
        Unplaceable::of(&decision).map(|nowhere| (container.id, nowhere))
    };
    movable(state, node).into_iter().filter_map(blocker).collect()
}

fn drains(node: &Node) -> bool {
    matches!(node.intent, Intent::Draining { .. }) && node.up().is_some()
}

/// What simply runs on `node`, highest priority first.
pub(super) fn movable(state: &State, node: NodeId) -> Vec<Arc<Container>> {
    let runs = |container: &Container| container.assignment().is_some_and(|assignment| assignment.order == Order::Run);
    let mut movable: Vec<Arc<Container>> = state
        .claims(node)
        .filter(|(container, claim)| *claim == Claim::Owner && runs(container))
        .map(|(container, _)| Arc::clone(container))
        .collect();
    movable.sort_by_key(|container| (Reverse(container.spec.priority), container.id));
    movable
}

/// Handovers that move, per source. A blocked one waits for a person and holds up no other.
fn under_way(state: &State) -> BTreeMap<NodeId, u32> {
    let mut counts = BTreeMap::new();
    for assignment in state.handovers().filter_map(|container| container.assignment()) {
        if assignment.target().is_some() {
            *counts.entry(assignment.node).or_default() += 1;
        }
    }
    counts
}

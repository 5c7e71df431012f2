//! The state a cluster begins its next generation with, when a majority of its members is lost for good.
//! In: what the survivor's log says, and what the recovery rests on. Out: the same objects, every incarnation void, every
//! number that is given out far above whatever the lost members may have given out without the survivor.
//! Absent: which log to take, and what becomes of the others. Source: safety.md, "Disaster recovery" *(8, a5)*.

use std::sync::Arc;

use imbl::OrdMap;
use planted::planted;

use crate::apply::order_for;
use crate::model::container::{Container, Placement};
use crate::model::fence::{FenceCause, LogsRead};
use crate::model::ids::{BootId, ContainerId, Epoch, Generation, Incarnation, NodeId, Revision};
use crate::model::member::{Member, Membership};
use crate::model::node::{Health, Node};
use crate::state::{Brake, State, Truth};

/// Added to every epoch, and to the next id of everything that has one: the lost members gave out fewer on their own.
pub const JUMP: u64 = 1 << 20;
/// Revisions of one generation, and with them its incarnations: a year of eight thousand entries a second is less.
const REVISIONS: u32 = 38;

/// What makes a new generation of a state.
#[derive(Clone, Debug)]
pub struct Recovery {
    pub generation: Generation,
    /// The only member from here on. Its log begins in `term`.
    pub survivor: Arc<Member>,
    pub term: u64,
    pub logs: LogsRead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotRecover {
    #[error("generation {new} does not come after {old}")]
    NotNewer { old: Generation, new: Generation },
    #[error("a new generation needs an id")]
    NoId,
    #[error("{0} lies above what its generation may hold")]
    OutOfRevisions(Revision),
}

/// Where the revisions of `generation` begin.
pub fn first_revision(generation: Generation) -> Revision {
    Revision((generation.number - 1) << REVISIONS)
}

/// The state beneath the first entry of the new generation. What may still run stays assigned, to an incarnation that is
/// void: only a receipt frees it. Errs if the generation does not come after the state's.
pub fn recover(state: &State, recovery: &Recovery) -> Result<State, CannotRecover> {
    let Recovery { generation, survivor, term, logs } = recovery;
    let truth = state.truth();
    if generation.id == 0 {
        return Err(CannotRecover::NoId);
    }
    if generation.number <= truth.generation.number || generation.number >= 1 << (63 - REVISIONS) {
        return Err(CannotRecover::NotNewer { old: truth.generation, new: *generation });
    }
    let revision = first_revision(*generation);
    if truth.revision >= revision {
        return Err(CannotRecover::OutOfRevisions(truth.revision));
    }
    let voters = [survivor.id].into();
    let membership = Membership { term: *term, index: revision.0, voters, ..Membership::default() };
    let voided = |(id, node): (&NodeId, &Arc<Node>)| (*id, Arc::new(void(node, *logs, revision)));
    let nodes: OrdMap<NodeId, Arc<Node>> = truth.nodes.iter().map(voided).collect();
    let carried = |(id, container): (&ContainerId, &Arc<Container>)| {
        let node = container.assignment().and_then(|assignment| nodes.get(&assignment.node));
        (*id, Arc::new(carried_over(container, node.and_then(|node| fenced_as(node)))))
    };
    let containers = truth.containers.iter().map(carried).collect();
    Ok(State::restore(Truth {
        cluster: truth.cluster,
        generation: *generation,
        revision,
        clock: truth.clock,
        next_member: truth.next_member + JUMP,
        next_node: truth.next_node + JUMP,
        next_container: truth.next_container + JUMP,
        membership,
        members: [(survivor.id, survivor.clone())].into_iter().collect(),
        nodes,
        containers,
        statuses: truth.statuses.clone(),
        templates: truth.templates.clone(),
        storages: truth.storages.clone(),
        settings: truth.settings.clone(),
        brake: Brake::Off,
        decisions: truth.decisions.clone(),
        sessions: truth.sessions.clone(),
    }))
}

/// What was granted to it counts no more. With the logs of a majority at hand, what is known to be over is over; without,
/// any node may have registered since, and run anything.
fn void(node: &Node, logs: LogsRead, begun: Revision) -> Node {
    let settled = logs == LogsRead::Majority && matches!(node.health, Health::Joined | Health::Fenced { .. });
    if settled {
        return node.clone();
    }
    let (incarnation, boot) = (node.health.incarnation(), node.health.boot().unwrap_or(BootId(0)));
    Node { health: Health::Fencing { incarnation, boot, begun, cause: FenceCause::Recovered { logs } }, ..node.clone() }
}

fn fenced_as(node: &Node) -> Option<Incarnation> {
    matches!(node.health, Health::Fencing { .. }).then(|| node.health.incarnation())
}

/// A handover of the old generation is over: what it had not finished, a receipt finishes.
fn carried_over(container: &Container, fencing: Option<Incarnation>) -> Container {
    let mut container = container.clone();
    if planted!("epochs-not-raised") {
        return container;
    }
    container.epoch = Epoch(container.epoch.0 + JUMP);
    if let Placement::Assigned(assignment) = &mut container.placement {
        assignment.epoch = container.epoch;
        if fencing == Some(assignment.incarnation) {
            assignment.order = order_for(container.desired);
        }
    }
    container
}

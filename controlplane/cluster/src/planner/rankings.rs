//! One ranking of the nodes per shape of container, brought up to date by what changed since it was last asked.
//! Ten thousand containers of one spec cost one look at every node and then one look each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::container::{Container, Placement, Unplaced};
use crate::model::ids::{Name, NodeId};
use crate::placement::Ranking;
use crate::state::State;

/// Verdicts kept in all: shapes × nodes. Some 200 bytes each.
const VERDICTS_MAX: usize = 1 << 18;

pub(super) struct Rankings {
    known: BTreeMap<Shape, Known>,
    /// Nodes whose room has changed, in order.
    touched: Vec<NodeId>,
    nodes: usize,
}

struct Known {
    ranking: Ranking,
    /// How much of `touched` it has seen.
    seen: usize,
}

/// Everything of a container that a rule or a score looks at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shape {
    template: Name,
    storage: Name,
    cpu_millis: u64,
    memory_bytes: u64,
    possible_owners: Arc<[NodeId]>,
    preferred_owners: Arc<[Arc<[NodeId]>]>,
    history: History,
    failed_on: Vec<NodeId>,
    /// It has room claimed there, which counts as free to it alone.
    on: Option<NodeId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum History {
    None,
    Toward(NodeId),
    AwayFrom(NodeId),
}

impl Shape {
    fn of(container: &Container, state: &State) -> Shape {
        let spec = &container.spec;
        let history = match &container.placement {
            Placement::Unplaced {
                reason: Unplaced::Ended { on: home, .. } | Unplaced::Moving { from: home }, ..
            } => History::Toward(*home),
            Placement::Unplaced { reason: Unplaced::Displaced { from }, .. } => History::AwayFrom(*from),
            _ => History::None,
        };
        let counts = container.start_failures.iter().filter(|failure| failure.counts(state.clock()));
        Shape {
            template: spec.template.clone(),
            storage: spec.storage.clone(),
            cpu_millis: spec.resources.cpu_millis,
            memory_bytes: spec.resources.memory_bytes,
            possible_owners: Arc::clone(&spec.possible_owners),
            preferred_owners: Arc::clone(&spec.preferred_owners),
            history,
            failed_on: counts.map(|failure| failure.node).collect(),
            on: container.assignment().map(|assignment| assignment.node),
        }
    }
}

impl Rankings {
    pub fn new(nodes: usize) -> Rankings {
        Rankings { known: BTreeMap::new(), touched: Vec::new(), nodes: nodes.max(1) }
    }

    /// The room on `node` has changed.
    pub fn touch(&mut self, node: Option<NodeId>) {
        self.touched.extend(node);
    }

    /// The ranking for `container` as `state` is now.
    pub fn of(&mut self, state: &State, container: &Container, suspects: &BTreeSet<NodeId>) -> &Ranking {
        let shape = Shape::of(container, state);
        if self.known.len() * self.nodes > VERDICTS_MAX && !self.known.contains_key(&shape) {
            self.known.clear();
        }
        let latest = self.touched.len();
        let known = self
            .known
            .entry(shape)
            .or_insert_with(|| Known { ranking: Ranking::of(state, container, None, suspects), seen: latest });
        let changed: BTreeSet<NodeId> = self.touched[known.seen..].iter().copied().collect();
        for node in changed {
            known.ranking.refresh(state, container, node, suspects);
        }
        known.seen = latest;
        &known.ranking
    }
}

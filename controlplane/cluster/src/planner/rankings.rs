//! One ranking of the nodes per shape of container, brought up to date by what changed since it was last asked.
//! Ten thousand containers of one spec cost one look at every node and then one look each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::container::{Class, Container, Placement, Unplaced};
use crate::model::decision::{Decision, Trigger};
use crate::model::ids::{Name, NodeId, Revision};
use crate::placement::{Ranking, Seat};
use crate::state::State;

/// Verdicts kept in all: shapes × nodes. Some 40 bytes each.
const VERDICTS_MAX: usize = 1 << 21;

pub(super) struct Rankings {
    seats: Vec<Seat>,
    known: BTreeMap<Shape, Known>,
    /// Places of seats whose room has changed, in order.
    touched: Vec<usize>,
    based_on: Revision,
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
    application_templates: Arc<[Name]>,
    storage: Name,
    /// The only node that has its private area, where the storage is local.
    bound_to: Option<NodeId>,
    cpu_millis: u64,
    memory_bytes: u64,
    class: Class,
    possible_owners: Arc<[NodeId]>,
    preferred_owners: Arc<[Arc<[NodeId]>]>,
    history: History,
    failed_on: Vec<NodeId>,
    /// It has room claimed there, which counts as free to it alone.
    on: Option<NodeId>,
}

/// How it lost its last place, where that matters to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum History {
    None,
    Ended(NodeId),
    Moving(NodeId),
    Displaced(NodeId),
}

impl Shape {
    fn of(container: &Container, state: &State) -> Shape {
        let spec = &container.spec;
        let history = match &container.placement {
            Placement::Unplaced { reason: Unplaced::Ended { on, .. }, .. } => History::Ended(*on),
            Placement::Unplaced { reason: Unplaced::Moving { from }, .. } => History::Moving(*from),
            Placement::Unplaced { reason: Unplaced::Displaced { from }, .. } => History::Displaced(*from),
            _ => History::None,
        };
        let counts = container.start_failures.iter().filter(|failure| failure.counts(state.clock()));
        Shape {
            template: spec.template.clone(),
            application_templates: Arc::clone(&spec.application_templates),
            storage: spec.storage.clone(),
            bound_to: container.home.filter(|_| state.storage(&spec.storage).is_some_and(|it| it.kind.is_local())),
            cpu_millis: spec.resources.cpu_millis,
            memory_bytes: spec.resources.memory_bytes,
            class: spec.class,
            possible_owners: Arc::clone(&spec.possible_owners),
            preferred_owners: Arc::clone(&spec.preferred_owners),
            history,
            failed_on: counts.map(|failure| failure.node).collect(),
            on: container.assignment().map(|assignment| assignment.node),
        }
    }
}

impl Rankings {
    pub fn over(state: &State) -> Rankings {
        let seats = Seat::all(state);
        Rankings { seats, known: BTreeMap::new(), touched: Vec::new(), based_on: state.revision() }
    }

    /// The room on `node` has changed.
    pub fn touch(&mut self, state: &State, node: NodeId) {
        if let Ok(place) = self.seats.binary_search_by_key(&node, Seat::node) {
            self.seats[place].refresh(state);
            self.touched.push(place);
        }
    }

    /// What to do with `container` as `state` is now.
    pub fn decide(
        &mut self,
        state: &State,
        container: &Container,
        trigger: impl FnOnce(Option<NodeId>) -> Trigger,
        suspects: &BTreeSet<NodeId>,
    ) -> Decision {
        let shape = Shape::of(container, state);
        if self.known.len() * self.seats.len() > VERDICTS_MAX && !self.known.contains_key(&shape) {
            self.known.clear();
        }
        let latest = self.touched.len();
        let all = || Ranking::of(state, container, &self.seats, suspects);
        let known = self.known.entry(shape).or_insert_with(|| Known { ranking: all(), seen: latest });
        if latest - known.seen > self.seats.len() {
            known.ranking = all();
        } else {
            known.ranking.refresh(state, container, &self.seats, &self.touched[known.seen..], suspects);
        }
        known.seen = latest;
        let mut decision = known.ranking.decision(container.id, Trigger::Retry, &self.seats, self.based_on);
        decision.trigger = trigger(decision.chosen);
        decision
    }
}

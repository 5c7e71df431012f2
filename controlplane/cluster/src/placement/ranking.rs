//! Every node's verdict on one container, kept so that a change of one node costs one verdict, not all of them.
//! In: the state, a container, the seats. Out: the best node, the decision to record, or every node's rejection.
//! Flat on purpose: a look along a row of verdicts is cheaper than keeping them in order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::rules::Seeker;
use super::{Rejection, Score};
use crate::model::container::Container;
use crate::model::decision::{Decision, RejectionCount, Trigger};
use crate::model::ids::{ContainerId, NodeId, Revision};
use crate::model::node::Node;
use crate::model::resources::Resources;
use crate::state::State;

/// Candidates named in a decision.
const CANDIDATES: usize = 3;
/// Nodes named per rejecting rule.
const EXAMPLES: usize = 3;

/// A node and what is spoken for on it: all that changes about nodes while a plan is made.
#[derive(Clone, Debug)]
pub struct Seat {
    pub(super) node: Arc<Node>,
    pub(super) used: Resources,
}

impl Seat {
    /// One per node, by id.
    pub fn all(state: &State) -> Vec<Seat> {
        state.nodes().map(|node| Seat { node: Arc::clone(node), used: state.used(node.id) }).collect()
    }

    pub fn node(&self) -> NodeId {
        self.node.id
    }

    /// Looks again at what is spoken for.
    pub fn refresh(&mut self, state: &State) {
        self.used = state.used(self.node.id);
    }
}

/// Holds for every container of the same shape: same needs, same owners, same history.
#[derive(Clone, Debug)]
pub struct Ranking {
    /// In the order of the seats.
    verdicts: Vec<Result<Score, Rejection>>,
}

impl Ranking {
    pub fn of(state: &State, container: &Container, seats: &[Seat], suspects: &BTreeSet<NodeId>) -> Ranking {
        let seeker = Seeker::of(state, container);
        Ranking { verdicts: seats.iter().map(|seat| verdict(&seeker, seat, suspects)).collect() }
    }

    /// Judges the seats at `places` anew, after something about them changed.
    pub fn refresh(
        &mut self,
        state: &State,
        container: &Container,
        seats: &[Seat],
        places: &[usize],
        suspects: &BTreeSet<NodeId>,
    ) {
        let seeker = Seeker::of(state, container);
        for place in places {
            self.verdicts[*place] = verdict(&seeker, &seats[*place], suspects);
        }
    }

    /// The scores of the nodes that may take it, in the order of the seats.
    pub fn scores(&self) -> impl Iterator<Item = &Score> {
        self.verdicts.iter().filter_map(|verdict| verdict.as_ref().ok())
    }

    pub fn decision(&self, container: ContainerId, trigger: Trigger, seats: &[Seat], based_on: Revision) -> Decision {
        let mut best = Smallest::<&Score>::new(CANDIDATES);
        let mut rejected = BTreeMap::<&'static str, Smallest<(&Rejection, NodeId)>>::new();
        for (verdict, seat) in self.verdicts.iter().zip(seats) {
            match verdict {
                Ok(score) => best.see(score),
                Err(rejection) => {
                    let nearest = rejected.entry(rejection.code()).or_insert_with(|| Smallest::new(EXAMPLES));
                    nearest.see((rejection, seat.node()));
                }
            }
        }
        Decision {
            container,
            trigger,
            chosen: best.kept.first().map(|score| score.node),
            candidates: best.kept.iter().map(|score| (score.node, Score::clone(score))).collect(),
            feasible: best.seen,
            rejections: rejected.into_values().map(count).collect(),
            based_on,
        }
    }
}

fn verdict(seeker: &Seeker, seat: &Seat, suspects: &BTreeSet<NodeId>) -> Result<Score, Rejection> {
    let case = seeker.at(&seat.node, seat.used);
    case.judge()?;
    if suspects.contains(&seat.node()) { Err(Rejection::Suspect) } else { Ok(Score::of(&case)) }
}

/// The nodes nearest to fitting stand for all that one rule rejects.
fn count(nearest: Smallest<(&Rejection, NodeId)>) -> RejectionCount {
    RejectionCount {
        reason: nearest.kept[0].0.clone(),
        nodes: nearest.seen,
        examples: nearest.kept.iter().map(|(_, node)| *node).collect(),
    }
}

/// The few smallest of many, in order, and how many there were.
struct Smallest<T> {
    kept: Vec<T>,
    most: usize,
    seen: u32,
}

impl<T: Ord> Smallest<T> {
    fn new(most: usize) -> Smallest<T> {
        Smallest { kept: Vec::with_capacity(most + 1), most, seen: 0 }
    }

    fn see(&mut self, item: T) {
        self.seen += 1;
        if self.kept.len() == self.most && self.kept.last().is_some_and(|largest| *largest <= item) {
            return;
        }
        let place = self.kept.partition_point(|smaller| *smaller <= item);
        self.kept.insert(place, item);
        self.kept.truncate(self.most);
    }
}

/// No node may take a container, and why each may not. Prints as a table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Unplaceable {
    pub container: ContainerId,
    pub rejections: Arc<[RejectionCount]>,
}

impl Unplaceable {
    /// What `decision` says if it chose nothing.
    pub fn of(decision: &Decision) -> Option<Unplaceable> {
        let nowhere = decision.chosen.is_none();
        nowhere.then(|| Unplaceable { container: decision.container, rejections: Arc::clone(&decision.rejections) })
    }

    /// One line: each reason with its count.
    pub fn summary(&self) -> String {
        if self.rejections.is_empty() {
            return "there is no other node".to_owned();
        }
        let each = |count: &RejectionCount| format!("{}: {}", nodes(count.nodes), count.reason);
        self.rejections.iter().map(each).collect::<Vec<_>>().join("; ")
    }
}

impl fmt::Display for Unplaceable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no node may take {}", self.container)?;
        for RejectionCount { reason, nodes, examples } in self.rejections.iter() {
            let named: Vec<String> = examples.iter().map(NodeId::to_string).collect();
            let more = if *nodes as usize > examples.len() { " …" } else { "" };
            write!(f, "\n{nodes:>6}  {:<19} {reason} ({}{more})", reason.code(), named.join(" "))?;
        }
        Ok(())
    }
}

fn nodes(count: u32) -> String {
    if count == 1 { "1 node".to_owned() } else { format!("{count} nodes") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_smallest_are_those_that_sorting_would_give() {
        let items = [5, 1, 4, 1, 9, 2, 6, 5, 3, 5];
        let mut smallest = Smallest::new(3);
        items.into_iter().for_each(|item| smallest.see(item));
        assert_eq!((smallest.kept, smallest.seen), (vec![1, 1, 2], 10));
    }
}

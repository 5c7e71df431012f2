//! Every node's verdict on one container, kept so that a change of one node costs one verdict, not all of them.
//! In: the state and a container. Out: the best node, the decision to record, or every node's rejection.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::rules::Case;
use super::{Rejection, Score};
use crate::model::container::Container;
use crate::model::decision::{Decision, RejectionCount, Trigger};
use crate::model::ids::{ContainerId, NodeId, Revision};
use crate::model::node::Node;
use crate::state::State;

/// Candidates named in a decision.
const CANDIDATES: usize = 3;
/// Nodes named per rejecting rule.
const EXAMPLES: usize = 3;

/// Holds for every container of the same shape: same needs, same owners, same history.
#[derive(Clone, Debug)]
pub struct Ranking {
    verdicts: BTreeMap<NodeId, Result<Score, Rejection>>,
    feasible: BTreeSet<Score>,
    /// Keyed by reason code; within one code, those nearest to fitting first.
    rejected: BTreeMap<&'static str, BTreeSet<(Rejection, NodeId)>>,
}

impl Ranking {
    pub fn of(state: &State, container: &Container, exclude: Option<NodeId>, suspects: &BTreeSet<NodeId>) -> Ranking {
        let asked = state.nodes().filter(|node| Some(node.id) != exclude);
        let verdicts: Vec<_> = asked.map(|node| (node.id, verdict(state, container, node, suspects))).collect();
        let mut rejected: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (node, rejection) in verdicts.iter().filter_map(|(node, verdict)| Some((node, verdict.as_ref().err()?))) {
            rejected.entry(rejection.code()).or_default().push((rejection.clone(), *node));
        }
        // Collected whole: a tree built at once costs a fraction of one built node by node.
        Ranking {
            feasible: verdicts.iter().filter_map(|(_, verdict)| verdict.clone().ok()).collect(),
            rejected: rejected.into_iter().map(|(code, nodes)| (code, nodes.into_iter().collect())).collect(),
            verdicts: verdicts.into_iter().collect(),
        }
    }

    /// Judges `node` anew, after something about it changed. Nodes that were left out stay out.
    pub fn refresh(&mut self, state: &State, container: &Container, node: NodeId, suspects: &BTreeSet<NodeId>) {
        match self.verdicts.remove(&node) {
            None => return,
            Some(Ok(score)) => {
                self.feasible.remove(&score);
            }
            Some(Err(rejection)) => {
                let code = rejection.code();
                if let Some(nodes) = self.rejected.get_mut(code) {
                    nodes.remove(&(rejection, node));
                    if nodes.is_empty() {
                        self.rejected.remove(code);
                    }
                }
            }
        }
        let Some(judged) = state.node(node) else { return };
        let verdict = verdict(state, container, judged, suspects);
        match &verdict {
            Ok(score) => {
                self.feasible.insert(score.clone());
            }
            Err(rejection) => {
                self.rejected.entry(rejection.code()).or_default().insert((rejection.clone(), node));
            }
        }
        self.verdicts.insert(node, verdict);
    }

    /// The scores of the nodes that may take it.
    pub fn best_first(&self) -> impl Iterator<Item = &Score> {
        self.feasible.iter()
    }

    pub fn best(&self) -> Option<NodeId> {
        self.feasible.first().map(|score| score.node)
    }

    pub fn decision(&self, container: ContainerId, trigger: Trigger, based_on: Revision) -> Decision {
        Decision {
            container,
            trigger,
            chosen: self.best(),
            candidates: self.best_first().take(CANDIDATES).map(|score| (score.node, score.clone())).collect(),
            feasible: self.feasible.len() as u32,
            rejections: self.rejections(),
            based_on,
        }
    }

    fn rejections(&self) -> Arc<[RejectionCount]> {
        let count = |nodes: &BTreeSet<(Rejection, NodeId)>| {
            let (reason, _) = nodes.first()?;
            Some(RejectionCount {
                reason: reason.clone(),
                nodes: nodes.len() as u32,
                examples: nodes.iter().take(EXAMPLES).map(|(_, node)| *node).collect(),
            })
        };
        self.rejected.values().filter_map(count).collect()
    }
}

fn verdict(state: &State, container: &Container, node: &Node, suspects: &BTreeSet<NodeId>) -> Result<Score, Rejection> {
    let case = Case::of(state, container, node);
    case.judge()?;
    if suspects.contains(&node.id) { Err(Rejection::Suspect) } else { Ok(Score::of(&case)) }
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

//! Decides who has gone silent. In: this member's own acknowledgements, and the ages voters report when asked.
//! Out: suspects, and for each what a majority says at least.
//! Leader-local; it only suspects: `fencing` begins what follows. Absent: no state changes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use cluster::{Incarnation, MemberId, Moment, NodeId, Span};

use super::{ASK_EVERY, Desk, NodeView, Seen, TRANSITIONS, Transition};
use crate::message::{NodeAge, PeerMessage};

#[derive(Default)]
pub struct Silence {
    since: Moment,
    asked: Option<Moment>,
    round: u64,
    /// Keyed by node; only those that are silent now.
    silent: BTreeMap<NodeId, Silent>,
    /// Keyed by member: whether it started cold, and since when it is up, by this member's clock.
    starts: BTreeMap<MemberId, (bool, Moment)>,
}

struct Silent {
    incarnation: Incarnation,
    own: Span,
    /// Keyed by voter: the age it reported and when that arrived.
    reported: BTreeMap<MemberId, (Span, Moment)>,
    majority_age: Option<Span>,
    held_back: Option<Arc<str>>,
}

impl Silence {
    pub fn begin(&mut self, now: Moment) {
        self.since = now;
    }

    pub fn forget(&mut self, node: NodeId) {
        self.silent.remove(&node);
    }

    pub fn stalled(&mut self, now: Moment, _gap: Span) {
        self.since = now;
        for silent in self.silent.values_mut() {
            silent.reported.clear();
            silent.majority_age = None;
        }
    }

    pub fn suspects(&self) -> BTreeSet<NodeId> {
        self.silent.keys().copied().collect()
    }

    pub fn views(&self) -> BTreeMap<NodeId, NodeView> {
        let view = |silent: &Silent| NodeView {
            silent_for: silent.own,
            suspect: true,
            majority_age: silent.majority_age,
            held_back: silent.held_back.clone(),
        };
        self.silent.iter().map(|(node, silent)| (*node, view(silent))).collect()
    }

    pub fn hold_back(&mut self, node: NodeId, why: Option<&str>) {
        if let Some(silent) = self.silent.get_mut(&node)
            && silent.held_back.as_deref() != why
        {
            silent.held_back = why.map(Arc::from);
        }
    }

    /// Nodes for which a majority reports at least `age`.
    pub fn older_than(&self, age: Span) -> impl Iterator<Item = (NodeId, Incarnation, Span)> {
        self.silent.iter().filter_map(move |(node, silent)| {
            silent.majority_age.filter(|majority| *majority > age).map(|majority| (*node, silent.incarnation, majority))
        })
    }

    pub fn watch(&mut self, desk: &mut Desk<'_>, transitions: &mut VecDeque<Transition>) {
        self.look(desk, transitions);
        self.weigh(desk);
        let due = self.asked.is_none_or(|asked| desk.now.since(asked) >= ASK_EVERY);
        if due && !self.silent.is_empty() {
            self.asked = Some(desk.now);
            self.round += 1;
            let nodes = self.silent.iter().map(|(node, silent)| (*node, silent.incarnation)).collect();
            desk.ask_voters(PeerMessage::AskAges { round: self.round, nodes });
        }
    }

    /// Who is silent by our own acknowledgements.
    fn look(&mut self, desk: &mut Desk<'_>, transitions: &mut VecDeque<Transition>) {
        for node in desk.state.nodes() {
            let Some(incarnation) = node.up() else {
                self.silent.remove(&node.id);
                continue;
            };
            let suspicion = node.facts.as_ref().map_or(desk.state.settings().terms, |facts| facts.terms).suspicion();
            // A new leader has its own ages since its own start; it needs no grace of its own.
            let own = desk.leases.age(desk.now, node.id, incarnation);
            let known = self.silent.get_mut(&node.id).filter(|silent| silent.incarnation == incarnation);
            let what = match (own > suspicion, known) {
                (true, Some(silent)) => {
                    silent.own = own;
                    continue;
                }
                (true, None) => {
                    let silent =
                        Silent { incarnation, own, reported: BTreeMap::new(), majority_age: None, held_back: None };
                    self.silent.insert(node.id, silent);
                    Seen::Suspected
                }
                (false, Some(_)) => {
                    self.silent.remove(&node.id);
                    Seen::HeardAgain
                }
                (false, None) => continue,
            };
            if transitions.len() == TRANSITIONS {
                transitions.pop_front();
            }
            transitions.push_back(Transition { at: desk.wall, node: node.id, incarnation, what });
        }
    }

    /// What a majority of the newest membership says at least. Reports older than a heartbeat and a half say nothing.
    fn weigh(&mut self, desk: &Desk<'_>) {
        let fresh = Span(desk.state.settings().terms.heartbeat.0 * 3 / 2);
        let membership = desk.tail.newest_membership();
        for silent in self.silent.values_mut() {
            let age = |member: MemberId| {
                if member == desk.me {
                    return Some(silent.own);
                }
                let (age, at) = silent.reported.get(&member)?;
                (desk.now.since(*at) <= fresh).then_some(*age)
            };
            silent.majority_age = membership.majority_value(age);
        }
    }

    pub fn answered(&mut self, now: Moment, from: MemberId, ages: &[NodeAge], cold: bool, up_for: Span) {
        self.starts.insert(from, (cold, now - up_for));
        for age in ages {
            if let Some(silent) = self.silent.get_mut(&age.node)
                && silent.incarnation == age.incarnation
            {
                silent.reported.insert(from, (age.age, now));
            }
        }
    }

    /// Whether a majority of the voters began with a log less than `grace` ago: the whole cluster has just started
    /// *(b13)*. What has not been heard of counts as such.
    pub fn whole_cluster_started(&self, desk: &Desk<'_>, grace: Span) -> bool {
        desk.tail.newest_membership().majority(|member| {
            if member == desk.me {
                return desk.cold.is_some_and(|up_for| up_for < grace);
            }
            self.starts.get(&member).is_some_and(|(cold, since)| *cold && desk.now.since(*since) < grace)
        })
    }

    /// The voter that heard best a node which a majority hears and we have not for two leases.
    pub fn heard_elsewhere(&self, desk: &Desk<'_>) -> Option<MemberId> {
        let lease = desk.state.settings().terms.lease;
        let suspicion = desk.state.settings().terms.suspicion();
        let lonely = |silent: &&Silent| {
            silent.own > lease * 2 && silent.majority_age.is_some_and(|age| age <= suspicion)
        };
        let silent = self.silent.values().find(lonely)?;
        let membership = desk.tail.newest_membership();
        silent
            .reported
            .iter()
            .filter(|(member, (age, _))| membership.votes(**member) && *age <= suspicion)
            .min_by_key(|(_, (age, _))| *age)
            .map(|(member, _)| *member)
    }
}

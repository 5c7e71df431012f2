//! Decides who has gone silent. In: this member's own acknowledgements, and the ages voters report when asked.
//! Out: suspects, and for each what a majority says at least.
//! Leader-local; it only suspects: `fencing` begins what follows. Absent: no state changes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use cluster::{Incarnation, MemberId, Moment, NodeId, Span};
use planted::planted;

use super::{ASK_EVERY, Desk, NodeView, Seen, TRANSITIONS, Transition};
use crate::message::{NodeAge, PeerMessage};

#[derive(Default)]
pub struct Silence {
    asked: Option<Moment>,
    /// The first question of this leadership and the last; named by the clock, so that an answer to an earlier one, or to
    /// this member before it was started again, is none to these.
    rounds: Option<(u64, u64)>,
    /// Keyed by node; only those that are silent now.
    silent: BTreeMap<NodeId, Silent>,
    /// Keyed by member: whether it started cold, how long it was up, and when it said so.
    starts: BTreeMap<MemberId, (bool, Span, Moment)>,
    /// Nodes that are not silent, by the earliest moment at which they can be: nobody is looked at before.
    due: BTreeSet<(Moment, NodeId)>,
    /// Keyed by node: which of its entries in `due` counts.
    next: BTreeMap<NodeId, Moment>,
    all: bool,
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
    /// Looks at every node the next time: a leader begins, or the terms have changed.
    pub fn look_at_all(&mut self) {
        self.all = true;
    }

    /// It has just registered, and with that was heard.
    pub fn registered(&mut self, now: Moment, node: NodeId) {
        self.silent.remove(&node);
        self.next.insert(node, now);
        self.due.insert((now, node));
    }

    pub fn forget(&mut self, node: NodeId) {
        self.silent.remove(&node);
        self.next.remove(&node);
    }

    pub fn stalled(&mut self) {
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
            let (first, last) = self.rounds.map_or((desk.now.0, desk.now.0), |(first, last)| (first, last + 1));
            self.rounds = Some((first, last));
            let nodes = self.silent.iter().map(|(node, silent)| (*node, silent.incarnation)).collect();
            desk.ask_voters(PeerMessage::AskAges { round: last, nodes });
        }
    }

    /// Who is silent by our own acknowledgements. A node that was heard cannot be silent before its suspicion time is
    /// over, so that nobody is looked at who cannot have changed.
    fn look(&mut self, desk: &mut Desk<'_>, transitions: &mut VecDeque<Transition>) {
        if std::mem::take(&mut self.all) {
            self.due.clear();
            self.next = desk.state.nodes().map(|node| (node.id, desk.now)).collect();
            self.due.extend(self.next.iter().map(|(node, at)| (*at, *node)));
        }
        let later = self.due.split_off(&(desk.now + Span(1), NodeId(0)));
        let due = std::mem::replace(&mut self.due, later);
        let current = due.into_iter().filter(|(at, node)| self.next.get(node) == Some(at)).map(|(_, node)| node);
        let nodes: BTreeSet<NodeId> = current.chain(self.silent.keys().copied()).collect();
        for node in nodes {
            let Some(seen) = self.look_at(desk, node) else { continue };
            if transitions.len() == TRANSITIONS {
                transitions.pop_front();
            }
            transitions.push_back(seen);
        }
    }

    fn look_at(&mut self, desk: &Desk<'_>, id: NodeId) -> Option<Transition> {
        let up = desk.state.node(id).and_then(|node| Some((node, node.up()?)));
        let Some((node, incarnation)) = up else {
            // A registration brings it back.
            self.forget(id);
            return None;
        };
        let wanted = desk.state.settings().terms;
        let suspicion = node.facts.as_ref().map_or(wanted, |facts| facts.terms).suspicion();
        let seen = |what| Some(Transition { at: desk.wall, node: id, incarnation, what });
        // A new leader has its own ages since its own start; it needs no grace of its own.
        let own = desk.leases.age(desk.now, id, incarnation);
        let known = self.silent.get_mut(&id).filter(|silent| silent.incarnation == incarnation);
        match (own > suspicion, known) {
            (true, Some(silent)) => {
                silent.own = own;
                None
            }
            (true, None) => {
                let silent =
                    Silent { incarnation, own, reported: BTreeMap::new(), majority_age: None, held_back: None };
                self.silent.insert(id, silent);
                self.next.remove(&id);
                seen(Seen::Suspected)
            }
            (false, known) => {
                let again = known.is_some();
                self.silent.remove(&id);
                // The node may be about to name the terms that are wanted.
                let at = desk.now + suspicion.saturating_sub(own).min(wanted.suspicion());
                self.next.insert(id, at);
                self.due.insert((at, id));
                again.then(|| seen(Seen::HeardAgain)).flatten()
            }
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

    /// An answer to the question of `round`. What was said before this leadership began counts for nothing: the ages have
    /// grown since, and whoever said it may have been started again *(b13)*.
    pub fn answered(
        &mut self,
        now: Moment,
        (from, round): (MemberId, u64),
        ages: &[NodeAge],
        (cold, up_for): (bool, Span),
    ) {
        if !self.rounds.is_some_and(|(first, last)| (first..=last).contains(&round)) {
            return;
        }
        self.starts.insert(from, (cold, up_for, now));
        for age in ages {
            if let Some(silent) = self.silent.get_mut(&age.node)
                && silent.incarnation == age.incarnation
            {
                silent.reported.insert(from, (age.age, now));
            }
        }
    }

    /// Whether the whole cluster has just started *(b13)*: a majority of the voters began with a log less than `grace`
    /// ago, and none that was heard of has been up for longer. Members restarted one after another are no such start:
    /// one that stayed up saw the nodes all the while.
    pub fn whole_cluster_started(&self, desk: &Desk<'_>, grace: Span) -> bool {
        if planted!("boot-grace-forgotten") {
            return false;
        }
        let just_started = |member: MemberId| {
            if member == desk.me {
                return Some(desk.cold.is_some_and(|up_for| up_for < grace));
            }
            let (cold, up_for, said) = self.starts.get(&member)?;
            let young = *up_for + desk.now.since(*said) < grace;
            // A newcomer saw nothing: it neither stayed up nor came back.
            (*cold || !young).then_some(young)
        };
        let membership = desk.tail.newest_membership();
        let stayed_up = membership.all_voters().into_iter().any(|member| just_started(member) == Some(false));
        !stayed_up && membership.majority(|member| just_started(member) == Some(true))
    }

    /// The voter that heard best a node which a majority hears and we have not for two leases.
    pub fn heard_elsewhere(&self, desk: &Desk<'_>) -> Option<MemberId> {
        if planted!("unheard-node-moves-nobody") {
            return None;
        }
        let lease = desk.state.settings().terms.lease;
        let suspicion = desk.state.settings().terms.suspicion();
        let lonely =
            |silent: &&Silent| silent.own > lease * 2 && silent.majority_age.is_some_and(|age| age <= suspicion);
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

//! What this member has acknowledged to nodes, and how long a lease it helped to grant may still be good.
//! In: heartbeats, registrations, the member's own clock. Out: acknowledgements, ages, remaining times.
//! Absent: no log entry and no vote; everything here is lost with the process, and the loss is counted: the unknown
//! before this process began is as bad as it can be *(18)*. Source: safety.md, "Quorum leases" 1, 3, 5.

use std::collections::BTreeMap;
use std::sync::Arc;

use cluster::agent::{Answer, Heartbeat, MembershipIdentity, Refusal};
use cluster::{Health, Incarnation, MemberId, Moment, NodeId, Span, State};
use planted::planted;

use crate::log::Tail;

#[derive(Debug)]
pub struct Leases {
    me: MemberId,
    /// Nothing before this is known: the start of the process, or the end of a stall of its clock.
    known_since: Moment,
    /// Since when this member votes in the newest membership it knows; `None` while it does not.
    voter_since: Option<Moment>,
    /// Keyed by node; of its newest registration known here.
    granted: BTreeMap<NodeId, Granted>,
    identity: Option<Arc<MembershipIdentity>>,
}

#[derive(Clone, Copy, Debug)]
struct Granted {
    incarnation: Incarnation,
    registered: Moment,
    /// For suspicion: the last acknowledgement, moved forward by the time this member slept *(a2)*.
    heard: Option<Moment>,
    /// The latest moment at which a lease that counted one of our acknowledgements may still let something run,
    /// K, μ and drift included. Noted before the acknowledgement is given.
    over_at: Moment,
}

impl Leases {
    pub fn new(me: MemberId, started: Moment) -> Leases {
        Leases { me, known_since: started, voter_since: None, granted: BTreeMap::new(), identity: None }
    }

    /// Called whenever the newest membership in the log may have changed.
    pub fn membership(&mut self, now: Moment, tail: &Tail) {
        let votes = tail.newest_membership().votes(self.me);
        self.voter_since = if votes { self.voter_since.or(Some(now)) } else { None };
    }

    /// A registration was applied here: it counts as the first heartbeat, and grants no lease.
    pub fn registered(&mut self, now: Moment, node: NodeId, incarnation: Incarnation) {
        let mut granted = Granted { incarnation, registered: now, heard: None, over_at: now };
        if planted!("age-of-another-incarnation")
            && let Some(before) = self.granted.get(&node)
        {
            granted = Granted { incarnation, ..*before };
        }
        self.granted.insert(node, granted);
    }

    /// The state jumped: what is registered there and not here was registered as late as now.
    pub fn restored(&mut self, now: Moment, state: &State) {
        for node in state.nodes() {
            let incarnation = node.health.incarnation();
            if self.granted.get(&node.id).is_none_or(|granted| granted.incarnation != incarnation) {
                self.registered(now, node.id, incarnation);
            }
        }
    }

    /// This member's clock stood still for `gap`, or the member did: that is evidence against nobody *(a2)*.
    pub fn stalled(&mut self, now: Moment, gap: Span) {
        if planted!("late-tick-blamed") {
            return;
        }
        self.known_since = now;
        for granted in self.granted.values_mut() {
            granted.heard = granted.heard.map(|heard| (heard + gap).min(now));
        }
    }

    /// Answers a heartbeat that came over an authenticated stream of `from`.
    pub fn answer(&mut self, now: Moment, from: NodeId, heartbeat: &Heartbeat, state: &State, tail: &Tail) -> Answer {
        if let Some(refusal) = self.refusal(from, heartbeat, state, tail) {
            return Answer::Refused(refusal);
        }
        let over_at = now + heartbeat.terms.wait();
        let fresh = Granted { incarnation: heartbeat.incarnation, registered: now, heard: None, over_at: now };
        let granted = self.granted.entry(heartbeat.node).or_insert(fresh);
        if granted.incarnation != heartbeat.incarnation {
            *granted = fresh;
        }
        granted.heard = Some(now);
        granted.over_at = granted.over_at.max(over_at);
        Answer::Acknowledged(self.identity(state, tail))
    }

    fn refusal(&self, from: NodeId, heartbeat: &Heartbeat, state: &State, tail: &Tail) -> Option<Refusal> {
        let Heartbeat { generation, node, incarnation, boot, terms, .. } = *heartbeat;
        if generation != state.generation() {
            return Some(Refusal::OtherGeneration);
        }
        match state.node(node).map(|node| &node.health) {
            Some(Health::Up { incarnation: current, boot: registered })
                if from == node && *current == incarnation && *registered == boot => {}
            Some(Health::Fencing { incarnation: current, .. }) if *current == incarnation => {
                return Some(Refusal::Fencing);
            }
            _ => return Some(Refusal::NotCurrent),
        }
        if !tail.fencings(node, incarnation).is_empty() && !planted!("acknowledges-while-fencing") {
            return Some(Refusal::Fencing);
        }
        if !state.settings().legal(terms) {
            return Some(Refusal::UnknownTerms);
        }
        (!tail.newest_membership().votes(self.me)).then_some(Refusal::NotVoter)
    }

    /// What an acknowledgement given now belongs to: the newest membership known to the log or the state beneath.
    fn identity(&mut self, state: &State, tail: &Tail) -> Arc<MembershipIdentity> {
        let membership = tail.newest_membership();
        let current = |identity: &&Arc<MembershipIdentity>| {
            identity.term == membership.term
                && identity.index == membership.index
                && identity.voters == membership.voters
                && identity.addresses.iter().all(|(_, address)| !address.is_empty())
        };
        if let Some(identity) = self.identity.as_ref().filter(current) {
            return identity.clone();
        }
        let address = |id: &MemberId| state.member(*id).map_or_else(|| Arc::from(""), |it| it.peer_address.clone());
        let identity = Arc::new(MembershipIdentity {
            term: membership.term,
            index: membership.index,
            voters: membership.voters.clone(),
            outgoing: membership.outgoing.clone(),
            addresses: membership.all_voters().iter().map(|id| (*id, address(id))).collect(),
        });
        self.identity = Some(identity.clone());
        identity
    }

    /// Since the last acknowledgement, or since this member could have given one. Binds nobody.
    pub fn age(&self, now: Moment, node: NodeId, incarnation: Incarnation) -> Span {
        let heard = self.of(node, incarnation).and_then(|granted| granted.heard).unwrap_or_default();
        now.since(self.counted_from(now, node, incarnation).max(heard))
    }

    /// How long a lease this member helped to grant may still let something run; counted with `longest_wait` for all
    /// that it cannot know.
    pub fn remaining(&self, now: Moment, node: NodeId, incarnation: Incarnation, longest_wait: Span) -> Span {
        let unknown = self.counted_from(now, node, incarnation) + longest_wait;
        let known = self.of(node, incarnation).map_or(Moment(0), |granted| granted.over_at);
        known.max(unknown).since(now)
    }

    /// The latest of: this member's own start, its becoming a voter, the node's registration *(18)*. A member that
    /// does not know itself as a voter yet knows nothing: it counts from now.
    fn counted_from(&self, now: Moment, node: NodeId, incarnation: Incarnation) -> Moment {
        let registered = self.of(node, incarnation).map_or(Moment(0), |granted| granted.registered);
        if planted!("unknown-not-counted") {
            return registered;
        }
        self.known_since.max(self.voter_since.unwrap_or(now)).max(registered)
    }

    fn of(&self, node: NodeId, incarnation: Incarnation) -> Option<&Granted> {
        self.granted.get(&node).filter(|granted| granted.incarnation == incarnation)
    }
}

//! What a leader owes: the receipt of an open `Fencing`, the end of a joint membership, changes of terms.
//! Follows `replica/src/leadership/fencing.rs`.

use super::*;

impl Lease {
    /// The `Fencing` in the leader's state, or in its log where it does not wait for the commit.
    pub(super) fn fencing(&self, leader: &Member) -> Option<Place> {
        let upto = if self.on(Rule::QuestionAfterCommit) { leader.applied } else { leader.log.len };
        leader.log.find(Kind::Fencing, upto)
    }

    pub(super) fn proposals(&self, state: &State, leader: usize, steps: &mut Vec<Step>) {
        let member = &state.members[leader];
        if !self.settled(member) || usize::from(member.log.len) == LOG {
            return;
        }
        let membership = member.log.membership(member.log.len);
        let change_waits = self.on(Rule::ChangeAppliedFirst) && self.unapplied_change(member);
        let mut propose = |proposal| steps.push(Step::Propose(leader, proposal));
        if !member.log.has(Kind::Fencing) && !change_waits {
            propose(Proposal::Fencing);
        }
        if let Some(place) = self.fencing(member)
            && !member.log.has(Kind::Fenced)
            && !change_waits
            && (self.on(Rule::WhoeverLeadsFinishes) || place >> 4 == member.term)
        {
            let waits = (membership.outgoing != 0 || member.young > 0) && self.on(Rule::YoungMembershipWaits);
            let after = usize::from((place & 0xf).max(membership.identity & 0xf));
            let barrier = |entry: &Entry| entry.kind() == Kind::Settle && entry.term() == member.term;
            if waits && member.barrier == 0 && !member.log.get()[after..].iter().any(barrier) {
                propose(Proposal::Barrier);
            }
            if membership.is_quorum(self.over(state, place)) && (!waits || member.barrier == 1) {
                propose(Proposal::Fenced);
            }
        }
        match self.change {
            Change::Members => {
                let governs = member.log.membership(member.applied);
                if membership.identity == 0 {
                    propose(Proposal::Joint);
                } else if governs == membership
                    && governs.outgoing != 0
                    && (self.on(Rule::WhoeverLeadsLeavesJoint) || governs.identity >> 4 == member.term)
                {
                    propose(Proposal::Leave);
                }
            }
            Change::LongerTerms | Change::ShorterTerms => {
                let in_force = state.node.renamed && (state.node.earned || !self.on(Rule::TermsTightenedFirst));
                if !member.log.has(Kind::Terms) {
                    propose(Proposal::Terms);
                } else if self.change == Change::ShorterTerms && !member.log.has(Kind::TermsAlone) && in_force {
                    propose(Proposal::TermsAlone);
                }
            }
            Change::None => {}
        }
    }

    /// Voters that said, of this `Fencing`, that every lease they may have helped to grant is over by now.
    pub(super) fn over(&self, state: &State, fencing: Place) -> u8 {
        let over = |member: &Member| {
            member
                .told
                .is_some_and(|(place, left)| left == 0 && (place == fencing || !self.on(Rule::AnswerNamesFencing)))
        };
        (0..MEMBERS).filter(|at| over(&state.members[*at])).fold(0, |mask, at| mask | 1 << at)
    }

    pub(super) fn propose(&self, state: &mut State, leader: usize, proposal: Proposal) {
        let kind = match proposal {
            Proposal::Fencing => Kind::Fencing,
            Proposal::Barrier => Kind::Settle,
            Proposal::Fenced => Kind::Fenced,
            Proposal::Joint => Kind::Joint,
            Proposal::Leave => Kind::Leave,
            Proposal::Terms => Kind::Terms,
            Proposal::TermsAlone => Kind::TermsAlone,
        };
        self.append(state, leader, kind);
    }

    /// The voter answers the leader that asks about the `Fencing` it knows.
    pub(super) fn answer(&self, state: &State, leader: usize, voter: usize) -> Option<(Place, u8)> {
        let (asks, member) = (&state.members[leader], &state.members[voter]);
        let change_waits = self.on(Rule::ChangeAppliedFirst) && self.unapplied_change(asks);
        let place = self.fencing(asks).filter(|_| self.settled(asks) && !change_waits)?;
        if asks.log.has(Kind::Fenced) || !asks.log.membership(asks.log.len).votes(voter) {
            return None;
        }
        if self.on(Rule::RefusalBeforeAnswer) {
            let durable = if self.on(Rule::RefusalDurable) { member.durable } else { member.log.len };
            if member.log.find(Kind::Fencing, durable) != Some(place) {
                return None;
            }
        }
        // Not knowing oneself as a voter is knowing nothing.
        let votes = self.newest(member).votes(voter) || !self.on(Rule::UnknownFromVoting);
        let unknown = if votes { member.unknown } else { self.wait_max() };
        Some((place, member.noted.max(unknown.saturating_sub(self.wait_max() - self.longest(member)))))
    }

    /// Whoever may ask does so at once, for an answer never stands in the way of anything.
    pub(super) fn ask(&self, state: &mut State) {
        for leader in 0..self.members() {
            for voter in 0..self.members() {
                let Some((place, left)) = self.answer(state, leader, voter) else { continue };
                let told = match state.members[voter].told {
                    Some((of, before)) if of == place || !self.on(Rule::AnswerNamesFencing) => {
                        (place, before.min(left))
                    }
                    _ => (place, left),
                };
                state.members[voter].told = Some(told);
            }
        }
    }

    pub(super) fn fenced(&self, state: &State) -> bool {
        state.decided.has(Kind::Fenced)
    }
}

//! The node and what members make of its heartbeats. In: heartbeats, ticks. Out: acknowledgements, the lease they earn.
//! Follows `decide/src/{lease,terms}.rs` and `replica/src/leases.rs`.

use super::*;

impl Lease {
    /// Whether the member's log, or the state beneath it, makes it refuse the incarnation.
    pub(super) fn refuses(&self, member: &Member) -> bool {
        member.log.has(Kind::Fencing)
    }

    pub(super) fn acknowledges(&self, state: &State, at: usize) -> bool {
        let member = &state.members[at];
        if self.on(Rule::Refusal) && self.refuses(member) {
            return false;
        }
        let votes = self.newest(member).votes(at) || !self.on(Rule::LearnersDoNotCount);
        let knows = |kind| member.log.find(kind, member.applied).is_some();
        let legal = match state.node.renamed {
            true => knows(Kind::Terms),
            false => !knows(Kind::TermsAlone),
        };
        votes && legal && state.heartbeats > 0 && state.node.lease != Held::Over
    }

    pub(super) fn heartbeat(&self, state: &mut State, at: usize) {
        let wait = self.wait(self.named(&state.node));
        let identity = self.newest(&state.members[at]).identity;
        state.heartbeats = state.heartbeats.saturating_sub(u8::from(self.heartbeats < u8::MAX));
        let member = &mut state.members[at];
        state.acknowledged_after_fencing |= member.log.upto(member.durable).iter().any(|it| it.kind() == Kind::Fencing);
        member.noted = member.noted.max(wait);
        member.acknowledged = 0;
        member.identity = identity;
        if !self.late_replies {
            self.renew(state);
        }
    }

    /// The node counts the replies that are under way: hearing more of them only makes the lease longer.
    pub(super) fn renew(&self, state: &mut State) {
        if let Some(age) = self.earned(state) {
            let runs = self.named(&state.node) + self.kill - age;
            if runs > state.node.runs {
                state.node = Node { runs, lease: Held::Now, earned: true, ..state.node };
            }
        }
    }

    /// How long ago, by the node's clock, the heartbeat was sent that its lease begins with.
    pub(super) fn earned(&self, state: &State) -> Option<u8> {
        if state.node.lease == Held::Over {
            return None;
        }
        let length = self.named(&state.node);
        let living: Vec<(usize, &Member)> =
            state.members.iter().enumerate().filter(|(_, member)| member.acknowledged < length).collect();
        let memberships = living.iter().filter_map(|(_, member)| self.membership_called(state, member.identity));
        memberships
            .filter_map(|membership| {
                let counts = |at: usize, member: &Member| {
                    (membership.votes(at) || !self.on(Rule::LearnersDoNotCount))
                        && (member.identity == membership.identity || !self.on(Rule::OneMembership))
                };
                let counted = living.iter().filter(|(at, member)| counts(*at, member));
                let mut ages: Vec<(u8, usize)> = counted.map(|(at, member)| (member.acknowledged, *at)).collect();
                ages.sort_unstable();
                let mut heard = 0u8;
                let start = ages.into_iter().find_map(|(age, at)| {
                    heard |= 1 << at;
                    let enough = match (self.on(Rule::Majority), self.on(Rule::LearnersDoNotCount)) {
                        (false, _) => true,
                        (true, true) => membership.is_quorum(heard),
                        (true, false) => heard.count_ones() * 2 > membership.voters.count_ones(),
                    };
                    enough.then_some(age)
                })?;
                Some(if self.on(Rule::CountedFromSend) { start } else { 0 })
            })
            .min()
    }

    /// The membership an acknowledgement carries; it was in somebody's log once.
    pub(super) fn membership_called(&self, state: &State, identity: Place) -> Option<Membership> {
        let logs = state.members.iter().map(|member| &member.log).chain([&state.decided]);
        let of = |log: &Log| (0..=log.len).map(|len| log.membership(len)).find(|it| it.identity == identity);
        logs.filter_map(of).next()
    }

    pub(super) fn tick(&self, state: &mut State, slow: bool) {
        for member in &mut state.members {
            member.noted = member.noted.saturating_sub(1);
            member.unknown = member.unknown.saturating_sub(1);
            member.young = member.young.saturating_sub(1);
            member.told = member.told.map(|(place, left)| (place, left.saturating_sub(1)));
            member.barrier = if member.barrier > 1 { member.barrier - 1 } else { member.barrier };
            if !slow && member.acknowledged < NONE {
                member.acknowledged += 1;
            }
        }
        let node = &mut state.node;
        node.steady = if slow { self.length + self.kill + self.drift } else { node.steady.saturating_sub(1) };
        if !slow {
            node.runs = node.runs.saturating_sub(1);
            if node.lease == Held::Now && node.runs <= self.kill {
                node.lease = Held::Over;
            }
        }
        let length = self.named(&state.node);
        for member in &mut state.members {
            if member.acknowledged >= length || state.node.lease == Held::Over {
                (member.acknowledged, member.identity) = (NONE, 0);
            }
        }
    }

    pub(super) fn name_new_terms(&self, state: &mut State) {
        let length = self.new_length();
        state.node.renamed = true;
        if self.on(Rule::TermsTightenedFirst) {
            state.node.runs = state.node.runs.min(length + self.kill);
            state.node.earned = state.node.lease == Held::Never;
        }
        for member in &mut state.members {
            (member.acknowledged, member.identity) = (NONE, 0);
        }
    }

    /// No lease is held and none can be earned any more.
    pub(super) fn is_harmless(&self, state: &State) -> bool {
        let silent = state.members.iter().all(|member| member.acknowledged == NONE);
        state.node.runs == 0 && (state.node.lease == Held::Over || (silent && state.heartbeats == 0))
    }
}

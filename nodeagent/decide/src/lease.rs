//! Works out until when an incarnation may run. In: acknowledgements, each with the time its heartbeat was sent. Out: the
//! end of the lease, which only acknowledgements move and which never comes nearer by a newer membership.
//! Source: safety.md, "Quorum leases" 2; the majority-th newest send as in reliability.md 1.4.
//! Absent: no clock; and no member is trusted alone, learners not at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use cluster::agent::MembershipIdentity;
use cluster::{MemberId, Moment, Span};
use planted::planted;

/// The lease of one incarnation under one set of terms.
#[derive(Clone, Debug)]
pub struct Lease {
    /// L, counted from the send of the heartbeat that earned it.
    length: Span,
    /// The newest acknowledged send of each voter, apart for each membership: only identical ones count together *(1)*.
    acknowledged: BTreeMap<Arc<MembershipIdentity>, BTreeMap<MemberId, Moment>>,
    end: Option<Moment>,
    /// The end was earned since the terms were last named.
    earned: bool,
}

impl Lease {
    /// No lease yet.
    pub fn none(length: Span) -> Lease {
        Lease { length, acknowledged: BTreeMap::new(), end: None, earned: false }
    }

    /// The lease an agent before this one earned, as the guard's slot still holds it.
    pub fn recalled(length: Span, end: Option<Moment>) -> Lease {
        Lease { end, ..Lease::none(length) }
    }

    /// Counts one acknowledgement; gives back the new end if it moved. One that comes when the lease is over brings
    /// nothing back, however fresh the heartbeat was *(a2)*.
    pub fn acknowledge(
        &mut self,
        now: Moment,
        member: MemberId,
        sent_at: Moment,
        identity: &Arc<MembershipIdentity>,
    ) -> Option<Moment> {
        let votes = identity.voters.contains(&member) || identity.outgoing.contains(&member);
        if sent_at > now || !votes || self.is_over(now) {
            return None;
        }
        self.forget(now);
        let counted = match self.acknowledged.keys().next() {
            Some(first) if planted!("memberships-count-together") => first,
            _ => identity,
        };
        let sends = self.acknowledged.entry(counted.clone()).or_default();
        let newest = sends.entry(member).or_default();
        *newest = sent_at.max(*newest);

        let end = start(identity, sends)? + self.length;
        if end <= now || self.end.is_some_and(|held| end <= held) {
            return None;
        }
        self.earned = true;
        self.end = Some(end);
        self.end
    }

    /// Drops what could earn nothing any more, so that no run of memberships grows this.
    fn forget(&mut self, now: Moment) {
        let length = self.length;
        self.acknowledged.retain(|_, sends| {
            sends.retain(|_, sent_at| *sent_at + length > now);
            !sends.is_empty()
        });
    }

    /// Brings the end to at most `length` from now and counts no longer lease from here on: the one way an end comes
    /// nearer, before shorter terms are named *(a3)*. Gives back the new end if it moved.
    pub fn tighten(&mut self, now: Moment, length: Span) -> Option<Moment> {
        self.length = self.length.min(length);
        let limit = now + self.length;
        if self.end.is_none_or(|end| end <= limit) {
            return None;
        }
        self.end = Some(limit);
        self.end
    }

    /// The tightening is called off: acknowledgements of the named terms earn their whole length again.
    pub fn loosen(&mut self, length: Span) {
        self.length = length;
    }

    /// From here on only acknowledgements of the newly named terms count.
    pub fn rename(&mut self, length: Span) {
        self.length = length;
        self.acknowledged.clear();
        self.earned = false;
    }

    pub fn end(&self) -> Option<Moment> {
        self.end
    }

    pub fn is_held(&self, now: Moment) -> bool {
        self.end.is_some_and(|end| now < end)
    }

    /// There was one and it has run out. Nothing brings it back.
    pub fn is_over(&self, now: Moment) -> bool {
        self.end.is_some_and(|end| end <= now)
    }

    /// The end rests on acknowledgements of the terms now named, or there is no lease that could rest on others.
    pub fn rests_on_named(&self) -> bool {
        self.earned || self.end.is_none()
    }
}

/// The newest moment such that a majority, both when joint, acknowledged a heartbeat sent then or later.
fn start(identity: &MembershipIdentity, sends: &BTreeMap<MemberId, Moment>) -> Option<Moment> {
    let incoming = majority_th(&identity.voters, sends)?;
    if identity.outgoing.is_empty() || planted!("joint-needs-one-majority") {
        return Some(incoming);
    }
    Some(incoming.min(majority_th(&identity.outgoing, sends)?))
}

fn majority_th(voters: &[MemberId], sends: &BTreeMap<MemberId, Moment>) -> Option<Moment> {
    let mut newest: Vec<Moment> = voters.iter().filter_map(|voter| sends.get(voter).copied()).collect();
    newest.sort_unstable_by(|a, b| b.cmp(a));
    newest.get(if planted!("one-acknowledgement-enough") { 0 } else { voters.len() / 2 }).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const L: Span = Span::millis(3_000);

    fn ms(millis: u64) -> Moment {
        Moment(0) + Span::millis(millis)
    }

    fn ids(numbers: &[u64]) -> Arc<[MemberId]> {
        numbers.iter().copied().map(MemberId).collect()
    }

    fn membership(index: u64, voters: &[u64], outgoing: &[u64]) -> Arc<MembershipIdentity> {
        Arc::new(MembershipIdentity {
            term: 1,
            index,
            voters: ids(voters),
            outgoing: ids(outgoing),
            addresses: [].into(),
        })
    }

    /// Each row: member, sent, membership. All are counted at 1000 ms; the lease, if any, ends at the given time.
    #[track_caller]
    fn check(rows: &[(u64, u64, &Arc<MembershipIdentity>)], end: Option<u64>) {
        let mut lease = Lease::none(L);
        for (member, sent, identity) in rows {
            lease.acknowledge(ms(1_000), MemberId(*member), ms(*sent), identity);
        }
        assert_eq!(lease.end(), end.map(ms));
    }

    #[test]
    fn starts_at_the_majority_th_newest_send() {
        let three = &membership(1, &[1, 2, 3], &[]);
        check(&[(1, 900, three)], None);
        check(&[(1, 900, three), (1, 950, three)], None);
        check(&[(1, 900, three), (2, 300, three)], Some(3_300));
        check(&[(1, 900, three), (2, 300, three), (3, 600, three)], Some(3_600));
        let four = &membership(1, &[1, 2, 3, 4], &[]);
        check(&[(1, 900, four), (2, 800, four)], None);
        check(&[(1, 900, four), (2, 800, four), (4, 100, four)], Some(3_100));
        check(&[(9, 900, &membership(1, &[9], &[]))], Some(3_900));
        check(&[(1, 900, &membership(1, &[], &[]))], None);
    }

    #[test]
    fn acknowledgements_of_different_memberships_do_not_count_together() {
        let (old, new) = (&membership(1, &[1, 2, 3], &[]), &membership(2, &[1, 2, 3], &[]));
        check(&[(1, 900, old), (2, 900, new)], None);
        check(&[(1, 900, old), (2, 900, new), (3, 500, old)], Some(3_500));
        let mut readdressed = MembershipIdentity::clone(old);
        readdressed.addresses = [(MemberId(1), Arc::from("elsewhere:1"))].into();
        check(&[(1, 900, old), (2, 900, &Arc::new(readdressed))], None);
    }

    #[test]
    fn joint_membership_needs_both_majorities() {
        let joint = &membership(1, &[1, 2, 3], &[3, 4, 5]);
        check(&[(1, 900, joint), (2, 900, joint)], None);
        check(&[(1, 900, joint), (2, 900, joint), (3, 900, joint)], None);
        check(&[(1, 900, joint), (2, 900, joint), (3, 900, joint), (4, 200, joint)], Some(3_200));
        check(&[(1, 700, joint), (3, 900, joint), (4, 800, joint)], Some(3_700));
    }

    #[test]
    fn learners_never_count() {
        let three = &membership(1, &[1, 2, 3], &[]);
        check(&[(1, 900, three), (7, 900, three)], None);
    }

    #[test]
    fn a_send_from_the_future_never_counts() {
        let three = &membership(1, &[1, 2, 3], &[]);
        check(&[(1, 900, three), (2, 1_001, three)], None);
        check(&[(1, 1_000, three), (2, 1_000, three)], Some(4_000));
    }

    #[test]
    fn a_lease_earned_is_never_shortened_by_a_newer_membership_or_an_older_send() {
        let (old, new) = (membership(1, &[1, 2, 3], &[]), membership(2, &[1, 2, 3, 4, 5], &[]));
        let mut lease = Lease::none(L);
        lease.acknowledge(ms(900), MemberId(1), ms(800), &old);
        assert_eq!(lease.acknowledge(ms(900), MemberId(2), ms(800), &old), Some(ms(3_800)));
        for member in 1..=5 {
            assert_eq!(lease.acknowledge(ms(950), MemberId(member), ms(500), &new), None);
            assert_eq!(lease.acknowledge(ms(950), MemberId(member), ms(100), &old), None);
        }
        assert_eq!(lease.end(), Some(ms(3_800)));
    }

    #[test]
    fn acknowledgements_that_come_after_their_lease_would_have_ended_grant_nothing() {
        let three = membership(1, &[1, 2, 3], &[]);
        let mut lease = Lease::none(L);
        lease.acknowledge(ms(4_000), MemberId(1), ms(1_000), &three);
        assert_eq!(lease.acknowledge(ms(4_000), MemberId(2), ms(1_000), &three), None);
        assert_eq!(lease.end(), None);
    }

    #[test]
    fn a_lease_that_is_over_is_not_brought_back_by_acknowledgements_that_waited() {
        let one = membership(1, &[1], &[]);
        let mut lease = Lease::none(L);
        assert_eq!(lease.acknowledge(ms(1_000), MemberId(1), ms(1_000), &one), Some(ms(4_000)));
        assert_eq!(lease.acknowledge(ms(4_000), MemberId(1), ms(3_900), &one), None);
        assert!(lease.is_over(ms(4_000)) && !lease.is_over(ms(3_999)));
    }

    #[test]
    fn many_memberships_leave_nothing_behind() {
        let mut lease = Lease::none(L);
        for index in 0..1_000 {
            lease.acknowledge(ms(index * 100), MemberId(1), ms(index * 100), &membership(index, &[1, 2, 3], &[]));
        }
        assert!(lease.acknowledged.len() <= 31, "{} memberships kept", lease.acknowledged.len());
    }

    #[test]
    fn only_tightening_brings_the_end_nearer_and_only_the_new_length_counts_after_it() {
        let one = membership(1, &[1], &[]);
        let mut lease = Lease::none(L);
        lease.acknowledge(ms(1_000), MemberId(1), ms(1_000), &one);
        assert_eq!(lease.tighten(ms(1_100), Span::millis(1_500)), Some(ms(2_600)));
        assert_eq!(lease.tighten(ms(1_100), Span::millis(1_500)), None);
        assert_eq!(lease.acknowledge(ms(1_200), MemberId(1), ms(1_200), &one), Some(ms(2_700)));
        lease.rename(Span::millis(1_500));
        assert!(!lease.rests_on_named());
        lease.acknowledge(ms(1_300), MemberId(1), ms(1_300), &one);
        assert!(lease.rests_on_named());
    }
}

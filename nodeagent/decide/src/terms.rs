//! Brings other lease terms into force without a moment at which the members count on less than the guard keeps *(a3)*.
//! In: the terms the leader's state wants. Out, in this order: the guard holds the shorter of both lengths and the
//! deadline is within it; the new terms are durable; heartbeats name them; and once a lease rests on them, the guard's K
//! may be the longer one. Absent: which terms are legal; the members know.

use cluster::agent::ToLeader;
use cluster::{LeaseTerms, Moment, Span};
use planted::planted;

use crate::agent::Agent;
use crate::exchange::{Effect, GuardSays};
use crate::journal::Record;
use crate::reports::Repeat;
use crate::standing::Standing;

#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// What heartbeats name.
    pub named: LeaseTerms,
    /// Written, and named as soon as the record is durable.
    naming: Option<(LeaseTerms, u64)>,
    /// What was last put into the guard's slot.
    asked: Option<Bound>,
    /// That the named terms are in force, guard included, and when to say so again.
    told: Option<Repeat>,
}

/// What the guard keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bound {
    lease: Span,
    kill: Span,
}

impl Terms {
    pub fn new(named: LeaseTerms) -> Terms {
        Terms { named, naming: None, asked: None, told: None }
    }

    /// The slot holds what the agent before this one asked for.
    pub fn recall(&mut self, guard: &GuardSays) {
        self.asked = Some(Bound { lease: guard.lease, kill: guard.kill });
    }

    /// A new incarnation holds no lease: its terms can be named as soon as the guard has them.
    pub fn begin_anew(&mut self, named: LeaseTerms) {
        *self = Terms::new(named);
    }

    /// A change that is under way leads to these.
    fn target(&self, wanted: Option<LeaseTerms>) -> Option<LeaseTerms> {
        let written = self.naming.map(|(terms, _)| terms);
        written.or(wanted).filter(|target| *target != self.named)
    }

    /// The guard takes every deadline these terms can earn and would end everything within their K.
    pub fn is_kept_by(&self, guard: &GuardSays) -> bool {
        self.asked.is_some_and(|asked| guard.lease >= asked.lease)
            && (guard.kill <= self.named.kill || planted!("terms-named-at-once"))
    }

    pub fn repeat(&mut self) {
        self.told = None;
    }
}

impl Agent {
    pub(crate) fn advance_terms(&mut self, now: Moment) {
        if !matches!(self.standing, Standing::Serving { .. }) {
            return;
        }
        self.name_what_is_durable(now);
        let named = self.terms.named;
        let at_once = planted!("terms-named-at-once");
        let Some(target) = self.terms.target(self.desired.terms()) else {
            if at_once && !self.lease.rests_on_named() {
                return;
            }
            self.lease.loosen(named.lease);
            let kill = if self.lease.rests_on_named() { named.kill } else { self.kill_asked().min(named.kill) };
            return self.bind(Bound { lease: named.lease, kill });
        };
        let bound =
            Bound { lease: named.lease.min(target.lease), kill: self.kill_asked().min(named.kill).min(target.kill) };
        if !at_once {
            self.bind(bound);
        }
        if !at_once && let Some(at) = self.lease.tighten(now, bound.lease) {
            self.out.push(Effect::Deadline { incarnation: self.journal.incarnation, at: Some(at) });
        }
        if self.terms.naming.is_none() && (self.guard_keeps(bound) || at_once) {
            let record = self.write(Record::Terms { terms: target });
            self.terms.naming = Some((target, record));
        }
    }

    fn name_what_is_durable(&mut self, now: Moment) {
        let Some((terms, record)) = self.terms.naming else { return };
        if self.durable < record {
            return;
        }
        self.say(format!("terms: {} -> {} leases", self.terms.named.lease, terms.lease));
        self.terms = Terms { naming: None, told: None, named: terms, ..self.terms };
        self.lease.rename(terms.lease);
        self.pulse.hasten(now);
    }

    fn kill_asked(&self) -> Span {
        self.terms.asked.map_or(self.terms.named.kill, |asked| asked.kill)
    }

    fn bind(&mut self, bound: Bound) {
        if self.terms.asked != Some(bound) {
            self.terms.asked = Some(bound);
            self.out.push(Effect::GuardTerms { lease: bound.lease, kill: bound.kill });
        }
    }

    /// Read back from the slot: the shorter K is in force and no deadline lies beyond the shorter lease.
    fn guard_keeps(&self, bound: Bound) -> bool {
        let within = |at: Moment| self.lease.end().is_some_and(|end| at <= end);
        self.is_armed() && self.guard.is_some_and(|guard| guard.kill <= bound.kill && guard.deadline.is_none_or(within))
    }

    /// Not before a lease rests on them: with the terms before no longer legal, a voter that restarted since counts by
    /// these alone, and the lease it helped to grant under the longer ones must be behind us.
    fn terms_are_in_force(&self) -> bool {
        let named = self.terms.named;
        self.is_armed()
            && self.lease.rests_on_named()
            && self.terms.target(self.desired.terms()).is_none()
            && self.guard.is_some_and(|guard| guard.kill == named.kill && guard.lease == named.lease)
    }

    /// Tells the leader that the named terms are in force, guard included.
    pub(crate) fn tell_terms(&mut self, now: Moment) {
        if !self.terms_are_in_force() {
            return;
        }
        let told = self.terms.told.get_or_insert(Repeat::at_once(now));
        if told.due <= now {
            told.said(now);
            let (incarnation, terms) = (self.journal.incarnation, self.terms.named);
            self.out.push(Effect::ToLeader(ToLeader::TermsInForce { incarnation, terms }));
        }
    }

    pub(crate) fn next_terms(&self) -> Option<Moment> {
        self.terms.told.filter(|_| self.terms_are_in_force()).map(|told| told.due)
    }
}

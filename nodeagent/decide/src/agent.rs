//! The mind itself: takes one input, brings everything up to date, gives back the orders. In: `Input` and the time. Out:
//! effects, to be carried out in their order. Each later file holds one concern of it: standing (which incarnation, and
//! whether it may go on), terms, pulse (heartbeats and lease), reconcile (wanted against actual), handover, speech.
//! Level-triggered: nothing waits for an edge that a lost message could swallow.

use std::sync::Arc;

use cluster::agent::{MembershipIdentity, ToAgent};
use cluster::{Generation, Incarnation, Moment, Span};
use planted::planted;

use crate::account::Account;
use crate::actual::{Actual, Phase};
use crate::class::ClassWord;
use crate::desired::Desired;
use crate::exchange::{Config, Effect, GuardSays, Input};
use crate::handover::Preparations;
use crate::journal::{Journal, Life, Record};
use crate::lease::Lease;
use crate::pulse::Pulse;
use crate::reports::Reports;
use crate::speech::Session;
use crate::standing::Standing;
use crate::terms::Terms;

pub struct Agent {
    pub(crate) config: Config,
    pub(crate) journal: Journal,
    /// The last record that was ordered, and the last that is known to be durable.
    pub(crate) written: u64,
    pub(crate) durable: u64,
    pub(crate) guard: Option<GuardSays>,
    pub(crate) standing: Standing,
    /// There is no way back from it.
    pub(crate) leaving: bool,
    pub(crate) lease: Lease,
    pub(crate) terms: Terms,
    pub(crate) class: ClassWord,
    pub(crate) account: Account,
    pub(crate) pulse: Pulse,
    /// The newest membership heard of.
    pub(crate) membership: Option<Arc<MembershipIdentity>>,
    pub(crate) session: Session,
    pub(crate) desired: Desired,
    pub(crate) actual: Actual,
    pub(crate) preparations: Preparations,
    pub(crate) reports: Reports,
    /// The last look that was ordered, and the last that was answered.
    pub(crate) asked: u64,
    pub(crate) seen: u64,
    /// Something changed that wanted and actual depend on.
    pub(crate) stirred: bool,
    pub(crate) out: Vec<Effect>,
}

impl Agent {
    /// An agent that has not looked around yet. Send it `Input::Tick`, it orders what it needs; until it has the guard's
    /// word and has seen what runs it says nothing to anyone.
    pub fn new(config: Config, mut journal: Journal) -> Agent {
        if planted!("epoch-memory-lost") {
            journal.closed.clear();
        }
        let terms = journal.terms;
        Agent {
            config,
            journal,
            written: 0,
            durable: 0,
            guard: None,
            standing: Standing::Waking,
            leaving: false,
            lease: Lease::none(terms.lease),
            terms: Terms::new(terms),
            class: ClassWord::default(),
            account: Account::default(),
            pulse: Pulse::default(),
            membership: None,
            session: Session::default(),
            desired: Desired::default(),
            actual: Actual::default(),
            preparations: Preparations::default(),
            reports: Reports::default(),
            asked: 0,
            seen: 0,
            stirred: false,
            out: Vec::new(),
        }
    }

    /// Takes one input at `now`, which never goes back while an agent lives. Gives back orders, to be carried out in
    /// their order. A lease that ran out while the agent slept is over, whatever the input says *(a2)*.
    pub fn handle(&mut self, now: Moment, input: Input) -> Vec<Effect> {
        self.absorb(now, input);
        self.watch(now);
        self.finish_closings(now);
        self.advance_standing(now);
        self.advance_terms(now);
        self.reconcile(now);
        self.beat(now);
        self.speak(now);
        self.order_wake(now);
        std::mem::take(&mut self.out)
    }

    fn absorb(&mut self, now: Moment, input: Input) {
        self.stirred |= !matches!(input, Input::Tick | Input::Reply(_) | Input::Finds(_));
        match input {
            Input::Tick => {}
            Input::Reply(reply) => self.hear(now, reply),
            Input::LeaderConnected { member } => self.open_session(now, member),
            Input::LeaderLost => self.close_session(now),
            Input::FromLeader(ToAgent::Registered { generation, incarnation, revision, terms }) => {
                self.registered(now, generation, incarnation, revision, terms)
            }
            Input::FromLeader(ToAgent::NotRegistered { current, reason }) => self.not_registered(now, current, &reason),
            Input::FromLeader(ToAgent::Desired(set)) => self.accept(&set),
            Input::FromLeader(ToAgent::Void { incarnation }) => self.void(incarnation),
            Input::JournalDurable { sequence } => self.durable = self.durable.max(sequence.min(self.written)),
            Input::Guard(says) => self.hear_guard(says),
            Input::Found { ask, workloads } => self.found(now, ask, &workloads),
            Input::Happened { container, epoch, what } => self.happened(now, (container, epoch), what),
            Input::Facts(facts) => self.take_facts(now, *facts),
            Input::Finds(report) => self.take_report(now, report),
            Input::Leave => self.leave(),
        }
    }

    /// The current incarnation or the last one; 0 before the first registration.
    pub fn incarnation(&self) -> Incarnation {
        self.journal.incarnation
    }

    /// What must survive this agent, as if every record ordered so far were durable.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The end of the lease that is held or was last held.
    pub fn lease_end(&self) -> Option<Moment> {
        self.lease.end()
    }

    /// In one word, for people.
    pub fn standing(&self) -> &'static str {
        match self.standing {
            Standing::Waking => "waking",
            Standing::Serving { .. } if self.leaving => "leaving",
            Standing::Serving { .. } => "serving",
            Standing::Ending(_) => "ending",
            Standing::Registering { .. } => "registering",
            Standing::Left { .. } => "left",
        }
    }

    /// What the journal tells of belongs to an earlier generation: all of it ends before this one is entered, `keep` or
    /// not, for its members may have given anything to anybody since *(8)*.
    pub(crate) fn is_crossing(&self) -> bool {
        let of = self.journal.generation;
        of != Generation::default() && of != self.config.generation
    }

    /// Orders a record and counts it as true from here on. Gives back the sequence to wait for where its durability
    /// matters.
    pub(crate) fn write(&mut self, record: Record) -> u64 {
        self.journal.apply(&record);
        self.written += 1;
        self.out.push(Effect::Journal { sequence: self.written, record });
        self.written
    }

    pub(crate) fn say(&mut self, line: String) {
        self.out.push(Effect::Say(line));
    }

    /// Its registration is on disk and the guard stands ready for it: heartbeats may name the incarnation.
    pub(crate) fn is_armed(&self) -> bool {
        let registered = match self.standing {
            Standing::Serving { registered } => registered,
            Standing::Ending(_) if planted!("latched-goes-on-beating") => return true,
            _ => return false,
        };
        let ready = |guard: &GuardSays| {
            guard.incarnation == self.journal.incarnation
                && guard.alive
                && !guard.latched
                && self.terms.is_kept_by(guard)
        };
        self.durable >= registered && self.journal.life == Life::Current && self.guard.as_ref().is_some_and(ready)
    }

    /// Nothing starts without a lease that is held at this moment, by an incarnation that is not about to end.
    pub(crate) fn may_start(&self, now: Moment) -> bool {
        self.is_armed() && !self.leaving && (self.lease.is_held(now) || planted!("start-without-a-lease"))
    }

    /// Asks for the next tick at the earliest moment at which there is something to do.
    fn order_wake(&mut self, now: Moment) {
        let stops = self.actual.iter().filter_map(|(_, work)| match work.phase {
            Phase::Stopping { again, .. } => again,
            _ => None,
        });
        let lease = self.lease.end().filter(|_| matches!(self.standing, Standing::Serving { .. }));
        let due = stops.chain(lease).chain(self.next_beat()).chain(self.next_words()).min();
        if let Some(due) = due {
            self.out.push(Effect::Wake { at: due.max(now + Agent::TURN) });
        }
    }

    /// No wake is ordered nearer than this: what is due is done in the turn itself.
    const TURN: Span = Span::millis(1);
}

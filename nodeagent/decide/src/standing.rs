//! Which incarnation the node is, and whether it may go on. In: the guard's word, what runs, the members' answers. Out: a
//! latch before anything terminal is said, registrations that name what they end, with proof that nothing is left.
//! Source: safety.md, "Quorum leases" 6 and 7. Absent: refusals of heartbeats; only the leader's applied state and
//! one's own lease end an incarnation *(b11)*.

use cluster::agent::ToLeader;
use cluster::command::Registration;
use cluster::{End, Exit, Generation, Incarnation, LeaseTerms, Moment, NodeFacts, OnQuorumLoss, Proof, Revision, Span};
use planted::planted;

use crate::actual::{Key, Phase, Work};
use crate::agent::Agent;
use crate::exchange::{Effect, GuardSays, Shape, Workload};
use crate::journal::{Life, Record};
use crate::lease::Lease;
use crate::reconcile::end_without_guard;

#[derive(Clone, Debug)]
pub(crate) enum Standing {
    /// Has not looked around, or has not heard from the guard.
    Waking,
    /// The journal's incarnation is current, its registration durable with record `registered`.
    Serving { registered: u64 },
    /// Latched; waits until nothing of it is left.
    Ending(Ending),
    /// Nothing of the last incarnation is left; asks for the next, again at the given time. `asked`: nobody has answered
    /// yet, and the state may hold the next one already.
    Registering { again: Moment, asked: bool },
    /// Left gracefully; says so until the leader knows. `None` = it knows.
    Left { again: Option<Moment> },
}

#[derive(Clone, Debug)]
pub(crate) struct Ending {
    /// `keep` workloads go as well.
    pub everything: bool,
    /// The guard's record of this incarnation's end is awaited.
    guard: Option<Incarnation>,
    /// The look that is to show that nothing is left.
    look: Option<u64>,
    /// The end is durable with this record.
    over: Option<u64>,
}

/// How long an unanswered registration, or an unanswered word that one has left, waits before it is repeated.
const UNANSWERED: Span = Span::millis(1_000);

impl Agent {
    /// Ends the incarnation as soon as its lease is over or its guard latched it.
    pub(crate) fn watch(&mut self, now: Moment) {
        if !matches!(self.standing, Standing::Serving { .. }) {
            return;
        }
        if self.lease.is_over(now) && !planted!("gap-is-forgiven") {
            self.end("its lease is over", false);
        } else if self.guard.is_some_and(|guard| guard.incarnation == self.journal.incarnation && guard.latched) {
            self.end("its guard latched it", false);
        }
    }

    pub(crate) fn hear_guard(&mut self, says: GuardSays) {
        let before = self.guard.replace(says);
        let incarnation = self.journal.incarnation;
        let held = before.is_some_and(|before| before.incarnation == incarnation);
        if matches!(self.standing, Standing::Serving { .. }) && held && says.incarnation != incarnation {
            self.end("its guard lost it", false);
        }
        if before.is_none_or(|before| before.alive) && !says.alive {
            self.say("guard: alive -> gone; no heartbeat and no start without it".to_owned());
        }
    }

    /// The leader's state knows `incarnation` as over: nothing of it may stay, `keep` or not.
    pub(crate) fn void(&mut self, incarnation: Incarnation) {
        if incarnation != self.journal.incarnation {
            return;
        }
        match &mut self.standing {
            Standing::Serving { .. } => self.end("the leader knows it as over", true),
            Standing::Left { again: again @ Some(_) } => {
                *again = None;
                self.out.push(Effect::Farewell);
                self.say(format!("left: the leader knows {incarnation} as over"));
            }
            _ => {}
        }
    }

    pub(crate) fn leave(&mut self) {
        if std::mem::replace(&mut self.leaving, true) {
            return;
        }
        self.say(format!("leaving: {} ends everything it runs", self.journal.incarnation));
        if let Standing::Ending(ending) = &mut self.standing {
            *ending = Ending { everything: true, look: None, over: None, ..ending.clone() };
        }
    }

    /// From serving to ending. Latches on disk and in the guard's slot; nothing starts from here on, no heartbeat leaves,
    /// and no order of the incarnation counts any more. Only the lease's end is proven by it, so `keep` workloads stay
    /// unless `everything` must go.
    pub(crate) fn end(&mut self, reason: &str, everything: bool) {
        let incarnation = self.journal.incarnation;
        self.say(format!("{incarnation}: serving -> ending, {reason}"));
        if self.journal.life == Life::Current {
            self.write(Record::Latched { incarnation });
        }
        self.begin_ending(everything, Some(incarnation));
    }

    fn begin_ending(&mut self, everything: bool, guard: Option<Incarnation>) {
        if let Some(incarnation) = guard {
            self.out.push(Effect::Latch { incarnation });
        }
        if planted!("ended-said-before-it-is") {
            let incarnation = self.journal.incarnation;
            self.out.push(Effect::ToLeader(ToLeader::Ended { incarnation, proof: Proof::Guard }));
        }
        self.desired.clear();
        self.drop_preparations();
        self.lease = Lease::none(self.terms.named.lease);
        for key in self.actual.keys_where(|_, work| matches!(work.phase, Phase::Beginning { .. })) {
            self.close(key, End::Stopped);
        }
        let everything = everything || self.leaving;
        self.standing = Standing::Ending(Ending { everything, guard, look: None, over: None });
    }

    /// Takes every step of waking, ending and registering that is possible now.
    pub(crate) fn advance_standing(&mut self, now: Moment) {
        if self.asked == 0 {
            self.look();
        }
        if let (Standing::Waking, Some(guard), 1..) = (&self.standing, self.guard, self.seen) {
            self.wake_up(now, guard);
        }
        if self.leaving && matches!(self.standing, Standing::Serving { .. }) && self.actual.is_empty() {
            self.end("everything is stopped", true);
        }
        self.advance_ending(now);
        if self.leaving
            && let Standing::Registering { asked, .. } = self.standing
        {
            self.leave_unregistered(now, asked);
        }
    }

    /// Decides, once, what the journal's incarnation is worth: same boot, not latched and known to the guard, it goes on
    /// and keeps what runs; otherwise it ends.
    fn wake_up(&mut self, now: Moment, guard: GuardSays) {
        let incarnation = self.journal.incarnation;
        let ours = self.is_same_boot() && incarnation != Incarnation(0) && guard.incarnation <= incarnation;
        let unfinished = (guard.incarnation != Incarnation(0) && !guard.ended).then_some(guard.incarnation);
        let crossing = self.is_crossing() && !planted!("crosses-with-what-it-keeps");
        if crossing {
            let (of, told) = (self.journal.generation, self.config.generation);
            self.say(format!("crossing from generation {of} to {told}: everything ends first"));
        }
        match (&self.journal.life, ours) {
            (Life::Current | Life::Latched, true) if crossing => self.end("it is of an earlier generation", true),
            (Life::Current, true) if guard.incarnation == incarnation => {
                self.say(format!("{incarnation}: waking -> serving, same boot"));
                // Another run of the agent registered it, with what it knew.
                self.class.owe(now);
                self.standing = Standing::Serving { registered: 0 };
                self.lease = Lease::recalled(self.terms.named.lease, guard.deadline);
                self.terms.recall(&guard);
                self.watch(now);
            }
            (Life::Current, true) if self.actual.is_empty() => self.serve(0),
            (Life::Current | Life::Latched, true) => self.end("it was ending, or its guard does not know it", false),
            (Life::Over(_), true) => self.begin_ending(crossing, unfinished),
            (life, false) => {
                if !matches!(life, Life::Over(_)) {
                    self.say(format!("{incarnation}: over with the boot it belonged to"));
                    self.write(Record::Over { incarnation, proof: None });
                }
                self.begin_ending(crossing, unfinished);
            }
        }
    }

    pub(crate) fn is_same_boot(&self) -> bool {
        self.journal.boot == self.config.boot
    }

    /// Opens the journal's incarnation in the guard's slot; heartbeats begin when it stands there.
    fn serve(&mut self, registered: u64) {
        self.standing = Standing::Serving { registered };
        self.lease = Lease::none(self.terms.named.lease);
        self.out.push(Effect::Deadline { incarnation: self.journal.incarnation, at: None });
    }

    /// Step by step, each only after the one before: the guard's record is there; every hand has confirmed its stop; a
    /// fresh look shows nothing that would have to go; the end is durable, and with it, being later, the latch.
    fn advance_ending(&mut self, now: Moment) {
        let Standing::Ending(ending) = self.standing.clone() else { return };
        let everything = ending.everything;
        if everything {
            self.stop_all(now, |_, work| work.policy == OnQuorumLoss::Keep);
        }
        let guarded =
            |of: Incarnation| self.guard.is_some_and(|guard| guard.incarnation >= of && guard.latched && guard.ended);
        if !ending.guard.is_none_or(guarded) {
            return;
        }
        self.stop_all(now, |_, work| everything || work.policy == OnQuorumLoss::Stop);
        let nobody_looks = planted!("nobody-looks-what-is-left");
        if self.actual.iter().any(|(_, work)| work.must_go(everything)) && !nobody_looks {
            self.note_ending(|ending| ending.look = None);
            return;
        }
        let Some(look) = ending.look else {
            let look = self.look();
            return self.note_ending(|ending| ending.look = Some(look));
        };
        if self.seen < look && !nobody_looks {
            return;
        }
        let over = match (ending.over, &self.journal.life) {
            (Some(over), _) => over,
            (None, Life::Over(_)) if self.leaving && self.claims_too_little() => self.write_over(Proof::Left),
            (None, Life::Over(_)) => self.written,
            (None, _) => {
                let proof = if self.leaving { Proof::Left } else { Proof::Guard };
                self.write_over(proof)
            }
        };
        self.note_ending(|ending| ending.over = Some(over));
        if self.durable >= over {
            self.say(format!("{}: ending -> registering anew, nothing of it is left", self.journal.incarnation));
            self.standing = Standing::Registering { again: now, asked: false };
        }
    }

    fn write_over(&mut self, proof: Proof) -> u64 {
        self.write(Record::Over { incarnation: self.journal.incarnation, proof: Some(proof) })
    }

    fn note_ending(&mut self, note: impl FnOnce(&mut Ending)) {
        if let Standing::Ending(ending) = &mut self.standing {
            note(ending);
        }
    }

    fn look(&mut self) -> u64 {
        self.asked += 1;
        self.out.push(Effect::Look { ask: self.asked });
        self.asked
    }

    /// What the control groups and the mount table show. At the first look what was begun and lives is adopted, what was
    /// stopping goes on stopping, and what was begun and is gone is closed; whatever else is there, then or later, has to
    /// go.
    pub(crate) fn found(&mut self, now: Moment, ask: u64, workloads: &[Workload]) {
        if ask <= self.seen || ask > self.asked {
            return;
        }
        self.seen = ask;
        let waking = matches!(self.standing, Standing::Waking);
        for workload in workloads {
            let key = (workload.container, workload.epoch);
            if self.actual.get(key).is_some() {
                continue;
            }
            if waking && self.may_adopt(workload) {
                self.adopt(now, workload);
            } else {
                self.say(format!("{} {} is here and has to go", workload.container, workload.epoch));
                self.clear_away(key, workload);
            }
        }
        if waking {
            self.close_what_is_gone();
        }
    }

    /// Begun by this node on this boot, still of the current incarnation or `keep`, not closed, and alive.
    fn may_adopt(&self, workload: &Workload) -> bool {
        let current = workload.incarnation == self.journal.incarnation && self.journal.life == Life::Current;
        workload.shape == Shape::Alive
            && self.is_same_boot()
            && (current || workload.policy == OnQuorumLoss::Keep)
            && self.journal.begun(workload.container, workload.epoch).is_some()
            && !self.journal.is_closed(workload.container, workload.epoch)
    }

    fn adopt(&mut self, now: Moment, workload: &Workload) {
        let key @ (container, epoch) = (workload.container, workload.epoch);
        let Some(begun) = self.journal.begun(container, epoch).copied() else { return };
        let work = Work {
            incarnation: workload.incarnation,
            policy: workload.policy,
            stop_grace: begun.stop_grace,
            phase: Phase::Starting,
        };
        self.actual.insert(key, work);
        if begun.stopping {
            return self.stop(now, key, End::Stopped, begun.stop_grace);
        }
        self.run(now, key);
    }

    fn clear_away(&mut self, key: Key, workload: &Workload) {
        let end = match self.journal.begun(key.0, key.1) {
            Some(_) => self.end_of_unseen(workload.policy),
            None => End::Stopped,
        };
        let work = Work {
            incarnation: workload.incarnation,
            policy: workload.policy,
            stop_grace: Span::ZERO,
            phase: Phase::Stopping { end, again: None },
        };
        self.actual.insert(key, work);
        self.out.push(Effect::Stop { container: key.0, epoch: key.1, grace: Span::ZERO });
    }

    /// Nobody saw their end; they never start again under their epoch. Of another boot's epochs nothing is said: on a
    /// cloned machine the original may still run them *(a6)*.
    fn close_what_is_gone(&mut self) {
        for (key @ (container, epoch), begun) in self.journal.begun_epochs() {
            if self.actual.get(key).is_some() {
                continue;
            }
            let end = match (begun.stopping, begun.ran) {
                (true, _) => End::Stopped,
                (false, true) => self.end_of_unseen(begun.policy),
                (false, false) => End::StartFailed { reason: "the agent ended while it was starting".into() },
            };
            if self.is_same_boot() {
                self.actual.insert(key, begun.work(Phase::Running));
                self.close(key, end);
            } else {
                self.write(Record::Closed { container, epoch, end });
            }
        }
    }

    fn end_of_unseen(&self, policy: OnQuorumLoss) -> End {
        match self.config.guard_found {
            true => End::Exited(Exit::Unknown),
            false => end_without_guard(policy, Exit::Unknown),
        }
    }

    /// Says that the incarnation is over, if that is proven, and asks for the next one. Empty means empty: while a `keep`
    /// epoch lives on, the guard's record ends the rest, and the new incarnation takes the kept ones over.
    pub(crate) fn register(&mut self, now: Moment) {
        if let Some(ended) = self.ended() {
            self.out.push(Effect::ToLeader(ended));
        }
        let facts = NodeFacts { terms: self.journal.terms, ..self.config.facts.clone() };
        let registration = Registration {
            node: self.config.node,
            ends: self.journal.incarnation,
            boot: self.config.boot,
            empty: self.is_same_boot() && (self.actual.is_empty() || planted!("empty-without-a-look")),
            facts,
            run: self.config.run,
        };
        self.out.push(Effect::ToLeader(ToLeader::Register(Box::new(registration))));
        self.standing = Standing::Registering { again: now + UNANSWERED, asked: true };
    }

    fn ended(&self) -> Option<ToLeader> {
        let Life::Over(Some(proof)) = &self.journal.life else { return None };
        Some(ToLeader::Ended { incarnation: self.journal.incarnation, proof: proof.clone() })
    }

    /// An answer to an earlier registration, however late: only one that ends what this node ends now is taken.
    pub(crate) fn registered(
        &mut self,
        now: Moment,
        generation: Generation,
        incarnation: Incarnation,
        revision: Revision,
        terms: LeaseTerms,
    ) {
        if !matches!(self.standing, Standing::Registering { .. }) || incarnation <= self.journal.incarnation {
            return;
        }
        if generation != self.config.generation {
            let told = self.config.generation;
            return self.say(format!("registered in generation {generation}, and told to serve {told}: not taken"));
        }
        self.say(format!("registered: {} -> {incarnation} at {revision}", self.journal.incarnation));
        let boot = self.config.boot;
        let registered = self.write(Record::Registered { generation, incarnation, boot, terms, revision });
        self.terms.begin_anew(terms);
        self.desired.clear();
        self.reports.begin_anew(now);
        self.account.repeat(now);
        self.serve(registered);
        self.session.owe_holding();
    }

    /// Asks again after a heartbeat. Where the state holds another incarnation than the one this node would end, that
    /// one is latched here first and nothing of it may be left; who it belongs to the members tell by the boot.
    pub(crate) fn not_registered(&mut self, now: Moment, current: Incarnation, reason: &str) {
        if !matches!(self.standing, Standing::Registering { .. }) {
            return;
        }
        self.say(format!("not registered: {reason}; the state holds {current}"));
        self.standing = Standing::Registering { again: now + self.terms.named.heartbeat, asked: false };
        if current != self.journal.incarnation {
            self.write(Record::Adopted { incarnation: current, boot: self.config.boot });
            let crossing = self.is_crossing();
            self.begin_ending(crossing, (current != Incarnation(0)).then_some(current));
        }
    }

    /// What was kept stops at once. A registration that was asked for is first heard of: if the state holds a new
    /// incarnation it is that one which leaves, and nobody waits for the end of its silence.
    fn leave_unregistered(&mut self, now: Moment, asked: bool) {
        self.stop_all(now, |_, _| true);
        if asked {
            return;
        }
        if self.actual.is_empty() && !self.claims_too_little() {
            return self.depart(now);
        }
        self.begin_ending(true, None);
        self.advance_ending(now);
    }

    /// The guard's record does not cover what is kept; who leaves stops that as well and may say so. Of another boot that
    /// is not known: on a cloned machine the original may keep it.
    fn claims_too_little(&self) -> bool {
        self.journal.life == Life::Over(Some(Proof::Guard)) && self.is_same_boot()
    }

    /// From ended to left. Where nothing can be proven there is nothing to say: a reboot is seen by its boot id.
    fn depart(&mut self, now: Moment) {
        match self.ended() {
            Some(_) => self.standing = Standing::Left { again: Some(now) },
            None => {
                self.standing = Standing::Left { again: None };
                self.out.push(Effect::Farewell);
            }
        }
    }

    pub(crate) fn say_left(&mut self, now: Moment) {
        if let Some(ended) = self.ended() {
            self.out.push(Effect::ToLeader(ended));
        }
        self.standing = Standing::Left { again: Some(now + UNANSWERED) };
    }
}

impl Work {
    /// It stands in the way of saying that the incarnation is over.
    fn must_go(&self, everything: bool) -> bool {
        everything || self.policy == OnQuorumLoss::Stop || !self.is_living()
    }
}

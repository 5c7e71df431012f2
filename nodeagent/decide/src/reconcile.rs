//! Compares what is wanted with what is here and orders the difference. In: the last accepted desired set, the works. Out:
//! intents, starts, stops, closings. One epoch of a container at a time; none at or below a closed one; the intent is
//! durable before the first deed and the closing before the first word about it *(epochs)*.
//! Absent: a restart of one's own: an epoch that ended is closed, and the next one is the leader's to give.

use cluster::agent::{DesiredItem, DesiredSet, Wanted};
use cluster::command::Reported;
use cluster::{ContainerId, End, Exit, Moment, Observed, OnQuorumLoss, Span};
use planted::planted;

use crate::actual::{Key, Phase, Work};
use crate::agent::Agent;
use crate::exchange::{Effect, Happened};
use crate::journal::{Begun, Record};
use crate::standing::Standing;

/// A stop that failed is tried again after this; the handover budget and the fence stand behind it.
const STOP_AGAIN: Span = Span::millis(1_000);

impl Agent {
    pub(crate) fn accept(&mut self, set: &DesiredSet) {
        self.session.owe_holding();
        if let Err(why) = self.desired.accept(set, &self.journal) {
            return self.say(format!("desired set dropped: {why}"));
        }
        if set.revision > self.journal.revision {
            self.write(Record::Seen { revision: set.revision });
        }
        let desired = &self.desired;
        self.reports
            .settle(set.revision, |container, epoch| desired.item(container).is_some_and(|item| item.epoch <= epoch));
        self.forget_what_cannot_come();
        self.look_after(&set.watch);
    }

    /// Forgets closed epochs of containers that the set just accepted does not name and of which nothing is here. No set
    /// that this node will believe can name such an epoch: one of a lower revision is dropped, of another incarnation
    /// too; at this revision the state gives the node nothing of the container, so whatever it is given later is a new
    /// assignment, and its epoch is above all that were ever given. What a registration takes over at the epoch it had
    /// *(keep)* is what the incarnation before it was assigned, and its last set names that, or it came after that set.
    fn forget_what_cannot_come(&mut self) {
        let gone = |container: &&ContainerId| {
            self.desired.item(**container).is_none()
                && !self.actual.has(**container)
                && !self.journal.begun.contains_key(*container)
        };
        let containers: Vec<ContainerId> = self.journal.closed.keys().filter(gone).copied().collect();
        if !containers.is_empty() {
            self.write(Record::Forgotten { containers });
        }
    }

    pub(crate) fn reconcile(&mut self, now: Moment) {
        self.stop_again(now);
        self.stop_what_halts(now);
        if !std::mem::take(&mut self.stirred) || !matches!(self.standing, Standing::Serving { .. }) {
            return;
        }
        if self.leaving {
            return self.stop_gracefully(now, self.actual.keys_where(|_, work| work.is_living()));
        }
        if !self.desired.is_known() {
            return;
        }
        self.stop_gracefully(now, self.actual.keys_where(|key, work| work.is_living() && !self.is_wanted(key)));
        for item in self.desired.items().copied().collect::<Vec<_>>() {
            match item.wanted {
                Wanted::Run => self.bring_up(now, &item),
                Wanted::Prepare if planted!("target-starts-at-prepare") => self.bring_up(now, &item),
                Wanted::Stop => self.see_closed(now, &item),
                Wanted::Prepare => self.prepare(now, &item),
            }
        }
        self.drop_stale_preparations();
    }

    fn is_wanted(&self, (container, epoch): Key) -> bool {
        self.desired.item(container).is_some_and(|item| item.epoch == epoch && item.wanted == Wanted::Run)
    }

    /// Takes the next step towards running: intent, then, when it is durable, the start.
    fn bring_up(&mut self, now: Moment, item: &DesiredItem) {
        let key = (item.container, item.epoch);
        if let Some(Work { phase: Phase::Beginning { intent }, .. }) = self.actual.get(key) {
            if self.durable >= *intent {
                self.start(now, item);
            }
            return;
        }
        if self.actual.has(item.container) {
            return;
        }
        if self.journal.is_closed(item.container, item.epoch) {
            return self.say_closed(now, item);
        }
        let Some(spec) = self.desired.spec(item.spec) else { return };
        if self.may_start(now) {
            let begun = Begun {
                incarnation: self.journal.incarnation,
                policy: item.on_quorum_loss,
                stop_grace: spec.spec.stop_grace,
                ran: false,
                stopping: false,
            };
            let intent = self.write(Record::Begun { container: key.0, epoch: key.1, begun });
            self.actual.insert(key, begun.work(Phase::Beginning { intent }));
        }
    }

    /// The policy is that of the intent: it belongs to the epoch, whatever later sets say *(7, a4)*.
    fn start(&mut self, now: Moment, item: &DesiredItem) {
        let key @ (container, epoch) = (item.container, item.epoch);
        let Some(spec) = self.desired.spec(item.spec).cloned() else { return };
        let Some(work) = self.actual.get_mut(key) else { return };
        work.phase = Phase::Starting;
        let (incarnation, policy) = (work.incarnation, work.policy);
        self.out.push(Effect::Start { container, epoch, incarnation, policy, spec });
        self.observe(now, key, policy, Observed::Starting);
    }

    /// `Stop` closes the epoch even where it was never seen, so that no late order can start it.
    fn see_closed(&mut self, now: Moment, item: &DesiredItem) {
        let key = (item.container, item.epoch);
        if self.journal.is_closed(item.container, item.epoch) {
            self.say_closed(now, item);
        } else if !self.actual.has(item.container) {
            let begun = Begun {
                incarnation: self.journal.incarnation,
                policy: item.on_quorum_loss,
                stop_grace: Span::ZERO,
                ran: false,
                stopping: false,
            };
            self.actual.insert(key, begun.work(Phase::Running));
            self.close(key, End::Stopped);
        }
    }

    /// The leader asks for an epoch that is over here: it has not taken the word yet.
    fn say_closed(&mut self, now: Moment, item: &DesiredItem) {
        let key = (item.container, item.epoch);
        if self.actual.get(key).is_some() {
            return;
        }
        let end = match self.journal.closed.get(&item.container) {
            Some(closed) if closed.epoch == item.epoch => closed.end.clone(),
            _ if item.wanted == Wanted::Stop => End::Stopped,
            _ => End::Refused { reason: "a higher epoch is closed on this node".into() },
        };
        self.observe(now, key, item.on_quorum_loss, Observed::Closed { end });
    }

    /// What may outlive the incarnation is first noted to be stopping: the agent that adopts it after a restart, maybe as
    /// another incarnation, ends what was begun.
    fn stop_gracefully(&mut self, now: Moment, keys: Vec<Key>) {
        for key in keys {
            let Some(work) = self.actual.get(key) else { continue };
            let begun = matches!(work.phase, Phase::Starting | Phase::Running);
            if begun && work.policy == OnQuorumLoss::Keep {
                let intent = self.write(Record::Stopping { container: key.0, epoch: key.1 });
                if let Some(work) = self.actual.get_mut(key) {
                    work.phase = Phase::Halting { intent };
                }
            } else {
                let grace = work.stop_grace;
                self.stop(now, key, End::Stopped, grace);
            }
        }
    }

    /// Stops what is durably noted to be stopping.
    fn stop_what_halts(&mut self, now: Moment) {
        let durable = self.durable;
        let noted = |_, work: &Work| matches!(work.phase, Phase::Halting { intent } if intent <= durable);
        for key in self.actual.keys_where(noted) {
            let grace = self.actual.get(key).map_or(Span::ZERO, |work| work.stop_grace);
            self.stop(now, key, End::Stopped, grace);
        }
    }

    /// At once, for all that was not touched yet and for which `claim` holds: the end of an incarnation waits for no disk.
    pub(crate) fn stop_all(&mut self, now: Moment, claim: impl Fn(Key, &Work) -> bool) {
        for key in self.actual.keys_where(|key, work| work.is_untouched() && claim(key, work)) {
            if self.actual.get(key).is_some_and(|work| work.policy == OnQuorumLoss::Keep) {
                self.write(Record::Stopping { container: key.0, epoch: key.1 });
            }
            self.stop(now, key, End::Stopped, Span::ZERO);
        }
    }

    pub(crate) fn stop(&mut self, now: Moment, key @ (container, epoch): Key, end: End, grace: Span) {
        let Some(work) = self.actual.get_mut(key) else { return };
        let policy = work.policy;
        match work.phase {
            Phase::Beginning { .. } => self.close(key, end),
            Phase::Starting | Phase::Running | Phase::Halting { .. } => {
                work.phase = Phase::Stopping { end: end.clone(), again: None };
                self.out.push(Effect::Stop { container, epoch, grace });
                if end == End::Stopped {
                    self.observe(now, key, policy, Observed::Stopping);
                }
            }
            Phase::Stopping { .. } | Phase::Closing { .. } => {}
        }
    }

    fn stop_again(&mut self, now: Moment) {
        let due = |_, work: &Work| matches!(work.phase, Phase::Stopping { again: Some(at), .. } if at <= now);
        for key @ (container, epoch) in self.actual.keys_where(due) {
            if let Some(Work { phase: Phase::Stopping { again, .. }, .. }) = self.actual.get_mut(key) {
                *again = None;
            }
            self.out.push(Effect::Stop { container, epoch, grace: Span::ZERO });
        }
    }

    /// Nothing of it is left: writes that it never starts again. The word follows when that is durable.
    pub(crate) fn close(&mut self, key @ (container, epoch): Key, end: End) {
        let record = self.write(Record::Closed { container, epoch, end: end.clone() });
        if let Some(work) = self.actual.get_mut(key) {
            work.phase = Phase::Closing { end, record };
        }
    }

    pub(crate) fn finish_closings(&mut self, now: Moment) {
        let durable = self.durable;
        let done = |_, work: &Work| matches!(work.phase, Phase::Closing { record, .. } if record <= durable);
        for key in self.actual.keys_where(done) {
            if let Some(Work { phase: Phase::Closing { end, .. }, policy, .. }) = self.actual.remove(key) {
                self.stirred = true;
                self.observe(now, key, policy, Observed::Closed { end });
            }
        }
    }

    pub(crate) fn happened(&mut self, now: Moment, key: Key, what: Happened) {
        if let Happened::Prepared | Happened::CannotPrepare { .. } = what {
            return self.prepared(now, key, what);
        }
        let Some(work) = self.actual.get(key) else { return };
        match (what, work.phase.clone()) {
            (Happened::Started, Phase::Starting) => self.run(now, key),
            (Happened::StartFailed { reason }, Phase::Starting) => {
                self.stop(now, key, End::StartFailed { reason }, Span::ZERO)
            }
            (Happened::ClaimRefused { reason }, Phase::Starting) => {
                self.stop(now, key, End::Refused { reason }, Span::ZERO)
            }
            (Happened::Exited { exit }, Phase::Running) if planted!("stop-before-unmount") => {
                self.close(key, End::Exited(exit))
            }
            (Happened::Exited { .. }, Phase::Stopping { end, .. }) if planted!("stop-before-unmount") => {
                self.close(key, end)
            }
            (Happened::Exited { exit }, Phase::Starting | Phase::Running) => {
                self.stop(now, key, End::Exited(exit), Span::ZERO)
            }
            (Happened::EndedWithGuard, Phase::Starting | Phase::Running) => {
                let end = end_without_guard(work.policy, Exit::Signal(9));
                self.stop(now, key, end, Span::ZERO)
            }
            // It ended by itself, or never came to be, between the order to stop it and the deed.
            (
                Happened::Exited { .. }
                | Happened::EndedWithGuard
                | Happened::StartFailed { .. }
                | Happened::ClaimRefused { .. },
                Phase::Halting { .. },
            ) => self.stop(now, key, End::Stopped, Span::ZERO),
            (Happened::Stopped, Phase::Stopping { end, .. }) => self.close(key, end),
            (Happened::Stopped, Phase::Halting { .. }) => self.close(key, End::Stopped),
            (Happened::Stopped, Phase::Starting | Phase::Running) => self.close(key, End::Exited(Exit::Unknown)),
            (Happened::StopFailed { reason }, Phase::Stopping { end, .. }) => {
                self.say(format!("{} {} does not stop: {reason}", key.0, key.1));
                if let Some(work) = self.actual.get_mut(key) {
                    work.phase = Phase::Stopping { end, again: Some(now + STOP_AGAIN) };
                }
            }
            _ => {}
        }
    }

    pub(crate) fn run(&mut self, now: Moment, key @ (container, epoch): Key) {
        let Some(work) = self.actual.get_mut(key) else { return };
        work.phase = Phase::Running;
        let policy = work.policy;
        if self.journal.begun(container, epoch).is_some_and(|begun| !begun.ran) {
            self.write(Record::Ran { container, epoch });
        }
        self.observe(now, key, policy, Observed::Running);
    }

    fn observe(&mut self, now: Moment, key: Key, policy: OnQuorumLoss, observed: Observed) {
        self.reports.say(now, key, policy, Reported::Observed(observed));
    }
}

/// The guard is gone, and so is this. What ends with its guard is not blamed for it: its budgets are for what it does
/// itself.
pub(crate) fn end_without_guard(policy: OnQuorumLoss, exit: Exit) -> End {
    match policy {
        OnQuorumLoss::Stop => End::Stopped,
        OnQuorumLoss::Keep => End::Exited(exit),
    }
}

impl Begun {
    pub(crate) fn work(self, phase: Phase) -> Work {
        Work { incarnation: self.incarnation, policy: self.policy, stop_grace: self.stop_grace, phase }
    }
}

//! What is said to the leader, and when. In: whether there is a session, and what is owed. Out: at most one word of each
//! kind a turn, reports batched. Everything is owed anew to every new session: a leader may have died with what it was
//! told. Absent: how the leader is found; the hands follow hints.

use cluster::agent::{DesiredItem, ToLeader, Wanted};
use cluster::{ContainerId, MemberId, Moment, Span};

use crate::agent::Agent;
use crate::exchange::Effect;
use crate::standing::Standing;

/// Below every back-off that would show in a failover.
const SEEK: Span = Span::millis(500);

#[derive(Clone, Debug, Default)]
pub(crate) struct Session {
    leader: Option<MemberId>,
    /// Without a leader: when to look for one again.
    seek: Moment,
    /// What is held and missing is to be said.
    holding_owed: bool,
}

impl Session {
    pub fn owe_holding(&mut self) {
        self.holding_owed = true;
    }
}

impl Agent {
    pub(crate) fn open_session(&mut self, now: Moment, member: MemberId) {
        self.session = Session { leader: Some(member), seek: now, holding_owed: true };
        self.reports.repeat_all(now);
        self.terms.repeat();
        self.class.repeat(now);
        self.account.repeat(now);
        match &mut self.standing {
            Standing::Registering { again, .. } | Standing::Left { again: Some(again) } => *again = now,
            _ => {}
        }
    }

    pub(crate) fn close_session(&mut self, now: Moment) {
        self.session = Session { leader: None, seek: now, holding_owed: false };
    }

    pub(crate) fn speak(&mut self, now: Moment) {
        if self.session.leader.is_none() {
            return self.seek_leader(now);
        }
        match self.standing {
            Standing::Waking => {}
            Standing::Ending(_) => self.tell_class(now),
            Standing::Registering { again, .. } if again <= now => self.register(now),
            Standing::Left { again: Some(again) } if again <= now => self.say_left(now),
            Standing::Registering { .. } | Standing::Left { .. } => {}
            Standing::Serving { registered } if registered <= self.durable => {
                self.tell_holding();
                self.tell_reports(now);
                self.tell_terms(now);
                self.tell_class(now);
                self.tell_account(now);
            }
            Standing::Serving { .. } => {}
        }
    }

    fn seek_leader(&mut self, now: Moment) {
        if self.session.seek <= now {
            self.session.seek = now + SEEK;
            self.out.push(Effect::SeekLeader);
        }
    }

    /// Also how an agent introduces itself to a new leader.
    fn tell_holding(&mut self) {
        if !std::mem::take(&mut self.session.holding_owed) {
            return;
        }
        let missing = self.desired.items().filter(|item| self.misses_spec(item)).map(|item| item.container).collect();
        let (incarnation, revision) = (self.journal.incarnation, self.journal.revision);
        self.out.push(Effect::ToLeader(ToLeader::Holding { incarnation, revision, missing }));
    }

    fn misses_spec(&self, item: &DesiredItem) -> bool {
        let needed = match item.wanted {
            Wanted::Stop => false,
            Wanted::Prepare => true,
            Wanted::Run => !self.is_under_way(item.container) && !self.journal.is_closed(item.container, item.epoch),
        };
        needed && self.desired.spec(item.spec).is_none()
    }

    fn is_under_way(&self, container: ContainerId) -> bool {
        self.actual.iter().any(|((of, _), work)| of == container && work.is_living())
    }

    /// While leaving, closings wait: they would be answered by new starts here. The incarnation's end covers them all at
    /// once.
    fn tell_reports(&mut self, now: Moment) {
        let reports = self.reports.take_due(now, self.journal.revision, self.leaving);
        if !reports.is_empty() {
            let incarnation = self.journal.incarnation;
            self.out.push(Effect::ToLeader(ToLeader::Report { incarnation, reports }));
        }
    }

    pub(crate) fn next_words(&self) -> Option<Moment> {
        if self.session.leader.is_none() {
            return Some(self.session.seek);
        }
        match self.standing {
            Standing::Registering { again, .. } => Some(again),
            Standing::Left { again } => again,
            Standing::Serving { registered } if registered <= self.durable => {
                let words = self.reports.next_due(self.leaving).into_iter().chain(self.next_terms());
                words.chain(self.next_class()).chain(self.next_account()).min()
            }
            Standing::Ending(_) => self.next_class(),
            Standing::Serving { .. } | Standing::Waking => None,
        }
    }
}

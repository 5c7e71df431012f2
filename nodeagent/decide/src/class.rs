//! The fencing class of an incarnation that is registered already. In: what the guard is found to be good for. Out: a word for
//! the leader, once that is not, or may not be, what the registration said; repeated like every word that may be lost.
//! Absent: what the class rests on; the guard shows that.

use cluster::agent::ToLeader;
use cluster::{Moment, NodeFacts};

use crate::agent::Agent;
use crate::exchange::Effect;
use crate::reports::Repeat;
use crate::standing::Standing;

#[derive(Clone, Debug, Default)]
pub(crate) struct ClassWord {
    /// `None` while everybody knows it from the registration.
    owed: Option<Repeat>,
}

impl ClassWord {
    pub fn owe(&mut self, now: Moment) {
        self.owed = Some(Repeat::at_once(now));
    }

    /// Another leader listens.
    pub fn repeat(&mut self, now: Moment) {
        if self.owed.is_some() {
            self.owe(now);
        }
    }
}

impl Agent {
    pub(crate) fn take_facts(&mut self, now: Moment, facts: NodeFacts) {
        // A registration that is asked for again has the facts it first had: from the first change on it is told apart.
        if facts.class != self.config.facts.class {
            self.class.owe(now);
        }
        self.config.facts = facts;
    }

    /// Also while the incarnation ends: an end that overruns is when its class falls.
    pub(crate) fn tell_class(&mut self, now: Moment) {
        let Some(owed) = self.class.owed.as_mut().filter(|owed| owed.due <= now) else { return };
        owed.said(now);
        let (incarnation, facts) = (self.journal.incarnation, &self.config.facts);
        let (class, reason) = (facts.class, facts.class_reason.clone());
        self.out.push(Effect::ToLeader(ToLeader::ClassChanged { incarnation, class, reason }));
    }

    pub(crate) fn next_class(&self) -> Option<Moment> {
        let speaks = match self.standing {
            Standing::Serving { registered } => registered <= self.durable,
            Standing::Ending(_) => true,
            Standing::Waking | Standing::Registering { .. } | Standing::Left { .. } => false,
        };
        self.class.owed.filter(|_| speaks).map(|owed| owed.due)
    }
}

//! What follows from a committed entry: the state moves, leases and duties hear of it, whoever waited is answered.
//! In: indexes Raft has committed, in order. Out: events, answers; a reason to halt where members would differ.

use cluster::command::{Command, Entry};
use cluster::{Applied, Event, Rejected, Revision, State, WallTime};
use record::LogPoint;

use crate::log::Meaning;
use crate::proposals::Origin;
use crate::{Answer, Effect, Halt, Level, ProposeError, Replica};

impl Replica {
    pub(crate) fn apply(&mut self, index: u64) {
        let tail = self.consensus.tail_mut();
        let (Some(meaning), Some(term)) = (tail.take_meaning(index), tail.term(index)) else {
            let error = "it is committed and not in the log".into();
            return self.halt(Halt::Unreadable { index, error });
        };
        let mut membership = None;
        let applied = match &meaning {
            Meaning::Settle => {
                let entry = Entry { at: WallTime(0), request: None, command: Command::Settle };
                self.machine.command(index, &entry)
            }
            Meaning::Command(entry) => self.machine.command(index, entry),
            Meaning::Membership(change) => {
                let expected = change.after(&tail.membership, LogPoint { index, term });
                match self.consensus.apply_change(change, LogPoint { index, term }) {
                    Ok(made) if made == expected => {}
                    Ok(made) => return self.halt(Halt::membership(index, &expected, &made)),
                    Err(error) => return self.halt(Halt::Unreadable { index, error: error.into() }),
                }
                membership = Some(expected.clone());
                self.machine.membership(index, expected)
            }
            Meaning::Unreadable(error) => {
                let error = error.clone();
                return self.halt(Halt::Unreadable { index, error });
            }
        };
        let Some(applied) = applied else {
            let error = "no state to apply it to".into();
            return self.halt(Halt::Unreadable { index, error });
        };
        let changed = membership.is_some();
        self.consensus.tail_mut().applied(index, &meaning, membership);
        self.consensus.applied(index);
        if changed {
            self.membership_since = self.now;
            self.leases.membership(self.now, self.consensus.tail());
            self.membership_applied();
        } else if let Some(changing) = self.changing.take_if(|changing| changing.index == index) {
            // Raft puts an empty entry in the place of a change it thinks untimely.
            self.answer(changing.ticket, Answer::Failed(ProposeError::Lost));
        }
        self.applied(index, term, applied);
    }

    pub(crate) fn applied(&mut self, index: u64, term: u64, mut applied: Applied) {
        for event in &applied.events {
            if let Event::NodeRegistered { node, incarnation, .. } = event {
                self.leases.registered(self.now, *node, *incarnation);
            }
        }
        self.notice_role();
        if self.leading && term == self.consensus.term() {
            self.leadership.settle();
        }
        let at = self.state().map(State::clock).unwrap_or_default();
        let events = std::mem::take(&mut applied.events);
        let place = self.effects.len();
        if self.leading {
            self.leadership.entry_done(index, self.now);
            self.duty(|leadership, desk| leadership.applied(desk, &events, &applied.outcome));
        }
        // Before what the leader's duties make of it.
        self.effects.insert(place, Effect::Applied { revision: Revision(index), events, at });
        match self.open.remove(&index) {
            Some(Origin::Client(ticket)) => self.answer(ticket, Answer::Applied(applied)),
            Some(Origin::Registration(link)) => {
                self.duty(|leadership, desk| leadership.registered(link, &applied.outcome, desk));
            }
            Some(Origin::Duty) => self.say_what_makes_no_sense(&applied),
            None => {}
        }
        if let Some(reason) = self.comparison.applied(&self.machine, self.consensus.tail()) {
            self.halt(reason);
        }
    }

    /// Duties are refused now and then, having been overtaken. One that is not even valid passes on what somebody made up:
    /// a node of another cluster's past, or one that lies.
    fn say_what_makes_no_sense(&mut self, applied: &Applied) {
        if let Err(refusal @ Rejected::Invalid { .. }) = &applied.outcome {
            self.say(Level::Warn, format!("refused: {refusal}"));
        }
    }
}

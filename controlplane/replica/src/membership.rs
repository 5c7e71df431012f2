//! Who votes, and who leads: one change at a time, by joint consensus, only while everybody keeps up *(b15)*.
//! In: wishes of operators. Out: configuration entries, transfers, and clear words when it is not the time.
//! Source: safety.md, "Quorum leases" 11.

use cluster::{MemberId, Moment, Span};

use crate::codec::{MembershipChange, Step};
use crate::raft::Role;
use crate::{Answer, Change, Level, ProposeError, Replica, Ticket};

/// Entries a voter may lag behind during a change: what a heartbeat's time of writes leaves under way.
const LAG_MAX: u64 = 2_000;

/// How long a transfer is tried. Proposals are refused meanwhile, so it is short.
const TRANSFER_WITHIN: Span = Span::millis(600);

pub struct Transfer {
    pub ticket: Ticket,
    to: MemberId,
    until: Moment,
}

pub struct Changing {
    pub ticket: Ticket,
    pub index: u64,
}

impl Replica {
    pub(crate) fn change_membership(&mut self, ticket: Ticket, change: Change) {
        let proposed = self.may_change(change).and_then(|()| {
            let step = match change {
                Change::AddLearner(id) => Step::AddLearner(id),
                Change::Promote(id) => Step::AddVoter(id),
                Change::Remove(id) => Step::Remove(id),
            };
            let change = MembershipChange { steps: vec![step] };
            self.consensus.propose_change(&change).map_err(|_| ProposeError::Overloaded)
        });
        match proposed {
            Ok(point) => self.changing = Some(Changing { ticket, index: point.index }),
            Err(error) => self.answer(ticket, Answer::Failed(error)),
        }
    }

    fn may_change(&self, change: Change) -> Result<(), ProposeError> {
        let refused = |why: &str| Err(ProposeError::Refused(why.to_owned()));
        let not_now = |why: &str| Err(ProposeError::NotNow(why.to_owned()));
        if self.consensus.role() != Role::Leader {
            return Err(ProposeError::NotLeader { hint: self.leader().filter(|leader| *leader != self.id) });
        }
        let tail = self.consensus.tail();
        let membership = &tail.membership;
        if !self.is_leader() || tail.has_unapplied_change() || membership.is_joint() || self.changing.is_some() {
            return not_now("another change of membership is under way; try again when it is done");
        }
        let heartbeat = self.state().map_or_else(Default::default, |state| state.settings().terms.heartbeat);
        if membership.index > 0 && self.now.since(self.membership_since) < heartbeat * 2 {
            return not_now("the last change of membership is less than two heartbeats old; try again");
        }
        let leaving = match change {
            Change::Remove(id) => Some(id),
            _ => None,
        };
        let behind = |id: &&MemberId| Some(**id) != leaving && !self.consensus.is_caught_up(**id, LAG_MAX);
        if let Some(id) = membership.voters.iter().find(behind) {
            return not_now(&format!("voter {id} does not keep up; a change now could cost the quorum"));
        }
        match change {
            Change::AddLearner(id) if membership.votes(id) || membership.learners.contains(&id) => {
                refused(&format!("{id} is a member of the configuration already"))
            }
            Change::Promote(id) if membership.votes(id) => refused(&format!("{id} votes already")),
            Change::Promote(id) if !membership.learners.contains(&id) => refused(&format!("{id} is no learner")),
            Change::Promote(id) if !self.consensus.is_caught_up(id, LAG_MAX) => {
                not_now(&format!("{id} has not caught up yet; try again"))
            }
            Change::Remove(id) if id == self.id => {
                refused("a leader does not remove itself; transfer the leadership first")
            }
            Change::Remove(id) if !membership.votes(id) && !membership.learners.contains(&id) => {
                refused(&format!("{id} is not in the configuration"))
            }
            Change::Remove(id) if membership.votes(id) && membership.voters.len() == 1 => {
                refused("the last voter cannot be removed")
            }
            _ => Ok(()),
        }
    }

    /// A joint configuration is applied and nothing else waits: leave it, whoever entered it *(b15)*.
    pub(crate) fn leave_joint(&mut self) {
        // Dropped during a transfer: the next tick, or the next leader, tries again.
        let _ = self.consensus.propose_change(&MembershipChange::default());
    }

    /// Called after a configuration entry was applied.
    pub(crate) fn membership_applied(&mut self) {
        let membership = self.consensus.tail().membership.clone();
        let done = |changing: &mut Changing| !membership.is_joint() && membership.index > changing.index;
        if let Some(changing) = self.changing.take_if(done) {
            self.answer(changing.ticket, Answer::Done);
        }
        if !membership.votes(self.id) && !membership.learners.contains(&self.id) {
            self.say(Level::Warn, "this member is no longer in the configuration".to_owned());
            self.halt(crate::Halt::Removed);
        }
    }

    pub(crate) fn transfer_leader(&mut self, ticket: Ticket, to: Option<MemberId>) {
        if self.consensus.role() != Role::Leader {
            let hint = self.leader().filter(|leader| *leader != self.id);
            return self.answer(ticket, Answer::Failed(ProposeError::NotLeader { hint }));
        }
        let refused = |why: String| Answer::Failed(ProposeError::Refused(why));
        let voters = self.consensus.tail().membership.voters.clone();
        let best = || {
            let others = voters.iter().copied().filter(|id| *id != self.id);
            others.max_by_key(|id| self.consensus.matched(*id))
        };
        match to.or_else(best) {
            Some(to) if to == self.id => self.answer(ticket, Answer::Done),
            Some(to) if !voters.contains(&to) => self.answer(ticket, refused(format!("{to} does not vote"))),
            Some(to) if !self.consensus.is_caught_up(to, LAG_MAX) => {
                self.answer(ticket, refused(format!("{to} does not keep up or cannot be reached")));
            }
            Some(_) if self.transfer.is_some() => {
                self.answer(ticket, refused("another transfer is under way".to_owned()));
            }
            Some(to) => {
                self.consensus.transfer_leader(to);
                self.transfer = Some(Transfer { ticket, to, until: self.now + TRANSFER_WITHIN });
            }
            None => self.answer(ticket, refused("there is no other voter".to_owned())),
        }
    }

    /// A leader whose disk stands still goes on being heard and applies nothing, fencing included: another leads better.
    pub(crate) fn move_for_disk(&mut self) {
        let lease = self.state().map_or_else(Default::default, |state| state.settings().terms.lease);
        let stands = self.writing.first_key_value().is_some_and(|(_, since)| self.now.since(*since) >= lease);
        let recently = self.moved_for_disk.is_some_and(|moved| self.now.since(moved) < lease);
        if !self.leading || !stands || recently || self.consensus.transferring() {
            return;
        }
        let voters = self.consensus.tail().membership.voters.clone();
        let others = voters.iter().copied().filter(|id| *id != self.id && self.consensus.is_caught_up(*id, LAG_MAX));
        if let Some(to) = others.max_by_key(|id| self.consensus.matched(*id)) {
            self.moved_for_disk = Some(self.now);
            self.say(Level::Warn, format!("the disk has taken nothing for {lease}: leadership goes to {to}"));
            self.consensus.transfer_leader(to);
        }
    }

    /// Raft gives up a transfer after an election timeout, without a word: a busy machine gets another chance.
    pub(crate) fn transfer_progress(&mut self) {
        if !self.leading || self.consensus.transferring() {
            return;
        }
        let Some(Transfer { ticket, to, until }) = self.transfer.take() else { return };
        if self.now < until && self.consensus.is_caught_up(to, LAG_MAX) {
            self.consensus.transfer_leader(to);
            self.transfer = Some(Transfer { ticket, to, until });
            return;
        }
        let why = "it did not take over in time; this member still leads".to_owned();
        self.answer(ticket, Answer::Failed(ProposeError::Refused(why)));
    }

    pub(crate) fn answer_reads(&mut self) {
        let ready = self.reads.ready(self.machine.applied());
        for ticket in ready {
            let Some(state) = self.machine.state().cloned() else { return };
            self.answer(ticket, Answer::State(Box::new(state)));
        }
    }
}

//! How what is wanted becomes entries, and who waits for which. In: proposals of clients and of the leader's duties.
//! Out: one append per turn; every proposal is answered exactly once, also when leadership or the member ends.

use cluster::RequestId;
use cluster::command::{Command, Entry};

use crate::leadership::Pending;
use crate::raft::{self, Role};
use crate::{Answer, Effect, Link, ProposeError, Replica, Ticket};

/// Who waits for an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Client(Ticket),
    /// A duty of the leader's own.
    Duty,
    Registration(Link),
}

pub(crate) struct Proposal {
    pub origin: Origin,
    pub key: Option<Pending>,
    pub request: Option<RequestId>,
    pub command: Command,
}

impl Replica {
    /// Everything proposed since the last turn becomes one append.
    pub(crate) fn flush_proposals(&mut self) {
        let proposals = std::mem::take(&mut self.proposals);
        let mut entries = Vec::with_capacity(proposals.len());
        let mut origins = Vec::with_capacity(proposals.len());
        for proposal in proposals {
            if let Err(error) = self.may_propose(&proposal.command) {
                self.not_proposed(proposal.origin, proposal.key, error);
                continue;
            }
            let Proposal { origin, key, request, command } = proposal;
            entries.push(Entry { at: self.wall, request, command });
            origins.push((origin, key));
        }
        if entries.is_empty() {
            return;
        }
        match self.consensus.propose(entries) {
            Ok(indexes) => {
                for (index, (origin, key)) in indexes.zip(origins) {
                    self.open.insert(index, origin);
                    if let Some(key) = key {
                        self.leadership.proposed(index, key);
                    }
                }
            }
            Err(raft::Dropped) => {
                for (origin, key) in origins {
                    self.not_proposed(origin, key, ProposeError::Overloaded);
                }
            }
        }
    }

    pub(crate) fn may_propose(&self, command: &Command) -> Result<(), ProposeError> {
        if self.consensus.role() != Role::Leader {
            return Err(ProposeError::NotLeader { hint: self.leader().filter(|leader| *leader != self.id) });
        }
        // Fencing is for a leader that knows its own term's entry and every membership applied *(a1)*.
        let fences = matches!(command, Command::BeginFencing { .. } | Command::RecordFenced { .. });
        if fences && (!self.leadership.is_settled() || self.consensus.tail().has_unapplied_change()) {
            return Err(ProposeError::Overloaded);
        }
        Ok(())
    }

    pub(crate) fn not_proposed(&mut self, origin: Origin, key: Option<Pending>, error: ProposeError) {
        if let Some(key) = key {
            self.leadership.dropped(&key);
        }
        if let Origin::Client(ticket) = origin {
            self.answer(ticket, Answer::Failed(error));
        }
    }

    pub(crate) fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.effects.push(Effect::Answer { ticket, answer });
    }
}

//! Reads that are as new as everything acknowledged before them: one ReadIndex per turn serves all that wait.
//! In: tickets, confirmed read indexes, applied indexes. Out: which tickets may be answered.
//! Raft may lose a question without a word: it is asked again, and given up in time.

use std::collections::BTreeMap;

use cluster::{MemberId, Moment, Span};
use planted::planted;

use crate::raft::{Consensus, Role};
use crate::{Answer, Effect, ProposeError, Ticket};

const ASK_AGAIN: Span = Span::millis(150);
const GIVE_UP: Span = Span::seconds(5);

pub struct Reads {
    waiting: Vec<(Ticket, Moment)>,
    /// Something is to be asked, though nobody waits for it.
    probes: bool,
    /// Keyed by context.
    rounds: BTreeMap<u64, Round>,
    /// Contexts are keys at the leader: they must differ between members and between runs of one.
    next: u64,
}

struct Round {
    tickets: Vec<(Ticket, Moment)>,
    asked: Moment,
    index: Option<u64>,
}

impl Reads {
    pub fn new(me: MemberId, started: Moment) -> Reads {
        Reads {
            waiting: Vec::new(),
            probes: false,
            rounds: BTreeMap::new(),
            next: (me.0 << 48) | ((started.0 >> 10) & 0xffff_ffff) << 16,
        }
    }

    pub fn ask(&mut self, ticket: Ticket, now: Moment) {
        self.waiting.push((ticket, now));
    }

    /// Asks with the next turn, unless a question is open already.
    pub fn probe(&mut self) {
        self.probes = self.rounds.is_empty();
    }

    pub fn flush(&mut self, consensus: &mut Consensus, now: Moment) {
        if self.waiting.is_empty() && !self.probes || consensus.leader().is_none() {
            return;
        }
        self.probes = false;
        self.next += 1;
        let tickets = std::mem::take(&mut self.waiting);
        if planted!("read-index-skipped") && consensus.role() == Role::Leader {
            self.rounds.insert(self.next, Round { tickets, asked: now, index: Some(consensus.commit()) });
            return;
        }
        self.rounds.insert(self.next, Round { tickets, asked: now, index: None });
        consensus.read_index(self.next);
    }

    /// A majority answered the leader; gives when this was asked for.
    pub fn confirmed(&mut self, context: u64, index: u64) -> Option<Moment> {
        let round = self.rounds.get_mut(&context)?;
        round.index = Some(index);
        Some(round.asked)
    }

    /// Tickets whose read index is applied.
    pub fn ready(&mut self, applied: u64) -> Vec<Ticket> {
        let ready = |_: &u64, round: &mut Round| round.index.is_some_and(|index| index <= applied);
        self.rounds.extract_if(.., ready).flat_map(|(_, round)| round.tickets).map(|(ticket, _)| ticket).collect()
    }

    /// Everybody who waits; nobody does any more.
    pub fn abandon(&mut self) -> Vec<Ticket> {
        let rounds = std::mem::take(&mut self.rounds).into_values().flat_map(|round| round.tickets);
        std::mem::take(&mut self.waiting).into_iter().chain(rounds).map(|(ticket, _)| ticket).collect()
    }

    pub fn tick(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let late = |_: &u64, round: &mut Round| round.index.is_none() && now.since(round.asked) >= ASK_AGAIN;
        let again: Vec<_> = self.rounds.extract_if(.., late).flat_map(|(_, round)| round.tickets).collect();
        self.waiting.extend(again);
        self.waiting.retain(|(ticket, since)| {
            let open = now.since(*since) < GIVE_UP;
            if !open {
                let answer = Answer::Failed(ProposeError::NoQuorum);
                effects.push(Effect::Answer { ticket: *ticket, answer });
            }
            open
        });
    }
}

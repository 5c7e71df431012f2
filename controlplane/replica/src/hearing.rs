//! How old what a leader knows may be: when it sent the last word that a majority has answered. Until then nobody else
//! can have decided anything.
//! In: heartbeats as they leave, their answers, reads that a majority confirmed. Out: that moment.
//! A word is dated when it is sent, not when its answer comes: who was stopped finds old answers in its queue.

use std::collections::BTreeMap;

use cluster::{MemberId, Membership, Moment};

use crate::message::RaftMessage;

/// Ends a date. With it a date has nine bytes and the context of a read eight: raft can take neither for the other.
const MARK: u8 = b'd';

/// Of one leadership.
#[derive(Default)]
pub struct Hearing {
    /// Keyed by member: when the newest word it has answered was sent.
    answered: BTreeMap<MemberId, Moment>,
    /// When the newest read that a majority confirmed was asked for.
    confirmed: Option<Moment>,
}

impl Hearing {
    pub fn answered(&mut self, from: MemberId, sent: Moment) {
        let newest = self.answered.entry(from).or_default();
        *newest = sent.max(*newest);
    }

    pub fn confirmed(&mut self, asked: Moment) {
        self.confirmed = self.confirmed.max(Some(asked));
    }

    /// The moment up to which `me`, which leads, knows everything that was decided; both majorities while the membership
    /// is joint.
    pub fn heard(&self, me: MemberId, now: Moment, membership: &Membership) -> Moment {
        let majority = |voters: &[MemberId]| {
            let newest = |voter: &MemberId| {
                if *voter == me { now } else { self.answered.get(voter).copied().unwrap_or_default() }
            };
            let mut heard: Vec<Moment> = voters.iter().map(newest).collect();
            heard.sort_unstable_by(|one, other| other.cmp(one));
            heard.get(voters.len() / 2).copied()
        };
        let both = [majority(&membership.voters), majority(&membership.outgoing)];
        let heard = both.into_iter().flatten().min().unwrap_or_default();
        heard.max(self.confirmed.unwrap_or_default())
    }
}

/// Dates a heartbeat that leaves now, unless it carries the context of a read, which then is its date.
pub fn date(message: &mut RaftMessage, now: Moment) {
    if message.is_heartbeat() && message.context.is_empty() {
        message.context = now.0.to_le_bytes().into_iter().chain([MARK]).collect();
    }
}

/// Takes the date out of an answer; raft never sees it.
pub fn dated(message: &mut RaftMessage) -> Option<Moment> {
    let [sent @ .., MARK] = <[u8; 9]>::try_from(&message.context[..]).ok().filter(|_| message.is_heartbeat_answer())?
    else {
        return None;
    };
    message.context.clear();
    Some(Moment(u64::from_le_bytes(sent)))
}

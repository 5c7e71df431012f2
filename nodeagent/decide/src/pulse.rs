//! Heartbeats out, acknowledgements in. In: time and the voters' answers. Out: heartbeats that name incarnation, boot and
//! terms, and a deadline for the guard whenever the lease grew. A refusal is a missing acknowledgement and nothing more:
//! that voter is asked again after 50 ms *(b11)*. Absent: what the leader says; a lease needs no leader.

use std::collections::BTreeMap;

use cluster::agent::{Answer, Heartbeat, HeartbeatReply};
use cluster::{MemberId, Moment, Span};
use planted::planted;

use crate::agent::Agent;
use crate::exchange::{Audience, Effect};

/// Short beside a heartbeat, long beside a commit: the entry that lifts the refusal has time to arrive.
const RETRY: Span = Span::millis(50);

#[derive(Clone, Debug, Default)]
pub(crate) struct Pulse {
    sequence: u64,
    next: Moment,
    /// Voters that refused, and when they are asked again.
    retries: BTreeMap<MemberId, Moment>,
}

impl Pulse {
    pub fn hasten(&mut self, now: Moment) {
        self.next = now;
    }
}

impl Agent {
    pub(crate) fn beat(&mut self, now: Moment) {
        if !self.is_armed() {
            return;
        }
        if self.pulse.next <= now {
            self.pulse.next = now + self.terms.named.heartbeat;
            self.pulse.retries.clear();
            return self.send_heartbeat(now, Audience::Voters);
        }
        let due: Vec<MemberId> =
            self.pulse.retries.iter().filter(|(_, at)| **at <= now).map(|(member, _)| *member).collect();
        for member in due {
            self.pulse.retries.remove(&member);
            self.send_heartbeat(now, Audience::Member(member));
        }
    }

    fn send_heartbeat(&mut self, now: Moment, to: Audience) {
        self.pulse.sequence += 1;
        let heartbeat = Heartbeat {
            generation: self.journal.generation,
            node: self.config.node,
            incarnation: self.journal.incarnation,
            boot: self.config.boot,
            terms: self.terms.named,
            sequence: self.pulse.sequence,
            sent_at: now,
        };
        self.out.push(Effect::Heartbeat { to, heartbeat });
    }

    /// Counts an acknowledgement of a heartbeat as this incarnation would send it now; anything else is an echo of the
    /// past.
    pub(crate) fn hear(&mut self, now: Moment, reply: HeartbeatReply) {
        let HeartbeatReply { member, echo, answer } = reply;
        let ours = self.is_armed()
            && echo.generation == self.journal.generation
            && echo.node == self.config.node
            && echo.incarnation == self.journal.incarnation
            && echo.boot == self.config.boot
            && echo.terms == self.terms.named;
        if !ours {
            return;
        }
        let identity = match answer {
            Answer::Refused(_) => {
                if planted!("refusal-ends") {
                    self.end("a voter refused it", false);
                }
                self.pulse.retries.entry(member).or_insert(now + RETRY);
                return;
            }
            Answer::Acknowledged(identity) => identity,
        };
        let newer = |known: &std::sync::Arc<_>| order(known) < order(&identity);
        if self.membership.as_ref().is_none_or(newer) {
            self.membership = Some(identity.clone());
            self.out.push(Effect::Membership(identity.clone()));
        }
        let held = self.lease.is_held(now);
        let sent_at = if planted!("lease-from-reply") { now } else { echo.sent_at };
        if let Some(end) = self.lease.acknowledge(now, member, sent_at, &identity) {
            let incarnation = self.journal.incarnation;
            self.out.push(Effect::Deadline { incarnation, at: Some(end) });
            if !held {
                self.stirred = true;
                self.say(format!("{incarnation}: no lease -> leased"));
            }
        }
    }

    pub(crate) fn next_beat(&self) -> Option<Moment> {
        if !self.is_armed() {
            return None;
        }
        self.pulse.retries.values().copied().chain([self.pulse.next]).min()
    }
}

/// A membership entry of a later term replaced those that a deposed leader appended behind it.
fn order(identity: &cluster::agent::MembershipIdentity) -> (u64, u64) {
    (identity.term, identity.index)
}

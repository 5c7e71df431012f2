//! What the passing of time brings: Raft's ticks, the leader's duties, gossip, and the notice that time stood still.
//! In: both clocks at each tick. Out: whether this member, or its machine, slept.

use cluster::{LeaseTerms, Moment, Profile, Span, State, WallTime};

use crate::message::PeerMessage;
use crate::raft::ELECTION_TICKS;
use crate::{Effect, Leadership, Level, Replica};

/// How often a member tells the others what its state was.
const GOSSIP_EVERY: Span = Span::millis(500);
/// BOOTTIME and MONOTONIC drift apart by a suspend only; reading them one after the other costs less than this.
const SUSPEND: Span = Span::millis(50);

pub struct TickClock {
    last: Moment,
    monotonic: Option<Moment>,
    /// Time not yet told to Raft.
    owed: Span,
    /// A gap was noticed since the last tick.
    stalled: bool,
    gossiped: Moment,
}

impl TickClock {
    pub fn new(now: Moment) -> TickClock {
        TickClock { last: now, monotonic: None, owed: Span::ZERO, stalled: false, gossiped: now }
    }
}

/// An election takes half a heartbeat to a whole one, so a new leader is there before anybody is suspect.
pub fn raft_tick(state: Option<&State>) -> Span {
    let terms: LeaseTerms = state.map_or(Profile::Default.terms(), |state| state.settings().terms);
    Span(terms.heartbeat.0 / (2 * ELECTION_TICKS as u64))
}

impl Replica {
    pub(crate) fn tick(&mut self, monotonic: Moment, wall: WallTime) {
        let every = self.tick_every();
        let gap = self.now.since(self.clock.last);
        self.wall = self.time_of_people(wall, gap);
        let awake = self.clock.monotonic.map_or(gap, |before| monotonic.since(before));
        self.clock.last = self.now;
        self.clock.monotonic = Some(monotonic);
        let slept = gap.saturating_sub(awake) > SUSPEND || awake.saturating_sub(gap) > SUSPEND;
        if slept {
            self.stalled(gap);
        }
        let stalled = slept || std::mem::take(&mut self.clock.stalled);
        // After a stall Raft is told of one tick only: the peers' messages of that time are still in the queue.
        self.clock.owed = if stalled { every } else { self.clock.owed + gap };
        while self.clock.owed >= every {
            self.clock.owed = self.clock.owed.saturating_sub(every);
            self.consensus.tick();
        }
        self.notice_role();
        self.transfer_progress();
        self.reads.tick(self.now, &mut self.effects);
        if self.woken.is_some() {
            self.reads.probe();
        }
        self.duty(Leadership::tick);
        self.move_for_disk();
        if self.now.since(self.clock.gossiped) >= GOSSIP_EVERY {
            self.clock.gossiped = self.now;
            self.gossip();
        }
    }

    /// It never goes back, and never stands still: where a leader's clock was ahead once, time goes on from there, or no
    /// budget would be given anew, and no failure forgotten, until all clocks had caught up.
    fn time_of_people(&self, wall: WallTime, since_before: Span) -> WallTime {
        let reached = self.wall.max(self.state().map(State::clock).unwrap_or_default());
        if wall >= reached { wall } else { WallTime(reached.0.saturating_add(since_before.as_millis())) }
    }

    /// A gap is seen by whatever comes first after it: no question is answered, and nothing is weighed, as if the time
    /// slept through had been time listened to.
    pub(crate) fn notice_gap(&mut self) {
        let gap = self.now.since(self.clock.last);
        if gap > Span(self.tick_every().0 * 2 * ELECTION_TICKS as u64) {
            self.stalled(gap);
            self.clock.last = self.now;
            self.clock.monotonic = None;
            self.clock.stalled = true;
        }
    }

    fn stalled(&mut self, gap: Span) {
        self.woken = Some(self.now);
        self.leases.stalled(self.now, gap);
        self.leadership.stalled();
        self.say(Level::Warn, format!("time stood still here for {gap}: that is evidence against nobody"));
    }

    fn gossip(&mut self) {
        let Some(state) = self.machine.state() else { return };
        let message = PeerMessage::StateHash { revision: state.revision(), hash: state.hash() };
        let peers = self.consensus.tail().membership.all_voters().into_iter().filter(|peer| *peer != self.id);
        self.effects.extend(peers.map(|to| Effect::Send { to, message: message.clone() }));
    }
}

//! Remembers what became of each request, so that a repetition has no second effect.
//! In: the request id of each entry. Out: the remembered outcome, or leave to go ahead, or a refusal.
//! Bounded: [`SESSIONS`] sessions of [`WINDOW`] results. What may have been forgotten is refused, never repeated.

use std::sync::Arc;

use imbl::OrdMap;
use planted::planted;

use crate::apply::Outcome;
use crate::digest::{Header, Room, StateHash};
use crate::model::ids::{RequestId, Revision, SessionId};
use crate::model::time::WallTime;
use crate::results::Results;

/// Results kept per session. A client must not have more requests under way than this.
pub const WINDOW: usize = 128;
/// Sessions kept. The oldest by birth goes first; any session at or below it that is not known is refused from then on.
pub const SESSIONS: usize = 8_192;

/// A session born this long after the clock of the state comes from a clock that is wrong.
const AHEAD_MS: u64 = 60_000;
/// Of those so many are kept. If they could fill all there is room for, the eldest of them would go, and whatever a right
/// clock draws would count as forgotten until it has caught up: in a day, or in a thousand years.
const AHEAD_MAX: usize = SESSIONS / 2;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    /// Keyed by session, so ordered by birth.
    pub(crate) open: OrdMap<SessionId, Arc<Session>>,
    /// The youngest session ever dropped.
    pub(crate) horizon: Option<SessionId>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// The highest sequence whose result was dropped; it and everything below is refused.
    pub forgotten: Option<u64>,
    /// At most [`WINDOW`].
    pub results: Results,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Remembered {
    pub revision: Revision,
    pub outcome: Outcome,
}

pub(crate) enum Seen {
    Never,
    Before(Remembered),
    /// Too old to know.
    Expired,
    /// One too many from a clock that is this many milliseconds ahead.
    Ahead(u64),
}

impl Sessions {
    pub(crate) fn look_up(&self, request: RequestId, clock: WallTime) -> Seen {
        let Some(session) = self.open.get(&request.session) else {
            let ahead = request.session.born().0.saturating_sub(clock.0);
            return match self.horizon {
                Some(horizon) if request.session <= horizon => Seen::Expired,
                _ if ahead > AHEAD_MS && self.is_crowded_ahead(clock) => Seen::Ahead(ahead),
                _ => Seen::Never,
            };
        };
        match session.results.get(&request.sequence) {
            Some(remembered) => Seen::Before(remembered.clone()),
            None if session.forgotten.is_some_and(|forgotten| request.sequence <= forgotten) => Seen::Expired,
            None => Seen::Never,
        }
    }

    fn is_crowded_ahead(&self, clock: WallTime) -> bool {
        let first = SessionId::first_of(WallTime(clock.0.saturating_add(AHEAD_MS + 1)));
        self.open.range(first..).nth(AHEAD_MAX - 1).is_some()
    }

    /// Keeps what became of `request`, and forgets what no longer has room. `hash` is kept right with it.
    pub(crate) fn remember(&mut self, request: RequestId, remembered: Remembered, hash: &mut StateHash) {
        let id = request.session;
        if !self.open.contains_key(&id) {
            hash.add(Room::Session, &id, &None::<u64>);
        }
        let session = Arc::make_mut(self.open.entry(id).or_default());
        hash.add(Room::Result, &(id, request.sequence), &remembered);
        session.results.insert(request.sequence, remembered);
        if session.results.len() > WINDOW
            && let Some((sequence, dropped)) = session.results.pop_first()
        {
            hash.remove(Room::Result, &(id, sequence), &dropped);
            let forgotten = session.forgotten.max(Some(sequence));
            hash.replace(Room::Session, &id, &session.forgotten, &forgotten);
            session.forgotten = forgotten;
        }
        if self.open.len() > SESSIONS
            && let Some((eldest, session)) = self.open.get_min().cloned()
        {
            self.open.remove(&eldest);
            let mut gone = StateHash::default();
            hash_session(eldest, &session, &mut gone);
            hash.0 = hash.0.wrapping_sub(gone.0);
            let horizon = self.horizon.max(Some(eldest));
            hash.replace(Room::Header, &Header::Horizon, &self.horizon, &horizon);
            self.horizon = horizon;
        }
    }

    pub(crate) fn hash_into(&self, hash: &mut StateHash) {
        hash.add(Room::Header, &Header::Horizon, &self.horizon);
        for (id, session) in &self.open {
            hash_session(*id, session, hash);
        }
    }

    /// Keyed by session, ordered by birth; for snapshots.
    pub fn iter(&self) -> impl Iterator<Item = (&SessionId, &Arc<Session>)> {
        self.open.iter()
    }

    pub fn horizon(&self) -> Option<SessionId> {
        self.horizon
    }

    pub fn restore(open: impl IntoIterator<Item = (SessionId, Session)>, horizon: Option<SessionId>) -> Sessions {
        if planted!("requests-forgotten-at-snapshot") {
            return Sessions::default();
        }
        Sessions { open: open.into_iter().map(|(id, session)| (id, Arc::new(session))).collect(), horizon }
    }
}

fn hash_session(id: SessionId, session: &Session, hash: &mut StateHash) {
    hash.add(Room::Session, &id, &session.forgotten);
    for (sequence, remembered) in session.results.iter() {
        hash.add(Room::Result, &(id, *sequence), remembered);
    }
}

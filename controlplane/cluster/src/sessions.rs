//! Remembers what became of each request, so that a repetition has no second effect.
//! In: the request id of each entry. Out: the remembered outcome, or leave to go ahead, or a refusal.
//! Bounded: [`SESSIONS`] sessions of [`WINDOW`] results. What may have been forgotten is refused, never repeated.

use std::sync::Arc;

use imbl::OrdMap;

use crate::apply::Outcome;
use crate::model::ids::{RequestId, Revision, SessionId};

/// Results kept per session. A client must not have more requests under way than this.
pub const WINDOW: usize = 128;
/// Sessions kept. The oldest by birth goes first; any session at or below it that is not known is refused from then on.
pub const SESSIONS: usize = 8_192;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sessions {
    /// Keyed by session, so ordered by birth.
    pub(crate) open: OrdMap<SessionId, Arc<Session>>,
    /// The youngest session ever dropped.
    pub(crate) horizon: Option<SessionId>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Session {
    /// The highest sequence whose result was dropped; it and everything below is refused.
    pub forgotten: Option<u64>,
    /// Keyed by sequence, at most [`WINDOW`].
    pub results: OrdMap<u64, Remembered>,
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
}

impl Sessions {
    pub(crate) fn look_up(&self, request: RequestId) -> Seen {
        let Some(session) = self.open.get(&request.session) else {
            let expired = self.horizon.is_some_and(|horizon| request.session <= horizon);
            return if expired { Seen::Expired } else { Seen::Never };
        };
        match session.results.get(&request.sequence) {
            Some(remembered) => Seen::Before(remembered.clone()),
            None if session.forgotten.is_some_and(|forgotten| request.sequence <= forgotten) => Seen::Expired,
            None => Seen::Never,
        }
    }

    pub(crate) fn remember(&mut self, request: RequestId, revision: Revision, outcome: Outcome) {
        let session = Arc::make_mut(self.open.entry(request.session).or_default());
        session.results.insert(request.sequence, Remembered { revision, outcome });
        while session.results.len() > WINDOW {
            let Some(oldest) = session.results.get_min().map(|(sequence, _)| *sequence) else { break };
            session.results.remove(&oldest);
            session.forgotten = session.forgotten.max(Some(oldest));
        }
        while self.open.len() > SESSIONS {
            let Some(eldest) = self.open.get_min().map(|(session, _)| *session) else { break };
            self.open.remove(&eldest);
            self.horizon = self.horizon.max(Some(eldest));
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
        Sessions { open: open.into_iter().map(|(id, session)| (id, Arc::new(session))).collect(), horizon }
    }
}

//! What this node finds of itself and of what it is told to watch, as the leader is to know it. In: findings, whole, whenever
//! one of them changed; the watch of accepted sets. Out: orders to watch, and the newest report: at once after a pause,
//! never sooner than that after another, in full to every new session, and repeated like every word that may be lost.
//! Absent: what is found, and how; the hands look.

use std::sync::Arc;

use cluster::agent::{ToLeader, Watch};
use cluster::{Moment, NodeReport, Span};

use crate::agent::Agent;
use crate::exchange::Effect;
use crate::reports::Repeat;

/// Two different reports are at least this far apart: each is an entry of the log.
const PACE: Span = Span::seconds(3);

#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    /// What the hands were last told to look at.
    watch: Option<Arc<Watch>>,
    /// `None` until something was found.
    report: Option<Arc<NodeReport>>,
    owed: Option<Repeat>,
    /// Before this, only what was said already is said again.
    rest: Moment,
}

impl Account {
    /// Another leader listens, or the incarnation is new.
    pub fn repeat(&mut self, now: Moment) {
        self.owed = self.report.as_ref().map(|_| Repeat::at_once(now));
    }

    fn take(&mut self, now: Moment, report: Arc<NodeReport>) {
        if self.report.as_ref() == Some(&report) {
            return;
        }
        self.report = Some(report);
        self.owed = Some(Repeat::at_once(now.max(self.rest)));
    }
}

impl Agent {
    pub(crate) fn take_report(&mut self, now: Moment, report: Arc<NodeReport>) {
        self.account.take(now, report);
    }

    /// Orders what a set that was accepted wants watched, if that is new.
    pub(crate) fn look_after(&mut self, watch: &Arc<Watch>) {
        if self.account.watch.as_ref() != Some(watch) {
            self.account.watch = Some(watch.clone());
            self.out.push(Effect::Watch(watch.clone()));
        }
    }

    pub(crate) fn tell_account(&mut self, now: Moment) {
        let account = &mut self.account;
        let (Some(owed), Some(report)) = (account.owed.as_mut().filter(|owed| owed.due <= now), &account.report) else {
            return;
        };
        owed.said(now);
        account.rest = now + PACE;
        let (incarnation, report) = (self.journal.incarnation, report.clone());
        self.out.push(Effect::ToLeader(ToLeader::Finds { incarnation, report }));
    }

    pub(crate) fn next_account(&self) -> Option<Moment> {
        self.account.owed.map(|owed| owed.due)
    }
}

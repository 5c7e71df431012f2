//! The target's side of a handover: room, template and storage made ready, the private area untouched *(10)*. In: items
//! that say `Prepare`, and what came of it. Out: the word for the leader, once per epoch. The source's side needs no file:
//! `Stop` seen is stopping, and `Phase` only moves downwards. Absent: who is the source; the leader knows.

use std::collections::BTreeSet;

use cluster::Moment;
use cluster::agent::{DesiredItem, Wanted};
use cluster::command::Reported;

use crate::actual::Key;
use crate::agent::Agent;
use crate::exchange::{Effect, Happened};

/// By container and the epoch that is handed over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Preparations {
    ordered: BTreeSet<Key>,
}

impl Agent {
    pub(crate) fn prepare(&mut self, now: Moment, item: &DesiredItem) {
        let key = (item.container, item.epoch);
        if self.preparations.ordered.contains(&key) || !self.may_start(now) {
            return;
        }
        let Some(spec) = self.desired.spec(item.spec).cloned() else { return };
        self.preparations.ordered.insert(key);
        self.out.push(Effect::Prepare { container: key.0, epoch: key.1, spec });
    }

    pub(crate) fn prepared(&mut self, now: Moment, key: Key, what: Happened) {
        if !self.preparations.ordered.contains(&key) {
            return;
        }
        let word = match what {
            Happened::CannotPrepare { reason } => Reported::CannotPrepare { reason },
            _ => Reported::Prepared,
        };
        let policy = self.desired.item(key.0).map(|item| item.on_quorum_loss).unwrap_or_default();
        self.reports.say(now, key, policy, word);
    }

    /// Drops what was prepared for handovers that will not come; a start of the next epoch uses it up instead.
    pub(crate) fn drop_stale_preparations(&mut self) {
        let wanted = |key: &Key, wants: fn(Wanted) -> bool| {
            self.desired.item(key.0).is_some_and(|item| wants(item.wanted) && item.epoch >= key.1)
        };
        let stale: Vec<(Key, bool)> = self
            .preparations
            .ordered
            .iter()
            .filter(|key| {
                !self.desired.item(key.0).is_some_and(|item| item.wanted == Wanted::Prepare && item.epoch == key.1)
            })
            .map(|key| (*key, wanted(key, |wanted| wanted == Wanted::Run)))
            .collect();
        for (key, used) in stale {
            self.drop_preparation(key, used);
        }
    }

    pub(crate) fn drop_preparations(&mut self) {
        for key in self.preparations.ordered.clone() {
            self.drop_preparation(key, false);
        }
    }

    fn drop_preparation(&mut self, key: Key, used: bool) {
        self.preparations.ordered.remove(&key);
        self.reports.retract(key);
        if !used {
            self.out.push(Effect::Unprepare { container: key.0, epoch: key.1 });
        }
    }
}

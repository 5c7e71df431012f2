//! The recent past: what happened at each revision, kept in order for those who watch.
//! In: the events of applied entries. Out: everything from a revision on, without gap or repetition, or `Compacted`.
//! Bounded: the oldest go first. After a snapshot was installed everything before it is gone, because the entries between
//! were never seen here.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cluster::{Event, Revision, Trigger, WallTime};
use tokio::sync::watch;

/// Events kept; at some 300 bytes each that is 30 MB.
pub const KEPT: usize = 100_000;

/// What happened at one revision; never empty.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    pub revision: Revision,
    /// The proposing leader's wall clock.
    pub at: WallTime,
    pub events: Box<[Event]>,
}

/// Events below `oldest` are gone: list the objects, then watch from the revision of that list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("events before revision {} are gone", oldest.0)]
pub struct Compacted {
    pub oldest: Revision,
}

/// Some of what was asked for.
pub struct Part {
    pub batches: Vec<Arc<Batch>>,
    /// Everything up to here has been given; go on behind it.
    pub through: Revision,
}

pub struct Events {
    ring: Mutex<Ring>,
    tip: watch::Sender<Revision>,
    kept: usize,
}

struct Ring {
    batches: VecDeque<Arc<Batch>>,
    /// Every event at or above this revision is here.
    oldest: Revision,
    tip: Revision,
    count: usize,
    tally: Tally,
}

/// Counted since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub fencing_begun: u64,
    pub fenced: u64,
    pub placed: u64,
    pub unplaceable: u64,
    /// Of those placed, because the node before was fenced.
    pub failovers: u64,
}

impl Tally {
    fn count(&mut self, event: &Event) {
        match event {
            Event::FencingBegun { .. } => self.fencing_begun += 1,
            Event::NodeFenced { .. } => self.fenced += 1,
            Event::ContainerUnplaceable { .. } => self.unplaceable += 1,
            Event::ContainerAssigned { trigger, .. } => {
                self.placed += 1;
                self.failovers += u64::from(matches!(trigger, Trigger::Failover { .. }));
            }
            _ => {}
        }
    }
}

impl Events {
    /// Knows nothing of what happened at or before `applied`.
    pub fn new(applied: Revision, kept: usize) -> Events {
        let oldest = Revision(applied.0 + 1);
        let ring = Ring { batches: VecDeque::new(), oldest, tip: applied, count: 0, tally: Tally::default() };
        Events { ring: Mutex::new(ring), tip: watch::Sender::new(applied), kept }
    }

    /// Takes in entries that were applied, in their order; those without events count too.
    pub fn extend(&self, applied: impl IntoIterator<Item = (Revision, WallTime, Vec<Event>)>) {
        let mut ring = self.ring();
        for (revision, at, events) in applied {
            ring.tip = revision;
            if events.is_empty() {
                continue;
            }
            ring.count += events.len();
            events.iter().for_each(|event| ring.tally.count(event));
            ring.batches.push_back(Arc::new(Batch { revision, at, events: events.into() }));
            while ring.count > self.kept
                && let Some(gone) = ring.batches.pop_front()
            {
                ring.count -= gone.events.len();
                ring.oldest = Revision(gone.revision.0 + 1);
            }
        }
        let tip = ring.tip;
        drop(ring);
        self.tip.send_replace(tip);
    }

    /// The state jumped to `revision`.
    pub fn forget_before(&self, revision: Revision) {
        let mut ring = self.ring();
        let (oldest, tally) = (Revision(revision.0 + 1), ring.tally);
        *ring = Ring { batches: VecDeque::new(), oldest, tip: revision, count: 0, tally };
        drop(ring);
        self.tip.send_replace(revision);
    }

    /// What happened from `revision` on, at most `batches_max` revisions of it.
    pub fn from(&self, revision: Revision, batches_max: usize) -> Result<Part, Compacted> {
        let ring = self.ring();
        if revision < ring.oldest {
            return Err(Compacted { oldest: ring.oldest });
        }
        let first = ring.batches.partition_point(|batch| batch.revision < revision);
        let batches: Vec<Arc<Batch>> = ring.batches.iter().skip(first).take(batches_max).cloned().collect();
        let all = first + batches.len() == ring.batches.len();
        let through = if all { ring.tip } else { batches.last().map_or(ring.tip, |batch| batch.revision) };
        Ok(Part { batches, through: through.max(Revision(revision.0.saturating_sub(1))) })
    }

    pub fn oldest(&self) -> Revision {
        self.ring().oldest
    }

    pub fn tally(&self) -> Tally {
        self.ring().tally
    }

    /// Changes with everything that is applied.
    pub fn tip(&self) -> watch::Receiver<Revision> {
        self.tip.subscribe()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(revision: u64, events: usize) -> (Revision, WallTime, Vec<Event>) {
        (Revision(revision), WallTime(revision), vec![Event::BrakeReleased; events])
    }

    fn seen(part: &Part) -> Vec<u64> {
        part.batches.iter().map(|batch| batch.revision.0).collect()
    }

    #[test]
    fn reading_on_behind_each_part_sees_everything_once() {
        let events = Events::new(Revision(10), 100);
        events.extend((11..=30).map(|revision| entry(revision, usize::from(revision % 3 == 0))));
        let (mut next, mut all) = (Revision(11), Vec::new());
        while next <= Revision(30) {
            let part = events.from(next, 2).expect("nothing is gone");
            all.extend(seen(&part));
            next = Revision(part.through.0 + 1);
        }
        assert_eq!(all, [12, 15, 18, 21, 24, 27, 30]);
        let ahead = events.from(Revision(40), 2).expect("the future is not gone");
        assert_eq!((seen(&ahead), ahead.through), (vec![], Revision(39)));
    }

    #[test]
    fn what_was_dropped_is_said_to_be_gone() {
        let events = Events::new(Revision(0), 4);
        events.extend([entry(1, 2), entry(2, 1), entry(3, 2)]);
        assert_eq!(events.from(Revision(1), 9).err(), Some(Compacted { oldest: Revision(2) }));
        assert_eq!(seen(&events.from(Revision(2), 9).expect("kept")), [2, 3]);
        events.forget_before(Revision(50));
        assert_eq!(events.from(Revision(3), 9).err(), Some(Compacted { oldest: Revision(51) }));
        assert_eq!(*events.tip().borrow(), Revision(50));
    }
}

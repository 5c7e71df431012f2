//! A member's log as it should be, and legal histories to write: grow, vote, commit, overwrite, snapshot, compact,
//! restore. Deterministic in its `steps`.

use bytes::Bytes;
use record::{Entry, Group, HardState, Identity, Loaded, LogPoint, MemDisk, RaftDisk, SnapshotMeta, StoreError};

pub const IDENTITY: Identity = Identity { cluster: *b"cluster-for-test", member: 7, incarnation: 3 };

/// What must be found after every acknowledged step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    pub hard_state: HardState,
    pub entries: Vec<Entry>,
    pub snapshot: Option<SnapshotMeta>,
}

/// One thing a member does to its disk.
#[derive(Debug, Clone)]
pub enum Step {
    Append(Group),
    /// Take a snapshot of one's own state, then forget the log below it.
    Snapshot(SnapshotMeta, Vec<u8>),
    /// Take over the leader's snapshot and start the log anew.
    Install(SnapshotMeta, Vec<u8>, Group),
}

impl Model {
    pub fn of(loaded: &Loaded) -> Self {
        Self { hard_state: loaded.hard_state, entries: loaded.entries.clone(), snapshot: loaded.snapshot.clone() }
    }

    fn last(&self) -> LogPoint {
        let below = self.snapshot.as_ref().map(SnapshotMeta::point).unwrap_or_default();
        self.entries.last().map_or(below, Entry::point)
    }

    fn term_at(&self, index: u64) -> u64 {
        let below = self.snapshot.as_ref().map(SnapshotMeta::point).unwrap_or_default();
        let entry = self.entries.iter().find(|entry| entry.index == index);
        entry.map_or(if below.index == index { below.term } else { 0 }, |entry| entry.term)
    }

    /// A legal next step, chosen by `choice`; its entries carry `size` bytes.
    pub fn step(&self, choice: u8, size: usize) -> Step {
        let mut hard_state = self.hard_state;
        let last = self.last();
        match choice % 8 {
            // A new term, and the uncommitted end of the log is overwritten.
            0 => {
                hard_state.term += 1;
                hard_state.vote = u64::from(choice / 8);
                let from = last.index.min(hard_state.commit + 1 + u64::from(choice / 64)).max(hard_state.commit + 1);
                Step::Append(Group { hard_state, restored: None, entries: entries(from, hard_state.term, 2, size) })
            }
            1 => {
                hard_state.commit = last.index;
                Step::Append(Group { hard_state, ..Group::default() })
            }
            2 if self.hard_state.commit > self.snapshot.as_ref().map_or(0, |meta| meta.index) => {
                let index = self.hard_state.commit;
                let body = vec![choice; size * 3];
                let point = LogPoint { index, term: self.term_at(index) };
                Step::Snapshot(SnapshotMeta::of(point, vec![choice; 3], &body), body)
            }
            3 if choice > 100 => {
                hard_state.term += 1;
                hard_state.vote = 0;
                // Sometimes beyond the log, sometimes over its uncommitted end.
                let index = (hard_state.commit + 1 + u64::from(choice / 80)).max(last.index.saturating_sub(1));
                let point = LogPoint { index, term: hard_state.term };
                hard_state.commit = index;
                let body = vec![choice; size];
                let group = Group { hard_state, restored: Some(point), entries: Vec::new() };
                Step::Install(SnapshotMeta::of(point, vec![1, 2, 3], &body), body, group)
            }
            _ => {
                hard_state.term = hard_state.term.max(1);
                let count = u64::from(choice / 32) + 1;
                let entries = entries(last.index + 1, hard_state.term, count, size);
                hard_state.commit = hard_state.commit.max(last.index.min(hard_state.commit + 2));
                Step::Append(Group { hard_state, restored: None, entries })
            }
        }
    }

    /// What the member knows once the step is acknowledged.
    pub fn after(mut self, step: &Step) -> Self {
        match step {
            Step::Append(group) => self.lay(group),
            Step::Snapshot(meta, _) => {
                self.entries.retain(|entry| entry.index > meta.index);
                self.snapshot = Some(meta.clone());
            }
            Step::Install(meta, _, group) => {
                self.lay(group);
                self.snapshot = Some(meta.clone());
            }
        }
        self
    }

    fn lay(&mut self, group: &Group) {
        self.hard_state = group.hard_state;
        if group.restored.is_some() {
            self.entries.clear();
        }
        if let Some(first) = group.entries.first() {
            self.entries.retain(|entry| entry.index < first.index);
            self.entries.extend(group.entries.iter().cloned());
        }
    }
}

/// Carries out a step, every part of it acknowledged.
pub fn perform(disk: &mut dyn RaftDisk, step: &Step) {
    attempt(disk, step).expect("the step is legal");
}

/// Carries out a step up to the first error.
pub fn attempt(disk: &mut dyn RaftDisk, step: &Step) -> Result<(), StoreError> {
    match step {
        Step::Append(group) => disk.append_group(group).map(drop),
        Step::Snapshot(meta, body) => {
            disk.save_snapshot(meta, body)?;
            disk.compact(meta.index)
        }
        Step::Install(meta, body, group) => {
            disk.save_snapshot(meta, body)?;
            disk.append_group(group).map(drop)
        }
    }
}

/// A store after `choices`, and what must be in it.
pub fn written(choices: &[u8], size: usize) -> (MemDisk, Model) {
    let mut disk = MemDisk::create(IDENTITY);
    disk.load().expect("a new store loads");
    let mut model = Model::default();
    for &choice in choices {
        let step = model.step(choice, size);
        perform(&mut disk, &step);
        model = model.after(&step);
    }
    (disk, model)
}

pub fn entries(from: u64, term: u64, count: u64, size: usize) -> Vec<Entry> {
    let entry = |index: u64| Entry {
        term,
        index,
        kind: (index % 3) as u32,
        data: Bytes::from((0..size).map(|at| (index as usize * 31 + at) as u8).collect::<Vec<_>>()),
        context: Bytes::copy_from_slice(&index.to_be_bytes()[..(index % 9) as usize]),
    };
    (from..from + count).map(entry).collect()
}

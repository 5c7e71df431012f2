//! The end of the chain, and which group may follow it. One judge for the writer (before a byte is written) and for
//! replay (before a record is believed).
//! Absent: bytes.

use crate::error::Refused;
use crate::types::{Group, HardState, LogPoint};

/// Where the store stands after its last group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tip {
    /// Number of the last group; 0 before the first.
    pub number: u64,
    /// Checksum of its record.
    pub crc: u32,
    pub last: LogPoint,
    pub hard_state: HardState,
}

impl Tip {
    /// The end of the log once `group` is in it. Errs if Raft could never write such a group here.
    pub fn check(&self, group: &Group) -> Result<LogPoint, Refused> {
        let (old, new) = (self.hard_state, group.hard_state);
        if new.term < old.term {
            return Err(Refused::TermBack { new: new.term, old: old.term });
        }
        if new.term == old.term && old.vote != 0 && new.vote != old.vote {
            return Err(Refused::VoteChanged { term: new.term, old: old.vote, new: new.vote });
        }
        if new.commit < old.commit {
            return Err(Refused::CommitBack { new: new.commit, old: old.commit });
        }
        if let Some(restored) = group.restored.filter(|restored| restored.index < old.commit) {
            return Err(Refused::RestoredBelowCommit { index: restored.index, commit: old.commit });
        }
        let last = self.check_entries(group)?;
        if new.commit > last.index {
            return Err(Refused::CommitBeyondLog { commit: new.commit, last: last.index });
        }
        Ok(last)
    }

    fn check_entries(&self, group: &Group) -> Result<LogPoint, Refused> {
        let base = group.restored.unwrap_or(self.last);
        let Some(first) = group.entries.first() else {
            return Ok(base);
        };
        let follows =
            if group.restored.is_some() { first.index == base.index + 1 } else { first.index <= base.index + 1 };
        if first.index == 0 || !follows {
            return Err(Refused::Gap { found: first.index, last: base.index });
        }
        if first.index <= self.hard_state.commit {
            return Err(Refused::CommittedReplaced { index: first.index, commit: self.hard_state.commit });
        }
        let appends = first.index == base.index + 1;
        let mut last = LogPoint { index: first.index - 1, term: if appends { base.term } else { 0 } };
        for entry in &group.entries {
            if entry.index != last.index + 1 {
                return Err(Refused::Gap { found: entry.index, last: last.index });
            }
            if entry.term < last.term || entry.term > group.hard_state.term {
                let (index, term) = (entry.index, entry.term);
                return Err(Refused::EntryTerm { index, term, low: last.term, high: group.hard_state.term });
            }
            last = entry.point();
        }
        Ok(last)
    }
}

//! What the stores of stopped members say together, and the state their newest log comes to.
//! In: what each member would start from. Out: a survey for whoever must decide, and the beginning of a new generation.
//! Absent: no store, no clock, no choice of the new id; `cluster::recovery` makes the new state.
//! Source: safety.md, "Disaster recovery" *(8, a5)*.

use std::sync::Arc;

use cluster::recovery::{CannotRecover, Recovery};
use cluster::{
    Command, Entry, Generation, LogsRead, Member, MemberId, Membership, Revision, State, WallTime, apply,
    apply_membership,
};
use record::LogPoint;

use crate::codec;
use crate::exchange::Start;
use crate::log::{Meaning, Tail};

/// What one member's store holds.
#[derive(Debug)]
pub struct Reading {
    pub member: MemberId,
    pub start: Start,
}

/// What it comes to, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub member: MemberId,
    pub generation: Generation,
    /// The state its log stands on.
    pub beneath: Revision,
    pub last: LogPoint,
    /// What it knows as committed.
    pub commit: u64,
    /// The newest in its log, committed or not.
    pub membership: Membership,
}

/// What was read, in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// By member, ascending.
    pub told: Vec<Told>,
    /// Whose log is the newest: last term, then last index, then the smaller id.
    pub newest: MemberId,
    /// The newest found in any log.
    pub membership: Membership,
    /// Its voters that were not read.
    pub unread: Vec<MemberId>,
    pub logs: LogsRead,
    /// Entries of the newest log above what anybody read knows as committed. They count from now on.
    pub uncommitted: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    #[error("nothing was read")]
    Nothing,
    #[error("{0} was read twice")]
    Twice(MemberId),
    #[error("{0} has no state yet: leave it out")]
    NoState(MemberId),
    #[error("{one} is of generation {of} and {other} of {another}: leave out the earlier one")]
    Mixed { one: MemberId, of: Generation, other: MemberId, another: Generation },
    #[error("{member} holds an entry at {index} that cannot be read: {error}")]
    Entry { member: MemberId, index: u64, error: Arc<str> },
    #[error(transparent)]
    Recover(#[from] CannotRecover),
}

/// What the readings say together. Errs where they do not belong together.
pub fn survey(readings: &[&Reading]) -> Result<Survey, Unread> {
    let mut told = readings.iter().map(|reading| tell(reading)).collect::<Result<Vec<Told>, Unread>>()?;
    told.sort_by_key(|told| told.member);
    if let Some(pair) = told.windows(2).find(|pair| pair[0].member == pair[1].member) {
        return Err(Unread::Twice(pair[0].member));
    }
    let first = told.first().ok_or(Unread::Nothing)?;
    if let Some(other) = told.iter().find(|other| other.generation != first.generation) {
        let (one, of, another) = (first.member, first.generation, other.generation);
        return Err(Unread::Mixed { one, of, other: other.member, another });
    }
    let place = |told: &&Told| (told.last.term, told.last.index, std::cmp::Reverse(told.member));
    let newest = told.iter().max_by_key(place).unwrap_or(first);
    let membership = told.iter().map(|told| &told.membership).max_by_key(|it| (it.term, it.index));
    let membership = membership.unwrap_or(&first.membership).clone();
    let was_read = |id: MemberId| told.iter().any(|told| told.member == id);
    let logs = if membership.majority(was_read) { LogsRead::Majority } else { LogsRead::Fewer };
    let commit = told.iter().map(|told| told.commit).max().unwrap_or(0);
    Ok(Survey {
        newest: newest.member,
        unread: membership.all_voters().into_iter().filter(|id| !was_read(*id)).collect(),
        uncommitted: newest.last.index.saturating_sub(commit),
        logs,
        membership,
        told,
    })
}

fn tell(reading: &Reading) -> Result<Told, Unread> {
    let Reading { member, start } = reading;
    let state = start.state.as_ref().ok_or(Unread::NoState(*member))?;
    let membership = state.membership().clone();
    let tail = Tail::new(start.hard_state, membership, start.snapshot.clone(), start.entries.clone());
    Ok(Told {
        member: *member,
        generation: state.generation(),
        beneath: state.revision(),
        last: tail.last(),
        commit: start.hard_state.commit.max(state.revision().0),
        membership: tail.newest_membership().clone(),
    })
}

/// The state of `reading` with every entry of its log, committed or not.
pub fn read_through(reading: &Reading) -> Result<State, Unread> {
    let Reading { member, start } = reading;
    let mut state = start.state.clone().ok_or(Unread::NoState(*member))?;
    for entry in start.entries.iter().filter(|entry| entry.index > start.beneath()) {
        let (index, unreadable) = (entry.index, |error| Unread::Entry { member: *member, index: entry.index, error });
        if index != state.revision().0 + 1 {
            return Err(unreadable("the one before it is missing".into()));
        }
        match codec::meaning(entry) {
            Meaning::Settle => {
                let settle = Entry { at: WallTime(0), request: None, command: Command::Settle };
                apply(&mut state, Revision(index), &settle);
            }
            Meaning::Command(command) => {
                apply(&mut state, Revision(index), &command);
            }
            Meaning::Membership(change) => {
                let membership = change.after(state.membership(), entry.point());
                apply_membership(&mut state, Revision(index), membership);
            }
            Meaning::Unreadable(error) => return Err(unreadable(error)),
        }
    }
    Ok(state)
}

/// The state and the place in the log that a new generation begins with, and the survivor as its only member.
pub fn next_generation(
    reading: &Reading,
    generation: Generation,
    survivor: Arc<Member>,
    logs: LogsRead,
) -> Result<(State, LogPoint), Unread> {
    let last = tell(reading)?.last;
    let term = last.term.max(reading.start.hard_state.term) + 1;
    let state = cluster::recovery::recover(&read_through(reading)?, &Recovery { generation, survivor, term, logs })?;
    let index = state.revision().0;
    Ok((state, LogPoint { index, term }))
}

impl Start {
    fn beneath(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.revision().0)
    }
}

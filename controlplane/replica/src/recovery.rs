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

#[cfg(test)]
mod tests {
    use cluster::{Bootstrap, ClusterId, Name, Profile, SecretHash, Settings, WallTime};
    use record::{Entry as Logged, HardState};

    use super::*;
    use crate::codec::{self, MembershipChange, NORMAL, Step};

    const GENERATION: Generation = Generation { number: 2, id: 7 };

    fn member(id: u64) -> Member {
        Member {
            id: MemberId(id),
            name: Name::new(&format!("m{id}")).expect("a name"),
            peer_address: format!("m{id}:7441").into(),
            api_address: format!("m{id}:7440").into(),
            secret: SecretHash(id.into()),
            added: Revision(0),
        }
    }

    fn state() -> State {
        let settings = Settings { terms: Profile::Default.terms(), ..Settings::default() };
        State::bootstrap(Bootstrap { cluster: ClusterId(1), settings, members: (1..=3).map(member).collect() })
    }

    fn empty(term: u64, index: u64) -> Logged {
        Logged { term, index, kind: NORMAL, ..Logged::default() }
    }

    fn command(term: u64, index: u64, command: Command) -> Logged {
        let data = codec::encode(&Entry { at: WallTime(5), request: None, command }).into();
        Logged { data, ..empty(term, index) }
    }

    fn reading(id: u64, commit: u64, entries: Vec<Logged>) -> Reading {
        let hard_state = HardState { term: entries.last().map_or(1, |last| last.term), vote: 0, commit };
        Reading { member: MemberId(id), start: Start { state: Some(state()), snapshot: None, hard_state, entries } }
    }

    fn ids(from: &[u64]) -> Vec<MemberId> {
        from.iter().copied().map(MemberId).collect()
    }

    #[test]
    fn the_newest_log_is_that_of_the_last_term_then_of_the_last_index() {
        let short = reading(1, 2, vec![empty(1, 2), empty(3, 3)]);
        let long = reading(2, 4, vec![empty(1, 2), empty(1, 3), empty(1, 4), empty(2, 5)]);
        let found = survey(&[&long, &short]).expect("they belong together");
        assert_eq!((found.newest, found.logs, found.unread), (MemberId(1), LogsRead::Majority, ids(&[3])));
        let also = reading(3, 2, vec![empty(1, 2), empty(3, 3), empty(3, 4)]);
        assert_eq!(survey(&[&short, &also]).expect("they belong together").newest, MemberId(3));
    }

    #[test]
    fn one_of_three_is_no_majority_and_what_it_has_uncommitted_is_said() {
        let alone = reading(2, 3, vec![empty(1, 2), empty(1, 3), empty(1, 4), empty(1, 5)]);
        let found = survey(&[&alone]).expect("one is enough to read");
        assert_eq!((found.logs, found.uncommitted, found.unread), (LogsRead::Fewer, 2, ids(&[1, 3])));
    }

    /// While a change is under way both majorities count, and the change counts from the log on, committed or not.
    #[test]
    fn the_newest_membership_in_any_log_says_what_a_majority_is() {
        let change = |steps: Vec<Step>| MembershipChange { steps };
        let joint = raft_change(&change(vec![
            Step::Remove(MemberId(1)),
            Step::Remove(MemberId(2)),
            Step::AddVoter(MemberId(4)),
            Step::AddVoter(MemberId(5)),
        ]));
        let behind = reading(1, 1, vec![empty(1, 2)]);
        let other = reading(2, 1, vec![empty(1, 2)]);
        let ahead = reading(3, 1, vec![empty(1, 2), Logged { term: 1, index: 3, ..joint }]);
        let found = survey(&[&behind, &other]).expect("they belong together");
        assert_eq!(found.logs, LogsRead::Majority, "as far as these two know");
        let found = survey(&[&behind, &other, &ahead]).expect("they belong together");
        assert_eq!((found.logs, found.unread), (LogsRead::Fewer, ids(&[4, 5])), "of 3, 4 and 5 only one was read");
    }

    fn raft_change(change: &MembershipChange) -> Logged {
        use prost::Message;
        #[derive(Clone, PartialEq, Message)]
        struct Single {
            #[prost(int32, tag = "1")]
            kind: i32,
            #[prost(uint64, tag = "2")]
            node_id: u64,
        }
        #[derive(Clone, PartialEq, Message)]
        struct Change {
            #[prost(message, repeated, tag = "2")]
            changes: Vec<Single>,
        }
        let single = |step: &Step| match *step {
            Step::AddVoter(id) => Single { kind: 0, node_id: id.0 },
            Step::Remove(id) => Single { kind: 1, node_id: id.0 },
            Step::AddLearner(id) => Single { kind: 2, node_id: id.0 },
        };
        let bytes = Change { changes: change.steps.iter().map(single).collect() }.encode_to_vec();
        Logged { kind: codec::CHANGE, data: bytes.into(), ..Logged::default() }
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        assert_eq!(survey(&[]), Err(Unread::Nothing));
        let one = reading(1, 1, vec![empty(1, 2)]);
        assert_eq!(survey(&[&one, &one]), Err(Unread::Twice(MemberId(1))));
        let newcomer = Reading { member: MemberId(4), start: Start { state: None, ..reading(4, 0, Vec::new()).start } };
        assert_eq!(survey(&[&one, &newcomer]), Err(Unread::NoState(MemberId(4))));
        let survivor = Arc::new(member(1));
        let (later, _) = next_generation(&one, GENERATION, survivor, LogsRead::Fewer).expect("begun");
        let two = reading(2, 1, Vec::new());
        let later = Reading { member: MemberId(3), start: Start { state: Some(later), ..two.start } };
        assert!(matches!(survey(&[&one, &later]), Err(Unread::Mixed { .. })));
    }

    #[test]
    fn every_entry_of_the_newest_log_counts_and_the_log_begins_above_it() {
        let register = Command::RegisterTemplate {
            name: Name::new("debian").expect("a name"),
            version: "12".into(),
            digest: "".into(),
            kind: cluster::TemplateKind::Os,
            path: "".into(),
            bytes: 0,
            defaults: Arc::default(),
        };
        let log = vec![empty(1, 2), command(4, 3, register)];
        let (state, point) =
            next_generation(&reading(2, 2, log), GENERATION, Arc::new(member(2)), LogsRead::Fewer).expect("begun");
        assert_eq!(state.templates().count(), 1, "it was not known as committed, and counts");
        assert_eq!((point.term, point.index), (5, state.revision().0));
        assert_eq!(state.membership().voters[..], ids(&[2])[..]);
        let broken = reading(2, 2, vec![empty(1, 2), empty(1, 4)]);
        let refused = next_generation(&broken, GENERATION, Arc::new(member(2)), LogsRead::Fewer);
        assert!(matches!(refused, Err(Unread::Entry { index: 4, .. })));
        let strange = Logged { kind: 9, ..empty(1, 2) };
        let refused = next_generation(&reading(2, 1, vec![strange]), GENERATION, Arc::new(member(2)), LogsRead::Fewer);
        assert!(matches!(refused, Err(Unread::Entry { index: 2, .. })));
    }
}

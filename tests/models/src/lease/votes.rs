//! Elections, copies of entries, commits: votes and commits count by the membership that is applied, as in raft-rs.
//! In: logs and terms. Out: logs, what is applied, and the damage where a committed entry is lost.

use super::*;

impl Lease {
    pub(super) fn up_to_date(candidate: &Log, voter: &Log) -> bool {
        (candidate.last_term(), candidate.len) >= (voter.last_term(), voter.len)
    }

    pub(super) fn elections(&self, state: &State, steps: &mut Vec<Step>) {
        for (leader, candidate) in state.members[..self.members()].iter().enumerate() {
            let membership = candidate.log.membership(candidate.applied);
            // A member that is not in its own newest membership has been told to stop.
            if candidate.leads || !membership.votes(leader) {
                continue;
            }
            let grants = |at: usize| at == leader || Lease::up_to_date(&candidate.log, &state.members[at].log);
            let can = (0..self.members()).filter(|at| grants(*at)).fold(0u8, |mask, at| mask | 1 << at);
            for votes in 0..1u8 << MEMBERS {
                let minimal = |votes: u8| {
                    (0..MEMBERS)
                        .all(|at| at == leader || votes & 1 << at == 0 || !membership.is_quorum(votes & !(1 << at)))
                };
                if votes & 1 << leader != 0 && votes & !can == 0 && membership.is_quorum(votes) && minimal(votes) {
                    steps.push(Step::Elect { leader, votes });
                }
            }
        }
    }

    pub(super) fn elect(&self, state: &mut State, leader: usize, votes: u8) {
        let term = 1 + state.members.iter().map(|member| member.term).max().unwrap_or(0);
        for (at, member) in state.members.iter_mut().enumerate() {
            if votes & 1 << at != 0 {
                (member.term, member.leads, member.barrier) = (term, at == leader, 0);
            }
        }
        self.append(state, leader, Kind::Settle);
    }

    pub(super) fn append(&self, state: &mut State, at: usize, kind: Kind) {
        let before = self.newest(&state.members[at]).votes(at);
        let member = &mut state.members[at];
        let entry = Entry::new(member.term, kind);
        member.log.push(entry);
        self.appended(member, at, before);
    }

    pub(super) fn appended(&self, member: &mut Member, at: usize, voted: bool) {
        if !voted && self.newest(member).votes(at) && self.on(Rule::UnknownFromVoting) {
            member.unknown = self.wait_max();
        }
        if !self.slow_disks {
            self.sync(member);
        }
    }

    pub(super) fn sync(&self, member: &mut Member) {
        member.durable = member.log.len;
        if self.on(Rule::CommitWithEntries) {
            member.commit = member.commit.max(member.applied);
        }
    }

    /// One entry, or the commit index alone.
    pub(super) fn copy(&self, state: &State, from: usize, to: usize) -> Option<State> {
        let (leader, follower) = (&state.members[from], &state.members[to]);
        let reached = leader.log.membership(leader.log.len).votes(to) || (self.moves_members() && to == 3);
        if !leader.leads || from == to || leader.term < follower.term || !reached {
            return None;
        }
        let mut next = state.clone();
        let member = &mut next.members[to];
        if member.term < leader.term {
            (member.term, member.leads, member.barrier) = (leader.term, false, 0);
        }
        let common = leader.log.common(&member.log);
        let voted = self.newest(member).votes(to);
        let appended = leader.log.len > common;
        if appended {
            next.torn |= common < member.applied;
            member.log.truncate(common);
            member.durable = member.durable.min(common);
            (member.applied, member.commit) = (member.applied.min(common), member.commit.min(common));
            member.log.push(leader.log.entries[usize::from(common)]);
        }
        if self.tracks_applied() {
            let knows = state.elections > 0 || state.restarts > 0 || !self.moves_members();
            if knows {
                self.apply(member, leader.applied.min(leader.log.common(&member.log)));
            }
        }
        if appended {
            self.appended(member, to, voted);
        }
        (next != *state).then_some(next)
    }

    pub(super) fn apply(&self, member: &mut Member, upto: u8) {
        while member.applied < upto {
            let entry = member.log.entries[usize::from(member.applied)];
            member.applied += 1;
            match entry.kind() {
                Kind::Joint | Kind::Leave => {
                    (member.young, member.barrier) = (self.longest(member), 0);
                }
                Kind::Settle if member.leads && entry.term() == member.term && self.fencing(member).is_some() => {
                    let first = member.log.upto(member.applied - 1).iter().all(|it| it.term() != member.term);
                    if !first && member.barrier == 0 {
                        member.barrier = self.longest(member) + 1;
                    }
                }
                _ => {}
            }
        }
    }

    pub(super) fn commits(&self, state: &State, steps: &mut Vec<Step>) {
        for (leader, member) in state.members.iter().enumerate().filter(|(_, member)| member.leads) {
            let membership = member.log.membership(member.applied);
            for upto in member.applied + 1..=member.log.len {
                let has = |other: &Member| {
                    other.term == member.term && other.durable >= upto && other.log.common(&member.log) >= upto
                };
                let holders = (0..MEMBERS).filter(|at| has(&state.members[*at])).fold(0, |mask, at| mask | 1 << at);
                let own = member.log.entries[usize::from(upto) - 1].term() == member.term;
                if own && membership.is_quorum(holders) {
                    steps.push(Step::Commit { leader, upto });
                }
            }
        }
    }

    pub(super) fn commit(&self, state: &mut State, leader: usize, upto: u8) {
        let member = &mut state.members[leader];
        self.apply(member, upto);
        let common = state.decided.common(&member.log);
        state.torn |= common < upto.min(state.decided.len);
        if upto > state.decided.len {
            state.decided = member.log;
            state.decided.truncate(upto);
        }
    }

    pub(super) fn restart(&self, state: &mut State, at: usize) {
        let member = &mut state.members[at];
        member.log.truncate(member.durable);
        let commit = match (self.tracks_applied(), self.on(Rule::CaughtUpAfterRestart)) {
            (false, _) => member.applied,
            (true, true) => member.commit,
            // Its snapshot is older.
            (true, false) => 1,
        };
        (member.leads, member.barrier, member.applied) = (false, 0, commit.min(member.log.len));
        (member.noted, member.unknown) = (0, if self.on(Rule::UnknownFromStart) { self.wait_max() } else { 0 });
        member.young = if self.moves_members() { self.longest(member) } else { 0 };
        state.restarts -= 1;
    }
}

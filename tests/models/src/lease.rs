//! The quorum lease as a transition system: members with a durable log and a volatile memory of what they acknowledged,
//! one incarnation of one node, joint membership change, a change of terms. Time is counted in ticks of the members'
//! clocks; the node's clock may lose one tick in every W. Follows `replica/src/{leases,log,membership}.rs`,
//! `replica/src/leadership/fencing.rs` and `decide/src/{lease,terms}.rs`; votes and commits are taken by the membership
//! that is applied, as raft-rs does. Absent: delay of heartbeats on their way (it only shortens the lease).

use std::fmt;

use stateright::{Model, Property};

use crate::{RuleSet, Rules};

/// Ids 0..3 are the first voters; with a change of membership 3 takes the place of 2.
pub const MEMBERS: usize = 4;
const FIRST: u8 = 0b0111;
const LATER: u8 = 0b1011;

/// No acknowledgement.
const NONE: u8 = u8::MAX;
const LOG: usize = 9;

/// What the design asks for. Each can be left out, to see what it is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Rule {
    Refusal,
    RefusalBeforeAnswer,
    RefusalDurable,
    QuestionAfterCommit,
    AnswerNamesFencing,
    CaughtUpAfterRestart,
    UnknownFromStart,
    UnknownFromVoting,
    UnknownByLongestTerms,
    WaitCoversKill,
    WaitCoversDrift,
    CountedFromSend,
    Majority,
    OneMembership,
    LearnersDoNotCount,
    YoungMembershipWaits,
    ChangeAppliedFirst,
    CommitWithEntries,
    MembershipBeneathSnapshot,
    WhoeverLeadsFinishes,
    WhoeverLeadsLeavesJoint,
    TermsTightenedFirst,
}

impl Rules for Rule {
    const ALL: &'static [Rule] = &[
        Rule::Refusal,
        Rule::RefusalBeforeAnswer,
        Rule::RefusalDurable,
        Rule::QuestionAfterCommit,
        Rule::AnswerNamesFencing,
        Rule::CaughtUpAfterRestart,
        Rule::UnknownFromStart,
        Rule::UnknownFromVoting,
        Rule::UnknownByLongestTerms,
        Rule::WaitCoversKill,
        Rule::WaitCoversDrift,
        Rule::CountedFromSend,
        Rule::Majority,
        Rule::OneMembership,
        Rule::LearnersDoNotCount,
        Rule::YoungMembershipWaits,
        Rule::ChangeAppliedFirst,
        Rule::CommitWithEntries,
        Rule::MembershipBeneathSnapshot,
        Rule::WhoeverLeadsFinishes,
        Rule::WhoeverLeadsLeavesJoint,
        Rule::TermsTightenedFirst,
    ];

    fn bit(self) -> u32 {
        1 << self as u8
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    None,
    /// Member 3 takes the place of member 2, by a joint membership.
    Members,
    /// A longer L becomes legal beside the shorter one.
    LongerTerms,
    /// A shorter L becomes legal, and the longer one ceases to be when the node has the shorter in force.
    ShorterTerms,
}

/// What may happen, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    pub rules: RuleSet<Rule>,
    pub change: Change,
    pub elections: u8,
    pub restarts: u8,
    pub heartbeats: u8,
    /// L of the shorter terms, K, and what the node's clock may lose in every W, in ticks. The longer L is one more.
    pub length: u8,
    pub kill: u8,
    pub drift: u8,
    /// Entries are durable only after a step of their own.
    pub slow_disks: bool,
    /// Replies may be counted later than they were given.
    pub late_replies: bool,
    /// Checks that everything open ends once faults do.
    pub liveness: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Of a new leader, or the barrier of a receipt.
    Settle,
    Fencing,
    Fenced,
    Joint,
    Leave,
    /// The new terms are legal.
    Terms,
    /// Only the new terms are legal.
    TermsAlone,
}

const KINDS: [Kind; 7] =
    [Kind::Settle, Kind::Fencing, Kind::Fenced, Kind::Joint, Kind::Leave, Kind::Terms, Kind::TermsAlone];

/// Term and kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
struct Entry(u8);

impl Entry {
    fn new(term: u8, kind: Kind) -> Entry {
        Entry(term << 4 | kind as u8)
    }

    fn term(self) -> u8 {
        self.0 >> 4
    }

    fn kind(self) -> Kind {
        KINDS[usize::from(self.0 & 0xf)]
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
struct Log {
    entries: [Entry; LOG],
    len: u8,
}

/// A place in the log: its term and index, 0 for the beginning.
type Place = u8;

impl Log {
    fn get(&self) -> &[Entry] {
        &self.entries[..usize::from(self.len)]
    }

    fn upto(&self, len: u8) -> &[Entry] {
        &self.entries[..usize::from(len)]
    }

    fn push(&mut self, entry: Entry) {
        self.entries[usize::from(self.len)] = entry;
        self.len += 1;
    }

    fn truncate(&mut self, len: u8) {
        self.entries[usize::from(len)..].fill(Entry::default());
        self.len = self.len.min(len);
    }

    fn last_term(&self) -> u8 {
        self.get().last().map_or(0, |entry| entry.term())
    }

    fn place(&self, at: usize) -> Place {
        self.entries[at].term() << 4 | (at as u8 + 1)
    }

    fn find(&self, kind: Kind, upto: u8) -> Option<Place> {
        self.upto(upto).iter().rposition(|entry| entry.kind() == kind).map(|at| self.place(at))
    }

    fn has(&self, kind: Kind) -> bool {
        self.find(kind, self.len).is_some()
    }

    fn common(&self, other: &Log) -> u8 {
        self.get().iter().zip(other.get()).take_while(|(a, b)| a == b).count() as u8
    }

    /// By the newest entry about it among the first `upto`.
    fn membership(&self, upto: u8) -> Membership {
        let newest = self.upto(upto).iter().rposition(|entry| matches!(entry.kind(), Kind::Joint | Kind::Leave));
        match newest.map(|at| (self.entries[at].kind(), self.place(at))) {
            None => Membership { voters: FIRST, outgoing: 0, identity: 0 },
            Some((Kind::Joint, identity)) => Membership { voters: LATER, outgoing: FIRST, identity },
            Some((_, identity)) => Membership { voters: LATER, outgoing: 0, identity },
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Membership {
    voters: u8,
    outgoing: u8,
    identity: Place,
}

impl Membership {
    fn votes(self, member: usize) -> bool {
        (self.voters | self.outgoing) & 1 << member != 0
    }

    fn is_quorum(self, of: u8) -> bool {
        let majority = |voters: u8| (voters & of).count_ones() * 2 > voters.count_ones();
        majority(self.voters) && (self.outgoing == 0 || majority(self.outgoing))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Member {
    term: u8,
    leads: bool,
    log: Log,
    /// How much of the log, and which commit index, a restart leaves.
    durable: u8,
    commit: u8,
    applied: u8,
    /// Ticks until every lease is over that it remembers to have helped to grant, and those left of the longest W since
    /// it began to remember.
    noted: u8,
    unknown: u8,
    /// Ticks until the membership applied last is no longer young.
    young: u8,
    /// What a leader knows of it: the `Fencing` it was asked about, and the ticks left of its answer.
    told: Option<(Place, u8)>,
    /// As leader: ticks left since its barrier was applied, and one.
    barrier: u8,
    /// Its snapshot forgot which membership it was taken under.
    forgot: bool,
    /// Ticks of the node's clock since the newest heartbeat it acknowledged was sent, and for which membership.
    acknowledged: u8,
    identity: Place,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Node {
    /// Ticks of its clock until nothing of it can run any more.
    runs: u8,
    lease: Held,
    /// Its heartbeats name the new terms, and a lease rests on them.
    renamed: bool,
    earned: bool,
    /// Ticks until its clock may lose one again.
    steady: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Held {
    Never,
    Now,
    /// Latched: no heartbeat, no renewal.
    Over,
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub members: [Member; MEMBERS],
    node: Node,
    elections: u8,
    restarts: u8,
    heartbeats: u8,
    /// What is committed, as an outsider sees it.
    decided: Log,
    /// A committed entry was lost, or two differ at one place.
    torn: bool,
    /// An acknowledgement was given with `Fencing` in the log.
    acknowledged_after_fencing: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    Tick,
    SlowTick,
    Heartbeat(usize),
    Renew,
    NameNewTerms,
    Elect { leader: usize, votes: u8 },
    Copy { from: usize, to: usize },
    Sync(usize),
    Commit { leader: usize, upto: u8 },
    Propose(usize, Proposal),
    Compact(usize),
    Restart(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Proposal {
    Fencing,
    Barrier,
    Fenced,
    Joint,
    Leave,
    Terms,
    TermsAlone,
}

impl Lease {
    fn on(&self, rule: Rule) -> bool {
        self.rules.has(rule)
    }

    fn moves_members(&self) -> bool {
        self.change == Change::Members
    }

    /// How far followers have applied matters only where what is applied changes something.
    fn tracks_applied(&self) -> bool {
        self.change != Change::None
    }

    fn members(&self) -> usize {
        if self.moves_members() { MEMBERS } else { MEMBERS - 1 }
    }

    fn first_length(&self) -> u8 {
        self.length + u8::from(self.change == Change::ShorterTerms)
    }

    fn new_length(&self) -> u8 {
        self.length + u8::from(self.change == Change::LongerTerms)
    }

    fn named(&self, node: &Node) -> u8 {
        if node.renamed { self.new_length() } else { self.first_length() }
    }

    /// W of terms with this L.
    fn wait(&self, length: u8) -> u8 {
        let kill = if self.on(Rule::WaitCoversKill) { self.kill } else { 0 };
        let drift = if self.on(Rule::WaitCoversDrift) { self.drift } else { 0 };
        length + kill + drift
    }

    /// W of the longest terms there are.
    fn wait_max(&self) -> u8 {
        self.wait(self.first_length().max(self.new_length()))
    }

    /// W of the longest terms that are legal in the state of `member`.
    fn longest(&self, member: &Member) -> u8 {
        let knows = |kind| member.log.find(kind, member.applied).is_some();
        let (first, new) = (self.first_length(), self.new_length());
        let length = match (knows(Kind::Terms), knows(Kind::TermsAlone)) {
            (_, true) => new,
            (true, _) if self.on(Rule::UnknownByLongestTerms) => first.max(new),
            (true, _) => first.min(new),
            (false, _) => first,
        };
        self.wait(length)
    }

    /// What the member takes for the newest membership, in its log or beneath it.
    fn newest(&self, member: &Member) -> Membership {
        match member.forgot {
            true => Membership { voters: FIRST, outgoing: 0, identity: 0 },
            false => member.log.membership(member.log.len),
        }
    }

    fn settled(&self, member: &Member) -> bool {
        member.leads && member.log.upto(member.applied).last().is_some_and(|entry| entry.term() == member.term)
    }

    fn unapplied_change(&self, member: &Member) -> bool {
        member.log.membership(member.log.len) != member.log.membership(member.applied)
    }

    /// Whether the member's log, or the state beneath it, makes it refuse the incarnation.
    fn refuses(&self, member: &Member) -> bool {
        member.log.has(Kind::Fencing)
    }

    fn acknowledges(&self, state: &State, at: usize) -> bool {
        let member = &state.members[at];
        if self.on(Rule::Refusal) && self.refuses(member) {
            return false;
        }
        let votes = self.newest(member).votes(at) || !self.on(Rule::LearnersDoNotCount);
        let knows = |kind| member.log.find(kind, member.applied).is_some();
        let legal = match state.node.renamed {
            true => knows(Kind::Terms),
            false => !knows(Kind::TermsAlone),
        };
        votes && legal && state.heartbeats > 0 && state.node.lease != Held::Over
    }

    fn heartbeat(&self, state: &mut State, at: usize) {
        let wait = self.wait(self.named(&state.node));
        let identity = self.newest(&state.members[at]).identity;
        state.heartbeats = state.heartbeats.saturating_sub(u8::from(self.heartbeats < u8::MAX));
        let member = &mut state.members[at];
        state.acknowledged_after_fencing |= member.log.upto(member.durable).iter().any(|it| it.kind() == Kind::Fencing);
        member.noted = member.noted.max(wait);
        member.acknowledged = 0;
        member.identity = identity;
        if !self.late_replies {
            self.renew(state);
        }
    }

    /// The node counts the replies that are under way: hearing more of them only makes the lease longer.
    fn renew(&self, state: &mut State) {
        if let Some(age) = self.earned(state) {
            let runs = self.named(&state.node) + self.kill - age;
            if runs > state.node.runs {
                state.node = Node { runs, lease: Held::Now, earned: true, ..state.node };
            }
        }
    }

    /// How long ago, by the node's clock, the heartbeat was sent that its lease begins with.
    fn earned(&self, state: &State) -> Option<u8> {
        if state.node.lease == Held::Over {
            return None;
        }
        let length = self.named(&state.node);
        let living: Vec<(usize, &Member)> =
            state.members.iter().enumerate().filter(|(_, member)| member.acknowledged < length).collect();
        let memberships = living.iter().filter_map(|(_, member)| self.membership_called(state, member.identity));
        memberships
            .filter_map(|membership| {
                let counts = |at: usize, member: &Member| {
                    (membership.votes(at) || !self.on(Rule::LearnersDoNotCount))
                        && (member.identity == membership.identity || !self.on(Rule::OneMembership))
                };
                let counted = living.iter().filter(|(at, member)| counts(*at, member));
                let mut ages: Vec<(u8, usize)> = counted.map(|(at, member)| (member.acknowledged, *at)).collect();
                ages.sort_unstable();
                let mut heard = 0u8;
                let start = ages.into_iter().find_map(|(age, at)| {
                    heard |= 1 << at;
                    let enough = match (self.on(Rule::Majority), self.on(Rule::LearnersDoNotCount)) {
                        (false, _) => true,
                        (true, true) => membership.is_quorum(heard),
                        (true, false) => heard.count_ones() * 2 > membership.voters.count_ones(),
                    };
                    enough.then_some(age)
                })?;
                Some(if self.on(Rule::CountedFromSend) { start } else { 0 })
            })
            .min()
    }

    /// The membership an acknowledgement carries; it was in somebody's log once.
    fn membership_called(&self, state: &State, identity: Place) -> Option<Membership> {
        let logs = state.members.iter().map(|member| &member.log).chain([&state.decided]);
        let of = |log: &Log| (0..=log.len).map(|len| log.membership(len)).find(|it| it.identity == identity);
        logs.filter_map(of).next()
    }

    fn tick(&self, state: &mut State, slow: bool) {
        for member in &mut state.members {
            member.noted = member.noted.saturating_sub(1);
            member.unknown = member.unknown.saturating_sub(1);
            member.young = member.young.saturating_sub(1);
            member.told = member.told.map(|(place, left)| (place, left.saturating_sub(1)));
            member.barrier = if member.barrier > 1 { member.barrier - 1 } else { member.barrier };
            if !slow && member.acknowledged < NONE {
                member.acknowledged += 1;
            }
        }
        let node = &mut state.node;
        node.steady = if slow { self.length + self.kill + self.drift } else { node.steady.saturating_sub(1) };
        if !slow {
            node.runs = node.runs.saturating_sub(1);
            if node.lease == Held::Now && node.runs <= self.kill {
                node.lease = Held::Over;
            }
        }
        let length = self.named(&state.node);
        for member in &mut state.members {
            if member.acknowledged >= length || state.node.lease == Held::Over {
                (member.acknowledged, member.identity) = (NONE, 0);
            }
        }
    }

    fn up_to_date(candidate: &Log, voter: &Log) -> bool {
        (candidate.last_term(), candidate.len) >= (voter.last_term(), voter.len)
    }

    fn elections(&self, state: &State, steps: &mut Vec<Step>) {
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

    fn elect(&self, state: &mut State, leader: usize, votes: u8) {
        let term = 1 + state.members.iter().map(|member| member.term).max().unwrap_or(0);
        for (at, member) in state.members.iter_mut().enumerate() {
            if votes & 1 << at != 0 {
                (member.term, member.leads, member.barrier) = (term, at == leader, 0);
            }
        }
        self.append(state, leader, Kind::Settle);
    }

    fn append(&self, state: &mut State, at: usize, kind: Kind) {
        let before = self.newest(&state.members[at]).votes(at);
        let member = &mut state.members[at];
        let entry = Entry::new(member.term, kind);
        member.log.push(entry);
        self.appended(member, at, before);
    }

    fn appended(&self, member: &mut Member, at: usize, voted: bool) {
        if !voted && self.newest(member).votes(at) && self.on(Rule::UnknownFromVoting) {
            member.unknown = self.wait_max();
        }
        if !self.slow_disks {
            self.sync(member);
        }
    }

    fn sync(&self, member: &mut Member) {
        member.durable = member.log.len;
        if self.on(Rule::CommitWithEntries) {
            member.commit = member.commit.max(member.applied);
        }
    }

    /// One entry, or the commit index alone.
    fn copy(&self, state: &State, from: usize, to: usize) -> Option<State> {
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

    fn apply(&self, member: &mut Member, upto: u8) {
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

    fn commits(&self, state: &State, steps: &mut Vec<Step>) {
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

    fn commit(&self, state: &mut State, leader: usize, upto: u8) {
        let member = &mut state.members[leader];
        self.apply(member, upto);
        let common = state.decided.common(&member.log);
        state.torn |= common < upto.min(state.decided.len);
        if upto > state.decided.len {
            state.decided = member.log;
            state.decided.truncate(upto);
        }
    }

    /// The `Fencing` in the leader's state, or in its log where it does not wait for the commit.
    fn fencing(&self, leader: &Member) -> Option<Place> {
        let upto = if self.on(Rule::QuestionAfterCommit) { leader.applied } else { leader.log.len };
        leader.log.find(Kind::Fencing, upto)
    }

    fn proposals(&self, state: &State, leader: usize, steps: &mut Vec<Step>) {
        let member = &state.members[leader];
        if !self.settled(member) || usize::from(member.log.len) == LOG {
            return;
        }
        let membership = member.log.membership(member.log.len);
        let change_waits = self.on(Rule::ChangeAppliedFirst) && self.unapplied_change(member);
        let mut propose = |proposal| steps.push(Step::Propose(leader, proposal));
        if !member.log.has(Kind::Fencing) && !change_waits {
            propose(Proposal::Fencing);
        }
        if let Some(place) = self.fencing(member)
            && !member.log.has(Kind::Fenced)
            && !change_waits
            && (self.on(Rule::WhoeverLeadsFinishes) || place >> 4 == member.term)
        {
            let waits = (membership.outgoing != 0 || member.young > 0) && self.on(Rule::YoungMembershipWaits);
            let after = usize::from((place & 0xf).max(membership.identity & 0xf));
            let barrier = |entry: &Entry| entry.kind() == Kind::Settle && entry.term() == member.term;
            if waits && member.barrier == 0 && !member.log.get()[after..].iter().any(barrier) {
                propose(Proposal::Barrier);
            }
            if membership.is_quorum(self.over(state, place)) && (!waits || member.barrier == 1) {
                propose(Proposal::Fenced);
            }
        }
        match self.change {
            Change::Members => {
                let governs = member.log.membership(member.applied);
                if membership.identity == 0 {
                    propose(Proposal::Joint);
                } else if governs == membership
                    && governs.outgoing != 0
                    && (self.on(Rule::WhoeverLeadsLeavesJoint) || governs.identity >> 4 == member.term)
                {
                    propose(Proposal::Leave);
                }
            }
            Change::LongerTerms | Change::ShorterTerms => {
                let in_force = state.node.renamed && (state.node.earned || !self.on(Rule::TermsTightenedFirst));
                if !member.log.has(Kind::Terms) {
                    propose(Proposal::Terms);
                } else if self.change == Change::ShorterTerms && !member.log.has(Kind::TermsAlone) && in_force {
                    propose(Proposal::TermsAlone);
                }
            }
            Change::None => {}
        }
    }

    /// Voters that said, of this `Fencing`, that every lease they may have helped to grant is over by now.
    fn over(&self, state: &State, fencing: Place) -> u8 {
        let over = |member: &Member| {
            member
                .told
                .is_some_and(|(place, left)| left == 0 && (place == fencing || !self.on(Rule::AnswerNamesFencing)))
        };
        (0..MEMBERS).filter(|at| over(&state.members[*at])).fold(0, |mask, at| mask | 1 << at)
    }

    fn propose(&self, state: &mut State, leader: usize, proposal: Proposal) {
        let kind = match proposal {
            Proposal::Fencing => Kind::Fencing,
            Proposal::Barrier => Kind::Settle,
            Proposal::Fenced => Kind::Fenced,
            Proposal::Joint => Kind::Joint,
            Proposal::Leave => Kind::Leave,
            Proposal::Terms => Kind::Terms,
            Proposal::TermsAlone => Kind::TermsAlone,
        };
        self.append(state, leader, kind);
    }

    /// The voter answers the leader that asks about the `Fencing` it knows.
    fn answer(&self, state: &State, leader: usize, voter: usize) -> Option<(Place, u8)> {
        let (asks, member) = (&state.members[leader], &state.members[voter]);
        let change_waits = self.on(Rule::ChangeAppliedFirst) && self.unapplied_change(asks);
        let place = self.fencing(asks).filter(|_| self.settled(asks) && !change_waits)?;
        if asks.log.has(Kind::Fenced) || !asks.log.membership(asks.log.len).votes(voter) {
            return None;
        }
        if self.on(Rule::RefusalBeforeAnswer) {
            let durable = if self.on(Rule::RefusalDurable) { member.durable } else { member.log.len };
            if member.log.find(Kind::Fencing, durable) != Some(place) {
                return None;
            }
        }
        // Not knowing oneself as a voter is knowing nothing.
        let votes = self.newest(member).votes(voter) || !self.on(Rule::UnknownFromVoting);
        let unknown = if votes { member.unknown } else { self.wait_max() };
        Some((place, member.noted.max(unknown.saturating_sub(self.wait_max() - self.longest(member)))))
    }

    /// Whoever may ask does so at once, for an answer never stands in the way of anything.
    fn ask(&self, state: &mut State) {
        for leader in 0..self.members() {
            for voter in 0..self.members() {
                let Some((place, left)) = self.answer(state, leader, voter) else { continue };
                let told = match state.members[voter].told {
                    Some((of, before)) if of == place || !self.on(Rule::AnswerNamesFencing) => {
                        (place, before.min(left))
                    }
                    _ => (place, left),
                };
                state.members[voter].told = Some(told);
            }
        }
    }

    /// Forgets what can make no difference any more.
    fn simplify(&self, state: &mut State) {
        if state.restarts > 0 {
            return;
        }
        for member in &mut state.members {
            member.commit = 0;
            if state.elections == 0 && self.moves_members() && !member.leads {
                (member.applied, member.young) = (0, 0);
            }
        }
    }

    fn restart(&self, state: &mut State, at: usize) {
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

    fn name_new_terms(&self, state: &mut State) {
        let length = self.new_length();
        state.node.renamed = true;
        if self.on(Rule::TermsTightenedFirst) {
            state.node.runs = state.node.runs.min(length + self.kill);
            state.node.earned = state.node.lease == Held::Never;
        }
        for member in &mut state.members {
            (member.acknowledged, member.identity) = (NONE, 0);
        }
    }

    fn fenced(&self, state: &State) -> bool {
        state.decided.has(Kind::Fenced)
    }

    /// No lease is held and none can be earned any more.
    fn is_harmless(&self, state: &State) -> bool {
        let silent = state.members.iter().all(|member| member.acknowledged == NONE);
        state.node.runs == 0 && (state.node.lease == Held::Over || (silent && state.heartbeats == 0))
    }

    /// Once no member fails and all hear each other, does everything open end? A leader is there, all logs agree, an open
    /// `Fencing` has its receipt and no membership is joint.
    fn heals(&self, state: &State) -> bool {
        let calm = Lease { elections: u8::MAX, liveness: false, ..*self };
        let mut state = state.clone();
        for _ in 0..96 {
            let done = |member: &Member| {
                let open = member.log.has(Kind::Fencing) && !self.fenced(&state);
                calm.settled(member) && !open && member.log.membership(member.applied).outgoing == 0
            };
            let term = state.members.iter().map(|member| member.term).max();
            if state.members.iter().any(|member| Some(member.term) == term && done(member)) {
                return true;
            }
            let Some(next) = calm.calm_step(&state) else { return false };
            state = next;
        }
        false
    }

    /// What happens next where nothing fails: what is under way first, then what is owed, then time.
    fn calm_step(&self, state: &State) -> Option<State> {
        let term = state.members.iter().map(|member| member.term).max()?;
        let leader = state.members.iter().position(|member| member.leads && member.term == term);
        let mut steps = Vec::new();
        let Some(leader) = leader else {
            self.elections(state, &mut steps);
            return steps.into_iter().find_map(|step| self.next_state(state, step));
        };
        steps.extend((0..self.members()).map(Step::Sync));
        steps.extend((0..self.members()).map(|to| Step::Copy { from: leader, to }));
        let mut further = Vec::new();
        self.commits(state, &mut further);
        further.retain(|step| matches!(step, Step::Commit { leader: of, .. } if *of == leader));
        steps.append(&mut further);
        self.proposals(state, leader, &mut further);
        let owed = [Proposal::Leave, Proposal::Fenced, Proposal::Barrier];
        further.retain(|step| matches!(step, Step::Propose(_, proposal) if owed.contains(proposal)));
        steps.append(&mut further);
        steps.push(Step::Tick);
        steps.into_iter().find_map(|step| {
            let next = self.next_state(state, step)?;
            (step == Step::Tick || next != *state).then_some(next)
        })
    }
}

impl Model for Lease {
    type State = State;
    type Action = Step;

    /// Member 0 leads term 1 and everybody has its first entry; nothing was acknowledged yet.
    fn init_states(&self) -> Vec<State> {
        let mut log = Log::default();
        log.push(Entry::new(1, Kind::Settle));
        let member = |at: usize| {
            let outside = at >= self.members();
            let log = if outside { Log::default() } else { log };
            let len = log.len;
            Member {
                term: u8::from(!outside),
                leads: at == 0,
                log,
                durable: len,
                commit: len,
                applied: len,
                acknowledged: NONE,
                ..Member::default()
            }
        };
        vec![State {
            members: std::array::from_fn(member),
            node: Node { runs: 0, lease: Held::Never, renamed: false, earned: false, steady: 0 },
            elections: self.elections,
            restarts: self.restarts,
            heartbeats: self.heartbeats,
            decided: log,
            torn: false,
            acknowledged_after_fencing: false,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if !self.liveness && self.heartbeats > 0 && self.is_harmless(state) {
            return;
        }
        steps.push(Step::Tick);
        if self.drift > 0 && state.node.steady == 0 && state.node.runs > 0 {
            steps.push(Step::SlowTick);
        }
        let members = 0..self.members();
        steps.extend(members.clone().filter(|at| self.acknowledges(state, *at)).map(Step::Heartbeat));
        if self.late_replies && state.node.lease != Held::Over {
            steps.push(Step::Renew);
        }
        if self.fenced(state) {
            return;
        }
        if matches!(self.change, Change::LongerTerms | Change::ShorterTerms)
            && !state.node.renamed
            && state.decided.has(Kind::Terms)
        {
            steps.push(Step::NameNewTerms);
        }
        if state.elections > 0 {
            self.elections(state, steps);
        }
        for from in members.clone().filter(|at| state.members[*at].leads) {
            steps.extend(members.clone().map(|to| Step::Copy { from, to }));
            self.proposals(state, from, steps);
        }
        self.commits(state, steps);
        if self.slow_disks {
            steps.extend(members.clone().map(Step::Sync));
        }
        if !self.on(Rule::MembershipBeneathSnapshot) {
            steps.extend(members.clone().map(Step::Compact));
        }
        if state.restarts > 0 {
            steps.extend(members.map(Step::Restart));
        }
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        match step {
            Step::Tick => self.tick(&mut next, false),
            Step::SlowTick => self.tick(&mut next, true),
            Step::Heartbeat(at) => self.heartbeat(&mut next, at),
            Step::Renew => self.renew(&mut next),
            Step::NameNewTerms => self.name_new_terms(&mut next),
            Step::Elect { leader, votes } => {
                next.elections -= 1;
                self.elect(&mut next, leader, votes);
            }
            Step::Copy { from, to } => next = self.copy(state, from, to)?,
            Step::Sync(at) => self.sync(&mut next.members[at]),
            Step::Commit { leader, upto } => self.commit(&mut next, leader, upto),
            Step::Propose(leader, proposal) => self.propose(&mut next, leader, proposal),
            Step::Compact(at) => {
                let member = &mut next.members[at];
                member.forgot |= member.log.find(Kind::Leave, member.applied).is_some();
            }
            Step::Restart(at) => self.restart(&mut next, at),
        }
        self.ask(&mut next);
        self.simplify(&mut next);
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Lease>> {
        let mut properties = vec![
            Property::always("FenceAfterLease", |lease: &Lease, state: &State| {
                !lease.fenced(state) || (state.node.runs == 0 && lease.earned(state).is_none())
            }),
            Property::always("NoAckAfterFencing", |_, state: &State| !state.acknowledged_after_fencing),
            Property::always("AckDurable", |_, state: &State| !state.torn),
            Property::sometimes("a receipt is given", |lease: &Lease, state: &State| lease.fenced(state)),
        ];
        if self.heartbeats > 1 {
            properties.push(Property::sometimes("fencing is decided under a lease", |_, state: &State| {
                state.node.lease == Held::Now && state.decided.has(Kind::Fencing)
            }));
        }
        if self.liveness {
            properties.push(Property::always("NoWedge", |lease: &Lease, state: &State| lease.heals(state)));
        }
        if self.moves_members() && self.heartbeats > 1 {
            properties.push(Property::sometimes("a lease is earned from the later members", |lease, state: &State| {
                lease.earned(state).is_some() && state.decided.has(Kind::Leave)
            }));
        }
        properties
    }
}

/// Members that play the same part are interchangeable: the same state whatever their order.
pub fn alike(state: &State) -> State {
    let mut sorted = state.clone();
    sorted.members[..3].sort_unstable();
    sorted
}

/// The same where member 2 is the one that leaves.
pub fn alike_but_one(state: &State) -> State {
    let mut sorted = state.clone();
    sorted.members[..2].sort_unstable();
    sorted
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Step::Tick => write!(f, "a tick"),
            Step::SlowTick => write!(f, "a tick that the node's clock loses"),
            Step::Heartbeat(at) => write!(f, "{at} acknowledges a heartbeat"),
            Step::Renew => write!(f, "the node counts its replies"),
            Step::NameNewTerms => write!(f, "heartbeats name the new terms"),
            Step::Elect { leader, votes } => write!(f, "{leader} is elected by {votes:04b}"),
            Step::Copy { from, to } => write!(f, "{from} -> {to}: the next entry, or the commit index"),
            Step::Sync(at) => write!(f, "{at}: its log is durable"),
            Step::Commit { leader, upto } => write!(f, "{leader} commits and applies up to {upto}"),
            Step::Propose(leader, proposal) => write!(f, "{leader} proposes {proposal:?}"),
            Step::Compact(at) => write!(f, "{at} compacts its log"),
            Step::Restart(at) => write!(f, "{at} restarts"),
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {:?} runs {}", self.node.lease, self.node.runs)
    }
}

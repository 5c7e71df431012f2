//! The quorum lease as a transition system: members with a durable log and a volatile memory of what they acknowledged,
//! one incarnation of one node, joint membership change, a change of terms. Time is counted in ticks of the members'
//! clocks; the node's clock may lose one tick in every W. Follows `replica/src/{leases,log,membership}.rs`,
//! `replica/src/leadership/fencing.rs` and `decide/src/{lease,terms}.rs`; votes and commits are taken by the membership
//! that is applied, as raft-rs does. Absent: delay of heartbeats on their way (it only shortens the lease).

mod votes;
mod node;
mod fencing;
mod calm;

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

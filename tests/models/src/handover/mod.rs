//! A container and the two nodes it may run on, as a transition system: assignment, handover, fencing, registration, and the
//! agents that carry it out, with power cuts, agents that crash between any two steps, a cloned machine, words that are lost,
//! and one that is late and comes again and again. Follows `cluster/src/apply/{handover,reports,nodes,fencing}.rs`,
//! `replica/src/leadership/sessions.rs` and `decide/src/{standing,reconcile,desired,handover}.rs`. The log is one order of
//! commands; that an incarnation without a lease never holds one again is what the model of the lease shows.

mod leader;
mod words;
mod machine;
mod calm;

use std::fmt;

use stateright::{Model, Property};

use crate::{RuleSet, Rules};

/// The source at first, the target at first, and a clone of the source's machine.
const MACHINES: usize = 3;
const CLONE: usize = 2;
const NODES: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Rule {
    LatchedBeforeSaid,
    LatchKept,
    RegistrationNamesEnded,
    OtherBootWaits,
    EmptyIsSeen,
    PolicyOfEpoch,
    SetOfIncarnation,
    SetNotOlder,
    PreparedWithoutMount,
    LostTargetGoesBack,
    GoneBeforeSaid,
    ClosedKept,
    ClosedNeverStarts,
    NeverSeenIsClosed,
    EpochRises,
    ReceiptBeforeMove,
    ReportNamesEpoch,
    StartsUnderLease,
    KeptIsAdopted,
}

impl Rules for Rule {
    const ALL: &'static [Rule] = &[
        Rule::LatchedBeforeSaid,
        Rule::LatchKept,
        Rule::RegistrationNamesEnded,
        Rule::OtherBootWaits,
        Rule::EmptyIsSeen,
        Rule::PolicyOfEpoch,
        Rule::SetOfIncarnation,
        Rule::SetNotOlder,
        Rule::PreparedWithoutMount,
        Rule::LostTargetGoesBack,
        Rule::GoneBeforeSaid,
        Rule::ClosedKept,
        Rule::ClosedNeverStarts,
        Rule::NeverSeenIsClosed,
        Rule::EpochRises,
        Rule::ReceiptBeforeMove,
        Rule::ReportNamesEpoch,
        Rule::StartsUnderLease,
        Rule::KeptIsAdopted,
    ];

    fn bit(self) -> u32 {
        1 << self as u8
    }
}

/// What may happen, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Handover {
    pub rules: RuleSet<Rule>,
    /// The container's first epoch keeps running without a lease, and what the next epochs do may be changed once.
    pub keep: bool,
    /// A machine with a copy of the source's disk is switched on.
    pub clone: bool,
    /// The container runs on node 0 at first; otherwise it was never placed.
    pub placed: bool,
    pub moves: u8,
    /// Power cuts, crashes of agents, leases that end, containers that end: so many in all.
    pub faults: u8,
    pub incarnations: u8,
    pub epochs: u8,
    pub late_words: bool,
    /// Checks that everything open ends once faults do.
    pub liveness: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Order {
    Run,
    Prepare { target: u8, incarnation: u8, ready: bool },
    Handoff { target: u8, incarnation: u8 },
    Blocked,
    AwaitingReceipt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Assignment {
    node: u8,
    incarnation: u8,
    epoch: u8,
    keep: bool,
    order: Order,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Health {
    Up,
    Fencing,
    /// For `stop` containers only.
    FencedStop,
    FencedNode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Node {
    incarnation: u8,
    boot: u8,
    health: Health,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Wanted {
    /// No set was accepted since the agent began.
    Unknown,
    Nothing,
    Run {
        epoch: u8,
        keep: bool,
    },
    Stop {
        epoch: u8,
    },
    Prepare {
        epoch: u8,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Life {
    Current,
    Latched,
    /// Durable, with the guard's record.
    Ended,
    /// Over with its boot: nothing to show for it.
    Lost,
    /// Over from the first: the state says that the node is this one.
    Adopted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Runs,
    Stopping,
    /// No task, no mount.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Work {
    epoch: u8,
    incarnation: u8,
    keep: bool,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Machine {
    on: bool,
    boot: u8,
    // On its disk.
    incarnation: u8,
    life: Life,
    revision: u8,
    closed: u8,
    begun: u8,
    // In memory.
    lease: bool,
    wanted: Wanted,
    work: Option<Work>,
    mounted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Message {
    Set { node: u8, incarnation: u8, revision: u8, wanted: Wanted },
    Void { node: u8, incarnation: u8 },
    Registered { machine: u8, incarnation: u8, revision: u8 },
    Register { machine: u8, ends: u8, boot: u8, empty: bool },
    Ended { node: u8, incarnation: u8 },
    Closed { node: u8, incarnation: u8, epoch: u8 },
    Prepared { node: u8, incarnation: u8, epoch: u8 },
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub struct State {
    assignment: Option<Assignment>,
    epoch: u8,
    nodes: [Node; NODES],
    incarnations: u8,
    revision: u8,
    /// What the next epoch does without a quorum; `None` once it was changed.
    keep: bool,
    may_change: bool,
    machines: [Machine; MACHINES],
    /// A word under way for ever: it arrives at any time, as often as it likes.
    late: Option<Message>,
    moves: u8,
    faults: u8,
    /// The highest epoch that ever ran, and whether a lower one, or the same on another machine, ran after it.
    highest: u8,
    ran_backwards: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    Say(Word, Fate),
    /// The late word arrives.
    Late,
    // The leader.
    BeginHandover,
    BeginHandoff,
    Abort,
    Block,
    Assign(usize),
    Displace,
    BeginFencing(usize),
    LeaseOver(usize),
    ConfirmedOff(usize),
    ChangePolicy,
    // A machine.
    Earn(usize),
    LeaseEnds(usize),
    Finish(usize),
    Start(usize),
    BeginStop(usize),
    Gone(usize),
    Close(usize),
    Crash(usize),
    Exit(usize),
    PowerOff(usize),
    PowerOn(usize),
}

/// Who says what, from what it knows at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    Set(usize),
    Void(usize),
    Register(usize),
    Ended(usize),
    Closed(usize),
    Prepared(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    Arrives,
    /// It arrives, and the answer does not.
    Unanswered,
    Late,
}

fn node_of(machine: usize) -> usize {
    if machine == CLONE { 0 } else { machine }
}

impl Handover {
    fn on(&self, rule: Rule) -> bool {
        self.rules.has(rule)
    }
}

impl State {
    /// Only the order of revisions says anything: the lowest becomes 0, the next 1.
    fn rank_revisions(&mut self) {
        let mut revisions = [0u8; MACHINES + 2];
        revisions[0] = self.revision;
        for (place, machine) in revisions[2..].iter_mut().zip(&self.machines) {
            *place = machine.revision;
        }
        revisions[1] = match self.late {
            Some(Message::Set { revision, .. } | Message::Registered { revision, .. }) => revision,
            _ => self.revision,
        };
        let rank = |revision: u8| (0..revision).filter(|lower| revisions.contains(lower)).count() as u8;
        self.revision = rank(self.revision);
        for machine in &mut self.machines {
            machine.revision = rank(machine.revision);
        }
        if let Some(Message::Set { revision, .. } | Message::Registered { revision, .. }) = &mut self.late {
            *revision = rank(*revision);
        }
    }
}

impl Model for Handover {
    type State = State;
    type Action = Step;

    /// Where the container is placed, it runs on node 0 in epoch 1, and everybody knows.
    fn init_states(&self) -> Vec<State> {
        let keep = self.keep;
        let machine = |at: usize| Machine {
            on: at != CLONE || self.clone,
            boot: if at == CLONE { 9 } else { 1 },
            incarnation: 1 + node_of(at) as u8,
            life: if at == CLONE { Life::Lost } else { Life::Current },
            revision: 0,
            closed: u8::from(at == CLONE && self.placed),
            begun: u8::from(at != 1 && self.placed),
            lease: at != CLONE,
            wanted: match at {
                0 if self.placed => Wanted::Run { epoch: 1, keep },
                0 | 1 => Wanted::Nothing,
                _ => Wanted::Unknown,
            },
            work: (at == 0 && self.placed).then_some(Work { epoch: 1, incarnation: 1, keep, phase: Phase::Runs }),
            mounted: false,
        };
        let first = Assignment { node: 0, incarnation: 1, epoch: 1, keep, order: Order::Run };
        vec![State {
            assignment: self.placed.then_some(first),
            epoch: u8::from(self.placed),
            nodes: [1, 2].map(|incarnation| Node { incarnation, boot: 1, health: Health::Up }),
            incarnations: 2,
            revision: 0,
            keep,
            may_change: true,
            machines: std::array::from_fn(machine),
            late: None,
            moves: self.moves,
            faults: self.faults,
            highest: u8::from(self.placed),
            ran_backwards: false,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        self.leader_steps(state, steps);
        steps.extend(state.late.map(|_| Step::Late));
        for at in 0..MACHINES {
            self.local_steps(state, at, steps);
            let machine = &state.machines[at];
            if at != CLONE && !machine.on {
                steps.push(Step::PowerOn(at));
            }
            if state.faults > 0 && at != CLONE && machine.on {
                steps.extend([Step::PowerOff(at), Step::Crash(at)]);
                steps.extend(machine.lease.then_some(Step::LeaseEnds(at)));
                steps.extend(machine.work.is_some_and(|it| it.phase == Phase::Runs).then_some(Step::Exit(at)));
            }
        }
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        match step {
            Step::Say(word, fate) => {
                if !self.say(&mut next, word, fate) {
                    return None;
                }
            }
            Step::Late => {
                if !self.hear(&mut next, state.late?) {
                    return None;
                }
            }
            Step::Earn(at) => next.machines[at].lease = true,
            Step::LeaseEnds(at) => Handover::lease_ends(&mut next, at),
            Step::Finish(at) => {
                let machine = &mut next.machines[at];
                if machine.work.is_none_or(|work| work.keep && work.phase == Phase::Runs) {
                    machine.life = Life::Ended;
                }
            }
            Step::Start(at) => self.start(&mut next, at),
            Step::BeginStop(at) => {
                let machine = &mut next.machines[at];
                let work = machine.work.as_mut()?;
                let wanted = Wanted::Run { epoch: work.epoch, keep: work.keep };
                if Handover::serves(&state.machines[at])
                    && !matches!(machine.wanted, Wanted::Unknown)
                    && machine.wanted != wanted
                {
                    work.phase = Phase::Stopping;
                }
            }
            Step::Gone(at) => next.machines[at].work.as_mut()?.phase = Phase::Gone,
            Step::Close(at) => Handover::close(&mut next.machines[at]),
            Step::Crash(at) => self.crash(&mut next.machines[at]),
            Step::Exit(at) => next.machines[at].work.as_mut()?.phase = Phase::Gone,
            Step::PowerOff(at) => {
                let machine = &mut next.machines[at];
                (machine.on, machine.lease, machine.work, machine.mounted) = (false, false, None, false);
                machine.wanted = Wanted::Unknown;
            }
            Step::PowerOn(at) => Handover::power_on(&mut next.machines[at]),
            command => self.command(&mut next, command),
        }
        let fault = match step {
            Step::Crash(_) | Step::LeaseEnds(_) | Step::Exit(_) | Step::PowerOff(_) => true,
            Step::BeginFencing(at) => Handover::is_well(state, at),
            _ => false,
        };
        next.faults = next.faults.saturating_sub(u8::from(fault));
        next.rank_revisions();
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Handover>> {
        let mut properties = vec![
            Property::always("SingleRunner", |_, state: &State| {
                let runs = |it: &&Machine| it.work.is_some_and(|work| work.phase != Phase::Gone);
                state.machines.iter().filter(runs).count() <= 1
            }),
            Property::always("SingleMount", |_, state: &State| {
                let uses = |it: &&Machine| it.mounted || it.work.is_some_and(|work| work.phase != Phase::Gone);
                state.machines.iter().filter(uses).count() <= 1
            }),
            Property::always("EpochMonotone", |_, state: &State| !state.ran_backwards),
            Property::sometimes("it is handed over", |_, state: &State| {
                state.machines[1].work.is_some_and(|work| work.epoch == 2)
            }),
            Property::sometimes("a node comes back", |_, state: &State| state.machines[0].incarnation > 2),
        ];
        if self.liveness {
            properties.push(Property::always("NoWedge", |it: &Handover, state: &State| it.heals(state)));
        }
        properties
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Step::Say(word, Fate::Arrives) => write!(f, "{word:?} is said and heard"),
            Step::Say(word, fate) => write!(f, "{word:?} is said: {fate:?}"),
            Step::Late => f.write_str("the late word arrives"),
            Step::BeginHandover => f.write_str("Prepare"),
            Step::BeginHandoff => f.write_str("Handoff"),
            Step::Abort => f.write_str("abort"),
            Step::Block => f.write_str("Blocked"),
            Step::Assign(at) => write!(f, "assign to {at}"),
            Step::Displace => f.write_str("taken away without a receipt"),
            Step::BeginFencing(at) => write!(f, "Fencing of {at}"),
            Step::LeaseOver(at) => write!(f, "receipt for {at}: lease over"),
            Step::ConfirmedOff(at) => write!(f, "receipt for {at}: confirmed off"),
            Step::ChangePolicy => f.write_str("another policy"),
            Step::Earn(at) => write!(f, "{at} earns a lease"),
            Step::LeaseEnds(at) => write!(f, "{at}: its lease ends, the guard with it"),
            Step::Finish(at) => write!(f, "{at}: its end is durable"),
            Step::Start(at) => write!(f, "{at} starts"),
            Step::BeginStop(at) => write!(f, "{at} begins to stop"),
            Step::Gone(at) => write!(f, "{at}: it is gone"),
            Step::Close(at) => write!(f, "{at} closes"),
            Step::Crash(at) => write!(f, "{at}: its agent crashes"),
            Step::Exit(at) => write!(f, "{at}: it ends by itself"),
            Step::PowerOff(at) => write!(f, "{at} loses power"),
            Step::PowerOn(at) => write!(f, "{at} is powered on"),
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} {:?}", self.assignment, self.nodes, self.machines)
    }
}

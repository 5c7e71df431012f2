//! A container and the two nodes it may run on, as a transition system: assignment, handover, fencing, registration, and the
//! agents that carry it out, with power cuts, agents that crash between any two steps, a cloned machine, words that are lost,
//! and one that is late and comes again and again. Follows `cluster/src/apply/{handover,reports,nodes,fencing}.rs`,
//! `replica/src/leadership/sessions.rs` and `decide/src/{standing,reconcile,desired,handover}.rs`. The log is one order of
//! commands; that an incarnation without a lease never holds one again is what the model of the lease shows.

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

    fn serves(machine: &Machine) -> bool {
        machine.on && machine.life == Life::Current
    }

    fn current(state: &State, node: u8) -> Option<u8> {
        let node = &state.nodes[usize::from(node)];
        (node.health == Health::Up).then_some(node.incarnation)
    }

    /// The set that the leader's state makes for `node`.
    fn wanted(state: &State, node: usize) -> Wanted {
        let Node { incarnation, .. } = state.nodes[node];
        let Some(Assignment { node: owner, incarnation: of, epoch, keep, order }) = state.assignment else {
            return Wanted::Nothing;
        };
        if usize::from(owner) == node {
            return match order {
                _ if of != incarnation => Wanted::Nothing,
                Order::Run | Order::Prepare { .. } => Wanted::Run { epoch, keep },
                Order::Handoff { .. } | Order::Blocked => Wanted::Stop { epoch },
                Order::AwaitingReceipt => Wanted::Nothing,
            };
        }
        match order {
            Order::Prepare { target, incarnation: of, .. } | Order::Handoff { target, incarnation: of }
                if usize::from(target) == node && of == incarnation =>
            {
                Wanted::Prepare { epoch }
            }
            _ => Wanted::Nothing,
        }
    }

    /// The machine serves the incarnation that the state knows for its node, under a lease.
    fn is_well(state: &State, at: usize) -> bool {
        let machine = &state.machines[at];
        Handover::serves(machine) && machine.lease && machine.incarnation == state.nodes[at].incarnation
    }

    // ---- The leader's state ----

    fn assign(&self, state: &mut State, node: u8, incarnation: u8) {
        if self.on(Rule::EpochRises) || state.epoch == 0 {
            state.epoch += 1;
        }
        let (epoch, keep) = (state.epoch, state.keep);
        state.assignment = Some(Assignment { node, incarnation, epoch, keep, order: Order::Run });
    }

    /// What a receipt for the current incarnation of `node` frees.
    fn fence(&self, state: &mut State, node: usize, whole: bool) {
        let incarnation = state.nodes[node].incarnation;
        state.nodes[node].health = if whole { Health::FencedNode } else { Health::FencedStop };
        let keeps = |assignment: &Assignment| {
            if self.on(Rule::PolicyOfEpoch) { assignment.keep } else { state.keep }
        };
        match state.assignment {
            Some(owner) if usize::from(owner.node) == node && owner.incarnation == incarnation => {
                let kept = Assignment { order: Order::AwaitingReceipt, ..owner };
                state.assignment = (!whole && keeps(&owner)).then_some(kept);
            }
            Some(owner) => {
                if let Order::Prepare { target, incarnation: of, .. } = owner.order
                    && (usize::from(target), of) == (node, incarnation)
                    && self.on(Rule::LostTargetGoesBack)
                {
                    state.assignment = Some(Assignment { order: Order::Run, ..owner });
                }
            }
            None => {}
        }
    }

    fn register(&self, state: &mut State, machine: u8, ends: u8, boot: u8, empty: bool) -> bool {
        let at = node_of(usize::from(machine));
        let Node { incarnation: current, boot: before, health } = state.nodes[at];
        if (ends != current && self.on(Rule::RegistrationNamesEnded)) || state.incarnations == self.incarnations {
            return false;
        }
        let shown = empty && boot == before;
        match health {
            Health::Up | Health::Fencing if shown => self.fence(state, at, true),
            Health::Up | Health::Fencing if boot != before && !self.on(Rule::OtherBootWaits) => {
                self.fence(state, at, true);
            }
            Health::Up if boot != before => {
                state.nodes[at].health = Health::Fencing;
                return true;
            }
            Health::Up | Health::Fencing => return false,
            Health::FencedStop if shown => self.fence(state, at, true),
            Health::FencedStop if boot == before && self.on(Rule::KeptIsAdopted) => {
                if let Some(kept) = &mut state.assignment
                    && (usize::from(kept.node), kept.incarnation, kept.order) == (at, current, Order::AwaitingReceipt)
                {
                    (kept.incarnation, kept.order) = (state.incarnations + 1, Order::Run);
                }
            }
            Health::FencedStop | Health::FencedNode => {}
        }
        state.incarnations += 1;
        state.nodes[at] = Node { incarnation: state.incarnations, boot, health: Health::Up };
        true
    }

    fn closed(&self, state: &mut State, node: u8, incarnation: u8, epoch: u8) -> bool {
        let Some(assignment) = state.assignment else { return false };
        let named = assignment.epoch == epoch || !self.on(Rule::ReportNamesEpoch);
        if (assignment.node, assignment.incarnation) != (node, incarnation) || !named {
            return false;
        }
        state.assignment = None;
        if let Order::Handoff { target, incarnation } = assignment.order
            && Handover::current(state, target) == Some(incarnation)
            && state.epoch < self.epochs
        {
            self.assign(state, target, incarnation);
        }
        true
    }

    fn prepared(state: &mut State, node: u8, incarnation: u8, epoch: u8) -> bool {
        let Some(Assignment { epoch: of, order: Order::Prepare { target, incarnation: prepared, ready }, .. }) =
            &mut state.assignment
        else {
            return false;
        };
        (*of, *target, *prepared) == (epoch, node, incarnation) && !std::mem::replace(ready, true)
    }

    /// No machine holds a lease of the node's current incarnation, and what ends with a lease has ended. From the model of
    /// the lease: where this is so once fencing is decided, it stays so.
    fn lease_is_over(state: &State, node: usize) -> bool {
        let incarnation = state.nodes[node].incarnation;
        (0..MACHINES).filter(|at| node_of(*at) == node).all(|at| {
            let machine = &state.machines[at];
            let runs =
                machine.work.is_some_and(|it| !it.keep && it.phase != Phase::Gone && it.incarnation == incarnation);
            let leased = machine.incarnation == incarnation && machine.lease;
            !leased && !runs
        })
    }

    // ---- A machine ----

    fn latch(machine: &mut Machine) {
        machine.life = Life::Latched;
        (machine.wanted, machine.lease, machine.mounted) = (Wanted::Unknown, false, false);
    }

    fn hear(&self, state: &mut State, message: Message) -> bool {
        match message {
            Message::Set { node, incarnation, revision, wanted } => {
                let mut heard = false;
                for at in (0..MACHINES).filter(|at| node_of(*at) == usize::from(node)) {
                    let machine = &mut state.machines[at];
                    let current = machine.incarnation == incarnation || !self.on(Rule::SetOfIncarnation);
                    let newer = machine.revision <= revision || !self.on(Rule::SetNotOlder);
                    if Handover::serves(machine) && current && newer {
                        (machine.wanted, machine.revision) = (wanted, machine.revision.max(revision));
                        machine.mounted &= matches!(wanted, Wanted::Prepare { .. });
                        heard = true;
                    }
                }
                heard
            }
            Message::Void { node, incarnation } => {
                let machine = &mut state.machines[usize::from(node)];
                if !Handover::serves(machine) || machine.incarnation != incarnation {
                    return false;
                }
                Handover::latch(machine);
                if let Some(work) = machine.work.as_mut().filter(|work| work.phase == Phase::Runs) {
                    work.phase = Phase::Stopping;
                }
                true
            }
            Message::Registered { machine, incarnation, revision } => {
                let machine = &mut state.machines[usize::from(machine)];
                let asks = machine.on && matches!(machine.life, Life::Ended | Life::Lost | Life::Adopted);
                if !asks || incarnation <= machine.incarnation {
                    return false;
                }
                let wanted = Wanted::Unknown;
                *machine = Machine { incarnation, revision, life: Life::Current, wanted, lease: false, ..*machine };
                true
            }
            Message::Register { machine, ends, boot, empty } => {
                let changed = self.register(state, machine, ends, boot, empty);
                state.revision += u8::from(changed);
                changed
            }
            Message::Ended { node, incarnation } => {
                let Node { incarnation: current, health, .. } = state.nodes[usize::from(node)];
                if incarnation != current || !matches!(health, Health::Up | Health::Fencing) {
                    return false;
                }
                self.fence(state, usize::from(node), false);
                state.revision += 1;
                true
            }
            Message::Closed { node, incarnation, epoch } => {
                let current = Handover::current(state, node) == Some(incarnation);
                let changed = current && self.closed(state, node, incarnation, epoch);
                state.revision += u8::from(changed);
                changed
            }
            Message::Prepared { node, incarnation, epoch } => {
                let current = Handover::current(state, node) == Some(incarnation);
                let changed = current && Handover::prepared(state, node, incarnation, epoch);
                state.revision += u8::from(changed);
                changed
            }
        }
    }

    fn local_steps(&self, state: &State, at: usize, steps: &mut Vec<Step>) {
        let machine = &state.machines[at];
        let node = &state.nodes[node_of(at)];
        if !machine.on {
            return;
        }
        let known = (node.incarnation, node.boot, node.health) == (machine.incarnation, machine.boot, Health::Up);
        if machine.life == Life::Current && known && !machine.lease {
            steps.push(Step::Earn(at));
        }
        let say = |word, steps: &mut Vec<Step>| self.say_somehow(state, word, steps);
        if matches!(machine.life, Life::Ended | Life::Lost | Life::Adopted) {
            say(Word::Register(at), steps);
            steps.push(Step::Say(Word::Register(at), Fate::Unanswered));
        }
        match machine.life {
            Life::Latched => steps.push(Step::Finish(at)),
            Life::Ended => say(Word::Ended(at), steps),
            Life::Current if !self.on(Rule::LatchedBeforeSaid) => say(Word::Ended(at), steps),
            Life::Lost | Life::Adopted | Life::Current => {}
        }
        match machine.work {
            Some(Work { phase: Phase::Runs, .. }) => steps.push(Step::BeginStop(at)),
            Some(Work { phase: Phase::Stopping, .. }) => {
                steps.push(Step::Gone(at));
                if !self.on(Rule::GoneBeforeSaid) {
                    say(Word::Closed(at), steps);
                }
            }
            Some(Work { phase: Phase::Gone, .. }) => steps.push(Step::Close(at)),
            None => {
                steps.push(Step::Start(at));
                say(Word::Closed(at), steps);
            }
        }
        if let Wanted::Prepare { .. } = machine.wanted {
            say(Word::Prepared(at), steps);
        }
    }

    fn say_somehow(&self, state: &State, word: Word, steps: &mut Vec<Step>) {
        steps.push(Step::Say(word, Fate::Arrives));
        if state.late.is_none() && self.late_words {
            steps.push(Step::Say(word, Fate::Late));
        }
    }

    /// What is said, if there is something to say, with what its author does first.
    fn word(&self, state: &mut State, word: Word) -> Option<Message> {
        match word {
            Word::Set(at) => {
                let Node { incarnation, health: Health::Up, .. } = state.nodes[at] else { return None };
                let (wanted, revision) = (Handover::wanted(state, at), state.revision);
                Some(Message::Set { node: at as u8, incarnation, revision, wanted })
            }
            Word::Void(at) => {
                let Node { incarnation, health, .. } = state.nodes[at];
                (health != Health::Up).then_some(Message::Void { node: at as u8, incarnation })
            }
            Word::Register(at) => self.registration(state, at),
            Word::Ended(at) => {
                let machine = &state.machines[at];
                let (node, incarnation) = (node_of(at) as u8, machine.incarnation);
                machine.work.is_none_or(|work| work.keep).then_some(Message::Ended { node, incarnation })
            }
            Word::Closed(at) => self.closing(state, at),
            Word::Prepared(at) => {
                let machine = &mut state.machines[at];
                let Wanted::Prepare { epoch } = machine.wanted else { return None };
                machine.mounted |= machine.lease && !self.on(Rule::PreparedWithoutMount);
                let (node, incarnation) = (node_of(at) as u8, machine.incarnation);
                machine.lease.then_some(Message::Prepared { node, incarnation, epoch })
            }
        }
    }

    fn say(&self, state: &mut State, word: Word, fate: Fate) -> bool {
        let before = state.nodes;
        let Some(message) = self.word(state, word) else { return false };
        match (fate, message) {
            (Fate::Late, _) => state.late = Some(message),
            (_, Message::Register { machine, .. }) => {
                let changed = self.hear(state, message);
                let at = node_of(usize::from(machine));
                let Node { incarnation, health, .. } = state.nodes[at];
                let registered = changed && health == Health::Up && incarnation != before[at].incarnation;
                if fate == Fate::Arrives && registered {
                    self.hear(state, Message::Registered { machine, incarnation, revision: state.revision });
                } else if fate == Fate::Arrives && incarnation > state.machines[usize::from(machine)].incarnation {
                    // The state holds another incarnation than the one it would end: that one is to be ended first.
                    let machine = &mut state.machines[usize::from(machine)];
                    (machine.incarnation, machine.life) = (incarnation, Life::Adopted);
                }
            }
            _ => {
                self.hear(state, message);
            }
        }
        true
    }

    fn start(&self, state: &mut State, at: usize) {
        let machine = &mut state.machines[at];
        let Wanted::Run { epoch, keep } = machine.wanted else { return };
        let leased = machine.lease || !self.on(Rule::StartsUnderLease);
        let open = epoch > machine.closed || !self.on(Rule::ClosedNeverStarts);
        if !Handover::serves(machine) || !leased || !open {
            return;
        }
        machine.work = Some(Work { epoch, incarnation: machine.incarnation, keep, phase: Phase::Runs });
        machine.begun = machine.begun.max(epoch);
        state.ran_backwards |= epoch <= state.highest;
        state.highest = state.highest.max(epoch);
    }

    fn closing(&self, state: &mut State, at: usize) -> Option<Message> {
        let machine = &mut state.machines[at];
        if !Handover::serves(machine) {
            return None;
        }
        let (node, incarnation) = (node_of(at) as u8, machine.incarnation);
        let epoch = match (machine.wanted, machine.work) {
            (_, Some(work)) => work.epoch,
            (Wanted::Stop { epoch }, None) => {
                if self.on(Rule::NeverSeenIsClosed) {
                    machine.closed = machine.closed.max(epoch);
                }
                epoch
            }
            (Wanted::Run { epoch, .. }, None) if epoch <= machine.closed => epoch,
            _ => return None,
        };
        Some(Message::Closed { node, incarnation, epoch })
    }

    fn close(machine: &mut Machine) {
        if let Some(work) = machine.work.take() {
            machine.closed = machine.closed.max(work.epoch);
        }
    }

    /// The guard ends what ends with a lease.
    fn lease_ends(state: &mut State, at: usize) {
        let machine = &mut state.machines[at];
        Handover::latch(machine);
        if let Some(work) = machine.work.as_mut().filter(|work| !work.keep) {
            work.phase = Phase::Gone;
        }
    }

    fn registration(&self, state: &State, at: usize) -> Option<Message> {
        let machine = &state.machines[at];
        let gone = machine.work.is_none() || !self.on(Rule::EmptyIsSeen);
        let empty = machine.life != Life::Lost && gone;
        // What it does not keep has to be gone in any case.
        let may = machine.work.is_none_or(|work| work.keep) || !self.on(Rule::EmptyIsSeen);
        let register = Message::Register { machine: at as u8, ends: machine.incarnation, boot: machine.boot, empty };
        may.then_some(register)
    }

    fn crash(&self, machine: &mut Machine) {
        (machine.wanted, machine.mounted) = (Wanted::Unknown, false);
        if !self.on(Rule::ClosedKept) {
            machine.closed = 0;
        }
        if machine.life != Life::Current && !self.on(Rule::LatchKept) {
            machine.life = Life::Current;
        }
    }

    fn power_on(machine: &mut Machine) {
        machine.on = true;
        machine.boot += 1;
        machine.life = Life::Lost;
        machine.closed = machine.closed.max(machine.begun);
    }

    /// Once nothing fails and everything said arrives, does the container run where it is assigned? What was kept and is
    /// not there any more, be it for a power cut, waits for a person's word: another boot might be another machine.
    fn heals(&self, state: &State) -> bool {
        let calm = Handover { incarnations: u8::MAX, epochs: u8::MAX, liveness: false, ..*self };
        let mut state = state.clone();
        state.late = None;
        for _ in 0..120 {
            if let Some(Assignment { node, epoch, order, .. }) = state.assignment {
                let machine = &state.machines[usize::from(node)];
                let runs = |work: Work| work.epoch == epoch && work.phase == Phase::Runs;
                if (order == Order::Run && machine.work.is_some_and(runs))
                    || (order == Order::AwaitingReceipt && (!machine.on || machine.boot > 1))
                {
                    return true;
                }
            }
            let Some(next) = calm.calm_step(&state) else { return false };
            state = next;
        }
        false
    }

    fn calm_step(&self, state: &State) -> Option<State> {
        let mut steps = Vec::new();
        for at in 0..NODES {
            let mut local = Vec::new();
            self.local_steps(state, at, &mut local);
            let wanted = state.machines[at].wanted;
            local.retain(|step| *step != Step::BeginStop(at) || wanted != Wanted::Unknown);
            local.retain(|step| !matches!(step, Step::Say(_, Fate::Late | Fate::Unanswered)));
            steps.append(&mut local);
            steps.extend([Word::Set(at), Word::Void(at)].map(|word| Step::Say(word, Fate::Arrives)));
        }
        steps.push(Step::BeginHandoff);
        let lost = |target: u8, of: u8| Handover::current(state, target) != Some(of);
        match state.assignment.map(|assignment| assignment.order) {
            Some(Order::Prepare { target, incarnation, .. })
                if lost(target, incarnation) && self.on(Rule::LostTargetGoesBack) =>
            {
                steps.push(Step::Abort);
            }
            None => steps.extend((0..NODES).filter(|at| state.machines[*at].on).map(Step::Assign)),
            _ => {}
        }
        for at in 0..NODES {
            let machine = &state.machines[at];
            if !Handover::serves(machine) || machine.incarnation != state.nodes[at].incarnation {
                steps.push(Step::BeginFencing(at));
            }
            steps.push(Step::LeaseOver(at));
        }
        steps.into_iter().find_map(|step| self.next_state(state, step).filter(|next| next != state))
    }

    fn leader_steps(&self, state: &State, steps: &mut Vec<Step>) {
        for at in 0..NODES {
            self.say_somehow(state, Word::Set(at), steps);
            self.say_somehow(state, Word::Void(at), steps);
            steps.extend([Step::Assign(at), Step::LeaseOver(at), Step::ConfirmedOff(at)]);
            if state.faults > 0 || !Handover::is_well(state, at) {
                steps.push(Step::BeginFencing(at));
            }
        }
        steps.extend([Step::BeginHandoff, Step::Abort, Step::Block]);
        if state.moves > 0 {
            steps.push(Step::BeginHandover);
        }
        if self.keep && state.may_change {
            steps.push(Step::ChangePolicy);
        }
        if !self.on(Rule::ReceiptBeforeMove) {
            steps.push(Step::Displace);
        }
    }

    /// A command of the leader's; nothing changes where the state refuses it.
    fn command(&self, next: &mut State, step: Step) {
        let before = (next.assignment, next.nodes, next.keep);
        match (step, next.assignment) {
            (Step::BeginHandover, Some(Assignment { node, order: Order::Run, .. })) => {
                let target = 1 - node;
                if let Some(incarnation) = Handover::current(next, target) {
                    let order = Order::Prepare { target, incarnation, ready: false };
                    next.assignment = next.assignment.map(|assignment| Assignment { order, ..assignment });
                    next.moves -= 1;
                }
            }
            (
                Step::BeginHandoff,
                Some(Assignment { order: Order::Prepare { target, incarnation, ready: true }, .. }),
            ) if Handover::current(next, target) == Some(incarnation) => {
                let order = Order::Handoff { target, incarnation };
                next.assignment = next.assignment.map(|assignment| Assignment { order, ..assignment });
            }
            (Step::Abort, Some(assignment @ Assignment { order: Order::Prepare { .. }, .. })) => {
                next.assignment = Some(Assignment { order: Order::Run, ..assignment });
            }
            (Step::Block, Some(assignment @ Assignment { order: Order::Handoff { .. }, .. })) => {
                next.assignment = Some(Assignment { order: Order::Blocked, ..assignment });
            }
            (Step::Assign(at), None) if next.epoch < self.epochs => {
                if let Some(incarnation) = Handover::current(next, at as u8) {
                    self.assign(next, at as u8, incarnation);
                }
            }
            (Step::Displace, Some(_)) => next.assignment = None,
            (Step::ChangePolicy, _) => (next.keep, next.may_change) = (!next.keep, false),
            (Step::BeginFencing(at), _) if next.nodes[at].health == Health::Up => {
                next.nodes[at].health = Health::Fencing;
            }
            (Step::LeaseOver(at), _)
                if next.nodes[at].health == Health::Fencing && Handover::lease_is_over(next, at) =>
            {
                self.fence(next, at, false);
            }
            // A person or a power switch knows that the machine is off.
            (Step::ConfirmedOff(at), _) if matches!(next.nodes[at].health, Health::Fencing | Health::FencedStop) => {
                let off = (0..MACHINES).filter(|of| node_of(*of) == at).all(|of| !next.machines[of].on);
                if off {
                    self.fence(next, at, true);
                }
            }
            _ => {}
        }
        next.revision += u8::from(before != (next.assignment, next.nodes, next.keep));
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

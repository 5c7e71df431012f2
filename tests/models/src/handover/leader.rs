//! The leader's state and the commands that change it. In: commands. Out: assignments, receipts, registrations.
//! Follows `cluster/src/apply/{handover,reports,nodes,fencing,containers}.rs`.

use super::*;

impl Handover {
    pub(super) fn current(state: &State, node: u8) -> Option<u8> {
        let node = &state.nodes[usize::from(node)];
        (node.health == Health::Up).then_some(node.incarnation)
    }

    /// The set that the leader's state makes for `node`.
    pub(super) fn wanted(state: &State, node: usize) -> Wanted {
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
    pub(super) fn is_well(state: &State, at: usize) -> bool {
        let machine = &state.machines[at];
        Handover::serves(machine) && machine.lease && machine.incarnation == state.nodes[at].incarnation
    }

    pub(super) fn assign(&self, state: &mut State, node: u8, incarnation: u8) {
        if self.on(Rule::EpochRises) || state.epoch == 0 {
            state.epoch += 1;
        }
        let (epoch, keep) = (state.epoch, state.keep);
        state.assignment = Some(Assignment { node, incarnation, epoch, keep, order: Order::Run });
    }

    /// What a receipt for the current incarnation of `node` frees.
    pub(super) fn fence(&self, state: &mut State, node: usize, whole: bool) {
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

    pub(super) fn register(&self, state: &mut State, machine: u8, ends: u8, boot: u8, empty: bool) -> bool {
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

    pub(super) fn closed(&self, state: &mut State, node: u8, incarnation: u8, epoch: u8) -> bool {
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

    pub(super) fn prepared(state: &mut State, node: u8, incarnation: u8, epoch: u8) -> bool {
        let Some(Assignment { epoch: of, order: Order::Prepare { target, incarnation: prepared, ready }, .. }) =
            &mut state.assignment
        else {
            return false;
        };
        (*of, *target, *prepared) == (epoch, node, incarnation) && !std::mem::replace(ready, true)
    }

    /// No machine holds a lease of the node's current incarnation, and what ends with a lease has ended. From the model of
    /// the lease: where this is so once fencing is decided, it stays so.
    pub(super) fn lease_is_over(state: &State, node: usize) -> bool {
        let incarnation = state.nodes[node].incarnation;
        (0..MACHINES).filter(|at| node_of(*at) == node).all(|at| {
            let machine = &state.machines[at];
            let runs =
                machine.work.is_some_and(|it| !it.keep && it.phase != Phase::Gone && it.incarnation == incarnation);
            let leased = machine.incarnation == incarnation && machine.lease;
            !leased && !runs
        })
    }

    pub(super) fn leader_steps(&self, state: &State, steps: &mut Vec<Step>) {
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
    pub(super) fn command(&self, next: &mut State, step: Step) {
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

//! What a machine does by itself, step by step, and what happens to it. In: what it holds on disk and in memory. Out: the
//! next deeds. Follows `decide/src/{reconcile,standing}.rs` and the guard.

use super::*;

impl Handover {
    pub(super) fn serves(machine: &Machine) -> bool {
        machine.on && machine.life == Life::Current
    }

    pub(super) fn latch(machine: &mut Machine) {
        machine.life = Life::Latched;
        (machine.wanted, machine.lease, machine.mounted) = (Wanted::Unknown, false, false);
    }

    pub(super) fn local_steps(&self, state: &State, at: usize, steps: &mut Vec<Step>) {
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

    pub(super) fn start(&self, state: &mut State, at: usize) {
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

    pub(super) fn close(machine: &mut Machine) {
        if let Some(work) = machine.work.take() {
            machine.closed = machine.closed.max(work.epoch);
        }
    }

    /// The guard ends what ends with a lease.
    pub(super) fn lease_ends(state: &mut State, at: usize) {
        let machine = &mut state.machines[at];
        Handover::latch(machine);
        if let Some(work) = machine.work.as_mut().filter(|work| !work.keep) {
            work.phase = Phase::Gone;
        }
    }

    pub(super) fn crash(&self, machine: &mut Machine) {
        (machine.wanted, machine.mounted) = (Wanted::Unknown, false);
        if !self.on(Rule::ClosedKept) {
            machine.closed = 0;
        }
        if machine.life != Life::Current && !self.on(Rule::LatchKept) {
            machine.life = Life::Current;
        }
    }

    pub(super) fn power_on(machine: &mut Machine) {
        machine.on = true;
        machine.boot += 1;
        machine.life = Life::Lost;
        machine.closed = machine.closed.max(machine.begun);
    }
}

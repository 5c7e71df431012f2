//! Whether the container runs again once faults end: one fair run from a state on, without faults.
//! In: any reachable state. Out: whether it comes to rest.

use super::*;

impl Handover {
    /// Once nothing fails and everything said arrives, does the container run where it is assigned? What was kept and is
    /// not there any more, be it for a power cut, waits for a person's word: another boot might be another machine.
    pub(super) fn heals(&self, state: &State) -> bool {
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

    pub(super) fn calm_step(&self, state: &State) -> Option<State> {
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
}

//! Whether everything open ends once faults do: one fair run from a state on, without faults.
//! In: any reachable state. Out: whether it comes to rest.

use super::*;

impl Lease {
    /// Once no member fails and all hear each other, does everything open end? A leader is there, all logs agree, an open
    /// `Fencing` has its receipt and no membership is joint.
    pub(super) fn heals(&self, state: &State) -> bool {
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
    pub(super) fn calm_step(&self, state: &State) -> Option<State> {
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

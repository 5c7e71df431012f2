//! What should happen next, as commands, each tried on a scratch copy with the real `apply` before it is proposed.
//! In: the state, the leader's view, the time. Out: a plan with the revision it was made from.
//! Absent: no clock, no randomness; the same input gives the same plan everywhere. Nothing here changes the state.

mod rankings;
mod handover;
mod place;
mod shelter;
mod drain;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

pub use drain::drain_blockers;
pub use place::explain;

use crate::apply::apply;
use crate::command::{Command, Entry};
use crate::model::container::Container;
use crate::model::decision::{Decision, Trigger};
use crate::model::ids::{NodeId, Revision};
use crate::model::time::WallTime;
use crate::state::State;
use rankings::Rankings;

/// Commands in one plan; the rest is planned once these are applied. Bounds the work thrown away when the state has
/// moved on meanwhile.
pub const COMMANDS_MAX: usize = 20_000;

/// The leader's own view; no fact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Silent beyond the suspicion time: nothing new is placed there.
    pub suspects: BTreeSet<NodeId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The revision it was made from.
    pub based_on: Revision,
    /// In the order they are to be proposed.
    pub commands: Vec<Command>,
}

/// What the cluster needs next: handovers carried on, the waiting placed, what has lost its storage moved, draining nodes
/// emptied, in this order.
/// Empty when there is nothing to do; at most [`COMMANDS_MAX`] commands.
pub fn plan(state: &State, observed: &Observed, now: WallTime) -> Plan {
    if state.awaited_from_before().is_some() {
        return Plan { based_on: state.revision(), commands: Vec::new() };
    }
    let mut desk = Desk::over(state, observed, now);
    handover::carry_on(&mut desk);
    place::place_waiting(&mut desk);
    shelter::shelter_from_lost_storages(&mut desk);
    drain::empty_draining(&mut desk);
    Plan { based_on: state.revision(), commands: desk.commands }
}

/// The desk a plan is made on: a scratch copy that already shows what the plan so far does.
struct Desk<'a> {
    scratch: State,
    observed: &'a Observed,
    now: WallTime,
    rankings: Rankings,
    commands: Vec<Command>,
}

impl<'a> Desk<'a> {
    fn over(state: &State, observed: &'a Observed, now: WallTime) -> Desk<'a> {
        let mut scratch = state.clone();
        scratch.advance(state.revision(), now);
        let rankings = Rankings::over(state);
        Desk { scratch, observed, now, rankings, commands: Vec::new() }
    }

    fn decide(&mut self, container: &Container, trigger: impl FnOnce(&State, Option<NodeId>) -> Trigger) -> Decision {
        let scratch = &self.scratch;
        self.rankings.decide(scratch, container, |chosen| trigger(scratch, chosen), &self.observed.suspects)
    }

    fn is_full(&self) -> bool {
        self.commands.len() >= COMMANDS_MAX
    }

    /// Plans `command` if the state as planned so far takes it. `node` is the one whose room it changes.
    fn propose(&mut self, command: Command, node: Option<NodeId>) {
        let index = Revision(self.scratch.revision().0 + 1);
        let entry = Entry { at: self.now, request: None, command };
        if apply(&mut self.scratch, index, &entry).outcome.is_ok() {
            self.commands.push(entry.command);
            if let Some(node) = node {
                self.rankings.touch(&self.scratch, node);
            }
        }
    }
}

//! What should happen next, as commands, each tried on a scratch copy with the real `apply` before it is proposed.
//! In: the state, the leader's view, the time. Out: a plan with the revision it was made from.
//! Absent: no clock, no randomness; the same input gives the same plan everywhere. Nothing here changes the state.

use std::collections::BTreeSet;

use crate::command::Command;
use crate::model::ids::{NodeId, Revision};
use crate::model::time::WallTime;
use crate::state::State;

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

/// What the cluster needs next. Empty when there is nothing to do.
pub fn plan(state: &State, observed: &Observed, now: WallTime) -> Plan {
    let _ = (observed, now);
    Plan { based_on: state.revision(), commands: Vec::new() }
}

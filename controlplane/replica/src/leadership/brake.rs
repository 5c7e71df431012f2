//! Decides when so much is silent at once that the network is the likelier culprit.
//! In: silence, the brake in the state. Out: `TripBrake`, `ReleaseBrake`.
//! Leader-local: the times since the trip; a new leader begins them again, so the brake may last longer, never shorter.
//! Source: safety.md, "Quorum leases" 10 *(14)*.

use std::collections::BTreeSet;
use std::sync::Arc;

use cluster::command::Command;
use cluster::{Brake, FenceCause, Health, Moment, Node, NodeId};
use planted::planted;

use super::silence::Silence;
use super::{Desk, Pending};
use crate::proposals::Origin;

#[derive(Default)]
pub struct BrakeWatch {
    /// Since when this leadership watches without having slept.
    begun: Option<Moment>,
    tripped: Option<Moment>,
    newest_silence: Option<Moment>,
    silent: BTreeSet<NodeId>,
}

impl BrakeWatch {
    pub fn watch(&mut self, desk: &mut Desk<'_>, silence: &Silence, pending: &mut BTreeSet<Pending>) {
        let settings = desk.state.settings();
        let missed = settings.terms.heartbeat * 2;
        self.begun.get_or_insert(desk.now);
        let silent = silence.older_than(missed).map(|(node, ..)| node);
        let silent: BTreeSet<NodeId> = silent.chain(fenced_for_it(desk)).collect();
        if silent.difference(&self.silent).next().is_some() {
            self.newest_silence = Some(desk.now);
        }
        self.silent = silent;
        match desk.state.brake() {
            Brake::Off => {
                // Released, by time or by an operator: what is silent now was let pass, and does not trip it again.
                if self.tripped.take().is_some() {
                    self.newest_silence = None;
                }
                if self.trips(desk) && pending.insert(Pending::Brake) {
                    let command = Command::TripBrake { silent: self.silent.len() as u32, of: nodes(desk) };
                    desk.propose.push((Origin::Duty, Some(Pending::Brake), command));
                }
            }
            Brake::On { .. } => {
                let tripped = *self.tripped.get_or_insert(desk.now);
                let newest = self.newest_silence.unwrap_or(tripped).max(tripped);
                let over = desk.now.since(newest) >= settings.brake.quiet
                    || desk.now.since(tripped) >= settings.brake.longest
                    || !settings.brake.enabled;
                if over && pending.insert(Pending::Brake) {
                    desk.propose.push((Origin::Duty, Some(Pending::Brake), Command::ReleaseBrake));
                }
            }
        }
    }

    /// What this leader knew of others' silence is gone.
    pub fn stalled(&mut self) {
        self.begun = None;
    }

    /// Whether this leadership is old enough to have heard from the voters who is silent: one that acts on the first it
    /// hears of never sees how many there are.
    pub fn knows(&self, desk: &Desk<'_>) -> bool {
        self.begun.is_some_and(|begun| desk.now.since(begun) >= desk.state.settings().terms.heartbeat * 2)
    }

    /// Enough nodes have fallen silent together. Known silence that was already let pass does not trip it again.
    pub fn trips(&self, desk: &Desk<'_>) -> bool {
        let brake = desk.state.settings().brake;
        let recent = self.newest_silence.is_some_and(|newest| desk.now.since(newest) < brake.quiet);
        let silent = self.silent.len() as u64;
        // The nodes are counted last: most of the time nobody is silent, and they are many.
        brake.enabled
            && !planted!("brake-never-trips")
            && recent
            && silent >= u64::from(brake.nodes_min)
            && silent >= share(brake.percent, desk)
    }
}

fn share(percent: u32, desk: &Desk<'_>) -> u64 {
    (u64::from(nodes(desk)) * u64::from(percent)).div_ceil(100)
}

/// Nodes that are up, silent or not, and those that are just being fenced for their silence.
fn nodes(desk: &Desk<'_>) -> u32 {
    (desk.state.nodes().filter(|node| node.up().is_some()).count() + fenced_for_it(desk).count()) as u32
}

/// Nodes whose silence is being acted upon: they are silent all the same. Not in class F0: there a fencing is open until
/// somebody comes, and says nothing about what is happening now.
fn fenced_for_it(desk: &Desk<'_>) -> impl Iterator<Item = NodeId> {
    let silent = |node: &&Arc<Node>| matches!(node.health, Health::Fencing { cause: FenceCause::Silence, .. });
    desk.state.fencing().filter(silent).filter(|node| node.class().lease_proves_end()).map(|node| node.id)
}

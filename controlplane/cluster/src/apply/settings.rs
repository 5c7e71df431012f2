//! Settings and the brake.

use super::{Done, Outcome, Step, valid, wrong_state};
use crate::command::SettingsChange;
use crate::event::Event;
use crate::model::node::Health;
use crate::model::settings::Settings;
use crate::state::Brake;

/// Changes of terms under way at once; each lengthens every wait until all nodes have followed.
const FADING_MAX: usize = 4;

impl Step<'_> {
    pub(super) fn update_settings(&mut self, change: &SettingsChange) -> Outcome {
        let old = self.state.settings();
        let mut new = old.clone();
        change.settle(&mut new);
        valid::settings(&new)?;
        if new.terms_fading.len() > FADING_MAX {
            return Err(wrong_state("earlier changes of the lease terms are not yet in force on every node"));
        }
        let what = differences(old, &new);
        if what.is_empty() {
            return Ok(Done::Nothing);
        }
        self.state.set_settings(new);
        self.settle_terms();
        self.events.push(Event::SettingsChanged { what: what.join(", ").into() });
        Ok(Done::Nothing)
    }

    /// The terms before are no longer legal once every node that is not fenced has the new ones in force *(a3)*.
    pub(super) fn settle_terms(&mut self) {
        let settings = self.state.settings();
        if settings.terms_fading.is_empty() {
            return;
        }
        let follows = |node: &crate::model::node::Node| match node.health {
            Health::Joined | Health::Fenced { .. } => true,
            Health::Up { .. } | Health::Fencing { .. } => {
                node.facts.as_ref().is_some_and(|facts| facts.terms == settings.terms)
            }
        };
        if self.state.nodes().all(|node| follows(node)) {
            let settled = Settings { terms_fading: Vec::new(), ..settings.clone() };
            self.state.set_settings(settled);
        }
    }

    pub(super) fn trip_brake(&mut self, silent: u32, of: u32) -> Outcome {
        if !self.state.settings().brake.enabled {
            return Err(wrong_state("the brake is switched off in the settings"));
        }
        let since = match self.state.brake() {
            Brake::On { silent: before, .. } if silent <= before => {
                return Err(wrong_state("the brake is on already"));
            }
            Brake::On { since, .. } => since,
            Brake::Off => self.index,
        };
        self.state.set_brake(Brake::On { since, silent, of });
        self.events.push(Event::BrakeTripped { silent, of });
        Ok(Done::Nothing)
    }

    pub(super) fn release_brake(&mut self) -> Outcome {
        if self.state.brake() != Brake::Off {
            self.state.set_brake(Brake::Off);
            self.events.push(Event::BrakeReleased);
        }
        Ok(Done::Nothing)
    }
}

/// What an operator reads of a change.
fn differences(old: &Settings, new: &Settings) -> Vec<String> {
    let mut what = Vec::new();
    let mut note = |differs: bool, text: String| what.extend(differs.then_some(text));
    note(old.terms != new.terms, {
        let profile = crate::model::lease::Profile::of(new.terms).map_or("custom", |profile| profile.name());
        format!("lease terms {profile} (lease {}, wait {})", new.terms.lease, new.terms.wait())
    });
    note(old.brake != new.brake, {
        let brake = new.brake;
        let switch = if brake.enabled { "on" } else { "off" };
        format!("brake {switch} at {} nodes or {} %", brake.nodes_min, brake.percent)
    });
    note(old.boot_grace != new.boot_grace, format!("boot grace {}", new.boot_grace));
    note(old.handover_budget != new.handover_budget, format!("handover budget {}", new.handover_budget));
    note(old.handovers_per_node != new.handovers_per_node, format!("handovers per node {}", new.handovers_per_node));
    note(old.handovers != new.handovers, format!("handovers {}", new.handovers));
    note(old.rejoin_cordoned != new.rejoin_cordoned, format!("rejoin cordoned {}", new.rejoin_cordoned));
    what
}

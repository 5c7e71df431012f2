//! What an operator may set for the whole cluster, with its defaults. Source: semantics.md and safety.md.

use serde::{Deserialize, Serialize};

use super::lease::{LeaseTerms, Profile};
use super::time::Span;

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Settings {
    /// What agents are told to use.
    pub terms: LeaseTerms,
    /// Longer or shorter terms that some unfenced node may still use: legal in heartbeats, counted in every wait.
    /// Emptied when every node that is not fenced has acknowledged `terms` *(a3)*.
    pub terms_fading: Vec<LeaseTerms>,
    pub brake: BrakeSettings,
    /// After a start of the whole cluster nothing is fenced on time within this *(b13)*.
    pub boot_grace: Span,
    /// From `Handoff` until the source is blocked or fenced, on top of the container's own stop grace *(b14)*.
    pub handover_budget: Span,
    /// Handovers under way at once, per source node and in the whole cluster.
    pub handovers_per_node: u32,
    pub handovers: u32,
    /// A fenced node that returns is cordoned until an operator uncordons it.
    pub rejoin_cordoned: bool,
}

/// When so many nodes fall silent together that the network is the likelier culprit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BrakeSettings {
    pub enabled: bool,
    /// Trips at max(`nodes_min`, `percent` of the nodes).
    pub nodes_min: u32,
    pub percent: u32,
    /// Ends this long after the trip or the last new silent node …
    pub quiet: Span,
    /// … and at the latest this long after the trip.
    pub longest: Span,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            terms: Profile::Default.terms(),
            terms_fading: Vec::new(),
            brake: BrakeSettings {
                enabled: true,
                nodes_min: 3,
                percent: 30,
                quiet: Span::seconds(5 * 60),
                longest: Span::seconds(15 * 60),
            },
            boot_grace: Span::seconds(60),
            handover_budget: Span::seconds(5),
            handovers_per_node: 2,
            handovers: 8,
            rejoin_cordoned: false,
        }
    }
}

impl Settings {
    /// Whether a heartbeat may name these terms.
    pub fn legal(&self, terms: LeaseTerms) -> bool {
        self.terms == terms || self.terms_fading.contains(&terms)
    }

    /// The longest wait of all terms still legal: what the unknown is counted with *(18)*.
    pub fn longest_wait(&self) -> Span {
        self.terms_fading.iter().map(|terms| terms.wait()).fold(self.terms.wait(), Ord::max)
    }
}

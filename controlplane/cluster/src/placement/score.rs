//! How well a feasible node suits a container. Compared field by field; the order of the fields is the policy.
//! Source: lexicographic scoring as in Neon's storage controller; semantics.md 3.

use std::cmp::Reverse;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::ids::NodeId;
use crate::model::node::Role;

/// Smaller is better. Ties end at the smaller node id, so all members agree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Score {
    /// Not where its history asks for: one that ended by itself is started again in place, one whose node gave it up
    /// goes to another.
    pub astray: bool,
    /// Active before standby: a standby node is used only when no active one fits.
    pub role: Role,
    /// Index of the tier of preferred owners; a node in none comes after all tiers.
    pub preferred_tier: u32,
    /// Memory left after placement, in thousandths of the capacity; more is better.
    pub memory_headroom: Reverse<u32>,
    /// CPU left after placement, in thousandths of the capacity; more is better.
    pub cpu_headroom: Reverse<u32>,
    pub node: NodeId,
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}{}, tier {}, memory headroom {}.{} %, cpu headroom {}.{} %",
            if self.astray { "astray, " } else { "" },
            self.role,
            self.preferred_tier,
            self.memory_headroom.0 / 10,
            self.memory_headroom.0 % 10,
            self.cpu_headroom.0 / 10,
            self.cpu_headroom.0 % 10
        )
    }
}

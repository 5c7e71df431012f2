//! How well a feasible node suits a container. Compared field by field; the order of the fields is the policy.
//! Source: lexicographic scoring as in Neon's storage controller; semantics.md 3.

use std::cmp::Reverse;
use std::fmt;

use planted::planted;
use serde::{Deserialize, Serialize};

use super::rules::{CPU_OVERCOMMIT, Case};
use crate::model::container::{Container, Placement, Unplaced};
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

impl Score {
    /// How `case.node` would do with the container on it. Call only where it is feasible.
    pub(super) fn of(case: &Case) -> Score {
        let spec = &case.container.spec;
        let tier = spec.preferred_owners.iter().position(|tier| tier.contains(&case.node.id));
        let (capacity, used) = (case.node.capacity(), case.used_by_others.plus(spec.resources));
        let cpu_capacity = capacity.cpu_millis.saturating_mul(CPU_OVERCOMMIT);
        Score {
            astray: is_astray(case.container, case.node.id),
            role: if planted!("standby-counted-as-free") { Role::Active } else { case.node.role },
            preferred_tier: tier.unwrap_or(spec.preferred_owners.len()) as u32,
            memory_headroom: Reverse(headroom(used.memory_bytes, capacity.memory_bytes)),
            cpu_headroom: Reverse(headroom(used.cpu_millis, cpu_capacity)),
            node: case.node.id,
        }
    }
}

fn is_astray(container: &Container, node: NodeId) -> bool {
    match &container.placement {
        Placement::Unplaced { reason: Unplaced::Ended { on: home, .. } | Unplaced::Moving { from: home }, .. } => {
            node != *home
        }
        Placement::Unplaced { reason: Unplaced::Displaced { from }, .. } => node == *from,
        _ => false,
    }
}

/// What is left of `capacity`, in thousandths.
fn headroom(used: u64, capacity: u64) -> u32 {
    let left = capacity.saturating_sub(used);
    // Below 16 PiB, which is always, a division of 64 bits will do; one of 128 is ten times as slow.
    match left.checked_mul(1_000) {
        Some(thousandfold) => thousandfold.checked_div(capacity).unwrap_or(0) as u32,
        None => (u128::from(left) * 1_000 / u128::from(capacity)) as u32,
    }
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

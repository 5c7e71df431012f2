//! Where a container may go and where it goes best. One judge, used by the planner *and* by `apply`.
//! In: the state and a container. Out: `feasible` (one rejection or none) and candidates, best first.
//! Absent: no options and no weights; the order of `Score`'s fields is the policy.

pub mod score;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use score::Score;

use crate::model::ids::Name;
use crate::model::resources::Resources;

/// Why a node may not take a container. The first rule that says no is named; each has a stable reason code.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Rejection {
    /// Not up: never registered, fencing or fenced.
    NotUp,
    /// Cordoned, draining or in maintenance.
    NotSchedulable,
    /// The leader's own view: silent. Planner only; never in `apply`.
    Suspect,
    NotPossibleOwner,
    TemplateUnknown { template: Name },
    StorageUnknown { storage: Name },
    NoRuntime,
    CpuShort { missing_millis: u64 },
    MemoryShort { missing_bytes: u64 },
    /// Could not start it there lately.
    StartFailedHere { reason: Arc<str> },
}

impl Rejection {
    pub fn code(&self) -> &'static str {
        match self {
            Rejection::NotUp => "not-up",
            Rejection::NotSchedulable => "not-schedulable",
            Rejection::Suspect => "suspect",
            Rejection::NotPossibleOwner => "not-possible-owner",
            Rejection::TemplateUnknown { .. } => "template-unknown",
            Rejection::StorageUnknown { .. } => "storage-unknown",
            Rejection::NoRuntime => "no-runtime",
            Rejection::CpuShort { .. } => "cpu-short",
            Rejection::MemoryShort { .. } => "memory-short",
            Rejection::StartFailedHere { .. } => "start-failed-here",
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejection::NotUp => f.write_str("the node is not up"),
            Rejection::NotSchedulable => f.write_str("the node takes no new work"),
            Rejection::Suspect => f.write_str("the node is silent"),
            Rejection::NotPossibleOwner => f.write_str("not among the possible owners"),
            Rejection::TemplateUnknown { template } => write!(f, "template {template} is not registered"),
            Rejection::StorageUnknown { storage } => write!(f, "storage {storage} is not registered"),
            Rejection::NoRuntime => f.write_str("no runtime works there"),
            Rejection::CpuShort { missing_millis } => write!(f, "{missing_millis} mCPU short"),
            Rejection::MemoryShort { missing_bytes } => {
                let missing = Resources { cpu_millis: 0, memory_bytes: *missing_bytes };
                write!(f, "{} MiB memory short", missing.memory_bytes.div_ceil(1 << 20))
            }
            Rejection::StartFailedHere { reason } => write!(f, "could not start there: {reason}"),
        }
    }
}

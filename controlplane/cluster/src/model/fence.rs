//! Why fencing began and what proves that it is over.
//! A receipt is stored proof that nothing of one incarnation runs any more; without one, nothing moves.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ids::{BootId, Incarnation, MemberId, NodeId, Revision};
use super::time::Span;

/// How a node can be fenced, from the weakest to the strongest. The promise is stated per class (SAFETY.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FencingClass {
    /// Agent only: time proves nothing, exclusive containers are not failed over on time alone.
    F0,
    /// Guard, and workloads that end with it by the kernel's hand.
    F1,
    /// Storage-enforced fence.
    F2,
    /// Power or hypervisor fence with confirmed off.
    F3,
}

impl FencingClass {
    /// Whether the end of a lease, waited out, proves that `stop` containers of the node have ended.
    pub fn lease_proves_end(self) -> bool {
        self >= FencingClass::F1
    }
}

impl fmt::Display for FencingClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            FencingClass::F0 => "F0",
            FencingClass::F1 => "F1",
            FencingClass::F2 => "F2",
            FencingClass::F3 => "F3",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FenceCause {
    /// A majority of voters reported an age above the lease.
    Silence,
    /// An operator asked for it.
    Operator { reason: Arc<str> },
    /// The node came back with another boot id while its old incarnation was still current.
    RebootSeen { boot: BootId },
    /// A container could not be stopped within its handover budget.
    StopOverdue,
    /// A fact from outside, such as a power switch that reports off.
    OutsideFact { evidence: Arc<str> },
    /// The cluster was recovered to a new generation: nothing it granted before counts any more.
    Recovered { logs: LogsRead },
}

/// What a recovery rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogsRead {
    /// Of a majority of the newest membership, none of which starts again: everything that was ever committed is known,
    /// and no lease of the old generation begins any more.
    Majority,
    /// Of fewer: the others may have gone on without this one, and may go on still.
    Fewer,
}

/// What a receipt covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ReceiptScope {
    /// Containers whose epoch says `on_quorum_loss: stop`.
    Stop,
    /// Everything on the node.
    Node,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Proof {
    /// For one majority the latest possible lease, K and μ included, was over.
    LeaseOver {
        /// The majority that answered, ascending.
        voters: Arc<[MemberId]>,
        /// From the commit of `Fencing` to the receipt, by the leader's clock.
        waited: Span,
    },
    /// A fence method confirmed for exactly this incarnation and boot.
    Confirmed { method: Arc<str>, evidence: Arc<str> },
    /// An operator vouches that the machine is off.
    Operator { reason: Arc<str> },
    /// The node left gracefully: everything stopped, incarnation latched first.
    Left,
    /// The guard's record: it ended the incarnation.
    Guard,
    /// Same boot, registered again with proof that nothing of the old incarnation is left.
    Empty,
}

impl Proof {
    pub fn scope(&self) -> ReceiptScope {
        match self {
            Proof::LeaseOver { .. } | Proof::Guard => ReceiptScope::Stop,
            Proof::Confirmed { .. } | Proof::Operator { .. } | Proof::Left | Proof::Empty => ReceiptScope::Node,
        }
    }

    /// Whether this proof needs an open, committed `Fencing` beneath it. The others are terminal for the incarnation
    /// by the node's own hand: it latched before it spoke.
    pub fn needs_open_fencing(&self) -> bool {
        matches!(self, Proof::LeaseOver { .. } | Proof::Confirmed { .. } | Proof::Operator { .. })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Receipt {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub boot: BootId,
    pub proof: Proof,
    pub recorded: Revision,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Proof::LeaseOver { voters, waited } => {
                write!(f, "lease over at {} voters, waited {waited}", voters.len())
            }
            Proof::Confirmed { method, evidence } => write!(f, "{method} confirmed: {evidence}"),
            Proof::Operator { reason } => write!(f, "operator's word: {reason}"),
            Proof::Left => f.write_str("left gracefully"),
            Proof::Guard => f.write_str("ended by its guard"),
            Proof::Empty => f.write_str("same boot, shown empty"),
        }
    }
}

impl fmt::Display for FenceCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FenceCause::Silence => f.write_str("silent at a majority beyond its lease"),
            FenceCause::Operator { reason } => write!(f, "operator: {reason}"),
            FenceCause::RebootSeen { .. } => f.write_str("came back under another boot id"),
            FenceCause::StopOverdue => f.write_str("could not stop a container within its budget"),
            FenceCause::OutsideFact { evidence } => write!(f, "outside fact: {evidence}"),
            FenceCause::Recovered { logs: LogsRead::Majority } => {
                f.write_str("the cluster was recovered, from the logs of a majority")
            }
            FenceCause::Recovered { logs: LogsRead::Fewer } => {
                f.write_str("the cluster was recovered, from fewer logs than a majority")
            }
        }
    }
}

//! Why a container is where it is: enough to explain the choice without the state it was made from.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ids::{ContainerId, Name, NodeId, Revision};
use crate::names::{Ids, Names, Tell};
use crate::placement::{Rejection, Score};

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Decision {
    pub container: ContainerId,
    pub trigger: Trigger,
    /// `None`: nowhere to go.
    pub chosen: Option<NodeId>,
    /// The best candidates with their scores, best first, at most three; the first is `chosen`.
    pub candidates: Arc<[(NodeId, Score)]>,
    /// How many nodes could take it.
    pub feasible: u32,
    /// Per rejecting rule, how many nodes, with at most three examples.
    pub rejections: Arc<[RejectionCount]>,
    /// The revision it was made from.
    pub based_on: Revision,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RejectionCount {
    pub reason: Rejection,
    pub nodes: u32,
    pub examples: Arc<[NodeId]>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Trigger {
    Created,
    Started,
    /// The place it had was fenced.
    Failover {
        from: NodeId,
    },
    Restart,
    Moved {
        by_request: bool,
    },
    Drain {
        from: NodeId,
    },
    /// Room or a node turned up for one that had no place.
    Retry,
    /// The node it ran on has lost its storage.
    StorageLost {
        from: NodeId,
        storage: Name,
    },
}

impl Tell for Trigger {
    fn tell(&self, names: &impl Names, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trigger::Created => f.write_str("created"),
            Trigger::Started => f.write_str("started"),
            Trigger::Failover { from } => write!(f, "failover from {}", names.node_name(*from)),
            Trigger::Restart => f.write_str("restart"),
            Trigger::Moved { by_request: true } => f.write_str("moved on request"),
            Trigger::Moved { by_request: false } => f.write_str("moved"),
            Trigger::Drain { from } => write!(f, "drain of {}", names.node_name(*from)),
            Trigger::Retry => f.write_str("room turned up"),
            Trigger::StorageLost { from, storage } => {
                write!(f, "{} has lost storage {storage}", names.node_name(*from))
            }
        }
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tell(&Ids, f)
    }
}

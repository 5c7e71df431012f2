//! A system container: what is wanted (spec, desired), who may run it (placement), what was seen (status).

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ids::{ContainerId, Epoch, Incarnation, Name, NodeId, Revision};
use super::resources::Resources;
use super::time::{Span, WallTime};
use crate::names::{Ids, Names, Tell};

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Container {
    pub id: ContainerId,
    pub spec: Arc<ContainerSpec>,
    pub annotations: Arc<BTreeMap<String, String>>,
    pub desired: Desired,
    pub placement: Placement,
    /// The highest epoch ever given out for it. Only rises.
    pub epoch: Epoch,
    /// Where it was last placed on purpose; failover never changes it.
    pub home: Option<NodeId>,
    /// When it was started again after an end of its own, newest last, at most `spec.restart.max` of them.
    pub restarts: Arc<[WallTime]>,
    /// Where it could not be started lately, oldest first, one per node, at most [`StartFailure::KEPT`].
    pub start_failures: Arc<[StartFailure]>,
    /// How often the loss of a node moved it. Charged to no budget.
    pub displacements: u32,
    /// The revision of the decision that placed it last.
    pub decision: Option<Revision>,
    pub created: Revision,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Unique among the living.
    pub name: Name,
    pub template: Name,
    /// Holds the private area.
    pub storage: Name,
    /// Argument vector; empty = the template's init.
    pub command: Arc<[Box<str>]>,
    pub environment: Arc<BTreeMap<String, String>>,
    pub resources: Resources,
    pub class: Class,
    /// 0 to 1000, higher first; 0 is never started by failover.
    pub priority: u16,
    /// The only nodes that may run it; empty = every node.
    pub possible_owners: Arc<[NodeId]>,
    /// Tiers of nodes, best first; nodes of a tier are equal.
    pub preferred_owners: Arc<[Arc<[NodeId]>]>,
    pub restart: RestartPolicy,
    pub on_quorum_loss: OnQuorumLoss,
    /// From the stop signal to the kill.
    pub stop_grace: Span,
    /// Laid over the template, the lowest first; none twice.
    pub application_templates: Arc<[Name]>,
}

/// What a spec could hold from the beginning hashes as it did: state hashes of older snapshots stay true. Whatever was added
/// since counts where it is not what it was by default, under a number of its own, which is never used again.
impl Hash for ContainerSpec {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let ContainerSpec {
            name,
            template,
            storage,
            command,
            environment,
            resources,
            class,
            priority,
            possible_owners,
            preferred_owners,
            restart,
            on_quorum_loss,
            stop_grace,
            application_templates,
        } = self;
        (name, template, storage, command, environment, resources).hash(state);
        (class, priority, possible_owners, preferred_owners, restart, on_quorum_loss, stop_grace).hash(state);
        added(15, application_templates, state);
    }
}

/// A field that came later: nothing where it says nothing. `number` is the field's in the API.
fn added<T: Hash + Default + PartialEq, H: Hasher>(number: u8, value: &T, state: &mut H) {
    if *value != T::default() {
        (number, value).hash(state);
    }
}

/// How the failure plan counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Counted in the failure plan.
    #[default]
    Guaranteed,
    /// Restarted if there is room.
    BestEffort,
    /// Never restarted elsewhere.
    None,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnQuorumLoss {
    /// Ends with the lease. The promise holds by time (fencing class F1).
    #[default]
    Stop,
    /// Keeps running; only a stronger fence or an operator's word ever moves it.
    Keep,
}

/// What happens after a container ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RestartPolicy {
    pub condition: RestartCondition,
    /// At most this many restarts in `period`; 0 = never.
    pub max: u32,
    pub period: Span,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    #[default]
    Always,
    OnFailure,
    Never,
}

impl Default for RestartPolicy {
    fn default() -> RestartPolicy {
        RestartPolicy { condition: RestartCondition::Always, max: 3, period: Span::seconds(15 * 60) }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Desired {
    #[default]
    Running,
    Stopped,
    /// Stop, then forget. Its id is never used again.
    Deleted,
}

/// Who may run it. At most one node, ever.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Placement {
    /// Nobody may: the epoch before is closed or covered by a receipt.
    Unplaced { since: Revision, reason: Unplaced },
    /// `assignment.node` may, under that incarnation and epoch.
    Assigned(Assignment),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Assignment {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub epoch: Epoch,
    /// Belongs to the epoch: a change of the spec takes effect with the next one *(7, a4)*.
    pub on_quorum_loss: OnQuorumLoss,
    pub order: Order,
    pub since: Revision,
}

/// What the assigned node is told.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Order {
    Run,
    /// Stop, unmount, close the epoch, report.
    Stop {
        then: AfterStop,
    },
    /// Runs on while `target` gets ready to take it.
    Prepare {
        target: NodeId,
        target_incarnation: Incarnation,
        ready: bool,
        since: Revision,
    },
    /// Nobody runs it from here on; only forward.
    Handoff {
        target: NodeId,
        target_incarnation: Incarnation,
        since: Revision,
    },
    /// The handover budget is spent and the source could not be made to stop: a fence or an operator decides.
    Blocked {
        target: NodeId,
        since: Revision,
    },
    /// The node is fenced for `stop` containers only; this one may still run there *(keep)*.
    AwaitingReceipt {
        since: Revision,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AfterStop {
    /// Stay stopped, or be gone, as `desired` says.
    Rest,
    /// Start again under the next epoch.
    Restart,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Unplaced {
    /// Never placed yet.
    New,
    /// The place it had was fenced.
    Displaced { from: NodeId },
    /// Its node said it ended by itself.
    Ended { on: NodeId, exit: Exit },
    /// Its node could not start it.
    StartFailed { on: NodeId, reason: Arc<str> },
    /// Stopped on request.
    Stopped,
    /// Stopped to be started again or elsewhere.
    Moving { from: NodeId },
    /// Its restart budget is spent; `container start` gives it a new one.
    Held { reason: Arc<str> },
}

/// Keeps a container off a node where it could not be started, until it ran somewhere or a person starts it anew.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StartFailure {
    pub node: NodeId,
    pub at: WallTime,
    pub reason: Arc<str>,
}

impl StartFailure {
    /// So many nodes that could not start it are no accident any more: it is held.
    pub const KEPT: usize = 8;
    /// How long the node is left out; a broken node may be mended by then. Source: semantics.md 1.
    pub const COUNTS_FOR: Span = Span::seconds(60 * 60);

    pub fn counts(&self, now: WallTime) -> bool {
        now.0 < self.at.0.saturating_add(StartFailure::COUNTS_FOR.as_millis())
    }
}

/// How a container's first task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// Nobody saw the end.
    Unknown,
}

impl Exit {
    pub fn is_success(self) -> bool {
        self == Exit::Code(0)
    }
}

/// What a node last said of a container. Apart from the container itself: a report rewrites only this.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Status {
    pub node: NodeId,
    pub epoch: Epoch,
    pub observed: Observed,
    pub since: Revision,
}

/// Moves forward only, within one epoch: the order of the variants is the order of life.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Observed {
    Starting,
    Running,
    Stopping,
    /// The epoch is closed: no task left, unmounted, never started again under it.
    Closed {
        end: End,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum End {
    /// Stopped because it was told to.
    Stopped,
    /// Its first task ended by itself.
    Exited(Exit),
    /// It never ran.
    StartFailed { reason: Arc<str> },
    /// The node refused it: claim held by a higher epoch, unreadable claim, epoch already closed.
    Refused { reason: Arc<str> },
}

impl Container {
    /// Whether the planner looks for a place: wanted running, without one, not held, and not kept down by its own
    /// policy after the loss of its node (class `none` or priority 0, until a person starts it).
    pub fn wants_place(&self) -> bool {
        match &self.placement {
            _ if self.desired != Desired::Running => false,
            Placement::Assigned(_) | Placement::Unplaced { reason: Unplaced::Held { .. }, .. } => false,
            Placement::Unplaced { reason: Unplaced::Displaced { .. }, .. } => self.fails_over(),
            Placement::Unplaced { .. } => true,
        }
    }

    /// Whether the loss of its node starts it elsewhere.
    pub fn fails_over(&self) -> bool {
        self.spec.class != Class::None && self.spec.priority > 0
    }

    pub fn assignment(&self) -> Option<&Assignment> {
        self.placement.assignment()
    }
}

impl ContainerSpec {
    /// Every template it is made of, the lowest first.
    pub fn templates(&self) -> impl Iterator<Item = &Name> {
        std::iter::once(&self.template).chain(self.application_templates.iter())
    }
}

impl Placement {
    pub fn assignment(&self) -> Option<&Assignment> {
        match self {
            Placement::Assigned(assignment) => Some(assignment),
            Placement::Unplaced { .. } => None,
        }
    }
}

impl Assignment {
    /// The node that has room reserved for it besides `node`, during a handover.
    pub fn target(&self) -> Option<NodeId> {
        match self.order {
            Order::Prepare { target, .. } | Order::Handoff { target, .. } => Some(target),
            _ => None,
        }
    }

    pub fn is_handover(&self) -> bool {
        matches!(self.order, Order::Prepare { .. } | Order::Handoff { .. } | Order::Blocked { .. })
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
            Exit::Unknown => f.write_str("unknown end"),
        }
    }
}

impl Tell for Unplaced {
    fn tell(&self, names: &impl Names, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unplaced::New => f.write_str("new"),
            Unplaced::Displaced { from } => write!(f, "displaced from {}", names.node_name(*from)),
            Unplaced::Ended { on, exit } => write!(f, "ended on {}: {exit}", names.node_name(*on)),
            Unplaced::StartFailed { on, reason } => write!(f, "could not start on {}: {reason}", names.node_name(*on)),
            Unplaced::Stopped => f.write_str("stopped"),
            Unplaced::Moving { from } => write!(f, "moving from {}", names.node_name(*from)),
            Unplaced::Held { reason } => write!(f, "held: {reason}"),
        }
    }
}

impl fmt::Display for Unplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tell(&Ids, f)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Stopped => f.write_str("stopped"),
            End::Exited(exit) => write!(f, "{exit}"),
            End::StartFailed { reason } => write!(f, "start failed: {reason}"),
            End::Refused { reason } => write!(f, "refused: {reason}"),
        }
    }
}

//! Everything that may have happened, one line of text each. Events are what a watch delivers and what transcripts show.
//! In: from `apply` alone. Out: to watchers, in order, each with the revision of its entry.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::container::{Desired, End, OnQuorumLoss};
use crate::model::decision::Trigger;
use crate::model::fence::{FenceCause, FencingClass, Proof};
use crate::model::ids::{BootId, ContainerId, Epoch, Incarnation, MemberId, Name, NodeId};
use crate::model::node::Role;
use crate::names::{Ids, Names, Tell};

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Event {
    MemberAdded { member: MemberId, name: Name },
    MemberRemoved { member: MemberId, name: Name },
    MembershipChanged { voters: Arc<[MemberId]>, outgoing: Arc<[MemberId]>, learners: Arc<[MemberId]> },
    SettingsChanged { what: Arc<str> },
    BrakeTripped { silent: u32, of: u32 },
    BrakeReleased,

    NodeJoined { node: NodeId, name: Name, role: Role },
    NodeRegistered { node: NodeId, name: Name, incarnation: Incarnation, boot: BootId },
    NodeRoleChanged { node: NodeId, name: Name, role: Role },
    NodeIntentChanged { node: NodeId, name: Name, intent: Arc<str> },
    NodeDrained { node: NodeId, name: Name },
    NodeClassChanged { node: NodeId, name: Name, class: FencingClass, reason: Arc<str> },
    FencingBegun { node: NodeId, name: Name, incarnation: Incarnation, cause: FenceCause },
    FencingAwaitsOperator { node: NodeId, name: Name, incarnation: Incarnation, reason: Arc<str> },
    NodeFenced { node: NodeId, name: Name, incarnation: Incarnation, proof: Proof },
    NodeRemoved { node: NodeId, name: Name },
    StorageLost { node: NodeId, name: Name, storage: Name, fault: Arc<str> },
    StorageBack { node: NodeId, name: Name, storage: Name },

    ContainerCreated { container: ContainerId, name: Name },
    ContainerDesired { container: ContainerId, name: Name, desired: Desired },
    ContainerAnnotated { container: ContainerId, name: Name },
    ContainerPolicyChanged { container: ContainerId, name: Name, on_quorum_loss: OnQuorumLoss },
    ContainerAssigned { container: ContainerId, name: Name, node: NodeId, epoch: Epoch, trigger: Trigger },
    ContainerUnplaceable { container: ContainerId, name: Name, reason: Arc<str> },
    ContainerDisplaced { container: ContainerId, name: Name, from: NodeId, epoch: Epoch },
    ContainerAwaitsReceipt { container: ContainerId, name: Name, on: NodeId, epoch: Epoch },
    ContainerStarting { container: ContainerId, name: Name, node: NodeId, epoch: Epoch },
    ContainerRunning { container: ContainerId, name: Name, node: NodeId, epoch: Epoch },
    ContainerStopping { container: ContainerId, name: Name, node: NodeId, epoch: Epoch },
    ContainerClosed { container: ContainerId, name: Name, node: NodeId, epoch: Epoch, end: End },
    ContainerHeld { container: ContainerId, name: Name, reason: Arc<str> },
    ContainerDeleted { container: ContainerId, name: Name },

    HandoverBegun { container: ContainerId, name: Name, from: NodeId, to: NodeId, epoch: Epoch },
    HandoverReady { container: ContainerId, name: Name, to: NodeId, epoch: Epoch },
    HandoffBegun { container: ContainerId, name: Name, from: NodeId, epoch: Epoch },
    HandoverAborted { container: ContainerId, name: Name, epoch: Epoch, reason: Arc<str> },
    HandoverBlocked { container: ContainerId, name: Name, on: NodeId, epoch: Epoch },

    TemplateRegistered { name: Name, version: Arc<str> },
    TemplateRemoved { name: Name },
    StorageRegistered { name: Name },
    StorageRemoved { name: Name },
}

impl Event {
    /// The stable word for programs, in kebab case.
    pub fn kind(&self) -> &'static str {
        use Event::*;
        match self {
            MemberAdded { .. } => "member-added",
            MemberRemoved { .. } => "member-removed",
            MembershipChanged { .. } => "membership-changed",
            SettingsChanged { .. } => "settings-changed",
            BrakeTripped { .. } => "brake-tripped",
            BrakeReleased => "brake-released",
            NodeJoined { .. } => "node-joined",
            NodeRegistered { .. } => "node-registered",
            NodeRoleChanged { .. } => "node-role-changed",
            NodeIntentChanged { .. } => "node-intent-changed",
            NodeDrained { .. } => "node-drained",
            NodeClassChanged { .. } => "node-class-changed",
            FencingBegun { .. } => "fencing-begun",
            FencingAwaitsOperator { .. } => "fencing-awaits-operator",
            NodeFenced { .. } => "node-fenced",
            NodeRemoved { .. } => "node-removed",
            StorageLost { .. } => "storage-lost",
            StorageBack { .. } => "storage-back",
            ContainerCreated { .. } => "container-created",
            ContainerDesired { .. } => "container-desired",
            ContainerAnnotated { .. } => "container-annotated",
            ContainerPolicyChanged { .. } => "container-policy-changed",
            ContainerAssigned { .. } => "container-assigned",
            ContainerUnplaceable { .. } => "container-unplaceable",
            ContainerDisplaced { .. } => "container-displaced",
            ContainerAwaitsReceipt { .. } => "container-awaits-receipt",
            ContainerStarting { .. } => "container-starting",
            ContainerRunning { .. } => "container-running",
            ContainerStopping { .. } => "container-stopping",
            ContainerClosed { .. } => "container-closed",
            ContainerHeld { .. } => "container-held",
            ContainerDeleted { .. } => "container-deleted",
            HandoverBegun { .. } => "handover-begun",
            HandoverReady { .. } => "handover-ready",
            HandoffBegun { .. } => "handoff-begun",
            HandoverAborted { .. } => "handover-aborted",
            HandoverBlocked { .. } => "handover-blocked",
            TemplateRegistered { .. } => "template-registered",
            TemplateRemoved { .. } => "template-removed",
            StorageRegistered { .. } => "storage-registered",
            StorageRemoved { .. } => "storage-removed",
        }
    }

    pub fn node(&self) -> Option<NodeId> {
        use Event::*;
        match self {
            NodeJoined { node, .. }
            | NodeRegistered { node, .. }
            | NodeRoleChanged { node, .. }
            | NodeIntentChanged { node, .. }
            | NodeDrained { node, .. }
            | NodeClassChanged { node, .. }
            | FencingBegun { node, .. }
            | FencingAwaitsOperator { node, .. }
            | NodeFenced { node, .. }
            | NodeRemoved { node, .. }
            | StorageLost { node, .. }
            | StorageBack { node, .. }
            | ContainerAssigned { node, .. }
            | ContainerStarting { node, .. }
            | ContainerRunning { node, .. }
            | ContainerStopping { node, .. }
            | ContainerClosed { node, .. } => Some(*node),
            ContainerDisplaced { from, .. } | HandoverBegun { from, .. } | HandoffBegun { from, .. } => Some(*from),
            ContainerAwaitsReceipt { on, .. } | HandoverBlocked { on, .. } => Some(*on),
            HandoverReady { to, .. } => Some(*to),
            _ => None,
        }
    }

    pub fn container(&self) -> Option<ContainerId> {
        use Event::*;
        match self {
            ContainerCreated { container, .. }
            | ContainerDesired { container, .. }
            | ContainerAnnotated { container, .. }
            | ContainerPolicyChanged { container, .. }
            | ContainerAssigned { container, .. }
            | ContainerUnplaceable { container, .. }
            | ContainerDisplaced { container, .. }
            | ContainerAwaitsReceipt { container, .. }
            | ContainerStarting { container, .. }
            | ContainerRunning { container, .. }
            | ContainerStopping { container, .. }
            | ContainerClosed { container, .. }
            | ContainerHeld { container, .. }
            | ContainerDeleted { container, .. }
            | HandoverBegun { container, .. }
            | HandoverReady { container, .. }
            | HandoffBegun { container, .. }
            | HandoverAborted { container, .. }
            | HandoverBlocked { container, .. } => Some(*container),
            _ => None,
        }
    }
}

/// What an operator does who is waited for.
pub fn confirm_down(node: &Name) -> String {
    format!("once it is seen to be off: `quoratectl node confirm-down {node}`")
}

fn list(ids: &[MemberId], names: &impl Names) -> String {
    ids.iter().map(|id| names.member_name(*id)).collect::<Vec<_>>().join(" ")
}

impl Tell for Event {
    fn tell(&self, names: &impl Names, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Event::*;
        match self {
            MemberAdded { member, name } => write!(f, "member {name} ({member}) added"),
            MemberRemoved { member, name } => write!(f, "member {name} ({member}) removed"),
            MembershipChanged { voters, outgoing, learners } => {
                write!(f, "membership: voters {}", list(voters, names))?;
                if !outgoing.is_empty() {
                    write!(f, ", outgoing {}", list(outgoing, names))?;
                }
                if !learners.is_empty() {
                    write!(f, ", learners {}", list(learners, names))?;
                }
                Ok(())
            }
            SettingsChanged { what } => write!(f, "settings: {what}"),
            BrakeTripped { silent, of } => write!(f, "brake tripped: {silent} of {of} nodes silent together"),
            BrakeReleased => f.write_str("brake released"),
            NodeJoined { node, name, role } => write!(f, "{name} ({node}) joined as {role}"),
            NodeRegistered { name, incarnation, .. } => write!(f, "{name} registered as {incarnation}"),
            NodeRoleChanged { name, role, .. } => write!(f, "{name} is now {role}"),
            NodeIntentChanged { name, intent, .. } => write!(f, "{name} is now {intent}"),
            NodeDrained { name, .. } => write!(f, "{name} is drained"),
            FencingBegun { name, incarnation, cause, .. } => write!(f, "fencing {name} {incarnation}: {cause}"),
            NodeClassChanged { name, class, reason, .. } if class.lease_proves_end() => {
                write!(f, "{name} is fencing class {class}: {reason}")
            }
            NodeClassChanged { name, class, reason, .. } => {
                write!(f, "{name} is fencing class {class}: if it is lost, an operator must confirm that; {reason}")
            }
            FencingAwaitsOperator { name, incarnation, reason, .. } => {
                write!(f, "fencing {name} {incarnation} waits for an operator ({reason}); {}", confirm_down(name))
            }
            NodeFenced { name, incarnation, proof, .. } => write!(f, "{name} {incarnation} fenced: {proof}"),
            NodeRemoved { name, .. } => write!(f, "{name} removed"),
            StorageLost { name, storage, fault, .. } => {
                write!(f, "{name} has lost storage {storage}: {fault}; nothing that needs it can run there")
            }
            StorageBack { name, storage, .. } => write!(f, "{name} has storage {storage} again"),
            ContainerCreated { container, name } => write!(f, "{name} ({container}) created"),
            ContainerDesired { name, desired, .. } => write!(f, "{name} wanted {desired}"),
            ContainerAnnotated { name, .. } => write!(f, "{name} annotated"),
            ContainerPolicyChanged { name, on_quorum_loss, .. } => {
                let does = match on_quorum_loss {
                    OnQuorumLoss::Stop => "ends with its lease",
                    OnQuorumLoss::Keep => "keeps running without a lease",
                };
                write!(f, "{name} {does} from its next epoch on")
            }
            ContainerAssigned { name, node, epoch, trigger, .. } => {
                write!(f, "{name} {epoch} assigned to {}: {}", names.node_name(*node), trigger.told(names))
            }
            ContainerUnplaceable { name, reason, .. } => write!(f, "{name} has no place: {reason}"),
            ContainerDisplaced { name, from, epoch, .. } => {
                write!(f, "{name} {epoch} displaced from {}", names.node_name(*from))
            }
            ContainerAwaitsReceipt { name, on, epoch, .. } => {
                let on = names.node_name(*on);
                write!(f, "{name} {epoch} may still run on {on}: waiting for proof that the machine is off")
            }
            ContainerStarting { name, node, epoch, .. } => {
                write!(f, "{name} {epoch} starting on {}", names.node_name(*node))
            }
            ContainerRunning { name, node, epoch, .. } => {
                write!(f, "{name} {epoch} running on {}", names.node_name(*node))
            }
            ContainerStopping { name, node, epoch, .. } => {
                write!(f, "{name} {epoch} stopping on {}", names.node_name(*node))
            }
            ContainerClosed { name, node, epoch, end, .. } => {
                write!(f, "{name} {epoch} closed on {}: {end}", names.node_name(*node))
            }
            ContainerHeld { name, reason, .. } => write!(f, "{name} held: {reason}"),
            ContainerDeleted { name, container } => write!(f, "{name} ({container}) deleted"),
            HandoverBegun { name, from, to, epoch, .. } => {
                write!(f, "{name} {epoch} handover {} to {} begun", names.node_name(*from), names.node_name(*to))
            }
            HandoverReady { name, to, epoch, .. } => {
                write!(f, "{name} {epoch} handover: {} is ready", names.node_name(*to))
            }
            HandoffBegun { name, from, epoch, .. } => {
                write!(f, "{name} {epoch} handoff: {} stops it", names.node_name(*from))
            }
            HandoverAborted { name, epoch, reason, .. } => write!(f, "{name} {epoch} handover aborted: {reason}"),
            HandoverBlocked { name, on, epoch, .. } => {
                write!(f, "{name} {epoch} handover blocked: {} does not stop it", names.node_name(*on))
            }
            TemplateRegistered { name, version } if version.is_empty() => write!(f, "template {name} registered"),
            TemplateRegistered { name, version } => write!(f, "template {name} {version} registered"),
            TemplateRemoved { name } => write!(f, "template {name} removed"),
            StorageRegistered { name } => write!(f, "storage {name} registered"),
            StorageRemoved { name } => write!(f, "storage {name} removed"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tell(&Ids, f)
    }
}

impl fmt::Display for Desired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Desired::Running => "running",
            Desired::Stopped => "stopped",
            Desired::Deleted => "deleted",
        })
    }
}

//! Everything that may be asked of the state. Each is an order; `apply` carries it out whole or refuses it whole.
//! In: from clients, agents and the leader's own duties. Out: nothing, a command is data.
//! A new variant also needs an arm in `apply`, a message in proto/log and frozen bytes in tests/wire.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::container::{ContainerSpec, Desired, Observed, OnQuorumLoss};
use crate::model::decision::Decision;
use crate::model::fence::{FenceCause, FencingClass, Proof};
use crate::model::ids::{
    AgentRun, BootId, ContainerId, Epoch, Incarnation, MemberId, Name, NodeId, RequestId, SecretHash,
};
use crate::model::lease::LeaseTerms;
use crate::model::node::{NodeFacts, Role};
use crate::model::report::NodeReport;
use crate::model::settings::Settings;
use crate::model::storage::StorageKind;
use crate::model::template::{TemplateDefaults, TemplateKind};
use crate::model::time::WallTime;

/// One normal entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The proposing leader's wall clock; the state never lets it go back.
    pub at: WallTime,
    /// Remembered with its result, so that a repetition has no second effect.
    pub request: Option<RequestId>,
    pub command: Command,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A new leader's first entry; changes nothing.
    Settle,

    // Members. Who votes is changed by Raft's configuration entries, not here.
    AddMember {
        name: Name,
        peer_address: Arc<str>,
        api_address: Arc<str>,
        secret: SecretHash,
    },
    /// Forget a member that is no longer in the configuration. Its id stays burnt.
    RemoveMember {
        member: MemberId,
    },
    UpdateSettings {
        settings: Box<SettingsChange>,
    },
    TripBrake {
        silent: u32,
        of: u32,
    },
    ReleaseBrake,

    // Nodes.
    JoinNode {
        name: Name,
        role: Role,
        labels: BTreeMap<String, String>,
        failure_domain: Arc<str>,
        secret: SecretHash,
    },
    RegisterNode(Box<Registration>),
    SetNodeRole {
        node: NodeId,
        role: Role,
    },
    SetNodeIntent {
        node: NodeId,
        intent: IntentOrder,
    },
    /// The node has these terms in force, guard included.
    AcknowledgeTerms {
        node: NodeId,
        incarnation: Incarnation,
        terms: LeaseTerms,
    },
    /// What the node can be held to has changed since it registered.
    NoteNodeClass {
        node: NodeId,
        incarnation: Incarnation,
        class: FencingClass,
        reason: Arc<str>,
    },
    /// What the node finds of itself and its surroundings, in place of what it found before.
    ReportNode {
        node: NodeId,
        incarnation: Incarnation,
        report: Arc<NodeReport>,
    },
    BeginFencing {
        node: NodeId,
        incarnation: Incarnation,
        cause: FenceCause,
    },
    RecordFenced {
        node: NodeId,
        incarnation: Incarnation,
        proof: Proof,
    },
    RemoveNode {
        node: NodeId,
    },

    // Containers.
    CreateContainer {
        spec: Arc<ContainerSpec>,
        annotations: Arc<BTreeMap<String, String>>,
        desired: Desired,
    },
    SetDesired {
        container: ContainerId,
        desired: Desired,
    },
    RestartContainer {
        container: ContainerId,
    },
    /// To `target`, or to where the planner likes best other than here.
    MoveContainer {
        container: ContainerId,
        target: Option<NodeId>,
    },
    /// `None` removes the key.
    AnnotateContainer {
        container: ContainerId,
        changes: BTreeMap<String, Option<String>>,
    },
    /// From the next epoch on; the one that runs keeps what it was started under *(7, a4)*.
    SetOnQuorumLoss {
        container: ContainerId,
        on_quorum_loss: OnQuorumLoss,
    },
    Assign {
        container: ContainerId,
        after: Epoch,
        node: NodeId,
        incarnation: Incarnation,
        decision: Box<Decision>,
    },
    /// Its failure to find a place is a decision too; recorded once per reason.
    RecordUnplaceable {
        container: ContainerId,
        decision: Box<Decision>,
    },
    /// Give up on a restart: the budget is spent.
    HoldContainer {
        container: ContainerId,
        after: Epoch,
        reason: Arc<str>,
    },
    BeginHandover {
        container: ContainerId,
        epoch: Epoch,
        target: NodeId,
        decision: Box<Decision>,
    },
    /// From here on nobody runs it; only forward.
    BeginHandoff {
        container: ContainerId,
        epoch: Epoch,
    },
    AbortHandover {
        container: ContainerId,
        epoch: Epoch,
        reason: Arc<str>,
    },
    /// The budget after `Handoff` is spent and the source may not be fenced for it.
    BlockHandover {
        container: ContainerId,
        epoch: Epoch,
    },
    ReportStatus {
        node: NodeId,
        incarnation: Incarnation,
        reports: Vec<Report>,
    },

    // Registered objects.
    RegisterTemplate {
        name: Name,
        version: Arc<str>,
        digest: Arc<str>,
        kind: TemplateKind,
        path: Arc<str>,
        /// Of all its files' content; 0 where nobody counted them.
        bytes: u64,
        defaults: Arc<TemplateDefaults>,
    },
    RemoveTemplate {
        name: Name,
    },
    RegisterStorage {
        name: Name,
        kind: StorageKind,
    },
    RemoveStorage {
        name: Name,
    },
}

/// Names the incarnation it ends, so that a late duplicate changes nothing *(3)*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub node: NodeId,
    /// The incarnation this registration ends; 0 = this is the first.
    pub ends: Incarnation,
    pub boot: BootId,
    /// Same boot and nothing of the old incarnation is left, read under the agent's journal lock *(b10)*.
    pub empty: bool,
    pub facts: NodeFacts,
    /// Which run of the agent asks. Until it hears the answer it asks again, and is given the same one: an answer that
    /// was lost costs no incarnation.
    pub run: AgentRun,
}

/// Only what is `Some` changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettingsChange {
    pub terms: Option<LeaseTerms>,
    pub brake: Option<crate::model::settings::BrakeSettings>,
    pub boot_grace: Option<crate::model::time::Span>,
    pub handover_budget: Option<crate::model::time::Span>,
    pub handovers_per_node: Option<u32>,
    pub handovers: Option<u32>,
    pub rejoin_cordoned: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IntentOrder {
    Cordon,
    Uncordon,
    Drain,
    Maintenance,
    /// Back from drain or maintenance.
    Return,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub container: ContainerId,
    pub epoch: Epoch,
    pub what: Reported,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reported {
    Observed(Observed),
    /// As the target of a handover: room, template, storage are there; the private area is not mounted *(10)*.
    Prepared,
    /// As the target of a handover: it cannot take it.
    CannotPrepare {
        reason: Arc<str>,
    },
}

impl SettingsChange {
    pub fn settle(&self, settings: &mut Settings) {
        let SettingsChange {
            terms,
            brake,
            boot_grace,
            handover_budget,
            handovers_per_node,
            handovers,
            rejoin_cordoned,
        } = self;
        if let Some(terms) = terms
            && *terms != settings.terms
        {
            let fading = settings.terms;
            settings.terms_fading.retain(|legal| legal != terms && *legal != fading);
            settings.terms_fading.push(fading);
            settings.terms = *terms;
        }
        settings.brake = brake.unwrap_or(settings.brake);
        settings.boot_grace = boot_grace.unwrap_or(settings.boot_grace);
        settings.handover_budget = handover_budget.unwrap_or(settings.handover_budget);
        settings.handovers_per_node = handovers_per_node.unwrap_or(settings.handovers_per_node);
        settings.handovers = handovers.unwrap_or(settings.handovers);
        settings.rejoin_cordoned = rejoin_cordoned.unwrap_or(settings.rejoin_cordoned);
    }
}

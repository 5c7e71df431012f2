//! What a node and the members say to each other, as values: heartbeats with every voter, a session with the leader.
//! Spoken by `replica` and `decide`; `proto` carries it. Source: safety.md, "Quorum leases" and "Epochs".
//! Absent: no addresses and no secrets, who speaks is the connection's matter.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::command::{Registration, Report};
use crate::model::container::{Container, ContainerSpec, OnQuorumLoss};
use crate::model::fence::{FencingClass, Proof};
use crate::model::ids::{BootId, ContainerId, Epoch, Generation, Incarnation, MemberId, Name, NodeId, Revision};
use crate::model::lease::LeaseTerms;
use crate::model::report::NodeReport;
use crate::model::storage::Storage;
use crate::model::template::Template;
use crate::model::time::Moment;
use crate::state::State;

/// Sent to every voter each `terms.heartbeat`. Never enters the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Heartbeat {
    pub generation: Generation,
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub boot: BootId,
    pub terms: LeaseTerms,
    pub sequence: u64,
    /// By the agent's own lease clock; echoed, never interpreted by a member.
    pub sent_at: Moment,
}

/// A voter's answer: the echo and, unless it refuses, the membership the acknowledgement belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatReply {
    pub member: MemberId,
    pub echo: Heartbeat,
    pub answer: Answer,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Acknowledged(Arc<MembershipIdentity>),
    /// Only a missing acknowledgement; retried after 50 ms. The agent acts on the leader's applied state alone *(b11)*.
    Refused(Refusal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// This member does not know the incarnation as current.
    NotCurrent,
    UnknownTerms,
    /// A `Fencing` entry for the incarnation is in its durable log or the state beneath.
    Fencing,
    OtherGeneration,
    /// It does not vote in the newest membership it knows.
    NotVoter,
}

/// The newest membership known to the answering member's log or the state beneath it. Acknowledgements count together
/// only when theirs are identical *(1)*.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MembershipIdentity {
    pub term: u64,
    pub index: u64,
    /// Ascending.
    pub voters: Arc<[MemberId]>,
    /// The other majority while joint, else empty. Ascending.
    pub outgoing: Arc<[MemberId]>,
    /// Where each voter of either set is reached, by id.
    pub addresses: Arc<[(MemberId, Arc<str>)]>,
}

/// From an agent to the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToLeader {
    Register(Box<Registration>),
    /// Repeated until the desired set shows that they were taken.
    Report {
        incarnation: Incarnation,
        reports: Vec<Report>,
    },
    /// Terminal: the incarnation is latched and over, by a graceful leave or by the guard's record.
    Ended {
        incarnation: Incarnation,
        proof: Proof,
    },
    TermsInForce {
        incarnation: Incarnation,
        terms: LeaseTerms,
    },
    /// What the node can be held to while this incarnation serves is no longer what its registration said.
    ClassChanged {
        incarnation: Incarnation,
        class: FencingClass,
        reason: Arc<str>,
    },
    /// Which specs the agent holds and what it acted on last.
    Holding {
        incarnation: Incarnation,
        revision: Revision,
        missing: Vec<ContainerId>,
    },
    /// What the node finds of itself and of what it was told to watch, whole. Repeated ever more slowly.
    Finds {
        incarnation: Incarnation,
        report: Arc<NodeReport>,
    },
}

/// From the leader to an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToAgent {
    Registered {
        generation: Generation,
        incarnation: Incarnation,
        revision: Revision,
        terms: LeaseTerms,
    },
    /// Ask again after a heartbeat; `current` is what the state holds, for the next compare-and-set.
    NotRegistered {
        current: Incarnation,
        reason: Arc<str>,
    },
    Desired(Arc<DesiredSet>),
    /// The state knows this incarnation as over: end everything of it, then register again.
    Void {
        incarnation: Incarnation,
    },
}

/// Everything the node should have, complete but thin. Dropped by the agent unless generation and incarnation are its
/// own and the revision is not below the newest seen *(9)*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredSet {
    pub generation: Generation,
    pub incarnation: Incarnation,
    pub revision: Revision,
    /// The terms to come into force.
    pub terms: LeaseTerms,
    /// By container, ascending; complete.
    pub items: Vec<DesiredItem>,
    /// What `items` refer to, as far as the leader believes the agent has not got it.
    pub specs: Vec<(SpecDigest, Arc<WantedSpec>)>,
    pub watch: Arc<Watch>,
}

/// What every node is to look at and to report on, used there or not; complete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// By name, ascending.
    pub storages: Vec<Arc<Storage>>,
    /// Those that have files, to be looked for on every storage. By name, ascending.
    pub templates: Vec<WatchedTemplate>,
}

/// As much of a template as it takes to look for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedTemplate {
    pub name: Name,
    pub digest: Arc<str>,
    pub path: Arc<str>,
    pub registered: Revision,
}

impl Watch {
    pub fn of(state: &State) -> Watch {
        let templates = state.templates().filter(|template| !template.path.is_empty());
        let watched = |template: &Arc<Template>| WatchedTemplate {
            name: template.name.clone(),
            digest: Arc::clone(&template.digest),
            path: Arc::clone(&template.path),
            registered: template.registered,
        };
        Watch { storages: state.storages().cloned().collect(), templates: templates.map(watched).collect() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpecDigest(pub u128);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DesiredItem {
    pub container: ContainerId,
    pub epoch: Epoch,
    pub on_quorum_loss: OnQuorumLoss,
    pub wanted: Wanted,
    pub spec: SpecDigest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wanted {
    Run,
    /// Stop, unmount, close the epoch, report.
    Stop,
    /// Get room, template and storage ready for the epoch after; do not mount *(10)*.
    Prepare,
}

/// What it takes to start a container, looked up by the leader so that the agent needs no state of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedSpec {
    pub container: ContainerId,
    pub spec: Arc<ContainerSpec>,
    pub template: Arc<Template>,
    pub storage: Arc<Storage>,
    /// Laid over the template, the lowest first.
    pub applications: Arc<[Arc<Template>]>,
}

/// One without applications has the digest it always had.
impl Hash for WantedSpec {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let WantedSpec { container, spec, template, storage, applications } = self;
        (container, spec, template, storage).hash(state);
        if !applications.is_empty() {
            applications.hash(state);
        }
    }
}

impl WantedSpec {
    /// What a node needs to know to start `container`; `None` if a template or its storage is no longer registered.
    pub fn of(state: &State, container: &Container) -> Option<WantedSpec> {
        let spec = &container.spec;
        Some(WantedSpec {
            container: container.id,
            spec: spec.clone(),
            template: state.template(&spec.template)?.clone(),
            storage: state.storage(&spec.storage)?.clone(),
            applications: spec
                .application_templates
                .iter()
                .map(|name| state.template(name).cloned())
                .collect::<Option<_>>()?,
        })
    }

    /// Every template it is made of, the lowest first.
    pub fn layers(&self) -> impl DoubleEndedIterator<Item = &Arc<Template>> {
        std::iter::once(&self.template).chain(self.applications.iter())
    }
}

impl SpecDigest {
    pub fn of(spec: &WantedSpec) -> SpecDigest {
        SpecDigest(crate::digest::of(spec))
    }
}

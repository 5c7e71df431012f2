//! A Hardware Node as the cluster knows it.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use planted::planted;
use serde::{Deserialize, Serialize};

use super::fence::{FenceCause, FencingClass, LogsRead, Proof, Receipt};
use super::ids::{AgentRun, BootId, Incarnation, Name, NodeId, Revision, SecretHash};
use super::lease::LeaseTerms;
use super::resources::Resources;

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    pub name: Name,
    pub role: Role,
    pub intent: Intent,
    pub health: Health,
    /// Opens every stream of this node's agent.
    pub secret: SecretHash,
    pub labels: Arc<BTreeMap<String, String>>,
    /// Machines that fail together share one: a rack, a site. Empty = its own.
    pub failure_domain: Arc<str>,
    /// What the node said of itself when it last registered; `None` before that.
    pub facts: Option<Arc<NodeFacts>>,
    pub joined: Revision,
    /// Which registration the current incarnation comes from.
    pub registered_by: RegisteredBy,
}

/// What tells the same registration, asked for once more, from another one. `None` where the agent did not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisteredBy(pub Option<(AgentRun, Incarnation)>);

/// Nodes registered before this was noted keep the hash they had.
impl Hash for RegisteredBy {
    fn hash<H: Hasher>(&self, state: &mut H) {
        if let Some(by) = self.0 {
            by.hash(state);
        }
    }
}

impl RegisteredBy {
    pub fn new(run: AgentRun, ends: Incarnation) -> RegisteredBy {
        RegisteredBy((run != AgentRun(0)).then_some((run, ends)))
    }

    /// The same run of the agent, ending the same incarnation: it has not heard the answer.
    pub fn is(self, other: RegisteredBy) -> bool {
        self.0.is_some() && self == other
    }
}

/// Standby nodes take containers only when no active one fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    #[default]
    Active,
    Standby,
}

/// What the operator wants of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Intent {
    #[default]
    Schedulable,
    /// Keeps what it has, takes nothing new.
    Cordoned,
    /// Hands over everything it has.
    Draining { since: Revision },
    /// Drained; its absence alarms nobody.
    Maintenance { since: Revision },
}

/// Which incarnation of the node is current and whether it may still run anything.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Health {
    /// Has an id and a secret and never registered.
    Joined,
    /// Registered; leases may be granted to this incarnation.
    Up { incarnation: Incarnation, boot: BootId },
    /// No voter acknowledges this incarnation again; what it ran may still run.
    Fencing { incarnation: Incarnation, boot: BootId, begun: Revision, cause: FenceCause },
    /// Proven over, by the receipt.
    Fenced { receipt: Arc<Receipt> },
}

impl Health {
    /// The incarnation that is current or was last; `Incarnation(0)` before the first registration.
    pub fn incarnation(&self) -> Incarnation {
        match self {
            Health::Joined => Incarnation(0),
            Health::Up { incarnation, .. } | Health::Fencing { incarnation, .. } => *incarnation,
            Health::Fenced { receipt } => receipt.incarnation,
        }
    }

    pub fn boot(&self) -> Option<BootId> {
        match self {
            Health::Joined => None,
            Health::Up { boot, .. } | Health::Fencing { boot, .. } => Some(*boot),
            Health::Fenced { receipt } => Some(receipt.boot),
        }
    }
}

/// What a node says of itself at registration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodeFacts {
    pub class: FencingClass,
    /// Why the class is not higher.
    pub class_reason: Arc<str>,
    pub capacity: Resources,
    /// Runtimes that were proven by a throw-away bundle, best first.
    pub runtimes: Arc<[Arc<str>]>,
    /// Runtimes that were tried and why they do not work: "name: reason".
    pub runtimes_refused: Arc<[Arc<str>]>,
    pub version: Arc<str>,
    /// The terms this incarnation has in force, guard included.
    pub terms: LeaseTerms,
}

impl Node {
    pub fn accepts_new_work(&self) -> bool {
        matches!(self.health, Health::Up { .. }) && self.intent == Intent::Schedulable
    }

    /// The incarnation that may hold assignments now.
    pub fn up(&self) -> Option<Incarnation> {
        match self.health {
            Health::Up { incarnation, .. } => Some(incarnation),
            _ => None,
        }
    }

    pub fn class(&self) -> FencingClass {
        self.facts.as_ref().map_or(FencingClass::F0, |facts| facts.class)
    }

    /// Its fencing has begun, and no lease proves its end: somebody has to see that it is off.
    pub fn awaits_operator(&self) -> bool {
        matches!(self.health, Health::Fencing { .. }) && !self.lease_proves_end()
    }

    /// Whether waiting proves that its `stop` containers have ended. Where the logs of a majority were not read, the others
    /// may still grant leases *(8, a5)*.
    pub fn lease_proves_end(&self) -> bool {
        self.class().lease_proves_end() && !self.may_serve_elsewhere()
    }

    /// It may still serve an earlier generation, with whatever that gave it since: only its own registration, in the boot
    /// that is known, or an operator's word ends that. Nothing is placed anywhere meanwhile.
    pub fn may_serve_elsewhere(&self) -> bool {
        let recovered = FenceCause::Recovered { logs: LogsRead::Fewer };
        matches!(&self.health, Health::Fencing { cause, .. } if *cause == recovered)
            && !planted!("recovery-waits-without-a-majority")
    }

    /// Whether `proof` ends the incarnation that is being fenced.
    pub fn is_ended_by(&self, proof: &Proof) -> bool {
        match proof {
            Proof::LeaseOver { .. } => self.lease_proves_end(),
            Proof::Operator { .. } | Proof::Empty => true,
            // They speak of one incarnation, and the node may have got others since.
            Proof::Confirmed { .. } | Proof::Left | Proof::Guard => !self.may_serve_elsewhere(),
        }
    }

    pub fn capacity(&self) -> Resources {
        self.facts.as_ref().map_or(Resources::default(), |facts| facts.capacity)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Role::Active => "active",
            Role::Standby => "standby",
        })
    }
}

impl fmt::Display for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Intent::Schedulable => "schedulable",
            Intent::Cordoned => "cordoned",
            Intent::Draining { .. } => "draining",
            Intent::Maintenance { .. } => "maintenance",
        })
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Health::Joined => "joined",
            Health::Up { .. } => "up",
            Health::Fencing { .. } => "fencing",
            Health::Fenced { .. } => "fenced",
        })
    }
}

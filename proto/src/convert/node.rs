//! Nodes and members.

use std::sync::Arc;

use cluster::{
    AgentRun, BootId, Health, Incarnation, Intent, Member, MemberId, Membership, Node, NodeFacts, NodeId, RegisteredBy,
    Resources, Revision, Role, SecretHash,
};

use super::{
    ConvertError, NOTHING, Result, choice, maybe, name, part, required, same_variants, text, wide, wide_bytes,
};
use crate::wire::{self, health::Health as Shown, intent::Intent as Wanted};

same_variants! {
    Role = wire::NodeRole { Active, Standby }
}

impl From<&Resources> for wire::Resources {
    fn from(resources: &Resources) -> wire::Resources {
        let Resources { cpu_millis, memory_bytes } = *resources;
        wire::Resources { cpu_millis, memory_bytes }
    }
}

impl TryFrom<wire::Resources> for Resources {
    type Error = ConvertError;

    fn try_from(resources: wire::Resources) -> Result<Resources> {
        let wire::Resources { cpu_millis, memory_bytes } = resources;
        Ok(Resources { cpu_millis, memory_bytes })
    }
}

impl From<&Intent> for wire::Intent {
    fn from(intent: &Intent) -> wire::Intent {
        let intent = match intent {
            Intent::Schedulable => Wanted::Schedulable(NOTHING),
            Intent::Cordoned => Wanted::Cordoned(NOTHING),
            Intent::Draining { since } => Wanted::DrainingSince(since.0),
            Intent::Maintenance { since } => Wanted::MaintenanceSince(since.0),
        };
        wire::Intent { intent: Some(intent) }
    }
}

impl TryFrom<wire::Intent> for Intent {
    type Error = ConvertError;

    fn try_from(intent: wire::Intent) -> Result<Intent> {
        Ok(match required("intent", intent.intent)? {
            Wanted::Schedulable(_) => Intent::Schedulable,
            Wanted::Cordoned(_) => Intent::Cordoned,
            Wanted::DrainingSince(since) => Intent::Draining { since: Revision(since) },
            Wanted::MaintenanceSince(since) => Intent::Maintenance { since: Revision(since) },
        })
    }
}

impl From<&Health> for wire::Health {
    fn from(health: &Health) -> wire::Health {
        let health = match health {
            Health::Joined => Shown::Joined(NOTHING),
            Health::Up { incarnation, boot } => {
                Shown::Up(wire::health::Up { incarnation: incarnation.0, boot: wide_bytes(boot.0) })
            }
            Health::Fencing { incarnation, boot, begun, cause } => Shown::Fencing(wire::health::Fencing {
                incarnation: incarnation.0,
                boot: wide_bytes(boot.0),
                begun: begun.0,
                cause: Some(cause.into()),
            }),
            Health::Fenced { receipt } => Shown::Fenced((&**receipt).into()),
        };
        wire::Health { health: Some(health) }
    }
}

impl TryFrom<wire::Health> for Health {
    type Error = ConvertError;

    fn try_from(health: wire::Health) -> Result<Health> {
        Ok(match required("health", health.health)? {
            Shown::Joined(_) => Health::Joined,
            Shown::Up(up) => {
                Health::Up { incarnation: Incarnation(up.incarnation), boot: BootId(wide("up.boot", &up.boot)?) }
            }
            Shown::Fencing(fencing) => Health::Fencing {
                incarnation: Incarnation(fencing.incarnation),
                boot: BootId(wide("fencing.boot", &fencing.boot)?),
                begun: Revision(fencing.begun),
                cause: part("fencing.cause", fencing.cause)?,
            },
            Shown::Fenced(receipt) => Health::Fenced { receipt: Arc::new(part("fenced", Some(receipt))?) },
        })
    }
}

impl From<&NodeFacts> for wire::NodeFacts {
    fn from(facts: &NodeFacts) -> wire::NodeFacts {
        let NodeFacts { class, class_reason, capacity, runtimes, runtimes_refused, version, terms } = facts;
        wire::NodeFacts {
            class: wire::FencingClass::from(*class).into(),
            class_reason: text(class_reason),
            capacity: Some(capacity.into()),
            runtimes: runtimes.iter().map(text).collect(),
            runtimes_refused: runtimes_refused.iter().map(text).collect(),
            version: text(version),
            terms: Some(terms.into()),
        }
    }
}

impl TryFrom<wire::NodeFacts> for NodeFacts {
    type Error = ConvertError;

    fn try_from(facts: wire::NodeFacts) -> Result<NodeFacts> {
        Ok(NodeFacts {
            class: choice::<wire::FencingClass, _>("class", facts.class)?,
            class_reason: facts.class_reason.into(),
            capacity: part("capacity", facts.capacity)?,
            runtimes: facts.runtimes.into_iter().map(Arc::from).collect(),
            runtimes_refused: facts.runtimes_refused.into_iter().map(Arc::from).collect(),
            version: facts.version.into(),
            terms: part("terms", facts.terms)?,
        })
    }
}

impl From<&Node> for wire::Node {
    fn from(node: &Node) -> wire::Node {
        let Node { id, name, role, intent, health, secret, labels, failure_domain, facts, joined, registered_by } =
            node;
        let (run, ends) = registered_by.0.unwrap_or_default();
        wire::Node {
            id: id.0,
            name: name.to_string(),
            role: wire::NodeRole::from(*role).into(),
            intent: Some(intent.into()),
            health: Some(health.into()),
            secret: wide_bytes(secret.0),
            labels: (**labels).clone(),
            failure_domain: text(failure_domain),
            facts: facts.as_deref().map(Into::into),
            joined: joined.0,
            registered_run: run.0,
            registered_ends: ends.0,
        }
    }
}

impl TryFrom<wire::Node> for Node {
    type Error = ConvertError;

    fn try_from(node: wire::Node) -> Result<Node> {
        Ok(Node {
            id: NodeId(node.id),
            name: name("name", &node.name)?,
            role: choice::<wire::NodeRole, _>("role", node.role)?,
            intent: part("intent", node.intent)?,
            health: part("health", node.health)?,
            secret: SecretHash(wide("secret", &node.secret)?),
            labels: Arc::new(node.labels),
            failure_domain: node.failure_domain.into(),
            facts: maybe("facts", node.facts)?.map(Arc::new),
            joined: Revision(node.joined),
            registered_by: RegisteredBy::new(AgentRun(node.registered_run), Incarnation(node.registered_ends)),
        })
    }
}

impl From<&Member> for wire::Member {
    fn from(member: &Member) -> wire::Member {
        let Member { id, name, peer_address, api_address, secret, added } = member;
        wire::Member {
            id: id.0,
            name: name.to_string(),
            peer_address: text(peer_address),
            api_address: text(api_address),
            secret: wide_bytes(secret.0),
            added: added.0,
        }
    }
}

impl TryFrom<wire::Member> for Member {
    type Error = ConvertError;

    fn try_from(member: wire::Member) -> Result<Member> {
        Ok(Member {
            id: MemberId(member.id),
            name: name("name", &member.name)?,
            peer_address: member.peer_address.into(),
            api_address: member.api_address.into(),
            secret: SecretHash(wide("secret", &member.secret)?),
            added: Revision(member.added),
        })
    }
}

fn numbers(ids: &[MemberId]) -> Vec<u64> {
    ids.iter().map(|id| id.0).collect()
}

/// Ids in ascending order, none twice: identities are compared and majorities counted over them.
pub(super) fn ascending(field: &str, ids: Vec<u64>) -> Result<Arc<[MemberId]>> {
    if ids.is_sorted_by(|one, next| one < next) {
        return Ok(ids.into_iter().map(MemberId).collect());
    }
    Err(ConvertError::invalid(field, "must be in ascending order, none twice"))
}

impl From<&Membership> for wire::Membership {
    fn from(membership: &Membership) -> wire::Membership {
        let Membership { term, index, voters, outgoing, learners, learners_next, auto_leave } = membership;
        wire::Membership {
            term: *term,
            index: *index,
            voters: numbers(voters),
            outgoing: numbers(outgoing),
            learners: numbers(learners),
            learners_next: numbers(learners_next),
            auto_leave: *auto_leave,
        }
    }
}

impl TryFrom<wire::Membership> for Membership {
    type Error = ConvertError;

    fn try_from(membership: wire::Membership) -> Result<Membership> {
        Ok(Membership {
            term: membership.term,
            index: membership.index,
            voters: ascending("voters", membership.voters)?,
            outgoing: ascending("outgoing", membership.outgoing)?,
            learners: ascending("learners", membership.learners)?,
            learners_next: ascending("learners_next", membership.learners_next)?,
            auto_leave: membership.auto_leave,
        })
    }
}

//! Decisions of the planner, with what they rest on.

use std::cmp::Reverse;

use cluster::placement::{Rejection, Score};
use cluster::{ContainerId, Decision, NodeId, RejectionCount, Revision, Trigger};

use super::{ConvertError, NOTHING, Result, choice, each, name, part, required, text};
use crate::wire::{self, rejection, trigger};

impl From<&Trigger> for wire::Trigger {
    fn from(trigger: &Trigger) -> wire::Trigger {
        let trigger = match trigger.clone() {
            Trigger::Created => trigger::Trigger::Created(NOTHING),
            Trigger::Started => trigger::Trigger::Started(NOTHING),
            Trigger::Failover { from } => trigger::Trigger::FailoverFrom(from.0),
            Trigger::Restart => trigger::Trigger::Restart(NOTHING),
            Trigger::Moved { by_request } => trigger::Trigger::MovedByRequest(by_request),
            Trigger::Drain { from } => trigger::Trigger::DrainFrom(from.0),
            Trigger::Retry => trigger::Trigger::Retry(NOTHING),
            Trigger::StorageLost { from, storage } => {
                trigger::Trigger::StorageLost(wire::LostOn { from: from.0, storage: storage.to_string() })
            }
        };
        wire::Trigger { trigger: Some(trigger) }
    }
}

impl TryFrom<wire::Trigger> for Trigger {
    type Error = ConvertError;

    fn try_from(trigger: wire::Trigger) -> Result<Trigger> {
        Ok(match required("trigger", trigger.trigger)? {
            trigger::Trigger::Created(_) => Trigger::Created,
            trigger::Trigger::Started(_) => Trigger::Started,
            trigger::Trigger::FailoverFrom(from) => Trigger::Failover { from: NodeId(from) },
            trigger::Trigger::Restart(_) => Trigger::Restart,
            trigger::Trigger::MovedByRequest(by_request) => Trigger::Moved { by_request },
            trigger::Trigger::DrainFrom(from) => Trigger::Drain { from: NodeId(from) },
            trigger::Trigger::Retry(_) => Trigger::Retry,
            trigger::Trigger::StorageLost(lost) => {
                let storage = name("storage_lost.storage", &lost.storage)?;
                Trigger::StorageLost { from: NodeId(lost.from), storage }
            }
        })
    }
}

impl From<&Rejection> for wire::Rejection {
    fn from(reason: &Rejection) -> wire::Rejection {
        use rejection::Rejection as Shown;
        let rejection = match reason {
            Rejection::NotUp => Shown::NotUp(NOTHING),
            Rejection::NotSchedulable => Shown::NotSchedulable(NOTHING),
            Rejection::Suspect => Shown::Suspect(NOTHING),
            Rejection::NotPossibleOwner => Shown::NotPossibleOwner(NOTHING),
            Rejection::TemplateUnknown { template } => Shown::TemplateUnknown(template.to_string()),
            Rejection::StorageUnknown { storage } => Shown::StorageUnknown(storage.to_string()),
            Rejection::TemplateMissing { template, storage } => Shown::TemplateMissing(template_at(template, storage)),
            Rejection::TemplateDamaged { template, storage } => Shown::TemplateDamaged(template_at(template, storage)),
            Rejection::AgentTooOld => Shown::AgentTooOld(NOTHING),
            Rejection::NoRuntime => Shown::NoRuntime(NOTHING),
            Rejection::CpuShort { missing_millis } => Shown::CpuShortMillis(*missing_millis),
            Rejection::MemoryShort { missing_bytes } => Shown::MemoryShortBytes(*missing_bytes),
            Rejection::StartFailedHere { reason } => Shown::StartFailedHere(text(reason)),
            Rejection::StorageLost { storage, fault } => {
                Shown::StorageLost(wire::StorageLost { storage: storage.to_string(), fault: text(fault) })
            }
            Rejection::AreaElsewhere { storage, home } => {
                Shown::AreaElsewhere(wire::AreaElsewhere { storage: storage.to_string(), home: home.0 })
            }
        };
        wire::Rejection { rejection: Some(rejection) }
    }
}

impl TryFrom<wire::Rejection> for Rejection {
    type Error = ConvertError;

    fn try_from(reason: wire::Rejection) -> Result<Rejection> {
        use rejection::Rejection as Shown;
        Ok(match required("rejection", reason.rejection)? {
            Shown::NotUp(_) => Rejection::NotUp,
            Shown::NotSchedulable(_) => Rejection::NotSchedulable,
            Shown::Suspect(_) => Rejection::Suspect,
            Shown::NotPossibleOwner(_) => Rejection::NotPossibleOwner,
            Shown::TemplateUnknown(template) => {
                Rejection::TemplateUnknown { template: name("template_unknown", &template)? }
            }
            Shown::StorageUnknown(storage) => Rejection::StorageUnknown { storage: name("storage_unknown", &storage)? },
            Shown::TemplateMissing(at) => Rejection::TemplateMissing {
                template: name("template", &at.template)?,
                storage: name("storage", &at.storage)?,
            },
            Shown::TemplateDamaged(at) => Rejection::TemplateDamaged {
                template: name("template", &at.template)?,
                storage: name("storage", &at.storage)?,
            },
            Shown::AgentTooOld(_) => Rejection::AgentTooOld,
            Shown::NoRuntime(_) => Rejection::NoRuntime,
            Shown::CpuShortMillis(missing_millis) => Rejection::CpuShort { missing_millis },
            Shown::MemoryShortBytes(missing_bytes) => Rejection::MemoryShort { missing_bytes },
            Shown::StartFailedHere(reason) => Rejection::StartFailedHere { reason: reason.into() },
            Shown::StorageLost(lost) => Rejection::StorageLost {
                storage: name("storage_lost.storage", &lost.storage)?,
                fault: lost.fault.into(),
            },
            Shown::AreaElsewhere(area) => Rejection::AreaElsewhere {
                storage: name("area_elsewhere.storage", &area.storage)?,
                home: NodeId(area.home),
            },
        })
    }
}

fn template_at(template: &cluster::Name, storage: &cluster::Name) -> wire::TemplateAt {
    wire::TemplateAt { template: template.to_string(), storage: storage.to_string() }
}

impl From<&Score> for wire::Score {
    fn from(score: &Score) -> wire::Score {
        let Score { astray, role, preferred_tier, memory_headroom, cpu_headroom, node } = score;
        wire::Score {
            role: wire::NodeRole::from(*role).into(),
            preferred_tier: *preferred_tier,
            memory_headroom: memory_headroom.0,
            cpu_headroom: cpu_headroom.0,
            node: node.0,
            astray: *astray,
        }
    }
}

impl TryFrom<wire::Score> for Score {
    type Error = ConvertError;

    fn try_from(score: wire::Score) -> Result<Score> {
        Ok(Score {
            astray: score.astray,
            role: choice::<wire::NodeRole, _>("role", score.role)?,
            preferred_tier: score.preferred_tier,
            memory_headroom: Reverse(score.memory_headroom),
            cpu_headroom: Reverse(score.cpu_headroom),
            node: NodeId(score.node),
        })
    }
}

impl From<&RejectionCount> for wire::RejectionCount {
    fn from(count: &RejectionCount) -> wire::RejectionCount {
        let RejectionCount { reason, nodes, examples } = count;
        wire::RejectionCount {
            reason: Some(reason.into()),
            nodes: *nodes,
            examples: examples.iter().map(|node| node.0).collect(),
        }
    }
}

impl TryFrom<wire::RejectionCount> for RejectionCount {
    type Error = ConvertError;

    fn try_from(count: wire::RejectionCount) -> Result<RejectionCount> {
        Ok(RejectionCount {
            reason: part("reason", count.reason)?,
            nodes: count.nodes,
            examples: count.examples.into_iter().map(NodeId).collect(),
        })
    }
}

/// A candidate is a pair in the model; this is the pair with a name.
struct Candidate(NodeId, Score);

impl TryFrom<wire::Candidate> for Candidate {
    type Error = ConvertError;

    fn try_from(candidate: wire::Candidate) -> Result<Candidate> {
        Ok(Candidate(NodeId(candidate.node), part("score", candidate.score)?))
    }
}

impl From<&Decision> for wire::Decision {
    fn from(decision: &Decision) -> wire::Decision {
        let Decision { container, trigger, chosen, candidates, feasible, rejections, based_on } = decision;
        let candidate = |(node, score): &(NodeId, Score)| wire::Candidate { node: node.0, score: Some(score.into()) };
        wire::Decision {
            container: container.0,
            trigger: Some(trigger.into()),
            chosen: chosen.map(|node| node.0),
            candidates: candidates.iter().map(candidate).collect(),
            feasible: *feasible,
            rejections: rejections.iter().map(Into::into).collect(),
            based_on: based_on.0,
        }
    }
}

impl TryFrom<wire::Decision> for Decision {
    type Error = ConvertError;

    fn try_from(decision: wire::Decision) -> Result<Decision> {
        let candidates: Vec<Candidate> = each("candidates", decision.candidates)?;
        let rejections: Vec<RejectionCount> = each("rejections", decision.rejections)?;
        Ok(Decision {
            container: ContainerId(decision.container),
            trigger: part("trigger", decision.trigger)?,
            chosen: decision.chosen.map(NodeId),
            candidates: candidates.into_iter().map(|Candidate(node, score)| (node, score)).collect(),
            feasible: decision.feasible,
            rejections: rejections.into(),
            based_on: Revision(decision.based_on),
        })
    }
}

//! What a node and the members say to each other.

use std::sync::Arc;

use cluster::agent::{
    Answer, DesiredItem, DesiredSet, Heartbeat, HeartbeatReply, MembershipIdentity, Refusal, SpecDigest, ToAgent,
    ToLeader, Wanted, WantedSpec, Watch, WatchedTemplate,
};
use cluster::command::Registration;
use cluster::{
    BootId, ContainerId, Epoch, Generation, Incarnation, MemberId, Moment, NodeId, OnQuorumLoss, Revision, Storage,
    Template,
};

use prost::bytes::Bytes;

use super::node::ascending;
use super::{ConvertError, Result, choice, each, maybe, name, part, required, same_variants, text, wide, wide_bytes};
use crate::wire::{self, from_agent, heartbeat_reply, to_agent};

same_variants! {
    Refusal = wire::HeartbeatRefusal { NotCurrent, UnknownTerms, Fencing, OtherGeneration, NotVoter }
    Wanted = wire::Wanted { Run, Stop, Prepare }
}

/// The id of a generation on the wire; nothing where no recovery drew one.
pub fn generation_id(generation: Generation) -> Bytes {
    if generation.id == 0 { Bytes::new() } else { wide_bytes(generation.id) }
}

pub fn generation(number: u64, id: &Bytes) -> Result<Generation> {
    let id = if id.is_empty() { 0 } else { wide("generation_id", id)? };
    Ok(Generation { number, id })
}

impl From<&Heartbeat> for wire::Heartbeat {
    fn from(heartbeat: &Heartbeat) -> wire::Heartbeat {
        let Heartbeat { generation, node, incarnation, boot, terms, sequence, sent_at } = heartbeat;
        wire::Heartbeat {
            generation: generation.number,
            generation_id: generation_id(*generation),
            node: node.0,
            incarnation: incarnation.0,
            boot: wide_bytes(boot.0),
            terms: Some(terms.into()),
            seq: *sequence,
            sent_at_ns: sent_at.0,
        }
    }
}

impl TryFrom<wire::Heartbeat> for Heartbeat {
    type Error = ConvertError;

    fn try_from(heartbeat: wire::Heartbeat) -> Result<Heartbeat> {
        Ok(Heartbeat {
            generation: generation(heartbeat.generation, &heartbeat.generation_id)?,
            node: NodeId(heartbeat.node),
            incarnation: Incarnation(heartbeat.incarnation),
            boot: BootId(wide("boot", &heartbeat.boot)?),
            terms: part("terms", heartbeat.terms)?,
            sequence: heartbeat.seq,
            sent_at: Moment(heartbeat.sent_at_ns),
        })
    }
}

impl From<&MembershipIdentity> for wire::MembershipIdentity {
    fn from(identity: &MembershipIdentity) -> wire::MembershipIdentity {
        let MembershipIdentity { term, index, voters, outgoing, addresses } = identity;
        let address = |(member, address): &(MemberId, Arc<str>)| wire::MemberAddress {
            member: member.0,
            peer_address: text(address),
        };
        wire::MembershipIdentity {
            term: *term,
            index: *index,
            voters: voters.iter().map(|id| id.0).collect(),
            outgoing: outgoing.iter().map(|id| id.0).collect(),
            addresses: addresses.iter().map(address).collect(),
        }
    }
}

impl TryFrom<wire::MembershipIdentity> for MembershipIdentity {
    type Error = ConvertError;

    fn try_from(identity: wire::MembershipIdentity) -> Result<MembershipIdentity> {
        let voters = ascending("voters", identity.voters)?;
        if voters.is_empty() {
            return Err(ConvertError::missing("voters"));
        }
        let addresses = identity.addresses.into_iter().map(|at| (MemberId(at.member), at.peer_address.into()));
        Ok(MembershipIdentity {
            term: identity.term,
            index: identity.index,
            voters,
            outgoing: ascending("outgoing", identity.outgoing)?,
            addresses: addresses.collect(),
        })
    }
}

impl From<&HeartbeatReply> for wire::HeartbeatReply {
    fn from(reply: &HeartbeatReply) -> wire::HeartbeatReply {
        let HeartbeatReply { member, echo, answer } = reply;
        let answer = match answer {
            Answer::Acknowledged(identity) => heartbeat_reply::Answer::Acknowledged((&**identity).into()),
            Answer::Refused(refusal) => heartbeat_reply::Answer::Refused(wire::HeartbeatRefusal::from(*refusal).into()),
        };
        wire::HeartbeatReply { member: member.0, echo: Some(echo.into()), answer: Some(answer) }
    }
}

impl TryFrom<wire::HeartbeatReply> for HeartbeatReply {
    type Error = ConvertError;

    fn try_from(reply: wire::HeartbeatReply) -> Result<HeartbeatReply> {
        let answer = match required("answer", reply.answer)? {
            heartbeat_reply::Answer::Acknowledged(identity) => {
                Answer::Acknowledged(Arc::new(part("acknowledged", Some(identity))?))
            }
            heartbeat_reply::Answer::Refused(refusal) => {
                Answer::Refused(choice::<wire::HeartbeatRefusal, _>("refused", refusal)?)
            }
        };
        Ok(HeartbeatReply { member: MemberId(reply.member), echo: part("echo", reply.echo)?, answer })
    }
}

impl From<&ToLeader> for wire::FromAgent {
    fn from(said: &ToLeader) -> wire::FromAgent {
        let message = match said {
            ToLeader::Register(registration) => from_agent::Message::Register((&**registration).into()),
            ToLeader::Report { incarnation, reports } => from_agent::Message::Report(wire::StatusReport {
                incarnation: incarnation.0,
                reports: reports.iter().map(Into::into).collect(),
            }),
            ToLeader::Ended { incarnation, proof } => {
                from_agent::Message::Ended(wire::Ended { incarnation: incarnation.0, proof: Some(proof.into()) })
            }
            ToLeader::TermsInForce { incarnation, terms } => from_agent::Message::TermsInForce(wire::TermsInForce {
                incarnation: incarnation.0,
                terms: Some(terms.into()),
            }),
            ToLeader::ClassChanged { incarnation, class, reason } => {
                from_agent::Message::ClassChanged(wire::ClassChanged {
                    incarnation: incarnation.0,
                    class: wire::FencingClass::from(*class).into(),
                    reason: text(reason),
                })
            }
            ToLeader::Holding { incarnation, revision, missing } => from_agent::Message::Holding(wire::Holding {
                incarnation: incarnation.0,
                revision: revision.0,
                missing: missing.iter().map(|id| id.0).collect(),
            }),
            ToLeader::Finds { incarnation, report } => from_agent::Message::Finds(wire::NodeFinds {
                incarnation: incarnation.0,
                report: Some((&**report).into()),
            }),
        };
        wire::FromAgent { message: Some(message) }
    }
}

impl TryFrom<wire::FromAgent> for ToLeader {
    type Error = ConvertError;

    /// Errs on the opening: it is the connection's, not the mind's.
    fn try_from(said: wire::FromAgent) -> Result<ToLeader> {
        Ok(match required("message", said.message)? {
            from_agent::Message::Hello(_) => {
                return Err(ConvertError::invalid("hello", "comes first on a stream, and only once"));
            }
            from_agent::Message::Errand(_) => {
                return Err(ConvertError::invalid("errand", "is for whoever waits for it, not for the leader's mind"));
            }
            from_agent::Message::Register(registration) => {
                let registration: Registration = part("register", Some(registration))?;
                ToLeader::Register(Box::new(registration))
            }
            from_agent::Message::Report(report) => ToLeader::Report {
                incarnation: Incarnation(report.incarnation),
                reports: each("report.reports", report.reports)?,
            },
            from_agent::Message::Ended(ended) => ToLeader::Ended {
                incarnation: Incarnation(ended.incarnation),
                proof: part("ended.proof", ended.proof)?,
            },
            from_agent::Message::TermsInForce(terms) => ToLeader::TermsInForce {
                incarnation: Incarnation(terms.incarnation),
                terms: part("terms_in_force.terms", terms.terms)?,
            },
            from_agent::Message::ClassChanged(changed) => ToLeader::ClassChanged {
                incarnation: Incarnation(changed.incarnation),
                class: choice::<wire::FencingClass, _>("class_changed.class", changed.class)?,
                reason: changed.reason.into(),
            },
            from_agent::Message::Holding(holding) => ToLeader::Holding {
                incarnation: Incarnation(holding.incarnation),
                revision: Revision(holding.revision),
                missing: holding.missing.into_iter().map(ContainerId).collect(),
            },
            from_agent::Message::Finds(finds) => ToLeader::Finds {
                incarnation: Incarnation(finds.incarnation),
                report: Arc::new(part("finds.report", finds.report)?),
            },
        })
    }
}

impl From<&ToAgent> for wire::ToAgent {
    fn from(said: &ToAgent) -> wire::ToAgent {
        let message = match said {
            ToAgent::Registered { generation, incarnation, revision, terms } => {
                to_agent::Message::Registered(wire::Registered {
                    generation: generation.number,
                    generation_id: generation_id(*generation),
                    incarnation: incarnation.0,
                    revision: revision.0,
                    terms: Some(terms.into()),
                })
            }
            ToAgent::NotRegistered { current, reason } => {
                to_agent::Message::NotRegistered(wire::NotRegistered { current: current.0, reason: text(reason) })
            }
            ToAgent::Desired(set) => to_agent::Message::Desired((&**set).into()),
            ToAgent::Void { incarnation } => to_agent::Message::VoidIncarnation(incarnation.0),
        };
        wire::ToAgent { message: Some(message) }
    }
}

impl TryFrom<wire::ToAgent> for ToAgent {
    type Error = ConvertError;

    /// Errs on what the connection itself says (welcome, refusal, another leader, please leave): the mind never sees those.
    fn try_from(said: wire::ToAgent) -> Result<ToAgent> {
        Ok(match required("message", said.message)? {
            to_agent::Message::Registered(registered) => ToAgent::Registered {
                generation: generation(registered.generation, &registered.generation_id)?,
                incarnation: Incarnation(registered.incarnation),
                revision: Revision(registered.revision),
                terms: part("registered.terms", registered.terms)?,
            },
            to_agent::Message::NotRegistered(not) => {
                ToAgent::NotRegistered { current: Incarnation(not.current), reason: not.reason.into() }
            }
            to_agent::Message::Desired(set) => ToAgent::Desired(Arc::new(part("desired", Some(set))?)),
            to_agent::Message::VoidIncarnation(incarnation) => ToAgent::Void { incarnation: Incarnation(incarnation) },
            to_agent::Message::Welcome(_)
            | to_agent::Message::NotLeader(_)
            | to_agent::Message::Refused(_)
            | to_agent::Message::PleaseLeave(_)
            | to_agent::Message::Errand(_)
            | to_agent::Message::CancelErrand(_) => {
                return Err(ConvertError::invalid("message", "is for the connection, not for the agent"));
            }
        })
    }
}

impl From<&DesiredItem> for wire::DesiredItem {
    fn from(item: &DesiredItem) -> wire::DesiredItem {
        let DesiredItem { container, epoch, on_quorum_loss, wanted, spec } = *item;
        wire::DesiredItem {
            container: container.0,
            epoch: epoch.0,
            on_quorum_loss: wire::OnQuorumLoss::from(on_quorum_loss).into(),
            wanted: wire::Wanted::from(wanted).into(),
            spec: wide_bytes(spec.0),
        }
    }
}

impl TryFrom<wire::DesiredItem> for DesiredItem {
    type Error = ConvertError;

    fn try_from(item: wire::DesiredItem) -> Result<DesiredItem> {
        Ok(DesiredItem {
            container: ContainerId(item.container),
            epoch: Epoch(item.epoch),
            on_quorum_loss: choice::<wire::OnQuorumLoss, OnQuorumLoss>("on_quorum_loss", item.on_quorum_loss)?,
            wanted: choice::<wire::Wanted, _>("wanted", item.wanted)?,
            spec: SpecDigest(wide("spec", &item.spec)?),
        })
    }
}

/// A spec and its digest are a pair in the model; this is the pair with a name.
struct Digested(SpecDigest, Arc<WantedSpec>);

impl TryFrom<wire::WantedSpec> for Digested {
    type Error = ConvertError;

    fn try_from(wanted: wire::WantedSpec) -> Result<Digested> {
        let applications: Vec<Template> = each("applications", wanted.applications)?;
        let spec = WantedSpec {
            container: ContainerId(wanted.container),
            spec: Arc::new(part("spec", wanted.spec)?),
            template: Arc::new(part("template", wanted.template)?),
            storage: Arc::new(part("storage", wanted.storage)?),
            applications: applications.into_iter().map(Arc::new).collect(),
        };
        Ok(Digested(SpecDigest(wide("digest", &wanted.digest)?), Arc::new(spec)))
    }
}

impl From<&Watch> for wire::Watch {
    fn from(watch: &Watch) -> wire::Watch {
        let Watch { storages, templates } = watch;
        wire::Watch {
            storages: storages.iter().map(|storage| (&**storage).into()).collect(),
            templates: templates.iter().map(watched_template).collect(),
        }
    }
}

impl TryFrom<wire::Watch> for Watch {
    type Error = ConvertError;

    fn try_from(watch: wire::Watch) -> Result<Watch> {
        let storages: Vec<Storage> = each("storages", watch.storages)?;
        let templates = watch.templates.into_iter().map(template_to_watch).collect::<Result<_>>()?;
        Ok(Watch { storages: storages.into_iter().map(Arc::new).collect(), templates })
    }
}

/// Every set names all templates: what follows from the digest is not said.
fn watched_template(template: &WatchedTemplate) -> wire::WatchedTemplate {
    let WatchedTemplate { name: called, digest, path, registered } = template;
    let follows = digest.strip_prefix("sha256:").is_some_and(|hex| *Template::imported_path(hex) == **path);
    wire::WatchedTemplate {
        name: called.to_string(),
        digest: text(digest),
        path: if follows { String::new() } else { text(path) },
        registered: registered.0,
    }
}

fn template_to_watch(said: wire::WatchedTemplate) -> Result<WatchedTemplate> {
    let path = match (said.path.as_str(), said.digest.strip_prefix("sha256:")) {
        ("", Some(hex)) => Template::imported_path(hex).into(),
        (path, _) => path.into(),
    };
    let (called, registered) = (name("templates.name", &said.name)?, Revision(said.registered));
    Ok(WatchedTemplate { name: called, digest: said.digest.into(), path, registered })
}

impl From<&DesiredSet> for wire::DesiredSet {
    fn from(set: &DesiredSet) -> wire::DesiredSet {
        let DesiredSet { generation, incarnation, revision, terms, items, specs, watch } = set;
        let spec = |(digest, wanted): &(SpecDigest, Arc<WantedSpec>)| {
            let WantedSpec { container, spec, template, storage, applications } = &**wanted;
            wire::WantedSpec {
                digest: wide_bytes(digest.0),
                container: container.0,
                spec: Some((&**spec).into()),
                template: Some((&**template).into()),
                storage: Some((&**storage).into()),
                applications: applications.iter().map(|template| (&**template).into()).collect(),
            }
        };
        wire::DesiredSet {
            generation: generation.number,
            generation_id: generation_id(*generation),
            incarnation: incarnation.0,
            revision: revision.0,
            terms: Some(terms.into()),
            items: items.iter().map(Into::into).collect(),
            specs: specs.iter().map(spec).collect(),
            watch: (**watch != Watch::default()).then(|| (&**watch).into()),
        }
    }
}

impl TryFrom<wire::DesiredSet> for DesiredSet {
    type Error = ConvertError;

    fn try_from(set: wire::DesiredSet) -> Result<DesiredSet> {
        let items: Vec<DesiredItem> = each("items", set.items)?;
        if !items.is_sorted_by(|one, next| one.container < next.container) {
            return Err(ConvertError::invalid("items", "must be in ascending order of containers, none twice"));
        }
        let specs: Vec<Digested> = each("specs", set.specs)?;
        Ok(DesiredSet {
            generation: generation(set.generation, &set.generation_id)?,
            incarnation: Incarnation(set.incarnation),
            revision: Revision(set.revision),
            terms: part("terms", set.terms)?,
            items,
            specs: specs.into_iter().map(|Digested(digest, wanted)| (digest, wanted)).collect(),
            watch: Arc::new(maybe("watch", set.watch)?.unwrap_or_default()),
        })
    }
}

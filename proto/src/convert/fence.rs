//! Why fencing began, what proves that it is over, and the terms of leases.

use cluster::{
    BootId, FenceCause, FencingClass, Incarnation, LeaseTerms, LogsRead, MemberId, NodeId, Proof, Receipt, Revision,
    Span,
};

use super::{ConvertError, NOTHING, Result, choice, part, required, same_variants, text, wide, wide_bytes};
use crate::wire::{self, fence_cause::Cause, proof::Proof as Shown};

same_variants! {
    FencingClass = wire::FencingClass { F0, F1, F2, F3 }
    LogsRead = wire::LogsRead { Majority, Fewer }
}

impl From<&LeaseTerms> for wire::LeaseTerms {
    fn from(terms: &LeaseTerms) -> wire::LeaseTerms {
        let LeaseTerms { lease, heartbeat, kill, margin, drift_ppm } = *terms;
        wire::LeaseTerms {
            lease_ns: lease.0,
            heartbeat_ns: heartbeat.0,
            kill_ns: kill.0,
            margin_ns: margin.0,
            drift_ppm,
        }
    }
}

impl TryFrom<wire::LeaseTerms> for LeaseTerms {
    type Error = ConvertError;

    /// A lease and a heartbeat of no length, or clocks that may stand still, would make every wait meaningless.
    fn try_from(terms: wire::LeaseTerms) -> Result<LeaseTerms> {
        let wire::LeaseTerms { lease_ns, heartbeat_ns, kill_ns, margin_ns, drift_ppm } = terms;
        if lease_ns == 0 {
            return Err(ConvertError::missing("lease_ns"));
        }
        if heartbeat_ns == 0 || heartbeat_ns >= lease_ns {
            return Err(ConvertError::invalid("heartbeat_ns", "must be above 0 and below the lease"));
        }
        if drift_ppm >= 1_000_000 {
            return Err(ConvertError::invalid("drift_ppm", "must be below 1000000"));
        }
        Ok(LeaseTerms {
            lease: Span(lease_ns),
            heartbeat: Span(heartbeat_ns),
            kill: Span(kill_ns),
            margin: Span(margin_ns),
            drift_ppm,
        })
    }
}

impl From<&FenceCause> for wire::FenceCause {
    fn from(cause: &FenceCause) -> wire::FenceCause {
        let cause = match cause {
            FenceCause::Silence => Cause::Silence(NOTHING),
            FenceCause::Operator { reason } => Cause::Operator(text(reason)),
            FenceCause::RebootSeen { boot } => Cause::RebootSeen(wide_bytes(boot.0)),
            FenceCause::StopOverdue => Cause::StopOverdue(NOTHING),
            FenceCause::OutsideFact { evidence } => Cause::OutsideFact(text(evidence)),
            FenceCause::Recovered { logs } => Cause::Recovered(wire::LogsRead::from(*logs).into()),
        };
        wire::FenceCause { cause: Some(cause) }
    }
}

impl TryFrom<wire::FenceCause> for FenceCause {
    type Error = ConvertError;

    fn try_from(cause: wire::FenceCause) -> Result<FenceCause> {
        Ok(match required("cause", cause.cause)? {
            Cause::Silence(_) => FenceCause::Silence,
            Cause::Operator(reason) => FenceCause::Operator { reason: reason.into() },
            Cause::RebootSeen(boot) => FenceCause::RebootSeen { boot: BootId(wide("reboot_seen", &boot)?) },
            Cause::StopOverdue(_) => FenceCause::StopOverdue,
            Cause::OutsideFact(evidence) => FenceCause::OutsideFact { evidence: evidence.into() },
            Cause::Recovered(logs) => FenceCause::Recovered { logs: choice::<wire::LogsRead, _>("recovered", logs)? },
        })
    }
}

impl From<&Proof> for wire::Proof {
    fn from(proof: &Proof) -> wire::Proof {
        let proof = match proof {
            Proof::LeaseOver { voters, waited } => Shown::LeaseOver(wire::proof::LeaseOver {
                voters: voters.iter().map(|id| id.0).collect(),
                waited_ns: waited.0,
            }),
            Proof::Confirmed { method, evidence } => {
                Shown::Confirmed(wire::proof::Confirmed { method: text(method), evidence: text(evidence) })
            }
            Proof::Operator { reason } => Shown::Operator(text(reason)),
            Proof::Left => Shown::Left(NOTHING),
            Proof::Guard => Shown::Guard(NOTHING),
            Proof::Empty => Shown::Empty(NOTHING),
        };
        wire::Proof { proof: Some(proof) }
    }
}

impl TryFrom<wire::Proof> for Proof {
    type Error = ConvertError;

    fn try_from(proof: wire::Proof) -> Result<Proof> {
        Ok(match required("proof", proof.proof)? {
            Shown::LeaseOver(over) => Proof::LeaseOver {
                voters: over.voters.into_iter().map(MemberId).collect(),
                waited: Span(over.waited_ns),
            },
            Shown::Confirmed(fact) => Proof::Confirmed { method: fact.method.into(), evidence: fact.evidence.into() },
            Shown::Operator(reason) => Proof::Operator { reason: reason.into() },
            Shown::Left(_) => Proof::Left,
            Shown::Guard(_) => Proof::Guard,
            Shown::Empty(_) => Proof::Empty,
        })
    }
}

impl From<&Receipt> for wire::Receipt {
    fn from(receipt: &Receipt) -> wire::Receipt {
        let Receipt { node, incarnation, boot, proof, recorded } = receipt;
        wire::Receipt {
            node: node.0,
            incarnation: incarnation.0,
            boot: wide_bytes(boot.0),
            proof: Some(proof.into()),
            recorded: recorded.0,
        }
    }
}

impl TryFrom<wire::Receipt> for Receipt {
    type Error = ConvertError;

    fn try_from(receipt: wire::Receipt) -> Result<Receipt> {
        Ok(Receipt {
            node: NodeId(receipt.node),
            incarnation: Incarnation(receipt.incarnation),
            boot: BootId(wide("boot", &receipt.boot)?),
            proof: part("proof", receipt.proof)?,
            recorded: Revision(receipt.recorded),
        })
    }
}

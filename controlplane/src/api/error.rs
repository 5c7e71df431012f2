//! The one table of what went wrong: refusals and failures with their gRPC code and stable reason; HTTP follows from the code.
//! In: refusals of the state, failures of the replica. Out: `Problem`, which knows its three forms.
//! Absent everywhere else: gRPC codes for anything the cluster says.

use std::time::Duration;

use cluster::{Member, Rejected, State, Tell as _};
use proto::Problem;
use proto::convert::request::Paths;
use replica::ProposeError;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::runtime::{Unwelcome, View};

/// Metadata of a refusal: the public API of the leader.
pub const LEADER: &str = "quorate-leader";
pub const NOT_LEADER: &str = "not-leader";
/// The outcome is not known; the same request id may be sent again.
pub const LOST: &str = "lost";
const SOON: Duration = Duration::from_millis(100);

/// A command the state refused, in the names of `state`.
pub fn rejected(rejected: &Rejected, state: Option<&State>) -> Problem {
    let code = match rejected {
        Rejected::NotFound { .. } => Code::NotFound,
        Rejected::NameTaken { .. } => Code::AlreadyExists,
        Rejected::Invalid { .. } => Code::InvalidArgument,
        Rejected::WrongState { .. }
        | Rejected::InUse { .. }
        | Rejected::NotFenced { .. }
        | Rejected::NotProof { .. }
        | Rejected::Infeasible { .. }
        | Rejected::RequestExpired => Code::FailedPrecondition,
        Rejected::StaleIncarnation { .. } | Rejected::StaleEpoch { .. } => Code::Aborted,
    };
    let text = match (rejected, state) {
        // The field travels beside; said once is enough.
        (Rejected::Invalid { problem, .. }, _) => problem.to_string(),
        (other, Some(state)) => other.told(state).to_string(),
        (other, None) => other.to_string(),
    };
    let problem = Problem::new(code, rejected.code(), text);
    match rejected.field() {
        Some(field) => problem.at(field),
        None => problem,
    }
}

/// The same, of a request: the field at fault by its path there.
pub fn refused(refusal: &Rejected, paths: Paths, view: &View) -> Problem {
    let problem = rejected(refusal, view.state.as_ref());
    match refusal.field() {
        Some(field) => problem.at(paths(field)),
        None => problem,
    }
}

/// What the replica could not do; `leader` is whom to ask instead.
pub fn failed(error: &ProposeError, leader: Option<&Member>) -> Problem {
    let problem = |code, reason, error: &ProposeError| Problem::new(code, reason, error.to_string());
    match error {
        ProposeError::Rejected(refusal) => rejected(refusal, None),
        ProposeError::NotLeader { .. } => not_leader(leader),
        ProposeError::Overloaded => problem(Code::ResourceExhausted, "overloaded", error).retry_after(SOON),
        ProposeError::Lost => problem(Code::Unavailable, LOST, error).retry_after(SOON),
        ProposeError::NoQuorum => no_quorum(),
        ProposeError::Refused(_) => problem(Code::FailedPrecondition, "refused", error),
        ProposeError::NotNow(_) => problem(Code::FailedPrecondition, "not-now", error).hint("try again in a moment"),
    }
}

pub fn not_leader(leader: Option<&Member>) -> Problem {
    match leader {
        Some(leader) => Problem::new(Code::Unavailable, NOT_LEADER, format!("{} leads, not this member", leader.name))
            .hint(format!("ask {}", leader.api_address))
            .leader(&*leader.api_address)
            .retry_after(SOON),
        None => no_quorum(),
    }
}

pub fn no_quorum() -> Problem {
    Problem::new(Code::Unavailable, "no-quorum", "no leader is known: a majority of the members is needed")
        .hint("`quoratectl cluster quorum` says which members are missing")
        .retry_after(SOON * 5)
}

pub fn deadline() -> Problem {
    Problem::new(Code::DeadlineExceeded, "deadline-exceeded", "the time given was over before there was an answer")
        .hint("the outcome is not known: send the same request id again")
}

/// A member that follows but has no state yet.
pub fn no_state() -> Problem {
    Problem::new(Code::Unavailable, "no-state", "this member has not received the state of the cluster yet")
        .hint("ask another member")
        .retry_after(SOON * 5)
}

pub fn unwelcome(error: Unwelcome) -> Problem {
    let code = match error {
        Unwelcome::NotAHello => Code::InvalidArgument,
        Unwelcome::OtherCluster | Unwelcome::OtherGeneration => Code::FailedPrecondition,
        Unwelcome::UnknownMember | Unwelcome::WrongSecret => Code::Unauthenticated,
    };
    Problem::new(code, error.reason(), error.to_string())
}

/// The form of a problem in a gRPC answer; the leader stands in the metadata too, for clients that look no deeper.
pub fn status(problem: Problem) -> Status {
    let leader = problem.leader.as_deref().and_then(|leader| MetadataValue::try_from(leader).ok());
    let mut status = Status::from(problem);
    if let Some(leader) = leader {
        status.metadata_mut().insert(LEADER, leader);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::{ContainerId, Epoch, Incarnation, MemberId, NodeId};

    /// Code, reason and HTTP number of every refusal: what programs rely on.
    #[test]
    fn the_table_is_what_clients_were_told() {
        let (node, container) = (NodeId(3), ContainerId(7));
        let (given, current) = (Incarnation(1), Incarnation(2));
        let kind = cluster::apply::Kind::Node;
        let all = [
            Rejected::NotFound { kind, what: "web".into() },
            Rejected::NameTaken { kind, name: "a".into(), holder: "n1".into() },
            Rejected::Invalid { field: "priority", problem: "above 1000".into() },
            Rejected::WrongState { problem: "not drained".into() },
            Rejected::InUse { kind, what: "a".into(), by: "b".into() },
            Rejected::StaleIncarnation { node, given, current },
            Rejected::StaleEpoch { container, given: Epoch(1), current: Epoch(2) },
            Rejected::NotFenced { node, old: given },
            Rejected::NotProof { node, problem: "F0".into() },
            Rejected::Infeasible { container, node, reason: "full".into() },
            Rejected::RequestExpired,
        ];
        let row = |refusal: &Rejected| {
            let problem = rejected(refusal, None);
            format!("{} {:?} {}", problem.reason, problem.code, problem.http_status().as_u16())
        };
        let table = [
            "not-found NotFound 404",
            "name-taken AlreadyExists 409",
            "invalid InvalidArgument 400",
            "wrong-state FailedPrecondition 400",
            "in-use FailedPrecondition 400",
            "stale-incarnation Aborted 409",
            "stale-epoch Aborted 409",
            "not-fenced FailedPrecondition 400",
            "not-proof FailedPrecondition 400",
            "infeasible FailedPrecondition 400",
            "request-expired FailedPrecondition 400",
        ];
        assert_eq!(all.each_ref().map(row), table);
        assert_eq!(rejected(&all[2], None).field.as_deref(), Some("priority"));
        let failures = [
            (ProposeError::Overloaded, "overloaded ResourceExhausted 429"),
            (ProposeError::Lost, "lost Unavailable 503"),
            (ProposeError::NoQuorum, "no-quorum Unavailable 503"),
            (ProposeError::NotLeader { hint: Some(MemberId(2)) }, "no-quorum Unavailable 503"),
            (ProposeError::Refused("no".into()), "refused FailedPrecondition 400"),
            (ProposeError::NotNow("wait".into()), "not-now FailedPrecondition 400"),
        ];
        for (failure, expected) in failures {
            let problem = failed(&failure, None);
            let row = format!("{} {:?} {}", problem.reason, problem.code, problem.http_status().as_u16());
            assert_eq!(row, expected);
        }
    }
}

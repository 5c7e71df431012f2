//! What went wrong with a call, in the three forms it travels in: gRPC status with details, problem details (RFC 9457), item of a batch.
//! In: code, stable reason, text, field, hint. Out: `tonic::Status`, JSON, `v1::Problem`, and back from a status.
//! Absent: which refusal of the cluster gets which code; that table is the API's.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message;
use prost::bytes::Bytes;
use serde_json::json;
use tonic::{Code, Status};

use crate::google::rpc::{self, bad_request::FieldViolation};
use crate::v1;

const DOMAIN: &str = "quorate";
const ERROR_INFO: &str = "type.googleapis.com/google.rpc.ErrorInfo";
const BAD_REQUEST: &str = "type.googleapis.com/google.rpc.BadRequest";
const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// A failed call, for people and for programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub code: Code,
    /// Stable, in kebab case, such as `name-taken`; clients branch on this alone.
    pub reason: Box<str>,
    /// What is wrong, for people.
    pub message: Box<str>,
    /// Path of the field at fault, as `spec.resources.memory_bytes`.
    pub field: Option<Box<str>>,
    /// What to do next, for people.
    pub hint: Option<Box<str>>,
    /// Public API address of the leader, where asking it would help.
    pub leader: Option<Box<str>>,
    /// When a repetition makes sense.
    pub retry_after: Option<Duration>,
}

impl Problem {
    pub fn new(code: Code, reason: impl Into<Box<str>>, message: impl Into<Box<str>>) -> Problem {
        Problem {
            code,
            reason: reason.into(),
            message: message.into(),
            field: None,
            hint: None,
            leader: None,
            retry_after: None,
        }
    }

    /// A field of the request is wrong.
    pub fn invalid(field: impl Into<Box<str>>, message: impl Into<Box<str>>) -> Problem {
        Problem::new(Code::InvalidArgument, "invalid-field", message).at(field)
    }

    pub fn at(mut self, field: impl Into<Box<str>>) -> Problem {
        self.field = given(field);
        self
    }

    pub fn hint(mut self, hint: impl Into<Box<str>>) -> Problem {
        self.hint = given(hint);
        self
    }

    pub fn leader(mut self, api_address: impl Into<Box<str>>) -> Problem {
        self.leader = given(api_address);
        self
    }

    pub fn retry_after(mut self, after: Duration) -> Problem {
        self.retry_after = Some(after);
        self
    }

    /// The HTTP status of a gRPC code. Source: the mapping in google/rpc/code.proto.
    pub fn http_status(&self) -> http::StatusCode {
        use http::StatusCode as Http;
        match self.code {
            Code::Ok => Http::OK,
            Code::Cancelled => Http::from_u16(499).expect("499 is a status"),
            Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => Http::BAD_REQUEST,
            Code::DeadlineExceeded => Http::GATEWAY_TIMEOUT,
            Code::NotFound => Http::NOT_FOUND,
            Code::AlreadyExists | Code::Aborted => Http::CONFLICT,
            Code::PermissionDenied => Http::FORBIDDEN,
            Code::Unauthenticated => Http::UNAUTHORIZED,
            Code::ResourceExhausted => Http::TOO_MANY_REQUESTS,
            Code::Unimplemented => Http::NOT_IMPLEMENTED,
            Code::Unavailable => Http::SERVICE_UNAVAILABLE,
            Code::Unknown | Code::Internal | Code::DataLoss => Http::INTERNAL_SERVER_ERROR,
        }
    }

    /// The problem-details object of RFC 9457.
    pub fn json(&self) -> serde_json::Value {
        let status = self.http_status();
        let mut object = json!({
            "type": format!("urn:quorate:problem:{}", self.reason),
            "title": status.canonical_reason().unwrap_or("Client Closed Request"),
            "status": status.as_u16(),
            "detail": self.message,
            "code": format!("{:?}", self.code),
            "reason": self.reason,
        });
        let optional = [("field", &self.field), ("hint", &self.hint), ("leader", &self.leader)];
        for (key, value) in optional.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?))) {
            object[key] = json!(value);
        }
        if let Some(after) = self.retry_after {
            object["retryAfterMs"] = json!(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        }
        object
    }
}

fn given(text: impl Into<Box<str>>) -> Option<Box<str>> {
    let text = text.into();
    (!text.is_empty()).then_some(text)
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

fn any(type_url: &str, message: &impl Message) -> prost_types::Any {
    prost_types::Any { type_url: type_url.to_owned(), value: message.encode_to_vec() }
}

impl From<Problem> for Status {
    fn from(problem: Problem) -> Status {
        let metadata = [("field", &problem.field), ("hint", &problem.hint), ("leader", &problem.leader)];
        let metadata: BTreeMap<String, String> = metadata
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value.clone()?.into_string())))
            .collect();
        let info = rpc::ErrorInfo { reason: problem.reason.into_string(), domain: DOMAIN.to_owned(), metadata };
        let mut details = vec![any(ERROR_INFO, &info)];
        if let Some(field) = problem.field {
            let violation = FieldViolation { field: field.into(), description: problem.message.to_string() };
            details.push(any(BAD_REQUEST, &rpc::BadRequest { field_violations: vec![violation] }));
        }
        if let Some(delay) = problem.retry_after.and_then(|after| prost_types::Duration::try_from(after).ok()) {
            details.push(any(RETRY_INFO, &rpc::RetryInfo { retry_delay: Some(delay) }));
        }
        let whole = rpc::Status { code: problem.code as i32, message: problem.message.to_string(), details };
        Status::with_details(problem.code, problem.message, Bytes::from(whole.encode_to_vec()))
    }
}

impl From<&Status> for Problem {
    /// What a status says; a status of somebody else gets its code as reason.
    fn from(status: &Status) -> Problem {
        let mut problem = Problem::new(status.code(), default_reason(status.code()), status.message());
        let details = rpc::Status::decode(status.details()).map(|whole| whole.details).unwrap_or_default();
        for detail in details {
            match detail.type_url.as_str() {
                ERROR_INFO => {
                    if let Ok(mut info) = rpc::ErrorInfo::decode(&*detail.value) {
                        problem.reason = info.reason.into();
                        problem.field = info.metadata.remove("field").map(Into::into);
                        problem.hint = info.metadata.remove("hint").map(Into::into);
                        problem.leader = info.metadata.remove("leader").map(Into::into);
                    }
                }
                RETRY_INFO => {
                    let info = rpc::RetryInfo::decode(&*detail.value).ok();
                    problem.retry_after = info.and_then(|info| info.retry_delay?.try_into().ok());
                }
                _ => {}
            }
        }
        problem
    }
}

impl From<Problem> for v1::Problem {
    fn from(problem: Problem) -> v1::Problem {
        v1::Problem {
            code: problem.code as i32,
            reason: problem.reason.into(),
            message: problem.message.into(),
            field: problem.field.unwrap_or_default().into(),
            hint: problem.hint.unwrap_or_default().into(),
        }
    }
}

fn default_reason(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid-argument",
        Code::DeadlineExceeded => "deadline-exceeded",
        Code::NotFound => "not-found",
        Code::AlreadyExists => "already-exists",
        Code::PermissionDenied => "permission-denied",
        Code::ResourceExhausted => "resource-exhausted",
        Code::FailedPrecondition => "failed-precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out-of-range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data-loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_survives_the_way_through_a_status() {
        let problem = Problem::new(Code::Unavailable, "not-leader", "member m2 does not lead")
            .at("spec.name")
            .hint("ask the leader")
            .leader("127.0.0.1:7440")
            .retry_after(Duration::from_millis(1_250));
        let status = Status::from(problem.clone());
        assert_eq!(Problem::from(&status), problem);
        assert_eq!(problem.json()["retryAfterMs"], 1_250);
    }

    #[test]
    fn a_foreign_status_keeps_code_and_text() {
        let problem = Problem::from(&Status::resource_exhausted("too many"));
        assert_eq!((problem.code, &*problem.reason), (Code::ResourceExhausted, "resource-exhausted"));
        assert_eq!(problem.json()["status"], 429);
    }
}

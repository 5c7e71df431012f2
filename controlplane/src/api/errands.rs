//! Errands of agents, for calls that last: who runs one, and how its words reach a caller of any member.
//! In: a call, what an agent is to do. Out: a stream of replies; the errand is called off when the caller goes.
//! Leader-local: a change of leader ends the stream with an error that may be repeated. Absent: what an errand is about.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use cluster::{Name, Node, State};
use proto::Problem;
use proto::v1::template_service_client::TemplateServiceClient;
use proto::wire::{self, errand};
use tokio::sync::OwnedSemaphorePermit;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use super::door::{ANSWER_BYTES, Door, Failure, Manners, leader, mark};
use super::error::{self, status};
use super::sessions::{Awaited, Sessions, Unasked};
use crate::standing::Seated;

/// Messages that wait for a caller that is slow.
pub const QUEUE: usize = 16;

pub type Replies<R> = Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>;

/// Serves a call by `here` if this member leads, else by `there`, at the one that does.
pub async fn lasting<Q, R, Here, There>(
    door: &Door,
    manners: Manners,
    request: Q,
    here: impl FnOnce(Arc<Seated>, Q, OwnedSemaphorePermit) -> Here,
    there: impl FnOnce(TemplateServiceClient<Channel>, Request<Q>) -> There,
) -> Result<Response<Replies<R>>, Status>
where
    R: Send + 'static,
    Here: Future<Output = Result<Replies<R>, Failure>>,
    There: Future<Output = Result<Response<Streaming<R>>, Status>>,
{
    let place = door.streams().enter().map_err(status)?;
    let seated = door.seated().map_err(status)?;
    let view = seated.handle.view();
    if view.leads {
        let begun = tokio::time::timeout_at(manners.deadline, here(seated, request, place)).await;
        let begun = begun.map_err(|_| error::deadline()).and_then(|begun| begun.map_err(told));
        return begun.map(Response::new).map_err(status);
    }
    let Some(leader) = leader(&view).filter(|_| !manners.passed_on) else {
        return Err(status(error::not_leader(leader(&view))));
    };
    let channel = door.channel(&leader.api_address).map_err(|_| status(error::no_quorum()))?;
    let mut onward = Request::new(request);
    mark(&mut onward, &manners);
    // It lasts as long as it lasts; the caller's own end is heard as its stream is dropped.
    onward.metadata_mut().remove("grpc-timeout");
    let client = TemplateServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES);
    let replies = there(client, onward).await?;
    let held = replies.into_inner().map(move |reply| {
        let _held = &place;
        reply
    });
    Ok(Response::new(Box::pin(held) as Replies<R>))
}

/// A failure to somebody whose call is not repeated here.
pub fn told(failure: Failure) -> Problem {
    match failure {
        Failure::Final(problem) => problem,
        Failure::Moved => error::not_leader(None),
        Failure::Unknown => error::failed(&replica::ProposeError::Lost, None),
    }
}

/// Asks `node`, or else the first that is up, connected and has room for it; gives who it is.
pub fn ask(
    sessions: &Sessions,
    state: &State,
    node: Option<&Arc<Node>>,
    what: impl Fn() -> errand::What,
) -> Result<(Arc<Node>, Awaited), Problem> {
    if let Some(node) = node {
        let asked = sessions.errand(node.id, what());
        return asked.map(|awaited| (Arc::clone(node), awaited)).map_err(|why| unasked(why, &node.name));
    }
    let mut candidates: Vec<&Arc<Node>> = state.nodes().filter(|node| node.accepts_new_work()).collect();
    candidates.sort_by_key(|node| node.id);
    let mut last = None;
    for node in candidates {
        match sessions.errand(node.id, what()) {
            Ok(awaited) => return Ok((Arc::clone(node), awaited)),
            Err(Unasked::NoSession) => {}
            Err(why) => last = Some(unasked(why, &node.name)),
        }
    }
    Err(last.unwrap_or_else(|| {
        Problem::new(Code::FailedPrecondition, "no-node", "no node is up, schedulable and connected to the leader")
            .hint("`quoratectl node list` shows the nodes")
    }))
}

/// Why `node` was not asked.
pub fn unasked(why: Unasked, node: &Name) -> Problem {
    match why {
        Unasked::NoSession => {
            let text = format!("the agent of {node} is not connected to the leader");
            Problem::new(Code::FailedPrecondition, "no-session", text).at("node")
        }
        Unasked::Busy => {
            let text = format!("the agent of {node} has more to do than it is asked at once");
            Problem::new(Code::ResourceExhausted, "overloaded", text)
        }
        Unasked::TooOld => {
            let text = format!("the agent of {node} is of an older version, which does not know what it is asked");
            Problem::new(Code::FailedPrecondition, "agent-too-old", text).at("node").hint("upgrade that agent first")
        }
    }
}

/// The session ended before the errand did.
pub fn session_over(node: &Name) -> Problem {
    let text = format!("the session with {node} ended, and what it was asked with it");
    Problem::new(Code::Unavailable, "errand-lost", text).hint("repeat it: what is done already is not done again")
}

/// The agent answered something else than it was asked.
pub fn off_topic(node: &Name) -> Problem {
    Problem::new(Code::Internal, "internal", format!("{node} answered what it was not asked"))
}

/// What the node could not do; the reason is its own.
pub fn failed_there(node: &Name, failed: wire::ErrandFailed) -> Problem {
    let code = match failed.reason.as_str() {
        "called-off" => Code::Aborted,
        "storage-failed" | "registry-failed" | "no-room" => Code::FailedPrecondition,
        _ => Code::InvalidArgument,
    };
    Problem::new(code, failed.reason, format!("{node}: {}", failed.text))
}

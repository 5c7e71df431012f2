//! The door for agents: heartbeats to every member, one session with the leader.
//! In: streams that open with who speaks. Out: facts for the replica; its answers, back on the stream they belong to.
//! Who speaks is decided once, by the hello; a heartbeat for another node is refused and ends the stream.
//! No task and no queue of its own per stream: the stream of answers reads what comes in whenever it is polled.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use cluster::NodeId;
use cluster::agent::{Heartbeat, HeartbeatReply, ToAgent, ToLeader};
use proto::convert::{generation, generation_id};
use proto::wire::agents_client::AgentsClient;
use proto::wire::agents_server::Agents;
use proto::wire::{self, from_agent, heartbeat_down, heartbeat_up, to_agent};
use proto::{Problem, v1};
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::door::{Door, Failure, HOP, Identity, Manners, leader, mark};
use super::error::{self, status};
use super::nodes;
use super::sessions::Entered;
use crate::runtime::{OpenLink, Outflow, View, outlet, wire::wide};
use crate::secret::Secret;
use crate::standing::Seated;

/// Acknowledgements that may wait for an agent that does not read.
const HEARTBEATS_QUEUE: usize = 16;
/// Orders that may wait for an agent; one desired set is under way at most.
const SESSION_QUEUE: usize = 64;

#[derive(Clone)]
pub struct AgentDoor(pub Door);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Agents for AgentDoor {
    /// The same as `NodeService.Join`, for a machine that reaches this port only.
    async fn join(&self, call: Request<wire::AgentJoin>) -> Result<Response<wire::AgentJoined>, Status> {
        let manners = Manners::of(call.metadata());
        let passed_on = call.metadata().contains_key(HOP);
        let seated = self.0.seated().map_err(status)?;
        let view = seated.handle.view();
        if !view.leads {
            let leader = leader(&view).filter(|_| !passed_on).ok_or_else(|| status(error::not_leader(None)))?;
            let channel = self.0.channel(&leader.peer_address).map_err(|_| status(error::no_quorum()))?;
            let mut onward = Request::new(call.into_inner());
            mark(&mut onward, &manners);
            return AgentsClient::new(channel).join(onward).await;
        }
        let mut asked = join_request(call.into_inner()).map_err(status)?;
        let id = Identity::of(&mut asked, &self.0)?.id;
        let joined = nodes::join(&seated, id, asked).await.map_err(|failure| match failure {
            Failure::Final(problem) => status(problem),
            Failure::Moved => status(error::not_leader(None)),
            Failure::Unknown => status(error::failed(&replica::ProposeError::Lost, None)),
        })?;
        let node = joined.node.trim_start_matches('n').parse().unwrap_or_default();
        let secret = Secret::from_hex(&joined.secret).expect("made here a moment ago");
        Ok(Response::new(wire::AgentJoined {
            cluster: seated.credentials.cluster.0.to_be_bytes().to_vec().into(),
            generation: joined.generation,
            generation_id: generation_id(seated.credentials.generation),
            node,
            secret: secret.bytes().to_vec().into(),
            members: joined.members,
        }))
    }

    type HeartbeatsStream = Answers<wire::HeartbeatDown>;

    async fn heartbeats(
        &self,
        call: Request<Streaming<wire::HeartbeatUp>>,
    ) -> Result<Response<Self::HeartbeatsStream>, Status> {
        let seated = self.0.seated().map_err(status)?;
        let mut incoming = call.into_inner();
        let hello = match incoming.message().await?.and_then(|first| first.message) {
            Some(heartbeat_up::Message::Hello(hello)) => hello,
            _ => return Err(status(not_a_hello())),
        };
        let node = match who(&seated, &seated.handle.view(), &hello) {
            Ok(node) => node,
            Err(problem) => {
                let refused = heartbeat_down::Message::Refused(refused(&problem));
                let answer = wire::HeartbeatDown { message: Some(refused) };
                return Ok(Response::new(Box::pin(tokio_stream::once(Ok(answer)))));
            }
        };
        let (out, answers) = outlet(HEARTBEATS_QUEUE);
        let link = seated.handle.open_heartbeats(out);
        Ok(Response::new(Box::pin(Beats { incoming, answers, link, node, over: false })))
    }

    type SessionStream = Answers<wire::ToAgent>;

    async fn session(
        &self,
        call: Request<Streaming<wire::FromAgent>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let seated = self.0.seated().map_err(status)?;
        let mut incoming = call.into_inner();
        let hello = match incoming.message().await?.and_then(|first| first.message) {
            Some(from_agent::Message::Hello(hello)) => hello,
            _ => return Err(status(not_a_hello())),
        };
        let view = seated.handle.view();
        let only = |message| -> Self::SessionStream {
            Box::pin(tokio_stream::once(Ok(wire::ToAgent { message: Some(message) })))
        };
        let node = match who(&seated, &view, &hello) {
            Ok(node) => node,
            Err(problem) => return Ok(Response::new(only(to_agent::Message::Refused(refused(&problem))))),
        };
        if !view.leads {
            return Ok(Response::new(only(to_agent::Message::NotLeader(not_leader(&view)))));
        }
        let (out, orders) = outlet(SESSION_QUEUE);
        let entered = seated.sessions.enter(node, hello.feature_level);
        let link = seated.handle.open_session(node, seated.credentials.generation, out);
        let welcome = wire::AgentWelcome { member: seated.handle.id.0, feature_level: proto::FEATURE_LEVEL };
        Ok(Response::new(Box::pin(Session {
            incoming,
            orders,
            entered,
            link,
            node,
            seated,
            first: Some(to_agent::Message::Welcome(welcome)),
            over: false,
        })))
    }
}

/// The node that opens a stream, proven.
fn who(seated: &Seated, view: &View, hello: &wire::AgentHello) -> Result<NodeId, Problem> {
    let problem = |code, reason, text: &str| Err(Problem::new(code, reason, text));
    if wide("cluster", &hello.cluster).ok() != Some(seated.credentials.cluster.0) {
        return problem(Code::FailedPrecondition, "other-cluster", "this is another cluster");
    }
    let ours = seated.credentials.generation;
    if generation(hello.generation, &hello.generation_id) != Ok(ours) {
        let text = format!(
            "this is generation {ours} of the cluster; if the node is to serve it, `quorate-agent cross-over --generation \
             {ours}` says so there"
        );
        return problem(Code::FailedPrecondition, "other-generation", &text);
    }
    let state = view.state.as_ref().ok_or_else(error::no_state)?;
    let Some(node) = state.node(NodeId(hello.node)) else {
        return problem(Code::Unauthenticated, "unknown-node", "this member knows no such node");
    };
    if Secret::from_bytes(&hello.secret).is_none_or(|secret| secret.hash() != node.secret) {
        return problem(Code::Unauthenticated, "wrong-secret", "the secret is wrong");
    }
    Ok(node.id)
}

fn not_a_hello() -> Problem {
    Problem::new(Code::InvalidArgument, "not-a-hello", "the stream did not open with who speaks")
}

fn refused(problem: &Problem) -> wire::Refused {
    wire::Refused { reason: problem.reason.to_string(), text: problem.message.to_string() }
}

fn not_leader(view: &View) -> wire::NotLeader {
    let known = leader(view);
    wire::NotLeader {
        leader: known.map_or(0, |leader| leader.id.0),
        peer_address: known.map_or_else(String::new, |leader| leader.peer_address.to_string()),
        api_address: known.map_or_else(String::new, |leader| leader.api_address.to_string()),
    }
}

fn join_request(asked: wire::AgentJoin) -> Result<v1::JoinRequest, Problem> {
    let role = match asked.role() {
        wire::NodeRole::Unspecified => v1::NodeRole::Unspecified,
        wire::NodeRole::Active => v1::NodeRole::Active,
        wire::NodeRole::Standby => v1::NodeRole::Standby,
    };
    let request_id = match &asked.request {
        Some(id) => {
            let session = wide("request.session", &id.session)?;
            format!("{}/{}", uuid::Uuid::from_u128(session), id.sequence)
        }
        None => String::new(),
    };
    let wire::AgentJoin { name, labels, failure_domain, .. } = asked;
    Ok(v1::JoinRequest { request_id, name, role: role.into(), labels, failure_domain })
}

/// One agent's heartbeats and their acknowledgements.
struct Beats {
    incoming: Streaming<wire::HeartbeatUp>,
    answers: Outflow<HeartbeatReply>,
    link: OpenLink,
    node: NodeId,
    over: bool,
}

impl Beats {
    fn take(&self, message: wire::HeartbeatUp) -> Result<(), Problem> {
        let Some(heartbeat_up::Message::Heartbeat(heartbeat)) = message.message else { return Err(not_a_heartbeat()) };
        let heartbeat = Heartbeat::try_from(heartbeat)?;
        if heartbeat.node != self.node {
            return Err(other_node("a heartbeat", heartbeat.node, self.node));
        }
        self.link.heartbeat(self.node, heartbeat);
        Ok(())
    }
}

fn other_node(what: &str, named: NodeId, speaks: NodeId) -> Problem {
    Problem::new(Code::PermissionDenied, "other-node", format!("{what} for {named} on the stream of {speaks}"))
}

fn not_a_heartbeat() -> Problem {
    Problem::new(Code::InvalidArgument, "not-a-heartbeat", "only heartbeats follow the hello")
}

impl Stream for Beats {
    type Item = Result<wire::HeartbeatDown, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        while let Poll::Ready(message) = Pin::new(&mut self.incoming).poll_next(cx) {
            let Some(Ok(message)) = message else { return Poll::Ready(None) };
            if let Err(problem) = self.take(message) {
                self.over = true;
                let refused = heartbeat_down::Message::Refused(refused(&problem));
                return Poll::Ready(Some(Ok(wire::HeartbeatDown { message: Some(refused) })));
            }
        }
        let answer = ready!(self.answers.poll(cx));
        Poll::Ready(answer.map(|answer| {
            let reply = wire::HeartbeatReply::from(&answer);
            Ok(wire::HeartbeatDown { message: Some(heartbeat_down::Message::Reply(reply)) })
        }))
    }
}

/// One agent's session with this member as leader.
struct Session {
    incoming: Streaming<wire::FromAgent>,
    orders: Outflow<ToAgent>,
    entered: Entered,
    link: OpenLink,
    node: NodeId,
    seated: Arc<Seated>,
    first: Option<to_agent::Message>,
    over: bool,
}

impl Session {
    fn take(&self, message: wire::FromAgent) -> Result<(), Problem> {
        if let Some(from_agent::Message::Errand(word)) = message.message {
            self.entered.said(word);
            return Ok(());
        }
        let said = ToLeader::try_from(message)?;
        match &said {
            ToLeader::Register(registration) if registration.node != self.node => {
                Err(other_node("a registration", registration.node, self.node))
            }
            // Said again, ever more slowly: it is heard once every member can read it.
            ToLeader::Finds { .. } if !self.is_read_by_all(proto::level::SYSTEM) => Ok(()),
            _ => {
                self.link.said(said);
                Ok(())
            }
        }
    }

    fn is_read_by_all(&self, level: u32) -> bool {
        let view = self.seated.handle.view();
        view.state.as_ref().is_some_and(|state| self.seated.handle.levels().ensure(state, level).is_ok())
    }

    fn last(&mut self, message: to_agent::Message) -> Poll<Option<Result<wire::ToAgent, Status>>> {
        self.over = true;
        Poll::Ready(Some(Ok(wire::ToAgent { message: Some(message) })))
    }
}

impl Stream for Session {
    type Item = Result<wire::ToAgent, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(wire::ToAgent { message: Some(first) })));
        }
        while let Poll::Ready(message) = Pin::new(&mut self.incoming).poll_next(cx) {
            let Some(Ok(message)) = message else { return Poll::Ready(None) };
            if let Err(problem) = self.take(message) {
                return self.last(to_agent::Message::Refused(refused(&problem)));
            }
        }
        if let Poll::Ready(Some(asked)) = self.entered.asks.poll_recv(cx) {
            return Poll::Ready(Some(Ok(wire::ToAgent { message: Some(asked) })));
        }
        match ready!(self.orders.poll(cx)) {
            Some(order) => Poll::Ready(Some(Ok(wire::ToAgent::from(&order)))),
            // The replica let go of the session: it does not lead any more, or the node opened another.
            None => {
                let view = self.seated.handle.view();
                self.last(to_agent::Message::NotLeader(not_leader(&view)))
            }
        }
    }
}

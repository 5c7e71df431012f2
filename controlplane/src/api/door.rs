//! What every call goes through: is there a member to ask, who leads, how long may it take, has it been asked before.
//! In: requests of any resource. Out: the answer of the leader, wherever it was asked; problems with a reason.
//! A call that reaches a member which does not lead travels on to the one that does, once. A call that can be repeated (it
//! reads, or it carries a request id) is, until its time is over: a change of leader is then only a delay.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cluster::apply::Done;
use cluster::{Applied, Command, Member, NodeId, RequestId, Revision, SessionId, State, WallTime};
use prost::Message;
use proto::Problem;
use proto::convert::request::{Identified, Mutation, request_id};
use proto::convert::view::Sight;
use replica::ProposeError;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;
use uuid::Uuid;

use super::error::{self, status};
use super::limits::{Limits, Paces, Streams};
use crate::clock;
use crate::runtime::{Handle, View};
use crate::standing::{Order, Seated, Standing};

/// Set on a call that another member passed on: it is not passed on again.
pub const HOP: &str = "quorate-passed-on";
/// Header of an answer that was asked to be stale: how old what it rests on may be.
pub const STATE_AGE: &str = "quorate-state-age-ms";
/// A call without a deadline of its own.
const PATIENCE: Duration = Duration::from_secs(15);
/// Answers are given this much before the caller's deadline, so that they arrive.
const MARGIN: Duration = Duration::from_millis(5);
/// Between two looks at who leads while nobody does.
const LOOK: Duration = Duration::from_millis(50);
/// Nothing that travels between doors is larger.
pub const MESSAGE_BYTES: usize = 1 << 20;
/// Answers may be: a page of a thousand objects.
pub const ANSWER_BYTES: usize = 64 << 20;

/// The way in. Cheap to clone.
#[derive(Clone)]
pub struct Door(Arc<Inner>);

struct Inner {
    standing: watch::Receiver<Standing>,
    orders: mpsc::Sender<Order>,
    streams: Streams,
    paces: Paces,
    /// Connections to leaders' public APIs, by address.
    channels: Mutex<HashMap<Arc<str>, Channel>>,
}

/// What the headers of a call say about how to treat it.
#[derive(Clone, Copy)]
pub struct Manners {
    pub deadline: Instant,
    pub passed_on: bool,
}

/// Why a call could not be carried out here.
pub enum Failure {
    Final(Problem),
    /// Nothing happened; whoever leads can be asked.
    Moved,
    /// It may have happened.
    Unknown,
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Failure {
        Failure::Final(problem)
    }
}

impl From<ProposeError> for Failure {
    fn from(error: ProposeError) -> Failure {
        match error {
            ProposeError::NotLeader { .. } | ProposeError::NoQuorum => Failure::Moved,
            ProposeError::Lost => Failure::Unknown,
            other => Failure::Final(error::failed(&other, None)),
        }
    }
}

impl Manners {
    pub fn of(metadata: &MetadataMap) -> Manners {
        let given = metadata.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(timeout);
        let patience = given.map_or(PATIENCE, |given| given.saturating_sub(MARGIN));
        Manners { deadline: Instant::now() + patience, passed_on: metadata.contains_key(HOP) }
    }
}

/// The value of a `grpc-timeout` header. Source: gRPC over HTTP/2, "Timeout".
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let value: u64 = Some(digits).filter(|digits| (1..=8).contains(&digits.len()))?.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3_600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

impl Door {
    pub fn new(standing: watch::Receiver<Standing>, orders: mpsc::Sender<Order>, limits: &Limits) -> Door {
        let (streams, paces) = (Streams::new(limits.streams), Paces::new(limits));
        Door(Arc::new(Inner { standing, orders, streams, paces, channels: Mutex::default() }))
    }

    pub fn standing(&self) -> Standing {
        self.0.standing.borrow().clone()
    }

    pub fn streams(&self) -> &Streams {
        &self.0.streams
    }

    pub fn paces(&self) -> &Paces {
        &self.0.paces
    }

    /// The member that answers, if this process is one.
    pub fn seated(&self) -> Result<Arc<Seated>, Problem> {
        match &*self.0.standing.borrow() {
            Standing::Member(seated) => Ok(Arc::clone(seated)),
            other => Err(other.problem()),
        }
    }

    /// Asks the process itself to become something else.
    pub async fn order<T>(&self, order: impl FnOnce(Reply<T>) -> Order) -> Result<T, Problem> {
        let ending = || Problem::new(Code::Unavailable, "ending", "this member is being stopped");
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.0.orders.send(order(reply)).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())?
    }

    /// A request that becomes one command of the log.
    pub async fn mutate<Q, R>(
        &self,
        call: Request<Q>,
        path: &'static str,
        answer: fn(Done, Revision) -> R,
    ) -> Result<Response<R>, Status>
    where
        Q: Mutation + Message + Default + Clone + 'static,
        R: Message + Default + Send + 'static,
    {
        let manners = Manners::of(call.metadata());
        let mut request = call.into_inner();
        let identity = Identity::of(&mut request, self)?;
        let (id, paths) = (identity.id, request.paths());
        let made = self.led(manners, path, true, request, move |seated, request: Q| async move {
            let applied = change(&seated.handle, id, request).await?;
            match applied.outcome {
                Ok(done) => Ok(answer(done, applied.revision)),
                Err(refusal) => Err(Failure::Final(error::refused(&refusal, paths, &seated.handle.view()))),
            }
        });
        identity.said(made.await)
    }

    /// A look at the state: what this member has applied if `stale`, else nothing older than what anybody was told.
    pub async fn look<Q, R>(
        &self,
        call: Request<Q>,
        path: &'static str,
        stale: impl Fn(&Q) -> bool,
        show: fn(&Seated, &State, &Q) -> Result<R, Problem>,
    ) -> Result<Response<R>, Status>
    where
        Q: Message + Default + Clone + 'static,
        R: Message + Default + Send + 'static,
    {
        if stale(call.get_ref()) {
            let seated = self.seated().map_err(status)?;
            let view = seated.handle.view();
            let state = view.state.as_ref().ok_or_else(|| status(error::no_state()))?;
            let mut response = show(&seated, state, call.get_ref()).map(Response::new).map_err(status)?;
            response.metadata_mut().insert(STATE_AGE, age(&seated.handle));
            return Ok(response);
        }
        let manners = Manners::of(call.metadata());
        self.led(manners, path, true, call.into_inner(), move |seated, request: Q| async move {
            let state = seated.handle.read().await?;
            Ok(show(&seated, &state, &request)?)
        })
        .await
    }

    /// Carries a call out on whoever leads: here by `local`, else there. Tried again while that can do no harm.
    pub async fn led<Q, R, F>(
        &self,
        manners: Manners,
        path: &'static str,
        repeatable: bool,
        request: Q,
        local: impl Fn(Arc<Seated>, Q) -> F,
    ) -> Result<Response<R>, Status>
    where
        Q: Message + Default + Clone + 'static,
        R: Message + Default + Send + 'static,
        F: Future<Output = Result<R, Failure>>,
    {
        let attempts = async {
            loop {
                let seated = self.seated()?;
                let mut views = seated.handle.views();
                let view = Arc::clone(&views.borrow_and_update());
                let failure = if view.leads {
                    match local(Arc::clone(&seated), request.clone()).await {
                        Ok(reply) => return Ok(Response::new(reply)),
                        Err(failure) => failure,
                    }
                } else if manners.passed_on {
                    return Err(error::not_leader(leader(&view)));
                } else if let Some(leader) = leader(&view) {
                    match self.pass_on(leader, path, &manners, request.clone()).await {
                        Ok(reply) => return Ok(reply),
                        Err(failure) => failure,
                    }
                } else {
                    Failure::Moved
                };
                match failure {
                    Failure::Final(problem) => return Err(problem),
                    Failure::Unknown if !repeatable => return Err(error::failed(&ProposeError::Lost, None)),
                    Failure::Unknown | Failure::Moved => {}
                }
                // Whichever comes first; a view that can change no more belongs to a member that is ending.
                let _ = tokio::time::timeout(LOOK, views.changed()).await;
            }
        };
        let outcome = tokio::time::timeout_at(manners.deadline, attempts).await;
        outcome.unwrap_or_else(|_| Err(self.late())).map_err(status)
    }

    /// Why nothing came of it in time.
    fn late(&self) -> Problem {
        match self.seated() {
            Ok(seated) if seated.handle.view().leader.is_none() => error::no_quorum(),
            Ok(_) => error::deadline(),
            Err(problem) => problem,
        }
    }

    async fn pass_on<Q, R>(
        &self,
        leader: &Member,
        path: &'static str,
        manners: &Manners,
        request: Q,
    ) -> Result<Response<R>, Failure>
    where
        Q: Message + Default + 'static,
        R: Message + Default + Send + 'static,
    {
        let mut client =
            tonic::client::Grpc::new(self.channel(&leader.api_address)?).max_decoding_message_size(ANSWER_BYTES);
        client.ready().await.map_err(|_| Failure::Moved)?;
        let mut call = Request::new(request);
        mark(&mut call, manners);
        let codec: ProstCodec<Q, R> = ProstCodec::default();
        client.unary(call, PathAndQuery::from_static(path), codec).await.map_err(from_leader)
    }

    /// A connection to the public API of another member; connects when first used.
    pub fn channel(&self, address: &Arc<str>) -> Result<Channel, Failure> {
        if let Some(channel) = self.channels().get(address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| Failure::Moved)?;
        let channel = endpoint
            .connect_timeout(Duration::from_millis(500))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(2))
            .connect_lazy();
        self.channels().insert(Arc::clone(address), channel.clone());
        Ok(channel)
    }

    fn channels(&self) -> MutexGuard<'_, HashMap<Arc<str>, Channel>> {
        self.0.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Reply<T> = tokio::sync::oneshot::Sender<Result<T, Problem>>;

/// Says that the call was passed on, and how long is left for it.
pub fn mark<Q>(call: &mut Request<Q>, manners: &Manners) {
    call.metadata_mut().insert(HOP, "1".parse().expect("a digit"));
    call.set_timeout(manners.deadline.saturating_duration_since(Instant::now()));
}

/// What a refusal of the one who was thought to lead means here.
fn from_leader(refusal: Status) -> Failure {
    if was_never_sent(&refusal) {
        return Failure::Moved;
    }
    let problem = Problem::from(&refusal);
    match (refusal.code(), &*problem.reason) {
        (Code::Unavailable, error::NOT_LEADER | "no-quorum" | "no-state" | "no-cluster" | "quarantined") => {
            Failure::Moved
        }
        (Code::Unavailable | Code::Cancelled | Code::Unknown, _) => Failure::Unknown,
        _ => Failure::Final(problem),
    }
}

/// No connection came about: whoever was thought to lead has not heard of the call.
fn was_never_sent(refusal: &Status) -> bool {
    let mut cause = std::error::Error::source(refusal);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The leader this member knows, if it is another and can be asked.
pub fn leader(view: &View) -> Option<&Member> {
    let state = view.state.as_ref()?;
    state.member(view.leader?).map(|member| &**member).filter(|member| !member.api_address.is_empty())
}

/// Header of an answer, also of a refusal: the id that was drawn for a request that came without one.
const REQUEST_ID: &str = "quorate-request-id";

/// The id under which a request has its effect once.
pub struct Identity {
    pub id: RequestId,
    /// It was not the caller's choice.
    drawn: Option<String>,
}

impl Identity {
    /// Draws an id for a request without one: a change of leader is then no more than a delay to it either, and a caller
    /// that reads the answer of an unknown outcome can repeat it.
    pub fn of(request: &mut impl Identified, door: &Door) -> Result<Identity, Status> {
        let drawn = identify(request, door.seated().ok().and_then(|seated| forgotten(&seated.handle)));
        let id = request_id(request.request_id()).map_err(|error| status(error.into()))?;
        Ok(Identity { id, drawn })
    }

    /// The answer to that request, with the id that was drawn for it.
    pub fn said<R>(self, mut outcome: Result<Response<R>, Status>) -> Result<Response<R>, Status> {
        if let Some(id) = self.drawn.and_then(|id| MetadataValue::try_from(id).ok()) {
            match &mut outcome {
                Ok(response) => response.metadata_mut().insert(REQUEST_ID, id),
                Err(refusal) => refusal.metadata_mut().insert(REQUEST_ID, id),
            };
        }
        outcome
    }
}

/// Gives a request without an id one: a session of its own, born now.
pub fn identify(request: &mut impl Identified, forgotten: Option<SessionId>) -> Option<String> {
    let drawn = request.request_id().is_empty().then(|| behind(forgotten, Uuid::now_v7()).to_string())?;
    request.identify(drawn.clone());
    Some(drawn)
}

/// The last session whose requests would be refused as forgotten, as far as is known here.
pub fn forgotten(handle: &Handle) -> Option<SessionId> {
    handle.view().state.as_ref()?.sessions().horizon()
}

/// `drawn`, but born right after what is `forgotten` where this machine's clock lags so far behind those of others.
fn behind(forgotten: Option<SessionId>, drawn: Uuid) -> Uuid {
    match forgotten {
        Some(last) if drawn.as_u128() <= last.0 => {
            let born = SessionId::first_of(WallTime(last.born().0 + 1));
            Uuid::from_u128(born.0 | drawn.as_u128() & ((1 << 80) - 1))
        }
        _ => drawn,
    }
}

/// Looks the names up, proposes, waits. On the leader only.
pub async fn change<Q: Mutation + Clone>(handle: &Handle, id: RequestId, request: Q) -> Result<Applied, Failure> {
    let view = handle.view();
    let state = view.state.as_ref().ok_or(Failure::Moved)?;
    let command = match request.clone().command(state) {
        Ok(command) => command,
        Err(_) => match look_again(handle, id, request).await? {
            Ok(command) => command,
            Err(remembered) => return Ok(remembered),
        },
    };
    Ok(handle.propose(Some(id), command).await?)
}

/// A name that was not found may exist already for somebody else, and a repetition may name what its first time removed:
/// only a state that is as new as everything acknowledged can say no.
async fn look_again<Q: Mutation>(
    handle: &Handle,
    id: RequestId,
    request: Q,
) -> Result<Result<Command, Applied>, Failure> {
    let state = handle.read().await?;
    match request.command(&state) {
        Ok(command) => Ok(Ok(command)),
        Err(error) => match recall(&state, id) {
            Some(applied) => Ok(Err(applied)),
            None => Err(Failure::Final(error.into())),
        },
    }
}

/// What became of this request the first time.
pub fn recall(state: &State, id: RequestId) -> Option<Applied> {
    let (_, session) = state.sessions().iter().find(|(session, _)| **session == id.session)?;
    let remembered = session.results.get(&id.sequence)?;
    let (revision, outcome) = (remembered.revision, remembered.outcome.clone());
    Some(Applied { revision, outcome, events: Vec::new(), repeated: true })
}

/// Milliseconds since this member last heard from a leader or, if it leads, from a majority: what was decided since then
/// may be missing in its state.
fn age(handle: &Handle) -> MetadataValue<Ascii> {
    let heard = handle.status().leader_heard.map(|heard| clock::lease_clock().since(heard).as_millis());
    heard.map_or(MetadataValue::from_static("unknown"), MetadataValue::from)
}

/// What the leader sees of `node`; nothing on the others.
pub fn sight(handle: &Handle) -> impl Fn(NodeId) -> Sight + use<> {
    let status = handle.status();
    move |node| {
        status
            .nodes
            .get(&node)
            .map_or_else(Sight::default, |view| Sight { suspect: view.suspect, silent: view.majority_age })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 8,192 sessions of the last seconds are remembered: where a clock lags by more, every request counted as forgotten.
    #[test]
    fn an_id_drawn_by_a_clock_that_lags_is_not_among_the_forgotten() {
        let now = Uuid::now_v7();
        assert_eq!((behind(None, now), behind(Some(SessionId(now.as_u128() - 1)), now)), (now, now));
        let last = SessionId::first_of(WallTime(SessionId(now.as_u128()).born().0 + 10_000)).0 + 5;
        let drawn = behind(Some(SessionId(last)), now);
        assert!(drawn.as_u128() > last && drawn.get_version_num() == 7, "{drawn}");
        assert_eq!(drawn.as_u128() & ((1 << 80) - 1), now.as_u128() & ((1 << 80) - 1), "as random as it was");
        assert!(request_id(&drawn.to_string()).is_ok());
    }

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(timeout("100m"), Some(Duration::from_millis(100)));
        assert_eq!(timeout("2S"), Some(Duration::from_secs(2)));
        for bad in ["", "m", "5", "999999999S", "-1S", "1ä"] {
            assert_eq!(timeout(bad), None, "{bad:?}");
        }
    }
}

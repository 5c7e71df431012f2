//! Asks any member, follows the leader hint, and tries again with the same request id until the time is up.
//! In: requests. Out: the reply, or the last problem in full; events without gap or repetition.
//! A repetition has no second effect: the request id goes with the request, not with the attempt.

use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proto::v1::event_service_client::EventServiceClient;
use proto::v1::template_service_client::TemplateServiceClient;
use proto::{Problem, v1};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status, Streaming};
use uuid::Uuid;

use crate::output;
use crate::progress::patiently;
use crate::rpcs::{Ask, AskPaged, REPLY_MAX};

/// Pause between two rounds of all servers; short, for an election takes well below a second.
const PAUSE: Duration = Duration::from_millis(150);
/// The first attempt at each of several members; a frozen one costs so much, and a repetition has no second effect.
const ATTEMPT: Duration = Duration::from_millis(1_500);
/// Attempts grow to this: a slow disk, a long way.
const ATTEMPT_MAX: Duration = Duration::from_secs(6);
/// A watched member that is frozen, or cut off without a goodbye, is noticed within twice this.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Items asked for at once; the server's limit is 1000.
const PAGE: u32 = 500;
/// Header of a stale answer.
const STATE_AGE: &str = "quorate-state-age-ms";
/// An import that ends so often before it began ends for another reason than a change of leader.
const IMPORTS_IN_VAIN: u32 = 5;
/// The reason of a member that keeps no events so old: it may have been started lately.
const COMPACTED: &str = "compacted";
/// The reason of a change of members that waits for the one before it, or for a voter to keep up.
const NOT_NOW: &str = "not-now";

pub struct Client {
    within: Duration,
    session: Uuid,
    requests: AtomicU64,
    channels: Mutex<BTreeMap<String, Channel>>,
    /// Whom to ask, in this order: the one that answered last is first, those that failed are last.
    servers: Mutex<Vec<String>>,
    /// How old what was answered from may be, where it was asked to be stale.
    stale: Mutex<Option<String>>,
    /// The id of the first change asked for, where the user chose it.
    chosen_id: Mutex<Option<String>>,
}

/// A call that did not work out, with where it was tried.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Problem(#[from] Problem),
    #[error("no member could do it within {:.1} s (asked {servers}): {last}", within.as_secs_f64())]
    Unreachable {
        servers: String,
        within: Duration,
        last: Problem,
        /// The id of a change that was sent and may have been made.
        uncertain: Option<String>,
    },
}

impl Failure {
    pub fn problem(&self) -> &Problem {
        match self {
            Failure::Problem(problem) => problem,
            Failure::Unreachable { last, .. } => last,
        }
    }
}

/// What an attempt says about the next one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outlook {
    /// This is the answer.
    Final,
    /// This member takes no part, or keeps no events so old, and time changes nothing about it; another one may.
    Elsewhere,
    /// It may go better soon. `sent`: this attempt may have had its effect all the same.
    Soon { sent: bool },
}

impl Client {
    /// `servers`: `host:port` of public APIs, at least one. `within`: how long a call is tried.
    pub fn new(servers: Vec<String>, within: Duration) -> Client {
        Client {
            within,
            session: Uuid::now_v7(),
            requests: AtomicU64::new(0),
            channels: Mutex::default(),
            servers: Mutex::new(servers),
            stale: Mutex::default(),
            chosen_id: Mutex::default(),
        }
    }

    /// The first change asked for gets this id.
    pub fn choose_id(self, id: Option<String>) -> Client {
        *self.chosen_id.lock().expect("never held over a panic") = id;
        self
    }

    pub fn servers(&self) -> Vec<String> {
        self.servers.lock().expect("never held over a panic").clone()
    }

    /// A new request id of this client's session, or the one that was chosen.
    pub fn request_id(&self) -> String {
        let chosen = self.chosen_id.lock().expect("never held over a panic").take();
        chosen.unwrap_or_else(|| format!("{}/{}", self.session, self.requests.fetch_add(1, Ordering::Relaxed)))
    }

    /// The answer to `request`; a change that has no request id yet gets one.
    pub async fn ask<A: Ask>(&self, mut request: A) -> Result<A::Reply, Failure> {
        let id = request.request_id().map(|id| {
            if id.is_empty() {
                *id = self.request_id();
            }
            id.clone()
        });
        self.call(id, |channel, left| request.clone().send(channel, left)).await
    }

    /// The answer to `request` with all its pages.
    pub async fn ask_all<A: AskPaged>(&self, mut request: A) -> Result<A::Reply, Failure> {
        let pages = async {
            request.page().get_or_insert_default().size = PAGE;
            let mut whole = self.ask(request.clone()).await?;
            while !A::next_token(&whole).is_empty() {
                request.page().get_or_insert_default().token = A::next_token(&whole).to_owned();
                let page = self.ask(request.clone()).await?;
                A::append(&mut whole, page);
            }
            Ok(whole)
        };
        patiently(|| self.asking(), pages).await
    }

    /// What happens from revision `from` on (not 0), for as long as the caller listens.
    pub fn watch(&self, from: u64, filter: v1::EventFilter) -> Watch<'_> {
        Watch { client: self, filter, next: from, stream: None }
    }

    fn asking(&self) -> String {
        format!("asking {}", self.servers().join(", "))
    }

    /// Imports a template; `tell` hears how far it is, and the last message is given back. Begun anew, under the same id, when
    /// a change of leader ends it: what is on the storage is not read again.
    pub async fn import(
        &self,
        mut request: v1::ImportTemplateRequest,
        tell: impl FnMut(&v1::ImportTemplateReply),
    ) -> Result<v1::ImportTemplateReply, Failure> {
        if request.request_id.is_empty() {
            request.request_id = self.request_id();
        }
        let id = request.request_id.clone();
        let call = |channel| {
            let request = request.clone();
            async move { TemplateServiceClient::new(channel).import(request).await }
        };
        self.outlast(Some(id), call, v1::ImportTemplateReply::phase, tell).await
    }

    /// Has a template read again; the same. Begun anew when a change of leader ends it.
    pub async fn verify(
        &self,
        request: v1::VerifyTemplateRequest,
        tell: impl FnMut(&v1::VerifyTemplateReply),
    ) -> Result<v1::VerifyTemplateReply, Failure> {
        let call = |channel| {
            let request = request.clone();
            async move { TemplateServiceClient::new(channel).verify(request).await }
        };
        self.outlast(None, call, v1::VerifyTemplateReply::phase, tell).await
    }

    /// Has templates brought to nodes; the same. What was brought is not brought again.
    pub async fn sync(
        &self,
        mut request: v1::SyncTemplatesRequest,
        tell: impl FnMut(&v1::SyncTemplatesReply),
    ) -> Result<v1::SyncTemplatesReply, Failure> {
        let id = self.request_id();
        request.request_id.clone_from(&id);
        let call = |channel| {
            let request = request.clone();
            async move { TemplateServiceClient::new(channel).sync(request).await }
        };
        self.outlast(Some(id), call, v1::SyncTemplatesReply::phase, tell).await
    }

    /// The last message of a call that lasts, and is begun anew when it ends before.
    async fn outlast<R, Made>(
        &self,
        id: Option<String>,
        call: impl Fn(Channel) -> Made,
        phase: impl Fn(&R) -> v1::ImportPhase,
        mut tell: impl FnMut(&R),
    ) -> Result<R, Failure>
    where
        Made: Future<Output = Result<Response<Streaming<R>>, Status>>,
    {
        let mut in_vain = 0;
        loop {
            let mut replies = self.call(id.clone(), |channel, _| call(channel)).await?;
            let status = loop {
                match replies.message().await {
                    Ok(Some(reply)) if phase(&reply) == v1::ImportPhase::Done => return Ok(reply),
                    Ok(Some(reply)) => {
                        if !matches!(phase(&reply), v1::ImportPhase::Waiting | v1::ImportPhase::Unspecified) {
                            in_vain = 0;
                        }
                        tell(&reply);
                    }
                    Ok(None) => break Status::unavailable("the stream ended"),
                    Err(status) => break status,
                }
            };
            let problem = Problem::from(&status);
            in_vain += 1;
            if outlook(&status, &problem) == Outlook::Final || in_vain == IMPORTS_IN_VAIN {
                return Err(problem.into());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn call<R, Made>(&self, id: Option<String>, call: impl Fn(Channel, Duration) -> Made) -> Result<R, Failure>
    where
        Made: Future<Output = Result<Response<R>, Status>>,
    {
        patiently(|| self.asking(), self.calls(id, call)).await
    }

    /// Makes the call on one member after another until one answers with more than "not me" or "not now".
    async fn calls<R, Made>(&self, id: Option<String>, call: impl Fn(Channel, Duration) -> Made) -> Result<R, Failure>
    where
        Made: Future<Output = Result<Response<R>, Status>>,
    {
        let began = Instant::now();
        let mut uncertain = false;
        let mut last = Problem::new(Code::Unavailable, "unreachable", "there was no time to ask");
        let mut has_spoken = false;
        let mut hinted = None;
        let mut attempt = ATTEMPT;
        loop {
            let servers = self.servers();
            // Who has nobody else to ask gains nothing by giving up.
            let at_most = if servers.len() == 1 { self.within } else { attempt };
            attempt = (attempt * 2).min(ATTEMPT_MAX);
            let round: Vec<String> = hinted.take().into_iter().chain(servers).collect();
            let mut nobody_takes_part = true;
            for server in round {
                let left = self.within.saturating_sub(began.elapsed()).min(at_most);
                if left.is_zero() {
                    break;
                }
                let made = call(self.channel(&server)?, left);
                let answer = tokio::time::timeout(left, made).await;
                let status = match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))) {
                    Ok(reply) => {
                        if let Some(age) = reply.metadata().get(STATE_AGE).and_then(|age| age.to_str().ok()) {
                            let note = stale_note(&server, age.parse().ok());
                            *self.stale.lock().expect("never held over a panic") = Some(note);
                        }
                        self.prefer(&server);
                        return Ok(reply.into_inner());
                    }
                    Err(status) => status,
                };
                let problem = told(&status);
                match outlook(&status, &problem) {
                    Outlook::Final => return Err(problem.into()),
                    Outlook::Elsewhere => self.put_last(&server),
                    Outlook::Soon { sent } => {
                        uncertain |= sent;
                        nobody_takes_part = false;
                    }
                }
                let leader = problem.leader.as_deref().filter(|leader| *leader != server).map(str::to_owned);
                // What a member said tells more than that another one is not there.
                if status.source().is_none() || !has_spoken {
                    has_spoken |= status.source().is_none();
                    last = problem;
                }
                if leader.is_some() {
                    hinted = leader;
                    break;
                }
                if hinted.is_none() {
                    self.forget(&server);
                }
            }
            if nobody_takes_part && began.elapsed() < self.within {
                return Err(last.into());
            }
            if began.elapsed() >= self.within {
                // It was heard and answered, and what it waits for did not pass.
                if &*last.reason == NOT_NOW {
                    return Err(last.into());
                }
                let servers = self.servers().join(", ");
                let uncertain = id.filter(|_| uncertain);
                return Err(Failure::Unreachable { servers, within: self.within, last, uncertain });
            }
            let pause = last.retry_after.unwrap_or(PAUSE).min(self.within.saturating_sub(began.elapsed()));
            tokio::time::sleep(pause).await;
        }
    }

    /// Says how old the last stale answer may be, once.
    pub fn take_stale_note(&self) -> Option<String> {
        self.stale.lock().expect("never held over a panic").take()
    }

    fn prefer(&self, server: &str) {
        let mut servers = self.servers.lock().expect("never held over a panic");
        if let Some(at) = servers.iter().position(|it| it == server) {
            servers[..=at].rotate_right(1);
        }
    }

    /// Asks it after all others, on a new connection.
    fn put_last(&self, server: &str) {
        self.forget(server);
        let mut servers = self.servers.lock().expect("never held over a panic");
        if let Some(at) = servers.iter().position(|it| it == server) {
            servers[at..].rotate_left(1);
        }
    }

    /// A new connection the next time: the old one may wait out a pause that grows.
    fn forget(&self, server: &str) {
        self.channels.lock().expect("never held over a panic").remove(server);
    }

    fn channel(&self, server: &str) -> Result<Channel, Problem> {
        let mut channels = self.channels.lock().expect("never held over a panic");
        if let Some(channel) = channels.get(server) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{server}"))
            .map_err(|error| Problem::invalid("server", format!("{server:?} is no address: {error}")))?
            .connect_timeout(Duration::from_secs(1))
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .tcp_nodelay(true);
        let channel = endpoint.connect_lazy();
        channels.insert(server.to_owned(), channel.clone());
        Ok(channel)
    }
}

/// For people; `age` in milliseconds.
fn stale_note(server: &str, age: Option<u64>) -> String {
    match age {
        Some(0) => format!("stale: as {server} knows it, which leads"),
        Some(age) => format!("stale: as {server} knows it, which last heard from a leader {} ago", output::time(age)),
        None => format!("stale: as {server} knows it, which has heard from no leader since it started"),
    }
}

fn outlook(status: &Status, problem: &Problem) -> Outlook {
    match (&*problem.reason, problem.code) {
        ("no-cluster" | "quarantined" | "removed" | COMPACTED, _) => Outlook::Elsewhere,
        ("not-leader" | "no-quorum" | "no-state" | "overloaded" | "rate-limited" | NOT_NOW, _) => {
            Outlook::Soon { sent: false }
        }
        (_, Code::Unavailable | Code::DeadlineExceeded) => Outlook::Soon { sent: !is_refused_connection(status) },
        // What has a source was made here, from a connection that broke; a server's answer has none.
        _ if status.source().is_some() => Outlook::Soon { sent: true },
        _ => Outlook::Final,
    }
}

/// What a status says; of a connection that was not made or broke, what the system says about it.
fn told(status: &Status) -> Problem {
    let mut problem = Problem::from(status);
    let mut source = status.source();
    while let Some(error) = source {
        problem.message = error.to_string().into();
        source = error.source();
    }
    problem
}

/// Nothing was sent: nobody listens there.
fn is_refused_connection(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.downcast_ref::<std::io::Error>().is_some_and(|it| it.kind() == std::io::ErrorKind::ConnectionRefused) {
            return true;
        }
        source = error.source();
    }
    false
}

/// Events from one revision on, through whichever member serves them: no gap, no repetition.
pub struct Watch<'a> {
    client: &'a Client,
    filter: v1::EventFilter,
    /// The first revision that has not been seen.
    next: u64,
    stream: Option<Streaming<v1::WatchReply>>,
}

impl Watch<'_> {
    /// All events of one revision, or a mark of progress without any. Errs when no member answers in the time of a call, or
    /// with `compacted` when no member keeps the events. Dropped before it is ready, it has taken nothing.
    pub async fn next(&mut self) -> Result<v1::WatchReply, Failure> {
        let mut refusals = 0;
        loop {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                none => none.insert(open(self.client, self.next, &self.filter).await?),
            };
            let status = match stream.message().await {
                Ok(Some(reply)) if reply.revision < self.next => continue,
                Ok(Some(reply)) => {
                    self.next = reply.revision + 1;
                    return Ok(reply);
                }
                Ok(None) => Status::unavailable("the stream ended"),
                Err(status) => status,
            };
            self.stream = None;
            let problem = Problem::from(&status);
            let broke = matches!(problem.code, Code::Cancelled | Code::Unknown | Code::Internal);
            match outlook(&status, &problem) {
                Outlook::Final if !broke => return Err(problem.into()),
                Outlook::Elsewhere => refusals += 1,
                _ => {}
            }
            if refusals >= self.client.servers().len() {
                return Err(problem.into());
            }
            if let Some(server) = self.client.servers().first() {
                self.client.put_last(server);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn open(client: &Client, from: u64, filter: &v1::EventFilter) -> Result<Streaming<v1::WatchReply>, Failure> {
    let request = v1::WatchRequest { from_revision: from, filter: Some(filter.clone()) };
    let call = |channel, _| {
        let request = request.clone();
        async move { EventServiceClient::new(channel).max_decoding_message_size(REPLY_MAX).watch(request).await }
    };
    client.call(None, call).await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prost::Message;

    use super::*;
    use crate::fake;

    fn client(servers: &[&str]) -> Client {
        Client::new(servers.iter().map(|it| (*it).to_owned()).collect(), Duration::from_secs(1))
    }

    #[test]
    fn the_one_that_answers_is_asked_first_and_the_one_that_fails_last() {
        let client = client(&["a:1", "b:1", "c:1"]);
        client.prefer("b:1");
        assert_eq!(client.servers(), ["b:1", "a:1", "c:1"]);
        client.prefer("stranger:1");
        client.put_last("b:1");
        assert_eq!(client.servers(), ["a:1", "c:1", "b:1"]);
    }

    #[test]
    fn request_ids_count_within_a_session_and_the_chosen_one_is_used_once() {
        let client = client(&["a:1"]).choose_id(Some("mine".into()));
        assert_eq!(client.request_id(), "mine");
        let (first, second) = (client.request_id(), client.request_id());
        assert_eq!((first.split('/').nth(1), second.split('/').nth(1)), (Some("0"), Some("1")));
        assert_eq!(first.split('/').next(), second.split('/').next());
    }

    #[test]
    fn a_stale_answer_says_how_old_it_may_be() {
        assert!(stale_note("a:1", Some(1_500)).ends_with("last heard from a leader 1.5 s ago"));
        assert!(stale_note("a:1", None).contains("no leader since it started"));
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let of = |problem: Problem| {
            let status = Status::from(problem.clone());
            outlook(&status, &problem)
        };
        let problem = |code, reason: &str| Problem::new(code, reason, "text");
        assert!(of(problem(Code::Unavailable, "no-quorum")) == Outlook::Soon { sent: false });
        assert!(of(problem(Code::Unavailable, "lost")) == Outlook::Soon { sent: true });
        assert!(of(problem(Code::Unavailable, "quarantined")) == Outlook::Elsewhere);
        assert!(of(problem(Code::OutOfRange, "compacted")) == Outlook::Elsewhere);
        assert!(of(problem(Code::ResourceExhausted, "overloaded")) == Outlook::Soon { sent: false });
        assert!(of(problem(Code::FailedPrecondition, "not-now")) == Outlook::Soon { sent: false });
        assert!(of(problem(Code::Aborted, "stale-incarnation")) == Outlook::Final);
        assert!(of(problem(Code::Internal, "internal")) == Outlook::Final);
    }

    #[tokio::test]
    async fn nobody_there_is_said_with_the_addresses_and_nothing_was_sent() {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
        let client = Client::new(vec![gone.to_string()], Duration::from_millis(200));
        let failure = client.ask(v1::CordonRequest::default()).await.expect_err("nobody listens");
        assert!(matches!(&failure, Failure::Unreachable { uncertain: None, .. }), "{failure:?}");
        let said = failure.to_string();
        assert!(said.contains(&gone.to_string()) && said.contains("Connection refused"), "{said}");
    }

    fn replies(revisions: &[u64]) -> Vec<Vec<u8>> {
        let of = |revision: &u64| v1::WatchReply { revision: *revision, events: Vec::new() }.encode_to_vec();
        revisions.iter().map(of).collect()
    }

    /// The revisions that came, and the error that ended it.
    async fn watched(servers: Vec<String>, from: u64) -> (Vec<u64>, Failure) {
        let client = Client::new(servers, Duration::from_secs(20));
        let mut watch = client.watch(from, v1::EventFilter::default());
        let mut seen = Vec::new();
        loop {
            match watch.next().await {
                Ok(reply) => seen.push(reply.revision),
                Err(failure) => return (seen, failure),
            }
        }
    }

    #[tokio::test]
    async fn a_broken_watch_goes_on_without_gap_or_repetition_wherever_it_is_served() {
        let compacted = || Status::from(Problem::new(Code::OutOfRange, "compacted", "gone"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let told = asked.clone();
        // Serves two streams that break, the second with a message the first had; then it has forgotten.
        let member = fake::member(move |_, request| {
            let from = v1::WatchRequest::decode(request).expect("a watch").from_revision;
            told.lock().expect("no panic").push(from);
            match from {
                7 => (replies(&[7, 9]), Err(Status::internal("broken"))),
                10 => (replies(&[9, 10]), Ok(())),
                _ => (Vec::new(), Err(compacted())),
            }
        })
        .await;
        let started_lately = fake::member(move |_, _| (Vec::new(), Err(compacted()))).await;
        let (seen, failure) = watched(vec![started_lately, member], 7).await;
        assert_eq!(seen, [7, 9, 10]);
        assert_eq!(&*failure.problem().reason, "compacted");
        assert_eq!(asked.lock().expect("no panic")[..2], [7, 10]);
    }

    #[tokio::test]
    async fn a_change_is_repeated_elsewhere_under_the_same_id() {
        let ids = Arc::new(Mutex::new(Vec::new()));
        let answering = |status: fn() -> Result<(), Status>| {
            let told = ids.clone();
            fake::member(move |_, request| {
                let request = v1::CordonRequest::decode(request).expect("a cordon");
                told.lock().expect("no panic").push(request.request_id);
                (vec![v1::Change { revision: 5 }.encode_to_vec()], status())
            })
        };
        let lost = answering(|| Err(Problem::new(Code::Unavailable, "lost", "leadership moved").into())).await;
        let leader = answering(|| Ok(())).await;
        let client = Client::new(vec![lost, leader.clone()], Duration::from_secs(20));
        let change = client.ask(v1::CordonRequest::default()).await.expect("the second does it");
        assert_eq!((change.revision, client.servers().first()), (5, Some(&leader)));
        let ids = ids.lock().expect("no panic");
        assert!(ids.len() == 2 && ids[0] == ids[1] && !ids[0].is_empty(), "{ids:?}");
    }
}

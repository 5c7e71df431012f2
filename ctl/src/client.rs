//! Asks any member, follows the leader hint, and tries again with the same request id until the time is up.
//! In: one closure per call that makes it on a channel. Out: the reply, or the last problem in full.
//! A repetition has no second effect: the request id goes with the request, not with the attempt.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proto::Problem;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};
use uuid::Uuid;

/// Pause between two rounds of all servers; short, for an election takes well below a second.
const PAUSE: Duration = Duration::from_millis(150);
/// One attempt: long enough for a slow disk, short enough to try another member within most time limits.
const ATTEMPT: Duration = Duration::from_secs(5);

pub struct Client {
    servers: Vec<String>,
    within: Duration,
    session: Uuid,
    requests: AtomicU64,
    channels: Mutex<BTreeMap<String, Channel>>,
    /// The server that answered last: asked first.
    preferred: Mutex<Option<String>>,
}

/// A call that did not work out, with where it was tried.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Problem(#[from] Problem),
    #[error("no member answered within {} s (tried {servers}); is one running there? {last}", within.as_secs())]
    Unreachable { servers: String, within: Duration, last: Problem },
}

impl Failure {
    pub fn problem(&self) -> &Problem {
        match self {
            Failure::Problem(problem) => problem,
            Failure::Unreachable { last, .. } => last,
        }
    }
}

impl Client {
    /// `servers`: `host:port` of public APIs, at least one.
    pub fn new(servers: Vec<String>, within: Duration) -> Client {
        Client {
            servers,
            within,
            session: Uuid::now_v7(),
            requests: AtomicU64::new(0),
            channels: Mutex::default(),
            preferred: Mutex::default(),
        }
    }

    pub fn servers(&self) -> &[String] {
        &self.servers
    }

    /// A new request id of this client's session.
    pub fn request_id(&self) -> String {
        format!("{}/{}", self.session, self.requests.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes the call on one member after another until one answers with more than "not me" or "not now".
    pub async fn call<R, F, Made>(&self, call: F) -> Result<R, Failure>
    where
        F: Fn(Channel) -> Made,
        Made: Future<Output = Result<Response<R>, Status>>,
    {
        let began = Instant::now();
        let mut last = None;
        let mut hinted = None;
        loop {
            for server in self.order(hinted.take()) {
                let attempt = self.channel(&server).map(&call);
                let answer = match attempt {
                    Ok(made) => tokio::time::timeout(ATTEMPT, made)
                        .await
                        .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))),
                    Err(problem) => Err(problem.into()),
                };
                match answer {
                    Ok(reply) => {
                        *self.preferred.lock().expect("never held over a panic") = Some(server);
                        return Ok(reply.into_inner());
                    }
                    Err(status) => {
                        let problem = Problem::from(&status);
                        if !is_passing(&problem) {
                            return Err(problem.into());
                        }
                        if problem.code == Code::Unavailable && problem.leader.is_none() {
                            self.channels.lock().expect("never held over a panic").remove(&server);
                        }
                        let leader = problem.leader.as_deref().filter(|leader| *leader != server).map(str::to_owned);
                        last = Some(problem);
                        if leader.is_some() {
                            hinted = leader;
                            break;
                        }
                    }
                }
                if began.elapsed() >= self.within {
                    break;
                }
            }
            if began.elapsed() >= self.within {
                let last = last.unwrap_or_else(|| Problem::new(Code::Unavailable, "unreachable", "no server is named"));
                let servers = self.servers.join(", ");
                return Err(Failure::Unreachable { servers, within: self.within, last });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// A channel to the member that answered last, for streams.
    pub async fn stream<R, F, Made>(&self, call: F) -> Result<R, Failure>
    where
        F: Fn(Channel) -> Made,
        Made: Future<Output = Result<Response<R>, Status>>,
    {
        self.call(call).await
    }

    fn order(&self, hinted: Option<String>) -> Vec<String> {
        let preferred = self.preferred.lock().expect("never held over a panic").clone();
        let mut order: Vec<String> = hinted.into_iter().chain(preferred).collect();
        for server in &self.servers {
            if !order.contains(server) {
                order.push(server.clone());
            }
        }
        order
    }

    fn channel(&self, server: &str) -> Result<Channel, Problem> {
        let mut channels = self.channels.lock().expect("never held over a panic");
        if let Some(channel) = channels.get(server) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{server}"))
            .map_err(|error| Problem::invalid("server", format!("{server:?} is no address: {error}")))?
            .connect_timeout(Duration::from_secs(1))
            .tcp_nodelay(true);
        let channel = endpoint.connect_lazy();
        channels.insert(server.to_owned(), channel.clone());
        Ok(channel)
    }
}

/// Whether another attempt, with the same request id, may go better.
fn is_passing(problem: &Problem) -> bool {
    matches!(problem.code, Code::Unavailable | Code::DeadlineExceeded | Code::Aborted) && &*problem.reason != "quarantined"
}

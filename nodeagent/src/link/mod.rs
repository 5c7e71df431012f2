//! The door of the node: heartbeats to every voter, a session with the leader.
//! In: the mind's words. Out: what members answer, as `Input`s. The two never share a connection, so that a large desired
//! set or a slow disk at the leader's never delays a heartbeat.
//! Absent: no decision; what is lost is said again by the mind.

pub mod leader;
pub mod members;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proto::convert::ConvertError;
use proto::wire;
use tonic::transport::{Channel, Endpoint};

use crate::identity::Identity;

/// Longest wait between two tries to reach a member, and the shortest. Safety.md: "stays below one second".
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_LAST: Duration = Duration::from_millis(800);
/// A member that does not even take the connection within this is not there.
const CONNECT_WITHIN: Duration = Duration::from_millis(700);

/// Why a conversation with a member ended or never began.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("{address} is no address")]
    Address { address: String, source: tonic::transport::Error },
    #[error("connect to {address}")]
    Connect { address: String, source: tonic::transport::Error },
    #[error("{operation} {address}: {code:?}: {text}")]
    Call { operation: &'static str, address: String, code: tonic::Code, text: String },
    #[error("{address} did not answer in time")]
    Silent { address: String },
    #[error("{address} closed the stream")]
    Closed { address: String },
    #[error("{address} refuses this node: {reason}: {text}")]
    Refused { address: String, reason: String, text: String },
    #[error("{address} says what cannot be read")]
    Words { address: String, source: ConvertError },
}

impl LinkError {
    fn call(operation: &'static str, address: &str, status: tonic::Status) -> LinkError {
        let (code, text) = (status.code(), status.message().to_owned());
        LinkError::Call { operation, address: address.to_owned(), code, text }
    }
}

/// What opens every stream.
pub fn hello(identity: &Identity) -> wire::AgentHello {
    wire::AgentHello {
        cluster: identity.cluster.0.to_be_bytes().to_vec().into(),
        generation: identity.generation.number,
        node: identity.node.0,
        secret: identity.secret.clone().into(),
        feature_level: proto::FEATURE_LEVEL,
        generation_id: proto::convert::generation_id(identity.generation),
    }
}

/// A connection of its own, made now.
async fn connect(endpoint: Endpoint, address: &str) -> Result<Channel, LinkError> {
    let endpoint = endpoint.connect_timeout(CONNECT_WITHIN).tcp_nodelay(true);
    match tokio::time::timeout(CONNECT_WITHIN, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(source)) => Err(LinkError::Connect { address: address.to_owned(), source }),
        Err(_) => Err(LinkError::Silent { address: address.to_owned() }),
    }
}

fn endpoint(address: &str) -> Result<Endpoint, LinkError> {
    Endpoint::from_shared(format!("http://{address}"))
        .map_err(|source| LinkError::Address { address: address.to_owned(), source })
}

/// The pause before the next try, doubling up to the longest.
#[derive(Debug)]
struct Pause(Duration);

impl Pause {
    fn new() -> Pause {
        Pause(PAUSE_FIRST)
    }

    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(PAUSE_LAST);
        pause
    }
}

/// Since when each address owes an answer to a heartbeat: how the leader's session learns that its member fell silent
/// without waiting for a connection to break.
#[derive(Clone, Default)]
pub struct Pulse(Arc<Mutex<BTreeMap<String, Instant>>>);

impl Pulse {
    fn owes(&self, address: &str, since: Instant) {
        self.lock().entry(address.to_owned()).or_insert(since);
    }

    fn answered(&self, address: &str) {
        self.lock().remove(address);
    }

    /// How long `address` has owed an answer; zero when it owes none.
    fn silence(&self, address: &str) -> Duration {
        self.lock().get(address).map_or(Duration::ZERO, Instant::elapsed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Instant>> {
        self.0.lock().expect("nothing panics while it holds the pulse")
    }
}

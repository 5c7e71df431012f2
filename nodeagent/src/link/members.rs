//! Heartbeats to every voter, each over a small connection of its own that carries nothing else.
//! In: heartbeats. Out: `Input::Reply`. Only the newest heartbeat waits for a connection that is slow or gone: a lease
//! counts from the send, so an older one is worth nothing any more.
//! Absent: who is a voter and when to send; the mind says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cluster::MemberId;
use cluster::agent::{Heartbeat, HeartbeatReply, MembershipIdentity};
use decide::{Audience, Input};
use futures_util::Stream;
use proto::wire::agents_client::AgentsClient;
use proto::wire::{self, heartbeat_down, heartbeat_up};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant as Wake, sleep, sleep_until, timeout};

use super::{CONNECT_WITHIN, LinkError, Pause, Pulse, connect, endpoint};

/// A member that owes an answer for this long may sit behind a dead connection: another one is tried.
const ANSWER_WITHIN: Duration = Duration::from_millis(1_000);
/// The smallest a window may be; a heartbeat and its answer are far below.
const WINDOW_BYTES: u32 = 65_535;
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// The connections to the members.
pub struct Members {
    hello: wire::AgentHello,
    inputs: mpsc::UnboundedSender<Input>,
    pulse: Pulse,
    /// By address.
    connections: BTreeMap<String, Connection>,
    /// Which member answered where; before the first membership there are only addresses.
    answered: Arc<Mutex<BTreeMap<MemberId, String>>>,
}

struct Connection {
    newest: watch::Sender<Option<Heartbeat>>,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Members {
    /// Connects to `seeds` until a membership is known. To be called within the runtime that heartbeats belong to.
    pub fn new(
        hello: wire::AgentHello,
        seeds: &[String],
        inputs: mpsc::UnboundedSender<Input>,
        pulse: Pulse,
    ) -> Members {
        let mut members = Members { hello, inputs, pulse, connections: BTreeMap::new(), answered: Arc::default() };
        members.reach(seeds.iter().cloned());
        members
    }

    /// Reaches exactly the voters of `membership` from now on. Connections that stay are not touched.
    pub fn follow(&mut self, membership: &MembershipIdentity) {
        let addresses: Vec<String> = membership.addresses.iter().map(|(_, address)| address.to_string()).collect();
        if addresses.is_empty() {
            return;
        }
        *self.answered() =
            membership.addresses.iter().map(|(member, address)| (*member, address.to_string())).collect();
        self.reach(addresses.into_iter());
    }

    /// Reaches `address` as well, until the next membership is followed. A node that was cut off while every voter it knew
    /// was replaced finds the leader by another way, and the leader's acknowledgement tells it who votes now.
    pub fn also(&mut self, address: String) {
        if !self.connections.contains_key(&address) {
            let connection = self.begin(address.clone());
            self.connections.insert(address, connection);
        }
    }

    /// Hands the heartbeat to the connections; never waits.
    pub fn send(&mut self, to: Audience, heartbeat: Heartbeat) {
        match to {
            Audience::Voters => {
                for connection in self.connections.values() {
                    connection.newest.send_replace(Some(heartbeat));
                }
            }
            Audience::Member(member) => {
                let address = self.answered().get(&member).cloned();
                if let Some(connection) = address.and_then(|address| self.connections.get(&address)) {
                    connection.newest.send_replace(Some(heartbeat));
                }
            }
        }
    }

    fn reach(&mut self, addresses: impl Iterator<Item = String>) {
        let mut old = std::mem::take(&mut self.connections);
        for address in addresses.collect::<BTreeSet<_>>() {
            let connection = old.remove(&address).unwrap_or_else(|| self.begin(address.clone()));
            self.connections.insert(address, connection);
        }
        for address in old.keys() {
            self.pulse.answered(address);
        }
    }

    fn begin(&self, address: String) -> Connection {
        let (newest, heartbeats) = watch::channel(None);
        let conversation = Conversation {
            address,
            hello: self.hello.clone(),
            heartbeats,
            inputs: self.inputs.clone(),
            pulse: self.pulse.clone(),
            answered: self.answered.clone(),
        };
        Connection { newest, task: tokio::spawn(conversation.keep_up()) }
    }

    fn answered(&self) -> std::sync::MutexGuard<'_, BTreeMap<MemberId, String>> {
        self.answered.lock().expect("nothing panics while it holds the addresses")
    }
}

/// One member's side of it.
struct Conversation {
    address: String,
    hello: wire::AgentHello,
    heartbeats: watch::Receiver<Option<Heartbeat>>,
    inputs: mpsc::UnboundedSender<Input>,
    pulse: Pulse,
    answered: Arc<Mutex<BTreeMap<MemberId, String>>>,
}

impl Conversation {
    async fn keep_up(mut self) {
        let mut pause = Pause::new();
        let mut said = String::new();
        loop {
            let (answers, error) = self.hold().await;
            if answers > 0 {
                pause = Pause::new();
                said.clear();
            }
            // One line per change, not one per try.
            let why = crate::chain(&error);
            if why != said {
                tracing::warn!(peer = self.address, error = why, "heartbeats interrupted");
                said = why;
            }
            sleep(pause.next()).await;
        }
    }

    /// One connection, from its first try to its end: how many answers it brought and why it ended.
    async fn hold(&mut self) -> (u64, LinkError) {
        let mut answers = 0;
        match self.converse(&mut answers).await {
            Err(error) => (answers, error),
            Ok(never) => match never {},
        }
    }

    async fn converse(&mut self, answers: &mut u64) -> Result<std::convert::Infallible, LinkError> {
        let address = self.address.clone();
        let endpoint =
            endpoint(&address)?.initial_stream_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
        let channel = connect(endpoint, &address).await?;
        let mut client = AgentsClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        // What was sent while there was no connection is still worth its answer, unless it had one.
        self.heartbeats.mark_changed();
        let outgoing = outgoing(self.hello.clone(), self.heartbeats.clone());
        let opening = timeout(CONNECT_WITHIN, client.heartbeats(outgoing));
        let mut incoming = match opening.await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return Err(LinkError::call("open heartbeats at", &address, status)),
            Err(_) => return Err(LinkError::Silent { address }),
        };
        let mut owed: Option<Instant> = None;
        loop {
            let due = owed.map_or_else(|| Instant::now() + ANSWER_WITHIN, |since| since + ANSWER_WITHIN);
            tokio::select! {
                message = incoming.message() => {
                    let message = message.map_err(|status| LinkError::call("hear from", &address, status))?;
                    let down = message.and_then(|down| down.message);
                    self.hear(down.ok_or_else(|| LinkError::Closed { address: address.clone() })?)?;
                    *answers += 1;
                    owed = None;
                    self.pulse.answered(&address);
                }
                changed = self.heartbeats.changed() => {
                    if changed.is_err() {
                        return Err(LinkError::Closed { address });
                    }
                    if self.heartbeats.borrow_and_update().is_some() && owed.is_none() {
                        owed = Some(Instant::now());
                        self.pulse.owes(&address, Instant::now());
                    }
                }
                () = sleep_until(Wake::from_std(due)), if owed.is_some() => return Err(LinkError::Silent { address }),
            }
        }
    }

    fn hear(&self, down: heartbeat_down::Message) -> Result<(), LinkError> {
        match down {
            heartbeat_down::Message::Reply(reply) => {
                let reply = HeartbeatReply::try_from(reply)
                    .map_err(|source| LinkError::Words { address: self.address.clone(), source })?;
                let mut answered = self.answered.lock().expect("nothing panics while it holds the addresses");
                answered.insert(reply.member, self.address.clone());
                drop(answered);
                let _ = self.inputs.send(Input::Reply(reply));
                Ok(())
            }
            heartbeat_down::Message::Refused(refused) => {
                Err(LinkError::Refused { address: self.address.clone(), reason: refused.reason, text: refused.text })
            }
        }
    }
}

/// The opening, then the newest heartbeat whenever the connection takes one.
fn outgoing(
    hello: wire::AgentHello,
    heartbeats: watch::Receiver<Option<Heartbeat>>,
) -> impl Stream<Item = wire::HeartbeatUp> {
    let up = |message| wire::HeartbeatUp { message: Some(message) };
    futures_util::stream::unfold((Some(hello), heartbeats), move |(hello, mut heartbeats)| async move {
        if let Some(hello) = hello {
            return Some((up(heartbeat_up::Message::Hello(hello)), (None, heartbeats)));
        }
        loop {
            heartbeats.changed().await.ok()?;
            let newest = *heartbeats.borrow_and_update();
            if let Some(heartbeat) = newest {
                return Some((up(heartbeat_up::Message::Heartbeat((&heartbeat).into())), (None, heartbeats)));
            }
        }
    })
}

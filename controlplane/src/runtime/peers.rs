//! One member to the others: long-lived streams, a connection each for raft and for leases, snapshots on a third.
//! In: messages of the replica, addresses from the state. Out: frames; "unreachable" where one could not be sent.
//! Queues are bounded: what does not fit is dropped and said to be lost, raft sends it again. Every stream opens with
//! who speaks, in both directions.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cluster::{ClusterId, Generation, Member, MemberId, Revision, State};
use proto::wire::peers_client::PeersClient;
use proto::wire::{self, peer_message::Message as Wire, snapshot_chunk::Message as Chunk};
use record::LogPoint;
use replica::{Input, PeerMessage};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tracing::{info, warn};

use super::handle::Handle;
use super::snapshots::{Parcel, chain};
use super::wire::{into_wire, meta_into_wire, point, point_into_wire, raft_into_wire, wide};
use crate::secret::Secret;

/// Names the kind of a stream in its metadata: `raft` or `lease`.
pub const STREAM: &str = "quorate-stream";
/// Raft messages that may wait for one peer.
const RAFT_QUEUE: usize = 1_024;
/// Lease questions and hashes that may wait for one peer: small, and stale within a second.
const LEASE_QUEUE: usize = 256;
/// A frame holds at most one append of 1 MiB and what raft adds.
pub const FRAME_BYTES: usize = 8 << 20;
const CHUNK_BYTES: usize = 256 << 10;
/// After a stream broke, at first and at most; well below an election timeout.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(400);
const CONNECT: Duration = Duration::from_millis(500);

/// What this member proves itself with.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub cluster: ClusterId,
    pub generation: Generation,
    pub member: MemberId,
    pub secret: Secret,
    /// Follows the log and does not want to vote.
    pub learner: bool,
}

/// Who opened a stream, as proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    pub member: MemberId,
    pub durable: LogPoint,
}

/// Why a stream is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwelcome {
    #[error("the stream did not open with who speaks")]
    NotAHello,
    #[error("this is another cluster")]
    OtherCluster,
    #[error("this is another generation of the cluster")]
    OtherGeneration,
    #[error("the cluster has no such member")]
    UnknownMember,
    #[error("the secret is wrong")]
    WrongSecret,
}

impl Unwelcome {
    /// Stable, for programs.
    pub fn reason(self) -> &'static str {
        match self {
            Unwelcome::NotAHello => "not-a-hello",
            Unwelcome::OtherCluster => "other-cluster",
            Unwelcome::OtherGeneration => "other-generation",
            Unwelcome::UnknownMember => "unknown-member",
            Unwelcome::WrongSecret => "wrong-secret",
        }
    }
}

impl Credentials {
    pub fn hello(&self, durable: LogPoint) -> wire::PeerHello {
        wire::PeerHello {
            cluster: Bytes::copy_from_slice(&self.cluster.0.to_be_bytes()),
            generation: self.generation.number,
            generation_id: proto::convert::generation_id(self.generation),
            member: self.member.0,
            secret: Bytes::copy_from_slice(&self.secret.bytes()),
            feature_level: proto::FEATURE_LEVEL,
            durable: Some(point_into_wire(durable)),
            learner: self.learner,
        }
    }

    /// Who speaks. A newcomer that has no state yet cannot check secrets: it believes whoever knows its cluster, which
    /// lets a stranger feed it a log nobody will confirm, and no more, since it does not vote.
    pub fn check(&self, hello: &wire::PeerHello, state: Option<&State>) -> Result<Hello, Unwelcome> {
        if wide("cluster", &hello.cluster).map(ClusterId) != Ok(self.cluster) {
            return Err(Unwelcome::OtherCluster);
        }
        if proto::convert::generation(hello.generation, &hello.generation_id) != Ok(self.generation) {
            return Err(Unwelcome::OtherGeneration);
        }
        let member = MemberId(hello.member);
        if let Some(state) = state {
            let known = state.member(member).ok_or(Unwelcome::UnknownMember)?;
            let proven = Secret::from_bytes(&hello.secret).is_some_and(|secret| secret.hash() == known.secret);
            if !proven {
                return Err(Unwelcome::WrongSecret);
            }
        }
        Ok(Hello { member, durable: point(hello.durable).map_err(|_| Unwelcome::NotAHello)? })
    }
}

/// The streams to all other members. Owned by the replica's thread.
pub struct Peers {
    shared: Arc<Shared>,
    links: HashMap<MemberId, [Link; 2]>,
    /// Of the members last looked at.
    learned: Option<Revision>,
    known: Vec<Arc<Member>>,
}

struct Shared {
    credentials: Credentials,
    handle: Handle,
    addresses: Mutex<BTreeMap<MemberId, Arc<str>>>,
    streams: tokio::runtime::Handle,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Raft,
    Lease,
}

struct Link {
    queue: mpsc::Sender<wire::PeerMessage>,
    up: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Peers {
    pub fn new(
        credentials: Credentials,
        handle: Handle,
        seeds: Vec<Arc<Member>>,
        streams: tokio::runtime::Handle,
    ) -> Peers {
        let addresses = seeds.iter().map(|member| (member.id, Arc::clone(&member.peer_address))).collect();
        let shared = Shared { credentials, handle, addresses: Mutex::new(addresses), streams };
        Peers { shared: Arc::new(shared), links: HashMap::new(), learned: None, known: Vec::new() }
    }

    /// Takes in who the members are. Streams to those that are gone end.
    pub fn learn(&mut self, state: &State) {
        let same = state.members().count() == self.known.len()
            && state.members().zip(&self.known).all(|(now, before)| Arc::ptr_eq(now, before));
        if same && self.learned.is_some() {
            return;
        }
        self.learned = Some(state.revision());
        self.known = state.members().cloned().collect();
        let addresses: BTreeMap<MemberId, Arc<str>> =
            self.known.iter().map(|member| (member.id, Arc::clone(&member.peer_address))).collect();
        self.links.retain(|member, _| addresses.contains_key(member));
        *self.shared.addresses() = addresses;
        // Streams to all stand ready before raft has a word for them: a new leader does not begin by connecting.
        let me = self.shared.credentials.member;
        let others: Vec<MemberId> = self.known.iter().map(|member| member.id).filter(|member| *member != me).collect();
        let reach = others.into_iter().map(|member| (member, Arc::clone(&self.links(member)[0].up))).collect();
        self.shared.handle.reach().learn(reach);
    }

    fn links(&mut self, to: MemberId) -> &[Link; 2] {
        let shared = &self.shared;
        self.links.entry(to).or_insert_with(|| [Kind::Raft, Kind::Lease].map(|kind| shared.link(to, kind)))
    }

    /// Whether `message` was taken; if not, it is lost.
    pub fn send(&mut self, to: MemberId, message: PeerMessage) -> bool {
        let kind = if matches!(message, PeerMessage::Raft(_)) { Kind::Raft } else { Kind::Lease };
        let link = &self.links(to)[usize::from(kind == Kind::Lease)];
        let taken = link.up.load(Ordering::Acquire) && link.queue.try_send(into_wire(message)).is_ok();
        // Only raft wants to know: a lost question is asked again.
        taken || kind == Kind::Lease
    }

    pub fn courier(&self) -> Courier {
        Courier(Arc::clone(&self.shared))
    }
}

/// Brings snapshots to members.
pub struct Courier(Arc<Shared>);

impl Courier {
    /// Streams the body on a connection of its own and tells its end, whichever it is.
    pub fn deliver(&self, parcel: Parcel) {
        let shared = Arc::clone(&self.0);
        self.0.streams.spawn(async move {
            let (peer, index) = (parcel.to, parcel.meta.index);
            let sent = shared.send_snapshot(parcel).await;
            match &sent {
                Ok(()) => info!(%peer, index, "snapshot taken"),
                Err(error) => warn!(%peer, index, error = %chain(error), "snapshot not taken"),
            }
            shared.handle.tell(Input::SnapshotSent { peer, taken: sent.is_ok() });
        });
    }
}

/// Why a stream to a peer is over.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("no address is known")]
    NoAddress,
    #[error("cannot connect to {address}")]
    Connect { address: Arc<str>, source: tonic::transport::Error },
    #[error("the stream broke")]
    Broken(#[from] Status),
    #[error("the peer closed the stream")]
    Closed,
    #[error("the peer refused: {0}")]
    Refused(String),
    #[error("the peer is not who it should be: {0}")]
    Stranger(#[from] Unwelcome),
    #[error("{0} answered where {1} should be")]
    OtherMember(MemberId, MemberId),
    #[error("this member is ending")]
    Ending,
}

impl Shared {
    fn addresses(&self) -> MutexGuard<'_, BTreeMap<MemberId, Arc<str>>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(self: &Arc<Shared>, peer: MemberId, kind: Kind) -> Link {
        let (queue, messages) = mpsc::channel(if kind == Kind::Raft { RAFT_QUEUE } else { LEASE_QUEUE });
        let up = Arc::new(AtomicBool::new(false));
        let task = self.streams.spawn(Arc::clone(self).keep_up(peer, kind, messages, Arc::clone(&up)));
        Link { queue, up, task }
    }

    /// Opens the stream again whenever it breaks.
    async fn keep_up(
        self: Arc<Shared>,
        peer: MemberId,
        kind: Kind,
        mut messages: mpsc::Receiver<wire::PeerMessage>,
        up: Arc<AtomicBool>,
    ) {
        let mut pause = PAUSE;
        let mut said = false;
        loop {
            let error = match self.speak(peer, kind, &mut messages, &up).await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            let was_up = up.swap(false, Ordering::AcqRel);
            while messages.try_recv().is_ok() {}
            if kind == Kind::Raft {
                self.handle.tell(Input::PeerUnreachable { peer });
                if was_up || !said {
                    warn!(replica = %self.credentials.member, %peer, error = %chain(&error), "peer unreachable");
                    said = true;
                }
            }
            pause = if was_up { PAUSE } else { (pause * 2).min(PAUSE_MAX) };
            tokio::time::sleep(pause).await;
        }
    }

    /// Speaks until the stream ends.
    async fn speak(
        &self,
        peer: MemberId,
        kind: Kind,
        messages: &mut mpsc::Receiver<wire::PeerMessage>,
        up: &AtomicBool,
    ) -> Result<std::convert::Infallible, LinkError> {
        let mut client = self.connect(peer).await?;
        // Asked before anything is acknowledged on this stream: what is said later can only be more.
        let durable = self.handle.durable().await.ok_or(LinkError::Ending)?;
        let (out, stream) = mpsc::channel(64);
        let hello = wire::PeerMessage { message: Some(Wire::Hello(self.credentials.hello(durable))) };
        out.try_send(hello).expect("a new channel has room");
        let mut request = Request::new(ReceiverStream::new(stream));
        let name = if kind == Kind::Raft { "raft" } else { "lease" };
        request.metadata_mut().insert(STREAM, name.parse().expect("a plain word"));
        let mut answers = client.exchange(request).await?.into_inner();
        let first = answers.message().await?.and_then(|first| first.message);
        let who = match first {
            Some(Wire::Hello(hello)) => {
                let view = self.handle.view();
                self.credentials.check(&hello, view.state.as_ref())?
            }
            Some(Wire::Refused(refused)) => return Err(LinkError::Refused(refused.text)),
            Some(_) | None => return Err(Unwelcome::NotAHello.into()),
        };
        if who.member != peer {
            return Err(LinkError::OtherMember(who.member, peer));
        }
        up.store(true, Ordering::Release);
        if kind == Kind::Raft {
            info!(replica = %self.credentials.member, %peer, "peer reached");
        }
        loop {
            tokio::select! {
                message = messages.recv() => {
                    out.send(message.ok_or(LinkError::Ending)?).await.map_err(|_| LinkError::Closed)?;
                }
                answer = answers.message() => match answer?.and_then(|answer| answer.message) {
                    Some(Wire::Refused(refused)) => return Err(LinkError::Refused(refused.text)),
                    Some(_) => {}
                    None => return Err(LinkError::Closed),
                },
            }
        }
    }

    async fn connect(&self, peer: MemberId) -> Result<PeersClient<Channel>, LinkError> {
        let address = self.addresses().get(&peer).cloned().ok_or(LinkError::NoAddress)?;
        let failed = |source| LinkError::Connect { address: Arc::clone(&address), source };
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(failed)?;
        let channel = endpoint
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20)
            .connect()
            .await
            .map_err(failed)?;
        Ok(PeersClient::new(channel).max_decoding_message_size(FRAME_BYTES).max_encoding_message_size(FRAME_BYTES))
    }

    async fn send_snapshot(&self, parcel: Parcel) -> Result<(), LinkError> {
        let Parcel { to, meta, message, body } = parcel;
        let mut client = self.connect(to).await?;
        let durable = self.handle.durable().await.ok_or(LinkError::Ending)?;
        let head = wire::SnapshotHead { meta: Some(meta_into_wire(&meta)), message: Some(raft_into_wire(*message)) };
        let (hello, hash) = (self.credentials.hello(durable), Bytes::copy_from_slice(&meta.hash));
        let body = Bytes::from(body);
        let data = (0..body.len())
            .step_by(CHUNK_BYTES)
            .map(move |at| Chunk::Data(body.slice(at..body.len().min(at + CHUNK_BYTES))));
        let chunks = [Chunk::Hello(hello), Chunk::Head(head)].into_iter().chain(data).chain([Chunk::Hash(hash)]);
        let chunks = chunks.map(|chunk| wire::SnapshotChunk { message: Some(chunk) });
        client.send_snapshot(tokio_stream::iter(chunks)).await?;
        Ok(())
    }
}

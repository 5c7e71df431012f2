//! The door for other members: their streams, and snapshots from the leader.
//! In: streams that open with who speaks. Out: facts for the replica. A stranger is refused, and told why.

use std::pin::Pin;
use std::sync::{Arc, PoisonError};

use cluster::State;
use proto::Problem;
use proto::wire::peers_server::Peers;
use proto::wire::{self, peer_message, snapshot_chunk::Message as Chunk};
use record::SnapshotMeta;
use replica::{Input, PeerMessage, RaftMessage};
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::{info, warn};

use super::door::Door;
use super::error::{status, unwelcome};
use crate::runtime::wire::{from_wire, meta_from_wire, raft_from_wire};
use crate::runtime::{Hello, STREAM, Unwelcome};
use crate::standing::Seated;

/// A larger snapshot is a mistake: a million containers are well below.
const SNAPSHOT_BYTES_MAX: u64 = 8 << 30;

#[derive(Clone)]
pub struct PeerDoor {
    door: Door,
    /// One snapshot is taken in at a time.
    receiving: Arc<Mutex<()>>,
}

type Answers = Pin<Box<dyn Stream<Item = Result<wire::PeerMessage, Status>> + Send>>;

impl PeerDoor {
    pub fn new(door: Door) -> PeerDoor {
        PeerDoor { door, receiving: Arc::default() }
    }
}

/// Who speaks, and whether they want to vote.
fn check(seated: &Seated, hello: &wire::PeerHello) -> Result<Hello, Unwelcome> {
    let view = seated.handle.view();
    let who = seated.credentials.check(hello, view.state.as_ref())?;
    seated.handle.levels().heard(who.member, hello.feature_level);
    let mut stays = seated.stays_learner.lock().unwrap_or_else(PoisonError::into_inner);
    if hello.learner {
        stays.insert(who.member);
    } else {
        stays.remove(&who.member);
    }
    Ok(who)
}

#[tonic::async_trait]
impl Peers for PeerDoor {
    type ExchangeStream = Answers;

    async fn exchange(&self, call: Request<Streaming<wire::PeerMessage>>) -> Result<Response<Answers>, Status> {
        let seated = self.door.seated().map_err(status)?;
        let carries_raft = call.metadata().get(STREAM).is_some_and(|kind| kind == "raft");
        let mut incoming = call.into_inner();
        let hello = match incoming.message().await?.and_then(|first| first.message) {
            Some(peer_message::Message::Hello(hello)) => hello,
            _ => return Err(status(unwelcome(Unwelcome::NotAHello))),
        };
        let (out, answers) = mpsc::channel(4);
        let say =
            |message| out.try_send(Ok(wire::PeerMessage { message: Some(message) })).expect("a new channel has room");
        let who = match check(&seated, &hello) {
            Ok(who) => who,
            Err(error) => {
                warn!(replica = %seated.handle.id, peer = hello.member, %error, "stream of a peer refused");
                let (reason, text) = (error.reason().to_owned(), error.to_string());
                say(peer_message::Message::Refused(wire::Refused { reason, text }));
                return Ok(Response::new(Box::pin(ReceiverStream::new(answers))));
            }
        };
        let durable = seated.handle.durable().await.unwrap_or_default();
        say(peer_message::Message::Hello(seated.credentials.hello(durable)));
        if carries_raft {
            // Only here: on this stream nothing the speaker acknowledged can have overtaken its hello.
            seated.handle.tell(Input::Peer { from: who.member, message: PeerMessage::Hello { durable: who.durable } });
        }
        tokio::spawn(listen(seated, who, incoming, out));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn send_snapshot(
        &self,
        call: Request<Streaming<wire::SnapshotChunk>>,
    ) -> Result<Response<wire::SnapshotTaken>, Status> {
        let seated = self.door.seated().map_err(status)?;
        let busy = || Problem::new(Code::ResourceExhausted, "busy", "another snapshot is being taken in");
        let _alone = self.receiving.try_lock().map_err(|_| status(busy()))?;
        let mut incoming = call.into_inner();
        let Some(Chunk::Hello(hello)) = next(&mut incoming).await? else {
            return Err(status(unwelcome(Unwelcome::NotAHello)));
        };
        let who = check(&seated, &hello).map_err(|error| status(unwelcome(error)))?;
        let (meta, message) = head(who, next(&mut incoming).await?).map_err(status)?;
        let body = body(&meta, &mut incoming).await?;
        let read = tokio::task::spawn_blocking(move || (proto::snapshot::decode(&body), body)).await;
        let (state, body) = read.map_err(|_| status(broken("it could not be read")))?;
        let state: State = state.map_err(|error| status(broken(&error.to_string())))?;
        info!(replica = %seated.handle.id, peer = %who.member, index = meta.index, bytes = meta.len, "snapshot arrived");
        let index = meta.index;
        seated.arrivals.put(meta, body);
        seated.handle.tell(Input::SnapshotArrived {
            from: who.member,
            message: Box::new(message),
            state: Box::new(state),
        });
        Ok(Response::new(wire::SnapshotTaken { index }))
    }
}

/// Takes in what a peer says until it ends, or says what it may not.
async fn listen(
    seated: Arc<Seated>,
    who: Hello,
    mut incoming: Streaming<wire::PeerMessage>,
    out: mpsc::Sender<Result<wire::PeerMessage, Status>>,
) {
    while let Ok(Some(message)) = incoming.message().await {
        match from_wire(who.member, message) {
            Ok(message) => seated.handle.tell(Input::Peer { from: who.member, message }),
            Err(error) => {
                warn!(replica = %seated.handle.id, peer = %who.member, %error, "a peer's message was refused");
                let refused = wire::Refused { reason: "unreadable".into(), text: error.to_string() };
                let refused = wire::PeerMessage { message: Some(peer_message::Message::Refused(refused)) };
                // A peer that is gone needs no reason.
                let _ = out.send(Ok(refused)).await;
                return;
            }
        }
    }
}

async fn next(incoming: &mut Streaming<wire::SnapshotChunk>) -> Result<Option<Chunk>, Status> {
    Ok(incoming.message().await?.and_then(|chunk| chunk.message))
}

fn broken(text: &str) -> Problem {
    Problem::new(Code::DataLoss, "snapshot-broken", format!("the snapshot is not whole: {text}"))
}

/// What is coming, and the raft message that announces it; both from the one who speaks.
fn head(who: Hello, chunk: Option<Chunk>) -> Result<(SnapshotMeta, RaftMessage), Problem> {
    let Some(Chunk::Head(wire::SnapshotHead { meta: Some(meta), message: Some(message) })) = chunk else {
        return Err(broken("it has no head"));
    };
    let (meta, message) = (meta_from_wire(meta)?, raft_from_wire(message)?);
    if message.from != who.member || message.snapshot.as_ref() != Some(&meta) {
        return Err(broken("its head contradicts its message"));
    }
    if meta.len > SNAPSHOT_BYTES_MAX {
        return Err(broken("it is too large"));
    }
    Ok((meta, message))
}

/// The body, if it is the one announced.
async fn body(meta: &SnapshotMeta, incoming: &mut Streaming<wire::SnapshotChunk>) -> Result<Vec<u8>, Status> {
    let (mut body, mut hash) = (Vec::new(), Sha256::new());
    loop {
        match next(incoming).await? {
            Some(Chunk::Data(data)) if (body.len() + data.len()) as u64 <= meta.len => {
                hash.update(&data);
                body.extend_from_slice(&data);
            }
            Some(Chunk::Hash(given)) => {
                let whole = body.len() as u64 == meta.len && given[..] == meta.hash && hash.finalize()[..] == meta.hash;
                return if whole { Ok(body) } else { Err(status(broken("its hash is another"))) };
            }
            Some(_) => return Err(status(broken("it is longer than announced"))),
            None => return Err(status(broken("it ends early"))),
        }
    }
}

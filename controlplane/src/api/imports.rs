//! Imports of templates: the leader asks a node, tells the caller how far it is, and registers what came of it.
//! In: a request. Out: progress, and at the end one command of the log under the request's id.
//! Leader-local: a change of leader ends the stream with an error that may be repeated, and repeating is cheap, for what is
//! on the storage is not read again. Absent: what a source is, and what a template may hold: the node sees that.

use std::sync::Arc;

use cluster::{Applied, Name, Node, RequestId, State};
use proto::convert::import::Import;
use proto::convert::view;
use proto::wire::errand_word::Word;
use proto::wire::{self, errand};
use proto::{Problem, v1};
use tokio::sync::{OwnedRwLockReadGuard, OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::door::{Door, Failure, Identity, Manners, recall};
use super::errands::{self, QUEUE, told};
use super::error::{self, status};
use super::sessions::Awaited;
use crate::standing::Seated;

pub type Replies = errands::Replies<v1::ImportTemplateReply>;

pub async fn import(door: &Door, call: Request<v1::ImportTemplateRequest>) -> Result<Response<Replies>, Status> {
    let manners = Manners::of(call.metadata());
    let mut request = call.into_inner();
    let identity = Identity::of(&mut request, door)?;
    let id = identity.id;
    let here = |seated, request, place| begin(seated, id, request, place);
    let replies =
        errands::lasting(door, manners, request, here, async |mut there, onward| there.import(onward).await).await;
    identity.said(replies)
}

/// One import that a node works on.
struct Running {
    seated: Arc<Seated>,
    id: RequestId,
    import: Import,
    node: Arc<Node>,
    awaited: Awaited,
    _place: OwnedSemaphorePermit,
    /// Nothing is discarded meanwhile: it may be what is just being found on the storage.
    _discards_nothing: OwnedRwLockReadGuard<()>,
}

async fn begin(
    seated: Arc<Seated>,
    id: RequestId,
    request: v1::ImportTemplateRequest,
    place: OwnedSemaphorePermit,
) -> Result<Replies, Failure> {
    let lock = Arc::clone(&seated.imports).read_owned().await;
    let state = seated.handle.read().await?;
    if let Some(before) = recall(&state, id) {
        let name = request.name.as_str();
        let reply = registered(&state, name, before)?;
        return Ok(Box::pin(tokio_stream::once(Ok(reply))));
    }
    let import = Import::read(request, id, &state).map_err(Problem::from)?;
    if let Some(taken) = state.template(&import.name) {
        let text = format!("there is a template {} already, {}", taken.name, digest_of(&taken.digest));
        let problem = Problem::new(Code::AlreadyExists, "name-taken", text).at("name");
        return Err(problem.hint("`quoratectl template remove` forgets one that no container uses").into());
    }
    // Before a node works for nothing.
    seated.handle.levels().ensure(&state, proto::level::TEMPLATES)?;
    let what = || errand::What::ImportTemplate(import.order.clone());
    let (node, awaited) = errands::ask(&seated.sessions, &state, import.node.as_ref(), what)?;
    let (out, replies) = mpsc::channel(QUEUE);
    let running = Running { seated, id, import, node, awaited, _place: place, _discards_nothing: lock };
    tokio::spawn(running.follow(out));
    Ok(Box::pin(ReceiverStream::new(replies)))
}

fn digest_of(digest: &str) -> String {
    if digest.is_empty() { "without a digest".to_owned() } else { digest.to_owned() }
}

impl Running {
    /// Tells the caller what the node says, until either goes; the errand is called off with `self`.
    async fn follow(mut self, out: mpsc::Sender<Result<v1::ImportTemplateReply, Status>>) {
        let waiting = v1::ImportTemplateReply {
            node: self.node.name.to_string(),
            phase: v1::ImportPhase::Waiting.into(),
            ..v1::ImportTemplateReply::default()
        };
        if out.send(Ok(waiting)).await.is_err() {
            return;
        }
        loop {
            let word = tokio::select! {
                word = self.awaited.next() => word,
                () = out.closed() => return,
            };
            let last = match word {
                Some(Word::Progress(progress)) => {
                    // Whoever is slow hears less; the end is always said.
                    let _ = out.try_send(Ok(self.progress(&progress)));
                    continue;
                }
                Some(Word::Imported(imported)) => self.register(imported).await.map_err(told),
                Some(Word::Failed(failed)) => Err(errands::failed_there(&self.node.name, failed)),
                Some(Word::Templates(_)) => Err(errands::off_topic(&self.node.name)),
                None => Err(errands::session_over(&self.node.name)),
            };
            // Nobody may be there to hear it any more; what was registered stays.
            let _ = out.send(last.map_err(status)).await;
            return;
        }
    }

    fn progress(&self, progress: &wire::ErrandProgress) -> v1::ImportTemplateReply {
        v1::ImportTemplateReply {
            node: self.node.name.to_string(),
            phase: v1::ImportPhase::of(progress.phase()).into(),
            bytes: progress.bytes,
            bytes_total: progress.bytes_total,
            entries: progress.entries,
            ..v1::ImportTemplateReply::default()
        }
    }

    async fn register(&self, imported: wire::TemplateImported) -> Result<v1::ImportTemplateReply, Failure> {
        let applied = self.seated.handle.propose(Some(self.id), self.import.registration(&imported)).await?;
        let view = self.seated.handle.view();
        let state = view.state.as_ref().ok_or(Failure::Moved)?;
        let reply = registered(state, self.import.name.as_str(), applied)?;
        let (node, notes, was_there) = (self.node.name.to_string(), imported.notes, imported.was_there);
        Ok(v1::ImportTemplateReply { node, notes, was_there, ..reply })
    }
}

/// The last message of an import whose command was applied, now or before.
fn registered(state: &State, name: &str, applied: Applied) -> Result<v1::ImportTemplateReply, Problem> {
    applied.outcome.map_err(|refusal| error::rejected(&refusal, Some(state)))?;
    let template = Name::new(name).ok().and_then(|name| state.template(&name).map(|it| view::template(it)));
    Ok(v1::ImportTemplateReply { phase: v1::ImportPhase::Done.into(), template, ..v1::ImportTemplateReply::default() })
}

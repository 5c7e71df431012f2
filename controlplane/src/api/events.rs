//! Events: the past in pages, the present as a stream.

use std::pin::Pin;
use std::time::Duration;

use cluster::{ContainerId, NodeId, Revision, State};
use proto::convert::{request, view};
use proto::v1::event_service_server::EventService;
use proto::{Problem, v1};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::door::Door;
use super::error::{no_state, status};
use super::page::Page;
use crate::events::{Batch, Compacted};
use crate::runtime::Handle;
use crate::standing::Seated;

/// A mark of progress when nothing passed the filter for so long.
const PROGRESS: Duration = Duration::from_secs(5);
/// Revisions looked at in one go.
const PART: usize = 512;
/// Messages that wait for a slow watcher; it falls behind from here on, and is told `compacted` when too far.
const QUEUE: usize = 64;

#[derive(Clone)]
pub struct EventDoor(pub Door);

type Replies = Pin<Box<dyn Stream<Item = Result<v1::WatchReply, Status>> + Send>>;

#[tonic::async_trait]
impl EventService for EventDoor {
    type WatchStream = Replies;

    /// Served by every member from what it has applied itself.
    async fn watch(&self, call: Request<v1::WatchRequest>) -> Result<Response<Replies>, Status> {
        let place = self.0.streams().enter().map_err(status)?;
        let seated = self.0.seated().map_err(status)?;
        let asked = call.into_inner();
        let filter = filter(&seated, asked.filter).map_err(status)?;
        let from = match asked.from_revision {
            0 => Revision(seated.handle.events.tip().borrow().0 + 1),
            given => Revision(given),
        };
        seated.handle.events.from(from, 0).map_err(|gone| status(compacted(gone)))?;
        let (out, replies) = mpsc::channel(QUEUE);
        tokio::spawn(watch(seated.handle.clone(), from, filter, out, place));
        Ok(Response::new(Box::pin(ReceiverStream::new(replies))))
    }

    async fn list(&self, call: Request<v1::ListEventsRequest>) -> Result<Response<v1::ListEventsReply>, Status> {
        self.0.look(call, "/quorate.v1.EventService/List", |asked| asked.stale, list).await
    }
}

fn list(seated: &Seated, state: &State, asked: &v1::ListEventsRequest) -> Result<v1::ListEventsReply, Problem> {
    let page = Page::of(asked.page.as_ref(), &format!("events {} {:?}", asked.from_revision, asked.filter))?;
    let filter = filter(seated, asked.filter.clone())?;
    let events = &seated.handle.events;
    let oldest = events.oldest();
    // The key of an event is its revision and its place among those of that revision.
    let after = page.after.as_deref().map(key).transpose()?;
    let mut next =
        after.map_or(if asked.from_revision == 0 { oldest } else { Revision(asked.from_revision) }, |(at, _)| at);
    let mut found: Vec<v1::Event> = Vec::new();
    while found.len() <= page.size {
        let part = events.from(next, PART).map_err(compacted)?;
        let shown = part.batches.iter().flat_map(|batch| filter.shown(state, batch));
        found.extend(shown.filter(|event| after.is_none_or(|after| (Revision(event.revision), event.ordinal) > after)));
        if part.batches.len() < PART {
            break;
        }
        next = Revision(part.through.0 + 1);
    }
    let page = page.cut(&mut found, |event| format!("{}-{}", event.revision, event.ordinal));
    let revision = state.revision().0;
    Ok(v1::ListEventsReply { events: found, page: Some(page), revision, oldest_revision: oldest.0 })
}

fn key(text: &str) -> Result<(Revision, u32), Problem> {
    let parts = text.split_once('-').and_then(|(at, ordinal)| Some((at.parse().ok()?, ordinal.parse().ok()?)));
    let (at, ordinal) = parts.ok_or_else(|| Problem::invalid("page.token", "is not a token of this list"))?;
    Ok((Revision(at), ordinal))
}

fn compacted(gone: Compacted) -> Problem {
    Problem::new(Code::OutOfRange, "compacted", gone.to_string())
        .hint("list the objects, then watch from the revision of that list")
}

/// What a caller wants to see.
struct Filter {
    node: Option<NodeId>,
    container: Option<ContainerId>,
    kinds: Vec<String>,
}

fn filter(seated: &Seated, asked: Option<v1::EventFilter>) -> Result<Filter, Problem> {
    let v1::EventFilter { node, container, kinds } = asked.unwrap_or_default();
    let view = seated.handle.view();
    let state = view.state.as_ref().ok_or_else(no_state)?;
    let node = Some(node).filter(|node| !node.is_empty());
    let container = Some(container).filter(|container| !container.is_empty());
    Ok(Filter {
        node: node.map(|node| request::node(state, "filter.node", &node).map(|node| node.id)).transpose()?,
        container: container
            .map(|name| request::container(state, "filter.container", &name).map(|container| container.id))
            .transpose()?,
        kinds,
    })
}

impl Filter {
    fn shown(&self, state: &State, batch: &Batch) -> Vec<v1::Event> {
        let passes = |event: &cluster::Event| {
            self.node.is_none_or(|node| event.node() == Some(node))
                && self.container.is_none_or(|container| event.container() == Some(container))
                && (self.kinds.is_empty() || self.kinds.iter().any(|kind| kind == event.kind()))
        };
        let numbered = (0_u32..).zip(batch.events.iter()).filter(|(_, event)| passes(event));
        numbered.map(|(ordinal, event)| view::event(state, batch.revision, ordinal, batch.at, event)).collect()
    }
}

/// Gives what happens from `next` on until the watcher goes, or falls behind what is kept.
async fn watch(
    handle: Handle,
    mut next: Revision,
    filter: Filter,
    out: mpsc::Sender<Result<v1::WatchReply, Status>>,
    _place: OwnedSemaphorePermit,
) {
    let mut tip = handle.events.tip();
    let mut said = Revision(0);
    loop {
        tip.borrow_and_update();
        let part = match handle.events.from(next, PART) {
            Ok(part) => part,
            Err(gone) => {
                // A watcher that is gone needs no reason.
                let _ = out.send(Err(status(compacted(gone)))).await;
                return;
            }
        };
        let view = handle.view();
        let Some(state) = &view.state else { return };
        for batch in &part.batches {
            let events = filter.shown(state, batch);
            if events.is_empty() {
                continue;
            }
            said = batch.revision;
            if out.send(Ok(v1::WatchReply { revision: said.0, events })).await.is_err() {
                return;
            }
        }
        next = next.max(Revision(part.through.0 + 1));
        if part.batches.len() == PART {
            continue;
        }
        tokio::select! {
            changed = tip.changed() => if changed.is_err() { return },
            () = out.closed() => return,
            () = tokio::time::sleep(PROGRESS) => {
                let through = Revision(next.0.saturating_sub(1));
                if through > said {
                    said = through;
                    if out.send(Ok(v1::WatchReply { revision: through.0, events: Vec::new() })).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_events_are_read_back() {
        assert_eq!(key("17-3").map_err(|problem| problem.reason), Ok((Revision(17), 3)));
        for bad in ["", "17", "a-b", "1-2-3"] {
            assert!(key(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_gone_is_said_with_a_way_on() {
        let problem = compacted(Compacted { oldest: Revision(9) });
        assert_eq!((problem.code, &*problem.reason), (Code::OutOfRange, "compacted"));
    }
}

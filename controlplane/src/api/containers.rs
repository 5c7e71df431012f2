//! Containers: one by one, in batches, and over a stream that never waits for one before it takes the next.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use cluster::apply::Done;
use cluster::{ContainerId, Revision};
use prost::Message;
use proto::convert::request::{self, Identified, Mutation, Paths};
use proto::convert::view;
use proto::v1::container_service_client::ContainerServiceClient;
use proto::v1::container_service_server::ContainerService;
use proto::{Problem, v1};
use replica::{Answer, ProposeError};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming};

use super::change;
use super::door::{self, ANSWER_BYTES, Door, Failure, Manners, forgotten, identify, leader, mark, sight};
use super::error::{self, status};
use super::limits::{self, Paces, client_of};
use super::page::Page;
use crate::runtime::{Handle, applied};
use crate::standing::Seated;

/// Items of a batch.
const BATCH_MAX: usize = 1_000;
/// Items of one stream under way at once: enough to fill a group of the disk, few enough to be fair to others.
const UNDER_WAY: usize = 1_024;

#[derive(Clone)]
pub struct Containers(pub Door);

macro_rules! path {
    ($method:literal) => {
        concat!("/quorate.v1.ContainerService/", $method)
    };
}

type Results = Pin<Box<dyn Stream<Item = Result<v1::SubmitReply, Status>> + Send>>;

#[tonic::async_trait]
impl ContainerService for Containers {
    async fn create(
        &self,
        call: Request<v1::CreateContainerRequest>,
    ) -> Result<Response<v1::CreateContainerReply>, Status> {
        let created = |done, revision: Revision| v1::CreateContainerReply {
            container: container_of(&done),
            revision: revision.0,
        };
        self.0.mutate(call, path!("Create"), created).await
    }

    async fn batch_create(
        &self,
        call: Request<v1::BatchCreateContainersRequest>,
    ) -> Result<Response<v1::BatchCreateContainersReply>, Status> {
        fn items(asked: &mut v1::BatchCreateContainersRequest) -> &mut Vec<v1::CreateContainerRequest> {
            &mut asked.items
        }
        let answer = |results| v1::BatchCreateContainersReply { results };
        batch(&self.0, call, path!("BatchCreate"), items, answer).await
    }

    async fn list(
        &self,
        call: Request<v1::ListContainersRequest>,
    ) -> Result<Response<v1::ListContainersReply>, Status> {
        self.0.look(call, path!("List"), |asked| asked.stale, list).await
    }

    async fn get(&self, call: Request<v1::GetContainerRequest>) -> Result<Response<v1::GetContainerReply>, Status> {
        self.0
            .look(
                call,
                path!("Get"),
                |asked| asked.stale,
                |seated, state, asked| {
                    let container = request::container(state, "container", &asked.container)?;
                    let sight = sight(&seated.handle);
                    let container = view::container(state, container, |node| sight(node).suspect);
                    Ok(v1::GetContainerReply { container: Some(container), revision: state.revision().0 })
                },
            )
            .await
    }

    async fn start(&self, call: Request<v1::StartContainerRequest>) -> Result<Response<v1::Change>, Status> {
        self.0.mutate(call, path!("Start"), change).await
    }

    async fn stop(&self, call: Request<v1::StopContainerRequest>) -> Result<Response<v1::Change>, Status> {
        self.0.mutate(call, path!("Stop"), change).await
    }

    async fn restart(&self, call: Request<v1::RestartContainerRequest>) -> Result<Response<v1::Change>, Status> {
        self.0.mutate(call, path!("Restart"), change).await
    }

    async fn r#move(&self, call: Request<v1::MoveContainerRequest>) -> Result<Response<v1::Change>, Status> {
        self.0.mutate(call, path!("Move"), change).await
    }

    async fn delete(&self, call: Request<v1::DeleteContainerRequest>) -> Result<Response<v1::Change>, Status> {
        self.0.mutate(call, path!("Delete"), change).await
    }

    async fn why(&self, call: Request<v1::WhyRequest>) -> Result<Response<v1::WhyReply>, Status> {
        self.0
            .look(
                call,
                path!("Why"),
                |asked| asked.stale,
                |seated, state, asked| {
                    let container = request::container(state, "container", &asked.container)?;
                    let sight = sight(&seated.handle);
                    Ok(view::why(state, container, |node| sight(node).suspect))
                },
            )
            .await
    }

    async fn annotate(&self, call: Request<v1::AnnotateContainerRequest>) -> Result<Response<v1::Change>, Status> {
        self.0.mutate(call, path!("Annotate"), change).await
    }

    async fn set_on_quorum_loss(
        &self,
        call: Request<v1::SetOnQuorumLossRequest>,
    ) -> Result<Response<v1::Change>, Status> {
        self.0.mutate(call, path!("SetOnQuorumLoss"), change).await
    }

    async fn batch_annotate(
        &self,
        call: Request<v1::BatchAnnotateContainersRequest>,
    ) -> Result<Response<v1::BatchAnnotateContainersReply>, Status> {
        fn items(asked: &mut v1::BatchAnnotateContainersRequest) -> &mut Vec<v1::AnnotateContainerRequest> {
            &mut asked.items
        }
        let answer = |results| v1::BatchAnnotateContainersReply { results };
        batch(&self.0, call, path!("BatchAnnotate"), items, answer).await
    }

    type SubmitStream = Results;

    /// On the leader items go into the log as they come; any other member passes the whole stream on.
    async fn submit(&self, call: Request<Streaming<v1::SubmitRequest>>) -> Result<Response<Results>, Status> {
        let place = self.0.streams().enter().map_err(status)?;
        let seated = self.0.seated().map_err(status)?;
        let manners = Manners::of(call.metadata());
        let view = seated.handle.view();
        let meter = Meter { paces: self.0.paces().clone(), client: client_of(call.extensions()) };
        if view.leads {
            let (out, results) = mpsc::channel(UNDER_WAY);
            let handle = seated.handle.clone();
            let incoming = call.into_inner();
            tokio::spawn(async move {
                submit(&handle, incoming, &meter, out).await;
                drop(place);
            });
            return Ok(Response::new(Box::pin(ReceiverStream::new(results))));
        }
        let leader = leader(&view).filter(|_| !manners.passed_on);
        let Some(leader) = leader else { return Err(status(error::not_leader(leader))) };
        let channel = self.0.channel(&leader.api_address).map_err(|_| status(error::no_quorum()))?;
        let mut client = ContainerServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES);
        // A broken item ends the stream towards the leader; why is said behind the results of those before it.
        let broken: Arc<Mutex<Option<Status>>> = Arc::default();
        let heard = Arc::clone(&broken);
        let sound = call.into_inner().map_while(move |item| {
            let keep = |status| *heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
            item.map_err(keep).ok()
        });
        let mut onward = Request::new(sound.then(move |item| after_pause(meter.charge(), item)));
        mark(&mut onward, &manners);
        onward.metadata_mut().remove("grpc-timeout");
        let results = client.submit(onward).await?.into_inner();
        let end = std::iter::from_fn(move || broken.lock().unwrap_or_else(PoisonError::into_inner).take());
        let end = tokio_stream::iter(end.map(|broken| Err(limits::too_large(&broken).map_or(broken, status))));
        Ok(Response::new(Box::pin(results.chain(end).map(move |result| {
            let _held = &place;
            result
        }))))
    }
}

fn list(
    seated: &Seated,
    state: &cluster::State,
    asked: &v1::ListContainersRequest,
) -> Result<v1::ListContainersReply, Problem> {
    let wanted = asked.state();
    let page = Page::of(asked.page.as_ref(), &format!("containers {:?} {wanted:?}", asked.node))?;
    let node = match asked.node.as_str() {
        "" => None,
        name => Some(request::node(state, "node", name)?.id),
    };
    let sight = sight(&seated.handle);
    let suspect = |node| sight(node).suspect;
    let after = ContainerId(page.after_number()?);
    let found: Box<dyn Iterator<Item = &Arc<cluster::Container>>> = match node {
        // What a node owns is a small part of everything.
        Some(node) => Box::new(
            state
                .claims(node)
                .filter(|(_, claim)| *claim == cluster::Claim::Owner)
                .map(|(container, _)| container)
                .filter(move |container| container.id > after),
        ),
        None => Box::new(state.containers_after(after)),
    };
    let shown = found
        .map(|container| (container.id, view::container(state, container, suspect)))
        .filter(|(_, container)| wanted == v1::ContainerState::Unspecified || container.state() == wanted);
    let mut containers: Vec<(ContainerId, v1::Container)> = shown.take(page.size + 1).collect();
    let page = page.cut(&mut containers, |(id, _)| id.0.to_string());
    let containers = containers.into_iter().map(|(_, container)| container).collect();
    Ok(v1::ListContainersReply { containers, page: Some(page), revision: state.revision().0 })
}

/// The id of the container an outcome is about; empty where it is about none.
fn container_of(done: &Done) -> String {
    match done {
        Done::Container(container) => container.to_string(),
        Done::Nothing | Done::Member(_) | Done::Node(_) | Done::Registered(_) => String::new(),
    }
}

/// All items go into the log at once; each has its own result.
async fn batch<B, I, R>(
    door: &Door,
    call: Request<B>,
    path: &'static str,
    items: fn(&mut B) -> &mut Vec<I>,
    answer: fn(Vec<v1::ItemResult>) -> R,
) -> Result<Response<R>, Status>
where
    B: Message + Default + Clone + 'static,
    I: Mutation + Clone + Send + Sync + 'static,
    R: Message + Default + Send + 'static,
{
    let (manners, client) = (Manners::of(call.metadata()), client_of(call.extensions()));
    let mut asked = call.into_inner();
    let listed = items(&mut asked);
    if listed.len() > BATCH_MAX {
        let text = format!("{} items are more than {BATCH_MAX}", listed.len());
        return Err(status(Problem::invalid("items", text).hint("send them in several batches, or by Submit")));
    }
    // The call itself is counted already.
    let further = listed.len().saturating_sub(1) as u64;
    if further > 0 {
        door.paces().admit(client, further).map_err(status)?;
    }
    let last = door.seated().ok().and_then(|seated| forgotten(&seated.handle));
    listed.iter_mut().for_each(|item| drop(identify(item, last)));
    door.led(manners, path, true, asked, move |seated, mut asked| async move {
        let (answers, mut arriving) = mpsc::unbounded_channel();
        let items = std::mem::take(items(&mut asked));
        let mut results: Vec<v1::ItemResult> = Vec::with_capacity(items.len());
        let mut open = 0_usize;
        for (number, item) in items.into_iter().enumerate() {
            let request_id = item.request_id().to_owned();
            let sent = send(&seated.handle, item, &answers, number as u64).await;
            let problem = sent.err();
            open += usize::from(problem.is_none());
            results.push(v1::ItemResult { request_id, problem: problem.map(Into::into), ..v1::ItemResult::default() });
        }
        while open > 0
            && let Some((number, answer)) = arriving.recv().await
        {
            open -= 1;
            let result = &mut results[number as usize];
            *result = item_result(std::mem::take(&mut result.request_id), I::path_of, &seated.handle, answer);
        }
        Ok::<R, Failure>(answer(results))
    })
    .await
}

/// What the items of a stream count towards.
struct Meter {
    paces: Paces,
    client: Option<IpAddr>,
}

impl Meter {
    /// Counts one item; until when no further one is to be taken.
    fn charge(&self) -> Option<Instant> {
        self.paces.charge(self.client).map(|wait| Instant::now() + wait)
    }
}

async fn after_pause<T>(until: Option<Instant>, item: T) -> T {
    pause(until).await;
    item
}

async fn pause(until: Option<Instant>) {
    if let Some(until) = until {
        tokio::time::sleep_until(until).await;
    }
}

/// Takes items and gives results until the caller is done, at most [`UNDER_WAY`] of them between the two.
async fn submit(
    handle: &Handle,
    mut incoming: Streaming<v1::SubmitRequest>,
    meter: &Meter,
    out: mpsc::Sender<Result<v1::SubmitReply, Status>>,
) {
    let (answers, mut arriving) = mpsc::unbounded_channel();
    let mut open: std::collections::HashMap<u64, (String, Paths)> = std::collections::HashMap::new();
    let (mut number, mut done) = (0_u64, false);
    let mut paused: Option<Instant> = None;
    while !done || !open.is_empty() {
        let result = tokio::select! {
            biased;
            Some((number, answer)) = arriving.recv(), if !open.is_empty() => {
                let (request_id, paths) = open.remove(&number).expect("an answer comes once, to an item that was sent");
                item_result(request_id, paths, handle, answer)
            }
            () = pause(paused), if paused.is_some() => {
                paused = None;
                continue;
            }
            item = incoming.next(), if !done && paused.is_none() && open.len() < UNDER_WAY => match item {
                Some(Ok(mut item)) => {
                    identify(&mut item, forgotten(handle));
                    let (request_id, paths) = (item.request_id().to_owned(), item.paths());
                    number += 1;
                    paused = meter.charge();
                    match send(handle, item, &answers, number).await {
                        Ok(()) => {
                            open.insert(number, (request_id, paths));
                            continue;
                        }
                        Err(problem) => v1::ItemResult { request_id, problem: Some(problem.into()), ..v1::ItemResult::default() },
                    }
                }
                Some(Err(broken)) => {
                    let broken = limits::too_large(&broken).map_or(broken, status);
                    // The caller may be gone; whoever is not learns why the stream ends.
                    let _ = out.send(Err(broken)).await;
                    return;
                }
                None => {
                    done = true;
                    continue;
                }
            },
        };
        if out.send(Ok(v1::SubmitReply { result: Some(result) })).await.is_err() {
            return;
        }
    }
}

/// Puts one item on its way; its answer comes as `number`.
async fn send<I: Mutation + Clone>(
    handle: &Handle,
    item: I,
    answers: &mpsc::UnboundedSender<(u64, Answer)>,
    number: u64,
) -> Result<(), Problem> {
    let id = request::request_id(item.request_id())?;
    let view = handle.view();
    let command = match view.state.as_ref() {
        Some(state) => item.clone().command(state),
        None => return Err(error::no_state()),
    };
    let sent = match command {
        Ok(command) => handle.submit(Some(id), command, answers, number),
        // Rare: a name nobody here has heard of, or a repetition. It takes the long way.
        Err(_) => match door::change(handle, id, item).await {
            Ok(applied) => {
                // The receiver is the caller's own loop, which waits for this number.
                let _ = answers.send((number, Answer::Applied(applied)));
                Ok(())
            }
            Err(Failure::Final(problem)) => return Err(problem),
            Err(Failure::Moved) => Err(ProposeError::NotLeader { hint: None }),
            Err(Failure::Unknown) => Err(ProposeError::Lost),
        },
    };
    sent.map_err(|error| item_failed(&error))
}

/// For an item of a batch or stream that did not reach a leader: the stream goes on, the item may be sent again.
fn item_failed(error: &ProposeError) -> Problem {
    match error {
        ProposeError::NotLeader { .. } => Problem::new(Code::Unavailable, error::NOT_LEADER, "leadership has moved")
            .hint("send this item again with the same request id"),
        other => error::failed(other, None),
    }
}

fn item_result(request_id: String, paths: Paths, handle: &Handle, answer: Answer) -> v1::ItemResult {
    let mut result = v1::ItemResult { request_id, ..v1::ItemResult::default() };
    match applied(answer) {
        Ok(applied) => {
            result.revision = applied.revision.0;
            match applied.outcome {
                Ok(done) => result.container = container_of(&done),
                Err(refusal) => {
                    result.revision = 0;
                    result.problem = Some(error::refused(&refusal, paths, &handle.view()).into());
                }
            }
        }
        Err(failure) => result.problem = Some(item_failed(&failure).into()),
    }
    result
}

//! Copies of templates on the storages: where they are, whether they are whole, and how those go that nobody wants any more.
//! In: requests. Out: what nodes found; the log is not asked. Leader-local, as all errands are.
//! Absent: what a copy should hold: its digest says that, and the node compares.

use std::sync::Arc;
use std::time::Duration;

use cluster::{Name, Node, State, Template};
use futures_util::future::join_all;
use proto::convert::ConvertError;
use proto::convert::request;
use proto::wire::errand_word::Word;
use proto::wire::{self, errand};
use proto::{Problem, v1};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::door::{Door, Failure, Identity, Manners};
use super::errands::{self, QUEUE};
use super::error::status;
use super::page::Page;
use super::sessions::{Awaited, Sessions};
use crate::standing::Seated;

/// A node whose storage hangs holds up an inventory for so long.
const LOOK_WITHIN: Duration = Duration::from_secs(3);
/// Places in one errand: its words stay far below what a session carries.
const PLACES_MAX: usize = 1_000;

pub type Replies = errands::Replies<v1::VerifyTemplateReply>;

/// A place on a storage, and the storage's name.
pub type Place = (Name, wire::TemplatePlace);

/// Where `path` would be, on `only` or on every storage, by name.
pub fn places(state: &State, only: Option<&Name>, path: &str, digest: &str) -> Vec<Place> {
    let storages = state.storages().filter(|storage| only.is_none_or(|only| storage.name == *only));
    let place = |storage: &Arc<cluster::Storage>| {
        let folder = storage.kind.path();
        let place = wire::TemplatePlace {
            storage_path: folder.to_string(),
            path: path.to_owned(),
            digest: digest.to_owned(),
            claim: String::new(),
        };
        (storage.name.clone(), place)
    };
    storages.map(place).collect()
}

pub fn orders(places: &[Place]) -> wire::TemplatePlaces {
    wire::TemplatePlaces { places: places.iter().map(|(_, place)| place.clone()).collect() }
}

fn copy(node: &Name, storage: &Name, found: &wire::TemplateFound) -> v1::TemplateCopy {
    let presence = match found.presence() {
        wire::TemplatePresence::Unspecified => v1::TemplatePresence::Unknown,
        wire::TemplatePresence::Present => v1::TemplatePresence::Present,
        wire::TemplatePresence::Absent => v1::TemplatePresence::Absent,
        wire::TemplatePresence::Damaged => v1::TemplatePresence::Damaged,
        wire::TemplatePresence::Unreadable => v1::TemplatePresence::Unreadable,
        wire::TemplatePresence::Discarded => v1::TemplatePresence::Discarded,
        wire::TemplatePresence::Claimed => v1::TemplatePresence::Claimed,
    };
    v1::TemplateCopy {
        node: node.to_string(),
        storage: storage.to_string(),
        presence: presence.into(),
        problem: found.problem.clone(),
    }
}

fn copies(node: &Name, places: &[Place], found: &[wire::TemplateFound]) -> Vec<v1::TemplateCopy> {
    places.iter().zip(found).map(|((storage, _), found)| copy(node, storage, found)).collect()
}

/// What a request may leave out.
fn given(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

pub fn template<'s>(state: &'s State, text: &str) -> Result<&'s Arc<Template>, Problem> {
    let name = Name::new(text).map_err(|error| Problem::invalid("template", error.to_string()))?;
    let missing = || {
        ConvertError::not_found("template", format!("there is no template {name}"))
            .hint("`quoratectl template list` shows the templates")
    };
    Ok(state.template(&name).ok_or_else(missing)?)
}

pub fn storage(state: &State, text: &str) -> Result<Name, Problem> {
    let name = Name::new(text).map_err(|error| Problem::invalid("storage", error.to_string()))?;
    let missing = || {
        ConvertError::not_found("storage", format!("there is no storage {name}"))
            .hint("`quoratectl storage list` shows the storages")
    };
    Ok(state.storage(&name).map(|storage| storage.name.clone()).ok_or_else(missing)?)
}

fn node<'s>(state: &'s State, text: &str) -> Result<Option<&'s Arc<Node>>, Problem> {
    Ok(given(text).map(|text| request::node(state, "node", text)).transpose()?)
}

/// One errand about places; what was found, in their order.
pub async fn found(node: &Name, awaited: &mut Awaited, count: usize) -> Result<Vec<wire::TemplateFound>, Problem> {
    loop {
        match awaited.next().await {
            Some(Word::Progress(_)) => {}
            Some(Word::Templates(answer)) if answer.found.len() == count => return Ok(answer.found),
            Some(Word::Failed(failed)) => return Err(errands::failed_there(node, failed)),
            Some(Word::Templates(_) | Word::Imported(_)) => return Err(errands::off_topic(node)),
            None => return Err(errands::session_over(node)),
        }
    }
}

pub async fn verify(door: &Door, call: Request<v1::VerifyTemplateRequest>) -> Result<Response<Replies>, Status> {
    let manners = Manners::of(call.metadata());
    let request = call.into_inner();
    errands::lasting(door, manners, request, begin, async |mut there, onward| there.verify(onward).await).await
}

/// One verification that a node works on.
struct Verifying {
    node: Arc<Node>,
    places: Vec<Place>,
    awaited: Awaited,
    _place: OwnedSemaphorePermit,
}

async fn begin(
    seated: Arc<Seated>,
    asked: v1::VerifyTemplateRequest,
    place: OwnedSemaphorePermit,
) -> Result<Replies, Failure> {
    let state = seated.handle.read().await?;
    let template = template(&state, &asked.template)?;
    if template.digest.is_empty() {
        let text = format!("nothing says what {} should hold: it was registered without a digest", template.name);
        let problem = Problem::new(Code::FailedPrecondition, "no-digest", text).at("template");
        return Err(problem.hint("`quoratectl template import` gives templates theirs").into());
    }
    let only = given(&asked.storage).map(|text| storage(&state, text)).transpose()?;
    let places = places(&state, only.as_ref(), &template.path, &template.digest);
    let what = || errand::What::VerifyTemplates(orders(&places));
    let (node, awaited) = errands::ask(&seated.sessions, &state, node(&state, &asked.node)?, what)?;
    let (out, replies) = mpsc::channel(QUEUE);
    tokio::spawn(Verifying { node, places, awaited, _place: place }.follow(out));
    Ok(Box::pin(ReceiverStream::new(replies)))
}

impl Verifying {
    /// Tells the caller what the node says, until either goes; the errand is called off with `self`.
    async fn follow(mut self, out: mpsc::Sender<Result<v1::VerifyTemplateReply, Status>>) {
        let reply = |phase: v1::ImportPhase| v1::VerifyTemplateReply {
            node: self.node.name.to_string(),
            phase: phase.into(),
            ..v1::VerifyTemplateReply::default()
        };
        if out.send(Ok(reply(v1::ImportPhase::Waiting))).await.is_err() {
            return;
        }
        loop {
            let word = tokio::select! {
                word = self.awaited.next() => word,
                () = out.closed() => return,
            };
            let last = match word {
                Some(Word::Progress(wire::ErrandProgress { bytes, bytes_total, entries, .. })) => {
                    let checking = reply(v1::ImportPhase::Checking);
                    // Whoever is slow hears less; the end is always said.
                    let _ = out.try_send(Ok(v1::VerifyTemplateReply { bytes, bytes_total, entries, ..checking }));
                    continue;
                }
                Some(Word::Templates(answer)) if answer.found.len() == self.places.len() => {
                    let copies = copies(&self.node.name, &self.places, &answer.found);
                    Ok(v1::VerifyTemplateReply { copies, ..reply(v1::ImportPhase::Done) })
                }
                Some(Word::Failed(failed)) => Err(errands::failed_there(&self.node.name, failed)),
                Some(Word::Templates(_) | Word::Imported(_)) => Err(errands::off_topic(&self.node.name)),
                None => Err(errands::session_over(&self.node.name)),
            };
            // Nobody may be there to hear it any more.
            let _ = out.send(last.map_err(status)).await;
            return;
        }
    }
}

pub async fn inventory(
    door: &Door,
    call: Request<v1::TemplateInventoryRequest>,
) -> Result<Response<v1::TemplateInventoryReply>, Status> {
    let manners = Manners::of(call.metadata());
    let path = "/quorate.v1.TemplateService/Inventory";
    door.led(manners, path, true, call.into_inner(), async |seated, asked: v1::TemplateInventoryRequest| {
        let state = seated.handle.read().await?;
        let page = Page::of(asked.page.as_ref(), &format!("inventory {}", asked.template))?;
        let only = given(&asked.template).map(|text| template(&state, text).map(|it| it.name.clone())).transpose()?;
        let after = |name: &Name| page.after.as_deref().is_none_or(|after| name.as_str() > after);
        let wanted = |name: &Name| only.as_ref().is_none_or(|only| name == only) && after(name);
        let mut found: Vec<&Arc<Template>> =
            state.templates().filter(|it| wanted(&it.name)).take(page.size + 1).collect();
        let cut = page.cut(&mut found, |template| template.name.to_string());
        let templates = inventoried(&seated.sessions, &state, &found).await;
        Ok(v1::TemplateInventoryReply { templates, page: Some(cut), revision: state.revision().0 })
    })
    .await
}

/// What every node finds of `templates`.
async fn inventoried(sessions: &Sessions, state: &State, templates: &[&Arc<Template>]) -> Vec<v1::TemplateInventory> {
    let kept = |template: &Template| match template.path.is_empty() {
        true => Vec::new(),
        false => places(state, None, &template.path, &template.digest),
    };
    let places: Vec<(usize, Place)> = templates
        .iter()
        .enumerate()
        .flat_map(|(at, template)| kept(template).into_iter().map(move |place| (at, place)))
        .collect();
    let looks = state.nodes().map(|node| look(sessions, node, &places));
    let mut inventory: Vec<v1::TemplateInventory> = templates
        .iter()
        .map(|template| v1::TemplateInventory { template: template.name.to_string(), copies: Vec::new() })
        .collect();
    for (at, copy) in join_all(looks).await.into_iter().flatten() {
        inventory[at].copies.push(copy);
    }
    inventory
}

/// What one node finds, by the template each place is of.
async fn look(sessions: &Sessions, node: &Node, places: &[(usize, Place)]) -> Vec<(usize, v1::TemplateCopy)> {
    let mut copies = Vec::with_capacity(places.len());
    let until = tokio::time::Instant::now() + LOOK_WITHIN;
    for part in places.chunks(PLACES_MAX) {
        let asked: Vec<Place> = part.iter().map(|(_, place)| place.clone()).collect();
        let look = async {
            let mut awaited = sessions
                .errand(node.id, errand::What::SurveyTemplates(orders(&asked)))
                .map_err(|why| errands::unasked(why, &node.name))?;
            found(&node.name, &mut awaited, part.len()).await
        };
        let silent = || Problem::new(Code::DeadlineExceeded, "silent", format!("{} did not answer in time", node.name));
        match tokio::time::timeout_at(until, look).await.unwrap_or_else(|_| Err(silent())) {
            Ok(found) => {
                let seen = self::copies(&node.name, &asked, &found);
                copies.extend(part.iter().map(|(at, _)| *at).zip(seen));
            }
            Err(problem) => copies.extend(part.iter().map(|(at, (storage, _))| {
                let copy = v1::TemplateCopy {
                    node: node.name.to_string(),
                    storage: storage.to_string(),
                    presence: v1::TemplatePresence::Unknown.into(),
                    problem: problem.message.to_string(),
                };
                (*at, copy)
            })),
        }
    }
    copies
}

pub async fn discard(
    door: &Door,
    call: Request<v1::DiscardTemplateRequest>,
) -> Result<Response<v1::DiscardTemplateReply>, Status> {
    let manners = Manners::of(call.metadata());
    let path = "/quorate.v1.TemplateService/Discard";
    let mut asked = call.into_inner();
    let identity = Identity::of(&mut asked, door)?;
    let discarded = door.led(manners, path, true, asked, async |seated, asked: v1::DiscardTemplateRequest| {
        let hex = asked.digest.strip_prefix("sha256:").filter(|hex| hex.len() == 64);
        let Some(hex) = hex.filter(|hex| hex.bytes().all(|it| it.is_ascii_digit() || (b'a'..=b'f').contains(&it)))
        else {
            let text = format!("{:?} is not `sha256:` and 64 hexadecimal digits", asked.digest);
            return Err(Problem::invalid("digest", text).into());
        };
        // What an import finds on a storage now, it registers soon.
        let _no_import = seated.imports.try_write().map_err(|_| {
            let text = "a template is being imported, which may be this one";
            Problem::new(Code::FailedPrecondition, "import-under-way", text).hint("repeat it when the import is done")
        })?;
        let state = seated.handle.read().await?;
        let node = node(&state, &asked.node)?;
        // Where every version so far has put what it imported.
        let mut places = places(&state, None, &Template::imported_path(hex), &asked.digest);
        let (node, mut awaited) =
            errands::ask(&seated.sessions, &state, node, || errand::What::SurveyTemplates(orders(&places)))?;
        let seen = found(&node.name, &mut awaited, places.len()).await?;
        for ((_, place), seen) in places.iter_mut().zip(&seen) {
            place.claim.clone_from(&seen.claim);
        }
        // After the claims were seen: whoever registers it from now on has claimed it anew.
        let state = seated.handle.read().await?;
        if let Some(user) = state.templates().find(|it| *it.digest == *asked.digest || it.path.contains(hex)) {
            let text = format!("template {} is made of it", user.name);
            return Err(Problem::new(Code::FailedPrecondition, "in-use", text).at("digest").into());
        }
        let what = || errand::What::DiscardTemplates(orders(&places));
        let (node, mut awaited) = errands::ask(&seated.sessions, &state, Some(&node), what)?;
        let found = found(&node.name, &mut awaited, places.len()).await?;
        Ok(v1::DiscardTemplateReply { copies: copies(&node.name, &places, &found) })
    });
    identity.said(discarded.await)
}

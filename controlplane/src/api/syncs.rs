//! Templates brought to the nodes that lack them, each by the node itself: from another storage on which it finds them, or
//! from the source that is named.
//! In: a request. Out: how far each node is, then what came of each; nothing is written to the log, for a template is
//! registered already and its digest says what a copy must hold.
//! What is shared is brought once: the first node that lacks a template brings it, then the others look again.
//! Leader-local, as all errands are: repeated after a change of leader, it goes on with what is still missing.

use std::sync::Arc;
use std::time::Duration;

use cluster::{Name, Node, RequestId, State, Template, TemplateKind};
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use proto::wire::errand_word::Word;
use proto::wire::{self, TemplatePresence, errand};
use proto::{Problem, v1};
use tokio::sync::{OwnedRwLockReadGuard, OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::copies::{self, Place};
use super::door::{Door, Failure, Identity, Manners};
use super::errands::{self, QUEUE};
use crate::standing::Seated;

/// Nodes that copy at the same time where each needs a copy of its own: they may all read from one share.
const AT_ONCE: usize = 8;
/// A node whose storage hangs longer than this is told of as such.
const LOOK_WITHIN: Duration = Duration::from_secs(10);
const TEMPLATES_MAX: usize = 1_000;

pub type Replies = errands::Replies<v1::SyncTemplatesReply>;

type Out = mpsc::Sender<Result<v1::SyncTemplatesReply, Status>>;

pub async fn sync(door: &Door, call: Request<v1::SyncTemplatesRequest>) -> Result<Response<Replies>, Status> {
    let manners = Manners::of(call.metadata());
    let mut request = call.into_inner();
    let identity = Identity::of(&mut request, door)?;
    let id = identity.id;
    let here = |seated, request, place| begin(seated, id, request, place);
    let replies =
        errands::lasting(door, manners, request, here, async |mut there, onward| there.sync(onward).await).await;
    identity.said(replies)
}

/// What is to be brought where, and how.
struct Syncing {
    seated: Arc<Seated>,
    templates: Vec<Arc<Template>>,
    nodes: Vec<Arc<Node>>,
    storage: Name,
    /// By template: where it may lie, on every storage.
    places: Vec<Vec<Place>>,
    asked: v1::SyncTemplatesRequest,
    claim: String,
    _place: OwnedSemaphorePermit,
    /// Nothing is discarded meanwhile: it may be what is just being brought.
    _discards_nothing: OwnedRwLockReadGuard<()>,
}

async fn begin(
    seated: Arc<Seated>,
    id: RequestId,
    asked: v1::SyncTemplatesRequest,
    place: OwnedSemaphorePermit,
) -> Result<Replies, Failure> {
    let lock = Arc::clone(&seated.imports).read_owned().await;
    let state = seated.handle.read().await?;
    let storage = copies::storage(&state, &asked.storage)?;
    let templates = templates(&state, &asked)?;
    let nodes = nodes(&state, &asked.nodes)?;
    let places = templates.iter().map(|it| copies::places(&state, None, &it.path, &it.digest)).collect();
    let (out, replies) = mpsc::channel(QUEUE);
    let claim = format!("{}/{}", id.session, id.sequence);
    let syncing =
        Syncing { seated, templates, nodes, storage, places, asked, claim, _place: place, _discards_nothing: lock };
    tokio::spawn(syncing.run(out));
    Ok(Box::pin(ReceiverStream::new(replies)))
}

/// Those that were named, or every one that was imported.
fn templates(state: &State, asked: &v1::SyncTemplatesRequest) -> Result<Vec<Arc<Template>>, Problem> {
    let mut found: Vec<Arc<Template>> = Vec::new();
    for (at, name) in asked.templates.iter().enumerate() {
        let field = format!("templates[{at}]");
        let template = copies::template(state, name).map_err(|problem| problem.at(field.as_str()))?;
        if !template.is_imported() {
            let text = format!("{name} was not imported: nothing says what a copy of it must hold");
            let problem = Problem::new(Code::FailedPrecondition, "not-imported", text).at(field);
            return Err(problem.hint("`quoratectl template import` brings one that can be copied"));
        }
        if found.iter().any(|other| other.name == template.name) {
            return Err(Problem::invalid(field, format!("{name} is named twice")));
        }
        found.push(Arc::clone(template));
    }
    if asked.templates.is_empty() {
        found = state.templates().filter(|template| template.is_imported()).cloned().collect();
    }
    if found.len() > TEMPLATES_MAX {
        let text = format!("{} templates; at most {TEMPLATES_MAX} at once", found.len());
        return Err(Problem::invalid("templates", text));
    }
    if found.is_empty() {
        let problem = Problem::new(Code::FailedPrecondition, "nothing-to-do", "no template was imported yet");
        return Err(problem.hint("`quoratectl template import` brings one"));
    }
    if !asked.source.is_empty() && found.len() != 1 {
        let text = format!("one source cannot be {} templates", found.len());
        return Err(Problem::invalid("source", text).hint("name the one template it is"));
    }
    Ok(found)
}

/// Those that were named, or every one that is up.
fn nodes(state: &State, asked: &[String]) -> Result<Vec<Arc<Node>>, Problem> {
    let mut found: Vec<Arc<Node>> = Vec::new();
    for (at, name) in asked.iter().enumerate() {
        let field = format!("nodes[{at}]");
        let node = proto::convert::request::node(state, &field, name)?;
        if found.iter().any(|other| other.id == node.id) {
            return Err(Problem::invalid(field, format!("{} is named twice", node.name)));
        }
        found.push(Arc::clone(node));
    }
    if asked.is_empty() {
        found = state.nodes().filter(|node| node.up().is_some()).cloned().collect();
    }
    if found.is_empty() {
        let problem = Problem::new(Code::FailedPrecondition, "no-node", "no node is up");
        return Err(problem.hint("`quoratectl node list` shows the nodes"));
    }
    Ok(found)
}

impl Syncing {
    /// Until all is done or the caller goes; errands under way are called off with it.
    async fn run(self, out: Out) {
        tokio::select! {
            nodes = self.all(&out) => {
                let phase = v1::ImportPhase::Done.into();
                let last = v1::SyncTemplatesReply { phase, nodes, ..v1::SyncTemplatesReply::default() };
                // Nobody may be there to hear it any more.
                let _ = out.send(Ok(last)).await;
            }
            () = out.closed() => {}
        }
    }

    async fn all(&self, out: &Out) -> Vec<v1::SyncedTemplate> {
        let mut results = Vec::new();
        for (template, places) in self.templates.iter().zip(&self.places) {
            let of = &OfTemplate { syncing: self, template, places, out };
            let looks = join_all(self.nodes.iter().map(async |node| of.settled(node).await)).await;
            let mut lacking = Vec::new();
            let mut settled = Vec::new();
            for (at, (node, look)) in self.nodes.iter().zip(looks).enumerate() {
                match look {
                    Some(result) => settled.push((at, result)),
                    None => lacking.push((at, node)),
                }
            }
            // Where the storage is shared this is all there is to bring.
            let mut lacking = lacking.into_iter();
            if let Some((at, node)) = lacking.next() {
                settled.push((at, of.brought(node).await));
            }
            let others: Vec<_> =
                lacking.map(|(at, node)| async move { (at, of.brought(node).await) }.boxed()).collect();
            settled.extend(stream::iter(others).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await);
            settled.sort_by_key(|(at, _)| *at);
            results.extend(settled.into_iter().map(|(_, result)| result));
        }
        results
    }
}

/// One of the templates.
struct OfTemplate<'a> {
    syncing: &'a Syncing,
    template: &'a Template,
    places: &'a [Place],
    out: &'a Out,
}

/// Where a node may take it from: the storage it finds it on, if it is one, and the words of the order.
type Source = (Option<Name>, String);

impl OfTemplate<'_> {
    /// What came of `node`, if nothing is to be brought to it, or nothing can be.
    async fn settled(&self, node: &Node) -> Option<v1::SyncedTemplate> {
        match self.found(node).await {
            Err(problem) => Some(self.result(node, None, false, Some(problem))),
            Ok(found) => match self.at_target(node, &found) {
                Ok(true) if self.syncing.asked.verify => Some(self.verified(node).await),
                Ok(true) => Some(self.result(node, None, true, None)),
                Ok(false) => None,
                Err(problem) => Some(self.result(node, None, false, Some(problem))),
            },
        }
    }

    async fn brought(&self, node: &Node) -> v1::SyncedTemplate {
        // Somebody else may have brought it to a storage that both see.
        let found = match self.found(node).await {
            Err(problem) => return self.result(node, None, false, Some(problem)),
            Ok(found) => found,
        };
        match self.at_target(node, &found) {
            Ok(true) => return self.result(node, None, true, None),
            Ok(false) => {}
            Err(problem) => return self.result(node, None, false, Some(problem)),
        }
        let mut why = Problem::new(
            Code::FailedPrecondition,
            "no-source",
            format!("{} finds {} on no other storage", node.name, self.template.name),
        )
        .hint("say where it comes from as that node sees it, by --from");
        for (from, source) in self.sources(&found) {
            match self.bring(node, &source).await {
                Ok(was_there) => return self.result(node, from, was_there, None),
                Err(problem) => why = problem,
            }
        }
        self.result(node, None, false, Some(why))
    }

    fn result(&self, node: &Node, from: Option<Name>, was_there: bool, problem: Option<Problem>) -> v1::SyncedTemplate {
        v1::SyncedTemplate {
            template: self.template.name.to_string(),
            node: node.name.to_string(),
            from: from.map_or_else(String::new, |from| from.to_string()),
            was_there,
            problem: problem.map(Into::into),
        }
    }

    /// What `node` finds of it on every storage, in the order of the places.
    async fn found(&self, node: &Node) -> Result<Vec<wire::TemplateFound>, Problem> {
        let look = async {
            let what = errand::What::SurveyTemplates(copies::orders(self.places));
            let asked = self.syncing.seated.sessions.errand(node.id, what);
            let mut awaited = asked.map_err(|why| errands::unasked(why, &node.name))?;
            copies::found(&node.name, &mut awaited, self.places.len()).await
        };
        let silent = || Problem::new(Code::DeadlineExceeded, "silent", format!("{} did not answer in time", node.name));
        tokio::time::timeout(LOOK_WITHIN, look).await.unwrap_or_else(|_| Err(silent()))
    }

    /// Whether it is where it is to be brought. Errs where it cannot be brought there.
    fn at_target(&self, node: &Node, found: &[wire::TemplateFound]) -> Result<bool, Problem> {
        let target = self.places.iter().zip(found).find(|((storage, _), _)| *storage == self.syncing.storage);
        let Some((_, found)) = target else { return Ok(false) };
        let storage = &self.syncing.storage;
        let problem = |reason: &str, what: &str| {
            let text = format!("{}: on {storage} it {what}: {}", node.name, found.problem);
            Problem::new(Code::FailedPrecondition, reason, text)
        };
        match found.presence() {
            TemplatePresence::Present => Ok(true),
            TemplatePresence::Damaged => {
                Err(problem("damaged", "is damaged")
                    .hint("import it under another name, and make its containers of that"))
            }
            TemplatePresence::Unreadable => Err(problem("storage-failed", "cannot be looked at")),
            _ => Ok(false),
        }
    }

    fn sources(&self, found: &[wire::TemplateFound]) -> Vec<Source> {
        if !self.syncing.asked.source.is_empty() {
            return vec![(None, self.syncing.asked.source.clone())];
        }
        let there = self.places.iter().zip(found).filter(|((storage, _), found)| {
            *storage != self.syncing.storage && found.presence() == TemplatePresence::Present
        });
        there
            .map(|((storage, place), _)| (Some(storage.clone()), format!("{}/{}", place.storage_path, place.path)))
            .collect()
    }

    /// Has `node` copy it; whether it was there after all.
    async fn bring(&self, node: &Node, source: &str) -> Result<bool, Problem> {
        let target = self.places.iter().find(|(storage, _)| *storage == self.syncing.storage);
        let order = wire::ImportTemplate {
            source: source.to_owned(),
            storage_path: target.map_or_else(String::new, |(_, place)| place.storage_path.clone()),
            digest: self.template.digest.to_string(),
            plain_http: self.syncing.asked.plain_http,
            claim: self.syncing.claim.clone(),
            over_others: self.template.kind == TemplateKind::Application,
            ..wire::ImportTemplate::default()
        };
        self.say(node, &wire::ErrandProgress::default());
        let asked = self.syncing.seated.sessions.errand(node.id, errand::What::ImportTemplate(order));
        let mut awaited = asked.map_err(|why| errands::unasked(why, &node.name))?;
        loop {
            match awaited.next().await {
                Some(Word::Progress(progress)) => self.say(node, &progress),
                Some(Word::Imported(imported)) => return Ok(imported.was_there),
                Some(Word::Failed(failed)) => return Err(errands::failed_there(&node.name, failed)),
                Some(_) => return Err(errands::off_topic(&node.name)),
                None => return Err(errands::session_over(&node.name)),
            }
        }
    }

    /// Reads it again where it is.
    async fn verified(&self, node: &Node) -> v1::SyncedTemplate {
        let target: Vec<Place> =
            self.places.iter().filter(|(storage, _)| *storage == self.syncing.storage).cloned().collect();
        let what = errand::What::VerifyTemplates(copies::orders(&target));
        let mut awaited = match self.syncing.seated.sessions.errand(node.id, what) {
            Ok(awaited) => awaited,
            Err(why) => return self.result(node, None, true, Some(errands::unasked(why, &node.name))),
        };
        let outcome = loop {
            match awaited.next().await {
                Some(Word::Progress(progress)) => self.say(node, &progress),
                Some(Word::Templates(answer)) => break self.at_target(node, &answer.found).map(drop),
                Some(Word::Failed(failed)) => break Err(errands::failed_there(&node.name, failed)),
                Some(_) => break Err(errands::off_topic(&node.name)),
                None => break Err(errands::session_over(&node.name)),
            }
        };
        self.result(node, None, true, outcome.err())
    }

    /// Tells the caller how far `node` is; whoever is slow hears less.
    fn say(&self, node: &Node, progress: &wire::ErrandProgress) {
        let said = v1::SyncTemplatesReply {
            template: self.template.name.to_string(),
            node: node.name.to_string(),
            phase: v1::ImportPhase::of(progress.phase()).into(),
            bytes: progress.bytes,
            bytes_total: progress.bytes_total,
            entries: progress.entries,
            nodes: Vec::new(),
        };
        let _ = self.out.try_send(Ok(said));
    }
}

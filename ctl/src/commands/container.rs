//! Containers: what runs, where, since when, and why there.

mod told;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use proto::{Problem, v1};
use tonic::Code;

use super::member::read;
use super::spec::{OnQuorumLoss, Spec};
use crate::args;
use crate::client::Failure;
use crate::output::{count, dash, table};
use crate::progress::patiently;
use crate::session::{Awaited, Look, PATIENCE, Session, Wait};
use crate::trouble::Trouble;
use told::{listed, node_of, runs, shown, state, why};

/// The most items one batch call takes.
const BATCH: usize = 1_000;

#[derive(Subcommand)]
pub enum Container {
    /// Creates a container that does not run yet; `start` makes it run
    Create {
        #[command(flatten)]
        spec: Box<Spec>,
    },
    /// Creates a container and waits until it runs
    Run {
        #[command(flatten)]
        spec: Box<Spec>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Creates many, from a file in the form of `POST /v1/containers:batchCreate`
    BatchCreate {
        /// JSON: {"items": [{"spec": {…}}, …]}; - reads it from standard input
        file: PathBuf,
    },
    /// The containers, by id
    #[command(visible_alias = "ls")]
    List(List),
    /// All that is known of a container
    Show {
        /// Name, or id with @
        container: String,
        /// Answer from what the member asked has applied, also without a majority
        #[arg(long)]
        stale: bool,
    },
    /// Wants it to run
    Start(Target),
    /// Wants it stopped; it keeps its place in the list, not its node
    Stop(Target),
    /// Stops and starts it under a new epoch
    Restart(Target),
    /// Moves it to another node: stop, hand over, start; waits unless told not to
    Move {
        #[command(flatten)]
        target: Target,
        /// Where to [default: the best other node]
        #[arg(long, value_name = "NODE", default_value = "", hide_default_value = true)]
        to: String,
    },
    /// Stops and forgets it; its private area is left to the storage
    #[command(visible_alias = "rm")]
    Delete(Target),
    /// Why it runs where it runs, or why it does not run
    Why {
        /// Name, or id with @
        container: String,
        /// Answer from what the member asked has applied, also without a majority
        #[arg(long)]
        stale: bool,
    },
    /// Sets annotations (KEY=VALUE) and removes them (KEY-)
    Annotate {
        /// Name, or id with @
        container: String,
        #[arg(required = true, value_name = "KEY=VALUE|KEY-", value_parser = annotation)]
        annotations: Vec<Annotation>,
    },
    /// What becomes of it when its node hears no majority any more; takes effect with its next epoch (restart, move)
    SetOnQuorumLoss {
        /// Name, or id with @
        container: String,
        #[arg(value_enum, value_name = "POLICY")]
        policy: OnQuorumLoss,
    },
    /// Annotates many, from a file in the form of `POST /v1/containers:batchAnnotate`
    BatchAnnotate {
        /// JSON: {"items": [{"container": "web", "set": {…}}, …]}; - reads it from standard input
        file: PathBuf,
    },
}

#[derive(Args)]
pub struct Target {
    /// Name, or id with @
    container: String,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Args)]
pub struct List {
    /// Only those on that node
    #[arg(long, default_value = "", hide_default_value = true)]
    node: String,
    /// Only those in that state
    #[arg(long, value_enum)]
    state: Option<State>,
    /// Answer from what the member asked has applied, also without a majority
    #[arg(long)]
    stale: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum State {
    Unplaced,
    Recovering,
    Assigned,
    Starting,
    Running,
    Moving,
    Stopping,
    Stopped,
    Held,
    Unmonitored,
    Blocked,
}

impl State {
    fn message(self) -> v1::ContainerState {
        match self {
            State::Unplaced => v1::ContainerState::Unplaced,
            State::Recovering => v1::ContainerState::Recovering,
            State::Assigned => v1::ContainerState::Assigned,
            State::Starting => v1::ContainerState::Starting,
            State::Running => v1::ContainerState::Running,
            State::Moving => v1::ContainerState::Moving,
            State::Stopping => v1::ContainerState::Stopping,
            State::Stopped => v1::ContainerState::Stopped,
            State::Held => v1::ContainerState::Held,
            State::Unmonitored => v1::ContainerState::Unmonitored,
            State::Blocked => v1::ContainerState::Blocked,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Annotation {
    Set(String, String),
    Remove(String),
}

fn annotation(text: &str) -> Result<Annotation, String> {
    if let Ok((key, value)) = args::pair(text) {
        return Ok(Annotation::Set(key, value));
    }
    match text.strip_suffix('-') {
        Some(key) if !key.is_empty() && !key.contains('=') => Ok(Annotation::Remove(key.to_owned())),
        _ => Err("sets nothing and removes nothing; say KEY=VALUE or KEY-".to_owned()),
    }
}

pub async fn run(session: &Session, verb: Container) -> Result<()> {
    match verb {
        Container::Create { spec } => create(session, *spec, v1::DesiredState::Stopped, false).await,
        Container::Run { spec, wait } => create(session, *spec, v1::DesiredState::Running, wait.or(true)).await,
        Container::BatchCreate { file } => batch_create(session, &file).await,
        Container::List(asked) => {
            let state = asked.state.map_or(v1::ContainerState::Unspecified, State::message) as i32;
            let request = v1::ListContainersRequest { page: None, node: asked.node, state, stale: asked.stale };
            let reply = session.client.ask_all(request).await.context("list the containers")?;
            session.print("ListContainersReply", &reply, || listed(&reply.containers, session.is_wide()));
            Ok(())
        }
        Container::Show { container, stale } => {
            let request = v1::GetContainerRequest { container: container.clone(), stale };
            let reply = session.client.ask(request).await.with_context(|| format!("show {container}"))?;
            session.print("GetContainerReply", &reply, || shown(&reply.container.clone().unwrap_or_default()));
            Ok(())
        }
        Container::Start(target) => start(session, target).await,
        Container::Stop(target) => stop(session, target).await,
        Container::Restart(target) => restart(session, target).await,
        Container::Move { target, to } => relocate(session, target, to).await,
        Container::Delete(target) => delete(session, target).await,
        Container::Why { container, stale } => {
            let request = v1::WhyRequest { container: container.clone(), stale };
            let reply = session.client.ask(request).await.with_context(|| format!("ask why about {container}"))?;
            session.print("WhyReply", &reply, || why(&reply, session.is_wide()));
            Ok(())
        }
        Container::Annotate { container, annotations } => annotate(session, container, annotations).await,
        Container::SetOnQuorumLoss { container, policy } => {
            let on_quorum_loss = policy.message() as i32;
            let request =
                v1::SetOnQuorumLossRequest { request_id: String::new(), container: container.clone(), on_quorum_loss };
            let doing = format!("set the policy of {container}");
            session.change(request, &doing, &format!("{container} {} from its next epoch on", policy.does())).await
        }
        Container::BatchAnnotate { file } => batch_annotate(session, &file).await,
    }
}

async fn create(session: &Session, spec: Spec, desired: v1::DesiredState, wait: bool) -> Result<()> {
    let name = spec.name().to_owned();
    let spec = Some(spec.message()?);
    let request = v1::CreateContainerRequest { request_id: String::new(), spec, desired: desired as i32 };
    let reply = session.client.ask(request).await.with_context(|| format!("create {name}"))?;
    if !wait {
        session.print("CreateContainerReply", &reply, || {
            format!("{name} is created as {} (revision {})", reply.container, reply.revision)
        });
        return Ok(());
    }
    let reference = format!("@{}", reply.container);
    running(session, &name, &reference, (reply.revision, 0)).await
}

async fn start(session: &Session, Target { container, wait }: Target) -> Result<()> {
    let request = v1::StartContainerRequest { request_id: String::new(), container: container.clone() };
    let change = session.order(request, &format!("start {container}")).await?;
    match wait.or(false) {
        true => running(session, &container, &container, (change.revision, 0)).await,
        false => ordered(session, &change, &format!("{container} shall run")),
    }
}

async fn restart(session: &Session, Target { container, wait }: Target) -> Result<()> {
    let before = if wait.or(false) { get(session, &container).await?.epoch } else { 0 };
    let request = v1::RestartContainerRequest { request_id: String::new(), container: container.clone() };
    let change = session.order(request, &format!("restart {container}")).await?;
    match wait.or(false) {
        true => running(session, &container, &container, (change.revision, before + 1)).await,
        false => ordered(session, &change, &format!("{container} shall be stopped and started under a new epoch")),
    }
}

async fn stop(session: &Session, Target { container, wait }: Target) -> Result<()> {
    let request = v1::StopContainerRequest { request_id: String::new(), container: container.clone() };
    let change = session.order(request, &format!("stop {container}")).await?;
    if !wait.or(false) {
        return ordered(session, &change, &format!("{container} shall be stopped"));
    }
    let awaited = awaited("stopping", &container, &container, change.revision);
    let stopped = session.until(awaited, async || {
        let now = get(session, &container).await?;
        if now.desired() == v1::DesiredState::Running {
            bail!("{container} was started again by somebody else");
        }
        Ok(if now.state() == v1::ContainerState::Stopped { Look::Reached(now) } else { Look::NotYet(state(&now)) })
    });
    let stopped = stopped.await?;
    session.print("Container", &stopped, || format!("{container} is stopped"));
    Ok(())
}

async fn relocate(session: &Session, Target { container, wait }: Target, to: String) -> Result<()> {
    let before = if wait.or(true) { get(session, &container).await? } else { v1::Container::default() };
    let request = v1::MoveContainerRequest { request_id: String::new(), container: container.clone(), node: to };
    let change = session.order(request, &format!("move {container}")).await?;
    if !wait.or(true) {
        return ordered(session, &change, &format!("{container} is being moved"));
    }
    let source = node_of(&before).unwrap_or_default().to_owned();
    let awaited = awaited("moving", &container, &container, change.revision);
    let moved = session.until(awaited, async || {
        let now = get(session, &container).await?;
        if now.state() != v1::ContainerState::Running {
            ensure_may_run(&container, &now)?;
            return Ok(Look::NotYet(state(&now)));
        }
        // Running where it was, and no longer moving: the move began with the order.
        if node_of(&now) == Some(&source) {
            bail!("{container} stays on {source}: the move was given up; `quoratectl events --container {container}` says why");
        }
        Ok(Look::Reached(now))
    });
    let moved = moved.await?;
    session.print("Container", &moved, || runs(&container, &moved));
    Ok(())
}

async fn delete(session: &Session, Target { container, wait }: Target) -> Result<()> {
    // By id: a new container may take the name as soon as this one is gone.
    let id = if wait.or(false) { get(session, &container).await?.id } else { String::new() };
    let request = v1::DeleteContainerRequest { request_id: String::new(), container: container.clone() };
    let change = session.order(request, &format!("delete {container}")).await?;
    if !wait.or(false) {
        return ordered(session, &change, &format!("{container} shall be stopped and forgotten"));
    }
    let reference = format!("@{id}");
    let awaited = awaited("deleting", &container, &reference, change.revision);
    let gone = session.until(awaited, async || {
        let request = v1::GetContainerRequest { container: reference.clone(), stale: false };
        match session.client.ask(request).await {
            Ok(reply) => Ok(Look::NotYet(state(&reply.container.unwrap_or_default()))),
            Err(Failure::Problem(Problem { code: Code::NotFound, .. })) => Ok(Look::Reached(())),
            Err(failure) => Err(failure.into()),
        }
    });
    gone.await?;
    ordered(session, &change, &format!("{container} is gone"))
}

async fn annotate(session: &Session, container: String, annotations: Vec<Annotation>) -> Result<()> {
    let mut set = Vec::new();
    let mut remove = Vec::new();
    for annotation in annotations {
        match annotation {
            Annotation::Set(key, value) => set.push((key, value)),
            Annotation::Remove(key) => remove.push(key),
        }
    }
    let set = args::pairs("annotate", set)?;
    if let Some(both) = remove.iter().find(|key| set.contains_key(*key)) {
        bail!(Trouble::usage(format!("{both:?} is both set and removed; which one holds?")));
    }
    let request = v1::AnnotateContainerRequest { request_id: String::new(), container: container.clone(), set, remove };
    session.change(request, &format!("annotate {container}"), &format!("{container} is annotated")).await
}

async fn batch_create(session: &Session, file: &std::path::Path) -> Result<()> {
    let mut asked: v1::BatchCreateContainersRequest = read("BatchCreateContainersRequest", file)?;
    for item in asked.items.iter_mut().filter(|item| item.request_id.is_empty()) {
        item.request_id = session.client.request_id();
    }
    let names: Vec<String> =
        asked.items.iter().map(|it| it.spec.as_ref().map_or(String::new(), |spec| spec.name.clone())).collect();
    let mut whole = v1::BatchCreateContainersReply::default();
    let all = async {
        for items in asked.items.chunks(BATCH) {
            let request = v1::BatchCreateContainersRequest { items: items.to_vec() };
            whole.results.extend(session.client.ask(request).await.context("create containers")?.results);
        }
        anyhow::Ok(())
    };
    patiently(|| format!("creating {}", many(asked.items.len())), all).await?;
    session.print("BatchCreateContainersReply", &whole, || results(&names, &whole.results));
    refused(&whole.results)
}

async fn batch_annotate(session: &Session, file: &std::path::Path) -> Result<()> {
    let mut asked: v1::BatchAnnotateContainersRequest = read("BatchAnnotateContainersRequest", file)?;
    for item in asked.items.iter_mut().filter(|item| item.request_id.is_empty()) {
        item.request_id = session.client.request_id();
    }
    let names: Vec<String> = asked.items.iter().map(|item| item.container.clone()).collect();
    let mut whole = v1::BatchAnnotateContainersReply::default();
    let all = async {
        for items in asked.items.chunks(BATCH) {
            let request = v1::BatchAnnotateContainersRequest { items: items.to_vec() };
            whole.results.extend(session.client.ask(request).await.context("annotate containers")?.results);
        }
        anyhow::Ok(())
    };
    patiently(|| format!("annotating {}", many(asked.items.len())), all).await?;
    session.print("BatchAnnotateContainersReply", &whole, || results(&names, &whole.results));
    refused(&whole.results)
}

fn many(containers: usize) -> String {
    count(u32::try_from(containers).unwrap_or(u32::MAX), "container")
}

fn results(names: &[String], results: &[v1::ItemResult]) -> String {
    let rows = names.iter().zip(results).map(|(name, result)| {
        let said = match &result.problem {
            Some(problem) => [&problem.field, &problem.message, &problem.hint].into_iter().filter(|it| !it.is_empty()),
            None => return vec![dash(name), dash(&result.container), "done".to_owned()],
        };
        let said: Vec<&str> = said.map(String::as_str).collect();
        vec![dash(name), dash(&result.container), format!("refused: {}", said.join("; "))]
    });
    table(&["name", "id", "result"], rows)
}

/// Errs, with the first problem, if an item was refused.
fn refused(results: &[v1::ItemResult]) -> Result<()> {
    let problems: Vec<&v1::Problem> = results.iter().filter_map(|result| result.problem.as_ref()).collect();
    let Some(first) = problems.first() else { return Ok(()) };
    let problem = Problem::new(Code::from_i32(first.code), first.reason.as_str(), first.message.as_str());
    let problem = problem.at(first.field.as_str()).hint(first.hint.as_str());
    Err(Failure::Problem(problem))
        .with_context(|| format!("{} of {} were refused, the first", problems.len(), results.len()))
}

async fn get(session: &Session, container: &str) -> Result<v1::Container> {
    let request = v1::GetContainerRequest { container: container.to_owned(), stale: false };
    let reply = session.client.ask(request).await.with_context(|| format!("look at {container}"))?;
    Ok(reply.container.unwrap_or_default())
}

fn awaited(doing: &str, name: &str, reference: &str, from: u64) -> Awaited {
    Awaited {
        what: format!("{doing} {name}"),
        next: format!("`quoratectl container why {name}` says what it waits for"),
        patience: PATIENCE,
        from,
        about: v1::EventFilter { container: reference.to_owned(), ..v1::EventFilter::default() },
    }
}

fn ordered(session: &Session, change: &v1::Change, done: &str) -> Result<()> {
    session.print("Change", change, || format!("{done} (revision {})", change.revision));
    Ok(())
}

/// Waits until it runs under `epoch` or a later one.
async fn running(session: &Session, name: &str, reference: &str, (from, epoch): (u64, u64)) -> Result<()> {
    let found = session.until(awaited("starting", name, reference, from), async || {
        let now = get(session, reference).await?;
        ensure_may_run(name, &now)?;
        let runs = now.state() == v1::ContainerState::Running && now.epoch >= epoch;
        Ok(if runs { Look::Reached(now) } else { Look::NotYet(state(&now)) })
    });
    let found = found.await?;
    session.print("Container", &found, || runs(name, &found));
    Ok(())
}

/// Errs when waiting longer changes nothing.
fn ensure_may_run(name: &str, now: &v1::Container) -> Result<()> {
    if now.state() == v1::ContainerState::Held {
        let end = if now.last_end.is_empty() { String::new() } else { format!("; its last run: {}", now.last_end) };
        bail!("{name} is held: {}{end}; `quoratectl container start {name}` gives it a new budget", now.text);
    }
    if matches!(now.desired(), v1::DesiredState::Stopped | v1::DesiredState::Deleted) {
        bail!("{name} was stopped by somebody else; `quoratectl events --container {name}` says when");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::told::example;
    use super::*;

    #[test]
    fn annotations_are_set_or_removed_and_nothing_else() {
        assert_eq!(annotation("a=b-"), Ok(Annotation::Set("a".into(), "b-".into())));
        assert_eq!(annotation("a-"), Ok(Annotation::Remove("a".into())));
        for bad in ["", "a", "-", "=b", "=-"] {
            assert!(annotation(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn waiting_ends_when_waiting_changes_nothing() {
        let held = v1::Container {
            state: v1::ContainerState::Held as i32,
            text: "ended 3 times".into(),
            last_end: "exit code 1".into(),
            ..example()
        };
        let error = ensure_may_run("web", &held).expect_err("held").to_string();
        assert!(error.contains("ended 3 times") && error.contains("exit code 1"), "{error}");
        let stopped = v1::Container { desired: v1::DesiredState::Stopped as i32, ..example() };
        assert!(ensure_may_run("web", &stopped).is_err());
        assert!(ensure_may_run("web", &example()).is_ok());
    }

    #[test]
    fn refused_items_are_told_apart_and_fail_the_command() {
        let done = v1::ItemResult { container: "c1".into(), ..v1::ItemResult::default() };
        let problem = v1::Problem {
            code: 6,
            reason: "name-taken".into(),
            message: "b is taken".into(),
            ..v1::Problem::default()
        };
        let bad = v1::ItemResult { problem: Some(problem), ..v1::ItemResult::default() };
        assert!(refused(std::slice::from_ref(&done)).is_ok());
        let all = [done, bad];
        let error = refused(&all).expect_err("one is refused");
        assert_eq!(format!("{error:#}"), "1 of 2 were refused, the first: b is taken");
        assert!(results(&["a".into(), "b".into()], &all).contains("refused: b is taken"));
    }
}

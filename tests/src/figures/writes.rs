//! Committed writes a second: three members on this machine, real syncs, the real gRPC API, a closed loop.
//! A write annotates a container with 256 bytes under a request id of its own; it counts when its answer is here, which
//! is after a majority has it durable and the leader has applied it. That the log grew by as much is checked.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use proto::v1;
use proto::v1::container_service_client::ContainerServiceClient;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use uuid::Uuid;

use super::members::{self, Members};
use super::{Figure, Sample, usage};

/// What the containers of a middling cluster are: enough that not all clients write to the same.
const CONTAINERS: usize = 100;
const BYTES: usize = 256;
/// Clients that share one connection, or one stream.
const CLIENTS_PER_CONNECTION: usize = 250;
const STREAMS: usize = 4;
const WARM_UP: Duration = Duration::from_secs(2);

pub struct Options {
    /// Each calls with one write under way, or submits to one of at most four streams with `window` of them.
    pub clients: usize,
    pub streaming: bool,
    /// Writes that each client of a stream has under way; a session remembers no more than 128.
    pub window: usize,
    pub seconds: u64,
    /// Engine of the members' stores: `sled` or `file`.
    pub store: String,
}

/// What the clients are at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Measured,
    Over,
}

/// Needs a runtime of one thread: a closed loop needs no more, and the members need the cores.
pub async fn measure(dir: &Path, options: &Options) -> Result<Figure> {
    let cluster = Members::start(dir, &options.store).await?;
    cluster.create_containers(dir, CONTAINERS).await?;
    let leader = cluster.leader().await?;
    let local = tokio::task::LocalSet::new();
    let before = members::status(&leader.api).await?.revision;
    let (mut sample, took, cpu) = local.run_until(load(leader.api.clone(), options, &cluster)).await?;
    let after = members::status(&leader.api).await?.revision;
    let grown = (after - before) as usize;
    ensure!(grown >= sample.len(), "{} writes were answered and the log grew by {grown}", sample.len());
    ensure!(cluster.leader().await?.name == leader.name, "leadership moved while it was measured");

    let rate = sample.len() as f64 / took.as_secs_f64();
    let (p50, p99) = (sample.quantile_ms(0.5), sample.quantile_ms(0.99));
    // What a machine without other work would be limited by, whatever else this one does meanwhile.
    let each = (cpu.leader + 2.0 * cpu.follower + cpu.own) * 1e6 / rate;
    let mode = match (options.streaming, options.window) {
        (false, _) => "unary".to_owned(),
        (true, 1) => "streaming".to_owned(),
        (true, window) => format!("streaming with {window} under way each"),
    };
    let text = format!(
        "{rate:.0} writes/s committed, p50 {p50:.1} ms, p99 {p99:.1} ms; {} clients, {mode}, {} of {BYTES} bytes in \
         {:.1} s, store {}; cores used: leader {:.2}, followers {:.2} each, load {:.2}; {each:.0} µs of processor a write in all",
        options.clients,
        sample.len(),
        took.as_secs_f64(),
        options.store,
        cpu.leader,
        cpu.follower,
        cpu.own,
    );
    let json = json!({
        "figure": "writes", "clients": options.clients, "mode": mode, "window": options.window,
        "store": options.store, "bytes": BYTES,
        "writes": sample.len(), "seconds": took.as_secs_f64(), "per_second": rate, "p50_ms": p50, "p99_ms": p99,
        "leader_cores": cpu.leader, "follower_cores": cpu.follower, "load_cores": cpu.own, "cpu_us_per_write": each,
    });
    Ok(Figure::new(text, json))
}

/// Cores used, on average, while it was measured.
struct Cores {
    leader: f64,
    follower: f64,
    own: f64,
}

async fn load(api: String, options: &Options, cluster: &Members) -> Result<(Sample, Duration, Cores)> {
    let phase = Rc::new(Cell::new(Phase::WarmUp));
    let mut clients: JoinSet<Result<Sample>> = JoinSet::new();
    if options.streaming {
        let streams = STREAMS.min(options.clients);
        for number in 0..streams {
            let clients_here = options.clients / streams + usize::from(number < options.clients % streams);
            let client = ContainerServiceClient::new(members::connect(&api).await?);
            clients.spawn_local(stream(client, number, clients_here, options.window, Rc::clone(&phase)));
        }
    } else {
        let mut channel = members::connect(&api).await?;
        for number in 0..options.clients {
            if number > 0 && number % CLIENTS_PER_CONNECTION == 0 {
                channel = members::connect(&api).await?;
            }
            clients.spawn_local(unary(ContainerServiceClient::new(channel.clone()), number, Rc::clone(&phase)));
        }
    }
    let leader = cluster.all().iter().position(|member| member.api == api).context("the leader is a member")?;
    let used = || -> Vec<Duration> {
        let pids = cluster.all().iter().map(|member| member.pid()).chain([std::process::id()]);
        pids.map(usage::cpu_time).collect()
    };
    let pause = async |wanted: Duration, clients: &mut JoinSet<Result<Sample>>| -> Result<()> {
        tokio::select! {
            () = tokio::time::sleep(wanted) => Ok(()),
            Some(ended) = clients.join_next() => {
                ended??;
                bail!("a client ended early")
            }
        }
    };
    pause(WARM_UP, &mut clients).await?;
    let (began, before) = (Instant::now(), used());
    phase.set(Phase::Measured);
    pause(Duration::from_secs(options.seconds), &mut clients).await?;
    phase.set(Phase::Over);
    let (took, after) = (began.elapsed(), used());
    let mut sample = Sample::default();
    while let Some(ended) = clients.join_next().await {
        sample.absorb(ended??);
    }
    let cores: Vec<f64> = before
        .iter()
        .zip(&after)
        .map(|(before, after)| after.saturating_sub(*before).as_secs_f64() / took.as_secs_f64())
        .collect();
    let members = cores[..cores.len() - 1].iter().sum::<f64>();
    let follower = (members - cores[leader]) / (cores.len() - 2) as f64;
    Ok((sample, took, Cores { leader: cores[leader], follower, own: cores[cores.len() - 1] }))
}

/// One caller: asks, waits, asks again.
async fn unary(mut client: ContainerServiceClient<Channel>, number: usize, phase: Rc<Cell<Phase>>) -> Result<Sample> {
    let (session, mut sample) = (Uuid::now_v7(), Sample::default());
    for sequence in 0_u64.. {
        let sent = Instant::now();
        client.annotate(change(&session, sequence, number)).await?;
        match phase.get() {
            Phase::WarmUp => {}
            Phase::Measured => sample.add(sent.elapsed()),
            Phase::Over => break,
        }
    }
    Ok(sample)
}

/// One stream that carries `clients`, each with `window` items under way and a session of its own.
async fn stream(
    mut client: ContainerServiceClient<Channel>,
    number: usize,
    clients: usize,
    window: usize,
    phase: Rc<Cell<Phase>>,
) -> Result<Sample> {
    let (items, outgoing) = mpsc::unbounded_channel();
    // What is under way, by request id: whose it is, when it was sent.
    let mut under_way: HashMap<String, (usize, Instant)> = HashMap::with_capacity(clients * window);
    let mut sessions: Vec<(Uuid, u64)> = (0..clients).map(|_| (Uuid::now_v7(), 0)).collect();
    let mut send = |under_way: &mut HashMap<_, _>, client: usize| {
        let (session, sequence) = (sessions[client].0, sessions[client].1);
        sessions[client].1 += 1;
        let change = change(&session, sequence, number + client * STREAMS);
        under_way.insert(change.request_id.clone(), (client, Instant::now()));
        let item = v1::SubmitRequest { change: Some(v1::submit_request::Change::Annotate(change)) };
        items.send(item).context("the stream of items ended")
    };
    for client in (0..clients).cycle().take(clients * window) {
        send(&mut under_way, client)?;
    }
    let mut sample = Sample::default();
    let mut results = client.submit(UnboundedReceiverStream::new(outgoing)).await?.into_inner();
    loop {
        let result = results.message().await?.and_then(|reply| reply.result).context("the stream of results ended")?;
        ensure!(result.problem.is_none(), "a write failed: {:?}", result.problem);
        let (client, sent) = under_way.remove(&result.request_id).context("a result of no item that is under way")?;
        match phase.get() {
            Phase::WarmUp => {}
            Phase::Measured => sample.add(sent.elapsed()),
            Phase::Over => return Ok(sample),
        }
        send(&mut under_way, client)?;
    }
}

fn change(session: &Uuid, sequence: u64, number: usize) -> v1::AnnotateContainerRequest {
    // Other content each time: a value that stays the same would be no change.
    let text = format!("{sequence:0>BYTES$}");
    v1::AnnotateContainerRequest {
        request_id: format!("{session}/{sequence}"),
        container: members::container(number % CONTAINERS),
        set: [("figure".to_owned(), text)].into(),
        remove: Vec::new(),
    }
}

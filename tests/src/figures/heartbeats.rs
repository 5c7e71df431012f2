//! What a member needs for the heartbeats of many nodes: one a second from each, over a connection of its own as real agents
//! have them. The nodes have joined and registered, so every answer is an acknowledgement that a lease rests on; one that
//! is refused fails the measurement. What the leader needs for the nodes' sessions is measured behind it and said apart:
//! a process may hold 20,000 files on most machines, and ten thousand nodes have as many of each.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use cluster::agent::ToLeader;
use cluster::command::Registration;
use cluster::{AgentRun, FencingClass, Incarnation, NodeFacts, NodeId, Profile, Resources, Revision};
use proto::v1;
use proto::v1::node_service_client::NodeServiceClient;
use proto::wire::agents_client::AgentsClient;
use proto::wire::{self, from_agent, to_agent};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::crowd::{Crowd, Node};
use super::members::{self, Member, Members};
use super::{Figure, Sample, usage};

/// Nodes that join and connect at once.
const AT_ONCE: usize = 64;
/// Nodes that register over one connection.
const SHARED_BY: usize = 50;
/// Until connections and allocators have settled.
const WARM_UP: Duration = Duration::from_secs(5);
/// As an agent asks for: what it hears is small.
const WINDOW_BYTES: u32 = 64 << 10;

pub struct Options {
    pub nodes: usize,
    pub seconds: u64,
    /// How many of the three members each node speaks to, the leader among them.
    pub hear: usize,
    /// How many of the nodes have a session with the leader in the second part; none, and there is no second part.
    pub sessions: usize,
}

/// What members used over some time, in the order of the members.
struct Used {
    cores: Vec<f64>,
    mib: Vec<u64>,
}

pub async fn measure(dir: &Path, options: &Options) -> Result<Figure> {
    let Options { nodes, seconds, hear, sessions } = *options;
    // A member holds one for each node and for each session, and so does the process that speaks to it.
    usage::allow_descriptors((nodes + sessions + 1_000) as u64).map_err(|problem| anyhow!(problem))?;
    let cluster = Members::start(dir, "sled").await?;
    let leader = cluster.leader().await?;
    let mut heard_by = vec![leader];
    heard_by.extend(cluster.all().iter().filter(|member| member.name != leader.name).take(hear - 1));
    let empty: Vec<u64> = heard_by.iter().map(|member| usage::resident_mib(member.pid())).collect();
    let mut crowds = heard_by.iter().map(|member| Crowd::start(&member.peer)).collect::<Result<Vec<_>>>()?;

    let local = LocalSet::new();
    let entered = local.run_until(enter_all(leader, nodes, &mut crowds)).await?;
    tokio::time::sleep(WARM_UP).await;
    crowds.iter_mut().try_for_each(Crowd::measure)?;
    let load: Vec<u32> = crowds.iter().map(Crowd::pid).collect();
    let load_before: Duration = load.iter().map(|pid| usage::cpu_time(*pid)).sum();
    let beats = used_over(seconds, &heard_by).await;
    let load_after: Duration = load.iter().map(|pid| usage::cpu_time(*pid)).sum();
    let own = load_after.saturating_sub(load_before).as_secs_f64() / seconds as f64;
    let with_sessions = async {
        let mut open = Connections::new(&leader.peer, 1);
        let mut held: JoinSet<Result<()>> = JoinSet::new();
        for node in entered.iter().take(sessions) {
            let (words, incoming) = session(open.next().await?, node).await?;
            held.spawn_local(attend(words, incoming, Incarnation(node.incarnation)));
        }
        tokio::time::sleep(WARM_UP).await;
        let used = used_over(seconds, &heard_by[..1]).await;
        ensure!(held.try_join_next().is_none(), "a session ended");
        anyhow::Ok(used)
    };
    let with_sessions = if sessions > 0 { Some(local.run_until(with_sessions).await?) } else { None };

    let (mut sample, mut refused) = (Sample::default(), 0);
    for crowd in crowds {
        let heard = crowd.end()?;
        refused += heard.refused;
        sample.absorb(heard.sample);
    }
    ensure!(cluster.leader().await?.name == leader.name, "leadership moved while it was measured");
    ensure!(refused == 0, "{refused} heartbeats were refused");
    // The crowds went on while the sessions were measured.
    let least = (nodes * hear) as f64 * seconds as f64 * 0.95;
    ensure!(sample.len() as f64 > least, "{} answers came where {least:.0} were to come at least", sample.len());

    let (p50, p99) = (sample.quantile_ms(0.5), sample.quantile_ms(0.99));
    let each = |more: u64, than: u64, of: usize| more.saturating_sub(than) as f64 * 1_024.0 / of as f64;
    let per_node = each(beats.mib[1], empty[1], nodes);
    let mut text = format!(
        "{nodes} heartbeats/s per member: leader {:.2} cores, {} MiB; follower {:.2} cores, {} MiB, of that {} without \
         nodes: {per_node:.1} KiB a node; answers p50 {p50:.2} ms, p99 {p99:.2} ms; {nodes} nodes speaking to {hear} \
         members over connections of their own, {seconds} s, load {own:.2} cores",
        beats.cores[0], beats.mib[0], beats.cores[1], beats.mib[1], empty[1],
    );
    let mut json = json!({
        "figure": "heartbeats", "nodes": nodes, "members": hear, "seconds": seconds,
        "leader_cores": beats.cores[0], "leader_mib": beats.mib[0], "leader_mib_without_nodes": empty[0],
        "follower_cores": beats.cores[1], "follower_mib": beats.mib[1], "follower_mib_without_nodes": empty[1],
        "kib_per_node": per_node, "p50_ms": p50, "p99_ms": p99, "load_cores": own,
        "sessions": sessions,
    });
    if let Some(used) = with_sessions {
        let (cores, mib, kib) = (used.cores[0], used.mib[0], each(used.mib[0], beats.mib[0], sessions));
        text += &format!(
            ". With {sessions} sessions beside them: leader {cores:.2} cores, {mib} MiB, {kib:.1} KiB a session"
        );
        json["leader_cores_with_sessions"] = cores.into();
        json["leader_mib_with_sessions"] = mib.into();
        json["kib_per_session"] = kib.into();
    }
    Ok(Figure::new(text, json))
}

async fn used_over(seconds: u64, members: &[&Member]) -> Used {
    let cpu = || members.iter().map(|member| usage::cpu_time(member.pid())).collect::<Vec<_>>();
    let (began, before) = (Instant::now(), cpu());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let took = began.elapsed().as_secs_f64();
    let share = |(after, before): (Duration, &Duration)| after.saturating_sub(*before).as_secs_f64() / took;
    let cores = cpu().into_iter().zip(&before).map(share).collect();
    Used { cores, mib: members.iter().map(|member| usage::resident_mib(member.pid())).collect() }
}

/// Joins and registers `nodes` nodes, and lets each beat from then on: from its registration it is expected to be heard.
async fn enter_all(leader: &Member, nodes: usize, crowds: &mut [Crowd]) -> Result<Vec<Node>> {
    let mut shared = Connections::new(&leader.peer, SHARED_BY);
    let api = members::connect(&leader.api).await?;
    let mut coming: JoinSet<Result<Node>> = JoinSet::new();
    let (mut entered, mut begun) = (Vec::with_capacity(nodes), 0);
    while entered.len() < nodes {
        while begun < nodes && coming.len() < AT_ONCE {
            coming.spawn_local(enter(NodeServiceClient::new(api.clone()), shared.next().await?, begun));
            begun += 1;
        }
        let node = coming.join_next().await.context("all that begun came")???;
        crowds.iter_mut().try_for_each(|crowd| crowd.add(&node))?;
        entered.push(node);
    }
    Ok(entered)
}

/// Joins and registers one node. Its session ends with that, which says nothing about the node.
async fn enter(mut nodes: NodeServiceClient<Channel>, peer: Channel, number: usize) -> Result<Node> {
    let request = v1::JoinRequest {
        request_id: members::request_id(),
        name: format!("node-{number}"),
        role: v1::NodeRole::Active.into(),
        ..v1::JoinRequest::default()
    };
    let joined = nodes.join(request).await?.into_inner();
    let mut node = Node {
        cluster: u128::from_str_radix(&joined.cluster_id, 16).context("the cluster's id is hexadecimal")?,
        generation: joined.generation,
        node: joined.node.trim_start_matches('n').parse().context("the node's id is a number")?,
        secret: from_hex(&joined.secret).context("the secret is hexadecimal")?,
        incarnation: 0,
    };
    let registration = Registration {
        node: NodeId(node.node),
        ends: Incarnation(0),
        boot: node.boot(),
        empty: true,
        run: AgentRun(0),
        facts: NodeFacts {
            class: FencingClass::F1,
            class_reason: "simulated".into(),
            capacity: Resources { cpu_millis: 4_000, memory_bytes: 8 << 30 },
            runtimes: ["process".into()].into(),
            runtimes_refused: [].into(),
            version: env!("CARGO_PKG_VERSION").into(),
            terms: Profile::Default.terms(),
        },
    };
    let (words, mut incoming) = session(peer, &node).await?;
    words.try_send((&ToLeader::Register(Box::new(registration))).into())?;
    loop {
        match next(&mut incoming).await? {
            to_agent::Message::Registered(registered) => {
                node.incarnation = registered.incarnation;
                return Ok(node);
            }
            to_agent::Message::NotRegistered(not) => bail!("not registered: {}", not.reason),
            to_agent::Message::NotLeader(_) => bail!("the leader leads no more"),
            to_agent::Message::Refused(refused) => bail!("refused: {}", refused.text),
            _ => {}
        }
    }
}

async fn session(channel: Channel, node: &Node) -> Result<(mpsc::Sender<wire::FromAgent>, Streaming<wire::ToAgent>)> {
    let (words, outgoing) = mpsc::channel(8);
    words.try_send(wire::FromAgent { message: Some(from_agent::Message::Hello(node.hello())) })?;
    let incoming = AgentsClient::new(channel).session(ReceiverStream::new(outgoing)).await?.into_inner();
    Ok((words, incoming))
}

/// Says which incarnation it speaks for, and of each desired set that it was acted on: it holds nothing.
async fn attend(
    words: mpsc::Sender<wire::FromAgent>,
    mut incoming: Streaming<wire::ToAgent>,
    incarnation: Incarnation,
) -> Result<()> {
    let holding = |revision| wire::FromAgent::from(&ToLeader::Holding { incarnation, revision, missing: Vec::new() });
    words.send(holding(Revision(0))).await?;
    loop {
        match next(&mut incoming).await? {
            to_agent::Message::Desired(set) => words.send(holding(Revision(set.revision))).await?,
            to_agent::Message::NotLeader(_) => bail!("the leader leads no more"),
            _ => {}
        }
    }
}

async fn next(incoming: &mut Streaming<wire::ToAgent>) -> Result<to_agent::Message> {
    incoming.message().await?.and_then(|said| said.message).context("the session ended")
}

/// Connections to one member, each for so many nodes.
struct Connections {
    address: String,
    shared_by: usize,
    last: Option<Channel>,
    given: usize,
}

impl Connections {
    fn new(address: &str, shared_by: usize) -> Connections {
        Connections { address: address.to_owned(), shared_by, last: None, given: 0 }
    }

    /// For the next node: with the windows of an agent's.
    async fn next(&mut self) -> Result<Channel> {
        if let Some(channel) = self.last.as_ref().filter(|_| !self.given.is_multiple_of(self.shared_by)) {
            self.given += 1;
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))?
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_secs(10))
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        let channel = endpoint.connect().await.with_context(|| format!("connect to {}", self.address))?;
        self.given += 1;
        self.last = Some(channel.clone());
        Ok(channel)
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(digits).collect()
}

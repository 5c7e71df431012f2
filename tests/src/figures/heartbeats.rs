//! What a member needs for the heartbeats of many nodes: one a second from each, to the leader over connections of their
//! own as real agents have them, each also with a session. The nodes have joined and registered, so every answer is an
//! acknowledgement that a lease rests on; one that is refused fails the measurement. Where the machine does not permit as
//! many open files, sessions and heartbeats to the followers share connections, and the figure says so.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use cluster::agent::{Heartbeat, ToLeader};
use cluster::command::Registration;
use cluster::{
    BootId, FencingClass, Generation, Incarnation, LeaseTerms, Moment, NodeFacts, NodeId, Resources, Revision,
};
use proto::v1::node_service_client::NodeServiceClient;
use proto::wire::agents_client::AgentsClient;
use proto::wire::{from_agent, heartbeat_down, heartbeat_reply, heartbeat_up, to_agent};
use proto::{v1, wire};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::members::{self, Members};
use super::{Figure, Sample, usage};

const EVERY: Duration = Duration::from_secs(1);
/// Nodes that join and connect at once.
const AT_ONCE: usize = 64;
/// Nodes on one connection, where connections are shared.
const SHARED_BY: usize = 50;
/// Until connections, first desired sets and allocators have settled.
const WARM_UP: Duration = Duration::from_secs(5);
/// As an agent asks for: heartbeats are small.
const WINDOW_BYTES: u32 = 64 << 10;

/// What the answers said.
#[derive(Default)]
struct Heard {
    sample: Sample,
    refused: usize,
    measured: bool,
}

/// `nodes` nodes, each heard by `hear` of the three members, the leader among them.
pub async fn measure(dir: &Path, nodes: usize, seconds: u64, hear: usize) -> Result<Figure> {
    let of_their_own = usage::allow_descriptors((nodes * (hear + 1) + 1_000) as u64).is_ok();
    if !of_their_own {
        usage::allow_descriptors((nodes + 4 * nodes / SHARED_BY + 1_000) as u64).map_err(|problem| anyhow!(problem))?;
    }
    let shared_by = if of_their_own { 1 } else { SHARED_BY };
    let cluster = Members::start(dir, "sled").await?;
    let leader = cluster.leader().await?;
    let mut heard_by = vec![leader];
    heard_by.extend(cluster.all().iter().filter(|member| member.name != leader.name).take(hear - 1));

    let local = tokio::task::LocalSet::new();
    let addresses: Vec<String> = heard_by.iter().map(|member| member.peer.clone()).collect();
    let heard = Rc::new(RefCell::new(Heard::default()));
    let phase = Rc::clone(&heard);
    let used = || heard_by.iter().map(|member| usage::cpu_time(member.pid())).collect::<Vec<_>>();
    let (cores, memory, own) = local
        .run_until(async {
            let mut beating: JoinSet<Result<()>> = JoinSet::new();
            let mut lines: Vec<Connections> = Vec::new();
            for (place, address) in addresses.iter().enumerate() {
                lines.push(Connections::new(address, if place == 0 { 1 } else { shared_by }));
            }
            let mut sessions = Connections::new(&leader.peer, shared_by);
            let api = members::connect(&leader.api).await?;
            let mut coming: JoinSet<Result<Agent>> = JoinSet::new();
            let mut begun = 0;
            while begun < nodes || !coming.is_empty() {
                while begun < nodes && coming.len() < AT_ONCE {
                    let api = NodeServiceClient::new(api.clone());
                    coming.spawn_local(enter(api, sessions.next().await?, begun));
                    begun += 1;
                }
                let Some(agent) = coming.join_next().await else { break };
                let agent = agent??;
                // From its registration on a node is expected to be heard.
                for line in &mut lines {
                    beating.spawn_local(beat(agent.clone(), line.next().await?, Rc::clone(&heard)));
                }
            }
            let wait = async |wanted: Duration, beating: &mut JoinSet<Result<()>>| -> Result<()> {
                tokio::select! {
                    () = tokio::time::sleep(wanted) => Ok(()),
                    Some(ended) = beating.join_next() => {
                        ended??;
                        bail!("a node fell silent")
                    }
                }
            };
            wait(WARM_UP, &mut beating).await?;
            let (began, before, own_before) = (Instant::now(), used(), usage::cpu_time(std::process::id()));
            phase.borrow_mut().measured = true;
            wait(Duration::from_secs(seconds), &mut beating).await?;
            phase.borrow_mut().measured = false;
            let took = began.elapsed().as_secs_f64();
            let share = |after: Duration, before: Duration| after.saturating_sub(before).as_secs_f64() / took;
            let cores: Vec<f64> = used().iter().zip(&before).map(|(after, before)| share(*after, *before)).collect();
            let memory: Vec<u64> = heard_by.iter().map(|member| usage::resident_mib(member.pid())).collect();
            let own = share(usage::cpu_time(std::process::id()), own_before);
            anyhow::Ok((cores, memory, own))
        })
        .await?;

    let Heard { mut sample, refused, .. } = heard.take();
    ensure!(refused == 0, "{refused} heartbeats were refused");
    let answers = sample.len() as f64 / seconds as f64;
    let wanted = (nodes * hear) as f64;
    ensure!(answers > wanted * 0.95, "{answers:.0} answers a second came for {wanted:.0} heartbeats");
    let (p50, p99) = (sample.quantile_ms(0.5), sample.quantile_ms(0.99));
    let text = format!(
        "{:.0} heartbeats/s per member: leader {:.2} cores, {} MiB (with {nodes} sessions); follower {:.2} cores, {} MiB; \
         answers p50 {p50:.2} ms, p99 {p99:.2} ms; {nodes} nodes speaking to {hear} members, {}, {seconds} s, load {own:.2} cores",
        answers / hear as f64,
        cores[0],
        memory[0],
        cores[1],
        memory[1],
        if of_their_own { "connections of their own" } else { "connections of their own to the leader, others shared" },
    );
    let json = json!({
        "figure": "heartbeats", "nodes": nodes, "members": hear, "seconds": seconds, "all_connections_own": of_their_own,
        "per_second_and_member": answers / hear as f64, "leader_cores": cores[0], "leader_mib": memory[0],
        "follower_cores": cores[1], "follower_mib": memory[1], "p50_ms": p50, "p99_ms": p99, "load_cores": own,
    });
    Ok(Figure::new(text, json))
}

/// A simulated agent: what opens its streams and what its heartbeats say.
#[derive(Clone)]
struct Agent {
    node: u64,
    hello: wire::AgentHello,
    incarnation: Incarnation,
    terms: LeaseTerms,
    /// Held open, as agents do.
    _session: Arc<Session>,
}

struct Session(tokio::task::JoinHandle<()>);

impl Drop for Session {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Joins and registers one node.
async fn enter(mut nodes: NodeServiceClient<Channel>, peer: Channel, number: usize) -> Result<Agent> {
    let request = v1::JoinRequest {
        request_id: members::request_id(),
        name: format!("node-{number}"),
        role: v1::NodeRole::Active.into(),
        ..v1::JoinRequest::default()
    };
    let joined = nodes.join(request).await?.into_inner();
    let node: u64 = joined.node.trim_start_matches('n').parse().context("the node's id is a number")?;
    let cluster = u128::from_str_radix(&joined.cluster_id, 16).context("the cluster's id is hexadecimal")?;
    let hello = wire::AgentHello {
        cluster: cluster.to_be_bytes().to_vec().into(),
        generation: joined.generation,
        node,
        secret: from_hex(&joined.secret).context("the secret is hexadecimal")?.into(),
        feature_level: proto::FEATURE_LEVEL,
    };
    let mut client = AgentsClient::new(peer);
    let (words, outgoing) = mpsc::channel(8);
    words.try_send(wire::FromAgent { message: Some(from_agent::Message::Hello(hello.clone())) })?;
    let mut incoming = client.session(ReceiverStream::new(outgoing)).await?.into_inner();
    let terms = cluster::Profile::Default.terms();
    let registration = Registration {
        node: NodeId(node),
        ends: Incarnation(0),
        boot: boot(node),
        empty: true,
        run: AgentRun(0),
        facts: NodeFacts {
            class: FencingClass::F1,
            class_reason: "simulated".into(),
            capacity: Resources { cpu_millis: 4_000, memory_bytes: 8 << 30 },
            runtimes: ["process".into()].into(),
            runtimes_refused: [].into(),
            version: env!("CARGO_PKG_VERSION").into(),
            terms,
        },
    };
    words.try_send((&ToLeader::Register(Box::new(registration))).into())?;
    let incarnation = loop {
        match next(&mut incoming).await? {
            to_agent::Message::Registered(registered) => break Incarnation(registered.incarnation),
            to_agent::Message::NotRegistered(not) => bail!("not registered: {}", not.reason),
            to_agent::Message::NotLeader(_) => bail!("the leader leads no more"),
            to_agent::Message::Refused(refused) => bail!("refused: {}", refused.text),
            _ => {}
        }
    };
    let task = tokio::task::spawn_local(attend(words, incoming, incarnation));
    Ok(Agent { node, hello, incarnation, terms, _session: Arc::new(Session(task)) })
}

/// Says of each desired set that it was acted on: it holds nothing.
async fn attend(
    words: mpsc::Sender<wire::FromAgent>,
    mut incoming: Streaming<wire::ToAgent>,
    incarnation: Incarnation,
) {
    while let Ok(said) = next(&mut incoming).await {
        let to_agent::Message::Desired(set) = said else { continue };
        let holding = ToLeader::Holding { incarnation, revision: Revision(set.revision), missing: Vec::new() };
        // A session that is over takes no more; the heartbeats notice.
        let _ = words.send((&holding).into()).await;
    }
}

async fn next(incoming: &mut Streaming<wire::ToAgent>) -> Result<to_agent::Message> {
    incoming.message().await?.and_then(|said| said.message).context("the session ended")
}

/// One node to one member, for ever: a heartbeat each second. Those of different nodes are spread over it.
async fn beat(agent: Agent, channel: Channel, heard: Rc<RefCell<Heard>>) -> Result<()> {
    let mut client = AgentsClient::new(channel);
    let (up, outgoing) = mpsc::channel(4);
    let say = |message| {
        let taken = up.try_send(wire::HeartbeatUp { message: Some(message) });
        taken.map_err(|_| anyhow!("the stream takes no more"))
    };
    say(heartbeat_up::Message::Hello(agent.hello.clone()))?;
    let mut incoming = client.heartbeats(ReceiverStream::new(outgoing)).await?.into_inner();
    let offset = EVERY.mul_f64((agent.node * 617 % 1_000) as f64 / 1_000.0);
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + offset, EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    for sequence in 1_u64.. {
        // The first at once: the node is expected to be heard.
        if sequence > 1 {
            tick.tick().await;
        }
        let heartbeat = Heartbeat {
            generation: Generation(agent.hello.generation),
            node: NodeId(agent.node),
            incarnation: agent.incarnation,
            boot: boot(agent.node),
            terms: agent.terms,
            sequence,
            sent_at: Moment(sequence),
        };
        let sent = Instant::now();
        say(heartbeat_up::Message::Heartbeat((&heartbeat).into()))?;
        let down = incoming.message().await?.and_then(|down| down.message).context("the member closed the stream")?;
        let heartbeat_down::Message::Reply(reply) = down else { bail!("the member refused the stream: {down:?}") };
        let mut heard = heard.borrow_mut();
        if heard.measured {
            heard.sample.add(sent.elapsed());
            let acknowledged = matches!(reply.answer, Some(heartbeat_reply::Answer::Acknowledged(_)));
            heard.refused += usize::from(!acknowledged);
        }
    }
    Ok(())
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

fn boot(node: u64) -> BootId {
    BootId(u128::from(node))
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(digits).collect()
}

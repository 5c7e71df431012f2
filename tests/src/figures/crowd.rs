//! The heartbeats of many nodes to one member, in a process of its own: one process may not hold as many connections as ten
//! thousand nodes have to three members, and a member must not be slowed by who asks the others.
//! In, by lines: a node each as JSON, then `measure`, then `end`. Out: at the end one line, [`Heard`].

use std::cell::RefCell;
use std::io::{BufRead, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cluster::agent::Heartbeat;
use cluster::{BootId, Generation, Incarnation, Moment, NodeId, Profile};
use proto::wire::{self, heartbeat_down, heartbeat_reply};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::MissedTickBehavior;

use super::Sample;
use super::line::Line;

const EVERY: Duration = Duration::from_secs(1);
/// A stream that was refused because the member did not know the node yet is opened again after this, at most so often.
const AGAIN: Duration = Duration::from_millis(50);
const UNKNOWN_MAX: usize = 20;

/// A simulated node: what opens its streams and what its heartbeats say.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Node {
    pub cluster: u128,
    pub generation: u64,
    pub node: u64,
    pub secret: Vec<u8>,
    pub incarnation: u64,
}

impl Node {
    pub fn hello(&self) -> wire::AgentHello {
        wire::AgentHello {
            cluster: self.cluster.to_be_bytes().to_vec().into(),
            generation: self.generation,
            node: self.node,
            secret: self.secret.clone().into(),
            feature_level: proto::FEATURE_LEVEL,
            generation_id: Default::default(),
        }
    }

    pub fn boot(&self) -> BootId {
        BootId(u128::from(self.node))
    }
}

/// What the answers said while it was measured.
#[derive(Default, Serialize, Deserialize)]
pub struct Heard {
    pub sample: Sample,
    pub refused: usize,
    #[serde(skip)]
    measured: bool,
}

/// The process, seen from the one that measures. It ends when this is dropped.
pub struct Crowd {
    child: Child,
    orders: ChildStdin,
}

impl Crowd {
    pub fn start(member: &str) -> Result<Crowd> {
        let program = std::env::current_exe().context("find this program")?;
        let mut command = Command::new(program);
        let mut child = command
            .args(["crowd", member])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a process for the nodes")?;
        let orders = child.stdin.take().expect("it is piped");
        Ok(Crowd { child, orders })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn add(&mut self, node: &Node) -> Result<()> {
        let node = serde_json::to_string(node)?;
        self.say(&node)
    }

    pub fn measure(&mut self) -> Result<()> {
        self.say("measure")
    }

    pub fn end(mut self) -> Result<Heard> {
        self.say("end")?;
        let mut said = String::new();
        self.child.stdout.take().expect("it is piped").read_to_string(&mut said)?;
        serde_json::from_str(&said).context("the process of the nodes ended early; above stands why")
    }

    fn say(&mut self, order: &str) -> Result<()> {
        writeln!(self.orders, "{order}").context("the process of the nodes is gone; above stands why")
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // It may be gone already; either way nothing of it is left when this returns.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the process does: beats for every node it is given until it is told to end.
pub async fn beat(member: &str) -> Result<Heard> {
    let (give, mut orders) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let lines = std::io::stdin().lock().lines();
        // Whoever takes them is gone when the process ends.
        lines.map_while(Result::ok).try_for_each(|line| give.send(line)).ok()
    });
    let heard = Rc::new(RefCell::new(Heard::default()));
    let shared = Rc::clone(&heard);
    let over = async {
        let mut nodes: JoinSet<Result<()>> = JoinSet::new();
        loop {
            tokio::select! {
                order = orders.recv() => match order.context("nobody measures any more")?.as_str() {
                    "measure" => shared.borrow_mut().measured = true,
                    "end" => return anyhow::Ok(()),
                    node => {
                        let node: Node = serde_json::from_str(node).context("a node as JSON")?;
                        nodes.spawn_local(one(member.to_owned(), node, Rc::clone(&shared)));
                    }
                },
                Some(ended) = nodes.join_next() => {
                    ended??;
                    bail!("a node fell silent");
                }
            }
        }
    };
    LocalSet::new().run_until(over).await?;
    Ok(heard.take())
}

/// One node, for ever: a heartbeat each second. Those of different nodes are spread over it.
async fn one(member: String, node: Node, heard: Rc<RefCell<Heard>>) -> Result<()> {
    let mut line = Line::open(&member, node.hello()).await?;
    let mut unknown = 0;
    let offset = EVERY.mul_f64((node.node * 617 % 1_000) as f64 / 1_000.0);
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + offset, EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for sequence in 1_u64.. {
        // The first at once: the node is expected to be heard.
        if sequence > 1 {
            tick.tick().await;
        }
        let heartbeat = Heartbeat {
            generation: Generation::numbered(node.generation),
            node: NodeId(node.node),
            incarnation: Incarnation(node.incarnation),
            boot: node.boot(),
            terms: Profile::Default.terms(),
            sequence,
            sent_at: Moment(sequence),
        };
        let sent = Instant::now();
        let answer = line.beat((&heartbeat).into()).await.with_context(|| format!("node {} at {member}", node.node))?;
        let reply = match answer {
            heartbeat_down::Message::Reply(reply) => reply,
            // A follower that has not applied the node's joining yet; an agent tries again too.
            heartbeat_down::Message::Refused(refused) if refused.reason == "unknown-node" && unknown < UNKNOWN_MAX => {
                unknown += 1;
                tokio::time::sleep(AGAIN).await;
                line = Line::open(&member, node.hello()).await?;
                continue;
            }
            heartbeat_down::Message::Refused(refused) => bail!("the member refused the stream: {}", refused.text),
        };
        let mut heard = heard.borrow_mut();
        if heard.measured {
            heard.sample.add(sent.elapsed());
            let acknowledged = matches!(reply.answer, Some(heartbeat_reply::Answer::Acknowledged(_)));
            heard.refused += usize::from(!acknowledged);
        }
    }
    Ok(())
}

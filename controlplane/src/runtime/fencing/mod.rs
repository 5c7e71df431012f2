//! Whatever can end a machine and prove it, one method a file.
//! In: a node and the incarnation whose `Fencing` is committed. Out: `FenceConfirmed`, for exactly that incarnation and boot.
//! Absent: the decision to fence, and any power-on. A method that fails is tried again while the fencing is open.

mod command;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster::{BootId, Health, Incarnation, Node, NodeId};
use replica::Input;
use serde::Deserialize;
use tracing::{info, warn};

use super::handle::Handle;

/// Between two attempts, at first and at most. Source: semantics.md 7.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A fence method as configured.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Method {
    /// Named in receipts.
    pub name: String,
    /// Nodes it can fence, by name; empty means all.
    #[serde(default)]
    pub nodes: Vec<String>,
    /// Program and arguments, never a shell.
    pub command: Vec<String>,
    /// How long it may take.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
}

fn timeout_ms() -> u64 {
    20_000
}

/// What a method is asked to end.
#[derive(Clone, Debug)]
pub struct Target {
    pub node: NodeId,
    pub name: String,
    pub incarnation: Incarnation,
    pub boot: BootId,
}

/// The configured methods, and which incarnations they are at work on.
#[derive(Clone)]
pub struct Fences {
    methods: Arc<[Method]>,
    at_work: Arc<Mutex<BTreeSet<(NodeId, Incarnation)>>>,
    tasks: tokio::runtime::Handle,
}

impl Fences {
    pub fn new(methods: Vec<Method>, tasks: tokio::runtime::Handle) -> Fences {
        Fences { methods: methods.into(), at_work: Arc::default(), tasks }
    }

    /// Starts the methods for `node`, unless they are at work on this incarnation already.
    pub fn begin(&self, node: Arc<Node>, incarnation: Incarnation, handle: Handle) {
        let name = node.name.as_str();
        let fits = |method: &&Method| method.nodes.is_empty() || method.nodes.iter().any(|known| known == name);
        let methods: Vec<Method> = self.methods.iter().filter(fits).cloned().collect();
        let Some(boot) = node.health.boot().filter(|_| !methods.is_empty()) else { return };
        if !self.at_work().insert((node.id, incarnation)) {
            return;
        }
        let target = Target { node: node.id, name: name.to_owned(), incarnation, boot };
        let fences = self.clone();
        self.tasks.spawn(async move {
            fences.fence(&target, &methods, &handle).await;
            fences.at_work().remove(&(target.node, target.incarnation));
        });
    }

    /// Tries the methods in their order, again and again, until one confirms or the fencing is no longer ours to finish.
    async fn fence(&self, target: &Target, methods: &[Method], handle: &Handle) {
        let mut pause = PAUSE;
        while is_open(target, handle) {
            for method in methods {
                match command::run(method, target).await {
                    Ok(evidence) => {
                        info!(node = %target.node, incarnation = %target.incarnation, method = method.name, "fence confirmed");
                        handle.tell(Input::FenceConfirmed {
                            node: target.node,
                            incarnation: target.incarnation,
                            method: method.name.as_str().into(),
                            evidence: evidence.into(),
                        });
                        return;
                    }
                    Err(error) => {
                        warn!(node = %target.node, method = method.name, %error, "fence method failed");
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn at_work(&self) -> std::sync::MutexGuard<'_, BTreeSet<(NodeId, Incarnation)>> {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether this incarnation is still being fenced, under this member's lead.
fn is_open(target: &Target, handle: &Handle) -> bool {
    let view = handle.view();
    let node = view.state.as_ref().and_then(|state| state.node(target.node));
    view.leads
        && node.is_some_and(|node| {
            matches!(&node.health, Health::Fencing { incarnation, boot, .. }
                if *incarnation == target.incarnation && *boot == target.boot)
        })
}

//! Nodes: their coming and going, whether they take work, what became of those that fell silent.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use proto::v1;

use crate::args::{self, Role};
use crate::commands::storage;
use crate::identity;
use crate::output::{cores, count, dash, facts, memory, table, time, word};
use crate::session::{Awaited, Look, PATIENCE, Session, Wait};
use crate::trouble::Trouble;

/// Where an agent looks for its identity by itself.
const IDENTITY: &str = "/var/lib/quorate/agent/identity.json";
/// A drain of a full node takes its time.
const LONG: Duration = Duration::from_secs(3_600);

#[derive(Subcommand)]
pub enum Node {
    /// Registers a machine and writes the identity its agent speaks with
    Join(Join),
    /// The nodes, by name
    #[command(visible_alias = "ls")]
    List(List),
    /// All that is known of a node
    Show {
        /// Name, or id with @
        node: String,
        /// Answer from what the member asked has applied, also without a majority
        #[arg(long)]
        stale: bool,
    },
    /// Makes it active or standby; nothing that runs is moved
    SetRole {
        /// Name, or id with @
        node: String,
        #[arg(value_enum)]
        role: Role,
    },
    /// It takes no new containers; what runs stays
    Cordon {
        /// Name, or id with @
        node: String,
    },
    /// Takes a cordon away
    Uncordon {
        /// Name, or id with @
        node: String,
    },
    /// Moves everything off it: each container is stopped, handed over, started elsewhere; waits unless told not to
    Drain {
        /// Name, or id with @
        node: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Says that a drained node may disappear without alarm
    Maintain {
        /// Name, or id with @
        node: String,
    },
    /// Ends a drain or maintenance: it takes work again; nothing is moved back by this
    Return {
        /// Name, or id with @
        node: String,
    },
    /// Asks its agent to stop everything and leave in good order; what ran there starts elsewhere without a fence
    Leave {
        /// Name, or id with @
        node: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Your word that the machine is off, taken as proof that nothing runs there
    ConfirmDown(ConfirmDown),
    /// Forgets a node that has left or is fenced; its id is never used again
    #[command(visible_alias = "rm")]
    Remove {
        /// Name, or id with @
        node: String,
    },
}

#[derive(Args)]
pub struct Join {
    /// Unique among the nodes
    name: String,
    #[arg(long, value_enum, default_value = "active")]
    role: Role,
    /// Free words for selecting it; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = args::pair)]
    label: Vec<(String, String)>,
    /// Machines that fail together share one: a rack, a site [default: its own]
    #[arg(long, default_value = "", hide_default_value = true)]
    failure_domain: String,
    /// Where the identity is written; it holds a secret and is for the agent's machine only
    #[arg(long, value_name = "FILE", default_value = IDENTITY)]
    identity: PathBuf,
    /// Replace an identity that lies there; the node it belonged to needs it no more
    #[arg(long)]
    force: bool,
}

#[derive(Args)]
pub struct List {
    #[arg(long, value_enum)]
    role: Option<Role>,
    /// Only nodes in that condition
    #[arg(long, value_enum)]
    health: Option<Health>,
    /// Answer from what the member asked has applied, also without a majority
    #[arg(long)]
    stale: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Health {
    /// Its agent has never registered
    Joined,
    /// Its lease is renewed
    Up,
    /// Silent; nothing has been decided
    Suspect,
    /// To be fenced, without a receipt yet
    Fencing,
    /// With a receipt: nothing of it runs
    Fenced,
}

#[derive(Args)]
#[command(
    after_help = "If the machine is not off, its containers may run twice and their data may be lost. Look at the machine, not \
                        at the network: pull its plug, or see it dark."
)]
pub struct ConfirmDown {
    /// Name, or id with @
    node: String,
    /// Who looked, and how; kept with the receipt
    #[arg(long)]
    reason: String,
    /// The registration that is meant [default: the present one]
    #[arg(long, value_name = "NUMBER")]
    incarnation: Option<u64>,
    /// You have seen with your own eyes that it is off
    #[arg(long, required = true)]
    i_verified: bool,
}

pub async fn run(session: &Session, verb: Node) -> Result<()> {
    let request_id = String::new();
    match verb {
        Node::Join(asked) => join(session, asked).await,
        Node::List(asked) => list(session, asked).await,
        Node::Show { node, stale } => {
            let request = v1::GetNodeRequest { node: node.clone(), stale };
            let reply = session.client.ask(request).await.with_context(|| format!("show node {node}"))?;
            session.print("GetNodeReply", &reply, || shown(&reply.node.clone().unwrap_or_default()));
            Ok(())
        }
        Node::SetRole { node, role } => {
            let word = word(role.message().as_str_name(), "NODE_ROLE_");
            let doing = format!("make {node} {word}");
            let request = v1::SetNodeRoleRequest { request_id, node: node.clone(), role: role.message() as i32 };
            session.change(request, &doing, &format!("{node} is {word}")).await
        }
        Node::Cordon { node } => {
            let done = format!("{node} takes no new containers");
            session.change(v1::CordonRequest { request_id, node: node.clone() }, &format!("cordon {node}"), &done).await
        }
        Node::Uncordon { node } => {
            let done = format!("{node} takes containers again");
            session
                .change(v1::UncordonRequest { request_id, node: node.clone() }, &format!("uncordon {node}"), &done)
                .await
        }
        Node::Drain { node, wait } => drain(session, &node, wait).await,
        Node::Maintain { node } => {
            let doing = format!("put {node} into maintenance");
            let done = format!("{node} may be switched off; `quoratectl node return {node}` ends the maintenance");
            session.change(v1::MaintainRequest { request_id, node }, &doing, &done).await
        }
        Node::Return { node } => {
            let done = format!("{node} takes work again");
            session.change(v1::ReturnRequest { request_id, node: node.clone() }, &format!("return {node}"), &done).await
        }
        Node::Leave { node, wait } => leave(session, &node, wait).await,
        Node::ConfirmDown(asked) => confirm_down(session, asked).await,
        Node::Remove { node } => {
            let done = format!("{node} is forgotten");
            session
                .change(v1::RemoveNodeRequest { request_id, node: node.clone() }, &format!("remove {node}"), &done)
                .await
        }
    }
}

async fn join(session: &Session, asked: Join) -> Result<()> {
    let Join { name, role, label, failure_domain, identity: path, force } = asked;
    if path.exists() && !force {
        let problem =
            format!("{} is there already: name another with --identity, or replace it with --force", path.display());
        bail!(Trouble::usage(problem));
    }
    let labels = args::pairs("--label", label)?;
    // Before anything is asked: the secret is said once, and must not have nowhere to go.
    let place = identity::Place::prepare(&path)?;
    let role = role.message() as i32;
    let request = v1::JoinRequest { request_id: String::new(), name: name.clone(), role, labels, failure_domain };
    let reply = match session.client.ask(request).await {
        Ok(reply) => reply,
        Err(failure) => {
            place.give_up();
            return Err(failure).with_context(|| format!("join {name}"));
        }
    };
    place.write(&name, &reply)?;
    // Programs get no secret on standard output: it is in the file.
    let told = v1::JoinReply { secret: String::new(), ..reply };
    session.print("JoinReply", &told, || {
        format!("{name} is node {}; its identity is in {}\nnext: start quorate-agent there", told.node, path.display())
    });
    Ok(())
}

async fn list(session: &Session, asked: List) -> Result<()> {
    let health = match asked.health {
        None => v1::NodeHealth::Unspecified,
        Some(Health::Joined) => v1::NodeHealth::Joined,
        Some(Health::Up) => v1::NodeHealth::Up,
        Some(Health::Suspect) => v1::NodeHealth::Suspect,
        Some(Health::Fencing) => v1::NodeHealth::Fencing,
        Some(Health::Fenced) => v1::NodeHealth::Fenced,
    } as i32;
    let role = asked.role.map_or(v1::NodeRole::Unspecified, Role::message) as i32;
    let request = v1::ListNodesRequest { page: None, role, health, stale: asked.stale };
    let reply = session.client.ask_all(request).await.context("list the nodes")?;
    session.print("ListNodesReply", &reply, || listed(&reply.nodes, session.is_wide()));
    Ok(())
}

async fn get(session: &Session, node: &str) -> Result<v1::Node> {
    let request = v1::GetNodeRequest { node: node.to_owned(), stale: false };
    let reply = session.client.ask(request).await.with_context(|| format!("look at {node}"))?;
    Ok(reply.node.unwrap_or_default())
}

fn about(node: &str) -> v1::EventFilter {
    v1::EventFilter { node: node.to_owned(), ..v1::EventFilter::default() }
}

async fn drain(session: &Session, node: &str, wait: Wait) -> Result<()> {
    let request = v1::DrainRequest { request_id: String::new(), node: node.to_owned() };
    let change = session.order(request, &format!("drain {node}")).await?;
    if !wait.or(true) {
        session.print("Change", &change, || format!("{node} is being drained (revision {})", change.revision));
        return Ok(());
    }
    let awaited = Awaited {
        what: format!("draining {node}"),
        next: format!("make room for what is left, or end the drain with `quoratectl node return {node}`"),
        patience: LONG,
        from: change.revision,
        about: about(node),
    };
    let empty = session.until(awaited, async || {
        let now = get(session, node).await?;
        if now.intent() != v1::NodeIntent::Draining {
            bail!("the drain of {node} was ended by somebody else: it is {} now", intent(&now));
        }
        Ok(if now.containers == 0 { Look::Reached(now) } else { Look::NotYet(left(&now)) })
    });
    let empty = empty.await?;
    session.print("Node", &empty, || {
        format!("{node} is empty\nnext: `quoratectl node maintain {node}`, then it may be switched off")
    });
    Ok(())
}

/// What keeps a node from being empty, in one line.
fn left(node: &v1::Node) -> String {
    let drain = node.drain.clone().unwrap_or_default();
    let mut text = format!("{} left", count(node.containers, "container"));
    if node.health() != v1::NodeHealth::Up {
        text.push_str(&format!("; it is {}", health(node)));
    }
    for blocker in drain.blockers.iter().take(3) {
        text.push_str(&format!("; {}: {}", blocker.container, blocker.text));
    }
    if drain.blockers.len() > 3 {
        text.push_str(&format!("; and {} more", drain.blockers.len() - 3));
    }
    text
}

async fn leave(session: &Session, node: &str, wait: Wait) -> Result<()> {
    let before = get(session, node).await?;
    let request = v1::LeaveNodeRequest { request_id: String::new(), node: node.to_owned() };
    let change = session.order(request, &format!("ask {node} to leave")).await?;
    if !wait.or(false) {
        session.print("Change", &change, || format!("{node} is asked to stop everything and leave"));
        return Ok(());
    }
    let awaited = Awaited {
        what: format!("waiting until {node} has left"),
        next: format!(
            "look at the log of its agent; where the machine is off, `quoratectl node confirm-down {node}` says so"
        ),
        patience: PATIENCE,
        from: change.revision,
        about: about(node),
    };
    let gone = session.until(awaited, async || {
        let now = get(session, node).await?;
        if now.incarnation > before.incarnation {
            bail!("{node} has registered anew instead of leaving: was its agent started again?");
        }
        let has_left = now.health() == v1::NodeHealth::Fenced;
        Ok(if has_left { Look::Reached(now) } else { Look::NotYet(left(&now)) })
    });
    let gone = gone.await?;
    session.print("Node", &gone, || {
        let receipt = gone.receipt.clone().unwrap_or_default();
        format!("{node} has left ({})", word(receipt.kind().as_str_name(), "RECEIPT_KIND_"))
    });
    Ok(())
}

async fn confirm_down(session: &Session, asked: ConfirmDown) -> Result<()> {
    let ConfirmDown { node, reason, incarnation, i_verified: _ } = asked;
    let incarnation = match incarnation {
        Some(given) => given,
        None => get(session, &node).await?.incarnation,
    };
    let request = v1::ConfirmDownRequest { request_id: String::new(), node: node.clone(), incarnation, reason };
    let done = format!("{node}, incarnation {incarnation}, is confirmed down; what ran there is started elsewhere");
    session.change(request, &format!("confirm that {node} is down"), &done).await
}

fn health(node: &v1::Node) -> String {
    word(node.health().as_str_name(), "NODE_HEALTH_")
}

fn intent(node: &v1::Node) -> String {
    word(node.intent().as_str_name(), "NODE_INTENT_")
}

fn class(node: &v1::Node) -> String {
    word(node.fencing_class().as_str_name(), "FENCING_CLASS_").to_ascii_uppercase()
}

fn listed(nodes: &[v1::Node], wide: bool) -> String {
    let rows = nodes.iter().map(|node| {
        let (has, used) = (node.capacity.unwrap_or_default(), node.assigned.unwrap_or_default());
        let mut row = vec![
            node.name.clone(),
            word(node.role().as_str_name(), "NODE_ROLE_"),
            health(node),
            intent(node),
            class(node),
            node.containers.to_string(),
            format!("{} / {}", cores(used.cpu_millis), cores(has.cpu_millis)),
            format!("{} / {}", memory(used.memory_bytes), memory(has.memory_bytes)),
        ];
        if wide {
            row.extend([
                node.id.clone(),
                node.incarnation.to_string(),
                dash(&node.failure_domain),
                dash(&labels(node).join(",")),
                dash(&node.runtimes.join(",")),
                dash(&node.agent_version),
            ]);
        }
        row
    });
    let mut headings = vec!["name", "role", "health", "intent", "class", "containers", "cpu", "memory"];
    if wide {
        headings.extend(["id", "incarnation", "failure domain", "labels", "runtimes", "agent"]);
    }
    table(&headings, rows)
}

fn labels(node: &v1::Node) -> Vec<String> {
    node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect()
}

fn shown(node: &v1::Node) -> String {
    let (has, used) = (node.capacity.unwrap_or_default(), node.assigned.unwrap_or_default());
    let amounts = |of: v1::Resources| format!("{} cpu, {} memory", cores(of.cpu_millis), memory(of.memory_bytes));
    let silent = if node.silent_ms == 0 { String::new() } else { format!(", unheard for {}", time(node.silent_ms)) };
    let cause = if node.fencing_cause.is_empty() { String::new() } else { format!(": {}", node.fencing_cause) };
    let reason = match node.fencing_class_reason.as_str() {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    let receipt = node.receipt.as_ref().map(|receipt| {
        let scope = if receipt.whole_node { "the whole node" } else { "only containers that stop on quorum loss" };
        format!(
            "{} for incarnation {}, revision {}, covers {scope}\n{}",
            word(receipt.kind().as_str_name(), "RECEIPT_KIND_"),
            receipt.incarnation,
            receipt.revision,
            receipt.text
        )
    });
    let drain = node.drain.as_ref().map(|drain| {
        let blockers = drain.blockers.iter().map(|it| format!("\n{}: {}", it.container, it.text));
        format!("{} left{}", count(drain.left, "container"), blockers.collect::<String>())
    });
    facts(&[
        ("name", format!("{} ({})", node.name, node.id)),
        ("role", word(node.role().as_str_name(), "NODE_ROLE_")),
        ("health", format!("{}{silent}{cause}", health(node))),
        ("waits for you", node.awaits_operator.clone()),
        ("intent", intent(node)),
        ("drain", drain.unwrap_or_default()),
        ("receipt", receipt.unwrap_or_default()),
        ("fencing class", format!("{}{reason}", class(node))),
        ("containers", node.containers.to_string()),
        ("has", amounts(has)),
        ("assigned", amounts(used)),
        ("failure domain", node.failure_domain.clone()),
        ("labels", labels(node).join("\n")),
        ("runtimes", node.runtimes.join(", ")),
        ("runtimes refused", node.runtimes_refused.join("\n")),
        ("lease", if node.lease_ms == 0 { String::new() } else { time(node.lease_ms) }),
        ("incarnation", node.incarnation.to_string()),
        ("boot", node.boot_id.clone()),
        ("agent", node.agent_version.clone()),
        ("storages", storages(node).join("\n")),
        ("bound here", bound(node)),
    ])
}

/// What is not failed over if the node is lost.
fn bound(node: &v1::Node) -> String {
    match node.containers_bound {
        0 => String::new(),
        some => format!("{} on local storages: never failed over", count(some, "container")),
    }
}

/// The storages as the node sees them, one a line.
fn storages(node: &v1::Node) -> Vec<String> {
    let found = node.report.iter().flat_map(|report| &report.storages);
    found.map(|found| format!("{}: {}", found.storage, storage::seen(found))).collect()
}

/// For tests of anything that prints a node.
#[cfg(test)]
fn example() -> v1::Node {
    v1::Node {
        id: "n3".into(),
        name: "node-3".into(),
        role: v1::NodeRole::Standby as i32,
        intent: v1::NodeIntent::Draining as i32,
        health: v1::NodeHealth::Up as i32,
        fencing_class: v1::FencingClass::F1 as i32,
        fencing_class_reason: "no power switch".into(),
        capacity: Some(v1::Resources { cpu_millis: 4_000, memory_bytes: 4 << 30 }),
        assigned: Some(v1::Resources { cpu_millis: 1_250, memory_bytes: 3 << 29 }),
        incarnation: 2,
        containers: 2,
        drain: Some(v1::DrainProgress {
            left: 2,
            blockers: vec![v1::DrainBlocker { container: "db".into(), text: "no node has room".into() }],
        }),
        ..v1::Node::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_listed_with_what_they_have_left() {
        let text = listed(&[example()], false);
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert_eq!(
            lines,
            [
                "NAME    ROLE     HEALTH  INTENT    CLASS  CONTAINERS  CPU       MEMORY",
                "node-3  standby  up      draining  F1     2           1.25 / 4  1.5 GiB / 4 GiB",
            ]
        );
        assert!(listed(&[example()], true).contains("INCARNATION"));
    }

    #[test]
    fn a_node_is_shown_with_receipt_class_and_what_blocks_its_drain() {
        let receipt = v1::Receipt {
            kind: v1::ReceiptKind::LeaseOver as i32,
            incarnation: 2,
            whole_node: false,
            text: "2 of 3 members".into(),
            revision: 77,
        };
        let fenced = v1::Node { health: v1::NodeHealth::Fenced as i32, receipt: Some(receipt), ..example() };
        let text = shown(&fenced);
        for line in [
            "health         fenced",
            "drain          2 containers left",
            "               db: no node has room",
            "receipt        lease-over for incarnation 2, revision 77, covers only containers that stop on quorum loss",
            "               2 of 3 members",
            "fencing class  F1: no power switch",
            "assigned       1.25 cpu, 1.5 GiB memory",
        ] {
            let found = text.lines().map(|it| it.replacen("   ", " ", 1)).any(|it| squeezed(&it) == squeezed(line));
            assert!(found, "{line:?} is not in\n{text}");
        }
        let finding = |fault: &str| v1::StorageFinding {
            storage: "shared".into(),
            usable: fault.is_empty(),
            fault: fault.into(),
            bytes_total: 8 << 30,
            bytes_free: 3 << 30,
            latency_ms: 10,
            areas: v1::AreaMethod::Copy.into(),
            ..v1::StorageFinding::default()
        };
        for (fault, says) in [
            ("", "storages shared: usable, 3 GiB free of 8 GiB, a write takes 10 ms, areas by copy"),
            ("it hangs", "storages shared: lost: it hangs"),
        ] {
            let report = v1::NodeReport { storages: vec![finding(fault)], ..v1::NodeReport::default() };
            let text = shown(&v1::Node { report: Some(report), ..example() });
            assert!(squeezed(&text).contains(says), "{text}");
        }
        let bound = shown(&v1::Node { containers_bound: 2, ..example() });
        assert!(squeezed(&bound).contains("bound here 2 containers on local storages: never failed over"), "{bound}");
        assert!(!text.contains("labels") && !text.contains("waits for you"), "{text}");
        let fencing = v1::NodeHealth::Fencing as i32;
        let awaited = v1::Node { health: fencing, awaits_operator: "class F0: look at it".into(), ..example() };
        assert!(squeezed(&shown(&awaited)).contains("waits for you class F0: look at it"), "{}", shown(&awaited));
    }

    fn squeezed(text: &str) -> String {
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_keeps_a_drain_is_said_in_a_line() {
        assert_eq!(left(&example()), "2 containers left; db: no node has room");
        let silent = v1::Node { health: v1::NodeHealth::Suspect as i32, ..example() };
        assert!(left(&silent).contains("it is suspect"));
    }
}

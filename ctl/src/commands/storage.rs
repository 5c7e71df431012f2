//! Storages: where private areas of containers live.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use proto::v1;
use proto::v1::storage::Kind;

use crate::output::{facts, memory, table, time, word};
use crate::session::{Awaited, Look, PATIENCE, Session};

#[derive(Subcommand)]
pub enum Storage {
    /// Registers a storage, or replaces it while no container uses it
    Register {
        name: String,
        #[command(flatten)]
        place: Place,
    },
    /// Registers a storage and waits until every node that is up has tried it
    Add {
        name: String,
        #[command(flatten)]
        place: Place,
    },
    /// One storage, and how each node sees it
    Show {
        name: String,
        /// Answer from what the member asked has applied, also without a majority
        #[arg(long)]
        stale: bool,
    },
    /// The storages, by name
    #[command(visible_alias = "ls")]
    List {
        /// Answer from what the member asked has applied, also without a majority
        #[arg(long)]
        stale: bool,
    },
    /// Forgets a storage that no container uses; what lies there stays
    Remove { name: String },
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct Place {
    /// Folder every node sees at this same absolute path, such as an NFS mount
    #[arg(long, value_name = "PATH")]
    directory: Option<String>,
    /// Folder on each node's own disks, at this same absolute path: containers there are never failed over
    #[arg(long, value_name = "PATH")]
    local: Option<String>,
}

impl Place {
    fn storage(self, name: &str) -> v1::Storage {
        let directory = self.directory.map(|path| Kind::Directory(v1::DirectoryStorage { path }));
        let kind = directory.or(self.local.map(|path| Kind::Local(v1::LocalStorage { path })));
        v1::Storage { name: name.to_owned(), kind, ..v1::Storage::default() }
    }
}

pub async fn run(session: &Session, verb: Storage) -> Result<()> {
    match verb {
        Storage::Register { name, place } => {
            let storage = Some(place.storage(&name));
            let request = v1::RegisterStorageRequest { request_id: String::new(), storage };
            session.change(request, &format!("register storage {name}"), &format!("storage {name} is registered")).await
        }
        Storage::Add { name, place } => add(session, &name, place).await,
        Storage::Show { name, stale } => {
            let request = v1::GetStorageRequest { storage: name.clone(), stale };
            let reply = session.client.ask(request).await.with_context(|| format!("show storage {name}"))?;
            let storage = reply.storage.clone().unwrap_or_default();
            session.print("GetStorageReply", &reply, || shown(&storage));
            Ok(())
        }
        Storage::List { stale } => {
            let request = v1::ListStoragesRequest { page: None, stale };
            let reply = session.client.ask_all(request).await.context("list the storages")?;
            session.print("ListStoragesReply", &reply, || listed(&reply.storages));
            Ok(())
        }
        Storage::Remove { name } => {
            let request = v1::RemoveStorageRequest { request_id: String::new(), storage: name.clone() };
            session.change(request, &format!("remove storage {name}"), &format!("storage {name} is removed")).await
        }
    }
}

/// How one node sees a storage, in a line.
pub fn seen(found: &v1::StorageFinding) -> String {
    if !found.usable {
        return format!("lost: {}", found.fault);
    }
    let mut words = vec!["usable".to_owned()];
    if found.bytes_total > 0 {
        words.push(format!("{} free of {}", memory(found.bytes_free), memory(found.bytes_total)));
    }
    if found.latency_ms > 0 {
        words.push(format!("a write takes {}", time(found.latency_ms)));
    }
    if !matches!(found.areas(), v1::AreaMethod::Unspecified | v1::AreaMethod::Unknown) {
        words.push(format!("areas by {}", word(found.areas().as_str_name(), "AREA_METHOD_")));
    }
    words.join(", ")
}

/// Errs where a node cannot use it: it stays registered, for whoever mends the node.
async fn add(session: &Session, name: &str, place: Place) -> Result<()> {
    let request = v1::RegisterStorageRequest { request_id: String::new(), storage: Some(place.storage(name)) };
    let change = session.order(request, &format!("register storage {name}")).await?;
    let awaited = Awaited {
        what: format!("waiting until every node has tried storage {name}"),
        next: format!("`quoratectl storage show {name}` shows who has; nodes that are not up are not waited for"),
        patience: PATIENCE,
        from: change.revision,
        about: v1::EventFilter::default(),
    };
    let tried = session.until(awaited, async || {
        let request = v1::GetStorageRequest { storage: name.to_owned(), stale: false };
        let reply = session.client.ask(request).await.with_context(|| format!("show storage {name}"))?;
        let storage = reply.storage.unwrap_or_default();
        let health = v1::NodeHealth::Up.into();
        let nodes = session.client.ask_all(v1::ListNodesRequest { health, ..v1::ListNodesRequest::default() }).await;
        let nodes = nodes.context("list the nodes")?.nodes;
        let has_tried = |node: &&v1::Node| storage.findings.iter().any(|found| found.node == node.name);
        let missing: Vec<&str> = nodes.iter().filter(|node| !has_tried(node)).map(|node| node.name.as_str()).collect();
        Ok(if missing.is_empty() { Look::Reached(storage) } else { Look::NotYet(missing.join(", ")) })
    });
    let tried = tried.await?;
    session.print("Storage", &tried, || shown(&tried));
    let lost: Vec<&str> =
        tried.findings.iter().filter(|found| !found.usable).map(|found| found.node.as_str()).collect();
    if !lost.is_empty() {
        bail!(
            "storage {name} is registered, and cannot be used on {}: mend it there, or take it back with `quoratectl \
             storage remove {name}`",
            lost.join(", ")
        );
    }
    Ok(())
}

fn place(storage: &v1::Storage) -> (&str, &str) {
    match &storage.kind {
        Some(Kind::Directory(directory)) => ("directory", &directory.path),
        Some(Kind::Local(local)) => ("local", &local.path),
        None => ("-", "-"),
    }
}

fn listed(storages: &[v1::Storage]) -> String {
    let rows = storages.iter().map(|storage| {
        let (kind, place) = place(storage);
        let health = match storage.nodes_lost {
            0 => format!("{} usable", storage.nodes_usable),
            lost => format!("{} usable, {lost} lost", storage.nodes_usable),
        };
        let (containers, since) = (storage.containers.to_string(), storage.registered_revision.to_string());
        vec![storage.name.clone(), kind.to_owned(), place.to_owned(), health, containers, since]
    });
    table(&["name", "kind", "place", "nodes", "containers", "since revision"], rows)
}

fn shown(storage: &v1::Storage) -> String {
    let (kind, place) = place(storage);
    let nodes: Vec<String> = storage.findings.iter().map(|found| format!("{}: {}", found.node, seen(found))).collect();
    let failover = match storage.kind {
        Some(Kind::Local(_)) => "never: what lies here lies on one node alone".to_owned(),
        _ => String::new(),
    };
    facts(&[
        ("name", storage.name.clone()),
        ("kind", kind.to_owned()),
        ("place", place.to_owned()),
        ("containers", storage.containers.to_string()),
        ("failover", failover),
        ("nodes", if nodes.is_empty() { "none has looked yet".to_owned() } else { nodes.join("\n") }),
        ("since revision", storage.registered_revision.to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage() -> v1::Storage {
        let found = |node: &str, fault: &str| v1::StorageFinding {
            node: node.into(),
            usable: fault.is_empty(),
            fault: fault.into(),
            ..v1::StorageFinding::default()
        };
        v1::Storage {
            name: "disks".into(),
            kind: Some(Kind::Local(v1::LocalStorage { path: "/srv/disks".into() })),
            registered_revision: 7,
            containers: 3,
            nodes_usable: 1,
            nodes_lost: 1,
            findings: vec![found("node-1", ""), found("node-2", "its path is no folder")],
        }
    }

    #[test]
    fn storages_are_listed_with_how_many_nodes_have_them() {
        let lines: Vec<String> = listed(&[storage()]).lines().map(|line| line.trim_end().to_owned()).collect();
        assert_eq!(
            lines,
            [
                "NAME   KIND   PLACE       NODES             CONTAINERS  SINCE REVISION",
                "disks  local  /srv/disks  1 usable, 1 lost  3           7",
            ]
        );
    }

    #[test]
    fn a_storage_is_shown_as_each_node_sees_it_and_a_local_one_says_what_it_costs() {
        let text = shown(&storage());
        for line in ["node-1: usable", "node-2: lost: its path is no folder", "never: what lies here"] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
        assert!(shown(&v1::Storage::default()).contains("none has looked yet"));
    }
}

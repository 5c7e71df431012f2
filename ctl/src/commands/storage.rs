//! Storages: where private areas of containers live.

use anyhow::{Context, Result};
use clap::Subcommand;
use proto::v1;
use proto::v1::storage::Kind;

use crate::output::{memory, table, time, word};
use crate::session::Session;

#[derive(Subcommand)]
pub enum Storage {
    /// Registers a storage, or replaces it while no container uses it
    Register {
        name: String,
        /// Folder every node sees at this same absolute path, such as an NFS mount
        #[arg(long, value_name = "PATH")]
        directory: String,
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

pub async fn run(session: &Session, verb: Storage) -> Result<()> {
    match verb {
        Storage::Register { name, directory } => {
            let kind = Some(Kind::Directory(v1::DirectoryStorage { path: directory }));
            let storage = Some(v1::Storage { name: name.clone(), kind, registered_revision: 0 });
            let request = v1::RegisterStorageRequest { request_id: String::new(), storage };
            session.change(request, &format!("register storage {name}"), &format!("storage {name} is registered")).await
        }
        Storage::List { stale } => {
            let request = v1::ListStoragesRequest { page: None, stale };
            let reply = session.client.ask_all(request).await.context("list the storages")?;
            session.print("ListStoragesReply", &reply, || shown(&reply.storages));
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

fn shown(storages: &[v1::Storage]) -> String {
    let rows = storages.iter().map(|storage| {
        let (kind, place) = match &storage.kind {
            Some(Kind::Directory(directory)) => ("directory", directory.path.as_str()),
            None => ("-", "-"),
        };
        vec![storage.name.clone(), kind.to_owned(), place.to_owned(), storage.registered_revision.to_string()]
    });
    table(&["name", "kind", "place", "since revision"], rows)
}

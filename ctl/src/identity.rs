//! The file an agent opens its streams with: which node of which cluster it is, its secret, whom to ask.
//! In: the answer to a join. Out: `identity.json`, readable by its owner only.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use proto::v1;

/// A place for an identity that is known to be writable, before there is one: a join has its effect once, and its secret
/// is said once.
pub struct Place {
    path: PathBuf,
    partial: PathBuf,
    file: File,
}

impl Place {
    /// Makes the folder if needed. What lies there stays until [`Place::write`].
    pub fn prepare(path: &Path) -> Result<Place> {
        let partial = path.with_extension("partial");
        let what = || format!("write the identity to {}", path.display());
        if let Some(folder) = path.parent().filter(|it| !it.as_os_str().is_empty()) {
            fs::create_dir_all(folder).with_context(what)?;
        }
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial);
        Ok(Place { path: path.to_owned(), file: file.with_context(what)?, partial })
    }

    /// Durable when this returns.
    pub fn write(mut self, name: &str, reply: &v1::JoinReply) -> Result<()> {
        let node: u64 = reply.node.trim_start_matches('n').parse().context("the node's id is no number")?;
        let identity = serde_json::json!({
            "cluster": reply.cluster_id,
            "generation": generation(reply.generation, &reply.generation_id),
            "node": node,
            "name": name,
            "secret": reply.secret,
            "members": reply.members,
        });
        let text = serde_json::to_string_pretty(&identity)? + "\n";
        let stored = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_all());
        let stored = stored.and_then(|()| fs::rename(&self.partial, &self.path));
        stored.with_context(|| format!("write the identity to {}", self.path.display()))
    }

    /// Leaves nothing behind.
    pub fn give_up(self) {
        // It was empty; one that stays is overwritten by the next join.
        let _ = fs::remove_file(&self.partial);
    }
}

pub fn write(path: &Path, name: &str, reply: &v1::JoinReply) -> Result<()> {
    Place::prepare(path)?.write(name, reply)
}

/// As identities and papers name it.
fn generation(number: u64, id: &str) -> serde_json::Value {
    if id.is_empty() { number.into() } else { format!("{number}-{id}").into() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_identity_is_whole_and_for_its_owner_only() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("agent/identity.json");
        let reply = v1::JoinReply { node: "n7".into(), secret: "00ff".into(), ..v1::JoinReply::default() };
        write(&path, "node-7", &reply).expect("written");
        let read: serde_json::Value = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
        assert_eq!((&read["node"], &read["name"], &read["secret"]), (&7.into(), &"node-7".into(), &"00ff".into()));
        assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path().join("agent")).expect("folder").count(), 1, "a partial file is left");
    }
}

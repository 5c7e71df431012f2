//! Who this node is to the cluster: the file `quoratectl node join` writes, and the members that were heard of since.
//! In: `identity.json` of the state folder. Out: what opens every stream. The secret never leaves this file and the
//! streams. Absent: no joining; a node that has no identity says how to get one.
//!
//! ```json
//! {"cluster": "32 hex digits", "generation": 1, "node": 3, "name": "node-3", "secret": "hex",
//!  "members": ["10.0.0.1:7441"]}
//! ```

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cluster::agent::MembershipIdentity;
use cluster::{ClusterId, Generation, NodeId};
use serde::{Deserialize, Serialize};

use crate::durable;

/// The identity of this node.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    pub cluster: ClusterId,
    pub generation: Generation,
    pub node: NodeId,
    pub name: String,
    pub secret: Vec<u8>,
    /// Where members serve agents, `host:port`; at least one.
    pub members: Vec<String>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {:?} of {:?}", self.node, self.name, self.cluster)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(
        "this node has no identity at {path}: run `quoratectl node join`, or name the file it wrote with --identity"
    )]
    Missing { path: PathBuf },
    #[error("read identity {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("identity {path}: {reason}")]
    Bad { path: PathBuf, reason: String },
    #[error("generation {told} does not come after {ours}, which this node was told to serve")]
    NotLater { ours: Generation, told: Generation },
    #[error("--member: {reason}")]
    BadMember { reason: String },
    #[error(
        "state folder {path} belongs to node {theirs} and the identity is of node {ours}: \
         two nodes must not share a state folder"
    )]
    Conflict { path: PathBuf, theirs: String, ours: String },
}

/// As it lies on disk.
#[derive(Serialize, Deserialize)]
struct File {
    cluster: String,
    generation: Generation,
    node: u64,
    #[serde(default)]
    name: String,
    secret: String,
    members: Vec<String>,
}

impl Identity {
    pub fn read(path: &Path) -> Result<Identity, IdentityError> {
        let bad = |reason: String| IdentityError::Bad { path: path.to_owned(), reason };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(IdentityError::Missing { path: path.to_owned() });
            }
            Err(source) => return Err(IdentityError::Io { path: path.to_owned(), source }),
        };
        let file: File = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        let cluster = u128::from_str_radix(&file.cluster, 16)
            .map_err(|_| bad(format!("`cluster` {:?} is not a number of 32 hex digits", file.cluster)))?;
        let secret = from_hex(&file.secret).ok_or_else(|| bad("`secret` is not hex".to_owned()))?;
        if file.node == 0 || secret.is_empty() {
            return Err(bad("`node` and `secret` must be given".to_owned()));
        }
        for member in &file.members {
            check_address(member).map_err(|reason| bad(format!("`members`: {reason}")))?;
        }
        Ok(Identity {
            cluster: ClusterId(cluster),
            generation: file.generation,
            node: NodeId(file.node),
            name: file.name,
            secret,
            members: file.members,
        })
    }

    /// This identity in a later generation of its cluster, with other `members` if any are given. The same generation may be
    /// given again.
    pub fn told_to_serve(&self, generation: Generation, members: Vec<String>) -> Result<Identity, IdentityError> {
        if generation != self.generation && generation.number <= self.generation.number {
            return Err(IdentityError::NotLater { ours: self.generation, told: generation });
        }
        for member in &members {
            check_address(member).map_err(|reason| IdentityError::BadMember { reason })?;
        }
        let members = if members.is_empty() { self.members.clone() } else { members };
        Ok(Identity { generation, members, ..self.clone() })
    }

    /// Writes the file, readable by its owner only.
    pub fn write(&self, path: &Path) -> Result<(), IdentityError> {
        let file = File {
            cluster: self.cluster.to_string(),
            generation: self.generation,
            node: self.node.0,
            name: self.name.clone(),
            secret: self.secret.iter().map(|byte| format!("{byte:02x}")).collect(),
            members: self.members.clone(),
        };
        let text = serde_json::to_string_pretty(&file).expect("strings and numbers are always JSON") + "\n";
        durable::replace(path, text.as_bytes()).map_err(|source| IdentityError::Io { path: path.to_owned(), source })
    }
}

/// Errs in words unless `text` is `host:port`.
pub fn check_address(text: &str) -> Result<(), String> {
    let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("{text:?} is not host:port"))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']' | '%' | '_');
    if host.is_empty() || !host.chars().all(plain) {
        return Err(format!("{text:?} has no usable host"));
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(()),
        _ => Err(format!("{text:?} has no port from 1 to 65535")),
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// The folder belongs to one node of one cluster for ever: noted at the first start, checked at every other.
pub fn claim_state_dir(state_dir: &Path, identity: &Identity) -> Result<(), IdentityError> {
    let path = state_dir.join("owner");
    let io = |source| IdentityError::Io { path: path.clone(), source };
    let ours = format!("{} of cluster {}", identity.node, identity.cluster);
    match fs::read_to_string(&path) {
        Ok(theirs) if theirs.trim() == ours => Ok(()),
        Ok(theirs) => {
            Err(IdentityError::Conflict { path: state_dir.to_owned(), theirs: theirs.trim().to_owned(), ours })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            durable::replace(&path, format!("{ours}\n").as_bytes()).map_err(io)
        }
        Err(error) => Err(io(error)),
    }
}

/// The members last heard of, so that a restart finds the cluster when every seed was replaced meanwhile.
/// Without the file, or with one that cannot be read, empty: it is only a hint.
pub fn known_members(state_dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(state_dir.join("members")).unwrap_or_default();
    text.lines().filter(|line| check_address(line).is_ok()).map(str::to_owned).collect()
}

pub fn remember_members(state_dir: &Path, membership: &MembershipIdentity) -> io::Result<()> {
    let lines: String = membership.addresses.iter().map(|(_, address)| format!("{address}\n")).collect();
    durable::replace(&state_dir.join("members"), lines.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster: ClusterId(7),
            generation: Generation::numbered(1),
            node: NodeId(3),
            name: "node-3".into(),
            secret: vec![0, 255, 16],
            members: vec!["127.0.0.1:7441".into(), "[::1]:7441".into()],
        }
    }

    #[test]
    fn an_identity_goes_on_to_later_generations_only() {
        let before = identity();
        let next = Generation { number: 2, id: 7 };
        let told = before.told_to_serve(next, vec!["10.0.0.9:7441".to_owned()]).expect("a later one");
        assert_eq!((told.generation, told.members.len(), told.node), (next, 1, before.node));
        assert_eq!(told.told_to_serve(next, Vec::new()).expect("the same again"), told);
        for earlier in [before.generation, Generation::numbered(2), Generation { number: 2, id: 8 }] {
            let refused = told.told_to_serve(earlier, Vec::new()).expect_err("it is not later");
            assert!(refused.to_string().contains("does not come after"), "{refused}");
        }
        assert!(before.told_to_serve(next, vec!["nowhere".to_owned()]).is_err());
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("identity.json");
        told.write(&path).expect("written");
        assert_eq!(Identity::read(&path).expect("read"), told);
    }

    #[test]
    fn identity_survives_the_disk_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("identity.json");
        identity().write(&path).expect("write");
        assert_eq!(Identity::read(&path).expect("read"), identity());
        assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o600);
        assert!(!format!("{:?}", identity()).contains("255"), "the secret shows in a log line");
    }

    #[test]
    fn bad_identities_are_refused_in_words() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("identity.json");
        assert!(matches!(Identity::read(&path), Err(IdentityError::Missing { .. })));
        let whole = r#"{"cluster":"7","generation":1,"node":3,"secret":"00ff","members":["127.0.0.1:1"]}"#;
        for (from, to, says) in [
            (r#""7""#, r#""seven""#, "`cluster`"),
            ("00ff", "00f", "`secret`"),
            (":1\"", "\"", "`members`"),
            (":3", ":0", "`node`"),
            ("{", "", "expected"),
        ] {
            fs::write(&path, whole.replace(from, to)).expect("write");
            let error = Identity::read(&path).expect_err("refused").to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn another_nodes_state_folder_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        claim_state_dir(folder.path(), &identity()).expect("first");
        claim_state_dir(folder.path(), &identity()).expect("again");
        let other = Identity { node: NodeId(4), ..identity() };
        assert!(matches!(claim_state_dir(folder.path(), &other), Err(IdentityError::Conflict { .. })));
    }
}

//! Who this member is to the others: id, cluster, secret, addresses. Kept beside the store as `member.toml`.
//! In: what `AddMember` or `Init` gave. Out: a file that is whole or not there, readable by its owner alone.
//! A checksum over what it says: a flipped bit must not make one member another.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use cluster::{ClusterId, Generation, Member, MemberId, Name, Revision, SecretHash};
use proto::{Problem, v1};
use serde::{Deserialize, Serialize};

use crate::secret::Secret;

const FILE: &str = "member.toml";

/// A member's papers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    pub cluster: ClusterId,
    pub cluster_name: String,
    pub generation: Generation,
    pub member: MemberId,
    pub name: Name,
    pub secret: Secret,
    /// Follows the log and does not want to vote.
    pub learner: bool,
    /// Its store was made. A folder that has these papers and no store has lost it: what was promised in it is unknown.
    pub made: bool,
    /// The members known when this was written.
    pub seeds: Vec<Seed>,
}

/// Where a member can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seed {
    pub member: u64,
    pub name: String,
    pub peer: String,
    pub api: String,
}

#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    #[error("cannot {operation} {path}")]
    Io { operation: &'static str, path: String, source: io::Error },
    #[error("{path} does not say who this member is: {problem}")]
    Unreadable { path: String, problem: String },
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Paper {
    /// First, so that a file cut short has it.
    checksum: String,
    cluster: String,
    cluster_name: String,
    generation: Generation,
    member: u64,
    name: String,
    secret: String,
    #[serde(default)]
    learner: bool,
    #[serde(default)]
    made: bool,
    #[serde(default)]
    seeds: Vec<Seed>,
}

impl Admission {
    /// `None` where no member was ever admitted.
    pub fn read(folder: &Path) -> Result<Option<Admission>, AdmissionError> {
        let path = folder.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let path = path.display().to_string();
                return Err(AdmissionError::Unreadable { path, problem: "it is not text".to_owned() });
            }
            Err(source) => return Err(failed("read", &path)(source)),
        };
        let unreadable = |problem: String| AdmissionError::Unreadable { path: path.display().to_string(), problem };
        let paper: Paper = toml::from_str(&text).map_err(|error| unreadable(error.message().to_owned()))?;
        if paper.checksum != paper.checksum() {
            return Err(unreadable("its checksum is wrong".to_owned()));
        }
        paper.admission().map(Some).map_err(|problem| unreadable(problem.to_owned()))
    }

    /// Durable when it returns.
    pub fn write(&self, folder: &Path) -> Result<(), AdmissionError> {
        let Admission { cluster, cluster_name, generation, member, name, secret, learner, made, seeds } = self;
        let mut paper = Paper {
            checksum: String::new(),
            cluster: cluster.to_string(),
            cluster_name: cluster_name.clone(),
            generation: *generation,
            member: member.0,
            name: name.to_string(),
            secret: secret.hex(),
            learner: *learner,
            made: *made,
            seeds: seeds.clone(),
        };
        paper.checksum = paper.checksum();
        let text = paper.text();
        let (path, fresh) = (folder.join(FILE), folder.join("member.toml.new"));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
            .map_err(failed("create", &fresh))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed("write", &fresh))?;
        fs::rename(&fresh, &path).map_err(failed("replace", &path))?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync", folder))
    }

    /// Puts the papers of `folder` aside as `target`, where there are any: nobody starts under this id again.
    pub fn put_aside(folder: &Path, target: &Path) -> Result<(), AdmissionError> {
        let path = folder.join(FILE);
        match fs::rename(&path, target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("put aside", &path)(error)),
            _ => {}
        }
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync", folder))
    }

    /// The members named, as far as their names can be read: enough to reach them.
    pub fn members(&self) -> Vec<Arc<Member>> {
        let member = |seed: &Seed| {
            Some(Arc::new(Member {
                id: MemberId(seed.member),
                name: Name::new(&seed.name).ok()?,
                peer_address: seed.peer.as_str().into(),
                api_address: seed.api.as_str().into(),
                secret: SecretHash::default(),
                added: Revision(0),
            }))
        };
        self.seeds.iter().filter_map(member).collect()
    }

    /// What `AddMember` answered, as `Enrol` brings it.
    pub fn from_message(admission: v1::Admission) -> Result<Admission, Problem> {
        let v1::Admission {
            cluster_id,
            generation,
            member,
            name,
            secret,
            members,
            cluster_name,
            learner,
            generation_id,
        } = admission;
        let drawn = |text: &str| cluster(text).map(|id| id.0);
        let generation_id = match &*generation_id {
            "" => 0,
            text => drawn(text)
                .ok_or_else(|| Problem::invalid("admission.generation_id", "is not 32 hexadecimal digits"))?,
        };
        let seed = |member: v1::Member| {
            let address = member.address.unwrap_or_default();
            Seed { member: member.id, name: member.name, peer: address.peer, api: address.api }
        };
        if member == 0 || generation == 0 {
            return Err(Problem::invalid("admission.member", "is required"));
        }
        Ok(Admission {
            cluster: cluster(&cluster_id)
                .ok_or_else(|| Problem::invalid("admission.cluster_id", "is no cluster id"))?,
            cluster_name,
            generation: Generation { number: generation, id: generation_id },
            member: MemberId(member),
            name: Name::new(&name).map_err(|error| Problem::invalid("admission.name", error.to_string()))?,
            secret: Secret::from_hex(&secret).ok_or_else(|| Problem::invalid("admission.secret", "is no secret"))?,
            learner,
            made: false,
            seeds: members.into_iter().map(seed).collect(),
        })
    }
}

impl Paper {
    fn text(&self) -> String {
        toml::to_string_pretty(self).expect("plain tables are TOML")
    }

    /// Of everything else it says.
    fn checksum(&self) -> String {
        let bare = Paper { checksum: String::new(), ..self.clone() };
        format!("{:08x}", record::checksum(bare.text().as_bytes()))
    }

    fn admission(self) -> Result<Admission, &'static str> {
        let Paper { checksum: _, cluster: id, cluster_name, generation, member, name, secret, learner, made, seeds } =
            self;
        Ok(Admission {
            cluster: cluster(&id).ok_or("cluster is not 32 hexadecimal digits")?,
            cluster_name,
            generation,
            member: MemberId(member),
            name: Name::new(&name).map_err(|_| "name is no name")?,
            secret: Secret::from_hex(&secret).ok_or("secret is not 32 hexadecimal digits")?,
            learner,
            made,
            seeds,
        })
    }
}

fn cluster(text: &str) -> Option<ClusterId> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u128::from_str_radix(text, 16).ok().map(ClusterId))?
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AdmissionError + use<> {
    let path = path.display().to_string();
    move |source| AdmissionError::Io { operation, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn papers() -> Admission {
        Admission {
            cluster: ClusterId(0xfeed),
            cluster_name: "home".into(),
            generation: Generation::numbered(1),
            member: MemberId(3),
            name: Name::new("three").expect("a name"),
            secret: Secret::draw(),
            learner: true,
            made: true,
            seeds: vec![Seed { member: 1, name: "one".into(), peer: "a:1".into(), api: "a:2".into() }],
        }
    }

    #[test]
    fn papers_survive_the_disk_and_are_nobody_elses_business() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(Admission::read(folder.path()).expect("readable"), None);
        let admission = papers();
        admission.write(folder.path()).expect("written");
        assert_eq!(Admission::read(folder.path()).expect("readable"), Some(admission));
        let mode = fs::metadata(folder.path().join(FILE)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    /// Never another member, another cluster, another secret, and never nobody.
    #[test]
    fn damaged_papers_say_the_same_or_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let admission = papers();
        admission.write(folder.path()).expect("written");
        let path = folder.path().join(FILE);
        let whole = fs::read(&path).expect("there");
        let mut refused = 0;
        let mut check = |bytes: &[u8], what: String| {
            fs::write(&path, bytes).expect("written");
            match Admission::read(folder.path()) {
                Ok(found) => assert_eq!(found.as_ref(), Some(&admission), "{what}"),
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().contains(FILE), "{what}: {error}");
                }
            }
        };
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            check(&bytes, format!("byte {at}"));
            check(&whole[..at], format!("cut to {at} bytes"));
        }
        assert!(refused > whole.len() * 3 / 2, "{refused} of {} were refused", whole.len() * 2);
    }

    #[test]
    fn papers_that_were_tampered_with_say_what_is_wrong() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(FILE), "cluster = \"x\"\nsecert = 1\n").expect("written");
        let error = Admission::read(folder.path()).expect_err("a typo");
        assert!(error.to_string().contains("secert"), "{error}");
    }
}

//! What a member is told when it is started: a TOML file, over it `QUORATE_*`, over that the command line.
//! In: text. Out: a checked `Config`, or an error that names the key at fault and suggests the right one.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use cluster::{Name, Profile};
use serde::Deserialize;

use crate::api::limits::Limits;
use crate::runtime::fencing::Method;
use crate::store::Backend;

pub const API_PORT: u16 = 7440;
pub const PEER_PORT: u16 = 7441;

/// Checked; what is not given has its default.
#[derive(Clone, Debug)]
pub struct Config {
    /// Made if it is missing.
    pub data_dir: PathBuf,
    /// Name of this member where it begins a cluster of its own.
    pub name: Name,
    /// Public API: gRPC and REST.
    pub listen: SocketAddr,
    /// Members and agents.
    pub peer_listen: SocketAddr,
    /// How others reach the two, as `host:port`; what is bound if not given.
    pub advertise_api: Option<String>,
    pub advertise_peer: Option<String>,
    pub store: Backend,
    pub limits: Limits,
    /// In the order they are tried.
    pub fence: Vec<Method>,
    /// Entries from one snapshot to the next.
    pub snapshot_every: u64,
    /// An empty member begins a cluster of this name at once, instead of waiting for `Init`.
    pub bootstrap: Option<Bootstrap>,
    /// An empty member takes the admission in this file (JSON, as `AddMember` answered), instead of waiting for `Enrol`.
    pub join: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    pub cluster_name: String,
    pub profile: Profile,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}")]
    Read { path: String, source: std::io::Error },
    #[error("{path}: {problem}")]
    Syntax { path: String, problem: String },
    #[error("{path}: there is no key `{key}`{}", suggestion.as_ref().map_or_else(String::new, |known| format!("; did you mean `{known}`?")))]
    UnknownKey { path: String, key: String, suggestion: Option<String> },
    #[error("{key}: {problem}")]
    Value { key: &'static str, problem: String },
    #[error(
        "{key}: {address} is not a loopback address, and nothing on these ports is encrypted yet; bind to 127.0.0.1, or \
         give --insecure if the network is yours alone"
    )]
    NotLoopback { key: &'static str, address: SocketAddr },
}

/// One layer: the file, or the command line with the environment. Every key may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    pub data_dir: Option<PathBuf>,
    pub name: Option<String>,
    pub listen: Option<String>,
    pub peer_listen: Option<String>,
    pub advertise_api: Option<String>,
    pub advertise_peer: Option<String>,
    pub store: Option<Backend>,
    pub log: Option<String>,
    pub log_format: Option<LogFormat>,
    pub insecure: Option<bool>,
    pub snapshot_every: Option<u64>,
    pub bootstrap: Option<String>,
    pub profile: Option<String>,
    pub join: Option<PathBuf>,
    pub limits: Option<Limits>,
    #[serde(default)]
    pub fence: Vec<Method>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl Layer {
    /// Errs with the key at fault.
    pub fn read(path: &Path) -> Result<Layer, ConfigError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: shown.clone(), source })?;
        Layer::parse(&text, &shown)
    }

    fn parse(text: &str, path: &str) -> Result<Layer, ConfigError> {
        toml::from_str(text).map_err(|error| match unknown_key(error.message()) {
            Some((key, known)) => {
                let suggestion = nearest(&key, &known);
                ConfigError::UnknownKey { path: path.to_owned(), key, suggestion }
            }
            None => ConfigError::Syntax { path: path.to_owned(), problem: error.to_string().trim_end().to_owned() },
        })
    }

    /// `self` where it says something, else `beneath`.
    pub fn over(self, beneath: Layer) -> Layer {
        Layer {
            data_dir: self.data_dir.or(beneath.data_dir),
            name: self.name.or(beneath.name),
            listen: self.listen.or(beneath.listen),
            peer_listen: self.peer_listen.or(beneath.peer_listen),
            advertise_api: self.advertise_api.or(beneath.advertise_api),
            advertise_peer: self.advertise_peer.or(beneath.advertise_peer),
            store: self.store.or(beneath.store),
            log: self.log.or(beneath.log),
            log_format: self.log_format.or(beneath.log_format),
            insecure: self.insecure.or(beneath.insecure),
            snapshot_every: self.snapshot_every.or(beneath.snapshot_every),
            bootstrap: self.bootstrap.or(beneath.bootstrap),
            profile: self.profile.or(beneath.profile),
            join: self.join.or(beneath.join),
            limits: self.limits.or(beneath.limits),
            fence: if self.fence.is_empty() { beneath.fence } else { self.fence },
        }
    }

    pub fn checked(self) -> Result<Config, ConfigError> {
        let insecure = self.insecure.unwrap_or(false);
        let listen = |key: &'static str, given: Option<String>, port: u16| {
            let address = match given {
                None => SocketAddr::from(([127, 0, 0, 1], port)),
                Some(given) => address(key, &given)?,
            };
            if !insecure && !address.ip().is_loopback() {
                return Err(ConfigError::NotLoopback { key, address });
            }
            Ok(address)
        };
        let profile = match self.profile.as_deref() {
            None => Profile::Default,
            Some(given) => Profile::ALL.into_iter().find(|profile| profile.name() == given).ok_or_else(|| {
                ConfigError::Value { key: "profile", problem: format!("{given:?} is none of fast, default, relaxed") }
            })?,
        };
        let name = self.name.unwrap_or_else(|| "member-1".to_owned());
        let name = Name::new(&name).map_err(|error| ConfigError::Value { key: "name", problem: error.to_string() })?;
        let snapshot_every = self.snapshot_every.unwrap_or(replica::SNAPSHOT_EVERY);
        if snapshot_every == 0 {
            return Err(ConfigError::Value { key: "snapshot_every", problem: "must be at least 1".into() });
        }
        Ok(Config {
            data_dir: self.data_dir.ok_or_else(|| ConfigError::Value {
                key: "data_dir",
                problem: "is required: give --data-dir, QUORATE_DATA_DIR or `data_dir` in the configuration file"
                    .into(),
            })?,
            name,
            listen: listen("listen", self.listen, API_PORT)?,
            peer_listen: listen("peer_listen", self.peer_listen, PEER_PORT)?,
            advertise_api: self.advertise_api,
            advertise_peer: self.advertise_peer,
            store: self.store.unwrap_or_default(),
            limits: self.limits.unwrap_or_default(),
            fence: self.fence,
            snapshot_every,
            bootstrap: self.bootstrap.map(|cluster_name| Bootstrap { cluster_name, profile }),
            join: self.join,
        })
    }
}

fn address(key: &'static str, given: &str) -> Result<SocketAddr, ConfigError> {
    let wrong = |problem: String| ConfigError::Value { key, problem };
    let mut found = given.to_socket_addrs().map_err(|error| wrong(format!("{given:?} is no host:port ({error})")))?;
    found.next().ok_or_else(|| wrong(format!("{given:?} stands for no address")))
}

/// Key and known keys of serde's "unknown field" error.
fn unknown_key(message: &str) -> Option<(String, Vec<String>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (key, rest) = rest.split_once('`')?;
    let known = rest.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    Some((key.to_owned(), known))
}

/// The known key that takes the fewest edits, if few are enough; words in another order cost nothing.
fn nearest(key: &str, known: &[String]) -> Option<String> {
    let cost = |known: &String| distance(key, known).min(distance(&in_order(key), &in_order(known)));
    let by_cost = known.iter().map(|known| (cost(known), known));
    by_cost.min().filter(|(edits, known)| *edits <= known.len().max(3) / 2).map(|(_, known)| known.clone())
}

/// The words of a key by the alphabet, each told apart by any sign: `listen-peer` and `peer_listen` are the same.
fn in_order(key: &str) -> String {
    let key = key.to_lowercase();
    let mut words: Vec<&str> = key.split(|letter: char| !letter.is_alphanumeric()).collect();
    words.sort_unstable();
    words.join("_")
}

/// Insertions, removals and replacements from one to the other. Source: Levenshtein, one row at a time.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (place, known) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *known);
            diagonal = row[place + 1];
            row[place + 1] = replaced.min(row[place] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Layer, String> {
        Layer::parse(text, "quorate.toml").map_err(|error| error.to_string())
    }

    #[test]
    fn a_typo_is_named_with_the_right_key() {
        assert_eq!(
            parse("data_dir = \"/d\"\nadvertize_api = \"a:1\"\n"),
            Err("quorate.toml: there is no key `advertize_api`; did you mean `advertise_api`?".into())
        );
        assert_eq!(
            parse("[limits]\nstreems = 3\n"),
            Err("quorate.toml: there is no key `streems`; did you mean `streams`?".into())
        );
        for (typo, meant) in
            [("listen_peer", "peer_listen"), ("Data-Dir", "data_dir"), ("api_advertise", "advertise_api")]
        {
            let said = parse(&format!("{typo} = 1\n")).expect_err("a typo");
            assert!(said.ends_with(&format!("did you mean `{meant}`?")), "{said}");
        }
        assert_eq!(parse("zzzzzzzzzz = 1\n"), Err("quorate.toml: there is no key `zzzzzzzzzz`".into()));
        assert!(parse("data_dir = 3\n").expect_err("a number is no path").contains("data_dir = 3"));
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let file = parse("data_dir = \"/d\"\nname = \"one\"\n[[fence]]\nname = \"ipmi\"\ncommand = [\"ipmi-off\"]\n");
        let line = Layer { name: Some("two".into()), ..Layer::default() };
        let config = line.over(file.expect("parses")).checked().expect("is right");
        assert_eq!((config.name.as_str(), config.data_dir.to_str()), ("two", Some("/d")));
        assert_eq!((config.listen.port(), config.peer_listen.port(), config.fence.len()), (API_PORT, PEER_PORT, 1));
    }

    #[test]
    fn other_addresses_than_loopback_want_a_word() {
        let open = Layer { data_dir: Some("/d".into()), listen: Some("0.0.0.0:7440".into()), ..Layer::default() };
        let error = open.clone().checked().expect_err("not loopback").to_string();
        assert!(error.contains("0.0.0.0:7440") && error.contains("--insecure"), "{error}");
        assert!(Layer { insecure: Some(true), ..open }.checked().is_ok());
        for bad in ["localhost", "127.0.0.1:99999", ""] {
            let layer = Layer { data_dir: Some("/d".into()), peer_listen: Some(bad.into()), ..Layer::default() };
            assert!(layer.checked().is_err(), "{bad:?} was taken");
        }
    }
}

//! What the agent is told: flags over environment over file over defaults.
//! In: `quorate-agent run` flags, `QUORATE_AGENT_*`, a TOML file with the same words. Out: a `Config` that is whole.
//! A key nobody knows is an error that suggests the nearest one: a typing error never becomes a default in silence.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use cluster::{BootId, Resources};
use serde::Deserialize;

use crate::{clock, identity};

const STATE_DIR: &str = "/var/lib/quorate/agent";
const RUN_DIR: &str = "/run/quorate/agent";

/// Everything that may be said, each by flag, environment or file; what is not said has a default.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Options {
    /// Journal, identity and records; must survive a reboot [default: /var/lib/quorate/agent]
    #[arg(long, env = "QUORATE_AGENT_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Sockets, locks and logs [default: /run/quorate/agent, or `run` below a --state-dir that was given]
    #[arg(long, env = "QUORATE_AGENT_RUN_DIR", value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// What `quoratectl node join` wrote [default: identity.json in the state folder]
    #[arg(long, env = "QUORATE_AGENT_IDENTITY", value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Members to ask first, host:port, besides those of the identity; may be repeated
    #[arg(long = "member", env = "QUORATE_AGENT_MEMBERS", value_name = "ADDRESS", value_delimiter = ',')]
    #[serde(default)]
    pub members: Vec<String>,
    /// What runs containers: `auto` takes the best that proves itself
    #[arg(long, env = "QUORATE_AGENT_RUNTIME", value_enum)]
    pub runtime: Option<RuntimeChoice>,
    /// What SIGTERM and SIGINT mean for the containers [default: keep]
    #[arg(long, env = "QUORATE_AGENT_ON_SHUTDOWN", value_enum)]
    pub on_shutdown: Option<OnShutdown>,
    /// How long a leave may take before the agent ends without it [default: 90]
    #[arg(long, env = "QUORATE_AGENT_LEAVE_SECONDS", value_name = "SECONDS")]
    pub leave_seconds: Option<u64>,
    /// Driver calls at a time [default: 4 per core]
    #[arg(long, env = "QUORATE_AGENT_WORKERS", value_name = "N")]
    pub workers: Option<usize>,
    /// CPU to offer, in thousandths of a core [default: all cores]
    #[arg(long, env = "QUORATE_AGENT_CPU_MILLIS", value_name = "N")]
    pub cpu_millis: Option<u64>,
    /// Memory to offer [default: all of the machine's]
    #[arg(long, env = "QUORATE_AGENT_MEMORY_BYTES", value_name = "N")]
    pub memory_bytes: Option<u64>,
    /// Who starts the guard [default: agent]
    #[arg(long, env = "QUORATE_AGENT_GUARD", value_enum)]
    pub guard: Option<GuardStart>,
    /// The guard's binary [default: quorate-guard beside this one]
    #[arg(long, env = "QUORATE_AGENT_GUARD_PROGRAM", value_name = "FILE")]
    pub guard_program: Option<PathBuf>,
    /// Page shared with the guard [default: in memory, found from the run folder]
    #[arg(long, env = "QUORATE_AGENT_SLOT", value_name = "FILE")]
    pub slot: Option<PathBuf>,
    /// Folder in the cgroup2 hierarchy for the trees of this node; `none` does without [default: a place of its own]
    #[arg(long, env = "QUORATE_AGENT_CGROUP_ROOT", value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// Do without pid namespaces; the node is fencing class F0 then
    #[arg(long, env = "QUORATE_AGENT_NO_NAMESPACES", num_args = 0..=1, default_missing_value = "true")]
    pub no_namespaces: Option<bool>,
    /// Let the guard reboot the machine when an end hangs
    #[arg(long, env = "QUORATE_AGENT_ALLOW_REBOOT", num_args = 0..=1, default_missing_value = "true")]
    pub allow_reboot: Option<bool>,
    /// Hardware watchdog for the guard to pet
    #[arg(long, env = "QUORATE_AGENT_WATCHDOG", value_name = "DEVICE")]
    pub watchdog: Option<PathBuf>,
    /// A UUID to stand for the kernel's boot id, where a machine is only played (dev, lab)
    #[arg(long, env = "QUORATE_AGENT_BOOT_ID", value_name = "UUID")]
    pub boot_id: Option<String>,
    /// What to log, such as `info` or `nodeagent=debug` [default: info]
    #[arg(long, env = "QUORATE_AGENT_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// How to log [default: text]
    #[arg(long, env = "QUORATE_AGENT_LOG_FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuntimeChoice {
    /// crun, runc, process: the first that proves itself.
    #[default]
    Auto,
    Crun,
    Runc,
    /// Plain processes in namespaces of their own; needs no root.
    Process,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnShutdown {
    /// Containers go on; the next agent adopts them.
    #[default]
    Keep,
    /// Stop everything, latch, hand over without a fence.
    Leave,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuardStart {
    /// The agent starts it when none is there, and again when it died.
    #[default]
    Agent,
    /// Somebody else does.
    External,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Whole and checked.
#[derive(Clone, Debug)]
pub struct Config {
    pub state_dir: PathBuf,
    pub run_dir: PathBuf,
    pub identity: PathBuf,
    pub members: Vec<String>,
    pub runtime: RuntimeChoice,
    pub on_shutdown: OnShutdown,
    pub leave_within: std::time::Duration,
    pub workers: usize,
    pub capacity: Resources,
    pub guard: GuardConfig,
    pub boot: BootId,
    /// `boot` is a stand-in.
    pub boot_is_played: bool,
    pub log: String,
    pub log_format: LogFormat,
}

/// What concerns the guard.
#[derive(Clone, Debug)]
pub struct GuardConfig {
    pub start: GuardStart,
    pub program: PathBuf,
    /// `None`: found from the run folder.
    pub slot: Option<PathBuf>,
    pub cgroup_root: Option<PathBuf>,
    pub no_namespaces: bool,
    pub allow_reboot: bool,
    pub watchdog: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("read configuration {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("configuration {path}: {reason}")]
    File { path: PathBuf, reason: String },
    #[error("{key}: {reason}")]
    Value { key: &'static str, reason: String },
    #[error("{what} of this machine")]
    Machine { what: &'static str, source: io::Error },
}

impl Options {
    /// What a TOML file says. Errs with the unknown key and the nearest known one, or with what TOML says.
    pub fn read(path: &Path) -> Result<Options, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Io { path: path.to_owned(), source })?;
        Options::parse(&text).map_err(|reason| ConfigError::File { path: path.to_owned(), reason })
    }

    fn parse(text: &str) -> Result<Options, String> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
        for key in table.keys() {
            if !KEYS.contains(&key.as_str()) {
                return Err(format!("there is no key `{key}`{}", Suggestion(nearest(key))));
            }
        }
        table.try_into().map_err(|error: toml::de::Error| error.to_string())
    }

    /// What these say, and where they say nothing, what `beneath` says.
    fn over(self, beneath: Options) -> Options {
        Options {
            state_dir: self.state_dir.or(beneath.state_dir),
            run_dir: self.run_dir.or(beneath.run_dir),
            identity: self.identity.or(beneath.identity),
            members: if self.members.is_empty() { beneath.members } else { self.members },
            runtime: self.runtime.or(beneath.runtime),
            on_shutdown: self.on_shutdown.or(beneath.on_shutdown),
            leave_seconds: self.leave_seconds.or(beneath.leave_seconds),
            workers: self.workers.or(beneath.workers),
            cpu_millis: self.cpu_millis.or(beneath.cpu_millis),
            memory_bytes: self.memory_bytes.or(beneath.memory_bytes),
            guard: self.guard.or(beneath.guard),
            guard_program: self.guard_program.or(beneath.guard_program),
            slot: self.slot.or(beneath.slot),
            cgroup_root: self.cgroup_root.or(beneath.cgroup_root),
            no_namespaces: self.no_namespaces.or(beneath.no_namespaces),
            allow_reboot: self.allow_reboot.or(beneath.allow_reboot),
            watchdog: self.watchdog.or(beneath.watchdog),
            boot_id: self.boot_id.or(beneath.boot_id),
            log: self.log.or(beneath.log),
            log_format: self.log_format.or(beneath.log_format),
        }
    }

    /// Checks everything and fills in the defaults. `file` is read beneath the flags and the environment.
    pub fn resolve(self, file: Option<&Path>) -> Result<Config, ConfigError> {
        let said = match file {
            Some(path) => self.over(Options::read(path)?),
            None => self,
        };
        let run_dir = match (&said.run_dir, &said.state_dir) {
            (Some(run_dir), _) => run_dir.clone(),
            (None, Some(state_dir)) => state_dir.join("run"),
            (None, None) => PathBuf::from(RUN_DIR),
        };
        let state_dir = absolute("state-dir", said.state_dir.unwrap_or_else(|| STATE_DIR.into()))?;
        let run_dir = absolute("run-dir", run_dir)?;
        for member in &said.members {
            identity::check_address(member).map_err(|reason| ConfigError::Value { key: "member", reason })?;
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = said.workers.unwrap_or(4 * cores);
        if !(1..=1_024).contains(&workers) {
            let reason = format!("{workers} is not a number from 1 to 1024");
            return Err(ConfigError::Value { key: "workers", reason });
        }
        let capacity = capacity(said.cpu_millis, said.memory_bytes, cores)?;
        let boot = match &said.boot_id {
            Some(text) => clock::parse_boot_id(text)
                .ok_or_else(|| ConfigError::Value { key: "boot-id", reason: format!("{text:?} is no UUID") })?,
            None => clock::boot_id().map_err(|source| ConfigError::Machine { what: "boot id", source })?,
        };
        Ok(Config {
            identity: said.identity.unwrap_or_else(|| state_dir.join("identity.json")),
            members: said.members,
            runtime: said.runtime.unwrap_or_default(),
            on_shutdown: said.on_shutdown.unwrap_or_default(),
            leave_within: std::time::Duration::from_secs(said.leave_seconds.unwrap_or(90)),
            workers,
            capacity,
            guard: GuardConfig {
                start: said.guard.unwrap_or_default(),
                program: match said.guard_program {
                    Some(program) => absolute("guard-program", program)?,
                    None => beside_this_program("quorate-guard")?,
                },
                slot: said.slot.map(|slot| absolute("slot", slot)).transpose()?,
                cgroup_root: said.cgroup_root,
                no_namespaces: said.no_namespaces.unwrap_or(false),
                allow_reboot: said.allow_reboot.unwrap_or(false),
                watchdog: said.watchdog,
            },
            boot,
            boot_is_played: said.boot_id.is_some(),
            log: said.log.unwrap_or_else(|| "info".to_owned()),
            log_format: said.log_format.unwrap_or_default(),
            state_dir,
            run_dir,
        })
    }
}

/// The run folder of these options, for commands that only talk to a running agent.
pub fn run_dir(options: &Options) -> PathBuf {
    match (&options.run_dir, &options.state_dir) {
        (Some(run_dir), _) => run_dir.clone(),
        (None, Some(state_dir)) => state_dir.join("run"),
        (None, None) => PathBuf::from(RUN_DIR),
    }
}

/// Where the identity of these options is kept, for commands that change it while no agent reads it.
pub fn identity_path(options: &Options) -> PathBuf {
    let state_dir = || options.state_dir.clone().unwrap_or_else(|| PathBuf::from(STATE_DIR));
    options.identity.clone().unwrap_or_else(|| state_dir().join("identity.json"))
}

fn absolute(key: &'static str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    std::path::absolute(&path).map_err(|error| ConfigError::Value { key, reason: format!("{path:?}: {error}") })
}

fn beside_this_program(name: &str) -> Result<PathBuf, ConfigError> {
    let own = std::env::current_exe().map_err(|source| ConfigError::Machine { what: "own program", source })?;
    Ok(own.with_file_name(name))
}

fn capacity(cpu_millis: Option<u64>, memory_bytes: Option<u64>, cores: usize) -> Result<Resources, ConfigError> {
    let memory_bytes = match memory_bytes {
        Some(bytes) => bytes,
        None => machine_memory().map_err(|source| ConfigError::Machine { what: "memory", source })?,
    };
    let capacity = Resources { cpu_millis: cpu_millis.unwrap_or(cores as u64 * 1_000), memory_bytes };
    if !capacity.within(Resources::LIMIT) {
        let reason = format!("{capacity} is more than any machine has ({})", Resources::LIMIT);
        return Err(ConfigError::Value { key: "cpu-millis or memory-bytes", reason });
    }
    Ok(capacity)
}

fn machine_memory() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kib =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.map(|kib: u64| kib << 10).ok_or_else(|| io::Error::other("/proc/meminfo has no MemTotal"))
}

/// In the order of `Options`.
const KEYS: [&str; 20] = [
    "state-dir",
    "run-dir",
    "identity",
    "members",
    "runtime",
    "on-shutdown",
    "leave-seconds",
    "workers",
    "cpu-millis",
    "memory-bytes",
    "guard",
    "guard-program",
    "slot",
    "cgroup-root",
    "no-namespaces",
    "allow-reboot",
    "watchdog",
    "boot-id",
    "log",
    "log-format",
];

struct Suggestion(Option<&'static str>);

impl fmt::Display for Suggestion {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(key) => write!(out, "; did you mean `{key}`?"),
            None => write!(out, "; known are {}", KEYS.join(", ")),
        }
    }
}

/// The known key nearest to `word`, if it is near at all.
fn nearest(word: &str) -> Option<&'static str> {
    let word = word.to_ascii_lowercase().replace('_', "-");
    let near = KEYS.iter().map(|key| (distance(&word, key), *key)).min()?;
    (near.0 <= 1 + word.chars().count() / 4).then_some(near.1)
}

/// Insertions, removals and changes of one character between two words (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (above, a) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (left, b) in other.chars().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[left + 1];
            row[left + 1] = changed.min(diagonal + 1).min(row[left] + 1);
        }
    }
    row[other.chars().count()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_error_names_the_right_key() {
        for (text, says) in [
            ("stat-dir = '/x'", "no key `stat-dir`; did you mean `state-dir`?"),
            ("memory_bytes = 1", "did you mean `memory-bytes`?"),
            ("runtme = 'auto'", "did you mean `runtime`?"),
            ("zebra = 1", "known are state-dir, run-dir"),
            ("runtime = 'docker'", "docker"),
            ("workers = 'many'", "workers"),
        ] {
            let error = Options::parse(text).expect_err("refused");
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn every_key_of_the_table_is_an_option() {
        for key in KEYS {
            let error = Options::parse(&format!("{key} = {{}}")).err();
            assert!(error.as_ref().is_none_or(|error| !error.contains("unknown field")), "{key}: {error:?}");
        }
        assert_eq!(nearest("state-dir"), Some("state-dir"));
    }

    #[test]
    fn flags_win_over_the_file_and_everything_lies_below_one_state_folder() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("agent.toml");
        fs::write(&file, "workers = 3\nruntime = 'process'\nstate-dir = '/from/file'\nmembers = ['h:1']\n")
            .expect("write");
        let flags = Options { state_dir: Some("/from/flag".into()), workers: Some(5), ..Options::default() };
        let config = flags.resolve(Some(&file)).expect("whole");
        assert_eq!((config.workers, config.runtime), (5, RuntimeChoice::Process));
        assert_eq!(config.members, ["h:1"]);
        assert_eq!(config.state_dir, Path::new("/from/flag"));
        assert_eq!(config.run_dir, Path::new("/from/flag/run"));
        assert_eq!(config.identity, Path::new("/from/flag/identity.json"));
        assert!(config.capacity.memory_bytes > 0 && config.capacity.cpu_millis >= 1_000);
    }

    #[test]
    fn absurd_values_are_refused() {
        let refused = |options: Options| options.resolve(None).expect_err("refused").to_string();
        assert!(refused(Options { workers: Some(0), ..Options::default() }).contains("workers"));
        assert!(refused(Options { cpu_millis: Some(u64::MAX), ..Options::default() }).contains("cpu-millis"));
        assert!(refused(Options { boot_id: Some("x".into()), ..Options::default() }).contains("boot-id"));
        assert!(refused(Options { members: vec!["nowhere".into()], ..Options::default() }).contains("host:port"));
        assert!(refused(Options { members: vec!["-x y:1".into()], ..Options::default() }).contains("host"));
    }
}

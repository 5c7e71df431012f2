//! The lab: a cluster whose members and nodes are separate hosts (network, pid and mount namespaces) of one machine, with
//! real OCI containers, driven by `quoratectl` alone. In: a story. Out: what the cluster says and what the containers
//! wrote. Each story has a world of its own (see `world`) that ends with it, however it ends.
//! Absent: what one kernel cannot show, such as torn writes, two clocks or two page caches.

pub mod history;
pub mod world;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::processes::{program, until, until_so};
use history::{History, Life};

pub const NODES: u8 = 5;
/// Power loss to decision in the default profile, as safety.md's table has it.
pub const DECISION: Duration = Duration::from_millis(3_700);
/// Lease and time to the kill of that profile: no container of a silent node lives longer.
pub const LEASE_AND_KILL: Duration = Duration::from_millis(3_300);
/// W of that profile.
pub const WAIT: Duration = Duration::from_millis(3_540);
/// For starting everything that has to be started, and for a machine of two cores that does other things meanwhile.
pub const BUSY: Duration = Duration::from_millis(5_000);

/// A cluster that is up: three member hosts, and node hosts.
pub struct Lab {
    pub dir: PathBuf,
    /// Keeps the network namespace of the bridges.
    pub switch: i64,
    runtime: &'static str,
    nodes: u8,
}

/// A container, as the cluster sees it.
#[derive(Clone, Debug)]
pub struct Container {
    pub name: String,
    /// Digits alone, as private areas are called.
    pub id: String,
    /// Empty where it has none.
    pub node: String,
    pub epoch: u64,
    pub running: bool,
}

/// A node, as the cluster sees it.
#[derive(Clone, Debug)]
pub struct Node {
    pub health: String,
    pub incarnation: u64,
    pub class: String,
}

/// A process of a container, told from one that has its number later.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pub pid: i32,
    pub started: u64,
}

/// Boot-time clock, which the containers' lines carry.
pub fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

impl Lab {
    /// A cluster in the folder `dir`, which must be empty.
    pub fn up(dir: &Path, runtime: &'static str, nodes: u8, profile: &str) -> Lab {
        let mut lab = Lab { dir: dir.to_owned(), switch: 0, runtime, nodes };
        lab.dev("up", &["--net", "--nodes", &nodes.to_string(), "--runtime", runtime, "--profile", profile]);
        let text = fs::read(dir.join("dev.json")).expect("a playground");
        let known: Value = serde_json::from_slice(&text).expect("JSON");
        lab.switch = known["net"]["switch"].as_i64().expect("a network of its own");
        for node in lab.nodes() {
            assert_eq!(node.class, "FENCING_CLASS_F1", "the lab is about what F1 promises");
        }
        lab
    }

    /// `quoratectl dev VERB …` on this playground.
    #[track_caller]
    pub fn dev(&self, verb: &str, words: &[&str]) {
        self.dev_with(verb, words, &[]);
    }

    /// The same, with more in its environment, which what it starts inherits.
    #[track_caller]
    pub fn dev_with(&self, verb: &str, words: &[&str], environment: &[(&str, &str)]) {
        let mut command = Command::new(program("quoratectl"));
        command.args(["dev", verb, "--dir"]).arg(&self.dir).args(words).envs(environment.iter().copied());
        let out = command.stdin(Stdio::null()).output().expect("quoratectl runs");
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "dev {verb} {words:?}: {said}");
    }

    /// `quoratectl …` from inside the playground's network; what it answered.
    pub fn try_ctl(&self, words: &[&str]) -> Result<Value, String> {
        let servers = (1..=3).map(|member| format!("10.77.0.{member}:7440")).collect::<Vec<_>>().join(",");
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.switch)).arg(program("quoratectl"));
        command.args(["--server", &servers, "-o", "json"]).args(words).stdin(Stdio::null());
        let out = command.output().expect("nsenter runs");
        match out.status.success() {
            true => Ok(serde_json::from_slice(&out.stdout).unwrap_or(Value::Null)),
            false => Err(format!("quoratectl {words:?}: {}", String::from_utf8_lossy(&out.stderr))),
        }
    }

    #[track_caller]
    pub fn ctl(&self, words: &[&str]) -> Value {
        self.try_ctl(words).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Creates so many containers that like `node` best, and waits until all run and write; their names begin with `name`.
    #[track_caller]
    pub fn run_on(&self, node: &str, name: &str, count: usize) -> Vec<String> {
        self.run_from("demo", node, name, count)
    }

    /// The same of another template that holds the witness.
    #[track_caller]
    pub fn run_from(&self, template: &str, node: &str, name: &str, count: usize) -> Vec<String> {
        self.run_layered(template, &[], node, name, count)
    }

    /// The same with application templates laid over it.
    #[track_caller]
    pub fn run_layered(&self, template: &str, apps: &[&str], node: &str, name: &str, count: usize) -> Vec<String> {
        let names: Vec<String> = (1..=count).map(|at| format!("{name}-{at}")).collect();
        self.create_layered(template, apps, "shared", node, &names);
        until_so(&format!("{count} containers run on {node}"), || {
            let all = self.containers(&names);
            all.iter().all(|it| it.running && it.node == node && self.writes_since(it, 0))
        });
        names
    }

    /// Creates containers of these names that hold the witness and like `node` best.
    #[track_caller]
    pub fn create_on(&self, template: &str, storage: &str, node: &str, names: &[String]) {
        self.create_layered(template, &[], storage, node, names);
    }

    #[track_caller]
    fn create_layered(&self, template: &str, apps: &[&str], storage: &str, node: &str, names: &[String]) {
        let item = |name: &String| {
            json!({"desired": "DESIRED_STATE_RUNNING", "spec": {
                "name": name, "template": template, "applicationTemplates": apps, "storage": storage,
                "command": [program("quoratectl").canonicalize().expect("a program"), "dev", "witness"],
                "resources": {"cpuMillis": "100", "memoryBytes": (64u64 << 20).to_string()},
                "preferredOwners": [{"nodes": [node]}],
                "stopGraceMs": "2000",
            }})
        };
        let file = self.dir.join(format!("{}.json", names[0]));
        let batch = json!({"items": names.iter().map(item).collect::<Vec<_>>()});
        fs::write(&file, batch.to_string()).expect("a file");
        self.ctl(&["container", "batch-create", &file.display().to_string()]);
    }

    /// Those of these names, as the cluster has them now.
    #[track_caller]
    pub fn containers(&self, names: &[String]) -> Vec<Container> {
        let reply = until("the cluster lists its containers", || self.try_ctl(&["container", "list"]).ok());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let all = reply["containers"].as_array().cloned().unwrap_or_default();
        let all = all.iter().map(|it| Container {
            name: text(&it["spec"]["name"]),
            id: text(&it["id"]).trim_start_matches('c').to_owned(),
            node: text(&it["assignment"]["node"]),
            epoch: text(&it["assignment"]["epoch"]).parse().unwrap_or_default(),
            running: it["state"] == "CONTAINER_STATE_RUNNING",
        });
        let found: Vec<Container> = all.filter(|it| names.contains(&it.name)).collect();
        assert_eq!(found.len(), names.len(), "containers vanished");
        found
    }

    pub fn nodes(&self) -> Vec<Node> {
        (1..=self.nodes).map(|at| self.node(&format!("node-{at}"))).collect()
    }

    #[track_caller]
    pub fn node(&self, name: &str) -> Node {
        let reply = until("the cluster lists its nodes", || self.try_ctl(&["node", "list"]).ok());
        let nodes = reply["nodes"].as_array().cloned().unwrap_or_default();
        let node = nodes.iter().find(|it| it["name"] == name).unwrap_or_else(|| panic!("no {name} in {reply}"));
        let word = |key: &str| node[key].as_str().unwrap_or_default().to_owned();
        Node {
            health: word("health"),
            incarnation: word("incarnation").parse().unwrap_or_default(),
            class: word("fencingClass"),
        }
    }

    /// Name of the member that leads.
    pub fn leader(&self) -> String {
        until("a member leads", || {
            let status = self.try_ctl(&["cluster", "status"]).ok()?;
            let members = status["members"].as_array()?;
            let leader = members.iter().find(|it| it["id"] == status["leader"])?;
            leader["name"].as_str().map(str::to_owned)
        })
    }

    /// How often `node` ever registered.
    #[track_caller]
    pub fn registrations(&self, node: &str) -> usize {
        let reply = self.ctl(&["events", "--node", node, "--kind", "node-registered"]);
        reply["events"].as_array().unwrap_or_else(|| panic!("no events in {reply}")).len()
    }

    /// What was ever said about nodes being fenced.
    #[track_caller]
    pub fn fencings(&self) -> Vec<String> {
        let reply = self.ctl(&["events", "--kind", "fencing-begun,node-fenced"]);
        let events = reply["events"].as_array().cloned().unwrap_or_else(|| panic!("no events in {reply}"));
        events.iter().map(|event| event["text"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// What that container wrote about itself.
    pub fn history(&self, container: &Container) -> History {
        let file = self.dir.join("shared/containers").join(&container.id).join("witness.log");
        History::parse(&fs::read_to_string(file).unwrap_or_default())
    }

    /// Its newest line is younger than `since_ns`, and of the epoch and node the cluster says.
    pub fn writes_since(&self, container: &Container, since_ns: u64) -> bool {
        let history = self.history(container);
        history.latest().is_some_and(|life| {
            life.last_ns > since_ns && life.runner.epoch == container.epoch && life.runner.node == container.node
        })
    }

    /// Waits until all run on another node than `lost` and write there, after `since_ns`.
    #[track_caller]
    pub fn await_elsewhere(&self, names: &[String], lost: &str, since_ns: u64) -> Vec<Container> {
        let what = format!("{} containers of {lost} run elsewhere", names.len());
        until(&what, || {
            let all = self.containers(names);
            let back = |it: &Container| it.running && it.node != lost && self.writes_since(it, since_ns);
            all.iter().all(back).then_some(all)
        })
    }

    /// Waits until all still write at `at_ns`, wherever they are.
    #[track_caller]
    pub fn await_writing_at(&self, names: &[String], at_ns: u64) {
        until_so("containers go on writing", || {
            now_ns() > at_ns && self.containers(names).iter().all(|it| self.writes_since(it, at_ns))
        });
    }

    #[track_caller]
    pub fn await_health(&self, node: &str, health: &str) {
        let wanted = format!("NODE_HEALTH_{health}");
        until_so(&format!("{node} is {health}"), || self.node(node).health == wanted);
    }

    /// The promise: no container of these ever ran twice, and each runs now, once, where the cluster says.
    #[track_caller]
    pub fn assert_single_runner(&self, names: &[String]) {
        self.await_writing_at(names, now_ns());
        for container in self.containers(names) {
            let faults: Vec<String> = self.history(&container).faults.iter().map(ToString::to_string).collect();
            assert!(faults.is_empty(), "{}: {}", container.name, faults.join("; "));
        }
    }

    /// The life that ended and the one after it, of each.
    #[track_caller]
    pub fn last_two_lives(&self, containers: &[Container]) -> Vec<(Life, Life)> {
        let two = |container: &Container| match self.history(container).lives.as_slice() {
            [.., before, after] => (before.clone(), after.clone()),
            lives => panic!("{} has not two lives: {lives:?}", container.name),
        };
        containers.iter().map(two).collect()
    }

    /// The machine that hosts `name`, as the playground calls it.
    pub fn machine_of(&self, name: &str) -> String {
        let number = |prefix: &str| name.strip_prefix(prefix).and_then(|rest| rest.parse::<u32>().ok());
        let at = number("member-").or(number("node-").map(|at| at + 3)).expect("a member or a node");
        format!("machine-{at}")
    }

    /// Container processes that run on `node` now, whatever the cluster thinks.
    pub fn witnesses_on(&self, node: &str) -> Vec<Process> {
        let says = format!("QUORATE_NODE={node}\0");
        let is_one = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            line.ends_with(b"\0witness\0") && contains(&environment, says.as_bytes())
        };
        let known = |pid: i32| Some(Process { pid, started: started(pid)? });
        pids().into_iter().filter(is_one).filter_map(known).collect()
    }

    /// The guard of `node`, seen from here.
    #[track_caller]
    pub fn guard_of(&self, node: &str) -> i32 {
        // The guard, and the inits it started, which have its command line: the oldest is the guard itself.
        *self.services(node, "quorate-guard").first().unwrap_or_else(|| panic!("{node} has no guard"))
    }

    /// Processes of that program on the machine that hosts `name`, seen from here; oldest first.
    pub fn services(&self, name: &str, program: &str) -> Vec<i32> {
        let home = format!("{}/{}/", self.dir.display(), self.machine_of(name));
        let own = format!("/{program}");
        let is_one = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
            first.ends_with(own.as_bytes()) && contains(&line, home.as_bytes())
        };
        let mut found: Vec<i32> = pids().into_iter().filter(is_one).collect();
        found.sort_by_key(|pid| started(*pid));
        found
    }

    /// Errs nothing: a process that ended meanwhile has no need of a signal.
    pub fn signal(&self, pid: i32, signal: Signal) {
        let _ = kill_process(Pid::from_raw(pid).expect("a process"), signal);
    }

    /// Control groups of that incarnation of `node` that still exist, in any hierarchy.
    pub fn cgroups_of(&self, node: &str, incarnation: u64) -> Vec<PathBuf> {
        let homes = world::cgroups(&self.dir.join(self.machine_of(node)));
        homes.into_iter().map(|home| home.join(format!("i{incarnation}"))).filter(|tree| tree.exists()).collect()
    }

    /// Whether any process still sees something mounted at or below the agent's folder of `node`.
    pub fn mounts_of(&self, node: &str) -> Vec<String> {
        let home = format!(" {}/{}/", self.dir.display(), self.machine_of(node));
        let lines = |pid: i32| fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        let mut found: Vec<String> = pids()
            .into_iter()
            .flat_map(|pid| {
                let table = lines(pid);
                table.lines().filter(|line| line.contains(&home)).map(str::to_owned).collect::<Vec<_>>()
            })
            .collect();
        found.dedup();
        found
    }

    pub fn runtime(&self) -> &str {
        self.runtime
    }

    /// The ends of the logs, for a failure that has to be understood.
    fn last_words(&self) -> String {
        let mut text = String::new();
        for machine in 1..=3 + u32::from(self.nodes) {
            for log in ["member.log", "agent.log", "machine.log"] {
                let path = self.dir.join(format!("machine-{machine}")).join(log);
                let lines = fs::read_to_string(&path).unwrap_or_default();
                let tail: Vec<&str> = lines.lines().rev().take(6).collect();
                for line in tail.iter().rev() {
                    text += &format!("\n  machine-{machine} {log}: {line}");
                }
            }
        }
        text
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the last words of every machine:{}", self.last_words());
        }
        let mut command = Command::new(program("quoratectl"));
        command.args(["dev", "down", "--dir"]).arg(&self.dir).stdin(Stdio::null()).stdout(Stdio::null());
        // What is left after this the world's end takes; the test that started the world looks.
        let _ = command.status();
    }
}

/// Milliseconds: the median and the largest.
pub fn figures(mut spans_ns: Vec<u64>) -> String {
    spans_ns.sort_unstable();
    let at = |index: usize| spans_ns.get(index).copied().unwrap_or_default() / 1_000_000;
    format!("p50 {} ms, max {} ms of {}", at(spans_ns.len() / 2), at(spans_ns.len().saturating_sub(1)), spans_ns.len())
}

pub fn longest(spans_ns: &[u64]) -> Duration {
    Duration::from_nanos(spans_ns.iter().copied().max().unwrap_or_default())
}

pub fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

pub fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Clock ticks from boot to its start; `None` when it is gone, or dead and not yet buried.
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    (fields.first() != Some(&"Z")).then(|| fields.get(19)?.parse().ok())?
}

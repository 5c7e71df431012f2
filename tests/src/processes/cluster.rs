//! A control plane of real `quorated` processes, on loopback addresses of its own.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use super::http::{self, Answer};
use super::machine::{kill_all, processes};
use super::{Folder, Machine, counted, program, request_id, until, until_so};

/// What runs in a container: says who it is in its private area, then waits. `$0` tells it from everything else here.
const SCRIPT: &str = "echo $$ >> run.$QUORATE_EPOCH.$QUORATE_NODE; : > $0; exec tail -f $0";

/// A member as a process; it may come and go, its folder and its addresses stay.
pub struct Member {
    pub name: String,
    pub data_dir: PathBuf,
    pub api: String,
    pub peer: String,
    /// What it is started with every time.
    options: Vec<String>,
    child: Option<Child>,
}

impl Member {
    fn new(name: &str, folder: &Path, address: &str, options: &[&str]) -> Member {
        let (api, peer) = (format!("{address}:7440"), format!("{address}:7441"));
        let options = options.iter().map(|&word| word.to_owned()).collect();
        Member { name: name.to_owned(), data_dir: folder.join(name), api, peer, options, child: None }
    }

    /// The words after `quorated`.
    pub fn words(&self) -> Vec<String> {
        let data_dir = self.data_dir.display().to_string();
        let pairs =
            [("--data-dir", &data_dir), ("--name", &self.name), ("--listen", &self.api), ("--peer-listen", &self.peer)];
        let options = pairs.into_iter().flat_map(|(option, value)| [option.to_owned(), value.clone()]);
        std::iter::once("run".to_owned()).chain(options).chain(self.options.iter().cloned()).collect()
    }

    /// Starts it and waits until its port answers.
    #[track_caller]
    pub fn start(&mut self, more: &[&str]) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(self.data_dir.with_extension("log")).expect("a log");
        let mut command = Command::new(program("quorated"));
        command.args(self.words()).args(more).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a log")).stderr(log).process_group(0);
        die_with_test(&mut command);
        let mut child = command.spawn().expect("quorated starts");
        until_so(&format!("{} answers", self.name), || {
            let ended = child.try_wait().expect("a child");
            assert!(ended.is_none(), "{} ended ({ended:?}): {}", self.name, self.log());
            http::get(&self.api, "/healthz").is_ok()
        });
        self.child = Some(child);
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data_dir.with_extension("log")).unwrap_or_default()
    }

    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// No goodbye: SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("a child");
        child.wait().expect("a child");
    }

    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        rustix::process::kill_process(Pid::from_child(child), signal).expect("a child");
    }

    /// Its exit code after SIGTERM.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        let mut child = self.child.take().expect("it runs");
        until(&format!("{} ends", self.name), || child.try_wait().expect("a child")).code()
    }

    /// Its exit code if it has ended by itself; `None` while it runs.
    pub fn ended(&mut self) -> Option<Option<i32>> {
        let ended = self.child.as_mut().expect("it was started").try_wait().expect("a child")?;
        self.child = None;
        Some(ended.code())
    }

    /// What it says of itself; `None` if it does not answer.
    pub fn status(&self) -> Option<Value> {
        let answer = http::get(&self.api, "/v1/cluster").ok()?;
        (answer.status == 200).then(|| answer.json())
    }

    pub fn revision(&self) -> u64 {
        self.status().map_or(0, |status| number(&status["revision"]))
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        http::get(&self.api, path).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    #[track_caller]
    pub fn call(&self, verb: &str, path: &str, body: &Value) -> Answer {
        http::call(&self.api, verb, path, Some(body)).unwrap_or_else(|error| panic!("{verb} {path}: {error}"))
    }

    /// A mutation: `body` with a request id that nobody has used. Asked again, under the same id, while the cluster is between
    /// two leaders.
    #[track_caller]
    pub fn order(&self, verb: &str, path: &str, body: Value) -> Value {
        let mut body = body;
        body["requestId"] = request_id().into();
        let answer = until(&format!("{verb} {path} is answered"), || {
            let answer = http::call(&self.api, verb, path, Some(&body)).ok()?;
            (answer.status < 500).then_some(answer)
        });
        answer.good()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(15).collect();
            eprintln!("{}, its last words:\n{}", self.name, tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}

/// A 64-bit number of the API's JSON, where it stands as a string.
#[track_caller]
pub fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_u64()).unwrap_or_else(|| panic!("{value}"))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.machines.clear();
        // Where there are no namespaces containers outlive their guard.
        let marker = self.marker("").into_bytes();
        let contained = |words: &[&[u8]]| words.last().is_some_and(|word| word.starts_with(&marker));
        until_so("no container of this test lives", || kill_all(processes(contained)));
    }
}

/// The kernel ends the child when the thread that started it ends: a test that is killed leaves nothing behind.
pub(crate) fn die_with_test(command: &mut Command) {
    let set = || rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into);
    // Safety: one system call, which is async-signal-safe and touches no memory.
    unsafe { command.pre_exec(set) };
}

/// Members, and machines for nodes.
pub struct Cluster {
    // Machines go first: their guards shall not fire because members went.
    pub machines: Vec<Machine>,
    pub members: Vec<Member>,
    folder: Folder,
}

impl Cluster {
    /// `size` voters, the first of which has begun the cluster; no nodes.
    #[track_caller]
    pub fn start(name: &str, size: usize, profile: &str) -> Cluster {
        Cluster::start_with(name, size, profile, &[])
    }

    /// The same; every member is always started with `options`.
    #[track_caller]
    pub fn start_with(name: &str, size: usize, profile: &str, options: &[&str]) -> Cluster {
        let folder = Folder::new(name);
        // Loopback is 127.0.0.0/8: every cluster has a network of its own, so the ports need no luck.
        // Those of one process have eight addresses each in its network, and thirty stand beside one another.
        static CLUSTERS: AtomicUsize = AtomicUsize::new(0);
        let (pid, count) = (std::process::id(), CLUSTERS.fetch_add(1, Ordering::Relaxed));
        let network = format!("127.{}.{}", 16 + pid / 200 % 200, 1 + pid % 200);
        let address = |at: usize| format!("{network}.{}", 1 + (count % 30) * 8 + at % 8);
        let mut members: Vec<Member> =
            (1..=size).map(|at| Member::new(&format!("m-{at}"), folder.path(), &address(at), options)).collect();
        members[0].start(&["--bootstrap", name, "--profile", profile]);
        until_so("the first member leads", || {
            members[0].status().is_some_and(|status| status["standing"] == "MEMBER_STANDING_LEADER")
        });
        for at in 1..size {
            members[at].start(&[]);
            let newcomer = &members[at];
            let address = json!({ "api": newcomer.api, "peer": newcomer.peer });
            let body = json!({ "name": newcomer.name, "address": address });
            let admission = members[0].order("POST", "/v1/cluster/members", body)["admission"].clone();
            newcomer.order("POST", "/v1/cluster/members:enrol", json!({ "admission": admission }));
        }
        let cluster = Cluster { machines: Vec::new(), members, folder };
        until_so("every member votes and follows", || cluster.members.iter().all(|member| cluster.is_settled(member)));
        cluster
    }

    /// A member beside the cluster, empty, with ports of its own. It ends with the value.
    #[track_caller]
    pub fn spare(&self) -> Member {
        let host = self.members[0].api.split(':').next().expect("host and port");
        let number = counted();
        let mut member = Member::new(&format!("spare-{number}"), self.path(), host, &[]);
        let port = 7_450 + 2 * number % 1_000;
        (member.api, member.peer) = (format!("{host}:{port}"), format!("{host}:{}", port + 1));
        member.start(&[]);
        member
    }

    fn is_settled(&self, member: &Member) -> bool {
        let Some(status) = member.status() else { return false };
        let voters = status["members"].as_array().into_iter().flatten().filter(|it| it["role"] == "MEMBER_ROLE_VOTER");
        voters.count() == self.members.len() && status["joint"] == false && number(&status["leader"]) > 0
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The folder that stands for the shared storage.
    pub fn share(&self) -> PathBuf {
        self.path().join("share")
    }

    /// Place of the member that leads, among those that run.
    #[track_caller]
    pub fn leader(&self) -> usize {
        until("somebody leads", || {
            let leads = |member: &Member| {
                member.runs() && member.status().is_some_and(|status| status["standing"] == "MEMBER_STANDING_LEADER")
            };
            self.members.iter().position(leads)
        })
    }

    /// The storage `shared` and the template `plain`.
    pub fn furnish(&self) {
        std::fs::create_dir_all(self.share()).expect("a share");
        let storage = json!({ "storage": { "directory": { "path": self.share() } } });
        self.members[0].order("PUT", "/v1/storages/shared", storage);
        self.members[0].order("PUT", "/v1/templates/plain", json!({ "template": {} }));
    }

    /// Creates a container that runs on some node; `more` is merged into its spec. Gives its id, as `c7`.
    #[track_caller]
    pub fn create(&self, name: &str, more: Value) -> String {
        let mut spec = json!({
            "name": name,
            "template": "plain",
            "storage": "shared",
            "command": ["/bin/sh", "-c", SCRIPT, self.marker(name)],
            "resources": { "cpuMillis": 100, "memoryBytes": 1 << 20 },
            "stopGraceMs": 2_000,
        });
        let more = more.as_object().expect("an object").clone();
        spec.as_object_mut().expect("an object").extend(more);
        let member = self.members.iter().find(|member| member.runs()).expect("one runs");
        let reply = member.order("POST", "/v1/containers", json!({ "spec": spec }));
        reply["container"].as_str().expect("an id").to_owned()
    }

    fn marker(&self, container: &str) -> String {
        format!("{}.{container}", self.path().file_name().and_then(|name| name.to_str()).expect("a name"))
    }

    /// Processes that run in `container`, on whatever machine.
    pub fn living(&self, container: &str) -> Vec<i32> {
        let marker = self.marker(container);
        processes(|words| *words == [&b"tail"[..], b"-f", marker.as_bytes()])
    }

    /// Waits until the container is reported running and a process of it is there.
    #[track_caller]
    pub fn until_runs(&self, container: &str) -> Value {
        until(&format!("{container} runs"), || {
            let seen = self.container(container);
            (seen["state"] == "CONTAINER_STATE_RUNNING" && self.living(container).len() == 1).then_some(seen)
        })
    }

    /// Joins a node of that name and gives its machine, switched off.
    #[track_caller]
    pub fn join(&mut self, name: &str) -> &mut Machine {
        let reply = self.members[0].order("POST", "/v1/nodes", json!({ "name": name }));
        self.machines.push(Machine::new(name, self.folder.path(), &reply));
        self.machines.last_mut().expect("just put there")
    }

    /// Waits until the node says that it is up.
    #[track_caller]
    pub fn until_up(&self, node: &str) -> Value {
        until(&format!("{node} is up"), || {
            let node = self.node(node);
            (node["health"] == "NODE_HEALTH_UP" && node["runtimes"] != json!([])).then_some(node)
        })
    }

    #[track_caller]
    pub fn node(&self, name: &str) -> Value {
        self.read(&format!("/v1/nodes/{name}"))["node"].clone()
    }

    #[track_caller]
    pub fn container(&self, name: &str) -> Value {
        self.read(&format!("/v1/containers/{name}"))["container"].clone()
    }

    /// Asks a member that runs, again while there is no leader.
    #[track_caller]
    pub fn read(&self, path: &str) -> Value {
        let member = self.members.iter().find(|member| member.runs()).expect("one runs");
        until(&format!("GET {path} is answered"), || {
            let answer = http::get(&member.api, path).ok()?;
            (answer.status < 500).then_some(answer)
        })
        .good()
    }

    /// Kinds of the events since `revision`, oldest first.
    #[track_caller]
    pub fn events_since(&self, revision: u64) -> Vec<String> {
        let reply = self.read(&format!("/v1/events?fromRevision={revision}"));
        let events = reply["events"].as_array().cloned().unwrap_or_default();
        events.iter().map(|event| event["kind"].as_str().expect("a kind").to_owned()).collect()
    }
}

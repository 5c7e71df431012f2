//! One contract, held by every runtime: fake, process, crun, runc. The real ones run under a real guard, in real
//! namespaces; what this machine cannot run is printed with the runtime's own reason, never passed over.
//! The guard is this test program itself, started again with `QUORATE_TEST_GUARD` (see `guard_process`).

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use cluster::{ContainerId, Epoch, Incarnation, OnQuorumLoss};
use guard::{CgroupChoice, Config, NamespaceChoice, NamespaceState, Slot, boottime_ns};
use nodeagent::drivers::fake::FakeRuntime;
use nodeagent::drivers::probe::{Probed, probe};
use nodeagent::drivers::runtime::{DriverError, Exited, Runtime, StartSpec, Workload};
use nodeagent::drivers::starters::Starters;
use nodeagent::drivers::storage::{DirectoryStorage, Storage};

const PATIENCE: Duration = Duration::from_secs(30);
const NO_GRACE: Duration = Duration::ZERO;
const GUARD: &str = "QUORATE_TEST_GUARD";

/// Not a test of its own: what the other tests start as their guard.
#[test]
fn guard_process() {
    let Some(folder) = std::env::var_os(GUARD).map(PathBuf::from) else { return };
    let Err(error) = guard::run_guard(Config {
        slot: folder.join("slot"),
        run_dir: folder.join("run"),
        state_dir: folder.join("state"),
        kill_ms: 5_000,
        allow_reboot: false,
        watchdog: None,
        cgroup_root: CgroupChoice::Auto,
        namespaces: NamespaceChoice::Auto,
    });
    panic!("{error}");
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// How many live processes of this machine have `marker` among their arguments.
fn living(marker: &str) -> usize {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let arguments = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    arguments.filter(|text| text.split(|byte| *byte == 0).any(|argument| argument == marker.as_bytes())).count()
}

/// A node of its own: a guard, a share, an incarnation with a lease.
struct Node {
    folder: PathBuf,
    marker: String,
    guard: Child,
    slot: Slot,
    storage: DirectoryStorage,
}

impl Drop for Node {
    fn drop(&mut self) {
        let keep: Vec<i32> = self.slot.state().incarnations.iter().map(|state| state.init_pid[1]).collect();
        let _ = self.guard.kill();
        let _ = self.guard.wait();
        for pid in keep.into_iter().filter_map(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        until("nothing of the test lives", || living(&self.marker) == 0);
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            if let Some(hierarchy_root) = guard::cgroup::Hierarchy::find()
                && let Ok(root) = guard::cgroup::default_root(&hierarchy_root, &self.folder.join("run"))
                && let Some(name) = root.file_name()
            {
                guard::cgroup::remove_empty(&hierarchy.path().join(name));
            }
        }
        // What a failed test leaves is worth a look.
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

impl Node {
    fn new(name: &str) -> Node {
        let folder = std::env::temp_dir().join(format!("quorate-drivers-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(folder.join("share")).expect("folder");
        let guard = Command::new(std::env::current_exe().expect("own program"))
            .args(["--exact", "guard_process", "--nocapture", "--test-threads=1"])
            .env(GUARD, &folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("spawn");
        let mut slot = None;
        until("the guard ticks", || {
            slot = Slot::open(&folder.join("slot")).ok();
            slot.as_ref().is_some_and(|slot| slot.state().guard_pid == guard.id() as i32)
        });
        let node = Node {
            marker: format!("{name}-{}", std::process::id()),
            storage: DirectoryStorage::new(folder.join("share")),
            guard,
            slot: slot.expect("opened"),
            folder,
        };
        node.open(1);
        node
    }

    fn open(&self, incarnation: u64) {
        self.slot.open_incarnation(incarnation).expect("open");
        self.slot.set_deadline(incarnation, boottime_ns() + 3_600_000_000_000).expect("deadline");
        until("namespaces are ready", || {
            self.slot.incarnation(incarnation).expect("known").namespace == [NamespaceState::Ready; 2]
        });
    }

    fn probe(&self) -> Probed {
        probe(&Starters::new(self.folder.join("run")), "/usr/bin:/bin")
    }

    /// The runtime `name` as a new life of the agent finds it; `None`, with the reason printed, where it does not work.
    fn runtime(&self, name: &str) -> Option<Arc<dyn Runtime>> {
        let probed = self.probe();
        let verdict = probed.verdicts.iter().find(|verdict| verdict.runtime == name).expect("tried");
        if let Err(reason) = &verdict.outcome {
            eprintln!("NOT RUN with {name}: {reason}");
        }
        probed.runtimes.into_iter().find(|runtime| runtime.name() == name)
    }

    fn spec(&self, container: u64, epoch: u64, script: &str) -> StartSpec {
        let area = self.storage.prepare(ContainerId(container)).expect("private area");
        StartSpec {
            workload: workload(container, epoch),
            name: format!("test-{container}"),
            command: ["/bin/sh", "-c", script, self.marker.as_str()].map(str::to_owned).to_vec(),
            env: vec![
                ("QUORATE_EPOCH".into(), epoch.to_string()),
                ("QUORATE_PRIVATE_AREA".into(), area.display().to_string()),
                ("PATH".into(), "/usr/bin:/bin".into()),
            ],
            private_area: area,
            working_dir: None,
            layers: Vec::new(),
            cpu_millis: 500,
            memory_bytes: 64 << 20,
            hostname: format!("host-{container}"),
        }
    }

    /// Sockets, bundles and control groups of an incarnation.
    fn traces_of(&self, incarnation: u64) -> Vec<PathBuf> {
        let run = self.folder.join("run");
        let hierarchy = guard::cgroup::Hierarchy::find();
        let root = hierarchy.and_then(|found| guard::cgroup::default_root(&found, &run).ok());
        let name = root.as_ref().and_then(|root| root.file_name()).unwrap_or_default();
        let groups = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let groups = groups.map(|entry| entry.path().join(name).join(format!("i{incarnation}")));
        let sockets = ["stop", "keep"].map(|policy| run.join(format!("starter-{policy}-{incarnation}.sock")));
        let bundles = std::fs::read_dir(run.join("bundles")).into_iter().flatten().flatten().map(|entry| entry.path());
        groups.chain(sockets).filter(|path| path.exists()).chain(bundles).collect()
    }

    /// What container `container` has written to its private area.
    fn wrote(&self, container: u64, file: &str) -> String {
        let area = self.storage.prepare(ContainerId(container)).expect("private area");
        std::fs::read_to_string(area.join(file)).unwrap_or_default()
    }
}

fn workload(container: u64, epoch: u64) -> Workload {
    Workload {
        container: ContainerId(container),
        epoch: Epoch(epoch),
        incarnation: Incarnation(1),
        policy: OnQuorumLoss::Stop,
    }
}

fn found(runtime: &dyn Runtime) -> Vec<(Workload, bool)> {
    let mut found: Vec<_> =
        runtime.found().expect("found").into_iter().map(|found| (found.workload, found.alive)).collect();
    found.sort();
    found
}

fn next(exits: &Receiver<Exited>) -> Exited {
    exits.recv_timeout(PATIENCE).expect("an exit in time")
}

const RUNS: &str = "trap 'exit 0' TERM; echo up >> $QUORATE_PRIVATE_AREA/out; while :; do sleep 0.1; done";
const DEAF: &str = "trap '' TERM; echo deaf >> $QUORATE_PRIVATE_AREA/out; while :; do sleep 1; done";

/// What holds for every runtime. `again` is the runtime as an agent finds it after a restart; `spec` takes container,
/// epoch and script; `settled` waits until the container has said `word`.
fn contract(
    runtime: &dyn Runtime,
    again: &dyn Fn() -> Arc<dyn Runtime>,
    spec: &dyn Fn(u64, u64, &str) -> StartSpec,
    settled: &dyn Fn(u64, &str),
) {
    assert_eq!(found(runtime), []);
    let (sender, exits) = channel();
    runtime.watch(sender);

    // Start, and be found, by this life of the agent and by the next.
    runtime.start(&spec(1, 1, RUNS)).expect("start");
    runtime.start(&spec(2, 5, RUNS)).expect("start");
    settled(1, "up");
    let both = [(workload(1, 1), true), (workload(2, 5), true)];
    assert_eq!(found(runtime), both);
    assert_eq!(found(&*again()), both);

    // A container lives once.
    let twice = runtime.start(&spec(1, 2, RUNS));
    assert!(matches!(twice, Err(DriverError::StillLives { .. })), "{twice:?}");
    assert_eq!(found(runtime), both);

    // An exit is told with its code, and stays until it is cleared away, also for the next life.
    runtime.start(&spec(3, 1, "exit 7")).expect("start");
    assert_eq!(next(&exits), Exited { workload: workload(3, 1), code: 7 });
    let (sender, later) = channel();
    again().watch(sender);
    assert_eq!(next(&later), Exited { workload: workload(3, 1), code: 7 });
    assert!(found(runtime).contains(&(workload(3, 1), false)));
    runtime.stop(&workload(3, 1), NO_GRACE).expect("clear away");
    assert_eq!(found(runtime), both);

    // A graceful stop waits for the program; a deaf one is killed after its grace.
    runtime.stop(&workload(1, 1), PATIENCE).expect("stop");
    assert_eq!(found(runtime), both[1..]);
    assert_eq!(next(&exits).workload, workload(1, 1));
    runtime.start(&spec(4, 1, DEAF)).expect("start");
    settled(4, "deaf");
    runtime.stop(&workload(4, 1), Duration::from_millis(100)).expect("stop");
    assert_eq!(next(&exits), Exited { workload: workload(4, 1), code: 137 });

    // Stopping again, or what never was, is no error.
    runtime.stop(&workload(4, 1), PATIENCE).expect("stop");
    runtime.stop(&workload(77, 1), PATIENCE).expect("stop");

    // What cannot be started says why, leaves nothing, and does not stand in the way of the next epoch.
    let broken = StartSpec { command: vec!["broken".to_owned()], ..spec(5, 1, "") };
    match runtime.start(&broken) {
        Err(DriverError::Runtime { reason, .. }) => assert!(reason.contains("broken"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(found(runtime), both[1..]);
    runtime.start(&spec(5, 2, RUNS)).expect("start");
    // The same container again after an exit, without a stop in between.
    runtime.stop(&workload(5, 2), NO_GRACE).expect("stop");
    runtime.start(&spec(5, 3, "exit 0")).expect("start");
    until("it has ended", || found(runtime).contains(&(workload(5, 3), false)));
    runtime.start(&spec(5, 4, RUNS)).expect("start");
    assert_eq!(found(runtime), [(workload(2, 5), true), (workload(5, 4), true)]);
}

/// The contract under a guard, and what only a guard can show.
fn contract_under_guard(name: &str) {
    let mut node = Node::new(name);
    let Some(runtime) = node.runtime(name) else { return };
    let settled = |container: u64, word: &str| {
        until("the container wrote", || node.wrote(container, "out").contains(word));
    };
    contract(&*runtime, &|| node.runtime(name).expect("still works"), &|a, b, c| node.spec(a, b, c), &settled);
    // runc comes back a moment before its container has become the program.
    until("what is found is what lives", || living(&node.marker) == 2);

    // The deadline ends everything, it is told as exits, and nothing starts any more.
    let (sender, exits) = channel();
    runtime.watch(sender);
    node.slot.latch(1).expect("latch");
    until("ended", || node.slot.incarnation(1).expect("known").ended);
    assert_eq!(living(&node.marker), 0);
    let mut told = [next(&exits).workload, next(&exits).workload];
    told.sort();
    assert_eq!(told, [workload(2, 5), workload(5, 4)]);
    assert_eq!(found(&*runtime), []);
    let late = runtime.start(&node.spec(6, 1, RUNS));
    assert!(late.is_err(), "a latched incarnation starts nothing");

    // What it left is swept away, in every hierarchy; what lives is not.
    Starters::new(node.folder.join("run")).sweep(&node.slot);
    assert_eq!(node.traces_of(1), Vec::<PathBuf>::new());

    // A new incarnation; then guard and agent are killed together: the kernel ends it.
    node.open(2);
    let second = |container| {
        let spec = node.spec(container, 9, RUNS);
        StartSpec { workload: Workload { incarnation: Incarnation(2), ..spec.workload }, ..spec }
    };
    runtime.start(&second(2)).expect("start");
    runtime.start(&second(7)).expect("start");
    until("two live", || living(&node.marker) == 2);
    node.guard.kill().expect("kill");
    node.guard.wait().expect("wait");
    until("the kernel has ended both", || living(&node.marker) == 0);
    assert_eq!(found(&*runtime), []);
}

#[test]
fn fake_keeps_the_contract() {
    let runtime = FakeRuntime::default();
    let spec = |container, epoch, script: &str| StartSpec {
        workload: workload(container, epoch),
        name: String::new(),
        command: vec![if script == DEAF { "deaf".to_owned() } else { script.to_owned() }],
        env: Vec::new(),
        private_area: PathBuf::new(),
        working_dir: None,
        layers: Vec::new(),
        cpu_millis: 0,
        memory_bytes: 0,
        hostname: String::new(),
    };
    contract(&runtime.clone(), &|| Arc::new(runtime.clone()), &spec, &|_, _| {});
    runtime.kill_all();
    assert_eq!(found(&runtime), []);
}

#[test]
fn process_keeps_the_contract() {
    contract_under_guard("process");
}

#[test]
fn crun_keeps_the_contract() {
    contract_under_guard("crun");
}

#[test]
fn runc_keeps_the_contract() {
    contract_under_guard("runc");
}

#[test]
fn keep_lives_on_without_guard_and_lease_and_is_still_stopped_in_order() {
    let mut node = Node::new("keep");
    for name in ["process", "crun", "runc"] {
        let Some(runtime) = node.runtime(name) else { continue };
        let spec = node.spec(1, 1, RUNS);
        let kept = Workload { policy: OnQuorumLoss::Keep, ..spec.workload };
        runtime.start(&StartSpec { workload: kept, ..spec }).expect("start");
        node.slot.open_incarnation(1).expect("known");
        if name == "process" {
            node.slot.latch(1).expect("latch");
            until("ended", || node.slot.incarnation(1).expect("known").ended);
            assert_eq!(found(&*runtime), [(kept, true)], "the end of the lease spares it");
            runtime.stop(&kept, NO_GRACE).expect("stop");
            assert_eq!(living(&node.marker), 0);
            return;
        }
        runtime.stop(&kept, NO_GRACE).expect("stop");
    }
    node.guard.kill().expect("kill");
}

/// A template with nothing but a static busybox; `None`, with the reason printed, where there is none.
fn template(folder: &Path) -> Option<PathBuf> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().map(Path::new).find(|path| path.exists());
    let Some(busybox) = busybox else {
        eprintln!("NOT RUN: no static busybox for a template");
        return None;
    };
    let root = folder.join("share/templates/tiny");
    std::fs::create_dir_all(root.join("bin")).expect("folder");
    std::fs::copy(busybox, root.join("bin/busybox")).expect("copy");
    for name in ["sh", "sleep", "cat", "hostname", "id", "ls", "ps", "grep", "mount"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).expect("link");
    }
    Some(root)
}

fn an_oci_container_is_boxed_in(name: &str) {
    let node = Node::new(&format!("{name}-box"));
    let Some(runtime) = node.runtime(name) else { return };
    let Some(root) = template(&node.folder) else { return };
    let script = "
        exec > /data/seen 2>&1
        echo pid $$ host $(hostname)
        echo changed >> /bin/mark; echo mark $(cat /bin/mark)
        echo area $QUORATE_PRIVATE_AREA own $(ls -a /data/.quorate | grep -c claim)
        echo privileges $(grep NoNewPrivs /proc/self/status)
        echo caps $(grep CapEff /proc/self/status)
        echo kcore $(cat /proc/kcore | head -c 1 2>/dev/null)
        (echo 1 > /proc/sys/kernel/panic) 2>/dev/null && echo sysctl written
        mount -t tmpfs none /sys 2>/dev/null && echo mounted
        grep memory: /proc/self/cgroup
        while :; do sleep 1; done";
    let spec = StartSpec { layers: vec![root.clone()], ..node.spec(1, 1, script) };
    std::fs::write(spec.private_area.join(".quorate/claim"), "ours").expect("write");
    runtime.start(&spec).expect("start");
    until("it has looked around", || node.wrote(1, "seen").contains("caps"));
    let seen = node.wrote(1, "seen");
    for line in ["pid 1 host host-1", "mark changed", "area /data own 0", "privileges NoNewPrivs: 1"] {
        assert!(seen.contains(line), "{line:?} is missing in:\n{seen}");
    }
    assert!(seen.contains("caps CapEff: 00000000800405fb") || !seen.contains("000001ff"), "{seen}");
    assert!(!seen.contains("sysctl written") && !seen.contains("mounted"), "{seen}");
    assert!(!root.join("bin/mark").exists(), "the template is not written to");

    // What it changed moves along with its private area.
    runtime.stop(&workload(1, 1), NO_GRACE).expect("stop");
    std::fs::remove_file(spec.private_area.join("seen")).expect("remove");
    runtime.start(&StartSpec { workload: workload(1, 2), ..spec }).expect("start");
    until("it has looked around", || node.wrote(1, "seen").contains("caps"));
    assert!(node.wrote(1, "seen").contains("mark changed changed"), "{}", node.wrote(1, "seen"));
    runtime.stop(&workload(1, 2), NO_GRACE).expect("stop");
    assert_eq!(std::fs::read_dir(node.folder.join("run/bundles")).expect("read").count(), 0, "no bundle is left");
}

#[test]
fn a_crun_container_is_boxed_in() {
    an_oci_container_is_boxed_in("crun");
}

#[test]
fn a_runc_container_is_boxed_in() {
    an_oci_container_is_boxed_in("runc");
}

#[test]
fn limits_are_in_force_where_cgroups_allow() {
    let node = Node::new("limits");
    let Some(runtime) = node.runtime("crun") else { return };
    runtime.start(&node.spec(1, 1, RUNS)).expect("start");
    until("runs", || living(&node.marker) == 1);
    let groups = Path::new("/sys/fs/cgroup/memory");
    if !groups.is_dir() {
        eprintln!("NOT RUN: looks at version 1 memory limits only");
        return;
    }
    let root = guard::cgroup::Hierarchy::find().expect("cgroup2");
    let root = guard::cgroup::default_root(&root, &node.folder.join("run")).expect("root");
    let limit = groups.join(root.file_name().expect("a name")).join("i1/stop/c1-1/memory.limit_in_bytes");
    assert_eq!(std::fs::read_to_string(limit).expect("limit").trim(), (64 << 20).to_string());
}

#[test]
fn every_runtime_has_a_verdict_and_a_missing_one_says_so() {
    let node = Node::new("verdicts");
    let probed = node.probe();
    let names: Vec<&str> = probed.verdicts.iter().map(|verdict| verdict.runtime).collect();
    assert_eq!(names, ["crun", "runc", "process"]);
    let working: Vec<&str> = probed.runtimes.iter().map(|runtime| runtime.name()).collect();
    let said: Vec<&str> =
        probed.verdicts.iter().filter(|verdict| verdict.outcome.is_ok()).map(|verdict| verdict.runtime).collect();
    assert_eq!(working, said);
    for verdict in &probed.verdicts {
        eprintln!("{}: {:?}", verdict.runtime, verdict.outcome);
        assert!(verdict.outcome.as_ref().err().is_none_or(|reason| !reason.is_empty()));
    }
    let bundles = std::fs::read_dir(node.folder.join("run/bundles")).map(Iterator::count).unwrap_or(0);
    assert_eq!(bundles, 0, "proofs leave nothing behind");
}

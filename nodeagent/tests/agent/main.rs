//! The real agent under a real guard, with processes for containers and members that a test can play.
//! Shown: what it takes to run, that it survives its own death, that the kernel ends what nobody watches, that links come
//! back and follow the leader, that leaving leaves nothing.

mod member;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use cluster::{
    BootId, ClusterId, ContainerId, End, Epoch, Exit, Generation, Incarnation, LeaseTerms, NodeId, Observed,
    OnQuorumLoss, Profile, Proof, Span,
};
use member::{CLUSTER, Member, NODE, SECRET, Shared, agree, agree_later};
use nodeagent::control;
use nodeagent::drivers::claims::{self, Claim};
use nodeagent::identity::Identity;
use rustix::process::{Pid, Signal};

const PATIENCE: Duration = Duration::from_secs(60);
const NOBODY: [i32; 0] = [];
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        // Nothing tells us when to look; spinning would take a core from what we wait for.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Long enough for a test machine with other things to do.
fn patient_terms() -> LeaseTerms {
    LeaseTerms { lease: Span::seconds(20), kill: Span::seconds(5), ..Profile::Fast.terms() }
}

/// The guard beside the agent, built where a test of this package alone has not.
fn guard_program() -> PathBuf {
    static BUILT: Once = Once::new();
    let program = Path::new(env!("CARGO_BIN_EXE_quorate-agent")).with_file_name("quorate-guard");
    BUILT.call_once(|| {
        if !program.exists() {
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--quiet", "--package", "quorate-guard"]);
            if program.parent().is_some_and(|folder| folder.ends_with("release")) {
                build.arg("--release");
            }
            assert!(build.status().expect("cargo").success(), "the guard was not built");
        }
    });
    program
}

/// Containers of this test that live on this machine: their programs end in `tail -f <marker>`.
fn living(marker: &str) -> Vec<i32> {
    processes(|arguments| arguments == format!("tail\0-f\0{marker}\0").as_bytes())
}

/// Pids of the processes whose arguments, each ended by a zero, are `wanted`. Zombies have none.
fn processes(wanted: impl Fn(&[u8]) -> bool) -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|arguments| wanted(&arguments))).collect()
}

/// A machine with a state folder, a share, and an agent that may come and go.
struct Machine {
    folder: tempfile::TempDir,
    shared: Shared,
    marker: String,
    /// Somebody else than the test's own.
    user: Option<u32>,
    agent: Option<Child>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.cut_power();
        if std::thread::panicking() {
            eprintln!("guard: {}", fs::read_to_string(self.run_dir().join("guard.log")).unwrap_or_default());
        }
        // The slot lies in shared memory; what a test made there goes with it.
        let _ = fs::read_link(self.run_dir().join("slot")).map(fs::remove_file);
        if let Some(hierarchy) = guard::cgroup::Hierarchy::find()
            && let Ok(root) = guard::cgroup::default_root(&hierarchy, &self.run_dir())
        {
            guard::cgroup::remove_empty(&root);
        }
    }
}

impl Machine {
    /// Joined to `members`, its agent not started yet.
    fn new(name: &str, shared: &Shared, members: &[&Member]) -> Machine {
        let folder = tempfile::tempdir().expect("temporary folder");
        fs::create_dir_all(folder.path().join("share")).expect("share");
        fs::create_dir_all(folder.path().join("state")).expect("state");
        let identity = Identity {
            cluster: ClusterId(CLUSTER),
            generation: Generation(1),
            node: NodeId(NODE),
            name: "node-3".into(),
            secret: SECRET.to_vec(),
            members: members.iter().map(|member| member.address.to_string()).collect(),
        };
        identity.write(&folder.path().join("state/identity.json")).expect("identity");
        let marker = format!("{name}-{}", std::process::id());
        Machine { folder, shared: shared.clone(), marker, user: None, agent: None }
    }

    fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn run_dir(&self) -> PathBuf {
        self.folder.path().join("state/run")
    }

    fn share(&self) -> PathBuf {
        self.folder.path().join("share")
    }

    fn area(&self, container: u64) -> PathBuf {
        self.share().join(format!("containers/{container}"))
    }

    fn command(&self, options: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate-agent"));
        command.arg("run").arg("--state-dir").arg(self.state_dir()).args(["--runtime", "process"]);
        command.arg("--guard-program").arg(guard_program()).args(options).stdin(Stdio::null());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    /// Everything of this machine belongs to `user`.
    fn give_away(&self) {
        let folder = self.folder.path();
        for path in [folder, &self.share(), &self.state_dir(), &self.state_dir().join("identity.json")] {
            std::os::unix::fs::chown(path, self.user, self.user).expect("chown");
        }
    }

    fn start(&mut self, options: &[&str]) {
        self.agent = Some(self.command(options).spawn().expect("spawn"));
    }

    fn agent_pid(&self) -> Pid {
        Pid::from_child(self.agent.as_ref().expect("started"))
    }

    fn guard_pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.run_dir().join("guard.pid")).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }

    fn signal_agent(&self, signal: Signal) {
        rustix::process::kill_process(self.agent_pid(), signal).expect("signal");
    }

    fn wait_agent(&mut self) -> ExitStatus {
        let mut agent = self.agent.take().expect("started");
        let mut status = None;
        until("the agent ends", || {
            status = agent.try_wait().expect("wait");
            status.is_some()
        });
        status.expect("ended")
    }

    fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }

    fn kill_guard(&self) {
        if let Some(pid) = self.guard_pid() {
            let name = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).unwrap_or_default();
            if name.trim() == "quorate-guard" {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }

    /// Everything on it, at once. Whatever the guard made says by its arguments whose it is; the namespaces take what
    /// lives in them along, `keep` included.
    fn cut_power(&mut self) {
        self.kill_agent();
        let ours = |arguments: &[u8]| {
            arguments.split(|byte| *byte == 0).any(|argument| argument == self.run_dir().as_os_str().as_encoded_bytes())
        };
        // Again and again: a guard may have been forking while it was looked for.
        until("nothing of the test lives", || {
            let left: Vec<i32> = processes(ours).into_iter().chain(living(&self.marker)).collect();
            for pid in left.iter().copied().filter_map(Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            left.is_empty()
        });
    }

    fn until_registered(&self, times: usize) {
        until("the node is registered", || self.shared.truth().registrations.len() >= times);
    }

    /// Wants a container that writes who it is, then waits; and sees it run.
    fn run(&self, container: u64, epoch: u64, policy: OnQuorumLoss) {
        self.want(container, epoch, policy);
        until("it runs", || self.shared.said(container, epoch) == Some(Observed::Running));
        until("it waits", || living(&self.marker).iter().any(|pid| self.works_in(*pid, container)));
    }

    fn works_in(&self, pid: i32, container: u64) -> bool {
        fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|folder| folder == self.area(container))
    }

    fn want(&self, container: u64, epoch: u64, policy: OnQuorumLoss) {
        const SCRIPT: &str = "env > env.$QUORATE_EPOCH; : > $0; exec tail -f $0";
        let script = ["/bin/sh", "-c", SCRIPT, &self.marker];
        self.shared.want(container, epoch, policy, &script, &self.share());
    }

    fn status(&self) -> Option<control::Status> {
        control::status(&self.run_dir()).ok()
    }
}

#[test]
fn joined_node_registers_runs_what_is_wanted_and_stops_it() {
    let shared = Shared::new(patient_terms());
    let member = Member::start(1, &shared, ANY);
    agree(&shared, &[&member]);
    let mut machine = Machine::new("joined", &shared, &[&member]);
    machine.start(&["--cpu-millis", "2500"]);
    machine.until_registered(1);
    let facts = shared.truth().registrations[0].facts.clone();
    assert_eq!((facts.capacity.cpu_millis, &*facts.runtimes), (2_500, &["process".into()][..]), "{facts:?}");
    assert!(facts.class_reason.contains("namespace"), "{}", facts.class_reason);

    machine.run(5, 1, OnQuorumLoss::Stop);
    let env = || fs::read_to_string(machine.area(5).join("env.1")).unwrap_or_default();
    until("it wrote its environment", || env().contains("QUORATE_PRIVATE_AREA="));
    for says in ["QUORATE_EPOCH=1", "QUORATE_NODE=node-3", "QUORATE_CONTAINER=c5", "COLOUR=blue"] {
        assert!(env().lines().any(|line| line == says), "no {says} in {}", env());
    }
    let claim = claims::newest(&machine.area(5)).expect("read").expect("claimed before it started");
    let incarnation = Incarnation(shared.truth().incarnation);
    assert_eq!((claim.epoch, claim.node, claim.incarnation), (Epoch(1), NodeId(NODE), incarnation));
    let status = machine.status().expect("it answers");
    assert_eq!((status.standing.as_str(), status.leader), ("serving", Some(1)));
    assert_eq!(status.containers, [control::ContainerStatus { container: 5, epoch: 1, ran: true }]);

    shared.want_stopped(5);
    until("it is closed", || shared.said(5, 1) == Some(Observed::Closed { end: End::Stopped }));
    assert_eq!(living(&machine.marker), NOBODY, "closed, and something lives");
}

#[test]
fn container_that_ends_by_itself_is_closed_with_how_it_ended() {
    let shared = Shared::new(patient_terms());
    let member = Member::start(1, &shared, ANY);
    agree(&shared, &[&member]);
    let mut machine = Machine::new("ends", &shared, &[&member]);
    machine.start(&[]);
    machine.until_registered(1);
    shared.want(5, 1, OnQuorumLoss::Stop, &["/bin/sh", "-c", "exit 7", &machine.marker], &machine.share());
    until("it is closed", || shared.said(5, 1) == Some(Observed::Closed { end: End::Exited(Exit::Code(7)) }));
    shared.want(6, 1, OnQuorumLoss::Stop, &["/no/such/program"], &machine.share());
    until("it is closed", || matches!(shared.said(6, 1), Some(Observed::Closed { .. })));
    assert!(!matches!(shared.said(6, 1), Some(Observed::Closed { end: End::Stopped })), "{:?}", shared.said(6, 1));
}

#[test]
fn area_claimed_under_a_higher_epoch_is_not_touched() {
    let shared = Shared::new(patient_terms());
    let member = Member::start(1, &shared, ANY);
    agree(&shared, &[&member]);
    let mut machine = Machine::new("claimed", &shared, &[&member]);
    fs::create_dir_all(machine.area(5)).expect("area");
    let theirs = Claim {
        cluster: ClusterId(CLUSTER),
        generation: Generation(1),
        container: ContainerId(5),
        epoch: Epoch(9),
        node: NodeId(4),
        incarnation: Incarnation(50),
        boot: BootId(1),
    };
    claims::claim(&machine.area(5), &theirs).expect("claim");
    machine.start(&[]);
    machine.until_registered(1);
    machine.want(5, 8, OnQuorumLoss::Stop);
    until("it is refused", || matches!(shared.said(5, 8), Some(Observed::Closed { end: End::Refused { .. } })));
    assert_eq!(claims::newest(&machine.area(5)).expect("read"), Some(theirs));
    assert!(!machine.area(5).join("env.8").exists(), "it ran without its claim");
    // The next epoch above is welcome.
    machine.run(5, 10, OnQuorumLoss::Stop);
}

#[test]
fn killed_agent_is_succeeded_and_its_containers_never_notice() {
    let shared = Shared::new(patient_terms());
    let member = Member::start(1, &shared, ANY);
    agree(&shared, &[&member]);
    let mut machine = Machine::new("killed", &shared, &[&member]);
    machine.start(&[]);
    machine.until_registered(1);
    machine.run(5, 1, OnQuorumLoss::Stop);
    machine.run(6, 1, OnQuorumLoss::Keep);
    let (alive, incarnation) = (living(&machine.marker), shared.truth().incarnation);
    let guard = machine.guard_pid();

    machine.kill_agent();
    assert_eq!(living(&machine.marker), alive, "a container ended with the agent");
    shared.truth().reports.clear();
    machine.start(&[]);
    until("both are said to run", || [5, 6].iter().all(|id| shared.said(*id, 1) == Some(Observed::Running)));
    assert_eq!(living(&machine.marker), alive, "adopted, not started again");
    assert_eq!(shared.truth().incarnation, incarnation, "the incarnation goes on");
    assert_eq!(shared.truth().registrations.len(), 1);
    assert_eq!(machine.guard_pid(), guard, "the guard was not needed anew");

    // The successor has full command of them.
    shared.want_stopped(5);
    until("it is closed", || shared.said(5, 1) == Some(Observed::Closed { end: End::Stopped }));
}

#[test]
fn agent_told_to_end_by_its_supervisor_leaves_containers_to_the_next() {
    let shared = Shared::new(patient_terms());
    let member = Member::start(1, &shared, ANY);
    agree(&shared, &[&member]);
    let mut machine = Machine::new("kept", &shared, &[&member]);
    machine.start(&[]);
    machine.until_registered(1);
    machine.run(5, 1, OnQuorumLoss::Stop);
    let alive = living(&machine.marker);
    machine.signal_agent(Signal::TERM);
    assert!(machine.wait_agent().success());
    assert_eq!(living(&machine.marker), alive);
    shared.truth().reports.clear();
    machine.start(&[]);
    until("it is said to run", || shared.said(5, 1) == Some(Observed::Running));
    assert_eq!((living(&machine.marker), shared.truth().registrations.len()), (alive, 1));
}

#[test]
fn agent_and_guard_killed_together_end_the_containers_by_the_kernels_hand() {
    let shared = Shared::new(patient_terms());
    let member = Member::start(1, &shared, ANY);
    agree(&shared, &[&member]);
    let mut machine = Machine::new("together", &shared, &[&member]);
    machine.start(&[]);
    machine.until_registered(1);
    machine.run(5, 1, OnQuorumLoss::Stop);
    let class = shared.truth().registrations[0].facts.class;
    if !class.lease_proves_end() {
        eprintln!("NOT RUN: no pid namespaces here, this node is {class:?}");
        return;
    }
    machine.kill_agent();
    machine.kill_guard();
    until("nothing lives", || living(&machine.marker).is_empty());

    // The next agent sees that nothing is left, says so, and begins anew; the old epoch never runs again.
    machine.start(&[]);
    until("the end is known", || {
        matches!(shared.said(5, 1), Some(Observed::Closed { .. })) || !shared.truth().ended.is_empty()
    });
    until("the node serves", || machine.status().is_some_and(|status| status.standing == "serving"));
    assert_eq!(living(&machine.marker), NOBODY);
}

#[test]
fn guard_alone_killed_gets_a_successor() {
    let shared = Shared::new(patient_terms());
    let member = Member::start(1, &shared, ANY);
    agree(&shared, &[&member]);
    let mut machine = Machine::new("guardless", &shared, &[&member]);
    machine.start(&[]);
    machine.until_registered(1);
    let before = machine.guard_pid().expect("a guard");
    machine.kill_guard();
    until("another guard watches", || {
        machine.status().is_some_and(|status| status.guard.alive && status.guard.pid != before.as_raw_nonzero().get())
    });
    let sent = shared.truth().heartbeats.len();
    until("heartbeats go on", || shared.truth().heartbeats.len() > sent + 2);
    machine.want(5, 1, OnQuorumLoss::Stop);
    until("it runs, on this or the next incarnation", || {
        if shared.truth().wanted.is_empty() {
            machine.want(5, 1, OnQuorumLoss::Stop);
        }
        shared.said(5, 1) == Some(Observed::Running)
    });
}

#[test]
fn lease_that_runs_out_ends_stop_spares_keep_and_registers_anew() {
    let terms = LeaseTerms { lease: Span::millis(2_500), kill: Span::seconds(5), ..Profile::Fast.terms() };
    let shared = Shared::new(terms);
    let member = Member::start(1, &shared, ANY);
    agree(&shared, &[&member]);
    let mut machine = Machine::new("lease", &shared, &[&member]);
    machine.start(&[]);
    machine.until_registered(1);
    machine.run(5, 1, OnQuorumLoss::Stop);
    machine.run(6, 1, OnQuorumLoss::Keep);
    let (before, first) = (living(&machine.marker).len(), shared.truth().incarnation);
    shared.truth().silent = true;
    until("the stop container is gone", || living(&machine.marker).len() < before);
    until("the guard's proof arrives", || shared.truth().ended.contains(&(first, Proof::Guard)));
    shared.truth().silent = false;
    machine.until_registered(2);
    assert_eq!(shared.truth().registrations[1].ends, Incarnation(first));
    assert!(!living(&machine.marker).is_empty(), "keep runs on");
    assert_ne!(shared.said(6, 1), Some(Observed::Closed { end: End::Stopped }));
}

#[test]
fn frozen_agent_is_ended_by_its_guard_and_knows_it_when_it_wakes() {
    let terms = LeaseTerms { lease: Span::millis(2_500), kill: Span::seconds(5), ..Profile::Fast.terms() };
    let shared = Shared::new(terms);
    let member = Member::start(1, &shared, ANY);
    agree(&shared, &[&member]);
    let mut machine = Machine::new("frozen", &shared, &[&member]);
    machine.start(&[]);
    machine.until_registered(1);
    machine.run(5, 1, OnQuorumLoss::Stop);
    let first = shared.truth().incarnation;
    machine.signal_agent(Signal::STOP);
    until("the guard ended it", || living(&machine.marker).is_empty());
    let beats = shared.truth().heartbeats.len();
    let reports = shared.truth().reports.len();
    machine.signal_agent(Signal::CONT);
    machine.until_registered(2);
    let truth = shared.truth();
    assert!(truth.ended.contains(&(first, Proof::Guard)), "{:?}", truth.ended);
    let late = truth.heartbeats[beats..].iter().filter(|heartbeat| heartbeat.incarnation.0 == first).count();
    assert!(late <= 1, "a latched incarnation sent {late} heartbeats; only one may have been under way");
    let resurrected = truth.reports[reports..].iter().any(|(_, _, what)| format!("{what:?}").contains("Running"));
    assert!(!resurrected, "{:?}", &truth.reports[reports..]);
}

#[test]
fn stopped_guard_is_woken() {
    let shared = Shared::new(patient_terms());
    let member = Member::start(1, &shared, ANY);
    agree(&shared, &[&member]);
    let mut machine = Machine::new("woken", &shared, &[&member]);
    machine.start(&[]);
    machine.until_registered(1);
    machine.run(5, 1, OnQuorumLoss::Stop);
    let guard = machine.guard_pid().expect("a guard");
    rustix::process::kill_process(guard, Signal::STOP).expect("signal");
    let state = || fs::read_to_string(format!("/proc/{}/stat", guard.as_raw_nonzero())).unwrap_or_default();
    until("it goes on", || !state().contains(") T "));
    until("it watches", || machine.status().is_some_and(|status| status.guard.alive));
    assert_eq!((machine.guard_pid(), living(&machine.marker).len()), (Some(guard), 1));
}

#[test]
fn guard_stopped_when_its_agent_was_killed_is_woken_by_the_next() {
    let shared = Shared::new(patient_terms());
    let member = Member::start(1, &shared, ANY);
    agree(&shared, &[&member]);
    let mut machine = Machine::new("roused", &shared, &[&member]);
    machine.start(&[]);
    machine.until_registered(1);
    machine.run(5, 1, OnQuorumLoss::Stop);
    let guard = machine.guard_pid().expect("a guard");
    rustix::process::kill_process(guard, Signal::STOP).expect("stop");
    machine.kill_agent();
    machine.start(&[]);
    until("the next agent serves with that guard", || {
        machine.status().is_some_and(|status| status.guard.alive && status.standing == "serving")
    });
    assert_eq!(machine.guard_pid(), Some(guard), "the same one: its lease had not ended");
    assert_eq!(shared.truth().registrations.len(), 1, "nothing has ended");
    assert_eq!(living(&machine.marker).len(), 1);
}

#[test]
fn lease_that_ends_while_the_guard_is_stopped_and_no_agent_runs_is_ended_by_the_next() {
    let terms = LeaseTerms { lease: Span::millis(2_500), kill: Span::seconds(5), ..Profile::Fast.terms() };
    let shared = Shared::new(terms);
    let member = Member::start(1, &shared, ANY);
    agree(&shared, &[&member]);
    let mut machine = Machine::new("overslept", &shared, &[&member]);
    machine.start(&[]);
    machine.until_registered(1);
    machine.run(5, 1, OnQuorumLoss::Stop);
    let guard = machine.guard_pid().expect("a guard");
    rustix::process::kill_process(guard, Signal::STOP).expect("stop");
    machine.kill_agent();
    let slot = guard::Slot::open(&machine.run_dir().join("slot")).expect("slot");
    let deadline = slot.state().incarnations.iter().map(|it| it.deadline_ns).max().expect("a lease");
    until("the lease is over", || guard::boottime_ns() > deadline);
    assert_eq!(living(&machine.marker).len(), 1, "nobody is left who could end it");
    // Nobody answers its heartbeats: what ends it is the slot alone.
    drop(member);
    machine.start(&[]);
    until("it is ended", || living(&machine.marker).is_empty());
}

#[test]
fn machine_that_lost_its_power_comes_back_as_another_boot() {
    let shared = Shared::new(patient_terms());
    let member = Member::start(1, &shared, ANY);
    agree(&shared, &[&member]);
    let mut machine = Machine::new("reboot", &shared, &[&member]);
    machine.start(&["--boot-id", "00000000-0000-0000-0000-000000000001"]);
    machine.until_registered(1);
    machine.run(5, 1, OnQuorumLoss::Keep);
    let first = shared.truth().incarnation;
    machine.cut_power();
    machine.start(&["--boot-id", "00000000-0000-0000-0000-000000000002"]);
    machine.until_registered(2);
    let boots: Vec<u128> = shared.truth().registrations.iter().map(|registration| registration.boot.0).collect();
    assert_eq!(boots, [1, 2]);
    let last = shared.truth().registrations[1].clone();
    assert_eq!((last.ends, last.empty), (Incarnation(first), false), "another boot proves nothing by itself");
    assert_eq!(shared.truth().ended, [], "nor does the agent claim to");
    machine.run(5, 2, OnQuorumLoss::Stop);
}

#[test]
fn ordinary_user_can_run_a_node() {
    let shared = Shared::new(patient_terms());
    let member = Member::start(1, &shared, ANY);
    agree(&shared, &[&member]);
    let mut machine = Machine::new("ordinary", &shared, &[&member]);
    if rustix::process::getuid().is_root() {
        machine.user = Some(12_345);
        machine.give_away();
    }
    machine.start(&[]);
    machine.until_registered(1);
    let facts = shared.truth().registrations[0].facts.clone();
    if facts.runtimes.is_empty() {
        eprintln!("NOT RUN: {:?}", facts.runtimes_refused);
        return;
    }
    machine.run(5, 1, OnQuorumLoss::Stop);
    machine.kill_agent();
    machine.kill_guard();
    if facts.class.lease_proves_end() {
        until("nothing lives", || living(&machine.marker).is_empty());
    }
}

#[test]
fn restarted_member_is_heard_again_long_before_the_lease_ends() {
    let shared = Shared::new(patient_terms());
    let mut members: Vec<Member> = (1..=3).map(|id| Member::start(id, &shared, ANY)).collect();
    agree(&shared, &members.iter().collect::<Vec<_>>());
    // One seed is enough: the others are learned from its acknowledgements.
    let mut machine = Machine::new("restarted", &shared, &[&members[0]]);
    machine.start(&[]);
    machine.until_registered(1);
    machine.run(5, 1, OnQuorumLoss::Stop);
    let addresses: Vec<SocketAddr> = members.iter().map(|member| member.address).collect();
    let known = || fs::read_to_string(machine.state_dir().join("members")).unwrap_or_default();
    until("the members are noted", || addresses.iter().all(|address| known().contains(&address.to_string())));

    // All of them at once, on the same ports.
    members.clear();
    let count = shared.truth().heartbeats.len();
    members.extend((1..=3).map(|id| Member::start(id, &shared, addresses[id as usize - 1])));
    let begun = Instant::now();
    until("heartbeats arrive again", || shared.truth().heartbeats.len() >= count + 3);
    assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
    until("the session is open again", || shared.truth().sessions.len() >= 2);
    assert_eq!(shared.truth().registrations.len(), 1, "nothing was lost by it");
    machine.run(7, 1, OnQuorumLoss::Stop);
}

/// Cut off while its members are replaced one by one, a node knows only addresses at which nobody is any more. One that it
/// was given beside them, such as a name, leads back: by the leader's acknowledgements it learns who votes now.
#[test]
fn node_whose_voters_were_all_replaced_finds_back_by_an_address_it_was_given() {
    let shared = Shared::new(Profile::Fast.terms());
    let old: Vec<Member> = (1..=3).map(|id| Member::start(id, &shared, ANY)).collect();
    agree(&shared, &old.iter().collect::<Vec<_>>());
    // Nobody is there yet.
    let standing_in = Member::start(9, &shared, ANY);
    let given = standing_in.address;
    drop(standing_in);
    let mut machine = Machine::new("replaced", &shared, &old.iter().collect::<Vec<_>>());
    machine.start(&["--member", &given.to_string()]);
    machine.until_registered(1);
    until("the lease is held", || machine.status().is_some_and(|status| status.lease_left_ms > Some(0)));

    drop(old);
    shared.change(|truth| (truth.leader, truth.membership) = (0, None));
    let trouble = || machine.status().and_then(|status| status.trouble).unwrap_or_default();
    until("it says what to do", || trouble().contains("--member HOST:PORT"));
    assert!(trouble().contains(&given.to_string()), "and whom it asks: {}", trouble());

    let mut new = vec![Member::start(4, &shared, given)];
    new.extend([5, 6].map(|id| Member::start(id, &shared, ANY)));
    agree_later(&shared, &new.iter().collect::<Vec<_>>());
    shared.change(|truth| truth.leader = 4);
    machine.until_registered(2);
    machine.run(5, 1, OnQuorumLoss::Stop);
    assert_eq!(machine.status().expect("it answers").trouble, None);
    let known = || fs::read_to_string(machine.state_dir().join("members")).unwrap_or_default();
    until("the new members are noted", || new.iter().all(|member| known().contains(&member.address.to_string())));
}

#[test]
fn session_follows_the_leader_and_does_not_wait_for_a_dead_one() {
    let shared = Shared::new(patient_terms());
    let mut members: Vec<Member> = (1..=3).map(|id| Member::start(id, &shared, ANY)).collect();
    agree(&shared, &members.iter().collect::<Vec<_>>());
    let mut machine = Machine::new("leader", &shared, &members.iter().collect::<Vec<_>>());
    machine.start(&[]);
    machine.until_registered(1);
    machine.run(5, 1, OnQuorumLoss::Stop);

    // The leader steps down.
    shared.change(|truth| truth.leader = 2);
    until("the session moved", || shared.truth().sessions.ends_with(&[2]));
    machine.run(6, 1, OnQuorumLoss::Stop);

    // The leader's machine loses its power.
    shared.change(|truth| truth.leader = 3);
    drop(members.remove(1));
    until("the session moved", || shared.truth().sessions.ends_with(&[3]));
    machine.run(7, 1, OnQuorumLoss::Stop);
    assert_eq!(shared.truth().registrations.len(), 1);
}

#[test]
fn leader_that_falls_silent_behind_open_connections_is_left_for_another() {
    let shared = Shared::new(patient_terms());
    let members: Vec<Member> = (1..=3).map(|id| Member::start(id, &shared, ANY)).collect();
    agree(&shared, &members.iter().collect::<Vec<_>>());
    let mut machine = Machine::new("silent", &shared, &members.iter().collect::<Vec<_>>());
    machine.start(&[]);
    machine.until_registered(1);
    until("the lease is held", || machine.status().is_some_and(|status| status.lease_left_ms > Some(0)));
    {
        // Not told to the session: nothing arrives from it any more, and nothing breaks it.
        let mut truth = shared.truth();
        (truth.leader, truth.mute) = (2, 1);
    }
    until("the session moved", || shared.truth().sessions.ends_with(&[2]));
    machine.run(5, 1, OnQuorumLoss::Stop);
    assert_eq!(shared.truth().registrations.len(), 1, "two of three still answer");
}

#[test]
fn leader_in_doubt_keeps_its_one_session_while_the_others_still_name_it() {
    let shared = Shared::new(patient_terms());
    let members: Vec<Member> = (1..=3).map(|id| Member::start(id, &shared, ANY)).collect();
    agree(&shared, &members.iter().collect::<Vec<_>>());
    let mut machine = Machine::new("doubt", &shared, &members.iter().collect::<Vec<_>>());
    machine.start(&[]);
    machine.until_registered(1);
    until("the lease is held", || machine.status().is_some_and(|status| status.lease_left_ms > Some(0)));
    let asked = {
        let mut truth = shared.truth();
        truth.mute = 1;
        truth.asked_in_vain
    };
    // Three rounds through both others, one after the other: whatever the first two did has happened.
    until("the others were asked", || shared.truth().asked_in_vain >= asked + 6);
    assert_eq!(shared.truth().sessions, [1], "a second session would have ended the first");
    machine.run(5, 1, OnQuorumLoss::Stop);
    assert_eq!(shared.truth().registrations.len(), 1);
}

#[test]
fn node_asked_to_leave_stops_everything_says_so_and_is_gone() {
    let shared = Shared::new(patient_terms());
    let member = Member::start(1, &shared, ANY);
    agree(&shared, &[&member]);
    let mut machine = Machine::new("leaves", &shared, &[&member]);
    machine.start(&[]);
    machine.until_registered(1);
    machine.run(5, 1, OnQuorumLoss::Stop);
    machine.run(6, 1, OnQuorumLoss::Keep);
    let incarnation = shared.truth().incarnation;
    shared.change(|truth| truth.leave = true);
    assert!(machine.wait_agent().success());
    assert_eq!(living(&machine.marker), NOBODY);
    assert_eq!(shared.truth().ended, [(incarnation, Proof::Left)]);
    let guard = machine.guard_pid().expect("it had a guard").as_raw_nonzero();
    until("the guard is gone", || !Path::new(&format!("/proc/{guard}")).exists());
}

#[test]
fn shutdown_hook_comes_back_when_the_node_has_left() {
    let shared = Shared::new(patient_terms());
    let member = Member::start(1, &shared, ANY);
    agree(&shared, &[&member]);
    let mut machine = Machine::new("hook", &shared, &[&member]);
    machine.start(&[]);
    machine.until_registered(1);
    machine.run(5, 1, OnQuorumLoss::Stop);
    control::leave(&machine.run_dir(), PATIENCE).expect("left");
    assert_eq!(living(&machine.marker), NOBODY);
    assert_eq!(shared.truth().ended.len(), 1);
    assert!(machine.wait_agent().success());
}

#[test]
fn sigterm_leaves_where_the_operator_chose_that() {
    let shared = Shared::new(patient_terms());
    let member = Member::start(1, &shared, ANY);
    agree(&shared, &[&member]);
    let mut machine = Machine::new("sigterm", &shared, &[&member]);
    machine.start(&["--on-shutdown", "leave"]);
    machine.until_registered(1);
    machine.run(5, 1, OnQuorumLoss::Stop);
    machine.signal_agent(Signal::TERM);
    assert!(machine.wait_agent().success());
    assert_eq!(living(&machine.marker), NOBODY);
    assert_eq!(shared.truth().ended.len(), 1);
}

#[test]
fn damaged_journal_adopts_nothing_and_begins_anew() {
    let shared = Shared::new(patient_terms());
    let member = Member::start(1, &shared, ANY);
    agree(&shared, &[&member]);
    let mut machine = Machine::new("damaged", &shared, &[&member]);
    machine.start(&[]);
    machine.until_registered(1);
    machine.run(5, 1, OnQuorumLoss::Stop);
    machine.run(6, 1, OnQuorumLoss::Keep);
    machine.kill_agent();
    let path = machine.state_dir().join("journal");
    let mut bytes = fs::read(&path).expect("journal");
    bytes[100] ^= 0xff;
    fs::write(&path, bytes).expect("write");
    machine.start(&[]);
    machine.until_registered(2);
    assert_eq!(living(&machine.marker), NOBODY, "something was adopted that nobody remembers");
    assert!(machine.state_dir().join("journal.damaged-1").exists());
}

#[test]
fn second_agent_foreign_folder_and_bad_configuration_end_with_words() {
    let shared = Shared::new(patient_terms());
    let member = Member::start(1, &shared, ANY);
    agree(&shared, &[&member]);
    let mut machine = Machine::new("second", &shared, &[&member]);
    machine.start(&[]);
    machine.until_registered(1);
    let refused = |command: &mut Command| {
        let output = command.output().expect("run");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(refused(&mut machine.command(&[])).contains("in use by another agent"));
    machine.kill_agent();

    let path = machine.state_dir().join("identity.json");
    let other = Identity { node: NodeId(4), ..Identity::read(&path).expect("read") };
    other.write(&path).expect("write");
    assert!(refused(&mut machine.command(&[])).contains("two nodes must not share a state folder"));
    fs::remove_file(&path).expect("remove");
    assert!(refused(&mut machine.command(&[])).contains("quoratectl node join"));

    let file = machine.state_dir().join("agent.toml");
    fs::write(&file, "runtme = 'process'\n").expect("write");
    let said = refused(machine.command(&["--config"]).arg(&file));
    assert!(said.contains("`runtme`") && said.contains("did you mean `runtime`?"), "{said}");
}

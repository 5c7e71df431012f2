//! The real agent under a real guard, with processes for containers and members that a test can play.
//! Shown: what it takes to run, that it survives its own death, that the kernel ends what nobody watches, that links come
//! back and follow the leader, that leaving leaves nothing.

mod links;
mod machine;
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
use machine::{Machine, living};
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
        generation: Generation::numbered(1),
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

/// A node that runs container 5, which the kernel ends with its guard. `None`, said aloud, where it does not.
fn enforced(name: &str, shared: &Shared, member: &Member) -> Option<Machine> {
    agree(shared, &[member]);
    let mut machine = Machine::new(name, shared, &[member]);
    machine.start(&[]);
    machine.until_registered(1);
    machine.run(5, 1, OnQuorumLoss::Stop);
    let class = shared.truth().registrations[0].facts.class;
    if !class.lease_proves_end() {
        eprintln!("NOT RUN: no pid namespaces here, this node is {class:?}");
        return None;
    }
    Some(machine)
}

#[test]
fn agent_and_guard_killed_together_end_the_containers_by_the_kernels_hand() {
    let shared = Shared::new(patient_terms());
    let member = Member::start(1, &shared, ANY);
    let Some(mut machine) = enforced("together", &shared, &member) else { return };
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

/// Its own restarts are for what it does itself.
#[test]
fn what_ends_with_its_guard_is_not_blamed_for_it() {
    let shared = Shared::new(patient_terms());
    let member = Member::start(1, &shared, ANY);
    let Some(machine) = enforced("blameless", &shared, &member) else { return };
    machine.kill_guard();
    until("it is closed", || matches!(shared.said(5, 1), Some(Observed::Closed { .. })));
    assert_eq!(shared.said(5, 1), Some(Observed::Closed { end: End::Stopped }));
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
        machine.give_to(12_345);
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

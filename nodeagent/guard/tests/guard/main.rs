//! The guard as a process: what it ends, what it leaves, what it remembers. Real namespaces, real kills.
//! Every test has its own folder, slot and cgroup root, and looks for its workloads by a marker in their arguments.

mod rig;

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use guard::slot::LatchReason;
use guard::starter::{Action, Client, Label, Mode, Start, StarterError, TaskState, incarnations};
use guard::{NamespaceState, Policy, Slot, Terms, boottime_ns, record};
use rig::*;

#[test]
fn deadline_ends_stop_spares_keep_and_is_recorded() {
    let rig = Rig::new("deadline");
    rig.incarnation(1);
    let (mut stop, mut keep) = (rig.client(Policy::Stop, 1), rig.client(Policy::Keep, 1));
    for container in 0..5 {
        rig.start(&mut stop, container, TICKING);
    }
    rig.start(&mut keep, 9, TICKING);
    until("six run", || processes_with(&rig.marker).len() == 6);
    let lease = Terms { lease_ms: 200, kill_ms: 1_000 };
    rig.slot.want_terms(lease, 100);
    until("dead", || rig.slot.incarnation(1).expect("known").dead_at_ns.is_some());
    assert_eq!(processes_with(&rig.marker).len(), 1, "only the one of policy keep lives");
    until("recorded", || rig.slot.incarnation(1).expect("known").ended);
    let state = rig.slot.incarnation(1).expect("known");
    assert_eq!(state.latched, Some(LatchReason::Deadline));
    assert!(state.dead_at_ns.expect("dead") >= state.deadline_ns, "not before the deadline");
    let records = record::read(&rig.folder.join("state")).expect("read");
    assert_eq!((records.len(), records[0].incarnation, records[0].ended), (1, 1, true));
    assert!(matches!(stop.list(), Err(StarterError::Gone { .. })));
    assert_eq!(keep.list().expect("list").len(), 1);
    let refused = keep.start(
        Start { label: Label::default(), mode: Mode::Workload, action: rig.exec(TICKING), leaf: None },
        PATIENCE,
    );
    assert!(
        matches!(refused, Err(StarterError::Refused { no_lease: true, .. })),
        "latched starts nothing: {refused:?}"
    );
}

#[test]
fn killing_the_guard_ends_stop_by_the_kernels_hand_and_keep_lives_on() {
    let mut rig = Rig::new("killed");
    if !rig.slot.state().fencing_class().enforced {
        return skip("no pid namespaces");
    }
    rig.incarnation(1);
    rig.start(&mut rig.client(Policy::Stop, 1), 1, "setsid sh -c 'while :; do sleep 1; done' $0 & wait");
    let kept = rig.start(&mut rig.client(Policy::Keep, 1), 2, TICKING);
    until("three run", || processes_with(&rig.marker).len() == 3);
    rig.kill_guard();
    until("only keep lives", || processes_with(&rig.marker).len() == 1);
    assert_eq!(rig.client(Policy::Keep, 1).list().expect("list")[0].id, kept);

    rig.restart_guard();
    until("the loss is seen", || {
        rig.slot.incarnation(1).expect("known").namespace == [NamespaceState::Lost, NamespaceState::Ready]
    });
    rig.slot.ask_namespace(1, Policy::Stop).expect("ask");
    until("a fresh namespace", || {
        rig.slot.incarnation(1).expect("known").namespace == [NamespaceState::Ready, NamespaceState::Ready]
    });
    assert_eq!(rig.client(Policy::Stop, 1).list().expect("list"), []);
    assert_eq!(rig.client(Policy::Keep, 1).list().expect("list")[0].id, kept, "the same keep namespace");
}

#[test]
fn a_guard_that_starts_without_a_valid_deadline_ends_first() {
    let mut rig = Rig::new("restarted");
    rig.slot.want_terms(Terms { lease_ms: 500, kill_ms: 1_000 }, 100);
    rig.incarnation(1);
    let keep = rig.start(&mut rig.client(Policy::Keep, 1), 1, TICKING);
    rig.kill_guard();
    until("the deadline is over", || boottime_ns() > rig.slot.incarnation(1).expect("known").deadline_ns);
    assert_eq!(rig.slot.incarnation(1).expect("known").latched, None, "nobody was there to latch it");
    rig.restart_guard();
    until("ended", || rig.slot.incarnation(1).expect("known").ended);
    assert_eq!(rig.slot.incarnation(1).expect("known").latched, Some(LatchReason::NoDeadline));
    assert_eq!(rig.client(Policy::Keep, 1).list().expect("list")[0].id, keep);
    rig.incarnation(2);
    rig.start(&mut rig.client(Policy::Stop, 2), 1, TICKING);
    assert_eq!(incarnations(&rig.run_dir(), Policy::Keep).expect("read"), [1, 2]);
}

#[test]
fn nothing_starts_without_a_lease() {
    let rig = Rig::new("lease");
    rig.slot.open_incarnation(1).expect("open");
    until("ready", || rig.slot.incarnation(1).expect("known").namespace[0] == NamespaceState::Ready);
    let start = Start { label: Label::default(), mode: Mode::Workload, action: rig.exec("echo started"), leaf: None };
    let refused = rig.client(Policy::Stop, 1).start(start.clone(), PATIENCE);
    assert!(matches!(refused, Err(StarterError::Refused { no_lease: true, .. })), "{refused:?}");
    rig.slot.set_deadline(1, boottime_ns() + HOUR_NS).expect("deadline");
    rig.client(Policy::Stop, 1).start(start, PATIENCE).expect("start");
    until("it ran once", || rig.log() == "started\n");
}

#[test]
fn runtimes_can_be_proved_before_there_is_an_incarnation_and_nothing_else() {
    let rig = Rig::new("proving");
    let mut client = rig.client(Policy::Stop, 0);
    assert_eq!(client.run(Label::default(), rig.exec("echo proof; exit 4"), PATIENCE).expect("run"), 4);
    assert_eq!(rig.log(), "proof\n");
    let start = Start { label: Label::default(), mode: Mode::Workload, action: rig.exec(TICKING), leaf: None };
    assert!(matches!(client.start(start, PATIENCE), Err(StarterError::Refused { no_lease: true, .. })));
}

#[test]
fn exits_reach_a_watcher_and_stay_until_forgotten() {
    let rig = Rig::new("exits");
    rig.incarnation(1);
    let mut client = rig.client(Policy::Stop, 1);
    let failing = rig.start(&mut client, 1, "exit 7");
    let mut watch = rig.client(Policy::Stop, 1).watch().expect("watch");
    let exit = watch.next(PATIENCE).expect("alive").expect("an exit");
    assert_eq!((exit.id, exit.label.container), (failing, 1));
    assert!(matches!(exit.state, TaskState::Exited { code: 7, .. }), "{exit:?}");
    let gentle = rig.start(&mut client, 2, "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done");
    until("its trap is set", || rig.log().contains("up"));
    client.signal(gentle, 15, false).expect("signal");
    assert!(matches!(watch.next(PATIENCE).expect("alive").expect("exit").state, TaskState::Exited { code: 3, .. }));
    let stubborn = rig.start(&mut client, 3, "trap '' TERM; echo deaf; while :; do sleep 0.05; done");
    until("its trap is set", || rig.log().contains("deaf"));
    client.signal(stubborn, 15, false).expect("signal");
    assert!(matches!(client.forget(stubborn), Err(StarterError::Refused { .. })), "it lives");
    client.signal(stubborn, 9, true).expect("signal");
    assert!(matches!(watch.next(PATIENCE).expect("alive").expect("exit").state, TaskState::Exited { code: 137, .. }));
    // A new watcher, as of an agent that restarts, hears of all three again.
    let mut again = rig.client(Policy::Stop, 1).watch().expect("watch");
    let heard: Vec<u64> = (0..3).map(|_| again.next(PATIENCE).expect("alive").expect("exit").id).collect();
    assert_eq!(heard, [failing, gentle, stubborn]);
    for id in heard {
        client.forget(id).expect("forget");
    }
    assert_eq!(client.list().expect("list"), []);
}

#[test]
fn a_workload_is_alone_in_its_namespaces_and_takes_its_tree_along() {
    let rig = Rig::new("alone");
    rig.incarnation(1);
    let greeting = rig.client(Policy::Stop, 1).greeting().expect("greeting");
    if !greeting.pid_namespace {
        return skip("no pid namespaces");
    }
    let mut client = rig.client(Policy::Stop, 1);
    let mut watch = rig.client(Policy::Stop, 1).watch().expect("watch");
    // A grandchild in a session of its own must not outlive the workload.
    rig.start(&mut client, 1, "echo host $(uname -n) pid $$; setsid sleep 1000 $0 2>/dev/null & exec sleep 0.1");
    assert!(watch.next(PATIENCE).expect("alive").is_some());
    assert!(processes_with(&rig.marker).is_empty(), "said ended only when nothing was left");
    assert_eq!(rig.log(), "host inside pid 2\n");
}

#[test]
fn what_cannot_be_executed_is_refused_with_its_reason_and_leaves_nothing() {
    let rig = Rig::new("refused");
    rig.incarnation(1);
    let mut client = rig.client(Policy::Stop, 1);
    let start = |argv: &[&str], leaf: &str| Start {
        label: Label::default(),
        mode: Mode::Workload,
        action: Action::Exec {
            argv: argv.iter().map(OsString::from).collect(),
            env: Vec::new(),
            cwd: "/".into(),
            log: None,
            isolate: Some("x".into()),
        },
        leaf: Some(leaf.to_owned()),
    };
    for (argv, leaf, words) in [
        (&["/does/not/exist"][..], "c1", "No such file"),
        (&[][..], "c1", "empty argument vector"),
        (&["/bin/true"][..], "../up", "no name for a cgroup leaf"),
        (&["/bin/true"][..], "", "no name for a cgroup leaf"),
    ] {
        match client.start(start(argv, leaf), PATIENCE) {
            Err(StarterError::Refused { reason, no_lease: false }) => assert!(reason.contains(words), "{reason}"),
            other => panic!("{argv:?}: {other:?}"),
        }
    }
    assert_eq!(client.list().expect("list"), []);
}

#[test]
fn a_runtime_leaves_its_workload_to_the_starter() {
    let rig = Rig::new("through");
    rig.incarnation(1);
    let mut client = rig.client(Policy::Stop, 1);
    let mut watch = rig.client(Policy::Stop, 1).watch().expect("watch");
    let pid_file = rig.folder.join("pid");
    let start = |script: &str| Start {
        label: Label { container: 4, ..Label::default() },
        mode: Mode::Through { pid_file: pid_file.clone() },
        action: match rig.exec(script) {
            Action::Exec { argv, env, cwd, log, .. } => Action::Exec { argv, env, cwd, log, isolate: None },
            other => other,
        },
        leaf: Some("c4".into()),
    };
    let long = client.start(start("setsid sh -c 'sleep 1000; exit 5' $0 & echo $! > pid"), PATIENCE).expect("start");
    let task = client.list().expect("list").remove(0);
    assert_eq!((task.id, task.state), (long, TaskState::Running));
    client.signal(long, 9, true).expect("signal");
    assert_eq!(watch.next(PATIENCE).expect("alive").expect("exit").id, long);
    // The runtime's own helper may end after the runtime: only then the workload becomes the starter's child.
    let slow = "rm -f pid.new; sh -c 'sh -c \"echo \\$\\$ > pid.new; mv pid.new pid; exec sleep 1000\" & sleep 0.3' &
        while [ ! -s pid ]; do :; done";
    let late = client.start(start(slow), PATIENCE).expect("start");
    assert_eq!(
        client.list().expect("list").last().map(|task| (task.id, task.state.clone())),
        Some((late, TaskState::Running))
    );
    client.signal(late, 9, true).expect("signal");
    assert_eq!(watch.next(PATIENCE).expect("alive").expect("exit").id, late);
    // It may end before the runtime does; its code is not lost.
    let quick = "(sh -c 'echo $$ > pid; exit 5' &); while [ ! -s pid ] || kill -0 $(cat pid); do :; done";
    client.start(start(quick), PATIENCE).expect("start");
    let exit = watch.next(PATIENCE).expect("alive").expect("exit");
    assert!(matches!(exit.state, TaskState::Exited { code: 5, .. }), "{exit:?}");
    match client.start(start("sleep 1000 & exit 9"), PATIENCE) {
        Err(StarterError::Refused { reason, .. }) => assert!(reason.contains("code 9"), "{reason}"),
        other => panic!("{other:?}"),
    }
    if rig.client(Policy::Stop, 1).greeting().expect("greeting").cgroup.is_some() {
        let sleeping = processes_with("1000").into_iter().filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains("/i1/stop/c4"))
        });
        assert_eq!(sleeping.count(), 0, "what a failed runtime began is gone");
    }
}

#[test]
fn an_agent_that_restarts_ends_starts_under_way_and_finds_the_rest() {
    let rig = Rig::new("settle");
    rig.incarnation(1);
    let running = rig.start(&mut rig.client(Policy::Stop, 1), 1, TICKING);
    let run_dir = rig.run_dir();
    let slow = Start {
        label: Label { container: 2, ..Label::default() },
        mode: Mode::Through { pid_file: rig.folder.join("pid") },
        action: rig.exec("sleep 1000"),
        leaf: Some("c2".into()),
    };
    let hanging = std::thread::spawn(move || {
        Client::connect(&run_dir, Policy::Stop, 1)
            .expect("connect")
            .start(slow, PATIENCE)
            .map_err(|error| error.to_string())
    });
    let mut client = rig.client(Policy::Stop, 1);
    until("the start is under way", || client.list().expect("list").len() == 2);
    client.settle(PATIENCE).expect("settle");
    let left: Vec<(u64, TaskState)> =
        client.list().expect("list").into_iter().map(|task| (task.id, task.state)).collect();
    assert_eq!(left, [(running, TaskState::Running)]);
    assert!(hanging.join().expect("join").is_err());
}

#[test]
fn latch_by_the_agent_is_terminal_and_a_new_incarnation_follows_without_a_restart() {
    let rig = Rig::new("latch");
    rig.incarnation(1);
    rig.start(&mut rig.client(Policy::Stop, 1), 1, TICKING);
    until("runs", || processes_with(&rig.marker).len() == 1);
    rig.slot.latch(1).expect("latch");
    until("ended", || rig.slot.incarnation(1).expect("known").ended);
    assert!(processes_with(&rig.marker).is_empty());
    assert!(rig.slot.set_deadline(1, u64::MAX).is_err());
    // Through all entries and around: each is used again only after its record.
    for incarnation in 2..12 {
        rig.incarnation(incarnation);
        rig.start(&mut rig.client(Policy::Stop, incarnation), 1, TICKING);
        until("runs", || processes_with(&rig.marker).len() == 1);
        rig.slot.latch(incarnation).expect("latch");
        until("ended", || rig.slot.incarnation(incarnation).expect("known").ended);
        assert!(processes_with(&rig.marker).is_empty());
    }
    assert_eq!(record::read(&rig.folder.join("state")).expect("read").len(), 11);
}

#[test]
fn terms_are_acknowledged_by_the_guard() {
    let rig = Rig::new("terms");
    rig.incarnation(1);
    let terms = Terms { lease_ms: 60_000, kill_ms: 250 };
    rig.slot.want_terms(terms, 100);
    until("in force", || rig.slot.terms_in_force() == terms);
    assert!(rig.slot.incarnation(1).expect("known").deadline_ns <= boottime_ns() + 60_000_000_000);
    assert_eq!(rig.slot.incarnation(1).expect("known").latched, None);
}

#[test]
fn the_guard_becomes_its_new_binary_without_touching_a_workload() {
    let rig = Rig::new("reexec");
    rig.incarnation(1);
    let id = rig.start(&mut rig.client(Policy::Stop, 1), 1, TICKING);
    let before = rig.slot.state();
    rig.slot.ask_reexec();
    until("re-executed", || rig.slot.reexec_outcome() == Some(true));
    let after = rig.slot.state();
    assert_eq!((after.guard_pid, after.guard_starts), (before.guard_pid, before.guard_starts + 1));
    assert_eq!(rig.client(Policy::Stop, 1).list().expect("list")[0].id, id);
    assert_eq!(rig.slot.incarnation(1).expect("known").namespace, [NamespaceState::Ready; 2]);
    rig.slot.latch(1).expect("latch");
    until("the new life still ends it", || rig.slot.incarnation(1).expect("known").ended);
    assert!(processes_with(&rig.marker).is_empty());
}

#[test]
fn a_second_guard_in_the_same_place_is_refused() {
    let rig = Rig::new("second");
    let output = Command::new(env!("CARGO_BIN_EXE_quorate-guard"))
        .arg("--slot")
        .arg(rig.folder.join("slot"))
        .arg("--run-dir")
        .arg(rig.run_dir())
        .arg("--state-dir")
        .arg(rig.folder.join("state"))
        .output()
        .expect("spawn");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("another guard holds"));
}

#[test]
fn a_stopped_guard_is_seen_and_killing_it_is_the_agents_last_resort() {
    let rig = Rig::new("stopped");
    if !rig.slot.state().fencing_class().enforced {
        return skip("no pid namespaces");
    }
    rig.incarnation(1);
    rig.start(&mut rig.client(Policy::Stop, 1), 1, TICKING);
    let pid = rustix::process::Pid::from_raw(rig.guard.id() as i32).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("stop");
    until("its silence shows", || rig.slot.guard_silence_ns() > 200_000_000);
    assert_eq!(processes_with(&rig.marker).len(), 1);
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill");
    until("the kernel ends them", || processes_with(&rig.marker).is_empty());
}

#[test]
fn mounts_of_a_namespace_end_with_it() {
    if !root() {
        return skip("mounts need root");
    }
    let rig = Rig::new("mounts");
    rig.incarnation(1);
    let place = rig.folder.join("place");
    std::fs::create_dir(&place).expect("folder");
    let mount = Action::Mount {
        kind: "tmpfs".into(),
        source: "tmpfs".into(),
        target: place.clone(),
        options: "size=64k".into(),
        bind: false,
    };
    let mut client = rig.client(Policy::Stop, 1);
    assert_eq!(client.run(Label::default(), mount, PATIENCE).expect("mount"), 0);
    let write = rig.exec("echo inside > place/file; echo seen $(cat place/file)");
    let write = match write {
        Action::Exec { argv, env, cwd, log, .. } => Action::Exec { argv, env, cwd, log, isolate: None },
        other => other,
    };
    assert_eq!(client.run(Label::default(), write, PATIENCE).expect("run"), 0);
    assert_eq!(rig.log(), "seen inside\n");
    assert!(!place.join("file").exists(), "the host does not see it");
    let missing = Action::Unmount { target: rig.folder.join("nowhere") };
    assert!(matches!(client.run(Label::default(), missing, PATIENCE), Err(StarterError::Refused { .. })));
    assert_eq!(client.run(Label::default(), Action::Unmount { target: place }, PATIENCE).expect("unmount"), 0);
}

#[test]
fn an_end_that_hangs_past_k_costs_the_class_until_rehearsals_show_it_again() {
    // A task frozen by the version 1 freezer does not die until it is thawed: a kill that hangs.
    let freezer = Path::new("/sys/fs/cgroup/freezer");
    if !root() || !freezer.join("cgroup.procs").exists() {
        return skip("needs root and a version 1 freezer hierarchy");
    }
    let rig = Rig::new("hangs");
    rig.incarnation(1);
    rig.start(&mut rig.client(Policy::Stop, 1), 1, TICKING);
    until("runs", || processes_with(&rig.marker).len() == 1);
    let group = freezer.join(&rig.marker);
    std::fs::create_dir(&group).expect("group");
    let frozen = processes_with(&rig.marker)[0];
    std::fs::write(group.join("cgroup.procs"), frozen.to_string()).expect("move");
    std::fs::write(group.join("freezer.state"), "FROZEN").expect("freeze");
    until("frozen", || std::fs::read_to_string(group.join("freezer.state")).is_ok_and(|text| text == "FROZEN\n"));
    assert!(rig.slot.state().fencing_class().enforced);
    rig.slot.latch(1).expect("latch");
    until("overdue", || rig.slot.incarnation(1).expect("known").overdue_at_ns.is_some());
    let state = rig.slot.incarnation(1).expect("known");
    assert!(!state.ended && state.dead_at_ns.is_none(), "nothing is said while it lives: {state:?}");
    assert!(!rig.slot.state().fencing_class().enforced);
    std::fs::write(group.join("freezer.state"), "THAWED").expect("thaw");
    until("ended", || rig.slot.incarnation(1).expect("known").ended);
    until("the group is empty", || std::fs::remove_dir(&group).is_ok());
    until("rehearsed", || rig.slot.state().fencing_class().enforced);
    let reason = rig.slot.state().fencing_class().reason;
    assert!(reason.contains("class lost 1 times"), "{reason}");
}

#[test]
fn an_unprivileged_guard_holds_its_workloads_by_a_user_namespace() {
    if !root() {
        return skip("needs root to become another user");
    }
    let mut rig = Rig::with("unprivileged", Some(65_534), &[]);
    let class = rig.slot.state().fencing_class();
    if !class.enforced {
        return skip(&format!("user namespaces are not allowed here: {}", class.reason));
    }
    rig.incarnation(1);
    let greeting = rig.client(Policy::Stop, 1).greeting().expect("greeting");
    assert!(greeting.user_namespace && greeting.pid_namespace, "{greeting:?}");
    rig.start(&mut rig.client(Policy::Stop, 1), 1, TICKING);
    until("runs", || processes_with(&rig.marker).len() == 1);
    rig.kill_guard();
    until("the kernel ends it", || processes_with(&rig.marker).is_empty());
}

#[test]
fn without_namespaces_the_class_is_f0_and_cgroups_still_end_it() {
    let rig = Rig::with("plain", None, &["--no-namespaces"]);
    assert!(!rig.slot.state().fencing_class().enforced);
    rig.incarnation(1);
    let mut client = rig.client(Policy::Stop, 1);
    if client.greeting().expect("greeting").cgroup.is_none() {
        return skip("no cgroup.kill");
    }
    rig.start(&mut client, 1, "setsid sh -c 'while :; do sleep 1; done' $0 & wait");
    until("two run", || processes_with(&rig.marker).len() == 2);
    rig.slot.latch(1).expect("latch");
    until("ended", || rig.slot.incarnation(1).expect("known").ended);
    assert!(processes_with(&rig.marker).is_empty());
}

#[test]
fn self_test_passes_here_and_refuses_a_foreign_slot() {
    let folder = std::env::temp_dir().join(format!("quorate-guard-selftest-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("folder");
    let run = |slot: &Path| {
        let guard =
            Command::new(env!("CARGO_BIN_EXE_quorate-guard")).arg("--self-test").arg("--slot").arg(slot).output();
        guard.expect("spawn")
    };
    Slot::create(&folder.join("slot")).expect("slot");
    let output = run(&folder.join("slot"));
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("slot layout: known"));
    std::fs::write(folder.join("foreign"), [1u8; 4096]).expect("write");
    assert!(!run(&folder.join("foreign")).status.success());
    std::fs::remove_dir_all(&folder).expect("remove");
}

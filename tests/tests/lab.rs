//! Stories told by real machines: five nodes and three members as separate hosts, real OCI containers, a cluster that is
//! driven by its own command alone. Judged by what the containers wrote, through a checker of its own.
//! Needs root, iproute2, util-linux and crun or runc; says so where it cannot run. Each prints its figures:
//! `cargo nextest run -p tests --features lab --test lab --no-capture`.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tests::lab::history::Fault;
use tests::lab::world::{self, End, tell, tell_until};
use tests::lab::{BUSY, Container, DECISION, LEASE_AND_KILL, Lab, WAIT, figures, longest, now_ns};
use tests::nemesis;
use tests::processes::{not_run, program, until_so};

/// From `since_ns` to the first line of the last life of each.
fn back_after(lab: &Lab, containers: &[Container], since_ns: u64) -> Vec<u64> {
    lab.last_two_lives(containers).iter().map(|(_, after)| after.first_ns.saturating_sub(since_ns)).collect()
}

/// From the last line of the old life to the first of the new one.
fn nobody_ran_for(lab: &Lab, containers: &[Container]) -> Vec<u64> {
    lab.last_two_lives(containers).iter().map(|(before, after)| after.first_ns - before.last_ns).collect()
}

#[test]
fn a_node_loses_its_power_and_twenty_containers_come_back_elsewhere() {
    tell("a_node_loses_its_power_and_twenty_containers_come_back_elsewhere", |lab| {
        let names = lab.run_on("node-1", "c", 20);
        let incarnation = lab.node("node-1").incarnation;
        assert_eq!(lab.witnesses_on("node-1").len(), 20, "each container is a process of its own");
        assert!(!lab.cgroups_of("node-1", incarnation).is_empty());

        let cut = now_ns();
        lab.dev("kill", &["node-1"]);
        assert_eq!(lab.witnesses_on("node-1"), [], "no power, no processes");
        assert_eq!(lab.mounts_of("node-1"), Vec::<String>::new(), "no power, no mounts");

        let back = lab.await_elsewhere(&names, "node-1", cut);
        let spans = back_after(lab, &back, cut);
        println!("power loss, {}: failover {}", lab.runtime(), figures(spans.clone()));
        assert!(longest(&spans) <= DECISION + BUSY, "the last came back after {:?}", longest(&spans));
        lab.assert_single_runner(&names);

        lab.dev("power-on", &["node-1"]);
        lab.await_health("node-1", "UP");
        assert!(lab.node("node-1").incarnation > incarnation, "whoever comes back is somebody new");
        assert_eq!(lab.cgroups_of("node-1", incarnation), Vec::<std::path::PathBuf>::new());
        assert_eq!(lab.witnesses_on("node-1"), [], "what moved away stays away");
        lab.assert_single_runner(&names);
    });
}

#[test]
fn a_node_off_the_network_ends_its_containers_before_others_start_them() {
    tell("a_node_off_the_network_ends_its_containers_before_others_start_them", |lab| {
        let names = lab.run_on("node-1", "c", 8);
        let incarnation = lab.node("node-1").incarnation;
        let registrations = lab.registrations("node-1");
        let cut = now_ns();
        lab.dev("cut", &["node-1"]);
        let back = lab.await_elsewhere(&names, "node-1", cut);

        let ended: Vec<u64> =
            lab.last_two_lives(&back).iter().map(|(before, _)| before.last_ns.saturating_sub(cut)).collect();
        println!("cut off: ended by its own guard after {}", figures(ended.clone()));
        println!("cut off: failover {}", figures(back_after(lab, &back, cut)));
        println!("cut off: nobody ran for {}", figures(nobody_ran_for(lab, &back)));
        // The heartbeat on its way when the link went down may still have been acknowledged.
        assert!(longest(&ended) <= LEASE_AND_KILL + BUSY / 10, "one lived for {:?}", longest(&ended));
        assert_eq!(lab.witnesses_on("node-1"), [], "the node has power, its containers have not");
        lab.assert_single_runner(&names);

        lab.dev("heal", &["node-1"]);
        lab.await_health("node-1", "UP");
        assert!(lab.node("node-1").incarnation > incarnation);
        let more = lab.run_on("node-1", "after", 1);
        lab.assert_single_runner(&[names, more].concat());
        assert_eq!(lab.registrations("node-1"), registrations + 1, "a healed link registers once");
    });
}

#[test]
fn one_way_to_the_leader_is_cut_and_nobody_is_fenced() {
    tell("one_way_to_the_leader_is_cut_and_nobody_is_fenced", |lab| {
        let names = lab.run_on("node-1", "c", 4);
        let leader = lab.leader();
        let cut = now_ns();
        lab.dev("cut", &["node-1", "--to", &leader]);
        // Long enough for a node that is believed dead to be replaced twice.
        lab.await_writing_at(&names, cut + 2 * WAIT.as_nanos() as u64);
        assert_eq!(lab.fencings(), Vec::<String>::new());
        unbroken(lab, &names);
        lab.dev("heal", &["node-1"]);
        lab.await_health("node-1", "UP");
        println!("one way cut to {leader}: nobody fenced, no life ended; {} leads now", lab.leader());
        lab.assert_single_runner(&names);
    });
}

#[test]
fn the_leaders_host_is_cut_off_and_the_cluster_goes_on() {
    tell("the_leaders_host_is_cut_off_and_the_cluster_goes_on", |lab| {
        let names = lab.run_on("node-1", "c", 4);
        let leader = lab.leader();
        let cut = now_ns();
        lab.dev("cut", &[&leader]);
        let more = lab.run_on("node-2", "meanwhile", 2);
        println!("{leader} cut off: two new containers ran {} ms later", (now_ns() - cut) / 1_000_000);
        assert_ne!(lab.leader(), leader);
        lab.await_writing_at(&names, cut + 2 * WAIT.as_nanos() as u64);
        assert_eq!(lab.fencings(), Vec::<String>::new(), "a leader that is lost costs no lease");
        unbroken(lab, &names);
        lab.dev("heal", &[&leader]);
        until_so(&format!("{leader} follows again"), || {
            let status = lab.ctl(&["cluster", "status"]);
            let members = status["members"].as_array().cloned().unwrap_or_default();
            members.iter().any(|it| it["name"] == leader.as_str() && it["reachable"] == true)
        });
        lab.assert_single_runner(&[names, more].concat());
    });
}

#[test]
fn an_agent_is_killed_and_its_containers_are_adopted() {
    tell("an_agent_is_killed_and_its_containers_are_adopted", |lab| {
        let names = lab.run_on("node-1", "c", 6);
        let before = lab.witnesses_on("node-1");
        let epochs: Vec<u64> = lab.containers(&names).iter().map(|it| it.epoch).collect();
        let kill = now_ns();
        lab.dev("kill", &["node-1", "--service", "agent"]);
        // Beyond the lease the dead agent left: only one that came back can have prolonged it.
        lab.await_writing_at(&names, kill + 2 * WAIT.as_nanos() as u64);
        assert_eq!(lab.witnesses_on("node-1"), before, "the same processes, started once");
        assert_eq!(lab.containers(&names).iter().map(|it| it.epoch).collect::<Vec<_>>(), epochs);
        assert_eq!(lab.fencings(), Vec::<String>::new());
        unbroken(lab, &names);
        println!("agent killed: {} containers adopted, no life ended", names.len());
        lab.assert_single_runner(&names);
    });
}

#[test]
fn agent_and_guard_are_killed_and_the_kernel_ends_the_containers() {
    tell("agent_and_guard_are_killed_and_the_kernel_ends_the_containers", |lab| {
        let names = lab.run_on("node-1", "c", 6);
        let guard = lab.guard_of("node-1");
        let before = lab.witnesses_on("node-1");
        let kill = now_ns();
        // Frozen first, so that neither sees the other die.
        lab.dev("pause", &["node-1", "--service", "agent"]);
        lab.signal(guard, Signal::KILL);
        until_so("the kernel has ended the containers", || {
            lab.witnesses_on("node-1").iter().all(|now| !before.contains(now))
        });
        println!("agent and guard killed: nothing runs {} ms later", (now_ns() - kill) / 1_000_000);
        lab.dev("kill", &["node-1", "--service", "agent"]);
        until_so("everything runs again", || {
            let all = lab.containers(&names);
            all.iter().all(|it| it.running && it.epoch > 1 && lab.writes_since(it, kill))
        });
        let all = lab.containers(&names);
        println!("agent and guard killed: back after {}", figures(back_after(lab, &all, kill)));
        lab.assert_single_runner(&names);
    });
}

#[test]
fn a_frozen_machine_is_the_exposure_of_its_class_and_is_shown() {
    tell("a_frozen_machine_is_the_exposure_of_its_class_and_is_shown", |lab| {
        let names = lab.run_on("node-1", "c", 6);
        let incarnation = lab.node("node-1").incarnation;
        let freeze = now_ns();
        lab.dev("pause", &["node-1"]);
        let frozen = lab.witnesses_on("node-1");
        let back = lab.await_elsewhere(&names, "node-1", freeze);
        println!("frozen: failover {}", figures(back_after(lab, &back, freeze)));
        assert_eq!(lab.witnesses_on("node-1"), frozen, "no guard can act while it is frozen");

        // The worst thaw there is: the containers first. Class F1 does not promise more, and the lab shows what that means.
        frozen.iter().for_each(|process| lab.signal(process.pid, Signal::CONT));
        until_so("the thawed containers are seen to run twice", || {
            lab.containers(&names).iter().all(|it| !lab.history(it).faults.is_empty())
        });
        let thaw = now_ns();
        lab.dev("resume", &["node-1"]);
        until_so("the guard has ended them", || lab.witnesses_on("node-1").is_empty());
        println!("frozen: the guard, thawed, has ended everything {} ms later", (now_ns() - thaw) / 1_000_000);
        lab.await_health("node-1", "UP");
        assert!(lab.node("node-1").incarnation > incarnation, "it knows that it was away");

        let mut exposed = Vec::new();
        for container in lab.containers(&names) {
            for fault in lab.history(&container).faults {
                match fault {
                    Fault::Together { stale, newer, for_ns } if stale.node == "node-1" && newer.node != "node-1" => {
                        exposed.push(for_ns);
                    }
                    other => panic!("{}: {other}", container.name),
                }
            }
        }
        println!("frozen: F1 exposure, from the new one's start to the old one's last line: {}", figures(exposed));
        lab.await_writing_at(&names, now_ns());
    });
}

#[test]
fn drain_and_leave_move_everything_without_a_fence() {
    tell("drain_and_leave_move_everything_without_a_fence", |lab| {
        let drained = lab.run_on("node-1", "drained", 6);
        let left = lab.run_on("node-2", "left", 6);
        for (verb, node, names) in [("drain", "node-1", &drained), ("leave", "node-2", &left)] {
            let order = now_ns();
            lab.ctl(&["node", verb, node, "--wait"]);
            let moved = lab.await_elsewhere(names, node, order);
            println!("{verb}: nobody ran for {}", figures(nobody_ran_for(lab, &moved)));
            assert_eq!(lab.witnesses_on(node), []);
        }
        // A leave ends an incarnation for good: its receipt is written at once, nothing was waited for.
        let fencings = lab.fencings();
        let in_good_order = |text: &String| text.starts_with("node-2 ") && text.ends_with("left gracefully");
        assert!(fencings.len() == 1 && fencings.iter().all(in_good_order), "{fencings:?}");
        lab.assert_single_runner(&[drained, left].concat());
    });
}

#[test]
fn a_template_is_imported_once_and_containers_run_from_it_on_every_node() {
    tell("a_template_is_imported_once_and_containers_run_from_it_on_every_node", |lab| {
        let shared = lab.dir.join("shared");
        let tree = shared.join("templates/demo").display().to_string();
        let archive = shared.join("demo.tar").display().to_string();
        let packed = Command::new("tar").args(["-C", &tree, "-cf", &archive, "."]).status().expect("tar runs");
        assert!(packed.success());
        let import = |name: &str, source: &str, more: &[&str]| {
            let words = ["template", "import", name, "--storage", "shared", "--from", source];
            lab.try_ctl(&[&words, more].concat())
        };
        let began = now_ns();
        let first = import("packed", &archive, &["--node", "node-1"]).expect("it is imported");
        println!("imported {} bytes in {} ms", first["template"]["bytes"], (now_ns() - began) / 1_000_000);
        assert_eq!((&first["node"], &first["wasThere"]), (&"node-1".into(), &false.into()));
        // The same from a folder, on another node: the same digest, and nothing is written twice.
        let again = import("copied", &tree, &["--node", "node-2"]).expect("it is imported");
        assert_eq!(again["wasThere"], true, "{again}");
        assert_eq!(again["template"]["digest"], first["template"]["digest"]);

        let kept = || {
            let templates = lab.ctl(&["template", "list"])["templates"].as_array().cloned().unwrap_or_default();
            let digests: Vec<Value> = templates.iter().map(|it| json!([it["name"], it["digest"]])).collect();
            (listed(&shared.join("templates")), digests)
        };
        let before = kept();
        let wrong = format!("sha256:{}", "0".repeat(64));
        let refused = import("wrong", &archive, &["--digest", &wrong]).expect_err("another digest was expected");
        assert!(refused.contains("has digest sha256:"), "{refused}");
        let bad = shared.join("bad.tar");
        let whole = std::fs::read(&archive).expect("an archive");
        std::fs::write(&bad, &whole[..whole.len() / 2]).expect("room");
        let refused = import("bad", &bad.display().to_string(), &[]).expect_err("the archive was cut");
        assert!(refused.contains("bad-archive"), "{refused}");
        assert_eq!(kept(), before, "what was refused changed nothing");

        for node in ["node-1", "node-3"] {
            let names = lab.run_from("packed", node, &format!("of-{node}"), 1);
            lab.assert_single_runner(&names);
        }
        let refused = lab.try_ctl(&["template", "remove", "packed"]).expect_err("containers use it");
        assert!(refused.contains("2 containers"), "{refused}");
        lab.ctl(&["template", "remove", "copied"]);
    });
}

#[test]
fn application_templates_move_with_their_container() {
    tell("application_templates_move_with_their_container", |lab| {
        let shared = lab.dir.join("shared");
        std::fs::write(shared.join("templates/demo/etc-which"), "os").expect("written");
        for (name, files) in [("lower", ["etc-which", "lower"]), ("upper", ["etc-which", "upper"])] {
            let tree = lab.dir.join(name);
            std::fs::create_dir(&tree).expect("a folder");
            files.iter().for_each(|file| std::fs::write(tree.join(file), name).expect("written"));
            let source = tree.display().to_string();
            lab.ctl(&["template", "import", name, "--kind", "application", "--storage", "shared", "--from", &source]);
        }
        let names = lab.run_layered("demo", &["lower", "upper"], "node-1", "layered", 2);
        let seen = |node: &str| {
            let read = |root: &Path, file: &str| std::fs::read_to_string(root.join(file)).unwrap_or_default();
            let roots = lab.witnesses_on(node).into_iter().map(|it| PathBuf::from(format!("/proc/{}/root", it.pid)));
            roots.map(|root| ["etc-which", "lower", "upper"].map(|file| read(&root, file))).collect::<Vec<_>>()
        };
        let wanted = vec![["upper", "lower", "upper"].map(str::to_owned); 2];
        assert_eq!(seen("node-1"), wanted);
        let cut = now_ns();
        lab.dev("kill", &["node-1"]);
        let back = lab.await_elsewhere(&names, "node-1", cut);
        println!("two layers over one: failover {}", figures(back_after(lab, &back, cut)));
        let nodes: BTreeSet<&str> = back.iter().map(|container| container.node.as_str()).collect();
        let everywhere: Vec<_> = nodes.into_iter().flat_map(seen).collect();
        assert_eq!(everywhere, wanted);
        lab.assert_single_runner(&names);
    });
}

/// Names in a folder, in order.
fn listed(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_storage_lost_on_one_node_moves_what_needs_it_and_nothing_else() {
    tell("a_storage_lost_on_one_node_moves_what_needs_it_and_nothing_else", |lab| {
        let names = lab.run_on("node-1", "c", 3);
        let others = lab.run_on("node-2", "d", 2);
        let (shared, disks) = (lab.dir.join("shared"), lab.dir.join("disks"));
        std::fs::create_dir(&disks).expect("a folder");
        let copied = Command::new("cp").arg("-a").arg(shared.join("templates")).arg(&disks).status().expect("cp runs");
        assert!(copied.success());
        let added = lab.ctl(&["storage", "add", "disks", "--directory", &disks.display().to_string()]);
        assert_eq!(added["nodesUsable"], tests::lab::NODES, "{added}");
        let beside = vec!["beside".to_owned()];
        lab.create_on("demo", "disks", "node-1", &beside);
        until_so("what lies on the other storage runs", || lab.containers(&beside).iter().all(|it| it.running));
        let before = lab.containers(&beside)[0].clone();

        // Something else lies over it, and takes no write: what a share that is gone looks like to those who come.
        let agent = lab.services("node-1", "quorate-agent")[0];
        let on_node_1 = |words: &[&str]| {
            let target = format!("--target={agent}");
            let mut command = Command::new("nsenter");
            let done = command.args([&target, "--mount"]).args(words).arg(&shared).status().expect("nsenter runs");
            assert!(done.success(), "{words:?}");
        };
        let incarnation = lab.node("node-1").incarnation;
        let lost = now_ns();
        on_node_1(&["mount", "-t", "tmpfs", "-o", "ro", "none"]);
        let back = lab.await_elsewhere(&names, "node-1", lost);
        println!("storage lost on one node: elsewhere after {}", figures(back_after(lab, &back, lost)));
        println!("storage lost on one node: nobody ran for {}", figures(nobody_ran_for(lab, &back)));
        assert_eq!(lab.fencings(), Vec::<String>::new(), "the agent's word is the receipt");
        assert_eq!(lab.node("node-1").incarnation, incarnation, "the node lives on");
        let after = lab.containers(&beside)[0].clone();
        assert_eq!((&*after.node, after.epoch, after.running), ("node-1", before.epoch, true), "it needs another one");
        assert_eq!(lab.witnesses_on("node-1").len(), 1);
        unbroken(lab, &others);
        lab.assert_single_runner(&[names, others].concat());
        let seen = lab.ctl(&["storage", "show", "shared"]);
        assert_eq!((&seen["storage"]["nodesLost"], &seen["storage"]["nodesUsable"]), (&1.into(), &4.into()), "{seen}");

        on_node_1(&["umount"]);
        until_so("the storage is back on node-1", || {
            lab.ctl(&["storage", "show", "shared"])["storage"]["nodesUsable"] == tests::lab::NODES
        });
        lab.run_on("node-1", "again", 1);
    });
}

#[test]
fn a_lab_that_is_killed_leaves_nothing() {
    tell_until("a_lab_that_is_killed_leaves_nothing", End::Killed, |lab| {
        lab.run_on("node-1", "c", 2);
        std::process::abort();
    });
}

#[test]
fn a_nemesis_that_is_interrupted_leaves_nothing() {
    if let Some(reason) = world::lacks() {
        not_run("a_nemesis_that_is_interrupted_leaves_nothing", &reason);
        return;
    }
    // As a terminal does it: everybody in the foreground hears of it.
    let mut script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("nemesis"));
    script.args(["--minutes", "5"]).process_group(0).stdin(Stdio::null()).stderr(Stdio::piped());
    script.env("QUORATE_BIN_DIR", program("quoratectl").parent().expect("a folder of programs"));
    let mut script = script.spawn().expect("it starts");
    let mut said = BufReader::new(script.stderr.take().expect("it is piped")).lines();
    assert!(said.any(|line| line.is_ok_and(|line| line.contains("six witnesses"))), "it never came so far");
    let runs: Vec<u32> = world::folders("quorate-nemesis-")
        .iter()
        .filter_map(|folder| folder.to_str()?.rsplit('-').next()?.parse().ok())
        .filter(|pid| nemesis::world::left_of(*pid).iter().any(|it| it.starts_with("process")))
        .collect();
    assert_eq!(runs.len(), 1, "one run is up");
    let group = Pid::from_child(&script);
    kill_process_group(group, Signal::INT).expect("the group is there");
    assert!(!script.wait().expect("a child").success(), "it was interrupted");
    assert_eq!(nemesis::world::left_of(runs[0]), Vec::<String>::new());
}

/// One life each, without a gap in its lines.
#[track_caller]
fn unbroken(lab: &Lab, names: &[String]) {
    for container in lab.containers(names) {
        let history = lab.history(&container);
        assert!(history.lives.len() == 1 && history.faults.is_empty(), "{}: {history:?}", container.name);
    }
}

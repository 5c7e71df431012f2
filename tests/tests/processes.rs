//! Real programs, started, killed, frozen and started again: members keep what they acknowledged, containers are adopted,
//! ended by the kernel, by the guard, or handed over; and every program says what is wrong with what it was given.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tests::processes::{Cluster, Folder, not_run, number, program, request_id, run, until, until_so};

fn annotate(cluster: &Cluster, member: usize, value: u64) -> u64 {
    let set = json!({ "set": { "value": value.to_string() } });
    number(&cluster.members[member].order("POST", "/v1/containers/ledger:annotate", set)["revision"])
}

/// What the member itself has applied, without asking anybody; 0 if it has nothing.
fn stale(cluster: &Cluster, member: usize) -> u64 {
    let reply = cluster.members[member].get("/v1/containers/ledger?stale=true");
    let value = (reply.status == 200).then(|| reply.json()["container"]["spec"]["annotations"]["value"].clone());
    value.and_then(|value| value.as_str()?.parse().ok()).unwrap_or(0)
}

#[test]
fn members_killed_come_back_with_their_data() {
    let mut cluster = Cluster::start("killed", 3, "fast");
    cluster.furnish();
    cluster.create("ledger", json!({}));
    let mut value = 0;
    let mut write = |cluster: &Cluster, through: usize| {
        value += 1;
        annotate(cluster, through, value);
        value
    };

    // A follower: the others go on, and it catches up.
    let leader = cluster.leader();
    let follower = (leader + 1) % 3;
    write(&cluster, leader);
    cluster.members[follower].kill();
    let last = write(&cluster, leader);
    cluster.members[follower].start(&[]);
    until_so("the follower has what it missed", || stale(&cluster, follower) == last);

    // The leader: another one leads, and nothing acknowledged is lost.
    cluster.members[leader].kill();
    assert_ne!(cluster.leader(), leader);
    let last = write(&cluster, follower);
    cluster.members[leader].start(&[]);
    until_so("the old leader follows", || stale(&cluster, leader) == last);

    // All at once: whatever was acknowledged is there.
    let last = write(&cluster, leader);
    cluster.members.iter_mut().for_each(|member| member.kill());
    cluster.members.iter_mut().for_each(|member| member.start(&[]));
    let spec = cluster.container("ledger")["spec"].clone();
    assert_eq!(spec["annotations"]["value"], last.to_string());
    for member in 0..3 {
        until_so("every member has it", || stale(&cluster, member) == last);
    }
    write(&cluster, 0);
}

#[test]
fn member_asked_to_stop_ends_well_and_hands_over_leadership() {
    let mut cluster = Cluster::start("stopped", 3, "fast");
    let leader = cluster.leader();
    let term = number(&cluster.members[leader].status().expect("it answers")["term"]);
    assert_eq!(cluster.members[leader].stop(), Some(0), "{}", cluster.members[leader].log());
    let next = cluster.leader();
    assert_ne!(next, leader);
    assert!(number(&cluster.members[next].status().expect("it answers")["term"]) > term);
}

/// A cluster whose nodes are up; `None`, said aloud, where this machine gives its nodes no namespaces.
fn with_nodes(name: &str, nodes: &[&str]) -> Option<Cluster> {
    let mut cluster = Cluster::start(name, 3, "fast");
    cluster.furnish();
    for node in nodes {
        cluster.join(node).start(&[], &[]);
    }
    for node in nodes {
        let seen = cluster.until_up(node);
        if seen["fencingClass"] == "FENCING_CLASS_F0" {
            not_run(name, &format!("{node} is of class F0: {}", seen["fencingClassReason"]));
            return None;
        }
    }
    Some(cluster)
}

fn epoch(container: &Value) -> u64 {
    number(&container["assignment"]["epoch"])
}

#[test]
fn agent_killed_alone_loses_no_container() {
    let Some(mut cluster) = with_nodes("adopted", &["node-1"]) else { return };
    cluster.create("web", json!({}));
    let before = cluster.until_runs("web");
    let living = cluster.living("web");
    let revision = cluster.members[0].revision();
    let incarnation = cluster.node("node-1")["incarnation"].clone();

    cluster.machines[0].kill_agent();
    cluster.machines[0].start(&[], &[]);
    // It has opened its session again when it says what it runs: an order goes through.
    cluster.until_up("node-1");
    let set = json!({ "set": { "seen": "yes" } });
    cluster.members[0].order("POST", "/v1/containers/web:annotate", set);
    let after = cluster.until_runs("web");
    assert_eq!((epoch(&after), cluster.living("web")), (epoch(&before), living));
    assert_eq!(cluster.node("node-1")["incarnation"], incarnation, "it is the same registration");
    let events = cluster.events_since(revision + 1);
    for never in ["node-fencing-begun", "fencing-begun", "node-fenced", "container-displaced", "container-assigned"] {
        assert!(!events.iter().any(|event| event == never), "{events:?}");
    }
    // And it is in charge: what is stopped, stops.
    cluster.members[0].order("POST", "/v1/containers/web:stop", json!({}));
    until_so("it has stopped", || cluster.container("web")["state"] == "CONTAINER_STATE_STOPPED");
    assert!(cluster.living("web").is_empty(), "said to be stopped, and something lives");
}

#[test]
fn agent_and_guard_killed_together_end_their_containers_by_the_kernel() {
    let Some(mut cluster) = with_nodes("orphans", &["node-1", "node-2"]) else { return };
    cluster.create("web", json!({ "preferredOwners": [{ "nodes": ["node-1"] }] }));
    let before = cluster.until_runs("web");
    assert_eq!(before["assignment"]["node"], "node-1");
    let living = cluster.living("web");

    let killed = Instant::now();
    cluster.machines[0].kill_agent_and_guard();
    until_so("the kernel ended what ran there", || !cluster.living("web").iter().any(|pid| living.contains(pid)));
    // Nobody waited for a lease: this is the end of a pid namespace.
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
    // And the cluster starts it elsewhere, later and under another epoch.
    let after = until("it runs on the other node", || {
        let seen = cluster.container("web");
        (seen["state"] == "CONTAINER_STATE_RUNNING" && seen["assignment"]["node"] == "node-2").then_some(seen)
    });
    assert!(epoch(&after) > epoch(&before));
    assert_eq!(cluster.living("web").len(), 1);
}

#[test]
fn frozen_agent_is_outlived_by_its_guard() {
    let Some(cluster) = with_nodes("frozen", &["node-1", "node-2"]) else { return };
    cluster.create("web", json!({ "preferredOwners": [{ "nodes": ["node-1"] }] }));
    let before = cluster.until_runs("web");
    assert_eq!(before["assignment"]["node"], "node-1");
    let living = cluster.living("web");
    let terms = cluster.read("/v1/cluster/settings")["settings"]["leaseTerms"].clone();
    let [lease, kill] = ["leaseMs", "killMs"].map(|key| Duration::from_millis(number(&terms[key])));

    cluster.machines[0].signal_agent(Signal::STOP);
    let frozen = Instant::now();
    let ended = until("the guard ended it", || {
        let now = Instant::now();
        (!cluster.living("web").iter().any(|pid| living.contains(pid))).then_some(now)
    });
    // The lease lasts from a heartbeat sent before the freeze. What looks here is scheduled by a busy machine as well.
    let busy = Duration::from_millis(1_500);
    assert!(ended - frozen <= lease + kill + busy, "{:?} after the agent froze", ended - frozen);

    let after = until("it runs on the other node", || {
        let seen = cluster.container("web");
        // Never two, at no look.
        assert!(cluster.living("web").len() <= 1, "it runs twice");
        (seen["state"] == "CONTAINER_STATE_RUNNING" && seen["assignment"]["node"] == "node-2").then_some(seen)
    });
    assert!(epoch(&after) > epoch(&before));
    // Thawed, it learns that it was fenced, and comes back as a new incarnation with nothing of the old.
    let old = number(&cluster.node("node-1")["incarnation"]);
    cluster.machines[0].signal_agent(Signal::CONT);
    until_so("the node is up again", || {
        let node = cluster.node("node-1");
        node["health"] == "NODE_HEALTH_UP" && number(&node["incarnation"]) > old
    });
    assert_eq!(cluster.living("web").len(), 1);
    assert_eq!(cluster.container("web")["assignment"]["node"], "node-2", "nothing moves back by itself");
}

#[test]
fn node_that_leaves_hands_over_without_a_fence() {
    let Some(mut cluster) = with_nodes("leaving", &["node-1", "node-2"]) else { return };
    cluster.create("web", json!({ "preferredOwners": [{ "nodes": ["node-1"] }] }));
    let before = cluster.until_runs("web");
    assert_eq!(before["assignment"]["node"], "node-1");
    let asked = Instant::now();
    let state_dir = cluster.machines[0].state_dir().display().to_string();
    let left = run("quorate-agent", &["leave", "--state-dir", &state_dir, "--within", "50"], &[]);
    assert_eq!(left.code, Some(0), "{left:?}");
    assert_eq!(cluster.machines[0].wait_agent(), Some(0), "{}", cluster.machines[0].log());
    let after = until("it runs on the other node", || {
        let seen = cluster.container("web");
        (seen["state"] == "CONTAINER_STATE_RUNNING" && seen["assignment"]["node"] == "node-2").then_some(seen)
    });
    assert!(epoch(&after) > epoch(&before));
    let receipt = cluster.node("node-1")["receipt"].clone();
    assert_eq!(receipt["kind"], "RECEIPT_KIND_LEFT", "{receipt}");
    assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
    // On the machine it left nothing lives; it comes back when its agent does.
    assert!(cluster.machines[0].guard().is_none(), "a guard without anything to watch");
    cluster.machines[0].start(&[], &[]);
    until_so("it is back", || cluster.node("node-1")["health"] == "NODE_HEALTH_UP");
}

#[test]
fn node_without_a_working_runtime_says_so() {
    let mut cluster = Cluster::start("runtime", 1, "fast");
    cluster.furnish();
    // A runtime that is there and does not work, found before any other.
    let folder = cluster.path().join("bin");
    let broken = folder.join("crun");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(&broken, "#!/bin/sh\necho no such thing here >&2\nexit 1\n").expect("a file");
    std::fs::set_permissions(&broken, std::fs::Permissions::from_mode(0o755)).expect("a file");
    let path = format!("{}:/usr/bin:/bin", folder.display());
    cluster.join("node-1").start(&["--runtime", "crun"], &[("PATH", &path)]);
    let node = until("the node is up", || {
        let node = cluster.node("node-1");
        let told = node["runtimesRefused"].as_array().is_some_and(|refused| !refused.is_empty());
        (node["health"] == "NODE_HEALTH_UP" && told).then_some(node)
    });
    assert_eq!(node["runtimes"], json!([]));
    assert!(node["runtimesRefused"][0].as_str().is_some_and(|why| why.starts_with("crun: ")), "{node}");
    cluster.create("web", json!({}));
    let why = until("it is known why it does not run", || {
        let why = cluster.read("/v1/containers/web:why");
        (why["decision"]["rejections"] != json!([]) && why["decision"] != Value::Null).then_some(why)
    });
    assert!(why.to_string().contains("runtime"), "{why}");
    assert_eq!(cluster.container("web")["state"], "CONTAINER_STATE_UNPLACED");
}

// ---- What a program was given ----

#[track_caller]
fn refuses(name: &str, words: &[&str], says: &[&str]) {
    let ended = run(name, words, &[]);
    assert!(ended.code.is_some_and(|code| code != 0), "{name} {words:?} was taken: {ended:?}");
    for word in says {
        assert!(ended.err.contains(word), "{name} {words:?} does not say {word:?}: {}", ended.err);
    }
    assert!(!ended.err.contains("panicked"), "{}", ended.err);
}

#[test]
fn typo_in_a_configuration_names_the_right_key() {
    let folder = Folder::new("typo");
    let file = folder.path().join("quorated.toml").display().to_string();
    std::fs::write(&file, "data_dir = \"/nonexistent\"\npeer_listn = \"127.0.0.1:1\"\n").expect("a file");
    refuses(
        "quorated",
        &["run", "--config", &file],
        &[&file, "there is no key `peer_listn`", "did you mean `peer_listen`?"],
    );
    std::fs::write(&file, "advertize_api = \"a:1\"\n").expect("a file");
    refuses("quorated", &["run", "--config", &file], &["`advertize_api`", "did you mean `advertise_api`?"]);
    std::fs::write(&file, "runtme = \"process\"\n").expect("a file");
    refuses("quorate-agent", &["run", "--config", &file], &[&file, "`runtme`", "`runtime`"]);
    let nowhere = folder.path().join("nowhere").display().to_string();
    refuses("quorated", &["run", "--config", &nowhere], &[&nowhere, "No such file"]);
    refuses("quorate-agent", &["run", "--config", &nowhere], &[&nowhere, "No such file"]);
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "something was made");
}

#[test]
fn addresses_that_cannot_be_are_refused_before_anything_is_made() {
    let folder = Folder::new("addresses");
    let data = folder.path().join("data").display().to_string();
    let run = |more: &[&str], says: &[&str]| refuses("quorated", &[&["run", "--data-dir", &data], more].concat(), says);
    run(&["--listen", "0.0.0.0:0"], &["0.0.0.0", "loopback", "--insecure"]);
    run(&["--listen", "somewhere"], &["listen", "somewhere"]);
    run(&["--bootstrap", "test", "--profile", "hasty"], &["hasty", "fast"]);
    run(&["--name", "../x", "--bootstrap", "test"], &["name"]);
    assert!(!folder.path().join("data").exists(), "a refused start made a folder");
}

#[test]
fn agent_without_an_identity_says_how_to_get_one() {
    let folder = Folder::new("nobody");
    let state = folder.path().display().to_string();
    refuses("quorate-agent", &["run", "--state-dir", &state, "--runtime", "process"], &["quoratectl node join"]);
}

#[test]
fn port_or_folder_in_use_is_named() {
    let cluster = Cluster::start("in-use", 1, "fast");
    let member = &cluster.members[0];
    let other = cluster.path().join("other").display().to_string();
    let free = member.api.replace(":7440", ":7450");
    let free_peer = member.api.replace(":7440", ":7451");
    refuses(
        "quorated",
        &["run", "--data-dir", &other, "--listen", &member.api, "--peer-listen", &free_peer],
        &[&member.api, "in use"],
    );
    refuses(
        "quorated",
        &["run", "--data-dir", &other, "--listen", &free, "--peer-listen", &member.peer],
        &[&member.peer, "in use"],
    );
    let data = member.data_dir.display().to_string();
    refuses(
        "quorated",
        &["run", "--data-dir", &data, "--listen", &free, "--peer-listen", &free_peer],
        &[&data, "in use"],
    );
    assert_eq!(member.get("/readyz").status, 200, "the one that runs is not disturbed");
}

#[test]
fn data_folder_of_another_cluster_is_refused() {
    let mut here = Cluster::start("here", 1, "fast");
    let mut there = Cluster::start("there", 1, "fast");
    here.members[0].kill();
    there.members[0].kill();
    let identity = |cluster: &Cluster| cluster.members[0].data_dir.join("member.toml");
    let own = std::fs::read(identity(&there)).expect("a member notes who it is");
    std::fs::copy(identity(&here), identity(&there)).expect("copied");
    let words = there.members[0].words();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    refuses("quorated", &words, &["belongs to cluster"]);
    // Nothing was spoilt: with its own identity it is what it was.
    std::fs::write(identity(&there), own).expect("written");
    there.members[0].start(&[]);
    until_so("it leads again", || there.members[0].get("/readyz").status == 200);
}

/// A follower is stopped, `folder` of its data is put back as it was before a few more writes, and it is started again: it
/// takes no part, says so, and comes back under another id.
///
/// Only the leader that was told of the newer data knows of it: where a busy machine elected another meanwhile, the
/// story is told again.
#[track_caller]
fn older_data_is_not_voted_with(name: &str, folder: &str) {
    let told = (0..3).any(|_| older_data_is_noticed_by_its_leader(name, folder));
    assert!(told, "leadership moved in each of three attempts");
}

fn older_data_is_noticed_by_its_leader(name: &str, folder: &str) -> bool {
    let mut cluster = Cluster::start(name, 3, "fast");
    cluster.furnish();
    cluster.create("ledger", json!({}));
    annotate(&cluster, 0, 1);
    let leader = cluster.leader();
    let victim = (leader + 1) % 3;
    until_so("it has all", || stale(&cluster, victim) == 1);
    cluster.members[victim].kill();
    let data = cluster.members[victim].data_dir.join(folder);
    let backup = cluster.path().join("backup");
    copy(&data, &backup);
    cluster.members[victim].start(&[]);
    // One by one: what it catches up with in one go is one group, and that one the guard carries, so nothing would be
    // missing.
    for value in 2..6 {
        let revision = annotate(&cluster, leader, value);
        until_so("it has all", || cluster.members[victim].revision() >= revision);
    }
    cluster.members[victim].kill();
    std::fs::remove_dir_all(&data).expect("removed");
    copy(&backup, &data);

    cluster.members[victim].start(&[]);
    let status = until("it says that it is quarantined", || {
        let status = cluster.members[victim].status()?;
        let moved = status["standing"] == "MEMBER_STANDING_FOLLOWER" && cluster.leader() != leader;
        (moved || status["standing"] == "MEMBER_STANDING_QUARANTINED").then_some(status)
    });
    if status["standing"] != "MEMBER_STANDING_QUARANTINED" {
        return false;
    }
    assert!(!status["trouble"].as_str().unwrap_or_default().is_empty(), "{status}");
    let answer = cluster.members[victim].get("/readyz");
    assert_eq!((answer.status, answer.body.starts_with("quarantined")), (503, true), "{answer:?}");
    // The others go on without it.
    annotate(&cluster, leader, 20);
    let body = json!({ "requestId": request_id() });
    let reply = cluster.members[victim].call("POST", "/v1/cluster/members:rejoin", &body).good();
    assert!(number(&reply["member"]) > number(&reply["oldMember"]), "{reply}");
    until_so("it follows again", || stale(&cluster, victim) == 20);
    true
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("copied");
        }
    }
}

#[test]
fn older_log_is_not_voted_with() {
    older_data_is_not_voted_with("older-log", "member/log");
}

/// Nothing on this machine can tell; the leader can.
#[test]
fn whole_member_restored_from_a_backup_is_not_voted_with() {
    older_data_is_not_voted_with("backup", "member");
}

#[test]
fn programs_say_their_version_and_what_they_take() {
    for name in ["quorated", "quorate-agent", "quoratectl"] {
        let version = run(name, &["--version"], &[]);
        assert_eq!((version.code, version.out.contains(env!("CARGO_PKG_VERSION"))), (Some(0), true), "{version:?}");
        assert_eq!(run(name, &["--help"], &[]).code, Some(0));
        let ended = run(name, &["--nonsense"], &[]);
        assert_eq!((ended.code, ended.err.contains("--nonsense")), (Some(2), true), "{ended:?}");
    }
    assert!(program("quorate-guard").is_file());
}

//! Real programs, started, killed, frozen and started again: members keep what they acknowledged, containers are adopted,
//! ended by the kernel, by the guard, or handed over; every program says what is wrong with what it was given, and every
//! verb answers in every format.

mod formats;
mod given;
mod older;
mod recovered;
mod refused;
mod templates;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tests::processes::{Cluster, not_run, number, run, until, until_so};

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

//! A majority of the members is lost, as far as anybody knows; the one that is left begins a new generation, the nodes cross
//! over, and what was lost comes back and is refused.

use std::fs;

use serde_json::{Value, json};
use tests::processes::{Cluster, Ended, number, run, until, until_so};

use super::{epoch, with_nodes};

const CONTAINERS: [&str; 2] = ["web", "db"];

fn generation(cluster: &Cluster, member: usize) -> u64 {
    cluster.members[member].status().map_or(0, |status| number(&status["generation"]))
}

/// `quorated` with these words.
fn quorated(words: &[&str]) -> Ended {
    run("quorated", words, &[])
}

/// As many processes of each container as `count`, whatever machine they are on.
fn living(cluster: &Cluster) -> Vec<usize> {
    CONTAINERS.iter().map(|name| cluster.living(name).len()).collect()
}

#[test]
fn a_survivor_goes_on_alone_and_the_old_majority_is_refused() {
    let Some(mut cluster) = with_nodes("recovered", &["node-1", "node-2"]) else { return };
    CONTAINERS.iter().for_each(|name| drop(cluster.create(name, json!({}))));
    let before: Vec<Value> = CONTAINERS.iter().map(|name| cluster.until_runs(name)).collect();

    // Two are gone with their data. What they ran ends with its lease.
    for lost in 1..3 {
        cluster.members[lost].kill();
        let folder = &cluster.members[lost].data_dir;
        fs::rename(folder, folder.with_extension("lost")).expect("moved away");
    }
    cluster.members[0].kill();
    until_so("every lease is over", || living(&cluster) == [0, 0]);

    let survivor = cluster.members[0].data_dir.display().to_string();
    let plan = cluster.path().join("plan.json").display().to_string();
    let planned = quorated(&["recover", "plan", "--data-dir", &survivor, "--out", &plan]);
    assert_eq!(planned.code, Some(0), "{planned:?}");
    for told in ["not read       m2, m3", "may be lost", "2 nodes, 2 containers", "digest"] {
        assert!(planned.out.contains(told), "{told}: {}", planned.out);
    }
    let kept: Value = serde_json::from_str(&fs::read_to_string(&plan).expect("a plan")).expect("JSON");
    let (digest, next) = (kept["digest"].as_str().expect("a digest"), kept["next"].as_str().expect("a generation"));
    let wrong = quorated(&["recover", "apply", "--plan", &plan, "--digest", "0000-0000-0000"]);
    assert!(wrong.code == Some(1) && wrong.err.contains("digest"), "{wrong:?}");
    let applied = quorated(&["recover", "apply", "--plan", &plan, "--digest", digest]);
    assert_eq!(applied.code, Some(0), "{applied:?}");
    assert!(applied.out.contains(next), "{applied:?}");
    let again = quorated(&["recover", "apply", "--plan", &plan, "--digest", digest]);
    assert_eq!((again.code, again.out), (applied.code, applied.out), "cut off or not, it is given again");

    cluster.members[0].start(&[]);
    assert_eq!(cluster.leader(), 0, "alone, it leads");
    assert_eq!(generation(&cluster, 0), 2);
    // Nodes of the generation before are refused; nothing is placed while one of them is.
    let node = cluster.node("node-1");
    assert_eq!(node["health"], "NODE_HEALTH_FENCING", "{node}");
    assert!(node["awaitsOperator"].as_str().unwrap_or_default().contains("cross-over"), "{node}");
    let cross = |cluster: &mut Cluster, at: usize| {
        let state_dir = cluster.machines[at].state_dir().display().to_string();
        let words = ["cross-over", "--state-dir", &state_dir, "--generation", next];
        let told = run("quorate-agent", &words, &[]);
        assert_eq!(told.code, Some(0), "{told:?}");
        cluster.machines[at].kill_agent();
        cluster.machines[at].start(&[], &[]);
    };
    cross(&mut cluster, 0);
    cluster.until_up("node-1");
    assert_eq!(living(&cluster), [0, 0], "node-2 may still run them");
    cross(&mut cluster, 1);
    cluster.until_up("node-2");
    for (name, before) in CONTAINERS.iter().zip(&before) {
        let after = cluster.until_runs(name);
        assert!(epoch(&after) > epoch(before) + (1 << 20), "{after}");
    }

    // What was lost is found again: a majority of the old membership, with its data.
    for lost in 1..3 {
        let folder = cluster.members[lost].data_dir.clone();
        fs::rename(folder.with_extension("lost"), &folder).expect("moved back");
        cluster.members[lost].start(&[]);
    }
    let old = until("the old members elect one of theirs", || {
        (1..3).find(|at| {
            cluster.members[*at].status().is_some_and(|status| status["standing"] == "MEMBER_STANDING_LEADER")
        })
    });
    assert_eq!((generation(&cluster, old), generation(&cluster, 0)), (1, 2));
    until_so("the survivor refuses it", || cluster.members[old].log().contains("another generation of the cluster"));
    // Its nodes are those of the new generation, and stay so.
    for (name, place) in CONTAINERS.iter().zip(0..) {
        cluster.until_runs(name);
        assert_eq!(living(&cluster)[place], 1, "{name}");
    }
    let up = |node: &str| cluster.node(node)["health"] == "NODE_HEALTH_UP";
    assert!(up("node-1") && up("node-2"), "{} {}", cluster.node("node-1"), cluster.node("node-2"));
    let told = run(
        "quorate-agent",
        &["cross-over", "--state-dir", &cluster.machines[0].state_dir().display().to_string(), "--generation", "1"],
        &[],
    );
    assert!(told.code == Some(1) && told.err.contains("does not come after"), "{told:?}");
}

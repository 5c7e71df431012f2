//! Data put back from the past is not voted with: the leader that was told of the newer data notices.

use std::path::Path;

use serde_json::json;
use tests::processes::{Cluster, number, request_id, until, until_so};

use super::{annotate, stale};

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

pub fn copy(from: &Path, to: &Path) {
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

//! Reads are as new as everything acknowledged before them, through every member; a stale one says how old it may be.

use super::*;

#[test]
fn read_through_any_member_sees_what_was_just_acknowledged() {
    let cluster = furnished("fresh", 3);
    for round in 0..10_usize {
        let action = if round % 2 == 0 { "cordon" } else { "uncordon" };
        let writer = &cluster.members[round % 3];
        let told = number(&writer.order("POST", &format!("/v1/nodes/node-1:{action}"), json!({}))["revision"]);
        let wanted = if round % 2 == 0 { "NODE_INTENT_CORDONED" } else { "NODE_INTENT_SCHEDULABLE" };
        for member in &cluster.members {
            let reply = member.get("/v1/nodes/node-1").good();
            assert!(number(&reply["revision"]) >= told, "{}: {reply} after {told}", member.name);
            assert_eq!(reply["node"]["intent"], wanted, "{}", member.name);
        }
    }
}

/// The age that a stale answer of `member` gives, in milliseconds.
fn age(member: &Member, path: &str) -> u64 {
    let answer = member.get(path);
    assert_eq!(answer.status, 200, "{answer:?}");
    let age = answer.header("quorate-state-age-ms").unwrap_or_else(|| panic!("no age: {answer:?}"));
    age.parse().unwrap_or_else(|_| panic!("{age} is no number"))
}

#[test]
fn stale_read_is_answered_without_a_majority_and_tells_its_age() {
    let mut cluster = furnished("stale", 3);
    let paths = [
        "/v1/nodes",
        "/v1/nodes/node-1",
        "/v1/containers",
        "/v1/containers/web",
        "/v1/containers/web:why",
        "/v1/templates",
        "/v1/storages",
        "/v1/events",
        "/v1/cluster/settings",
    ];
    for member in &cluster.members {
        for path in paths {
            assert!(age(member, &format!("{path}?stale=true")) < 5_000);
            assert_eq!(member.get(path).header("quorate-state-age-ms"), None, "a read that is not stale has no age");
        }
    }
    let leader = cluster.leader();
    let (alone, other) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.members[leader].kill();
    cluster.members[other].kill();
    let member = &cluster.members[alone];
    until_so("it notices", || member.get("/readyz").status == 503);
    // It grows, over both doors, and what is not asked to be stale is refused.
    let first = age(member, "/v1/nodes?stale=true");
    let later = until("it grows", || Some(age(member, "/v1/nodes?stale=true")).filter(|age| *age > first + 500));
    let (over_grpc, nodes) = block(async {
        let request = v1::ListNodesRequest { stale: true, ..v1::ListNodesRequest::default() };
        let reply = NodeServiceClient::new(channel(member)).list(request).await.expect("stale");
        let age = reply.metadata().get("quorate-state-age-ms").and_then(|age| age.to_str().ok()?.parse::<u64>().ok());
        (age, reply.into_inner().nodes.len())
    });
    assert!(over_grpc.is_some_and(|age| age >= later) && nodes == 2, "{over_grpc:?} {nodes}");
    let ctl = run("quoratectl", &["node", "list", "--stale", "--server", &member.api], &[]);
    assert_eq!(ctl.code, Some(0), "{ctl:?}");
    assert!(ctl.out.contains("node-1") && ctl.err.contains("last heard from a leader"), "{ctl:?}");
    let fresh = http::raw(&member.api, "GET", "/v1/nodes", &[("grpc-timeout", "500m")], b"").expect("answered");
    assert_eq!(fresh.problem().0, 503, "{fresh:?}");
}

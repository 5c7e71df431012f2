//! What is said where not everything can be done: of each item of a batch, in time, with what to do; and of what there is,
//! that it fits together. What is refused as bad input is the affair of `processes`.

use super::*;

#[test]
fn batch_says_for_every_item_what_became_of_it() {
    let cluster = furnished("batch", 3);
    let item = |container: &str| json!({ "requestId": request_id(), "container": container, "set": { "in": "batch" } });
    let body = json!({ "items": [item("web"), item("nobody"), item("web")] });
    let results = cluster.members[1].call("POST", "/v1/containers:batchAnnotate", &body).good()["results"].clone();
    let results = results.as_array().expect("one for each").clone();
    assert_eq!(results.len(), 3);
    for (result, item) in results.iter().zip(body["items"].as_array().expect("items")) {
        assert_eq!(result["requestId"], item["requestId"], "in their order");
    }
    assert_eq!((&results[0]["problem"], &results[2]["problem"]), (&Value::Null, &Value::Null), "{results:?}");
    assert_eq!(results[1]["problem"]["reason"], "not-found", "{results:?}");
    assert!(number(&results[0]["revision"]) > 0 && number(&results[1]["revision"]) == 0);
    let many: Value = (0..1_001).map(|_| item("web")).collect();
    let answer = cluster.members[1].call("POST", "/v1/containers:batchAnnotate", &json!({ "items": many }));
    assert_eq!((answer.problem().0, answer.problem().2.as_str()), (400, "items"));
}

#[test]
fn member_that_is_asked_in_vain_says_so_in_time() {
    let mut cluster = furnished("in-vain", 3);
    let leader = cluster.leader();
    for at in 0..3 {
        if at != leader {
            cluster.members[at].kill();
        }
    }
    until_so("it notices", || cluster.members[leader].get("/readyz").status == 503);
    let asked = std::time::Instant::now();
    let body = json!({ "requestId": request_id(), "name": "node-9" });
    let timeout = [("content-type", "application/json"), ("grpc-timeout", "800m")];
    let answer = http::raw(&cluster.members[leader].api, "POST", "/v1/nodes", &timeout, body.to_string().as_bytes());
    let (status, reason, _) = answer.expect("answered").problem();
    assert!([503, 504].contains(&status), "{status} {reason}");
    assert!(asked.elapsed() < std::time::Duration::from_secs(8), "{:?}", asked.elapsed());
    // What needs no majority is still answered.
    assert_eq!(cluster.members[leader].get("/v1/nodes?stale=true").good()["nodes"].as_array().map(Vec::len), Some(2));
}

#[test]
fn word_about_a_machine_that_was_never_seen_is_not_needed() {
    let cluster = furnished("never-seen", 1);
    let body = json!({ "requestId": request_id(), "incarnation": 0, "reason": "I looked" });
    let refused = cluster.members[0].call("POST", "/v1/nodes/node-1:confirmDown", &body);
    assert_eq!((refused.problem().0, refused.problem().1.as_str()), (400, "never-registered"));
    assert!(
        refused.json()["hint"].as_str().is_some_and(|hint| hint.contains("node remove node-1")),
        "{}",
        refused.body
    );
}

#[test]
fn member_is_not_removed_while_another_is_lost_and_nobody_waits_for_that() {
    let mut cluster = Cluster::start("two-left", 3, "fast");
    let leader = cluster.leader();
    let (lost, wanted) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.members[lost].kill();
    let name = |at: usize| cluster.members[at].name.clone();
    let asked = std::time::Instant::now();
    let path = format!("/v1/cluster/members/{}?requestId={}", name(wanted), request_id().replace('/', "%2F"));
    let refused = http::call(&cluster.members[leader].api, "DELETE", &path, None).expect("answered");
    assert_eq!(refused.problem().1, "voter-unreachable", "{refused:?}");
    assert!(refused.json()["hint"].as_str().is_some_and(|hint| hint.contains(&name(lost))), "{}", refused.body);
    assert!(asked.elapsed() < std::time::Duration::from_secs(12), "{:?}", asked.elapsed());
    // The lost one itself can go.
    let path = format!("/v1/cluster/members/{}?requestId={}", name(lost), request_id().replace('/', "%2F"));
    let removed = http::call(&cluster.members[leader].api, "DELETE", &path, None).expect("answered");
    assert_eq!(removed.status, 200, "{removed:?}");
}

#[test]
fn status_never_shows_a_commit_below_its_revision_nor_an_event_an_id_for_a_name() {
    let cluster = furnished("status", 3);
    for round in 0..30_usize {
        let action = if round % 2 == 0 { "cordon" } else { "uncordon" };
        cluster.members[round % 3].order("POST", &format!("/v1/nodes/node-1:{action}"), json!({}));
        for member in &cluster.members {
            let status = member.get("/v1/cluster").good();
            assert!(number(&status["committedIndex"]) >= number(&status["revision"]), "{status}");
        }
    }
    let events = cluster.read("/v1/events")["events"].clone();
    let cordoned = events.as_array().expect("events").iter().find(|it| it["kind"] == "node-intent-changed");
    assert_eq!(cordoned.expect("one")["text"], "node-1 is now cordoned");
    // A template without a version leaves no gap where that would stand.
    let texts = events.as_array().expect("events").iter().map(|it| it["text"].as_str().expect("a text"));
    assert_eq!(texts.clone().find(|text| text.contains("  ") || text.is_empty()), None);
    assert!(texts.clone().any(|text| text == "template plain registered"), "{events}");
    let members = events.as_array().expect("events").iter().filter(|it| it["kind"] == "membership-changed");
    for event in members {
        let text = event["text"].as_str().expect("a text");
        assert!(cluster.members.iter().any(|member| text.contains(&member.name)), "{text}");
    }
}

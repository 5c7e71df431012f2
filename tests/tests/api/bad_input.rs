//! Bad input gets words that say what is wrong with it, and changes nothing.

use super::*;

/// Everything a bad request must leave as it was.
fn all(cluster: &Cluster) -> Vec<Value> {
    let paths = ["/v1/containers", "/v1/nodes", "/v1/templates", "/v1/storages", "/v1/cluster/settings"];
    paths.into_iter().map(|path| cluster.read(path)).collect()
}

#[test]
fn bad_input_names_its_field_and_changes_nothing() {
    let cluster = furnished("bad-input", 3);
    // Both the leader's door and one that forwards.
    let leader = cluster.leader();
    let before = all(&cluster);
    let good = json!({
        "name": "other", "template": "plain", "storage": "shared", "resources": { "cpuMillis": 100, "memoryBytes": 1 << 20 },
    });
    let with = |key: &str, value: Value| {
        let mut spec = good.clone();
        spec[key] = value;
        ("POST", "/v1/containers".to_owned(), json!({ "spec": spec }))
    };
    let post = |path: &str, body: Value| ("POST", path.to_owned(), body);
    let words = |count: usize, size: usize| -> Value { (0..count).map(|_| Value::from("x".repeat(size))).collect() };
    let mut cases = vec![
        (with("template", "nothing".into()), 404, "spec.template"),
        (with("storage", "nowhere".into()), 404, "spec.storage"),
        (with("resources", json!({ "cpuMillis": 100, "memoryBytes": -1 })), 400, "spec.resources.memory_bytes"),
        (with("resources", json!({ "cpuMillis": -5, "memoryBytes": 1 << 20 })), 400, "spec.resources.cpu_millis"),
        (with("resources", json!({ "cpuMillis": 0, "memoryBytes": 1 << 20 })), 400, "spec.resources"),
        (with("resources", json!({ "cpuMillis": u64::MAX, "memoryBytes": 1 << 20 })), 400, "spec.resources"),
        (with("resources", json!({ "cpuMillis": 1, "memoryBytes": "18446744073709551615" })), 400, "spec.resources"),
        (with("resources", json!({ "cpuMillis": 1.5, "memoryBytes": 1 << 20 })), 400, "spec.resources.cpu_millis"),
        (with("resources", json!({ "cpus": 4 })), 400, "spec.resources.cpus"),
        (with("resources", "much".into()), 400, "spec.resources"),
        (with("priority", 70_000.into()), 400, "spec.priority"),
        (with("priority", (-1).into()), 400, "spec.priority"),
        (with("class", "CONTAINER_CLASS_IMPORTANT".into()), 400, "spec.class"),
        (with("class", 77.into()), 400, "spec.class"),
        (with("possibleOwners", json!(["nobody"])), 404, "spec.possible_owners"),
        (with("possibleOwners", json!(["node-1", "node-1"])), 400, "spec.possible_owners"),
        (
            with("preferredOwners", json!([{ "nodes": ["node-1"] }, { "nodes": ["node-1"] }])),
            400,
            "spec.preferred_owners",
        ),
        (with("preferredOwners", json!([{ "nodes": [] }])), 400, "spec.preferred_owners"),
        (with("environment", json!({ "A=B": "c" })), 400, "spec.environment"),
        (with("environment", json!({ "A": "b\u{0}c" })), 400, "spec.environment"),
        (with("command", words(2_000, 1)), 400, "spec.command"),
        (with("command", words(1, 100_000)), 400, "spec.command"),
        (with("command", json!(["a\u{0}b"])), 400, "spec.command"),
        (with("annotations", json!({ "a": "x".repeat(100_000) })), 400, "spec.annotations"),
        (with("stopGraceMs", 999_999_999.into()), 400, "spec.stop_grace_ms"),
        (with("restart", json!({ "max": 1_000_000 })), 400, "spec.restart.max"),
        (with("colour", "red".into()), 400, "spec.colour"),
        (with("name", "web".into()), 409, "spec.name"),
        (post("/v1/containers", json!({})), 400, "spec"),
        (post("/v1/containers", json!({ "spec": good, "desired": "DESIRED_STATE_DELETED" })), 400, "desired"),
        (post("/v1/containers/web:move", json!({ "node": "nobody" })), 404, "node"),
        (post("/v1/containers/nobody:start", json!({})), 404, "container"),
        (post("/v1/nodes", json!({ "name": "node-1" })), 409, "name"),
        (post("/v1/nodes", json!({ "name": "node-3", "role": "NODE_ROLE_KING" })), 400, "role"),
        (post("/v1/nodes/node-1:confirmDown", json!({ "incarnation": 9, "reason": "I looked" })), 0, ""),
        (post("/v1/nodes/node-1:confirmDown", json!({ "incarnation": 0 })), 400, "reason"),
        (post("/v1/nodes/node-1:setRole", json!({})), 400, "role"),
        (post("/v1/cluster/members", json!({ "name": "m-9" })), 400, "address"),
        (
            post("/v1/cluster/members", json!({ "name": "m-9", "address": { "api": "nowhere", "peer": "" } })),
            400,
            "address",
        ),
        (post("/v1/cluster:transferLeader", json!({ "member": "m-9" })), 404, "member"),
        (
            ("PATCH", "/v1/cluster/settings".into(), json!({ "leaseProfile": "LEASE_PROFILE_HASTY" })),
            400,
            "lease_profile",
        ),
        (("PATCH", "/v1/cluster/settings".into(), json!({ "handovers": 0 })), 400, "handovers"),
        (("PATCH", "/v1/cluster/settings".into(), json!({ "bootGraceMs": 99_999_999 })), 400, "boot_grace_ms"),
        (
            ("PATCH", "/v1/cluster/settings".into(), json!({ "brake": { "enabled": true, "percent": 200 } })),
            400,
            "brake",
        ),
        (
            ("PUT", "/v1/storages/far".into(), json!({ "storage": { "directory": { "path": "relative" } } })),
            400,
            "path",
        ),
        (("PUT", "/v1/storages/far".into(), json!({ "storage": {} })), 400, "storage"),
        (("PUT", "/v1/templates/t".into(), json!({ "template": { "digest": "md5:1" } })), 400, "template.digest"),
        (("PUT", "/v1/templates/t".into(), json!({ "template": { "path": "../../etc" } })), 400, "template.path"),
        (("DELETE", "/v1/templates/plain".into(), json!({})), 400, ""),
        (("DELETE", "/v1/nodes/node-1".into(), json!({ "surprise": 1 })), 400, ""),
        (("DELETE", "/v1/cluster/members/m-9".into(), json!({})), 404, "member"),
    ];
    let long = "x".repeat(300);
    let names = [
        "../x",
        "",
        &long,
        "a\nb",
        "-rf",
        "web-",
        "Web",
        "a b",
        "a\u{202e}b",
        "ｗｅｂ",
        "we\u{301}b",
        "a/b",
        "@c1",
        ".",
    ];
    for name in names {
        cases.push((with("name", name.into()), 400, "spec.name"));
        cases.push((post("/v1/nodes", json!({ "name": name })), 400, "name"));
    }
    for id in ["yesterday", "0199c3a0-7a51-4e0c-b4a2-5f0f6f1c9b1e/1", "0199c3a0-7a51-7e0c-b4a2-5f0f6f1c9b1e/-1"] {
        cases.push((post("/v1/nodes", json!({ "name": "node-3", "requestId": id })), 400, "request_id"));
    }
    let mut wrong = Vec::new();
    for (at, ((verb, path, body), status, field)) in cases.into_iter().enumerate() {
        let member = &cluster.members[(leader + at) % 3];
        let mut body = body;
        // A deletion's request id stands in the query, and its body is refused.
        let mut path = path;
        if verb == "DELETE" {
            path = format!("{path}?requestId={}", request_id().replace('/', "%2F"));
        } else if body.get("requestId").is_none() {
            body["requestId"] = request_id().into();
        }
        let answer = match body.as_object() {
            Some(empty) if verb == "DELETE" && empty.is_empty() => http::call(&member.api, verb, &path, None),
            _ => http::call(&member.api, verb, &path, Some(&body)),
        };
        let answer = answer.expect("answered");
        let shown = body.to_string().chars().take(200).collect::<String>();
        if answer.status < 400 || answer.header("content-type") != Some("application/problem+json") {
            wrong.push(format!("{verb} {path} {shown}: was taken: {} {}", answer.status, answer.body));
            continue;
        }
        let (got, reason, at) = answer.problem();
        let said = format!("{at} {}", answer.json()["detail"]);
        if status != 0 && got != status || !said.contains(field) || reason.is_empty() {
            wrong.push(format!("{verb} {path} {shown}: wanted {status} at {field:?}, got {}", answer.body));
        }
        if got >= 500 {
            wrong.push(format!("{verb} {path} {shown}: blames itself: {}", answer.body));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    let strip = |all: Vec<Value>| -> Vec<Value> {
        let without = |mut reply: Value| {
            reply.as_object_mut().expect("an object").remove("revision");
            reply
        };
        all.into_iter().map(without).collect()
    };
    assert_eq!(strip(all(&cluster)), strip(before));
}

#[test]
fn bodies_that_are_no_requests_are_refused_before_they_cost_anything() {
    // Nothing to plan, so nothing but a request could write.
    let cluster = Cluster::start("bodies", 1, "default");
    let member = &cluster.members[0];
    let before = member.revision();
    let post = |headers: &[(&str, &str)], body: &[u8]| -> Answer {
        http::raw(&member.api, "POST", "/v1/nodes", headers, body).expect("answered")
    };
    let is_json = [("content-type", "application/json")];
    for (headers, body, status) in [
        (&is_json[..], &b"{"[..], 400),
        (&is_json, b"[]", 400),
        (&is_json, b"null", 400),
        (&is_json, b"{\"name\": \"a\"} {}", 400),
        (&is_json, b"{\"name\": \"a\", \"name\": \"b\"}", 400),
        (&is_json, b"\xff\xfe", 400),
        (&[("content-type", "text/xml")], b"<name/>", 415),
        (&is_json, "[".repeat(100_000).as_bytes(), 400),
    ] {
        let answer = post(headers, body);
        assert_eq!(
            answer.problem().0,
            status,
            "{:?}: {answer:?}",
            String::from_utf8_lossy(&body[..body.len().min(40)])
        );
    }
    // 100 MiB, announced: refused, and the member lives on.
    let huge = vec![b' '; 100 << 20];
    let answer = post(&is_json, &huge);
    assert_eq!((answer.problem().0, answer.problem().1.as_str()), (413, "body-too-large"));
    for (verb, path, status) in [("GET", "/v1/nothing", 404), ("PUT", "/v1/nodes", 405), ("GET", "/v1/nodes/%ff", 400)]
    {
        let answer = http::raw(&member.api, verb, path, &[], b"").expect("answered");
        assert_eq!(answer.problem().0, status, "{verb} {path}");
    }
    let allowed = http::raw(&member.api, "PUT", "/v1/nodes", &[], b"").expect("answered");
    assert_eq!(allowed.header("allow").map(|allow| allow.contains("POST") && allow.contains("GET")), Some(true));
    assert_eq!(member.get("/readyz").status, 200);
    assert_eq!(member.revision(), before, "something was written");
}

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
    let members = events.as_array().expect("events").iter().filter(|it| it["kind"] == "membership-changed");
    for event in members {
        let text = event["text"].as_str().expect("a text");
        assert!(cluster.members.iter().any(|member| text.contains(&member.name)), "{text}");
    }
}

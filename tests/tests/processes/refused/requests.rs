//! Requests: names, amounts, what they refer to, how they are written, how large they are.

use proto::v1::{self, node_service_client::NodeServiceClient};
use serde_json::{Value, json};
use tests::processes::{Folder, http, request_id};

use super::doors::{Ask, Ground, Row, block, channel, row};

/// Everything that is no name, and why somebody might try it.
fn bad_names() -> [(&'static str, String); 21] {
    [
        ("a path", "../x".into()),
        ("two words of a path", "a/b".into()),
        ("nothing", String::new()),
        ("300 characters", "x".repeat(300)),
        ("64 characters", "x".repeat(64)),
        ("a line break", "a\nb".into()),
        ("an option", "-rf".into()),
        ("a dash at the end", "web-".into()),
        ("capitals", "Web".into()),
        ("a blank", "a b".into()),
        ("a NUL", "a\0b".into()),
        ("an escape sequence", "a\u{1b}[2Jb".into()),
        ("right to left", "a\u{202e}b".into()),
        ("a zero-width space", "we\u{200b}b".into()),
        ("a zero-width joiner", "we\u{200d}b".into()),
        ("a Cyrillic letter that looks like another", "w\u{0435}b".into()),
        ("full width", "\u{ff57}\u{ff45}\u{ff42}".into()),
        ("a combining accent", "we\u{301}b".into()),
        ("an id", "@c1".into()),
        ("a folder", ".".into()),
        ("a byte order mark", "\u{feff}web".into()),
    ]
}

fn spec(changes: Value) -> Value {
    let mut spec = json!({
        "name": "other", "template": "plain", "storage": "shared",
        "resources": { "cpuMillis": 100, "memoryBytes": 1 << 20 },
    });
    spec.as_object_mut().expect("an object").extend(changes.as_object().expect("an object").clone());
    spec
}

fn create(changes: Value) -> Ask {
    Ask::Create(spec(changes))
}

const INVALID: &str = "InvalidArgument";

pub fn names(ground: &Ground) {
    let mut rows = Vec::new();
    for (_, name) in bad_names() {
        let address = json!({ "api": "127.0.0.1:1", "peer": "127.0.0.1:2" });
        rows.push(row(create(json!({ "name": name })), INVALID, "invalid-field", "spec.name"));
        rows.push(row(Ask::Join(json!({ "name": name })), INVALID, "invalid-field", "name"));
        rows.push(row(Ask::AddMember(json!({ "name": name, "address": address })), INVALID, "invalid-field", "name"));
        // A path without its last word, or with one that means the folder, is another path.
        if !name.is_empty() {
            let storage = json!({ "directory": { "path": "/srv" } });
            rows.push(row(Ask::RegisterTemplate(name.clone(), json!({})), INVALID, "invalid-field", "template.name"));
            rows.push(row(Ask::RegisterStorage(name.clone(), storage), INVALID, "invalid-field", "storage.name"));
        }
    }
    ground.refuses(rows);
}

pub fn names_on_the_command_line(ground: &Ground) {
    // A NUL ends an argument before any program sees it.
    for (_, name) in bad_names().iter().filter(|(_, name)| !name.contains('\0')) {
        // What looks like an option is one, and a name that looks like one takes the place of none.
        let code = if name.starts_with('-') { 2 } else { 5 };
        let says: &[&str] = if code == 2 { &["error: "] } else { &["name"] };
        ground.command_refused(&["node", "join", name], code, says);
        let create =
            ["container", "create", name, "--template=plain", "--storage=shared", "--memory=1MiB", "--cpu=100m"];
        ground.command_refused(&create, code, says);
    }
}

pub fn resources(ground: &Ground) {
    let of = |cpu: Value, memory: Value, reason, field| {
        let resources = json!({ "resources": { "cpuMillis": cpu, "memoryBytes": memory } });
        row(create(resources), INVALID, reason, field)
    };
    let mib = || json!(1 << 20);
    let brake = json!({ "enabled": true, "nodesMin": 3, "percent": 200, "quietMs": 300_000, "longestMs": 900_000 });
    ground.refuses(vec![
        of(json!(-5), mib(), "bad-value", "spec.resources.cpu_millis"),
        of(json!(100), json!(-1), "bad-value", "spec.resources.memory_bytes"),
        of(json!(100), json!("-1"), "bad-value", "spec.resources.memory_bytes"),
        of(json!(1.5), mib(), "bad-value", "spec.resources.cpu_millis"),
        of(json!("many"), mib(), "bad-value", "spec.resources.cpu_millis"),
        of(json!(1e300), mib(), "bad-value", "spec.resources.cpu_millis"),
        of(json!("18446744073709551616"), mib(), "bad-value", "spec.resources.cpu_millis"),
        of(json!(0), mib(), "invalid", "spec.resources.cpu_millis"),
        of(json!(u64::MAX), mib(), "invalid", "spec.resources.cpu_millis"),
        of(json!(100), json!(0), "invalid", "spec.resources.memory_bytes"),
        of(json!(100), json!(u64::MAX), "invalid", "spec.resources.memory_bytes"),
        row(create(json!({ "resources": null })), INVALID, "invalid-field", "spec.resources"),
        row(create(json!({ "resources": "much" })), INVALID, "bad-value", "spec.resources"),
        row(create(json!({ "priority": 70_000 })), INVALID, "invalid-field", "spec.priority"),
        row(create(json!({ "priority": -1 })), INVALID, "bad-value", "spec.priority"),
        row(create(json!({ "stopGraceMs": 999_999_999_u64 })), INVALID, "invalid", "spec.stop_grace_ms"),
        row(create(json!({ "restart": { "max": 1_000_000 } })), INVALID, "invalid", "spec.restart.max"),
        row(create(json!({ "annotations": { "a": "x".repeat(100_000) } })), INVALID, "invalid", "spec.annotations"),
        row(Ask::UpdateSettings(json!({ "bootGraceMs": 99_999_999 })), INVALID, "invalid", "boot_grace_ms"),
        row(Ask::UpdateSettings(json!({ "handovers": 0 })), INVALID, "invalid", "handovers"),
        row(Ask::UpdateSettings(json!({ "brake": brake })), INVALID, "invalid", "brake.percent"),
    ]);
}

pub fn commands_and_environments(ground: &Ground) {
    let words = |count: usize, size: usize| -> Value { (0..count).map(|_| Value::from("x".repeat(size))).collect() };
    ground.refuses(vec![
        row(create(json!({ "environment": { "A=B": "c" } })), INVALID, "invalid", "spec.environment"),
        row(create(json!({ "environment": { "A": "b\u{0}c" } })), INVALID, "invalid", "spec.environment"),
        row(create(json!({ "environment": { "A": 7 } })), INVALID, "bad-value", "spec.environment.A"),
        row(create(json!({ "command": words(2_000, 1) })), INVALID, "invalid", "spec.command"),
        row(create(json!({ "command": words(1, 100_000) })), INVALID, "invalid", "spec.command"),
        row(create(json!({ "command": ["a\u{0}b"] })), INVALID, "invalid", "spec.command"),
    ]);
}

pub fn resources_on_the_command_line(ground: &Ground) {
    for (memory, cpu, says) in [
        ("-1", "100m", "--memory"),
        ("lots", "100m", "--memory"),
        ("1MiB", "-2", "--cpu"),
        ("1MiB", "1e9", "--cpu"),
        ("99999999999999999999GiB", "1", "--memory"),
    ] {
        let words = ["container", "create", "other", "--template=plain", "--storage=shared"];
        let amounts = [format!("--memory={memory}"), format!("--cpu={cpu}")];
        let words: Vec<&str> = words.into_iter().chain(amounts.iter().map(String::as_str)).collect();
        ground.command_refused(&words, 2, &[says]);
    }
    let words = ["container", "create", "other", "--template=plain", "--storage=shared", "--memory=1023TiB", "--cpu=0"];
    ground.command_refused(&words, 5, &["cpu"]);
}

pub fn unknown_template(ground: &Ground) {
    ground.refuses(vec![
        row(create(json!({ "template": "nothing" })), "NotFound", "not-found", "spec.template"),
        row(create(json!({ "storage": "nowhere" })), "NotFound", "not-found", "spec.storage"),
        row(create(json!({ "possibleOwners": ["nobody"] })), "NotFound", "not-found", "spec.possible_owners[0]"),
        row(Ask::Move(json!({ "node": "nobody" })), "NotFound", "not-found", "node"),
        row(Ask::Rest("POST", "/v1/containers/nobody:start", json!({})), "NotFound", "not-found", "container"),
        row(
            Ask::Rest("POST", "/v1/cluster:transferLeader", json!({ "member": "m-9" })),
            "NotFound",
            "not-found",
            "member",
        ),
        row(Ask::Rest("DELETE", "/v1/cluster/members/m-9", Value::Null), "NotFound", "not-found", "member"),
    ]);
    let words = ["container", "create", "other", "--template=nothing", "--storage=shared", "--memory=1MiB", "--cpu=1"];
    ground.command_refused(&words, 4, &["nothing", "template"]);
}

pub fn unknown_fields(ground: &Ground) {
    ground.refuses(vec![
        row(create(json!({ "colour": "red" })), INVALID, "unknown-field", "spec.colour"),
        row(create(json!({ "resources": { "cpus": 4 } })), INVALID, "unknown-field", "spec.resources.cpus"),
        row(Ask::Join(json!({ "name": "node-3", "surprise": {} })), INVALID, "unknown-field", "surprise"),
        row(Ask::UpdateSettings(json!({ "handovrs": 3 })), INVALID, "unknown-field", "handovrs"),
    ]);
    in_a_file(ground, r#"{"items": [{"container": "web", "sett": {"a": "b"}}]}"#, "sett");
}

pub fn keys_given_twice(ground: &Ground) {
    for (body, field) in [
        (r#"{"name": "node-3", "name": "node-4"}"#, "name"),
        (r#"{"name": "node-3", "labels": {"rack": "a", "rack": "b"}}"#, "labels.rack"),
        // Both spellings of one field.
        (r#"{"name": "node-3", "failureDomain": "a", "failure_domain": "b"}"#, "failure_domain"),
    ] {
        let answer = sent(ground, body.as_bytes());
        let (status, reason, at) = answer.problem();
        let said = format!("{at} {}", answer.json()["detail"]);
        assert_eq!((status, &*reason), (400, "given-twice"), "{body}: {answer:?}");
        assert!(said.contains(field), "{body}: {said}");
    }
    in_a_file(ground, r#"{"items": [], "items": []}"#, "items");
}

/// A file that a command takes as it stands.
fn in_a_file(ground: &Ground, text: &str, says: &str) {
    let folder = Folder::new("batch");
    let file = folder.path().join("batch.json").display().to_string();
    std::fs::write(&file, text).expect("a file");
    ground.command_refused(&["container", "batch-annotate", &file], 2, &[says, "batch.json"]);
}

fn sent(ground: &Ground, body: &[u8]) -> http::Answer {
    let is_json = [("content-type", "application/json")];
    http::raw(&ground.cluster.members[1].api, "POST", "/v1/nodes", &is_json, body).expect("answered")
}

pub fn no_request_at_all(ground: &Ground) {
    for body in [
        &b"{"[..],
        b"[]",
        b"null",
        b"\"node-3\"",
        b"{\"name\": \"a\"} {}",
        b"\xff\xfe",
        "[".repeat(100_000).as_bytes(),
        b"{\"name\": \"\\ud800\"}",
    ] {
        let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        let (status, reason, _) = sent(ground, body).problem();
        assert_eq!(status, 400, "{shown}: {reason}");
    }
    let answer =
        http::raw(&ground.cluster.members[0].api, "POST", "/v1/nodes", &[("content-type", "text/xml")], b"<a/>");
    assert_eq!(answer.expect("answered").problem().0, 415);
    let other = http::raw(&ground.cluster.members[0].api, "PUT", "/v1/nodes", &[], b"").expect("answered");
    assert_eq!(other.header("allow").map(|allow| allow.contains("POST") && allow.contains("GET")), Some(true));
    for (verb, path, status) in [("GET", "/v1/nothing", 404), ("PUT", "/v1/nodes", 405), ("GET", "/v1/nodes/%ff", 400)]
    {
        let answer = http::raw(&ground.cluster.members[2].api, verb, path, &[], b"").expect("answered");
        assert_eq!(answer.problem().0, status, "{verb} {path}");
    }
}

pub fn taken_names(ground: &Ground) {
    let taken = |ask, field| row(ask, "AlreadyExists", "name-taken", field);
    let member = ground.cluster.members[1].name.clone();
    let address = json!({ "api": "127.0.0.1:1", "peer": "127.0.0.1:2" });
    ground.refuses(vec![
        taken(create(json!({ "name": "web" })), "spec.name"),
        taken(Ask::Join(json!({ "name": "node-1" })), "name"),
        taken(Ask::AddMember(json!({ "name": member, "address": address })), "name"),
    ]);
    ground.command_refused(&["node", "join", "node-1"], 5, &["node-1", "name"]);
}

pub fn contradicting_owners(ground: &Ground) {
    let owners = |possible: Value, preferred: Value, field| -> Row {
        let changes = json!({ "possibleOwners": possible, "preferredOwners": preferred });
        row(create(changes), INVALID, "invalid", field)
    };
    ground.refuses(vec![
        owners(json!(["node-1"]), json!([{ "nodes": ["node-2"] }]), "spec.preferred_owners"),
        owners(json!(["node-1", "node-1"]), json!([]), "spec.possible_owners"),
        owners(json!([]), json!([{ "nodes": ["node-1"] }, { "nodes": ["node-1"] }]), "spec.preferred_owners"),
        owners(json!([]), json!([{ "nodes": [] }]), "spec.preferred_owners"),
    ]);
}

/// Of a version that says nothing about its time, and with a number below the first.
const V4: &str = "0199c3a0-7a51-4e0c-b4a2-5f0f6f1c9b1e/1";
const V7_MINUS: &str = "0199c3a0-7a51-7e0c-b4a2-5f0f6f1c9b1e/-1";

pub fn unknown_values(ground: &Ground) {
    ground.refuses(vec![
        row(create(json!({ "class": "CONTAINER_CLASS_IMPORTANT" })), INVALID, "bad-value", "spec.class"),
        row(create(json!({ "class": 77 })), INVALID, "invalid-field", "spec.class"),
        row(Ask::Join(json!({ "name": "node-3", "role": "NODE_ROLE_KING" })), INVALID, "bad-value", "role"),
        row(Ask::Join(json!({ "name": "node-3", "requestId": "yesterday" })), INVALID, "invalid-field", "request_id"),
        row(Ask::AddMember(json!({ "name": "m-9" })), INVALID, "invalid-field", "address"),
        row(
            Ask::AddMember(json!({ "name": "m-9", "address": { "api": "nowhere", "peer": "" } })),
            INVALID,
            "invalid",
            "address.peer",
        ),
        row(Ask::Join(json!({ "name": "node-3", "requestId": V4 })), INVALID, "invalid-field", "request_id"),
        row(Ask::Join(json!({ "name": "node-3", "requestId": V7_MINUS })), INVALID, "invalid-field", "request_id"),
        row(Ask::Rest("POST", "/v1/containers", json!({})), INVALID, "invalid-field", "spec"),
        row(
            Ask::Rest("POST", "/v1/containers", json!({ "spec": spec(json!({})), "desired": "DESIRED_STATE_DELETED" })),
            INVALID,
            "invalid-field",
            "desired",
        ),
        row(Ask::Rest("POST", "/v1/nodes/node-1:setRole", json!({})), INVALID, "invalid-field", "role"),
        row(
            Ask::ConfirmDown(json!({ "incarnation": 9, "reason": "I looked" })),
            INVALID,
            "invalid-field",
            "incarnation",
        ),
        row(Ask::RegisterStorage("far".into(), json!({})), INVALID, "invalid-field", "storage.directory"),
        row(Ask::Rest("DELETE", "/v1/templates/plain", Value::Null), "FailedPrecondition", "in-use", ""),
        row(Ask::Rest("DELETE", "/v1/nodes/node-1", json!({ "surprise": 1 })), INVALID, "unexpected-body", ""),
        row(Ask::ConfirmDown(json!({ "incarnation": 0 })), INVALID, "invalid-field", "reason"),
        row(
            Ask::UpdateSettings(json!({ "leaseProfile": "LEASE_PROFILE_HASTY" })),
            INVALID,
            "bad-value",
            "lease_profile",
        ),
        row(Ask::RegisterTemplate("t".into(), json!({ "path": "../../etc" })), INVALID, "invalid", "template.path"),
        row(Ask::RegisterTemplate("t".into(), json!({ "digest": "md5:1" })), INVALID, "invalid", "template.digest"),
        row(
            Ask::RegisterStorage("far".into(), json!({ "local": { "path": "//" } })),
            INVALID,
            "invalid-field",
            "storage.local.path",
        ),
        row(
            Ask::RegisterStorage("far".into(), json!({ "directory": { "path": "/srv/./x" } })),
            INVALID,
            "invalid-field",
            "storage.directory.path",
        ),
        row(
            Ask::RegisterStorage("far".into(), json!({ "directory": { "path": "relative" } })),
            INVALID,
            "invalid-field",
            "directory.path",
        ),
    ]);
}

const HUGE: usize = 100 << 20;

pub fn huge_body(ground: &Ground) {
    let answer = sent(ground, &vec![b' '; HUGE]);
    assert_eq!((answer.problem().0, answer.problem().1.as_str()), (413, "body-too-large"));
}

pub fn huge_message(ground: &Ground) {
    let labels = [("a".to_owned(), "x".repeat(HUGE))].into();
    let request = v1::JoinRequest { request_id: request_id(), name: "node-3".into(), labels, ..Default::default() };
    let member = &ground.cluster.members[2];
    let answer = block(async { NodeServiceClient::new(channel(&member.api)).join(request).await });
    let refused = answer.expect_err("100 MiB");
    let problem = proto::Problem::from(&refused);
    assert_eq!((refused.code(), &*problem.reason), (tonic::Code::ResourceExhausted, "body-too-large"), "{refused:?}");
}

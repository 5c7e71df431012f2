//! Bad input gets a clear error and changes nothing.

use controlplane::config::Config;
use controlplane::server::{Server, ServerError};
use proto::v1;
use tonic::Code;

use crate::support::{TestMember, config, create, furnish, id, reason, single};

#[tokio::test(flavor = "multi_thread")]
async fn names_that_could_become_something_else_are_refused_over_both_doors() {
    let dir = tempfile::tempdir().expect("a folder");
    let member = single(dir.path()).await;
    furnish(&member, "web").await;
    let long = "x".repeat(300);
    for bad in ["../x", "", &long, "a\nb", "-rf", "Web", "a\u{202e}b", "ｗｅｂ", "a b"] {
        let refusal = member.containers().create(create(bad)).await.expect_err("a bad name");
        let problem = proto::Problem::from(&refusal);
        assert_eq!((problem.code, problem.field.as_deref()), (Code::InvalidArgument, Some("spec.name")), "{bad:?}");
        let body =
            serde_json::json!({"spec": {"name": bad, "template": "debian", "storage": "shared", "resources": {}}});
        let (status, json) = member.http("POST", "/v1/containers", &body.to_string()).await;
        let problem: serde_json::Value = serde_json::from_str(&json).expect("problem details");
        assert_eq!((status, problem["field"].as_str()), (400, Some("spec.name")), "{bad:?}: {json}");
    }
    let listed = member.containers().list(v1::ListContainersRequest::default()).await.expect("listed").into_inner();
    assert_eq!(listed.containers.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_make_no_sense_say_which_field_is_wrong() {
    let dir = tempfile::tempdir().expect("a folder");
    let member = single(dir.path()).await;
    furnish(&member, "web").await;
    let with = |change: fn(&mut v1::ContainerSpec)| {
        let mut request = create("other");
        change(request.spec.as_mut().expect("has one"));
        request
    };
    let cases = [
        (with(|spec| spec.template = "nothing".into()), "template"),
        (with(|spec| spec.resources = Some(v1::Resources { cpu_millis: u64::MAX, memory_bytes: 1 })), "resources"),
        (with(|spec| spec.priority = Some(70_000)), "priority"),
        (with(|spec| spec.possible_owners = vec!["nobody".into()]), "possible_owners"),
        (v1::CreateContainerRequest { request_id: "yesterday".into(), ..create("other") }, "request_id"),
        (v1::CreateContainerRequest { spec: None, ..create("other") }, "spec"),
    ];
    for (request, field) in cases {
        let problem = proto::Problem::from(&member.containers().create(request).await.expect_err(field));
        let said = format!("{} {}", problem.field.as_deref().unwrap_or_default(), problem.message);
        assert!(said.contains(field), "{field}: {said}");
    }
    let listed = member.containers().list(v1::ListContainersRequest::default()).await.expect("listed").into_inner();
    assert_eq!(listed.containers.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_and_huge_bodies_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let member = single(dir.path()).await;
    let (status, json) = member.http("POST", "/v1/nodes", r#"{"name": "a", "colour": "red"}"#).await;
    assert_eq!((status, json.contains("colour")), (400, true), "{json}");
    let (status, json) = member.http("POST", "/v1/nodes", &" ".repeat(100 << 20)).await;
    assert_eq!(status, 413, "{json}");
    let labels = [("a".to_owned(), "x".repeat(2 << 20))].into();
    let request = v1::JoinRequest { request_id: id(), name: "a".into(), labels, ..v1::JoinRequest::default() };
    let refusal = member.nodes().join(request).await.expect_err("too large");
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    assert_eq!(reason(&refusal), "body-too-large");
    for (verb, path, expected) in [("GET", "/v1/nothing", 404), ("PUT", "/v1/nodes", 405), ("GET", "/", 404)] {
        assert_eq!(member.http(verb, path, "").await.0, expected, "{verb} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_is_kept() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut members = crate::support::three(dir.path()).await;
    members[1].stop().await;
    members[2].stop().await;
    let mut request = tonic::Request::new(v1::JoinRequest { request_id: id(), name: "a".into(), ..Default::default() });
    request.set_timeout(std::time::Duration::from_millis(700));
    let begun = std::time::Instant::now();
    let refusal = members[0].nodes().join(request).await.expect_err("no majority");
    assert!(begun.elapsed() < std::time::Duration::from_secs(10));
    let reason = reason(&refusal);
    assert!(["deadline-exceeded", "no-quorum", "cancelled"].contains(&reason.as_str()), "{reason}");
}

fn refused(outcome: Result<Server, ServerError>) -> String {
    outcome.err().expect("must not start").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_or_a_folder_in_use_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let member = TestMember::start("one", &dir.path().join("one")).await;
    let streams = tokio::runtime::Handle::current();
    let taken = Config { listen: member.api, ..config("two", &dir.path().join("two")) };
    let text = refused(Server::start(taken, streams.clone()).await);
    assert!(text.contains(&member.api.to_string()) && text.contains("in use"), "{text}");
    let text = refused(Server::start(config("two", &dir.path().join("one")), streams).await);
    assert!(text.contains("in use by another process"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_of_another_cluster_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut homes = Vec::new();
    for name in ["here", "there"] {
        let home = dir.path().join(name);
        let mut member = single(&home).await;
        member.stop().await;
        homes.push(home.join("one"));
    }
    std::fs::copy(homes[0].join("member.toml"), homes[1].join("member.toml")).expect("copied");
    let text = refused(Server::start(config("one", &homes[1]), tokio::runtime::Handle::current()).await);
    assert!(text.contains("belongs to cluster"), "{text}");
}

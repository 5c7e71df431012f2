//! One member alone: a cluster begun, used over both doors, stopped, and found again as it was.

use proto::v1;

use crate::support::{TestMember, annotate, create, furnish, id, reason, single, until};

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_member_says_what_it_waits_for() {
    let dir = tempfile::tempdir().expect("a folder");
    let member = TestMember::start("one", dir.path()).await;
    assert_eq!(member.status().await.standing(), v1::MemberStanding::Empty);
    let refusal = member.containers().create(create("web")).await.expect_err("no cluster");
    assert_eq!(reason(&refusal), "no-cluster");
    assert_eq!(member.http("GET", "/healthz", "").await.0, 200);
    let (status, text) = member.http("GET", "/readyz", "").await;
    assert_eq!((status, text.starts_with("no-cluster")), (503, true), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_and_rest_answer_alike() {
    let dir = tempfile::tempdir().expect("a folder");
    let member = single(dir.path()).await;
    let container = furnish(&member, "web").await;
    let request = v1::GetContainerRequest { container: "web".into(), stale: false };
    let grpc = member.containers().get(request).await.expect("there").into_inner();
    let (status, json) = member.http("GET", "/v1/containers/web", "").await;
    assert_eq!(status, 200, "{json}");
    let rest: v1::GetContainerReply = proto::rest::from_json("quorate.v1.GetContainerReply", &json).expect("JSON");
    assert_eq!(rest.container, grpc.container);
    assert_eq!(rest.container.map(|container| container.id), Some(container));
    for path in ["/readyz", "/metrics", "/openapi.json", "/v1/cluster", "/v1/nodes?stale=true", "/v1/events"] {
        let (status, body) = member.http("GET", path, "").await;
        assert_eq!(status, 200, "{path}: {body}");
    }
    let (_, metrics) = member.http("GET", "/metrics", "").await;
    for metric in [
        "quorate_raft_leader 1",
        "# HELP quorate_raft_term",
        "quorate_store_append_seconds_bucket",
        "quorate_containers 1",
    ] {
        assert!(metrics.contains(metric), "{metric} is missing in\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut member = single(dir.path()).await;
    furnish(&member, "web").await;
    // More than one snapshot's worth of entries.
    let mut containers = member.containers();
    for number in 0..450 {
        containers.annotate(annotate("web", "number", &number.to_string())).await.expect("annotated");
    }
    drop(containers);
    let before = member.status().await;
    member.stop().await;
    member.start_again().await;
    until("it leads again", async || member.status().await.standing() == v1::MemberStanding::Leader).await;
    let after = member.status().await;
    assert_eq!((after.cluster_id, after.member), (before.cluster_id, before.member));
    assert!(after.revision >= before.revision);
    let request = v1::GetContainerRequest { container: "web".into(), stale: false };
    let spec =
        member.containers().get(request).await.expect("there").into_inner().container.and_then(|found| found.spec);
    assert_eq!(spec.and_then(|spec| spec.annotations.get("number").cloned()), Some("449".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_and_a_stream_have_a_result_for_every_item() {
    let dir = tempfile::tempdir().expect("a folder");
    let member = single(dir.path()).await;
    furnish(&member, "web").await;
    let items = vec![annotate("web", "a", "1"), annotate("nobody", "a", "1"), annotate("web", "", "1")];
    let request = v1::BatchAnnotateContainersRequest { items };
    let results = member.containers().batch_annotate(request).await.expect("answered").into_inner().results;
    let reasons: Vec<String> = results
        .iter()
        .map(|result| result.problem.as_ref().map_or_else(String::new, |problem| problem.reason.clone()))
        .collect();
    assert_eq!(reasons[..2], ["", "not-found"]);
    assert_ne!(reasons[2], "");

    let changes: Vec<v1::SubmitRequest> = (0..3_000)
        .map(|number| {
            let change = v1::submit_request::Change::Annotate(annotate("web", "n", &number.to_string()));
            v1::SubmitRequest { change: Some(change) }
        })
        .collect();
    let mut wanted: Vec<String> = changes
        .iter()
        .map(|change| match &change.change {
            Some(v1::submit_request::Change::Annotate(change)) => change.request_id.clone(),
            _ => unreachable!("only annotations were made"),
        })
        .collect();
    let mut replies = member.containers().submit(tokio_stream::iter(changes)).await.expect("open").into_inner();
    let mut answered = Vec::new();
    while let Some(reply) = replies.message().await.expect("whole") {
        let result = reply.result.expect("a result");
        assert_eq!(result.problem, None);
        answered.push(result.request_id);
    }
    wanted.sort_unstable();
    answered.sort_unstable();
    assert_eq!(answered, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_init_and_a_rejoin_of_a_healthy_member_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let member = single(dir.path()).await;
    let request = v1::InitRequest { request_id: id(), name: "again".into(), lease_profile: 0 };
    assert_eq!(reason(&member.cluster().init(request).await.expect_err("has one")), "has-cluster");
    let request = v1::RejoinRequest { request_id: id(), via: String::new() };
    assert_eq!(reason(&member.cluster().rejoin(request).await.expect_err("is well")), "not-quarantined");
    let request = v1::RemoveMemberRequest { request_id: id(), member: "one".into() };
    assert_eq!(reason(&member.cluster().remove_member(request).await.expect_err("the last")), "last-voter");
}

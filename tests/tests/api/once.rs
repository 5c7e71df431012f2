//! A request has its effect once, whichever member hears it and however often.

use super::*;

#[test]
fn request_repeated_through_other_members_has_one_effect() {
    let cluster = furnished("once", 3);
    let body = json!({ "requestId": request_id(), "name": "node-9" });
    // The secret of a join is said once, so the repetition is told so; nothing is made twice.
    let first = cluster.members[0].call("POST", "/v1/nodes", &body).good();
    let before = cluster.members[0].revision();
    for member in &cluster.members {
        let again = member.call("POST", "/v1/nodes", &body);
        assert!(
            again.status == 200 && again.json()["node"] == first["node"] || again.problem().1 == "secret-said",
            "{again:?}"
        );
    }
    let nodes = cluster.read("/v1/nodes")["nodes"].clone();
    assert_eq!(nodes.as_array().map(Vec::len), Some(3), "{nodes}");

    let spec = json!({
        "name": "twice", "template": "plain", "storage": "shared", "resources": { "cpuMillis": 1, "memoryBytes": 1 << 20 },
    });
    let body = json!({ "requestId": request_id(), "spec": spec });
    let first = cluster.members[1].call("POST", "/v1/containers", &body).good();
    for member in cluster.members.iter().chain(&cluster.members) {
        assert_eq!(member.call("POST", "/v1/containers", &body).good(), first, "a repetition gets the first answer");
    }
    // Over the other door as well.
    let again = block(async {
        let resources = Some(v1::Resources { cpu_millis: 1, memory_bytes: 1 << 20 });
        let spec = v1::ContainerSpec {
            name: "twice".into(),
            template: "plain".into(),
            storage: "shared".into(),
            resources,
            ..v1::ContainerSpec::default()
        };
        let request_id = body["requestId"].as_str().expect("an id").to_owned();
        let request = v1::CreateContainerRequest { request_id, spec: Some(spec), desired: 0 };
        ContainerServiceClient::new(channel(&cluster.members[2]))
            .create(request)
            .await
            .expect("the first answer")
            .into_inner()
    });
    assert_eq!(json!(again.container), first["container"]);
    // Under an id of its own it is another request, and the name is taken.
    let other = json!({ "requestId": request_id(), "spec": body["spec"] });
    assert_eq!(cluster.members[0].call("POST", "/v1/containers", &other).problem().0, 409);
    let kinds = cluster.events_since(before + 1);
    assert_eq!(kinds.iter().filter(|kind| *kind == "container-created").count(), 1, "{kinds:?}");
}

#[test]
fn request_repeated_after_its_member_died_has_one_effect() {
    let mut cluster = furnished("once-more", 3);
    let leader = cluster.leader();
    let body = json!({ "requestId": request_id(), "set": { "counted": "1" } });
    let first = cluster.members[leader].call("POST", "/v1/containers/web:annotate", &body).good();
    cluster.members[leader].kill();
    let next = cluster.leader();
    let again = until("the next leader answers", || {
        let answer = cluster.members[next].call("POST", "/v1/containers/web:annotate", &body);
        (answer.status == 200).then(|| answer.json())
    });
    assert_eq!(again, first, "a repetition gets the first answer, also from another leader");
}

#[test]
fn request_without_an_id_gets_one_and_can_be_repeated_under_it() {
    let cluster = furnished("drawn", 3);
    for (at, member) in cluster.members.iter().enumerate() {
        let path = "/v1/containers/web:annotate";
        let answer = http::call(&member.api, "POST", path, Some(&json!({ "set": { "by": at.to_string() } })));
        let answer = answer.expect("answered");
        let first = answer.good();
        let drawn = answer.header("quorate-request-id").expect("the id that was drawn").to_owned();
        let body = json!({ "requestId": drawn, "set": { "by": at.to_string() } });
        for other in &cluster.members {
            let again = other.call("POST", path, &body);
            assert_eq!(
                (again.good(), again.header("quorate-request-id")),
                (first.clone(), None),
                "it is the caller's now"
            );
        }
        // A refusal has it too, over gRPC as over REST.
        let refused =
            http::call(&member.api, "POST", "/v1/nodes", Some(&json!({ "name": "node-1" }))).expect("answered");
        assert_eq!(
            (refused.status, refused.header("quorate-request-id").map(str::len)),
            (409, Some(36)),
            "{refused:?}"
        );
        let status = block(async {
            let request = v1::JoinRequest { name: "node-1".into(), ..Default::default() };
            NodeServiceClient::new(channel(member)).join(request).await.expect_err("taken")
        });
        assert!(status.metadata().get("quorate-request-id").is_some(), "{status:?}");
    }
}

#[test]
fn secret_that_was_said_is_not_said_again_and_the_words_tell_what_to_do() {
    let mut cluster = furnished("said", 3);
    let leader = cluster.leader();
    let body = json!({ "requestId": request_id(), "name": "node-9" });
    cluster.members[leader].call("POST", "/v1/nodes", &body).good();
    cluster.members[leader].kill();
    let next = cluster.leader();
    let refused = until("the next leader answers", || {
        Some(cluster.members[next].call("POST", "/v1/nodes", &body)).filter(|answer| answer.status != 503)
    });
    assert_eq!(refused.problem().1, "secret-said");
    let told = refused.json();
    assert!(told["detail"].as_str().is_some_and(|text| text.contains("node node-9")), "{told}");
    assert!(told["hint"].as_str().is_some_and(|hint| hint.contains("`quoratectl node remove node-9`")), "{told}");
    // The advice works.
    let path = format!("/v1/nodes/node-9?requestId={}", request_id().replace('/', "%2F"));
    assert_eq!(http::call(&cluster.members[next].api, "DELETE", &path, None).expect("answered").status, 200);
    assert_eq!(
        cluster.members[next].call("POST", "/v1/nodes", &json!({ "requestId": request_id(), "name": "node-9" })).status,
        200
    );
}

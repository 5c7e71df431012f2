//! gRPC and REST give the same answer to the same question, and the same refusal.

use super::*;

/// What both doors say to the same question; asked again while the cluster changes between the two.
#[track_caller]
fn alike<M: prost::Message, F: Future<Output = Result<tonic::Response<M>, Status>>>(
    member: &Member,
    path: &str,
    message: &str,
    ask: impl Fn() -> F,
) -> Value {
    let mut seen = (Value::Null, Value::Null);
    let name = format!("quorate.v1.{message}");
    let mut tries = 0;
    until(&format!("both doors answer {path} alike"), || {
        let grpc = match block(ask()) {
            Ok(reply) => rest::to_json(&name, &reply.into_inner()),
            Err(status) => Problem::from(&status).json(),
        };
        seen = (grpc, member.get(path).json());
        tries += 1;
        assert!(seen.0 == seen.1 || tries < 20, "gRPC: {}\nREST: {}", seen.0, seen.1);
        (seen.0 == seen.1).then(|| seen.0.clone())
    })
}

#[test]
fn grpc_and_rest_answer_alike() {
    let cluster = furnished("alike", 3);
    for member in &cluster.members {
        let to = || channel(member);
        let stale = false;
        let status = alike(member, "/v1/cluster", "StatusReply", || async {
            ClusterServiceClient::new(to()).status(v1::StatusRequest {}).await
        });
        assert_eq!(status["clusterName"], "alike");
        alike(member, "/v1/cluster/settings", "GetSettingsReply", || async {
            ClusterServiceClient::new(to()).get_settings(v1::GetSettingsRequest { stale }).await
        });
        alike(member, "/v1/cluster/quorum", "QuorumReply", || async {
            ClusterServiceClient::new(to()).quorum(v1::QuorumRequest {}).await
        });
        let nodes = alike(member, "/v1/nodes", "ListNodesReply", || async {
            NodeServiceClient::new(to()).list(v1::ListNodesRequest::default()).await
        });
        assert_eq!(nodes["nodes"].as_array().map(Vec::len), Some(2));
        let standby = v1::ListNodesRequest { role: v1::NodeRole::Standby as i32, ..v1::ListNodesRequest::default() };
        let nodes = alike(member, "/v1/nodes?role=NODE_ROLE_STANDBY", "ListNodesReply", || async {
            NodeServiceClient::new(to()).list(standby.clone()).await
        });
        assert_eq!(nodes["nodes"][0]["name"], "node-2");
        alike(member, "/v1/nodes/node-1", "GetNodeReply", || async {
            NodeServiceClient::new(to()).get(v1::GetNodeRequest { node: "node-1".into(), stale }).await
        });
        let containers = alike(member, "/v1/containers?page.size=1", "ListContainersReply", || async {
            let page = Some(v1::PageRequest { size: 1, token: String::new() });
            ContainerServiceClient::new(to()).list(v1::ListContainersRequest { page, ..Default::default() }).await
        });
        assert_eq!(containers["containers"][0]["spec"]["environment"]["COLOUR"], "blue");
        alike(member, "/v1/containers/web?stale=true", "GetContainerReply", || async {
            let request = v1::GetContainerRequest { container: "web".into(), stale: true };
            ContainerServiceClient::new(to()).get(request).await
        });
        alike(member, "/v1/containers/web:why", "WhyReply", || async {
            ContainerServiceClient::new(to()).why(v1::WhyRequest { container: "web".into(), stale }).await
        });
        alike(member, "/v1/templates", "ListTemplatesReply", || async {
            TemplateServiceClient::new(to()).list(v1::ListTemplatesRequest::default()).await
        });
        alike(member, "/v1/storages", "ListStoragesReply", || async {
            StorageServiceClient::new(to()).list(v1::ListStoragesRequest::default()).await
        });
        let events = alike(member, "/v1/events", "ListEventsReply", || async {
            EventServiceClient::new(to()).list(v1::ListEventsRequest::default()).await
        });
        assert!(events["events"].as_array().is_some_and(|events| events.len() > 4), "{events}");

        // What is refused is refused alike.
        let missing = alike(member, "/v1/nodes/nobody", "GetNodeReply", || async {
            NodeServiceClient::new(to()).get(v1::GetNodeRequest { node: "nobody".into(), stale }).await
        });
        assert_eq!((&missing["status"], &missing["reason"]), (&404.into(), &"not-found".into()));
        let page = alike(member, "/v1/nodes?page.token=forged", "ListNodesReply", || async {
            let page = Some(v1::PageRequest { size: 0, token: "forged".into() });
            NodeServiceClient::new(to()).list(v1::ListNodesRequest { page, ..Default::default() }).await
        });
        assert_eq!((&page["status"], &page["field"]), (&400.into(), &"page.token".into()), "{page}");
    }
}

#[test]
fn what_one_door_changes_the_other_shows() {
    let cluster = furnished("both-doors", 3);
    let follower = (cluster.leader() + 1) % 3;
    let member = &cluster.members[follower];
    // REST changes, gRPC sees it, at the revision that was told.
    let told = number(&member.order("POST", "/v1/nodes/node-1:cordon", json!({}))["revision"]);
    let seen = block(async {
        let request = v1::GetNodeRequest { node: "node-1".into(), stale: false };
        NodeServiceClient::new(channel(&cluster.members[0])).get(request).await.expect("it is there").into_inner()
    });
    assert!(seen.revision >= told);
    assert_eq!(seen.node.expect("a node").intent(), v1::NodeIntent::Cordoned);
    // gRPC changes, REST sees it.
    let change = block(async {
        let set = [("by".to_owned(), "grpc".to_owned())].into();
        let request =
            v1::AnnotateContainerRequest { request_id: request_id(), container: "web".into(), set, remove: vec![] };
        ContainerServiceClient::new(channel(member)).annotate(request).await.expect("taken").into_inner()
    });
    let reply = cluster.members[0].get("/v1/containers/web").good();
    assert!(number(&reply["revision"]) >= change.revision);
    assert_eq!(reply["container"]["spec"]["annotations"]["by"], "grpc");
    // Numbers may be strings or numbers, names as in JSON or as in the proto.
    for body in [r#"{"handovers": 5}"#, r#"{"handovers": "6"}"#, r#"{"handovers_per_node": 2, "bootGraceMs": "30000"}"#]
    {
        let mut body: Value = serde_json::from_str(body).expect("JSON");
        body["request_id"] = request_id().into();
        assert_eq!(member.call("PATCH", "/v1/cluster/settings", &body).status, 200, "{body}");
    }
    let settings = member.get("/v1/cluster/settings").good()["settings"].clone();
    assert_eq!((&settings["handovers"], &settings["handoversPerNode"]), (&6.into(), &2.into()), "{settings}");
    assert_eq!(settings["bootGraceMs"], "30000");
}

#[test]
fn health_and_reflection_are_served() {
    let cluster = Cluster::start("reflection", 1, "default");
    // The services every gRPC tool looks for; asked byte for byte, so that nothing of ours is needed to ask.
    for path in ["/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"] {
        let answer = block(async {
            let mut client = tonic::client::Grpc::new(channel(&cluster.members[0]));
            client.ready().await.expect("reachable");
            let codec = tonic_codec::<v1::StatusRequest, v1::StatusRequest>();
            client.unary(Request::new(v1::StatusRequest {}), path.parse().expect("a path"), codec).await
        });
        let code = answer.map_or_else(|status| status.code(), |_| tonic::Code::Ok);
        assert_ne!(code, tonic::Code::Unimplemented, "{path} is not served");
    }
}

fn tonic_codec<T, U>() -> impl tonic::codec::Codec<Encode = T, Decode = U>
where
    T: prost::Message + 'static,
    U: prost::Message + Default + 'static,
{
    tonic_prost::ProstCodec::<T, U>::default()
}

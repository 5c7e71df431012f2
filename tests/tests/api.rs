//! The public API as a stranger uses it, at a cluster of real processes: gRPC and REST answer alike and are complete, a request
//! has its effect once whichever member hears it, a watch has no gap, and bad input changes nothing.

use std::collections::BTreeSet;
use std::future::Future;

use proto::v1::{
    self, cluster_service_client::ClusterServiceClient, container_service_client::ContainerServiceClient,
    event_service_client::EventServiceClient, node_service_client::NodeServiceClient,
    storage_service_client::StorageServiceClient, template_service_client::TemplateServiceClient,
};
use proto::{Problem, rest};
use serde_json::{Value, json};
use tests::processes::http::{self, Answer, Events};
use tests::processes::{Cluster, Member, number, request_id, run, until, until_so};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// One thread is enough: the servers are processes of their own.
fn block<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work)
}

fn channel(member: &Member) -> Channel {
    Endpoint::from_shared(format!("http://{}", member.api)).expect("an address").connect_lazy()
}

/// A cluster with one of everything.
fn furnished(name: &str, size: usize) -> Cluster {
    let cluster = Cluster::start(name, size, "default");
    cluster.furnish();
    cluster.members[0].order("POST", "/v1/nodes", json!({ "name": "node-1", "labels": { "rack": "a" } }));
    cluster.members[0].order("POST", "/v1/nodes", json!({ "name": "node-2", "role": "NODE_ROLE_STANDBY" }));
    cluster.create("web", json!({ "environment": { "COLOUR": "blue" }, "possibleOwners": ["node-1"] }));
    cluster
}

// ---- Complete ----

/// Methods of the public protos, as `NodeService.Drain`; those that stream from the client apart.
fn methods() -> (BTreeSet<String>, BTreeSet<String>) {
    let files = [
        include_str!("../../proto/quorate/v1/cluster.proto"),
        include_str!("../../proto/quorate/v1/nodes.proto"),
        include_str!("../../proto/quorate/v1/containers.proto"),
        include_str!("../../proto/quorate/v1/templates.proto"),
        include_str!("../../proto/quorate/v1/storages.proto"),
        include_str!("../../proto/quorate/v1/events.proto"),
    ];
    let (mut plain, mut streamed) = (BTreeSet::new(), BTreeSet::new());
    for text in files {
        let mut service = "";
        for line in text.lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix("service ") {
                service = rest.trim_end_matches(" {");
            } else if let Some((name, rest)) = line.strip_prefix("rpc ").and_then(|rest| rest.split_once('(')) {
                let kind = if rest.starts_with("stream ") { &mut streamed } else { &mut plain };
                kind.insert(format!("{service}.{name}"));
            }
        }
    }
    (plain, streamed)
}

#[test]
fn every_method_has_a_route_and_a_verb() {
    let (methods, streamed) = methods();
    assert!(methods.len() > 35, "{methods:?}");
    let routed = |path: &str| path.trim_start_matches("/quorate.v1.").replace('/', ".");
    let routes: BTreeSet<String> = rest::routes().iter().map(|route| routed(&route.grpc_path)).collect();
    assert_eq!(routes, methods, "an rpc without its HTTP annotation, or the other way round");
    let verbs = run("quoratectl", &["verbs"], &[]);
    assert_eq!(verbs.code, Some(0), "{verbs:?}");
    let verbs: BTreeSet<String> = verbs.out.lines().map(str::to_owned).collect();
    let missing: Vec<&String> = methods.difference(&verbs).collect();
    assert!(missing.is_empty(), "no verb of quoratectl calls {missing:?}");
    let known: BTreeSet<String> = methods.union(&streamed).cloned().collect();
    let strange: Vec<&String> = verbs.difference(&known).collect();
    assert!(strange.is_empty(), "quoratectl calls what is not there: {strange:?}");
}

#[test]
fn openapi_describes_every_route_and_nothing_else() {
    let cluster = Cluster::start("openapi", 1, "default");
    let answer = cluster.members[0].get("/openapi.json");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let document = answer.good();
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1.")), "{}", document["openapi"]);
    let mut described = BTreeSet::new();
    for (path, verbs) in document["paths"].as_object().expect("paths") {
        for (verb, operation) in verbs.as_object().expect("verbs").iter().filter(|(verb, _)| *verb != "parameters") {
            described.insert(format!("{} {path}", verb.to_uppercase()));
            let text = operation["description"].as_str().or(operation["summary"].as_str()).unwrap_or_default();
            assert!(!text.is_empty(), "{verb} {path} is not described");
            assert!(operation["responses"]["200"].is_object(), "{verb} {path} has no good answer");
            for name in path.split('{').skip(1).filter_map(|part| part.split('}').next()) {
                let all = [&operation["parameters"], &verbs["parameters"]];
                let mut parameters = all.into_iter().filter_map(Value::as_array).flatten();
                let found = parameters.any(|it| it["name"] == name && it["in"] == "path" && it["required"] == true);
                assert!(found, "{verb} {path} does not describe {name}");
            }
        }
    }
    let routes: BTreeSet<String> =
        rest::routes().iter().map(|route| format!("{} {}", route.verb.name(), one_word(&route.template))).collect();
    assert_eq!(described, routes);
    // Every reference leads somewhere.
    let mut left = vec![&document];
    while let Some(value) = left.pop() {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            let pointer = reference.strip_prefix('#').expect("a reference within the document");
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
        left.extend(value.as_object().into_iter().flat_map(|object| object.values()));
        left.extend(value.as_array().into_iter().flatten());
    }
}

/// `/v1/storages/{storage.name}` is described as `/v1/storages/{storage}`: generators take a parameter for an identifier.
fn one_word(template: &str) -> String {
    match (template.find('.'), template.find('}')) {
        (Some(dot), Some(end)) if dot < end => format!("{}{}", &template[..dot], &template[end..]),
        _ => template.to_owned(),
    }
}

#[test]
fn plain_doors_say_how_the_member_is() {
    let mut cluster = Cluster::start("doors", 3, "fast");
    let leader = cluster.leader();
    for member in &cluster.members {
        assert_eq!(member.get("/healthz").body, "ok\n");
        assert_eq!(member.get("/readyz").status, 200);
    }
    let metrics = cluster.members[leader].get("/metrics");
    assert_eq!(metrics.status, 200);
    let mut named = BTreeSet::new();
    for line in metrics.body.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().expect("a name");
        assert!(name.starts_with("quorate_"), "{line}");
        assert!(line.rsplit(' ').next().is_some_and(|value| value.parse::<f64>().is_ok()), "{line} has no value");
        let base = ["_total", "_bucket", "_sum", "_count"].into_iter().find_map(|end| name.strip_suffix(end));
        named.insert(base.unwrap_or(name));
    }
    for name in &named {
        let help = metrics.body.lines().find_map(|line| line.strip_prefix(&format!("# HELP {name} ")));
        assert!(help.is_some_and(|help| help.len() > 10), "{name} has no HELP");
        assert!(metrics.body.contains(&format!("# TYPE {name} ")), "{name} has no TYPE");
    }
    for about in ["raft", "lease", "fail", "decision", "store"] {
        assert!(named.iter().any(|name| name.contains(about)), "nothing about {about}: {named:?}");
    }
    // Without a majority a member lives and is not ready, and says why.
    for at in 0..3 {
        if at != leader {
            cluster.members[at].kill();
        }
    }
    let answer = until("it notices", || {
        let answer = cluster.members[leader].get("/readyz");
        (answer.status == 503).then_some(answer)
    });
    assert!(answer.body.starts_with("no-quorum"), "{answer:?}");
    assert_eq!(cluster.members[leader].get("/healthz").status, 200);
    let answer = cluster.members[leader].get("/v1/cluster");
    assert_eq!(answer.good()["standing"], "MEMBER_STANDING_LEADERLESS");
}

// ---- Alike ----

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

// ---- Once ----

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

// ---- Watching ----

#[test]
fn watch_has_no_gap_and_goes_on_through_another_member() {
    let cluster = furnished("watched", 3);
    let start = cluster.members[0].revision();
    let path = format!("/v1/events:watch?fromRevision={}", start + 1);
    let mut stream = Events::open(&cluster.members[0].api, &path, None).expect("a stream");
    for value in 0..6 {
        let action = if value % 2 == 0 { "cordon" } else { "uncordon" };
        cluster.members[1].order("POST", &format!("/v1/nodes/node-1:{action}"), json!({}));
    }
    let wanted = cluster.read(&format!("/v1/events?fromRevision={}", start + 1))["events"].clone();
    let wanted = wanted.as_array().expect("events");
    assert!(wanted.len() >= 6, "{wanted:?}");
    let mut seen: Vec<Value> = Vec::new();
    let mut last = 0;
    while seen.len() < wanted.len() / 2 {
        let event = stream.next_event().expect("an event");
        let id = event.id.expect("the revision");
        assert_eq!((event.kind.as_str(), number(&event.data["revision"])), ("message", id));
        assert!(id > last, "{id} after {last}");
        last = id;
        seen.extend(event.data["events"].as_array().cloned().unwrap_or_default());
    }
    // The connection breaks; the rest comes from another member, after the last id seen.
    drop(stream);
    let mut stream = Events::open(&cluster.members[2].api, "/v1/events:watch", Some(last)).expect("a stream");
    while seen.len() < wanted.len() {
        let event = stream.next_event().expect("an event");
        assert!(event.id > Some(last), "{event:?} after {last}");
        last = event.id.expect("the revision");
        seen.extend(event.data["events"].as_array().cloned().unwrap_or_default());
    }
    assert_eq!(&seen, wanted, "the watch and the list tell the same story");

    // The same over gRPC, from the start.
    let streamed = block(async {
        let mut client = EventServiceClient::new(channel(&cluster.members[1]));
        let request = v1::WatchRequest { from_revision: start + 1, filter: None };
        let mut stream = client.watch(request).await.expect("a stream").into_inner();
        let mut seen = Vec::new();
        while seen.len() < wanted.len() {
            let message = stream.message().await.expect("sound").expect("endless");
            seen.extend(message.events.iter().map(|event| rest::to_json("quorate.v1.Event", event)));
        }
        seen
    });
    assert_eq!(&streamed, wanted);
}

#[test]
fn watch_that_cannot_begin_is_refused_with_a_problem() {
    let cluster = Cluster::start("unwatched", 1, "default");
    let member = &cluster.members[0];
    let (status, _, field) = http::raw(&member.api, "GET", "/v1/events:watch", &[("last-event-id", "yesterday")], b"")
        .expect("answered")
        .problem();
    assert_eq!((status, field.as_str()), (400, "Last-Event-ID"));
    let answer = member.get("/v1/events:watch?fromRevision=now");
    assert_eq!(answer.problem().0, 400);
    let answer = member.get("/v1/events:watch?since=1");
    assert_eq!((answer.problem().0, answer.problem().1.as_str()), (400, "unknown-field"));
}

// ---- Bad input ----

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

//! How much a member takes of one client: calls a second, bytes a message. What is too much is said alike at both doors.

use tonic::codegen::tokio_stream;

use super::*;

/// Calls a second of one client, in these tests.
const PACE: u64 = 40;

fn paced(name: &str, size: usize) -> (Cluster, tests::processes::Folder) {
    let folder = tests::processes::Folder::new(name);
    let config = folder.path().join("member.conf");
    std::fs::write(&config, format!("[limits]\ncalls_per_second_per_client = {PACE}\n")).expect("written");
    let config = config.display().to_string();
    (Cluster::start_with(name, size, "default", &["--config", &config]), folder)
}

#[test]
fn client_that_calls_too_fast_is_told_when_to_come_again_at_both_doors() {
    let (cluster, _config) = paced("too-fast", 1);
    let member = &cluster.members[0];
    let refused = (0..PACE * 20).find_map(|_| {
        let answer = member.get("/v1/cluster");
        (answer.status != 200).then_some(answer)
    });
    let refused = refused.expect("the pace is kept");
    assert_eq!((refused.problem().0, refused.problem().1.as_str()), (429, "rate-limited"));
    assert!(refused.header("retry-after").is_some_and(|after| after.parse::<u64>().is_ok_and(|after| after >= 1)));
    assert!(refused.json()["retryAfterMs"].as_u64().is_some(), "{}", refused.body);
    let status = block(async {
        let mut client = ClusterServiceClient::new(channel(member));
        for _ in 0..PACE * 20 {
            if let Err(status) = client.status(v1::StatusRequest {}).await {
                return status;
            }
        }
        panic!("the pace is not kept over gRPC");
    });
    let problem = Problem::from(&status);
    assert_eq!((status.code(), &*problem.reason), (tonic::Code::ResourceExhausted, "rate-limited"));
    assert!(problem.retry_after.is_some(), "no RetryInfo: {status:?}");
    // Whoever waits is served again, and what is no part of the API is never held up.
    assert_eq!(member.get("/healthz").status, 200);
    until_so("it is served again", || member.get("/v1/cluster").status == 200);
}

#[test]
fn items_of_batches_and_streams_count_one_by_one() {
    let (cluster, _config) = paced("items", 1);
    let member = &cluster.members[0];
    let item = || v1::AnnotateContainerRequest { container: "nobody".into(), ..Default::default() };
    // More than a second's worth fits only where nothing else was asked lately, and this cluster was just looked at.
    let items: Vec<Value> = (0..PACE * 2).map(|_| json!({ "container": "nobody" })).collect();
    let answer = member.call("POST", "/v1/containers:batchAnnotate", &json!({ "items": items }));
    assert_eq!((answer.problem().0, answer.problem().1.as_str()), (429, "rate-limited"));
    // A stream is slowed down: everything is answered, in no less than the time it takes.
    let count = usize::try_from(PACE).expect("small") * 3;
    let began = std::time::Instant::now();
    let results = block(submitted(member, (0..count).map(|_| v1::submit_request::Change::Annotate(item())).collect()));
    assert_eq!(results.len(), count);
    assert!(began.elapsed() >= std::time::Duration::from_millis(1_000), "{:?}", began.elapsed());
}

/// What a stream of these changes is answered; asked again while the pace keeps it from beginning.
async fn submitted(member: &Member, changes: Vec<v1::submit_request::Change>) -> Vec<v1::ItemResult> {
    let mut client = ContainerServiceClient::new(channel(member));
    loop {
        let items: Vec<_> = changes.iter().map(|it| v1::SubmitRequest { change: Some(it.clone()) }).collect();
        let mut stream = match client.submit(tokio_stream::iter(items)).await {
            Ok(stream) => stream.into_inner(),
            Err(status) if &*Problem::from(&status).reason == "rate-limited" => continue,
            Err(status) => panic!("{status}"),
        };
        let mut results = Vec::new();
        while let Some(reply) = stream.message().await.expect("sound") {
            results.extend(reply.result);
        }
        return results;
    }
}

#[test]
fn submitted_item_that_is_refused_names_its_field_as_the_request_does_and_gets_an_id() {
    let cluster = furnished("submitted", 1);
    let spec = |stop_grace_ms| v1::ContainerSpec {
        name: "other".into(),
        template: "plain".into(),
        storage: "shared".into(),
        resources: Some(v1::Resources { cpu_millis: 1, memory_bytes: 1 << 20 }),
        stop_grace_ms: Some(stop_grace_ms),
        ..Default::default()
    };
    let create = v1::CreateContainerRequest { spec: Some(spec(999_999_999)), ..Default::default() };
    let set = [("a".to_owned(), "x".repeat(100_000))].into();
    let annotate = v1::AnnotateContainerRequest { container: "web".into(), set, ..Default::default() };
    let changes = vec![v1::submit_request::Change::Create(create), v1::submit_request::Change::Annotate(annotate)];
    let results = block(submitted(&cluster.members[0], changes));
    let mut fields: Vec<String> =
        results.iter().filter_map(|it| it.problem.as_ref()).map(|problem| problem.field.clone()).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["annotate.set", "create.spec.stop_grace_ms"], "{results:?}");
    assert!(results.iter().all(|it| it.request_id.len() == 36), "{results:?}");
}

#[test]
fn message_above_the_limit_is_refused_alike_at_both_doors_and_on_a_stream() {
    let cluster = Cluster::start("too-large", 3, "default");
    let leader = cluster.leader();
    let large = || "x".repeat(2 << 20);
    let body = json!({ "requestId": request_id(), "set": { "a": large() } });
    let rest = cluster.members[0].call("POST", "/v1/containers/web:annotate", &body);
    assert_eq!((rest.problem().0, rest.problem().1.as_str()), (413, "body-too-large"));
    let set = [("a".to_owned(), large())].into();
    let annotate = v1::AnnotateContainerRequest { container: "web".into(), set, ..Default::default() };
    let told = |status: &Status| {
        let problem = Problem::from(status);
        assert_eq!((status.code(), &*problem.reason), (tonic::Code::ResourceExhausted, "body-too-large"), "{status:?}");
        assert!(problem.message.contains("1048576") && problem.hint.is_some(), "{problem}");
    };
    let unary = block(async {
        ContainerServiceClient::new(channel(&cluster.members[0])).annotate(annotate.clone()).await.expect_err("large")
    });
    told(&unary);
    // Through the leader, and through a member that passes the stream on.
    for at in [leader, (leader + 1) % 3] {
        let status = block(async {
            let small = v1::AnnotateContainerRequest { container: "nobody".into(), ..Default::default() };
            let items = [small, annotate.clone()]
                .map(|it| v1::SubmitRequest { change: Some(v1::submit_request::Change::Annotate(it)) });
            let mut client = ContainerServiceClient::new(channel(&cluster.members[at]));
            let mut stream = client.submit(tokio_stream::iter(items)).await.expect("a stream").into_inner();
            loop {
                match stream.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("the stream ended as if nothing were wrong"),
                    Err(status) => return status,
                }
            }
        });
        told(&status);
    }
}

//! REST speaks to the gRPC service as a client would: same messages, same refusals, streams as events.

use std::collections::BTreeSet;
use std::pin::Pin;

use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use prost::bytes::Bytes;
use proto::rest::{Rest, routes};
use proto::v1::container_service_server::{ContainerService, ContainerServiceServer};
use proto::v1::event_service_server::{EventService, EventServiceServer};
use proto::v1::template_service_server::{TemplateService, TemplateServiceServer};
use proto::{Problem, v1};
use serde_json::{Value, json};
use tokio_stream::Stream;
use tonic::{Code, Request as Call, Response as Reply, Status, Streaming};
use tower::Service;

/// Answers with what it was asked, so that a test sees what arrived.
#[derive(Clone)]
struct Mirror;

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn change(text: impl std::fmt::Debug) -> Result<Reply<v1::Change>, Status> {
    Err(Problem::new(Code::FailedPrecondition, "mirror", format!("{text:?}")).into())
}

#[tonic::async_trait]
impl TemplateService for Mirror {
    async fn register(&self, call: Call<v1::RegisterTemplateRequest>) -> Result<Reply<v1::Change>, Status> {
        let template = call.into_inner().template.unwrap_or_default();
        if template.name == "taken" {
            return Err(Problem::new(Code::AlreadyExists, "name-taken", "taken is taken").at("template.name").into());
        }
        Ok(Reply::new(v1::Change { revision: template.name.len() as u64 }))
    }

    type ImportStream = tokio_stream::Empty<Result<v1::ImportTemplateReply, Status>>;

    async fn import(&self, _: Call<v1::ImportTemplateRequest>) -> Result<Reply<Self::ImportStream>, Status> {
        Ok(Reply::new(tokio_stream::empty()))
    }

    type VerifyStream = tokio_stream::Empty<Result<v1::VerifyTemplateReply, Status>>;

    async fn verify(&self, _: Call<v1::VerifyTemplateRequest>) -> Result<Reply<Self::VerifyStream>, Status> {
        Ok(Reply::new(tokio_stream::empty()))
    }

    type SyncStream = tokio_stream::Empty<Result<v1::SyncTemplatesReply, Status>>;

    async fn sync(&self, _: Call<v1::SyncTemplatesRequest>) -> Result<Reply<Self::SyncStream>, Status> {
        Ok(Reply::new(tokio_stream::empty()))
    }

    async fn inventory(
        &self,
        _: Call<v1::TemplateInventoryRequest>,
    ) -> Result<Reply<v1::TemplateInventoryReply>, Status> {
        Ok(Reply::new(v1::TemplateInventoryReply::default()))
    }

    async fn discard(&self, _: Call<v1::DiscardTemplateRequest>) -> Result<Reply<v1::DiscardTemplateReply>, Status> {
        Ok(Reply::new(v1::DiscardTemplateReply::default()))
    }

    async fn remove(&self, call: Call<v1::RemoveTemplateRequest>) -> Result<Reply<v1::Change>, Status> {
        change(call.into_inner())
    }

    async fn list(&self, call: Call<v1::ListTemplatesRequest>) -> Result<Reply<v1::ListTemplatesReply>, Status> {
        let authorization = call.metadata().get("authorization").and_then(|value| value.to_str().ok()).unwrap_or("");
        let template = v1::Template { name: authorization.to_owned(), ..v1::Template::default() };
        let asked = call.into_inner();
        let page = asked.page.unwrap_or_default();
        let reply = v1::ListTemplatesReply {
            templates: vec![template],
            page: Some(v1::PageReply { next_token: page.token }),
            revision: u64::from(page.size) + if asked.stale { 1_000 } else { 0 },
        };
        Ok(Reply::new(reply))
    }
}

#[tonic::async_trait]
impl EventService for Mirror {
    type WatchStream = Replies<v1::WatchReply>;

    async fn watch(&self, call: Call<v1::WatchRequest>) -> Result<Reply<Self::WatchStream>, Status> {
        let from = call.into_inner().from_revision;
        if from == 1 {
            return Err(Problem::new(Code::OutOfRange, "compacted", "gone").into());
        }
        let replies = vec![
            Ok(v1::WatchReply { revision: from, events: vec![] }),
            Ok(v1::WatchReply { revision: from + 1, events: vec![v1::Event::default()] }),
            Err(Problem::new(Code::Unavailable, "shutting-down", "bye").into()),
        ];
        Ok(Reply::new(Box::pin(tokio_stream::iter(replies))))
    }

    async fn list(&self, call: Call<v1::ListEventsRequest>) -> Result<Reply<v1::ListEventsReply>, Status> {
        let kinds = call.into_inner().filter.unwrap_or_default().kinds;
        let events = kinds.into_iter().map(|kind| v1::Event { kind, ..v1::Event::default() }).collect();
        Ok(Reply::new(v1::ListEventsReply { events, ..v1::ListEventsReply::default() }))
    }
}

#[tonic::async_trait]
impl ContainerService for Mirror {
    type SubmitStream = Replies<v1::SubmitReply>;

    async fn create(&self, call: Call<v1::CreateContainerRequest>) -> Result<Reply<v1::CreateContainerReply>, Status> {
        let spec = call.into_inner().spec.unwrap_or_default();
        let revision = spec.resources.unwrap_or_default().memory_bytes;
        Ok(Reply::new(v1::CreateContainerReply { container: spec.name, revision }))
    }
    async fn batch_create(
        &self,
        _: Call<v1::BatchCreateContainersRequest>,
    ) -> Result<Reply<v1::BatchCreateContainersReply>, Status> {
        Ok(Reply::new(v1::BatchCreateContainersReply::default()))
    }
    async fn list(&self, call: Call<v1::ListContainersRequest>) -> Result<Reply<v1::ListContainersReply>, Status> {
        let state = call.into_inner().state;
        Ok(Reply::new(v1::ListContainersReply { revision: state as u64, ..v1::ListContainersReply::default() }))
    }
    async fn get(&self, call: Call<v1::GetContainerRequest>) -> Result<Reply<v1::GetContainerReply>, Status> {
        let container = v1::Container { id: call.into_inner().container, ..v1::Container::default() };
        Ok(Reply::new(v1::GetContainerReply { container: Some(container), revision: 1 }))
    }
    async fn start(&self, call: Call<v1::StartContainerRequest>) -> Result<Reply<v1::Change>, Status> {
        change(call.into_inner())
    }
    async fn stop(&self, call: Call<v1::StopContainerRequest>) -> Result<Reply<v1::Change>, Status> {
        change(call.into_inner())
    }
    async fn restart(&self, call: Call<v1::RestartContainerRequest>) -> Result<Reply<v1::Change>, Status> {
        change(call.into_inner())
    }
    async fn r#move(&self, call: Call<v1::MoveContainerRequest>) -> Result<Reply<v1::Change>, Status> {
        change(call.into_inner())
    }
    async fn delete(&self, call: Call<v1::DeleteContainerRequest>) -> Result<Reply<v1::Change>, Status> {
        change(call.into_inner())
    }
    async fn why(&self, call: Call<v1::WhyRequest>) -> Result<Reply<v1::WhyReply>, Status> {
        Ok(Reply::new(v1::WhyReply { lines: vec![call.into_inner().container], ..v1::WhyReply::default() }))
    }
    async fn annotate(&self, call: Call<v1::AnnotateContainerRequest>) -> Result<Reply<v1::Change>, Status> {
        change(call.into_inner())
    }
    async fn set_on_quorum_loss(&self, call: Call<v1::SetOnQuorumLossRequest>) -> Result<Reply<v1::Change>, Status> {
        change(call.into_inner())
    }
    async fn batch_annotate(
        &self,
        _: Call<v1::BatchAnnotateContainersRequest>,
    ) -> Result<Reply<v1::BatchAnnotateContainersReply>, Status> {
        Ok(Reply::new(v1::BatchAnnotateContainersReply::default()))
    }
    async fn submit(&self, _: Call<Streaming<v1::SubmitRequest>>) -> Result<Reply<Self::SubmitStream>, Status> {
        Err(Status::unimplemented("not part of this test"))
    }
}

async fn send(request: Request<Full<Bytes>>) -> (StatusCode, String) {
    let grpc = tonic::service::Routes::new(TemplateServiceServer::new(Mirror))
        .add_service(EventServiceServer::new(Mirror))
        .add_service(ContainerServiceServer::new(Mirror));
    let response = Rest::new(grpc).body_limit(1_000).call(request).await.expect("never fails");
    let status = response.status();
    let body = response.into_body().collect().await.expect("the body ends").to_bytes();
    (status, String::from_utf8(body.to_vec()).expect("UTF-8"))
}

async fn ask(verb: &str, path: &str, body: &str) -> (u16, Value) {
    let body = Full::new(Bytes::from(body.to_owned()));
    let request = Request::builder().method(verb).uri(path).body(body).expect("a request");
    let (status, body) = send(request).await;
    (status.as_u16(), serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

#[tokio::test]
async fn query_path_body_and_headers_reach_the_service() {
    let request = Request::builder()
        .uri("/v1/templates?page.size=7&page.token=a%2Fb&stale=true")
        .header("authorization", "me")
        .body(Full::default())
        .expect("a request");
    let (status, body) = send(request).await;
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(status, 200);
    assert_eq!(body["page"]["nextToken"], "a/b");
    assert_eq!(body["revision"], "1007");
    assert_eq!(body["templates"][0]["name"], "me");
    assert_eq!(body["templates"][0]["digest"], "", "empty fields are written");

    assert_eq!(
        ask("PUT", "/v1/templates/debian", r#"{"template":{"kind":"TEMPLATE_KIND_OS"}}"#).await.1["revision"],
        "6"
    );
    assert_eq!(ask("GET", "/v1/containers/web%2D1:why", "").await.1["lines"], json!(["web-1"]));
    assert_eq!(ask("GET", "/v1/containers/@c12", "").await.1["container"]["id"], "@c12");
    assert_eq!(ask("GET", "/v1/containers?state=CONTAINER_STATE_RUNNING", "").await.1["revision"], "5");
    let events = ask("GET", "/v1/events?filter.kinds=a&filter.kinds=b", "").await.1;
    assert_eq!((&events["events"][0]["kind"], &events["events"][1]["kind"]), (&json!("a"), &json!("b")));
    let created = r#"{"spec":{"name":"web","resources":{"memory_bytes":5}}}"#;
    assert_eq!(ask("POST", "/v1/containers", created).await, (200, json!({"container": "web", "revision": "5"})));
    assert_eq!(ask("POST", "/v1/containers:batchCreate", "{}").await, (200, json!({"results": []})));
    let stopped = ask("POST", "/v1/containers/web:stop", r#"{"requestId":"r"}"#).await;
    assert!(stopped.1["detail"].as_str().is_some_and(|text| text.contains(r#"container: "web""#)), "{stopped:?}");
    let deleted = ask("DELETE", "/v1/containers/web?requestId=r1", "").await;
    assert!(deleted.1["detail"].as_str().is_some_and(|text| text.contains(r#"request_id: "r1""#)), "{deleted:?}");
}

#[tokio::test]
async fn what_is_wrong_is_said_as_problem_details() {
    let (status, problem) = ask("PUT", "/v1/templates/taken", "{}").await;
    assert_eq!((status, &problem["reason"], &problem["field"]), (409, &json!("name-taken"), &json!("template.name")));
    assert_eq!(problem["type"], "urn:quorate:problem:name-taken");

    let cases = [
        ("POST", "/v1/containers", r#"{"spec":{"nmae":"x"}}"#, 400, "unknown-field"),
        ("POST", "/v1/containers", r#"{"spec":{"resources":{"memoryBytes":-1}}}"#, 400, "bad-value"),
        ("POST", "/v1/containers", r#"{"spec":{"class":"CONTAINER_CLASS_BEST"}}"#, 400, "bad-value"),
        ("POST", "/v1/containers", "[]", 400, "not-an-object"),
        ("POST", "/v1/containers", "{", 400, "bad-json"),
        ("POST", "/v1/containers", r#"{"spec":{"name":"a","name":"b"}}"#, 400, "given-twice"),
        ("POST", "/v1/containers?x=1", "{}", 400, "unexpected-query"),
        ("GET", "/v1/containers?nope=1", "", 400, "unknown-field"),
        ("GET", "/v1/containers?stale=maybe", "", 400, "invalid-field"),
        ("GET", "/v1/containers?page.size=1&page.size=2", "", 400, "invalid-field"),
        ("GET", "/v1/containers?page.size=-1", "", 400, "bad-value"),
        ("GET", "/v1/containers/%ff", "", 400, "invalid-field"),
        ("GET", "/v1/containers", "{}", 400, "unexpected-body"),
        ("PUT", "/v1/templates/a", r#"{"template":{"name":"b"}}"#, 400, "invalid-field"),
        ("PATCH", "/v1/containers", "{}", 405, "method-not-allowed"),
        ("GET", "/v2/containers", "", 404, "no-such-path"),
        ("GET", "/v1/containers/web/../x", "", 404, "no-such-path"),
        ("GET", "/v1/events:watch?fromRevision=1", "", 400, "compacted"),
    ];
    let places = [
        (r#"{"spec":{"nmae":"x"}}"#, "spec.nmae"),
        (r#"{"spec":{"name":"x","resources":{"memoryBytes":-1}}}"#, "spec.resources.memory_bytes"),
        (r#"{"spec":{"preferredOwners":[{"nodes":["a"]},{"nods":[]}]}}"#, "spec.preferred_owners[1].nods"),
        (r#"{"spec":{"environment":{"a":1}}}"#, "spec.environment.a"),
        (r#"{"spec":7}"#, "spec"),
    ];
    for (body, field) in places {
        let (_, problem) = ask("POST", "/v1/containers", body).await;
        assert_eq!(problem["field"], field, "{body}: {problem}");
    }
    for (verb, path, body, status, reason) in cases {
        let (given, problem) = ask(verb, path, body).await;
        assert_eq!((given, &problem["reason"]), (status, &json!(reason)), "{verb} {path} {body}: {problem}");
        assert_eq!(problem["status"], status, "{verb} {path}");
        // In our words: none of those the parsers have.
        let said = problem["detail"].as_str().expect("words");
        for theirs in ["invalid ", "expected ", "unrecognized", "EOF", "digit", "column 0"] {
            assert!(!said.contains(theirs), "{verb} {path} {body}: {said}");
        }
    }
    for (body, said) in [
        ("{", "the body is not JSON: it ends before it is complete"),
        (r#"{"spec": x}"#, "the body is not JSON: it makes no sense at line 1, column 10"),
        ("[]", "the body must be a JSON object, not a list"),
        (r#"{"spec":{"priority":-1}}"#, "must be a whole number from 0 to 4294967295, not -1"),
    ] {
        assert_eq!(ask("POST", "/v1/containers", body).await.1["detail"], said, "{body}");
    }
    let (status, problem) = ask("POST", "/v1/containers", &" ".repeat(1_001)).await;
    assert_eq!((status, &problem["reason"]), (413, &json!("body-too-large")));
    let request = Request::post("/v1/containers").header("content-type", "text/plain").body(Full::default());
    assert_eq!(send(request.expect("a request")).await.0, 415);
}

#[tokio::test]
async fn a_stream_is_events_with_the_revision_as_id() {
    let (status, text) = ask("GET", "/v1/events:watch?fromRevision=7", "").await;
    let text = text.as_str().expect("events are no JSON");
    assert_eq!(status, 200);
    let ids: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(ids, ["7", "8"]);
    let last = text.trim_end().rsplit("\n\n").next().expect("a last event");
    let (name, data) = last.split_once('\n').expect("two lines");
    let problem: Value = serde_json::from_str(data.trim_start_matches("data: ")).expect("JSON");
    assert_eq!((name, &problem["reason"]), ("event: problem", &json!("shutting-down")));

    let resumed = Request::get("/v1/events:watch").header("last-event-id", "41").body(Full::default());
    let (_, text) = send(resumed.expect("a request")).await;
    assert!(text.starts_with("id: 42\n"), "{text}");
}

#[test]
fn every_method_that_http_can_carry_has_a_route_of_its_own() {
    let pool = prost_reflect::DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).expect("the set decodes");
    let routed: BTreeSet<&str> = routes().iter().map(|route| route.grpc_path.as_str()).collect();
    for service in pool.services() {
        for method in service.methods() {
            let path = format!("/{}/{}", service.full_name(), method.name());
            assert_eq!(routed.contains(path.as_str()), !method.is_client_streaming(), "{path}");
        }
    }
    let shapes: BTreeSet<_> = routes().iter().map(|route| (route.verb, &route.template)).collect();
    assert_eq!(shapes.len(), routes().len(), "two methods share a route");
    for route in routes() {
        assert!(!route.template.contains("//"), "{}", route.template);
    }
}

#[test]
fn every_mutating_request_has_a_request_id_and_every_service_a_comment() {
    let pool = prost_reflect::DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).expect("the set decodes");
    for route in routes().iter().filter(|route| route.verb.name() != "GET") {
        let (service, method) = route.grpc_path[1..].split_once('/').expect("service and method");
        let service = pool.get_service_by_name(service).expect("known");
        let input = service.methods().find(|known| known.name() == method).expect("known").input();
        let batch = input.get_field_by_name("items").is_some();
        assert!(batch || input.get_field_by_name("request_id").is_some(), "{}", route.grpc_path);
    }
    let document: Value = serde_json::from_str(proto::rest::openapi()).expect("JSON");
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["info"]["description"].as_str().is_some_and(|text| text.contains("request_id")));
    for (path, verbs) in document["paths"].as_object().expect("paths") {
        for (verb, operation) in verbs.as_object().expect("verbs") {
            assert_ne!(operation["description"], "", "{verb} {path}");
        }
    }
}

#[test]
fn every_field_of_the_api_is_explained() {
    let document: Value = serde_json::from_str(proto::rest::openapi()).expect("JSON");
    let schemas = document["components"]["schemas"].as_object().expect("schemas");
    assert!(schemas.len() > 60, "{}", schemas.len());
    for (name, schema) in schemas {
        for (field, schema) in schema["properties"].as_object().expect("properties") {
            assert!(schema["description"].as_str().is_some_and(|text| !text.is_empty()), "{name}.{field}");
        }
    }
    assert!(document["paths"]["/v1/templates/{template}"]["put"].is_object());
    assert!(document["paths"]["/v1/templates/{template}"]["delete"].is_object());
}

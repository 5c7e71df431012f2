//! REST over the gRPC service itself: an HTTP request becomes the gRPC call its annotation names, the reply becomes JSON.
//!
//! One source, the annotated protos; one path, the gRPC service: what is checked, limited and timed there is so for REST too.
//! In: HTTP requests. Out: JSON of the same messages, server streams as server-sent events, problem details (RFC 9457).
//! Absent: no knowledge of any method; streams from the client have no HTTP form and are gRPC only.

mod message;
mod misfit;
mod openapi;
mod route;
mod stream;
mod strict;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use prost::bytes::{BufMut, Bytes, BytesMut};
use prost_reflect::DescriptorPool;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service;

pub use message::{from_json, to_json};
pub use openapi::openapi;
pub use route::{Method as Verb, Route, routes};

use crate::problem::Problem;
use route::Found;

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(crate::FILE_DESCRIPTOR_SET).expect("the set was made by the build"));

/// A JSON body may have so many bytes unless [`Rest::body_limit`] says otherwise.
const BODY_LIMIT: usize = 4 << 20;
/// Headers that describe the HTTP request itself and mean nothing to the call.
const HOP: [HeaderName; 11] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::EXPECT,
    header::HOST,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Serves the annotated methods of the gRPC service `S` over HTTP and JSON.
///
/// Answers every request itself, unknown paths with a problem; mount it as the fallback behind whatever else has paths.
#[derive(Clone, Debug)]
pub struct Rest<S> {
    grpc: S,
    body_limit: usize,
}

impl<S> Rest<S> {
    pub fn new(grpc: S) -> Rest<S> {
        Rest { grpc, body_limit: BODY_LIMIT }
    }

    /// Refuses longer request bodies, in bytes, with 413.
    pub fn body_limit(mut self, bytes: usize) -> Rest<S> {
        self.body_limit = bytes;
        self
    }
}

impl<S, B> Service<Request<B>> for Rest<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    /// Always ready: readiness of the gRPC service is awaited per request, on the copy that serves it.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let rest = self.clone();
        Box::pin(async move { Ok(rest.serve(request).await.unwrap_or_else(|refusal| refusal.response())) })
    }
}

/// A refusal that HTTP has a more exact status for than the gRPC code it goes with.
struct Refusal {
    problem: Problem,
    exact: Option<Box<Exact>>,
}

struct Exact {
    status: StatusCode,
    allow: Option<HeaderValue>,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Refusal {
        Refusal { problem, exact: None }
    }
}

impl Refusal {
    fn exactly(problem: Problem, status: StatusCode, allow: Option<HeaderValue>) -> Refusal {
        Refusal { problem, exact: Some(Box::new(Exact { status, allow })) }
    }

    fn response(self) -> Response<Body> {
        let mut json = self.problem.json();
        let (status, allow) = match self.exact {
            Some(exact) => (exact.status, exact.allow),
            None => (self.problem.http_status(), None),
        };
        json["status"] = status.as_u16().into();
        json["title"] = status.canonical_reason().unwrap_or("Client Closed Request").into();
        let mut response = answer(status, "application/problem+json", json.to_string().into());
        if let Some(allow) = allow {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        if let Some(after) = self.problem.retry_after {
            let seconds = after.as_millis().div_ceil(1_000).max(1).to_string();
            let seconds = HeaderValue::from_str(&seconds).expect("digits make a header value");
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

impl<S> Rest<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Send,
{
    async fn serve<B>(mut self, request: Request<B>) -> Result<Response<Body>, Refusal>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let (route, captures) = match route::find(&head.method, head.uri.path())? {
            Found::Route(route, captures) => (route, captures),
            Found::OtherVerbs(verbs) => return Err(wrong_verb(&head.method, &verbs)),
            Found::Nothing => return Err(no_such_path(head.uri.path())),
        };
        expects_json(&head.headers)?;
        let body =
            Limited::new(body, self.body_limit).collect().await.map_err(|error| unreadable(error, self.body_limit))?;
        let mut message = message::decode(route, &captures, head.uri.query().unwrap_or_default(), &body.to_bytes())?;
        if let Some(last) = head.headers.get("last-event-id") {
            stream::resume_after(&mut message, last)?;
        }
        let call = grpc_request(route, &head.headers, head.extensions, message::framed(&message));

        std::future::poll_fn(|cx| self.grpc.poll_ready(cx)).await.unwrap_or_else(|never| match never {});
        let reply = self.grpc.call(call).await.unwrap_or_else(|never| match never {});
        let ours = ours(reply.headers());
        let mut response = transcoded(route, reply).await.unwrap_or_else(Refusal::response);
        response.headers_mut().extend(ours);
        Ok(response)
    }
}

/// What the call says beside its answer: headers of the same names.
fn ours(headers: &HeaderMap) -> HeaderMap {
    let ours = headers.iter().filter(|(name, _)| name.as_str().starts_with("quorate-"));
    ours.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The answer of a call in the words of HTTP.
async fn transcoded(route: &Route, reply: Response<Body>) -> Result<Response<Body>, Refusal> {
    if let Some(status) = Status::from_header_map(reply.headers())
        && status.code() != Code::Ok
    {
        return Err(Problem::from(&status).into());
    }
    if route.server_streaming {
        return Ok(stream::response(route, reply.into_body()));
    }
    let collected = reply.into_body().collect().await.map_err(|status| Refusal::from(Problem::from(&status)))?;
    if let Some(status) = collected.trailers().and_then(Status::from_header_map)
        && status.code() != Code::Ok
    {
        return Err(Problem::from(&status).into());
    }
    let mut bytes = BytesMut::from(&collected.to_bytes()[..]);
    let message = message::unframed(&mut bytes)?.ok_or_else(|| message::broken("the call ended without a reply"))?;
    Ok(answer(StatusCode::OK, "application/json", message::json(&route.output, message)?.into()))
}

fn answer(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The call as a gRPC client would send it; headers that are the caller's own go along, among them `grpc-timeout`.
fn grpc_request(route: &Route, headers: &HeaderMap, extensions: http::Extensions, body: Bytes) -> Request<Body> {
    let mut request = Request::new(Body::new(Full::new(body)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = route.grpc_path.parse().expect("package, service and method make a path");
    *request.version_mut() = http::Version::HTTP_2;
    *request.extensions_mut() = extensions;
    *request.headers_mut() = headers.clone();
    for name in &HOP {
        request.headers_mut().remove(name);
    }
    request.headers_mut().remove("grpc-encoding");
    request.headers_mut().remove("grpc-accept-encoding");
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    request
}

/// A body that says it is something else than JSON is refused before it is read; one that says nothing is taken for JSON.
fn expects_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(content_type) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let essence = content_type.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let problem = Problem::new(Code::InvalidArgument, "not-json", format!("{essence:?} is not understood here"))
        .hint("send application/json");
    Err(Refusal::exactly(problem, StatusCode::UNSUPPORTED_MEDIA_TYPE, None))
}

fn unreadable(error: Box<dyn std::error::Error + Send + Sync>, limit: usize) -> Refusal {
    if error.is::<LengthLimitError>() {
        let text = format!("the body has more than {limit} bytes");
        let problem = Problem::new(Code::ResourceExhausted, "body-too-large", text).hint("send less at a time");
        return Refusal::exactly(problem, StatusCode::PAYLOAD_TOO_LARGE, None);
    }
    Problem::new(Code::InvalidArgument, "unreadable-body", format!("the body could not be read: {error}")).into()
}

fn wrong_verb(given: &Method, verbs: &[&'static str]) -> Refusal {
    let allowed = verbs.join(", ");
    let problem = Problem::new(Code::Unimplemented, "method-not-allowed", format!("{given} is not served here"))
        .hint(format!("use {allowed}"));
    let allow = HeaderValue::from_str(&allowed).ok();
    Refusal::exactly(problem, StatusCode::METHOD_NOT_ALLOWED, allow)
}

fn no_such_path(path: &str) -> Refusal {
    let shown: String = path.chars().take(200).collect();
    Problem::new(Code::NotFound, "no-such-path", format!("nothing is served at {shown:?}"))
        .hint("GET /openapi.json lists what is")
        .into()
}

/// One gRPC message frame: no compression, length, bytes.
fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("messages are far below 4 GiB"));
    framed.put_slice(message);
    framed.freeze()
}

//! The public port: gRPC, REST, health, metrics and the description of it all, told apart by what the request says it is.
//! In: HTTP/1.1 and HTTP/2 without TLS. Out: one answer each. REST is the same calls through the same limits.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use proto::rest::{Rest, openapi};
use proto::v1::cluster_service_server::ClusterServiceServer;
use proto::v1::container_service_server::ContainerServiceServer;
use proto::v1::event_service_server::EventServiceServer;
use proto::v1::node_service_server::NodeServiceServer;
use proto::v1::storage_service_server::StorageServiceServer;
use proto::v1::template_service_server::TemplateServiceServer;
use proto::wire::agents_server::AgentsServer;
use proto::wire::peers_server::PeersServer;
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service;

use super::agent::AgentDoor;
use super::cluster::ClusterDoor;
use super::containers::Containers;
use super::door::{ANSWER_BYTES, Door, MESSAGE_BYTES};
use super::events::EventDoor;
use super::limits::{Guarded, Limited, Limits, Traffic};
use super::metrics;
use super::nodes::Nodes;
use super::peer::PeerDoor;
use super::storages::Storages;
use super::templates::Templates;
use crate::runtime::FRAME_BYTES;
use crate::standing::Standing;

/// What agents send is small: a report of everything a node runs.
const AGENT_BYTES: usize = 4 << 20;

static OPENAPI: LazyLock<Bytes> = LazyLock::new(|| openapi().to_string().into());

/// Everything behind the public port.
#[derive(Clone)]
pub struct Front {
    grpc: Limited<Routes>,
    rest: Rest<Limited<Routes>>,
    door: Door,
    traffic: Arc<Traffic>,
}

impl Front {
    pub fn new(door: Door, limits: Limits, extra: Routes) -> Front {
        macro_rules! limited {
            ($server:ident, $service:expr) => {
                $server::new($service).max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(ANSWER_BYTES)
            };
        }
        let routes = extra
            .add_service(limited!(ClusterServiceServer, ClusterDoor(door.clone())))
            .add_service(limited!(NodeServiceServer, Nodes(door.clone())))
            .add_service(limited!(ContainerServiceServer, Containers(door.clone())))
            .add_service(limited!(TemplateServiceServer, Templates(door.clone())))
            .add_service(limited!(StorageServiceServer, Storages(door.clone())))
            .add_service(limited!(EventServiceServer, EventDoor(door.clone())))
            .prepare();
        let traffic = Arc::new(Traffic::default());
        let grpc = Limited::new(routes, limits, Arc::clone(&traffic), door.paces().clone());
        let rest = Rest::new(grpc.clone()).body_limit(MESSAGE_BYTES);
        Front { grpc, rest, door, traffic }
    }

    /// The paths that are no part of the API, if `request` is for one of them.
    fn plain(&self, request: &Request<Body>) -> Option<Response<Body>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return None;
        }
        match request.uri().path() {
            "/healthz" => Some(answer(StatusCode::OK, "text/plain; charset=utf-8", "ok\n")),
            "/readyz" => Some(self.ready()),
            "/metrics" => {
                let text = metrics::text(&self.door.standing(), &self.traffic);
                Some(answer(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text))
            }
            "/openapi.json" => Some(answer(StatusCode::OK, "application/json", OPENAPI.clone())),
            _ => None,
        }
    }

    /// Ready is who can serve a linearizable call: a member that knows a leader and has a state.
    fn ready(&self) -> Response<Body> {
        let why = match self.door.standing() {
            Standing::Member(seated) => {
                let view = seated.handle.view();
                match (&view.state, view.leader) {
                    (None, _) => Some("no-state: waiting for the state of the cluster".to_owned()),
                    (_, None) => Some("no-quorum: no leader is known".to_owned()),
                    (Some(_), Some(_)) => None,
                }
            }
            other => {
                let problem = other.problem();
                Some(format!("{}: {problem}", problem.reason))
            }
        };
        let (status, text) = match why {
            None => (StatusCode::OK, "ready\n".to_owned()),
            Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        };
        answer(status, "text/plain; charset=utf-8", text)
    }
}

/// Everything behind the port for members and agents.
pub fn inner(door: &Door) -> Routes {
    let agents = AgentsServer::new(AgentDoor(door.clone()));
    let peers = PeersServer::new(PeerDoor::new(door.clone()));
    Routes::new(agents.max_decoding_message_size(AGENT_BYTES).max_encoding_message_size(ANSWER_BYTES))
        .add_service(peers.max_decoding_message_size(FRAME_BYTES).max_encoding_message_size(FRAME_BYTES))
        .prepare()
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::new(Whole(Some(body.into()))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A body that is there already.
struct Whole(Option<Bytes>);

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, tonic::Status>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(http_body::Frame::data(bytes))))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

fn is_grpc(request: &Request<Body>) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    content_type.is_some_and(|content_type| content_type.as_bytes().starts_with(b"application/grpc"))
}

type Answer = Result<Response<Body>, Infallible>;

/// One of the three kinds of answer; gRPC, the hot one, costs nothing extra.
pub enum Answering {
    Grpc(Guarded<<Routes as Service<Request<Body>>>::Future>),
    Rest(Pin<Box<dyn Future<Output = Answer> + Send>>),
    Plain(Option<Response<Body>>),
}

impl Future for Answering {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        match self.get_mut() {
            Answering::Grpc(call) => Pin::new(call).poll(cx),
            Answering::Rest(call) => call.as_mut().poll(cx),
            Answering::Plain(answer) => Poll::Ready(Ok(answer.take().expect("a future is not polled after its end"))),
        }
    }
}

impl Service<Request<Body>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.grpc.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        if is_grpc(&request) {
            return Answering::Grpc(self.grpc.call(request));
        }
        match self.plain(&request) {
            Some(answer) => Answering::Plain(Some(answer)),
            None => Answering::Rest(self.rest.call(request)),
        }
    }
}

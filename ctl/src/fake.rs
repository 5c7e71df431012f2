//! A member for tests: answers every call with what a closure says, in the words of gRPC.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tonic::Status;

/// Serves until the test ends. In: the method, as `NodeService.Drain`, and the encoded request. Out: encoded replies, in
/// order, and how the call ends. Gives the address.
pub async fn member(
    answer: impl Fn(String, Bytes) -> (Vec<Vec<u8>>, Result<(), Status>) + Clone + Send + Sync + 'static,
) -> String {
    let serve = move |call: Request<Body>| async move {
        let method = call.uri().path().trim_start_matches("/quorate.v1.").replace('/', ".");
        let request = call.into_body().collect().await.expect("the client sends its request whole").to_bytes();
        // Behind the flag that says "not compressed" and the length.
        let (replies, end) = answer(method, request.slice(5..));
        let mut trailers = HeaderMap::new();
        end.err().unwrap_or_else(|| Status::ok("")).add_header(&mut trailers).expect("a status fits");
        let frames = replies.into_iter().map(|reply| Frame::data(framed(&reply)));
        let frames: Vec<Result<Frame<Bytes>, Infallible>> = frames.chain([Frame::trailers(trailers)]).map(Ok).collect();
        let body = Body::new(StreamBody::new(tokio_stream::iter(frames)));
        Response::builder().header("content-type", "application/grpc").body(body).expect("it has its parts")
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address").to_string();
    tokio::spawn(async { axum::serve(listener, axum::Router::new().fallback(serve)).await });
    address
}

fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).expect("a test's message is small").to_be_bytes();
    [&[0], &length[..], message].concat().into()
}

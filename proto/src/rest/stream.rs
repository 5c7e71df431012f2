//! A stream of replies as server-sent events. The `revision` of a message is its event id; `Last-Event-ID` goes on after it.
//! A stream that fails ends with an event `problem`; what failed before the first message is an ordinary problem answer.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use prost::bytes::{Bytes, BytesMut};
use prost_reflect::{DynamicMessage, MessageDescriptor, ReflectMessage, Value};
use tonic::body::Body;
use tonic::{Code, Status};

use super::message;
use super::route::Route;
use super::{Refusal, answer};
use crate::problem::Problem;

/// Lets the stream begin after the event a client saw last, where the request knows a place to begin.
pub(super) fn resume_after(message: &mut DynamicMessage, last: &HeaderValue) -> Result<(), Refusal> {
    let Some(field) = message.descriptor().get_field_by_name("from_revision") else { return Ok(()) };
    let seen: u64 = last.to_str().ok().and_then(|text| text.trim().parse().ok()).ok_or_else(|| {
        Problem::invalid("Last-Event-ID", "is not the id of an event").hint("give the revision of the last event seen")
    })?;
    message.set_field(&field, Value::U64(seen.saturating_add(1)));
    Ok(())
}

pub(super) fn response(route: &Route, inner: Body) -> Response<Body> {
    let mut response = answer(StatusCode::OK, "text/event-stream", Bytes::new());
    response.headers_mut().insert(header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    let output = route.output.clone();
    *response.body_mut() = Body::new(Events { inner, output, held: BytesMut::new(), over: false });
    response
}

/// gRPC frames in, events out.
struct Events {
    inner: Body,
    output: MessageDescriptor,
    held: BytesMut,
    over: bool,
}

impl Events {
    fn event(&self, message: Bytes) -> Result<Bytes, Problem> {
        let json = message::json(&self.output, message.clone())?;
        let decoded = DynamicMessage::decode(self.output.clone(), message).ok();
        let revision = decoded.and_then(|decoded| decoded.get_field_by_name("revision")?.as_u64());
        let mut event = Vec::with_capacity(json.len() + 40);
        if let Some(revision) = revision {
            event.extend_from_slice(format!("id: {revision}\n").as_bytes());
        }
        event.extend_from_slice(b"data: ");
        event.extend_from_slice(&json);
        event.extend_from_slice(b"\n\n");
        Ok(event.into())
    }

    fn end(&mut self, problem: &Problem) -> Bytes {
        self.over = true;
        format!("event: problem\ndata: {}\n\n", problem.json()).into()
    }
}

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if self.over {
                return Poll::Ready(None);
            }
            let next = message::unframed(&mut self.held).and_then(|next| next.map(|next| self.event(next)).transpose());
            match next {
                Ok(Some(event)) => return Poll::Ready(Some(Ok(Frame::data(event)))),
                Err(problem) => return Poll::Ready(Some(Ok(Frame::data(self.end(&problem))))),
                Ok(None) => {}
            }
            let failed = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Err(status)) => Some(status),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.held.extend_from_slice(&data);
                        continue;
                    }
                    Err(frame) => frame.trailers_ref().and_then(Status::from_header_map),
                },
            };
            match failed {
                Some(status) if status.code() != Code::Ok => {
                    let last = self.end(&Problem::from(&status));
                    return Poll::Ready(Some(Ok(Frame::data(last))));
                }
                _ => {}
            }
        }
    }
}

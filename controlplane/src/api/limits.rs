//! How much the doors take: calls at once, calls a second, streams at once, bytes a message.
//! In: gRPC calls, REST included, before anything of them is read. Out: passed on, or refused at once as `overloaded`.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::{Request, Response};
use proto::Problem;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service;

/// What the configuration may set.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Calls under way at once.
    pub calls: usize,
    /// Calls begun per second; a burst of one second's worth is let through.
    pub calls_per_second: u64,
    /// Watches, submits and other streams of clients at once.
    pub streams: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { calls: 8_192, calls_per_second: 100_000, streams: 4_096 }
    }
}

/// Counts what was let in and what was not.
#[derive(Default)]
pub struct Traffic {
    pub under_way: AtomicUsize,
    pub begun: AtomicU64,
    pub refused: AtomicU64,
}

/// Places for streams of clients.
#[derive(Clone)]
pub struct Streams(Arc<Semaphore>);

impl Streams {
    pub fn new(places: usize) -> Streams {
        Streams(Arc::new(Semaphore::new(places)))
    }

    /// Held for as long as the stream lives.
    pub fn enter(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.0).try_acquire_owned().map_err(|_| overloaded("too many streams are open on this member"))
    }
}

fn overloaded(text: &str) -> Problem {
    Problem::new(Code::ResourceExhausted, "overloaded", text)
        .hint("ask another member, or later")
        .retry_after(Duration::from_millis(200))
}

/// A gRPC service behind limits.
#[derive(Clone)]
pub struct Limited<S> {
    inner: S,
    limits: Arc<Limits>,
    traffic: Arc<Traffic>,
    pace: Arc<Pace>,
}

impl<S> Limited<S> {
    pub fn new(inner: S, limits: Limits, traffic: Arc<Traffic>) -> Limited<S> {
        let pace = Arc::new(Pace::new(limits.calls_per_second));
        Limited { inner, limits: Arc::new(limits), traffic, pace }
    }

    fn admit(&self) -> Result<UnderWay, Problem> {
        let under_way = UnderWay::new(Arc::clone(&self.traffic));
        if self.traffic.under_way.load(Ordering::Relaxed) > self.limits.calls {
            return Err(overloaded("too many calls are under way on this member"));
        }
        if !self.pace.step(Instant::now()) {
            return Err(overloaded("calls come faster than this member takes them"));
        }
        Ok(under_way)
    }
}

impl<S> Service<Request<Body>> for Limited<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Guarded<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.admit() {
            Ok(under_way) => Guarded::Call { call: Box::pin(self.inner.call(request)), _under_way: under_way },
            Err(problem) => {
                self.traffic.refused.fetch_add(1, Ordering::Relaxed);
                Guarded::Refused(Some(Status::from(problem).into_http()))
            }
        }
    }
}

/// A call that counts as under way until its answer begins.
pub enum Guarded<F> {
    Call { call: Pin<Box<F>>, _under_way: UnderWay },
    Refused(Option<Response<Body>>),
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Future for Guarded<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.get_mut() {
            Guarded::Call { call, .. } => Poll::Ready(ready!(call.as_mut().poll(cx))),
            Guarded::Refused(answer) => Poll::Ready(Ok(answer.take().expect("a future is not polled after its end"))),
        }
    }
}

pub struct UnderWay(Arc<Traffic>);

impl UnderWay {
    fn new(traffic: Arc<Traffic>) -> UnderWay {
        traffic.under_way.fetch_add(1, Ordering::Relaxed);
        traffic.begun.fetch_add(1, Ordering::Relaxed);
        UnderWay(traffic)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A leaky bucket without a lock. Source: the generic cell rate algorithm.
struct Pace {
    start: Instant,
    /// Nanoseconds since `start` at which the bucket is empty.
    empty_at: AtomicU64,
    nanos_per_call: u64,
}

impl Pace {
    const BURST_NANOS: u64 = 1_000_000_000;

    fn new(per_second: u64) -> Pace {
        let nanos_per_call = Pace::BURST_NANOS / per_second.max(1);
        Pace { start: Instant::now(), empty_at: AtomicU64::new(0), nanos_per_call }
    }

    fn step(&self, now: Instant) -> bool {
        let now = u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX);
        let room = now.saturating_add(Pace::BURST_NANOS);
        let fill = |empty_at: u64| Some(empty_at.max(now) + self.nanos_per_call).filter(|filled| *filled <= room);
        self.empty_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fill).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_pace_is_kept() {
        let pace = Pace::new(10);
        let start = pace.start;
        let passed = (0..50).filter(|_| pace.step(start)).count();
        assert_eq!(passed, 10);
        let later = start + Duration::from_millis(500);
        assert_eq!((0..50).filter(|_| pace.step(later)).count(), 5);
    }

    #[test]
    fn streams_beyond_the_places_are_refused_until_one_ends() {
        let streams = Streams::new(1);
        let first = streams.enter().expect("a place");
        assert_eq!(streams.enter().map_err(|problem| problem.reason).err(), Some("overloaded".into()));
        drop(first);
        assert!(streams.enter().is_ok());
    }
}

//! How much the doors take: calls at once, calls a second of everybody and of each client, streams at once, bytes a message.
//! In: gRPC calls, REST included, before anything of them is read. Out: passed on, or refused at once as `overloaded` or
//! `rate-limited`, and when to come again; a stream is held up instead. Absent: locks; a call costs two atomic steps.

use std::convert::Infallible;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::{Extensions, Request, Response};
use proto::Problem;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Code, Status};
use tower::Service;

/// What the configuration may set.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Calls under way at once.
    pub calls: usize,
    /// Calls begun per second, each item of a batch or of a submit being one; a burst of one second's worth is let through.
    pub calls_per_second: u64,
    /// The same for each client, told apart by address: one client leaves room for others.
    pub calls_per_second_per_client: u64,
    /// Watches, submits and other streams of clients at once.
    pub streams: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            calls: 8_192,
            calls_per_second: 100_000,
            // Half of everything: until certificates come all programs of one machine are one client.
            calls_per_second_per_client: 50_000,
            streams: 4_096,
        }
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
    pace: Paces,
}

impl<S> Limited<S> {
    pub fn new(inner: S, limits: Limits, traffic: Arc<Traffic>, pace: Paces) -> Limited<S> {
        Limited { inner, limits: Arc::new(limits), traffic, pace }
    }

    fn admit(&self, extensions: &Extensions) -> Result<UnderWay, Problem> {
        let under_way = UnderWay::new(Arc::clone(&self.traffic));
        if self.traffic.under_way.load(Ordering::Relaxed) > self.limits.calls {
            return Err(overloaded("too many calls are under way on this member"));
        }
        self.pace.admit(client_of(extensions), 1)?;
        Ok(under_way)
    }
}

/// The address a call came from; none where it came over no network.
pub fn client_of(extensions: &Extensions) -> Option<IpAddr> {
    Some(extensions.get::<TcpConnectInfo>()?.remote_addr()?.ip().to_canonical())
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
        match self.admit(request.extensions()) {
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
            Guarded::Call { call, .. } => Poll::Ready(ready!(call.as_mut().poll(cx)).map(in_our_words)),
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

/// An answer as it leaves: what the library below refused without our details gets them.
fn in_our_words(answer: Response<Body>) -> Response<Body> {
    if answer.headers().get("grpc-status").is_none_or(|code| code != OUT_OF_RANGE) {
        return answer;
    }
    match Status::from_header_map(answer.headers()).as_ref().and_then(too_large) {
        Some(problem) => Status::from(problem).into_http(),
        None => answer,
    }
}

/// [`Code::OutOfRange`] as it stands in a header.
const OUT_OF_RANGE: &str = "11";

/// The problem behind the library's refusal of a message above the limit, if `status` is that: no details, these words.
/// REST says the same of a body.
pub fn too_large(status: &Status) -> Option<Problem> {
    let rest = status.message().strip_prefix("Error, decoded message length too large: ")?;
    if status.code() != Code::OutOfRange || !status.details().is_empty() {
        return None;
    }
    let mut numbers = rest.split(|letter: char| !letter.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let (given, limit) = (numbers.next()?, numbers.next()?);
    let text = format!("the message has {given} bytes; at most {limit} are taken");
    Some(Problem::new(Code::ResourceExhausted, "body-too-large", text).hint("send less at a time"))
}

/// How fast everybody together and each client may go. Cheap to clone.
#[derive(Clone)]
pub struct Paces(Arc<Clients>);

struct Clients {
    start: Instant,
    /// Nanoseconds one call takes of everybody's second, and of its client's.
    everybody: u64,
    each: u64,
    per_client: u64,
    all: Pace,
    /// Clients share a bucket where their addresses fall together, which nobody outside can bring about.
    buckets: Box<[Pace]>,
    seed: RandomState,
}

/// Buckets for clients: 32 KiB, and two of a hundred clients share one in a case of one in a thousand.
const BUCKETS: usize = 4_096;
const SECOND: u64 = 1_000_000_000;

impl Paces {
    pub fn new(limits: &Limits) -> Paces {
        let per_client = limits.calls_per_second_per_client;
        Paces(Arc::new(Clients {
            start: Instant::now(),
            everybody: SECOND / limits.calls_per_second.max(1),
            each: SECOND / per_client.max(1),
            per_client,
            all: Pace::default(),
            buckets: (0..BUCKETS).map(|_| Pace::default()).collect(),
            seed: RandomState::new(),
        }))
    }

    /// Takes `calls` at once, or none of them: refused as `rate-limited` if this client comes too fast, as `overloaded` if
    /// all of them do.
    pub fn admit(&self, client: Option<IpAddr>, calls: u64) -> Result<(), Problem> {
        self.admit_at(client, calls, Instant::now())
    }

    fn admit_at(&self, client: Option<IpAddr>, calls: u64, now: Instant) -> Result<(), Problem> {
        let now = self.0.since_start(now);
        if let Some(client) = client {
            let late = |wait| {
                let text = format!("{client} makes more than {} calls a second", self.0.per_client);
                Problem::new(Code::ResourceExhausted, "rate-limited", text)
                    .hint("send fewer; or raise limits.calls_per_second_per_client in the configuration of the members")
                    .retry_after(wait)
            };
            self.0.bucket(client).step(now, self.0.each * calls).map_err(late)?;
        }
        let late = |wait| overloaded("calls come faster than this member takes them").retry_after(wait);
        self.0.all.step(now, self.0.everybody * calls).map_err(late)
    }

    /// Takes one item of a stream, whatever it takes, and says how long to take no further one.
    pub fn charge(&self, client: Option<IpAddr>) -> Option<Duration> {
        let now = self.0.since_start(Instant::now());
        let own = client.and_then(|client| self.0.bucket(client).charge(now, self.0.each));
        own.max(self.0.all.charge(now, self.0.everybody))
    }
}

impl Clients {
    fn since_start(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }

    /// A network of IPv6 is one client: whoever has one address there has 2⁶⁴.
    fn bucket(&self, client: IpAddr) -> &Pace {
        let key = match client {
            IpAddr::V4(address) => u64::from(u32::from(address)),
            IpAddr::V6(address) => (u128::from(address) >> 64) as u64,
        };
        &self.buckets[self.seed.hash_one(key) as usize % BUCKETS]
    }
}

/// A leaky bucket of one second without a lock: the time, in nanoseconds, at which it is empty.
/// Source: the generic cell rate algorithm.
#[derive(Default)]
struct Pace(AtomicU64);

impl Pace {
    /// Pours `amount` in if it fits; errs with the time after which it does. More than the bucket holds fits into an empty one.
    fn step(&self, now: u64, amount: u64) -> Result<(), Duration> {
        let room = now.saturating_add(SECOND.max(amount));
        let fill = |empty_at: u64| Some(empty_at.max(now).saturating_add(amount)).filter(|filled| *filled <= room);
        let poured = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fill);
        poured.map(drop).map_err(|empty_at| Duration::from_nanos((empty_at + amount).saturating_sub(room)))
    }

    /// Pours `amount` in; gives the time until there is room again, if there is none now.
    fn charge(&self, now: u64, amount: u64) -> Option<Duration> {
        let fill = |empty_at: u64| Some(empty_at.max(now).saturating_add(amount));
        let before =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fill).unwrap_or_else(|empty_at| empty_at);
        let over = (before.max(now) + amount).saturating_sub(now.saturating_add(SECOND));
        (over > 0).then(|| Duration::from_nanos(over))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paces(everybody: u64, each: u64) -> Paces {
        let limits = Limits { calls_per_second: everybody, calls_per_second_per_client: each, ..Limits::default() };
        Paces::new(&limits)
    }

    fn client(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    #[test]
    fn a_burst_passes_and_then_the_pace_is_kept() {
        let paces = paces(10, 1_000);
        let start = paces.0.start;
        let passed = |at| (0..50).filter(|_| paces.admit_at(None, 1, at).is_ok()).count();
        assert_eq!(passed(start), 10);
        assert_eq!(passed(start + Duration::from_millis(500)), 5);
    }

    #[test]
    fn a_client_that_comes_too_fast_is_told_when_to_come_again_and_is_in_nobody_elses_way() {
        let paces = paces(1_000, 10);
        let start = paces.0.start;
        for _ in 0..10 {
            assert!(paces.admit_at(client("10.0.0.1"), 1, start).is_ok());
        }
        let problem = paces.admit_at(client("10.0.0.1"), 1, start).expect_err("too fast");
        assert_eq!((&*problem.reason, problem.code), ("rate-limited", Code::ResourceExhausted));
        assert_eq!(problem.retry_after, Some(Duration::from_millis(100)));
        assert!(problem.message.contains("10.0.0.1 makes more than 10 calls a second"), "{problem}");
        assert!(paces.admit_at(client("10.0.0.1"), 1, start + Duration::from_millis(100)).is_ok());
        // Of a few others none stands in its bucket, unless all of these do.
        let free = (2..10).any(|it| paces.admit_at(client(&format!("10.0.0.{it}")), 1, start).is_ok());
        assert!(free);
    }

    #[test]
    fn items_count_one_by_one_and_a_stream_is_held_up_instead_of_refused() {
        let paces = paces(1_000_000, 100);
        let start = paces.0.start;
        assert!(paces.admit_at(client("::1"), 100, start).is_ok());
        let problem = paces.admit_at(client("::1"), 50, start).expect_err("the second is over");
        assert_eq!(problem.retry_after, Some(Duration::from_millis(500)));
        // A batch above a second's worth passes when nothing else did.
        assert!(paces.admit_at(client("::1"), 300, start + Duration::from_secs(1)).is_ok());
        let pace = Pace::default();
        let waits: Vec<_> = (0..4).map(|_| pace.charge(0, SECOND / 2)).collect();
        assert_eq!(waits, [None, None, Some(Duration::from_millis(500)), Some(Duration::from_secs(1))]);
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_client_and_mapped_ones_are_ipv4() {
        let paces = paces(1_000, 1);
        let same = |one: &str, other: &str| {
            let bucket = |text: &str| std::ptr::from_ref(paces.0.bucket(client(text).expect("one").to_canonical()));
            bucket(one) == bucket(other)
        };
        assert!(same("2001:db8::1", "2001:db8::ffff:2") && same("::ffff:10.0.0.1", "10.0.0.1"));
    }

    #[test]
    fn the_librarys_refusal_of_a_large_message_gets_our_details() {
        let theirs = Status::out_of_range(
            "Error, decoded message length too large: found 2000000 bytes, the limit is: 1048576 bytes",
        );
        let ours = Status::from_header_map(in_our_words(theirs.into_http()).headers()).expect("a status");
        let problem = Problem::from(&ours);
        assert_eq!((problem.code, &*problem.reason), (Code::ResourceExhausted, "body-too-large"));
        assert_eq!(&*problem.message, "the message has 2000000 bytes; at most 1048576 are taken");
        let compacted = Status::from(Problem::new(Code::OutOfRange, "compacted", "gone"));
        let kept = Status::from_header_map(in_our_words(compacted.into_http()).headers()).expect("a status");
        assert_eq!(&*Problem::from(&kept).reason, "compacted");
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

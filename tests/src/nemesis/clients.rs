//! Clients that write and read through every member while things break. In: the members' addresses. Out: every call with when
//! it was made, when it returned and what its caller was told, in histories of some seconds each.
//! Absent: judging them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::api::{ANSWER, NoAnswer, ask, call};
use super::checker::{self, Op, Outcome};
use super::deeds::Chance;
use super::witness::now_ns;
use crate::history::{Call, End, History, Operation, Reply, View};
use crate::processes::request_id;

pub const CLIENTS: u64 = 4;
/// The key that all of them write; the others are written by one each.
pub const SHARED: &str = "shared";
/// So often a caller that was not told asks again, under the same request id, through other members; and after such a pause.
/// Few calls are left whose outcome nobody knows: each of those may come at any time, and is a riddle for the judge.
const TRIES: usize = 40;
const AGAIN: Duration = Duration::from_millis(150);

/// Everything that was asked about one object, told twice: for the judge of keys with one writer, and, attempt by attempt,
/// for the one of linearizability.
#[derive(Default)]
pub struct Told {
    pub ops: Vec<Op>,
    pub history: History,
}

#[derive(Default)]
pub struct Ledger {
    /// By number; the object of history `n` is called `ledger-n`.
    pub histories: Vec<Told>,
    /// Containers whose creation was acknowledged.
    pub created: BTreeSet<String>,
    /// Reads of whatever a member had at hand: so many, …
    pub stale: u64,
    /// … and what those among them that said how old they are said.
    pub ages: Vec<checker::Look>,
    /// Calls that had to be repeated, under their request id.
    pub repeated: u64,
}

pub struct Clients {
    members: Vec<SocketAddr>,
    ledger: Arc<Mutex<Ledger>>,
    /// Number of the history that is written, from 1.
    current: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
    /// How often they were started: what is written goes on rising.
    starts: u64,
}

struct Client {
    number: u64,
    members: Vec<SocketAddr>,
    ledger: Arc<Mutex<Ledger>>,
    ends: Arc<AtomicBool>,
    chance: Chance,
    written: u64,
}

impl Clients {
    pub fn new(members: Vec<SocketAddr>) -> Clients {
        let (ledger, current, ends) = Default::default();
        Clients { members, ledger, current, ends, threads: Vec::new(), starts: 0 }
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("nothing panics while it holds the ledger")
    }

    /// A new history every `each`, the first at once.
    pub fn start(&mut self, seed: u64, each: Duration) {
        self.ends.store(false, Ordering::Relaxed);
        self.starts += 1;
        let (members, ledger) = (self.members.clone(), self.ledger.clone());
        let (current, ends) = (self.current.clone(), self.ends.clone());
        self.threads.push(std::thread::spawn(move || {
            let mut next = Instant::now();
            while !ends.load(Ordering::Relaxed) {
                if Instant::now() >= next {
                    let before = current.load(Ordering::Relaxed);
                    begin_history(&members, &ledger, &current);
                    // Asked again at once where nobody took it.
                    next += if current.load(Ordering::Relaxed) > before { each } else { Duration::ZERO };
                }
                std::thread::sleep(AGAIN);
            }
        }));
        for number in 1..=CLIENTS {
            let mut client = Client {
                number,
                members: self.members.clone(),
                ledger: self.ledger.clone(),
                ends: self.ends.clone(),
                chance: Chance::new(seed ^ number << 32 ^ self.starts),
                written: self.starts * 1_000_000,
            };
            let (current, ends) = (self.current.clone(), self.ends.clone());
            self.threads.push(std::thread::spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    client.act(current.load(Ordering::Relaxed));
                    std::thread::sleep(Duration::from_millis(30 + client.chance.below(90)));
                }
            }));
        }
    }

    /// Comes back when the last call of every client has returned.
    pub fn stop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a client does not panic");
        }
    }

    /// After the end: what every key of that history holds, read through every member, noted as reads of that history too.
    /// Errs with the member that does not answer.
    pub fn read_ends(&self, number: usize) -> Result<Vec<Value>, String> {
        let mut ends = Vec::new();
        for (at, member) in self.members.iter().enumerate() {
            let from_ns = now_ns();
            let path = format!("/v1/containers/{}", object(number));
            let (status, reply) = call(*member, "GET", &path, None).map_err(|error| format!("{member}: {error}"))?;
            if status != 200 {
                return Err(format!("{member}: {status}: {reply}"));
            }
            let held = reply["container"]["spec"]["annotations"].clone();
            self.ledger().histories[number - 1].looked(100 + at as u64, at as u64 + 1, number, from_ns, &reply);
            ends.push(held);
        }
        Ok(ends)
    }
}

/// Lets the clients go on with a new object, unless nobody would create it now.
fn begin_history(members: &[SocketAddr], ledger: &Mutex<Ledger>, current: &AtomicUsize) {
    let ledger = || ledger.lock().expect("nothing panics while it holds the ledger");
    let number = current.load(Ordering::Relaxed) + 1;
    let name = object(number);
    ledger().histories.resize_with(number, Told::default);
    let body = creation(&name);
    let made = members.iter().any(|member| {
        let begun = now_ns();
        let answer = call(*member, "POST", "/v1/containers", Some(&body));
        let attempt = Attempt { client: 0, request: Some(&body), object: &name, call: Call::Create, begun };
        ledger().histories[number - 1].history.operations.extend(attempt.ended(&answer));
        matches!(answer, Ok((200, _)))
    });
    if made {
        ledger().created.insert(name);
        current.store(number, Ordering::Relaxed);
    }
}

pub fn object(number: usize) -> String {
    format!("ledger-{number}")
}

fn own(client: u64) -> String {
    format!("own-{client}")
}

pub fn keys() -> impl Iterator<Item = String> {
    (1..=CLIENTS).map(own).chain([SHARED.to_owned()])
}

/// What a key of an object's annotations holds.
pub fn held(annotations: &Value, key: &str) -> Option<u64> {
    annotations[key].as_str().and_then(|text| text.parse().ok())
}

fn creation(name: &str) -> Value {
    json!({"requestId": request_id(), "desired": "DESIRED_STATE_STOPPED", "spec": {
        "name": name, "template": "demo", "storage": "shared", "command": ["/bin/true"],
        "resources": {"cpuMillis": "10", "memoryBytes": "1048576"}}})
}

/// One attempt of one call.
struct Attempt<'a> {
    client: u64,
    request: Option<&'a Value>,
    object: &'a str,
    call: Call,
    begun: u64,
}

impl Attempt<'_> {
    /// Nothing where it certainly had no effect.
    fn ended(self, answer: &Result<(u16, Value), NoAnswer>) -> Option<Operation> {
        let at = now_ns();
        let end = match answer {
            Ok((200, reply)) => {
                let reply_is = match &self.call {
                    Call::Look | Call::LookStale => Reply::Saw(Some(view(&reply["container"]))),
                    Call::Create => Reply::Done { id: id(&reply["container"]) },
                    _ => Reply::Done { id: None },
                };
                End::Answered { at, revision: number(&reply["revision"]), reply: reply_is }
            }
            // Refused: a later attempt under the same id says more.
            Ok((400..500, _)) | Err(NoAnswer::Unheard(_)) => return None,
            Ok(_) | Err(NoAnswer::Lost(_)) if self.request.is_none() => return None,
            Ok(_) | Err(NoAnswer::Lost(_)) => End::Unknown,
        };
        let request = self.request.and_then(|body| body["requestId"].as_str()).map(str::to_owned);
        let (client, object) = (self.client, self.object.to_owned());
        Some(Operation { client, request, object, call: self.call, begun: self.begun, end })
    }
}

/// 64-bit numbers stand as strings in the API's JSON.
fn number(value: &Value) -> Option<u64> {
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_u64())
}

/// `c7` as 7.
fn id(value: &Value) -> Option<u64> {
    value.as_str()?.trim_start_matches('c').parse().ok()
}

fn view(container: &Value) -> View {
    let annotations = container["spec"]["annotations"].as_object().cloned().unwrap_or_default();
    let text = |value: Value| value.as_str().unwrap_or_default().to_owned();
    View {
        id: id(&container["id"]).unwrap_or_default(),
        annotations: annotations.into_iter().map(|(key, value)| (key, text(value))).collect(),
    }
}

impl Told {
    /// One answer is a read of every key.
    fn looked(&mut self, client: u64, member: u64, number: usize, from_ns: u64, reply: &Value) {
        let to_ns = now_ns();
        let annotations = &reply["container"]["spec"]["annotations"];
        self.ops.extend(keys().map(|key| {
            let call = checker::Call::Read(held(annotations, &key));
            Op { client, member, key, call, from_ns, to_ns, outcome: Outcome::Ok }
        }));
        let name = object(number);
        let attempt = Attempt { client, request: None, object: &name, call: Call::Look, begun: from_ns };
        self.history.operations.extend(attempt.ended(&Ok((200, reply.clone()))));
    }
}

impl Client {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("nothing panics while it holds the ledger")
    }

    fn act(&mut self, history: usize) {
        match self.chance.below(100) {
            _ if history == 0 => {}
            0..2 => self.create(),
            2..10 => self.look_stale(history),
            10..45 => self.look(history),
            45..70 => self.write(history, SHARED.to_owned()),
            _ => self.write(history, own(self.number)),
        }
    }

    fn write(&mut self, history: usize, key: String) {
        self.written += 1;
        // In the shared one every value is somebody's.
        let value = if key == SHARED { self.number * 1_000_000_000_000 + self.written } else { self.written };
        let name = object(history);
        let body = json!({"requestId": request_id(), "set": {&key: value.to_string()}});
        let call = Call::Annotate { of: None, key: key.clone(), value: Some(value.to_string()) };
        let from_ns = now_ns();
        let (member, outcome) = self.insist(&format!("/v1/containers/{name}:annotate"), &body, Some((history, call)));
        let (client, to_ns) = (self.number, now_ns());
        let op = Op { client, member, key, call: checker::Call::Write(value), from_ns, to_ns, outcome };
        self.ledger().histories[history - 1].ops.push(op);
    }

    /// The member that was asked last, and what came of it.
    fn insist(&mut self, path: &str, body: &Value, told: Option<(usize, Call)>) -> (u64, Outcome) {
        let first = self.chance.below(self.members.len() as u64) as usize;
        let mut outcome = Outcome::Failed;
        for again in 0..TRIES {
            let at = (first + again) % self.members.len();
            let member = at as u64 + 1;
            let begun = now_ns();
            let answer = call(self.members[at], "POST", path, Some(body));
            if let Some((history, call)) = &told {
                let name = object(*history);
                let (client, call) = (self.number, call.clone());
                let attempt = Attempt { client, request: Some(body), object: &name, call, begun };
                self.ledger().histories[*history - 1].history.operations.extend(attempt.ended(&answer));
            }
            match answer {
                Ok((200, _)) => return (member, Outcome::Ok),
                // Refused, unless an earlier question was heard after all.
                Ok((400..500, _)) => return (member, outcome),
                Ok(_) | Err(NoAnswer::Lost(_)) => outcome = Outcome::Unknown,
                Err(NoAnswer::Unheard(_)) => {}
            }
            self.ledger().repeated += 1;
            if self.ends.load(Ordering::Relaxed) && again > TRIES / 2 {
                break;
            }
            std::thread::sleep(AGAIN);
        }
        (first as u64 + 1, outcome)
    }

    fn look(&mut self, history: usize) {
        let at = self.chance.below(self.members.len() as u64) as usize;
        let from_ns = now_ns();
        let path = format!("/v1/containers/{}", object(history));
        if let Ok((200, reply)) = call(self.members[at], "GET", &path, None) {
            let client = self.number;
            self.ledger().histories[history - 1].looked(client, at as u64 + 1, history, from_ns, &reply);
        }
    }

    /// What a member has at hand, which may be old, and then has to say so.
    fn look_stale(&mut self, history: usize) {
        let at = self.chance.below(self.members.len() as u64) as usize;
        let (name, begun) = (object(history), now_ns());
        let path = format!("/v1/containers/{name}?stale=true");
        let Ok(answer) = ask(ANSWER, self.members[at], "GET", &path, None) else { return };
        if answer.status != 200 {
            return;
        }
        let revision = number(&answer.body["revision"]);
        let age = answer.age_ms.zip(revision);
        let age = age.map(|(ms, revision)| checker::Look { from_ns: begun, revision, age_ns: ms * 1_000_000 });
        let attempt = Attempt { client: self.number, request: None, object: &name, call: Call::LookStale, begun };
        let mut ledger = self.ledger();
        ledger.stale += 1;
        ledger.ages.extend(age);
        ledger.histories[history - 1].history.operations.extend(attempt.ended(&Ok((200, answer.body))));
    }

    fn create(&mut self) {
        let name = format!("made-{}-{}", self.number, now_ns() / 1_000_000);
        if self.insist("/v1/containers", &creation(&name), None).1 == Outcome::Ok {
            self.ledger().created.insert(name);
        }
    }
}

//! The cluster as any client meets it: one HTTP call a connection, with an end to its patience. In: a member's address, verb,
//! path, body. Out: what it answered, or whether it can have heard the question at all.
//! Absent: the project's own client; and waiting: what is asked again is asked by whoever wants it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A member that has the network answers or refuses at once; one that has not never will.
const CONNECT: Duration = Duration::from_millis(800);
/// Above an election and what follows, so that most calls know what came of them.
pub const ANSWER: Duration = Duration::from_secs(4);

#[derive(Debug)]
pub enum NoAnswer {
    /// Nothing was sent.
    Unheard(String),
    /// It may have been heard.
    Lost(String),
}

impl std::fmt::Display for NoAnswer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NoAnswer::Unheard(why) => write!(out, "not reached: {why}"),
            NoAnswer::Lost(why) => write!(out, "no answer: {why}"),
        }
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Null where it is no JSON.
    pub body: Value,
    /// How old it may be, as it says itself.
    pub age_ms: Option<u64>,
}

/// Status and JSON.
pub fn call(address: SocketAddr, verb: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value), NoAnswer> {
    call_within(ANSWER, address, verb, path, body)
}

pub fn call_within(
    within: Duration,
    address: SocketAddr,
    verb: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<(u16, Value), NoAnswer> {
    ask(within, address, verb, path, body).map(|answer| (answer.status, answer.body))
}

pub fn ask(
    within: Duration,
    address: SocketAddr,
    verb: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<Answer, NoAnswer> {
    let unheard = |error: std::io::Error| NoAnswer::Unheard(error.to_string());
    let lost = |error: std::io::Error| NoAnswer::Lost(error.to_string());
    let mut stream = TcpStream::connect_timeout(&address, CONNECT).map_err(unheard)?;
    let body = body.map(Value::to_string).unwrap_or_default();
    // 1.0: the answer ends with the connection.
    let head = format!(
        "{verb} {path} HTTP/1.0\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let deadline = Instant::now() + within;
    stream.set_write_timeout(Some(within)).map_err(unheard)?;
    stream.write_all(format!("{head}{body}").as_bytes()).map_err(lost)?;
    let mut answer = Vec::new();
    let mut room = [0; 16 << 10];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(NoAnswer::Lost(format!("nothing within {within:?}")));
        }
        stream.set_read_timeout(Some(left)).map_err(lost)?;
        match stream.read(&mut room).map_err(lost)? {
            0 => break,
            length => answer.extend_from_slice(&room[..length]),
        }
    }
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| NoAnswer::Lost("an answer without an end".into()))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| NoAnswer::Lost(format!("no HTTP: {head:?}")))?;
    let age = head.lines().find_map(|line| line.strip_prefix("quorate-state-age-ms: "));
    let age_ms = age.and_then(|age| age.trim().parse().ok());
    Ok(Answer { status, body: serde_json::from_str(body).unwrap_or(Value::Null), age_ms })
}

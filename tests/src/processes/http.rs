//! HTTP/1.1 as any client speaks it: one call a connection, and server-sent events. Nothing of the project's own client.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// Longer than any call may take.
const PATIENCE: Duration = Duration::from_secs(40);

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// Panics if the body is no JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// What was asked for; panics with the problem if it was refused.
    #[track_caller]
    pub fn good(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.json()
    }

    /// Status, reason and field of the problem details; panics if this is none.
    #[track_caller]
    pub fn problem(&self) -> (u16, String, String) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let json = self.json();
        assert_eq!(json["status"], self.status, "{self:?}");
        let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
        assert!(!text("detail").is_empty(), "a problem without words: {self:?}");
        (self.status, text("reason"), text("field"))
    }
}

pub fn get(address: &str, path: &str) -> io::Result<Answer> {
    call(address, "GET", path, None)
}

/// One call with a JSON body or none.
pub fn call(address: &str, verb: &str, path: &str, body: Option<&Value>) -> io::Result<Answer> {
    match body {
        None => raw(address, verb, path, &[], b""),
        Some(body) => raw(address, verb, path, &[("content-type", "application/json")], body.to_string().as_bytes()),
    }
}

/// One call, byte for byte.
pub fn raw(address: &str, verb: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Answer> {
    let mut stream = open(address, verb, path, headers, Some(body.len()))?;
    let answering = BufReader::new(stream.try_clone()?);
    std::thread::scope(|scope| {
        // A server that refuses a large body answers before it has all of it, and may not read on.
        let answer = scope.spawn(|| read(answering));
        let sent = body.chunks(64 << 10).try_for_each(|piece| stream.write_all(piece));
        match answer.join().expect("reading does not panic") {
            Err(error) => sent.and(Err(error)),
            answer => answer,
        }
    })
}

fn open(
    address: &str,
    verb: &str,
    path: &str,
    headers: &[(&str, &str)],
    length: Option<usize>,
) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut head = format!("{verb} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    if let Some(length) = length {
        head.push_str(&format!("content-length: {length}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    Ok(stream)
}

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

/// Status and headers.
fn head(from: &mut impl BufRead) -> io::Result<(u16, Vec<(String, String)>)> {
    let first = line(from)?;
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| bad(&first))?;
    let mut headers = Vec::new();
    loop {
        let line = line(from)?;
        if line.is_empty() {
            return Ok((status, headers));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| bad(&line))?;
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
}

fn is_chunked(headers: &[(String, String)]) -> bool {
    headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked")
}

/// The next piece of a chunked body; empty at its end.
fn chunk(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let size = line(from)?;
    let size = usize::from_str_radix(&size, 16).map_err(|_| bad(&size))?;
    let mut piece = vec![0; size];
    from.read_exact(&mut piece)?;
    line(from)?;
    Ok(piece)
}

fn read(mut from: BufReader<TcpStream>) -> io::Result<Answer> {
    let (status, headers) = head(&mut from)?;
    let mut body = Vec::new();
    if is_chunked(&headers) {
        loop {
            let piece = chunk(&mut from)?;
            if piece.is_empty() {
                break;
            }
            body.extend(piece);
        }
    } else {
        let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, it)| it.parse().ok());
        from.take(length.unwrap_or(u64::MAX)).read_to_end(&mut body)?;
    }
    let body = String::from_utf8(body).map_err(|_| bad("the body is not UTF-8"))?;
    Ok(Answer { status, headers, body })
}

/// A stream of server-sent events.
pub struct Events {
    from: BufReader<TcpStream>,
    held: String,
}

/// One of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// `message` unless it says otherwise.
    pub kind: String,
    pub id: Option<u64>,
    pub data: Value,
}

impl Events {
    /// Errs with the answer's body if it is no stream.
    pub fn open(address: &str, path: &str, last: Option<u64>) -> io::Result<Events> {
        let last = last.map(|last| last.to_string());
        let headers: Vec<(&str, &str)> = last.iter().map(|last| ("last-event-id", last.as_str())).collect();
        let mut from = BufReader::new(open(address, "GET", path, &headers, None)?);
        let (status, headers) = head(&mut from)?;
        let streams = headers.iter().any(|(name, value)| name == "content-type" && value == "text/event-stream");
        if status != 200 || !streams || !is_chunked(&headers) {
            return Err(bad(&format!("{status} {headers:?}")));
        }
        Ok(Events { from, held: String::new() })
    }

    /// The next event; waits for it.
    pub fn next_event(&mut self) -> io::Result<Event> {
        loop {
            if let Some((event, rest)) = self.held.split_once("\n\n") {
                let event = parse(event)?;
                self.held = rest.to_owned();
                return Ok(event);
            }
            let piece = chunk(&mut self.from)?;
            if piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.held.push_str(std::str::from_utf8(&piece).map_err(|_| bad("the stream is not UTF-8"))?);
        }
    }
}

fn parse(text: &str) -> io::Result<Event> {
    let mut event = Event { kind: "message".into(), id: None, data: Value::Null };
    for line in text.lines() {
        let (field, value) = line.split_once(": ").ok_or_else(|| bad(line))?;
        match field {
            "id" => event.id = Some(value.parse().map_err(|_| bad(line))?),
            "event" => event.kind = value.to_owned(),
            "data" => event.data = serde_json::from_str(value)?,
            _ => return Err(bad(line)),
        }
    }
    Ok(event)
}

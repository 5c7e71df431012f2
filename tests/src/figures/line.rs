//! One node's stream of heartbeats to one member: HTTP/2 and gRPC by hand. Ten thousand clients of a library would be most
//! of what is measured, in processor and in memory.
//! In: what the node says. Out: what the member answers, one for each. Absent: flow control, since the windows are opened
//! wide; and the headers of answers, since what ends a stream is told apart by its frame.

use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use proto::wire::{self, heartbeat_down, heartbeat_up};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Frame types and flags of HTTP/2 (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const FRAME_HEAD: usize = 9;
/// The only stream of its connection.
const STREAM: u32 = 1;
const WINDOW_MAX: u32 = (1 << 31) - 1;
const WINDOW_AT_FIRST: u32 = 65_535;

pub struct Line {
    socket: TcpStream,
    /// What was read and is no whole frame yet.
    read: Vec<u8>,
    /// What came on the stream and is no whole message yet.
    said: Vec<u8>,
    /// Nothing more will come.
    over: bool,
}

impl Line {
    /// Connects and says who speaks.
    pub async fn open(address: &str, hello: wire::AgentHello) -> Result<Line> {
        let socket = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        socket.set_nodelay(true)?;
        let mut first = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        // SETTINGS_INITIAL_WINDOW_SIZE, for the stream; then as much for the connection.
        let window = [&4_u16.to_be_bytes()[..], &WINDOW_MAX.to_be_bytes()].concat();
        frame(&mut first, SETTINGS, 0, 0, &window);
        frame(&mut first, WINDOW_UPDATE, 0, 0, &(WINDOW_MAX - WINDOW_AT_FIRST).to_be_bytes());
        let headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/quorate.wire.v1.Agents/Heartbeats"),
            (":authority", address),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ];
        let mut block = Vec::new();
        for (name, value) in headers {
            // Literal, without indexing, not compressed (RFC 7541, 6.2.2); every length is below 127.
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).ok().filter(|len| *len < 127).context("too long for a header")?);
                block.extend_from_slice(text.as_bytes());
            }
        }
        frame(&mut first, HEADERS, END_HEADERS, STREAM, &block);
        message(&mut first, heartbeat_up::Message::Hello(hello));
        let mut line = Line { socket, read: Vec::new(), said: Vec::new(), over: false };
        line.socket.write_all(&first).await?;
        Ok(line)
    }

    /// Says one heartbeat and waits for the answer to it.
    pub async fn beat(&mut self, heartbeat: wire::Heartbeat) -> Result<heartbeat_down::Message> {
        let mut words = Vec::with_capacity(256);
        message(&mut words, heartbeat_up::Message::Heartbeat(heartbeat));
        self.socket.write_all(&words).await?;
        loop {
            if let Some(answer) = self.next_message()? {
                return answer.message.context("an empty answer");
            }
            ensure!(!self.over, "the member ended the stream");
            let mut piece = [0; 1_024];
            let count = self.socket.read(&mut piece).await?;
            ensure!(count > 0, "the member closed the connection");
            self.read.extend_from_slice(&piece[..count]);
            self.take_frames().await?;
        }
    }

    fn next_message(&mut self) -> Result<Option<wire::HeartbeatDown>> {
        let Some((head, rest)) = self.said.split_first_chunk::<5>() else { return Ok(None) };
        let [compressed, length @ ..] = *head;
        ensure!(compressed == 0, "nobody asked for compression");
        let length = u32::from_be_bytes(length) as usize;
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let answer = wire::HeartbeatDown::decode(body)?;
        self.said.drain(..5 + length);
        Ok(Some(answer))
    }

    async fn take_frames(&mut self) -> Result<()> {
        let mut at = 0;
        let mut owed = Vec::new();
        while let Some(&[a, b, c, kind, flags, ..]) = self.read.get(at..).filter(|rest| rest.len() >= FRAME_HEAD) {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            let Some(payload) = self.read.get(at + FRAME_HEAD..at + FRAME_HEAD + length) else { break };
            match kind {
                DATA => self.said.extend_from_slice(payload),
                SETTINGS if flags & ACK == 0 => frame(&mut owed, SETTINGS, ACK, 0, &[]),
                PING if flags & ACK == 0 => frame(&mut owed, PING, ACK, 0, payload),
                // What was said before it, a refusal for one, is heard all the same.
                RST_STREAM => self.over = true,
                GO_AWAY => bail!("the member ended the connection: {payload:?}"),
                _ => {}
            }
            self.over |= matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
            at += FRAME_HEAD + length;
        }
        self.read.drain(..at);
        if !owed.is_empty() {
            self.socket.write_all(&owed).await?;
        }
        Ok(())
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A message of gRPC in one frame.
fn message(out: &mut Vec<u8>, said: heartbeat_up::Message) {
    let said = wire::HeartbeatUp { message: Some(said) };
    let mut body = vec![0];
    body.extend_from_slice(&(said.encoded_len() as u32).to_be_bytes());
    said.encode(&mut body).expect("a growing buffer has room");
    frame(out, DATA, 0, STREAM, &body);
}

//! How a person or a shutdown hook speaks to a running agent: a socket in the run folder, a word a line.
//! In: `status`, `leave`. Out: a status as JSON; `left` when nothing runs here any more. Who may open the run folder may
//! speak. Absent: everything else; that is the cluster's API.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};

const SOCKET: &str = "agent.sock";
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What the agent says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub node: u64,
    pub name: String,
    pub version: String,
    pub pid: u32,
    pub standing: String,
    pub incarnation: u64,
    pub boot: String,
    /// Negative: over for so long. `None` before the first lease.
    pub lease_left_ms: Option<i64>,
    /// The least that was left of a lease when it was renewed, since this agent began; `None` before the first renewal.
    pub lease_left_least_ms: Option<i64>,
    /// The member there is a session with.
    pub leader: Option<u64>,
    /// What a person should know and do, if anything.
    pub trouble: Option<String>,
    pub guard: GuardStatus,
    /// `F0` or `F1`.
    pub class: String,
    pub class_reason: String,
    pub runtimes: Vec<String>,
    pub runtimes_refused: Vec<String>,
    /// Begun and not closed.
    pub containers: Vec<ContainerStatus>,
    /// Containers with orders under way.
    pub busy: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardStatus {
    pub pid: i32,
    pub alive: bool,
    pub latched: bool,
    pub lateness_us: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    pub container: u64,
    pub epoch: u64,
    pub ran: bool,
}

/// What is asked of the agent.
pub enum Request {
    Status(oneshot::Sender<Status>),
    Leave,
}

/// The listening end. Its file goes with it.
pub struct Control {
    path: PathBuf,
    left: watch::Sender<bool>,
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Control {
    /// Listens in `run_dir` from now on. To be called within a runtime, under the state folder's lock.
    pub fn listen(run_dir: &Path, requests: mpsc::UnboundedSender<Request>) -> io::Result<Control> {
        let path = run_dir.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = by_short_path(&path, |path| UnixListener::bind(path))?;
        let (left, _) = watch::channel(false);
        let for_callers = left.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, requests.clone(), for_callers.subscribe()));
            }
        });
        Ok(Control { path, left })
    }

    /// Tells everybody who asked for it that the node has left, and waits until they were told.
    pub async fn say_left(&self) {
        self.left.send_replace(true);
        let _ = tokio::time::timeout(Duration::from_secs(1), self.left.closed()).await;
    }
}

async fn serve(
    stream: UnixStream,
    requests: mpsc::UnboundedSender<Request>,
    mut left: watch::Receiver<bool>,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = tokio::io::BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await? {
        match line.trim() {
            "status" => {
                let (answer, status) = oneshot::channel();
                let _ = requests.send(Request::Status(answer));
                let Ok(status) = status.await else { return Ok(()) };
                let mut text = serde_json::to_string(&status)?;
                text.push('\n');
                writer.write_all(text.as_bytes()).await?;
            }
            "leave" => {
                let _ = requests.send(Request::Leave);
                if left.wait_for(|left| *left).await.is_ok() {
                    writer.write_all(b"left\n").await?;
                }
                return Ok(());
            }
            other => writer.write_all(format!("error: no such word {other:?}\n").as_bytes()).await?,
        }
    }
    Ok(())
}

/// The status of the agent that runs with `run_dir`. Errs with `NotFound` or `ConnectionRefused` when none does.
pub fn status(run_dir: &Path) -> io::Result<Status> {
    Ok(serde_json::from_str(&ask(run_dir, "status", Some(ANSWER_WITHIN))?)?)
}

/// Makes that agent leave and comes back when it has left. Errs when it ended without.
pub fn leave(run_dir: &Path, within: Duration) -> io::Result<()> {
    match ask(run_dir, "leave", Some(within))?.trim() {
        "left" => Ok(()),
        other => Err(io::Error::other(format!("the agent ended without having left {other}"))),
    }
}

fn ask(run_dir: &Path, word: &str, within: Option<Duration>) -> io::Result<String> {
    let mut stream = by_short_path(&run_dir.join(SOCKET), |path| BlockingStream::connect(path))?;
    stream.set_read_timeout(within)?;
    stream.write_all(format!("{word}\n").as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

/// Runs `with` on a path to `socket` that fits into a socket address, however deep the folder lies.
fn by_short_path<T>(socket: &Path, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let folder = socket.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let name = socket.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    with(&Path::new(&format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name))
}

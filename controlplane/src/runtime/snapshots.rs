//! The snapshots' thread: encodes the state, stages bodies, reads them again for members that lag far behind.
//! In: states to save, members to serve. Out: staged bodies for the disk's thread, bodies for the streams of `peers`.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use cluster::{MemberId, State};
use record::{LogPoint, SnapshotFolder, SnapshotMeta};
use replica::{Input, RaftMessage};
use tracing::warn;

use super::disk;

/// Held while a body is being staged or adopted: there is one place for staged bodies.
pub type Staging = Arc<Mutex<()>>;

/// Snapshots that came from leaders, until the disk's thread makes one ours. A second may come while the disk has not
/// taken the first, and raft takes either.
#[derive(Clone, Default)]
pub struct Arrivals(Arc<Mutex<Vec<Arrived>>>);

/// Raft takes at most one while another waits for the disk; what is beyond was refused by it.
const ARRIVALS_MAX: usize = 3;

/// Description and body.
type Arrived = (SnapshotMeta, Vec<u8>);

impl Arrivals {
    pub fn put(&self, meta: SnapshotMeta, body: Vec<u8>) {
        let mut arrived = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        arrived.retain(|(known, _)| *known != meta);
        if arrived.len() == ARRIVALS_MAX {
            arrived.remove(0);
        }
        arrived.push((meta, body));
    }

    /// The body of exactly this snapshot; those before it are of no use any more.
    pub fn take(&self, meta: &SnapshotMeta) -> Option<Vec<u8>> {
        let mut arrived = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = arrived.iter().position(|(known, _)| known == meta)?;
        let (_, body) = arrived.remove(at);
        arrived.retain(|(known, _)| known.index > meta.index);
        Some(body)
    }
}

pub enum Job {
    Build { point: LogPoint, membership: Vec<u8>, state: Box<State> },
    Send { to: MemberId, meta: SnapshotMeta, message: Box<RaftMessage> },
}

/// A snapshot to be streamed to a member.
pub struct Parcel {
    pub to: MemberId,
    pub meta: SnapshotMeta,
    pub message: Box<RaftMessage>,
    pub body: Vec<u8>,
}

pub struct SnapshotThread {
    pub folder: Box<dyn SnapshotFolder>,
    pub staging: Staging,
    pub disk: Sender<disk::Job>,
    pub tell: Box<dyn Fn(Input) + Send>,
    /// Streams a body and tells its end.
    pub deliver: Box<dyn Fn(Parcel) + Send>,
}

impl SnapshotThread {
    /// Ends when the sender is dropped.
    pub fn start(self) -> Sender<Job> {
        let (jobs, queue) = channel();
        let run = move || {
            while let Ok(job) = queue.recv() {
                match job {
                    Job::Build { point, membership, state } => self.build(point, membership, &state),
                    Job::Send { to, meta, message } => self.send(to, meta, message),
                }
            }
        };
        thread::Builder::new().name("snapshots".into()).spawn(run).expect("a thread can be started at start-up");
        jobs
    }

    fn build(&self, point: LogPoint, membership: Vec<u8>, state: &State) {
        let body = proto::snapshot::encode(state).fold(Vec::new(), |mut body, record| {
            body.extend_from_slice(&record);
            body
        });
        let meta = SnapshotMeta::of(point, membership, &body);
        let staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        match self.folder.stage(&meta, &body) {
            Ok(()) => drop(self.disk.send(disk::Job::Adopt(meta))),
            Err(error) => {
                warn!(index = point.index, error = %chain(&error), "a snapshot could not be saved");
                (self.tell)(Input::SnapshotFailed);
            }
        }
        drop(staging);
    }

    fn send(&self, to: MemberId, meta: SnapshotMeta, message: Box<RaftMessage>) {
        match self.folder.read() {
            Ok(Some((found, body))) if found == meta => (self.deliver)(Parcel { to, meta, message, body }),
            // A newer one replaced it: raft asks again and gets that.
            Ok(_) => (self.tell)(Input::SnapshotSent { peer: to, taken: false }),
            Err(error) => {
                warn!(peer = %to, error = %chain(&error), "the snapshot could not be read");
                (self.tell)(Input::SnapshotSent { peer: to, taken: false });
            }
        }
    }
}

/// An error with everything beneath it, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

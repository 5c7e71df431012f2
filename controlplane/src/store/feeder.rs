//! The thread that brings the log to where the ring is.
//! In: records whose slot is durable, in order; what may be removed. Out: how far the log is durable.
//! Absent: whether a record was acknowledged, and whether a slot may be overwritten (`Disk` asks before it writes).
//!
//! It waits until half the ring is to be fed and gives that to the log as one write with one sync. Between the steps of a
//! removal, which may be many, it feeds what has become due. What it has not done when the member dies is done again from
//! the ring by the next start. Its first error is its last deed: the next call of `Disk` gets it, and the store takes
//! nothing more.
//!
//! An engine may never answer: sled waits for ever where a thread of its own met an error of the disk. So whoever waits
//! here gives up at last, and the thread is left to itself, with the folder's lock: nobody else writes there as long as
//! it might.

use super::disk::Log;
use record::StoreError;
use std::fs::File;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// How long a log may take for what it was given last. Half a ring is 4 MiB; a disk that needs a minute for that is left
/// to the next start of the member.
const PATIENCE_S: u64 = if cfg!(test) { 10 } else { 60 };
/// The same where nobody needs the log any more: the member is about to end.
const LEAVING_S: u64 = 5;
/// Waiting is counted in these, so that a process that was stopped meanwhile has waited for one more, not for all.
const STEP: Duration = Duration::from_secs(1);

pub(super) struct Feeder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Box<dyn Log>>>,
    /// How many records wait for each other.
    feed_at: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// To be written, each with its number, in order.
    queue: Vec<(u64, Vec<u8>)>,
    /// Somebody waits for this record: it is to be written now. Not a flag: one that was set while the feeder wrote
    /// would still be set when the next one comes to wait, and wake nobody.
    wanted: u64,
    /// Records below this number are to be removed, after everything queued is written; 0 = none.
    remove_below: u64,
    /// The last record that is durable in the log.
    durable: u64,
    /// Why the thread ended, until somebody was told.
    error: Option<StoreError>,
    stop: bool,
    /// Somebody waited in vain: nobody will again.
    hangs: bool,
    /// The thread has ended.
    over: bool,
}

impl Feeder {
    /// For a log that is durable up to record `durable`. `lock` is held until the thread has ended.
    pub fn start(log: Box<dyn Log>, durable: u64, feed_at: usize, lock: Arc<File>) -> Result<Self, StoreError> {
        let shared = Arc::new(Shared { state: Mutex::new(State { durable, ..State::default() }), ..Shared::default() });
        let theirs = shared.clone();
        let thread = Builder::new()
            .name("store-feeder".into())
            .spawn(move || {
                let _lock = lock;
                theirs.run(log, feed_at)
            })
            .map_err(|source| StoreError::io("start a thread for", "log", source))?;
        Ok(Self { shared, thread: Some(thread), feed_at })
    }

    /// Stops where it stands; what is queued stays in the ring. Errs if the log is lost with the thread.
    pub fn stop(mut self) -> Result<Box<dyn Log>, StoreError> {
        self.halt(PATIENCE_S)
    }

    /// Queues a record. Errs, with nothing queued, if an earlier one could not be written.
    pub fn feed(&self, number: u64, record: Vec<u8>) -> Result<(), StoreError> {
        let mut state = self.shared.healthy()?;
        state.queue.push((number, record));
        if state.queue.len() == self.feed_at {
            self.shared.changed.notify_all();
        }
        Ok(())
    }

    /// Errs if a record could not be written.
    pub fn check(&self) -> Result<(), StoreError> {
        self.shared.healthy().map(drop)
    }

    /// The last record that is durable in the log.
    pub fn durable(&self) -> u64 {
        self.shared.lock().durable
    }

    /// Returns once the log is durable up to record `number`, which must be queued or older. Errs with `Timeout` if it
    /// does not get on for a minute.
    pub fn wait_for(&self, number: u64) -> Result<(), StoreError> {
        let mut state = self.shared.healthy()?;
        state.wanted = state.wanted.max(number);
        self.shared.changed.notify_all();
        let mut state = self.shared.wait(state, PATIENCE_S, |it| it.durable >= number || it.error.is_some());
        if state.durable >= number {
            return Ok(());
        }
        state.check()?;
        Err(hangs("write", PATIENCE_S))
    }

    /// Lets go of the records below `first_kept` once those from it on are durable.
    pub fn remove_below(&self, first_kept: u64) -> Result<(), StoreError> {
        self.shared.healthy()?.remove_below = first_kept;
        self.shared.changed.notify_all();
        Ok(())
    }

    fn halt(&mut self, patience_s: u64) -> Result<Box<dyn Log>, StoreError> {
        let thread = self.thread.take().ok_or(StoreError::NotLoaded)?;
        let mut state = self.shared.lock();
        state.stop = true;
        self.shared.changed.notify_all();
        if !self.shared.wait(state, patience_s, |_| false).over {
            return Err(hangs("stop writing", patience_s));
        }
        thread.join().map_err(|_| not_written())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn healthy(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let mut state = self.lock();
        state.check()?;
        if state.hangs { Err(not_written()) } else { Ok(state) }
    }

    /// Returns when it is `done`, when the thread has ended, or when nothing got durable for that long.
    fn wait<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        patience_s: u64,
        done: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        let (mut durable, mut steps) = (state.durable, 0);
        while !done(&state) && !state.over && !state.hangs {
            let (next, waited) = self.changed.wait_timeout(state, STEP).unwrap_or_else(PoisonError::into_inner);
            state = next;
            steps = if state.durable == durable { steps + u64::from(waited.timed_out()) } else { 0 };
            durable = state.durable;
            state.hangs = steps >= patience_s;
        }
        state
    }

    /// Works until it is stopped, or to its first error.
    fn run(&self, mut log: Box<dyn Log>, feed_at: usize) -> Box<dyn Log> {
        let _over = Over(self);
        loop {
            let mut state = self.lock();
            while !state.stop && !state.is_due(feed_at) {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.stop {
                return log;
            }
            let (records, remove_below) = (mem::take(&mut state.queue), state.remove_below);
            drop(state);
            let worked = self.work(log.as_mut(), records, remove_below);
            let mut state = self.lock();
            match worked {
                // More may have been asked for meanwhile.
                Ok(false) if state.remove_below == remove_below => state.remove_below = 0,
                Ok(_) => {}
                Err(error) => {
                    state.error = Some(error);
                    drop(state);
                    return log;
                }
            }
        }
    }

    /// Whether some of what is to be removed is left.
    fn work(&self, log: &mut dyn Log, records: Vec<(u64, Vec<u8>)>, remove_below: u64) -> Result<bool, StoreError> {
        if let Some((last, _)) = records.last() {
            log.append(&records)?;
            self.lock().durable = *last;
            self.changed.notify_all();
        }
        Ok(remove_below > 0 && log.remove_below(remove_below)?)
    }
}

/// However the thread ends, nobody waits for it any longer.
struct Over<'a>(&'a Shared);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.lock().over = true;
        self.0.changed.notify_all();
    }
}

impl State {
    fn check(&mut self) -> Result<(), StoreError> {
        match self.error.take() {
            Some(error) => Err(error),
            None if self.over => Err(not_written()),
            None => Ok(()),
        }
    }

    fn is_due(&self, feed_at: usize) -> bool {
        self.queue.len() >= feed_at || self.remove_below > 0 || self.wanted > self.durable && !self.queue.is_empty()
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        // The log, and with it the engine's locks, are let go of before this returns, if they ever are.
        if let Err(error @ StoreError::Timeout { .. }) = self.halt(LEAVING_S) {
            tracing::error!(%error, "its disk or its engine hangs");
        }
    }
}

fn hangs(operation: &'static str, limit_s: u64) -> StoreError {
    StoreError::Timeout { operation, object: "log".to_owned(), limit_s }
}

fn not_written() -> StoreError {
    StoreError::Poisoned { first: "the log is not written any more".to_owned() }
}

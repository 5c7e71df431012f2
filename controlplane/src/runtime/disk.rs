//! The disk's thread: everything that waits for a sync.
//! In: writes in order. Out: "durable up to this number". What queued up meanwhile is merged and costs one sync.
//! An error ends the member: a failed sync is never tried again.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use prometheus_client::metrics::histogram::Histogram;
use record::{Group, RaftDisk, SnapshotMeta, Stats, StoreError};
use replica::{Input, Write};

use super::snapshots::{Arrivals, Staging};

pub enum Job {
    Write(Write),
    /// A snapshot of the member's own state is staged.
    Adopt(SnapshotMeta),
    Compact {
        through: u64,
    },
    /// Note that the store ends in good order, then end.
    Close,
}

/// What is measured of the store. Shared with `/metrics`.
#[derive(Clone)]
pub struct StoreMeter {
    /// Seconds from the start of an append until it was durable.
    pub append_seconds: Histogram,
    pub stats: Arc<Mutex<Stats>>,
}

impl Default for StoreMeter {
    /// Buckets from 100 µs to 3 s: an SSD syncs in the first few, a stalled disk is seen in the last.
    fn default() -> StoreMeter {
        let buckets = [0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];
        StoreMeter { append_seconds: Histogram::new(buckets), stats: Arc::default() }
    }
}

pub struct DiskThread {
    disk: Box<dyn RaftDisk>,
    arrivals: Arrivals,
    staging: Staging,
    meter: StoreMeter,
    tell: Box<dyn Fn(Input) + Send>,
}

impl DiskThread {
    pub fn new(
        disk: Box<dyn RaftDisk>,
        arrivals: Arrivals,
        staging: Staging,
        meter: StoreMeter,
        tell: impl Fn(Input) + Send + 'static,
    ) -> DiskThread {
        DiskThread { disk, arrivals, staging, meter, tell: Box::new(tell) }
    }

    /// Runs until `Close`, or until an error, which goes to `failed`.
    pub fn start(mut self, failed: impl FnOnce(StoreError) + Send + 'static) -> (Sender<Job>, thread::JoinHandle<()>) {
        let (jobs, queue) = channel();
        let run = move || {
            // Told before the disk is let go of: its engine may take its time with that, or hang.
            if let Err(error) = self.run(&queue) {
                failed(error);
            }
        };
        let thread =
            thread::Builder::new().name("disk".into()).spawn(run).expect("a thread can be started at start-up");
        (jobs, thread)
    }

    fn run(&mut self, queue: &Receiver<Job>) -> Result<(), StoreError> {
        while let Ok(first) = queue.recv() {
            let mut jobs: VecDeque<Job> = std::iter::once(first).chain(queue.try_iter()).collect();
            while let Some(job) = jobs.pop_front() {
                match job {
                    Job::Write(write) => self.write(write, &mut jobs)?,
                    Job::Adopt(meta) => self.adopt(&meta)?,
                    Job::Compact { through } => self.disk.compact(through)?,
                    Job::Close => return self.disk.close(),
                }
            }
            *self.meter.stats.lock().unwrap_or_else(PoisonError::into_inner) = self.disk.stats();
        }
        self.disk.close()
    }

    /// One sync for `first` and all writes that follow it directly.
    fn write(&mut self, first: Write, rest: &mut VecDeque<Job>) -> Result<(), StoreError> {
        if let Some(meta) = &first.snapshot {
            self.take_in(meta)?;
        }
        let (mut number, mut group) = (first.number, first.group);
        while let Some(Job::Write(next)) = rest.pop_front_if(|job| is_plain_write(job)) {
            number = next.number;
            group.absorb(next.group);
        }
        self.append(&group)?;
        (self.tell)(Input::Persisted { number });
        Ok(())
    }

    fn append(&mut self, group: &Group) -> Result<(), StoreError> {
        self.disk.append_group(group)?;
        self.meter.append_seconds.observe(self.disk.stats().append_time_last.as_secs_f64());
        Ok(())
    }

    /// Makes a snapshot of the leader's ours; the group that starts the log behind it comes next.
    fn take_in(&mut self, meta: &SnapshotMeta) -> Result<(), StoreError> {
        let staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        let body = self.arrivals.take(meta).ok_or(record::Refused::NotStaged { index: meta.index })?;
        self.disk.save_snapshot(meta, &body)?;
        drop(staging);
        Ok(())
    }

    /// A newer one may have come from the leader meanwhile: then ours is not needed.
    fn adopt(&mut self, meta: &SnapshotMeta) -> Result<(), StoreError> {
        let outcome = match self.disk.adopt_snapshot(meta) {
            Ok(()) => Input::SnapshotSaved { meta: meta.clone() },
            Err(StoreError::Refused(_)) => Input::SnapshotFailed,
            Err(error) => return Err(error),
        };
        (self.tell)(outcome);
        Ok(())
    }
}

fn is_plain_write(job: &Job) -> bool {
    matches!(job, Job::Write(write) if write.snapshot.is_none())
}

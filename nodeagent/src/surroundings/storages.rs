//! Looks at every storage again and again. In: which there are. Out: what is found of each, made steady.
//! A look is done on a thread of its own, which may hang with the file system: it is left behind, the storage counts as lost
//! until it comes back, and nothing else waits for it. At most one thread a storage.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use cluster::agent::Watch;
use cluster::{AreaMethod, Name, Revision, Span, Storage, StorageFinding};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Findings;
use super::probe::Probed;

/// Looks at one storage, of which it is known how areas are made there; may take for ever.
pub type Look = Arc<dyn Fn(&Storage, AreaMethod) -> Probed + Send + Sync>;

#[derive(Clone, Copy)]
pub struct Pace {
    /// From the end of one look to the next.
    pub every: Duration,
    /// The same, after one that would be bad news: containers are moved for it, so it is looked at again first.
    pub again: Duration,
    /// A look that has not ended after this does not end in time for anybody.
    pub hangs_after: Duration,
    /// How finely the above are kept.
    pub tick: Duration,
}

impl Pace {
    pub const USUAL: Pace = Pace {
        every: Duration::from_secs(5),
        again: Duration::from_secs(1),
        hangs_after: Duration::from_secs(10),
        tick: Duration::from_millis(500),
    };
}

/// Latencies that are looked at together: one slow write is no news.
const LATENCIES: usize = 5;
/// Free space is told in so many steps.
const STEPS: u64 = 128;

struct Watched {
    storage: Arc<Storage>,
    /// Since when a look is under way.
    looking: Option<Instant>,
    due: Instant,
    latencies: VecDeque<Duration>,
    /// The last look failed, and the one before it had not.
    in_doubt: bool,
    /// `None` before the first look ended.
    finding: Option<StorageFinding>,
}

/// What a look came to, and of which registration of the storage.
type Looked = (Name, Revision, Probed);

pub async fn attend(mut watch: watch::Receiver<Arc<Watch>>, findings: Findings, look: Look, pace: Pace) {
    let (done, mut looked) = mpsc::unbounded_channel::<Looked>();
    let mut all: BTreeMap<Name, Watched> = BTreeMap::new();
    let mut tick = interval(pace.tick);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = watch.changed() => match changed {
                Ok(()) => follow(&mut all, &watch.borrow_and_update().clone()),
                Err(_) => return,
            },
            Some((name, registered, probed)) = looked.recv() => {
                let watched = all.get_mut(&name).filter(|watched| watched.storage.registered == registered);
                if let Some(watched) = watched {
                    watched.took(probed, pace);
                }
            }
            _ = tick.tick() => {}
        }
        for watched in all.values_mut() {
            watched.advance(&look, &done, pace);
        }
        let found = all.iter().filter_map(|(name, watched)| Some((name.clone(), watched.finding.clone()?)));
        let found: BTreeMap<_, _> = found.collect();
        findings.note(|report| report.storages = Arc::new(found));
    }
}

/// A storage that was registered anew under its name is another one.
fn follow(all: &mut BTreeMap<Name, Watched>, watch: &Watch) {
    let mut known = std::mem::take(all);
    for storage in &watch.storages {
        let same = known.remove(&storage.name).filter(|watched| watched.storage == *storage);
        all.insert(storage.name.clone(), same.unwrap_or_else(|| Watched::new(storage.clone())));
    }
}

impl Watched {
    fn new(storage: Arc<Storage>) -> Watched {
        Watched {
            storage,
            looking: None,
            due: Instant::now(),
            latencies: VecDeque::new(),
            in_doubt: false,
            finding: None,
        }
    }

    fn advance(&mut self, look: &Look, done: &mpsc::UnboundedSender<Looked>, pace: Pace) {
        match self.looking {
            Some(since) if since.elapsed() > pace.hangs_after => {
                let finding = self.finding.get_or_insert_default();
                let seconds = pace.hangs_after.as_secs_f32();
                finding.fault = format!("it has not answered for more than {seconds} s: its file system hangs").into();
            }
            None if self.due <= Instant::now() => {
                let (look, done, storage) = (look.clone(), done.clone(), self.storage.clone());
                let areas = self.finding.as_ref().map_or(AreaMethod::Unknown, |finding| finding.areas);
                let work = move || {
                    let probed = look(&storage, areas);
                    let _ = done.send((storage.name.clone(), storage.registered, probed));
                };
                match std::thread::Builder::new().name("probe".to_owned()).spawn(work) {
                    Ok(_) => self.looking = Some(Instant::now()),
                    Err(error) => {
                        tracing::warn!(storage = %self.storage.name, %error, "no thread to look at a storage");
                        self.due = Instant::now() + pace.every;
                    }
                }
            }
            _ => {}
        }
    }

    fn took(&mut self, probed: Probed, pace: Pace) {
        self.looking = None;
        self.due = Instant::now() + pace.every;
        let was_usable = self.finding.as_ref().is_some_and(StorageFinding::is_usable);
        self.in_doubt = probed.fault.is_some() && was_usable && !self.in_doubt;
        if self.in_doubt {
            tracing::warn!(storage = %self.storage.name, fault = probed.fault, "storage: usable -> in doubt");
            self.due = Instant::now() + pace.again;
            return;
        }
        let before = self.finding.clone().unwrap_or_default();
        let Probed { fault, bytes_total, bytes_free, latency, areas } = probed;
        if let Some(latency) = latency {
            if self.latencies.len() == LATENCIES {
                self.latencies.pop_front();
            }
            self.latencies.push_back(latency);
        }
        let fault: Arc<str> = fault.unwrap_or_default().into();
        if fault != before.fault {
            let (from, to) = (said(&before.fault), said(&fault));
            tracing::info!(storage = %self.storage.name, "storage: {from} -> {to}");
        }
        self.finding = Some(StorageFinding {
            fault,
            bytes_total,
            bytes_free: steady(before.bytes_free, bytes_free, bytes_total / STEPS),
            latency: decade(median(&self.latencies)),
            areas,
        });
    }
}

fn said(fault: &str) -> &str {
    if fault.is_empty() { "usable" } else { fault }
}

/// `now` in whole `step`s, unless it is still about what it was.
fn steady(before: u64, now: u64, step: u64) -> u64 {
    let step = step.max(1);
    if now >= before && now - before < step + step / 2 { before } else { now - now % step }
}

fn median(latencies: &VecDeque<Duration>) -> Duration {
    let mut sorted: Vec<Duration> = latencies.iter().copied().collect();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Rounded up to 10 ms, 100 ms, 1 s or 10 s; nothing stays nothing.
fn decade(latency: Duration) -> Span {
    let steps = [10, 100, 1_000].map(Duration::from_millis);
    let rounded = steps.into_iter().find(|step| latency <= *step).unwrap_or(Duration::from_secs(10));
    if latency.is_zero() { Span::ZERO } else { Span::millis(rounded.as_millis() as u64) }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc as std_mpsc;

    use cluster::{NodeReport, StorageKind};
    use decide::Input;

    use super::*;

    const FAST: Pace = Pace {
        every: Duration::from_millis(5),
        again: Duration::from_millis(5),
        hangs_after: Duration::from_millis(60),
        tick: Duration::from_millis(5),
    };

    fn storage(name: &str) -> Arc<Storage> {
        let kind = StorageKind::Directory { path: format!("/srv/{name}").into() };
        Arc::new(Storage { name: Name::new(name).expect("a good name"), kind, registered: Revision(1) })
    }

    fn fine() -> Probed {
        let latency = Some(Duration::from_millis(3));
        Probed { fault: None, bytes_total: 1 << 30, bytes_free: 1 << 29, latency, areas: AreaMethod::Copy }
    }

    /// Waits for a report of which `holds` is true.
    async fn until(inputs: &mut mpsc::UnboundedReceiver<Input>, holds: impl Fn(&NodeReport) -> bool) -> NodeReport {
        loop {
            match tokio::time::timeout(Duration::from_secs(20), inputs.recv()).await {
                Ok(Some(Input::Finds(report))) if holds(&report) => return (*report).clone(),
                Ok(Some(_)) => {}
                _ => panic!("no such report"),
            }
        }
    }

    fn usable(report: &NodeReport, name: &str) -> Option<bool> {
        report.storages.get(&Name::new(name).expect("a good name")).map(StorageFinding::is_usable)
    }

    #[tokio::test]
    async fn storage_that_hangs_is_lost_until_it_answers_and_holds_nobody_up() {
        let (hang, release) = std_mpsc::channel::<()>();
        let release = Mutex::new(release);
        let look: Look = Arc::new(move |storage: &Storage, _| {
            if storage.name.as_str() == "hung" {
                let _ = release.lock().expect("one thread at a time").recv();
            }
            fine()
        });
        let (inputs, mut heard) = mpsc::unbounded_channel();
        let (watch, watched) = watch::channel(Arc::new(Watch::default()));
        tokio::spawn(attend(watched, Findings { report: Arc::default(), inputs }, look, FAST));
        watch.send_replace(Arc::new(Watch { storages: vec![storage("hung"), storage("well")], ..Watch::default() }));
        let report = until(&mut heard, |report| usable(report, "hung") == Some(false)).await;
        assert_eq!(usable(&report, "well"), Some(true));
        hang.send(()).expect("it waits");
        until(&mut heard, |report| usable(report, "hung") == Some(true)).await;
        // Nobody holds it up from here on.
        drop(hang);
        watch.send_replace(Arc::new(Watch { storages: vec![storage("well")], ..Watch::default() }));
        until(&mut heard, |report| usable(report, "hung").is_none()).await;
    }

    #[tokio::test]
    async fn one_look_that_fails_is_no_news_and_two_are() {
        // Of the looks, in order, which fail; all after them do.
        let fails = Mutex::new(VecDeque::from([false, true, false]));
        let look: Look = Arc::new(move |_: &Storage, _| {
            let failed = fails.lock().expect("one thread at a time").pop_front().unwrap_or(true);
            Probed { fault: failed.then(|| "it is gone".to_owned()), ..fine() }
        });
        let (inputs, mut heard) = mpsc::unbounded_channel();
        let (_watch, watched) =
            watch::channel(Arc::new(Watch { storages: vec![storage("shared")], ..Watch::default() }));
        let mut first = watched.clone();
        first.mark_changed();
        tokio::spawn(attend(first, Findings { report: Arc::default(), inputs }, look, FAST));
        let report = until(&mut heard, |report| usable(report, "shared").is_some()).await;
        assert_eq!(usable(&report, "shared"), Some(true));
        let report = until(&mut heard, |report| usable(report, "shared").is_some()).await;
        assert_eq!(usable(&report, "shared"), Some(false), "nothing was said of the one in between");
    }

    #[test]
    fn what_trembles_is_told_once() {
        assert_eq!(steady(0, 1_000, 100), 1_000);
        assert_eq!(steady(1_000, 1_149, 100), 1_000);
        assert_eq!(steady(1_000, 1_150, 100), 1_100);
        assert_eq!(steady(1_000, 999, 100), 900);
        assert_eq!(steady(900, 1_000, 100), 900, "it was 999 a moment ago");
        assert_eq!(decade(Duration::ZERO), Span::ZERO);
        assert_eq!(decade(Duration::from_micros(1)), Span::millis(10));
        assert_eq!(decade(Duration::from_millis(11)), Span::millis(100));
        assert_eq!(decade(Duration::from_secs(77)), Span::millis(10_000));
        let spike = [3, 4_000, 5].map(Duration::from_millis).into_iter().collect();
        assert_eq!(median(&spike), Duration::from_millis(5));
    }
}

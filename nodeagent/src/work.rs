//! Carries out orders on containers: one container's strictly in order, many containers at a time, boundedly.
//! In: orders of the mind. Out: `Input::Happened`. Stops have threads of their own: no slow start ever delays one, and a
//! stop that comes again with a shorter grace overtakes the one under way.
//! Absent: how it is done (`hands`), and whether (`decide`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cluster::agent::WantedSpec;
use cluster::{ContainerId, Epoch, Incarnation, OnQuorumLoss, Span};
use decide::{Happened, Input, Workload};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use crate::clock;

/// Stops at a time. Most only wait for a container to end in its grace.
const STOPS: usize = 256;
const LOOK_AGAIN: Duration = Duration::from_millis(500);

pub type Key = (ContainerId, Epoch);

/// What it takes to start one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartOrder {
    pub key: Key,
    pub incarnation: Incarnation,
    pub policy: OnQuorumLoss,
    pub spec: Arc<WantedSpec>,
}

/// Why it did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotStarted {
    Claim(String),
    Failed(String),
}

/// The deeds themselves. All of them block; errors are in words for the cluster's people.
pub trait Hands: Send + Sync + 'static {
    /// Prepares the private area, claims it, starts the first task. On return it runs, or what is left goes with `stop`.
    fn start(&self, order: &StartOrder) -> Result<(), NotStarted>;

    /// Asks the first task to end, after `grace` kills, sees everything gone, lets go of the private area. Also for what
    /// was never here. A second call with a shorter grace, at the same time, counts.
    fn stop(&self, key: Key, grace: Duration) -> Result<(), String>;

    /// Room, template and storage for the epoch after `key.1`; the private area is not mounted.
    fn prepare(&self, key: Key, spec: &WantedSpec) -> Result<(), String>;

    fn unprepare(&self, key: Key);

    /// Everything of any epoch that is here.
    fn look(&self) -> Result<Vec<Workload>, String>;
}

#[derive(Clone, Debug)]
enum Deed {
    Start(StartOrder),
    Stop { epoch: Epoch, until: Instant },
    Prepare { epoch: Epoch, spec: Arc<WantedSpec> },
    Unprepare { epoch: Epoch },
}

/// The desk where orders are taken.
#[derive(Clone)]
pub struct Work {
    hands: Arc<dyn Hands>,
    inputs: mpsc::UnboundedSender<Input>,
    runtime: Handle,
    lanes: Arc<Mutex<BTreeMap<ContainerId, Lane>>>,
    starts: Arc<Semaphore>,
    stops: Arc<Semaphore>,
}

/// One container's orders. It exists while there are any.
#[derive(Default)]
struct Lane {
    /// A task works it off.
    running: bool,
    waiting: VecDeque<Deed>,
    /// The stop that is under way, and until when it waits.
    stopping: Option<(Epoch, Instant)>,
}

/// What becomes of an order that was given.
enum Taken {
    Waits,
    Begins,
    /// Ends sooner what is under way.
    Hastens(Key, Instant),
}

impl Work {
    /// `workers`: how many starts are carried out at a time on `runtime`.
    pub fn new(hands: Arc<dyn Hands>, inputs: mpsc::UnboundedSender<Input>, workers: usize, runtime: Handle) -> Work {
        Work {
            hands,
            inputs,
            runtime,
            lanes: Arc::default(),
            starts: Arc::new(Semaphore::new(workers)),
            stops: Arc::new(Semaphore::new(STOPS)),
        }
    }

    pub fn start(&self, order: StartOrder) {
        self.take(order.key.0, Deed::Start(order));
    }

    /// Comes again with a shorter grace: then that one counts.
    pub fn stop(&self, container: ContainerId, epoch: Epoch, grace: Span) {
        self.take(container, Deed::Stop { epoch, until: Instant::now() + clock::duration(grace) });
    }

    pub fn prepare(&self, container: ContainerId, epoch: Epoch, spec: Arc<WantedSpec>) {
        self.take(container, Deed::Prepare { epoch, spec });
    }

    pub fn unprepare(&self, container: ContainerId, epoch: Epoch) {
        self.take(container, Deed::Unprepare { epoch });
    }

    /// Answers `Input::Found`, however often it takes: the mind does nothing before it.
    pub fn look(&self, ask: u64) {
        let work = self.clone();
        self.runtime.spawn(async move {
            loop {
                let hands = work.hands.clone();
                match blocking(move || hands.look()).await {
                    Ok(workloads) => {
                        let _ = work.inputs.send(Input::Found { ask, workloads });
                        return;
                    }
                    Err(error) => tracing::error!(error, "cannot see what runs here; nothing is done before that"),
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        });
    }

    /// The first task of `key` has ended.
    pub fn ended(&self, (container, epoch): Key, what: Happened) {
        let _ = self.inputs.send(Input::Happened { container, epoch, what });
    }

    /// How many containers have orders under way.
    pub fn busy(&self) -> usize {
        self.lanes().len()
    }

    fn take(&self, container: ContainerId, deed: Deed) {
        let taken = self.lanes().entry(container).or_default().take(container, deed);
        let work = self.clone();
        match taken {
            Taken::Waits => {}
            Taken::Begins => {
                self.runtime.spawn(async move {
                    while let Some(deed) = work.next(container) {
                        work.carry_out(container, deed).await;
                    }
                });
            }
            Taken::Hastens(key, until) => {
                self.runtime.spawn(async move {
                    let hands = work.hands.clone();
                    // The stop under way answers.
                    if let Err(error) = blocking(move || hands.stop(key, left(until))).await {
                        tracing::warn!(container = %key.0, epoch = %key.1, error, "hastened stop");
                    }
                });
            }
        }
    }

    /// The next deed of a lane; a lane that has none is over, under the same lock that would give it another.
    fn next(&self, container: ContainerId) -> Option<Deed> {
        let mut lanes = self.lanes();
        let lane = lanes.get_mut(&container)?;
        let deed = lane.waiting.pop_front();
        lane.stopping = match &deed {
            Some(Deed::Stop { epoch, until }) => Some((*epoch, *until)),
            _ => None,
        };
        if deed.is_none() {
            lanes.remove(&container);
        }
        deed
    }

    async fn carry_out(&self, container: ContainerId, deed: Deed) {
        let hands = self.hands.clone();
        let (epoch, what) = match deed {
            Deed::Start(order) => {
                let _worker = self.starts.acquire().await;
                let epoch = order.key.1;
                let what = match blocking(move || hands.start(&order)).await {
                    Ok(()) => Happened::Started,
                    Err(NotStarted::Claim(reason)) => Happened::ClaimRefused { reason: reason.into() },
                    Err(NotStarted::Failed(reason)) => Happened::StartFailed { reason: reason.into() },
                };
                (epoch, what)
            }
            Deed::Stop { epoch, until } => {
                let _thread = self.stops.acquire().await;
                let what = match blocking(move || hands.stop((container, epoch), left(until))).await {
                    Ok(()) => Happened::Stopped,
                    Err(reason) => Happened::StopFailed { reason: reason.into() },
                };
                (epoch, what)
            }
            Deed::Prepare { epoch, spec } => {
                let _worker = self.starts.acquire().await;
                let what = match blocking(move || hands.prepare((container, epoch), &spec)).await {
                    Ok(()) => Happened::Prepared,
                    Err(reason) => Happened::CannotPrepare { reason: reason.into() },
                };
                (epoch, what)
            }
            Deed::Unprepare { epoch } => {
                let _worker = self.starts.acquire().await;
                return blocking(move || hands.unprepare((container, epoch))).await;
            }
        };
        tracing::debug!(%container, %epoch, ?what, "carried out");
        let _ = self.inputs.send(Input::Happened { container, epoch, what });
    }

    fn lanes(&self) -> std::sync::MutexGuard<'_, BTreeMap<ContainerId, Lane>> {
        self.lanes.lock().expect("nothing panics while it holds the lanes")
    }
}

impl Lane {
    fn take(&mut self, container: ContainerId, deed: Deed) -> Taken {
        if let Deed::Stop { epoch, until } = deed {
            if let Some((stopping, held)) = &mut self.stopping
                && *stopping == epoch
            {
                if until >= *held {
                    return Taken::Waits;
                }
                *held = until;
                return Taken::Hastens((container, epoch), until);
            }
            let waiting = self.waiting.iter_mut().find_map(|waiting| match waiting {
                Deed::Stop { epoch: theirs, until: held } if *theirs == epoch => Some(held),
                _ => None,
            });
            if let Some(held) = waiting {
                *held = until.min(*held);
                return Taken::Waits;
            }
        }
        let idle = !self.running;
        self.running = true;
        self.waiting.push_back(deed);
        if idle { Taken::Begins } else { Taken::Waits }
    }
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

async fn blocking<T: Send + 'static>(deed: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(deed).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Condvar;

    use cluster::Profile;
    use cluster::{
        Class, ContainerSpec, Name, Resources, RestartPolicy, Revision, Storage, StorageKind, Template, TemplateKind,
    };

    use super::*;

    /// Hands that write down what they do, and whose starts wait for permission.
    #[derive(Default)]
    struct Slow {
        log: Mutex<Vec<String>>,
        changed: Condvar,
        starts_may_go_on: Mutex<bool>,
        /// The grace that counts for the stop under way.
        grace: Mutex<Option<Duration>>,
        stops_wait: bool,
    }

    impl Slow {
        fn note(&self, line: String) {
            self.log.lock().expect("log").push(line);
        }

        fn log(&self) -> Vec<String> {
            self.log.lock().expect("log").clone()
        }

        fn let_go(&self) {
            *self.starts_may_go_on.lock().expect("gate") = true;
            self.changed.notify_all();
        }
    }

    impl Hands for Slow {
        fn start(&self, order: &StartOrder) -> Result<(), NotStarted> {
            self.note(format!("start {} {}", order.key.0, order.key.1));
            let mut open = self.starts_may_go_on.lock().expect("gate");
            while !*open {
                open = self.changed.wait(open).expect("gate");
            }
            self.note(format!("started {} {}", order.key.0, order.key.1));
            Ok(())
        }

        fn stop(&self, key: Key, grace: Duration) -> Result<(), String> {
            let mut held = self.grace.lock().expect("grace");
            let shorter = held.is_none_or(|held| grace < held);
            *held = Some(if shorter { grace } else { held.expect("not shorter than none") });
            self.changed.notify_all();
            while self.stops_wait && held.is_some_and(|held| held > Duration::from_secs(1)) {
                held = self.changed.wait(held).expect("grace");
            }
            drop(held);
            self.note(format!("stopped {} {}", key.0, key.1));
            Ok(())
        }

        fn prepare(&self, _: Key, _: &WantedSpec) -> Result<(), String> {
            Ok(())
        }

        fn unprepare(&self, _: Key) {}

        fn look(&self) -> Result<Vec<Workload>, String> {
            Ok(Vec::new())
        }
    }

    fn order(container: u64) -> StartOrder {
        let name = || Name::new("a").expect("good");
        let spec = ContainerSpec {
            name: name(),
            template: name(),
            storage: name(),
            command: [].into(),
            environment: Arc::default(),
            resources: Resources::default(),
            class: Class::Guaranteed,
            priority: 1,
            possible_owners: [].into(),
            preferred_owners: [].into(),
            restart: RestartPolicy::default(),
            on_quorum_loss: OnQuorumLoss::Stop,
            stop_grace: Profile::Fast.terms().lease,
            application_templates: Arc::default(),
        };
        let template = Template {
            name: name(),
            version: "".into(),
            digest: "".into(),
            kind: TemplateKind::Os,
            path: "".into(),
            registered: Revision(1),
            bytes: 0,
            defaults: Default::default(),
        };
        let storage =
            Storage { name: name(), kind: StorageKind::Directory { path: "/".into() }, registered: Revision(1) };
        StartOrder {
            key: (ContainerId(container), Epoch(1)),
            incarnation: Incarnation(1),
            policy: OnQuorumLoss::Stop,
            spec: Arc::new(WantedSpec {
                container: ContainerId(container),
                spec: Arc::new(spec),
                template: Arc::new(template),
                storage: Arc::new(storage),
                applications: Arc::default(),
            }),
        }
    }

    fn desk(hands: &Arc<Slow>, workers: usize) -> (Work, mpsc::UnboundedReceiver<Input>) {
        let (sender, inputs) = mpsc::unbounded_channel();
        (Work::new(hands.clone(), sender, workers, Handle::current()), inputs)
    }

    async fn happened(inputs: &mut mpsc::UnboundedReceiver<Input>) -> (ContainerId, Happened) {
        match inputs.recv().await {
            Some(Input::Happened { container, what, .. }) => (container, what),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn orders_on_one_container_are_carried_out_in_order() {
        let hands = Arc::new(Slow::default());
        let (work, mut inputs) = desk(&hands, 4);
        work.start(order(1));
        work.stop(ContainerId(1), Epoch(1), Span::ZERO);
        work.start(StartOrder { key: (ContainerId(1), Epoch(2)), ..order(1) });
        hands.let_go();
        assert_eq!(happened(&mut inputs).await.1, Happened::Started);
        assert_eq!(happened(&mut inputs).await.1, Happened::Stopped);
        assert_eq!(happened(&mut inputs).await.1, Happened::Started);
        assert_eq!(hands.log(), ["start c1 e1", "started c1 e1", "stopped c1 e1", "start c1 e2", "started c1 e2"]);
    }

    #[tokio::test]
    async fn stops_do_not_wait_for_starts_and_starts_are_bounded() {
        let hands = Arc::new(Slow::default());
        let (work, mut inputs) = desk(&hands, 2);
        for container in 1..=3 {
            work.start(order(container));
        }
        work.stop(ContainerId(9), Epoch(1), Span::ZERO);
        assert_eq!(happened(&mut inputs).await, (ContainerId(9), Happened::Stopped));
        assert!(hands.log().iter().filter(|line| line.starts_with("start ")).count() <= 2, "{:?}", hands.log());
        hands.let_go();
        for _ in 1..=3 {
            assert_eq!(happened(&mut inputs).await.1, Happened::Started);
        }
        while work.busy() > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn stop_that_comes_again_with_a_shorter_grace_overtakes_the_first() {
        let hands = Arc::new(Slow { stops_wait: true, ..Slow::default() });
        let (work, mut inputs) = desk(&hands, 1);
        work.stop(ContainerId(1), Epoch(1), Span::seconds(3_600));
        while hands.grace.lock().expect("grace").is_none() {
            tokio::task::yield_now().await;
        }
        work.stop(ContainerId(1), Epoch(1), Span::seconds(7_200));
        work.stop(ContainerId(1), Epoch(1), Span::ZERO);
        assert_eq!(happened(&mut inputs).await, (ContainerId(1), Happened::Stopped));
        assert!(inputs.try_recv().is_err(), "one order, one answer");
    }
}

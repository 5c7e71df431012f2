//! All starters of this node, whatever incarnation they belong to: one place to find, end and watch what was born there.
//! In: labels. Out: tasks with the connection they are on. Shared by the runtimes that start through it.
//! A starter that is gone took everything in it along; that is told as exits.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, Once};
use std::time::{Duration, Instant};

use cluster::{ContainerId, Epoch, Incarnation, OnQuorumLoss};
use guard::Slot;
use guard::starter::{self, Client, Label, StarterError, Task, TaskState};

use super::runtime::{DriverError, Exited, Found, Workload, guard_policy};

const POLICIES: [OnQuorumLoss; 2] = [OnQuorumLoss::Stop, OnQuorumLoss::Keep];
/// A start under way that does not end by SIGKILL within this is stuck in the kernel.
const SETTLE: Duration = Duration::from_secs(10);
/// From SIGKILL to "no task left": long, because the guard, not this, bounds what safety needs.
const DEATH: Duration = Duration::from_secs(10);
/// While a start under way is being ended nothing wakes us; then we look this often.
const LOOK: Duration = Duration::from_millis(50);

/// One socket: the starter of one policy of one incarnation.
type Place = (OnQuorumLoss, u64);

/// Shared by all runtimes of an agent.
pub struct Starters {
    run_dir: PathBuf,
    settled: Once,
    watchers: Arc<Mutex<Watchers>>,
}

#[derive(Default)]
struct Watchers {
    subscribers: Vec<(&'static str, Sender<Exited>)>,
    /// By place and task id: what lives as far as is known, or `None` once its exit was told.
    known: BTreeMap<(Place, u64), Option<(String, Workload)>>,
    watched: Vec<Place>,
}

impl Starters {
    pub fn new(run_dir: impl Into<PathBuf>) -> Arc<Starters> {
        Arc::new(Starters { run_dir: run_dir.into(), settled: Once::new(), watchers: Arc::default() })
    }

    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// A connection to the starter `workload` belongs to.
    pub fn client(&self, workload: &Workload) -> Result<Client, StarterError> {
        Client::connect(&self.run_dir, guard_policy(workload.policy), workload.incarnation.0)
    }

    /// Everything `runtime` has started and nobody cleared away. The first call of an agent's life ends what was still
    /// being started: nobody waits for it any more.
    pub fn found(&self, runtime: &str) -> Result<Vec<Found>, DriverError> {
        let unreachable = |source| DriverError::Unreachable { operation: "look for workloads", source };
        let mut outcome = Ok(());
        self.settled.call_once(|| {
            outcome = self.places().into_iter().try_for_each(|place| match self.connect(place) {
                Some(mut client) => client.settle(SETTLE),
                None => Ok(()),
            });
        });
        outcome.map_err(unreachable)?;
        let tasks = self.tasks(|label| label.runtime == runtime).map_err(unreachable)?;
        let found = tasks.into_iter().filter(|(_, task)| task.state != TaskState::Starting);
        Ok(found
            .map(|(place, task)| Found {
                workload: workload_of(place, &task.label),
                since_ns: task.since_ns,
                alive: task.state == TaskState::Running,
            })
            .collect())
    }

    /// Clears away exited tasks of the container; errs with what still lives of it.
    pub fn make_way(&self, workload: &Workload) -> Result<(), DriverError> {
        let unreachable = |source| DriverError::Unreachable { operation: "look for leftovers", source };
        for (place, task) in self.tasks(|label| label.container == workload.container.0).map_err(unreachable)? {
            if !matches!(task.state, TaskState::Exited { .. }) {
                return Err(DriverError::StillLives { workload: *workload, living: workload_of(place, &task.label) });
            }
            self.forget(place, task.id).map_err(unreachable)?;
        }
        Ok(())
    }

    /// Remembers a task just started, so that its end is told even if its starter dies with it.
    pub fn started(&self, workload: &Workload, runtime: &str, id: u64) {
        let place = (workload.policy, workload.incarnation.0);
        self.lock().known.entry((place, id)).or_insert_with(|| Some((runtime.to_owned(), *workload)));
        self.watch_place(place);
    }

    /// Ends every task of `workload`: SIGTERM, after `grace` SIGKILL, until none is left. None at all is success.
    pub fn end(&self, workload: &Workload, grace: Duration) -> Result<(), DriverError> {
        let failed = |source| DriverError::Starter { operation: "stop", workload: *workload, source };
        let same = |label: &Label| (label.container, label.epoch) == (workload.container.0, workload.epoch.0);
        for (place, task) in self.tasks(same).map_err(failed)? {
            match self.end_task(place, &task, grace) {
                Ok(true) => {}
                Ok(false) => {
                    let waited_ms = DEATH.as_millis() as u64;
                    return Err(DriverError::WillNotDie { workload: *workload, waited_ms });
                }
                // Its starter died meanwhile, and the task with it.
                Err(StarterError::Gone { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// True when nothing of the task is left.
    fn end_task(&self, place: Place, task: &Task, grace: Duration) -> Result<bool, StarterError> {
        let Some(mut client) = self.connect(place) else { return Ok(true) };
        let Some(watch) = self.connect(place) else { return Ok(true) };
        let mut watch = watch.watch()?;
        let gentle = task.state == TaskState::Running;
        if gentle && !grace.is_zero() {
            client.signal(task.id, 15, false)?;
        }
        let kill_at = Instant::now() + if gentle { grace } else { Duration::ZERO };
        let mut killed = false;
        loop {
            match client.list()?.into_iter().find(|found| found.id == task.id).map(|found| found.state) {
                None => return Ok(true),
                Some(TaskState::Exited { .. }) => {
                    self.forget(place, task.id)?;
                    return Ok(true);
                }
                Some(_) => {}
            }
            let now = Instant::now();
            if now >= kill_at && !killed {
                client.signal(task.id, 9, true)?;
                killed = true;
            }
            let until = if killed { kill_at + DEATH } else { kill_at };
            if killed && now >= until {
                return Ok(false);
            }
            let wait = until.saturating_duration_since(now);
            // An exit wakes us; other tasks' exits do too, and then we look again.
            watch.next(if gentle { wait } else { wait.min(LOOK) })?;
        }
    }

    /// Tells `exits` of everything `runtime` started: first what has exited already.
    pub fn watch(&self, runtime: &'static str, exits: Sender<Exited>) {
        for (place, task) in self.tasks(|label| label.runtime == runtime).unwrap_or_default() {
            if let TaskState::Exited { code, .. } = task.state {
                let _ = exits.send(Exited { workload: workload_of(place, &task.label), code });
            }
        }
        self.lock().subscribers.push((runtime, exits));
        for place in self.places() {
            self.watch_place(place);
        }
    }

    /// Removes what dead incarnations left in the run directory and among the control groups: sockets, bundles, empty
    /// groups (runtimes remove theirs only when they are asked to, and the guard does not ask). Never errs: what stays
    /// is met again. For the start of an agent and after an incarnation has ended.
    pub fn sweep(&self, slot: &Slot) {
        let groups = self.group_roots();
        let dead = |incarnation: u64| slot.incarnation(incarnation).is_none_or(|state| state.ended);
        for root in &groups {
            for folder in fs::read_dir(root).into_iter().flatten().flatten() {
                let name = folder.file_name();
                let number = name.to_str().and_then(|name| name.strip_prefix('i')?.parse::<u64>().ok());
                // 0 is the namespace for proofs. A `keep` starter that answers still needs its groups.
                let gone = |number: &u64| {
                    *number != 0
                        && dead(*number)
                        && POLICIES.iter().all(|policy| self.connect((*policy, *number)).is_none())
                };
                if number.is_some_and(|number| gone(&number)) {
                    guard::cgroup::remove_empty(&folder.path());
                }
            }
        }
        for place in self.places() {
            if dead(place.1) && self.connect(place).is_none() {
                let socket = starter::socket_path(&self.run_dir, guard_policy(place.0), place.1);
                let _ = fs::remove_file(socket.with_extension("log"));
                let _ = fs::remove_file(socket);
            }
        }
        let Ok(tasks) = self.tasks(|_| true) else { return };
        let known: Vec<String> =
            tasks.into_iter().map(|(_, task)| format!("c{}-{}", task.label.container, task.label.epoch)).collect();
        for bundle in fs::read_dir(self.run_dir.join("bundles")).into_iter().flatten().flatten() {
            if !known.iter().any(|name| bundle.file_name() == name.as_str()) {
                let _ = fs::remove_dir_all(bundle.path());
            }
        }
    }

    /// This node's folder in every control group hierarchy there is.
    fn group_roots(&self) -> Vec<PathBuf> {
        let greeting = Client::connect(&self.run_dir, guard::Policy::Stop, 0).and_then(|mut client| client.greeting());
        let Some(branch) = greeting.ok().and_then(|greeting| greeting.cgroup) else { return Vec::new() };
        // Of `/root/i0/stop`, the root.
        let Some(root) = Path::new(&branch).ancestors().nth(2).and_then(|root| root.strip_prefix("/").ok()) else {
            return Vec::new();
        };
        let top = Path::new("/sys/fs/cgroup");
        let below = fs::read_dir(top).into_iter().flatten().flatten().map(|entry| entry.path());
        let roots = below.chain([top.to_owned()]).map(|hierarchy| hierarchy.join(root));
        roots.filter(|path| !root.as_os_str().is_empty() && path.is_dir()).collect()
    }

    /// Sockets there are, dead ones included: by policy, then rising incarnation.
    pub fn places(&self) -> Vec<(OnQuorumLoss, u64)> {
        POLICIES
            .into_iter()
            .flat_map(|policy| {
                let incarnations = starter::incarnations(&self.run_dir, guard_policy(policy)).unwrap_or_default();
                // 0 is the namespace for proofs: no workload is ever in it.
                incarnations.into_iter().filter(|incarnation| *incarnation != 0).map(move |number| (policy, number))
            })
            .collect()
    }

    /// `None` when nobody listens any more: the namespace is dead.
    fn connect(&self, (policy, incarnation): Place) -> Option<Client> {
        Client::connect(&self.run_dir, guard_policy(policy), incarnation).ok()
    }

    fn tasks(&self, wanted: impl Fn(&Label) -> bool) -> Result<Vec<(Place, Task)>, StarterError> {
        let mut found = Vec::new();
        for place in self.places() {
            let Some(mut client) = self.connect(place) else { continue };
            match client.list() {
                Ok(tasks) => {
                    found.extend(tasks.into_iter().filter(|task| wanted(&task.label)).map(|task| (place, task)))
                }
                Err(StarterError::Gone { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn forget(&self, place: Place, id: u64) -> Result<(), StarterError> {
        self.lock().known.remove(&(place, id));
        match self.connect(place) {
            Some(mut client) => client.forget(id),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Watchers> {
        self.watchers.lock().expect("no thread panics while it holds the list of watchers")
    }

    /// Follows one starter on a thread of its own until it is gone.
    fn watch_place(&self, place: Place) {
        let mut watchers = self.lock();
        if watchers.watched.contains(&place) {
            return;
        }
        let Some(mut client) = self.connect(place) else { return };
        let Ok(tasks) = client.list() else { return };
        let Ok(mut watch) = client.watch() else { return };
        for task in tasks.into_iter().filter(|task| !matches!(task.state, TaskState::Exited { .. })) {
            let workload = workload_of(place, &task.label);
            watchers.known.entry((place, task.id)).or_insert(Some((task.label.runtime, workload)));
        }
        watchers.watched.push(place);
        drop(watchers);
        let shared = Arc::clone(&self.watchers);
        std::thread::spawn(move || {
            while let Ok(news) = watch.next(Duration::from_secs(3600)) {
                let Some(task) = news else { continue };
                if let TaskState::Exited { code, .. } = task.state {
                    let workload = workload_of(place, &task.label);
                    let mut watchers = shared.lock().expect("no thread panics while it holds the list of watchers");
                    watchers.known.insert((place, task.id), None);
                    watchers.tell(&task.label.runtime, Exited { workload, code });
                }
            }
            let mut watchers = shared.lock().expect("no thread panics while it holds the list of watchers");
            watchers.gone(place);
        });
    }
}

impl Watchers {
    fn tell(&mut self, runtime: &str, exited: Exited) {
        self.subscribers.retain(|(name, exits)| *name != runtime || exits.send(exited).is_ok());
    }

    /// The namespace is dead: everything known to live in it was killed.
    fn gone(&mut self, place: Place) {
        self.watched.retain(|watched| *watched != place);
        let dead: Vec<(Place, u64)> = self.known.keys().copied().filter(|(known, _)| *known == place).collect();
        for key in dead {
            if let Some(Some((runtime, workload))) = self.known.remove(&key) {
                self.tell(&runtime, Exited { workload, code: 128 + 9 });
            }
        }
    }
}

/// The label a workload is known by in its starter.
pub fn label_of(workload: &Workload, runtime: &str, name: &str) -> Label {
    Label {
        container: workload.container.0,
        epoch: workload.epoch.0,
        incarnation: workload.incarnation.0,
        runtime: runtime.to_owned(),
        name: name.to_owned(),
    }
}

/// Its cgroup leaf, unique among what may live at once.
pub fn leaf_of(workload: &Workload) -> String {
    format!("c{}-{}", workload.container.0, workload.epoch.0)
}

fn workload_of((policy, incarnation): Place, label: &Label) -> Workload {
    Workload {
        container: ContainerId(label.container),
        epoch: Epoch(label.epoch),
        incarnation: Incarnation(incarnation),
        policy,
    }
}

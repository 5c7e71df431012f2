//! A runtime in memory, for tests: threads and processes are numbers, and nothing takes time unless asked to.
//! Clones share their containers, as two lives of an agent do. A command's first word says how it behaves: `exit N`
//! ends at once with N, `deaf` ignores SIGTERM, `broken` cannot be started, anything else runs until it is stopped.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::runtime::{DriverError, Exited, Found, Runtime, StartSpec, Workload};

#[derive(Clone, Default)]
pub struct FakeRuntime {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    containers: BTreeMap<Workload, Container>,
    watchers: Vec<Sender<Exited>>,
    started: u64,
}

struct Container {
    since_ns: u64,
    deaf: bool,
    code: Option<i32>,
}

impl FakeRuntime {
    /// Ends a workload as if by itself.
    pub fn exit(&self, workload: &Workload, code: i32) {
        self.lock().exit(workload, code);
    }

    /// Ends everything, as the kernel does when the guard is killed.
    pub fn kill_all(&self) {
        let mut shared = self.lock();
        let living: Vec<Workload> =
            shared.containers.iter().filter(|(_, found)| found.code.is_none()).map(|(key, _)| *key).collect();
        living.iter().for_each(|workload| shared.exit(workload, 137));
        shared.containers.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("no thread panics while it holds the containers")
    }
}

impl Shared {
    fn exit(&mut self, workload: &Workload, code: i32) {
        if let Some(container) = self.containers.get_mut(workload).filter(|found| found.code.is_none()) {
            container.code = Some(code);
            self.watchers.retain(|exits| exits.send(Exited { workload: *workload, code }).is_ok());
        }
    }
}

impl Runtime for FakeRuntime {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn start(&self, spec: &StartSpec) -> Result<(), DriverError> {
        let mut shared = self.lock();
        let workload = spec.workload;
        let living = |(key, found): (&Workload, &Container)| {
            (key.container == workload.container && found.code.is_none()).then_some(*key)
        };
        if let Some(living) = shared.containers.iter().find_map(living) {
            return Err(DriverError::StillLives { workload, living });
        }
        shared.containers.retain(|key, _| key.container != workload.container);
        let words: Vec<&str> = spec.command.iter().flat_map(|word| word.split(' ')).collect();
        if words.first() == Some(&"broken") {
            let reason = "broken, as ordered".to_owned();
            return Err(DriverError::Runtime { operation: "start", workload, reason });
        }
        shared.started += 1;
        let container = Container { since_ns: shared.started, deaf: words.first() == Some(&"deaf"), code: None };
        shared.containers.insert(workload, container);
        if let ["exit", code] = words[..] {
            shared.exit(&workload, code.parse().unwrap_or(255));
        }
        Ok(())
    }

    fn stop(&self, workload: &Workload, _grace: Duration) -> Result<(), DriverError> {
        let mut shared = self.lock();
        let deaf = shared.containers.get(workload).is_some_and(|found| found.deaf);
        shared.exit(workload, if deaf { 137 } else { 143 });
        shared.containers.remove(workload);
        Ok(())
    }

    fn found(&self) -> Result<Vec<Found>, DriverError> {
        let found = |(workload, container): (&Workload, &Container)| Found {
            workload: *workload,
            since_ns: container.since_ns,
            alive: container.code.is_none(),
        };
        Ok(self.lock().containers.iter().map(found).collect())
    }

    fn watch(&self, exits: Sender<Exited>) {
        let mut shared = self.lock();
        for (workload, container) in &shared.containers {
            if let Some(code) = container.code {
                let _ = exits.send(Exited { workload: *workload, code });
            }
        }
        shared.watchers.push(exits);
    }
}

//! Puts the drivers together into the deeds `work` knows: area, claim, then the runtime, in this order and never another.
//! In: orders. Out: that it is done, or why not, in words. Everything that runs is found by what the starters remember,
//! whichever runtime and whichever agent started it.
//! Absent: no order of deeds between containers; `work` keeps that.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use cluster::agent::WantedSpec;
use cluster::{BootId, ClusterId, ContainerSpec, Generation, Incarnation, NodeId, OnQuorumLoss, StorageKind, Template};
use decide::{Shape, Workload};
use guard::Policy;

use crate::chain;
use crate::config::{Config, RuntimeChoice};
use crate::drivers::claims::{self, Claim, ClaimError};
use crate::drivers::guard::GuardLink;
use crate::drivers::oci::OciRuntime;
use crate::drivers::probe;
use crate::drivers::process::ProcessRuntime;
use crate::drivers::runtime::{self, Exited, Runtime, StartSpec};
use crate::drivers::starters::Starters;
use crate::drivers::storage::{DirectoryStorage, Storage};
use crate::guarding::Guarding;
use crate::identity::Identity;
use crate::shelves::Shelves;
use crate::work::{Hands, Key, NotStarted, StartOrder};

/// From a registration to a namespace workloads can be born into; the guard makes one in milliseconds.
const NAMESPACE_WITHIN: Duration = Duration::from_secs(5);
const NAMESPACE_LOOK: Duration = Duration::from_millis(5);
/// What a template starts with where no command is given.
const INIT: &str = "/sbin/init";
/// Where programs are looked for when the environment of the container says nothing.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The real hands.
pub struct Driven {
    cluster: ClusterId,
    generation: Generation,
    node: NodeId,
    node_name: String,
    boot: BootId,
    choice: RuntimeChoice,
    link: Arc<GuardLink>,
    starters: Arc<Starters>,
    /// Every kind there is, for what an earlier agent may have started.
    runtimes: Vec<Arc<dyn Runtime>>,
    /// What starts are made with; `None` when nothing works here.
    chosen: OnceLock<Option<Arc<dyn Runtime>>>,
    started: Mutex<BTreeMap<Key, Started>>,
    shelves: Shelves,
}

/// What this agent began itself.
#[derive(Clone)]
struct Started {
    runtime: Arc<dyn Runtime>,
    workload: runtime::Workload,
    storage: StorageKind,
}

/// The runtime that knows a workload.
type Known = Arc<dyn Runtime>;

/// What works, best first, and what does not with its reason.
type Tried = (Vec<Arc<dyn Runtime>>, Vec<(&'static str, String)>);

fn one(runtime: impl Runtime + 'static) -> Tried {
    (vec![Arc::new(runtime)], Vec::new())
}

/// What trying the runtimes came to, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proven {
    /// Best first.
    pub works: Vec<String>,
    /// "name: reason".
    pub refused: Vec<String>,
}

impl Driven {
    pub fn new(config: &Config, identity: &Identity, guarding: &Guarding, shelves: Shelves) -> Driven {
        let starters = Starters::new(&config.run_dir);
        let path = std::env::var("PATH").unwrap_or_default();
        let oci = |name: &'static str| -> Arc<dyn Runtime> {
            let program = probe::find(name, &path).unwrap_or_else(|_| PathBuf::from(name));
            Arc::new(OciRuntime::new(name, program, starters.clone()))
        };
        let runtimes = vec![oci("crun"), oci("runc"), Arc::new(ProcessRuntime::new(starters.clone()))];
        Driven {
            cluster: identity.cluster,
            generation: identity.generation,
            node: identity.node,
            node_name: identity.name.clone(),
            boot: config.boot,
            choice: config.runtime,
            link: guarding.link().clone(),
            starters,
            runtimes,
            chosen: OnceLock::new(),
            started: Mutex::default(),
            shelves,
        }
    }

    /// Tries every runtime that may be used here with a throw-away container, and takes the best from then on.
    pub fn prove(&self) -> Proven {
        let until = Instant::now() + NAMESPACE_WITHIN;
        // The namespace for proofs comes with the guard.
        let socket = guard::starter::socket_path(self.link.run_dir(), Policy::Stop, 0);
        while !socket.exists() && Instant::now() < until {
            std::thread::sleep(NAMESPACE_LOOK);
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let (works, refused) = match self.choice {
            RuntimeChoice::Auto => {
                let probed = probe::probe(&self.starters, &path);
                let refusal = |verdict: probe::Verdict| Some((verdict.runtime, verdict.outcome.err()?));
                (probed.runtimes, probed.verdicts.into_iter().filter_map(refusal).collect())
            }
            RuntimeChoice::Crun => self.prove_oci("crun", &path),
            RuntimeChoice::Runc => self.prove_oci("runc", &path),
            RuntimeChoice::Process => match probe::prove_process(self.link.run_dir()) {
                Ok(()) => one(ProcessRuntime::new(self.starters.clone())),
                Err(reason) => (Vec::new(), vec![("process", reason)]),
            },
        };
        let proven = Proven {
            works: works.iter().map(|runtime| runtime.name().to_owned()).collect(),
            refused: refused.into_iter().map(|(name, reason)| format!("{name}: {reason}")).collect(),
        };
        match works.first() {
            Some(best) => tracing::info!(runtime = best.name(), refused = ?proven.refused, "runtime is proven"),
            None => tracing::error!(refused = ?proven.refused, "no runtime works here; this node can run nothing"),
        }
        let _ = self.chosen.set(works.into_iter().next());
        proven
    }

    fn prove_oci(&self, name: &'static str, path: &str) -> Tried {
        let proven = probe::find(name, path).and_then(|program| {
            let runtime = OciRuntime::new(name, program, self.starters.clone());
            runtime.prove().map(|()| runtime)
        });
        match proven {
            Ok(runtime) => one(runtime),
            Err(reason) => (Vec::new(), vec![(name, reason)]),
        }
    }

    /// Tells every exit from now on.
    pub fn watch(&self, exits: Sender<Exited>) {
        for runtime in &self.runtimes {
            runtime.watch(exits.clone());
        }
    }

    fn chosen(&self) -> Result<&Arc<dyn Runtime>, String> {
        match self.chosen.get() {
            Some(Some(runtime)) => Ok(runtime),
            Some(None) => Err("no container runtime works on this node".to_owned()),
            None => Err("the runtimes of this node are still being tried".to_owned()),
        }
    }

    fn await_namespace(&self, incarnation: Incarnation, policy: OnQuorumLoss) -> Result<(), String> {
        let until = Instant::now() + NAMESPACE_WITHIN;
        loop {
            if self.link.namespace_ready(incarnation, runtime::guard_policy(policy)).map_err(|error| chain(&error))? {
                return Ok(());
            }
            if Instant::now() >= until {
                let seconds = NAMESPACE_WITHIN.as_secs();
                return Err(format!("the guard made no namespace for {incarnation} within {seconds} s; see its log"));
            }
            std::thread::sleep(NAMESPACE_LOOK);
        }
    }

    /// Every workload of any runtime, with the runtime that knows it.
    fn found(&self) -> Result<Vec<(Known, runtime::Found)>, String> {
        let mut all = Vec::new();
        for runtime in &self.runtimes {
            let found = runtime.found().map_err(|error| chain(&error))?;
            all.extend(found.into_iter().map(|found| (runtime.clone(), found)));
        }
        Ok(all)
    }

    fn start_spec(&self, order: &StartOrder, area: PathBuf, layers: Vec<PathBuf>) -> StartSpec {
        let spec = &order.spec.spec;
        let name = spec.name.to_string();
        let defaults = || order.spec.layers().rev().map(|template| &template.defaults);
        let own = Some(&spec.command).into_iter().chain(defaults().map(|defaults| &defaults.command));
        let command = own.into_iter().find(|command| !command.is_empty());
        StartSpec {
            workload: workload_of(order),
            command: match command {
                None => vec![INIT.to_owned()],
                Some(command) => command.iter().map(ToString::to_string).collect(),
            },
            working_dir: defaults()
                .map(|defaults| &defaults.working_dir)
                .find(|folder| !folder.is_empty())
                .map(ToString::to_string),
            env: self.environment(order, spec, &area),
            private_area: area,
            layers,
            cpu_millis: spec.resources.cpu_millis,
            memory_bytes: spec.resources.memory_bytes,
            hostname: name.clone(),
            name,
        }
    }

    /// The container's own words above its templates', the later above the earlier; ours are added, and nobody can pretend
    /// them.
    fn environment(&self, order: &StartOrder, spec: &ContainerSpec, area: &std::path::Path) -> Vec<(String, String)> {
        let mut environment: BTreeMap<String, String> = BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]);
        let templates = order.spec.layers().flat_map(|template| template.defaults.environment.iter());
        environment.extend(templates.map(|(name, value)| (name.clone(), value.clone())));
        environment.extend(spec.environment.iter().map(|(name, value)| (name.clone(), value.clone())));
        let ours = [
            ("QUORATE_BOOT", self.boot.to_string()),
            ("QUORATE_CONTAINER", spec.name.to_string()),
            ("QUORATE_CONTAINER_ID", order.key.0.0.to_string()),
            ("QUORATE_EPOCH", order.key.1.0.to_string()),
            ("QUORATE_INCARNATION", order.incarnation.0.to_string()),
            ("QUORATE_NODE", self.node_name.clone()),
            ("QUORATE_NODE_ID", self.node.0.to_string()),
            ("QUORATE_PRIVATE_AREA", area.to_string_lossy().into_owned()),
        ];
        environment.extend(ours.map(|(name, value)| (name.to_owned(), value)));
        environment.into_iter().collect()
    }

    /// As [`StartSpec::layers`] has them; each is there. On the storage of the private area, or on another one where the
    /// digest says that it is the same.
    fn layers_of(&self, storage: &DirectoryStorage, spec: &WantedSpec) -> Result<Vec<PathBuf>, runtime::DriverError> {
        if spec.template.path.is_empty() && spec.applications.is_empty() {
            return Ok(Vec::new());
        }
        let layer = |template: &Template| {
            if template.path.is_empty() {
                return Ok(PathBuf::from("/"));
            }
            let own = storage.template(&template.path);
            if own.is_ok() && !self.shelves.is_damaged(storage.path(), &template.digest) {
                return own;
            }
            match self.shelves.elsewhere(storage.path(), template) {
                Some(other) => DirectoryStorage::new(other).template(&template.path),
                None => own,
            }
        };
        spec.layers().map(|template| layer(template)).collect()
    }

    fn started(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, Started>> {
        self.started.lock().expect("nothing panics while it holds what was started")
    }
}

impl Hands for Driven {
    fn start(&self, order: &StartOrder) -> Result<(), NotStarted> {
        let failed = |error: runtime::DriverError| NotStarted::Failed(chain(&error));
        let runtime = self.chosen().map_err(NotStarted::Failed)?;
        check_runtime(runtime.as_ref(), &order.spec).map_err(NotStarted::Failed)?;
        self.await_namespace(order.incarnation, order.policy).map_err(NotStarted::Failed)?;
        let storage = storage_of(&order.spec.storage.kind);
        let layers = self.layers_of(&storage, &order.spec).map_err(failed)?;
        let area = storage.prepare(order.key.0).map_err(failed)?;
        let claim = Claim {
            cluster: self.cluster,
            generation: self.generation,
            container: order.key.0,
            epoch: order.key.1,
            node: self.node,
            incarnation: order.incarnation,
            boot: self.boot,
        };
        claims::claim(&area, &claim).map_err(|error| match &error {
            // The storage failed, not the claim: another try, or another node, may succeed.
            ClaimError::Io { .. } => NotStarted::Failed(chain(&error)),
            _ => NotStarted::Claim(chain(&error)),
        })?;
        let started = Started {
            runtime: runtime.clone(),
            workload: workload_of(order),
            storage: order.spec.storage.kind.clone(),
        };
        self.started().insert(order.key, started);
        runtime.start(&self.start_spec(order, area, layers)).map_err(failed)
    }

    fn stop(&self, key: Key, grace: Duration) -> Result<(), String> {
        let began = self.started().get(&key).cloned();
        match &began {
            Some(began) => began.runtime.stop(&began.workload, grace).map_err(|error| chain(&error))?,
            None => {
                for (runtime, found) in self.found()? {
                    if (found.workload.container, found.workload.epoch) == key {
                        runtime.stop(&found.workload, grace).map_err(|error| chain(&error))?;
                    }
                }
            }
        }
        if let Some(began) = began {
            storage_of(&began.storage).release(key.0).map_err(|error| chain(&error))?;
            self.started().remove(&key);
        }
        Ok(())
    }

    fn prepare(&self, _key: Key, spec: &WantedSpec) -> Result<(), String> {
        let runtime = self.chosen()?;
        check_runtime(runtime.as_ref(), spec)?;
        let storage = storage_of(&spec.storage.kind);
        storage.check().and_then(|()| self.layers_of(&storage, spec).map(drop)).map_err(|error| chain(&error))
    }

    /// A plain directory needs nothing that would have to be undone.
    fn unprepare(&self, _key: Key) {}

    fn look(&self) -> Result<Vec<Workload>, String> {
        let workload = |found: runtime::Found| Workload {
            container: found.workload.container,
            epoch: found.workload.epoch,
            incarnation: found.workload.incarnation,
            policy: found.workload.policy,
            shape: if found.alive { Shape::Alive } else { Shape::Remains },
        };
        Ok(self.found()?.into_iter().map(|(_, found)| workload(found)).collect())
    }
}

fn workload_of(order: &StartOrder) -> runtime::Workload {
    runtime::Workload {
        container: order.key.0,
        epoch: order.key.1,
        incarnation: order.incarnation,
        policy: order.policy,
    }
}

fn storage_of(kind: &StorageKind) -> DirectoryStorage {
    DirectoryStorage::new(kind.path().as_ref())
}

/// Only a root file system of a template's own has an init to start where no command is given, here or there, and is
/// something that others can be laid over.
fn check_runtime(runtime: &dyn Runtime, spec: &WantedSpec) -> Result<(), String> {
    let has_init = runtime.name() != "process" && !spec.template.path.is_empty();
    let has_command = !spec.spec.command.is_empty() || spec.layers().any(|it| !it.defaults.command.is_empty());
    if !has_command && !has_init {
        return Err(format!("it has no command, and with runtime {} its template has no init", runtime.name()));
    }
    if runtime.name() == "process" && !spec.applications.is_empty() {
        return Err("it has application templates, and with runtime process nothing they could be laid over".to_owned());
    }
    Ok(())
}

//! What this node finds of itself and of what the cluster wants watched. In: the watch of the newest desired set; findings
//! of whoever looks at one concern. Out: the whole report, to the mind, whenever a part of it changed.
//! Absent: when it is said, and what follows from it; the mind and the state know.

mod areas;
mod probe;
mod storages;
mod templates;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster::agent::Watch;
use cluster::{NodeId, NodeReport};
use decide::Input;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::shelves::Shelves;

/// Manifests are read: seldom enough for a share that a thousand nodes look at. Whoever brings a template says so at once.
const TEMPLATES_PACE: storages::Pace = storages::Pace { every: Duration::from_secs(15), ..storages::Pace::USUAL };

/// Everybody who looks at something. Ends when dropped.
pub struct Surroundings {
    watch: watch::Sender<Arc<Watch>>,
}

impl Surroundings {
    /// What is found of templates is also told to `shelves`.
    pub fn start(
        node: NodeId,
        inputs: mpsc::UnboundedSender<Input>,
        shelves: Shelves,
        threads: &Handle,
    ) -> Surroundings {
        let (watch, watched) = watch::channel(Arc::default());
        let findings = Findings { report: Arc::default(), inputs };
        let look: storages::Look = Arc::new(move |storage, areas| probe::storage(storage, areas, node));
        threads.spawn(storages::attend(watched.clone(), findings.clone(), look, storages::Pace::USUAL));
        let seen = shelves.clone();
        let look: templates::Look = Arc::new(move |storage, wanted| templates::look(storage, wanted, &seen));
        threads.spawn(templates::attend(watched, findings, shelves, look, TEMPLATES_PACE));
        Surroundings { watch }
    }

    /// From now on this is looked at, and nothing else.
    pub fn watch(&self, watch: Arc<Watch>) {
        self.watch.send_replace(watch);
    }
}

/// Where the parts of a report come together.
#[derive(Clone)]
struct Findings {
    report: Arc<Mutex<NodeReport>>,
    inputs: mpsc::UnboundedSender<Input>,
}

impl Findings {
    /// Changes one part. The mind hears of it if that made a difference.
    fn note(&self, change: impl FnOnce(&mut NodeReport)) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let before = report.clone();
        change(&mut report);
        if *report != before {
            // Said under the lock: what is heard last is what was found last.
            let _ = self.inputs.send(Input::Finds(Arc::new(report.clone())));
        }
    }
}

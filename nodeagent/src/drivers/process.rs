//! Runs containers as plain processes in pid, mount, ipc and uts namespaces of their own. No root file system, no
//! limits: what is left when no OCI runtime works. The promise of one runner is the same, because it rests on the
//! namespace above.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use guard::starter::{Action, Mode, Start};

use super::runtime::{DriverError, Exited, Found, Runtime, StartSpec, Workload};
use super::starters::{Starters, label_of, leaf_of};
use super::storage::output_log;

/// From the order to the program's first instruction.
const BEGIN: Duration = Duration::from_secs(10);
const NAME: &str = "process";

pub struct ProcessRuntime {
    starters: Arc<Starters>,
}

impl ProcessRuntime {
    pub fn new(starters: Arc<Starters>) -> ProcessRuntime {
        ProcessRuntime { starters }
    }
}

impl Runtime for ProcessRuntime {
    fn name(&self) -> &'static str {
        NAME
    }

    fn start(&self, spec: &StartSpec) -> Result<(), DriverError> {
        let workload = spec.workload;
        self.starters.make_way(&workload)?;
        let failed = |source| DriverError::starter("start", workload)(source);
        let start = Start {
            label: label_of(&workload, NAME, &spec.name),
            mode: Mode::Workload,
            action: Action::Exec {
                argv: spec.command.iter().map(Into::into).collect(),
                env: spec.env.iter().map(|(name, value)| (name.into(), value.into())).collect(),
                cwd: spec.private_area.clone(),
                log: Some(output_log(&spec.private_area)?),
                isolate: Some(spec.hostname.clone()),
            },
            leaf: Some(leaf_of(&workload)),
        };
        let id = self.starters.client(&workload).and_then(|mut client| client.start(start, BEGIN)).map_err(failed)?;
        self.starters.started(&workload, NAME, id);
        Ok(())
    }

    fn stop(&self, workload: &Workload, grace: Duration) -> Result<(), DriverError> {
        self.starters.end(workload, grace)
    }

    fn found(&self) -> Result<Vec<Found>, DriverError> {
        self.starters.found(NAME)
    }

    fn watch(&self, exits: Sender<Exited>) {
        self.starters.watch(NAME, exits);
    }
}

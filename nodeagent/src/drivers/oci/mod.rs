//! Runs containers by an OCI runtime: crun or runc, by argument vector, through the starter, so that everything is born
//! in the namespace that ends with the lease. Root file system is the template with an overlay in the private area, so
//! that changes move along with the container; the private area itself is bound to /data.
//! Older runtimes refuse hosts with both kinds of cgroups; the starter hides cgroup2 from them and births them into the
//! workload's cgroup2 leaf instead, which is then what kills it.
//! Rooms: `state` (its files in the run directory), `root` (the root file system), `limits`, `bundle` (config.json).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use guard::starter::{Action, Client, Greeting, Label, Mode, Start, StarterError};

use self::bundle::{Bundle, DATA, PATH, Prepared};
use self::state::Place;
use super::runtime::{DriverError, Exited, Found, Runtime, StartSpec, Workload};
use super::starters::{Starters, label_of, leaf_of};
use super::storage::{OWN, make_folder, output_log};

mod bundle;
mod limits;
mod root;
mod state;

/// A runtime that has not begun the container by then is killed. runc needs 160 ms on an idle machine.
const BEGIN: Duration = Duration::from_secs(30);
const CLEAR: Duration = Duration::from_secs(10);

/// A runtime by command.
pub struct OciRuntime {
    name: &'static str,
    program: PathBuf,
    starters: Arc<Starters>,
}

impl OciRuntime {
    /// `name` is `crun` or `runc`, `program` where it lies.
    pub fn new(name: &'static str, program: impl Into<PathBuf>, starters: Arc<Starters>) -> OciRuntime {
        OciRuntime { name, program: program.into(), starters }
    }

    /// Runs a throw-away bundle to its end in the namespace for proofs: errs with the runtime's own words.
    pub fn prove(&self) -> Result<(), String> {
        let run_dir = self.starters.run_dir();
        let mut client = Client::connect(run_dir, guard::Policy::Stop, 0).map_err(|error| crate::chain(&error))?;
        let greeting = client.greeting().map_err(|error| crate::chain(&error))?;
        let place = Place::new(run_dir, self.name, format!("proof-{}", std::process::id()));
        let outcome = self.prove_in(&mut client, &greeting, &place);
        self.clear_away(Some(&mut client), &place, &Label::default());
        outcome
    }

    fn prove_in(&self, client: &mut Client, greeting: &Greeting, place: &Place) -> Result<(), String> {
        let text = |error: DriverError| crate::chain(&error);
        let area = place.bundle.join("area");
        place.make().map_err(text)?;
        make_folder(&area, 0o700).map_err(|error| format!("make {}: {error}", area.display()))?;
        let root = root::mount_root(client, place, &area, &[], &Label::default()).map_err(text)?;
        let spec = Bundle {
            prepared: Prepared { root, ..Prepared::default() },
            command: vec!["/bin/true".to_owned()],
            env: Vec::new(),
            private_area: &area,
            working_dir: DATA,
            hostname: "proof",
            cgroups_path: limits::cgroups_path(greeting, &place.id),
            resources: limits::resources(greeting, 0, 0),
        };
        place.write(spec).map_err(text)?;
        let mut argv = self.argv(greeting, place);
        argv.extend(["run", "--bundle"].map(Into::into));
        argv.extend([place.bundle.clone().into_os_string(), place.id.clone().into()]);
        match client.run(Label::default(), exec(argv, &place.log), BEGIN) {
            Ok(0) => Ok(()),
            Ok(code) => Err(place.words().unwrap_or(format!("ended with code {code} and said nothing"))),
            Err(error) => Err(crate::chain(&error)),
        }
    }

    fn place(&self, workload: &Workload) -> Place {
        Place::new(self.starters.run_dir(), self.name, leaf_of(workload))
    }

    /// Program and the options before its verb.
    fn argv(&self, greeting: &Greeting, place: &Place) -> Vec<std::ffi::OsString> {
        let mut argv: Vec<std::ffi::OsString> = vec![self.program.clone().into(), "--root".into()];
        argv.extend([place.state.clone().into_os_string(), "--log".into(), place.runtime_log.clone().into()]);
        if self.name == "crun" && greeting.user_namespace {
            // In there cgroups belong to somebody else.
            argv.push("--cgroup-manager=disabled".into());
        }
        argv
    }

    fn begin(&self, client: &mut Client, spec: &StartSpec, place: &Place) -> Result<u64, DriverError> {
        let workload = spec.workload;
        let failed = |source| DriverError::starter("start", workload)(source);
        let greeting = client.greeting().map_err(failed)?;
        let label = label_of(&workload, self.name, &spec.name);
        place.make()?;
        let bundle = Bundle {
            prepared: prepare(client, place, spec, &label)?,
            command: spec.command.clone(),
            env: bundle::environment(spec),
            private_area: &spec.private_area,
            working_dir: spec.working_dir.as_deref().unwrap_or(DATA),
            hostname: &spec.hostname,
            cgroups_path: limits::cgroups_path(&greeting, &place.id),
            resources: limits::resources(&greeting, spec.cpu_millis, spec.memory_bytes),
        };
        place.write(bundle)?;
        let mut argv = self.argv(&greeting, place);
        argv.extend(["run", "--detach", "--pid-file"].map(Into::into));
        argv.push(place.pid_file.clone().into());
        argv.extend(["--bundle".into(), place.bundle.clone().into_os_string(), place.id.clone().into()]);
        let start = Start {
            label,
            mode: Mode::Through { pid_file: place.pid_file.clone() },
            action: exec(argv, &output_log(&spec.private_area)?),
            // Where the runtime does not see cgroup2 its container stays where the runtime was born.
            leaf: greeting.unified_hidden.then(|| leaf_of(&workload)),
        };
        client.start(start, BEGIN).map_err(|error| match (error, place.words()) {
            (StarterError::Refused { no_lease: false, .. }, Some(reason)) => {
                DriverError::Runtime { operation: "start", workload, reason }
            }
            (error, _) => failed(error),
        })
    }

    /// Removes every trace of a workload that is over. What is not there is no error; what stays is met again by the
    /// next start.
    fn clear_away(&self, client: Option<&mut Client>, place: &Place, label: &Label) {
        if let Some(client) = client {
            if let (true, Ok(greeting)) = (place.state.join(&place.id).exists(), client.greeting()) {
                let mut argv = self.argv(&greeting, place);
                argv.extend(["delete", "--force"].map(Into::into));
                argv.push(place.id.clone().into());
                let _ = client.run(label.clone(), exec(argv, &place.log), CLEAR);
            }
            let _ = client.run(label.clone(), Action::Unmount { target: place.root() }, CLEAR);
        }
        let _ = fs::remove_dir_all(place.state.join(&place.id));
        // Overlays make this one without any permission, which stops everybody but root.
        let work = place.bundle.join("area").join(OWN).join("work/work");
        let _ = fs::set_permissions(work, fs::Permissions::from_mode(0o700));
        let _ = fs::remove_dir_all(&place.bundle);
    }
}

impl Runtime for OciRuntime {
    fn name(&self) -> &'static str {
        self.name
    }

    fn start(&self, spec: &StartSpec) -> Result<(), DriverError> {
        let workload = spec.workload;
        self.starters.make_way(&workload)?;
        let place = self.place(&workload);
        let label = label_of(&workload, self.name, &spec.name);
        let mut client = self.starters.client(&workload).map_err(DriverError::starter("start", workload))?;
        self.clear_away(Some(&mut client), &place, &label);
        match self.begin(&mut client, spec, &place) {
            Ok(id) => {
                self.starters.started(&workload, self.name, id);
                Ok(())
            }
            Err(error) => {
                // After a time-out the connection is closed and the start still under way: end it first.
                if matches!(error, DriverError::Starter { source: StarterError::TimedOut { .. }, .. }) {
                    self.starters.end(&workload, Duration::ZERO)?;
                }
                self.clear_away(self.starters.client(&workload).ok().as_mut(), &place, &label);
                Err(error)
            }
        }
    }

    fn stop(&self, workload: &Workload, grace: Duration) -> Result<(), DriverError> {
        self.starters.end(workload, grace)?;
        let label = label_of(workload, self.name, "");
        self.clear_away(self.starters.client(workload).ok().as_mut(), &self.place(workload), &label);
        Ok(())
    }

    fn found(&self) -> Result<Vec<Found>, DriverError> {
        self.starters.found(self.name)
    }

    fn watch(&self, exits: Sender<Exited>) {
        self.starters.watch(self.name, exits);
    }
}

/// Makes ready what the bundle names and the runtime does not make itself.
fn prepare(client: &mut Client, place: &Place, spec: &StartSpec, label: &Label) -> Result<Prepared, DriverError> {
    let root = root::mount_root(client, place, &spec.private_area, &spec.layers, label)?;
    Ok(Prepared { root, ..Prepared::default() })
}

fn exec(argv: Vec<std::ffi::OsString>, log: &Path) -> Action {
    Action::Exec {
        argv,
        env: vec![("PATH".into(), PATH.into())],
        cwd: "/".into(),
        log: Some(log.to_owned()),
        isolate: None,
    }
}

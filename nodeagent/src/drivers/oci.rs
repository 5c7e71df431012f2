//! Runs containers by an OCI runtime: crun or runc, by argument vector, through the starter, so that everything is born
//! in the namespace that ends with the lease. Bundle by oci-spec; root file system is the template with an overlay in
//! the private area, so that changes move along with the container; the private area itself is bound to /data.
//! Older runtimes refuse hosts with both kinds of cgroups; the starter hides cgroup2 from them and births them into the
//! workload's cgroup2 leaf instead, which is then what kills it. Absent: networks (each container has an empty one).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use guard::starter::{Action, Client, Greeting, Label, Mode, Start, StarterError};
use oci_spec::runtime::{
    Capabilities, Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxCpuBuilder, LinuxDeviceCgroupBuilder,
    LinuxMemoryBuilder, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxPidsBuilder, LinuxResources,
    LinuxResourcesBuilder, Mount, MountBuilder, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use super::runtime::{DriverError, Exited, Found, Runtime, StartSpec, Workload};
use super::starters::{Starters, label_of, leaf_of};
use super::storage::{OWN, make_folder, output_log};

/// A runtime that has not begun the container by then is killed. runc needs 160 ms on an idle machine.
const BEGIN: Duration = Duration::from_secs(30);
const CLEAR: Duration = Duration::from_secs(10);
/// Enough for any service, and an end to fork bombs.
const PROCESSES_MAX: i64 = 4096;
const CPU_PERIOD_US: u64 = 100_000;
/// Where a container finds its private area.
const DATA: &str = "/data";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a container's root may still do: what ordinary services need, and nothing that reaches the node.
const CAPABILITIES: [Capability; 11] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::NetBindService,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

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
        let root = mount_root(client, place, &area, Path::new("/"), &Label::default()).map_err(text)?;
        let spec = Bundle {
            root,
            command: vec!["/bin/true".to_owned()],
            env: Vec::new(),
            private_area: &area,
            working_dir: DATA,
            hostname: "proof",
            cgroups_path: cgroups_path(greeting, &place.id),
            resources: resources(greeting, 0, 0),
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
        let template = spec.rootfs.as_deref().unwrap_or(Path::new("/"));
        let bundle = Bundle {
            root: mount_root(client, place, &spec.private_area, template, &label)?,
            command: spec.command.clone(),
            env: environment(spec),
            private_area: &spec.private_area,
            working_dir: spec.working_dir.as_deref().unwrap_or(DATA),
            hostname: &spec.hostname,
            cgroups_path: cgroups_path(&greeting, &place.id),
            resources: resources(&greeting, spec.cpu_millis, spec.memory_bytes),
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

/// The files of one container in the run directory.
struct Place {
    id: String,
    bundle: PathBuf,
    /// The runtime's own state, of all its containers.
    state: PathBuf,
    pid_file: PathBuf,
    log: PathBuf,
    runtime_log: PathBuf,
}

impl Place {
    fn new(run_dir: &Path, runtime: &str, id: String) -> Place {
        let bundle = run_dir.join("bundles").join(&id);
        Place {
            state: run_dir.join("state").join(runtime),
            pid_file: bundle.join("pid"),
            log: bundle.join("output.log"),
            runtime_log: bundle.join("runtime.log"),
            id,
            bundle,
        }
    }

    fn root(&self) -> PathBuf {
        self.bundle.join("rootfs")
    }

    fn make(&self) -> Result<(), DriverError> {
        for folder in [&self.state, &self.root()] {
            make_folder(folder, 0o700).map_err(DriverError::io("make folder", folder))?;
        }
        Ok(())
    }

    fn write(&self, bundle: Bundle<'_>) -> Result<(), DriverError> {
        let path = self.bundle.join("config.json");
        let failed = DriverError::io("write bundle", &path);
        let text = bundle.spec().map_err(std::io::Error::other).and_then(|spec| Ok(serde_json::to_vec_pretty(&spec)?));
        text.and_then(|text| fs::write(&path, text)).map_err(failed)
    }

    /// The last thing the runtime said about this container.
    fn words(&self) -> Option<String> {
        [&self.runtime_log, &self.log].into_iter().find_map(|path| {
            let text = fs::read_to_string(path).ok()?;
            let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
            Some(line.to_owned())
        })
    }
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

/// Puts a root file system for the container together in the starter's mount namespace: where it is.
/// First choice is an overlay of the template, with what changes in the private area; where the share cannot carry one,
/// a copy of the template in the private area, made once.
fn mount_root(
    client: &mut Client,
    place: &Place,
    private_area: &Path,
    template: &Path,
    label: &Label,
) -> Result<PathBuf, DriverError> {
    let own = private_area.join(OWN);
    let (upper, work, copy) = (own.join("upper"), own.join("work"), own.join("rootfs"));
    if !copy.exists() {
        for folder in [&upper, &work] {
            make_folder(folder, 0o755).map_err(DriverError::io("make folder", folder))?;
        }
        let refused = match overlay_options(template, &upper, &work) {
            None => "the path holds a character that overlay options cannot".to_owned(),
            Some(options) => {
                let mount = Action::Mount {
                    kind: "overlay".into(),
                    source: "overlay".into(),
                    target: place.root(),
                    options,
                    bind: false,
                };
                match client.run(label.clone(), mount, CLEAR) {
                    Ok(_) => return Ok(place.root()),
                    Err(StarterError::Refused { reason, .. }) => reason,
                    Err(source) => {
                        return Err(DriverError::Unreachable { operation: "mount root file system", source });
                    }
                }
            }
        };
        let failed = |reason: String| DriverError::Io {
            operation: "make root file system",
            path: place.root(),
            source: std::io::Error::other(reason),
        };
        if template == Path::new("/") {
            return Err(failed(format!("{refused}; the node's own root is not copied")));
        }
        tracing::info!(template = %template.display(), reason = refused, "template is copied instead of overlaid");
        let fresh = own.join("rootfs.new");
        let _ = fs::remove_dir_all(&fresh);
        let argv = ["cp", "-a", "--"].map(Into::into).into_iter().chain([template.into(), fresh.clone().into()]);
        match client.run(label.clone(), exec(argv.collect(), &place.log), Duration::from_secs(300)) {
            Ok(0) => fs::rename(&fresh, &copy).map_err(DriverError::io("finish copy of template", &copy))?,
            Ok(code) => return Err(failed(place.words().unwrap_or(format!("copy ended with code {code}")))),
            Err(error) => return Err(failed(crate::chain(&error))),
        }
    }
    Ok(copy)
}

/// `None` when a path would be taken apart: overlay options know no way to write these.
fn overlay_options(lower: &Path, upper: &Path, work: &Path) -> Option<String> {
    let paths = [lower.to_str()?, upper.to_str()?, work.to_str()?];
    let plain = paths.iter().all(|path| !path.contains([',', ':', '\\', '"']));
    plain.then(|| format!("lowerdir={},upperdir={},workdir={}", paths[0], paths[1], paths[2]))
}

/// Environment as given, with the private area where the container sees it.
fn environment(spec: &StartSpec) -> Vec<String> {
    let seen = |name: &str, value: &str| match name {
        "QUORATE_PRIVATE_AREA" => DATA.to_owned(),
        _ => value.to_owned(),
    };
    let mut env: Vec<String> = spec.env.iter().map(|(name, value)| format!("{name}={}", seen(name, value))).collect();
    if !spec.env.iter().any(|(name, _)| name == "PATH") {
        env.push(format!("PATH={PATH}"));
    }
    env
}

/// Below the branch of its policy, so that one write ends both; on hosts without cgroup2 below a name of our own.
fn cgroups_path(greeting: &Greeting, id: &str) -> Option<PathBuf> {
    if greeting.user_namespace {
        return None;
    }
    let branch =
        greeting.cgroup.clone().unwrap_or(format!("/quorate/i{}/{}", greeting.incarnation, greeting.policy.word()));
    Some(Path::new(&branch).join(id))
}

/// Limits, where cgroups are ours to set.
fn resources(greeting: &Greeting, cpu_millis: u64, memory_bytes: u64) -> Option<LinuxResources> {
    if greeting.user_namespace {
        return None;
    }
    let no_devices = LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build().ok()?;
    let mut resources = LinuxResourcesBuilder::default()
        .devices(vec![no_devices])
        .pids(LinuxPidsBuilder::default().limit(PROCESSES_MAX).build().ok()?);
    if cpu_millis > 0 {
        let quota = (cpu_millis * CPU_PERIOD_US / 1000).max(1000) as i64;
        resources = resources.cpu(LinuxCpuBuilder::default().quota(quota).period(CPU_PERIOD_US).build().ok()?);
    }
    if memory_bytes > 0 {
        resources = resources.memory(LinuxMemoryBuilder::default().limit(memory_bytes as i64).build().ok()?);
    }
    resources.build().ok()
}

/// What goes into config.json.
struct Bundle<'a> {
    root: PathBuf,
    command: Vec<String>,
    env: Vec<String>,
    private_area: &'a Path,
    working_dir: &'a str,
    hostname: &'a str,
    cgroups_path: Option<PathBuf>,
    resources: Option<LinuxResources>,
}

impl Bundle<'_> {
    fn spec(self) -> Result<Spec, oci_spec::OciSpecError> {
        let capabilities: Capabilities = CAPABILITIES.into_iter().collect();
        // No ambient ones: a program run as another user starts without any.
        let capabilities = LinuxCapabilitiesBuilder::default()
            .bounding(capabilities.clone())
            .effective(capabilities.clone())
            .permitted(capabilities)
            .inheritable(Capabilities::new())
            .ambient(Capabilities::new())
            .build()?;
        let process = ProcessBuilder::default()
            .terminal(false)
            .user(UserBuilder::default().uid(0u32).gid(0u32).build()?)
            .args(self.command)
            .env(self.env)
            .cwd(self.working_dir)
            .capabilities(capabilities)
            .no_new_privileges(true)
            .build()?;
        let mut linux = LinuxBuilder::default()
            .namespaces(namespaces(self.resources.is_some())?)
            .masked_paths(words(&[
                "/proc/acpi",
                "/proc/asound",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/sched_debug",
                "/proc/scsi",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/sys/devices/virtual/powercap",
                "/sys/firmware",
            ]))
            .readonly_paths(words(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]));
        if let Some(path) = self.cgroups_path {
            linux = linux.cgroups_path(path);
        }
        let mut linux = linux.build()?;
        linux.set_resources(self.resources);
        SpecBuilder::default()
            .version("1.0.2")
            .root(RootBuilder::default().path(self.root).readonly(false).build()?)
            .hostname(self.hostname)
            .process(process)
            .mounts(mounts(self.private_area)?)
            .linux(linux)
            .build()
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn namespaces(with_cgroup: bool) -> Result<Vec<oci_spec::runtime::LinuxNamespace>, oci_spec::OciSpecError> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, Uts};
    [Pid, Ipc, Uts, Mount, Network]
        .into_iter()
        .chain(with_cgroup.then_some(Cgroup))
        .map(|kind| LinuxNamespaceBuilder::default().typ(kind).build())
        .collect()
}

fn mounts(private_area: &Path) -> Result<Vec<Mount>, oci_spec::OciSpecError> {
    let mount = |target: &str, kind: &str, source: &Path, options: &[&str]| {
        MountBuilder::default().destination(target).typ(kind).source(source).options(words(options)).build()
    };
    Ok(vec![
        mount("/proc", "proc", Path::new("proc"), &["nosuid", "noexec", "nodev"])?,
        mount("/dev", "tmpfs", Path::new("tmpfs"), &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        mount(
            "/dev/pts",
            "devpts",
            Path::new("devpts"),
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        )?,
        mount("/dev/shm", "tmpfs", Path::new("shm"), &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"])?,
        mount("/dev/mqueue", "mqueue", Path::new("mqueue"), &["nosuid", "noexec", "nodev"])?,
        mount("/sys", "sysfs", Path::new("sysfs"), &["nosuid", "noexec", "nodev", "ro"])?,
        mount("/run", "tmpfs", Path::new("tmpfs"), &["nosuid", "nodev", "mode=755", "size=65536k"])?,
        mount(DATA, "bind", private_area, &["rbind", "rw", "nosuid", "nodev"])?,
        // Claim, log and overlay are ours: the container neither sees nor changes them.
        mount(&format!("{DATA}/{OWN}"), "tmpfs", Path::new("tmpfs"), &["ro", "nosuid", "nodev", "noexec", "size=4k"])?,
    ])
}

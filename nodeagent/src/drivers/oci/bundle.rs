//! What goes into config.json, by oci-spec. In: what was prepared outside, and what is to run. Out: a `Spec`.
//! Absent: I/O, and where any of it comes from.

use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capabilities, Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxNamespace, LinuxNamespaceBuilder,
    LinuxNamespaceType, LinuxResources, Mount, MountBuilder, ProcessBuilder, RootBuilder, Spec, SpecBuilder,
    UserBuilder,
};

use crate::drivers::runtime::StartSpec;
use crate::drivers::storage::OWN;

/// Where a container finds its private area.
pub(super) const DATA: &str = "/data";
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

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

/// What others made ready on this node before the container begins: the bundle only names it.
#[derive(Default)]
pub(super) struct Prepared {
    /// Where its root file system is.
    pub root: PathBuf,
    /// Its network namespace, made outside; `None` is an empty one of its own.
    pub netns: Option<PathBuf>,
    /// What its template and its private area do not hold themselves, in order: resolv.conf, hosts, volumes.
    pub mounts: Vec<Mount>,
}

/// What goes into config.json.
pub(super) struct Bundle<'a> {
    pub prepared: Prepared,
    pub command: Vec<String>,
    pub env: Vec<String>,
    pub private_area: &'a Path,
    pub working_dir: &'a str,
    pub hostname: &'a str,
    pub cgroups_path: Option<PathBuf>,
    pub resources: Option<LinuxResources>,
}

impl Bundle<'_> {
    pub fn spec(self) -> Result<Spec, OciSpecError> {
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
            .namespaces(namespaces(self.resources.is_some(), self.prepared.netns)?)
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
            .root(RootBuilder::default().path(self.prepared.root).readonly(false).build()?)
            .hostname(self.hostname)
            .process(process)
            .mounts(mounts(self.private_area, self.prepared.mounts)?)
            .linux(linux)
            .build()
    }
}

/// Environment as given, with the private area where the container sees it.
pub(super) fn environment(spec: &StartSpec) -> Vec<String> {
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

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn namespaces(with_cgroup: bool, netns: Option<PathBuf>) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, Uts};
    let network = LinuxNamespaceBuilder::default().typ(Network);
    let network = match netns {
        Some(path) => network.path(path),
        None => network,
    };
    [Pid, Ipc, Uts, Mount]
        .into_iter()
        .chain(with_cgroup.then_some(Cgroup))
        .map(|kind| LinuxNamespaceBuilder::default().typ(kind).build())
        .chain([network.build()])
        .collect()
}

fn mounts(private_area: &Path, prepared: Vec<Mount>) -> Result<Vec<Mount>, OciSpecError> {
    let mount = |target: &str, kind: &str, source: &Path, options: &[&str]| {
        MountBuilder::default().destination(target).typ(kind).source(source).options(words(options)).build()
    };
    let mut mounts = vec![
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
    ];
    mounts.extend(prepared);
    Ok(mounts)
}

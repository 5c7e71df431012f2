//! Limits of a container as the runtime takes them, and the group they are set on.
//! In: numbers of its specification and what the starter knows of this machine's groups. Absent: I/O.

use std::path::{Path, PathBuf};

use guard::starter::Greeting;
use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxDeviceCgroupBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources,
    LinuxResourcesBuilder,
};

/// Enough for any service, and an end to fork bombs.
const PROCESSES_MAX: i64 = 4096;
const CPU_PERIOD_US: u64 = 100_000;

/// Below the branch of its policy, so that one write ends both; on hosts without cgroup2 below a name of our own.
pub(super) fn cgroups_path(greeting: &Greeting, id: &str) -> Option<PathBuf> {
    if greeting.user_namespace {
        return None;
    }
    let branch =
        greeting.cgroup.clone().unwrap_or(format!("/quorate/i{}/{}", greeting.incarnation, greeting.policy.word()));
    Some(Path::new(&branch).join(id))
}

/// Limits, where cgroups are ours to set.
pub(super) fn resources(greeting: &Greeting, cpu_millis: u64, memory_bytes: u64) -> Option<LinuxResources> {
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

//! The cgroup v2 side of an end: a tree per incarnation that dies by one write to `cgroup.kill`.
//! Shape: `<root>/i<incarnation>/{starters,stop,keep}`; inits live in the leaf `init` of their policy, workloads in a
//! leaf of their own, short helpers in `starters`. Absent: no controllers, no limits; those are the runtime's.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};

use crate::Policy;

/// What can be found of control groups on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where cgroup2 is mounted.
    pub mount: PathBuf,
    /// Version 1 hierarchies are mounted beside it: runtimes take their limits from those.
    pub hybrid: bool,
}

impl Hierarchy {
    /// The cgroup2 mount of this process's mount namespace; `None` on hosts without.
    pub fn find() -> Option<Hierarchy> {
        Hierarchy::parse(&fs::read_to_string("/proc/self/mountinfo").ok()?)
    }

    fn parse(mountinfo: &str) -> Option<Hierarchy> {
        let mounts = || {
            mountinfo.lines().filter_map(|line| {
                let (left, right) = line.split_once(" - ")?;
                Some((left.split(' ').nth(4)?, right.split(' ').next()?))
            })
        };
        let mount = mounts().find(|(_, kind)| *kind == "cgroup2")?.0.replace("\\040", " ");
        Some(Hierarchy { mount: mount.into(), hybrid: mounts().any(|(_, kind)| kind == "cgroup") })
    }

    /// `path` as the kernel names it, from the top of the hierarchy: what an OCI bundle calls cgroupsPath.
    pub fn name_of(&self, path: &Path) -> Option<String> {
        Some(format!("/{}", path.strip_prefix(&self.mount).ok()?.display()))
    }
}

/// A root for one node's trees when none was named: at the top of the hierarchy where this may be written, else below
/// the cgroup this process is in. Told apart between nodes of one machine by their run directory.
pub fn default_root(hierarchy: &Hierarchy, run_dir: &Path) -> io::Result<PathBuf> {
    let name = format!("quorate-{:08x}", fold(run_dir.as_os_str().as_encoded_bytes()));
    let top = hierarchy.mount.join(&name);
    match fs::create_dir_all(&top) {
        Ok(()) => Ok(top),
        Err(_) => {
            let own = fs::read_to_string("/proc/self/cgroup")?;
            let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
            let below = hierarchy.mount.join(own).join(&name);
            fs::create_dir_all(&below)?;
            Ok(below)
        }
    }
}

/// FNV-1a, 32 bits: a short stable name for a path.
fn fold(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Open descriptors of one incarnation's tree, so that ending it needs no path, no allocation and no mount.
pub struct Tree {
    /// `<root>/i<incarnation>`.
    pub path: PathBuf,
    starters: Branch,
    stop: Branch,
    pub keep: Branch,
}

/// One branch: its directory, its switch and its state.
pub struct Branch {
    pub folder: OwnedFd,
    kill: OwnedFd,
    events: OwnedFd,
}

impl Tree {
    /// Makes (or finds) the tree of `incarnation` below `root`. Errs where the kernel has no `cgroup.kill` (before 5.14).
    pub fn create(root: &Path, incarnation: u64) -> io::Result<Tree> {
        let path = root.join(format!("i{incarnation}"));
        let branch = |name: &str| -> io::Result<Branch> {
            let folder = path.join(name);
            fs::create_dir_all(&folder)?;
            Branch::open(&folder)
        };
        Ok(Tree { starters: branch("starters")?, stop: branch("stop")?, keep: branch("keep")?, path })
    }

    pub fn branch(&self, policy: Policy) -> &Branch {
        match policy {
            Policy::Stop => &self.stop,
            Policy::Keep => &self.keep,
        }
    }

    pub fn starters(&self) -> &Branch {
        &self.starters
    }

    /// Kills what starts things first, then what runs and ends with the lease.
    pub fn kill_stop(&self) {
        self.starters.kill();
        self.stop.kill();
    }

    /// Whether no live task of policy `stop` is left; zombies do not count.
    pub fn stop_is_empty(&self) -> bool {
        self.starters.is_empty() && self.stop.is_empty()
    }
}

impl Branch {
    pub fn open(folder: &Path) -> io::Result<Branch> {
        let open = |name: &str, flags| -> io::Result<OwnedFd> {
            Ok(rustix::fs::open(folder.join(name), flags | OFlags::CLOEXEC, Mode::empty())?)
        };
        Ok(Branch {
            kill: open("cgroup.kill", OFlags::WRONLY)?,
            events: open("cgroup.events", OFlags::RDONLY)?,
            folder: rustix::fs::open(folder, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?,
        })
    }

    /// SIGKILL to everything in it and below, forks under way included.
    pub fn kill(&self) {
        // A tree that was removed meanwhile has nothing left to kill.
        let _ = rustix::io::pwrite(&self.kill, b"1", 0);
    }

    pub fn is_empty(&self) -> bool {
        let mut text = [0u8; 256];
        match rustix::io::pread(&self.events, &mut text, 0) {
            Ok(length) => text[..length].split(|byte| *byte == b'\n').any(|line| line == b"populated 0"),
            // The directory was removed, which the kernel allows for empty ones only.
            Err(error) => error == rustix::io::Errno::NODEV,
        }
    }
}

/// Makes the leaf `name` below an open branch and opens it.
pub fn leaf(branch: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(branch, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(rustix::fs::openat(branch, name, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// As `leaf`, but new: kernels since 6.15 kill whatever is born into a group that was killed before. Errs while an old
/// one of this name still has tasks.
pub fn fresh_leaf(branch: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    match rustix::fs::unlinkat(branch, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => leaf(branch, name),
        Err(error) => Err(error.into()),
    }
}

/// SIGKILL to everything in the leaf `name`.
pub fn kill_leaf(branch: &OwnedFd, name: &str) {
    let path = format!("{name}/cgroup.kill");
    if let Ok(switch) = rustix::fs::openat(branch, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
        let _ = rustix::io::write(&switch, b"1");
    }
}

/// Whether the leaf `name` has no live task; a leaf that is not there has none.
pub fn leaf_is_empty(branch: &OwnedFd, name: &str) -> bool {
    let path = format!("{name}/cgroup.events");
    let Ok(events) = rustix::fs::openat(branch, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else {
        return true;
    };
    let mut text = [0u8; 256];
    match rustix::io::read(&events, &mut text) {
        Ok(length) => text[..length].split(|byte| *byte == b'\n').any(|line| line == b"populated 0"),
        Err(_) => true,
    }
}

/// Removes `folder` and every group below it that is empty, deepest first; what still has tasks stays. True when
/// nothing is left of it.
pub fn remove_empty(folder: &Path) -> bool {
    if let Ok(entries) = fs::read_dir(folder) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_empty(&entry.path());
            }
        }
    }
    match fs::remove_dir(folder) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Removes what guards with that run directory left where no root was named, as [`remove_empty`] does.
pub fn remove_default_root(run_dir: &Path) {
    if let Some(hierarchy) = Hierarchy::find()
        && let Ok(root) = default_root(&hierarchy, run_dir)
    {
        remove_empty(&root);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_and_unified_hosts_are_told_apart() {
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(Hierarchy::parse(unified), Some(Hierarchy { mount: "/sys/fs/cgroup".into(), hybrid: false }));
        let hybrid = "1 2 0:3 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      4 2 0:5 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = Hierarchy::parse(hybrid).expect("found");
        assert!(found.hybrid);
        assert_eq!(found.name_of(Path::new("/sys/fs/cgroup/unified/a/b")).as_deref(), Some("/a/b"));
        assert_eq!(found.name_of(Path::new("/elsewhere")), None);
        assert_eq!(Hierarchy::parse("1 2 0:3 / / rw - ext4 /dev/vda rw\n"), None);
    }
}

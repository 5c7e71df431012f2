//! Control groups of a playground: one folder for each machine in every hierarchy, so that a machine that lost its power
//! leaves none behind. In: the mount table. Out: where the agent of a machine may put its trees; all of it removed.

use std::fs;
use std::path::{Path, PathBuf};

/// The folder for `machine` of the playground in `dir`, in the cgroup2 hierarchy; `None` where there is none or it is not
/// ours to write (then the agent looks for a place of its own).
pub fn place(dir: &Path, machine: &str) -> Option<PathBuf> {
    let (_, unified) = hierarchies().into_iter().find(|(kind, _)| kind == "cgroup2")?;
    rustix::process::getuid().is_root().then(|| unified.join(name(dir)).join(machine))
}

/// Removes the folders of `machine`, or those of the whole playground, from every hierarchy; what still has processes
/// stays. Runtimes give version 1 hierarchies the names they were given in cgroup2.
pub fn remove(dir: &Path, machine: Option<&str>) {
    for (_, top) in hierarchies() {
        let all = top.join(name(dir));
        remove_empty(&machine.map_or(all.clone(), |machine| all.join(machine)));
    }
}

fn name(dir: &Path) -> String {
    // FNV-1a: a short stable name for a path.
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    format!("quorate-dev-{:016x}", dir.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325, fold))
}

/// Kind and mount point of each.
fn hierarchies() -> Vec<(String, PathBuf)> {
    parse(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
}

fn parse(mountinfo: &str) -> Vec<(String, PathBuf)> {
    let line = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let kind = right.split(' ').next().filter(|kind| kind.starts_with("cgroup"))?;
        Some((kind.to_owned(), PathBuf::from(left.split(' ').nth(4)?)))
    };
    mountinfo.lines().filter_map(line).collect()
}

fn remove_empty(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path());
        }
    }
    // A folder with processes, or one that is not there, is left as it is.
    let _ = fs::remove_dir(folder);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_kinds_are_found() {
        let table = "31 23 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                     32 31 0:28 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                     33 31 0:29 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";
        let found = parse(table);
        let shown: Vec<(&str, &str)> =
            found.iter().map(|(kind, path)| (kind.as_str(), path.to_str().unwrap_or_default())).collect();
        assert_eq!(shown, [("cgroup", "/sys/fs/cgroup/cpu"), ("cgroup2", "/sys/fs/cgroup/unified")]);
    }

    #[test]
    fn two_playgrounds_have_two_names() {
        assert_ne!(name(Path::new("/tmp/a")), name(Path::new("/tmp/b")));
    }
}

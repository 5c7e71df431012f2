//! A world for one story: this test once more, as the first process of a pid namespace with mounts of its own. When it
//! ends, or this process does, the kernel ends everything in it. In: the name of a test, and its story. Out: a verdict
//! that includes whether anything remained: processes, control groups, mounts, interfaces, folders.
//! Absent: luck. What a story cannot have here (root, a runtime, a tool) is said aloud, and the story does not run.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Lab, NODES};
use crate::processes::{die_with_test, program};

const INSIDE: &str = "QUORATE_LAB_INSIDE";
/// Folders of labs; what is there when none runs was left by one that was killed.
const PREFIX: &str = "quorate-lab-";

/// How a story is expected to end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    Told,
    /// For the test of this file's own promise.
    Killed,
}

/// Tells the story in a world of its own. `test` is the name of the test that calls this.
#[track_caller]
pub fn tell(test: &str, story: impl FnOnce(&Lab)) {
    tell_until(test, End::Told, story);
}

/// As `tell`, for a story that must end as `end` says.
#[track_caller]
pub fn tell_until(test: &str, end: End, story: impl FnOnce(&Lab)) {
    if let Some(dir) = std::env::var_os(INSIDE) {
        let runtime = runtime().expect("it was there outside");
        let lab = Lab::up(Path::new(&dir), runtime, NODES, "default");
        story(&lab);
        return;
    }
    if let Some(reason) = lacks() {
        println!("NOT RUN: {test}: {reason}");
        return;
    }
    let _lock = alone();
    for left in folders(PREFIX) {
        clean(&left);
    }
    let interfaces = interfaces();
    let dir = std::env::temp_dir().join(format!("{PREFIX}{}", std::process::id()));
    fs::create_dir(&dir).expect("a folder");
    let programs = program("quoratectl").parent().expect("a folder of programs").to_owned();
    let mut world = Command::new("unshare");
    world.args(["--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--propagation", "private"]);
    world.arg(std::env::current_exe().expect("this test has a path"));
    world.args(["--exact", test, "--nocapture", "--test-threads=1"]).stdin(Stdio::null());
    world.env(INSIDE, &dir).env("QUORATE_BIN_DIR", &programs);
    die_with_test(&mut world);
    let ended = world.status().expect("unshare runs");
    let remains = remains(&dir, &interfaces);
    let homes = clean(&dir);
    match end {
        End::Told => {
            assert!(ended.success(), "the story in {test} did not end well ({ended})");
            assert!(remains.is_empty(), "left behind: {}", remains.join(", "));
        }
        End::Killed => {
            assert!(!ended.success(), "the story was to be killed");
            // Control groups outlive their processes; they can all be removed because nothing is in them.
            let other: Vec<&String> = remains.iter().filter(|it| !it.starts_with("control group")).collect();
            assert!(other.is_empty() && homes.is_empty(), "left behind: {other:?} {homes:?}");
        }
    }
}

/// Two labs at a time would measure each other: waits until no other one runs, for as long as the file is held. What
/// `QUORATE_LAB_LOCK` names instead is for runs that are meant to disturb each other.
pub fn alone() -> File {
    let usual = || std::env::temp_dir().join("quorate-lab.lock");
    let lock =
        File::create(std::env::var_os("QUORATE_LAB_LOCK").map_or_else(usual, PathBuf::from)).expect("a lock file");
    lock.lock().expect("a lock");
    lock
}

/// The container runtime the lab uses: what `QUORATE_LAB_RUNTIME` says, else the best that is installed.
pub fn runtime() -> Option<&'static str> {
    let wanted = std::env::var("QUORATE_LAB_RUNTIME").ok();
    let fits = |name: &&str| wanted.as_ref().is_none_or(|wanted| wanted == name) && tool(name);
    ["crun", "runc"].into_iter().find(fits)
}

pub fn tool(name: &str) -> bool {
    ["/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin", "/bin", "/sbin"]
        .iter()
        .any(|folder| Path::new(folder).join(name).is_file())
}

/// Why no story can be told here, if so.
pub fn lacks() -> Option<String> {
    if !rustix::process::getuid().is_root() {
        return Some("the lab needs root: it makes network, pid and mount namespaces".into());
    }
    let missing: Vec<&str> = ["unshare", "nsenter", "ip"].into_iter().filter(|name| !tool(name)).collect();
    if !missing.is_empty() {
        return Some(format!("not installed: {} (packages util-linux, iproute2)", missing.join(", ")));
    }
    if runtime().is_none() {
        return Some(
            "neither crun nor runc (or not the one wanted) is installed: the lab runs real OCI containers".into(),
        );
    }
    let mut probe = Command::new("unshare");
    probe.args(["--net", "--pid", "--fork", "--mount", "ip", "link", "add", "name", "t", "type", "bridge"]);
    match probe.stdin(Stdio::null()).output() {
        Ok(out) if out.status.success() => None,
        Ok(out) => Some(format!("no namespaces here: {}", String::from_utf8_lossy(&out.stderr).trim())),
        Err(error) => Some(format!("unshare does not run: {error}")),
    }
}

/// What is still there of the lab in `dir` now that its world has ended.
pub fn remains(dir: &Path, interfaces_before: &BTreeSet<String>) -> Vec<String> {
    let mut found: Vec<String> = machines(dir)
        .iter()
        .flat_map(|machine| cgroups(machine))
        .filter(|path| path.exists())
        .map(|path| format!("control group {}", path.display()))
        .collect();
    let here = dir.display().to_string();
    for pid in super::pids() {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if super::contains(&line, here.as_bytes()) {
            found.push(format!("process {pid}: {}", String::from_utf8_lossy(&line).replace('\0', " ")));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.extend(mounts.lines().filter(|line| line.contains(&here)).map(|line| format!("mount {line}")));
    found.extend(interfaces().difference(interfaces_before).map(|name| format!("interface {name}")));
    found
}

/// Removes what is left of a lab whose processes are gone; gives back the control groups that could not be removed.
pub fn clean(dir: &Path) -> Vec<PathBuf> {
    let mut homes: Vec<PathBuf> = machines(dir).iter().flat_map(|machine| cgroups(machine)).collect();
    homes.extend(homes.clone().iter().filter_map(|home| home.parent().map(Path::to_owned)));
    for home in &homes {
        guard::cgroup::remove_empty(home);
    }
    let _ = fs::remove_dir_all(dir);
    homes.into_iter().filter(|home| home.exists()).collect()
}

/// What is called so and a number, among temporary folders.
pub fn folders(prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    let is_ours = |name: &str| name.strip_prefix(prefix).is_some_and(|pid| pid.parse::<u32>().is_ok());
    let ours = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_ours));
    ours.map(|entry| entry.path()).collect()
}

fn machines(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.join("machine.json").exists()).collect()
}

/// The folder of that machine's agent in every hierarchy of control groups, whether it exists or not.
pub fn cgroups(machine: &Path) -> Vec<PathBuf> {
    let spec = fs::read(machine.join("machine.json")).unwrap_or_default();
    let spec: serde_json::Value = serde_json::from_slice(&spec).unwrap_or_default();
    let words = spec["services"].as_array().into_iter().flatten().flat_map(|it| it["argv"].as_array().cloned());
    let words: Vec<String> = words.flatten().filter_map(|word| word.as_str().map(str::to_owned)).collect();
    let root = words.iter().position(|word| word == "--cgroup-root").and_then(|at| words.get(at + 1));
    let (Some(root), Some(hierarchy)) = (root, guard::cgroup::Hierarchy::find()) else { return Vec::new() };
    let Ok(below) = Path::new(root).strip_prefix(&hierarchy.mount) else { return Vec::new() };
    let mut tops = vec![hierarchy.mount.clone()];
    if let (true, Some(beside)) = (hierarchy.hybrid, hierarchy.mount.parent()) {
        tops.extend(fs::read_dir(beside).into_iter().flatten().flatten().map(|entry| entry.path()));
    }
    let all: BTreeSet<PathBuf> = tops.into_iter().map(|top| top.join(below)).collect();
    all.into_iter().collect()
}

pub fn interfaces() -> BTreeSet<String> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

//! A world for one run: this program once more, as the first process of a pid namespace with mounts of its own. When it ends,
//! or this process does, the kernel ends everything in it. In: the words of the run. Out: its verdict; nothing left behind,
//! except, where a promise was broken, the evidence.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Signal, set_parent_process_death_signal};

use super::evidence;
use crate::lab::world;
use crate::processes::{not_run, program};

/// What was killed is gone by then.
const DYING: Duration = Duration::from_secs(10);
const PREFIX: &str = "quorate-nemesis-";
pub const INSIDE: &str = "QUORATE_NEMESIS_INSIDE";
/// Something of the harness itself failed, or an earlier run cannot be cleaned up.
const FAILED: u8 = 2;
/// What it needs is not here.
const NOT_RUN: u8 = 3;

/// Runs this program with the same words in a world of its own. 0: as promised; 1: not, and the evidence is named; 2: the
/// harness failed; 3: it cannot run here.
pub fn enclose(keep_all: bool) -> ExitCode {
    if let Some(reason) = lacks() {
        not_run("nemesis", &reason);
        return ExitCode::from(NOT_RUN);
    }
    let _lock = world::alone();
    sweep();
    let interfaces = world::interfaces();
    let dir = std::env::temp_dir().join(format!("{PREFIX}{}", std::process::id()));
    let made = fs::create_dir(&dir);
    let own = made.and_then(|()| std::env::current_exe());
    let ended = own.and_then(|own| {
        let mut inside = Command::new("unshare");
        inside.args(["--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--propagation", "private"]);
        inside.arg(own).args(std::env::args_os().skip(1)).stdin(Stdio::null()).env(INSIDE, &dir);
        inside.env("QUORATE_BIN_DIR", program("quoratectl").parent().expect("a folder of programs"));
        let set = || set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into);
        // Safety: one system call, which is async-signal-safe and touches no memory.
        unsafe { inside.pre_exec(set) };
        inside.status()
    });
    let remains = world::remains(&dir.join("lab"), &interfaces);
    let groups = groups(&dir);
    let code = match &ended {
        Ok(status) => status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED),
        Err(error) => {
            eprintln!("nemesis: {error}");
            FAILED
        }
    };
    if code != 0 || keep_all {
        let kept = evidence(&dir);
        match keep(&dir, &kept) {
            Ok(()) => eprintln!("the evidence is in {}", kept.display()),
            Err(error) => eprintln!("the evidence could not be kept: {error}"),
        }
    }
    clean(&dir);
    let processes: Vec<&String> = remains.iter().filter(|it| !it.starts_with("control group")).collect();
    let left: Vec<&PathBuf> = groups.iter().filter(|group| group.exists()).collect();
    if !processes.is_empty() || !left.is_empty() {
        eprintln!("left behind: {processes:?} {left:?}");
        return ExitCode::from(code.max(FAILED));
    }
    ExitCode::from(code)
}

fn lacks() -> Option<String> {
    let missing: Vec<&str> = ["nft", "cc"].into_iter().filter(|name| !world::tool(name)).collect();
    world::lacks().or_else(|| {
        (!missing.is_empty()).then(|| format!("not installed: {} (packages nftables, gcc)", missing.join(", ")))
    })
}

/// Removes what runs that are no more have left.
pub fn sweep() {
    for left in world::folders(PREFIX) {
        let pid = left.to_str().and_then(|path| path.rsplit('-').next()).unwrap_or_default();
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if !crate::lab::contains(&line, b"nemesis") {
            // The kernel ends what a killed run started in its own time.
            let deadline = Instant::now() + DYING;
            while !living(&left).is_empty() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            clean(&left);
        }
    }
}

/// Processes whose words name the folder.
fn living(dir: &Path) -> Vec<i32> {
    let below = format!("{}/", dir.display());
    let names = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        crate::lab::contains(&line, below.as_bytes())
    };
    crate::lab::pids().into_iter().filter(names).collect()
}

/// What is there of the run with that pid, in words.
pub fn left_of(pid: u32) -> Vec<String> {
    let dir = std::env::temp_dir().join(format!("{PREFIX}{pid}"));
    let mut found: Vec<String> = living(&dir).iter().map(|pid| format!("process {pid}")).collect();
    found.extend(groups(&dir).iter().map(|group| format!("control group {}", group.display())));
    found.extend(dir.exists().then(|| format!("folder {}", dir.display())));
    found
}

/// Control groups of the run itself, in any hierarchy.
fn groups(dir: &Path) -> Vec<PathBuf> {
    let name = dir.file_name().unwrap_or_default();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts = table.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
    mounts.map(|mount| Path::new(mount).join(name)).filter(|group| group.exists()).collect()
}

fn clean(dir: &Path) {
    groups(dir).iter().for_each(|group| drop(fs::remove_dir(group)));
    world::clean(&dir.join("lab"));
    let _ = fs::remove_dir_all(dir);
}

/// What tells what happened: reports, logs, records; not the programs and disks.
fn keep(dir: &Path, kept: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if entry.file_type()?.is_dir() {
            if name != "templates" && name != "member" && name != "disk-3" {
                keep(&path, &kept.join(&name))?;
            }
        } else if ["json", "jsonl", "log"].iter().any(|kind| path.extension().is_some_and(|it| it == *kind)) {
            fs::create_dir_all(kept)?;
            fs::copy(&path, kept.join(&name))?;
        }
    }
    Ok(())
}

/// A root file system that holds `program` where it lies here, and what it loads.
pub fn lay_out(root: &Path, program: &Path) -> io::Result<()> {
    for folder in ["bin", "proc", "sys", "dev", "tmp", "etc", "data", "run"] {
        fs::create_dir_all(root.join(folder))?;
    }
    let mut files = vec![program.to_owned()];
    if let Some(loader) =
        ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"].iter().find(|it| Path::new(it).exists())
    {
        let listed = Command::new(loader).arg("--list").arg(program).output()?;
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let path = |line: &str| line.split("=>").last()?.split_whitespace().next().map(PathBuf::from);
        files.extend(text.lines().filter_map(path).filter(|path| path.is_absolute()));
        files.push(PathBuf::from(loader));
    }
    for file in files {
        let to = root.join(file.strip_prefix("/").unwrap_or(&file));
        fs::create_dir_all(to.parent().unwrap_or(root))?;
        fs::copy(&file, &to)?;
    }
    Ok(())
}

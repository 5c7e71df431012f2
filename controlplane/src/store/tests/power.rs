//! Power cuts on a real file system: everything reported as durable is there, and an ordinary cut quarantines nobody.
//! ext4 on a loop device, shut down at a moment of our choice without writing its journal, then mounted again. Models
//! the loss of everything the kernel had not committed. Needs root, mkfs.ext4 and loop devices, and says so where they
//! are not to be had. Cycles: `QUORATE_STORE_CYCLES`.

use super::oracle::{Oracle, Verdict};
use super::writer::{Syncs, struck_writer};
use super::{BACKENDS, Backend, create, cycles, not_run, scratch};
use rustix::ioctl::{Setter, ioctl, opcode};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const IMAGE_BYTES: u64 = 1 << 30;

#[test]
fn a_power_cut_loses_nothing_that_was_reported() {
    for backend in BACKENDS {
        let Some(disk) = LoopDisk::new("a power cut loses nothing") else { return };
        let folder = disk.mount.join("data");
        drop(create(&folder, backend));
        let mut oracle = Oracle::new(0x6375_7421);
        for cycle in 0..cycles() {
            cut_power(&disk, &folder, backend, Syncs::Really, &mut oracle);
            assert_eq!(oracle.judge(&folder, backend), Verdict::Intact, "{backend}, cycle {cycle}");
        }
        println!("power cut, {backend}: {}, 0 missing", oracle.counts);
    }
}

/// The loop can fail: a log that is written and not synced, sled's own `flush` among them, does not survive it.
#[test]
fn a_log_that_is_not_synced_is_caught_by_a_power_cut() {
    for backend in BACKENDS {
        let Some(disk) = LoopDisk::new("a log that is not synced is caught") else { return };
        let caught = (0..10).find_map(|attempt| {
            let folder = disk.mount.join(format!("data-{attempt}"));
            drop(create(&folder, backend));
            let mut oracle = Oracle::new(attempt);
            cut_power(&disk, &folder, backend, Syncs::Not, &mut oracle);
            match oracle.judge(&folder, backend) {
                Verdict::Intact => None,
                found => Some((attempt, found)),
            }
        });
        let (attempt, found) = caught.unwrap_or_else(|| panic!("{backend}: ten cuts, and nobody misses anything"));
        println!("not synced, {backend}: caught by cut {}: {found:?}", attempt + 1);
    }
}

fn cut_power(disk: &LoopDisk, folder: &Path, backend: Backend, syncs: Syncs, oracle: &mut Oracle) {
    let runs_on = oracle.counts.cycles.is_multiple_of(2);
    struck_writer(folder, backend, syncs, oracle, |child| {
        disk.cut();
        // Every other time the process lives on for a while, and must not take an error for a success.
        if !runs_on {
            child.kill().expect("it runs");
        }
    });
    disk.power_on();
}

/// A file system of our own, in a mount namespace of this thread: it goes with the thread, however that ends.
struct LoopDisk {
    home: TempDir,
    mount: PathBuf,
}

impl LoopDisk {
    /// `None`, said aloud, where this cannot be had.
    fn new(what: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            not_run(what, "it needs root, for a loop device");
            return None;
        }
        // SAFETY: mount namespaces only; no file descriptors are unshared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.expect("root has mount namespaces");
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).expect("root may");
        // The image is in memory: only what ext4 does matters, not how fast a disk beneath it is.
        let home = scratch();
        let mount = home.path().join("mount");
        std::fs::create_dir(&mount).expect("a folder");
        let disk = Self { home, mount };
        File::create(disk.image()).and_then(|image| image.set_len(IMAGE_BYTES)).expect("a file");
        let made = run("mkfs.ext4", &[Path::new("-q"), Path::new("-F"), &disk.image()]).and_then(|()| disk.insert());
        made.map_err(|why| not_run(what, &why)).ok()?;
        Some(disk)
    }

    fn insert(&self) -> Result<(), String> {
        run("mount", &[Path::new("-o"), Path::new("loop"), &self.image(), &self.mount])
    }

    /// From here on nothing reaches the disk, the journal neither.
    fn cut(&self) {
        const EXT4_IOC_SHUTDOWN: rustix::ioctl::Opcode = opcode::read::<u32>(b'X', 125);
        const WITHOUT_LOG_FLUSH: u32 = 2;
        let root = File::open(&self.mount).expect("mounted");
        // SAFETY: the call reads one u32 through the pointer it is given, and that is what `Setter` passes.
        let done = unsafe { ioctl(&root, Setter::<EXT4_IOC_SHUTDOWN, u32>::new(WITHOUT_LOG_FLUSH)) };
        done.expect("ext4 can be shut down");
    }

    fn power_on(&self) {
        run("umount", &[&self.mount]).and_then(|()| self.insert()).expect("it was mounted");
    }

    fn image(&self) -> PathBuf {
        self.home.path().join("image")
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let _ = run("umount", &[&self.mount]);
    }
}

fn run(program: &str, arguments: &[&Path]) -> Result<(), String> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let ended = Command::new(program).args(arguments).env("PATH", path).output();
    let ended = ended.map_err(|error| format!("{program}: {error}"))?;
    let told = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
    if ended.status.success() { Ok(()) } else { Err(format!("{program} failed: {told}")) }
}

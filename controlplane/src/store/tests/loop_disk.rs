//! A file system of our own: ext4 on a loop device, as small as wanted, that loses its power when told to.
//! Absent: other file systems, and disks that lie to the kernel.

use super::{not_run, scratch};
use rustix::ioctl::{Setter, ioctl, opcode};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A file system of our own, in a mount namespace of this thread: it goes with the thread, however that ends.
pub(super) struct LoopDisk {
    home: TempDir,
    pub mount: PathBuf,
}

impl LoopDisk {
    /// `None`, said aloud, where this cannot be had.
    pub fn new(what: &str, bytes: u64) -> Option<Self> {
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
        File::create(disk.image()).and_then(|image| image.set_len(bytes)).expect("a file");
        let made = run("mkfs.ext4", &[Path::new("-q"), Path::new("-F"), &disk.image()]).and_then(|()| disk.insert());
        made.map_err(|why| not_run(what, &why)).ok()?;
        Some(disk)
    }

    fn insert(&self) -> Result<(), String> {
        run("mount", &[Path::new("-o"), Path::new("loop"), &self.image(), &self.mount])
    }

    /// From here on nothing reaches the disk, the journal neither.
    pub fn cut(&self) {
        const EXT4_IOC_SHUTDOWN: rustix::ioctl::Opcode = opcode::read::<u32>(b'X', 125);
        const WITHOUT_LOG_FLUSH: u32 = 2;
        let root = File::open(&self.mount).expect("mounted");
        // SAFETY: the call reads one u32 through the pointer it is given, and that is what `Setter` passes.
        let done = unsafe { ioctl(&root, Setter::<EXT4_IOC_SHUTDOWN, u32>::new(WITHOUT_LOG_FLUSH)) };
        done.expect("ext4 can be shut down");
    }

    pub fn power_on(&self) {
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

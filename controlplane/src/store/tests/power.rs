//! Power cuts on a real file system: everything reported as durable is there, and an ordinary cut quarantines nobody.
//! ext4 on a loop device, shut down at a moment of our choice without writing its journal, then mounted again. Models
//! the loss of everything the kernel had not committed. Needs root, mkfs.ext4 and loop devices:
//! `cargo test -p controlplane --lib store::tests::power -- --ignored`

use super::crash::{check, interrupted_writer};
use super::{BACKENDS, create, ready};
use rustix::ioctl::{Setter, ioctl, opcode};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const CYCLES: usize = 15;
const IMAGE_BYTES: u64 = 1 << 30;

#[test]
#[ignore = "needs root and a loop device"]
fn a_power_cut_loses_nothing_that_was_reported() {
    for backend in BACKENDS {
        let disk = LoopDisk::new();
        let folder = disk.mount.join("data");
        drop(create(&folder, backend));
        for cycle in 0..CYCLES {
            let last = interrupted_writer(&folder, backend, 60 + 41 * cycle, |_| disk.cut());
            disk.power_on();
            let (_, loaded) = ready(&folder, backend);
            check(&loaded, last);
        }
    }
}

/// A file system of our own.
struct LoopDisk {
    home: TempDir,
    mount: PathBuf,
}

impl LoopDisk {
    fn new() -> Self {
        let home = TempDir::new().expect("a folder");
        let mount = home.path().join("mount");
        std::fs::create_dir(&mount).expect("a folder");
        let disk = Self { home, mount };
        File::create(disk.image()).and_then(|image| image.set_len(IMAGE_BYTES)).expect("a file");
        run("mkfs.ext4", &[Path::new("-q"), Path::new("-F"), &disk.image()]);
        run("mount", &[Path::new("-o"), Path::new("loop"), &disk.image(), &disk.mount]);
        disk
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
        run("umount", &[&self.mount]);
        run("mount", &[Path::new("-o"), Path::new("loop"), &self.image(), &self.mount]);
    }

    fn image(&self) -> PathBuf {
        self.home.path().join("image")
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.mount).status();
    }
}

fn run(program: &str, arguments: &[&Path]) {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let status = Command::new(program).args(arguments).env("PATH", path).status();
    let status = status.unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    assert!(status.success(), "{program} failed; root is needed");
}

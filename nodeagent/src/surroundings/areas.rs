//! Finds out, by doing it, how a private area can be made on a file system: as a layer of its own over the template, as a
//! copy that shares its blocks, or as a whole copy. In: a folder of our own there. Out: the best that works. Kernels refuse
//! layers on some file systems, such as NFS, and no name of a file system tells.
//! Mounts in a mount namespace of the calling thread alone, which ends with the thread: call it on one of its own.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use cluster::AreaMethod;
use rustix::fs::ioctl_ficlone;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::drivers::storage::make_folder;

/// Errs where the folder cannot be written; what is refused beyond that is an answer.
pub fn method(own: &Path) -> io::Result<AreaMethod> {
    let _ = fs::remove_dir_all(own);
    make_folder(own, 0o700)?;
    let found = if carries_layer(own) {
        AreaMethod::Overlay
    } else if shares_blocks(own)? {
        AreaMethod::Reflink
    } else {
        AreaMethod::Copy
    };
    // What the layer was mounted for keeps its folder busy until this thread ends; the next look removes it.
    let _ = fs::remove_dir_all(own);
    Ok(found)
}

/// Mounts a layer, and writes through it: some kernels refuse only then.
fn carries_layer(own: &Path) -> bool {
    let folders = ["lower", "upper", "work", "merged"].map(|name| own.join(name));
    if folders.iter().any(|folder| make_folder(folder, 0o700).is_err()) {
        return false;
    }
    let [lower, upper, work, merged] = folders;
    let written = fs::write(lower.join("of-the-template"), "x");
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    let (Ok(()), Ok(options)) = (written, CString::new(options)) else { return false };
    // SAFETY: only the mount namespace is left, and with it the thread's own view of working directory and root; no file
    // descriptor is touched, and nothing else runs on this thread.
    if unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.is_err() {
        return false;
    }
    // Nothing that is mounted here may reach the namespace this one was copied from.
    let private = mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC);
    if private.is_err() || mount("overlay", &merged, "overlay", MountFlags::empty(), options.as_c_str()).is_err() {
        return false;
    }
    let works = fs::write(merged.join("of-the-template"), "y").is_ok() && fs::write(merged.join("new"), "z").is_ok();
    let _ = rustix::mount::unmount(&merged, rustix::mount::UnmountFlags::empty());
    works
}

fn shares_blocks(own: &Path) -> io::Result<bool> {
    let (from, to) = (own.join("from"), own.join("to"));
    fs::write(&from, vec![7; 64 << 10])?;
    Ok(ioctl_ficlone(File::create(&to)?, File::open(&from)?).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_works_is_found_twice_alike_and_nothing_is_left() {
        let share = tempfile::tempdir().expect("temporary folder");
        let own = share.path().join("areas");
        let look = || {
            let own = own.clone();
            std::thread::spawn(move || method(&own)).join().expect("no panic").expect("the folder can be written")
        };
        let first = look();
        assert_ne!(first, AreaMethod::Unknown);
        assert_eq!(look(), first);
        assert!(!own.exists());
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        assert!(!mounts.contains(&share.path().display().to_string()), "{mounts}");
    }

    #[test]
    fn folder_that_cannot_be_made_is_said() {
        let share = tempfile::tempdir().expect("temporary folder");
        fs::write(share.path().join("file"), "x").expect("write");
        assert!(method(&share.path().join("file/areas")).is_err());
    }
}

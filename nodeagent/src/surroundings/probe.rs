//! One look at a storage: is it there, is it what it should be, does it take a write and give it back. In: a storage. Out: what
//! was found, faults in words. Writes only below `<storage>/.quorate/probes`, a file per node.
//! May hang as long as the file system does: whoever calls it does not wait.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use cluster::{AreaMethod, NodeId, Storage};
use rustix::fs::{OFlags, statvfs};
use rustix::io::Errno;

use super::areas;
use crate::drivers::storage::{OWN, make_folder};

/// Written each time; a block, so that a file system cannot keep it in its directory.
const WRITTEN: usize = 4_096;

/// What one look came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probed {
    /// `None` where containers can use it.
    pub fault: Option<String>,
    pub bytes_total: u64,
    pub bytes_free: u64,
    /// From the write to its being durable; `None` where nothing was written.
    pub latency: Option<Duration>,
    pub areas: AreaMethod,
}

/// `areas` is what an earlier look found out about private areas there; it is not tried again. On a thread of its own.
pub fn storage(storage: &Storage, areas: AreaMethod, node: NodeId) -> Probed {
    let path = Path::new(&**storage.kind.path());
    let mut probed = Probed { areas, ..Probed::default() };
    probed.fault = look(path, node, &mut probed).err();
    probed
}

fn look(path: &Path, node: NodeId, probed: &mut Probed) -> Result<(), String> {
    let said = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let there = fs::symlink_metadata(path).map_err(said("look at it"))?;
    if there.is_symlink() {
        return Err("its path is a symbolic link, which may lead elsewhere tomorrow".to_owned());
    }
    if !there.is_dir() {
        return Err("its path is no folder".to_owned());
    }
    let room = statvfs(path).map_err(|errno| said("ask for its room")(errno.into()))?;
    probed.bytes_total = room.f_blocks.saturating_mul(room.f_frsize);
    probed.bytes_free = room.f_bavail.saturating_mul(room.f_frsize);
    let probes = path.join(OWN).join("probes");
    match write(&probes, node) {
        Ok(latency) => probed.latency = Some(latency),
        // Full is not lost: what runs there goes on, and what is started has its own room or says so itself.
        Err(error) if is_full(&error) => {}
        Err(error) => return Err(said("write to it")(error)),
    }
    if probed.areas == AreaMethod::Unknown {
        // Where not even that can be written, its room is what is wrong, and the next look tries again.
        probed.areas = areas::method(&probes.join(format!("{}-areas", node.0))).unwrap_or_default();
    }
    Ok(())
}

fn is_full(error: &io::Error) -> bool {
    [Errno::NOSPC, Errno::DQUOT].iter().any(|full| error.raw_os_error() == Some(full.raw_os_error()))
}

/// Writes over what was written before, which needs no new room; reads it back.
fn write(probes: &Path, node: NodeId) -> io::Result<Duration> {
    make_folder(probes, 0o700)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file: File = options.custom_flags(OFlags::NOFOLLOW.bits() as i32).open(probes.join(node.0.to_string()))?;
    let mark = uuid::Uuid::new_v4().into_bytes();
    let block: Vec<u8> = mark.iter().copied().cycle().take(WRITTEN).collect();
    let began = Instant::now();
    file.write_all(&block)?;
    file.sync_data()?;
    let took = began.elapsed();
    file.rewind()?;
    let mut back = vec![0; WRITTEN];
    file.read_exact(&mut back)?;
    if back != block {
        return Err(io::Error::other("what was read back is not what was written"));
    }
    Ok(took)
}

#[cfg(test)]
mod tests {
    use cluster::{Name, Revision, StorageKind};

    use super::*;

    fn at(path: &Path) -> Probed {
        let kind = StorageKind::Directory { path: path.to_str().expect("UTF-8").into() };
        let name = Name::new("shared").expect("a good name");
        let shared = Storage { name, kind, registered: Revision(1) };
        std::thread::spawn(move || storage(&shared, AreaMethod::Unknown, NodeId(3))).join().expect("no panic")
    }

    #[test]
    fn folder_that_takes_a_write_is_usable_and_measured() {
        let share = tempfile::tempdir().expect("temporary folder");
        for _ in 0..2 {
            let probed = at(share.path());
            assert_eq!(probed.fault, None);
            assert!(probed.latency.is_some() && probed.bytes_total >= probed.bytes_free && probed.bytes_total > 0);
        }
        assert_eq!(fs::metadata(share.path().join(".quorate/probes/3")).expect("its file").len(), WRITTEN as u64);
    }

    #[test]
    fn what_is_no_folder_of_its_own_is_a_fault_and_nothing_is_made() {
        let share = tempfile::tempdir().expect("temporary folder");
        let real = share.path().join("real");
        fs::create_dir(&real).expect("folder");
        std::os::unix::fs::symlink(&real, share.path().join("link")).expect("link");
        fs::write(share.path().join("file"), "x").expect("file");
        for (path, says) in [("link", "symbolic link"), ("file", "no folder"), ("none", "look at it: No such file")] {
            let fault = at(&share.path().join(path)).fault.expect("a fault");
            assert!(fault.contains(says), "{fault}");
        }
        assert_eq!(fs::read_dir(&real).expect("read").count(), 0);
        assert!(!share.path().join("none").exists());
    }

    #[test]
    fn a_link_in_place_of_the_probe_is_not_followed() {
        let share = tempfile::tempdir().expect("temporary folder");
        let victim = share.path().join("victim");
        fs::write(&victim, "kept").expect("file");
        let probes = share.path().join(".quorate/probes");
        fs::create_dir_all(&probes).expect("folder");
        std::os::unix::fs::symlink(&victim, probes.join("3")).expect("link");
        assert!(at(share.path()).fault.is_some());
        assert_eq!(fs::read_to_string(&victim).expect("read"), "kept");
    }
}

//! Entries of a folder on this machine, put into a tree. Never leaves its file system and follows no link.

use std::collections::HashMap;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, Stat, open};

use crate::beneath::{Beneath, kind_of};
use crate::build::{Attributes, Build, What};
use crate::error::{Bad, ImportError};
use crate::path::Inside;
use crate::tree::capability;

/// The folder at `path`, opened for reading beneath it.
pub fn open_at(path: &Path) -> Result<Beneath, ImportError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = open(path, flags, Mode::empty()).map_err(|errno| ImportError::io("open", path)(errno.into()))?;
    Ok(Beneath::new(folder))
}

/// Puts everything in `source` into the tree.
pub fn copy(source: &mut Beneath, build: &mut Build<'_, '_>) -> Result<(), ImportError> {
    let root = Inside::root();
    let device = source.look(&root).map_err(|bad| bad.at(&root))?.map(|stat| stat.st_dev);
    // First names of files that have several.
    let mut names: HashMap<u64, Inside> = HashMap::new();
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        let mut inside = source.names(&folder).map_err(|bad| bad.at(&folder))?;
        inside.sort();
        for name in inside {
            let path = folder.join(name.as_bytes()).map_err(|bad| bad.at(&folder))?;
            let stat = source.look(&path).map_err(|bad| bad.at(&path))?.ok_or_else(|| Bad::Changed.at(&path))?;
            if Some(stat.st_dev) != device {
                return Err(Bad::OtherFileSystem.at(&path));
            }
            if kind_of(&stat) == FileType::Directory {
                folders.push(path.clone());
            }
            copy_one(source, &path, &stat, &mut names, build)?;
        }
    }
    Ok(())
}

fn copy_one(
    source: &mut Beneath,
    path: &Inside,
    stat: &Stat,
    names: &mut HashMap<u64, Inside>,
    build: &mut Build<'_, '_>,
) -> Result<(), ImportError> {
    let mut attributes = Attributes {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or_default()),
        capability: None,
    };
    let what = match kind_of(stat) {
        FileType::Directory => What::Folder,
        FileType::Symlink => {
            let target = source.target(path).map_err(|bad| bad.at(path))?;
            return build.put(path.bytes(), attributes, What::Link { target: &target });
        }
        FileType::RegularFile => {
            if stat.st_nlink > 1
                && let Some(first) = names.get(&stat.st_ino)
            {
                let of = first.clone();
                return build.put(path.bytes(), attributes, What::HardLink { of });
            }
            names.insert(stat.st_ino, path.clone());
            let mut file = source.file(path).map_err(|bad| bad.at(path))?;
            attributes.capability = capability(&file).map_err(|bad| bad.at(path))?;
            let size = stat.st_size as u64;
            build.put(path.bytes(), attributes, What::File { content: &mut file, size })?;
            build.meter.bytes(size);
            return Ok(());
        }
        kind @ (FileType::CharacterDevice | FileType::BlockDevice) => What::Device { kind, device: stat.st_rdev },
        FileType::Fifo | FileType::Socket | FileType::Unknown => What::Fifo,
    };
    build.put(path.bytes(), attributes, what)
}

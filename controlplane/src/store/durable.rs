//! Files and folders that are still there after a power cut.
//! A new or renamed file is durable only once its folder is synced too.

use record::StoreError;
use std::fs::{self, File, OpenOptions};
use std::io::{self as std_io, Write};
use std::path::Path;

/// An I/O error with its operation and path.
pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(std_io::Error) -> StoreError {
    let object = path.display().to_string();
    move |source| StoreError::io(operation, object, source)
}

pub(super) fn exists(path: &Path) -> Result<bool, StoreError> {
    path.try_exists().map_err(io("look for", path))
}

/// Makes the folder and its missing parents, each durable in the one above it.
pub(super) fn create_folder(path: &Path) -> Result<(), StoreError> {
    if exists(path)? {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_folder(parent)?;
    }
    fs::create_dir(path).map_err(io("make", path))?;
    sync_folder(path)?;
    sync_folder(parent.unwrap_or(Path::new(".")))
}

pub(super) fn sync_folder(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(io("sync", path))
}

/// Replaces the file at `path` as a whole: after a crash it holds the old bytes or the new ones.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let temporary = path.with_extension("tmp");
    let mut file = create_file(&temporary)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io("write", &temporary))?;
    fs::rename(&temporary, path).map_err(io("rename", &temporary))?;
    sync_folder(path.parent().expect("a file stands in a folder"))
}

/// An empty file, replacing what was there.
pub(super) fn create_file(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path).map_err(io("create", path))
}

pub(super) fn open_file(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new().read(true).write(true).open(path).map_err(io("open", path))
}

pub(super) fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std_io::ErrorKind::NotFound => Err(io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Takes the write permission from everything below `path`.
pub(super) fn make_read_only(path: &Path) -> Result<(), StoreError> {
    let metadata = fs::symlink_metadata(path).map_err(io("look at", path))?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path).map_err(io("list", path))? {
            make_read_only(&entry.map_err(io("list", path))?.path())?;
        }
    }
    let mut permissions = metadata.permissions();
    permissions.set_readonly(true);
    fs::set_permissions(path, permissions).map_err(io("protect", path))
}

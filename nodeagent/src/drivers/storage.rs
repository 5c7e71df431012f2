//! Where private areas and templates lie: a shared directory every node sees at the same path.
//! Shape: `<path>/containers/<number>/` per container; in it `.quorate/` is ours (claim, log, overlay), the rest is the
//! container's. In: numbers and names, never paths from outside. Out: paths that cannot lead elsewhere.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use cluster::ContainerId;

use super::runtime::DriverError;

/// Our own folder in a private area.
pub const OWN: &str = ".quorate";

/// A kind of storage.
pub trait Storage: Send + Sync {
    /// The private area of `container`, made where there is none and mounted if the kind needs that.
    fn prepare(&self, container: ContainerId) -> Result<PathBuf, DriverError>;

    /// Lets go of the area; afterwards this node writes nothing to it. Also when it was not prepared.
    fn release(&self, container: ContainerId) -> Result<(), DriverError>;

    /// Whether an area could be prepared now, without mounting any: for the target of a handover.
    fn check(&self) -> Result<(), DriverError>;
}

/// A plain directory on a file system that is mounted already.
pub struct DirectoryStorage {
    path: PathBuf,
}

impl DirectoryStorage {
    pub fn new(path: impl Into<PathBuf>) -> DirectoryStorage {
        DirectoryStorage { path: path.into() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Root file system of a template at `path`, relative to this storage. Errs when it leads out of it.
    pub fn template(&self, path: &str) -> Result<PathBuf, DriverError> {
        let relative = Path::new(path);
        let inside = self.path.join(relative);
        if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(refused("use template", inside, "the path must be relative and without `..`"));
        }
        self.below(inside, "use template")
    }

    /// `path` itself, if no link on the way leads out of this storage and it is a folder.
    fn below(&self, path: PathBuf, operation: &'static str) -> Result<PathBuf, DriverError> {
        let root = self.path.canonicalize().map_err(DriverError::io("find storage", &self.path))?;
        let real = path.canonicalize().map_err(DriverError::io(operation, &path))?;
        if !real.starts_with(&root) {
            return Err(refused(operation, path, "it leads out of its storage"));
        }
        if !real.is_dir() {
            return Err(refused(operation, path, "it is no folder"));
        }
        Ok(path)
    }
}

impl Storage for DirectoryStorage {
    fn prepare(&self, container: ContainerId) -> Result<PathBuf, DriverError> {
        self.check()?;
        let area = self.path.join("containers").join(container.0.to_string());
        make_folder(&area, 0o700).map_err(DriverError::io("make private area", &area))?;
        // Looked at before anything is made inside: a link in its place would have us write elsewhere.
        let area = self.below(area, "open private area")?;
        make_folder(&area.join(OWN), 0o700).map_err(DriverError::io("make private area", &area))?;
        Ok(area)
    }

    /// Nothing is mounted for a plain directory: its processes' mounts ended with them.
    fn release(&self, _container: ContainerId) -> Result<(), DriverError> {
        Ok(())
    }

    fn check(&self) -> Result<(), DriverError> {
        // A folder that is missing is a share that is not mounted: making it would split the cluster's data.
        match fs::metadata(&self.path) {
            Ok(found) if found.is_dir() && self.path.is_absolute() => Ok(()),
            Ok(_) => Err(refused("use storage", self.path.clone(), "it must be an absolute path to a folder")),
            Err(source) => Err(DriverError::io("use storage", &self.path)(source)),
        }
    }
}

/// Where a container's output goes: appended, in its own private area, so that it moves along.
pub fn output_log(private_area: &Path) -> Result<PathBuf, DriverError> {
    let own = private_area.join(OWN);
    make_folder(&own, 0o700).map_err(DriverError::io("make folder", &own))?;
    Ok(own.join("output.log"))
}

pub(crate) fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}

fn refused(operation: &'static str, path: PathBuf, why: &'static str) -> DriverError {
    DriverError::Io { operation, path, source: io::Error::new(io::ErrorKind::InvalidInput, why) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_made_below_the_storage_and_kept() {
        let share = tempfile::tempdir().expect("temporary folder");
        let storage = DirectoryStorage::new(share.path());
        let area = storage.prepare(ContainerId(7)).expect("prepare");
        assert_eq!(area, share.path().join("containers/7"));
        fs::write(area.join("data"), "kept").expect("write");
        storage.release(ContainerId(7)).expect("release");
        assert_eq!(storage.prepare(ContainerId(7)).expect("prepare"), area);
        assert_eq!(fs::read_to_string(area.join("data")).expect("read"), "kept");
        assert_eq!(output_log(&area).expect("log"), area.join(".quorate/output.log"));
    }

    #[test]
    fn a_share_that_is_not_there_is_not_made() {
        let share = tempfile::tempdir().expect("temporary folder");
        let missing = share.path().join("not-mounted");
        assert!(DirectoryStorage::new(&missing).prepare(ContainerId(1)).is_err());
        assert!(!missing.exists());
        assert!(DirectoryStorage::new("relative").check().is_err());
    }

    #[test]
    fn no_path_leads_out_of_the_storage() {
        let share = tempfile::tempdir().expect("temporary folder");
        let storage = DirectoryStorage::new(share.path());
        fs::create_dir_all(share.path().join("templates/debian")).expect("folder");
        fs::write(share.path().join("templates/file"), "x").expect("write");
        std::os::unix::fs::symlink("/etc", share.path().join("templates/link")).expect("link");
        assert!(storage.template("templates/debian").is_ok());
        for bad in ["../etc", "/etc", "templates/../../etc", "templates/link", "templates/none", "templates/file", "."]
        {
            assert!(storage.template(bad).is_err(), "{bad} was taken");
        }
        fs::create_dir(share.path().join("containers")).expect("folder");
        let elsewhere = tempfile::tempdir().expect("temporary folder");
        std::os::unix::fs::symlink(elsewhere.path(), share.path().join("containers/9")).expect("link");
        assert!(storage.prepare(ContainerId(9)).is_err(), "a link in place of an area");
        assert_eq!(fs::read_dir(elsewhere.path()).expect("read").count(), 0, "nothing was written there");
    }
}

//! The files of one container in the run directory, by its place there: bundle, runtime's state, logs.
//! Absent: what is in the bundle, and when any of it goes away.

use std::fs;
use std::path::{Path, PathBuf};

use super::bundle::Bundle;
use crate::drivers::runtime::DriverError;
use crate::drivers::storage::make_folder;

/// The files of one container in the run directory.
pub(super) struct Place {
    pub id: String,
    pub bundle: PathBuf,
    /// The runtime's own state, of all its containers.
    pub state: PathBuf,
    pub pid_file: PathBuf,
    pub log: PathBuf,
    pub runtime_log: PathBuf,
}

impl Place {
    pub fn new(run_dir: &Path, runtime: &str, id: String) -> Place {
        let bundle = run_dir.join("bundles").join(&id);
        Place {
            state: run_dir.join("state").join(runtime),
            pid_file: bundle.join("pid"),
            log: bundle.join("output.log"),
            runtime_log: bundle.join("runtime.log"),
            id,
            bundle,
        }
    }

    pub fn root(&self) -> PathBuf {
        self.bundle.join("rootfs")
    }

    pub fn make(&self) -> Result<(), DriverError> {
        for folder in [&self.state, &self.root()] {
            make_folder(folder, 0o700).map_err(DriverError::io("make folder", folder))?;
        }
        Ok(())
    }

    pub fn write(&self, bundle: Bundle<'_>) -> Result<(), DriverError> {
        let path = self.bundle.join("config.json");
        let failed = DriverError::io("write bundle", &path);
        let text = bundle.spec().map_err(std::io::Error::other).and_then(|spec| Ok(serde_json::to_vec_pretty(&spec)?));
        text.and_then(|text| fs::write(&path, text)).map_err(failed)
    }

    /// The last thing the runtime said about this container.
    pub fn words(&self) -> Option<String> {
        [&self.runtime_log, &self.log].into_iter().find_map(|path| {
            let text = fs::read_to_string(path).ok()?;
            let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
            Some(line.to_owned())
        })
    }
}

//! Puts the root file system of a container together in the starter's mount namespace.
//! In: the template and the private area. Out: where it is mounted, or where its copy lies.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use guard::starter::{Action, Client, Label, StarterError};

use super::state::Place;
use super::{CLEAR, exec};
use crate::drivers::runtime::DriverError;
use crate::drivers::storage::{OWN, make_folder};

/// Puts a root file system for the container together in the starter's mount namespace: where it is.
/// First choice is an overlay of the template, with what changes in the private area; where the share cannot carry one,
/// a copy of the template in the private area, made once.
pub(super) fn mount_root(
    client: &mut Client,
    place: &Place,
    private_area: &Path,
    template: &Path,
    label: &Label,
) -> Result<PathBuf, DriverError> {
    let own = private_area.join(OWN);
    let (upper, work, copy) = (own.join("upper"), own.join("work"), own.join("rootfs"));
    if !copy.exists() {
        for folder in [&upper, &work] {
            make_folder(folder, 0o755).map_err(DriverError::io("make folder", folder))?;
        }
        let refused = match overlay_options(template, &upper, &work) {
            None => "the path holds a character that overlay options cannot".to_owned(),
            Some(options) => {
                let mount = Action::Mount {
                    kind: "overlay".into(),
                    source: "overlay".into(),
                    target: place.root(),
                    options,
                    bind: false,
                };
                match client.run(label.clone(), mount, CLEAR) {
                    Ok(_) => return Ok(place.root()),
                    Err(StarterError::Refused { reason, .. }) => reason,
                    Err(source) => {
                        return Err(DriverError::Unreachable { operation: "mount root file system", source });
                    }
                }
            }
        };
        let failed = |reason: String| DriverError::Io {
            operation: "make root file system",
            path: place.root(),
            source: std::io::Error::other(reason),
        };
        if template == Path::new("/") {
            return Err(failed(format!("{refused}; the node's own root is not copied")));
        }
        tracing::info!(template = %template.display(), reason = refused, "template is copied instead of overlaid");
        let fresh = own.join("rootfs.new");
        let _ = fs::remove_dir_all(&fresh);
        let argv = ["cp", "-a", "--"].map(Into::into).into_iter().chain([template.into(), fresh.clone().into()]);
        match client.run(label.clone(), exec(argv.collect(), &place.log), Duration::from_secs(300)) {
            Ok(0) => fs::rename(&fresh, &copy).map_err(DriverError::io("finish copy of template", &copy))?,
            Ok(code) => return Err(failed(place.words().unwrap_or(format!("copy ended with code {code}")))),
            Err(error) => return Err(failed(crate::chain(&error))),
        }
    }
    Ok(copy)
}

/// `None` when a path would be taken apart: overlay options know no way to write these.
fn overlay_options(lower: &Path, upper: &Path, work: &Path) -> Option<String> {
    let paths = [lower.to_str()?, upper.to_str()?, work.to_str()?];
    let plain = paths.iter().all(|path| !path.contains([',', ':', '\\', '"']));
    plain.then(|| format!("lowerdir={},upperdir={},workdir={}", paths[0], paths[1], paths[2]))
}

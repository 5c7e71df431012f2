//! Puts the root file system of a container together in the starter's mount namespace.
//! In: the layers of its templates and the private area. Out: where it is mounted, or where its copy lies.
//! A later layer covers what earlier ones hold at the same path and adds to their folders; it removes nothing: importing
//! refuses marks that would.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use guard::starter::{Action, Client, Label, StarterError};

use super::state::Place;
use super::{CLEAR, exec};
use crate::drivers::runtime::DriverError;
use crate::drivers::storage::{OWN, make_folder};

/// The options of a mount are one page for the kernel, with the zero at their end.
const OPTIONS_MAX: usize = 4095;
const COPY_WITHIN: Duration = Duration::from_secs(300);

/// Puts a root file system for the container together in the starter's mount namespace: where it is. `layers` as in
/// [`StartSpec::layers`](crate::drivers::runtime::StartSpec::layers).
/// First choice is an overlay of them, with what changes in the private area; where the share cannot carry one,
/// a copy of what they come to in the private area, made once.
pub(super) fn mount_root(
    client: &mut Client,
    place: &Place,
    private_area: &Path,
    layers: &[PathBuf],
    label: &Label,
) -> Result<PathBuf, DriverError> {
    let own = private_area.join(OWN);
    let (upper, work, copy) = (own.join("upper"), own.join("work"), own.join("rootfs"));
    if copy.exists() {
        return Ok(copy);
    }
    for folder in [&upper, &work] {
        make_folder(folder, 0o755).map_err(DriverError::io("make folder", folder))?;
    }
    let node_root = [PathBuf::from("/")];
    let layers = if layers.is_empty() { &node_root } else { layers };
    let Some(refused) = overlay(client, place, layers, Some((&upper, &work)), label)? else { return Ok(place.root()) };
    let failed = |reason: String| DriverError::Io {
        operation: "make root file system",
        path: place.root(),
        source: std::io::Error::other(reason),
    };
    if layers[0] == node_root[0] {
        return Err(failed(format!("{refused}; the node's own root is not copied")));
    }
    tracing::info!(layers = ?layers, reason = refused, "templates are copied instead of overlaid");
    let source = match layers {
        [only] => only.clone(),
        // What several come to the kernel knows best; without an upper layer any file system can carry it.
        several => match overlay(client, place, several, None, label)? {
            None => place.root(),
            Some(reason) => return Err(failed(format!("{refused}; without changes: {reason}"))),
        },
    };
    let fresh = own.join("rootfs.new");
    let _ = fs::remove_dir_all(&fresh);
    let argv = ["cp", "-a", "--"].map(Into::into).into_iter().chain([source.into(), fresh.clone().into()]);
    let copied = client.run(label.clone(), exec(argv.collect(), &place.log), COPY_WITHIN);
    if layers.len() > 1 {
        let _ = client.run(label.clone(), Action::Unmount { target: place.root() }, CLEAR);
    }
    match copied {
        Ok(0) => fs::rename(&fresh, &copy).map_err(DriverError::io("finish copy of template", &copy))?,
        Ok(code) => return Err(failed(place.words().unwrap_or(format!("copy ended with code {code}")))),
        Err(error) => return Err(failed(crate::chain(&error))),
    }
    Ok(copy)
}

/// Mounts an overlay of `layers` at the root of `place`, with what changes in `changes` (upper and work folder) or not to
/// be changed. `Some` is why this cannot be done here.
fn overlay(
    client: &mut Client,
    place: &Place,
    layers: &[PathBuf],
    changes: Option<(&Path, &Path)>,
    label: &Label,
) -> Result<Option<String>, DriverError> {
    let options = match overlay_options(layers, changes) {
        Ok(options) => options,
        Err(reason) => return Ok(Some(reason)),
    };
    let (kind, source, target) = ("overlay".into(), "overlay".into(), place.root());
    let mount = Action::Mount { kind, source, target, options, bind: false };
    match client.run(label.clone(), mount, CLEAR) {
        Ok(_) => Ok(None),
        Err(StarterError::Refused { reason, .. }) => Ok(Some(reason)),
        Err(source) => Err(DriverError::Unreachable { operation: "mount root file system", source }),
    }
}

/// Errs where a path would be taken apart, for overlay options know no way to write these, or where there is too much.
fn overlay_options(layers: &[PathBuf], changes: Option<(&Path, &Path)>) -> Result<String, String> {
    let plain = |path: &Path| match path.to_str() {
        Some(text) if !text.contains([',', ':', '\\', '"']) => Ok(text.to_owned()),
        _ => Err(format!("{} holds a character that overlay options cannot", path.display())),
    };
    // The kernel wants the uppermost first.
    let lower = layers.iter().rev().map(|layer| plain(layer)).collect::<Result<Vec<_>, _>>()?;
    let mut options = format!("lowerdir={}", lower.join(":"));
    if let Some((upper, work)) = changes {
        options.push_str(&format!(",upperdir={},workdir={}", plain(upper)?, plain(work)?));
    }
    match options.len() {
        0..=OPTIONS_MAX => Ok(options),
        bytes => {
            Err(format!("{} layers make {bytes} bytes of overlay options, of at most {OPTIONS_MAX}", layers.len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(layers: &[&str], changes: Option<(&str, &str)>) -> Result<String, String> {
        let layers: Vec<PathBuf> = layers.iter().map(PathBuf::from).collect();
        overlay_options(&layers, changes.map(|(upper, work)| (Path::new(upper), Path::new(work))))
    }

    #[test]
    fn the_last_layer_lies_uppermost() {
        assert_eq!(options(&["/os", "/a", "/b"], None).as_deref(), Ok("lowerdir=/b:/a:/os"));
        let changed = options(&["/os"], Some(("/up", "/wk")));
        assert_eq!(changed.as_deref(), Ok("lowerdir=/os,upperdir=/up,workdir=/wk"));
    }

    #[test]
    fn what_options_cannot_say_is_refused() {
        assert!(options(&["/os", "/a:b"], None).is_err());
        assert!(options(&["/os"], Some(("/up,ro", "/wk"))).is_err());
        let long = format!("/{}", "x".repeat(1_000));
        assert!(options(&[long.as_str(); 3], Some(("/up", "/wk"))).is_ok());
        assert!(options(&[long.as_str(); 5], Some(("/up", "/wk"))).expect_err("too long").contains("5 layers"));
    }
}

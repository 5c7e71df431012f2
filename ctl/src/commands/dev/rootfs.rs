//! The root file system of the playground's template: this program and the libraries it needs, nothing else.
//! In: the running program. Out: a folder that is the same on every machine and works for OCI and process runtimes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Where the program lies inside.
pub const PROGRAM: &str = "/bin/quoratectl";

/// Fills `root` and gives it back.
pub fn lay_out(root: &Path) -> Result<PathBuf> {
    for folder in ["bin", "proc", "sys", "dev", "tmp", "etc", "data", "run"] {
        fs::create_dir_all(root.join(folder)).with_context(|| format!("make {}", root.join(folder).display()))?;
    }
    let own = std::env::current_exe().context("find this program")?;
    place(&own, &root.join(&PROGRAM[1..]))?;
    for library in libraries(&own)? {
        let inside = library.strip_prefix("/").unwrap_or(&library);
        place(&library, &root.join(inside))?;
    }
    Ok(root.to_owned())
}

fn place(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// The dynamic loader and everything it would load for `program`, by asking the loader itself.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let loaders = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
    let Some(loader) = loaders.iter().map(Path::new).find(|loader| loader.exists()) else {
        // Another C library: the program is static, or the OCI probe will say what is missing.
        return Ok(Vec::new());
    };
    let listed = Command::new(loader).arg("--list").arg(program).output().context("ask the dynamic loader")?;
    if !listed.status.success() {
        let said = String::from_utf8_lossy(&listed.stderr);
        ensure!(said.contains("not a dynamic executable") || said.contains("statically"), "dynamic loader: {said}");
        return Ok(Vec::new());
    }
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let path = |line: &str| {
        let found = line.split("=>").last().unwrap_or(line).split_whitespace().next()?;
        found.starts_with('/').then(|| PathBuf::from(found))
    };
    let mut all: Vec<PathBuf> = text.lines().filter_map(path).collect();
    all.push(loader.to_path_buf());
    all.sort();
    all.dedup();
    Ok(all)
}

//! The root file system of the playground's template: this program and the libraries it needs, nothing else.
//! In: the running program. Out: a folder that is the same on every machine and works for OCI and process runtimes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Where the program lies: inside the template as on the machine itself, so that one command serves every runtime.
pub fn program() -> Result<PathBuf> {
    std::env::current_exe().context("find this program")
}

/// Fills the folder `path` below the storage `shared`; gives `path` back.
pub fn lay_out(shared: &Path, path: &str) -> Result<String> {
    let root = shared.join(path);
    for folder in ["bin", "proc", "sys", "dev", "tmp", "etc", "data", "run"] {
        fs::create_dir_all(root.join(folder)).with_context(|| format!("make {}", root.join(folder).display()))?;
    }
    let own = program()?;
    for file in libraries(&own)?.iter().chain([&own]) {
        place(file, &root.join(file.strip_prefix("/").unwrap_or(file)))?;
    }
    Ok(path.to_owned())
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

//! Finds out which runtimes work here by using them: each runs a throw-away container in the namespace for proofs.
//! In: the run directory of a living guard. Out: the runtimes that work, best first, and for the others the exact reason.
//! No version is compared and no feature guessed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use guard::starter::{Action, Client, Label};

use super::oci::OciRuntime;
use super::process::ProcessRuntime;
use super::runtime::Runtime;
use super::starters::Starters;

/// What came of trying one runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub runtime: &'static str,
    /// Why it does not work here, in the words of whoever refused.
    pub outcome: Result<(), String>,
}

/// What a node can run containers with.
pub struct Probed {
    /// Best first; empty when nothing works.
    pub runtimes: Vec<Arc<dyn Runtime>>,
    /// One per runtime known, in order of preference.
    pub verdicts: Vec<Verdict>,
}

/// Tries crun, runc, process, in this order. Programs are looked for in `path` (as in the variable `PATH`).
pub fn probe(starters: &Arc<Starters>, path: &str) -> Probed {
    let mut probed = Probed { runtimes: Vec::new(), verdicts: Vec::new() };
    for name in ["crun", "runc"] {
        let outcome = find(name, path).and_then(|program| {
            let runtime = OciRuntime::new(name, program, Arc::clone(starters));
            runtime.prove().map(|()| probed.runtimes.push(Arc::new(runtime)))
        });
        probed.verdicts.push(Verdict { runtime: name, outcome });
    }
    let outcome = prove_process(starters.run_dir());
    if outcome.is_ok() {
        probed.runtimes.push(Arc::new(ProcessRuntime::new(Arc::clone(starters))));
    }
    probed.verdicts.push(Verdict { runtime: "process", outcome });
    probed
}

/// The program called `name`: in `path` (as in the variable `PATH`) or where administrators keep theirs.
pub fn find(name: &str, path: &str) -> Result<PathBuf, String> {
    // Administrators' folders are often missing from a user's path, and runc lives there.
    let folders = path.split(':').chain(["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"]);
    let candidates = folders.filter(|folder| folder.starts_with('/')).map(|folder| Path::new(folder).join(name));
    candidates.into_iter().find(|program| program.is_file()).ok_or_else(|| missing(name, path))
}

fn missing(name: &str, path: &str) -> String {
    format!(
        "there is no program {name} in {path:?} nor where administrators keep theirs: install it (on Debian `apt-get \
         install {name}`), or start the agent with another --runtime"
    )
}

/// Runs a throw-away process in the namespace for proofs.
pub fn prove_process(run_dir: &Path) -> Result<(), String> {
    let text = |error: guard::starter::StarterError| crate::chain(&error);
    let mut client = Client::connect(run_dir, guard::Policy::Stop, 0).map_err(text)?;
    let action = Action::Exec {
        argv: vec!["/bin/true".into()],
        env: Vec::new(),
        cwd: "/".into(),
        log: None,
        isolate: Some("proof".into()),
    };
    match client.run(Label::default(), action, Duration::from_secs(10)).map_err(text)? {
        0 => Ok(()),
        code => Err(format!("a throw-away process ended with code {code}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_runtime_is_said_with_where_it_was_looked_for_and_what_to_do() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = format!("relative:{}", folder.path().display());
        let said = find("no-such-runtime", &path).expect_err("it is nowhere");
        for says in ["no-such-runtime", &path, "install no-such-runtime", "--runtime"] {
            assert!(said.contains(says), "{said}");
        }
        std::fs::write(folder.path().join("no-such-runtime"), "").expect("a file");
        assert_eq!(find("no-such-runtime", &path), Ok(folder.path().join("no-such-runtime")));
    }
}

//! Where the programs are, and how one is run to its end.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread::JoinHandle;

use super::until;

/// The program of that name: in the folder that `QUORATE_BIN_DIR` names, else beside this test, built if need be.
/// Panics with what cargo says if it cannot be built.
pub fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| match std::env::var_os("QUORATE_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => build(),
    });
    let path = folder.join(name);
    assert!(path.is_file(), "there is no {}: run `cargo build`, or set QUORATE_BIN_DIR", path.display());
    path
}

/// Builds what is out of date, in the profile and target folder of this test. What is up to date costs a moment.
fn build() -> PathBuf {
    let own = std::env::current_exe().expect("this test has a path");
    // …/target/<profile>/deps/<test>
    let folder = own.parent().and_then(Path::parent).expect("a test lies in deps").to_owned();
    let profile = folder.file_name().and_then(|name| name.to_str()).expect("a profile");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--bins", "-p=controlplane", "-p=nodeagent", "-p=quorate-guard", "-p=quoratectl"]);
    build.args(["--profile", if profile == "debug" { "dev" } else { profile }]).arg("--target-dir");
    build.arg(folder.parent().expect("a target folder")).current_dir(env!("CARGO_MANIFEST_DIR"));
    let out = build.output().expect("cargo runs");
    assert!(out.status.success(), "the programs were not built:\n{}", String::from_utf8_lossy(&out.stderr));
    folder
}

/// How a program ended, and what it said.
#[derive(Debug)]
pub struct Ended {
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

fn heard(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    let mut pipe = pipe.expect("it is piped");
    std::thread::spawn(move || {
        let mut all = Vec::new();
        pipe.read_to_end(&mut all).expect("a pipe can be read");
        all
    })
}

/// Runs a program that ends by itself; panics if it does not.
#[track_caller]
pub fn run(name: &str, words: &[&str], environment: &[(&str, &str)]) -> Ended {
    let mut command = Command::new(program(name));
    command.args(words).envs(environment.iter().copied());
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    // Read while it runs: a pipe holds no more than 64 KiB.
    let (out, err) = (heard(child.stdout.take()), heard(child.stderr.take()));
    let status = until(&format!("{name} {words:?} ends"), || child.try_wait().expect("a child"));
    let text = |heard: JoinHandle<Vec<u8>>| String::from_utf8_lossy(&heard.join().expect("it reads")).into_owned();
    Ended { code: status.code(), out: text(out), err: text(err) }
}

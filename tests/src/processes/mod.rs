//! Real programs to test from outside: members, agents and guards as processes, reached as anybody reaches them.
//! In: folders and addresses of their own for every cluster, so that tests run side by side. Out: what the programs answer.
//! Whatever was started ends with the test, however the test ends. Absent: sleeps; what must become true is asked for until
//! a deadline.

pub mod http;
mod cluster;
mod machine;
mod programs;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

pub(crate) use cluster::die_with_test;
pub use cluster::{Cluster, Member, number};
pub use machine::Machine;
pub use programs::{Ended, program, run};

/// Generous: the machine may be busy. What is waited for usually takes milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);

/// Asks until `answer` gives something; panics with what was waited for when it never does.
#[track_caller]
pub fn until<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(LOOK);
    }
}

/// Asks until it is so.
#[track_caller]
pub fn until_so(what: &str, mut holds: impl FnMut() -> bool) {
    until(what, || holds().then_some(()));
}

fn counted() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

/// A request id that nobody has used: the version 7 UUID of a session with one request.
pub fn request_id() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let millis = now.as_millis() as u64 & 0xffff_ffff_ffff;
    let (pid, count) = (u64::from(std::process::id()), counted());
    let node = (pid & 0xff_ffff) << 24 | count & 0xff_ffff;
    format!("{:08x}-{:04x}-7{:03x}-8000-{node:012x}", millis >> 16, millis & 0xffff, count & 0xfff)
}

/// A folder of its own that goes when the value does; kept when the test fails, and named.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("quorate-{}-{}-{name}", std::process::id(), counted()));
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for you to look at: {}", self.0.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// Says that something was not tested, where it is seen although the test passes: past the capture of the test runner, and in
/// the file named by `QUORATE_NOT_RUN` if there is one.
pub fn not_run(what: &str, why: &str) {
    use std::io::Write;
    let line = format!("NOT RUN: {what}: {why}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(file) = std::env::var_os("QUORATE_NOT_RUN")
        && let Ok(mut file) = std::fs::File::options().create(true).append(true).open(file)
    {
        let _ = file.write_all(line.as_bytes());
    }
}

//! A machine for a node: a state folder, an agent that may come and go, and the guard and containers that outlive it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use super::cluster::die_with_test;
use super::{program, until, until_so};

pub struct Machine {
    pub name: String,
    home: PathBuf,
    agent: Option<Child>,
}

impl Machine {
    /// `reply` is what a join answered.
    pub(super) fn new(name: &str, folder: &Path, reply: &Value) -> Machine {
        let home = folder.join(name);
        fs::create_dir_all(home.join("state")).expect("a state folder");
        let node: u64 = reply["node"].as_str().and_then(|id| id[1..].parse().ok()).expect("an id as n3");
        let identity = json!({
            "cluster": reply["clusterId"],
            "generation": super::cluster::number(&reply["generation"]),
            "node": node,
            "name": name,
            "secret": reply["secret"],
            "members": reply["members"],
        });
        fs::write(home.join("state/identity.json"), identity.to_string()).expect("an identity");
        Machine { name: name.to_owned(), home, agent: None }
    }

    pub fn state_dir(&self) -> PathBuf {
        self.home.join("state")
    }

    fn run_dir(&self) -> PathBuf {
        self.home.join("state/run")
    }

    /// Starts the agent. It has the process runtime unless `more` says otherwise; a later option wins over an earlier one.
    #[track_caller]
    pub fn start(&mut self, more: &[&str], environment: &[(&str, &str)]) {
        assert!(self.agent.is_none(), "the agent of {} runs already", self.name);
        let log = File::options().create(true).append(true).open(self.home.join("agent.log")).expect("a log");
        let mut command = Command::new(program("quorate-agent"));
        command.arg("run").arg("--state-dir").arg(self.state_dir());
        command.args(["--cpu-millis", "2000", "--memory-bytes", "1073741824"]);
        if !more.contains(&"--runtime") {
            command.args(["--runtime", "process"]);
        }
        command.args(more).envs(environment.iter().copied()).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        die_with_test(&mut command);
        self.agent = Some(command.spawn().expect("the agent starts"));
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.home.join("agent.log")).unwrap_or_default()
    }

    pub fn signal_agent(&self, signal: Signal) {
        let agent = self.agent.as_ref().expect("the agent runs");
        rustix::process::kill_process(Pid::from_child(agent), signal).expect("a child");
    }

    /// No goodbye: SIGKILL of the agent alone.
    pub fn kill_agent(&mut self) {
        let mut agent = self.agent.take().expect("the agent runs");
        agent.kill().expect("a child");
        agent.wait().expect("a child");
    }

    /// Exit code of an agent that ends by itself.
    #[track_caller]
    pub fn wait_agent(&mut self) -> Option<i32> {
        let mut agent = self.agent.take().expect("the agent runs");
        until(&format!("the agent of {} ends", self.name), || agent.try_wait().expect("a child")).code()
    }

    pub fn guard(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.run_dir().join("guard.pid")).ok()?;
        let pid: i32 = text.trim().parse().ok()?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        (name.trim() == "quorate-guard").then(|| Pid::from_raw(pid)).flatten()
    }

    /// SIGKILL of agent and guard together: nobody is left who could end the containers but the kernel.
    pub fn kill_agent_and_guard(&mut self) {
        let guard = self.guard().expect("a guard watches");
        // Stopped first, so that neither sees the other die.
        self.signal_agent(Signal::STOP);
        rustix::process::kill_process(guard, Signal::KILL).expect("the guard is there");
        self.kill_agent();
    }

    /// Everything on it, at once, with no goodbye. What the guard made says by its arguments whose it is; its namespaces
    /// take what lives in them along.
    pub fn cut_power(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        let folder = self.run_dir().into_os_string().into_encoded_bytes();
        let ours = |words: &[&[u8]]| words.contains(&folder.as_slice());
        until_so(&format!("nothing of {} lives", self.name), || kill_all(processes(ours)));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.cut_power();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(15).collect();
            eprintln!("{}, its last words:\n{}", self.name, tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            eprintln!("{}", fs::read_to_string(self.run_dir().join("guard.log")).unwrap_or_default());
        }
        // The slot lies in shared memory; what a test made there goes with it.
        let _ = fs::read_link(self.run_dir().join("slot")).map(fs::remove_file);
        guard::cgroup::remove_default_root(&self.run_dir());
    }
}

/// Whether there was nothing left to kill.
pub(super) fn kill_all(pids: Vec<i32>) -> bool {
    for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid)) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
    pids.is_empty()
}

/// Pids of the processes whose arguments are `wanted`. Zombies have none.
pub(super) fn processes(wanted: impl Fn(&[&[u8]]) -> bool) -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let fits = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).filter(|word| !word.is_empty()).collect();
        !words.is_empty() && wanted(&words)
    };
    pids.filter(fits).collect()
}

//! A machine with a state folder, a share and an agent that comes and goes, and what can be seen of it from outside.

use super::*;

/// The guard beside the agent, built where a test of this package alone has not.
pub fn guard_program() -> PathBuf {
    static BUILT: Once = Once::new();
    let program = Path::new(env!("CARGO_BIN_EXE_quorate-agent")).with_file_name("quorate-guard");
    BUILT.call_once(|| {
        if !program.exists() {
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--quiet", "--package", "quorate-guard"]);
            if program.parent().is_some_and(|folder| folder.ends_with("release")) {
                build.arg("--release");
            }
            assert!(build.status().expect("cargo").success(), "the guard was not built");
        }
    });
    program
}

/// Containers of this test that live on this machine: their programs end in `tail -f <marker>`.
pub fn living(marker: &str) -> Vec<i32> {
    processes(|arguments| arguments == format!("tail\0-f\0{marker}\0").as_bytes())
}

/// Pids of the processes whose arguments, each ended by a zero, are `wanted`. Zombies have none.
pub fn processes(wanted: impl Fn(&[u8]) -> bool) -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|arguments| wanted(&arguments))).collect()
}

/// A machine with a state folder, a share, and an agent that may come and go.
pub struct Machine {
    pub folder: tempfile::TempDir,
    pub shared: Shared,
    pub marker: String,
    /// Somebody else than the test's own.
    user: Option<u32>,
    pub agent: Option<Child>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.cut_power();
        if std::thread::panicking() {
            eprintln!("guard: {}", fs::read_to_string(self.run_dir().join("guard.log")).unwrap_or_default());
        }
        // The slot lies in shared memory; what a test made there goes with it.
        let _ = fs::read_link(self.run_dir().join("slot")).map(fs::remove_file);
        guard::cgroup::remove_default_root(&self.run_dir());
    }
}

impl Machine {
    /// Joined to `members`, its agent not started yet.
    pub fn new(name: &str, shared: &Shared, members: &[&Member]) -> Machine {
        let folder = tempfile::tempdir().expect("temporary folder");
        fs::create_dir_all(folder.path().join("share")).expect("share");
        fs::create_dir_all(folder.path().join("state")).expect("state");
        let identity = Identity {
            cluster: ClusterId(CLUSTER),
            generation: Generation::numbered(1),
            node: NodeId(NODE),
            name: "node-3".into(),
            secret: SECRET.to_vec(),
            members: members.iter().map(|member| member.address.to_string()).collect(),
        };
        identity.write(&folder.path().join("state/identity.json")).expect("identity");
        let marker = format!("{name}-{}", std::process::id());
        Machine { folder, shared: shared.clone(), marker, user: None, agent: None }
    }

    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub fn run_dir(&self) -> PathBuf {
        self.folder.path().join("state/run")
    }

    pub fn share(&self) -> PathBuf {
        self.folder.path().join("share")
    }

    pub fn area(&self, container: u64) -> PathBuf {
        self.share().join(format!("containers/{container}"))
    }

    pub fn command(&self, options: &[&str]) -> Command {
        let [agent, guard] = self.programs();
        let mut command = Command::new(agent);
        command.arg("run").arg("--state-dir").arg(self.state_dir()).args(["--runtime", "process"]);
        command.arg("--guard-program").arg(guard).args(options).stdin(Stdio::null());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    /// The agent's and the guard's; as built, or where whoever owns the machine can reach them.
    fn programs(&self) -> [PathBuf; 2] {
        let built = [PathBuf::from(env!("CARGO_BIN_EXE_quorate-agent")), guard_program()];
        match self.user {
            Some(_) => built.map(|program| self.folder.path().join(program.file_name().expect("a file"))),
            None => built,
        }
    }

    /// Everything of this machine belongs to `user` from here on, who may not reach where the programs were built.
    pub fn give_to(&mut self, user: u32) {
        let built = self.programs();
        self.user = Some(user);
        for (from, to) in built.iter().zip(self.programs()) {
            fs::copy(from, to).expect("a copy of the program");
        }
        let folder = self.folder.path();
        for path in [folder, &self.share(), &self.state_dir(), &self.state_dir().join("identity.json")] {
            std::os::unix::fs::chown(path, self.user, self.user).expect("chown");
        }
    }

    pub fn start(&mut self, options: &[&str]) {
        self.agent = Some(self.command(options).spawn().expect("spawn"));
    }

    pub fn agent_pid(&self) -> Pid {
        Pid::from_child(self.agent.as_ref().expect("started"))
    }

    pub fn guard_pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.run_dir().join("guard.pid")).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }

    pub fn signal_agent(&self, signal: Signal) {
        rustix::process::kill_process(self.agent_pid(), signal).expect("signal");
    }

    pub fn wait_agent(&mut self) -> ExitStatus {
        let mut agent = self.agent.take().expect("started");
        let mut status = None;
        until("the agent ends", || {
            status = agent.try_wait().expect("wait");
            status.is_some()
        });
        status.expect("ended")
    }

    pub fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }

    pub fn kill_guard(&self) {
        if let Some(pid) = self.guard_pid() {
            let name = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).unwrap_or_default();
            if name.trim() == "quorate-guard" {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }

    /// Everything on it, at once. Whatever the guard made says by its arguments whose it is; the namespaces take what
    /// lives in them along, `keep` included.
    pub fn cut_power(&mut self) {
        self.kill_agent();
        let ours = |arguments: &[u8]| {
            arguments.split(|byte| *byte == 0).any(|argument| argument == self.run_dir().as_os_str().as_encoded_bytes())
        };
        // Again and again: a guard may have been forking while it was looked for.
        until("nothing of the test lives", || {
            let left: Vec<i32> = processes(ours).into_iter().chain(living(&self.marker)).collect();
            for pid in left.iter().copied().filter_map(Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            left.is_empty()
        });
    }

    pub fn until_registered(&self, times: usize) {
        until("the node is registered", || self.shared.truth().registrations.len() >= times);
    }

    /// Wants a container that writes who it is, then waits; and sees it run.
    pub fn run(&self, container: u64, epoch: u64, policy: OnQuorumLoss) {
        self.want(container, epoch, policy);
        until("it runs", || self.shared.said(container, epoch) == Some(Observed::Running));
        until("it waits", || living(&self.marker).iter().any(|pid| self.works_in(*pid, container)));
    }

    pub fn works_in(&self, pid: i32, container: u64) -> bool {
        fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|folder| folder == self.area(container))
    }

    pub fn want(&self, container: u64, epoch: u64, policy: OnQuorumLoss) {
        const SCRIPT: &str = "env > env.$QUORATE_EPOCH; : > $0; exec tail -f $0";
        let script = ["/bin/sh", "-c", SCRIPT, &self.marker];
        self.shared.want(container, epoch, policy, &script, &self.share());
    }

    pub fn status(&self) -> Option<control::Status> {
        control::status(&self.run_dir()).ok()
    }
}

//! The machines of the lab and what is done to them: power, processes, their share of the processors, their clocks and disks.
//! In: a machine. Out: it suffers, and can be asked to recover. What belongs to the lab's own commands is done by them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::mount::{MountFlags, mount};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::api::{NoAnswer, call, call_within};
use super::deeds::{Host, MEMBERS, name};
use crate::lab::{Lab, contains, pids};
use crate::processes::request_id;

const SHIM: &str = include_str!("clock.c");
/// The disk of the third member: room for its log, and quick to fill.
const DISK_BYTES: u64 = 192 << 20;
const HOUR: i64 = 3_600;

pub struct Hosts {
    pub lab: Lab,
    /// In whose control group machines starve; `None` where no hierarchy controls processors.
    starving: Option<Starving>,
    /// The third member's data lies on a disk of its own by now.
    has_disk: bool,
}

/// A place for those that get one hundredth of a processor.
struct Starving {
    mount: PathBuf,
    group: PathBuf,
    /// Version 1, where each controller has a hierarchy.
    is_first: bool,
    /// Where those who starve came from.
    homes: RefCell<BTreeMap<i32, PathBuf>>,
}

pub fn api_of(host: Host) -> SocketAddr {
    SocketAddr::from(([10, 77, 0, host], 7440))
}

pub fn apis() -> Vec<SocketAddr> {
    MEMBERS.map(api_of).to_vec()
}

impl Hosts {
    pub fn new(lab: Lab) -> Hosts {
        let starving = Starving::find(&lab.dir);
        Hosts { lab, starving, has_disk: false }
    }

    pub fn home(&self, host: Host) -> PathBuf {
        self.lab.dir.join(self.lab.machine_of(&name(host)))
    }

    pub fn power_off(&self, host: Host) {
        self.lab.dev("kill", &[&name(host)]);
    }

    pub fn power_on(&self, host: Host) {
        self.lab.dev("power-on", &[&name(host)]);
    }

    pub fn is_on(&self, host: Host) -> bool {
        let text = fs::read(self.lab.dir.join("dev.json")).unwrap_or_default();
        let known: Value = serde_json::from_slice(&text).unwrap_or_default();
        known["machines"][self.lab.machine_of(&name(host))]["root"]["pid"].is_i64()
    }

    /// To the oldest process of that program on the machine; whether there was one.
    pub fn signal(&self, host: Host, program: &str, signal: Signal) -> bool {
        let found = self.lab.services(&name(host), program);
        found.first().inspect(|pid| self.lab.signal(**pid, signal)).is_some()
    }

    /// Lets everything on the machine go on that was stopped; containers first, which is the worst order there is.
    pub fn thaw(&self, host: Host) {
        for process in self.lab.witnesses_on(&name(host)) {
            self.lab.signal(process.pid, Signal::CONT);
        }
        self.lab.dev("resume", &[&name(host)]);
    }

    // ---- What the cluster says ----

    /// Asks one member after the other until one answers well.
    pub fn get(&self, path: &str) -> Option<Value> {
        apis().into_iter().find_map(|member| {
            match call_within(Duration::from_millis(1_500), member, "GET", path, None) {
                Ok((200, reply)) => Some(reply),
                _ => None,
            }
        })
    }

    /// An order, given to one member after the other until one takes it; else what the last one said.
    pub fn order(&self, verb: &str, path: &str, body: Value) -> Result<Value, String> {
        self.order_as(&request_id(), verb, path, body)
    }

    /// The same under a request id of the caller's, who gives the order again while nobody knows what came of it.
    fn order_as(&self, id: &str, verb: &str, path: &str, mut body: Value) -> Result<Value, String> {
        let mut said = String::new();
        // What is deleted has no body.
        let (path, body) = match verb {
            "DELETE" => (&*format!("{path}?requestId={id}"), None),
            _ => {
                body["requestId"] = id.into();
                (path, Some(&body))
            }
        };
        for member in apis() {
            match call(member, verb, path, body) {
                Ok((200, reply)) => return Ok(reply),
                Ok((status, reply)) => said = format!("{verb} {path}: {status}: {reply}"),
                Err(error @ (NoAnswer::Unheard(_) | NoAnswer::Lost(_))) => said = format!("{verb} {path}: {error}"),
            }
        }
        Err(said)
    }

    pub fn leader(&self) -> Option<Host> {
        MEMBERS.into_iter().find(|host| {
            let answer = call_within(Duration::from_millis(1_000), api_of(*host), "GET", "/v1/cluster", None);
            matches!(answer, Ok((200, status)) if status["standing"] == "MEMBER_STANDING_LEADER")
        })
    }

    pub fn node(&self, host: Host) -> Option<Value> {
        Some(self.get(&format!("/v1/nodes/{}", name(host)))?["node"].clone())
    }

    // ---- Processors ----

    /// One hundredth of a processor for the services of the machine; says how many processes starve.
    /// Errs where no hierarchy controls processors.
    pub fn starve(&self, host: Host) -> io::Result<usize> {
        let starving =
            self.starving.as_ref().ok_or_else(|| io::Error::other("no control group limits processors here"))?;
        fs::create_dir_all(&starving.group)?;
        if starving.is_first {
            fs::write(starving.group.join("cpu.cfs_quota_us"), "1000")?;
        } else {
            fs::write(starving.group.join("cpu.max"), "1000 100000")?;
        }
        match self.services(host).into_iter().filter(|pid| starving.take(*pid)).count() {
            0 => Err(io::Error::other(format!("nothing of {} starves", name(host)))),
            count => Ok(count),
        }
    }

    /// Everybody who starved gets what there is.
    pub fn feed(&self) {
        let Some(starving) = &self.starving else { return };
        let inside = fs::read_to_string(starving.group.join("cgroup.procs")).unwrap_or_default();
        inside.lines().filter_map(|line| line.parse().ok()).for_each(|pid| starving.give_back(pid));
        // A group with a process that was being born is left; the next `feed` takes it.
        let _ = fs::remove_dir(&starving.group);
    }

    fn services(&self, host: Host) -> Vec<i32> {
        let home = format!("{}/", self.home(host).display());
        let is_one = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            contains(&line, home.as_bytes())
        };
        pids().into_iter().filter(is_one).collect()
    }

    // ---- Clocks ----

    /// Starts the machine again with a wall clock of its own.
    pub fn power_on_with_clock(&self, host: Host) -> io::Result<Clock> {
        let shim = self.lab.dir.join("clock.so");
        if !shim.exists() {
            let source = self.lab.dir.join("clock.c");
            fs::write(&source, SHIM)?;
            let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&shim).arg(&source).output()?;
            if !built.status.success() {
                return Err(io::Error::other(format!("cc: {}", String::from_utf8_lossy(&built.stderr))));
            }
        }
        let clock = Clock { shim, file: self.lab.dir.join(format!("clock-{host}")) };
        clock.set(0)?;
        let environment = clock.environment();
        let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.lab.dev_with("power-on", &[&name(host)], &environment);
        Ok(clock)
    }

    // ---- Disks ----

    fn disk(&self) -> PathBuf {
        self.lab.dir.join("disk-3")
    }

    /// The third member gets a disk of its own, once; its data moves there while it is off.
    pub fn give_disk(&mut self) -> io::Result<()> {
        if self.has_disk {
            return Ok(());
        }
        let (disk, data) = (self.disk(), self.home(3).join("member"));
        fs::create_dir_all(&disk)?;
        let size = std::ffi::CString::new(format!("size={DISK_BYTES}")).expect("no zero in it");
        mount("nemesis", &disk, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, size.as_c_str())?;
        self.power_off(3);
        copy(&data, &disk.join("member"))?;
        fs::remove_dir_all(&data)?;
        std::os::unix::fs::symlink(disk.join("member"), &data)?;
        self.has_disk = true;
        self.power_on(3);
        Ok(())
    }

    /// Not one byte is free on the third member's disk any more.
    pub fn fill_disk(&self) -> io::Result<()> {
        let mut file = File::create(self.disk().join("filler"))?;
        let room = vec![7; 1 << 16];
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&room[..size]).is_ok() {}
        }
        match rustix::fs::statvfs(self.disk())?.f_bavail {
            0 => Ok(()),
            free => Err(io::Error::other(format!("{free} blocks are free on a full disk"))),
        }
    }

    pub fn free_disk(&self) -> io::Result<()> {
        fs::remove_file(self.disk().join("filler"))
    }

    // ---- Members ----

    /// Takes the member out, wipes its machine, brings it back as a new one. One step at a time, each again until it is done:
    /// `again` says whether there is time to.
    pub fn replace_member(&self, host: Host, mut again: impl FnMut() -> bool) -> Result<(), String> {
        let own = name(host);
        // One request id for all tries of a step, and the member by its id: a try that is late must not be another order, nor
        // take out who has the name by then.
        let mut insist = |verb: &str, path: &str, body: Value, done: &dyn Fn(&str) -> bool| {
            let id = request_id();
            loop {
                match self.order_as(&id, verb, path, body.clone()) {
                    Ok(reply) => return Ok(reply),
                    Err(said) if done(&said) => return Ok(Value::Null),
                    Err(said) if !again() => return Err(said),
                    Err(_) => {}
                }
            }
        };
        let status = self.get("/v1/cluster").ok_or("nobody says who the members are")?;
        let known = status["members"].as_array().into_iter().flatten().find(|it| it["name"] == own.as_str());
        let known = known.and_then(|it| it["id"].as_str()).ok_or_else(|| format!("{own} is no member"))?.to_owned();
        insist("DELETE", &format!("/v1/cluster/members/@m{known}"), json!({}), &|said| said.contains(": 404"))?;
        self.power_off(host);
        let data = self.home(host).join("member");
        let target = data.canonicalize().unwrap_or(data);
        for entry in fs::read_dir(&target).map_err(|error| error.to_string())?.flatten() {
            let path = entry.path();
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
        self.power_on(host);
        let address = json!({"api": format!("10.77.0.{host}:7440"), "peer": format!("10.77.0.{host}:7441")});
        let body = json!({"name": own, "address": address});
        let admission = insist("POST", "/v1/cluster/members", body, &|_| false)?["admission"].clone();
        loop {
            let body = json!({"requestId": request_id(), "admission": admission});
            match call(api_of(host), "POST", "/v1/cluster/members:enrol", Some(&body)) {
                Ok((200, _)) => return Ok(()),
                other if !again() => return Err(format!("enrol {own}: {other:?}")),
                _ => {}
            }
        }
    }
}

/// A wall clock that is wrong as ordered.
pub struct Clock {
    shim: PathBuf,
    file: PathBuf,
}

impl Clock {
    fn environment(&self) -> [(&'static str, String); 2] {
        [("LD_PRELOAD", self.shim.display().to_string()), ("NEMESIS_CLOCK", self.file.display().to_string())]
    }

    fn set(&self, seconds: i64) -> io::Result<()> {
        // In place: those who have it mapped see the jump.
        let mut file = File::options().create(true).truncate(false).write(true).open(&self.file)?;
        file.write_all(&seconds.to_ne_bytes())
    }

    /// Processes of that program on the machine see this clock.
    pub fn is_seen_by(&self, hosts: &Hosts, host: Host, program: &str) -> bool {
        let seen = self.file.display().to_string();
        let maps = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        hosts.lab.services(&name(host), program).iter().any(|pid| maps(pid).contains(&seen))
    }

    /// The clock jumps; errs if a program started with it does not see the wall clock jump, or sees another one do.
    pub fn jump(&self, hours: i64) -> io::Result<()> {
        self.set(hours * HOUR)?;
        let program = std::env::current_exe()?;
        let seen = Command::new(program).arg("clocks").envs(self.environment()).output()?;
        let seen: Value = serde_json::from_slice(&seen.stdout).map_err(io::Error::other)?;
        let own = clocks();
        let off = |key: &str| (seen[key].as_i64().unwrap_or(i64::MAX / 2) - own[key].as_i64().unwrap_or(0)).abs();
        let (wall, still) = (off("wall_s"), off("boottime_s").max(off("monotonic_s")));
        if (wall - (hours * HOUR).abs()).abs() < 60 && still < 60 {
            return Ok(());
        }
        Err(io::Error::other(format!("the wall clock is off by {wall} s, the others by {still} s")))
    }
}

/// What the clocks of this process say, in whole seconds; by the C library, as a preload may have them.
pub fn clocks() -> Value {
    unsafe extern "C" {
        fn clock_gettime(id: i32, time: *mut [i64; 2]) -> i32;
    }
    let seconds = |id: i32| {
        let mut time = [0; 2];
        // Safety: a timespec is two longs, and it is there to be written.
        unsafe { clock_gettime(id, &mut time) };
        time[0]
    };
    json!({"wall_s": seconds(0), "monotonic_s": seconds(1), "boottime_s": seconds(7)})
}

impl Starving {
    fn find(dir: &Path) -> Option<Starving> {
        let name = dir.file_name()?;
        let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let mounts: Vec<(&str, &str)> = table
            .lines()
            .filter_map(|line| {
                let (left, right) = line.split_once(" - ")?;
                Some((left.split(' ').nth(4)?, right))
            })
            .collect();
        let first = mounts
            .iter()
            .find(|(_, kind)| kind.starts_with("cgroup ") && kind.split([' ', ',']).any(|word| word == "cpu"));
        let place = |mount: &str, is_first| {
            let mount = PathBuf::from(mount);
            Starving { group: mount.join(name), mount, is_first, homes: RefCell::default() }
        };
        if let Some((mount, _)) = first {
            return Some(place(mount, true));
        }
        let (mount, _) = mounts.iter().find(|(_, kind)| kind.starts_with("cgroup2 "))?;
        fs::write(Path::new(mount).join("cgroup.subtree_control"), "+cpu").ok()?;
        Some(place(mount, false))
    }

    /// The group of a process in this hierarchy: a line of `/proc/PID/cgroup` is `number:controllers:path`.
    fn home_of(&self, pid: &str) -> Option<PathBuf> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let controls = |names: &str| match self.is_first {
            true => names.split(',').any(|name| name == "cpu"),
            false => names.is_empty(),
        };
        let path = text.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            parts.next().filter(|names| controls(names)).and(parts.next())
        })?;
        Some(self.mount.join(path.trim_start_matches('/')))
    }

    fn take(&self, pid: i32) -> bool {
        let Some(home) = self.home_of(&pid.to_string()) else { return false };
        self.homes.borrow_mut().entry(pid).or_insert(home);
        fs::write(self.group.join("cgroup.procs"), pid.to_string()).is_ok()
    }

    fn give_back(&self, pid: i32) {
        // One that was born starving goes where this process is.
        let home = self.homes.borrow_mut().remove(&pid).or_else(|| self.home_of("self"));
        let home = home.unwrap_or_else(|| self.mount.clone());
        let _ = fs::write(home.join("cgroup.procs"), pid.to_string());
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)?.flatten() {
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
}

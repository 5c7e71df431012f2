//! A network of the playground's own: every machine in a network namespace, two bridges between them, and nothing of the
//! host's network touched. In: machines by number, what to cut. Out: links that are there, gone, or open one way only.
//! Needs root and iproute2. Absent: addresses for containers; the bridges end at the machines.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use super::machine;

/// Members, agents; the switch itself is .254.
const PRIVATE: &str = "10.77.0";
/// Where services would be reached from outside.
const PUBLIC: &str = "10.78.0";
/// Nobody's: what is sent here is lost.
const NOWHERE: &str = "02:00:00:00:00:fe";

/// The network, known by the process that keeps its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Net {
    pub switch: i32,
}

/// One machine's place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plug {
    pub net: Net,
    /// 1 to 253, its own among the machines.
    pub number: u8,
}

/// Moves this process into a network namespace of its own, with both bridges in it. Must run before any thread is started.
pub fn enter_own() -> Result<()> {
    ensure!(rustix::process::getuid().is_root(), "--net needs root: it makes network namespaces and bridges");
    // Safety: this process has one thread.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.context("make a network namespace")?;
    ip(
        None,
        &format!(
            "link set lo up\n\
             link add name private type bridge\nlink set private up\naddr add {PRIVATE}.254/24 dev private\n\
             link add name public type bridge\nlink set public up\naddr add {PUBLIC}.254/24 dev public\n"
        ),
    )
}

/// `quoratectl dev switch`: keeps its network namespace alive until it is killed.
pub fn keep() -> Result<()> {
    loop {
        std::thread::park();
    }
}

pub fn private_address(number: u8) -> String {
    format!("{PRIVATE}.{number}")
}

impl Net {
    /// Starts the process that keeps the namespace this one is in.
    pub fn start() -> Result<Net> {
        let mut keeper = Command::new(std::env::current_exe()?);
        keeper.args(["dev", "switch"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Safety: setsid is async-signal-safe and touches nothing of ours.
        unsafe { keeper.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into)) };
        let keeper = keeper.spawn().context("start the keeper of the network")?;
        Ok(Net { switch: keeper.id() as i32 })
    }

    /// The namespace of the bridges, for `nsenter --net=`.
    pub fn path(self) -> String {
        format!("/proc/{}/ns/net", self.switch)
    }

    fn is_ours(self) -> bool {
        let line = fs::read(format!("/proc/{}/cmdline", self.switch)).unwrap_or_default();
        line.ends_with(b"\0dev\0switch\0")
    }

    /// Ends the network, unless it ended before.
    pub fn stop(self) {
        if self.is_ours() {
            machine::send(self.switch, Signal::KILL);
        }
    }

    /// Takes machine `number` off both bridges.
    pub fn cut(self, number: u8) -> Result<()> {
        ip(Some(&self.open()?), &format!("link set private{number} down\nlink set public{number} down\n"))
    }

    pub fn heal(self, number: u8) -> Result<()> {
        ip(Some(&self.open()?), &format!("link set private{number} up\nlink set public{number} up\n"))
    }

    fn open(self) -> Result<File> {
        ensure!(self.is_ours(), "the playground's network is gone; `quoratectl dev down` and start again");
        File::open(self.path()).context("open the playground's network")
    }
}

impl Plug {
    /// Moves this process into a network namespace of its own that is plugged into both bridges.
    /// Must run before any thread is started, and before this process makes a pid namespace: `ip` names it by its pid.
    pub fn connect(self) -> Result<()> {
        let switch = self.net.open()?;
        // Safety: this process has one thread.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.context("make a network namespace")?;
        let (number, own) = (self.number, std::process::id());
        // The ends of a machine whose power was cut go with its namespace, which the kernel buries in its own time.
        for (kind, bridge) in ["private", "public"].into_iter().enumerate() {
            let _ = ip(Some(&switch), &format!("link del {bridge}{number}\n"));
            // A machine keeps its hardware address: with another one its neighbours would seek it in vain for half a minute.
            let address = format!("02:00:00:00:{kind:02x}:{number:02x}");
            ip(
                Some(&switch),
                &format!(
                    "link add name {bridge}{number} type veth peer name {bridge} address {address} netns {own}\n\
                     link set {bridge}{number} master {bridge} up\n"
                ),
            )?;
        }
        ip(
            None,
            &format!(
                "link set lo up\n\
                 addr add {PRIVATE}.{number}/24 dev private\nlink set private up\n\
                 addr add {PUBLIC}.{number}/24 dev public\nlink set public up\n"
            ),
        )
    }
}

/// What the machine whose first process is `pid` sends to machine `to` is lost from now on; the other way stays open.
pub fn cut_one_way(pid: i32, to: u8) -> Result<()> {
    ip(Some(&of_process(pid)?), &format!("neigh replace {PRIVATE}.{to} lladdr {NOWHERE} dev private nud permanent\n"))
}

pub fn heal_one_ways(pid: i32) -> Result<()> {
    ip(Some(&of_process(pid)?), "neigh flush dev private nud permanent\n")
}

fn of_process(pid: i32) -> Result<File> {
    File::open(format!("/proc/{pid}/ns/net")).context("open the machine's network")
}

/// Lines for `ip -batch`, in the namespace given or in this process's own.
fn ip(within: Option<&File>, lines: &str) -> Result<()> {
    const PLACES: [&str; 3] = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"];
    let Some(program) = PLACES.iter().find(|place| Path::new(place).exists()) else {
        bail!("there is no `ip` on this machine (package iproute2), which --net needs");
    };
    let mut command = Command::new(program);
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    if let Some(within) = within {
        let within = within.try_clone()?;
        // Safety: setns is one system call and touches nothing of ours.
        unsafe {
            command.pre_exec(move || Ok(move_into_link_name_space(within.as_fd(), Some(LinkNameSpaceType::Network))?))
        };
    }
    let mut child = command.spawn().with_context(|| format!("start {program}"))?;
    child.stdin.take().context("ip reads from a pipe")?.write_all(lines.as_bytes())?;
    let ended = child.wait_with_output()?;
    ensure!(ended.status.success(), "ip: {}", String::from_utf8_lossy(&ended.stderr).trim());
    Ok(())
}

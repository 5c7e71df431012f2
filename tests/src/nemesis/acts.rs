//! Doing a deed, holding it, undoing it. In: a deed, and a cluster that is well. Out: when it was done, how long it lasted, and
//! what class F1 exposes by it. Everything here is undone before it comes back, whatever happened meanwhile.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use super::deeds::{Act, Cell, Deed, Host, MEMBERS, Victim, name};
use super::hosts::Hosts;
use super::net::{self, Relay};
use super::witness::now_ns;

/// Between two kills of leaders.
const NEXT_LEADER: Duration = Duration::from_secs(5);
const LEADER_KILLS: usize = 3;

/// How a deed went.
#[derive(Debug, Default)]
pub struct Went {
    /// Packets that rules of ours met.
    pub packets: u64,
    /// Nodes that nobody could stop, which class F1 does not promise.
    pub exposed: Vec<Host>,
    /// When the cluster was left to itself again.
    pub undone_ns: u64,
    /// The machine cannot suffer this: why.
    pub not_run: Option<String>,
    /// Said by the cluster, where it refused what it should do.
    pub refused: Option<String>,
}

/// What a deed needs besides machines.
pub struct Stage<'a> {
    pub hosts: &'a mut Hosts,
    pub seed: u64,
    /// How long a cut or a stop is held: above what a lease and a failover last.
    pub hold: Duration,
    /// Whether everything runs and writes where it cannot have been before `since_ns`.
    pub moved: &'a dyn Fn(&Hosts, Host, u64) -> bool,
    /// Names of containers that run on the node now.
    pub on: &'a dyn Fn(Host) -> Vec<String>,
    pub ended: &'a dyn Fn() -> bool,
}

impl Stage<'_> {
    /// Holds what was done; sooner over when the run is to end.
    fn hold(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && !(self.ended)() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Until everything that ran on `host` runs elsewhere, or `time` is over; as long as a hold where nothing ran.
    fn until_moved(&self, host: Host, since_ns: u64, time: Duration) {
        if (self.on)(host).is_empty() {
            return self.hold(self.hold);
        }
        let until = Instant::now() + time;
        while Instant::now() < until && !(self.moved)(self.hosts, host, since_ns) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn act(&mut self, deed: &Deed) -> std::io::Result<Went> {
        let mut went = Went::default();
        match deed {
            Deed::Split(cell) => self.net(|| net::split(*cell, cell.others()))?,
            Deed::OneWay { from, to } => self.net(|| net::cut(*from, *to))?,
            Deed::HalfOpen { one, other } => self.net(|| net::half_open(*one, *other))?,
            Deed::Loss(percent) => self.net(|| net::lose(*percent))?,
            Deed::Duplicate(percent) => self.net(|| net::duplicate(*percent))?,
            Deed::Delay { host, ms } => {
                let relay = Relay::start(*host, *ms, self.seed)?;
                let felt = net::way_there_and_back(*host);
                self.hold(self.hold);
                relay.stop()?;
                if felt < Duration::from_millis(2 * ms) {
                    return Err(std::io::Error::other(format!("{} is delayed by {felt:?} only", name(*host))));
                }
            }
            Deed::Signals { node, agent, guard, member, to_member } => {
                self.signals(*node, [("quorate-agent", *agent), ("quorate-guard", *guard)], *member, *to_member);
            }
            Deed::Freeze { node, whole } => {
                self.freeze(*node, *whole);
                self.hold(self.hold);
                self.hosts.thaw(*node);
                went.exposed = vec![*node];
            }
            Deed::FreezeFenced { node, whole } => went.refused = self.freeze_and_fence(*node, *whole),
            Deed::Power { host } => {
                self.power_off(*host);
                self.until_moved(*host, now_ns(), self.hold * 3);
                self.hosts.power_on(*host);
            }
            Deed::PowerWithLeader { node } => {
                let leader = self.hosts.leader();
                self.power_off(*node);
                leader.inspect(|leader| self.hosts.power_off(*leader));
                self.until_moved(*node, now_ns(), self.hold * 3);
                leader.inspect(|leader| self.hosts.power_on(*leader));
                self.hosts.power_on(*node);
            }
            Deed::WallClock { host } => self.wall_clock(*host)?,
            Deed::FullDisk => {
                self.hosts.give_disk()?;
                self.hold(self.hold);
                self.hosts.fill_disk()?;
                self.hold(self.hold);
                self.hosts.free_disk()?;
            }
            Deed::Starve { host } => match self.hosts.starve(*host) {
                Ok(_) => {
                    self.hold(self.hold);
                    self.hosts.feed();
                }
                Err(error) => went.not_run = Some(error.to_string()),
            },
            Deed::LeaderKills => {
                for _ in 0..LEADER_KILLS {
                    if let Some(leader) = self.hosts.leader() {
                        self.hosts.signal(leader, "quorated", Signal::KILL);
                    }
                    self.hold(NEXT_LEADER);
                }
            }
            Deed::Membership { member, apart: (one, other) } => {
                net::split(Cell::of(&[*one]), Cell::of(&[*other]))?;
                // The cut is mended half-way: a change that hangs by it must go on by itself.
                let (began, mut is_cut, mut packets) = (Instant::now(), true, 0);
                let (hold, limit) = (self.hold, self.hold * 8);
                let replaced = self.hosts.replace_member(*member, || {
                    if is_cut && began.elapsed() > hold {
                        is_cut = false;
                        packets = net::heal().unwrap_or(0);
                    }
                    std::thread::sleep(Duration::from_millis(100));
                    began.elapsed() < limit
                });
                went.packets = packets;
                went.refused = replaced.err();
            }
            Deed::KillApply { pauses_ms } => {
                for pause in pauses_ms {
                    self.hold(Duration::from_millis(*pause));
                    let victim = MEMBERS[(*pause % 3) as usize];
                    self.hosts.signal(victim, "quorated", Signal::KILL);
                }
            }
            Deed::KillStart { node, what, after_ms } => self.kill_start(*node, *what, *after_ms),
        }
        went.packets += net::heal()?;
        went.undone_ns = now_ns();
        Ok(went)
    }

    fn net(&self, fault: impl FnOnce() -> std::io::Result<()>) -> std::io::Result<()> {
        fault()?;
        self.hold(self.hold);
        Ok(())
    }

    fn signals(&self, node: Host, services: [(&str, Act); 2], member: Host, to_member: Act) {
        let all = services.map(|(program, act)| (node, program, act)).into_iter();
        let all: Vec<(Host, &str, Act)> = all.chain([(member, "quorated", to_member)]).collect();
        // Stopped first: whoever is killed shall not be seen dying by one that is stopped a moment later.
        let mut stopped = Vec::new();
        for (host, program, act) in &all {
            let found = self.hosts.lab.services(&name(*host), program);
            let Some(pid) = found.first().copied() else { continue };
            if *act == Act::Stop {
                self.hosts.lab.signal(pid, Signal::STOP);
                stopped.push(pid);
            }
        }
        for (host, program, act) in &all {
            if *act == Act::Kill {
                self.hosts.signal(*host, program, Signal::KILL);
            }
        }
        self.hold(self.hold);
        stopped.into_iter().for_each(|pid| self.hosts.lab.signal(pid, Signal::CONT));
    }

    fn freeze(&self, node: Host, whole: bool) {
        match whole {
            true => self.hosts.lab.dev("pause", &[&name(node)]),
            false => ["quorate-agent", "quorate-guard"].into_iter().for_each(|program| {
                self.hosts.signal(node, program, Signal::STOP);
            }),
        }
    }

    /// Cuts the power; where time alone proves nothing (class F0), an operator confirms it, as the book says.
    fn power_off(&self, host: Host) {
        let node = if MEMBERS.contains(&host) { None } else { self.hosts.node(host) };
        self.hosts.power_off(host);
        if let Some(node) = node.filter(|node| node["fencingClass"] == "FENCING_CLASS_F0") {
            self.confirm_down(host, &node["incarnation"]);
        }
    }

    fn confirm_down(&self, node: Host, incarnation: &serde_json::Value) -> Option<String> {
        let path = format!("/v1/nodes/{}:confirmDown", name(node));
        self.hosts.order("POST", &path, json!({"incarnation": incarnation, "reason": "its power was cut"})).err()
    }

    /// The power fence in the hands of an operator: what is frozen loses its power before anybody says that it is down.
    fn freeze_and_fence(&self, node: Host, whole: bool) -> Option<String> {
        let since = now_ns();
        let incarnation = self.hosts.node(node).map(|it| it["incarnation"].clone()).unwrap_or_default();
        self.freeze(node, whole);
        self.hosts.power_off(node);
        let refused = self.confirm_down(node, &incarnation);
        self.until_moved(node, since, self.hold * 3);
        self.hosts.power_on(node);
        refused
    }

    fn wall_clock(&mut self, host: Host) -> std::io::Result<()> {
        self.power_off(host);
        let clock = self.hosts.power_on_with_clock(host)?;
        let program = if MEMBERS.contains(&host) { "quorated" } else { "quorate-agent" };
        crate::processes::until_so("the clock is seen", || clock.is_seen_by(self.hosts, host, program));
        for hours in [1, -1, 0] {
            self.hold(self.hold / 2);
            clock.jump(hours)?;
        }
        Ok(())
    }

    fn kill_start(&self, node: Host, what: Victim, after_ms: u64) {
        let since = now_ns();
        for container in (self.on)(node) {
            let _ = self.hosts.order("POST", &format!("/v1/containers/{container}:restart"), json!({}));
        }
        self.hold(Duration::from_millis(after_ms));
        match what {
            Victim::Agent => {
                self.hosts.signal(node, "quorate-agent", Signal::KILL);
            }
            Victim::Guard => {
                self.hosts.signal(node, "quorate-guard", Signal::KILL);
            }
            Victim::Machine => {
                self.power_off(node);
                self.until_moved(node, since, self.hold * 3);
                self.hosts.power_on(node);
            }
        }
    }
}

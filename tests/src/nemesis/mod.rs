//! The nemesis: a cluster of real processes on machines of its own, and everything that reliability asks about done to it, one
//! deed after the other, while clients write and containers say where they are. In: a seed and a time. Out: figures, and a
//! verdict that rests on what containers and clients saw; the evidence stays where the verdict is bad.
//! Absent: luck that cannot be repeated: the seed names the deeds and their order. What it cannot have here is said aloud.

pub mod acts;
pub mod api;
pub mod checker;
pub mod clients;
pub mod deeds;
pub mod doubt;
pub mod hosts;
mod moves;
pub mod net;
pub mod observer;
pub mod report;
mod verdict;
pub mod witness;
pub mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use crate::lab::Lab;
use acts::Stage;
use checker::{Broken, Exposure};
use clients::Clients;
use deeds::{Deed, Host, MEMBERS, NODES, name};
use hosts::{Hosts, api_of, apis};
use observer::Observer;
use report::{Done, Report};
use witness::now_ns;

/// Containers that say where they are; two for each node.
const WITNESSES: usize = 6;
const TEMPLATE: &str = "nemesis";
/// From the end of a deed until everything runs, at the latest: above the boot grace, a quarantine and a slow machine.
const RECOVERY: Duration = Duration::from_secs(90);
/// A history is so long at most, so that it can be judged, …
const EACH: Duration = Duration::from_secs(14);
/// … and of a run of some minutes there are so many.
const HISTORIES: u32 = 20;

#[derive(Clone, Debug, Default)]
pub struct Options {
    pub minutes: f64,
    pub seed: u64,
    pub profile: String,
    /// Only deeds whose words contain this.
    pub only: Option<String>,
    pub json: bool,
    /// The evidence stays, whatever the verdict is.
    pub keep: bool,
    /// No fault at all, and no time for anybody: see `doubt`.
    pub doubt: bool,
}

struct Nemesis {
    hosts: Hosts,
    observer: Observer,
    clients: Clients,
    containers: Vec<String>,
    /// Those whose private area the observer's socket is in.
    plugged: BTreeSet<String>,
    exposures: Vec<Exposure>,
    /// Incarnations of nodes that were below class F1.
    degraded: BTreeSet<String>,
    hold: Duration,
    each: Duration,
    report: Report,
}

/// Runs it in the folder `dir`, in a world of its own; whether everything was as promised.
pub fn run(dir: &Path, runtime: &'static str, options: &Options) -> io::Result<bool> {
    let began = Instant::now();
    let play = dir.join("lab");
    let lab = Lab::up(&play, runtime, NODES.len() as u8, &options.profile);
    plug_into_switch(&lab)?;
    let observer = Observer::start(dir, &play.join("shared"))?;
    let mut nemesis = Nemesis {
        hosts: Hosts::new(lab),
        observer,
        clients: Clients::new(apis()),
        containers: (1..=WITNESSES).map(|at| format!("w-{at}")).collect(),
        plugged: BTreeSet::new(),
        exposures: Vec::new(),
        degraded: BTreeSet::new(),
        hold: hold(&options.profile),
        each: EACH,
        report: Report {
            seed: options.seed,
            profile: options.profile.clone(),
            runtime: runtime.to_owned(),
            ..Report::default()
        },
    };
    let ended = nemesis.play(options, began);
    nemesis.clients.stop();
    if let Err(error) = ended {
        nemesis.report.broken.push(format!("the run ended early: {error}"));
    }
    nemesis.judge_all()?;
    nemesis.note_events(dir)?;
    nemesis.report.seconds = began.elapsed().as_secs();
    let report = nemesis.report.for_programs();
    fs::write(dir.join("report.json"), format!("{report:#}\n"))?;
    match options.json {
        true => println!("{report:#}"),
        false => print!("{}", nemesis.report.for_people()),
    }
    Ok(nemesis.report.is_good())
}

/// Above what a lease and the kill after it last in that profile, so that what is cut off for so long has ended.
fn hold(profile: &str) -> Duration {
    Duration::from_secs(match profile {
        "fast" => 4,
        "relaxed" => 20,
        _ => 6,
    })
}

impl Nemesis {
    fn play(&mut self, options: &Options, began: Instant) -> io::Result<()> {
        let limit = Duration::from_secs_f64(options.minutes * 60.0);
        // Members come and go here every few seconds; that is no start of the whole cluster.
        self.hosts.order("PATCH", "/v1/cluster/settings", json!({"bootGraceMs": "1000"})).map_err(io::Error::other)?;
        let homes = self.containers.iter().zip(NODES.into_iter().cycle());
        let homes: Vec<(String, String)> = homes.map(|(container, home)| (container.clone(), name(home))).collect();
        furnish(&self.hosts, &homes)?;
        self.until_well(RECOVERY).map_err(io::Error::other)?;
        self.each = EACH.min(limit / HISTORIES);
        self.clients.start(options.seed, self.each);
        eprintln!(
            "{:>6.1} s  six witnesses on three nodes, four clients; seed {}",
            began.elapsed().as_secs_f64(),
            options.seed
        );
        let wanted = |deed: &Deed| options.only.as_ref().is_none_or(|only| deed.to_string().contains(only.as_str()));
        for (at, deed) in deeds::order(options.seed).take(100_000).filter(wanted).enumerate() {
            if began.elapsed() > limit {
                break;
            }
            eprintln!("{:>6.1} s  {:>3}  {deed}", began.elapsed().as_secs_f64(), at + 1);
            self.commit(&deed, options.seed)?;
            if !self.report.broken.is_empty() {
                return Ok(());
            }
        }
        self.compare("the run");
        Ok(())
    }

    fn commit(&mut self, deed: &Deed, seed: u64) -> io::Result<()> {
        self.go_home();
        let began_ns = now_ns();
        let before = self.places();
        let (observer, containers) = (&self.observer, &self.containers);
        let runs_on = |hosts: &Hosts, host: Host| -> Vec<String> {
            let on = |container: &&String| {
                let seen = container_of(hosts, container);
                seen.is_some_and(|it| it["assignment"]["node"] == name(host).as_str())
            };
            containers.iter().filter(on).cloned().collect()
        };
        let victims: BTreeMap<Host, Vec<String>> = NODES.map(|host| (host, runs_on(&self.hosts, host))).into();
        let moved = |_: &Hosts, host: Host, since_ns: u64| {
            victims.get(&host).into_iter().flatten().all(|container| {
                let latest = observer.latest(container);
                latest.is_some_and(|life| life.first_ns > since_ns && life.runner.node != name(host))
            })
        };
        let on = |host: Host| victims.get(&host).cloned().unwrap_or_default();
        let ended = || false;
        let mut stage = Stage { hosts: &mut self.hosts, seed, hold: self.hold, moved: &moved, on: &on, ended: &ended };
        let went = stage.act(deed)?;
        let undone_ns = went.undone_ns;
        if let Err(what) = self.until_well(RECOVERY) {
            self.report.broken.push(format!("NOT RECOVERED after {deed}: {what}"));
        }
        let well_ns = now_ns();
        self.exposures.extend(went.exposed.iter().map(|host| Exposure {
            node: name(*host),
            from_ns: began_ns,
            until_ns: well_ns,
        }));
        let (violations, _) = checker::judge(self.observer.broken(), &self.exposures);
        self.report.broken.extend(violations.iter().map(|fault| format!("during {deed}: {fault}")));
        let mine: Vec<Broken> = self.observer.broken().into_iter().filter(|it| began(it) >= began_ns).collect();
        let (_, exposed) = checker::judge(mine, &self.exposures);
        let back = self.observer.begun_within(&self.containers, began_ns, undone_ns);
        let elsewhere = back.iter().filter(|(container, life)| before.get(container) != Some(&life.runner.node));
        if matches!(deed, Deed::KillApply { .. }) {
            self.compare(&deed.to_string());
        }
        self.report.done.push(Done {
            what: deed.to_string(),
            kind: deed.kind(),
            packets: went.packets,
            moved_ms: elsewhere.map(|(_, life)| (life.first_ns - began_ns) / 1_000_000).collect(),
            exposed_ms: exposed.into_iter().map(|ns| ns / 1_000_000).collect(),
            healed_ms: (well_ns - undone_ns) / 1_000_000,
            not_run: went.not_run,
            refused: went.refused.inspect(|what| eprintln!("          refused: {what}")),
        });
        Ok(())
    }

    /// Waits until members follow one leader, nodes are up and every container runs and writes where the cluster says; says what
    /// is missing where it does not come. What an operator has to do by the book is done: a brake is released, a quarantined
    /// member is told to come back.
    fn until_well(&mut self, within: Duration) -> Result<(), String> {
        let deadline = Instant::now() + within;
        loop {
            let missing = match self.missing() {
                None => return Ok(()),
                Some(missing) => missing,
            };
            if Instant::now() > deadline {
                return Err(missing);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn missing(&mut self) -> Option<String> {
        for host in MEMBERS {
            let answer = api::call_within(Duration::from_millis(1_500), api_of(host), "GET", "/v1/cluster", None);
            let status = match answer {
                Ok((200, status)) => status,
                other => return Some(format!("{}: {other:?}", name(host))),
            };
            if status["standing"] == "MEMBER_STANDING_QUARANTINED" {
                self.report.quarantined += 1;
                let body = json!({"requestId": crate::processes::request_id()});
                let rejoin = api::call(api_of(host), "POST", "/v1/cluster/members:rejoin", Some(&body));
                return Some(format!("{} is quarantined ({}): {rejoin:?}", name(host), status["trouble"]));
            }
            if !status["brake"].is_null() {
                let _ = self.hosts.order("POST", "/v1/cluster:releaseBrake", json!({}));
                return Some("the brake is on".into());
            }
            let voters = status["members"].as_array().into_iter().flatten();
            let voters = voters.filter(|it| it["role"] == "MEMBER_ROLE_VOTER").count();
            let leader = status["leader"].as_str().unwrap_or("0");
            if leader == "0" || voters != MEMBERS.len() || status["joint"] == true {
                let standing = &status["standing"];
                return Some(format!("{} is {standing} of leader {leader}, {voters} voters", name(host)));
            }
        }
        for host in NODES {
            let node = self.hosts.node(host).unwrap_or_default();
            if node["health"] != "NODE_HEALTH_UP" {
                return Some(format!("{} is {}", name(host), node["health"]));
            }
            // Its guard once missed K, on a machine that had no time for it, and says so for good: time alone does not
            // fence it any more, which is as it should be.
            if node["fencingClass"] != "FENCING_CLASS_F1" && self.degraded.insert(node["incarnation"].to_string()) {
                self.report.degraded.push(format!("{}: {}", name(host), node["fencingClassReason"]));
            }
        }
        let now = now_ns();
        for container in self.containers.clone() {
            let Some(seen) = container_of(&self.hosts, &container) else { return Some(format!("no {container}")) };
            let id = seen["id"].as_str().unwrap_or_default().trim_start_matches('c').to_owned();
            if !self.plugged.contains(&container) && self.observer.plug(&id) {
                self.plugged.insert(container.clone());
            }
            let epoch = seen["assignment"]["epoch"].as_str().and_then(|it| it.parse::<u64>().ok());
            let fresh = now.saturating_sub(200_000_000);
            let writes = self.observer.latest(&container).is_some_and(|life| {
                Some(life.runner.epoch) == epoch
                    && seen["assignment"]["node"] == life.runner.node.as_str()
                    && life.last_ns > fresh
            });
            if seen["state"] != "CONTAINER_STATE_RUNNING" || !writes {
                return Some(format!("{container} is {} at {}, writes: {writes}", seen["state"], seen["assignment"]));
            }
        }
        None
    }
}

/// From here on this thread and all it starts are in the switch, where everybody can be reached and packets be met.
fn plug_into_switch(lab: &Lab) -> io::Result<()> {
    let switch = File::open(format!("/proc/{}/ns/net", lab.switch))?;
    move_into_link_name_space(std::os::fd::AsFd::as_fd(&switch), Some(LinkNameSpaceType::Network)).map_err(Into::into)
}

/// The template with this program in it, and the containers that run it, each with the node that is its home.
fn furnish(hosts: &Hosts, containers: &[(String, String)]) -> io::Result<()> {
    let shared = hosts.lab.dir.join("shared");
    let program = std::env::current_exe()?;
    world::lay_out(&shared.join("templates").join(TEMPLATE), &program)?;
    let insist =
        |verb: &str, path: &str, body: Value| hosts.order(verb, path, body).map(drop).map_err(io::Error::other);
    let template = json!({"template": {"kind": "TEMPLATE_KIND_OS", "path": format!("templates/{TEMPLATE}")}});
    insist("PUT", &format!("/v1/templates/{TEMPLATE}"), template)?;
    for (container, home) in containers {
        let spec = json!({
            "name": container, "template": TEMPLATE, "storage": "shared", "command": [program, "witness"],
            "resources": {"cpuMillis": "100", "memoryBytes": (64u64 << 20).to_string()},
            "preferredOwners": [{"nodes": [home]}], "stopGraceMs": "1000",
        });
        insist("POST", "/v1/containers", json!({"spec": spec}))?;
    }
    Ok(())
}

/// Everything the cluster says happened, oldest first.
fn events(hosts: &Hosts) -> Vec<Value> {
    let (mut all, mut from) = (Vec::new(), String::from("0"));
    while let Some(reply) = hosts.get(&format!("/v1/events?fromRevision={from}&page.size=1000")) {
        let events = reply["events"].as_array().cloned().unwrap_or_default();
        let next = next_revision(&events);
        all.extend(events);
        match (reply["page"]["nextToken"].as_str().filter(|token| !token.is_empty()), next) {
            (Some(_), Some(next)) => from = next,
            _ => break,
        }
    }
    all
}

fn container_of(hosts: &Hosts, container: &str) -> Option<Value> {
    Some(hosts.get(&format!("/v1/containers/{container}"))?["container"].clone())
}

/// After the last of these events.
fn next_revision(events: &[Value]) -> Option<String> {
    let last = events.last()?["revision"].as_str()?.parse::<u64>().ok()?;
    Some((last + 1).to_string())
}

/// When a fault began, as far as it has a time.
fn began(fault: &Broken) -> u64 {
    match fault {
        Broken::Overlap { from_ns, .. } => *from_ns,
        _ => 0,
    }
}

/// What is kept when a promise was broken.
pub fn evidence(dir: &Path) -> PathBuf {
    let name =
        dir.file_name().and_then(|name| name.to_str()).unwrap_or("nemesis").replace("nemesis", "nemesis-evidence");
    dir.with_file_name(name)
}

//! Doubt: five nodes that run containers while every processor is burnt twice over and the disk is synced without end, and
//! nothing else is wrong. In: minutes, a profile. Out: healthy nodes fenced and containers ended without a reason, beside
//! what the machine did to everybody meanwhile. Absent: faults. Whatever ends here was ended by mistake.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::hosts::Hosts;
use super::observer::Observer;
use super::witness::now_ns;
use super::{Options, RECOVERY, container_of, events, furnish, plug_into_switch};
use crate::lab::Lab;
use crate::processes::die_with_test;

const NODES: u8 = 5;
/// Busy processes for each processor, at the nice value of everybody else.
const BURNERS: usize = 2;
/// Writers that sync every block they wrote, so large, up to so many before they begin again.
const WRITERS: usize = 2;
const BLOCK: usize = 1 << 20;
const BLOCKS: u64 = 64;
/// Between two looks at the agents.
const LOOK: Duration = Duration::from_secs(1);
const TELL: Duration = Duration::from_secs(60);
/// What a thread like any other asks to sleep, to see how much later it wakes.
const NAP: Duration = Duration::from_millis(10);

/// What happened though nothing was wrong, by the word of its event.
const UNWANTED: [&str; 7] = [
    "fencing-begun",
    "node-fenced",
    "node-registered",
    "node-class-changed",
    "brake-tripped",
    "container-displaced",
    "container-closed",
];

/// What the machine did meanwhile, as far as it could be seen.
#[derive(Clone, Debug, Default)]
struct Seen {
    load_max: f64,
    load_sum: f64,
    looks: u64,
    /// The latest that a thread like any other woke, in all and since it was last told.
    late_us: u64,
    late_us_lately: u64,
    /// By node: what was left of a lease when it was renewed, at the least.
    least_left_ms: BTreeMap<String, i64>,
    /// By node: the latest that its guard ever woke.
    guard_late_us: BTreeMap<String, u64>,
    /// Looks that an agent did not answer.
    unanswered: u64,
    /// Terms of leaders that were seen.
    terms: std::collections::BTreeSet<String>,
}

/// Runs it in the folder `dir`, in a world of its own; whether nobody was fenced and nothing ended.
pub fn run(dir: &Path, runtime: &'static str, options: &Options) -> io::Result<bool> {
    let play = dir.join("lab");
    let lab = Lab::up(&play, runtime, NODES, &options.profile);
    plug_into_switch(&lab)?;
    let observer = Observer::start(dir, &play.join("shared"))?;
    let hosts = Hosts::new(lab);
    let containers: Vec<(String, String)> = (1..=NODES).map(|at| (format!("w-{at}"), format!("node-{at}"))).collect();
    furnish(&hosts, &containers)?;
    await_running(&hosts, &observer, &containers)?;
    let before = events(&hosts);
    let (began, began_ns) = (Instant::now(), now_ns());
    let load = Load::start(dir)?;
    let lateness = Lateness::start();
    let limit = Duration::from_secs_f64(options.minutes * 60.0);
    eprintln!("{} busy processes, {WRITERS} writers with syncs, five nodes, {} profile", load.burners, options.profile);
    let (mut seen, mut told) = (Seen::default(), Instant::now());
    while began.elapsed() < limit {
        std::thread::sleep(LOOK);
        seen.look(&hosts, &play, &lateness);
        if told.elapsed() > TELL {
            told = Instant::now();
            let minutes = began.elapsed().as_secs() / 60;
            eprintln!("{minutes:>4} min  {}", seen.lately());
            for event in &unwanted(&events(&hosts), &before) {
                eprintln!("          {event}");
            }
        }
    }
    seen.look(&hosts, &play, &lateness);
    let burnt = load.stop();
    // What is said by the end of the load counts; what its end itself may bring does not.
    let found = events(&hosts);
    let unwanted = unwanted(&found, &before);
    let text: String = found.iter().map(|event| format!("{event}\n")).collect();
    fs::write(dir.join("events.jsonl"), text)?;
    let names: Vec<String> = containers.iter().map(|(name, _)| name.clone()).collect();
    let restarted = observer.begun_within(&names, began_ns, now_ns()).len();
    let fenced = unwanted.iter().filter(|event| event["kind"] == "fencing-begun").count();
    let mut broken: Vec<String> = observer.broken().iter().map(ToString::to_string).collect();
    if found.first() != before.first() {
        broken.push("the members no longer remember everything that was said".to_owned());
    }
    let report = json!({
        "minutes": began.elapsed().as_secs_f64() / 60.0, "profile": options.profile, "runtime": runtime,
        "nodes": NODES, "burners": load_words(burnt), "healthy_nodes_fenced": fenced,
        "containers_restarted": restarted, "broken": broken,
        "unwanted": unwanted.iter().map(|event| event["text"].clone()).collect::<Vec<_>>(),
        "load_average_max": seen.load_max, "load_average_mean": seen.load_sum / seen.looks.max(1) as f64,
        "woken_late_max_ms": seen.late_us / 1_000, "guard_woken_late_max_us": seen.guard_late_us,
        "lease_left_least_ms": seen.least_left_ms, "terms_of_leaders": seen.terms.len(),
        "agents_unanswered": seen.unanswered,
    });
    fs::write(dir.join("report.json"), format!("{report:#}\n"))?;
    match options.json {
        true => println!("{report:#}"),
        false => {
            println!("{:.0} minutes, {} profile, {runtime}: {}", options.minutes, options.profile, seen.all_in_all());
            println!("healthy nodes fenced {fenced}, containers restarted {restarted}, {} broken", broken.len());
            unwanted.iter().for_each(|event| println!("UNWANTED: {}", event["text"]));
            broken.iter().for_each(|fault| println!("BROKEN: {fault}"));
        }
    }
    Ok(unwanted.is_empty() && restarted == 0 && broken.is_empty())
}

/// Waits until every container runs and writes at home, each seen by the observer.
fn await_running(hosts: &Hosts, observer: &Observer, containers: &[(String, String)]) -> io::Result<()> {
    let deadline = Instant::now() + RECOVERY;
    loop {
        let missing = containers.iter().find(|(name, home)| {
            let Some(seen) = container_of(hosts, name) else { return true };
            observer.plug(seen["id"].as_str().unwrap_or_default().trim_start_matches('c'));
            let writes = observer.latest(name).is_some_and(|life| now_ns() - life.last_ns < 200_000_000);
            seen["state"] != "CONTAINER_STATE_RUNNING" || seen["assignment"]["node"] != home.as_str() || !writes
        });
        let Some((name, home)) = missing else { return Ok(()) };
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("{name} does not run on {home}: {:?}", container_of(hosts, name))));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Those beyond what was said `before` that should not be.
fn unwanted(events: &[Value], before: &[Value]) -> Vec<Value> {
    let revision = |event: &Value| event["revision"].as_str().and_then(|text| text.parse::<u64>().ok());
    let known = before.last().and_then(revision);
    let is_one =
        |event: &&Value| revision(event) > known && event["kind"].as_str().is_some_and(|kind| UNWANTED.contains(&kind));
    events.iter().filter(is_one).cloned().collect()
}

fn load_words((burners, blocks): (usize, u64)) -> String {
    format!("{burners} busy, {WRITERS} writers, {blocks} MiB synced one by one")
}

impl Seen {
    fn look(&mut self, hosts: &Hosts, play: &Path, lateness: &Lateness) {
        let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = text.split(' ').next().and_then(|word| word.parse::<f64>().ok()).unwrap_or_default();
        (self.load_max, self.load_sum, self.looks) = (self.load_max.max(load), self.load_sum + load, self.looks + 1);
        let late_us = lateness.take_us();
        self.late_us = self.late_us.max(late_us);
        self.late_us_lately = self.late_us_lately.max(late_us);
        for at in 1..=NODES {
            let name = format!("node-{at}");
            let run_dir = play.join(hosts.lab.machine_of(&name)).join("agent/run");
            let Ok(status) = agent_status(&run_dir) else {
                self.unanswered += 1;
                continue;
            };
            if let Some(left) = status["lease_left_least_ms"].as_i64() {
                let known = self.least_left_ms.entry(name.clone()).or_insert(left);
                *known = left.min(*known);
            }
            let late = status["guard"]["lateness_us"].as_u64().unwrap_or_default();
            let known = self.guard_late_us.entry(name).or_default();
            *known = late.max(*known);
        }
        if let Some(status) = hosts.get("/v1/cluster") {
            self.terms.insert(status["term"].to_string());
        }
    }

    /// Since this was last asked, as far as it can be told apart.
    fn lately(&mut self) -> String {
        let late = std::mem::take(&mut self.late_us_lately) / 1_000;
        format!("woken {late} ms late at most; all in all {}", self.all_in_all())
    }

    fn all_in_all(&self) -> String {
        let left = self.least_left_ms.values().min().map_or("nothing".to_owned(), |left| format!("{left} ms"));
        format!(
            "load average {:.1} at most, {:.1} in the mean; a thread woke {} ms late, a guard {} µs; {left} of a lease \
             left at the least; {} terms of leaders; {} looks unanswered",
            self.load_max,
            self.load_sum / self.looks.max(1) as f64,
            self.late_us / 1_000,
            self.guard_late_us.values().max().unwrap_or(&0),
            self.terms.len(),
            self.unanswered,
        )
    }
}

/// What the agent with that run folder says of itself.
fn agent_status(run_dir: &Path) -> io::Result<Value> {
    let mut stream = UnixStream::connect(run_dir.join("agent.sock"))?;
    stream.set_read_timeout(Some(LOOK))?;
    stream.write_all(b"status\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    serde_json::from_str(&line).map_err(io::Error::other)
}

// ---- The load ----

struct Load {
    children: Vec<Child>,
    burners: usize,
    dir: PathBuf,
}

impl Load {
    fn start(dir: &Path) -> io::Result<Load> {
        let own = std::env::current_exe()?;
        let burners = BURNERS * std::thread::available_parallelism()?.get();
        let mut load = Load { children: Vec::new(), burners, dir: dir.to_owned() };
        for at in 0..burners + WRITERS {
            let mut command = Command::new(&own);
            match at.checked_sub(burners) {
                None => command.arg("burn"),
                Some(writer) => command.arg("churn").arg(load.churned(writer)),
            };
            die_with_test(&mut command);
            load.children.push(command.stdin(Stdio::null()).spawn()?);
        }
        Ok(load)
    }

    fn churned(&self, writer: usize) -> PathBuf {
        self.dir.join(format!("churn-{writer}"))
    }

    /// How many burnt, and how many blocks were synced.
    fn stop(mut self) -> (usize, u64) {
        self.end();
        let count = |writer| fs::read_to_string(self.churned(writer).with_extension("count")).unwrap_or_default();
        (self.burners, (0..WRITERS).filter_map(|writer| count(writer).trim().parse::<u64>().ok()).sum())
    }

    fn end(&mut self) {
        for mut child in self.children.drain(..) {
            let _ = child.kill().and_then(|()| child.wait());
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

/// Keeps a processor busy until it is killed.
pub fn burn() -> io::Result<()> {
    let mut number = 1u64;
    loop {
        number = std::hint::black_box(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    }
}

/// Writes blocks to `file` and syncs each, until it is killed; how many is in the file beside it.
pub fn churn(path: &Path) -> io::Result<()> {
    let (block, count) = (vec![7u8; BLOCK], path.with_extension("count"));
    let mut file = File::create(path)?;
    for at in 1u64.. {
        file.write_all(&block)?;
        file.sync_all()?;
        fs::write(&count, at.to_string())?;
        if at % BLOCKS == 0 {
            file.rewind()?;
        }
    }
    Ok(())
}

/// How late a thread of the usual kind wakes.
struct Lateness {
    worst_us: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
}

impl Lateness {
    fn start() -> Lateness {
        let (worst_us, ends) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (shared, told) = (worst_us.clone(), ends.clone());
        std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                let before = Instant::now();
                std::thread::sleep(NAP);
                let late = before.elapsed().saturating_sub(NAP);
                shared.fetch_max(late.as_micros() as u64, Ordering::Relaxed);
            }
        });
        Lateness { worst_us, ends }
    }

    /// The worst since this was last asked.
    fn take_us(&self) -> u64 {
        self.worst_us.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Lateness {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_said_after_the_beginning_and_should_not_be_is_unwanted() {
        let said = |revision: u64, kind: &str| json!({"revision": revision.to_string(), "kind": kind});
        let before = [said(3, "node-registered"), said(9, "container-running")];
        let more = [said(9, "container-running"), said(10, "fencing-begun"), said(11, "settings-changed")];
        let all = [&before[..1], &more[..], &[said(12, "node-registered")]].concat();
        assert_eq!(unwanted(&all, &before), [said(10, "fencing-begun"), said(12, "node-registered")]);
        assert!(unwanted(&before, &before).is_empty());
    }
}

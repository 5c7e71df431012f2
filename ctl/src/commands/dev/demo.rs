//! The demonstration: a cluster loses a machine, then the machine that leads it; every container comes back elsewhere.
//! In: a playground. Out: a timeline, a table, a report; the verdict rests on what the containers wrote themselves.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use proto::v1;
use serde::{Deserialize, Serialize};

use super::playground::{Playground, STORAGE, TEMPLATE, containers, nodes, status, wait_until};
use super::{rootfs, witness};
use crate::client::Client;
use crate::output::table;
use crate::progress::Progress;

/// The manifest that ships with the program.
const MANIFEST: &str = include_str!("manifest.toml");
/// A container that has not written for this long does not run: far above its rhythm, far below a failover.
const FRESH: Duration = Duration::from_millis(1_000);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    container: Vec<Wanted>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    name: String,
    priority: u32,
    memory_mib: u64,
    #[serde(default)]
    class: Class,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Class {
    #[default]
    Guaranteed,
    BestEffort,
    None,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub struct Report {
    pub profile: &'static str,
    pub runtime: String,
    pub fencing_class: String,
    pub fencing_class_reason: String,
    pub rounds: Vec<Round>,
    pub containers: Vec<Place>,
    /// Times two nodes ran a container together, over the whole demonstration.
    pub overlaps: usize,
    /// Containers that do not run at the end.
    pub lost: usize,
    /// In words, whatever was not as promised.
    pub violations: Vec<String>,
    pub seconds: f64,
}

#[derive(Debug, Serialize)]
pub struct Round {
    pub what: String,
    pub machine: String,
    pub node: String,
    pub leader_lost: bool,
    /// Keyed by container: from the power cut to the first line it wrote elsewhere.
    pub failover_ms: BTreeMap<String, u64>,
    pub timeline: Vec<Step>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Step {
    pub after_ms: u64,
    pub what: String,
}

#[derive(Debug, Serialize)]
pub struct Place {
    pub container: String,
    pub node: String,
    pub epoch: u64,
    pub why: String,
}

/// Runs the whole demonstration on a playground that is up: `rounds` times a node alone, then a node with the leader.
pub async fn run(playground: &mut Playground, rounds: usize, progress: &Progress) -> Result<Report> {
    let began = Instant::now();
    let client = playground.client(Duration::from_secs(15));
    progress.say("creating six containers");
    create(&client).await?;
    wait_running(playground, &client).await?;
    let runtime = describe_runtime(&client).await?;
    progress.line(&format!("six containers run on {} ({})", playground.profile.name(), runtime.text));

    if rounds > 1 {
        forgive_restarts(&client).await?;
    }
    let mut cuts = Vec::new();
    for _ in 0..rounds {
        heal(&client, progress).await?;
        let victim = led_elsewhere(playground, &client).await?;
        cuts.push(lose(playground, &client, &victim, false, runtime.class != "F0", progress).await?);
        bring_back(playground, &client, &victim, progress).await?;

        heal(&client, progress).await?;
        let hosts_member = |machine: &str| playground.machines[machine].member.is_some();
        let victim = loaded_machine(playground, &client, hosts_member).await?;
        lead_from(playground, &client, &victim).await?;
        cuts.push(lose(playground, &client, &victim, true, runtime.class != "F0", progress).await?);
        bring_back(playground, &client, &victim, progress).await?;
    }

    progress.say("reading what the containers wrote");
    let mut report = Report {
        profile: playground.profile.name(),
        runtime: runtime.name,
        fencing_class: runtime.class,
        fencing_class_reason: runtime.reason,
        rounds: cuts,
        containers: places(&client).await?,
        overlaps: 0,
        lost: 0,
        violations: Vec::new(),
        seconds: began.elapsed().as_secs_f64(),
    };
    judge(playground, &client, &mut report).await?;
    Ok(report)
}

impl Report {
    pub fn is_good(&self) -> bool {
        self.overlaps == 0 && self.lost == 0 && self.violations.is_empty()
    }

    pub fn for_people(&self) -> String {
        let mut text = String::new();
        for round in &self.rounds {
            text += &format!("\n{}\n", round.what);
            for step in &round.timeline {
                text += &format!("  {:>7} ms  {}\n", step.after_ms, step.what);
            }
        }
        let rows = self.containers.iter().map(|place| {
            let gaps = self.rounds.iter().filter_map(|round| round.failover_ms.get(&place.container));
            let gaps: Vec<String> = gaps.map(|ms| format!("{ms} ms")).collect();
            let gaps = if gaps.is_empty() { "-".to_owned() } else { gaps.join(", ") };
            vec![place.container.clone(), place.node.clone(), format!("e{}", place.epoch), gaps, place.why.clone()]
        });
        text += &format!("\n{}\n", table(&["container", "node", "epoch", "failover", "why there"], rows));
        if self.is_good() {
            text += &format!(
                "\nEvery container runs exactly once, and nothing ever ran twice ({:.1} s in all, {} profile, {}, {}).\n",
                self.seconds, self.profile, self.runtime, self.fencing_class
            );
        } else {
            text += &format!("\nNOT AS PROMISED: {} overlaps, {} lost\n", self.overlaps, self.lost);
            for violation in &self.violations {
                text += &format!("  {violation}\n");
            }
        }
        text
    }
}

async fn create(client: &Client) -> Result<()> {
    let manifest: Manifest = toml::from_str(MANIFEST).context("read the manifest that ships with this program")?;
    let program = rootfs::program()?.display().to_string();
    let item = |wanted: Wanted| v1::CreateContainerRequest {
        request_id: client.request_id(),
        desired: v1::DesiredState::Running as i32,
        spec: Some(v1::ContainerSpec {
            name: wanted.name,
            template: TEMPLATE.into(),
            storage: STORAGE.into(),
            command: [program.as_str(), "dev", "witness"].map(str::to_owned).into(),
            resources: Some(v1::Resources { cpu_millis: 250, memory_bytes: wanted.memory_mib << 20 }),
            class: match wanted.class {
                Class::Guaranteed => v1::ContainerClass::Guaranteed,
                Class::BestEffort => v1::ContainerClass::BestEffort,
                Class::None => v1::ContainerClass::None,
            } as i32,
            priority: Some(wanted.priority),
            stop_grace_ms: Some(2_000),
            ..v1::ContainerSpec::default()
        }),
    };
    let request = v1::BatchCreateContainersRequest { items: manifest.container.into_iter().map(item).collect() };
    let reply = client.ask(request).await.context("create the containers")?;
    for result in reply.results {
        if let Some(problem) = result.problem {
            anyhow::bail!("create a container: {} {}", problem.message, problem.hint);
        }
    }
    Ok(())
}

async fn wait_running(playground: &Playground, client: &Client) -> Result<()> {
    wait_until(Duration::from_secs(30), "every container runs", async || {
        let all = containers(client).await?;
        let running = |it: &v1::Container| it.state() == v1::ContainerState::Running;
        Ok(!all.is_empty() && all.iter().all(running) && all.iter().all(|it| writes_now(playground, it)))
    })
    .await
}

/// Its own newest line is fresh and of the epoch the cluster says.
fn writes_now(playground: &Playground, container: &v1::Container) -> bool {
    let epoch = container.assignment.as_ref().map(|assignment| assignment.epoch);
    let record = record_of(playground, container).unwrap_or_default();
    let fresh = witness::now_ns().saturating_sub(FRESH.as_nanos() as u64);
    record.runs.last().is_some_and(|run| Some(run.epoch) == epoch && run.last_ns >= fresh)
}

fn record_of(playground: &Playground, container: &v1::Container) -> Result<witness::Record> {
    let id = container.id.trim_start_matches('c');
    witness::read(&private_area(playground, id))
}

/// Where the agents put private areas, below the storage.
fn private_area(playground: &Playground, id: &str) -> std::path::PathBuf {
    playground.shared().join("containers").join(id)
}

struct Runtime {
    name: String,
    class: String,
    reason: String,
    text: String,
}

async fn describe_runtime(client: &Client) -> Result<Runtime> {
    let nodes = nodes(client).await?;
    let node = nodes.iter().find(|node| !node.runtimes.is_empty()).context("no node has a runtime that works")?;
    let name = node.runtimes[0].clone();
    let class = format!("{:?}", node.fencing_class());
    let refused = if node.runtimes_refused.is_empty() {
        String::new()
    } else {
        format!("; not used: {}", node.runtimes_refused.join("; "))
    };
    let text = format!("runtime {name}, fencing class {class}: {}{refused}", node.fencing_class_reason);
    Ok(Runtime { name, class, reason: node.fencing_class_reason.clone(), text })
}

/// A member that has just started counts every lease from its own start, since it knows of none before: as long as one
/// can last, a failover that needs its word waits for that. A cluster has healed when this time is over too.
async fn heal(client: &Client, progress: &Progress) -> Result<()> {
    let settings = client.ask(v1::GetSettingsRequest::default()).await?.settings;
    let wait_ms = settings.and_then(|settings| settings.lease_terms).context("the cluster has lease terms")?.wait_ms;
    progress.say("waiting until the members that started last can vouch for every lease");
    tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    Ok(())
}

/// Two members of three that come back within the boot grace look like a cluster that is being switched on, and then
/// nobody is fenced on time. Here they come back every few seconds, and each cut is to be its own.
async fn forgive_restarts(client: &Client) -> Result<()> {
    let request = v1::UpdateSettingsRequest { boot_grace_ms: Some(1_000), ..v1::UpdateSettingsRequest::default() };
    client.ask(request).await.context("shorten the boot grace")?;
    Ok(())
}

async fn leader_machine(playground: &Playground, client: &Client) -> Result<String> {
    let mut name = String::new();
    // Whoever has just come back may not know yet who leads.
    wait_until(Duration::from_secs(15), "a member leads", async || {
        let status = status(client).await?;
        let leader = status.members.iter().find(|member| member.id == status.leader);
        name = leader.map(|leader| leader.name.clone()).unwrap_or_default();
        Ok(leader.is_some())
    })
    .await?;
    playground.machine_named(&name)
}

/// The machine whose active node runs most containers, among those that `fit`.
async fn loaded_machine(playground: &Playground, client: &Client, fits: impl Fn(&str) -> bool) -> Result<String> {
    let all = containers(client).await?;
    let load = |node: &str| all.iter().filter(|it| on_node(it) == Some(node)).count();
    let candidates = playground.nodes().filter(|(machine, node)| !node.standby && fits(machine));
    let (machine, node) = candidates.max_by_key(|(_, node)| load(&node.name)).context("no active node is left")?;
    ensure!(load(&node.name) > 0, "no container runs on {}", node.name);
    Ok(machine.to_owned())
}

fn on_node(container: &v1::Container) -> Option<&str> {
    container.assignment.as_ref().map(|assignment| assignment.node.as_str())
}

/// A loaded machine that does not host the leader. Where the only loaded one does, leadership moves away first.
async fn led_elsewhere(playground: &Playground, client: &Client) -> Result<String> {
    let leader = leader_machine(playground, client).await?;
    if let Ok(machine) = loaded_machine(playground, client, |machine| machine != leader).await {
        return Ok(machine);
    }
    let other = playground.members().map(|(machine, _)| machine).find(|machine| *machine != leader);
    lead_from(playground, client, other.context("there is another member")?).await?;
    Ok(leader)
}

async fn lead_from(playground: &Playground, client: &Client, machine: &str) -> Result<()> {
    let member = playground.machines[machine].member.clone().context("the machine hosts no member")?;
    wait_until(Duration::from_secs(15), &format!("{} leads", member.name), async || {
        let now = status(client).await?;
        if now.members.iter().any(|it| it.id == now.leader && it.name == member.name) {
            return Ok(true);
        }
        let request = v1::TransferLeaderRequest { request_id: client.request_id(), member: member.name.clone() };
        client.ask(request).await?;
        Ok(false)
    })
    .await
}

/// Cuts the power of `machine` and watches until everything it ran writes from elsewhere.
async fn lose(
    playground: &mut Playground,
    client: &Client,
    machine: &str,
    leader_lost: bool,
    proven_by_time: bool,
    progress: &Progress,
) -> Result<Round> {
    let node = playground.machines[machine].node.clone().context("the machine hosts no node")?.name;
    let all = containers(client).await?;
    let moved: Vec<v1::Container> = all.into_iter().filter(|it| on_node(it) == Some(&node)).collect();
    let known = nodes(client).await?;
    let lost_incarnation = known.iter().find(|it| it.name == node).map(|it| it.incarnation).unwrap_or_default();
    let from = status(client).await?.revision + 1;
    let others = if leader_lost { format!("{node} and the leader die together") } else { format!("{node} dies") };
    let what = format!("{machine} loses its power: {others}, and {} containers with it", moved.len());
    progress.line(&what);

    let cut_ns = witness::now_ns();
    let cut = Instant::now();
    let cut_wall = unix_ms();
    playground.power_off(machine)?;
    let survivors: Vec<String> =
        playground.members().filter(|(name, _)| *name != machine).map(|(_, it)| it.api.clone()).collect();
    let client = Client::new(survivors, Duration::from_secs(15));
    let mut timeline = vec![Step { after_ms: 0, what: format!("power cut: {node} is silent from here on") }];
    if !proven_by_time {
        // Time proves nothing about such a node; somebody who knows must say that it is off. Here that is us.
        let incarnation = lost_incarnation;
        wait_until(Duration::from_secs(10), &format!("{node} is confirmed off"), async || {
            let reason = "the playground's power switch reports off".to_owned();
            let request_id = client.request_id();
            client.ask(v1::ConfirmDownRequest { request_id, node: node.clone(), incarnation, reason }).await?;
            Ok(true)
        })
        .await?;
        let after_ms = cut.elapsed().as_millis() as u64;
        let what = format!("class F0: dev stands in as the power switch of {node} and confirms that it is off");
        progress.line(&format!("{after_ms:>9} ms  {what}"));
        timeline.push(Step { after_ms, what });
    }
    let mut failover_ms = BTreeMap::new();
    let mut next = from;
    let limit = Duration::from_secs(30);
    let mut suspected = false;
    while failover_ms.len() < moved.len() {
        ensure!(
            cut.elapsed() < limit,
            "{} containers are not back after {} s",
            moved.len() - failover_ms.len(),
            limit.as_secs()
        );
        if !suspected && let Ok(now) = nodes(&client).await {
            let silent = now.iter().find(|it| it.name == node && it.health() == v1::NodeHealth::Suspect);
            if silent.is_some() {
                suspected = true;
                let step = Step { after_ms: cut.elapsed().as_millis() as u64, what: format!("{node} is suspected") };
                progress.line(&format!("{:>9} ms  {}", step.after_ms, step.what));
                timeline.push(step);
            }
        }
        if let Ok(events) = events_since(&client, next).await {
            for event in events {
                next = next.max(event.revision + 1);
                let after_ms = event.time_unix_ms.saturating_sub(cut_wall).max(0) as u64;
                progress.line(&format!("{after_ms:>9} ms  {}", event.text));
                timeline.push(Step { after_ms, what: event.text });
            }
        }
        for container in &moved {
            let name = container.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default();
            let back = record_of(playground, container)?.runs.into_iter().find(|run| run.first_ns > cut_ns);
            if let Some(run) = back
                && !failover_ms.contains_key(&name)
            {
                let after_ms = (run.first_ns - cut_ns) / 1_000_000;
                let what = format!("{name} writes again: {}, epoch {}", run.node, run.epoch);
                timeline.push(Step { after_ms, what });
                failover_ms.insert(name, after_ms);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    timeline.sort_by_key(|step| step.after_ms);
    let slowest = failover_ms.values().max().copied().unwrap_or_default();
    progress.line(&format!("all {} are back after {slowest} ms", moved.len()));
    wait_running(playground, &client).await?;
    Ok(Round { what, machine: machine.to_owned(), node, leader_lost, failover_ms, timeline })
}

async fn bring_back(playground: &mut Playground, client: &Client, machine: &str, progress: &Progress) -> Result<()> {
    progress.say(&format!("switching {machine} on again"));
    playground.power_on(machine)?;
    playground.wait_for_nodes(Duration::from_secs(20)).await?;
    let name = playground.machines[machine].member.as_ref().map(|member| member.name.clone());
    if let Some(name) = name {
        wait_until(Duration::from_secs(15), &format!("{name} has caught up"), async || {
            let now = status(client).await?;
            Ok(now.members.iter().any(|it| it.name == name && it.reachable))
        })
        .await?;
    }
    progress.line(&format!("{machine} is back: its node is up under a new incarnation, its member follows"));
    Ok(())
}

async fn events_since(client: &Client, revision: u64) -> Result<Vec<v1::Event>> {
    let request = v1::ListEventsRequest {
        from_revision: revision,
        stale: true,
        page: Some(v1::PageRequest { size: 1_000, token: String::new() }),
        ..v1::ListEventsRequest::default()
    };
    Ok(client.ask(request).await?.events)
}

async fn places(client: &Client) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    for container in containers(client).await? {
        let request = v1::WhyRequest { container: format!("@{}", container.id), stale: false };
        let why = client.ask(request).await?;
        places.push(Place {
            container: container.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default(),
            node: on_node(&container).unwrap_or("-").to_owned(),
            epoch: container.epoch,
            why: why.lines.get(1).or(why.lines.first()).cloned().unwrap_or_default(),
        });
    }
    Ok(places)
}

/// The verdict: what the containers wrote, against what the cluster says.
async fn judge(playground: &Playground, client: &Client, report: &mut Report) -> Result<()> {
    let all = containers(client).await?;
    for container in &all {
        let name = container.spec.as_ref().map(|spec| spec.name.as_str()).unwrap_or_default();
        let record = record_of(playground, container)?;
        report.overlaps += record.violations.len();
        report.violations.extend(record.violations.into_iter().map(|it| format!("{name}: {it}")));
        if !writes_now(playground, container) {
            report.lost += 1;
            report.violations.push(format!("{name} does not write, or not under the epoch the cluster gave it"));
        }
    }
    if all.len() != report.containers.len() {
        report.violations.push("containers appeared or vanished".to_owned());
    }
    Ok(())
}

fn unix_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as i64
}

/// How to reach what `--keep` leaves running.
pub fn how_to_reach(playground: &Playground) -> String {
    let apis = playground.apis();
    let api = apis.first().map(String::as_str).unwrap_or_default();
    let inside = playground.net.map_or(String::new(), |net| format!("nsenter --net={} ", net.path()));
    format!(
        "The cluster stays up.\n  ctl   {inside}quoratectl --server {} container list\n  REST  {inside}curl \
         http://{api}/v1/containers\n  gRPC  {api} \
         (reflection is on; service quorate.v1.ContainerService)\n  files {}\n  end   quoratectl dev down --dir {}",
        apis.join(","),
        playground.dir.display(),
        playground.dir.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_that_ships_names_six_containers() {
        let manifest: Manifest = toml::from_str(MANIFEST).unwrap();
        assert_eq!(manifest.container.len(), 6);
    }
}

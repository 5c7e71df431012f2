//! Stories: a cluster, what is done to it and when, what must come of it, and the transcript a person can read.
//! In: the text of a story. Out: the transcript of its run, or the claim that does not hold. The verbs are listed in
//! `VERBS`; targets are `n2`, `m1`, `machine 3`, `clients`, or who holds a role by then: `leader`.
//! Absent: chance, but for what the network and the disks draw from the story's seed.

use std::fmt::Write;
use std::sync::Arc;

use cluster::{OnQuorumLoss, Profile, Role};

use crate::sim::clock::{God, MS, SECOND};
use crate::sim::deeds::{Ask, Deed, Layout, Machine, Plan};
use crate::sim::disk::Speed;
use crate::sim::net::{Site, Weather};
use crate::sim::transcript::{Show, Stamp, Transcript};
use crate::sim::world::World;

/// What a story may say, one a line; for the message about a line that cannot be read.
pub const VERBS: &str = "\
members N | nodes N | standby nK | alone mK | spare N | power-switch | profile NAME | seed N | show KIND… | hide TEXT
at T VERB …   with VERB one of
  create NAME [memory MIB] [keep] [prefer nK] | start, stop, delete, restart NAME | move NAME [to nK]
  annotate NAME KEY=VALUE | policy NAME stop|keep | look NAME [stale] | cordon, uncordon, drain, maintain, return nK | role nK active|standby | profile NAME | read
  power-off, power-on, freeze, suspend, thaw, isolate, rejoin TARGET | cut, mend TARGET TARGET | slow TARGET TARGET T
  kill-member, pause-member, resume-member mK | kill-agent, pause-agent, resume-agent nK | kill-guard, kill-node nK
  stall-disk mK T | wipe-disk mK | rot-disk mK | slow-stops nK T T | hang-kills nK T | fail-starts nK T | lose-storage nK T | exit nK CODE
  transfer-leader [mK] | add-member machine K | remove-member mK | leave nK | confirm-down nK | replay nK | heal
  expect NAME runs on nK | expect NAME runs nowhere | expect NAME has no place | expect leader mK | expect well
until T
some TEXT | never TEXT   about the lines of the transcript
---           and then the expected transcript";

/// A story as it is written.
pub struct Story {
    layout: Layout,
    seed: u64,
    shown: Vec<Show>,
    hidden: Vec<String>,
    steps: Vec<(God, Vec<String>)>,
    until: God,
    claims: Vec<(bool, String)>,
    /// Everything above the transcript, as written.
    pub head: String,
    pub expected: String,
}

impl Story {
    /// Errs with the line that cannot be read and why.
    pub fn parse(text: &str) -> Result<Story, String> {
        let (head, expected) = text.split_once("\n---\n").unwrap_or((text.trim_end(), ""));
        if !head.starts_with("# ") {
            return Err("a story begins with what it shows and why that matters, in lines with #".to_owned());
        }
        let mut story = Story::blank(head, expected);
        let (mut members, mut nodes, mut spare) = (3, 3, 0);
        let (mut alone, mut standby) = (Vec::new(), Vec::new());
        for line in head.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let read = match words.as_slice() {
                ["members", count] => number(count).map(|count| members = count as usize),
                ["nodes", count] => number(count).map(|count| nodes = count as usize),
                ["spare", count] => number(count).map(|count| spare = count as usize),
                ["standby", node] => numbered('n', node).map(|node| standby.push(node as usize)),
                ["alone", member] => numbered('m', member).map(|member| alone.push(member as usize)),
                ["power-switch"] => {
                    story.layout.power_switch = true;
                    Ok(())
                }
                ["profile", name] => profile(name).map(|profile| story.layout.profile = profile),
                ["seed", seed] => number(seed).map(|seed| story.seed = seed),
                ["show", kinds @ ..] => kinds
                    .iter()
                    .map(|kind| show(kind))
                    .collect::<Result<Vec<_>, _>>()
                    .map(|kinds| story.shown.extend(kinds)),
                ["hide", ..] => {
                    story.hidden.push(line[5..].to_owned());
                    Ok(())
                }
                ["some", ..] => {
                    story.claims.push((true, line[5..].to_owned()));
                    Ok(())
                }
                ["never", ..] => {
                    story.claims.push((false, line[6..].to_owned()));
                    Ok(())
                }
                ["until", time] => span(time).map(|time| story.until = time),
                ["at", time, verb @ ..] => span(time).map(|time| {
                    story.steps.push((time, verb.iter().map(|word| (*word).to_owned()).collect()));
                }),
                _ => Err("no such line".to_owned()),
            };
            read.map_err(|problem| format!("{line:?}: {problem}; a story may say:\n{VERBS}"))?;
        }
        if story.steps.windows(2).any(|pair| pair[0].0 > pair[1].0) {
            return Err("the steps of a story stand in the order of their times".to_owned());
        }
        story.layout.machines = machines(members, nodes, spare, &alone, &standby);
        Ok(story)
    }

    fn blank(head: &str, expected: &str) -> Story {
        Story {
            layout: Layout {
                machines: Vec::new(),
                profile: Profile::Default,
                weather: Weather::CALM,
                disk: Speed::NVME,
                snapshot_every: 10_000,
                boot_grace_ms: 60_000,
                brake_quiet_ms: 5 * 60_000,
                clients: 1,
                tick_stretch: 1,
                power_switch: false,
            },
            seed: 1,
            shown: vec![Show::Deeds, Show::Events, Show::Runs, Show::Guards, Show::Leaders],
            hidden: Vec::new(),
            steps: Vec::new(),
            until: 30 * SECOND,
            claims: Vec::new(),
            head: head.to_owned(),
            expected: expected.to_owned(),
        }
    }

    /// The transcript. Errs with the claim or the invariant that does not hold, after the transcript so far.
    pub fn run(&self) -> Result<String, String> {
        let plan =
            Plan { seed: self.seed, layout: self.layout.clone(), schedule: Vec::new(), faults_until: self.until };
        let mut world = World::new(&plan, Transcript::of(&self.shown));
        let mut wrong = None;
        for (time, words) in &self.steps {
            world.run(*time);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            if let Err(problem) = step(&mut world, &words) {
                wrong = Some(format!("at {} s, {}: {problem}", Stamp(*time), words.join(" ")));
                break;
            }
        }
        if wrong.is_none() {
            world.run(self.until);
            let now = world.now;
            for violation in cluster::invariants::check(&world.newest) {
                world.checks.violate(now, "State", violation.to_string());
            }
        }
        let text = self.text(&world);
        let wrong = world.checks.first.as_ref().map(ToString::to_string).or(wrong).or_else(|| self.broken_claim(&text));
        match wrong {
            Some(wrong) => Err(format!("{text}\n{wrong}")),
            None => Ok(text),
        }
    }

    fn broken_claim(&self, text: &str) -> Option<String> {
        let broken = |(some, what): &&(bool, String)| text.contains(what.as_str()) != *some;
        let (some, what) = self.claims.iter().find(broken)?;
        Some(if *some { format!("no line says {what:?}") } else { format!("some line says {what:?}") })
    }

    fn text(&self, world: &World) -> String {
        let mut text = String::new();
        let shown = |line: &&String| !self.hidden.iter().any(|hidden| line.contains(hidden.as_str()));
        for line in world.transcript.lines().iter().filter(shown) {
            let _ = writeln!(text, "{line}");
        }
        let _ = writeln!(text, "\nat the end:");
        for container in world.newest.containers() {
            let name = container.spec.name.to_string();
            let runs: Vec<String> = world
                .checks
                .runners(container.id)
                .iter()
                .map(|runner| format!("{} on {}", runner.epoch, runner.node))
                .collect();
            let runs = if runs.is_empty() { "nowhere".to_owned() } else { runs.join(" and ") };
            let _ = writeln!(text, "{name} runs {runs}");
        }
        for node in world.newest.nodes() {
            let _ = writeln!(text, "{} is {} and {}", node.name, node.health, node.intent);
        }
        text
    }

    /// The whole file, with this transcript.
    pub fn with(&self, transcript: &str) -> String {
        format!("{}\n---\n{transcript}", self.head)
    }
}

fn machines(members: usize, nodes: usize, spare: usize, alone: &[usize], standby: &[usize]) -> Vec<Machine> {
    let with_nodes = (1..=nodes).map(|place| Machine {
        member: place <= members && !alone.contains(&place),
        node: Some(if standby.contains(&place) { Role::Standby } else { Role::Active }),
        rate_ppm: 0,
    });
    let only_members = (1..=members).filter(|place| *place > nodes || alone.contains(place)).map(|_| Machine {
        member: true,
        node: None,
        rate_ppm: 0,
    });
    let nothing = (0..spare).map(|_| Machine { member: false, node: None, rate_ppm: 0 });
    with_nodes.chain(only_members).chain(nothing).collect()
}

/// One step at its time: a deed, or a claim about this moment.
fn step(world: &mut World, words: &[&str]) -> Result<(), String> {
    let site = |text: &str| target(world, text);
    let deed = match words {
        ["expect", claim @ ..] => return expect(world, claim),
        ["heal"] => {
            world.heal();
            return Ok(());
        }
        ["power-off", at] => Deed::PowerOff(site(at)?),
        ["power-on", at] => Deed::PowerOn(site(at)?),
        ["freeze", at] => Deed::Freeze(site(at)?),
        ["suspend", at] => Deed::Suspend(site(at)?),
        ["hang-kills", at, length] => Deed::HangKills { at: site(at)?, length: span(length)? },
        ["thaw", at] => Deed::Thaw(site(at)?),
        ["isolate", at] => Deed::Isolate(site(at)?),
        ["rejoin", at] => Deed::Rejoin(site(at)?),
        ["cut", from, to] => Deed::Cut(site(from)?, site(to)?),
        ["mend", from, to] => Deed::Mend(site(from)?, site(to)?),
        ["slow", from, to, extra] => Deed::Slow(site(from)?, site(to)?, span(extra)?),
        ["kill-member", at] => Deed::KillMember { at: site(at)?, down: SECOND / 2 },
        ["pause-member", at] => Deed::PauseMember(site(at)?),
        ["resume-member", at] => Deed::ResumeMember(site(at)?),
        ["kill-agent", at] => Deed::KillAgent { at: site(at)?, down: SECOND / 2 },
        ["pause-agent", at] => Deed::PauseAgent(site(at)?),
        ["resume-agent", at] => Deed::ResumeAgent(site(at)?),
        ["kill-guard", at] => Deed::KillGuard { at: site(at)?, down: SECOND / 2 },
        ["kill-node", at] => Deed::KillNode { at: site(at)?, down: SECOND / 2 },
        ["stall-disk", at, length] => Deed::StallDisk { at: site(at)?, length: span(length)? },
        ["wipe-disk", at] => Deed::WipeDisk(site(at)?),
        ["rot-disk", at] => Deed::RotDisk { at: site(at)?, place: 40 << 8 | 4 },
        ["slow-stops", at, length, stop] => Deed::SlowStops { at: site(at)?, length: span(length)?, stop: span(stop)? },
        ["lose-storage", at, length] => Deed::LoseStorage { at: site(at)?, length: span(length)? },
        ["fail-starts", at, length] => Deed::FailStarts { at: site(at)?, length: span(length)? },
        ["exit", at, code] => Deed::Exit { at: site(at)?, code: number(code)? as i32 },
        ["transfer-leader"] => Deed::TransferLeader(None),
        ["transfer-leader", to] => Deed::TransferLeader(Some(site(to)?)),
        ["add-member", "machine", at] => Deed::AddMember(Site(number(at)? as u32)),
        ["remove-member", at] => Deed::RemoveMember(site(at)?),
        ["leave", at] => Deed::Leave(site(at)?),
        ["confirm-down", at] => Deed::ConfirmDown(site(at)?),
        ["replay", at] => Deed::Replay(site(at)?),
        other => Deed::Ask { client: 0, ask: ask(world, other)? },
    };
    world.act_now(&deed).then_some(()).ok_or_else(|| "this changes nothing here".to_owned())
}

fn ask(world: &World, words: &[&str]) -> Result<Ask, String> {
    let node = |text: &str| target(world, text);
    let name = |text: &str| -> Arc<str> { text.into() };
    Ok(match words {
        ["create", container, options @ ..] => create(world, container, options)?,
        ["start", container] => Ask::Start(name(container)),
        ["stop", container] => Ask::Stop(name(container)),
        ["delete", container] => Ask::Delete(name(container)),
        ["restart", container] => Ask::Restart(name(container)),
        ["move", container] => Ask::Move { name: name(container), to: None },
        ["move", container, "to", to] => Ask::Move { name: name(container), to: Some(node(to)?) },
        ["annotate", container, pair] => {
            let (key, value) = pair.split_once('=').ok_or("annotate takes KEY=VALUE")?;
            Ask::Annotate { name: name(container), key: key.into(), value: value.into() }
        }
        ["policy", container, "stop"] => Ask::SetPolicy { name: name(container), policy: OnQuorumLoss::Stop },
        ["policy", container, "keep"] => Ask::SetPolicy { name: name(container), policy: OnQuorumLoss::Keep },
        ["cordon", at] => Ask::Cordon(node(at)?),
        ["uncordon", at] => Ask::Uncordon(node(at)?),
        ["drain", at] => Ask::Drain(node(at)?),
        ["maintain", at] => Ask::Maintain(node(at)?),
        ["return", at] => Ask::Return(node(at)?),
        ["role", at, "active"] => Ask::SetRole(node(at)?, Role::Active),
        ["role", at, "standby"] => Ask::SetRole(node(at)?, Role::Standby),
        ["profile", name] => Ask::SetProfile(profile(name)?),
        ["read"] => Ask::Read,
        ["look", container] => Ask::Look { name: name(container), stale: false },
        ["look", container, "stale"] => Ask::Look { name: name(container), stale: true },
        other => return Err(format!("{other:?} is no verb; these are:\n{VERBS}")),
    })
}

fn create(world: &World, name: &str, mut options: &[&str]) -> Result<Ask, String> {
    let (mut memory_mib, mut policy, mut preferred) = (512, OnQuorumLoss::Stop, None);
    loop {
        options = match options {
            [] => return Ok(Ask::Create { name: name.into(), memory_mib, policy, preferred }),
            ["memory", mib, rest @ ..] => {
                memory_mib = number(mib)?;
                rest
            }
            ["keep", rest @ ..] => {
                policy = OnQuorumLoss::Keep;
                rest
            }
            ["prefer", node, rest @ ..] => {
                preferred = Some(target(world, node)?);
                rest
            }
            other => return Err(format!("{other:?} is no option of create")),
        };
    }
}

fn expect(world: &World, claim: &[&str]) -> Result<(), String> {
    let runs = |name: &str| -> Result<Vec<String>, String> {
        let name = cluster::Name::new(name).map_err(|error| error.to_string())?;
        let container = world.newest.container_named(&name).ok_or(format!("there is no {name}"))?;
        Ok(world.checks.runners(container.id).iter().map(|runner| runner.node.to_string()).collect())
    };
    match claim {
        [name, "runs", "on", node] => match runs(name)?.as_slice() {
            [one] if one == node => Ok(()),
            other => Err(format!("it runs on {other:?}")),
        },
        [name, "runs", "nowhere"] => match runs(name)?.as_slice() {
            [] => Ok(()),
            other => Err(format!("it runs on {other:?}")),
        },
        [name, "has", "no", "place"] => {
            let name = cluster::Name::new(name).map_err(|error| error.to_string())?;
            let container = world.newest.container_named(&name).ok_or(format!("there is no {name}"))?;
            container.assignment().map_or(Ok(()), |assignment| Err(format!("it has one on {}", assignment.node)))
        }
        ["leader", member] => match world.leader() {
            Some(leader) if leader.to_string() == *member => Ok(()),
            other => Err(format!("{other:?} leads")),
        },
        ["well"] => world.unsettled().map_or(Ok(()), Err),
        other => Err(format!("{other:?} is no claim; these are:\n{VERBS}")),
    }
}

/// The machine a word means now.
fn target(world: &World, text: &str) -> Result<Site, String> {
    let unknown = || format!("there is no {text} here");
    if text == "clients" {
        return Ok(Site(0));
    }
    if text == "leader" {
        return world.leader().map(|leader| world.members[&leader].site).ok_or("nobody leads".to_owned());
    }
    if let Some(id) = text.strip_prefix('n').and_then(|id| id.parse().ok()) {
        return world.nodes.get(&cluster::NodeId(id)).map(|node| node.site).ok_or_else(unknown);
    }
    if let Some(id) = text.strip_prefix('m').and_then(|id| id.parse().ok()) {
        return world.members.get(&cluster::MemberId(id)).map(|member| member.site).ok_or_else(unknown);
    }
    Err(unknown())
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

fn numbered(prefix: char, text: &str) -> Result<u64, String> {
    text.strip_prefix(prefix).ok_or(format!("{text:?} does not begin with {prefix}")).and_then(number)
}

/// `2s`, `1.5s`, `300ms`.
fn span(text: &str) -> Result<u64, String> {
    let (number, unit) = if let Some(number) = text.strip_suffix("ms") {
        (number, MS)
    } else {
        (text.strip_suffix('s').ok_or(format!("{text:?} is no time: 2s, 1.5s, 300ms"))?, SECOND)
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let digits = part.len() as u32;
    let wrong = |_| format!("{text:?} is no time: 2s, 1.5s, 300ms");
    let (whole, part): (u64, u64) = (whole.parse().map_err(wrong)?, part.parse().map_err(wrong)?);
    Ok(whole * unit + part * unit / 10u64.pow(digits))
}

fn profile(name: &str) -> Result<Profile, String> {
    Profile::ALL.into_iter().find(|profile| profile.name() == name).ok_or(format!("{name:?} is no profile"))
}

fn show(kind: &str) -> Result<Show, String> {
    Ok(match kind {
        "members" => Show::Members,
        "agents" => Show::Agents,
        "clients" => Show::Clients,
        other => return Err(format!("{other:?} cannot be shown: members, agents, clients can")),
    })
}

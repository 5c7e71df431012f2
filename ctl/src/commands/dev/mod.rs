//! A playground of real processes on this machine: bring a cluster up, break it, watch it, take it down.

mod cgroups;
mod demo;
mod machine;
mod net;
mod playground;
mod rootfs;
mod witness;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::output::{self, Format, table};
use crate::progress::Progress;
use crate::trouble::Trouble;
use playground::{Playground, Profile};

#[derive(Subcommand)]
pub enum Dev {
    /// Shows a failover: a node loses its power, then a node together with the leader
    Demo {
        #[command(flatten)]
        start: Start,
        /// Print the report as JSON, as -o json does
        #[arg(long)]
        json: bool,
        /// How often both happen, for figures
        #[arg(long, hide = true, default_value_t = 1)]
        rounds: usize,
        /// Leave the cluster up afterwards and say how to reach it
        #[arg(long)]
        keep: bool,
    },
    /// Starts a cluster: three members, two active nodes, a standby one
    Up {
        #[command(flatten)]
        start: Start,
    },
    /// Ends every process of the playground
    Down {
        #[command(flatten)]
        at: At,
        /// Delete its folder too
        #[arg(long)]
        purge: bool,
    },
    /// What runs where
    Status {
        #[command(flatten)]
        at: At,
    },
    /// Cuts the power of a machine, or kills one of its services
    Kill {
        #[command(flatten)]
        target: Target,
    },
    /// Switches a machine on again
    PowerOn {
        /// Machine, node or member
        machine: String,
        #[command(flatten)]
        at: At,
    },
    /// Freezes a machine, or one of its services
    Pause {
        #[command(flatten)]
        target: Target,
    },
    /// Lets it go on
    Resume {
        #[command(flatten)]
        target: Target,
    },
    /// Takes a machine off the network (playground started with --net), until it is healed or switched on again
    Cut {
        /// Machine, node or member
        machine: String,
        /// Only one way: what it sends to this machine, node or member is lost
        #[arg(long, value_name = "MACHINE")]
        to: Option<String>,
        #[command(flatten)]
        at: At,
    },
    /// Puts it back, and mends every way from it that was cut
    Heal {
        /// Machine, node or member
        machine: String,
        #[command(flatten)]
        at: At,
    },
    #[command(hide = true)]
    Machine { spec: PathBuf },
    #[command(hide = true)]
    MachineFirst {
        spec: PathBuf,
        #[arg(long)]
        own_proc: bool,
    },
    #[command(hide = true)]
    Switch,
    #[command(hide = true)]
    Witness,
}

#[derive(Args)]
pub struct At {
    /// Where the playground lives
    #[arg(long, env = "QUORATE_DEV_DIR", value_name = "DIR", default_value_os_t = default_dir())]
    dir: PathBuf,
}

#[derive(Args)]
pub struct Start {
    /// Where to put it; must be empty or missing
    #[arg(long, env = "QUORATE_DEV_DIR", value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Lease profile: how fast, against how patient
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// What runs the containers: `auto` takes the best that proves itself
    #[arg(long, default_value = "auto")]
    runtime: String,
    /// Give every machine a network namespace of its own, which `dev cut` can cut (root, iproute2)
    #[arg(long)]
    net: bool,
    /// So many active nodes, with every node and member on a machine of its own [default: the example of the guide]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=200))]
    nodes: Option<u8>,
}

#[derive(Args)]
pub struct Target {
    /// Machine, node or member
    machine: String,
    /// Only this service of it; the machine as a whole without
    #[arg(long, value_enum)]
    service: Option<Part>,
    #[command(flatten)]
    at: At,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Agent,
    Member,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Agent => "agent",
            Part::Member => "member",
        }
    }
}

fn default_dir() -> PathBuf {
    std::env::temp_dir().join(format!("quorate-dev-{}", rustix::process::getuid().as_raw()))
}

/// Those that make namespaces must run before any thread is started; `None` for the others.
pub fn before_threads(dev: &Dev) -> Option<Result<()>> {
    match dev {
        Dev::Machine { spec } => Some(machine::outer(spec)),
        Dev::MachineFirst { spec, own_proc } => Some(machine::first(spec, *own_proc)),
        Dev::Switch => Some(net::keep()),
        Dev::Witness => Some(witness::run()),
        // What this process asks of the cluster it asks from inside the playground's network.
        Dev::Up { start } | Dev::Demo { start, .. } if start.net => net::enter_own().err().map(Err),
        _ => None,
    }
}

pub async fn run(format: Format, dev: Dev) -> Result<()> {
    match dev {
        Dev::Demo { start, json, rounds, keep } => {
            run_demo(if json { Format::Json } else { format }, start, rounds, keep).await
        }
        Dev::Up { start } => up(format, start).await,
        Dev::Down { at, purge } => {
            let mut playground = Playground::load(&at.dir)?;
            playground.down()?;
            if purge {
                std::fs::remove_dir_all(&at.dir).with_context(|| format!("delete {}", at.dir.display()))?;
            }
            let words = format!("the playground in {} is down", at.dir.display());
            output::answer(format, || json!({ "dir": playground.dir, "done": "down" }), || words);
            Ok(())
        }
        Dev::Status { at } => {
            let playground = Playground::load(&at.dir)?;
            output::answer(format, || playground.json(), || shown(&playground, format == Format::Wide));
            Ok(())
        }
        Dev::Kill { target } => {
            let (mut playground, machine) = target.find()?;
            match target.service {
                None => playground.power_off(&machine)?,
                Some(part) => machine::send(target.pid(&playground, &machine, part)?, Signal::KILL),
            }
            target.done(format, &machine, "killed");
            Ok(())
        }
        Dev::PowerOn { machine, at } => {
            let mut playground = Playground::load(&at.dir)?;
            let machine = playground.machine_named(&machine)?;
            playground.power_on(&machine)?;
            done(format, json!({ "machine": machine, "done": "on" }), format!("{machine} is on"));
            Ok(())
        }
        Dev::Pause { target } => target.signal(format, Signal::STOP, "paused"),
        Dev::Resume { target } => target.signal(format, Signal::CONT, "resumed"),
        Dev::Cut { machine, to, at } => cut(format, &Playground::load(&at.dir)?, &machine, to.as_deref()),
        Dev::Heal { machine, at } => heal(format, &Playground::load(&at.dir)?, &machine),
        Dev::Machine { .. } | Dev::MachineFirst { .. } | Dev::Switch | Dev::Witness => {
            unreachable!("`before_threads` carries these out")
        }
    }
}

fn done(format: Format, programs: Value, people: String) {
    output::answer(format, || programs, || people);
}

async fn run_demo(format: Format, start: Start, rounds: usize, keep: bool) -> Result<()> {
    let (mut playground, progress) = start.plan(format)?;
    let shown = async {
        playground.bring_up(&progress).await?;
        demo::run(&mut playground, rounds, &progress).await
    };
    let ended = tokio::select! {
        report = shown => report,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    // What is in dev.json is what runs, whatever the future above had got to.
    let mut playground = Playground::load(&playground.dir).unwrap_or(playground);
    let dir = playground.dir.clone();
    let report = match ended {
        Ok(report) => report,
        Err(error) => {
            if !keep {
                playground.down()?;
            }
            return Err(error.context(format!("the demonstration failed; everything it left is in {}", dir.display())));
        }
    };
    drop(progress);
    let programs = serde_json::to_value(&report)?;
    output::answer(format, || programs, || report.for_people());
    if keep {
        eprintln!("{}", demo::how_to_reach(&playground));
    } else {
        playground.down()?;
    }
    if !report.is_good() {
        bail!("the promise was broken: {} overlaps, {} lost; see {}", report.overlaps, report.lost, dir.display());
    }
    if !keep {
        std::fs::remove_dir_all(&dir).with_context(|| format!("delete {}", dir.display()))?;
    }
    Ok(())
}

async fn up(format: Format, start: Start) -> Result<()> {
    let (mut playground, progress) = start.plan(format)?;
    if let Err(error) = playground.bring_up(&progress).await {
        playground.down()?;
        return Err(error.context(format!("the logs are in {}", playground.dir.display())));
    }
    progress.line("the cluster is up");
    drop(progress);
    output::answer(format, || playground.json(), || demo::how_to_reach(&playground));
    Ok(())
}

impl Start {
    fn plan(&self, format: Format) -> Result<(Playground, Progress)> {
        let dir = match &self.dir {
            Some(dir) => dir.clone(),
            None => default_dir(),
        };
        if let Ok(mut before) = Playground::load(&dir) {
            if before.machines.values().any(|machine| machine.root.is_some_and(machine::Root::is_alive)) {
                let next = format!("`quoratectl dev down --dir {0}` ends it", dir.display());
                bail!(Trouble::refused(format!("a playground is up in {}", dir.display()), next));
            }
            before.down()?;
            std::fs::remove_dir_all(&dir).with_context(|| format!("delete {}", dir.display()))?;
        }
        if dir.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
            let text = format!("{} is not empty and no playground", dir.display());
            bail!(Trouble::refused(text, "name another with --dir"));
        }
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        let net = if self.net { Some(net::Net::start()?) } else { None };
        let playground = Playground::plan(&dir, self.profile, &self.runtime, self.nodes, net)?;
        Ok((playground, Progress::new(format, "starting a cluster")))
    }
}

impl Target {
    fn find(&self) -> Result<(Playground, String)> {
        let playground = Playground::load(&self.at.dir)?;
        let machine = playground.machine_named(&self.machine)?;
        Ok((playground, machine))
    }

    fn pid(&self, playground: &Playground, machine: &str, part: Part) -> Result<i32> {
        playground.root(machine)?.service(&playground.running_file(machine), part.name())
    }

    fn what(&self, machine: &str) -> String {
        self.service.map_or(machine.to_owned(), |part| format!("the {} of {machine}", part.name()))
    }

    /// Says what was done to it.
    fn done(&self, format: Format, machine: &str, done: &str) {
        let mut programs = json!({ "machine": machine, "done": done });
        if let Some(part) = self.service {
            programs["service"] = part.name().into();
        }
        self::done(format, programs, format!("{} is {done}", self.what(machine)));
    }

    fn signal(&self, format: Format, signal: Signal, done: &str) -> Result<()> {
        let (playground, machine) = self.find()?;
        match self.service {
            None => playground.root(&machine)?.signal_all(signal),
            Some(part) => machine::send(self.pid(&playground, &machine, part)?, signal),
        }
        self.done(format, &machine, done);
        Ok(())
    }
}

fn shown(playground: &Playground, wide: bool) -> String {
    let rows = playground.machines.iter().map(|(name, machine)| {
        let (member, node) = (machine.member.as_ref(), machine.node.as_ref());
        let standby = |node: &playground::Node| if node.standby { " (standby)" } else { "" };
        let mut row = vec![
            name.clone(),
            machine.power().to_owned(),
            member.map_or("-".into(), |member| format!("{} ({})", member.name, member.api)),
            node.map_or("-".into(), |node| format!("{}{}", node.name, standby(node))),
        ];
        if wide {
            row.push(member.map_or("-".into(), |member| member.peer.clone()));
            row.push(machine.root.filter(|root| root.is_alive()).map_or("-".into(), |root| root.pid.to_string()));
        }
        row
    });
    let mut headings = vec!["machine", "power", "member", "node"];
    if wide {
        headings.extend(["peer", "pid"]);
    }
    format!("{}\n\nquoratectl --server {} …", table(&headings, rows), playground.apis().join(","))
}

fn cut(format: Format, playground: &Playground, machine: &str, to: Option<&str>) -> Result<()> {
    let (net, machine) = in_own_network(playground, machine)?;
    let Some(to) = to else {
        net.cut(playground.machines[&machine].number)?;
        let programs = json!({ "machine": machine, "done": "cut" });
        done(format, programs, format!("{machine} is off the network"));
        return Ok(());
    };
    let to = playground.machine_named(to)?;
    net::cut_one_way(playground.root(&machine)?.pid, playground.machines[&to].number)?;
    let programs = json!({ "machine": machine, "to": to, "done": "cut" });
    done(format, programs, format!("nothing that {machine} sends reaches {to}"));
    Ok(())
}

fn heal(format: Format, playground: &Playground, machine: &str) -> Result<()> {
    let (net, machine) = in_own_network(playground, machine)?;
    net::heal_one_ways(playground.root(&machine)?.pid)?;
    net.heal(playground.machines[&machine].number)?;
    done(format, json!({ "machine": machine, "done": "healed" }), format!("{machine} is on the network"));
    Ok(())
}

fn in_own_network(playground: &Playground, machine: &str) -> Result<(net::Net, String)> {
    let machine = playground.machine_named(machine)?;
    let net = playground.net.ok_or_else(|| {
        Trouble::refused(
            format!("{machine} has no network of its own: the machines of this playground share loopback"),
            format!(
                "start one with `quoratectl dev up --net` (as root), or freeze the machine with `quoratectl dev pause {machine}`"
            ),
        )
    })?;
    Ok((net, machine))
}

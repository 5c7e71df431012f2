//! `quorated`: one control-plane member as a process.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use controlplane::admission::Admission;
use controlplane::config::{Config, Layer, LogFormat};
use controlplane::recovery::{self, Plan};
use controlplane::server::Server;
use controlplane::store::Backend;
use controlplane::telemetry;
use tokio::signal::unix::{SignalKind, signal};

/// A member of a Quorate control plane.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run this member until it is told to stop.
    #[command(after_help = CONFIG_HELP)]
    Run(Box<Run>),
    /// Put the damaged store and the papers of a quarantined member aside, while no member runs there. The folder is that
    /// of an empty member then; `quoratectl member rejoin` does all of this, and brings the member back.
    Retire {
        /// Data folder.
        #[arg(long, env = "QUORATE_DATA_DIR")]
        data_dir: PathBuf,
    },
    /// Begin a new generation of a cluster that lost a majority of its members for good, from the data folders of members
    /// that are stopped.
    #[command(subcommand, after_help = RECOVER_HELP)]
    Recover(Recover),
}

#[derive(Subcommand)]
enum Recover {
    /// Read stopped members, say what is there and what may be lost, and write a plan. Checks each store as a start does
    /// and changes nothing else.
    Plan {
        /// Data folder of a stopped member; once for each that can be reached. Never a copy of one that may start again.
        #[arg(long, required = true, value_name = "DIR")]
        data_dir: Vec<PathBuf>,
        /// Where the plan is written.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// A generation that was seen elsewhere, by a node say; the new one gets a higher number.
        #[arg(long, default_value_t = 0, value_name = "NUMBER")]
        above: u64,
    },
    /// Do what a plan says. Cut off, it is given again.
    Apply {
        /// The plan.
        #[arg(long, value_name = "FILE")]
        plan: PathBuf,
        /// As it stands at the end of the plan, typed by whoever has read it.
        #[arg(long)]
        digest: String,
    },
}

const RECOVER_HELP: &str = "\
In this order:
  quorated recover plan --data-dir /var/lib/quorate/member --out plan.json
  quorated recover apply --plan plan.json --digest 0123-4567-89ab
  quorated run …                                  # the survivor, as before
  quorate-agent cross-over --generation 2-…       # on every node; restart its agent
  quoratectl node confirm-down NODE               # one that is off, or was rebooted
  quoratectl cluster add-member …                 # members with empty data folders

Every store that was read, the survivor's apart, is never started again. A member
that was not read may still run, with others like it: the survivor refuses it, and
so does every node that has crossed over.";

const CONFIG_HELP: &str = "\
The configuration file has the options as keys (data_dir, peer_listen, …), fence methods as [[fence]] tables, and

  [limits]
  calls = 8192                          # under way at once
  calls_per_second = 100000             # of everybody; an item of a batch or submit is a call
  calls_per_second_per_client = 50000   # of one address (IPv6: one /64); all programs of this machine are one
  streams = 4096                        # watches and submits at once

A second's worth may come at once. What is above is refused (HTTP 429, RESOURCE_EXHAUSTED) with the time to wait; a
submit is read more slowly instead.";

#[derive(Args)]
struct Run {
    /// Configuration file (TOML); the options below win over it.
    #[arg(long, env = "QUORATE_CONFIG")]
    config: Option<PathBuf>,
    /// Data folder; made if it is missing.
    #[arg(long, env = "QUORATE_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Name of this member where it begins a cluster.
    #[arg(long, env = "QUORATE_NAME")]
    name: Option<String>,
    /// Public API, gRPC and REST [default: 127.0.0.1:7440]
    #[arg(long, env = "QUORATE_LISTEN", value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Members and agents [default: 127.0.0.1:7441]
    #[arg(long, env = "QUORATE_PEER_LISTEN", value_name = "HOST:PORT")]
    peer_listen: Option<String>,
    /// How clients reach the public API, if not as bound.
    #[arg(long, env = "QUORATE_ADVERTISE_API", value_name = "HOST:PORT")]
    advertise_api: Option<String>,
    /// How members and agents reach this member, if not as bound.
    #[arg(long, env = "QUORATE_ADVERTISE_PEER", value_name = "HOST:PORT")]
    advertise_peer: Option<String>,
    /// Engine of the store, chosen when it is made: sled or file [default: sled]
    #[arg(long, env = "QUORATE_STORE")]
    store: Option<Backend>,
    /// What is logged, as a level or a tracing filter [default: info]
    #[arg(long, env = "QUORATE_LOG")]
    log: Option<String>,
    /// Form of the log.
    #[arg(long, env = "QUORATE_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    /// Listen on other addresses than loopback, although nothing is encrypted yet.
    #[arg(long, env = "QUORATE_INSECURE")]
    insecure: bool,
    /// If empty, begin a cluster of this name.
    #[arg(long, env = "QUORATE_BOOTSTRAP", value_name = "NAME", conflicts_with = "join")]
    bootstrap: Option<String>,
    /// Lease profile of the cluster begun: fast, default or relaxed.
    #[arg(long, env = "QUORATE_PROFILE", requires = "bootstrap")]
    profile: Option<String>,
    /// If empty, take the admission in this file (JSON, as add-member printed it).
    #[arg(long, env = "QUORATE_JOIN", value_name = "FILE")]
    join: Option<PathBuf>,
    /// Log entries from one snapshot to the next.
    #[arg(long, env = "QUORATE_SNAPSHOT_EVERY", hide = true)]
    snapshot_every: Option<u64>,
}

impl Run {
    fn layer(self) -> Layer {
        Layer {
            data_dir: self.data_dir,
            name: self.name,
            listen: self.listen,
            peer_listen: self.peer_listen,
            advertise_api: self.advertise_api,
            advertise_peer: self.advertise_peer,
            store: self.store,
            log: self.log,
            log_format: self.log_format,
            insecure: self.insecure.then_some(true),
            snapshot_every: self.snapshot_every,
            bootstrap: self.bootstrap,
            profile: self.profile,
            join: self.join,
            limits: None,
            fence: Vec::new(),
        }
    }
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(run) => configured(*run).and_then(serve),
        Command::Retire { data_dir } => retire(&data_dir),
        Command::Recover(recover) => recovered(recover),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quorated: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn configured(run: Run) -> anyhow::Result<Config> {
    let file = run.config.as_deref().map(Layer::read).transpose()?.unwrap_or_default();
    let layer = run.layer().over(file);
    telemetry::start(layer.log.as_deref(), layer.log_format.unwrap_or_default())?;
    Ok(layer.checked()?)
}

fn serve(config: Config) -> anyhow::Result<()> {
    // Two runtimes: a flood of client calls on one delays no heartbeat on the other.
    let streams = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("streams")
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let doors = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8)))
        .thread_name("doors")
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let handle = streams.handle().clone();
    let outcome = doors.block_on(async {
        let server = Server::start(config, handle).await?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        anyhow::Ok(server.serve(shutdown).await?)
    });
    doors.shutdown_background();
    streams.shutdown_background();
    outcome
}

fn recovered(order: Recover) -> anyhow::Result<()> {
    match order {
        Recover::Plan { data_dir, out, above } => {
            let plan = recovery::plan(&data_dir, above)?;
            plan.write(&out)?;
            print!("{}", plan.told());
            println!("\nquorated recover apply --plan {} --digest {}", out.display(), plan.digest);
        }
        Recover::Apply { plan, digest } => {
            let plan = Plan::read_from(&plan)?;
            let aside = recovery::apply(&plan, &digest)?;
            println!("m{} begins generation {}; its store before is in {}", plan.survivor, plan.next, aside.display());
            println!("on every node: quorate-agent cross-over --generation {}, then restart its agent", plan.next);
        }
    }
    Ok(())
}

fn retire(data_dir: &std::path::Path) -> anyhow::Result<()> {
    let retired = controlplane::store::retire(data_dir)?;
    Admission::put_aside(data_dir, &retired.with_extension("toml"))?;
    println!("{}", retired.display());
    Ok(())
}

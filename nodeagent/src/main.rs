//! `quorate-agent`: reads its arguments, starts the log, runs the agent or speaks to the one that runs.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Parser, Subcommand};
use cluster::Generation;
use nodeagent::agent::{self, Ended};
use nodeagent::config::{self, LogFormat, Options};
use nodeagent::control::{self, Status};
use nodeagent::identity::Identity;
use tracing_subscriber::EnvFilter;

/// The agent of a node: runs containers as the cluster's leader wants, and only under a lease.
#[derive(Parser)]
#[command(name = "quorate-agent", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    order: Order,
}

#[derive(Subcommand)]
enum Order {
    /// Run the agent of this node
    Run {
        /// TOML file with the same words as the options
        #[arg(long, env = "QUORATE_AGENT_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        options: Box<Options>,
    },
    /// Show what the agent that runs here says of itself
    Status {
        #[command(flatten)]
        place: Place,
        /// As JSON, one line
        #[arg(long)]
        json: bool,
    },
    /// Tell this node to serve a later generation of its cluster: the next start of its agent ends whatever the one before
    /// gave it, and registers anew
    CrossOver {
        /// As given to `run`
        #[arg(long, env = "QUORATE_AGENT_STATE_DIR", value_name = "DIR")]
        state_dir: Option<PathBuf>,
        /// As given to `run`; identity.json of the state folder if not
        #[arg(long, env = "QUORATE_AGENT_IDENTITY", value_name = "FILE")]
        identity: Option<PathBuf>,
        /// As `quorated recover apply` and `quoratectl cluster status` show it
        #[arg(long)]
        generation: Generation,
        /// Where members of that generation serve agents, if others than before; may be given more than once
        #[arg(long, value_name = "HOST:PORT")]
        member: Vec<String>,
    },
    /// Stop every container of this node and hand over without a fence: for shutdown and reboot
    Leave {
        #[command(flatten)]
        place: Place,
        /// How long it may take
        #[arg(long, default_value_t = 90, value_name = "SECONDS")]
        within: u64,
    },
}

/// Where the agent runs.
#[derive(clap::Args)]
struct Place {
    /// As given to `run`
    #[arg(long, env = "QUORATE_AGENT_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// As given to `run`
    #[arg(long, env = "QUORATE_AGENT_RUN_DIR", value_name = "DIR")]
    run_dir: Option<PathBuf>,
}

impl Place {
    fn run_dir(self) -> PathBuf {
        config::run_dir(&Options { state_dir: self.state_dir, run_dir: self.run_dir, ..Options::default() })
    }
}

fn main() -> ExitCode {
    match carry_out(Arguments::parse().order) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quorate-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(order: Order) -> anyhow::Result<()> {
    match order {
        Order::Run { config, options } => {
            let config = options.resolve(config.as_deref())?;
            start_log(&config.log, config.log_format)?;
            end_on_panic();
            tracing::info!(version = env!("CARGO_PKG_VERSION"), state = %config.state_dir.display(), "agent starts");
            match agent::run(config)? {
                Ended::Kept => tracing::info!("agent ended; the guard watches on"),
                Ended::Left => tracing::info!("agent ended; nothing runs here"),
            }
            Ok(())
        }
        Order::Status { place, json } => {
            let run_dir = place.run_dir();
            let status = control::status(&run_dir).map_err(|error| nobody(error, &run_dir))?;
            match json {
                true => println!("{}", serde_json::to_string(&status)?),
                false => print!("{}", table(&status)),
            }
            Ok(())
        }
        Order::CrossOver { state_dir, identity, generation, member } => {
            let path = config::identity_path(&Options { state_dir, identity, ..Options::default() });
            let before = Identity::read(&path)?;
            let told = before.told_to_serve(generation, member)?;
            told.write(&path)?;
            println!("{}: generation {} -> {generation}; restart the agent", told.name, before.generation);
            Ok(())
        }
        Order::Leave { place, within } => {
            let run_dir = place.run_dir();
            control::leave(&run_dir, Duration::from_secs(within)).map_err(|error| nobody(error, &run_dir))
        }
    }
}

fn nobody(error: io::Error, run_dir: &std::path::Path) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => anyhow!(
            "no agent runs with run folder {}; name the one of yours by --state-dir or --run-dir",
            run_dir.display()
        ),
        _ => anyhow!(error).context("speak to the agent"),
    }
}

fn table(status: &Status) -> String {
    let lease = match status.lease_left_ms {
        None => "none yet".to_owned(),
        Some(left) if left < 0 => format!("over for {} ms", -left),
        Some(left) => {
            let least =
                status.lease_left_least_ms.map_or(String::new(), |least| format!(", never less than {least} ms"));
            format!("{left} ms left{least}")
        }
    };
    let leader = status.leader.map_or("none".to_owned(), |member| format!("m{member}"));
    let guard = match (status.guard.alive, status.guard.latched) {
        (false, _) => "gone".to_owned(),
        (true, true) => format!("pid {}, latched", status.guard.pid),
        (true, false) => format!("pid {}, wakes at most {} µs late", status.guard.pid, status.guard.lateness_us),
    };
    let running = status.containers.iter().filter(|container| container.ran).count();
    let mut text = String::new();
    for (name, value) in [
        ("node", format!("n{} {}", status.node, status.name)),
        ("standing", format!("{}, incarnation i{}", status.standing, status.incarnation)),
        ("lease", lease),
        ("leader", leader),
        ("guard", guard),
        ("class", format!("{}: {}", status.class, status.class_reason)),
        ("runtimes", status.runtimes.join(", ")),
        ("refused", status.runtimes_refused.join("\n           ")),
        ("containers", format!("{running} run, {} begun, {} busy", status.containers.len(), status.busy)),
    ] {
        text.push_str(&format!("{name:<10} {value}\n"));
    }
    if let Some(trouble) = &status.trouble {
        text.push_str(&format!("{:<10} {trouble}\n", "trouble"));
    }
    text
}

fn start_log(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| format!("log: {filter:?} is no filter"))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(false).with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

/// An agent with a broken thread is worse than none: the next one adopts what runs.
fn end_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}

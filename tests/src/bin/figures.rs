//! `cargo run --release -p tests --features live --bin figures -- WHAT`: measures one of the README's figures.
//! Needs the programs of `cargo build --release` beside itself. Exit code 1 if it could not be measured.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use tests::figures::{Figure, crowd, failover, heartbeats, writes};

#[derive(Parser)]
#[command(about = "Measures the figures of the README", version)]
struct Cli {
    /// Print one JSON object
    #[arg(long, global = true)]
    json: bool,
    /// Where data folders and logs go; a temporary folder without
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// From a power cut to the first line a container writes elsewhere
    Failover {
        /// Cuts of each kind: of a node alone, and of the node that hosts the leader
        #[arg(long, default_value_t = 30)]
        cuts: usize,
        /// Lease profile: default or fast
        #[arg(long, default_value = "default")]
        profile: String,
    },
    /// Committed writes a second over the API of three members
    Writes {
        /// Each with one write under way, or --window of them
        #[arg(long, default_value_t = 64)]
        clients: usize,
        /// By Submit instead of one call for each
        #[arg(long)]
        stream: bool,
        /// Writes that each client of a stream has under way
        #[arg(long, default_value_t = 1, requires = "stream", value_parser = clap::value_parser!(u8).range(1..=128))]
        window: u8,
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Engine of the members' stores: sled or file
        #[arg(long, default_value = "sled")]
        store: String,
    },
    /// What a member needs to answer the heartbeats of many nodes
    Heartbeats {
        #[arg(long, default_value_t = 1_000)]
        nodes: usize,
        #[arg(long, default_value_t = 20)]
        seconds: u64,
        /// How many of the three members each node speaks to
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=3))]
        members: u8,
        /// How many of them then open sessions with the leader
        #[arg(long, default_value_t = 1_000)]
        sessions: usize,
    },
    /// The nodes of `heartbeats` that speak to one member
    #[command(hide = true)]
    Crowd { member: String },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match said(&cli) {
        Ok(line) => println!("{line}"),
        Err(error) => {
            eprintln!("figures: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn said(cli: &Cli) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    if let What::Crowd { member } = &cli.what {
        return Ok(serde_json::to_string(&runtime.block_on(crowd::beat(member))?)?);
    }
    let Figure { text, json } = measured(cli, &runtime)?;
    Ok(if cli.json { json.to_string() } else { text })
}

fn measured(cli: &Cli, runtime: &tokio::runtime::Runtime) -> Result<Figure> {
    let kept;
    let dir = match &cli.dir {
        Some(dir) => {
            std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
            dir.canonicalize()?
        }
        None => {
            kept = tempfile::Builder::new().prefix("quorate-figures-").tempdir().context("make a temporary folder")?;
            kept.path().to_owned()
        }
    };
    match &cli.what {
        What::Failover { cuts, profile } => failover::measure(&dir, *cuts, profile),
        What::Writes { clients, stream, window, seconds, store } => {
            let options = writes::Options {
                clients: (*clients).max(1),
                streaming: *stream,
                window: usize::from(*window),
                seconds: (*seconds).max(1),
                store: store.clone(),
            };
            runtime.block_on(writes::measure(&dir, &options))
        }
        What::Heartbeats { nodes, seconds, members, sessions } => {
            let (nodes, sessions) = ((*nodes).max(1), (*sessions).min(*nodes));
            let options =
                heartbeats::Options { nodes, seconds: (*seconds).max(1), hear: usize::from(*members), sessions };
            runtime.block_on(heartbeats::measure(&dir, &options))
        }
        What::Crowd { .. } => anyhow::bail!("this is no figure"),
    }
}

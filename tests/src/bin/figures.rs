//! `cargo run --release -p tests --features live --bin figures -- WHAT`: measures one of the README's figures.
//! Needs the programs of `cargo build --release` beside itself. Exit code 1 if it could not be measured.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
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
        #[arg(long, default_value = "30", value_parser = at_least_one)]
        cuts: usize,
        /// Lease profile
        #[arg(long, default_value = "default", value_parser = ["fast", "default", "relaxed"])]
        profile: String,
    },
    /// Committed writes a second over the API of three members
    Writes {
        /// Each with one write under way, or --window of them
        #[arg(long, default_value = "64", value_parser = at_least_one)]
        clients: usize,
        /// By Submit instead of one call for each
        #[arg(long)]
        stream: bool,
        /// Writes that each client of a stream has under way
        #[arg(long, default_value_t = 1, requires = "stream", value_parser = clap::value_parser!(u8).range(1..=128))]
        window: u8,
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
        seconds: u64,
        /// Engine of the members' stores
        #[arg(long, default_value = "sled", value_parser = ["sled", "file"])]
        store: String,
    },
    /// What a member needs to answer the heartbeats of many nodes
    Heartbeats {
        #[arg(long, default_value = "1000", value_parser = at_least_one)]
        nodes: usize,
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
        seconds: u64,
        /// How many of the three members each node speaks to
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=3))]
        members: u8,
        /// How many of them then open sessions with the leader; 0 leaves that part out [default: all, at most 1000]
        #[arg(long)]
        sessions: Option<usize>,
    },
    /// The nodes of `heartbeats` that speak to one member
    #[command(hide = true)]
    Crowd { member: String },
}

/// Of nothing there is nothing to measure.
fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "must be a whole number, 1 at least".to_owned())
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
                clients: *clients,
                streaming: *stream,
                window: usize::from(*window),
                seconds: *seconds,
                store: store.clone(),
            };
            runtime.block_on(writes::measure(&dir, &options))
        }
        What::Heartbeats { nodes, seconds, members, sessions } => {
            let (nodes, seconds) = (*nodes, *seconds);
            let sessions = sessions.unwrap_or(nodes.min(1_000));
            ensure!(sessions <= nodes, "{nodes} nodes cannot open {sessions} sessions: each has one at most");
            let options = heartbeats::Options { nodes, seconds, hear: usize::from(*members), sessions };
            runtime.block_on(heartbeats::measure(&dir, &options))
        }
        What::Crowd { .. } => anyhow::bail!("this is no figure"),
    }
}

#[cfg(test)]
mod refusals {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn what_cannot_be_measured_is_refused_and_said() {
        Cli::command().debug_assert();
        let says = |line: &str| {
            let refused = Cli::try_parse_from(line.split(' ')).err().expect(line);
            assert_eq!(refused.exit_code(), 2, "{line}");
            refused.to_string()
        };
        for option in ["failover --cuts", "writes --clients", "heartbeats --nodes"] {
            for amount in ["0", "-1", "1.5", "", "many", "99999999999999999999"] {
                let said = says(&format!("figures {option}={amount}"));
                assert!(said.contains("1 at least") && said.contains(option.split(' ').next_back().unwrap()), "{said}");
            }
        }
        for line in [
            "writes --seconds 0",
            "heartbeats --seconds 0",
            "heartbeats --members 1",
            "heartbeats --sessions -1",
            "writes --stream --window 0",
            "writes --window 2",
            "writes --store tape",
            "failover --profile hasty",
        ] {
            says(&format!("figures {line}"));
        }
    }

    #[test]
    fn a_node_has_one_session_at_most() {
        let cli = Cli::try_parse_from("figures heartbeats --nodes 3 --sessions 4".split(' ')).expect("a command line");
        let refused = said(&cli).expect_err("four of three").to_string();
        assert_eq!(refused, "3 nodes cannot open 4 sessions: each has one at most");
    }
}

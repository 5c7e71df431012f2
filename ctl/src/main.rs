//! `quoratectl`: what people and scripts say to a cluster.

mod client;
mod commands;
mod output;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use commands::dev::{self, Dev};

#[derive(Parser)]
#[command(name = "quoratectl", version, about = "Speaks to a Quorate cluster", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A playground of real processes on this machine
    #[command(subcommand)]
    Dev(Dev),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let Command::Dev(dev) = &cli.command;
    let done = dev::before_threads(dev).unwrap_or_else(|| in_runtime(cli));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quoratectl: {error:#}");
            output::exit_code(&error)
        }
    }
}

fn in_runtime(cli: Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Dev(dev) => dev::run(dev).await,
        }
    })
}

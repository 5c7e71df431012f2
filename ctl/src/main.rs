//! `quoratectl`: what people and scripts say to a cluster.

mod args;
mod client;
mod commands;
#[cfg(test)]
mod fake;
mod identity;
mod output;
mod progress;
mod rpcs;
mod session;
mod trouble;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use serde_json::json;

use commands::{cluster, container, dev, events, member, node, storage, template, verbs};
use session::{Global, Session};

#[derive(Parser)]
#[command(
    name = "quoratectl",
    version,
    about = "Speaks to a Quorate cluster",
    after_help = trouble::EXIT_CODES,
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The cluster itself: its members, its settings, what loss it would survive
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    /// One member, asked itself
    #[command(subcommand)]
    Member(member::Member),
    /// The machines that run containers
    #[command(subcommand)]
    Node(node::Node),
    /// What containers are made of
    #[command(subcommand)]
    Template(template::Template),
    /// Where private areas of containers live
    #[command(subcommand)]
    Storage(storage::Storage),
    /// What runs, where, and why there
    #[command(subcommand)]
    Container(container::Container),
    /// Everything that happened, and what happens from now on
    Events(events::Events),
    /// A playground of real processes on this machine
    #[command(subcommand)]
    Dev(dev::Dev),
    /// Prints a script that completes commands in a shell
    Completion {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Prints every method of the API that some verb calls, one a line; for programs the verbs too
    #[command(hide = true)]
    Verbs,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return trouble::unreadable(&error, std::env::args_os()),
    };
    let format = cli.global.output;
    let before_threads = match &cli.command {
        Command::Dev(dev) => dev::before_threads(dev),
        _ => None,
    };
    match before_threads.unwrap_or_else(|| in_runtime(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => trouble::report(&error, format),
    }
}

fn in_runtime(cli: Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(cli))
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let session = Session::new(cli.global);
    match cli.command {
        Command::Cluster(verb) => cluster::run(&session, verb).await,
        Command::Member(verb) => member::run(&session, verb).await,
        Command::Node(verb) => node::run(&session, verb).await,
        Command::Template(verb) => template::run(&session, verb).await,
        Command::Storage(verb) => storage::run(&session, verb).await,
        Command::Container(verb) => container::run(&session, verb).await,
        Command::Events(asked) => events::run(&session, asked).await,
        Command::Dev(dev) => dev::run(session.format, dev).await,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "quoratectl", &mut script);
            let script = String::from_utf8(script)?;
            let programs = || json!({ "shell": shell.to_string(), "script": script });
            output::answer(session.format, programs, || script.clone());
            Ok(())
        }
        Command::Verbs => {
            let programs = || json!({ "verbs": verbs::all(&Cli::command()), "methods": verbs::called() });
            output::answer(session.format, programs, || verbs::called().join("\n"));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_documents_the_exit_codes() {
        let help = Cli::command().render_help().to_string();
        assert!(help.contains("Exit codes:") && help.contains("  6  the cluster was reached"), "{help}");
    }

    #[test]
    fn several_servers_may_be_named_and_each_must_be_an_address() {
        let cli =
            Cli::try_parse_from(["quoratectl", "--server", "a:1,b:2", "node", "list", "-o", "json"]).expect("parsed");
        assert_eq!((cli.global.server, cli.global.output), (vec!["a:1".into(), "b:2".into()], output::Format::Json));
        let bad = Cli::try_parse_from(["quoratectl", "--server", "a:1,b", "node", "list"]);
        assert_eq!(bad.err().map(|error| error.exit_code()), Some(2));
    }
}

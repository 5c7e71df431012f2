//! `tests/nemesis`: real processes under every fault there is, judged by what containers and clients saw. Exit code 1 if a
//! promise was broken, 2 if the harness failed, 3 if it cannot run here.

use std::path::PathBuf;
use std::process::ExitCode;

use tests::lab::world::runtime;
use tests::nemesis::{Options, doubt, hosts, run, witness, world};

const USAGE: &str = "\
usage: tests/nemesis [--minutes N] [--seed K] [--only WORDS] [--profile NAME] [--runtime NAME] [--json] [--keep]
       tests/nemesis --doubt [--minutes N] [--profile NAME] [--runtime NAME] [--json] [--keep]
       tests/nemesis deeds [--seed K]

  --minutes N     how long to go on; what is under way is finished (5)
  --seed K        which deeds, in which order (of the day)
  --only WORDS    only deeds whose words contain these: see `deeds`
  --profile NAME  lease profile: fast, default or relaxed (default)
  --runtime NAME  crun, runc or process (the best OCI runtime there is)
  --doubt         no fault at all: five nodes on a machine that has no time for them; whoever is fenced is healthy
  --json          the report as JSON, on standard output
  --keep          keep the logs and records, whatever comes of it
  deeds           what a run of this seed would do";

/// What to do, and the runtime that was asked for.
fn options() -> Result<(Options, Option<String>), String> {
    let day = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs() / 86_400);
    let mut options = Options { minutes: 5.0, seed: day, profile: "default".into(), ..Options::default() };
    let mut runtime = None;
    let mut words = std::env::args().skip(1).filter(|word| word != "deeds");
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let number = |text: String| text.parse::<f64>().map_err(|_| format!("{text} is no number"));
        match word.as_str() {
            "--minutes" => options.minutes = number(value()?)?,
            "--seed" => options.seed = number(value()?)? as u64,
            "--only" => options.only = Some(value()?),
            "--profile" => options.profile = value()?,
            "--runtime" => runtime = Some(value()?),
            "--doubt" => options.doubt = true,
            "--json" => options.json = true,
            "--keep" => options.keep = true,
            _ => return Err(format!("there is no {word}")),
        }
    }
    Ok((options, runtime))
}

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("witness") => return done(witness::run()),
        Some("burn") => return done(doubt::burn()),
        Some("churn") => return done(doubt::churn(&PathBuf::from(std::env::args().nth(2).unwrap_or_default()))),
        Some("clocks") => {
            println!("{}", hosts::clocks());
            return ExitCode::SUCCESS;
        }
        Some("sweep") => {
            world::sweep();
            return ExitCode::SUCCESS;
        }
        Some("-h" | "--help") => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let (options, wanted) = match options() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("tests/nemesis: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if std::env::args().nth(1).as_deref() == Some("deeds") {
        let all = tests::nemesis::deeds::all(options.seed).iter().map(Vec::len).sum();
        tests::nemesis::deeds::order(options.seed).take(all).for_each(|deed| println!("{deed}"));
        return ExitCode::SUCCESS;
    }
    let Some(dir) = std::env::var_os(world::INSIDE) else { return world::enclose(options.keep) };
    let runtime = match wanted.as_deref() {
        None => runtime(),
        Some(wanted) => ["crun", "runc", "process"].into_iter().find(|known| *known == wanted),
    };
    let Some(runtime) = runtime else { return ExitCode::from(3) };
    let dir = PathBuf::from(dir);
    let ended = if options.doubt { doubt::run(&dir, runtime, &options) } else { run(&dir, runtime, &options) };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => done(Err(error)),
    }
}

fn done(ended: std::io::Result<()>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nemesis: {error}");
            ExitCode::from(2)
        }
    }
}

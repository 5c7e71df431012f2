//! `tests/nemesis`: real processes under every fault there is, judged by what containers and clients saw. Exit code 1 if a
//! promise was broken, 2 if the harness failed, 3 if it cannot run here.

use std::path::PathBuf;
use std::process::ExitCode;

use tests::lab::world::runtime;
use tests::nemesis::{Options, hosts, run, witness, world};

const USAGE: &str = "\
usage: tests/nemesis [--minutes N] [--seed K] [--only WORDS] [--profile NAME] [--json] [--keep]
       tests/nemesis deeds [--seed K]

  --minutes N     how long to go on; what is under way is finished (5)
  --seed K        which deeds, in which order (of the day)
  --only WORDS    only deeds whose words contain these: see `deeds`
  --profile NAME  lease profile: fast, default or relaxed (default)
  --json          the report as JSON, on standard output
  --keep          keep the logs and records, whatever comes of it
  deeds           what a run of this seed would do";

fn options() -> Result<Options, String> {
    let day = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs() / 86_400);
    let mut options =
        Options { minutes: 5.0, seed: day, profile: "default".into(), only: None, json: false, keep: false };
    let mut words = std::env::args().skip(1).filter(|word| word != "deeds");
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let number = |text: String| text.parse::<f64>().map_err(|_| format!("{text} is no number"));
        match word.as_str() {
            "--minutes" => options.minutes = number(value()?)?,
            "--seed" => options.seed = number(value()?)? as u64,
            "--only" => options.only = Some(value()?),
            "--profile" => options.profile = value()?,
            "--json" => options.json = true,
            "--keep" => options.keep = true,
            _ => return Err(format!("there is no {word}")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("witness") => return done(witness::run()),
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
    let options = match options() {
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
    let Some(runtime) = runtime() else { return ExitCode::from(3) };
    match run(&PathBuf::from(dir), runtime, &options) {
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

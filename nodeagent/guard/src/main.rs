//! `quorate-guard`: reads its arguments and becomes the guard.

use std::ffi::OsString;
use std::process::ExitCode;

use guard::{CgroupChoice, Config, NamespaceChoice, run_guard, selftest};

const HELP: &str = "\
quorate-guard - ends the containers of this node when its lease is over

Usage: quorate-guard --slot PATH --run-dir DIR --state-dir DIR [OPTIONS]
       quorate-guard --self-test [--slot PATH]

  --slot PATH          shared page with the agent; made if missing (best below /dev/shm or /run)
  --run-dir DIR        sockets, lock and logs; made if missing
  --state-dir DIR      records that survive a reboot; made if missing
  --k-ms N             time from a deadline to \"no task can run\", until the agent names one [default: 300]
  --allow-reboot       reboot this machine when an end is not done within K
  --watchdog DEV       hardware watchdog to pet, only while every end due is done
  --cgroup-root PATH   folder in the cgroup2 hierarchy for the trees of this node; `none` does without
                       [default: a place of its own]
  --no-namespaces      do without pid namespaces: this node is class F0 then
  --self-test          prove what the guard relies on, print it, exit; 1 if it cannot work here
  --help, --version

Ending the guard ends all containers of policy `stop`, by the kernel's hand.
";

enum Order {
    Guard(Config),
    SelfTest { slot: Option<OsString> },
    Print(&'static str),
}

fn main() -> ExitCode {
    let order = match parse(std::env::args_os().skip(1)) {
        Ok(order) => order,
        Err(problem) => {
            eprintln!("quorate-guard: {problem}\nTry `quorate-guard --help`.");
            return ExitCode::from(2);
        }
    };
    match order {
        Order::Print(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Order::SelfTest { slot } => match selftest::run(slot.as_deref().map(AsRef::as_ref)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => {
                eprintln!("quorate-guard: self-test: {problem}");
                ExitCode::FAILURE
            }
        },
        Order::Guard(config) => {
            let Err(error) = run_guard(config);
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(deeper) = cause {
                text.push_str(&format!(": {deeper}"));
                cause = deeper.source();
            }
            eprintln!("quorate-guard: {text}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Order, String> {
    let (mut slot, mut run_dir, mut state_dir) = (None, None, None);
    let (mut kill_ms, mut allow_reboot, mut watchdog) = (300, false, None);
    let (mut cgroup_root, mut namespaces, mut self_test) = (CgroupChoice::Auto, NamespaceChoice::Auto, false);
    while let Some(argument) = arguments.next() {
        let name = argument.to_string_lossy().into_owned();
        let mut value = || arguments.next().ok_or(format!("{name} needs a value"));
        match name.as_str() {
            "--slot" => slot = Some(value()?),
            "--run-dir" => run_dir = Some(value()?),
            "--state-dir" => state_dir = Some(value()?),
            "--k-ms" => {
                let text = value()?;
                let number = text.to_str().and_then(|text| text.parse().ok()).filter(|number| *number > 0);
                kill_ms = number.ok_or(format!("--k-ms wants a number of milliseconds, not {text:?}"))?;
            }
            "--allow-reboot" => allow_reboot = true,
            "--watchdog" => watchdog = Some(value()?),
            "--cgroup-root" => {
                let path = value()?;
                cgroup_root = if path == "none" { CgroupChoice::None } else { CgroupChoice::At(path.into()) };
            }
            "--no-namespaces" => namespaces = NamespaceChoice::None,
            "--self-test" => self_test = true,
            "--help" | "-h" => return Ok(Order::Print(HELP)),
            "--version" | "-V" => {
                return Ok(Order::Print(concat!("quorate-guard ", env!("CARGO_PKG_VERSION"), "\n")));
            }
            _ => return Err(format!("unknown argument {name:?}")),
        }
    }
    if self_test {
        return Ok(Order::SelfTest { slot });
    }
    let needed = |value: Option<OsString>, name: &str| value.ok_or(format!("{name} is missing"));
    Ok(Order::Guard(Config {
        slot: needed(slot, "--slot")?.into(),
        run_dir: needed(run_dir, "--run-dir")?.into(),
        state_dir: needed(state_dir, "--state-dir")?.into(),
        kill_ms,
        allow_reboot,
        watchdog: watchdog.map(Into::into),
        cgroup_root,
        namespaces,
    }))
}

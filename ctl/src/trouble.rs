//! What went wrong: words and the next step for people, a problem as REST has it for programs, the exit code for scripts.
//! In: errors of all kinds, the cluster's refusals among them. Out: standard error.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::ValueEnum;
use proto::Problem;
use serde_json::Value;
use tonic::Code;

use crate::client::Failure;
use crate::output::{Format, harmless};

/// Exit codes, as `quoratectl --help` documents them.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed, for a reason not below
  2  the command line is wrong; nothing was asked
  3  no member answered, or no majority: a change may be repeated with the request id that is shown
  4  no such object
  5  refused: the state does not allow it, the name is taken, or the input is not valid
  6  the cluster was reached, and what was awaited did not come in time

What went wrong stands on standard error, with -o json or yaml as one problem (RFC 9457) whose `reason` never changes.";

/// What this program itself has to say; what the cluster says is a [`Failure`].
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Trouble {
    kind: Kind,
    text: String,
    next: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The command line is wrong in a way only the whole of it shows.
    Usage,
    Missing,
    Refused,
    /// What was awaited did not come.
    Late,
}

impl Trouble {
    pub fn usage(text: impl Into<String>) -> Trouble {
        Trouble::new(Kind::Usage, text, "")
    }

    pub fn missing(text: impl Into<String>, next: impl Into<String>) -> Trouble {
        Trouble::new(Kind::Missing, text, next)
    }

    pub fn refused(text: impl Into<String>, next: impl Into<String>) -> Trouble {
        Trouble::new(Kind::Refused, text, next)
    }

    pub fn late(text: impl Into<String>, next: impl Into<String>) -> Trouble {
        Trouble::new(Kind::Late, text, next)
    }

    fn new(kind: Kind, text: impl Into<String>, next: impl Into<String>) -> Trouble {
        Trouble { kind, text: text.into(), next: next.into() }
    }

    fn problem(&self) -> Problem {
        let (code, reason) = match self.kind {
            Kind::Usage => (Code::InvalidArgument, "usage"),
            Kind::Missing => (Code::NotFound, "not-found"),
            Kind::Refused => (Code::FailedPrecondition, "refused"),
            Kind::Late => (Code::DeadlineExceeded, "not-in-time"),
        };
        Problem::new(code, reason, self.text.as_str()).hint(self.next.as_str())
    }
}

/// Says what went wrong and what to do next, and how the program ends.
pub fn report(error: &anyhow::Error, format: Format) -> ExitCode {
    if format.is_for_programs() {
        eprint!("{}", format.of(&problem(error)));
    } else {
        eprintln!("quoratectl: {}", harmless(&format!("{error:#}")));
        let next = next(error);
        if !next.is_empty() {
            eprintln!("next: {}", harmless(&next));
        }
    }
    ExitCode::from(exit_code(error))
}

/// What to do next where the error's own words do not say it.
fn next(error: &anyhow::Error) -> String {
    if let Some(trouble) = error.downcast_ref::<Trouble>() {
        return trouble.next.clone();
    }
    match error.downcast_ref::<Failure>() {
        Some(Failure::Unreachable { uncertain: Some(id), .. }) => {
            format!("the outcome is not known; the same command with --request-id {id} has its effect once")
        }
        Some(Failure::Unreachable { last, .. }) if last.hint.is_none() => {
            "is a member running there? --server or QUORATE_SERVERS names others".to_owned()
        }
        _ => String::new(),
    }
}

/// The problem that REST would answer, with what was being done, and with the request id of a change that may have been made.
fn problem(error: &anyhow::Error) -> Value {
    let failure = error.downcast_ref::<Failure>();
    let known = failure.map(|failure| failure.problem().clone());
    let known = known.or_else(|| error.downcast_ref::<Trouble>().map(Trouble::problem));
    let said_itself = known.is_none();
    let mut problem = known.unwrap_or_else(|| Problem::new(Code::Unknown, "failed", format!("{error:#}")));
    let next = next(error);
    if !next.is_empty() {
        problem = problem.hint(next);
    }
    let mut json = problem.json();
    if let Some(Failure::Unreachable { .. }) = failure {
        json["detail"] = failure.map(ToString::to_string).into();
    }
    if !said_itself && error.chain().len() > 1 {
        json["doing"] = error.to_string().into();
    }
    if let Some(Failure::Unreachable { uncertain: Some(id), .. }) = failure {
        json["requestId"] = id.clone().into();
    }
    json
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let of_code = |code| match code {
        Code::Unavailable => 3,
        Code::NotFound => 4,
        Code::DeadlineExceeded => 6,
        Code::InvalidArgument
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Aborted
        | Code::ResourceExhausted => 5,
        _ => 1,
    };
    match (error.downcast_ref::<Failure>(), error.downcast_ref::<Trouble>()) {
        (Some(Failure::Unreachable { .. }), _) => 3,
        (Some(Failure::Problem(problem)), _) => of_code(problem.code),
        (None, Some(Trouble { kind: Kind::Usage, .. })) => 2,
        (None, Some(trouble)) => of_code(trouble.problem().code),
        (None, None) => 1,
    }
}

/// The same for a command line that cannot be read at all; help and version go to whoever asked for them.
pub fn unreadable(error: &clap::Error, words: impl Iterator<Item = OsString>) -> ExitCode {
    let format = wanted_format(words).filter(|format| format.is_for_programs() && error.use_stderr());
    let Some(format) = format else { error.exit() };
    let said = error.render().to_string();
    let (what, rest) = said.split_once("\n\n").unwrap_or((&said, ""));
    let what = what.trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>().join(" ");
    let tip = rest.lines().find_map(|line| line.trim().strip_prefix("tip: "));
    let problem = Problem::new(Code::InvalidArgument, "usage", what).hint(tip.unwrap_or("--help says what there is"));
    eprint!("{}", format.of(&problem.json()));
    ExitCode::from(2)
}

/// What -o says, as far as that can be told of words that make no command line.
fn wanted_format(words: impl Iterator<Item = OsString>) -> Option<Format> {
    let mut words = words.map(|word| word.to_string_lossy().into_owned()).take_while(|word| word != "--");
    let mut wanted = None;
    while let Some(word) = words.next() {
        let value = match word.as_str() {
            "-o" | "--output" => words.next(),
            word => word.strip_prefix("--output=").or(word.strip_prefix("-o")).map(str::to_owned),
        };
        wanted = value.and_then(|value| Format::from_str(value.trim_start_matches('='), false).ok()).or(wanted);
    }
    wanted
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn exit_codes_are_the_documented_ones_whatever_is_said_around() {
        let problem =
            |code| anyhow::Error::from(Failure::Problem(Problem::new(code, "reason", "text"))).context("do it");
        let codes = [
            (Code::NotFound, 4),
            (Code::FailedPrecondition, 5),
            (Code::ResourceExhausted, 5),
            (Code::Unavailable, 3),
            (Code::Internal, 1),
        ];
        for (code, expected) in codes {
            assert_eq!(exit_code(&problem(code)), expected, "{code:?}");
            assert!(EXIT_CODES.contains(&format!("\n  {expected}  ")));
        }
        let late: anyhow::Result<()> = Err(Trouble::late("late", "wait longer")).context("wait");
        assert_eq!(exit_code(&late.expect_err("late")), 6);
        for (trouble, expected) in
            [(Trouble::usage("twice"), 2), (Trouble::missing("gone", ""), 4), (Trouble::refused("no", ""), 5)]
        {
            assert_eq!(exit_code(&trouble.into()), expected);
        }
        assert_eq!(exit_code(&anyhow::anyhow!("broken")), 1);
    }

    #[test]
    fn programs_get_a_problem_whatever_went_wrong() {
        let of = |error: anyhow::Error| problem(&error);
        let refused = Problem::new(Code::NotFound, "not-found", "there is no node n").at("node").hint("look");
        let refused = of(anyhow::Error::from(Failure::Problem(refused)).context("show node n"));
        assert_eq!((&refused["reason"], &refused["field"]), (&"not-found".into(), &"node".into()));
        assert_eq!((&refused["doing"], &refused["hint"]), (&"show node n".into(), &"look".into()));
        let unreachable = Failure::Unreachable {
            servers: "a:1".into(),
            within: std::time::Duration::from_secs(1),
            last: Problem::new(Code::Unavailable, "unreachable", "nobody"),
            uncertain: Some("id/0".into()),
        };
        let unreachable = of(unreachable.into());
        assert_eq!((&unreachable["requestId"], &unreachable["status"]), (&"id/0".into(), &503.into()));
        assert!(unreachable["hint"].as_str().is_some_and(|hint| hint.contains("--request-id id/0")), "{unreachable}");
        let late = of(anyhow::Error::from(Trouble::late("not yet", "look")).context("wait"));
        assert_eq!(
            (&late["reason"], &late["hint"], &late["detail"]),
            (&"not-in-time".into(), &"look".into(), &"not yet".into())
        );
        let other = of(anyhow::anyhow!("no such file").context("read x"));
        assert_eq!((&other["reason"], &other["detail"]), (&"failed".into(), &"read x: no such file".into()));
    }

    #[test]
    fn the_format_is_found_in_words_that_make_no_command_line() {
        let of = |line: &str| wanted_format(line.split(' ').map(OsString::from));
        for line in ["x -o json", "x -ojson", "x -o=json", "--output json x", "--output=json", "-o yaml -o json"] {
            assert_eq!(of(line), Some(Format::Json), "{line}");
        }
        for line in ["x", "x -o", "x -o nothing", "x -- -o json", "--out json"] {
            assert_eq!(of(line), None, "{line}");
        }
    }
}

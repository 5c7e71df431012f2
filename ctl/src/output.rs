//! What people and programs see: tables by default, `-o json|yaml|wide` on demand; progress on a terminal.
//! In: replies, errors. Out: stdout for results, stderr for progress and problems; the exit code.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::ValueEnum;
use comfy_table::{Table, presets};
use prost::Message;
use serde_json::Value;
use tonic::Code;

use crate::client::Failure;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// For people, with more columns
    Wide,
    /// The messages of the API as REST answers them
    Json,
    /// The same as YAML
    Yaml,
}

/// Exit codes, as `quoratectl --help` documents them.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed, for a reason not below
  2  the command line is wrong; nothing was asked
  3  no member answered, or no majority: a change may be repeated with the request id that is shown
  4  no such object
  5  refused: the state does not allow it, the name is taken, or the input is not valid
  6  the cluster was reached, and what was awaited did not come in time";

/// The command line is wrong in a way only the whole of it shows.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// What was awaited did not come.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TimedOut(pub String);

/// Writes a result. Whoever reads may stop reading: that ends the program, and is no failure.
pub fn emit(text: &str) {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| match text.ends_with('\n') {
        true => out.flush(),
        false => out.write_all(b"\n").and_then(|()| out.flush()),
    });
    match written {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            eprintln!("quoratectl: write the result: {error}");
            std::process::exit(1);
        }
    }
}

/// Rows under headings, columns as wide as they need.
pub fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(headings.iter().map(|it| it.to_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// One fact a line under its name; facts that are empty are left out.
pub fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    let mut text = String::new();
    for (name, fact) in facts.iter().filter(|(_, fact)| !fact.is_empty()) {
        for (at, line) in fact.lines().enumerate() {
            let name = if at == 0 { name } else { "" };
            let _ = writeln!(text, "{name:<width$}  {line}");
        }
    }
    text
}

/// Prints `message` (of that name in `quorate.v1`) for programs, or what `people` makes of it.
pub fn print(format: Format, name: &str, message: &impl Message, people: impl FnOnce() -> String) {
    match format {
        Format::Json => print_json(&json(name, message)),
        Format::Yaml => emit(&yaml(&json(name, message))),
        Format::Table | Format::Wide => emit(&harmless(&people())),
    }
}

/// `text` as a terminal may show it: what would move, hide or turn around what stands there is written out instead.
pub fn harmless(text: &str) -> String {
    let hidden = |c: char| {
        (c.is_control() && !matches!(c, '\n' | '\t'))
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    let shown = |c: char| if hidden(c) { c.escape_unicode().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

/// `message`, of that name in `quorate.v1`, as REST answers it.
pub fn json(name: &str, message: &impl Message) -> Value {
    proto::rest::to_json(&format!("quorate.v1.{name}"), message)
}

pub fn print_json(value: &Value) {
    emit(&serde_json::to_string_pretty(value).expect("JSON values print"));
}

/// Block style YAML of a JSON value; strings are quoted as JSON, which YAML reads.
pub fn yaml(value: &Value) -> String {
    fn write(value: &Value, depth: usize, out: &mut String) {
        let pad = "  ".repeat(depth);
        match value {
            Value::Object(map) if !map.is_empty() => {
                for (key, value) in map {
                    out.push_str(&format!("{pad}{}:", self::key(key)));
                    nested(value, depth, out);
                }
            }
            Value::Array(items) if !items.is_empty() => {
                for item in items {
                    out.push_str(&format!("{pad}-"));
                    nested(item, depth, out);
                }
            }
            scalar => out.push_str(&format!("{pad}{scalar}\n")),
        }
    }
    fn nested(value: &Value, depth: usize, out: &mut String) {
        let block = matches!(value, Value::Object(map) if !map.is_empty())
            || matches!(value, Value::Array(items) if !items.is_empty());
        if block {
            out.push('\n');
            write(value, depth + 1, out);
        } else {
            out.push_str(&format!(" {value}\n"));
        }
    }
    let mut out = String::new();
    write(value, 0, &mut out);
    out
}

/// Names of fields stand bare; keys that somebody chose, such as those of annotations, are quoted.
fn key(text: &str) -> String {
    let bare =
        text.starts_with(|it: char| it.is_ascii_alphabetic()) && text.chars().all(|it| it.is_ascii_alphanumeric());
    // Words that YAML 1.1 reads as something else.
    let word =
        matches!(&*text.to_ascii_lowercase(), "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null");
    if bare && !word { text.to_owned() } else { Value::from(text).to_string() }
}

/// `up` of `NODE_HEALTH_UP` and `NODE_HEALTH_`.
pub fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase().replace('_', "-")
}

/// `-` where there is nothing to say.
pub fn dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// `1 node`, `2 nodes`.
pub fn count(count: u32, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Cores: `0.5` of 500.
pub fn cores(millis: u64) -> String {
    let text = format!("{}.{:03}", millis / 1_000, millis % 1_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Memory in the largest unit that leaves at least one whole: `1.5 GiB`.
pub fn memory(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let Some((unit, size)) = UNITS.into_iter().find(|(_, size)| bytes >= *size) else { return format!("{bytes} B") };
    let tenths = u128::from(bytes) * 10 / u128::from(size);
    match tenths % 10 {
        0 => format!("{} {unit}", tenths / 10),
        tenth => format!("{}.{tenth} {unit}", tenths / 10),
    }
}

/// A time for people, from milliseconds: `1.5 s`, `15 min`.
pub fn time(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..60_000 => format!("{} s", cores(millis)),
        _ if millis.is_multiple_of(60_000) => format!("{} min", millis / 60_000),
        _ => format!("{} min {} s", millis / 60_000, millis % 60_000 / 1_000),
    }
}

/// A wall-clock time in UTC: `2026-11-22 09:58:12.123`. Source: `civil_from_days` of Howard Hinnant, chrono-compatible
/// low-level date algorithms.
pub fn utc(unix_ms: i64) -> String {
    let (days, of_day) = (unix_ms.div_euclid(86_400_000), unix_ms.rem_euclid(86_400_000));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (second, milli) = (of_day / 1_000 % 60, of_day % 1_000);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{milli:03}")
}

/// Says what went wrong and what to do next; for programs as the problem that REST would answer.
pub fn report(error: &anyhow::Error, format: Format) {
    let failure = error.downcast_ref::<Failure>();
    if let (Format::Json, Some(failure)) = (format, failure) {
        let mut problem = failure.problem().json();
        problem["doing"] = format!("{error}").into();
        if let Failure::Unreachable { uncertain: Some(id), .. } = failure {
            problem["requestId"] = id.clone().into();
        }
        eprintln!("{}", serde_json::to_string_pretty(&problem).expect("JSON values print"));
        return;
    }
    eprintln!("quoratectl: {}", harmless(&format!("{error:#}")));
    let next = match failure {
        Some(Failure::Unreachable { uncertain: Some(id), .. }) => {
            format!("the outcome is not known; the same command with --request-id {id} has its effect once")
        }
        Some(Failure::Unreachable { last, .. }) if last.hint.is_none() => {
            "is a member running there? --server or QUORATE_SERVERS names others".to_owned()
        }
        _ => return,
    };
    eprintln!("next: {next}");
}

pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    let of_failure = |failure: &Failure| match (failure, failure.problem().code) {
        (Failure::Unreachable { .. }, _) | (_, Code::Unavailable) => 3,
        (_, Code::NotFound) => 4,
        (_, Code::DeadlineExceeded) => 6,
        (
            _,
            Code::InvalidArgument | Code::AlreadyExists | Code::FailedPrecondition | Code::OutOfRange | Code::Aborted,
        ) => 5,
        _ => 1,
    };
    let code = match error.downcast_ref::<Failure>() {
        Some(failure) => of_failure(failure),
        None if error.downcast_ref::<TimedOut>().is_some() => 6,
        None if error.downcast_ref::<Usage>().is_some() => 2,
        None => 1,
    };
    ExitCode::from(code)
}

/// A line of progress: a spinner on a terminal, plain lines elsewhere.
pub struct Progress(Option<indicatif::ProgressBar>);

impl Progress {
    pub fn new(what: &str) -> Progress {
        let what = harmless(what);
        if !std::io::stderr().is_terminal() {
            eprintln!("{what}");
            return Progress(None);
        }
        let bar = indicatif::ProgressBar::new_spinner().with_message(what);
        bar.enable_steady_tick(std::time::Duration::from_millis(100));
        Progress(Some(bar))
    }

    /// What is being waited for now.
    pub fn say(&self, what: &str) {
        let what = harmless(what);
        match &self.0 {
            Some(bar) => bar.set_message(what),
            None => eprintln!("{what}"),
        }
    }

    /// A line that stays.
    pub fn line(&self, line: &str) {
        let line = harmless(line);
        match &self.0 {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    pub fn done(self, what: &str) {
        self.end();
        eprintln!("{}", harmless(what));
    }

    /// Takes the spinner away.
    pub fn end(self) {
        if let Some(bar) = self.0 {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;
    use proto::Problem;

    use super::*;

    #[test]
    fn yaml_is_what_json_says() {
        let value = serde_json::json!({"a": [{"b": 1, "c": []}, "x: y"], "d": {}, "e.f/g": null, "no": true});
        assert_eq!(yaml(&value), "a:\n  -\n    b: 1\n    c: []\n  - \"x: y\"\nd: {}\n\"e.f/g\": null\n\"no\": true\n");
    }

    #[test]
    fn amounts_and_times_are_for_people() {
        assert_eq!((cores(500), cores(2_000), cores(1_250)), ("0.5".into(), "2".into(), "1.25".into()));
        assert_eq!(
            (memory(512 << 20), memory(3 << 29), memory(17)),
            ("512 MiB".into(), "1.5 GiB".into(), "17 B".into())
        );
        assert_eq!((time(250), time(1_500), time(900_000)), ("250 ms".into(), "1.5 s".into(), "15 min".into()));
        assert_eq!((count(1, "node"), count(0, "node")), ("1 node".into(), "0 nodes".into()));
        assert_eq!(utc(0), "1970-01-01 00:00:00.000");
        assert_eq!(utc(1_709_208_061_042), "2024-02-29 12:01:01.042");
        assert_eq!(utc(-1), "1969-12-31 23:59:59.999");
    }

    #[test]
    fn nothing_that_somebody_wrote_moves_the_terminal() {
        assert_eq!(harmless("a\u{1b}[2Jb\u{202e}c\u{200b}\u{7}"), "a\\u{1b}[2Jb\\u{202e}c\\u{200b}\\u{7}");
        assert_eq!(harmless("Zürich\tone\ntwo"), "Zürich\tone\ntwo");
    }

    #[test]
    fn tables_line_up_and_empty_facts_are_left_out() {
        let text =
            table(&["name", "state"], [vec!["web".into(), "running".into()], vec!["database".into(), "-".into()]]);
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert_eq!(lines, ["NAME      STATE", "web       running", "database  -"]);
        assert_eq!(facts(&[("a", "1\n2".into()), ("none", String::new())]), "a     1\n      2\n");
    }

    #[test]
    fn exit_codes_are_the_documented_ones_whatever_is_said_around() {
        let problem =
            |code| anyhow::Error::from(Failure::Problem(Problem::new(code, "reason", "text"))).context("do it");
        let codes = [(Code::NotFound, 4), (Code::FailedPrecondition, 5), (Code::Unavailable, 3), (Code::Internal, 1)];
        for (code, expected) in codes {
            assert_eq!(exit_code(&problem(code)), ExitCode::from(expected), "{code:?}");
            assert!(EXIT_CODES.contains(&format!("\n  {expected}  ")));
        }
        let late: anyhow::Result<()> = Err(TimedOut("late".into())).context("wait");
        assert_eq!(exit_code(&late.expect_err("late")), ExitCode::from(6));
        assert_eq!(exit_code(&Usage("twice".into()).into()), ExitCode::from(2));
        assert_eq!(exit_code(&anyhow::anyhow!("broken")), ExitCode::from(1));
    }
}

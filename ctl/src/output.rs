//! What people and programs see: tables by default, `-o json|yaml|wide` on demand; progress on a terminal.
//! In: replies. Out: stdout for results, stderr for progress and problems.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::ValueEnum;
use comfy_table::{Table, presets};
use prost::Message;
use serde_json::Value;
use tonic::Code;

use crate::client::Failure;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For people, with more columns.
    Wide,
    Json,
    Yaml,
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

/// Prints `message` (of that name in `quorate.v1`) for programs, or what `people` makes of it.
pub fn print(format: Format, name: &str, message: &impl Message, people: impl FnOnce(Format) -> String) {
    match format {
        Format::Json => print_json(&proto::rest::to_json(&format!("quorate.v1.{name}"), message)),
        Format::Yaml => print!("{}", yaml(&proto::rest::to_json(&format!("quorate.v1.{name}"), message))),
        Format::Table | Format::Wide => println!("{}", people(format)),
    }
}

pub fn print_json(value: &Value) {
    println!("{}", serde_json::to_string_pretty(value).expect("JSON values print"));
}

/// Block style YAML of a JSON value; strings are quoted as JSON, which YAML reads.
pub fn yaml(value: &Value) -> String {
    fn write(value: &Value, depth: usize, out: &mut String) {
        let pad = "  ".repeat(depth);
        match value {
            Value::Object(map) if !map.is_empty() => {
                for (key, value) in map {
                    out.push_str(&format!("{pad}{key}:"));
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

/// Exit codes, as `quoratectl help exit-codes` documents them.
pub const EXIT_CODES: &str = "\
0  done
1  failed, for a reason not below
2  the command line is wrong
3  no member answered, or no leader: nothing is known to have changed
4  no such object
5  refused: the state does not allow it, the name is taken, or the input is not valid
6  the cluster was reached and what was awaited did not come in time
";

pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    let code = match error.downcast_ref::<Failure>().map(|failure| (failure, failure.problem().code)) {
        Some((Failure::Unreachable { .. }, _)) | Some((_, Code::Unavailable)) => 3,
        Some((_, Code::NotFound)) => 4,
        Some((_, Code::DeadlineExceeded)) => 6,
        Some((_, Code::InvalidArgument | Code::AlreadyExists | Code::FailedPrecondition | Code::OutOfRange)) => 5,
        _ if error.downcast_ref::<TimedOut>().is_some() => 6,
        _ => 1,
    };
    ExitCode::from(code)
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TimedOut(pub String);

/// A line of progress: a spinner on a terminal, plain lines elsewhere.
pub struct Progress(Option<indicatif::ProgressBar>);

impl Progress {
    pub fn new(what: &str) -> Progress {
        if !std::io::stderr().is_terminal() {
            eprintln!("{what}");
            return Progress(None);
        }
        let bar = indicatif::ProgressBar::new_spinner().with_message(what.to_owned());
        bar.enable_steady_tick(std::time::Duration::from_millis(100));
        Progress(Some(bar))
    }

    /// What is being waited for now.
    pub fn say(&self, what: &str) {
        match &self.0 {
            Some(bar) => bar.set_message(what.to_owned()),
            None => eprintln!("{what}"),
        }
    }

    /// A line that stays.
    pub fn line(&self, line: &str) {
        match &self.0 {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    pub fn done(self, what: &str) {
        match self.0 {
            Some(bar) => {
                bar.finish_and_clear();
                eprintln!("{what}");
            }
            None => eprintln!("{what}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_is_what_json_says() {
        let value = serde_json::json!({"a": [{"b": 1, "c": []}, "x: y"], "d": {}, "e": null});
        assert_eq!(yaml(&value), "a:\n  -\n    b: 1\n    c: []\n  - \"x: y\"\nd: {}\ne: null\n");
    }
}

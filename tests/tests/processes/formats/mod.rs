//! Every verb of `quoratectl`, each in every format, at a real cluster: it ends as it documents, prints what it promises and
//! nothing else, in the field names of the API, and what goes wrong is said in the same form.
//! In: a row for each verb there is; one without a row fails. Absent: what a verb does; that is the affair of other rooms.

mod ground;
mod playground;
mod reading;
mod verbs;

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tests::processes::{Ended, not_run, program, run};

use ground::Ground;
use reading::Reader;
use verbs::{ROWS, Row, Says};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Table,
    Wide,
    Json,
    Yaml,
}

impl Format {
    pub const ALL: [Format; 4] = [Format::Table, Format::Wide, Format::Json, Format::Yaml];

    pub fn name(self) -> &'static str {
        match self {
            Format::Table => "table",
            Format::Wide => "wide",
            Format::Json => "json",
            Format::Yaml => "yaml",
        }
    }

    pub fn is_for_programs(self) -> bool {
        matches!(self, Format::Json | Format::Yaml)
    }

    /// What one document says; panics with the text if it is none.
    #[track_caller]
    pub fn read(self, what: &str, text: &str) -> Value {
        let read = match self {
            Format::Yaml => reading::yaml(text),
            _ => serde_json::from_str(text).map_err(|error| error.to_string()),
        };
        read.unwrap_or_else(|error| panic!("{what}: {error}:\n{text}"))
    }
}

#[test]
fn every_verb_has_a_row() {
    let told = run("quoratectl", &["verbs", "-o", "json"], &[]);
    let told = Format::Json.read("verbs", &told.out);
    let verbs: BTreeSet<&str> = told["verbs"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert!(verbs.len() > 50 && verbs.contains("node drain"), "{verbs:?}");
    let rows: Vec<&str> = ROWS.iter().map(|row| row.line).chain(playground::lines()).collect();
    for verb in verbs {
        let there = rows.iter().any(|line| *line == verb || line.starts_with(&format!("{verb} ")));
        assert!(there || playground::INNER.contains(&verb), "`{verb}` has no row here");
    }
}

#[test]
fn every_verb_prints_tables() {
    walk(Format::Table);
}

#[test]
fn every_verb_prints_wider_tables() {
    walk(Format::Wide);
}

#[test]
fn every_verb_prints_json() {
    walk(Format::Json);
}

#[test]
fn every_verb_prints_yaml() {
    walk(Format::Yaml);
}

/// All rows in their order at one cluster; then each once more where nobody answers.
fn walk(format: Format) {
    let mut ground = Ground::new(format);
    let reader = Reader::of(&ground.schemas());
    for row in ROWS {
        let words = ground.words(row.line);
        let ended = match row.says {
            Says::Stream(_) => ground.listen(&words),
            _ => ground.run(&words),
        };
        is_good(&ground, &reader, row, &ended);
    }
    for row in ROWS.iter().filter(|row| !matches!(row.says, Says::Own(_))) {
        let ended = ground.run_in_vain(row.line);
        is_refused(format, row.line, &ended, 3, "unavailable");
    }
    if format == Format::Table {
        waits_in_sight(&mut ground);
    }
}

/// Whatever takes longer than a second says so on a terminal; all verbs at once, for each waits.
fn waits_in_sight(ground: &mut Ground) {
    if Command::new("script").arg("--version").output().is_err() {
        return not_run("progress on a terminal", "there is no script (util-linux)");
    }
    let rows = ROWS.iter().filter(|row| !matches!(row.says, Says::Own(_)));
    let waiting: Vec<_> = rows.map(|row| (row.line, on_a_terminal(&ground.in_vain(row.line, "4s")))).collect();
    for (line, child) in waiting {
        let shown = child.wait_with_output().expect("it ends").stdout;
        let shown = String::from_utf8_lossy(&shown);
        // Who asks for many things at once says what for.
        let said = ["asking 127.0.0.1:1", "annotating 1 container"].iter().any(|words| shown.contains(words));
        assert!(said, "`{line}` waits and shows nothing: {shown:?}");
    }
}

fn on_a_terminal(words: &[String]) -> Child {
    let line = format!("{} {}", program("quoratectl").display(), words.join(" "));
    let mut command = Command::new("script");
    let command = command.args(["-q", "-c", &line, "/dev/null"]).stdin(Stdio::null()).stdout(Stdio::piped());
    command.spawn().expect("script starts")
}

#[track_caller]
fn is_good(ground: &Ground, reader: &Reader, row: &Row, ended: &Ended) {
    let (format, what) = (ground.format, format!("`{}` -o {}", row.line, ground.format.name()));
    if !matches!(row.says, Says::Stream(_)) {
        assert_eq!(ended.code, Some(0), "{what}: {ended:?}");
    }
    is_plain(&what, &ended.err);
    assert!(!format.is_for_programs() || ended.err.is_empty(), "{what} says more than its answer: {}", ended.err);
    is_plain(&what, &ended.out);
    assert!(ended.out.ends_with('\n') && !ended.out.trim().is_empty(), "{what}: {ended:?}");
    match (format.is_for_programs(), row.says) {
        (_, Says::Always(message)) => reader.reads(&what, message, &Format::Json.read(&what, &ended.out)),
        (true, Says::Message(message)) => reader.reads(&what, message, &format.read(&what, &ended.out)),
        (true, Says::Own(keys)) => {
            let told = format.read(&what, &ended.out);
            let told: Vec<&str> = told.as_object().expect("an object").keys().map(String::as_str).collect();
            assert_eq!(told, keys, "{what}");
        }
        (true, Says::Stream(message)) => {
            for document in documents(format, &ended.out) {
                reader.reads(&what, message, &format.read(&what, document));
            }
        }
        (false, Says::Own(_)) => {}
        (false, Says::Message(_) | Says::Stream(_)) => is_for_people(ground, &what, row, &ended.out),
    }
}

/// JSON: one a line; YAML: each behind a line of dashes.
fn documents(format: Format, text: &str) -> Vec<&str> {
    let all: Vec<&str> = match format {
        Format::Yaml => text.split("---\n").skip(1).collect(),
        _ => text.lines().collect(),
    };
    assert!(all.len() > 1, "a stream of one: {text}");
    all
}

/// No words of the wire, nothing of the program's inside; a wide table has what a narrow one has.
#[track_caller]
fn is_for_people(ground: &Ground, what: &str, row: &Row, out: &str) {
    assert!(serde_json::from_str::<Value>(out).is_err(), "{what} is JSON: {out}");
    for inside in ["Some(", "None", "_UNSPECIFIED", "NODE_", "CONTAINER_", "LEASE_PROFILE_", "{ ", "\"\""] {
        assert!(!out.contains(inside), "{what} shows {inside:?}: {out}");
    }
    if ground.format == Format::Wide && row.line.ends_with(" list") {
        let narrow = ground.run_as(Format::Table, &ground.server, row.line.split(' ').map(str::to_owned)).out;
        let headings =
            |text: &str| text.lines().next().unwrap_or_default().split("  ").map(|it| it.trim().to_owned()).collect();
        let (narrow, wide): (BTreeSet<String>, BTreeSet<String>) = (headings(&narrow), headings(out));
        assert!(wide.is_superset(&narrow), "{what} loses {:?}", narrow.difference(&wide));
    }
}

/// Nothing that moves, hides or colours; lines end as lines do.
#[track_caller]
fn is_plain(what: &str, text: &str) {
    let odd = |c: char| c.is_control() && c != '\n' && c != '\t';
    assert!(!text.contains(odd), "{what} is no plain text: {text:?}");
}

/// Exit code, words and the next step; for programs one problem and nothing else.
#[track_caller]
pub fn is_refused(format: Format, line: &str, ended: &Ended, code: i32, reason: &str) {
    let what = format!("`{line}` -o {}", format.name());
    assert_eq!((ended.code, &*ended.out), (Some(code), ""), "{what}: {ended:?}");
    is_plain(&what, &ended.err);
    if !format.is_for_programs() {
        let mut lines = ended.err.lines().filter(|line| !line.starts_with("  "));
        assert!(lines.any(|line| line.starts_with("quoratectl: ")), "{what}: {}", ended.err);
        assert!(ended.err.contains("\nnext: "), "{what} does not say what to do next: {}", ended.err);
        return;
    }
    let problem = format.read(&what, &ended.err);
    assert_eq!(problem["reason"], reason, "{what}: {problem}");
    for key in ["type", "title", "detail", "code", "hint"] {
        assert!(problem[key].as_str().is_some_and(|text| !text.is_empty()), "{what}: no {key}: {problem}");
    }
    assert!(problem["status"].as_u64().is_some_and(|status| status >= 400), "{what}: {problem}");
}

//! The verbs of the playground: one is brought up, and each is asked in every format.

use serde_json::Value;
use tests::processes::{Ended, Folder, run};

use super::{Format, is_plain, is_refused};

/// Each ends well in every format, and says this for programs: keys of its answer.
const DONE: [(&str, &[&str]); 7] = [
    ("dev status", &["dir", "machines", "servers"]),
    ("dev pause machine-1 --service agent", &["done", "machine", "service"]),
    ("dev resume node-1 --service agent", &["done", "machine", "service"]),
    ("dev kill member-2 --service member", &["done", "machine", "service"]),
    ("dev kill machine-4", &["done", "machine"]),
    ("dev power-on machine-4", &["done", "machine"]),
    ("dev status ", &["dir", "machines", "servers"]),
];

/// Each is refused in every format while the playground is up: exit code and reason.
const REFUSED: [(&str, i32, &str); 7] = [
    ("dev up", 5, "refused"),
    ("dev demo", 5, "refused"),
    ("dev power-on machine-1", 5, "refused"),
    ("dev kill machine-9", 4, "not-found"),
    ("dev cut machine-1", 5, "refused"),
    ("dev heal machine-1", 5, "refused"),
    ("dev pause machine-9", 4, "not-found"),
];

const DOWN: &str = "dev down";

/// What the playground itself runs: machines, and what runs in them.
pub const INNER: [&str; 4] = ["dev machine", "dev machine-first", "dev switch", "dev witness"];

pub fn lines() -> impl Iterator<Item = &'static str> {
    DONE.iter().map(|(line, _)| *line).chain(REFUSED.iter().map(|(line, ..)| *line)).chain([DOWN])
}

/// Ends the playground however the test ends.
struct Playground(Folder);

impl Playground {
    fn ask(&self, format: Format, line: &str) -> Ended {
        let dir = self.0.path().join("playground").display().to_string();
        let words: Vec<&str> = line.split_whitespace().chain(["--dir", &dir, "-o", format.name()]).collect();
        run("quoratectl", &words, &[])
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        self.ask(Format::Table, DOWN);
    }
}

#[track_caller]
fn is_done(format: Format, line: &str, keys: &[&str], ended: &Ended) -> Value {
    let what = format!("`{line}` -o {}", format.name());
    assert_eq!(ended.code, Some(0), "{what}: {ended:?}");
    is_plain(&what, &ended.out);
    is_plain(&what, &ended.err);
    if !format.is_for_programs() {
        assert!(!ended.out.starts_with('{') && ended.out.ends_with('\n'), "{what}: {}", ended.out);
        return Value::Null;
    }
    assert_eq!(ended.err, "", "{what} says more than its answer");
    let told = format.read(&what, &ended.out);
    let found: Vec<&str> = told.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(found, keys, "{what}");
    told
}

#[test]
fn the_playground_answers_in_every_format() {
    let playground = Playground(Folder::new("formats"));
    for format in Format::ALL {
        is_refused(format, "dev status", &playground.ask(format, "dev status"), 4, "not-found");
    }
    let up = playground.ask(Format::Json, "dev up --runtime process --profile fast");
    let up = is_done(Format::Json, "dev up", &["dir", "machines", "servers"], &up);
    assert_eq!(up["machines"].as_array().map(Vec::len), Some(4), "{up}");
    assert_eq!(up["machines"][0]["power"], "on", "{up}");
    for format in Format::ALL {
        for (line, keys) in DONE {
            is_done(format, line, keys, &playground.ask(format, line));
        }
        for (line, code, reason) in REFUSED {
            is_refused(format, line, &playground.ask(format, line), code, reason);
        }
    }
    for format in Format::ALL {
        is_done(format, DOWN, &["dir", "done"], &playground.ask(format, DOWN));
    }
}

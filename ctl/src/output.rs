//! What people and programs see of a result: tables by default, `-o json|yaml|wide` on demand.
//! In: replies. Out: standard output. Absent: problems (`trouble`), and what is under way (`progress`).

use std::fmt::Write as _;
use std::io::Write;

use clap::ValueEnum;
use comfy_table::{Table, presets};
use prost::Message;
use serde_json::Value;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// For people, with more columns
    Wide,
    /// The messages of the API as REST answers them; a stream, one a line
    Json,
    /// The same as YAML
    Yaml,
}

impl Format {
    pub fn is_for_programs(self) -> bool {
        matches!(self, Format::Json | Format::Yaml)
    }

    /// `value` as one document, with the line's end: YAML where that is wanted, else JSON.
    pub fn of(self, value: &Value) -> String {
        match self {
            Format::Yaml => yaml(value),
            _ => plain(&serde_json::to_string_pretty(value).expect("JSON values print")) + "\n",
        }
    }
}

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
    answer(format, || json(name, message), people);
}

/// Prints what `programs` says, or what `people` makes of it.
pub fn answer(format: Format, programs: impl FnOnce() -> Value, people: impl FnOnce() -> String) {
    match format.is_for_programs() {
        true => emit(&format.of(&programs())),
        false => emit(&harmless(&people())),
    }
}

/// `text` as a terminal may show it: what would move, hide or turn around what stands there is written out instead.
pub fn harmless(text: &str) -> String {
    let shown = |c: char| if is_hidden(c) { c.escape_unicode().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

/// JSON without what a terminal would obey or YAML would not read: it stands in strings only, and there in this form too.
fn plain(json: &str) -> String {
    let shown = |c: char| if is_hidden(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    json.chars().map(shown).collect()
}

/// All of them within the first 65,536.
fn is_hidden(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t'))
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// `message`, of that name in `quorate.v1`, as REST answers it.
pub fn json(name: &str, message: &impl Message) -> Value {
    proto::rest::to_json(&format!("quorate.v1.{name}"), message)
}

/// `message` in one line.
pub fn line_of_json(name: &str, message: &impl Message) -> String {
    plain(&json(name, message).to_string())
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
            scalar => out.push_str(&format!("{pad}{}\n", plain(&scalar.to_string()))),
        }
    }
    fn nested(value: &Value, depth: usize, out: &mut String) {
        let block = matches!(value, Value::Object(map) if !map.is_empty())
            || matches!(value, Value::Array(items) if !items.is_empty());
        if block {
            out.push('\n');
            write(value, depth + 1, out);
        } else {
            out.push_str(&format!(" {}\n", plain(&value.to_string())));
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
    if bare && !word { text.to_owned() } else { plain(&Value::from(text).to_string()) }
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

#[cfg(test)]
mod tests {
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
        let value = serde_json::json!({ "a\u{9b}": "b\u{202e}\u{feff}\u{85}\u{7f}é\n" });
        assert_eq!(Format::Yaml.of(&value), "\"a\\u009b\": \"b\\u202e\\ufeff\\u0085\\u007fé\\n\"\n");
        assert_eq!(serde_json::from_str::<Value>(&Format::Json.of(&value)).expect("JSON"), value);
    }

    #[test]
    fn tables_line_up_and_empty_facts_are_left_out() {
        let text =
            table(&["name", "state"], [vec!["web".into(), "running".into()], vec!["database".into(), "-".into()]]);
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert_eq!(lines, ["NAME      STATE", "web       running", "database  -"]);
        assert_eq!(facts(&[("a", "1\n2".into()), ("none", String::new())]), "a     1\n      2\n");
    }
}

//! Reads what was printed: YAML in block style without a library of anybody, and messages against the description that the
//! cluster itself serves.

use serde_json::{Map, Value};

/// One document in block style, its keys bare or as JSON, its scalars as JSON.
pub fn yaml(text: &str) -> Result<Value, String> {
    let mut lines = Vec::new();
    for line in text.lines() {
        let content = line.trim_start_matches(' ');
        if content.is_empty() || content.starts_with(['#', '\t', '&', '*', '!', '|', '>']) {
            return Err(format!("{line:?} is not expected here"));
        }
        lines.push((line.len() - content.len(), content));
    }
    let mut rest = lines.as_slice();
    let value = block(&mut rest)?;
    rest.first().map_or(Ok(value), |(_, line)| Err(format!("{line:?} belongs to nothing")))
}

type Lines<'t> = &'t [(usize, &'t str)];

/// What stands at the depth of the first line.
fn block(rest: &mut Lines) -> Result<Value, String> {
    let &(depth, first) = rest.first().ok_or("there is nothing")?;
    if first == "-" || first.starts_with("- ") {
        let mut items = Vec::new();
        while let Some(line) = here(depth, rest) {
            let item = line.strip_prefix('-').ok_or_else(|| format!("{line:?} is no item"))?;
            *rest = &rest[1..];
            items.push(below(depth, item, rest)?);
        }
        return Ok(items.into());
    }
    if !first.contains(':') || first.starts_with(['[', '{']) {
        *rest = &rest[1..];
        return scalar(first);
    }
    let mut fields = Map::new();
    while let Some(line) = here(depth, rest) {
        let (key, value) = key(line)?;
        *rest = &rest[1..];
        if fields.insert(key, below(depth, value, rest)?).is_some() {
            return Err(format!("{line:?} is said twice"));
        }
    }
    Ok(fields.into())
}

/// The next line, if it stands at that depth.
fn here<'t>(depth: usize, rest: &Lines<'t>) -> Option<&'t str> {
    rest.first().filter(|(at, _)| *at == depth).map(|(_, line)| *line)
}

/// Behind a dash or a key: on the same line, or deeper on those that follow.
fn below(depth: usize, same_line: &str, rest: &mut Lines) -> Result<Value, String> {
    match same_line.strip_prefix(' ') {
        Some(value) => scalar(value),
        None if same_line.is_empty() && rest.first().is_some_and(|(at, _)| *at > depth) => block(rest),
        None => Err(format!("{same_line:?} stands where a value was to be")),
    }
}

fn key(line: &str) -> Result<(String, &str), String> {
    if !line.starts_with('"') {
        let (key, value) = line.split_once(':').ok_or_else(|| format!("{line:?} has no key"))?;
        return Ok((key.to_owned(), value));
    }
    let mut reader = serde_json::Deserializer::from_str(line).into_iter::<String>();
    let key = reader.next().and_then(Result::ok).ok_or_else(|| format!("{line:?} has no key"))?;
    let value = line[reader.byte_offset()..].strip_prefix(':').ok_or_else(|| format!("{line:?} has no value"))?;
    Ok((key, value))
}

fn scalar(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("{text:?} is no scalar: {error}"))
}

/// The messages of the API, as `/openapi.json` describes them.
pub struct Reader {
    document: Value,
}

impl Reader {
    pub fn of(document: &Value) -> Reader {
        Reader { document: document.clone() }
    }

    /// Panics unless `value` is a message of that name, with every field under the name that the API has for it.
    #[track_caller]
    pub fn reads(&self, what: &str, message: &str, value: &Value) {
        let schema = &self.document["components"]["schemas"][message];
        assert!(schema.is_object(), "the API describes no {message}");
        if let Err(fault) = self.fits(schema, value) {
            panic!("{what} prints no {message}: {fault}: {value}");
        }
    }

    fn fits(&self, schema: &Value, value: &Value) -> Result<(), String> {
        if let Some(reference) = schema["$ref"].as_str() {
            let schema = self.document.pointer(reference.trim_start_matches('#'));
            return self.fits(schema.ok_or_else(|| format!("{reference} leads nowhere"))?, value);
        }
        let right = match schema["type"].as_str() {
            Some("string") => value.is_string(),
            Some("boolean") => value.is_boolean(),
            Some("integer") => value.is_u64() || value.is_i64(),
            Some("number") => value.is_number(),
            Some("array") => value.is_array(),
            Some("object") => value.is_object(),
            other => return Err(format!("a schema of {other:?}")),
        };
        let listed = schema["enum"].as_array().is_none_or(|names| names.contains(value));
        if !right || !listed {
            return Err(format!("{value} where {} was to be", schema["type"]));
        }
        value.as_array().into_iter().flatten().try_for_each(|item| self.fits(&schema["items"], item))?;
        for (key, value) in value.as_object().into_iter().flatten() {
            let schema = match &schema["properties"][key] {
                Value::Null => &schema["additionalProperties"],
                known => known,
            };
            if !schema.is_object() {
                return Err(format!("the API has no {key}"));
            }
            self.fits(schema, value).map_err(|fault| format!("{key}: {fault}"))?;
        }
        Ok(())
    }
}

#[test]
fn yaml_is_read_or_refused() {
    let text = "a:\n  -\n    b: 1\n    c: []\n  - \"x: y\"\nd: {}\n\"e.f/g\": null\nh:\n  i:\n    - true\n";
    let json = serde_json::json!({"a": [{"b": 1, "c": []}, "x: y"], "d": {}, "e.f/g": null, "h": {"i": [true]}});
    assert_eq!(yaml(text), Ok(json));
    for bad in ["", "a: b", "a:\nb: 1", "a: 1\na: 2", "a: 1\n  b: 2", "- 1\nb: 2", "a:1", "a: 1\n\nb: 2", "a: |\n  b"] {
        assert!(yaml(bad).is_err(), "{bad:?}");
    }
}

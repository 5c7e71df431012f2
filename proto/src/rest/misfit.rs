//! What is wrong with JSON that a message cannot hold: where, what was expected there, and how it would be right. The parser
//! only says that something is, and in words of its own.
//! In: a message's shape and the JSON it did not take. Out: the first fault, in our words.

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value};
use tonic::Code;

use super::message::read;
use crate::problem::Problem;

/// Values are shown up to so many characters.
const SHOWN: usize = 60;

/// The fault of `fields`, which a `message` cannot hold.
pub(super) fn problem(message: &MessageDescriptor, fields: &Map<String, Value>) -> Problem {
    let Some((path, fault)) = at_fault(message, fields) else {
        return bad("the fields are sound one by one and do not go together").hint(SCHEMA);
    };
    match fault {
        Fault::Unknown(message) => unknown(&message, &path),
        Fault::Value { expected, shown, example } => {
            bad(format!("must be {expected}, not {shown}")).at(path).hint(format!("as in {example}"))
        }
        Fault::Two(other) => bad(format!("contradicts {other}")).at(path).hint("give one of the two"),
    }
}

/// `name` stands for no field of `message`.
pub(super) fn unknown(message: &MessageDescriptor, path: &str) -> Problem {
    let known: Vec<String> = message.fields().map(|field| field.json_name().to_owned()).collect();
    let hint = match known.is_empty() {
        true => "there are no fields here".to_owned(),
        false => format!("there are {}", known.join(", ")),
    };
    Problem::new(Code::InvalidArgument, "unknown-field", "there is no such field").at(path).hint(hint)
}

/// What stands where an object was to be.
pub(super) fn no_object(message: &MessageDescriptor, value: &Value) -> Problem {
    let text = format!("the body must be a JSON object, not {}", shown(value));
    Problem::new(Code::InvalidArgument, "not-an-object", text).hint(format!("as in {}", example_of(message)))
}

/// Where a text stops being JSON.
pub(super) fn no_json(error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "it ends before it is complete".to_owned();
    }
    format!("it makes no sense at line {}, column {}", error.line(), error.column())
}

const SCHEMA: &str = "GET /openapi.json says what goes with what";

fn bad(text: impl Into<Box<str>>) -> Problem {
    Problem::new(Code::InvalidArgument, "bad-value", text)
}

enum Fault {
    /// No field of this message.
    Unknown(MessageDescriptor),
    Value {
        expected: String,
        shown: String,
        example: String,
    },
    /// Another field of which only one can be given.
    Two(String),
}

/// The first fault by its path, in the names of the proto as everywhere in the API.
fn at_fault(message: &MessageDescriptor, fields: &Map<String, Value>) -> Option<(String, Fault)> {
    let named = |key: &str| message.get_field_by_name(key).or_else(|| message.get_field_by_json_name(key));
    let alone = fields.iter().find_map(|(key, value)| {
        if holds(message, key, value) {
            return None;
        }
        let Some(field) = named(key) else { return Some((key.clone(), Fault::Unknown(message.clone()))) };
        let (below, fault) = within(message, &field, value);
        Some((format!("{}{below}", field.name()), fault))
    });
    alone.or_else(|| {
        let given = |field: &FieldDescriptor| {
            [field.name(), field.json_name()].iter().any(|key| fields.get(*key).is_some_and(|it| !it.is_null()))
        };
        message.oneofs().find_map(|choice| {
            let both: Vec<String> = choice.fields().filter(given).map(|field| field.name().to_owned()).collect();
            (both.len() > 1).then(|| (both[1].clone(), Fault::Two(both[0].clone())))
        })
    })
}

fn holds(message: &MessageDescriptor, key: &str, value: &Value) -> bool {
    read(message, &Value::Object(Map::from_iter([(key.to_owned(), value.clone())]))).is_ok()
}

/// The fault of `value`, which `field` of `message` cannot hold, and its path below the field.
fn within(message: &MessageDescriptor, field: &FieldDescriptor, value: &Value) -> (String, Fault) {
    let fits = |value: Value| holds(message, field.name(), &value);
    let whole = |kind: &Kind, value: &Value| {
        let example = format!("{{{:?}: {}}}", field.json_name(), example(field));
        Fault::Value { expected: expected(kind), shown: shown(value), example }
    };
    match value {
        Value::Object(entries) if field.is_map() => {
            let Kind::Message(entry) = field.kind() else { unreachable!("the entries of a map are messages") };
            let alone = |key: &str, value: &Value| Value::Object(Map::from_iter([(key.to_owned(), value.clone())]));
            let wrong = entries.iter().find(|(key, value)| !fits(alone(key, value)));
            wrong.map_or_else(
                || (String::new(), of_many(field, value)),
                |(key, value)| (format!(".{key}"), whole(&entry.map_entry_value_field().kind(), value)),
            )
        }
        Value::Array(items) if field.is_list() => {
            let wrong = items.iter().enumerate().find(|(_, item)| !fits(Value::Array(vec![(*item).clone()])));
            wrong.map_or_else(
                || (String::new(), of_many(field, value)),
                |(place, item)| {
                    let (below, fault) =
                        below(&field.kind(), item).unwrap_or_else(|| (String::new(), whole(&field.kind(), item)));
                    (format!("[{place}]{below}"), fault)
                },
            )
        }
        value if field.is_map() || field.is_list() => (String::new(), of_many(field, value)),
        value => below(&field.kind(), value).unwrap_or_else(|| (String::new(), whole(&field.kind(), value))),
    }
}

/// The fault of a field of `value`, if that is an object where one is wanted.
fn below(kind: &Kind, value: &Value) -> Option<(String, Fault)> {
    let (Kind::Message(inner), Value::Object(fields)) = (kind, value) else { return None };
    at_fault(inner, fields).map(|(path, fault)| (format!(".{path}"), fault))
}

/// A list or a map was wanted.
fn of_many(field: &FieldDescriptor, value: &Value) -> Fault {
    let expected = match (field.is_map(), field.kind()) {
        (true, Kind::Message(entry)) => {
            format!("an object, each value {}", expected(&entry.map_entry_value_field().kind()))
        }
        (_, kind) => format!("a list, each item {}", expected(&kind)),
    };
    Fault::Value { expected, shown: shown(value), example: format!("{{{:?}: {}}}", field.json_name(), example(field)) }
}

fn expected(kind: &Kind) -> String {
    let whole = |from: &str, to: u64| format!("a whole number from {from} to {to}");
    match kind {
        Kind::Bool => "true or false".to_owned(),
        Kind::Uint32 | Kind::Fixed32 => whole("0", u32::MAX.into()),
        Kind::Uint64 | Kind::Fixed64 => whole("0", u64::MAX),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => whole(&i32::MIN.to_string(), i32::MAX as u64),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => whole(&i64::MIN.to_string(), i64::MAX as u64),
        Kind::Float | Kind::Double => "a number".to_owned(),
        Kind::String => "text".to_owned(),
        Kind::Bytes => "bytes, as text in base64".to_owned(),
        Kind::Enum(choices) => format!("one of {}", names(choices).join(", ")),
        Kind::Message(message) => {
            let fields: Vec<String> = message.fields().map(|field| field.json_name().to_owned()).collect();
            format!("an object of {}", if fields.is_empty() { "no fields".to_owned() } else { fields.join(", ") })
        }
    }
}

/// Without the one that stands for nothing being said.
fn names(choices: &EnumDescriptor) -> Vec<String> {
    choices.values().filter(|value| value.number() != 0).map(|value| value.name().to_owned()).collect()
}

/// JSON that `field` takes.
fn example(field: &FieldDescriptor) -> String {
    match field.kind() {
        Kind::Message(entry) if field.is_map() => {
            format!("{{\"key\": {}}}", of_kind(&entry.map_entry_value_field().kind()))
        }
        kind if field.is_list() => format!("[{}]", of_kind(&kind)),
        kind => of_kind(&kind),
    }
}

fn of_kind(kind: &Kind) -> String {
    match kind {
        Kind::Bool => "true".to_owned(),
        Kind::Float | Kind::Double => "1.5".to_owned(),
        Kind::String => "\"text\"".to_owned(),
        Kind::Bytes => "\"AAEC\"".to_owned(),
        Kind::Enum(choices) => format!("{:?}", names(choices).first().map_or("", String::as_str)),
        Kind::Message(message) => example_of(message),
        _ => "100".to_owned(),
    }
}

/// With the first field that says what is meant, not which request it is.
fn example_of(message: &MessageDescriptor) -> String {
    let field = message.fields().find(|field| field.name() != "request_id");
    field.map_or("{}".to_owned(), |field| format!("{{{:?}: {}}}", field.json_name(), example(&field)))
}

fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) if text.chars().count() > SHOWN => {
            format!("{:?}…", text.chars().take(SHOWN).collect::<String>())
        }
        Value::String(text) => format!("{text:?}"),
        plain => plain.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::POOL;
    use super::*;

    fn fault(message: &str, json: &str) -> Problem {
        let message = POOL.get_message_by_name(&format!("quorate.v1.{message}")).expect("a message");
        let json: Value = serde_json::from_str(json).expect("JSON");
        assert!(read(&message, &json).is_err(), "{json} is sound");
        problem(&message, json.as_object().expect("an object"))
    }

    #[track_caller]
    fn says(message: &str, json: &str, field: &str, text: &str, example: &str) {
        let problem = fault(message, json);
        let said = (problem.field.as_deref(), &*problem.message, problem.hint.as_deref());
        assert_eq!(said, (Some(field), text, Some(&*format!("as in {example}"))), "{json}");
        // What is recommended is taken.
        let inner: Value = serde_json::from_str(example).expect("JSON");
        assert!(inner.is_object(), "{example}");
    }

    #[test]
    fn each_kind_of_field_says_what_it_takes() {
        let u64s = "a whole number from 0 to 18446744073709551615";
        for (value, shown) in [
            ("-5", "-5"),
            ("1.5", "1.5"),
            ("\"many\"", "\"many\""),
            ("\"18446744073709551616\"", "\"18446744073709551616\""),
            ("true", "true"),
            ("[1]", "a list"),
            ("{}", "an object"),
        ] {
            says(
                "CreateContainerRequest",
                &format!(r#"{{"spec": {{"resources": {{"cpuMillis": {value}}}}}}}"#),
                "spec.resources.cpu_millis",
                &format!("must be {u64s}, not {shown}"),
                r#"{"cpuMillis": 100}"#,
            );
        }
        says(
            "GetNodeRequest",
            r#"{"stale": "perhaps"}"#,
            "stale",
            r#"must be true or false, not "perhaps""#,
            r#"{"stale": true}"#,
        );
        says("GetNodeRequest", r#"{"node": 7}"#, "node", "must be text, not 7", r#"{"node": "text"}"#);
        says(
            "SetNodeRoleRequest",
            r#"{"role": "NODE_ROLE_KING"}"#,
            "role",
            r#"must be one of NODE_ROLE_ACTIVE, NODE_ROLE_STANDBY, not "NODE_ROLE_KING""#,
            r#"{"role": "NODE_ROLE_ACTIVE"}"#,
        );
        says(
            "CreateContainerRequest",
            r#"{"spec": {"resources": "much"}}"#,
            "spec.resources",
            r#"must be an object of cpuMillis, memoryBytes, not "much""#,
            r#"{"resources": {"cpuMillis": 100}}"#,
        );
        says(
            "JoinRequest",
            r#"{"labels": {"rack": "a", "row": 3}}"#,
            "labels.row",
            "must be text, not 3",
            r#"{"labels": {"key": "text"}}"#,
        );
        says(
            "JoinRequest",
            r#"{"labels": "a"}"#,
            "labels",
            r#"must be an object, each value text, not "a""#,
            r#"{"labels": {"key": "text"}}"#,
        );
        says(
            "CreateContainerRequest",
            r#"{"spec": {"command": ["a", 7]}}"#,
            "spec.command[1]",
            "must be text, not 7",
            r#"{"command": ["text"]}"#,
        );
        says(
            "CreateContainerRequest",
            r#"{"spec": {"command": "a b"}}"#,
            "spec.command",
            r#"must be a list, each item text, not "a b""#,
            r#"{"command": ["text"]}"#,
        );
        says(
            "CreateContainerRequest",
            r#"{"spec": {"preferredOwners": [{"nodes": []}, {"nodes": [true]}]}}"#,
            "spec.preferred_owners[1].nodes[0]",
            "must be text, not true",
            r#"{"nodes": ["text"]}"#,
        );
        says(
            "CreateContainerRequest",
            r#"{"spec": {"preferredOwners": ["a"]}}"#,
            "spec.preferred_owners[0]",
            r#"must be an object of nodes, not "a""#,
            r#"{"preferredOwners": [{"nodes": ["text"]}]}"#,
        );
    }

    #[test]
    fn an_unknown_field_is_told_its_neighbours() {
        let problem = fault("CreateContainerRequest", r#"{"spec": {"resources": {"cpus": 4}}}"#);
        assert_eq!((&*problem.reason, problem.field.as_deref()), ("unknown-field", Some("spec.resources.cpus")));
        assert_eq!(problem.hint.as_deref(), Some("there are cpuMillis, memoryBytes"));
    }

    #[test]
    fn long_values_are_cut_and_harmless() {
        let problem = fault("GetNodeRequest", &format!(r#"{{"stale": "{}\u001b[2J"}}"#, "x".repeat(59)));
        assert!(problem.message.ends_with(r#"x\u{1b}"…"#), "{}", problem.message);
    }

    /// Every field of every request, given what none of its kind takes: none falls back on what the parser says.
    #[test]
    fn no_field_of_the_api_is_without_words() {
        let mut seen = 0;
        for route in super::super::routes() {
            for field in route.input.fields() {
                let odd = if field.is_map() || field.is_list() || matches!(field.kind(), Kind::Message(_)) {
                    Value::from(1)
                } else {
                    Value::Array(vec![])
                };
                let fields = Map::from_iter([(field.json_name().to_owned(), odd.clone())]);
                assert!(read(&route.input, &Value::Object(fields.clone())).is_err(), "{}", field.full_name());
                let problem = problem(&route.input, &fields);
                assert_eq!(problem.field.as_deref(), Some(field.name()), "{problem}");
                assert!(problem.message.starts_with("must be ") && problem.hint.is_some(), "{problem}");
                // The example is taken.
                let good = serde_json::from_str(&example(&field)).expect("JSON");
                let good = Value::Object(Map::from_iter([(field.json_name().to_owned(), good)]));
                assert!(read(&route.input, &good).is_ok(), "{good} is recommended and not taken");
                seen += 1;
            }
        }
        assert!(seen > 80, "{seen}");
    }
}

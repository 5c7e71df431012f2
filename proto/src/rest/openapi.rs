//! The OpenAPI 3.1 document of the REST side, from the descriptors: paths from annotations, texts from comments.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::route::{Route, routes};

static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let mut schemas = BTreeMap::new();
    let mut paths = Map::new();
    for route in routes() {
        let path = paths.entry(shown_path(route)).or_insert_with(|| json!({}));
        path[route.verb.name().to_ascii_lowercase()] = operation(route, &mut schemas);
    }
    schemas.insert("Problem.details".to_owned(), problem());
    let tags: BTreeMap<String, String> = routes()
        .iter()
        .map(|route| {
            let service = route.method.parent_service();
            let text = comment(service.parent_file().file_descriptor_proto(), service.path());
            (service.name().to_owned(), text)
        })
        .collect();
    let tags: Vec<Value> =
        tags.into_iter().map(|(name, description)| json!({"name": name, "description": description})).collect();
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Quorate",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": conventions(),
        },
        "tags": tags,
        "paths": paths,
        "components": {"schemas": schemas},
    });
    serde_json::to_string_pretty(&document).expect("a JSON value can be written")
});

/// The OpenAPI 3.1 document, as JSON text.
pub fn openapi() -> &'static str {
    &DOCUMENT
}

/// The path with captured fields by the first word of theirs: `{template.name}` and `{template}` are one place of one path.
fn shown_path(route: &Route) -> String {
    route.captured().fold(route.template.clone(), |path, field| {
        let shown = field.split('.').next().unwrap_or(field);
        path.replace(&format!("{{{field}}}"), &format!("{{{shown}}}"))
    })
}

/// The head comment of common.proto: what holds for the whole API.
fn conventions() -> String {
    let file = super::POOL.get_file_by_name("quorate/v1/common.proto").expect("common.proto is part of the set");
    // Field 12 of a file is its syntax, the first thing behind the head comment.
    comment(file.file_descriptor_proto(), &[12])
}

fn operation(route: &Route, schemas: &mut BTreeMap<String, Value>) -> Value {
    let file = route.method.parent_service().parent_file();
    let text = comment(file.file_descriptor_proto(), route.method.path());
    let captured: Vec<&str> = route.captured().collect();
    let mut parameters: Vec<Value> = Vec::new();
    for path in &captured {
        let (schema, description) = described(&route.input, path, schemas);
        parameters
            .push(json!({"name": path.split('.').next(), "in": "path", "required": true, "schema": schema, "description": description}));
    }
    if !route.takes_body {
        query_parameters(&route.input, "", &captured, &mut parameters, schemas);
    }
    let reply = reference(&route.output, schemas);
    let content = if route.server_streaming {
        json!({"text/event-stream": {"schema": reply}})
    } else {
        json!({"application/json": {"schema": reply}})
    };
    let service = route.method.parent_service();
    let mut operation = json!({
        "operationId": format!("{}.{}", service.name(), route.method.name()),
        "tags": [service.name()],
        "summary": text.split_once(". ").map_or(text.as_str(), |(first, _)| first).trim_end_matches('.'),
        "description": text,
        "parameters": parameters,
        "responses": {
            "200": {"description": "Done.", "content": content},
            "default": {
                "description": "Refused or failed.",
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem.details"}}},
            },
        },
    });
    if route.takes_body {
        let schema = reference(&route.input, schemas);
        operation["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": schema}}});
    }
    operation
}

/// Every field a query can carry, nested ones with dots.
fn query_parameters(
    message: &MessageDescriptor,
    prefix: &str,
    captured: &[&str],
    parameters: &mut Vec<Value>,
    schemas: &mut BTreeMap<String, Value>,
) {
    for field in message.fields() {
        let path = format!("{prefix}{}", field.json_name());
        if captured.contains(&format!("{prefix}{}", field.name()).as_str()) || field.is_map() {
            continue;
        }
        match field.kind() {
            Kind::Message(inner) if !field.is_list() => {
                query_parameters(&inner, &format!("{path}."), captured, parameters, schemas);
            }
            Kind::Message(_) => {}
            _ => parameters.push(json!({
                "name": path,
                "in": "query",
                "schema": field_schema(&field, schemas),
                "description": field_comment(&field),
            })),
        }
    }
}

fn described(message: &MessageDescriptor, path: &str, schemas: &mut BTreeMap<String, Value>) -> (Value, String) {
    let mut message = message.clone();
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        let field =
            message.get_field_by_name(name).expect("a captured path names fields; the test of all routes says so");
        match field.kind() {
            Kind::Message(inner) if names.peek().is_some() => message = inner,
            _ => return (field_schema(&field, schemas), field_comment(&field)),
        }
    }
    unreachable!("splitting gives at least one part")
}

fn reference(message: &MessageDescriptor, schemas: &mut BTreeMap<String, Value>) -> Value {
    let name = message.name().to_owned();
    if !schemas.contains_key(&name) {
        schemas.insert(name.clone(), Value::Null);
        let properties: Map<String, Value> = message
            .fields()
            .map(|field| {
                let mut schema = field_schema(&field, schemas);
                let text = field_comment(&field);
                if !text.is_empty() {
                    schema["description"] = text.into();
                }
                (field.json_name().to_owned(), schema)
            })
            .collect();
        let text = comment(message.parent_file_descriptor_proto(), message.path());
        let schema = json!({
            "type": "object",
            "description": text,
            "properties": properties,
            "additionalProperties": false,
        });
        schemas.insert(name.clone(), schema);
    }
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn field_schema(field: &FieldDescriptor, schemas: &mut BTreeMap<String, Value>) -> Value {
    if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
        return json!({"type": "object", "additionalProperties": kind_schema(&entry.map_entry_value_field().kind(), schemas)});
    }
    let one = kind_schema(&field.kind(), schemas);
    if field.is_list() { json!({"type": "array", "items": one}) } else { one }
}

fn kind_schema(kind: &Kind, schemas: &mut BTreeMap<String, Value>) -> Value {
    match kind {
        Kind::Message(message) => reference(message, schemas),
        Kind::Enum(values) => {
            let names: Vec<String> = values.values().map(|value| value.name().to_owned()).collect();
            let texts: Vec<String> = values
                .values()
                .map(|value| (value.name().to_owned(), comment(values.parent_file_descriptor_proto(), value.path())))
                .filter(|(_, text)| !text.is_empty())
                .map(|(name, text)| format!("`{name}`: {text}"))
                .collect();
            json!({"type": "string", "enum": names, "description": texts.join("\n")})
        }
        Kind::Bool => json!({"type": "boolean"}),
        Kind::String => json!({"type": "string"}),
        Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
        Kind::Float | Kind::Double => json!({"type": "number"}),
        Kind::Uint32 | Kind::Fixed32 => json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            json!({"type": "integer", "minimum": i32::MIN, "maximum": i32::MAX})
        }
        Kind::Uint64 | Kind::Fixed64 => json!({"type": "string", "format": "uint64", "pattern": "^[0-9]+$"}),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            json!({"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"})
        }
    }
}

fn problem() -> Value {
    let text = |text: &str| json!({"type": "string", "description": text});
    json!({
        "type": "object",
        "description": "Problem details (RFC 9457).",
        "properties": {
            "type": text("`urn:quorate:problem:` and the reason."),
            "title": text("The HTTP status in words."),
            "status": {"type": "integer", "description": "The HTTP status."},
            "detail": text("What is wrong, for people."),
            "code": text("The gRPC code, such as `NotFound`."),
            "reason": text("Stable, for programs, such as `name-taken`."),
            "field": text("Path of the field at fault."),
            "hint": text("What to do next, for people."),
            "leader": text("Public API of the leader, where asking it would help."),
            "retryAfterMs": {"type": "integer", "description": "When a repetition makes sense."},
        },
        "required": ["type", "title", "status", "detail", "code", "reason"],
    })
}

fn field_comment(field: &FieldDescriptor) -> String {
    comment(field.parent_message().parent_file_descriptor_proto(), field.path())
}

/// The comment above the element at `path` of a file, on one line a paragraph; empty if there is none.
fn comment(file: &prost_types::FileDescriptorProto, path: &[i32]) -> String {
    let locations = file.source_code_info.iter().flat_map(|info| &info.location);
    let text = locations.filter(|location| location.path == path).find_map(|location| {
        let detached = location.leading_detached_comments.join("\n\n");
        let own = location.leading_comments.clone().unwrap_or_default();
        Some(if own.is_empty() && path == [12] { detached } else { own }).filter(|text| !text.trim().is_empty())
    });
    text.map(|text| {
        text.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end()).collect::<Vec<_>>().join("\n")
    })
    .unwrap_or_default()
    .trim()
    .to_owned()
}

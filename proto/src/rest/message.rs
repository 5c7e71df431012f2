//! Between JSON and the bytes of messages, by descriptor. Unknown fields are refused.

use prost::Message;
use prost::bytes::{Buf, Bytes, BytesMut};
use prost_reflect::{DeserializeOptions, DynamicMessage, Kind, MessageDescriptor, SerializeOptions};
use serde_json::{Map, Value};
use tonic::Code;

use super::route::{Route, percent_decoded};
use super::strict::{self, Unfit};
use super::{POOL, Refusal, frame, misfit};
use crate::problem::Problem;

/// A request may nest fields so deep in its query and path.
const DEPTH: usize = 8;

/// The request message: body or query, then what the path says.
pub(super) fn decode(
    route: &Route,
    captures: &[(&'static str, String)],
    query: &str,
    body: &[u8],
) -> Result<DynamicMessage, Refusal> {
    let mut fields = if route.takes_body { body_fields(&route.input, body)? } else { Map::new() };
    if !route.takes_body && !body.is_empty() {
        return Err(Problem::new(Code::InvalidArgument, "unexpected-body", "this call takes no body")
            .hint("give its fields in the query")
            .into());
    }
    if route.takes_body && !query.is_empty() {
        return Err(Problem::new(Code::InvalidArgument, "unexpected-query", "this call takes no query")
            .hint("give its fields in the body")
            .into());
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = percent_decoded(&key.replace('+', " "), "query")?;
        let value = percent_decoded(&value.replace('+', " "), &key)?;
        set(&route.input, &mut fields, &key, value, Place::Query)?;
    }
    for (field, value) in captures {
        set(&route.input, &mut fields, field, value.clone(), Place::Path)?;
    }
    let whole = Value::Object(fields);
    read(&route.input, &whole).map_err(|_| misfit::problem(&route.input, fields_of(&whole)).into())
}

/// Errs in the parser's words, which say neither where nor what was expected: [`misfit`] does.
pub(super) fn read(message: &MessageDescriptor, json: &Value) -> Result<DynamicMessage, serde_json::Error> {
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    DynamicMessage::deserialize_with_options(message.clone(), json, &options)
}

fn fields_of(object: &Value) -> &Map<String, Value> {
    object.as_object().expect("it was made of fields")
}

fn body_fields(message: &MessageDescriptor, body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match strict::value(message, body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => Err(misfit::no_object(message, &other).into()),
        Err(Unfit::Twice(path)) => Err(Problem::new(Code::InvalidArgument, "given-twice", "is given twice")
            .at(path)
            .hint("which of the two holds is for you to say: give it once")
            .into()),
        Err(Unfit::NotJson(error)) => {
            let text = format!("the body is not JSON: {error}");
            Err(Problem::new(Code::InvalidArgument, "bad-json", text).hint("send one JSON object").into())
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Query,
    Path,
}

/// Puts `value` at the dotted `path`. A repeated field takes every value; another one takes one, and agrees with the body.
fn set(
    message: &MessageDescriptor,
    fields: &mut Map<String, Value>,
    path: &str,
    value: String,
    place: Place,
) -> Result<(), Refusal> {
    let names: Vec<&str> = path.split('.').collect();
    if names.len() > DEPTH {
        return Err(Problem::invalid(path, "nested too deeply").into());
    }
    let (last, parents) = names.split_last().expect("splitting gives at least one part");
    let mut message = message.clone();
    let mut fields = fields;
    for name in parents {
        let field = field(&message, name, path)?;
        let Kind::Message(inner) = field.kind() else { return Err(Problem::invalid(path, "has no fields").into()) };
        if field.is_list() || field.is_map() {
            return Err(Problem::invalid(path, "lists and maps of objects cannot be given here").into());
        }
        let key = present(fields, field.name(), field.json_name());
        let slot = fields.entry(key).or_insert_with(|| Value::Object(Map::new()));
        fields = slot.as_object_mut().ok_or_else(|| Problem::invalid(path, "must be an object"))?;
        message = inner;
    }
    let field = field(&message, last, path)?;
    let key = present(fields, field.name(), field.json_name());
    let value = match field.kind() {
        Kind::Message(_) => return Err(Problem::invalid(path, "an object cannot be given here").into()),
        Kind::Bool => match value.as_str() {
            "true" | "" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => return Err(Problem::invalid(path, format!("{value:?} is neither true nor false")).into()),
        },
        _ => Value::String(value),
    };
    if field.is_list() {
        let slot = fields.entry(key).or_insert_with(|| Value::Array(Vec::new()));
        slot.as_array_mut().ok_or_else(|| Problem::invalid(path, "must be a list"))?.push(value);
        return Ok(());
    }
    match fields.insert(key, value.clone()) {
        None => Ok(()),
        Some(before) if before == value => Ok(()),
        Some(_) if place == Place::Path => {
            Err(Problem::invalid(path, "the body says otherwise than the path").hint("leave it out of the body").into())
        }
        Some(_) => Err(Problem::invalid(path, "is given twice").into()),
    }
}

fn field(message: &MessageDescriptor, name: &str, path: &str) -> Result<prost_reflect::FieldDescriptor, Refusal> {
    message
        .get_field_by_name(name)
        .or_else(|| message.get_field_by_json_name(name))
        .ok_or_else(|| misfit::unknown(message, path).into())
}

/// The spelling under which the body already has the field, else the JSON one.
fn present(fields: &Map<String, Value>, name: &str, json_name: &str) -> String {
    if fields.contains_key(name) { name.to_owned() } else { json_name.to_owned() }
}

/// The message as one gRPC frame.
pub(super) fn framed(message: &DynamicMessage) -> Bytes {
    frame(&message.encode_to_vec())
}

/// Takes one whole frame off the front; `None` until there is one.
pub(super) fn unframed(bytes: &mut BytesMut) -> Result<Option<Bytes>, Problem> {
    let Some(head) = bytes.first_chunk::<5>() else { return Ok(None) };
    if head[0] != 0 {
        return Err(broken("the reply is compressed though nobody asked for it"));
    }
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if bytes.len() < 5 + length {
        return Ok(None);
    }
    bytes.advance(5);
    Ok(Some(bytes.split_to(length).freeze()))
}

pub(super) fn broken(text: &str) -> Problem {
    Problem::new(Code::Internal, "broken-reply", text)
}

/// The JSON of an encoded message. Every field is written, so that what is empty is seen to be empty.
pub(super) fn json(message: &MessageDescriptor, bytes: Bytes) -> Result<Vec<u8>, Problem> {
    let message = DynamicMessage::decode(message.clone(), bytes).map_err(|error| broken(&error.to_string()))?;
    write(&message, &mut Vec::new())
}

fn write(message: &DynamicMessage, out: &mut Vec<u8>) -> Result<Vec<u8>, Problem> {
    let options = SerializeOptions::new().skip_default_fields(false);
    let mut serializer = serde_json::Serializer::new(&mut *out);
    message.serialize_with_options(&mut serializer, &options).map_err(|error| broken(&error.to_string()))?;
    Ok(std::mem::take(out))
}

/// The JSON of `message`, a message of the public API, exactly as REST answers it.
/// Panics if `name` (as `quorate.v1.Node`) is not the message's own; a test of each caller says so.
pub fn to_json(name: &str, message: &impl Message) -> Value {
    let descriptor = POOL.get_message_by_name(name).expect("the message is part of the API");
    let bytes = json(&descriptor, message.encode_to_vec().into()).expect("a message fits its own descriptor");
    serde_json::from_slice(&bytes).expect("what was written as JSON is JSON")
}

/// The message `name` (as `quorate.v1.Node`, which must be `M`'s own) that `json` says, as REST takes it; errs in words.
/// Panics if the API has no such message.
pub fn from_json<M: Message + Default>(name: &str, json: &str) -> Result<M, String> {
    let descriptor = POOL.get_message_by_name(name).expect("the message is part of the API");
    let json = strict::value(&descriptor, json.as_bytes()).map_err(|unfit| match unfit {
        Unfit::Twice(path) => format!("{path} is given twice"),
        Unfit::NotJson(error) => format!("this is not JSON: {error}"),
    })?;
    let Value::Object(fields) = &json else { return Err(misfit::no_object(&descriptor, &json).to_string()) };
    let message = read(&descriptor, &json).map_err(|_| misfit::problem(&descriptor, fields).to_string())?;
    message.transcode_to().map_err(|error| error.to_string())
}

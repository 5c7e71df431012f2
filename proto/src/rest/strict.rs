//! JSON in which nothing is said twice. Of two values for one field parsers keep the last without a word, so what was checked
//! on the way (by a proxy, by a person) may be another than what is done.
//! In: text, and the message it stands for. Out: its value, or the path of what is given twice.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use prost_reflect::{Kind, MessageDescriptor};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::misfit;

/// Why a text is not taken.
pub(super) enum Unfit {
    /// Where it stops being JSON.
    NotJson(String),
    /// The path of what is given twice, in the names of the proto where they are known.
    Twice(String),
}

/// `text` as JSON. A field given under both of its names counts as given twice.
pub(super) fn value(message: &MessageDescriptor, text: &[u8]) -> Result<Value, Unfit> {
    let twice = RefCell::new(None);
    let mut reader = serde_json::Deserializer::from_slice(text);
    let read = Strict { shape: Shape::Message(message.clone()), twice: &twice }.deserialize(&mut reader);
    let read = read.and_then(|value| reader.end().map(|()| value));
    read.map_err(|error| match twice.take() {
        Some(path) => Unfit::Twice(path),
        None => Unfit::NotJson(misfit::no_json(&error)),
    })
}

/// What stands at a place, as far as the descriptor tells.
#[derive(Clone)]
enum Shape {
    Message(MessageDescriptor),
    /// Keys that somebody chose, with values of one shape.
    Map(Box<Shape>),
    Unknown,
}

impl Shape {
    /// What `key` is called in the proto, and what stands beneath it.
    fn below(&self, key: &str) -> (String, Shape) {
        match self {
            Shape::Message(message) => {
                let field = message.get_field_by_name(key).or_else(|| message.get_field_by_json_name(key));
                field.map_or((key.to_owned(), Shape::Unknown), |field| {
                    (field.name().to_owned(), of(&field.kind(), &field))
                })
            }
            Shape::Map(inner) => (key.to_owned(), (**inner).clone()),
            Shape::Unknown => (key.to_owned(), Shape::Unknown),
        }
    }
}

fn of(kind: &Kind, field: &prost_reflect::FieldDescriptor) -> Shape {
    match kind {
        Kind::Message(entry) if field.is_map() => {
            let value = entry.map_entry_value_field();
            Shape::Map(Box::new(of(&value.kind(), &value)))
        }
        Kind::Message(inner) => Shape::Message(inner.clone()),
        _ => Shape::Unknown,
    }
}

struct Strict<'t> {
    shape: Shape,
    /// Written where it is found, then lengthened on the way out.
    twice: &'t RefCell<Option<String>>,
}

impl Strict<'_> {
    /// The error of something beneath `step`, whose path now begins there.
    fn within(&self, step: &str) {
        if let Some(path) = &mut *self.twice.borrow_mut() {
            let between = if path.starts_with('[') { "" } else { "." };
            *path = format!("{step}{between}{path}");
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        loop {
            let item = Strict { shape: self.shape.clone(), twice: self.twice };
            match items.next_element_seed(item) {
                Ok(Some(item)) => all.push(item),
                Ok(None) => return Ok(all.into()),
                Err(error) => {
                    self.within(&format!("[{}]", all.len()));
                    return Err(error);
                }
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let (mut all, mut seen) = (Map::new(), BTreeSet::new());
        while let Some(key) = fields.next_key::<String>()? {
            let (name, shape) = self.shape.below(&key);
            if !seen.insert(name.clone()) {
                *self.twice.borrow_mut() = Some(name);
                return Err(A::Error::custom("given twice"));
            }
            let value = fields.next_value_seed(Strict { shape, twice: self.twice });
            all.insert(key, value.inspect_err(|_| self.within(&name))?);
        }
        Ok(all.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Value, String> {
        let message = super::super::POOL.get_message_by_name("quorate.v1.CreateContainerRequest").expect("a message");
        value(&message, text.as_bytes()).map_err(|unfit| match unfit {
            Unfit::NotJson(error) => format!("not JSON: {error}"),
            Unfit::Twice(path) => path,
        })
    }

    #[test]
    fn what_is_given_twice_is_named_by_its_path() {
        for (text, path) in [
            (r#"{"requestId": "a", "requestId": "a"}"#, "request_id"),
            (r#"{"requestId": "a", "request_id": "b"}"#, "request_id"),
            (
                r#"{"spec": {"resources": {"cpuMillis": 1, "memoryBytes": 2, "cpu_millis": 3}}}"#,
                "spec.resources.cpu_millis",
            ),
            (r#"{"spec": {"annotations": {"a": "1", "b": "2", "a": "3"}}}"#, "spec.annotations.a"),
            (r#"{"spec": {"preferredOwners": [{}, {"nodes": [], "nodes": []}]}}"#, "spec.preferred_owners[1].nodes"),
            (r#"{"colour": {"red": 1, "red": 2}}"#, "colour.red"),
        ] {
            assert_eq!(read(text), Err(path.to_owned()), "{text}");
        }
    }

    #[test]
    fn everything_else_is_read_as_any_parser_reads_it() {
        for text in [
            r#"{"a": [1, -2, 3.5, "x\u00e9", true, null, {"b": {}}], "c": {"a": 18446744073709551615}}"#,
            r#"{"spec": {"annotations": {"a": "1", "b": "1"}, "command": ["a", "a"]}}"#,
            "[]",
            "null",
        ] {
            assert_eq!(read(text), Ok(serde_json::from_str::<Value>(text).expect("JSON")), "{text}");
        }
        for text in ["{", "{} {}", "", &"[".repeat(100_000)] {
            assert!(read(text).is_err_and(|error| error.starts_with("not JSON")), "{text:.20}");
        }
    }
}

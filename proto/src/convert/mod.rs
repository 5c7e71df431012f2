//! The only border between messages and `cluster` types.
//!
//! Towards the wire nothing can fail: `From<&cluster::T> for wire::T`. From the wire everything is checked once:
//! `TryFrom<wire::T> for cluster::T` errs with the path of the field at fault. Behind it nothing required is optional.
//! Every type is taken apart field by field, so that a new field of the model does not compile until it travels too.
//! `request` and `view` are the same border for the public API: what people ask, what they are shown.

mod agent;
mod command;
mod container;
mod decision;
mod fence;
mod node;
mod object;
mod outcome;
mod report;
pub mod import;
pub mod request;
pub mod view;

use std::fmt;
use std::sync::Arc;

pub use agent::{generation, generation_id};
pub(crate) use outcome::outcome;

use cluster::Name;
use prost::bytes::Bytes;

use crate::wire;

/// A message that does not say what it must: which field, what is wrong with it, what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConvertError {
    pub fault: Fault,
    /// Path of the field, as `spec.resources.memory_bytes`; empty for the message itself.
    pub field: String,
    pub problem: String,
    pub hint: Option<String>,
}

/// What kind of wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The message itself is wrong, whatever the state.
    Invalid,
    /// It names something that does not exist.
    NotFound,
}

type Result<T, E = ConvertError> = std::result::Result<T, E>;

impl ConvertError {
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> ConvertError {
        ConvertError { fault: Fault::Invalid, field: field.into(), problem: problem.into(), hint: None }
    }

    pub fn not_found(field: impl Into<String>, problem: impl Into<String>) -> ConvertError {
        ConvertError { fault: Fault::NotFound, ..ConvertError::invalid(field, problem) }
    }

    pub fn missing(field: impl Into<String>) -> ConvertError {
        ConvertError::invalid(field, "is required")
    }

    pub fn hint(mut self, hint: impl Into<String>) -> ConvertError {
        self.hint = Some(hint.into());
        self
    }

    /// The same error, seen from the message that holds this one as `field`.
    fn under(mut self, field: &str) -> ConvertError {
        self.field = match self.field.as_str() {
            "" => field.to_owned(),
            inner if inner.starts_with('[') => format!("{field}{inner}"),
            inner => format!("{field}.{inner}"),
        };
        self
    }
}

impl fmt::Display for ConvertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.problem)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "; {hint}"))
    }
}

#[cfg(feature = "services")]
impl From<ConvertError> for crate::Problem {
    fn from(error: ConvertError) -> crate::Problem {
        let (code, reason) = match error.fault {
            Fault::Invalid => (tonic::Code::InvalidArgument, "invalid-field"),
            Fault::NotFound => (tonic::Code::NotFound, "not-found"),
        };
        crate::Problem::new(code, reason, error.problem).at(error.field).hint(error.hint.unwrap_or_default())
    }
}

/// A required part.
fn required<T>(field: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| ConvertError::missing(field))
}

/// A required part, converted.
pub(crate) fn part<T, U: TryFrom<T, Error = ConvertError>>(field: &str, value: Option<T>) -> Result<U> {
    U::try_from(required(field, value)?).map_err(|error| error.under(field))
}

/// An optional part, converted.
fn maybe<T, U: TryFrom<T, Error = ConvertError>>(field: &str, value: Option<T>) -> Result<Option<U>> {
    value.map(U::try_from).transpose().map_err(|error| error.under(field))
}

/// Every item, converted; an error names the place.
fn each<T, U: TryFrom<T, Error = ConvertError>, C: FromIterator<U>>(field: &str, values: Vec<T>) -> Result<C> {
    let convert = |(place, value)| U::try_from(value).map_err(|error| error.under(&format!("{field}[{place}]")));
    values.into_iter().enumerate().map(convert).collect()
}

/// A number of an enum, converted.
fn choice<T, U>(field: &str, value: i32) -> Result<U>
where
    T: TryFrom<i32>,
    U: TryFrom<T, Error = ConvertError>,
{
    let known = T::try_from(value).map_err(|_| {
        ConvertError::invalid(field, format!("value {value} is not known here"))
            .hint("it may come from a newer version")
    })?;
    U::try_from(known).map_err(|error| error.under(field))
}

fn name(field: &str, text: &str) -> Result<Name> {
    Name::new(text).map_err(|error| ConvertError::invalid(field, error.to_string()))
}

/// 128 bits, big-endian.
pub(crate) fn wide(field: &str, bytes: &[u8]) -> Result<u128> {
    let bytes = bytes.try_into().map_err(|_| {
        let problem =
            if bytes.is_empty() { "is required".to_owned() } else { format!("has {} bytes, not 16", bytes.len()) };
        ConvertError::invalid(field, problem)
    })?;
    Ok(u128::from_be_bytes(bytes))
}

pub(crate) fn wide_bytes(value: u128) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes())
}

fn text(value: &Arc<str>) -> String {
    value.as_ref().to_owned()
}

const NOTHING: wire::Nothing = wire::Nothing {};

/// Enums without data that have the same variants on both sides; `UNSPECIFIED` is refused.
macro_rules! same_variants {
    ($($model:path = $wire:path { $($variant:ident),+ $(,)? })+) => {$(
        impl From<$model> for $wire {
            fn from(value: $model) -> $wire {
                use $model as Model;
                use $wire as Wire;
                match value { $(Model::$variant => Wire::$variant),+ }
            }
        }

        impl TryFrom<$wire> for $model {
            type Error = crate::convert::ConvertError;

            fn try_from(value: $wire) -> crate::convert::Result<$model> {
                use $model as Model;
                use $wire as Wire;
                match value {
                    Wire::Unspecified => Err(crate::convert::ConvertError::missing("")),
                    $(Wire::$variant => Ok(Model::$variant)),+
                }
            }
        }
    )+};
}
use same_variants;

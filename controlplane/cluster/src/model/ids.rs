//! Identifiers and names as types, so that a signature says what it takes.
//! In: numbers allocated by the state, text from people. Out: values that compare, hash and print alike everywhere.
//! Absent: no allocation of ids (the state does that) and no lookup.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::time::WallTime;

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident $prefix:literal)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    )*};
}

numbers! {
    /// A Hardware Node. Allocated by the state, never reused.
    NodeId "n"
    /// A control-plane process (Raft voter or learner). Allocated by the state, never reused: a lost id is burnt.
    MemberId "m"
    /// A container. Allocated by the state, unique for ever.
    ContainerId "c"
    /// One registration of a node: the log index of the entry that registered it. 0 = never registered.
    Incarnation "i"
    /// One run of an agent's program: drawn at random when it starts. 0 = it does not say.
    AgentRun "run-"
    /// Of an assignment: rises at every change of owner and at every re-start order. 0 = never assigned.
    Epoch "e"
    /// Index of the last applied log entry, as clients see it.
    Revision "r"
    /// Of the whole cluster: raised by disaster recovery only.
    Generation "g"
}

impl Epoch {
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

macro_rules! wide {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:08x}", self.0 >> 96)
            }
        }
    )*};
}

wide! {
    /// The cluster itself, drawn at `cluster init`.
    ClusterId
    /// One boot of a machine, as its kernel names it.
    BootId
    /// SHA-256 prefix of a join secret; the secret itself is never stored.
    SecretHash
    /// A client session: a version 7 UUID, so that sessions order by their birth.
    SessionId
}

impl SessionId {
    /// By the clock of whoever drew it: the first 48 bits.
    pub fn born(self) -> WallTime {
        WallTime((self.0 >> 80) as u64)
    }

    /// At or below all that are born at `time`.
    pub fn first_of(time: WallTime) -> SessionId {
        SessionId(u128::from(time.0.min((1 << 48) - 1)) << 80)
    }
}

/// Names one request of one client session: sent again, it has no second effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    pub session: SessionId,
    /// Chosen by the client; may arrive out of order within the window of [`crate::sessions::WINDOW`].
    pub sequence: u64,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.session, self.sequence)
    }
}

/// A name people gave: 1 to 63 characters of `a-z`, `0-9` and `-`, beginning and ending with a letter or digit.
/// Nothing else ever becomes a path, an argument or a host name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Name(Arc<str>);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    #[error("a name is needed, and this one is empty")]
    Empty,
    #[error("the name has {0} characters; at most 63 are allowed")]
    TooLong(usize),
    #[error("{0:?} is not allowed in a name; use a-z, 0-9 and -")]
    BadCharacter(char),
    #[error("a name begins and ends with a letter or a digit")]
    BadEnd,
}

impl Name {
    pub fn new(text: &str) -> Result<Name, BadName> {
        if text.is_empty() {
            return Err(BadName::Empty);
        }
        if let Some(bad) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
            return Err(BadName::BadCharacter(bad));
        }
        if text.len() > 63 {
            return Err(BadName::TooLong(text.len()));
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(BadName::BadEnd);
        }
        Ok(Name(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Name, D::Error> {
        let text = String::deserialize(from)?;
        Name::new(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_become_something_else_are_refused() {
        for bad in
            ["", "../x", "-rf", "a-", "a\n", "a b", "A", "ä", "a\u{202e}b", "$(id)", "a/b", "a\0", &"x".repeat(64)]
        {
            assert!(Name::new(bad).is_err(), "{bad:?} was taken");
        }
        for good in ["a", "web-1", "0", &"x".repeat(63)] {
            assert_eq!(Name::new(good).map(|name| name.to_string()), Ok(good.to_string()));
        }
    }
}

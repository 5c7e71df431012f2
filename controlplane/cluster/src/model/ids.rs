//! Identifiers and names as types, so that a signature says what it takes.
//! In: numbers allocated by the state, text from people. Out: values that compare, hash and print alike everywhere.
//! Absent: no allocation of ids (the state does that) and no lookup.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
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
}

/// Of the whole cluster: its number is raised by disaster recovery only, which draws the id as well. Two recoveries of
/// one cluster may come to the same number, never to the same id. Written `2-` and 32 hexadecimal digits, or as the bare
/// number where no recovery drew an id.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Generation {
    pub number: u64,
    /// 0 for a cluster that was never recovered.
    pub id: u128,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u64),
    Whole(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a generation is written as its number, `-` and 32 hexadecimal digits, or as the number alone")]
pub struct BadGeneration;

impl Generation {
    /// One that no recovery drew an id for.
    pub const fn numbered(number: u64) -> Generation {
        Generation { number, id: 0 }
    }
}

/// The first generation keeps the hash it had before generations had ids.
impl Hash for Generation {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.number.hash(state);
        if self.id != 0 {
            self.id.hash(state);
        }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.id {
            0 => write!(f, "{}", self.number),
            id => write!(f, "{}-{id:032x}", self.number),
        }
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{self}")
    }
}

impl FromStr for Generation {
    type Err = BadGeneration;

    fn from_str(text: &str) -> Result<Generation, BadGeneration> {
        let (number, id) = text.split_once('-').unwrap_or((text, ""));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = number.parse().ok().filter(|_| digits(number)).ok_or(BadGeneration)?;
        let whole = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = match text.contains('-') {
            false => 0,
            true => u128::from_str_radix(id, 16).ok().filter(|id| whole && *id != 0).ok_or(BadGeneration)?,
        };
        Ok(Generation { number, id })
    }
}

impl TryFrom<Written> for Generation {
    type Error = BadGeneration;

    fn try_from(written: Written) -> Result<Generation, BadGeneration> {
        match written {
            Written::Number(number) => Ok(Generation::numbered(number)),
            Written::Whole(text) => text.parse(),
        }
    }
}

impl From<Generation> for Written {
    fn from(generation: Generation) -> Written {
        match generation.id {
            0 => Written::Number(generation.number),
            _ => Written::Whole(generation.to_string()),
        }
    }
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
    fn a_generation_is_read_as_it_is_written_and_nothing_else_is_one() {
        let drawn = Generation { number: 2, id: 0xfeed };
        for generation in [Generation::numbered(1), drawn] {
            assert_eq!(generation.to_string().parse(), Ok(generation));
            let json = serde_json::to_string(&generation).expect("serializes");
            assert_eq!(serde_json::from_str::<Generation>(&json).expect("reads"), generation);
        }
        assert_eq!(serde_json::from_str::<Generation>("1").expect("as it was"), Generation::numbered(1));
        let zero = format!("2-{:032x}", 0);
        for bad in ["", "-", "2-", "g2", "+2", "2-feed", "2-xyz", "-1", &zero, &format!("2-+{:031x}", 1)] {
            assert_eq!(bad.parse::<Generation>(), Err(BadGeneration), "{bad:?}");
        }
    }

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

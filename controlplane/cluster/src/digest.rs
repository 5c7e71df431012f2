//! One number that differs when two states differ: members compare it at every applied index.
//! In: each object as it is written. Out: a sum over all objects, so that a write costs one object, not the state.
//! Source: incremental multiset hashing (sum of keyed hashes); the hash of an object is 128 bits of two FNV-1a streams.

use std::fmt;
use std::hash::{Hash, Hasher};

/// Equal states have equal hashes; a single differing object shows with probability 1 − 2⁻⁶⁴ or better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StateHash(pub u128);

impl StateHash {
    /// `room` names the kind of object, `key` which one: the same value elsewhere counts differently.
    pub(crate) fn add(&mut self, room: Room, key: &impl Hash, value: &impl Hash) {
        self.0 = self.0.wrapping_add(object(room, key, value));
    }

    pub(crate) fn remove(&mut self, room: Room, key: &impl Hash, value: &impl Hash) {
        self.0 = self.0.wrapping_sub(object(room, key, value));
    }

    /// Of other objects: what all of them together hash to.
    pub(crate) fn join(&mut self, others: StateHash) {
        self.0 = self.0.wrapping_add(others.0);
    }

    pub(crate) fn replace<V: Hash>(&mut self, room: Room, key: &impl Hash, old: &V, new: &V) {
        self.remove(room, key, old);
        self.add(room, key, new);
    }
}

impl fmt::Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Room {
    Header,
    Member,
    Node,
    /// Without its spec and annotations: those are large, change rarely and count on their own.
    Container,
    Spec,
    Annotations,
    Status,
    Template,
    Storage,
    Decision,
    Session,
    /// One remembered result of a session.
    Result,
    NodeReport,
}

/// The fields that exist once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Header {
    Cluster,
    Generation,
    Revision,
    Clock,
    NextMember,
    NextNode,
    NextContainer,
    Membership,
    Settings,
    Brake,
    Horizon,
}

/// 128 bits that tell `value` from every other value of its type.
pub(crate) fn of(value: &impl Hash) -> u128 {
    let mut stream = Stream::default();
    value.hash(&mut stream);
    stream.wide()
}

fn object(room: Room, key: &impl Hash, value: &impl Hash) -> u128 {
    let mut stream = Stream::default();
    (room as u8).hash(&mut stream);
    key.hash(&mut stream);
    value.hash(&mut stream);
    stream.wide()
}

/// Two multiply-xor lanes over 8-byte words, finished by a mixer. Not for secrets; fixed for ever, unlike std's hasher.
struct Stream {
    left: u64,
    right: u64,
}

impl Default for Stream {
    fn default() -> Stream {
        Stream { left: 0xcbf2_9ce4_8422_2325, right: 0x9e37_79b9_7f4a_7c15 }
    }
}

impl Stream {
    fn word(&mut self, word: u64) {
        self.left = (self.left ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
        self.right = (self.right.rotate_left(31) ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
    }

    fn wide(&self) -> u128 {
        let mix = |mut word: u64| {
            word = (word ^ (word >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
            word = (word ^ (word >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
            word ^ (word >> 33)
        };
        (u128::from(mix(self.left)) << 64) | u128::from(mix(self.right ^ self.left.rotate_left(17)))
    }
}

impl Hasher for Stream {
    fn finish(&self) -> u64 {
        self.wide() as u64
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.word(u64::from_le_bytes(chunk.try_into().expect("chunks of eight bytes")));
        }
        let rest = chunks.remainder();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(last));
        self.word(bytes.len() as u64);
    }

    // The default forwards to `write` in the machine's byte order; these do not depend on it.
    fn write_u8(&mut self, value: u8) {
        self.word(u64::from(value));
    }
    fn write_u16(&mut self, value: u16) {
        self.word(u64::from(value));
    }
    fn write_u32(&mut self, value: u32) {
        self.word(u64::from(value));
    }
    fn write_u64(&mut self, value: u64) {
        self.word(value);
    }
    fn write_u128(&mut self, value: u128) {
        self.word(value as u64);
        self.word((value >> 64) as u64);
    }
    fn write_usize(&mut self, value: usize) {
        self.word(value as u64);
    }
    fn write_isize(&mut self, value: isize) {
        self.word(value as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_writes_does_not_matter_and_removal_undoes() {
        let mut one = StateHash::default();
        one.add(Room::Node, &1u64, &"a");
        one.add(Room::Node, &2u64, &"b");
        let mut other = StateHash::default();
        other.add(Room::Node, &2u64, &"b");
        other.add(Room::Node, &3u64, &"c");
        other.add(Room::Node, &1u64, &"a");
        assert_ne!(one, other);
        other.remove(Room::Node, &3u64, &"c");
        assert_eq!(one, other);
        assert_ne!(object(Room::Node, &1u64, &"a"), object(Room::Status, &1u64, &"a"));
    }
}

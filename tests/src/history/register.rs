//! One register that is read, written and compared-and-set: the smallest object with teeth.

use crate::history::Model;

pub struct Register;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterCall {
    Read,
    Write(u64),
    /// Writes the second where the first stands.
    Swap(u64, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterReply {
    Value(u64),
    Written,
    /// A swap found something else.
    Differs,
}

impl Model for Register {
    type State = u64;
    type Call = RegisterCall;
    type Reply = RegisterReply;

    fn initial() -> u64 {
        0
    }

    fn step(state: &u64, call: &RegisterCall, reply: Option<&RegisterReply>) -> Vec<u64> {
        use RegisterCall::*;
        use RegisterReply::*;
        let after = match (call, reply) {
            (Read, Some(Value(value))) => (value == state).then_some(*state),
            (Read, None) => Some(*state),
            (Write(value), Some(Written) | None) => Some(*value),
            (Swap(old, new), Some(Written) | None) => (old == state).then_some(*new),
            (Swap(old, _), Some(Differs)) => (old != state).then_some(*state),
            _ => None,
        };
        after.into_iter().collect()
    }
}

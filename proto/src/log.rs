//! The form of a log entry: what a member proposes, stores, and reads back, now and after the next upgrade.
//! In: `cluster::Entry`. Out: bytes, and back. Equal entries have equal bytes on every member and in every build of a level.

use cluster::Entry;
use prost::Message;

use crate::convert::ConvertError;
use crate::wire;

/// Why bytes are no entry this build can apply. The member stops: to go on would be to guess.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("not a message of this kind: {0}")]
    Malformed(#[from] prost::DecodeError),
    #[error("{0}")]
    Meaning(#[from] ConvertError),
}

/// The bytes of `entry`.
pub fn encode(entry: &Entry) -> Vec<u8> {
    wire::LogEntry::from(entry).encode_to_vec()
}

/// The entry that `bytes` hold. Errs on damage, on what is missing, and on a feature level above [`crate::FEATURE_LEVEL`].
pub fn decode(bytes: &[u8]) -> Result<Entry, DecodeError> {
    Ok(wire::LogEntry::decode(bytes)?.try_into()?)
}

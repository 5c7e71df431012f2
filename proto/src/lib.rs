//! The words on the wire, of the log and of snapshots.
//!
//! `v1` is the public API, generated from `quorate/v1/*.proto`, whose comments are its reference. `wire` is what members, agents
//! and disks hold, generated from `quorate/wire/v1/*.proto`. `convert` is the only border between messages and `cluster`
//! types: it checks once, and nothing behind it is optional that is required.

pub mod convert;
pub mod level;
pub mod log;
pub mod snapshot;

pub use level::FEATURE_LEVEL;

/// Errs for what a newer version wrote: to apply the part that is understood would make members differ.
fn readable(feature_level: u32) -> Result<(), convert::ConvertError> {
    if (1..=FEATURE_LEVEL).contains(&feature_level) {
        return Ok(());
    }
    let problem = format!("is {feature_level}; this version reads up to {FEATURE_LEVEL}");
    Err(convert::ConvertError::invalid("feature_level", problem).hint("upgrade this member"))
}

/// The public API.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/quorate.v1.rs"));
}

/// What members, agents and disks hold.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/quorate.wire.v1.rs"));
}

/// The standard error details of gRPC.
#[cfg(feature = "services")]
#[allow(clippy::all, clippy::pedantic, missing_docs)]
mod google {
    pub mod rpc {
        include!(concat!(env!("OUT_DIR"), "/google.rpc.rs"));
    }
}

#[cfg(feature = "services")]
mod codec;
#[cfg(feature = "services")]
mod problem;
#[cfg(feature = "services")]
pub mod rest;

#[cfg(feature = "services")]
pub use problem::Problem;

/// Every file of the API with its imports and comments, for reflection, JSON and OpenAPI.
#[cfg(feature = "services")]
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

//! The words on the wire, of the log and of snapshots.
//!
//! `v1` is the public API, generated from `quorate/v1/*.proto`, whose comments are its reference. `wire` is what members, agents
//! and disks hold, generated from `quorate/wire/v1/*.proto`. `convert` is the only border between messages and `cluster`
//! types: it checks once, and nothing behind it is optional that is required.

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
mod problem;
#[cfg(feature = "services")]
pub mod rest;

#[cfg(feature = "services")]
pub use problem::Problem;

/// Every file of the API with its imports and comments, for reflection, JSON and OpenAPI.
#[cfg(feature = "services")]
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

//! The doors: one file a resource, all through `door`.
//! In: gRPC and REST of clients, streams of agents and members. Out: commands to the log, looks at the state, streams.
//! Absent: rules of the cluster; what a request may ask is for `cluster::apply` to say.

pub mod error;
pub mod door;
pub mod limits;
mod page;
mod cluster;
mod nodes;
mod containers;
mod templates;
mod storages;
mod events;
mod errands;
mod imports;
mod copies;
mod syncs;
pub mod sessions;
pub mod agent;
mod peer;
mod metrics;
pub mod front;

use ::cluster::Revision;
use ::cluster::apply::Done;
use proto::v1;

/// What a call answers that changes one object.
fn change(_: Done, revision: Revision) -> v1::Change {
    v1::Change { revision: revision.0 }
}

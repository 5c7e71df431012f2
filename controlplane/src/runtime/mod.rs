//! The hands of a member: threads that carry out what the replica orders and bring it what happened.
//! In: orders. Out: facts. Nothing here decides.
//!
//! `task` owns the replica on a thread of its own; `handle` is how everybody else reaches it. `disk` syncs, `snapshots` builds
//! and encodes, `planning` thinks, each on its thread, so that none of them delays a heartbeat. `peers` speaks to the other
//! members, `fencing` to whatever can end a machine.

mod task;
mod handle;
mod outlet;
mod beats;
mod disk;
mod snapshots;
mod planning;
mod peers;
pub mod wire;
pub mod fencing;

pub use disk::StoreMeter;
pub use handle::{Handle, OpenLink, View, applied};
pub use outlet::{Outflow, outlet};
pub use peers::{Credentials, FRAME_BYTES, Hello, STREAM, Unwelcome};
pub use snapshots::{Arrivals, chain};
pub use task::{Ended, Runtime, Seat};

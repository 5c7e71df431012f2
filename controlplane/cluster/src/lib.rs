//! What is true in a cluster, and every rule by which it changes.
//!
//! Commands are orders, events are past, decisions say why. `apply` is the only writer; everything here is a value,
//! reaches the same result on every member and asks neither clock nor disk nor network.
//! The promise this crate carries: a container is assigned to at most one node, and an assignment ends only by a closed
//! epoch or by a receipt that covers it. `invariants::check` says so after every step of every test.

pub mod model;

pub mod command;
pub mod event;
pub mod digest;
mod results;
pub mod sessions;
pub mod state;
pub mod names;
mod doors;
pub mod agent;
pub mod placement;
pub mod apply;
pub mod planner;
pub mod recovery;
pub mod invariants;
#[cfg(test)]
mod story;

pub use apply::{Applied, Outcome, Rejected, apply, apply_membership};
pub use command::{Command, Entry, IntentOrder, Registration, Report, Reported, SettingsChange};
pub use digest::StateHash;
pub use event::Event;
pub use model::container::*;
pub use model::decision::*;
pub use model::fence::*;
pub use model::ids::*;
pub use model::inventory::*;
pub use model::lease::*;
pub use model::member::*;
pub use model::node::*;
pub use model::report::*;
pub use model::resources::Resources;
pub use model::settings::*;
pub use model::storage::*;
pub use model::template::*;
pub use model::time::*;
pub use names::{Names, Tell};
pub use state::{Bootstrap, Brake, Claim, State, Truth};

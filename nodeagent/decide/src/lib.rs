//! The mind of a node: which incarnation it is, until when it may run anything, what it runs.
//!
//! Sans-IO and deterministic: `Agent::handle(now, Input) -> Vec<Effect>`. The hands (the `nodeagent` crate, or the
//! simulator) carry effects out in order and bring facts back. The journal is the only memory that outlives an agent, the
//! guard's slot the only thing that acts without one.
//! The promise this crate carries: nothing of an incarnation runs later than K after the end of a lease that a majority
//! granted, and no epoch ever runs twice. Marks such as *(b9)* name the rules of safety.md.

pub mod exchange;
pub mod journal;
pub mod lease;
pub mod guardian;
pub mod desired;

mod actual;
mod reports;
mod standing;
mod terms;
mod class;
mod account;
mod pulse;
mod handover;
mod reconcile;
mod speech;
mod agent;

pub use agent::Agent;
pub use exchange::{Audience, Config, Effect, GuardSays, Happened, Input, Shape, Workload};
pub use guardian::{GuardEffect, GuardInput, Guardian};
pub use journal::{Begun, Closed, Journal, Life, OtherGeneration, Record};

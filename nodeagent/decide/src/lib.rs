//! The mind of a node.

pub mod exchange;
pub mod journal;

pub use exchange::{Audience, Config, Effect, GuardSays, Happened, Input, Shape, Workload};
pub use journal::{Begun, Closed, Journal, Life, Record};

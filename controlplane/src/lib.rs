//! A control-plane member as a process: the hands, the doors and the disk around the mind in `replica`.
//!
//! `store` is the data folder, `runtime` the threads that carry out what the replica orders, `api` the doors for clients, agents
//! and other members, `server` puts them together, `recovery` begins a new generation where no member runs. In: requests, streams, files. Out: answers, streams, a log that survives.
//! Absent: decisions. What is true and what may change is `cluster`; when, is `replica`.

pub mod clock;
pub mod secret;
pub mod store;
pub mod events;
pub mod runtime;
pub mod admission;
pub mod standing;
mod steward;
pub mod api;
pub mod config;
pub mod telemetry;
pub mod server;
pub mod recovery;

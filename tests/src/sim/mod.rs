//! The deterministic simulator: the real minds and the real record logic in a world where everything may break.
//!
//! Reading order: `deeds` (what is done to a cluster, as data), `clock`, `net`, `disk`, `host` (what there is), `agenda`,
//! `world` (happenings in the order of their times), `members`, `agents`, `strays`, `clients`, `acts` (how each behaves),
//! `checks` and `rules` (the oracles), `histories` (what clients saw, for the judge in `crate::history`), `coverage`, `run`
//! (one seed), `shrink` and `regression` (a failure as a short file), `doubt` (nothing breaks, everything stalls), `script`
//! (stories). A run is a function of its plan: no thread, no clock, no hash map, no file.
//!
//! Not simulated: recovery to a new generation and a change of `on_quorum_loss` under way, for neither can be asked for.

pub mod chance;
pub mod clock;
pub mod net;
pub mod disk;
pub mod deeds;
pub mod checks;
pub mod coverage;
pub mod rules;
pub mod transcript;
pub mod host;
mod agenda;
pub mod world;
mod members;
mod agents;
mod strays;
mod clients;
mod histories;
mod acts;
pub mod run;
pub mod shrink;
pub mod doubt;
pub mod regression;
pub mod mutants;
pub mod script;

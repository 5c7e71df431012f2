//! The deterministic simulator: the real minds and the real record logic in a world where everything may break.
//!
//! Reading order: `deeds` (what is done to a cluster, as data), `swarm` (which deeds a seed draws), `clock`, `table`, `net`, `disk`,
//! `host`, `mirror`, `bodies` (what there is), `happenings`, `agenda`, `world` (happenings in the order of their times), `founding`,
//! `members`, `turns`, `agents`, `guards`, `hands`, `sessions`, `strays`, `recovery`, `clients`, `acts` (how each behaves), `checks` and
//! `rules` (the oracles), `histories` (what clients saw, for the judge in `crate::history`), `coverage`, `run` (one seed),
//! `shrink` and `regression` (a failure as a short file), `tally` (a long run in pieces), `doubt` (nothing breaks, everything
//! stalls), `script` (stories). A run is a function of its plan: no thread, no clock, no hash map, no file.

pub mod chance;
pub mod clock;
pub mod table;
pub mod net;
pub mod disk;
pub mod deeds;
mod swarm;
mod telling;
pub mod checks;
pub mod coverage;
pub mod rules;
pub mod transcript;
mod mirror;
mod bodies;
pub mod host;
pub mod happenings;
mod agenda;
pub mod world;
mod founding;
mod members;
mod turns;
mod agents;
mod guards;
mod hands;
mod sessions;
mod strays;
mod recovery;
mod clients;
mod histories;
mod acts;
pub mod run;
pub mod shrink;
pub mod tally;
pub mod doubt;
pub mod regression;
pub mod mutants;
pub mod script;

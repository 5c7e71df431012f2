//! What the tests of the whole are made of. `sim`: the simulator and its stories. `figures`: what the README says was
//! measured. `processes`: real programs, started and killed, and a client that is nothing of ours. `lab`: the same as
//! separate hosts, with real containers. `history`: the judge of what clients saw, for all of them. `nemesis`: the lab with
//! every fault there is.

#[cfg(feature = "live")]
pub mod figures;
pub mod history;
pub mod lab;
pub mod nemesis;
pub mod processes;
pub mod sim;

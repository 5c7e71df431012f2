//! What the tests of the whole are made of. `sim`: the simulator and its stories.

pub mod sim;

//! Each test is a claim about what `apply` may and may not do; the invariants watch every step of every one.

mod fencing;
mod containers;
mod handover;
mod requests;
mod findings;
mod inventory;
mod random;

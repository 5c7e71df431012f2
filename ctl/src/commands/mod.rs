//! One file per resource; each verb asks the public API and prints what came back.

pub mod dev;

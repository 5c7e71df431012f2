//! One file per resource; each verb asks the public API and prints what came back.

pub mod cluster;
pub mod container;
pub mod dev;
pub mod events;
pub mod member;
pub mod node;
mod spec;
pub mod storage;
pub mod template;
pub mod verbs;

//! Plain data, in reading order. Ids are types, states are enums with data, nothing here decides.

pub mod ids;
pub mod time;
pub mod resources;
pub mod lease;
pub mod fence;
pub mod node;
pub mod member;
pub mod container;
pub mod template;
pub mod storage;
pub mod inventory;
pub mod report;
pub mod settings;
pub mod decision;

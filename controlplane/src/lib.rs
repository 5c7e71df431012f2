//! 
pub mod store;

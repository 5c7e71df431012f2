//! The store's record logic, from outside: bytes there and back, every kind of damage, every kind of crash.

mod codec;
mod damage;
mod crash;
mod model;

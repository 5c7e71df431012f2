//! The store's record logic, from outside: bytes there and back, the ring, every kind of damage, every kind of
//! crash.

mod codec;
mod ring;
mod damage;
mod crash;
mod model;

//! Members in this process, on real sockets of loopback and real data folders: what their doors say and what survives.
//! Conditions are waited for with a deadline; nothing sleeps for a fixed time and hopes.

mod agents;
mod bad_input;
mod one;
mod quarantine;
mod support;
mod three;
mod watch;

//! The border between messages and the model, from outside: what is stored, what is asked, what is shown.

mod samples;

mod requests;
mod wire;

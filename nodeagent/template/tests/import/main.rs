//! What is imported and what is not: good sources of every kind become one tree with one digest, bad ones change nothing.
//! Every archive and image is built here, byte by byte where that is what is bad about it.

mod bad;
mod good;
mod images;
mod registries;
mod support;

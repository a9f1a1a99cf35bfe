#![doc = include_str!("../README.md")]
//!
//! # What this crate knows, and what it must not know
//!
//! It knows how each operating system tells that its network is another one than before. It does not know what a change means to
//! anybody: links, tunnels and services are not its subject.
#![deny(unsafe_code)]

mod error;
mod sys;
pub mod watch;

pub use error::Error;

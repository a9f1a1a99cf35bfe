#![doc = include_str!("../README.md")]
//!
//! # What this crate knows, and what it must not know
//!
//! It knows how each operating system tells that its network is another one than before. It does not know what a change means to
//! anybody: links, tunnels and services are not its subject.
#![deny(unsafe_code)]

mod backend;
mod change;
mod error;
mod name;
pub mod observed;
mod recording;
mod sys;
pub mod watch;

pub use backend::{Applied, Backend, Capabilities, ChangeError, Found, Support, TunHandle, Undone};
pub use change::{Change, Device, Interface, Kind, ResolverRule, Route, RouteKind};
pub use error::Error;
pub use name::{InterfaceName, Owner, Suffix};
pub use observed::Observed;
pub use recording::Recording;

#![doc = include_str!("../README.md")]
//!
//! # What this crate knows, and what it must not know
//!
//! It knows how each operating system tells that its network is another one than before. It does not know what a change means to
//! anybody: links, tunnels and services are not its subject.
#![deny(unsafe_code)]

#[cfg_attr(not(test), allow(dead_code, reason = "each system uses its own part"))]
mod aliases;
mod backend;
mod change;
pub mod conflict;
mod error;
mod name;
pub mod observed;
mod parse;
mod plan;
mod recording;
mod render;
#[cfg_attr(not(test), allow(dead_code, reason = "each system uses its own part"))]
mod resolver_files;
mod sys;
pub mod watch;

pub use backend::{Applied, Backend, Capabilities, ChangeError, Found, Support, TunHandle, Undone};
pub use change::{Change, Device, Interface, Kind, ResolverRule, Route, RouteKind};
pub use error::Error;
pub use name::{InterfaceName, Owner, Suffix};
pub use observed::Observed;
pub use plan::{Place, Plan, Reason, Subnet, Wanted, plan};
pub use recording::Recording;

/// This machine's network, as `owner` changes it: on Linux that of the network namespace of the calling thread.
///
/// # Errors
/// [`Error::Unsupported`] where the system is not known here, [`Error::System`] where it refuses.
pub fn system(owner: &Owner) -> Result<Box<dyn Backend>, Error> {
    Ok(Box::new(sys::Machine::open(owner.clone())?))
}

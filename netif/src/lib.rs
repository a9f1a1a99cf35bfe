#![doc = include_str!("../README.md")]
//!
//! # What this crate knows, and what it must not know
//!
//! It knows what the network of each operating system can be told, how that is undone and what is in the way, and how a system tells that
//! its network is another one than before. It does not know why anybody wants that, who may, or what a change means: links,
//! tunnels and services are not its subject.
#![deny(unsafe_code)]

// What is hidden here is no part of the interface: it is public since each system uses only its own part of it, and all of them are
// tested on each.

#[doc(hidden)]
pub mod aliases;
mod backend;
#[doc(hidden)]
pub mod bsd;
mod change;
pub mod conflict;
mod error;
mod name;
pub mod observed;
#[doc(hidden)]
pub mod parse;
mod plan;
mod recording;
#[doc(hidden)]
pub mod render;
#[doc(hidden)]
pub mod resolver_files;
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

#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod error;
mod provider;
mod status;

pub use error::{ConnectError, Verdict, with_causes};
pub use provider::{Connection, Goodbye, Provider, Wanted};
pub use status::{Status, Via};

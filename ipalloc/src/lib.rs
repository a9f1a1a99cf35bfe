#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod address;
mod allocator;
mod error;
mod free;
mod hash;
mod key;
mod lockfile;
mod pool;
mod record;
mod time;

#[cfg(feature = "import")]
pub mod import;
pub mod store;

pub use crate::address::AddressRange;
pub use crate::allocator::{Allocator, Difference, Lease, Reason, Rest, Stats};
pub use crate::error::Error;
pub use crate::key::Key;
pub use crate::lockfile::{LockFault, LockFile};
pub use crate::pool::{Pool, PoolBuilder, Strategy};
pub use crate::time::Timestamp;

//! What was done to an allocator, as a journal keeps it.

use std::net::IpAddr;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use crate::{Key, Timestamp};

/// One change of an allocator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Record {
    /// A key has an address from now on: as a whole, or for as long as it holds ports.
    Lease {
        key: Key,
        address: IpAddr,
        at: Timestamp,
        whole: bool,
    },
    /// A key has its address no longer.
    Release { key: Key, at: Timestamp },
    /// A key holds a port of its address so many times.
    Hold {
        key: Key,
        port: NonZeroU16,
        count: u32,
        at: Timestamp,
    },
    /// A key is pinned.
    Pin { key: Key, address: IpAddr },
    /// A key is pinned no longer.
    Unpin { key: Key },
    /// Addresses are reserved.
    Reserve { first: IpAddr, last: IpAddr },
    /// Addresses are reserved no longer.
    Unreserve { first: IpAddr, last: IpAddr },
}

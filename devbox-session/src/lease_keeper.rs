//! Who remembers a session's addresses after it has ended.

use std::net::IpAddr;

use ipalloc::Key;

/// What became of an address that belongs to a service by its name, and not only for this session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseChange {
    /// The service has it.
    Leased {
        /// The service's key.
        key: Key,
        /// Its address.
        address: IpAddr,
    },
    /// The service left the catalog; the address rests.
    Released {
        /// The service's key.
        key: Key,
    },
}

/// Remembers leases. Called from the session's loop: it must not wait.
pub trait LeaseKeeper: Send + 'static {
    /// Takes what changed since the last call, in order. Nothing is left out, however much happens at once.
    fn keep(&mut self, changes: Vec<LeaseChange>);
}

/// Remembers nothing: addresses follow from the names at the next start all the same.
#[derive(Debug, Clone, Copy, Default)]
pub struct Forget;

impl LeaseKeeper for Forget {
    fn keep(&mut self, _changes: Vec<LeaseChange>) {}
}

//! What can go wrong.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};

use crate::lockfile::LockFault;
use crate::{Key, Timestamp};

/// What can go wrong with a pool, a lease or a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Every address of the pool is leased or resting.
    #[error(
        "the pool {pool} is exhausted: {leased} addresses are leased and {resting} are resting after use"
    )]
    PoolExhausted {
        /// The prefixes.
        pool: String,
        /// Addresses that a key holds.
        leased: usize,
        /// Addresses that were released and are kept from other keys.
        resting: usize,
    },
    /// The caller could use none of the addresses offered for the key.
    #[error("none of the {tried} addresses offered for {key} is usable")]
    NoneUsable {
        /// The key to lease for.
        key: Key,
        /// How many were offered.
        tried: usize,
    },
    /// The text is not a key.
    #[error("{key:?} is not a key: it {why}")]
    BadKey {
        /// The text, cut to 80 characters.
        key: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The ends of a range are of different families or in the wrong order.
    #[error("{first} to {last} is not a range of addresses")]
    BadRange {
        /// The first address.
        first: IpAddr,
        /// The last address.
        last: IpAddr,
    },
    /// A pool contains no address that could be leased.
    #[error("the pool {pool} contains no usable address")]
    EmptyPool {
        /// The prefixes.
        pool: String,
    },
    /// A prefix has bits set beyond its length.
    #[error("{prefix} has host bits; the prefix is {network}")]
    HostBits {
        /// As it was given.
        prefix: IpNet,
        /// Without those bits.
        network: IpNet,
    },
    /// A pool has v4 and v6 prefixes.
    #[error("{one} and {other} are of different families; make one pool for each")]
    MixedFamilies {
        /// A prefix.
        one: IpNet,
        /// One of the other family.
        other: IpNet,
    },
    /// A pool has prefixes with addresses in common.
    #[error("{one} and {other} overlap")]
    Overlap {
        /// A prefix.
        one: IpNet,
        /// One that overlaps it.
        other: IpNet,
    },
    /// The salt or name of a pool contains a NUL byte.
    #[error("the salt or name of a pool contains a NUL byte")]
    BadSalt,
    /// A prefix cannot stand beside the pool.
    #[error(
        "{prefix} cannot stand beside the pool: it takes a v4 pool and a v6 prefix of /96 or shorter without host bits"
    )]
    BadBeside {
        /// The prefix.
        prefix: Ipv6Net,
    },
    /// The pool does not lease this address.
    #[error("{address} is not an address that the pool {pool} leases")]
    OutOfPool {
        /// The address.
        address: IpAddr,
        /// The prefixes.
        pool: String,
    },
    /// Another key holds the address, or it is kept for that key.
    #[error("{address} belongs to {key}")]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// Whose it is.
        key: Key,
    },
    /// The address belonged to another key until recently.
    #[error("{address} belonged to {key} and rests until {until} (seconds since the epoch)")]
    AddressResting {
        /// The address.
        address: IpAddr,
        /// Whose it was.
        key: Key,
        /// When its rest is over.
        until: Timestamp,
    },
    /// The key is live at another address, and a live lease is never moved.
    #[error("{key} is live at {address}; release it first")]
    KeyLive {
        /// The key.
        key: Key,
        /// Where it is live.
        address: IpAddr,
    },
    /// Another key's endpoint has this address and port.
    #[error("port {port} of {address} belongs to {key}")]
    PortTaken {
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
        /// Whose it is.
        key: Key,
    },
    /// The key holds no lease.
    #[error("{key} holds no lease")]
    NotLeased {
        /// The key.
        key: Key,
    },
    /// The key does not hold the port.
    #[error("{key} does not hold port {port}")]
    PortNotHeld {
        /// The key.
        key: Key,
        /// The port.
        port: u16,
    },
    /// A lock file has faults; all of them are listed.
    #[error("{}", crate::lockfile::describe(.path.as_deref(), .faults))]
    LockFile {
        /// The file, where it was read from one.
        path: Option<PathBuf>,
        /// What is wrong, in the order of the lines.
        faults: Vec<LockFault>,
    },
    /// A file of the store is damaged. It was moved away, so that the next start begins without it.
    #[error("{file} is damaged ({why}); it is kept as {}", .kept.join(" and "))]
    Damaged {
        /// The damaged file.
        file: String,
        /// What is wrong with it.
        why: String,
        /// Where it and the files that mean nothing without it were moved.
        kept: Vec<String>,
    },
    /// A file was written by a newer version. It was left as it is.
    #[error(
        "{file} has version {version}, and this program reads up to {known}; use the newer program, or move the file away"
    )]
    Newer {
        /// The file.
        file: String,
        /// Its version.
        version: u64,
        /// The newest that is known here.
        known: u64,
    },
    /// The store belongs to a pool of other prefixes. It was left as it is.
    #[error("{file} belongs to the pool {stored}, not to {given}")]
    OtherPool {
        /// The file.
        file: String,
        /// Its prefixes.
        stored: String,
        /// Those that were asked for.
        given: String,
    },
    /// Another process held the store's lock for too long.
    #[error("{file} has been locked by another process for {} s", .waited.as_secs_f32())]
    Locked {
        /// The lock.
        file: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// A file operation failed.
    #[error("cannot {verb} {file}")]
    Io {
        /// The operation.
        verb: &'static str,
        /// The file.
        file: String,
        /// The system's error.
        source: io::Error,
    },
    /// A mapping file of another program could not be understood.
    #[error("{what}, line {line}: {why}")]
    BadImport {
        /// Whose file it was taken for.
        what: &'static str,
        /// The line, from 1; 0 where none can be told.
        line: usize,
        /// What is wrong.
        why: String,
    },
}

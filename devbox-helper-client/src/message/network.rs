//! What is asked of the installed helper beyond the hosts file: the machine's network, and how long a claim lasts. Addresses,
//! prefixes and names are strings here, as elsewhere: the helper parses them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::endpoint::Endpoint;

/// The longest [grace](crate::Request::Hold) that a claim can have.
pub const MAX_GRACE: Duration = Duration::from_secs(5);

/// An interface that is to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewInterface {
    /// Its name, which begins with `devbox`.
    pub name: String,
    /// What it is.
    pub kind: InterfaceKind,
    /// Its longest packet in bytes; `None` for what the system gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// A kind of interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum InterfaceKind {
    /// It only has addresses.
    Dummy,
    /// A program reads and writes its packets.
    Tun,
}

/// Servers for names with some suffixes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewResolver {
    /// An interface of the caller's.
    pub interface: String,
    /// At least one suffix.
    pub suffixes: Vec<String>,
    /// At least one server, at an address of the caller's.
    pub servers: Vec<SocketAddr>,
}

/// What became of a change of the network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkReport {
    /// How many things were added, or taken away.
    pub changed: usize,
    /// How many were as wanted before.
    pub unchanged: usize,
    /// What could not be had, and what was done in its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What takes a claim over after its connection is gone. It is a secret: whoever has it, and the same user id, has the claim.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What the helper holds for everybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The helper's process.
    pub pid: u32,
    /// The versions of the protocol that it speaks, oldest and newest.
    pub versions: (u32, u32),
    /// The claims, oldest first.
    pub claims: Vec<ClaimReport>,
}

/// One claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimReport {
    /// Whose it is.
    pub holder: Holder,
    /// Whether its connection is gone, and it waits for somebody to take it over.
    pub waits: bool,
    /// How many names it has, and how many it asked for that others have.
    pub names: (usize, usize),
    /// The addresses that it holds, unless it is another user's.
    pub addresses: Vec<IpAddr>,
    /// The listeners that it was given, unless it is another user's.
    pub listeners: Vec<Endpoint>,
    /// Its prefixes, interfaces and suffixes, unless it is another user's.
    pub network: Vec<String>,
}

/// Who holds something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The user id.
    pub uid: u32,
    /// The process that connected.
    pub pid: u32,
    /// The number of the claim in this run of the helper.
    pub claim: u64,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of user {}", self.pid, self.uid)
    }
}

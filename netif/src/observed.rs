//! What there is on a machine's network, whoever made it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::Serialize;

use crate::{RouteKind, sys};

/// What there is on a machine's network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Observed {
    /// The interfaces, by index.
    pub interfaces: Vec<Seen>,
    /// Their addresses.
    pub addresses: Vec<SeenAddress>,
    /// The routes, those of each address to itself not among them.
    pub routes: Vec<SeenRoute>,
    /// Which servers are asked for names with a suffix.
    pub resolvers: Vec<SeenResolver>,
    /// Sockets that wait for connections or datagrams. Empty where the system does not tell.
    pub listeners: Vec<Listener>,
}

impl Observed {
    /// The interface of that name.
    #[must_use]
    pub fn interface(&self, name: &str) -> Option<&Seen> {
        self.interfaces.iter().find(|seen| seen.name == name)
    }
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its name, as the system calls it.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// Its kind: `dummy`, `tun`, `bridge`, `wireguard`, `veth`, `loopback`; empty for hardware.
    pub kind: String,
    /// Whether it is this owner's.
    pub ours: bool,
    /// Whether it is up.
    pub up: bool,
    /// Its longest packet in bytes.
    pub mtu: u32,
    /// What anybody wrote beside it (Linux), or the name by which this process asked for it where the system has one of its own.
    pub alias: Option<String>,
    /// What it has carried.
    pub statistics: Statistics,
}

/// What an interface has carried since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets received.
    pub received_packets: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Packets that could not be received or sent.
    pub errors: u64,
    /// Packets that were dropped on either way.
    pub dropped: u64,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeenAddress {
    /// The interface's name, as the system calls it.
    pub interface: String,
    /// The address with its prefix.
    pub address: IpNet,
    /// Whether it is this owner's.
    pub ours: bool,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeenRoute {
    /// What it is for.
    pub destination: IpNet,
    /// The interface's name, as the system calls it; empty where it has none (a route that refuses).
    pub interface: String,
    /// The next router.
    pub gateway: Option<IpAddr>,
    /// What happens to its packets.
    pub kind: RouteKind,
    /// Of two routes the one with the lower metric wins.
    pub metric: u32,
    /// Whether it is this owner's.
    pub ours: bool,
}

/// Servers for the names with one suffix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeenResolver {
    /// The suffix, without dots at its ends; empty for all names.
    pub suffix: String,
    /// The servers.
    pub servers: Vec<SocketAddr>,
    /// Where the rule is: an interface, a file, a registry key.
    pub place: String,
    /// Whether it is this owner's.
    pub ours: bool,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

/// A socket that waits for connections or datagrams.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Listener {
    /// Its protocol.
    pub transport: Transport,
    /// Where; with the unspecified address everywhere.
    pub address: SocketAddr,
    /// Who runs the program, where the system tells.
    pub uid: Option<u32>,
    /// The program, where it was looked for and the system tells.
    pub program: Option<Program>,
}

/// A program that runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Program {
    /// What the system calls it.
    pub name: String,
    /// Its process.
    pub pid: u32,
}

impl Listener {
    /// All of this machine, on Linux those of the calling thread's network namespace, without their programs: that takes milliseconds.
    /// Empty where the system does not tell.
    #[must_use]
    pub fn all() -> Vec<Self> {
        sys::listeners(false)
    }

    /// The same with their programs, as far as this user may know them: that looks at every process, and can take a second.
    #[must_use]
    pub fn all_with_programs() -> Vec<Self> {
        sys::listeners(true)
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

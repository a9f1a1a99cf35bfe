//! What there is on a machine's network, whoever made it.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::RouteKind;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

/// A socket that waits for connections or datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listener {
    /// Its protocol.
    pub transport: Transport,
    /// Where; with the unspecified address everywhere.
    pub address: SocketAddr,
    /// Who runs the program, where the system tells.
    pub uid: Option<u32>,
}

//! What can be added to a machine's network.

use std::fmt;
use std::net::SocketAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::backend::ChangeError;
use crate::{InterfaceName, Owner, Suffix};

/// One thing that can be added to this machine's network and taken away again.
///
/// It is data: it can be written down before it is done, and read again by another process that undoes it.
///
/// ```
/// use netif::{Change, Device, Interface, InterfaceName, Kind};
///
/// let name = InterfaceName::new("devbox0")?;
/// let changes = [
///     Change::Interface(Interface::new(name.clone(), Kind::Dummy)),
///     Change::Address { device: Device::Interface(name), address: "10.107.3.4/16".parse()? },
/// ];
/// let line = serde_json::to_string(&changes)?;
/// assert_eq!(serde_json::from_str::<Vec<Change>>(&line)?, changes);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Change {
    /// An interface of the owner's.
    Interface(Interface),
    /// An address with its prefix, at which programs can listen.
    Address {
        /// Where it is.
        device: Device,
        /// The address itself, with the length of its prefix: `10.107.3.4/16`.
        address: IpNet,
    },
    /// A route.
    Route(Route),
    /// Servers that names with some suffixes are asked for.
    Resolver(ResolverRule),
}

/// Where an address or a route is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// The system's own loopback interface: `lo`, `lo0`.
    Loopback,
    /// An interface of the owner's. Nothing is ever put on another one.
    Interface(InterfaceName),
}

/// A kind of interface that can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One that only has addresses. It stays until it is removed (Linux).
    Dummy,
    /// One whose packets a program reads and writes: TUN, utun, Wintun. It lives as long as the [`Backend`](crate::Backend) that made
    /// it, or the descriptor that was taken from it.
    Tun,
}

/// An interface to make.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Interface {
    /// Its name, which begins with the owner's word. macOS numbers its interfaces itself (`utun7`); there the name is only for the
    /// changes that follow.
    pub name: InterfaceName,
    /// Its kind.
    pub kind: Kind,
    /// Its longest packet in bytes; `None` for what the system gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The metric of its addresses' prefix routes, where a lower one wins; `None` for what the system gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
}

impl Interface {
    /// An interface with the system's MTU and metric.
    #[must_use]
    pub fn new(name: InterfaceName, kind: Kind) -> Self {
        Self {
            name,
            kind,
            mtu: None,
            metric: None,
        }
    }
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Route {
    /// What it is for, without host bits.
    pub destination: IpNet,
    /// Where it leads.
    pub device: Device,
    /// What happens there.
    pub kind: RouteKind,
    /// Of two routes the one with the lower metric wins; `None` for what the system gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
}

/// What a route does with packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteKind {
    /// They are for this machine: every address of the destination is its own, by one change (Linux). IPv4 addresses can then be bound
    /// as any other; IPv6 ones by sockets with `IPV6_FREEBIND`.
    Local,
    /// They leave by the device.
    Unicast,
}

/// Which servers are asked for names with some suffixes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResolverRule {
    /// The interface that the rule belongs to. systemd-resolved has rules only for interfaces; the other systems' rules have none, and
    /// ignore it.
    pub interface: InterfaceName,
    /// The suffixes, at least one.
    pub suffixes: Vec<Suffix>,
    /// The servers, at least one. Windows knows no port other than 53.
    pub servers: Vec<SocketAddr>,
}

impl Change {
    /// The interface that has to be there for this change, other than the one that it makes itself.
    #[must_use]
    pub fn needs(&self) -> Option<&InterfaceName> {
        match self {
            Change::Interface(_) => None,
            Change::Address { device, .. } | Change::Route(Route { device, .. }) => device.interface(),
            Change::Resolver(rule) => Some(&rule.interface),
        }
    }

    /// Refuses what can be told to be wrong without looking at the machine.
    pub(crate) fn check(&self, owner: &Owner) -> Result<(), ChangeError> {
        let name = match self {
            Change::Interface(interface) => Some(&interface.name),
            _ => self.needs(),
        };
        if let Some(name) = name.filter(|name| !owner.has(name)) {
            return Err(ChangeError::Name {
                name: name.clone(),
                owner: owner.to_string(),
            });
        }
        let why = match self {
            Change::Interface(interface) => match interface.mtu {
                Some(mtu) if !MTU.contains(&mtu) => "an MTU is from 1280, which IPv6 needs, to 65535",
                _ => return Ok(()),
            },
            Change::Address { address, .. } => match address.addr() {
                address if address.is_unspecified() => "0.0.0.0 and :: are nobody's address",
                address if address.is_multicast() => "a multicast address is nobody's own",
                _ => return Ok(()),
            },
            Change::Route(route) if route.destination.trunc() != route.destination => {
                "the destination has bits beyond its prefix"
            }
            Change::Resolver(rule) if rule.suffixes.is_empty() => "a rule has at least one suffix",
            Change::Resolver(rule) if rule.servers.is_empty() => "a rule has at least one server",
            Change::Route(_) | Change::Resolver(_) => return Ok(()),
        };
        Err(ChangeError::Invalid {
            what: self.to_string(),
            why,
        })
    }
}

/// Longest packets that an interface may have: not below what IPv6 needs (RFC 8200 §5), not above what an IP header can tell.
const MTU: std::ops::RangeInclusive<u32> = 1280..=65535;

impl Device {
    /// The owner's interface, if it is one.
    #[must_use]
    pub fn interface(&self) -> Option<&InterfaceName> {
        match self {
            Device::Loopback => None,
            Device::Interface(name) => Some(name),
        }
    }
}

impl From<InterfaceName> for Device {
    fn from(name: InterfaceName) -> Self {
        Device::Interface(name)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Interface(interface) => write!(f, "{} interface {}", interface.kind, interface.name),
            Change::Address { device, address } => write!(f, "address {address} on {device}"),
            Change::Route(route) => {
                let Route {
                    destination,
                    device,
                    kind,
                    ..
                } = route;
                let kind = match kind {
                    RouteKind::Local => "local route",
                    RouteKind::Unicast => "route",
                };
                write!(f, "{kind} {destination} on {device}")
            }
            Change::Resolver(rule) => {
                f.write_str("resolver rule for")?;
                rule.suffixes.iter().try_for_each(|suffix| write!(f, " {suffix}"))
            }
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Loopback => f.write_str("loopback"),
            Device::Interface(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Dummy => "dummy",
            Kind::Tun => "TUN",
        })
    }
}

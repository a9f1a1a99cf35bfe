//! Which changes give a machine the addresses that are wanted, on a system that may not have every kind of change.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::backend::{Capabilities, Support};
use crate::{Change, Device, Interface, InterfaceName, Kind, ResolverRule, Route, RouteKind, Suffix};

/// What is wanted of a machine's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Where the addresses should be. What comes after it in [`Place`] is taken where the system lacks it.
    pub place: Place,
    /// The interface, where one is made; its kind is the place's.
    pub interface: InterfaceName,
    /// Its longest packet in bytes.
    pub mtu: Option<u32>,
    /// The metric of its routes.
    pub metric: Option<u32>,
    /// The addresses, of either family.
    pub subnets: Vec<Subnet>,
    /// Names to be asked of servers of one's own: the suffixes and the servers.
    pub resolver: Option<(Vec<Suffix>, Vec<SocketAddr>)>,
}

/// Addresses of one prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The prefix.
    pub prefix: IpNet,
    /// The addresses in it that are wanted; all of them where none is named.
    pub addresses: Vec<IpAddr>,
}

/// Where addresses can be, the most capable place first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// A dummy interface.
    Dummy,
    /// A TUN interface.
    Tun,
    /// The loopback interface.
    Loopback,
}

/// What to change, and where it is less than what was wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// The changes, to be applied in this order.
    pub changes: Vec<Change>,
    /// Where the addresses will be.
    pub place: Place,
    /// Why it is another place, and what cannot be had.
    pub reasons: Vec<Reason>,
}

/// Where a plan is less than what was wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The addresses are at another place.
    Fallback {
        /// The place that cannot be had.
        from: Place,
        /// The next one.
        to: Place,
        /// Why.
        why: String,
    },
    /// These addresses cannot be had.
    NoAddresses {
        /// Their prefix.
        prefix: IpNet,
        /// Why.
        why: String,
    },
    /// There will be no resolver rule.
    NoResolver {
        /// Why.
        why: String,
    },
}

/// The changes that give what is wanted. A pure function: it asks nobody and does nothing.
///
/// Addresses of 127.0.0.0/8 are never put on an interface other than loopback, and where they can be bound anyway there is nothing to change. A
/// whole prefix is one local route, so that 65,536 addresses cost as much as one.
///
/// ```
/// use netif::{Capabilities, Place, Reason, Subnet, Support, Wanted, plan};
///
/// let mut can = Capabilities::none("it is an example");
/// can.loopback = Support::Available;
/// can.local_routes = Support::Available;
/// let wanted = Wanted {
///     place: Place::Dummy,
///     interface: "devbox0".parse()?,
///     mtu: None,
///     metric: None,
///     subnets: vec![Subnet { prefix: "10.107.0.0/16".parse()?, addresses: Vec::new() }],
///     resolver: None,
/// };
/// let plan = plan(&can, &wanted);
/// assert_eq!(plan.place, Place::Loopback);
/// assert_eq!(plan.changes[0].to_string(), "local route 10.107.0.0/16 on loopback");
/// assert!(matches!(plan.reasons[0], Reason::Fallback { from: Place::Dummy, to: Place::Tun, .. }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn plan(can: &Capabilities, wanted: &Wanted) -> Plan {
    let mut reasons = Vec::new();
    let place = choose(can, wanted.place, &mut reasons);
    let mut changes = Vec::new();
    let device = match place.kind() {
        Some(kind) => {
            changes.push(Change::Interface(Interface {
                name: wanted.interface.clone(),
                kind,
                mtu: wanted.mtu,
                metric: wanted.metric,
            }));
            Device::Interface(wanted.interface.clone())
        }
        None => Device::Loopback,
    };
    for subnet in &wanted.subnets {
        match addresses(can, subnet, &device) {
            Ok(more) => changes.extend(more),
            Err(why) => reasons.push(Reason::NoAddresses {
                prefix: subnet.prefix,
                why,
            }),
        }
    }
    if let Some((suffixes, servers)) = &wanted.resolver {
        match resolver(can, &device, servers) {
            Ok(()) => changes.push(Change::Resolver(ResolverRule {
                interface: wanted.interface.clone(),
                suffixes: suffixes.clone(),
                servers: servers.clone(),
            })),
            Err(why) => reasons.push(Reason::NoResolver { why }),
        }
    }
    Plan {
        changes,
        place,
        reasons,
    }
}

/// The first place from `wanted` on that can be had.
fn choose(can: &Capabilities, wanted: Place, reasons: &mut Vec<Reason>) -> Place {
    let mut place = wanted;
    loop {
        let (support, to) = match place {
            Place::Dummy => (&can.dummy, Place::Tun),
            Place::Tun => (&can.tun, Place::Loopback),
            Place::Loopback => return place,
        };
        let why = match support {
            Support::Missing(why) => why.clone(),
            // Nobody who wanted a dummy interface reads packets.
            Support::Available if place == Place::Tun && wanted == Place::Dummy && !can.tun_is_local => {
                "packets to its addresses go to the program that reads it".to_owned()
            }
            Support::Available => return place,
        };
        reasons.push(Reason::Fallback { from: place, to, why });
        place = to;
    }
}

fn addresses(can: &Capabilities, subnet: &Subnet, device: &Device) -> Result<Vec<Change>, String> {
    let loopback = is_loopback(&subnet.prefix);
    if loopback && subnet.prefix.addr().is_ipv4() && can.whole_127 {
        return Ok(Vec::new());
    }
    let device = if loopback { &Device::Loopback } else { device };
    if let (Device::Loopback, Support::Missing(why)) = (device, &can.loopback) {
        return Err(why.clone());
    }
    if subnet.addresses.is_empty() {
        if let Support::Missing(why) = &can.local_routes {
            return Err(format!("only single addresses can be had: {why}"));
        }
        let (destination, kind) = (subnet.prefix.trunc(), RouteKind::Local);
        return Ok(vec![Change::Route(Route {
            destination,
            device: device.clone(),
            kind,
            metric: None,
        })]);
    }
    let stranger = subnet
        .addresses
        .iter()
        .find(|address| !subnet.prefix.contains(*address));
    if let Some(stranger) = stranger {
        return Err(format!("{stranger} is not in it"));
    }
    let routed = can.local_routes.is_available();
    let change = |address: &IpAddr| match address {
        // Linux searches all of an interface's IPv4 addresses for each new one, so that 65,534 of them take minutes; routes take half a
        // second. An IPv6 address that is only a route could not be bound without IPV6_FREEBIND.
        IpAddr::V4(_) if routed => Change::Route(Route {
            destination: (*address).into(),
            device: device.clone(),
            kind: RouteKind::Local,
            metric: None,
        }),
        _ => Change::Address {
            device: device.clone(),
            address: (*address).into(),
        },
    };
    Ok(subnet.addresses.iter().map(change).collect())
}

fn resolver(can: &Capabilities, device: &Device, servers: &[SocketAddr]) -> Result<(), String> {
    if let Support::Missing(why) = &can.resolver {
        return Err(why.clone());
    }
    if can.resolver_needs_interface && *device == Device::Loopback {
        return Err("a rule belongs to an interface, and none is made".to_owned());
    }
    match servers
        .iter()
        .find(|server| server.port() != 53 && !can.resolver_ports)
    {
        Some(server) => Err(format!("this system asks servers only at port 53, not {server}")),
        None => Ok(()),
    }
}

fn is_loopback(prefix: &IpNet) -> bool {
    match prefix {
        IpNet::V4(prefix) => prefix.addr().is_loopback(),
        IpNet::V6(prefix) => prefix.addr().is_loopback(),
    }
}

impl Place {
    /// The kind of interface that is made; none on loopback.
    #[must_use]
    pub fn kind(self) -> Option<Kind> {
        match self {
            Place::Dummy => Some(Kind::Dummy),
            Place::Tun => Some(Kind::Tun),
            Place::Loopback => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Place::Dummy => "a dummy interface",
            Place::Tun => "a TUN interface",
            Place::Loopback => "the loopback interface",
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Fallback { from, to, why } => write!(f, "{to} rather than {from}: {why}"),
            Reason::NoAddresses { prefix, why } => write!(f, "no addresses of {prefix}: {why}"),
            Reason::NoResolver { why } => write!(f, "no resolver rule: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Capabilities {
        let available = || Support::Available;
        Capabilities {
            dummy: available(),
            tun: available(),
            tun_is_local: true,
            loopback: available(),
            local_routes: available(),
            unicast_routes: available(),
            resolver: available(),
            resolver_ports: true,
            resolver_needs_interface: true,
            whole_127: true,
        }
    }

    fn wanted() -> Wanted {
        let subnet = |prefix: &str, addresses: &[&str]| Subnet {
            prefix: prefix.parse().unwrap(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        };
        Wanted {
            place: Place::Dummy,
            interface: InterfaceName::new("devbox0").unwrap(),
            mtu: None,
            metric: None,
            subnets: vec![
                subnet("127.77.0.0/16", &[]),
                subnet("10.107.0.0/16", &[]),
                subnet("10.108.0.0/16", &["10.108.0.1"]),
                subnet("fd77::/64", &["fd77::1", "fd77::2"]),
            ],
            resolver: Some((
                vec![Suffix::new("test").unwrap()],
                vec!["127.77.0.1:5353".parse().unwrap()],
            )),
        }
    }

    fn texts(plan: &Plan) -> (Vec<String>, Vec<String>) {
        let changes = plan.changes.iter().map(ToString::to_string).collect();
        (changes, plan.reasons.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_system_that_has_everything_gets_what_was_wanted() {
        let (changes, reasons) = texts(&plan(&all(), &wanted()));
        assert_eq!(
            changes,
            [
                "dummy interface devbox0",
                "local route 10.107.0.0/16 on devbox0",
                "local route 10.108.0.1/32 on devbox0",
                "address fd77::1/128 on devbox0",
                "address fd77::2/128 on devbox0",
                "resolver rule for test",
            ]
        );
        assert!(reasons.is_empty());
    }

    #[test]
    fn a_missing_kind_is_replaced_by_the_next_one_and_it_says_why() {
        let mut can = Capabilities {
            dummy: Support::Missing("no module".into()),
            ..all()
        };
        let (changes, reasons) = texts(&plan(&can, &wanted()));
        assert_eq!(changes[0], "TUN interface devbox0");
        assert_eq!(
            reasons,
            ["a TUN interface rather than a dummy interface: no module"]
        );
        can.tun = Support::Missing("no device".into());
        let (changes, reasons) = texts(&plan(&can, &wanted()));
        assert_eq!(changes[0], "local route 10.107.0.0/16 on loopback");
        assert_eq!(
            reasons[1..],
            [
                "the loopback interface rather than a TUN interface: no device",
                "no resolver rule: a rule belongs to an interface, and none is made",
            ]
        );
    }

    #[test]
    fn a_system_with_aliases_only_gets_single_addresses() {
        let can = Capabilities {
            loopback: Support::Available,
            resolver: Support::Available,
            ..Capabilities::none("macOS has none")
        };
        let mut wanted = wanted();
        wanted.place = Place::Loopback;
        wanted.subnets[0].addresses = vec!["127.77.3.4".parse().unwrap()];
        let (changes, reasons) = texts(&plan(&can, &wanted));
        assert_eq!(
            changes,
            [
                "address 127.77.3.4/32 on loopback",
                "address 10.108.0.1/32 on loopback",
                "address fd77::1/128 on loopback",
                "address fd77::2/128 on loopback"
            ]
        );
        assert_eq!(
            reasons,
            [
                "no addresses of 10.107.0.0/16: only single addresses can be had: macOS has none",
                "no resolver rule: this system asks servers only at port 53, not 127.77.0.1:5353",
            ]
        );
    }

    #[test]
    fn a_tun_interface_whose_addresses_are_not_local_is_taken_only_by_who_reads_it() {
        let mut can = Capabilities {
            tun: Support::Available,
            loopback: Support::Available,
            ..Capabilities::none("macOS has none")
        };
        let mut wanted = wanted();
        wanted.subnets.truncate(0);
        wanted.resolver = None;
        assert_eq!(plan(&can, &wanted).place, Place::Loopback);
        let (_, reasons) = texts(&plan(&can, &wanted));
        assert_eq!(
            reasons,
            [
                "a TUN interface rather than a dummy interface: macOS has none",
                "the loopback interface rather than a TUN interface: packets to its addresses go to the program that reads it",
            ]
        );
        wanted.place = Place::Tun;
        assert_eq!(plan(&can, &wanted).place, Place::Tun);
        can.tun_is_local = true;
        wanted.place = Place::Dummy;
        assert_eq!(plan(&can, &wanted).place, Place::Tun);
    }

    #[test]
    fn an_address_outside_its_prefix_is_no_change() {
        let mut wanted = wanted();
        wanted.subnets[3].addresses = vec!["fd78::1".parse().unwrap()];
        let (_, reasons) = texts(&plan(&all(), &wanted));
        assert_eq!(reasons, ["no addresses of fd77::/64: fd78::1 is not in it"]);
    }
}

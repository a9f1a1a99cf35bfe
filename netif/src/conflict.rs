//! What on a machine is in the way, found before anything is changed.

use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use serde::Serialize;

use crate::observed::{Listener, Observed, Seen, Transport};
use crate::{RouteKind, Suffix};

/// What somebody is about to use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Intent {
    /// Prefixes whose addresses are to be this machine's own.
    pub prefixes: Vec<IpNet>,
    /// Ports to listen on at those addresses.
    pub ports: Vec<(Transport, u16)>,
    /// Suffixes whose names are to be asked of servers of one's own.
    pub suffixes: Vec<Suffix>,
}

/// Something in the way, with a way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// What it is.
    pub clash: Clash,
    /// How bad it is.
    pub verdict: Verdict,
    /// What to do.
    pub fix: Fix,
}

/// How bad a conflict is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It may be fine: another tool uses the range when it runs.
    Warns,
    /// Something would not work, ours or theirs.
    Blocks,
}

/// What is in the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
#[non_exhaustive]
pub enum Clash {
    /// An interface has an address of the prefix.
    Address {
        /// The prefix that is wanted.
        prefix: IpNet,
        /// The address.
        address: IpNet,
        /// Its interface.
        interface: String,
        /// What kind of network it is.
        network: Network,
    },
    /// Packets for the prefix, or for a part of it, go elsewhere.
    Route {
        /// The prefix that is wanted.
        prefix: IpNet,
        /// The route's destination.
        destination: IpNet,
        /// Its interface.
        interface: String,
        /// What kind of network it is.
        network: Network,
    },
    /// A program listens on a wanted port, at all addresses or at one of the prefix.
    Listener {
        /// The socket.
        listener: Listener,
    },
    /// Names with the suffix are asked elsewhere already.
    Resolver {
        /// The suffix that is wanted.
        suffix: Suffix,
        /// The suffix of the other rule.
        theirs: String,
        /// Where that rule is.
        place: String,
    },
    /// Another tool takes addresses of the range when it runs.
    Tool {
        /// The prefix that is wanted.
        prefix: IpNet,
        /// The tool.
        tool: &'static str,
        /// What it takes.
        range: Ipv4Net,
    },
}

/// What kind of network an interface leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Network {
    /// Containers or virtual machines of this machine.
    Containers,
    /// A VPN.
    Vpn,
    /// The loopback interface.
    Loopback,
    /// Any other.
    Other,
}

/// A way out of a conflict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fix {
    /// This prefix of the same length is free here.
    UsePrefix(IpNet),
    /// Take another prefix; none of those that were tried is free.
    OtherPrefix,
    /// End the program, have it listen at another address, or leave the port to it.
    FreePort,
    /// Nothing: there are other addresses in the prefix.
    OtherAddress,
    /// Take another suffix, or remove the other rule.
    OtherSuffix,
}

/// Ranges that other tools take without asking. Their addresses are on the machine only while they run.
const TOOLS: &[(&str, [u8; 4], u8)] = &[
    // It counts from 127.1.27.1 upwards.
    ("kubefwd", [127, 1, 27, 0], 24),
    ("kubefwd", [127, 1, 28, 0], 22),
    ("kftray", [127, 0, 0, 0], 24),
    ("systemd-resolved (127.0.0.53)", [127, 0, 0, 53], 32),
    // The host's own name, in Debian's hosts file.
    ("Debian's hosts file (127.0.1.1)", [127, 0, 1, 1], 32),
    // Its default pools: the bridge, then one for each network.
    ("Docker", [172, 17, 0, 0], 16),
    ("Docker", [172, 18, 0, 0], 15),
    ("Docker", [172, 20, 0, 0], 14),
    ("Docker", [172, 24, 0, 0], 13),
    ("Docker", [192, 168, 0, 0], 16),
    ("Tailscale and carriers' NAT", [100, 64, 0, 0], 10),
];

/// Where another prefix is looked for, in this order.
const ELSEWHERE_V4: &[([u8; 4], u8)] = &[
    ([10, 107, 0, 0], 16),
    ([10, 112, 0, 0], 12),
    ([10, 192, 0, 0], 11),
    ([172, 16, 0, 0], 16),
];
const ELSEWHERE_LOOPBACK: &[([u8; 4], u8)] = &[
    ([127, 77, 0, 0], 16),
    ([127, 64, 0, 0], 10),
    ([127, 128, 0, 0], 10),
];
const ELSEWHERE_V6: (u128, u8) = (0xfd77_6465_7600 << 80, 40);

/// Candidates that are looked at in each of those.
const TRIES: usize = 256;

/// What is in the way of an intent, and how to get around it: data, which also has a form for programs (`serde`). What is the owner's own is in nobody's way. A pure function of what was observed.
///
/// ```
/// use netif::conflict::{Fix, Intent, conflicts};
/// use netif::{Observed, observed::SeenRoute, RouteKind};
///
/// let mut observed = Observed::default();
/// observed.routes.push(SeenRoute {
///     destination: "10.0.0.0/8".parse()?,
///     interface: "tun0".into(),
///     gateway: None,
///     kind: RouteKind::Unicast,
///     metric: 0,
///     ours: false,
/// });
/// let intent = Intent { prefixes: vec!["10.107.0.0/16".parse()?], ..Intent::default() };
/// let found = conflicts(&observed, &intent);
/// assert_eq!(found[0].fix, Fix::UsePrefix("172.16.0.0/16".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn conflicts(observed: &Observed, intent: &Intent) -> Vec<Conflict> {
    let mut found = Vec::new();
    for prefix in &intent.prefixes {
        in_the_way_of(observed, *prefix, &mut found);
    }
    for listener in &observed.listeners {
        let wanted = intent
            .ports
            .contains(&(listener.transport, listener.address.port()));
        let mut heard = intent.prefixes.iter().filter(|prefix| hears(listener, prefix));
        if wanted && heard.next().is_some() {
            let everywhere = listener.address.ip().is_unspecified();
            let (verdict, fix) = if everywhere || intent.prefixes.iter().all(is_one_address) {
                (Verdict::Blocks, Fix::FreePort)
            } else {
                (Verdict::Warns, Fix::OtherAddress)
            };
            let listener = listener.clone();
            found.push(Conflict {
                clash: Clash::Listener { listener },
                verdict,
                fix,
            });
        }
    }
    for suffix in &intent.suffixes {
        found.extend(resolvers(observed, suffix));
    }
    found
}

fn in_the_way_of(observed: &Observed, prefix: IpNet, found: &mut Vec<Conflict>) {
    let clashes: Vec<_> = addresses(observed, prefix)
        .chain(routes(observed, prefix))
        .collect();
    let tools: Vec<_> = tools(prefix).collect();
    if clashes.is_empty() && tools.is_empty() {
        return;
    }
    let fix = elsewhere(observed, prefix).map_or(Fix::OtherPrefix, Fix::UsePrefix);
    let conflict = |clash, verdict| Conflict {
        clash,
        verdict,
        fix: fix.clone(),
    };
    found.extend(clashes.into_iter().map(|clash| match &clash {
        // There are others, and on most systems it may as well be another session's.
        Clash::Address {
            network: Network::Loopback,
            ..
        } if prefix.addr().is_loopback() && !is_one_address(&prefix) => Conflict {
            clash,
            verdict: Verdict::Warns,
            fix: Fix::OtherAddress,
        },
        _ => conflict(clash, Verdict::Blocks),
    }));
    found.extend(tools.into_iter().map(|clash| conflict(clash, Verdict::Warns)));
}

fn addresses(observed: &Observed, prefix: IpNet) -> impl Iterator<Item = Clash> + '_ {
    let taken = observed
        .addresses
        .iter()
        .filter(move |seen| !seen.ours && prefix.contains(&seen.address.addr()));
    taken.map(move |seen| Clash::Address {
        prefix,
        address: seen.address,
        interface: seen.interface.clone(),
        network: network(observed, &seen.interface),
    })
}

fn routes(observed: &Observed, prefix: IpNet) -> impl Iterator<Item = Clash> + '_ {
    let elsewhere = observed.routes.iter().filter(move |seen| {
        // Loopback's own prefix is on every machine.
        let own = seen.kind == RouteKind::Local && seen.destination.addr().is_loopback();
        !seen.ours && !own && !is_default(seen.destination) && overlap(&seen.destination, &prefix)
    });
    elsewhere.map(move |seen| Clash::Route {
        prefix,
        destination: seen.destination,
        interface: seen.interface.clone(),
        network: network(observed, &seen.interface),
    })
}

/// The default route is for what nobody else has. A VPN that is to have everything makes two of one half each.
fn is_default(destination: IpNet) -> bool {
    destination.prefix_len() <= 1
}

fn tools(prefix: IpNet) -> impl Iterator<Item = Clash> {
    TOOLS.iter().filter_map(move |(tool, address, length)| {
        let range = Ipv4Net::new((*address).into(), *length).ok()?;
        overlap(&range.into(), &prefix).then_some(Clash::Tool { prefix, tool, range })
    })
}

fn resolvers<'a>(observed: &'a Observed, suffix: &'a Suffix) -> impl Iterator<Item = Conflict> + 'a {
    observed.resolvers.iter().filter_map(move |seen| {
        // A rule for all names, or for more of them, is only less specific. A narrower one takes names from ours.
        let theirs = Suffix::new(&seen.suffix).ok()?;
        (!seen.ours && suffix.covers(&theirs)).then(|| Conflict {
            clash: Clash::Resolver {
                suffix: suffix.clone(),
                theirs: seen.suffix.clone(),
                place: seen.place.clone(),
            },
            verdict: Verdict::Blocks,
            fix: Fix::OtherSuffix,
        })
    })
}

/// Whether a socket takes what is for addresses of a prefix. One at `[::]` takes IPv4 as well, unless its program asked for IPv6 alone.
fn hears(listener: &Listener, prefix: &IpNet) -> bool {
    match listener.address.ip() {
        IpAddr::V4(address) if address.is_unspecified() => prefix.addr().is_ipv4(),
        IpAddr::V6(address) if address.is_unspecified() => true,
        address => prefix.contains(&address),
    }
}

/// A prefix of the same length that nothing here is in the way of.
fn elsewhere(observed: &Observed, prefix: IpNet) -> Option<IpNet> {
    let length = prefix.prefix_len();
    let ranges: Vec<IpNet> = match prefix {
        IpNet::V6(_) => vec![IpNet::new(IpAddr::from(ELSEWHERE_V6.0.to_be_bytes()), ELSEWHERE_V6.1).ok()?],
        IpNet::V4(prefix) => {
            let ranges = if prefix.addr().is_loopback() {
                ELSEWHERE_LOOPBACK
            } else {
                ELSEWHERE_V4
            };
            ranges
                .iter()
                .filter_map(|(address, length)| IpNet::new(IpAddr::from(*address), *length).ok())
                .collect()
        }
    };
    let candidates = ranges
        .iter()
        .filter_map(|range| Some(range.subnets(length).ok()?.take(TRIES)))
        .flatten();
    let free = |candidate: &IpNet| {
        addresses(observed, *candidate).next().is_none()
            && routes(observed, *candidate).next().is_none()
            && tools(*candidate).next().is_none()
    };
    let mut candidates = candidates;
    candidates.find(free)
}

fn is_one_address(prefix: &IpNet) -> bool {
    prefix.prefix_len() == prefix.max_prefix_len()
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// By the kind of the interface, and by the names that programs give theirs.
fn network(observed: &Observed, interface: &str) -> Network {
    const CONTAINERS: &[&str] = &[
        "docker", "br-", "veth", "cni", "flannel", "virbr", "podman", "lxc", "lxd", "vmnet", "bridge",
    ];
    const VPNS: &[&str] = &[
        "tun",
        "tap",
        "utun",
        "wg",
        "ppp",
        "tailscale",
        "zt",
        "nordlynx",
        "cscotun",
    ];
    let begins = |names: &[&str]| names.iter().any(|name| interface.starts_with(name));
    let kind = observed
        .interface(interface)
        .map_or("", |Seen { kind, .. }| kind.as_str());
    match kind {
        "loopback" => Network::Loopback,
        "bridge" | "veth" => Network::Containers,
        "tun" | "wireguard" | "ppp" => Network::Vpn,
        _ if begins(CONTAINERS) => Network::Containers,
        _ if begins(VPNS) => Network::Vpn,
        _ => Network::Other,
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.clash, self.fix)
    }
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Clash::Address {
                prefix,
                address,
                interface,
                network,
            } => {
                write!(f, "{interface}{network} has the address {address} of {prefix}")
            }
            Clash::Route {
                prefix,
                destination,
                interface,
                network,
            } => {
                write!(
                    f,
                    "a route for {destination} leads to {interface}{network}, which {prefix} overlaps"
                )
            }
            Clash::Listener { listener } => {
                let transport = match listener.transport {
                    Transport::Tcp => "TCP",
                    Transport::Udp => "UDP",
                };
                let address = listener.address;
                match (&listener.program, listener.uid) {
                    (Some(program), _) => write!(f, "{program} listens on {address} ({transport})"),
                    (None, Some(uid)) => {
                        write!(f, "a program of user {uid} listens on {address} ({transport})")
                    }
                    (None, None) => write!(f, "a program listens on {address} ({transport})"),
                }
            }
            Clash::Resolver {
                suffix,
                theirs,
                place,
            } => {
                write!(
                    f,
                    "names with {theirs} are asked elsewhere ({place}), and {suffix} covers them"
                )
            }
            Clash::Tool { prefix, tool, range } => {
                write!(f, "{tool} takes addresses of {range}, which {prefix} overlaps")
            }
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Network::Containers => " (containers)",
            Network::Vpn => " (a VPN)",
            Network::Loopback => " (loopback)",
            Network::Other => "",
        })
    }
}

impl fmt::Display for Fix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fix::UsePrefix(prefix) => write!(f, "{prefix} is free"),
            Fix::OtherPrefix => f.write_str("take another prefix"),
            Fix::FreePort => f.write_str("end it, or have it listen at another address"),
            Fix::OtherAddress => f.write_str("another address is taken"),
            Fix::OtherSuffix => f.write_str("take another suffix, or remove that rule"),
        }
    }
}

#[cfg(test)]
mod tests;

//! The routes of macOS and FreeBSD, from what `netstat -rn` prints.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::RouteKind;
use crate::observed::SeenRoute;
use crate::render::ifconfig::LOOPBACK;

/// W: made from another route for one destination. L: a neighbour. b, m: what each network has for broadcasts and groups.
const PASSING: [char; 4] = ['W', 'L', 'b', 'm'];
/// R, B: packets are refused.
const REFUSES: [char; 2] = ['R', 'B'];

/// The routes of both families, those of single addresses to themselves not among them.
pub fn routes(text: &str) -> Vec<SeenRoute> {
    let mut found = Vec::new();
    let mut v6 = false;
    let mut netif = None;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.first() {
            Some(&"Internet:") => v6 = false,
            Some(&"Internet6:") => v6 = true,
            // Older systems have two columns more: Refs, Use. Before the name of the interface none is ever empty.
            Some(&"Destination") => netif = words.iter().position(|word| *word == "Netif"),
            _ => found.extend(netif.and_then(|netif| route(&words, netif, v6))),
        }
    }
    found
}

fn route(words: &[&str], netif: usize, v6: bool) -> Option<SeenRoute> {
    let [destination, gateway, flags] = words.first_chunk()?;
    let interface = *words.get(netif)?;
    if flags.contains(PASSING) {
        return None;
    }
    let destination = if v6 {
        destination_v6(destination)?
    } else {
        destination_v4(destination)?
    };
    let on_loopback = interface == LOOPBACK;
    // Each address of this machine has one by the loopback interface.
    if on_loopback && destination.prefix_len() == destination.max_prefix_len() {
        return None;
    }
    Some(SeenRoute {
        destination,
        interface: if flags.contains(REFUSES) {
            String::new()
        } else {
            interface.to_owned()
        },
        gateway: gateway.parse().ok(),
        kind: if on_loopback && destination.addr().is_loopback() {
            RouteKind::Local
        } else {
            RouteKind::Unicast
        },
        metric: 0,
        ours: false,
    })
}

/// `default`, `10.107.0.1`, `10.10.10/24`; `192.168.220` and `127` without a length are networks of so many bytes.
fn destination_v4(text: &str) -> Option<IpNet> {
    if text == "default" {
        return Ipv4Net::new(Ipv4Addr::UNSPECIFIED, 0).ok().map(IpNet::V4);
    }
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length.parse().ok()?)),
        None => (text, None),
    };
    let mut bytes = [0; 4];
    let mut count: u8 = 0;
    for part in address.split('.') {
        *bytes.get_mut(usize::from(count))? = part.parse().ok()?;
        count += 1;
    }
    let network = Ipv4Net::new(Ipv4Addr::from(bytes), length.unwrap_or(count * 8)).ok()?;
    Some(IpNet::V4(network.trunc()))
}

/// `default`, `fd6f:74a0:9a49::/64`; one of a single interface (`fe80::%en0/64`) is in nobody's way.
fn destination_v6(text: &str) -> Option<IpNet> {
    let text = if text == "default" { "::/0" } else { text };
    let network = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.ok().map(|network| network.trunc())
}

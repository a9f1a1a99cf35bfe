//! What the kernel's messages mean. Most of them say nothing new.

use std::collections::BTreeMap;

use netlink_packet_core::{NetlinkBuffer, NlasIterator};
use netlink_packet_route::address::{AddressHeader, AddressHeaderFlags, AddressScope};
use netlink_packet_route::link::{LinkFlags, LinkHeader};
use netlink_packet_route::route::{RouteFlags, RouteHeader, RouteScope, RouteType};

use crate::watch::Change;

// linux/rtnetlink.h
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RT_TABLE_LOCAL: u8 = 255;
const RTA_OIF: u16 = 4;
// linux/if_addr.h
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const ADDRESS_HEADER_BYTES: usize = 8;
const ROUTE_HEADER_BYTES: usize = 12;

/// The loopback interface, in every network namespace (LOOPBACK_IFINDEX of net/flow.h).
const LOOPBACK: u32 = 1;

/// Interfaces and addresses that are remembered. With more of them everything that is repeated counts as new once more.
const REMEMBERED: usize = 4096;

/// What was told, so that what is told again is no news. A router's advertisement renews an address every few seconds, and an
/// interface tells of itself whenever one of its counters or settings changes.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Whether the interface carries anything, by its index.
    links: BTreeMap<u32, bool>,
    /// Whether the address can be used.
    addresses: BTreeMap<Address, bool>,
    /// Whether what is not remembered is not there, either.
    complete: bool,
}

/// By interface, prefix length and bytes.
type Address = (u32, u8, Vec<u8>);

impl News {
    /// What there was to know at first is remembered.
    pub(super) fn begin(&mut self) {
        self.complete = true;
    }

    /// Takes the messages of a datagram.
    pub(super) fn handle_datagram(&mut self, mut datagram: &[u8], change: &mut Change) {
        while let Some((message, rest)) = split(datagram) {
            // Netlink may be newer than this program: what cannot be read may be anything.
            let read = self.handle_message(message.message_type(), message.payload(), change);
            change.missed |= read.is_none();
            datagram = rest;
        }
        change.missed |= !datagram.is_empty();
    }

    /// Some were lost.
    pub(super) fn handle_missed(&mut self, change: &mut Change) {
        self.links.clear();
        self.addresses.clear();
        self.complete = false;
        change.missed = true;
    }

    /// `None` for a message that is too short.
    fn handle_message(&mut self, kind: u16, payload: &[u8], change: &mut Change) -> Option<()> {
        match kind {
            RTM_NEWLINK | RTM_DELLINK => self.handle_link(kind == RTM_DELLINK, payload, change),
            RTM_NEWADDR | RTM_DELADDR => self.handle_address(kind == RTM_DELADDR, payload, change),
            RTM_NEWROUTE | RTM_DELROUTE => handle_route(payload, change),
            _ => Some(()),
        }
    }

    fn handle_link(&mut self, gone: bool, payload: &[u8], change: &mut Change) -> Option<()> {
        let header = LinkHeader::parse(payload).ok()?;
        if header.flags.contains(LinkFlags::Loopback) {
            return Some(());
        }
        // Running: with a cable or a radio that works, on a driver that tells (netdevice(7)).
        let up = !gone && header.flags.contains(LinkFlags::Up | LinkFlags::Running);
        if self.links.len() >= REMEMBERED {
            self.links.clear();
            self.complete = false;
        }
        let before = if gone {
            self.links.remove(&header.index)
        } else {
            self.links.insert(header.index, up)
        };
        change.links |= before.map_or(up || !self.complete, |before| before != up);
        Some(())
    }

    fn handle_address(&mut self, gone: bool, payload: &[u8], change: &mut Change) -> Option<()> {
        let header = AddressHeader::parse(payload).ok()?;
        let far = !matches!(header.scope, AddressScope::Host | AddressScope::Link);
        if header.index == LOOPBACK || !far {
            return Some(());
        }
        let attributes = payload.get(ADDRESS_HEADER_BYTES..)?;
        // On a point-to-point interface the local address is the own one, and the other the peer's.
        let bytes = attribute(attributes, IFA_LOCAL).or_else(|| attribute(attributes, IFA_ADDRESS))?;
        let useless = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
        let usable = !gone && !header.flags.intersects(useless);
        let address = (header.index, header.prefix_len, bytes.to_vec());
        if self.addresses.len() >= REMEMBERED {
            self.addresses.clear();
            self.complete = false;
        }
        let before = if gone {
            self.addresses.remove(&address)
        } else {
            self.addresses.insert(address, usable)
        };
        change.addresses |= before.map_or(usable || !self.complete, |before| before != usable);
        Some(())
    }
}

fn handle_route(payload: &[u8], change: &mut Change) -> Option<()> {
    let header = RouteHeader::parse(payload).ok()?;
    // Each address has routes to itself in the local table, and each path that is looked up may leave a clone.
    let own = header.table == RT_TABLE_LOCAL || header.scope == RouteScope::Host;
    let cast = matches!(
        header.kind,
        RouteType::Local | RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast
    );
    if own || cast || header.flags.contains(RouteFlags::Cloned) {
        return Some(());
    }
    let attributes = payload.get(ROUTE_HEADER_BYTES..)?;
    let through_loopback = attribute(attributes, RTA_OIF) == Some(&LOOPBACK.to_ne_bytes());
    change.routes |= !through_loopback;
    Some(())
}

fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == kind)
        .and_then(|attribute| {
            // Behind a header of four bytes, and before what fills it up (struct nlattr).
            let length = usize::from(attribute.length());
            attribute.into_inner().get(4..length)
        })
}

/// Whether a datagram holds the end of a dump (NLMSG_DONE), or the kernel's refusal to make one (NLMSG_ERROR).
pub(super) fn ends_a_dump(mut datagram: &[u8]) -> bool {
    const NLMSG_ERROR: u16 = 2;
    const NLMSG_DONE: u16 = 3;
    while let Some((message, rest)) = split(datagram) {
        if matches!(message.message_type(), NLMSG_ERROR | NLMSG_DONE) {
            return true;
        }
        datagram = rest;
    }
    false
}

/// The first message and what follows it; `None` where there is none.
fn split(datagram: &[u8]) -> Option<(NetlinkBuffer<&[u8]>, &[u8])> {
    let message = NetlinkBuffer::new_checked(datagram).ok()?;
    // Messages begin at multiples of four (NLMSG_ALIGN).
    let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
    let next = length.checked_next_multiple_of(4).unwrap_or(usize::MAX);
    Some((message, datagram.get(next..).unwrap_or_default()))
}

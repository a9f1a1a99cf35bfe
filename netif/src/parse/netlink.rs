//! Answers of rtnetlink(7). The kernel may be newer than this program, so what cannot be read is left out.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::observed::Statistics;
use crate::render::netlink::{
    AF_INET, AF_INET6, IFA_ADDRESS, IFA_LOCAL, IFA_PROTO, IFF_UP, IFLA_IFALIAS, IFLA_IFNAME, IFLA_INFO_KIND,
    IFLA_LINKINFO, IFLA_MTU, RTA_DST, RTA_GATEWAY, RTA_OIF, RTA_PRIORITY, RTM_NEWADDR, RTM_NEWLINK,
    RTM_NEWROUTE,
};

// linux/netlink.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const HEADER_BYTES: usize = 16;
/// The upper bits of an attribute's kind say how its value is made.
const KIND_MASK: u16 = 0x3fff;

// linux/if_link.h
const IFLA_STATS64: u16 = 23;
// linux/if_addr.h
const ADDRESS_HEADER_BYTES: usize = 8;
// linux/rtnetlink.h
const LINK_HEADER_BYTES: usize = 16;
const ROUTE_HEADER_BYTES: usize = 12;
const RTA_TABLE: u16 = 15;
const RTM_F_CLONED: u32 = 0x200;

/// What the kernel answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Link(Link),
    Address(Address),
    Route(Route),
    /// A request was carried out (0), or failed with an error's number.
    Ended(i32),
    /// Anything else.
    Other,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) up: bool,
    pub(crate) loopback: bool,
    pub(crate) mtu: u32,
    pub(crate) alias: Option<String>,
    pub(crate) statistics: Statistics,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) index: u32,
    pub(crate) address: IpNet,
    /// Who made it; 0 where nobody said, or the kernel does not keep it.
    pub(crate) mark: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) table: u32,
    pub(crate) kind: u8,
    /// Who made it.
    pub(crate) mark: u8,
    pub(crate) destination: IpNet,
    pub(crate) index: Option<u32>,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) metric: u32,
    /// It belongs to one destination that was looked up.
    pub(crate) cloned: bool,
}

/// What stands before an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// The number of the request.
    pub(crate) sequence: u32,
    /// Something changed while a list was told (NLM_F_DUMP_INTR).
    pub(crate) interrupted: bool,
}

/// The answers in a datagram.
pub(crate) fn answers(datagram: &[u8]) -> impl Iterator<Item = (Head, Answer)> + '_ {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(rest, 0)?).ok()?;
        let message = rest
            .get(..length)
            .filter(|message| message.len() >= HEADER_BYTES)?;
        // Messages begin at multiples of four (NLMSG_ALIGN).
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        let kind = u16_at(message, 4)?;
        let head = Head {
            sequence: u32_at(message, 8)?,
            interrupted: u16_at(message, 6)? & NLM_F_DUMP_INTR != 0,
        };
        let payload = message.get(HEADER_BYTES..).unwrap_or_default();
        Some((head, answer(kind, payload).unwrap_or(Answer::Other)))
    })
}

fn answer(kind: u16, payload: &[u8]) -> Option<Answer> {
    Some(match kind {
        NLMSG_ERROR | NLMSG_DONE => {
            let code = u32_at(payload, 0).map_or(0, u32::cast_signed);
            Answer::Ended(code.saturating_neg().max(0))
        }
        RTM_NEWLINK => Answer::Link(link(payload)?),
        RTM_NEWADDR => Answer::Address(address(payload)?),
        RTM_NEWROUTE => Answer::Route(route(payload)?),
        _ => Answer::Other,
    })
}

fn link(payload: &[u8]) -> Option<Link> {
    const IFF_LOOPBACK: u32 = 8;
    let flags = u32_at(payload, 8)?;
    let mut link = Link {
        index: u32_at(payload, 4)?,
        up: flags & IFF_UP != 0,
        loopback: flags & IFF_LOOPBACK != 0,
        ..Link::default()
    };
    for (kind, value) in attributes(payload.get(LINK_HEADER_BYTES..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu = u32_at(value, 0)?,
            IFLA_IFALIAS => link.alias = Some(text(value)),
            IFLA_LINKINFO => {
                let kind = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                link.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
            }
            IFLA_STATS64 => link.statistics = statistics(value).unwrap_or_default(),
            _ => {}
        }
    }
    if link.loopback {
        "loopback".clone_into(&mut link.kind);
    }
    Some(link)
}

/// struct rtnl_link_stats64
fn statistics(value: &[u8]) -> Option<Statistics> {
    let count = |index: usize| Some(u64::from_ne_bytes(*value.get(index * 8..)?.first_chunk()?));
    Some(Statistics {
        received_packets: count(0)?,
        sent_packets: count(1)?,
        received_bytes: count(2)?,
        sent_bytes: count(3)?,
        errors: count(4)?.saturating_add(count(5)?),
        dropped: count(6)?.saturating_add(count(7)?),
    })
}

fn address(payload: &[u8]) -> Option<Address> {
    let (family, prefix) = (*payload.first()?, *payload.get(1)?);
    let (mut local, mut peer, mut mark) = (None, None, 0);
    for (kind, value) in attributes(payload.get(ADDRESS_HEADER_BYTES..)?) {
        match kind {
            IFA_LOCAL => local = ip(family, value),
            IFA_ADDRESS => peer = ip(family, value),
            IFA_PROTO => mark = *value.first()?,
            _ => {}
        }
    }
    Some(Address {
        index: u32_at(payload, 4)?,
        // On a point-to-point interface the local address is the own one, and the other the peer's.
        address: IpNet::new(local.or(peer)?, prefix).ok()?,
        mark,
    })
}

fn route(payload: &[u8]) -> Option<Route> {
    let (family, prefix) = (*payload.first()?, *payload.get(1)?);
    let anything = match family {
        AF_INET => IpAddr::from([0; 4]),
        AF_INET6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let (mut destination, mut index, mut gateway, mut metric) = (anything, None, None, 0);
    let mut table = u32::from(*payload.get(4)?);
    for (kind, value) in attributes(payload.get(ROUTE_HEADER_BYTES..)?) {
        match kind {
            RTA_DST => destination = ip(family, value)?,
            RTA_OIF => index = u32_at(value, 0),
            RTA_GATEWAY => gateway = ip(family, value),
            RTA_PRIORITY => metric = u32_at(value, 0)?,
            RTA_TABLE => table = u32_at(value, 0)?,
            _ => {}
        }
    }
    Some(Route {
        table,
        mark: *payload.get(5)?,
        kind: *payload.get(7)?,
        destination: IpNet::new(destination, prefix).ok()?,
        index,
        gateway,
        metric,
        cloned: u32_at(payload, 8)? & RTM_F_CLONED != 0,
    })
}

/// The attributes of a message, as far as they can be read.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let (kind, value) = (u16_at(rest, 2)? & KIND_MASK, rest.get(4..length)?);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn ip(family: u8, value: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => Some(IpAddr::from(<[u8; 4]>::try_from(value).ok()?)),
        AF_INET6 => Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?)),
        _ => None,
    }
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

//! Requests of rtnetlink(7) as bytes.
//!
//! `netlink-packet-route` reads and writes the same, which a test shows; but it does not compile on Windows, and what is
//! rendered here is tested on every system.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{Interface, Owner, Route, RouteKind};

// linux/netlink.h
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NEW: u16 = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL;
const HEADER_BYTES: usize = 16;
const NLA_F_NESTED: u16 = 0x8000;

// linux/rtnetlink.h
pub const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_SETLINK: u16 = 19;
pub const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
pub const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
pub const RT_TABLE_MAIN: u8 = 254;
pub const RT_TABLE_LOCAL: u8 = 255;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RT_SCOPE_HOST: u8 = 254;
pub const RTPROT_KERNEL: u8 = 2;
pub const RTN_UNICAST: u8 = 1;
pub const RTN_LOCAL: u8 = 2;
pub const RTA_DST: u16 = 1;
pub const RTA_OIF: u16 = 4;
pub const RTA_GATEWAY: u16 = 5;
pub const RTA_PRIORITY: u16 = 6;

// linux/if_link.h, linux/if.h
const IFLA_ADDRESS: u16 = 1;
pub const IFLA_IFNAME: u16 = 3;
pub const IFLA_MTU: u16 = 4;
pub const IFLA_LINKINFO: u16 = 18;
pub const IFLA_INFO_KIND: u16 = 1;
pub const IFLA_IFALIAS: u16 = 20;
pub const IFF_UP: u32 = 1;

// linux/if_addr.h
pub const IFA_ADDRESS: u16 = 1;
pub const IFA_LOCAL: u16 = 2;
const IFA_RT_PRIORITY: u16 = 9;
pub const IFA_PROTO: u16 = 11;
/// Nobody else on the link can have the address: it can be used at once.
const IFA_F_NODAD: u8 = 0x2;

// Linux's numbers, which this system's may differ from.
pub const AF_INET: u8 = 2;
pub const AF_INET6: u8 = 10;

/// What can be asked for as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Everything {
    Links = 18,
    Addresses = 22,
    Routes = 26,
}

/// A request. The header's sequence number, and whether an answer is wanted, are filled in when it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: u16, head: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(96);
        bytes.extend([0; 4]);
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(head);
        Self(bytes)
    }

    /// All of a kind (struct rtgenmsg, any family).
    pub fn dump(what: Everything) -> Self {
        // The kernel wants the whole header of the kind where it checks strictly; a longer one is fine everywhere.
        Self::new(what as u16, NLM_F_REQUEST | NLM_F_DUMP, &[0; 16])
    }

    /// Makes a dummy interface, which is down.
    pub fn new_dummy(interface: &Interface) -> Self {
        let mut request = Self::new(RTM_NEWLINK, NEW, &link_head(0, 0, 0));
        request.text(IFLA_IFNAME, interface.name.as_str());
        request.link_kind("dummy");
        request
    }

    /// Whether the kernel makes dummy interfaces, and this process may ask it to. The interface is never made: such an address is none,
    /// which the kernel sees after it has found the driver and before it makes anything (EADDRNOTAVAIL).
    pub fn probe_dummy() -> Self {
        let mut request = Self::new(RTM_NEWLINK, NEW, &link_head(0, 0, 0));
        request.attribute(IFLA_ADDRESS, &[0xff; 6]);
        request.link_kind("dummy");
        request
    }

    /// Marks an interface that was just made as the owner's, and brings it up.
    pub fn mark_up(interface: &Interface, owner: &Owner) -> Self {
        let mut request = Self::new(RTM_SETLINK, NLM_F_REQUEST, &link_head(0, IFF_UP, IFF_UP));
        request.text(IFLA_IFNAME, interface.name.as_str());
        if let Some(mtu) = interface.mtu {
            request.attribute(IFLA_MTU, &mtu.to_ne_bytes());
        }
        request.text(IFLA_IFALIAS, &alias(owner, interface.metric));
        request
    }

    pub fn remove_link(index: u32) -> Self {
        Self::new(RTM_DELLINK, NLM_F_REQUEST, &link_head(index, 0, 0))
    }

    pub fn add_address(index: u32, address: IpNet, metric: Option<u32>, mark: u8) -> Self {
        let mut request = Self::address(RTM_NEWADDR, NEW, index, address);
        if let Some(metric) = metric {
            request.attribute(IFA_RT_PRIORITY, &metric.to_ne_bytes());
        }
        request.attribute(IFA_PROTO, &[mark]);
        request
    }

    pub fn remove_address(index: u32, address: IpNet) -> Self {
        Self::address(RTM_DELADDR, NLM_F_REQUEST, index, address)
    }

    fn address(kind: u16, flags: u16, index: u32, address: IpNet) -> Self {
        // struct ifaddrmsg
        let mut head = [
            family(address.addr()),
            address.prefix_len(),
            IFA_F_NODAD,
            RT_SCOPE_UNIVERSE,
            0,
            0,
            0,
            0,
        ];
        if address.addr().is_ipv4() {
            head[2] = 0;
        }
        head[4..].copy_from_slice(&index.to_ne_bytes());
        let mut request = Self::new(kind, flags, &head);
        request.ip(IFA_LOCAL, address.addr());
        request.ip(IFA_ADDRESS, address.addr());
        request
    }

    pub fn add_route(index: u32, route: &Route, mark: u8) -> Self {
        Self::route(RTM_NEWROUTE, NEW, index, route, mark)
    }

    /// The kernel removes only a route with this mark.
    pub fn remove_route(index: u32, route: &Route, mark: u8) -> Self {
        Self::route(RTM_DELROUTE, NLM_F_REQUEST, index, route, mark)
    }

    fn route(message: u16, flags: u16, index: u32, route: &Route, mark: u8) -> Self {
        let (table, scope, kind) = match route.kind {
            RouteKind::Local => (RT_TABLE_LOCAL, RT_SCOPE_HOST, RTN_LOCAL),
            RouteKind::Unicast => (RT_TABLE_MAIN, RT_SCOPE_LINK, RTN_UNICAST),
        };
        // struct rtmsg
        let destination = route.destination;
        let family = family(destination.addr());
        let head = [
            family,
            destination.prefix_len(),
            0,
            0,
            table,
            mark,
            scope,
            kind,
            0,
            0,
            0,
            0,
        ];
        let mut request = Self::new(message, flags, &head);
        request.ip(RTA_DST, destination.addr());
        request.attribute(RTA_OIF, &index.to_ne_bytes());
        if let Some(metric) = route.metric {
            request.attribute(RTA_PRIORITY, &metric.to_ne_bytes());
        }
        request
    }

    fn ip(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.attribute(kind, &address.octets()),
            IpAddr::V6(address) => self.attribute(kind, &address.octets()),
        }
    }

    /// With the NUL that the kernel expects.
    fn text(&mut self, kind: u16, text: &str) {
        self.attribute(kind, &[text.as_bytes(), &[0]].concat());
    }

    fn link_kind(&mut self, kind: &str) {
        let mut inner = Request(Vec::new());
        inner.text(IFLA_INFO_KIND, kind);
        self.attribute(IFLA_LINKINFO | NLA_F_NESTED, &inner.0);
    }

    /// struct nlattr, its value, and what fills it up to a multiple of four.
    fn attribute(&mut self, kind: u16, value: &[u8]) {
        // Values are names, numbers and addresses.
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// The bytes to send.
    pub fn finish(mut self, sequence: u32, acknowledge: bool) -> Vec<u8> {
        let bytes = &mut self.0;
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if let Some((head, _)) = bytes.split_first_chunk_mut::<HEADER_BYTES>() {
            head[..4].copy_from_slice(&length.to_ne_bytes());
            let mut flags = u16::from_ne_bytes([head[6], head[7]]);
            if acknowledge {
                flags |= NLM_F_ACK;
            }
            head[6..8].copy_from_slice(&flags.to_ne_bytes());
            head[8..12].copy_from_slice(&sequence.to_ne_bytes());
        }
        self.0
    }
}

/// The owner's mark on an interface, with what the machine keeps nowhere else.
pub fn alias(owner: &Owner, metric: Option<u32>) -> String {
    let alias = owner.alias();
    metric.map_or_else(|| alias.clone(), |metric| format!("{alias} metric {metric}"))
}

/// Whether an alias is the owner's, and the metric in it.
pub fn read_alias(owner: &Owner, alias: &str) -> Option<Option<u32>> {
    match alias.strip_prefix(&owner.alias())? {
        "" => Some(None),
        rest => rest.strip_prefix(" metric ")?.parse().ok().map(Some),
    }
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

/// struct ifinfomsg
fn link_head(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut head = [0; 16];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head[12..].copy_from_slice(&change.to_ne_bytes());
    head
}

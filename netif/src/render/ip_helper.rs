//! What Windows' IP helper and Wintun are told, before it is in their structures.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::{Interface, Owner};

/// The interface of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The loopback interface, whose number is 1 on every Windows since 2000.
    Loopback,
    /// An adapter, by its NET_LUID.
    Luid(u64),
}

/// `MIB_UNICASTIPADDRESS_ROW`: an address that can be used at once, since nobody else on such an interface can have it
/// (IpDadStatePreferred).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRow {
    pub place: Place,
    pub address: IpAddr,
    pub on_link_prefix_length: u8,
}

/// `MIB_IPFORWARD_ROW2`: a route on the link itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteRow {
    pub luid: u64,
    pub destination: IpNet,
    /// Unspecified: there is no router.
    pub next_hop: IpAddr,
    /// Added to the interface's own.
    pub metric: u32,
}

/// What changes in the `MIB_IPINTERFACE_ROW` of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceRow {
    pub is_ipv6: bool,
    pub mtu: Option<u32>,
    /// With one of its own, an interface has no automatic one.
    pub metric: Option<u32>,
}

/// The arguments of WintunCreateAdapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter {
    pub name: String,
    pub tunnel_type: String,
    /// Always the same for a name: Windows keeps settings for each identifier that it has seen.
    pub guid: u128,
}

pub fn address(place: Place, address: IpNet) -> AddressRow {
    AddressRow {
        place,
        address: address.addr(),
        on_link_prefix_length: address.prefix_len(),
    }
}

pub fn route(luid: u64, destination: IpNet, metric: Option<u32>) -> RouteRow {
    RouteRow {
        luid,
        destination,
        next_hop: match destination {
            IpNet::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpNet::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        },
        metric: metric.unwrap_or_default(),
    }
}

/// None where the system's settings stay.
pub fn settings(interface: &Interface) -> Vec<InterfaceRow> {
    if interface.mtu.is_none() && interface.metric.is_none() {
        return Vec::new();
    }
    let row = |is_ipv6| InterfaceRow {
        is_ipv6,
        mtu: interface.mtu,
        metric: interface.metric,
    };
    vec![row(false), row(true)]
}

pub fn adapter(owner: &Owner, interface: &Interface) -> Adapter {
    Adapter {
        name: interface.name.to_string(),
        tunnel_type: owner.to_string(),
        guid: guid(&format!("netif {owner} {}", interface.name)),
    }
}

/// A UUID of version 8 (RFC 9562 §5.8): 122 bits of the text's FNV-1a hash.
fn guid(text: &str) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let hash = text
        .bytes()
        .fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME));
    let version_and_variant = (0xf << 76) | (0b11 << 62);
    (hash & !version_and_variant) | (8 << 76) | (0b10 << 62)
}

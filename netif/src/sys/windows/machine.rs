//! Addresses of the loopback interface and of Wintun adapters, routes and settings of those, by the IP helper.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr;

use ipnet::IpNet;
use windows_sys::Win32::Foundation::{ERROR_NOT_FOUND, NO_ERROR};
use windows_sys::Win32::NetworkManagement::IpHelper::{
    CreateIpForwardEntry2, CreateUnicastIpAddressEntry, DeleteIpForwardEntry2, DeleteUnicastIpAddressEntry,
    FreeMibTable, GetIfTable2, GetIpForwardTable2, GetIpInterfaceEntry, GetUnicastIpAddressTable,
    InitializeIpForwardEntry, InitializeIpInterfaceEntry, InitializeUnicastIpAddressEntry, MIB_IF_ROW2,
    MIB_IF_TABLE2, MIB_IPFORWARD_ROW2, MIB_IPFORWARD_TABLE2, MIB_IPINTERFACE_ROW, MIB_UNICASTIPADDRESS_ROW,
    MIB_UNICASTIPADDRESS_TABLE, SetIpInterfaceEntry,
};
use windows_sys::Win32::NetworkManagement::Ndis::{IfOperStatusUp, NET_LUID_LH};
use windows_sys::Win32::Networking::WinSock::{
    AF_INET, AF_INET6, AF_UNSPEC, IpDadStatePreferred, SOCKADDR_INET,
};

use super::policies::Policies;
use super::wintun::{self, Tunnel};
use crate::aliases::{Aliases, OnTunnel, Rules, System, Tunnels};
use crate::backend::TunHandle;
use crate::observed::{Observed, Seen, SeenAddress, SeenRoute, Statistics};
use crate::render::ip_helper::{self, AddressRow, InterfaceRow, Place, RouteRow};
use crate::{Error, Interface, Owner, RouteKind};

const LOOPBACK_INDEX: u32 = 1;

/// A Windows machine's network.
pub(crate) type Machine = Aliases<Windows>;

#[derive(Debug)]
pub(crate) struct Windows {
    owner: Owner,
    policies: Policies,
}

impl Machine {
    #[expect(clippy::unnecessary_wraps, reason = "elsewhere it is a call that may fail")]
    pub(crate) fn open(owner: Owner) -> Result<Self, Error> {
        let system = Windows {
            owner: owner.clone(),
            policies: Policies::new(),
        };
        Ok(Aliases::new(owner, system))
    }
}

impl System for Windows {
    type Tunnel = Tunnel;

    fn observe(&mut self) -> io::Result<Observed> {
        let interfaces = interfaces()?;
        // One that came meanwhile has only a number yet.
        let name = |index: u32| {
            let named = interfaces.iter().find(|seen| seen.index == index);
            named.map_or_else(|| index.to_string(), |seen| seen.name.clone())
        };
        let address = |(index, address): (u32, IpNet)| SeenAddress {
            interface: name(index),
            address,
            ours: false,
        };
        Ok(Observed {
            addresses: addresses()?.into_iter().map(address).collect(),
            routes: routes(name)?,
            interfaces,
            ..Observed::default()
        })
    }

    fn addresses(&mut self) -> io::Result<Vec<IpNet>> {
        let here = addresses()?
            .into_iter()
            .filter(|(interface, _)| *interface == LOOPBACK_INDEX);
        Ok(here.map(|(_, address)| address).collect())
    }

    fn add(&mut self, address: IpNet) -> io::Result<()> {
        add_address(ip_helper::address(Place::Loopback, address))
    }

    fn remove(&mut self, address: IpNet) -> io::Result<()> {
        remove_address(ip_helper::address(Place::Loopback, address))
    }

    fn rules(&mut self) -> Result<&mut dyn Rules, &'static str> {
        if self.policies.are_a_group_policys() {
            return Err("a group policy has name resolution rules, and Windows ignores all others");
        }
        Ok(&mut self.policies)
    }

    fn whole_127(&self) -> bool {
        true
    }

    fn tunnels(&mut self) -> Result<&mut dyn Tunnels<Tunnel = Tunnel>, String> {
        wintun::found()?;
        Ok(self)
    }
}

impl Tunnels for Windows {
    type Tunnel = Tunnel;

    fn is_local(&self) -> bool {
        true
    }

    fn metrics(&self) -> bool {
        true
    }

    fn create(&mut self, interface: &Interface) -> io::Result<Tunnel> {
        // One whose settings cannot be had is gone again.
        let tunnel = Tunnel::create(&ip_helper::adapter(&self.owner, interface))?;
        for settings in ip_helper::settings(interface) {
            set(tunnel.luid, settings)?;
        }
        Ok(tunnel)
    }

    fn name(&self, tunnel: &Tunnel) -> String {
        tunnel.name.clone()
    }

    fn add(&mut self, tunnel: &Tunnel, what: &OnTunnel) -> io::Result<()> {
        match what {
            OnTunnel::Address(address) => add_address(ip_helper::address(Place::Luid(tunnel.luid), *address)),
            OnTunnel::Route { destination, metric } => {
                let row = forward_row(ip_helper::route(tunnel.luid, *destination, *metric));
                // SAFETY: the row is initialized and lives through the call, which only reads it.
                succeeded(unsafe { CreateIpForwardEntry2(&raw const row) })
            }
        }
    }

    fn remove(&mut self, tunnel: &Tunnel, what: &OnTunnel) -> io::Result<()> {
        match what {
            OnTunnel::Address(address) => {
                remove_address(ip_helper::address(Place::Luid(tunnel.luid), *address))
            }
            OnTunnel::Route { destination, metric } => {
                let row = forward_row(ip_helper::route(tunnel.luid, *destination, *metric));
                // SAFETY: as above.
                gone(unsafe { DeleteIpForwardEntry2(&raw const row) })
            }
        }
    }

    /// The adapter is removed when nobody holds it.
    fn close(&mut self, tunnel: Tunnel) -> io::Result<()> {
        drop(tunnel);
        Ok(())
    }

    /// Packets are read by calls of the library, in the process that made the adapter.
    fn handle(&mut self, _: &Tunnel) -> io::Result<TunHandle> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn add_address(wanted: AddressRow) -> io::Result<()> {
    let row = address_row(wanted);
    // SAFETY: the row is initialized and lives through the call, which only reads it.
    succeeded(unsafe { CreateUnicastIpAddressEntry(&raw const row) })
}

fn remove_address(wanted: AddressRow) -> io::Result<()> {
    let row = address_row(wanted);
    // SAFETY: as above.
    gone(unsafe { DeleteUnicastIpAddressEntry(&raw const row) })
}

fn address_row(wanted: AddressRow) -> MIB_UNICASTIPADDRESS_ROW {
    let mut row = MIB_UNICASTIPADDRESS_ROW::default();
    // SAFETY: the row is writable and has the type that the call fills in.
    unsafe { InitializeUnicastIpAddressEntry(&raw mut row) };
    match wanted.place {
        Place::Loopback => row.InterfaceIndex = LOOPBACK_INDEX,
        Place::Luid(value) => row.InterfaceLuid = NET_LUID_LH { Value: value },
    }
    row.OnLinkPrefixLength = wanted.on_link_prefix_length;
    row.DadState = IpDadStatePreferred;
    row.Address = socket(wanted.address);
    row
}

fn forward_row(wanted: RouteRow) -> MIB_IPFORWARD_ROW2 {
    let mut row = MIB_IPFORWARD_ROW2::default();
    // SAFETY: the row is writable and has the type that the call fills in.
    unsafe { InitializeIpForwardEntry(&raw mut row) };
    row.InterfaceLuid = NET_LUID_LH { Value: wanted.luid };
    row.DestinationPrefix.Prefix = socket(wanted.destination.addr());
    row.DestinationPrefix.PrefixLength = wanted.destination.prefix_len();
    row.NextHop = socket(wanted.next_hop);
    row.Metric = wanted.metric;
    row
}

/// A machine without one of the families has no such row, and nothing to set.
fn set(luid: u64, wanted: InterfaceRow) -> io::Result<()> {
    let mut row = MIB_IPINTERFACE_ROW::default();
    // SAFETY: the row is writable and has the type that the call fills in.
    unsafe { InitializeIpInterfaceEntry(&raw mut row) };
    row.Family = if wanted.is_ipv6 { AF_INET6 } else { AF_INET };
    row.InterfaceLuid = NET_LUID_LH { Value: luid };
    // SAFETY: the row names its family and interface, and is writable.
    match unsafe { GetIpInterfaceEntry(&raw mut row) } {
        ERROR_NOT_FOUND => return Ok(()),
        code => succeeded(code)?,
    }
    if let Some(mtu) = wanted.mtu {
        row.NlMtu = mtu;
    }
    if let Some(metric) = wanted.metric {
        row.UseAutomaticMetric = false;
        row.Metric = metric;
    }
    // What IPv4's has there when it is read cannot be set (SetIpInterfaceEntry's documentation).
    row.SitePrefixLength = 0;
    // SAFETY: the row is the system's own but for the values above, and lives through the call.
    succeeded(unsafe { SetIpInterfaceEntry(&raw mut row) })
}

fn socket(address: IpAddr) -> SOCKADDR_INET {
    let mut socket = SOCKADDR_INET::default();
    match address {
        IpAddr::V4(address) => {
            socket.Ipv4.sin_family = AF_INET;
            socket.Ipv4.sin_addr.S_un.S_addr = u32::from_ne_bytes(address.octets());
        }
        IpAddr::V6(address) => {
            socket.Ipv6.sin6_family = AF_INET6;
            socket.Ipv6.sin6_addr.u.Byte = address.octets();
        }
    }
    socket
}

/// IF_TYPE_PROP_VIRTUAL of ipifcons.h, which the adapters of Wintun and of other tunnels have.
const VIRTUAL: u32 = 53;

/// All interfaces, by their numbers.
fn interfaces() -> io::Result<Vec<Seen>> {
    let mut all = table(
        // SAFETY: the call puts a table of its own at the place that it is given.
        |place| unsafe { GetIfTable2(place) },
        |table: *const MIB_IF_TABLE2| {
            // SAFETY: `table` is one.
            let count = unsafe { (*table).NumEntries };
            // SAFETY: as above.
            (count, unsafe { &raw const (*table).Table }.cast())
        },
        |row: &MIB_IF_ROW2| {
            let end = row.Alias.iter().position(|unit| *unit == 0);
            let name = row.Alias.get(..end.unwrap_or(row.Alias.len()));
            Some(Seen {
                name: String::from_utf16_lossy(name.unwrap_or_default()),
                index: row.InterfaceIndex,
                kind: match row.Type {
                    kind if u64::from(kind) == super::LOOPBACK => "loopback",
                    VIRTUAL => "tun",
                    _ => "",
                }
                .to_owned(),
                ours: false,
                up: row.OperStatus == IfOperStatusUp,
                mtu: row.Mtu,
                alias: None,
                statistics: Statistics {
                    received_packets: row.InUcastPkts.saturating_add(row.InNUcastPkts),
                    received_bytes: row.InOctets,
                    sent_packets: row.OutUcastPkts.saturating_add(row.OutNUcastPkts),
                    sent_bytes: row.OutOctets,
                    errors: row.InErrors.saturating_add(row.OutErrors),
                    dropped: row.InDiscards.saturating_add(row.OutDiscards),
                },
            })
        },
    )?;
    all.sort_by_key(|seen| seen.index);
    Ok(all)
}

/// All routes but those of single addresses, broadcasts and groups.
fn routes(name: impl Fn(u32) -> String) -> io::Result<Vec<SeenRoute>> {
    table(
        // SAFETY: the call puts a table of its own at the place that it is given.
        |place| unsafe { GetIpForwardTable2(AF_UNSPEC, place) },
        |table: *const MIB_IPFORWARD_TABLE2| {
            // SAFETY: `table` is one.
            let count = unsafe { (*table).NumEntries };
            // SAFETY: as above.
            (count, unsafe { &raw const (*table).Table }.cast())
        },
        |row: &MIB_IPFORWARD_ROW2| {
            let to = &row.DestinationPrefix;
            let destination = IpNet::new(ip(&to.Prefix)?, to.PrefixLength).ok()?;
            let gateway = ip(&row.NextHop).filter(|gateway| !gateway.is_unspecified());
            let is_host = destination.prefix_len() == destination.max_prefix_len();
            if destination.addr().is_multicast() || (is_host && gateway.is_none()) {
                return None;
            }
            Some(SeenRoute {
                destination,
                interface: name(row.InterfaceIndex),
                gateway,
                kind: RouteKind::Unicast,
                metric: row.Metric,
                ours: false,
            })
        },
    )
}

/// All addresses, each with the number of its interface.
fn addresses() -> io::Result<Vec<(u32, IpNet)>> {
    table(
        // SAFETY: the call puts a table of its own at the place that it is given.
        |place| unsafe { GetUnicastIpAddressTable(AF_UNSPEC, place) },
        |table: *const MIB_UNICASTIPADDRESS_TABLE| {
            // SAFETY: `table` is one.
            let count = unsafe { (*table).NumEntries };
            // SAFETY: as above.
            (count, unsafe { &raw const (*table).Table }.cast())
        },
        |row: &MIB_UNICASTIPADDRESS_ROW| {
            let address = IpNet::new(ip(&row.Address)?, row.OnLinkPrefixLength).ok()?;
            Some((row.InterfaceIndex, address))
        },
    )
}

/// What is seen in the rows of a table: `fetch` has the system make it, and `rows` says how many there are, and where.
fn table<Table, Row, T>(
    fetch: impl FnOnce(*mut *mut Table) -> u32,
    rows: impl FnOnce(*const Table) -> (u32, *const Row),
    see: impl Fn(&Row) -> Option<T>,
) -> io::Result<Vec<T>> {
    let mut table: *mut Table = ptr::null_mut();
    succeeded(fetch(&raw mut table))?;
    let (count, first) = rows(table);
    // SAFETY: the call succeeded, so that this is a table with so many rows from there on, which stays until it is freed.
    let rows = unsafe { std::slice::from_raw_parts(first, usize::try_from(count).unwrap_or_default()) };
    let seen = rows.iter().filter_map(see).collect();
    // SAFETY: the table is the system's, is freed once, and nothing of it is used afterwards.
    unsafe { FreeMibTable(table.cast()) };
    Ok(seen)
}

fn ip(socket: &SOCKADDR_INET) -> Option<IpAddr> {
    // SAFETY: every member of the union begins with the family.
    match unsafe { socket.si_family } {
        AF_INET => {
            // SAFETY: the family says that it is this member.
            let v4 = unsafe { socket.Ipv4 };
            // SAFETY: every member of this union is four bytes.
            Some(Ipv4Addr::from(unsafe { v4.sin_addr.S_un.S_addr }.to_ne_bytes()).into())
        }
        AF_INET6 => {
            // SAFETY: the family says that it is this member.
            let v6 = unsafe { socket.Ipv6 };
            // SAFETY: every member of this union is sixteen bytes.
            Some(Ipv6Addr::from(unsafe { v6.sin6_addr.u.Byte }).into())
        }
        _ => None,
    }
}

fn succeeded(code: u32) -> io::Result<()> {
    match code {
        NO_ERROR => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.cast_signed())),
    }
}

/// What is not there needs not be removed.
fn gone(code: u32) -> io::Result<()> {
    match code {
        ERROR_NOT_FOUND => Ok(()),
        code => succeeded(code),
    }
}

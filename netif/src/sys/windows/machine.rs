//! Addresses of the loopback interface, by the IP helper.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr;

use ipnet::IpNet;
use windows_sys::Win32::Foundation::{ERROR_NOT_FOUND, NO_ERROR};
use windows_sys::Win32::NetworkManagement::IpHelper::{
    CreateUnicastIpAddressEntry, DeleteUnicastIpAddressEntry, FreeMibTable, GetUnicastIpAddressTable,
    InitializeUnicastIpAddressEntry, MIB_UNICASTIPADDRESS_ROW, MIB_UNICASTIPADDRESS_TABLE,
};
use windows_sys::Win32::Networking::WinSock::{
    AF_INET, AF_INET6, AF_UNSPEC, IpDadStatePreferred, SOCKADDR_INET,
};

use super::policies::Policies;
use crate::aliases::{Aliases, Rules, System};
use crate::observed::{Observed, SeenAddress};
use crate::{Error, Owner};

/// The number of the loopback interface, on every Windows since 2000.
const LOOPBACK_INDEX: u32 = 1;

/// A Windows machine's network.
pub(crate) type Machine = Aliases<Windows>;

#[derive(Debug)]
pub(crate) struct Windows {
    policies: Policies,
}

impl Machine {
    #[expect(clippy::unnecessary_wraps, reason = "elsewhere it is a call that may fail")]
    pub(crate) fn open(owner: Owner) -> Result<Self, Error> {
        Ok(Aliases::new(
            owner,
            Windows {
                policies: Policies::new(),
            },
        ))
    }
}

impl System for Windows {
    fn observe(&mut self) -> io::Result<Observed> {
        let seen = |(interface, address): (u32, IpNet)| SeenAddress {
            interface: if interface == LOOPBACK_INDEX {
                "loopback".to_owned()
            } else {
                interface.to_string()
            },
            address,
            ours: false,
        };
        Ok(Observed {
            addresses: table()?.into_iter().map(seen).collect(),
            ..Observed::default()
        })
    }

    fn addresses(&mut self) -> io::Result<Vec<IpNet>> {
        let here = table()?
            .into_iter()
            .filter(|(interface, _)| *interface == LOOPBACK_INDEX);
        Ok(here.map(|(_, address)| address).collect())
    }

    fn add(&mut self, address: IpNet) -> io::Result<()> {
        let row = row(address);
        // SAFETY: the row is initialized and lives through the call, which only reads it.
        succeeded(unsafe { CreateUnicastIpAddressEntry(&raw const row) })
    }

    fn remove(&mut self, address: IpNet) -> io::Result<()> {
        let row = row(address);
        // SAFETY: as above.
        match unsafe { DeleteUnicastIpAddressEntry(&raw const row) } {
            ERROR_NOT_FOUND => Ok(()),
            code => succeeded(code),
        }
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
}

fn row(address: IpNet) -> MIB_UNICASTIPADDRESS_ROW {
    let mut row = MIB_UNICASTIPADDRESS_ROW::default();
    // SAFETY: the row is writable and has the type that the call fills in.
    unsafe { InitializeUnicastIpAddressEntry(&raw mut row) };
    row.InterfaceIndex = LOOPBACK_INDEX;
    row.OnLinkPrefixLength = address.prefix_len();
    // It can be used at once: nobody else on loopback can have it.
    row.DadState = IpDadStatePreferred;
    let mut socket = SOCKADDR_INET::default();
    match address.addr() {
        IpAddr::V4(address) => {
            socket.Ipv4.sin_family = AF_INET;
            socket.Ipv4.sin_addr.S_un.S_addr = u32::from_ne_bytes(address.octets());
        }
        IpAddr::V6(address) => {
            socket.Ipv6.sin6_family = AF_INET6;
            socket.Ipv6.sin6_addr.u.Byte = address.octets();
        }
    }
    row.Address = socket;
    row
}

/// All addresses, each with the number of its interface.
fn table() -> io::Result<Vec<(u32, IpNet)>> {
    let mut table: *mut MIB_UNICASTIPADDRESS_TABLE = ptr::null_mut();
    // SAFETY: the call puts a table of its own into `table`, which is freed below.
    succeeded(unsafe { GetUnicastIpAddressTable(AF_UNSPEC, &raw mut table) })?;
    // SAFETY: the call succeeded, so that `table` is a table, which stays until it is freed.
    let count = unsafe { (*table).NumEntries };
    // SAFETY: as above; its rows begin at this field, of which the type names only the first.
    let first = unsafe { (&raw const (*table).Table).cast::<MIB_UNICASTIPADDRESS_ROW>() };
    // SAFETY: the table has `count` rows from there on.
    let rows = unsafe { std::slice::from_raw_parts(first, usize::try_from(count).unwrap_or_default()) };
    let all = rows
        .iter()
        .filter_map(|row| Some((row.InterfaceIndex, network(row)?)))
        .collect();
    // SAFETY: the table is the system's, is freed once, and nothing of it is used afterwards.
    unsafe { FreeMibTable(table.cast()) };
    Ok(all)
}

fn network(row: &MIB_UNICASTIPADDRESS_ROW) -> Option<IpNet> {
    // SAFETY: every member of the union begins with the family.
    let family = unsafe { row.Address.si_family };
    let address = match family {
        AF_INET => {
            // SAFETY: the family says that it is this member.
            let v4 = unsafe { row.Address.Ipv4 };
            // SAFETY: every member of this union is four bytes.
            IpAddr::from(Ipv4Addr::from(unsafe { v4.sin_addr.S_un.S_addr }.to_ne_bytes()))
        }
        AF_INET6 => {
            // SAFETY: the family says that it is this member.
            let v6 = unsafe { row.Address.Ipv6 };
            // SAFETY: every member of this union is sixteen bytes.
            IpAddr::from(Ipv6Addr::from(unsafe { v6.sin6_addr.u.Byte }))
        }
        _ => return None,
    };
    IpNet::new(address, row.OnLinkPrefixLength).ok()
}

fn succeeded(code: u32) -> io::Result<()> {
    match code {
        NO_ERROR => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.cast_signed())),
    }
}

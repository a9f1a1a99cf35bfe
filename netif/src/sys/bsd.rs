//! What macOS and FreeBSD do for us: getifaddrs(3), programs, and on macOS the sockets that utun interfaces are.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::process::{Command, Output, Stdio};

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};

use super::utun::{self, Utun};
use crate::aliases::Aliases;
use crate::backend::TunHandle;
use crate::bsd::{Bsd, Os};
use crate::observed::{Listener, Observed, Seen, SeenAddress, Statistics};
use crate::parse::lsof;
use crate::render::ifconfig::{self, CommandLine};
use crate::{Error, Owner};

/// Such a machine's network.
pub(crate) type Machine = Aliases<Bsd<System>>;

#[derive(Debug)]
pub(crate) struct System;

impl Machine {
    #[expect(clippy::unnecessary_wraps, reason = "elsewhere it is a call that may fail")]
    pub(crate) fn open(owner: Owner) -> Result<Self, Error> {
        Ok(if cfg!(target_os = "macos") {
            crate::bsd::macos(owner, System, "/etc/resolver".as_ref())
        } else {
            crate::bsd::freebsd(owner, System)
        })
    }
}

impl Os for System {
    type Utun = Utun;

    fn observe(&mut self) -> io::Result<Observed> {
        let mut interfaces = BTreeMap::new();
        let mut addresses = Vec::new();
        for seen in getifaddrs()? {
            let name = seen.interface_name;
            if let Some(address) = network(seen.address.as_ref(), seen.netmask.as_ref()) {
                addresses.push(SeenAddress {
                    interface: name.clone(),
                    address,
                    ours: false,
                });
            }
            interfaces.entry(name).or_insert(seen.flags);
        }
        let interface = |(name, flags): (String, InterfaceFlags)| Seen {
            index: if_nametoindex(name.as_str()).unwrap_or_default(),
            kind: if flags.contains(InterfaceFlags::IFF_LOOPBACK) {
                "loopback".to_owned()
            } else {
                String::new()
            },
            ours: false,
            up: flags.contains(InterfaceFlags::IFF_UP),
            mtu: 0,
            alias: None,
            statistics: Statistics::default(),
            name,
        };
        let mut interfaces: Vec<_> = interfaces.into_iter().map(interface).collect();
        interfaces.sort_by_key(|interface| interface.index);
        Ok(Observed {
            interfaces,
            addresses,
            ..Observed::default()
        })
    }

    fn answer(&mut self, line: &CommandLine) -> io::Result<String> {
        // lsof(8) fails where it found less than all that it was asked for, and says what it found.
        Ok(String::from_utf8_lossy(&output(line)?.stdout).into_owned())
    }

    fn run(&mut self, line: &CommandLine) -> io::Result<()> {
        let output = output(line)?;
        let told = String::from_utf8_lossy(&output.stderr);
        if line.has_failed(output.status.success(), &told) {
            let told = told.lines().next().unwrap_or_default();
            return Err(io::Error::other(format!("{line}: {told}")));
        }
        Ok(())
    }

    fn utun(&mut self) -> io::Result<Utun> {
        utun::create()
    }

    fn name<'a>(&self, utun: &'a Utun) -> &'a str {
        utun.name()
    }

    fn handle(&mut self, utun: &Utun) -> io::Result<TunHandle> {
        utun.handle()
    }
}

/// Sockets and their programs come together; FreeBSD is not asked for them.
pub(crate) fn listeners(_with_programs: bool) -> Vec<Listener> {
    if !cfg!(target_os = "macos") {
        return Vec::new();
    }
    let answer = System.answer(&ifconfig::sockets());
    lsof::listeners(&answer.unwrap_or_default())
}

fn output(line: &CommandLine) -> io::Result<Output> {
    Command::new(line.program)
        .args(&line.words)
        .env_clear()
        .stdin(Stdio::null())
        .output()
}

fn network(
    address: Option<&nix::sys::socket::SockaddrStorage>,
    mask: Option<&nix::sys::socket::SockaddrStorage>,
) -> Option<IpNet> {
    let address = ip(address?)?;
    match mask.and_then(ip) {
        Some(mask) => IpNet::with_netmask(address, mask).ok(),
        None => Some(address.into()),
    }
}

fn ip(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Some(v4.ip().into()),
        (_, Some(v6)) => Some(v6.ip().into()),
        _ => None,
    }
}

//! macOS and FreeBSD: aliases of `lo0` by ifconfig(8), and on macOS resolver rules in `/etc/resolver`.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};

use crate::aliases::{Aliases, Rules, System};
use crate::observed::{Observed, Seen, SeenAddress, Statistics};
use crate::render::ifconfig;
use crate::resolver_files::ResolverFiles;
use crate::{Error, Owner};

/// Root's programs are not looked for in a `PATH`.
const IFCONFIG: &str = "/sbin/ifconfig";

const LOOPBACK: &str = "lo0";

/// Such a machine's network.
pub(crate) type Machine = Aliases<Bsd>;

#[derive(Debug)]
pub(crate) struct Bsd {
    rules: Option<ResolverFiles>,
}

impl Machine {
    #[expect(clippy::unnecessary_wraps, reason = "elsewhere it is a call that may fail")]
    pub(crate) fn open(owner: Owner) -> Result<Self, Error> {
        let folder = std::path::Path::new("/etc/resolver");
        let rules = cfg!(target_os = "macos").then(|| ResolverFiles::in_folder(folder));
        Ok(Aliases::new(owner, Bsd { rules }))
    }
}

impl System for Bsd {
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

    fn addresses(&mut self) -> io::Result<Vec<IpNet>> {
        let all = getifaddrs()?.filter(|seen| seen.interface_name == LOOPBACK);
        Ok(all
            .filter_map(|seen| network(seen.address.as_ref(), seen.netmask.as_ref()))
            .collect())
    }

    fn add(&mut self, address: IpNet) -> io::Result<()> {
        run(&ifconfig::add(address))
    }

    fn remove(&mut self, address: IpNet) -> io::Result<()> {
        run(&ifconfig::remove(address))
    }

    fn rules(&mut self) -> Result<&mut dyn Rules, &'static str> {
        let rules = self.rules.as_mut().map(|rules| rules as &mut dyn Rules);
        rules.ok_or("this system keeps no servers for single suffixes")
    }

    fn whole_127(&self) -> bool {
        false
    }
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

fn run(words: &[String]) -> io::Result<()> {
    let output = Command::new(IFCONFIG)
        .args(words)
        .env_clear()
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    let told = told.lines().next().unwrap_or_default();
    Err(io::Error::other(format!(
        "{IFCONFIG} {}: {told}",
        words.join(" ")
    )))
}

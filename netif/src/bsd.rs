//! macOS and FreeBSD: aliases of `lo0` by ifconfig(8), on macOS resolver rules in `/etc/resolver` and utun interfaces. Which programs
//! are run, with which words, is decided here on every system; `sys` runs them.

mod rehearsal;

use std::io;
use std::path::Path;

use ipnet::IpNet;

use crate::aliases::{Aliases, OnTunnel, Rules, System, Tunnels};
use crate::backend::TunHandle;
use crate::observed::Observed;
use crate::parse::{netstat, scutil};
use crate::render::ifconfig::{self, CommandLine, LOOPBACK};
use crate::resolver_files::ResolverFiles;
use crate::{Interface, Owner};
pub use rehearsal::{Rehearsal, RehearsedUtun};

/// What such a system does for us.
pub trait Os: Send {
    /// What keeps a utun.
    type Utun: Send + std::fmt::Debug;

    /// Its interfaces with their addresses.
    fn observe(&mut self) -> io::Result<Observed>;
    /// What a program prints that only asks.
    fn answer(&mut self, line: &CommandLine) -> io::Result<String>;
    /// Runs a program to its end.
    fn run(&mut self, line: &CommandLine) -> io::Result<()>;
    /// Makes a utun, whose number the system chooses.
    fn utun(&mut self) -> io::Result<Self::Utun>;
    /// What the system calls it.
    fn name<'a>(&self, utun: &'a Self::Utun) -> &'a str;
    fn handle(&mut self, utun: &Self::Utun) -> io::Result<TunHandle>;
}

/// Such a machine's network.
#[derive(Debug)]
pub struct Bsd<O> {
    os: O,
    rules: Option<ResolverFiles>,
    has_utun: bool,
}

/// A Mac's network, with its resolver rules in this folder.
pub fn macos<O: Os>(owner: Owner, os: O, resolvers: &Path) -> Aliases<Bsd<O>> {
    let rules = Some(ResolverFiles::in_folder(resolvers));
    Aliases::new(
        owner,
        Bsd {
            os,
            rules,
            has_utun: true,
        },
    )
}

/// A FreeBSD machine's network.
pub fn freebsd<O: Os>(owner: Owner, os: O) -> Aliases<Bsd<O>> {
    Aliases::new(
        owner,
        Bsd {
            os,
            rules: None,
            has_utun: false,
        },
    )
}

impl<O: Os> System for Bsd<O> {
    type Tunnel = O::Utun;

    /// What a program cannot tell is not seen.
    fn observe(&mut self) -> io::Result<Observed> {
        let mut observed = self.os.observe()?;
        let mut ask = |line| self.os.answer(&line).unwrap_or_default();
        observed.routes = netstat::routes(&ask(ifconfig::routes()));
        if self.rules.is_some() {
            observed.resolvers = scutil::rules(&ask(ifconfig::resolvers()));
        }
        Ok(observed)
    }

    fn addresses(&mut self) -> io::Result<Vec<IpNet>> {
        let all = self.os.observe()?.addresses.into_iter();
        Ok(all
            .filter(|seen| seen.interface == LOOPBACK)
            .map(|seen| seen.address)
            .collect())
    }

    fn add(&mut self, address: IpNet) -> io::Result<()> {
        self.os.run(&ifconfig::add(address))
    }

    fn remove(&mut self, address: IpNet) -> io::Result<()> {
        self.os.run(&ifconfig::remove(LOOPBACK, address))
    }

    fn rules(&mut self) -> Result<&mut dyn Rules, &'static str> {
        let rules = self.rules.as_mut().map(|rules| rules as &mut dyn Rules);
        rules.ok_or("this system keeps no servers for single suffixes")
    }

    /// lo0 has 127.0.0.1 alone.
    fn whole_127(&self) -> bool {
        false
    }

    fn tunnels(&mut self) -> Result<&mut dyn Tunnels<Tunnel = O::Utun>, String> {
        if self.has_utun {
            return Ok(self);
        }
        Err("netif makes no TUN interfaces on this system".to_owned())
    }
}

impl<O: Os> Tunnels for Bsd<O> {
    type Tunnel = O::Utun;

    /// What is sent to an address of a utun goes out by it.
    fn is_local(&self) -> bool {
        false
    }

    fn metrics(&self) -> bool {
        false
    }

    fn create(&mut self, interface: &Interface) -> io::Result<O::Utun> {
        let utun = self.os.utun()?;
        // One that cannot be brought up is gone with its socket.
        self.os.run(&ifconfig::up(self.os.name(&utun), interface))?;
        Ok(utun)
    }

    fn name(&self, utun: &O::Utun) -> String {
        self.os.name(utun).to_owned()
    }

    fn add(&mut self, utun: &O::Utun, what: &OnTunnel) -> io::Result<()> {
        let name = self.os.name(utun);
        self.os.run(&match what {
            OnTunnel::Address(address) => ifconfig::add_to_utun(name, *address),
            OnTunnel::Route { destination, .. } => ifconfig::add_route(name, *destination),
        })
    }

    fn remove(&mut self, utun: &O::Utun, what: &OnTunnel) -> io::Result<()> {
        let name = self.os.name(utun);
        self.os.run(&match what {
            OnTunnel::Address(address) => ifconfig::remove(name, *address),
            OnTunnel::Route { destination, .. } => ifconfig::remove_route(name, *destination),
        })
    }

    fn close(&mut self, utun: O::Utun) -> io::Result<()> {
        self.os.run(&ifconfig::down(self.os.name(&utun)))
    }

    fn handle(&mut self, utun: &O::Utun) -> io::Result<TunHandle> {
        self.os.handle(utun)
    }
}

#[cfg(test)]
mod tests;

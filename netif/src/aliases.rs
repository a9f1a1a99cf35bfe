//! Systems where addresses are aliases of the loopback interface, resolver rules are files or registry values, and interfaces are
//! only those whose packets a program reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::backend::{Applied, Backend, Capabilities, ChangeError, Found, Support, TunHandle, Undone};
use crate::observed::{Observed, SeenResolver};
use crate::{
    Change, Device, Error, Interface, InterfaceName, Kind, Owner, ResolverRule, Route, RouteKind, Suffix,
};

/// What such a system does for us.
pub trait System: Send {
    /// What keeps a TUN interface.
    type Tunnel: Send + fmt::Debug;

    /// Its interfaces with their addresses.
    fn observe(&mut self) -> io::Result<Observed>;
    /// The addresses of its loopback interface.
    fn addresses(&mut self) -> io::Result<Vec<IpNet>>;
    fn add(&mut self, address: IpNet) -> io::Result<()>;
    fn remove(&mut self, address: IpNet) -> io::Result<()>;
    /// Where it keeps resolver rules, or why it has none.
    fn rules(&mut self) -> Result<&mut dyn Rules, &'static str>;
    /// Whether every address of 127.0.0.0/8 can be bound as it is.
    fn whole_127(&self) -> bool;
    /// How it makes TUN interfaces, or why it has none.
    fn tunnels(&mut self) -> Result<&mut dyn Tunnels<Tunnel = Self::Tunnel>, String>;
}

/// TUN interfaces: each is gone when nobody has a handle of it, and only the process that made it knows it.
pub trait Tunnels {
    /// What keeps one.
    type Tunnel;

    /// Whether packets to its addresses stay on this machine.
    fn is_local(&self) -> bool;
    /// Whether interfaces and routes have a metric.
    fn metrics(&self) -> bool;
    /// Makes one and brings it up.
    fn create(&mut self, interface: &Interface) -> io::Result<Self::Tunnel>;
    /// What the system calls it.
    fn name(&self, tunnel: &Self::Tunnel) -> String;
    fn add(&mut self, tunnel: &Self::Tunnel, what: &OnTunnel) -> io::Result<()>;
    fn remove(&mut self, tunnel: &Self::Tunnel, what: &OnTunnel) -> io::Result<()>;
    /// Gives it up. Where somebody else has a handle of it, it carries nothing any more.
    fn close(&mut self, tunnel: Self::Tunnel) -> io::Result<()>;
    /// Another handle, [`io::ErrorKind::Unsupported`] where none can be passed on.
    fn handle(&mut self, tunnel: &Self::Tunnel) -> io::Result<TunHandle>;
}

/// What a TUN interface can have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum OnTunnel {
    Address(IpNet),
    /// A route that leaves by it.
    Route {
        destination: IpNet,
        metric: Option<u32>,
    },
}

/// Rules for one suffix each, kept by the system.
pub trait Rules {
    /// Whether their servers may have another port than 53.
    fn ports(&self) -> bool;
    /// The place of a suffix, and what is there.
    fn read(&mut self, owner: &Owner, suffix: &Suffix) -> io::Result<Place>;
    fn write(&mut self, owner: &Owner, suffix: &Suffix, rule: &ResolverRule) -> io::Result<()>;
    fn remove(&mut self, owner: &Owner, suffix: &Suffix) -> io::Result<()>;
    /// All rules, whoever made them.
    fn list(&mut self, owner: &Owner) -> io::Result<Vec<SeenResolver>>;
    /// Whether what is written for a suffix is this rule.
    fn is(&self, owner: &Owner, suffix: &Suffix, rule: &ResolverRule, written: &str) -> bool;
}

/// What is at the place of a suffix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Empty,
    /// Written by this owner, or by another; as text.
    Written {
        ours: bool,
        text: String,
    },
}

/// Such a machine's network.
///
/// An address there bears no mark. Whoever asks to undo one is taken to have written down that it was absent before.
#[derive(Debug)]
pub struct Aliases<S: System> {
    owner: Owner,
    system: S,
    tunnels: BTreeMap<InterfaceName, Made<S::Tunnel>>,
}

/// A TUN interface of this process.
#[derive(Debug)]
struct Made<T> {
    interface: Interface,
    tunnel: T,
    /// What was put on it, in that order.
    has: Vec<OnTunnel>,
}

/// What a change comes to on such a system.
enum Part<'a> {
    Alias(IpNet),
    Rule(&'a ResolverRule),
    Tunnel(&'a Interface),
    On(&'a InterfaceName, OnTunnel),
}

impl<'a> Part<'a> {
    /// `None` for a kind of change that no such system has.
    fn of(change: &'a Change) -> Option<Self> {
        match change {
            Change::Address {
                device: Device::Loopback,
                address,
            } => Some(Part::Alias(*address)),
            Change::Address {
                device: Device::Interface(name),
                address,
            } => Some(Part::On(name, OnTunnel::Address(*address))),
            Change::Resolver(rule) => Some(Part::Rule(rule)),
            Change::Interface(interface) => (interface.kind == Kind::Tun).then_some(Part::Tunnel(interface)),
            Change::Route(Route {
                destination,
                device: Device::Interface(name),
                kind: RouteKind::Unicast,
                metric,
            }) => {
                let (destination, metric) = (*destination, *metric);
                Some(Part::On(name, OnTunnel::Route { destination, metric }))
            }
            Change::Route(_) => None,
        }
    }
}

impl<S: System> Aliases<S> {
    pub fn new(owner: Owner, system: S) -> Self {
        Self {
            owner,
            system,
            tunnels: BTreeMap::new(),
        }
    }

    fn find_one(
        &mut self,
        there: &io::Result<BTreeSet<IpAddr>>,
        change: &Change,
    ) -> Result<Found, ChangeError> {
        change.check(&self.owner)?;
        match Part::of(change) {
            Some(Part::Alias(address)) => match there {
                Ok(there) if there.contains(&address.addr()) => Ok(Found::Theirs),
                Ok(_) => Ok(Found::Absent),
                Err(error) => Err(failed("look for", change)(again(error))),
            },
            Some(Part::Rule(rule)) => self.find_rule(change, rule),
            Some(Part::Tunnel(interface)) => self.find_tunnel(change, interface),
            Some(Part::On(name, what)) => {
                let has_metric = matches!(what, OnTunnel::Route { metric: Some(_), .. });
                self.check_metric(change, has_metric)?;
                match self.tunnels.get(name) {
                    None => Err(ChangeError::Missing { name: name.clone() }),
                    Some(made) if made.has.contains(&what) => Ok(Found::Ours),
                    Some(_) => Ok(Found::Absent),
                }
            }
            None => Err(unsupported(change)),
        }
    }

    fn check_metric(&mut self, change: &Change, has_metric: bool) -> Result<(), ChangeError> {
        let tunnels = self.system.tunnels().map_err(|why| without(change, &why))?;
        if has_metric && !tunnels.metrics() {
            return Err(without(change, "this system's routes have no metric"));
        }
        Ok(())
    }

    fn find_tunnel(&mut self, change: &Change, interface: &Interface) -> Result<Found, ChangeError> {
        self.check_metric(change, interface.metric.is_some())?;
        match self.tunnels.get(&interface.name) {
            None => Ok(Found::Absent),
            Some(made) if made.interface == *interface => Ok(Found::Ours),
            Some(made) => Err(ChangeError::Differs {
                what: change.to_string(),
                found: format!("{:?}", made.interface),
                wanted: format!("{interface:?}"),
            }),
        }
    }

    fn find_rule(&mut self, change: &Change, rule: &ResolverRule) -> Result<Found, ChangeError> {
        let rules = self.system.rules().map_err(|why| without(change, why))?;
        if let Some(server) = rule
            .servers
            .iter()
            .find(|server| server.port() != 53 && !rules.ports())
        {
            return Err(without(
                change,
                &format!("it asks servers only at port 53, not {server}"),
            ));
        }
        let mut ours = 0;
        for suffix in &rule.suffixes {
            match rules
                .read(&self.owner, suffix)
                .map_err(failed("look for", change))?
            {
                Place::Empty => {}
                Place::Written { ours: true, text } if rules.is(&self.owner, suffix, rule, &text) => {
                    ours += 1;
                }
                Place::Written { ours: true, text } => {
                    let wanted = format!("{:?}", rule.servers);
                    return Err(ChangeError::Differs {
                        what: format!("resolver rule for {suffix}"),
                        found: text,
                        wanted,
                    });
                }
                Place::Written { ours: false, .. } => {
                    let why = format!("another program made the rule for {suffix}");
                    return Err(ChangeError::Foreign {
                        what: change.to_string(),
                        why,
                    });
                }
            }
        }
        // Half of a rule is none: writing the whole once more makes it one.
        Ok(if ours == rule.suffixes.len() {
            Found::Ours
        } else {
            Found::Absent
        })
    }

    fn apply_one(
        &mut self,
        there: &mut io::Result<BTreeSet<IpAddr>>,
        change: &Change,
    ) -> Result<Applied, ChangeError> {
        if self.find_one(there, change)? != Found::Absent {
            return Ok(Applied::Present);
        }
        match Part::of(change) {
            Some(Part::Alias(address)) => {
                self.system.add(address).map_err(failed("add", change))?;
                if let Ok(there) = there {
                    there.insert(address.addr());
                }
            }
            Some(Part::Rule(rule)) => self.apply_rule(change, rule)?,
            Some(Part::Tunnel(interface)) => {
                let tunnels = self.system.tunnels().map_err(|why| without(change, &why))?;
                let tunnel = tunnels.create(interface).map_err(failed("add", change))?;
                let made = Made {
                    interface: interface.clone(),
                    tunnel,
                    has: Vec::new(),
                };
                self.tunnels.insert(interface.name.clone(), made);
            }
            Some(Part::On(name, what)) => {
                let tunnels = self.system.tunnels().map_err(|why| without(change, &why))?;
                let made = self
                    .tunnels
                    .get_mut(name)
                    .ok_or_else(|| ChangeError::Missing { name: name.clone() })?;
                tunnels.add(&made.tunnel, &what).map_err(failed("add", change))?;
                made.has.push(what);
            }
            None => return Err(unsupported(change)),
        }
        Ok(Applied::Added)
    }

    fn undo_one(
        &mut self,
        there: &mut io::Result<BTreeSet<IpAddr>>,
        change: &Change,
    ) -> Result<Undone, ChangeError> {
        change.check(&self.owner)?;
        match Part::of(change) {
            Some(Part::Alias(address)) => match there {
                Ok(there) if !there.contains(&address.addr()) => Ok(Undone::Gone),
                Ok(there) => {
                    self.system.remove(address).map_err(failed("remove", change))?;
                    there.remove(&address.addr());
                    Ok(Undone::Removed)
                }
                Err(error) => Err(failed("remove", change)(again(error))),
            },
            Some(Part::Rule(rule)) => self.undo_rule(change, rule),
            Some(Part::Tunnel(interface)) => self.undo_tunnel(change, &interface.name),
            Some(Part::On(name, what)) => {
                let (Ok(tunnels), Some(made)) = (self.system.tunnels(), self.tunnels.get_mut(name)) else {
                    return Ok(Undone::Gone);
                };
                let Some(place) = made.has.iter().position(|has| *has == what) else {
                    return Ok(Undone::Gone);
                };
                tunnels
                    .remove(&made.tunnel, &what)
                    .map_err(failed("remove", change))?;
                made.has.remove(place);
                Ok(Undone::Removed)
            }
            // There never was one.
            None => Ok(Undone::Gone),
        }
    }

    /// What is on it is taken off first, since whoever has a handle of it keeps the interface.
    fn undo_tunnel(&mut self, change: &Change, name: &InterfaceName) -> Result<Undone, ChangeError> {
        let Some(made) = self.tunnels.remove(name) else {
            return Ok(Undone::Gone);
        };
        let tunnels = self.system.tunnels().map_err(|why| without(change, &why))?;
        let mut removed = Ok(());
        for what in made.has.iter().rev() {
            removed = removed.and(tunnels.remove(&made.tunnel, what));
        }
        let closed = tunnels.close(made.tunnel);
        removed.and(closed).map_err(failed("remove", change))?;
        Ok(Undone::Removed)
    }

    fn apply_rule(&mut self, change: &Change, rule: &ResolverRule) -> Result<(), ChangeError> {
        let rules = self.system.rules().map_err(|why| without(change, why))?;
        for suffix in &rule.suffixes {
            if let Err(error) = rules.write(&self.owner, suffix, rule) {
                // What failed first is told; what was written is this owner's by its mark.
                rule.suffixes
                    .iter()
                    .for_each(|suffix| drop(rules.remove(&self.owner, suffix)));
                return Err(failed("add", change)(error));
            }
        }
        Ok(())
    }

    fn undo_rule(&mut self, change: &Change, rule: &ResolverRule) -> Result<Undone, ChangeError> {
        let Ok(rules) = self.system.rules() else {
            return Ok(Undone::Gone);
        };
        let mut undone = Undone::Gone;
        for suffix in rule.suffixes.iter().rev() {
            match rules
                .read(&self.owner, suffix)
                .map_err(failed("look for", change))?
            {
                Place::Empty => {}
                Place::Written { ours: true, text } if rules.is(&self.owner, suffix, rule, &text) => {
                    rules
                        .remove(&self.owner, suffix)
                        .map_err(failed("remove", change))?;
                    if undone == Undone::Gone {
                        undone = Undone::Removed;
                    }
                }
                Place::Written { .. } => {
                    undone = Undone::Left {
                        why: format!("the rule for {suffix} is another one"),
                    };
                }
            }
        }
        Ok(undone)
    }

    /// The loopback interface's addresses, of which each can be there once. They are asked for only where there is one to compare with.
    fn there(&mut self, changes: &[Change]) -> io::Result<BTreeSet<IpAddr>> {
        if !changes
            .iter()
            .any(|change| matches!(Part::of(change), Some(Part::Alias(_))))
        {
            return Ok(BTreeSet::new());
        }
        Ok(self
            .system
            .addresses()?
            .into_iter()
            .map(|there| there.addr())
            .collect())
    }
}

impl<S: System> Backend for Aliases<S> {
    fn capabilities(&mut self) -> Capabilities {
        let whole_127 = self.system.whole_127();
        let (resolver, resolver_ports) = match self.system.rules() {
            Ok(rules) => (Support::Available, rules.ports()),
            Err(why) => (Support::Missing(why.to_owned()), false),
        };
        let (tun, tun_is_local) = match self.system.tunnels() {
            Ok(tunnels) => (Support::Available, tunnels.is_local()),
            Err(why) => (Support::Missing(why), false),
        };
        Capabilities {
            // By a TUN interface.
            unicast_routes: tun.clone(),
            tun,
            tun_is_local,
            loopback: Support::Available,
            resolver,
            resolver_ports,
            whole_127,
            ..Capabilities::none("this system has none that netif knows how to make")
        }
    }

    fn observe(&mut self) -> Result<Observed, Error> {
        let failed = |what| move |source| Error::System { what, source };
        let mut observed = self.system.observe().map_err(failed("list the addresses"))?;
        if let Ok(tunnels) = self.system.tunnels() {
            for (name, made) in &self.tunnels {
                let called = tunnels.name(&made.tunnel);
                let seen = observed.interfaces.iter_mut().find(|seen| seen.name == called);
                if let Some(seen) = seen {
                    seen.ours = true;
                    "tun".clone_into(&mut seen.kind);
                    seen.alias = Some(name.to_string());
                }
                let on_it = observed
                    .addresses
                    .iter_mut()
                    .filter(|address| address.interface == called);
                on_it.for_each(|address| address.ours = true);
                let by_it = observed
                    .routes
                    .iter_mut()
                    .filter(|route| route.interface == called);
                by_it.for_each(|route| route.ours = true);
            }
        }
        if let Ok(rules) = self.system.rules() {
            let mut listed = rules
                .list(&self.owner)
                .map_err(failed("list the resolver rules"))?;
            // The system tells of them once more, without whose they are.
            observed
                .resolvers
                .retain(|seen| listed.iter().all(|rule| rule.suffix != seen.suffix));
            listed.append(&mut observed.resolvers);
            observed.resolvers = listed;
        }
        Ok(observed)
    }

    fn find(&mut self, changes: &[Change]) -> Vec<Result<Found, ChangeError>> {
        let there = self.there(changes);
        changes
            .iter()
            .map(|change| self.find_one(&there, change))
            .collect()
    }

    fn apply(&mut self, changes: &[Change]) -> Vec<Result<Applied, ChangeError>> {
        let mut there = self.there(changes);
        changes
            .iter()
            .map(|change| self.apply_one(&mut there, change))
            .collect()
    }

    fn undo(&mut self, changes: &[Change]) -> Vec<Result<Undone, ChangeError>> {
        let mut there = self.there(changes);
        let mut undone: Vec<_> = changes
            .iter()
            .rev()
            .map(|change| self.undo_one(&mut there, change))
            .collect();
        undone.reverse();
        undone
    }

    fn open_tun(&mut self, name: &InterfaceName) -> Result<TunHandle, ChangeError> {
        let missing = || ChangeError::Missing { name: name.clone() };
        let (Ok(tunnels), Some(made)) = (self.system.tunnels(), self.tunnels.get(name)) else {
            return Err(missing());
        };
        tunnels
            .handle(&made.tunnel)
            .map_err(|source| match source.kind() {
                io::ErrorKind::Unsupported => ChangeError::Unsupported {
                    what: "a descriptor of a TUN interface".to_owned(),
                },
                _ => ChangeError::System {
                    what: format!("copy the descriptor of the TUN interface {name}"),
                    source,
                },
            })
    }
}

fn unsupported(change: &Change) -> ChangeError {
    ChangeError::Unsupported {
        what: change.to_string(),
    }
}

fn without(change: &Change, why: &str) -> ChangeError {
    ChangeError::Unsupported {
        what: format!("{change} ({why})"),
    }
}

fn failed(verb: &'static str, change: &Change) -> impl FnOnce(io::Error) -> ChangeError {
    let what = format!("{verb} {change}");
    move |source| ChangeError::System { what, source }
}

fn again(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(
        || io::Error::other(error.to_string()),
        io::Error::from_raw_os_error,
    )
}

#[cfg(test)]
mod tests;

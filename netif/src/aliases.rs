//! Systems where addresses are aliases of the loopback interface, and resolver rules are files or registry values.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::backend::{Applied, Backend, Capabilities, ChangeError, Found, Support, TunHandle, Undone};
use crate::observed::{Observed, SeenResolver};
use crate::{Change, Device, Error, InterfaceName, Owner, ResolverRule, Suffix};

/// What such a system does for us.
pub(crate) trait System: Send {
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
}

/// Rules for one suffix each, kept by the system.
pub(crate) trait Rules {
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
pub(crate) enum Place {
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
pub(crate) struct Aliases<S> {
    owner: Owner,
    system: S,
}

impl<S: System> Aliases<S> {
    pub(crate) fn new(owner: Owner, system: S) -> Self {
        Self { owner, system }
    }

    fn find_one(
        &mut self,
        there: &io::Result<BTreeSet<IpAddr>>,
        change: &Change,
    ) -> Result<Found, ChangeError> {
        change.check(&self.owner)?;
        match change {
            Change::Address {
                device: Device::Loopback,
                address,
            } => match there {
                Ok(there) if there.contains(&address.addr()) => Ok(Found::Theirs),
                Ok(_) => Ok(Found::Absent),
                Err(error) => Err(failed("look for", change)(again(error))),
            },
            Change::Resolver(rule) => self.find_rule(change, rule),
            Change::Interface(_) | Change::Route(_) | Change::Address { .. } => Err(unsupported(change)),
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
                    ours += 1
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
        match change {
            Change::Address { address, .. } => {
                self.system.add(*address).map_err(failed("add", change))?;
                if let Ok(there) = there {
                    there.insert(address.addr());
                }
            }
            Change::Resolver(rule) => {
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
            }
            Change::Interface(_) | Change::Route(_) => return Err(unsupported(change)),
        }
        Ok(Applied::Added)
    }

    fn undo_one(
        &mut self,
        there: &mut io::Result<BTreeSet<IpAddr>>,
        change: &Change,
    ) -> Result<Undone, ChangeError> {
        change.check(&self.owner)?;
        match change {
            Change::Address {
                device: Device::Loopback,
                address,
            } => match there {
                Ok(there) if !there.contains(&address.addr()) => Ok(Undone::Gone),
                Ok(there) => {
                    self.system.remove(*address).map_err(failed("remove", change))?;
                    there.remove(&address.addr());
                    Ok(Undone::Removed)
                }
                Err(error) => Err(failed("remove", change)(again(error))),
            },
            Change::Resolver(rule) => self.undo_rule(change, rule),
            // There never was one.
            Change::Interface(_) | Change::Route(_) | Change::Address { .. } => Ok(Undone::Gone),
        }
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
            .any(|change| matches!(change, Change::Address { .. }))
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
        Capabilities {
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
        if let Ok(rules) = self.system.rules() {
            observed.resolvers = rules
                .list(&self.owner)
                .map_err(failed("list the resolver rules"))?;
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

    fn open_tun(&mut self, _: &InterfaceName) -> Result<TunHandle, ChangeError> {
        Err(ChangeError::Unsupported {
            what: "a TUN interface".to_owned(),
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

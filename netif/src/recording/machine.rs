//! What there is on the machine of a [`Recording`](super::Recording), and what that means to an owner.

use std::collections::BTreeMap;

use super::Line;
use crate::backend::{ChangeError, Found, Undone};
use crate::observed::{Observed, Seen, SeenAddress, SeenResolver, SeenRoute, Statistics};
use crate::{Change, Device, Interface, InterfaceName, Kind, Owner, ResolverRule, Route, RouteKind};

#[derive(Debug, Default)]
pub(super) struct Machine {
    there: BTreeMap<Key, (Change, Option<Owner>)>,
}

/// What a machine can have only one of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Interface(InterfaceName),
    /// By what it is on, so that all of an interface's are together.
    Address(Device, ipnet::IpNet),
    Route(ipnet::IpNet, Option<u32>, bool),
    /// systemd-resolved has one set of rules for an interface.
    Resolver(InterfaceName),
}

impl Key {
    fn of(change: &Change) -> Self {
        match change {
            Change::Interface(interface) => Key::Interface(interface.name.clone()),
            Change::Address { device, address } => Key::Address(device.clone(), *address),
            Change::Route(route) => {
                Key::Route(route.destination, route.metric, route.kind == RouteKind::Local)
            }
            Change::Resolver(rule) => Key::Resolver(rule.interface.clone()),
        }
    }
}

impl Machine {
    pub(super) fn replay(&mut self, line: Line) {
        match line {
            Line::Add { change, owner } => {
                self.there.insert(Key::of(&change), (change, owner));
            }
            Line::Remove { change } => {
                self.there.remove(&Key::of(&change));
                if let Change::Interface(Interface { name, .. }) = &change {
                    self.there.retain(|_, (other, _)| other.needs() != Some(name));
                }
            }
        }
    }

    pub(super) fn contents(&self) -> Vec<(Change, Option<Owner>)> {
        self.there.values().cloned().collect()
    }

    pub(super) fn has_interface(&self, name: &InterfaceName) -> bool {
        self.there.contains_key(&Key::Interface(name.clone()))
    }

    pub(super) fn kind(&self, name: &InterfaceName) -> Option<Kind> {
        match self.there.get(&Key::Interface(name.clone())) {
            Some((Change::Interface(interface), _)) => Some(interface.kind),
            _ => None,
        }
    }

    pub(super) fn find(&self, owner: &Owner, change: &Change) -> Result<Found, ChangeError> {
        change.check(owner)?;
        if let Some(why) = self.foreign_interface(owner, change) {
            return Err(ChangeError::Foreign {
                what: change.to_string(),
                why,
            });
        }
        let Some((there, whose)) = self.there.get(&Key::of(change)) else {
            return Ok(Found::Absent);
        };
        let ours = whose.as_ref() == Some(owner);
        match (there == change, ours) {
            (true, true) => Ok(Found::Ours),
            // An interface can only be used by the one who made it.
            (true, false) if !matches!(change, Change::Interface(_)) => Ok(Found::Theirs),
            (false, true) => Err(ChangeError::Differs {
                what: change.to_string(),
                found: format!("{there:?}"),
                wanted: format!("{change:?}"),
            }),
            (_, false) => Err(ChangeError::Foreign {
                what: change.to_string(),
                why: whose_text(whose.as_ref()),
            }),
        }
    }

    /// What an undo would do.
    pub(super) fn standing(&self, owner: &Owner, change: &Change) -> Result<Undone, ChangeError> {
        change.check(owner)?;
        if let Some(why) = self.foreign_interface(owner, change) {
            return Ok(Undone::Left { why });
        }
        let Some((there, whose)) = self.there.get(&Key::of(change)) else {
            return Ok(Undone::Gone);
        };
        if whose.as_ref() != Some(owner) {
            return Ok(Undone::Left {
                why: whose_text(whose.as_ref()),
            });
        }
        if is_another(there, change) {
            return Ok(Undone::Left {
                why: format!("it is {there:?}"),
            });
        }
        Ok(Undone::Removed)
    }

    /// Why a change is not this owner's business, if the interface that it needs is somebody else's.
    fn foreign_interface(&self, owner: &Owner, change: &Change) -> Option<String> {
        let (_, whose) = self.there.get(&Key::Interface(change.needs()?.clone()))?;
        (whose.as_ref() != Some(owner)).then(|| format!("interface {}", whose_text(whose.as_ref())))
    }

    pub(super) fn observe(&self, owner: &Owner) -> Observed {
        let mut observed = Observed::default();
        for (change, whose) in self.there.values() {
            let ours = whose.as_ref() == Some(owner);
            let device = |device: &Device| device.interface().map_or("lo", InterfaceName::as_str).to_owned();
            match change {
                Change::Interface(interface) => {
                    let index = u32::try_from(observed.interfaces.len()).unwrap_or(u32::MAX);
                    observed
                        .interfaces
                        .push(seen(interface, index.saturating_add(2), whose.as_ref(), ours));
                }
                Change::Address { device: on, address } => observed.addresses.push(SeenAddress {
                    interface: device(on),
                    address: *address,
                    ours,
                }),
                Change::Route(Route {
                    destination,
                    device: on,
                    kind,
                    metric,
                }) => {
                    observed.routes.push(SeenRoute {
                        destination: *destination,
                        interface: device(on),
                        gateway: None,
                        kind: *kind,
                        metric: metric.unwrap_or_default(),
                        ours,
                    });
                }
                Change::Resolver(ResolverRule {
                    interface,
                    suffixes,
                    servers,
                }) => {
                    observed
                        .resolvers
                        .extend(suffixes.iter().map(|suffix| SeenResolver {
                            suffix: suffix.to_string(),
                            servers: servers.clone(),
                            place: interface.to_string(),
                            ours,
                        }));
                }
            }
        }
        observed
    }
}

fn seen(interface: &Interface, index: u32, whose: Option<&Owner>, ours: bool) -> Seen {
    Seen {
        name: interface.name.to_string(),
        index,
        kind: match interface.kind {
            Kind::Dummy => "dummy".to_owned(),
            Kind::Tun => "tun".to_owned(),
        },
        ours,
        up: true,
        mtu: interface.mtu.unwrap_or(1500),
        alias: whose.map(Owner::alias),
        statistics: Statistics::default(),
    }
}

/// Whether what is there is so different that it was not made by this change: of another kind, on another interface, with other servers.
/// An interface whose MTU somebody changed is the same one.
fn is_another(there: &Change, change: &Change) -> bool {
    match (there, change) {
        (Change::Interface(there), Change::Interface(change)) => there.kind != change.kind,
        (there, change) => there != change,
    }
}

fn whose_text(whose: Option<&Owner>) -> String {
    whose.map_or_else(
        || "made by somebody else".to_owned(),
        |owner| format!("made by {owner}"),
    )
}

//! What there is on a Linux machine, and what that means for a change. Nothing here asks the kernel.

use std::collections::{BTreeSet, HashMap};

use ipnet::IpNet;

use crate::backend::{ChangeError, Found, Undone};
use crate::observed::SeenResolver;
use crate::parse::netlink::{Link, Route as KernelRoute};
use crate::render::netlink::{RT_TABLE_LOCAL, RT_TABLE_MAIN, RTN_LOCAL, RTN_UNICAST, Request, read_alias};
use crate::{Change, Device, Interface, InterfaceName, Kind, Owner, ResolverRule, Route, RouteKind};

/// How this owner's things are known.
#[derive(Debug, Clone)]
pub(super) struct Ownership {
    pub(super) owner: Owner,
    /// Whether the kernel keeps who made an address, so that one without a mark is somebody else's.
    pub(super) marks: bool,
}

/// What there is, as it was when it was looked at.
#[derive(Debug)]
pub(super) struct Sight {
    pub(super) ownership: Ownership,
    pub(super) links: Links,
    /// By their interface's number, each with its mark.
    pub(super) addresses: HashMap<(u32, IpNet), u8>,
    pub(super) routes: Vec<KernelRoute>,
    pub(super) resolvers: Vec<SeenResolver>,
}

/// The interfaces, by number.
#[derive(Debug, Clone, Default)]
pub(super) struct Links(Vec<Link>);

/// How a change is undone.
#[derive(Debug)]
pub(super) enum Step {
    Done(Undone),
    Ask(Request),
    /// systemd-resolved forgets the rules of the interface.
    Revert,
}

impl Ownership {
    pub(super) fn has_address(&self, mark: u8) -> bool {
        mark == self.owner.mark() || (!self.marks && mark == 0)
    }

    pub(super) fn has_link(&self, link: &Link) -> bool {
        match &link.alias {
            Some(alias) => read_alias(&self.owner, alias).is_some(),
            // Made, and not marked before its maker was killed.
            None => {
                !link.up && link.kind == kind_name(Kind::Dummy) && link.name.starts_with(self.owner.as_str())
            }
        }
    }

    /// The metric that an interface of this owner's was made with.
    pub(super) fn metric(&self, link: &Link) -> Option<u32> {
        read_alias(&self.owner, link.alias.as_deref()?).flatten()
    }

    /// The link of a device, `None` where there is none, and why it must not be used where it is another owner's.
    pub(super) fn device<'a>(&self, links: &'a Links, device: &Device) -> Result<Option<&'a Link>, String> {
        let Device::Interface(name) = device else {
            return Ok(links.0.iter().find(|link| link.loopback));
        };
        match links.named(name.as_str()) {
            Some(link) if !self.has_link(link) => Err(whose(link)),
            link => Ok(link),
        }
    }
}

impl Sight {
    pub(super) fn new(ownership: Ownership, links: Links) -> Self {
        Self {
            ownership,
            links,
            addresses: HashMap::new(),
            routes: Vec::new(),
            resolvers: Vec::new(),
        }
    }

    /// Whether a change is there.
    pub(super) fn find(&self, change: &Change) -> Result<Found, ChangeError> {
        change.check(&self.ownership.owner)?;
        let foreign = |why| ChangeError::Foreign {
            what: change.to_string(),
            why,
        };
        let device = |device: &Device| self.ownership.device(&self.links, device).map_err(foreign);
        match change {
            Change::Interface(interface) => match self.links.named(interface.name.as_str()) {
                None => Ok(Found::Absent),
                Some(link) if !self.ownership.has_link(link) => Err(foreign(whose(link))),
                Some(link) => self.as_wanted(interface, link).map(|()| Found::Ours),
            },
            Change::Address { device: on, address } => {
                let Some(link) = device(on)? else {
                    return Ok(Found::Absent);
                };
                Ok(match self.addresses.get(&(link.index, *address)) {
                    None => Found::Absent,
                    Some(mark) if self.ownership.has_address(*mark) => Found::Ours,
                    Some(_) => Found::Theirs,
                })
            }
            Change::Route(route) => {
                let Some(link) = device(&route.device)? else {
                    return Ok(Found::Absent);
                };
                match self.route(route, link) {
                    Some(seen) if seen.mark == self.ownership.owner.mark() => Ok(Found::Ours),
                    Some(_) => Ok(Found::Theirs),
                    None if self.routes.iter().any(|seen| is_for(seen, route)) => {
                        Err(foreign("it leads to another interface".to_owned()))
                    }
                    None => Ok(Found::Absent),
                }
            }
            Change::Resolver(rule) => {
                device(&rule.interface.clone().into())?;
                self.rule(rule)
            }
        }
    }

    /// How a change is undone. What is on an interface in `going` goes with it.
    pub(super) fn undo(&self, going: &BTreeSet<InterfaceName>, change: &Change) -> Result<Step, ChangeError> {
        change.check(&self.ownership.owner)?;
        let goes_along = change.needs().is_some_and(|name| going.contains(name));
        let remove = |request: Request| {
            if goes_along {
                Step::Done(Undone::Removed)
            } else {
                Step::Ask(request)
            }
        };
        let left = |why: String| Step::Done(Undone::Left { why });
        let gone = Step::Done(Undone::Gone);
        let mine = self.ownership.owner.mark();
        if let Change::Interface(interface) = change {
            return Ok(match self.links.named(interface.name.as_str()) {
                None => gone,
                Some(link) if !self.ownership.has_link(link) => left(whose(link)),
                Some(link) if link.kind != kind_name(interface.kind) => {
                    left(format!("it is of the kind {}", link.kind))
                }
                Some(link) => Step::Ask(Request::remove_link(link.index)),
            });
        }
        let device = change
            .needs()
            .map_or(Device::Loopback, |name| name.clone().into());
        let link = match self.ownership.device(&self.links, &device) {
            Err(why) => return Ok(left(why)),
            Ok(None) => return Ok(gone),
            Ok(Some(link)) => link,
        };
        Ok(match change {
            Change::Interface(_) => gone,
            Change::Address { address, .. } => match self.addresses.get(&(link.index, *address)) {
                None => gone,
                Some(mark) if !self.ownership.has_address(*mark) => {
                    left(format!("its mark is {mark}, not {mine}"))
                }
                Some(_) => remove(Request::remove_address(link.index, *address)),
            },
            Change::Route(route) => match self.route(route, link) {
                None => gone,
                Some(seen) if seen.mark != mine => left(format!("its protocol is {}, not {mine}", seen.mark)),
                Some(_) => remove(Request::remove_route(link.index, route, mine)),
            },
            Change::Resolver(rule) => match self.rule(rule) {
                Ok(Found::Absent) => gone,
                Err(error) => left(error.to_string()),
                Ok(_) if goes_along => Step::Done(Undone::Removed),
                Ok(_) => Step::Revert,
            },
        })
    }

    /// The interfaces that these changes, undone, remove.
    pub(super) fn going(&self, changes: &[Change]) -> BTreeSet<InterfaceName> {
        let none = BTreeSet::new();
        changes
            .iter()
            .filter_map(|change| match change {
                Change::Interface(interface) => Some((interface, self.undo(&none, change))),
                _ => None,
            })
            .filter(|(_, step)| matches!(step, Ok(Step::Ask(_))))
            .map(|(interface, _)| interface.name.clone())
            .collect()
    }

    fn as_wanted(&self, interface: &Interface, link: &Link) -> Result<(), ChangeError> {
        let differs = |found: String, wanted: String| {
            Err(ChangeError::Differs {
                what: format!("interface {}", interface.name),
                found,
                wanted,
            })
        };
        let (kind, metric) = (kind_name(interface.kind), self.ownership.metric(link));
        if link.kind != kind {
            return differs(format!("the kind {}", link.kind), kind.to_owned());
        }
        match interface.mtu {
            Some(mtu) if mtu != link.mtu => return differs(format!("the MTU {}", link.mtu), mtu.to_string()),
            _ => {}
        }
        if metric != interface.metric {
            let text = |metric: Option<u32>| {
                metric.map_or_else(|| "no metric".to_owned(), |metric| format!("the metric {metric}"))
            };
            return differs(text(metric), text(interface.metric));
        }
        Ok(())
    }

    /// A route as it is wanted, whoever made it. Where there are two, the owner's.
    fn route(&self, route: &Route, link: &Link) -> Option<&KernelRoute> {
        let mut alike = self
            .routes
            .iter()
            .filter(|seen| is_for(seen, route) && seen.index == Some(link.index));
        let first = alike.next()?;
        let mine = |seen: &&KernelRoute| seen.mark == self.ownership.owner.mark();
        Some(std::iter::once(first).chain(alike).find(mine).unwrap_or(first))
    }

    /// systemd-resolved keeps one set of rules for an interface.
    fn rule(&self, rule: &ResolverRule) -> Result<Found, ChangeError> {
        let here = || {
            self.resolvers
                .iter()
                .filter(|seen| seen.place == rule.interface.as_str())
        };
        let found: BTreeSet<_> = here().map(|seen| seen.suffix.as_str()).collect();
        let wanted: BTreeSet<_> = rule.suffixes.iter().map(crate::Suffix::as_str).collect();
        if found.is_empty() {
            return Ok(Found::Absent);
        }
        if found == wanted && here().all(|seen| seen.servers == rule.servers) {
            return Ok(Found::Ours);
        }
        Err(ChangeError::Differs {
            what: format!("resolver rule of {}", rule.interface),
            found: format!("{found:?}"),
            wanted: format!("{wanted:?}, with the servers {:?}", rule.servers),
        })
    }
}

impl Links {
    /// An older kernel does not tell them by number.
    pub(super) fn new(mut links: Vec<Link>) -> Self {
        links.sort_by_key(|link| link.index);
        Self(links)
    }

    pub(super) fn all(&self) -> &[Link] {
        &self.0
    }

    pub(super) fn named(&self, name: &str) -> Option<&Link> {
        self.0.iter().find(|link| link.name == name)
    }

    pub(super) fn numbered(&self, index: u32) -> Option<&Link> {
        let at = self.0.binary_search_by_key(&index, |link| link.index).ok()?;
        self.0.get(at)
    }
}

/// What the kernel calls a kind (IFLA_INFO_KIND).
pub(super) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Dummy => "dummy",
        Kind::Tun => "tun",
    }
}

/// What a route of the main or the local table does, if it is one that can be made.
pub(super) fn route_kind(seen: &KernelRoute) -> Option<RouteKind> {
    match (seen.table, seen.kind) {
        (table, RTN_UNICAST) if table == u32::from(RT_TABLE_MAIN) => Some(RouteKind::Unicast),
        (table, RTN_LOCAL) if table == u32::from(RT_TABLE_LOCAL) => Some(RouteKind::Local),
        _ => None,
    }
}

/// Whether a route takes the place of one that is wanted.
fn is_for(seen: &KernelRoute, wanted: &Route) -> bool {
    seen.destination == wanted.destination
        && route_kind(seen) == Some(wanted.kind)
        && seen.gateway.is_none()
        && wanted.metric.is_none_or(|metric| metric == seen.metric)
}

fn whose(link: &Link) -> String {
    match &link.alias {
        Some(alias) => format!("interface {} has the alias {alias:?}", link.name),
        None => format!("interface {} has no alias of ours", link.name),
    }
}

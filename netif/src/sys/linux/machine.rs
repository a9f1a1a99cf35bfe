//! A Linux machine's network as a [`Backend`].

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::conversation::Conversation;
use super::sight::{Links, Ownership, Sight, Step, route_kind};
use super::{resolved, sockets, tun};
use crate::backend::{Applied, Backend, Capabilities, ChangeError, Found, Support, TunHandle, Undone};
use crate::observed::{Observed, Seen, SeenAddress, SeenResolver, SeenRoute};
use crate::parse::netlink::{Address, Answer, Route as KernelRoute};
use crate::render::netlink::{Everything, RTPROT_KERNEL, Request};
use crate::{Change, Device, Error, Interface, InterfaceName, Kind, Owner, ResolverRule, Route, RouteKind};

/// Linux 5.18 keeps who made an address (IFA_PROTO).
const KEEPS_MARKS: (u32, u32) = (5, 18);

/// A Linux machine's network, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Machine {
    ownership: Ownership,
    conversation: Conversation,
    tuns: BTreeMap<InterfaceName, OwnedFd>,
}

impl Machine {
    pub(crate) fn open(owner: Owner) -> Result<Self, Error> {
        let conversation = Conversation::open().map_err(super::failed("speak with the kernel (netlink)"))?;
        let marks = release().is_none_or(|release| release >= KEEPS_MARKS);
        Ok(Self {
            ownership: Ownership { owner, marks },
            conversation,
            tuns: BTreeMap::new(),
        })
    }

    fn links(&mut self) -> io::Result<Links> {
        let links = self.conversation.list(Everything::Links, |answer| match answer {
            Answer::Link(link) => Some(link),
            _ => None,
        });
        links.map(Links::new)
    }

    fn addresses(&mut self) -> io::Result<Vec<Address>> {
        self.conversation
            .list(Everything::Addresses, |answer| match answer {
                Answer::Address(address) => Some(address),
                _ => None,
            })
    }

    fn routes(&mut self) -> io::Result<Vec<KernelRoute>> {
        self.conversation.list(Everything::Routes, |answer| match answer {
            Answer::Route(route) if !route.cloned => Some(route),
            _ => None,
        })
    }

    /// What there is, as far as these changes have to do with it.
    fn look(&mut self, changes: &[Change]) -> io::Result<Sight> {
        let mut sight = Sight::new(self.ownership.clone(), self.links()?);
        if changes
            .iter()
            .any(|change| matches!(change, Change::Address { .. }))
        {
            let addresses = self.addresses()?;
            sight.addresses = addresses
                .iter()
                .map(|seen| ((seen.index, seen.address), seen.mark))
                .collect();
        }
        if changes.iter().any(|change| matches!(change, Change::Route(_))) {
            for route in self.routes()? {
                sight.routes.entry(route.destination).or_default().push(route);
            }
        }
        if changes.iter().any(|change| matches!(change, Change::Resolver(_))) {
            sight.resolvers = resolved::observe()?;
        }
        Ok(sight)
    }

    fn carry_out(&mut self, request: Request) -> io::Result<()> {
        self.conversation.carry_out(vec![request]).into_iter().collect()
    }

    fn add_interface(
        &mut self,
        links: &mut Links,
        change: &Change,
        interface: &Interface,
    ) -> Result<Applied, ChangeError> {
        let sight = Sight::new(self.ownership.clone(), std::mem::take(links));
        let found = sight.find(change);
        *links = sight.links;
        if found? != Found::Absent {
            return Ok(Applied::Present);
        }
        let handle = match interface.kind {
            Kind::Dummy => self.carry_out(Request::new_dummy(interface)).map(|()| None),
            Kind::Tun => tun::create(&interface.name).map(Some),
        };
        let handle = handle.map_err(|source| match is(&source, Errno::OPNOTSUPP) {
            true => ChangeError::Unsupported {
                what: change.to_string(),
            },
            false => failed("make", change)(source),
        })?;
        // By its name, which nobody else can have by now.
        let marked = self.carry_out(Request::mark_up(interface, &self.ownership.owner));
        *links = self.links().map_err(failed("look for", change))?;
        if let Err(error) = marked {
            // A TUN interface goes with its descriptor, which is dropped here.
            if let (None, Some(link)) = (&handle, links.named(interface.name.as_str())) {
                // What failed first is told. A dummy that stays is known as half made.
                drop(self.carry_out(Request::remove_link(link.index)));
            }
            return Err(failed("set up", change)(error));
        }
        if let Some(handle) = handle {
            self.tuns.insert(interface.name.clone(), handle);
        }
        Ok(Applied::Added)
    }

    fn add_rule(
        &mut self,
        links: &Links,
        change: &Change,
        rule: &ResolverRule,
    ) -> Result<Applied, ChangeError> {
        if let Err(why) = resolved::program() {
            return Err(ChangeError::Unsupported {
                what: format!("{change} ({why})"),
            });
        }
        let mut sight = Sight::new(self.ownership.clone(), links.clone());
        sight.resolvers = resolved::observe().map_err(failed("look for", change))?;
        if sight.find(change)? != Found::Absent {
            return Ok(Applied::Present);
        }
        if links.named(rule.interface.as_str()).is_none() {
            return Err(ChangeError::Missing {
                name: rule.interface.clone(),
            });
        }
        resolved::add(rule).map_err(failed("add", change))?;
        Ok(Applied::Added)
    }

    /// The request that adds an address or a route.
    fn request(
        &self,
        links: &Links,
        change: &Change,
        device: &Device,
    ) -> Result<Option<Request>, ChangeError> {
        change.check(&self.ownership.owner)?;
        let link = self.ownership.device(links, device);
        let link = link.map_err(|why| ChangeError::Foreign {
            what: change.to_string(),
            why,
        })?;
        let link = link.ok_or_else(|| missing(device))?;
        let mark = self.ownership.owner.mark();
        Ok(match change {
            Change::Address { address, .. } => Some(Request::add_address(
                link.index,
                *address,
                self.ownership.metric(link),
                mark,
            )),
            Change::Route(route) => Some(Request::add_route(link.index, route, mark)),
            Change::Interface(_) | Change::Resolver(_) => None,
        })
    }

    /// Has the kernel carry out what was gathered, and puts each outcome in its place.
    fn flush(
        &mut self,
        changes: &[Change],
        gathered: &mut Vec<(usize, Request)>,
        outcomes: &mut Outcomes<Applied>,
    ) {
        let (places, requests): (Vec<_>, Vec<_>) = gathered.drain(..).unzip();
        let mut sight = None;
        for (place, carried_out) in places.into_iter().zip(self.conversation.carry_out(requests)) {
            let Some(change) = changes.get(place) else {
                continue;
            };
            let outcome = match carried_out {
                Ok(()) => Ok(Applied::Added),
                Err(error) if is(&error, Errno::EXIST) => {
                    // Whether what exists is what was wanted. It is looked at once for all.
                    if sight.is_none() {
                        sight = self.look(changes).ok();
                    }
                    match sight.as_ref().map(|sight| sight.find(change)) {
                        Some(Ok(Found::Ours | Found::Theirs)) => Ok(Applied::Present),
                        Some(Err(found)) => Err(found),
                        Some(Ok(Found::Absent)) | None => Err(failed("add", change)(error)),
                    }
                }
                Err(error) => Err(failed("add", change)(error)),
            };
            outcomes.put(place, outcome);
        }
    }
}

impl Backend for Machine {
    fn capabilities(&mut self) -> Capabilities {
        let probed = self.carry_out(Request::probe_dummy());
        let dummy = match &probed {
            Err(error) if is(error, Errno::ADDRNOTAVAIL) => Support::Available,
            Err(error) if is(error, Errno::OPNOTSUPP) => {
                Support::Missing("this kernel has no dummy interfaces (its module dummy)".to_owned())
            }
            Err(error) => Support::Missing(error.to_string()),
            Ok(()) => Support::Missing("this kernel takes an address that is none".to_owned()),
        };
        // Every kernel has addresses and routes; whether this process may change them was answered with the same question.
        let rights = match &probed {
            Err(error) if is(error, Errno::PERM) => Support::Missing("it takes CAP_NET_ADMIN".to_owned()),
            _ => Support::Available,
        };
        Capabilities {
            dummy,
            tun: match tun::device() {
                Ok(_) => rights.clone(),
                Err(error) => Support::Missing(format!("/dev/net/tun: {error}")),
            },
            tun_is_local: true,
            loopback: rights.clone(),
            local_routes: rights.clone(),
            unicast_routes: rights,
            resolver: resolved::program()
                .map_or_else(|why| Support::Missing(why.to_owned()), |_| Support::Available),
            resolver_ports: true,
            resolver_needs_interface: true,
            whole_127: true,
        }
    }

    fn observe(&mut self) -> Result<Observed, Error> {
        let failed = super::failed;
        let links = self.links().map_err(failed("list the interfaces"))?;
        let addresses = self.addresses().map_err(failed("list the addresses"))?;
        let routes = self.routes().map_err(failed("list the routes"))?;
        let resolvers = resolved::observe().map_err(failed("ask systemd-resolved for its rules"))?;
        let name = |index: u32| {
            links
                .numbered(index)
                .map(|link| link.name.clone())
                .unwrap_or_default()
        };
        let ownership = &self.ownership;
        // What the kernel puts on an interface for the sake of what is there bears the kernel's mark.
        let is_on_ours = |index: u32| links.numbered(index).is_some_and(|link| ownership.has_link(link));
        let address = |seen: &Address| SeenAddress {
            interface: name(seen.index),
            address: seen.address,
            ours: ownership.has_address(seen.mark) || is_on_ours(seen.index),
        };
        let route = |seen: &KernelRoute| {
            let kind = route_kind(seen)?;
            // Each address has one to itself, which the kernel made with it.
            let whole = seen.destination.prefix_len() == seen.destination.max_prefix_len();
            let own = whole && kind == RouteKind::Local && seen.mark == RTPROT_KERNEL;
            (!own).then(|| SeenRoute {
                destination: seen.destination,
                interface: seen.index.map(name).unwrap_or_default(),
                gateway: seen.gateway,
                kind,
                metric: seen.metric,
                ours: seen.mark == ownership.owner.mark() || seen.index.is_some_and(is_on_ours),
            })
        };
        let resolver = |seen: SeenResolver| {
            let ours = links
                .named(&seen.place)
                .is_some_and(|link| ownership.has_link(link));
            SeenResolver { ours, ..seen }
        };
        let interfaces = links.all().iter().map(|link| Seen {
            name: link.name.clone(),
            index: link.index,
            kind: link.kind.clone(),
            ours: ownership.has_link(link),
            up: link.up,
            mtu: link.mtu,
            alias: link.alias.clone(),
            statistics: link.statistics,
        });
        Ok(Observed {
            interfaces: interfaces.collect(),
            addresses: addresses.iter().map(address).collect(),
            routes: routes.iter().filter_map(route).collect(),
            resolvers: resolvers.into_iter().map(resolver).collect(),
            listeners: sockets::listeners(false),
        })
    }

    fn find(&mut self, changes: &[Change]) -> Vec<Result<Found, ChangeError>> {
        match self.look(changes) {
            Ok(sight) => changes.iter().map(|change| sight.find(change)).collect(),
            Err(error) => changes
                .iter()
                .map(|change| Err(failed("look for", change)(again(&error))))
                .collect(),
        }
    }

    fn apply(&mut self, changes: &[Change]) -> Vec<Result<Applied, ChangeError>> {
        let mut outcomes = Outcomes::of(changes);
        let mut gathered = Vec::new();
        let mut links = match self.links() {
            Ok(links) => links,
            Err(error) => {
                return changes
                    .iter()
                    .map(|change| Err(failed("add", change)(again(&error))))
                    .collect();
            }
        };
        for (place, change) in changes.iter().enumerate() {
            match change {
                Change::Address { device, .. } | Change::Route(Route { device, .. }) => {
                    match self.request(&links, change, device) {
                        Ok(request) => gathered.extend(request.map(|request| (place, request))),
                        Err(error) => outcomes.put(place, Err(error)),
                    }
                }
                Change::Interface(interface) => {
                    self.flush(changes, &mut gathered, &mut outcomes);
                    outcomes.put(place, self.add_interface(&mut links, change, interface));
                }
                Change::Resolver(rule) => {
                    self.flush(changes, &mut gathered, &mut outcomes);
                    outcomes.put(place, self.add_rule(&links, change, rule));
                }
            }
        }
        self.flush(changes, &mut gathered, &mut outcomes);
        outcomes.finish(changes)
    }

    fn undo(&mut self, changes: &[Change]) -> Vec<Result<Undone, ChangeError>> {
        let sight = match self.look(changes) {
            Ok(sight) => sight,
            Err(error) => {
                return changes
                    .iter()
                    .map(|change| Err(failed("undo", change)(again(&error))))
                    .collect();
            }
        };
        let mut going = sight.going(changes);
        let mut outcomes = Outcomes::of(changes);
        let mut gathered = Vec::new();
        for (place, change) in changes.iter().enumerate().rev() {
            match (sight.undo(&going, change), change) {
                (Ok(Step::Ask(request)), _) => gathered.push((place, request)),
                (Ok(Step::Done(undone)), _) => outcomes.put(place, Ok(undone)),
                (Ok(Step::Revert), Change::Resolver(rule)) => {
                    let reverted = resolved::remove(&rule.interface).map_err(failed("remove", change));
                    outcomes.put(place, reverted.map(|()| Undone::Removed));
                }
                (Ok(Step::Revert), _) => {}
                (Err(error), _) => outcomes.put(place, Err(error)),
            }
        }
        let (places, requests): (Vec<_>, Vec<_>) = gathered.into_iter().unzip();
        for (place, carried_out) in places.into_iter().zip(self.conversation.carry_out(requests)) {
            let Some(change) = changes.get(place) else {
                continue;
            };
            let outcome = match carried_out {
                Ok(()) => Ok(Undone::Removed),
                Err(error) if is_gone(&error) => Ok(Undone::Gone),
                Err(error) => Err(failed("remove", change)(error)),
            };
            if let (Change::Interface(interface), Ok(_)) = (change, &outcome) {
                going.remove(&interface.name);
                self.tuns.remove(&interface.name);
            }
            outcomes.put(place, outcome);
        }
        // An interface that stayed kept what was on it.
        for (place, change) in changes.iter().enumerate() {
            if change.needs().is_some_and(|name| going.contains(name)) {
                let source = io::Error::other("its interface could not be removed");
                outcomes.put(place, Err(failed("remove", change)(source)));
            }
        }
        outcomes.finish(changes)
    }

    fn open_tun(&mut self, name: &InterfaceName) -> Result<TunHandle, ChangeError> {
        let handle = self
            .tuns
            .get(name)
            .ok_or_else(|| ChangeError::Missing { name: name.clone() })?;
        handle.try_clone().map_err(|source| ChangeError::System {
            what: format!("copy the descriptor of the TUN interface {name}"),
            source,
        })
    }
}

/// What became of each change, in their order.
struct Outcomes<T>(Vec<Option<Result<T, ChangeError>>>);

impl<T> Outcomes<T> {
    fn of(changes: &[Change]) -> Self {
        Self(changes.iter().map(|_| None).collect())
    }

    fn put(&mut self, place: usize, outcome: Result<T, ChangeError>) {
        if let Some(slot) = self.0.get_mut(place) {
            *slot = Some(outcome);
        }
    }

    fn finish(self, changes: &[Change]) -> Vec<Result<T, ChangeError>> {
        let none = |change| Err(failed("change", change)(io::Error::other("it was not tried")));
        self.0
            .into_iter()
            .zip(changes)
            .map(|(outcome, change)| outcome.unwrap_or_else(|| none(change)))
            .collect()
    }
}

/// `6.1.0-40-cloud-amd64` is 6.1.
fn release() -> Option<(u32, u32)> {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn missing(device: &Device) -> ChangeError {
    match device {
        Device::Interface(name) => ChangeError::Missing { name: name.clone() },
        Device::Loopback => ChangeError::Unsupported {
            what: "the loopback interface".to_owned(),
        },
    }
}

fn failed(verb: &'static str, change: &Change) -> impl FnOnce(io::Error) -> ChangeError {
    let what = format!("{verb} {change}");
    move |source| ChangeError::System { what, source }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// It, or the interface that it was on, is not there.
fn is_gone(error: &io::Error) -> bool {
    [Errno::ADDRNOTAVAIL, Errno::SRCH, Errno::NODEV, Errno::NXIO]
        .iter()
        .any(|errno| is(error, *errno))
}

/// The same failure, to tell it of several changes.
pub(super) fn again(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(
        || io::Error::other(error.to_string()),
        io::Error::from_raw_os_error,
    )
}

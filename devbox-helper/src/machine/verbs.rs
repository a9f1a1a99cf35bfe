//! What each request comes to: its words are parsed, the policy is asked, then who holds what, and only then the system.

use std::io;
use std::net::TcpListener;
use std::time::Duration;

use devbox_helper_client::{
    BindFailure, Endpoint, HelperError, InterfaceKind, MAX_GRACE, NetworkReport, NewInterface, NewResolver,
    Protocol, Reply, Request,
};
use ipnet::IpNet;
use netif::conflict::Verdict;
use netif::{Change, Device, Interface, InterfaceName, Kind, ResolverRule, Route, RouteKind, Suffix};

use super::{Answer, Machine, refused};
use crate::claims::{ClaimId, Left, Resource};
use crate::error::with_sources;
use crate::policy::{NO_INTERFACES, not_allowed};
use crate::sys;

impl Machine {
    /// Carries a request out. To take over a claim makes it the caller's.
    pub(crate) fn handle(&mut self, id: &mut ClaimId, request: Request) -> Answer {
        let reply = match request {
            Request::Bind { endpoint } => return passed(self.bind(*id, endpoint)),
            Request::OpenTun { name } => return passed(self.open_tun(*id, &name)),
            Request::Resume { token } => self.resume(id, &token).map(|()| Reply::Done),
            request => self.reply(*id, request),
        };
        Answer::Reply(reply.unwrap_or_else(Reply::Error))
    }

    fn reply(&mut self, id: ClaimId, request: Request) -> Result<Reply, HelperError> {
        match request {
            Request::SetHosts { block } => self.set_hosts(id, block, false).map(Reply::Hosts),
            Request::TakeHosts { block } => self.set_hosts(id, block, true).map(Reply::Hosts),
            Request::ClearHosts => self.clear_hosts(id).map(Reply::Hosts),
            Request::EditHosts { edits } => self.member(id)?.hosts.edit_by_hand(&edits).map(Reply::Hosts),
            Request::RestoreHosts { content } => {
                self.member(id)?.hosts.restore_by_hand(&content).map(Reply::Hosts)
            }
            Request::Sweep => self.member(id)?.hosts.sweep().map(Reply::Swept),
            Request::CleanUp => self.clean_up(id).map(Reply::Swept),
            Request::Release => self.release(id).map(Reply::Released),
            Request::OpenPool { pool } => self.open_pool(id, &pool).map(Reply::Network),
            Request::AddAddresses { addresses, interface } => self
                .add_addresses(id, &addresses, interface.as_deref())
                .map(Reply::Network),
            Request::RemoveAddresses { addresses, interface } => self
                .remove_addresses(id, &addresses, interface.as_deref())
                .map(Reply::Network),
            Request::CreateInterface { interface } => {
                self.create_interface(id, &interface).map(Reply::Network)
            }
            Request::RemoveInterface { name } => self.remove_interface(id, &name).map(Reply::Network),
            Request::SetResolver { rule } => self.set_resolver(id, &rule).map(Reply::Network),
            Request::ClearResolver { rule } => self.clear_resolver(id, &rule).map(Reply::Network),
            Request::Flush => flush().map(|()| Reply::Done),
            Request::Status => Ok(Reply::Status(self.status(id))),
            Request::Hold { grace_ms } => {
                let lasts = Duration::from_millis(grace_ms.into());
                if lasts > MAX_GRACE {
                    let most = format!("at most {MAX_GRACE:?}");
                    return Err(not_allowed(format!("a grace of {lasts:?}"), most));
                }
                self.hold(id, lasts).map(Reply::Held)
            }
            _ => Err(HelperError::Unsupported {
                what: "this request".into(),
            }),
        }
    }

    /// The bound socket belongs to the caller: nothing is kept here, and there is nothing to undo.
    fn bind(&mut self, id: ClaimId, endpoint: Endpoint) -> Result<TcpListener, HelperError> {
        self.member(id)?.hosts.policy().check_listener(endpoint)?;
        if !sys::PASSES_LISTENERS {
            return Err(HelperError::Unsupported {
                what: "handing over a listener on this system".into(),
            });
        }
        let wanted = [Resource::Address(endpoint.address), Resource::Listener(endpoint)];
        self.claims.acquire(id, &wanted).map_err(refused)?;
        let bound = match endpoint.protocol {
            Protocol::Tcp => sys::listen(endpoint.socket_addr()),
            Protocol::Udp => sys::bind_datagrams(endpoint.socket_addr()),
        };
        bound.map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::AddrInUse => BindFailure::AddrInUse,
                io::ErrorKind::PermissionDenied => BindFailure::PermissionDenied,
                io::ErrorKind::AddrNotAvailable => BindFailure::AddrNotAvailable,
                _ => BindFailure::Other,
            };
            HelperError::Bind {
                endpoint,
                kind,
                message: error.to_string(),
            }
        })
    }

    fn open_pool(&mut self, id: ClaimId, pool: &str) -> Result<NetworkReport, HelperError> {
        let pool = prefix(pool)?;
        self.member(id)?.hosts.policy().check_pool(pool)?;
        let capabilities = self.network.capabilities();
        let (change, note) = if pool.addr().is_loopback() && capabilities.whole_127 {
            (None, None)
        } else if pool.addr().is_ipv4() && capabilities.local_routes.is_available() {
            let route = Route {
                destination: pool,
                device: Device::Loopback,
                kind: RouteKind::Local,
                metric: None,
            };
            (Some(Change::Route(route)), None)
        } else {
            let note = format!("{pool} has no route of its own here: its addresses are added one by one");
            (None, Some(note))
        };
        let mut notes: Vec<String> = note.into_iter().collect();
        if let Some(change) = &change {
            for conflict in self.network.in_the_way(pool, change) {
                match conflict.verdict {
                    Verdict::Blocks => {
                        return Err(HelperError::Network {
                            message: conflict.to_string(),
                        });
                    }
                    Verdict::Warns => notes.push(conflict.to_string()),
                }
            }
        }
        let mut report = self.make(id, vec![(Resource::Pool(pool), change)])?;
        report.notes.extend(notes);
        Ok(report)
    }

    fn add_addresses(
        &mut self,
        id: ClaimId,
        addresses: &[String],
        interface: Option<&str>,
    ) -> Result<NetworkReport, HelperError> {
        let device = self.device(id, interface)?;
        let there = self.there(id, &device);
        let many = addresses.len() > FEW && self.network.capabilities().local_routes.is_available();
        let mut wanted = Vec::with_capacity(addresses.len());
        for text in addresses {
            let address = address(text)?;
            self.member(id)?.hosts.policy().check_added(address)?;
            let is_there = there.iter().any(|prefix| prefix.contains(&address));
            let change = (!is_there).then(|| added(address, device.clone(), many));
            wanted.push((Resource::Address(address.addr()), change));
        }
        self.make(id, wanted)
    }

    /// The prefixes at whose addresses listeners can be bound without any change.
    fn there(&mut self, id: ClaimId, device: &Device) -> Vec<IpNet> {
        if *device != Device::Loopback {
            return Vec::new();
        }
        let routed = self.claims.resources(id).filter_map(|resource| match resource {
            Resource::Pool(pool) if self.made.contains_key(resource) => Some(*pool),
            _ => None,
        });
        let mut there: Vec<IpNet> = routed.collect();
        if self.network.capabilities().whole_127 {
            there.push(IpNet::new_assert([127, 0, 0, 0].into(), 8));
        }
        there
    }

    fn remove_addresses(
        &mut self,
        id: ClaimId,
        addresses: &[String],
        interface: Option<&str>,
    ) -> Result<NetworkReport, HelperError> {
        self.device(id, interface)?;
        let parsed: Vec<IpNet> = addresses
            .iter()
            .map(|text| address(text))
            .collect::<Result<_, _>>()?;
        let resources = parsed.iter().map(|address| Resource::Address(address.addr()));
        self.give_up(id, &resources.collect::<Vec<_>>())
    }

    fn create_interface(&mut self, id: ClaimId, wanted: &NewInterface) -> Result<NetworkReport, HelperError> {
        let name = interface_name(&wanted.name)?;
        if !self.member(id)?.hosts.policy().network {
            return Err(not_allowed(format!("the interface {name}"), NO_INTERFACES));
        }
        if let Some(mtu) = wanted.mtu.filter(|mtu| !(1280..=65_535).contains(mtu)) {
            return Err(not_allowed(
                format!("packets of {mtu} bytes"),
                "from 1280 to 65535",
            ));
        }
        let mut interface = Interface::new(name.clone(), kind(wanted.kind)?);
        interface.mtu = wanted.mtu;
        self.make(
            id,
            vec![(Resource::Interface(name), Some(Change::Interface(interface)))],
        )
    }

    /// What is on the interface goes with it, so nobody holds that any more.
    fn remove_interface(&mut self, id: ClaimId, name: &str) -> Result<NetworkReport, HelperError> {
        let name = interface_name(name)?;
        let interface = Resource::Interface(name.clone());
        if !self.claims.holds(id, &interface) {
            return Err(not_held(&interface));
        }
        let needs_it = |resource: &&Resource| {
            let changes = self.made.get(*resource);
            changes.is_some_and(|changes| changes.iter().any(|change| change.needs() == Some(&name)))
        };
        let mut resources: Vec<Resource> = self.claims.resources(id).filter(needs_it).cloned().collect();
        resources.insert(0, interface);
        self.give_up(id, &resources)
    }

    fn open_tun(&mut self, id: ClaimId, name: &str) -> Result<TcpListener, HelperError> {
        let name = interface_name(name)?;
        let interface = Resource::Interface(name.clone());
        if !self.claims.holds(id, &interface) {
            return Err(not_held(&interface));
        }
        sys::passable(self.network.open_tun(&name)?)
    }

    fn set_resolver(&mut self, id: ClaimId, rule: &NewResolver) -> Result<NetworkReport, HelperError> {
        let rule = resolver(rule)?;
        let policy = self.member(id)?.hosts.policy();
        for suffix in &rule.suffixes {
            policy.check_suffix(suffix)?;
        }
        for server in &rule.servers {
            policy.check_address(server.ip())?;
        }
        let interface = Resource::Interface(rule.interface.clone());
        // Where rules belong to no interface, its name means nothing.
        if self.network.capabilities().resolver_needs_interface && !self.claims.holds(id, &interface) {
            return Err(not_held(&interface));
        }
        let servers = rule.servers.iter().map(|server| Resource::Address(server.ip()));
        let servers: Vec<Resource> = servers.collect();
        self.claims.acquire(id, &servers).map_err(refused)?;
        // One rule is one change: it stands behind the first of its suffixes.
        let mut change = Some(Change::Resolver(rule.clone()));
        let wanted = rule
            .suffixes
            .into_iter()
            .map(|suffix| (Resource::Suffix(suffix), change.take()));
        self.make(id, wanted.collect())
    }

    fn clear_resolver(&mut self, id: ClaimId, rule: &NewResolver) -> Result<NetworkReport, HelperError> {
        let rule = resolver(rule)?;
        let resources: Vec<Resource> = rule.suffixes.into_iter().map(Resource::Suffix).collect();
        self.give_up(id, &resources)
    }

    /// Grants all of these and changes the machine where it lacks them, or does neither.
    fn make(
        &mut self,
        id: ClaimId,
        wanted: Vec<(Resource, Option<Change>)>,
    ) -> Result<NetworkReport, HelperError> {
        let resources: Vec<Resource> = wanted.iter().map(|(resource, _)| resource.clone()).collect();
        let held_before: Vec<bool> = resources
            .iter()
            .map(|resource| self.claims.holds(id, resource))
            .collect();
        self.claims.acquire(id, &resources).map_err(refused)?;
        let missing = wanted
            .into_iter()
            .filter(|(resource, _)| !self.made.contains_key(resource));
        let missing: Vec<(Resource, Change)> = missing
            .filter_map(|(resource, change)| Some((resource, change?)))
            .collect();
        let changes: Vec<Change> = missing.iter().map(|(_, change)| change.clone()).collect();
        let mut report = match self.network.add(id.0, &changes) {
            Ok(report) => report,
            Err(error) => {
                for (resource, _) in resources.iter().zip(held_before).filter(|(_, held)| !held) {
                    // It was acquired above, and nobody else depends on it.
                    self.claims.give_up(id, resource).ok();
                }
                return Err(error);
            }
        };
        report.unchanged = resources.len() - report.changed;
        for (resource, change) in missing {
            self.made.insert(resource, vec![change]);
        }
        Ok(report)
    }

    /// Gives all of these up, or none, and undoes what nobody else holds.
    fn give_up(&mut self, id: ClaimId, resources: &[Resource]) -> Result<NetworkReport, HelperError> {
        if let Some(foreign) = resources.iter().find(|resource| !self.claims.holds(id, resource)) {
            return Err(not_held(foreign));
        }
        let mut left = Left::default();
        for resource in resources {
            // A resource that is named twice is given up once.
            if self.claims.give_up(id, resource) == Ok(true) {
                left.resources.push(resource.clone());
            }
        }
        // What was named last goes first, as what was made last.
        left.resources.reverse();
        let changed = self.settle(&left);
        Ok(NetworkReport {
            changed,
            unchanged: resources.len().saturating_sub(changed),
            notes: Vec::new(),
        })
    }

    /// Where addresses go: an interface of this claim, or loopback.
    fn device(&self, id: ClaimId, interface: Option<&str>) -> Result<Device, HelperError> {
        let Some(name) = interface else {
            return Ok(Device::Loopback);
        };
        let name = interface_name(name)?;
        let interface = Resource::Interface(name.clone());
        if !self.claims.holds(id, &interface) {
            return Err(not_held(&interface));
        }
        Ok(Device::Interface(name))
    }
}

/// How an address is added. Linux searches all of an interface's IPv4 addresses for each new one, which takes minutes for tens of
/// thousands; a local route for each takes a second, and listeners can be bound there as well. (IPv6 needs IPV6_FREEBIND for that.)
fn added(address: IpNet, device: Device, many: bool) -> Change {
    let is_whole = address.prefix_len() == address.max_prefix_len();
    if many && is_whole && address.addr().is_ipv4() {
        return Change::Route(Route {
            destination: address,
            device,
            kind: RouteKind::Local,
            metric: None,
        });
    }
    Change::Address { device, address }
}

fn passed(answer: Result<TcpListener, HelperError>) -> Answer {
    match answer {
        Ok(listener) => Answer::Passed(listener),
        Err(error) => Answer::Reply(Reply::Error(error)),
    }
}

fn not_held(resource: &Resource) -> HelperError {
    HelperError::NotHeld {
        what: resource.to_string(),
    }
}

fn flush() -> Result<(), HelperError> {
    let flushed = hostsfile::flush();
    flushed.map(drop).map_err(|error| HelperError::Network {
        message: with_sources(&error),
    })
}

fn prefix(text: &str) -> Result<IpNet, HelperError> {
    let parsed = text.parse::<IpNet>();
    parsed.map_err(|_| not_allowed(format!("{text:?}"), "not an address and a prefix length"))
}

/// An address with the length of its prefix, or alone.
fn address(text: &str) -> Result<IpNet, HelperError> {
    let parsed = text
        .parse()
        .or_else(|_| text.parse().map(|alone: std::net::IpAddr| alone.into()));
    parsed.map_err(|_| not_allowed(format!("{text:?}"), "not an address"))
}

/// A name that can only be one of ours.
fn interface_name(text: &str) -> Result<InterfaceName, HelperError> {
    let what = || format!("the interface {text:?}");
    let name = InterfaceName::new(text).map_err(|error| not_allowed(what(), with_sources(&error)))?;
    if !text.starts_with(OWNER) {
        return Err(not_allowed(
            what(),
            format!("interfaces of sessions are called {OWNER}…"),
        ));
    }
    Ok(name)
}

fn kind(kind: InterfaceKind) -> Result<Kind, HelperError> {
    match kind {
        InterfaceKind::Dummy => Ok(Kind::Dummy),
        InterfaceKind::Tun => Ok(Kind::Tun),
        _ => Err(HelperError::Unsupported {
            what: "this kind of interface".into(),
        }),
    }
}

fn resolver(rule: &NewResolver) -> Result<ResolverRule, HelperError> {
    if rule.suffixes.is_empty() || rule.servers.is_empty() {
        return Err(not_allowed(
            "the resolver rule",
            "it names no suffix, or no server",
        ));
    }
    let suffix = |text: &String| {
        let refused = |why: String| not_allowed(format!("the suffix {text:?}"), why);
        if let Some(why) = devbox_helper_client::name_refusal(text) {
            return Err(refused(why.to_owned()));
        }
        Suffix::new(text).map_err(|error| refused(with_sources(&error)))
    };
    Ok(ResolverRule {
        interface: interface_name(&rule.interface)?,
        suffixes: rule.suffixes.iter().map(suffix).collect::<Result<_, _>>()?,
        servers: rule.servers.clone(),
    })
}

/// So many addresses of one request are addresses of the interface; more are [routes](added).
const FEW: usize = 256;
/// What interfaces of ours begin with.
pub(crate) const OWNER: &str = "devbox";

//! Which ports of which services are listened on, which are still to be, and which could not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use devbox_helper_client::{Endpoint, Protocol};
use service_catalog::ServiceId;
use tunnel_bridge::Target;

use super::notices::Notices;
use crate::host::BindFault;
use crate::key::{ProviderId, ServiceKey};
use crate::report::{Event, PortState, ServicePort};

/// How long what cannot be offered is left alone before it is tried again: a program that holds a port may end, a
/// right may be given, an address may become free.
const DEGRADED_PAUSE: Duration = Duration::from_secs(5);

/// Said of UDP ports behind a link that carries no datagrams.
const NO_UDP: &str = "the link to the far side carries no UDP";

/// A service may offer one number by TCP and by UDP.
pub(super) type PortKey = (u16, Protocol);

/// The listeners of a session.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    groups: BTreeMap<ServiceKey, Group>,
    open: BTreeMap<Endpoint, (ServiceKey, PortKey)>,
    to_open: BTreeSet<ServiceKey>,
    to_close: BTreeSet<Endpoint>,
    /// Services of which something could not be offered, and when that is tried again.
    degraded: BTreeSet<ServiceKey>,
    degraded_until: Option<Instant>,
    /// Services that lack a listener for want of file descriptors. None is tried before the next round.
    starved: BTreeSet<ServiceKey>,
    told_starved: bool,
    denied: Denied,
    /// Providers whose links carry no datagrams.
    without_udp: BTreeSet<ProviderId>,
}

/// Ports that this process may not bind.
#[derive(Debug, Default)]
struct Denied {
    untold: BTreeSet<(ServiceId, u16)>,
    first_free: u16,
    /// Of all that were refused.
    lowest: Option<u16>,
}

/// The listeners of one service: every port on each of its addresses.
#[derive(Debug)]
struct Group {
    /// The first is the service's own; another is of the other family, and offered as far as it can be.
    addresses: Vec<IpAddr>,
    /// All candidates were in use: it stays on its own address, with whichever ports bind there.
    all_in_use: bool,
    /// Boxed: most services have one port, and a map has room for eleven at once.
    ports: BTreeMap<PortKey, Box<Port>>,
}

#[derive(Debug)]
struct Port {
    state: PortState,
    /// Whether the provider's link carries its protocol. Otherwise it is not listened for, whatever becomes of the others.
    carried: bool,
    /// The fault that was told last.
    told: Option<String>,
    /// Addresses on which it is listened for or was tried.
    tried: Vec<IpAddr>,
}

/// Endpoints of one service to listen on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bind {
    pub(super) service: ServiceKey,
    pub(super) address: IpAddr,
    pub(super) endpoints: Vec<(Endpoint, Target)>,
    pub(super) all_or_none: bool,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Bind(Bind),
    /// An open listener that was to be closed serves somebody again.
    Retarget {
        endpoint: Endpoint,
        service: ServiceKey,
        target: Target,
    },
}

/// What came of a [`Bind`], beside the ports' own states.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bound {
    Done,
    /// The address is in use, and another one may be tried.
    AddressInUse {
        /// Whether somebody holds it who may hold the port on every address.
        counts: bool,
    },
    /// The service left meanwhile.
    Gone,
}

impl Listeners {
    /// Takes the ports that a service is to have. Whether they are other ones than before.
    pub(super) fn set_ports(
        &mut self,
        service: &ServiceKey,
        wanted: impl IntoIterator<Item = PortKey>,
    ) -> bool {
        let carries_udp = !self.without_udp.contains(&service.provider);
        let wanted: BTreeSet<PortKey> = wanted.into_iter().collect();
        let group = self.groups.entry(service.clone()).or_insert_with(|| Group {
            addresses: Vec::new(),
            all_in_use: false,
            ports: BTreeMap::new(),
        });
        let before = group.ports.len();
        for (key, _) in group.ports.extract_if(.., |key, _| !wanted.contains(key)) {
            for address in &group.addresses {
                let endpoint = endpoint(*address, key);
                if self
                    .open
                    .get(&endpoint)
                    .is_some_and(|(owner, _)| owner == service)
                {
                    self.to_close.insert(endpoint);
                }
            }
        }
        let mut changed = group.ports.len() != before;
        for key in wanted {
            group.ports.entry(key).or_insert_with(|| {
                changed = true;
                Box::new(Port::new(key.1 == Protocol::Tcp || carries_udp))
            });
        }
        if group.ports.values().any(|port| port.state == PortState::Opening) {
            self.to_open.insert(service.clone());
        }
        changed
    }

    /// Whether a provider's links carry datagrams. What its UDP ports are for is opened, or closed, where that is other than before:
    /// then it is `true`.
    pub(super) fn set_carries_udp(&mut self, provider: ProviderId, carries: bool) -> bool {
        let changed = if carries {
            self.without_udp.remove(&provider)
        } else {
            self.without_udp.insert(provider)
        };
        if !changed {
            return false;
        }
        let of_provider = |(service, _): &(&ServiceKey, &mut Group)| service.provider == provider;
        for (service, group) in self.groups.iter_mut().filter(of_provider) {
            let udp = |(key, _): &(&PortKey, &mut Box<Port>)| key.1 == Protocol::Udp;
            for (key, port) in group.ports.iter_mut().filter(udp) {
                **port = Port::new(carries);
                if carries {
                    self.to_open.insert(service.clone());
                    continue;
                }
                for address in &group.addresses {
                    let endpoint = endpoint(*address, *key);
                    let owner = self.open.get(&endpoint).map(|(owner, _)| owner);
                    if owner == Some(service) {
                        self.to_close.insert(endpoint);
                    }
                }
            }
        }
        true
    }

    /// The service's addresses. Listeners on others that it had are closed.
    pub(super) fn set_addresses(&mut self, service: &ServiceKey, addresses: Vec<IpAddr>) {
        if let Some(group) = self.groups.get_mut(service) {
            for left in group
                .addresses
                .iter()
                .filter(|address| !addresses.contains(address))
            {
                for key in group.ports.keys() {
                    let endpoint = endpoint(*left, *key);
                    if self
                        .open
                        .get(&endpoint)
                        .is_some_and(|(owner, _)| owner == service)
                    {
                        self.to_close.insert(endpoint);
                    }
                }
            }
            group.addresses = addresses;
            for port in group.ports.values_mut() {
                port.tried.clear();
            }
        }
    }

    /// The service is gone.
    pub(super) fn remove(&mut self, service: &ServiceKey) {
        let Some(group) = self.groups.remove(service) else {
            return;
        };
        self.to_open.remove(service);
        self.degraded.remove(service);
        self.starved.remove(service);
        for address in group.addresses {
            for key in group.ports.keys() {
                let endpoint = endpoint(address, *key);
                if self
                    .open
                    .get(&endpoint)
                    .is_some_and(|(owner, _)| owner == service)
                {
                    self.to_close.insert(endpoint);
                }
            }
        }
    }

    /// The next thing to do for services that `may_open`.
    pub(super) fn poll(&mut self, mut may_open: impl FnMut(&ServiceKey) -> bool) -> Option<Next> {
        loop {
            let service = self.to_open.iter().find(|service| may_open(service))?.clone();
            if let Some(next) = self.next_of(&service) {
                return Some(next);
            }
            self.to_open.remove(&service);
        }
    }

    /// The next thing to do for one service.
    fn next_of(&mut self, service: &ServiceKey) -> Option<Next> {
        let group = self.groups.get_mut(service)?;
        for address in group.addresses.clone() {
            let primary = group.addresses.first() == Some(&address);
            let mut endpoints = Vec::new();
            for (key, port) in &mut group.ports {
                if !port.carried || port.tried.contains(&address) {
                    continue;
                }
                if primary && port.state != PortState::Opening {
                    continue;
                }
                let endpoint = endpoint(address, *key);
                let Some(target) = target(&service.service, *key) else {
                    continue;
                };
                // It is open still: its former owner left, or it left and came back before it was closed.
                if self.to_close.remove(&endpoint) {
                    port.tried.push(address);
                    if primary {
                        port.state = PortState::Listening;
                        port.told = None;
                    }
                    self.open.insert(endpoint, (service.clone(), *key));
                    return Some(Next::Retarget {
                        endpoint,
                        service: service.clone(),
                        target,
                    });
                }
                endpoints.push((endpoint, target));
            }
            if !endpoints.is_empty() {
                for (endpoint, _) in &endpoints {
                    if let Some(port) = group.ports.get_mut(&key_of(endpoint)) {
                        port.tried.push(address);
                    }
                }
                let all_or_none = primary && group.may_move();
                return Some(Next::Bind(Bind {
                    service: service.clone(),
                    address,
                    endpoints,
                    all_or_none,
                }));
            }
        }
        None
    }

    /// Whose connections an endpoint takes.
    pub(super) fn owner(&self, endpoint: &Endpoint) -> Option<&(ServiceKey, PortKey)> {
        self.open.get(endpoint)
    }

    /// Whether services that `may_open` wait for listeners.
    pub(super) fn is_opening(&self, mut may_open: impl FnMut(&ServiceKey) -> bool) -> bool {
        self.to_open.iter().any(&mut may_open)
    }

    /// What came of a [`Bind`]. Of one that was all or none, and had an endpoint in use, nothing is open.
    pub(super) fn handle_bound(
        &mut self,
        service: &ServiceKey,
        address: IpAddr,
        all_or_none: bool,
        results: Vec<(Endpoint, Result<(), BindFault>)>,
        notices: &mut Notices,
    ) -> Bound {
        let in_use = results
            .iter()
            .any(|(_, result)| matches!(result, Err(BindFault::InUse { .. })));
        let nothing = all_or_none && in_use;
        let group = self.groups.get_mut(service);
        // It left meanwhile, or has another address.
        let Some(group) = group.filter(|group| group.addresses.contains(&address)) else {
            let open = results
                .into_iter()
                .filter(|(_, result)| result.is_ok() && !nothing);
            for (endpoint, _) in open {
                self.open.insert(endpoint, (service.clone(), key_of(&endpoint)));
                self.to_close.insert(endpoint);
            }
            return Bound::Gone;
        };
        let primary = group.addresses.first() == Some(&address);
        if nothing {
            let counts = results.iter().any(|(_, result)| {
                let held = matches!(result, Err(BindFault::InUse { .. }));
                held && !matches!(result, Err(BindFault::InUse { holder: Some(holder), .. }) if holder.own)
            });
            for (endpoint, _) in results {
                if let Some(port) = group.ports.get_mut(&key_of(&endpoint)) {
                    port.tried.retain(|tried| *tried != address);
                }
            }
            return Bound::AddressInUse { counts };
        }
        for (endpoint, result) in results {
            let key = key_of(&endpoint);
            let port = group.ports.get_mut(&key).filter(|port| port.carried);
            match (result, port) {
                (Ok(()), Some(port)) => {
                    if primary {
                        port.state = PortState::Listening;
                        port.told = None;
                    }
                    self.open.insert(endpoint, (service.clone(), key));
                }
                // The port left the catalog meanwhile, or the link does not carry it any more.
                (Ok(()), None) => {
                    self.open.insert(endpoint, (service.clone(), key));
                    self.to_close.insert(endpoint);
                }
                (Err(BindFault::OutOfDescriptors), Some(port)) => {
                    self.starved.insert(service.clone());
                    self.degraded.insert(service.clone());
                    if primary {
                        port.state = PortState::Degraded(BindFault::OutOfDescriptors.to_string());
                        port.told.get_or_insert_default();
                    } else {
                        port.tried.retain(|tried| *tried != address);
                    }
                }
                // Told in the log alone: the service has its own address.
                (Err(fault), Some(_)) if !primary => tracing::debug!(%service, %fault, "not offered there"),
                (Err(fault @ BindFault::Denied { first_free, .. }), Some(port)) => {
                    self.degraded.insert(service.clone());
                    if port.set_fault(fault.to_string()) {
                        let denied = &mut self.denied;
                        denied.untold.insert((service.service.clone(), key.0));
                        denied.first_free = first_free;
                        denied.lowest = Some(denied.lowest.map_or(key.0, |lowest| lowest.min(key.0)));
                    }
                }
                (Err(fault), Some(port)) => {
                    self.degraded.insert(service.clone());
                    port.degrade(service, key, fault.to_string(), notices);
                }
                (Err(_), None) => {}
            }
        }
        if !self.starved.is_empty() {
            // The others would not fare better before some are free.
            for other in std::mem::take(&mut self.to_open) {
                if let Some(group) = self.groups.get_mut(&other) {
                    for port in group
                        .ports
                        .values_mut()
                        .filter(|port| port.state == PortState::Opening)
                    {
                        port.state = PortState::Degraded(BindFault::OutOfDescriptors.to_string());
                        port.told.get_or_insert_default();
                    }
                }
                self.starved.insert(other.clone());
                self.degraded.insert(other);
            }
        }
        Bound::Done
    }

    /// The service stays on its own address, since all candidates are in use.
    pub(super) fn stay(&mut self, service: &ServiceKey) {
        if let Some(group) = self.groups.get_mut(service) {
            group.all_in_use = true;
        }
    }

    /// Nothing of a service can be offered.
    pub(super) fn degrade(&mut self, service: &ServiceKey, reason: &str, notices: &mut Notices) {
        self.to_open.remove(service);
        self.degraded.insert(service.clone());
        if let Some(group) = self.groups.get_mut(service) {
            for (key, port) in group.ports.iter_mut().filter(|(_, port)| port.carried) {
                port.degrade(service, *key, reason.to_owned(), notices);
            }
        }
    }

    /// Says once how many services lack a listener for want of file descriptors, and once that none does any more.
    pub(super) fn tell_starved(&mut self, notices: &mut Notices) {
        if !self.starved.is_empty() && !self.told_starved {
            self.told_starved = true;
            notices.push(Event::OutOfDescriptors {
                services: self.starved.len(),
            });
        } else if self.starved.is_empty() && self.told_starved && self.to_open.is_empty() {
            self.told_starved = false;
            notices.push(Event::DescriptorsAvailable);
        }
    }

    /// Says in one line which ports this process may not bind, as far as that is news.
    pub(super) fn tell_denied(&mut self, notices: &mut Notices) {
        const EXAMPLES: usize = 3;
        let untold = std::mem::take(&mut self.denied.untold);
        let Some(lowest) = self.denied.lowest.filter(|_| !untold.is_empty()) else {
            return;
        };
        let services: BTreeSet<_> = untold.iter().map(|(service, _)| service).collect();
        let examples = untold.iter().take(EXAMPLES).map(|(service, port)| ServicePort {
            service: service.clone(),
            port: *port,
        });
        notices.push(Event::LowPorts {
            services: services.len(),
            ports: untold.len(),
            examples: examples.collect(),
            first_free: self.denied.first_free,
            lowest,
        });
    }

    /// Services to try again now. Those without a listener may move home first.
    pub(super) fn retry(
        &mut self,
        now: Instant,
        may_open: impl FnMut(&ServiceKey) -> bool,
    ) -> Vec<ServiceKey> {
        // A round is finished before the next one begins: rounds that overlap would never end where binding is slow.
        if self.is_opening(may_open) {
            return Vec::new();
        }
        if self.degraded_until.is_none_or(|until| until > now) {
            return Vec::new();
        }
        self.degraded_until = None;
        self.starved.clear();
        let mut idle = Vec::new();
        for service in std::mem::take(&mut self.degraded) {
            let Some(group) = self.groups.get_mut(&service) else {
                continue;
            };
            for port in group.ports.values_mut() {
                if port.told.is_some() && port.carried {
                    port.state = PortState::Opening;
                    port.tried.clear();
                }
            }
            self.to_open.insert(service.clone());
            if !group.has_listener() {
                group.all_in_use = false;
                idle.push(service);
            }
        }
        idle
    }

    /// A round is over: what could not be offered is tried again after a pause.
    pub(super) fn end_round(&mut self, now: Instant) {
        if self.degraded_until.is_none() && !self.degraded.is_empty() {
            self.degraded_until = Some(now + DEGRADED_PAUSE);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.degraded_until
    }

    /// The listeners that are to be closed.
    pub(super) fn to_close(&self) -> &BTreeSet<Endpoint> {
        &self.to_close
    }

    /// Those of them that are to be closed now.
    pub(super) fn take_to_close(&mut self, mut endpoints: BTreeSet<Endpoint>) -> Vec<Endpoint> {
        endpoints.retain(|endpoint| self.to_close.remove(endpoint));
        endpoints.into_iter().collect()
    }

    /// Every listener there is, to be closed for good.
    pub(super) fn take_all(&mut self) -> Vec<Endpoint> {
        self.to_close.clear();
        self.to_open.clear();
        for port in self
            .groups
            .values_mut()
            .flat_map(|group| group.ports.values_mut())
        {
            if let PortState::Opening | PortState::Listening = port.state {
                port.state = PortState::Closed;
            }
        }
        self.open.keys().copied().collect()
    }

    pub(super) fn handle_closed(&mut self, endpoints: &[Endpoint]) {
        for endpoint in endpoints {
            self.open.remove(endpoint);
        }
    }

    /// The addresses of a service that somebody can connect to.
    pub(super) fn listening(&self, service: &ServiceKey) -> Vec<IpAddr> {
        let Some(group) = self.groups.get(service) else {
            return Vec::new();
        };
        let listens = |address: &&IpAddr| {
            group.ports.keys().any(|key| {
                let endpoint = endpoint(**address, *key);
                !self.to_close.contains(&endpoint)
                    && self
                        .open
                        .get(&endpoint)
                        .is_some_and(|(owner, _)| owner == service)
            })
        };
        group.addresses.iter().filter(listens).copied().collect()
    }

    /// Whether a service has no ports at all.
    pub(super) fn is_portless(&self, service: &ServiceKey) -> bool {
        self.groups
            .get(service)
            .is_some_and(|group| group.ports.is_empty())
    }

    /// Whether a port was reported as not offered.
    pub(super) fn is_told(&self, service: &ServiceKey, key: PortKey) -> bool {
        let group = self.groups.get(service);
        group.is_some_and(|group| group.ports.get(&key).is_some_and(|port| port.told.is_some()))
    }

    /// The state of a port, and the endpoints on which it is listened for.
    pub(super) fn state(&self, service: &ServiceKey, key: PortKey) -> (PortState, Vec<Endpoint>) {
        let Some(group) = self.groups.get(service) else {
            return (PortState::Opening, Vec::new());
        };
        let state = group
            .ports
            .get(&key)
            .map_or(PortState::Opening, |port| port.state.clone());
        let endpoints = group.addresses.iter().map(|address| endpoint(*address, key));
        (
            state,
            endpoints
                .filter(|endpoint| self.open.contains_key(endpoint))
                .collect(),
        )
    }
}

impl Group {
    /// Whether it may take another address where a port is in use.
    fn may_move(&self) -> bool {
        !self.all_in_use && !self.has_listener()
    }

    fn has_listener(&self) -> bool {
        self.ports.values().any(|port| port.state == PortState::Listening)
    }
}

impl Port {
    fn new(carried: bool) -> Self {
        Self {
            state: if carried {
                PortState::Opening
            } else {
                PortState::Degraded(NO_UDP.to_owned())
            },
            carried,
            told: None,
            tried: Vec::new(),
        }
    }

    fn degrade(&mut self, service: &ServiceKey, key: PortKey, reason: String, notices: &mut Notices) {
        if self.set_fault(reason.clone()) {
            let event = Event::PortDegraded {
                service: service.service.clone(),
                port: key.0,
                reason,
            };
            notices.push_about(service.provider, event);
        }
    }

    /// It cannot be offered. Whether that is news.
    fn set_fault(&mut self, reason: String) -> bool {
        self.state = PortState::Degraded(reason.clone());
        self.told.as_ref() != Some(&reason) && {
            self.told = Some(reason);
            true
        }
    }
}

fn endpoint(address: IpAddr, (port, protocol): PortKey) -> Endpoint {
    Endpoint {
        address,
        port,
        protocol,
    }
}

fn key_of(endpoint: &Endpoint) -> PortKey {
    (endpoint.port, endpoint.protocol)
}

/// What a connection to this port asks of the far side.
fn target(service: &ServiceId, (port, protocol): PortKey) -> Option<Target> {
    let target = service_catalog::Target {
        service: service.clone(),
        port: NonZeroU16::new(port)?,
        protocol: match protocol {
            Protocol::Tcp => service_catalog::Protocol::Tcp,
            Protocol::Udp => service_catalog::Protocol::Udp,
        },
    };
    Target::new(&target.to_string()).ok()
}

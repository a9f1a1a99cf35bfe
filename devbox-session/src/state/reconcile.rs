//! From the catalog that is wanted to the next step towards it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::Instant;

use devbox_helper_client::{HostsEntry, HostsReport};
use ipalloc::{Key, Timestamp};
use service_catalog::{Catalog, Protocol, Service, ServiceId};
use tunnel_bridge::Target;

use super::{CANDIDATES, DEGRADED_PAUSE, Entry, PortEntry, PortKey, SessionState};
use crate::report::{Event, PortState};
use crate::step::Step;

/// The findings about a hosts file which mean that something in it is not read. The others are for `hosts lint`: told at each
/// start, they would hide these.
const UNREAD: [&str; 12] = [
    "utf-16",
    "byte-order-mark",
    "not-read",
    "long-line",
    "file-rejected",
    "many-names",
    "leading-blank",
    "carriage-return",
    "no-final-newline",
    "not-ldh",
    "zone-ignored",
    "nul",
];

impl SessionState {
    pub(super) fn take_snapshot(&mut self, catalog: Catalog, now: Timestamp) {
        if let Some(claimed) = self.environment.replace(catalog.environment.clone())
            && claimed != catalog.environment
        {
            // Names, addresses and the claim hang on the environment.
            let reason = format!(
                "the gateway serves `{}` now, and this session is for `{claimed}`",
                catalog.environment
            );
            self.environment = Some(claimed);
            self.events.push_back(Event::CatalogStale {
                reason: reason.clone(),
            });
            self.stale = Some(reason);
            return;
        }
        let gone: Vec<_> = self
            .entries
            .keys()
            .filter(|id| !catalog.services.contains_key(id))
            .cloned()
            .collect();
        for id in gone {
            self.remove(&id, now);
        }
        self.take_services(catalog.services.into_values().collect(), now);
        self.seen_catalog = true;
    }

    /// Takes services that are new or may have changed. A port that stays keeps its listener and its connections.
    pub(super) fn take_services(&mut self, services: Vec<Service>, now: Timestamp) {
        let mut fresh = BTreeSet::new();
        for service in services {
            let entry = self.entries.entry(service.id.clone()).or_insert_with(|| {
                fresh.insert(service.id.clone());
                Entry {
                    address: None,
                    candidate: 0,
                    all_in_use: false,
                    ports: BTreeMap::new(),
                    announced: false,
                }
            });
            let wanted: BTreeMap<PortKey, _> = service
                .ports
                .into_iter()
                .map(|port| ((port.port, port.protocol), port))
                .collect();
            let address = entry.address;
            // A port that is new or gone is news of the service.
            entry.announced &= entry.ports.keys().eq(wanted.keys());
            entry.ports.retain(|key, port| {
                let stays = wanted.contains_key(key);
                if !stays
                    && port.state == PortState::Listening
                    && let Some(address) = address
                {
                    self.to_close.insert(SocketAddr::new(address, key.0.get()));
                    self.hosts.stale = true;
                }
                stays
            });
            for (key, port) in wanted {
                let kept = entry.ports.remove(&key).unwrap_or_else(|| PortEntry::new(key.1));
                if kept.state == PortState::Opening {
                    self.to_open.insert(service.id.clone());
                }
                entry.ports.insert(
                    key,
                    PortEntry {
                        name: port.name,
                        target: port.target,
                        ..kept
                    },
                );
            }
        }
        self.lease(fresh, now);
    }

    pub(super) fn remove(&mut self, id: &ServiceId, now: Timestamp) {
        let Some(entry) = self.entries.remove(id) else {
            return;
        };
        self.to_open.remove(id);
        if let Some(address) = entry.address {
            let listening = entry
                .ports
                .iter()
                .filter(|(_, port)| port.state == PortState::Listening);
            self.to_close
                .extend(listening.map(|((number, _), _)| SocketAddr::new(address, number.get())));
            for candidate in BTreeSet::from([0, entry.candidate]) {
                if let Some(key) = self.key(id, candidate) {
                    self.addresses.release(&key, now);
                }
            }
        }
        self.hosts.stale = true;
        self.events
            .push_back(Event::ServiceRemoved { service: id.clone() });
    }

    /// Gives services their addresses. All of a batch are leased together, so that the outcome is a function of the
    /// set of names and not of their order.
    pub(super) fn lease(&mut self, services: BTreeSet<ServiceId>, now: Timestamp) {
        let mut keys = BTreeMap::new();
        for id in services {
            match self.key(&id, 0) {
                Some(key) => drop(keys.insert(key, id)),
                None => self.degrade(&id, "its name is too long for an address to be chosen by it"),
            }
        }
        let leased = self.addresses.lease_all(keys.keys(), now);
        for (id, leased) in keys.values().zip(leased.into_values()) {
            match (leased, self.entries.get_mut(id)) {
                (Ok(address), Some(entry)) => entry.address = Some(address),
                (Err(error), _) => self.degrade(id, &format!("no address is left for it: {error}")),
                (Ok(_), None) => {}
            }
        }
    }

    /// Gives a service its next candidate, for this session only: its own address stays leased to it. After the last one it
    /// comes back to its own.
    pub(super) fn move_on(&mut self, id: &ServiceId) {
        let Some(from) = self.entries.get(id).map(|entry| entry.candidate) else {
            return;
        };
        let to = (from + 1) % CANDIDATES;
        self.settle_at(id, to);
        if let Some(entry) = self.entries.get_mut(id) {
            entry.all_in_use = to == 0;
        }
    }

    /// Moves a service without listeners to one of its candidates.
    fn settle_at(&mut self, id: &ServiceId, candidate: usize) {
        let now = self.today;
        let from = self.entries.get(id).map_or(0, |entry| entry.candidate);
        if from != 0
            && let Some(key) = self.key(id, from)
        {
            self.addresses.release(&key, now);
        }
        let leased = self.key(id, candidate).map(|key| self.addresses.lease(&key, now));
        match (leased, self.entries.get_mut(id)) {
            (Some(Ok(address)), Some(entry)) => {
                entry.address = Some(address);
                entry.candidate = candidate;
            }
            (Some(Err(error)), Some(entry)) => {
                entry.candidate = 0;
                self.degrade(id, &format!("no address is left for it: {error}"));
            }
            _ => {}
        }
    }

    /// Takes a whole service as not offered.
    fn degrade(&mut self, id: &ServiceId, reason: &str) {
        self.to_open.remove(id);
        self.degraded.insert(id.clone());
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        for ((number, _), port) in &mut entry.ports {
            port.state = PortState::Degraded(reason.to_owned());
            if port.told.replace(reason.to_owned()).as_deref() != Some(reason) {
                self.events.push_back(Event::PortDegraded {
                    service: id.clone(),
                    port: number.get(),
                    reason: reason.to_owned(),
                });
            }
        }
    }

    /// The address of a service hangs on its full name, the environment included.
    fn key(&self, id: &ServiceId, candidate: usize) -> Option<Key> {
        let environment = self.environment.as_ref()?;
        let own = format!("{environment}/{}/{}", id.namespace, id.name);
        let text = if candidate == 0 {
            own
        } else {
            format!("{own}/{candidate}")
        };
        Key::new(&text).ok()
    }

    pub(super) fn next_change(&mut self, now: Instant) -> Option<Step> {
        if !self.claimed {
            return Some(Step::Claim {
                environment: self.environment.clone()?,
            });
        }
        self.retry_degraded(now);
        while let Some(id) = self.to_open.pop_first() {
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            let Some(address) = entry.address else { continue };
            let mut ports = Vec::new();
            for ((number, protocol), port) in &mut entry.ports {
                if port.state != PortState::Opening {
                    continue;
                }
                // It left and came back before its listener was closed: that one serves it still.
                if self.to_close.remove(&SocketAddr::new(address, number.get())) {
                    port.state = PortState::Listening;
                    self.hosts.stale = true;
                } else if let Some(target) = target(&id, *number, *protocol) {
                    ports.push((*number, target));
                }
            }
            if !ports.is_empty() {
                let all_or_none = entry.may_move();
                return Some(Step::Open {
                    service: id,
                    address,
                    ports,
                    all_or_none,
                });
            }
        }
        if self.hosts.stale && self.hosts.retry_at.is_none_or(|at| at <= now) {
            self.hosts.stale = false;
            let entries = self.hosts_entries();
            if self.settings.write_hosts && entries != self.hosts.applied {
                return Some(Step::WriteHosts { entries });
            }
        }
        self.announce();
        let listeners = std::mem::take(&mut self.to_close);
        if !listeners.is_empty() {
            return Some(Step::Close {
                listeners: listeners.into_iter().collect(),
                drain: self.settings.drain,
            });
        }
        None
    }

    /// Tries again what could not be offered.
    fn retry_degraded(&mut self, now: Instant) {
        match self.degraded_until {
            None if !self.degraded.is_empty() => self.degraded_until = Some(now + DEGRADED_PAUSE),
            Some(until) if until <= now => {
                self.degraded_until = None;
                for id in std::mem::take(&mut self.degraded) {
                    let Some(entry) = self.entries.get_mut(&id) else {
                        continue;
                    };
                    for ((_, protocol), port) in &mut entry.ports {
                        if port.told.is_some() && *protocol == Protocol::Tcp {
                            port.state = PortState::Opening;
                        }
                    }
                    let idle = !entry.has_listener();
                    self.to_open.insert(id.clone());
                    if idle {
                        // Its own address may be free again, or there may be one at last.
                        entry.all_in_use = false;
                        self.settle_at(&id, 0);
                    }
                }
            }
            _ => {}
        }
    }

    /// Tells of what is up, once its names are written.
    fn announce(&mut self) {
        if !self.seen_catalog {
            return;
        }
        let fresh: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| !entry.announced)
            .map(|(id, _)| id.clone())
            .collect();
        for id in fresh {
            if self.ready
                && let Some(entry) = self.entries.get(&id)
            {
                let service = self.report_service(&id, entry);
                self.events.push_back(Event::ServiceUp { service });
            }
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.announced = true;
            }
        }
        if !self.ready {
            self.ready = true;
            self.events.push_back(Event::Ready {
                status: Box::new(self.report()),
            });
        }
    }

    pub(super) fn take_hosts_report(&mut self, report: HostsReport) {
        self.hosts.taken = report
            .conflicts
            .into_iter()
            .map(|found| (found.name, found.line))
            .collect();
        for (name, line) in &self.hosts.taken {
            if self.hosts.told.insert(format!("taken {name}")) {
                self.events.push_back(Event::NameTaken {
                    name: name.clone(),
                    line: *line,
                });
            }
        }
        for found in report
            .diagnostics
            .into_iter()
            .filter(|found| UNREAD.contains(&found.kind.as_str()))
        {
            let place = found.line.map_or_else(String::new, |line| format!(":{line}"));
            let message = format!("{}{place}: {}", report.file.display(), found.message);
            if self.hosts.told.insert(message.clone()) {
                self.events.push_back(Event::HostsDiagnostic { message });
            }
        }
    }

    /// The hosts entries that the catalog asks for, sorted by service.
    pub fn hosts_entries(&self) -> Vec<HostsEntry> {
        let entries = self.entries.iter().filter(|(_, entry)| entry.has_listener());
        entries
            .filter_map(|(id, entry)| {
                Some(HostsEntry {
                    address: entry.address?,
                    names: self.names_of(id),
                })
            })
            .filter(|entry| !entry.names.is_empty())
            .collect()
    }
}

/// What a stream for this port asks of the far side.
fn target(service: &ServiceId, port: NonZeroU16, protocol: Protocol) -> Option<Target> {
    let target = service_catalog::Target {
        service: service.clone(),
        port,
        protocol,
    };
    Target::new(&target.to_string()).ok()
}

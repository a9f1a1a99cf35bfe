//! The session as a pure state machine: what happened goes in by `handle_*`, what to do next comes out of
//! [`SessionState::poll_step`], what to tell comes out of [`SessionState::poll_event`]. It never blocks, sleeps, reads
//! a clock or holds a socket.
//!
//! It is put together from smaller ones, each with its own tests: the link to each provider and how often its catalog
//! changes, the leases, the listeners, the refused connections, the names and the notices. Here is only what they have to do with each other: the order *address →
//! listener → name*, backwards for what leaves; what a catalog means to each of them; and the way to the end. A step
//! that fails degrades its own service and nothing else.

mod churn;
mod leases;
mod link;
mod listeners;
mod names;
mod notices;
mod other_names;
mod refusals;
mod relink;
mod strangers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use devbox_helper_client::{Endpoint, Protocol};
use devbox_provider::{ConnectError, Status};
use ipalloc::{Allocator, Timestamp};
use service_catalog::{Catalog, Health, Label, Service, ServiceId, Update};
use tunnel_bridge::Refusal;
use tunnel_bridge::listener::Stranger;

use crate::host::BindFault;
use crate::key::{ProviderId, ServiceKey};
use crate::lease_keeper::LeaseChange;
use crate::report::{Event, PortReport, Rejected, ServiceReport, StatusReport, UdpReport};
use crate::settings::{Settings, StopReason};
use crate::sink::{Behind, PublishError, Published, Records};
use crate::step::Step;
use churn::Churn;
use leases::Leases;
use link::{Arrival, Backoff, Failure, Link, Look};
use listeners::{Bind, Bound, Listeners, Next, PortKey};
use names::{Names, Right, Wish};
use notices::Notices;
use other_names::OtherNames;
use refusals::Refusals;
use relink::Relink;
use strangers::Strangers;

/// The session's whole state; one task owns it.
///
/// The crate's own documentation shows it at work.
#[derive(Debug)]
pub struct SessionState {
    settings: Settings,
    backoff: Backoff,
    links: Vec<Link>,
    relink: Relink,
    churns: Vec<Churn>,
    services: BTreeMap<ServiceKey, Service>,
    other_names: OtherNames,
    leases: Leases,
    listeners: Listeners,
    names: Names,
    notices: Notices,
    refusals: Refusals,
    strangers: Strangers,
    claims: BTreeMap<Label, Claim>,
    /// Steps that have no outcome and are due at once.
    due: VecDeque<Step>,
    /// A step that changes listeners is under way; there is never more than one.
    busy: bool,
    unannounced: BTreeMap<ServiceKey, News>,
    round: Round,
    /// Connections that were reset because too many were open.
    rejected: u64,
    told_rejected: bool,
    ready: bool,
    /// The date as of the last input.
    today: Timestamp,
    stop: Option<Stop>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    Wanted,
    UnderWay,
    Made,
    /// Under way, and no longer wanted: given up once it is made.
    Abandoned,
}

/// What is to be told of a service once its names are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    /// It is there: it was not told of before.
    New,
    /// It is not what was told.
    Changed,
}

/// What the names that are on their way to the sinks are the last hindrance to. Whatever comes up meanwhile waits for the next ones, and
/// does not hold this up.
#[derive(Debug, Default)]
struct Round {
    unannounced: BTreeMap<ServiceKey, News>,
    to_close: BTreeSet<Endpoint>,
}

#[derive(Debug)]
struct Stop {
    reason: StopReason,
    phase: Phase,
    /// A second request: nothing is waited for.
    hurried: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    WithdrawNames,
    CloseListeners,
    Release,
    AwaitRelease,
    Done,
}

/// What was carried on one endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections accepted, those open now included.
    pub connections: u64,
    /// Connections open now.
    pub active: u64,
    /// Bytes sent to the service.
    pub sent_bytes: u64,
    /// Bytes received from the service.
    pub received_bytes: u64,
    /// Why the last connection failed, if it did.
    pub last_failure: Option<String>,
    /// Connections that were reset because too many were open.
    pub rejected: u64,
    /// Connections that were reset because who made them may not connect.
    pub strangers: u64,
    /// What became of datagrams, for a UDP port that has any.
    pub udp: Option<UdpReport>,
}

impl SessionState {
    /// A session that has done nothing yet; its first steps are to connect to its providers. `sinks` are the places that
    /// names go to, as messages call them.
    pub fn new(settings: Settings, addresses: Allocator, sinks: Vec<String>, now: Instant) -> Self {
        let (shortest, longest) = settings.backoff;
        let links = settings.providers.iter().map(|provider| Link::new(provider, now));
        let churns = settings.providers.iter().enumerate();
        let churns =
            churns.map(|(index, provider)| Churn::new(ProviderId(index), provider.name.clone(), now));
        Self {
            backoff: Backoff {
                shortest,
                longest,
                seed: settings.seed,
            },
            links: links.collect(),
            relink: Relink::default(),
            churns: churns.collect(),
            settings,
            services: BTreeMap::new(),
            other_names: OtherNames::default(),
            leases: Leases::new(addresses),
            listeners: Listeners::default(),
            names: Names::new(sinks),
            notices: Notices::default(),
            refusals: Refusals::default(),
            strangers: Strangers::default(),
            claims: BTreeMap::new(),
            due: VecDeque::new(),
            busy: false,
            unannounced: BTreeMap::new(),
            round: Round::default(),
            rejected: 0,
            told_rejected: false,
            ready: false,
            today: Timestamp::from_secs(0),
            stop: None,
        }
    }

    /// The next step, if there is one to take now.
    pub fn poll_step(&mut self, now: Instant) -> Option<Step> {
        if let Some(step) = self.due.pop_front() {
            return Some(step);
        }
        if self.stop.is_some() {
            return self.next_undo(now);
        }
        let hold = self.settings.backoff.1;
        if self.relink.poll(now) {
            self.look_at_links(now);
            if let Some(step) = self.due.pop_front() {
                return Some(step);
            }
        }
        let overdue = self
            .links
            .iter()
            .position(|link| link.is_overdue(now))
            .map(ProviderId);
        if let Some(provider) = overdue {
            self.handle_link_lost(provider, "it sent no catalog".to_owned(), now);
            return Some(Step::Disconnect { provider });
        }
        for churn in &mut self.churns {
            churn.handle_timeout(now, &mut self.notices);
        }
        for (index, link) in self.links.iter_mut().enumerate() {
            link.handle_timeout(now, hold, &mut self.notices);
            if let Some(environment) = link.poll_connect(now) {
                return Some(Step::Connect {
                    provider: ProviderId(index),
                    environment,
                });
            }
        }
        self.next_change(now)
    }

    /// The next thing to tell.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.notices.poll_event()
    }

    /// What became of addresses since the last call.
    pub fn take_lease_changes(&mut self) -> Vec<LeaseChange> {
        self.leases.take_changes()
    }

    /// When to call [`SessionState::poll_step`] again even if nothing happens.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.stop.is_some() {
            return None;
        }
        let hold = self.settings.backoff.1;
        let links = self.links.iter().filter_map(|link| link.poll_timeout(hold));
        // While listeners are being opened, neither names nor degraded services are looked at.
        let machine = [self.names.poll_timeout(), self.listeners.poll_timeout()];
        let machine = machine.into_iter().flatten().filter(|_| !self.is_opening());
        let churns = self.churns.iter().filter_map(Churn::poll_timeout);
        let relink = self.relink.poll_timeout();
        links.chain(churns).chain(machine).chain(relink).min()
    }

    /// Why the session ended, once all is undone.
    pub fn finished(&self) -> Option<&StopReason> {
        let stop = self.stop.as_ref()?;
        (stop.phase == Phase::Done).then_some(&stop.reason)
    }

    /// Whether the session is on its way to its end.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_some()
    }

    /// Whether the session was asked twice to end: connections and hanging effects are not waited for.
    pub fn is_hurried(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.hurried)
    }

    /// So many connections were reset so far because too many were open, and so many are open.
    pub fn handle_connections(&mut self, rejected: u64, open: usize) {
        let limit = self.settings.max_connections;
        if rejected > self.rejected {
            self.rejected = rejected;
            if !std::mem::replace(&mut self.told_rejected, true) {
                self.notices.push(Event::TooManyConnections { limit });
            }
        } else if open < limit - limit / 4 {
            self.told_rejected = false;
        }
    }

    /// Ends the session. The first reason counts; a second call means that nothing is waited for.
    pub fn stop(&mut self, reason: StopReason) {
        match &mut self.stop {
            Some(stop) => stop.hurried = true,
            None => {
                self.notices.push(Event::Stopping {
                    reason: reason.to_string(),
                });
                self.due.clear();
                self.names.withdraw();
                self.stop = Some(Stop {
                    reason,
                    phase: Phase::WithdrawNames,
                    hurried: false,
                });
            }
        }
    }

    /// A provider serves another environment from here on. What it served before goes once the new catalog is there, in
    /// one change of the names; meanwhile nothing of either is dialed. Whether there is such a provider.
    pub fn switch_environment(&mut self, provider: ProviderId, environment: Label, now: Instant) -> bool {
        let Some(link) = self.links.get_mut(provider.0) else {
            return false;
        };
        if self.stop.is_none() && link.settled() != Some(&environment) {
            link.switch(environment, now);
            self.due.push_back(Step::Disconnect { provider });
        }
        true
    }

    /// How a provider is reached.
    pub fn set_status(&mut self, provider: ProviderId, status: Status) {
        if let Some(link) = self.links.get_mut(provider.0) {
            link.set_status(status);
        }
    }

    /// A provider answered. Nothing is dialed over it before its catalog is known to be the session's environment.
    pub fn handle_connected(&mut self, provider: ProviderId, now: Instant) {
        if let Some(link) = self.links.get_mut(provider.0) {
            link.handle_connected(now);
        }
    }

    /// A provider did not answer, or refused.
    pub fn handle_connect_failed(&mut self, provider: ProviderId, error: ConnectError, now: Instant) {
        let tries = self.settings.first_tries;
        let Some(link) = self.links.get_mut(provider.0).filter(|_| self.stop.is_none()) else {
            return;
        };
        match link.handle_failed(error, now, tries, &mut self.backoff, &mut self.notices) {
            Failure::Retry => {}
            Failure::Superseded { message } => self.superseded(provider, message),
            Failure::GivenUp => self.given_up(provider),
        }
    }

    /// The first connect to a provider is given up: the session goes on if it has another.
    fn given_up(&mut self, provider: ProviderId) {
        if self.links.iter().all(|link| link.given_up().is_some()) {
            let first = self.links.first().and_then(Link::given_up).cloned();
            if let Some((error, tries, waited)) = first {
                let reason = match error.verdict() {
                    devbox_provider::Verdict::Retry => StopReason::Unreachable {
                        last: error,
                        tries,
                        waited,
                    },
                    _ => StopReason::Refused(error),
                };
                self.stop(reason);
            }
        } else if let Some((error, ..)) = self.links.get(provider.0).and_then(Link::given_up) {
            self.notices.push(Event::ProviderFailed {
                provider: self.provider_name(provider),
                reason: error.to_string(),
                retried: error.verdict() == devbox_provider::Verdict::Retry,
            });
        }
    }

    fn superseded(&mut self, provider: ProviderId, message: String) {
        let provider = self.provider_name(provider);
        self.stop(StopReason::Superseded { provider, message });
    }

    fn provider_name(&self, provider: ProviderId) -> String {
        self.links
            .get(provider.0)
            .map_or_else(String::new, |link| link.name().to_owned())
    }

    /// The link to a provider was lost. Listeners and names stay.
    pub fn handle_link_lost(&mut self, provider: ProviderId, reason: String, now: Instant) {
        let hold = self.settings.backoff.1;
        let Some(link) = self.links.get_mut(provider.0).filter(|_| self.stop.is_none()) else {
            return;
        };
        if link.awaits_first_catalog() {
            // It lets in and says nothing: that is no answer.
            let far_side = link.report().status.far_side;
            let error = ConnectError::Unreachable { far_side, reason };
            return self.handle_connect_failed(provider, error, now);
        }
        link.handle_lost(reason, now, hold, &mut self.backoff, &mut self.notices);
    }

    /// The far side of a provider said that it leaves, in good order. Otherwise as
    /// [`handle_link_lost`](Self::handle_link_lost).
    pub fn handle_link_left(&mut self, provider: ProviderId, reason: String, now: Instant) {
        let hold = self.settings.backoff.1;
        match self.links.get_mut(provider.0).filter(|_| self.stop.is_none()) {
            Some(link) if link.is_up() => {
                link.handle_left(reason, now, hold, &mut self.backoff, &mut self.notices);
            }
            _ => self.handle_link_lost(provider, reason, now),
        }
    }

    /// The machine's network has changed, or the machine has slept: links that are up are checked soon, and where there is none it is
    /// tried at once.
    pub fn handle_nudge(&mut self, now: Instant) {
        if self.stop.is_none() {
            self.relink.handle_nudge(now);
        }
    }

    fn look_at_links(&mut self, now: Instant) {
        for (index, link) in self.links.iter_mut().enumerate() {
            if link.look_again(now) == Look::Check {
                self.due.push_back(Step::Check {
                    provider: ProviderId(index),
                });
            }
        }
    }

    /// The link to a provider has lost the connection under it, and waits until then for another one: its streams stay, and
    /// nothing is dialed over it meanwhile.
    pub fn handle_link_interrupted(&mut self, provider: ProviderId, now: Instant, until: Instant) {
        if let Some(link) = self.links.get_mut(provider.0).filter(|_| self.stop.is_none()) {
            link.handle_interrupted(now, until);
        }
    }

    /// A link goes on over another connection; it has done so as many times as `resumes` says since it was made.
    pub fn handle_link_resumed(&mut self, provider: ProviderId, now: Instant, resumes: u64) {
        if let Some(link) = self.links.get_mut(provider.0).filter(|_| self.stop.is_none()) {
            link.handle_resumed(now, resumes, &mut self.notices);
        }
    }

    /// Another connection of this session took over at a provider: this one must not come back.
    pub fn handle_superseded(&mut self, provider: ProviderId, message: String) {
        // On the way to its end already; that is not a second request.
        if self.stop.is_none() {
            self.superseded(provider, message);
        }
    }

    /// A provider's catalog came or changed. `today` dates what happens to addresses.
    pub fn handle_update(&mut self, provider: ProviderId, update: Update, now: Instant, today: Timestamp) {
        self.today = today;
        if self.stop.is_some() {
            return;
        }
        match update {
            Update::Snapshot(catalog) => self.take_snapshot(provider, catalog, now),
            Update::Changed { upserted, removed } => {
                let Some(environment) = self.trusted(provider) else {
                    return;
                };
                let gone = removed.into_iter().map(|service| ServiceKey {
                    provider,
                    environment: environment.clone(),
                    service,
                });
                self.remove_all(provider, gone.collect(), now);
                self.take_services(provider, &environment, upserted);
            }
            Update::Health(health) => {
                let Some(link) = self.links.get_mut(provider.0).filter(|link| link.is_up()) else {
                    return;
                };
                let stale = match health {
                    Health::Live => None,
                    Health::Stale { reason } => Some(reason),
                };
                if link.handle_stale(provider, stale, &mut self.notices) {
                    self.churned(provider, now);
                }
            }
        }
    }

    /// The environment of a provider whose link is up.
    fn trusted(&self, provider: ProviderId) -> Option<Label> {
        let link = self.links.get(provider.0).filter(|link| link.is_up())?;
        link.settled().cloned()
    }

    fn take_snapshot(&mut self, provider: ProviderId, catalog: Catalog, now: Instant) {
        let Some(link) = self.links.get_mut(provider.0) else {
            return;
        };
        let environment = catalog.environment;
        match link.handle_catalog(
            &environment,
            catalog.notes,
            now,
            &mut self.backoff,
            &mut self.notices,
        ) {
            Arrival::Unexpected => return,
            Arrival::Wrong => {
                self.due.push_back(Step::Disconnect { provider });
                if !self.links.get(provider.0).is_some_and(Link::has_answered) {
                    // The first catalog is not what was asked for, and the far side let us in all the same.
                    self.wrong_from_the_start(provider, &environment, now);
                }
                return;
            }
            Arrival::Accepted { switched } => {
                if switched {
                    self.notices.push(Event::EnvironmentSwitched {
                        provider: self.provider_name(provider),
                        environment: environment.to_string(),
                    });
                }
            }
        }
        self.due.push_back(Step::Admit {
            provider,
            environment: environment.clone(),
        });
        let gone: Vec<_> = self
            .services
            .keys()
            .filter(|key| {
                key.provider == provider
                    && (key.environment != environment || !catalog.services.contains_key(&key.service))
            })
            .cloned()
            .collect();
        self.remove_all(provider, gone, now);
        let claim = self.claims.entry(environment.clone()).or_insert(Claim::Wanted);
        if *claim == Claim::Abandoned {
            *claim = Claim::UnderWay;
        }
        self.give_up_claims();
        self.take_services(provider, &environment, catalog.services.into_values().collect());
    }

    fn wrong_from_the_start(&mut self, provider: ProviderId, found: &Label, now: Instant) {
        let status = self.links.get(provider.0).map(|link| link.report().status);
        let error = ConnectError::UnknownEnvironment {
            far_side: status.map_or_else(String::new, |status| status.far_side),
            message: format!("it serves `{found}`"),
        };
        if let Some(link) = self.links.get_mut(provider.0) {
            link.fail(error, now);
        }
        self.given_up(provider);
    }

    /// Gives up the environments that no provider serves and no service is of.
    fn give_up_claims(&mut self) {
        let settled = self.links.iter().filter_map(Link::settled);
        let served: BTreeSet<_> = settled
            .chain(self.services.keys().map(|key| &key.environment))
            .cloned()
            .collect();
        let left = self
            .claims
            .extract_if(.., |environment, claim| match claim {
                _ if served.contains(environment) => false,
                Claim::UnderWay | Claim::Abandoned => {
                    *claim = Claim::Abandoned;
                    false
                }
                Claim::Wanted | Claim::Made => true,
            })
            .filter(|(_, claim)| *claim == Claim::Made);
        let given_up = left.map(|(environment, _)| Step::Unclaim { environment });
        self.due.extend(given_up.collect::<Vec<_>>());
    }

    /// Takes services that are new or may have changed. A port that stays keeps its listener and its connections.
    fn take_services(&mut self, provider: ProviderId, environment: &Label, services: Vec<Service>) {
        let mut fresh = Vec::new();
        for mut service in services {
            if let Some(options) = self.settings.listening.services.get(&service.id) {
                options.prevail(&mut service);
            }
            let key = ServiceKey {
                provider,
                environment: environment.clone(),
                service: service.id.clone(),
            };
            let before = self.services.get(&key);
            if before == Some(&service) {
                continue;
            }
            let new = before.is_none();
            let was_alias = before.is_some_and(|before| before.alias_of.is_some());
            let moves = before.is_some_and(|before| before.pin != service.pin) && !was_alias;
            let target = |service: &Service| {
                let target = service.alias_of.clone();
                target.map(|target| ServiceKey {
                    service: target,
                    ..key.clone()
                })
            };
            let (former, target) = (before.and_then(target), target(&service));
            self.other_names.set(&key, former, target);
            if service.alias_of.is_some() {
                if !new && !was_alias {
                    self.listeners.remove(&key);
                    self.leases.release(&key, self.today);
                }
            } else {
                if moves {
                    // Another address: its listeners are opened there before those that it has are closed.
                    self.listeners.remove(&key);
                    self.leases.release(&key, self.today);
                }
                let ports = service
                    .ports
                    .iter()
                    .map(|port| port_key(port.port.get(), port.protocol));
                if self.listeners.set_ports(&key, ports) || was_alias {
                    self.unannounced.entry(key.clone()).or_insert(News::Changed);
                }
                if new || was_alias || moves {
                    fresh.push((key.clone(), service.pin));
                }
            }
            if new {
                self.unannounced.insert(key.clone(), News::New);
            }
            self.mark(&key);
            self.services.insert(key, service);
        }
        let pins = fresh.iter().map(|(key, pin)| (key, *pin));
        let faults = self.leases.place(pins, self.today);
        for (key, _) in &fresh {
            self.listeners.set_addresses(key, self.leases.addresses(key));
        }
        for (key, fault) in faults {
            self.listeners.degrade(&key, &fault, &mut self.notices);
        }
    }

    fn remove_all(&mut self, provider: ProviderId, mut gone: Vec<ServiceKey>, now: Instant) {
        gone.retain(|key| self.services.contains_key(key));
        if gone.is_empty() {
            return;
        }
        self.churned(provider, now);
        for key in gone {
            self.remove(&key);
        }
    }

    /// What a provider's catalog has was taken away, or its health changed.
    fn churned(&mut self, provider: ProviderId, now: Instant) {
        if let Some(churn) = self.churns.get_mut(provider.0) {
            churn.handle_change(now, &mut self.notices);
        }
    }

    fn remove(&mut self, key: &ServiceKey) {
        let service = self.services.remove(key);
        if let Some(target) = service.and_then(|service| service.alias_of) {
            let target = ServiceKey {
                service: target,
                ..key.clone()
            };
            self.other_names.set(key, Some(target), None);
        }
        let news = [&mut self.unannounced, &mut self.round.unannounced].map(|news| news.remove(key));
        let untold = news.contains(&Some(News::New)) || !self.ready;
        self.listeners.remove(key);
        self.leases.release(key, self.today);
        self.mark(key);
        if !untold {
            let service = key.service.clone();
            self.notices
                .push_about(key.provider, Event::ServiceRemoved { service });
        }
    }

    /// Whether a provider's link carries datagrams, as far as is known from its far side. Comes with each catalog.
    pub fn handle_datagrams(&mut self, provider: ProviderId, carried: bool) {
        if self.listeners.set_carries_udp(provider, carried) {
            let of_provider = self.services.keys().filter(|key| key.provider == provider);
            for key in of_provider.cloned().collect::<Vec<_>>() {
                self.mark(&key);
            }
        }
    }

    /// The names of a service, or where they lead, may be other than they were; and so may those that are other names for it.
    fn mark(&mut self, service: &ServiceKey) {
        for other in self.other_names.of(service) {
            self.names.mark(other.clone());
        }
        self.names.mark(service.clone());
    }

    /// The outcome of [`Step::Claim`].
    pub fn handle_claimed(&mut self, environment: &Label) {
        match self.claims.get_mut(environment) {
            Some(Claim::Abandoned) | None => {
                self.claims.remove(environment);
                self.due.push_back(Step::Unclaim {
                    environment: environment.clone(),
                });
            }
            Some(claim) => *claim = Claim::Made,
        }
    }

    /// The outcome of [`Step::Bind`], one result for each of its endpoints. Where it was all or none and one is in use,
    /// whoever carried it out has let go of the others.
    pub fn handle_bound(
        &mut self,
        service: &ServiceKey,
        address: IpAddr,
        all_or_none: bool,
        results: Vec<(Endpoint, Result<(), BindFault>)>,
    ) {
        self.busy = false;
        let listened = results.iter().any(|(_, result)| result.is_ok());
        let repaired = listened && self.is_told_degraded(service, &results);
        match self
            .listeners
            .handle_bound(service, address, all_or_none, results, &mut self.notices)
        {
            Bound::Done => {
                if listened {
                    self.mark(service);
                }
                if repaired {
                    // It was reported as not offered: that it is offered is news.
                    self.unannounced.entry(service.clone()).or_insert(News::Changed);
                }
            }
            Bound::AddressInUse { counts } => self.move_on(service, counts),
            Bound::Gone => {}
        }
    }

    fn is_told_degraded(&self, service: &ServiceKey, results: &[(Endpoint, Result<(), BindFault>)]) -> bool {
        results
            .iter()
            .filter(|(_, result)| result.is_ok())
            .any(|(endpoint, _)| {
                self.listeners
                    .is_told(service, (endpoint.port, endpoint.protocol))
            })
    }

    fn move_on(&mut self, service: &ServiceKey, counts: bool) {
        match self.leases.next_candidate(service, counts, self.today) {
            Ok(home) => {
                if home {
                    self.listeners.stay(service);
                }
                self.listeners
                    .set_addresses(service, self.leases.addresses(service));
                self.mark(service);
            }
            Err(fault) => self.listeners.degrade(service, &fault, &mut self.notices),
        }
    }

    /// The outcome of [`Step::Publish`].
    pub fn handle_published(
        &mut self,
        sink: usize,
        records: Records,
        result: Result<Published, PublishError>,
        now: Instant,
    ) {
        match result {
            Ok(published) => self
                .names
                .handle_published(sink, records, published, now, &mut self.notices),
            // A helper that is gone was reported.
            Err(_) if self.is_without_helper() => self.names.give_up(sink),
            Err(error) if self.stop.is_some() => {
                self.names.give_up(sink);
                self.notices.push(Event::NamesFailed {
                    sink: self.names.sink_name(sink).to_owned(),
                    reason: error.to_string(),
                });
            }
            Err(error) if !self.ready => {
                self.names.give_up(sink);
                let sink = self.names.sink_name(sink).to_owned();
                self.stop(StopReason::Names { sink, error, records });
            }
            Err(error) => {
                let pause = self.settings.backoff.1;
                self.names
                    .handle_failed(sink, &error, now, pause, &mut self.notices);
            }
        }
    }

    /// Somebody else may have changed what a sink published: it is published again, soon but not again and again.
    pub fn handle_disturbed(&mut self, sink: usize, now: Instant) {
        if self.stop.is_none() {
            self.names.handle_disturbed(sink, now);
        }
    }

    fn is_without_helper(&self) -> bool {
        let reason = self.stop.as_ref().map(|stop| &stop.reason);
        matches!(reason, Some(StopReason::HelperLost { .. }))
    }

    /// The far side refused a connection that `endpoint` had accepted. `received_bytes` is what the endpoint's connections have
    /// brought back so far: it tells whether the service has worked since the refusal before.
    pub fn handle_refused(
        &mut self,
        endpoint: &Endpoint,
        refusal: Refusal,
        received_bytes: u64,
        now: Instant,
    ) {
        let Some((service, port)) = self.listeners.owner(endpoint).filter(|_| self.stop.is_none()) else {
            return;
        };
        if self
            .refusals
            .handle_refused(service, *port, refusal.kind, received_bytes, now)
        {
            let event = Event::ConnectionFailed {
                service: service.service.clone(),
                port: port.0,
                cause: refusal.kind.to_string(),
                reason: refusal.message,
            };
            self.notices.push_about(service.provider, event);
        }
    }

    /// Somebody who may not connect to a listener tried to.
    pub fn handle_stranger(&mut self, endpoint: &Endpoint, stranger: Stranger) {
        let Some((service, port)) = self.listeners.owner(endpoint).filter(|_| self.stop.is_none()) else {
            return;
        };
        if self.strangers.handle(service, *port, stranger) {
            let event = Event::StrangerRefused {
                service: service.service.clone(),
                port: port.0,
                who: stranger.to_string(),
            };
            self.notices.push_about(service.provider, event);
        }
    }

    /// So many connections are still open a while after [`Step::Close`].
    pub fn handle_still_open(&mut self, connections: u64) {
        let draining = |stop: &Stop| stop.phase == Phase::CloseListeners && !stop.hurried;
        if connections > 0 && self.stop.as_ref().is_some_and(draining) {
            self.notices.push(Event::Draining {
                connections,
                within: self.settings.drain,
            });
        }
    }

    /// The outcome of [`Step::Close`].
    pub fn handle_closed(&mut self, endpoints: &[Endpoint]) {
        self.busy = false;
        self.listeners.handle_closed(endpoints);
    }

    /// The outcome of [`Step::Release`].
    pub fn handle_released(&mut self, result: Result<(), PublishError>) {
        let Some(stop) = &mut self.stop else { return };
        stop.phase = Phase::Done;
        // A file that could not be written in the first place holds nothing of ours, and a helper that is gone was
        // reported.
        let told = matches!(
            stop.reason,
            StopReason::Names { .. } | StopReason::HelperLost { .. }
        );
        let Some(error) = result.err().filter(|_| !told) else {
            return;
        };
        if matches!(stop.reason, StopReason::Requested { .. }) {
            stop.reason = StopReason::NotUndone { error };
        } else {
            self.notices.push(Event::NamesFailed {
                sink: self.names.sink_name(0).to_owned(),
                reason: error.to_string(),
            });
        }
    }

    /// The helper is gone before it was released: nothing that it did can be undone from here.
    pub fn handle_helper_lost(&mut self) {
        if self.stop.is_some() {
            return;
        }
        let left = self.names.is_anything_published();
        let hosts_file = self.settings.identity.hosts_file.clone().filter(|_| left);
        self.stop(StopReason::HelperLost { hosts_file });
    }

    fn is_opening(&self) -> bool {
        self.busy || self.listeners.is_opening(claimed(&self.claims))
    }

    fn next_change(&mut self, now: Instant) -> Option<Step> {
        for (environment, claim) in &mut self.claims {
            if *claim == Claim::Wanted {
                *claim = Claim::UnderWay;
                return Some(Step::Claim {
                    environment: environment.clone(),
                });
            }
        }
        if !self.busy {
            for service in self.listeners.retry(now, claimed(&self.claims)) {
                // Its own address may be free again, or there may be one at last.
                match self.leases.go_home(&service, self.today) {
                    Ok(()) => {
                        self.listeners
                            .set_addresses(&service, self.leases.addresses(&service));
                        self.mark(&service);
                    }
                    Err(fault) => self.listeners.degrade(&service, &fault, &mut self.notices),
                }
            }
            match self.listeners.poll(claimed(&self.claims)) {
                Some(Next::Bind(bind)) => return Some(self.bind(bind)),
                Some(Next::Retarget {
                    endpoint,
                    service,
                    target,
                }) => {
                    self.mark(&service);
                    return Some(Step::Retarget {
                        endpoint,
                        service,
                        target,
                    });
                }
                None => {
                    self.listeners.end_round(now);
                    self.listeners.tell_starved(&mut self.notices);
                    self.listeners.tell_denied(&mut self.notices);
                }
            }
        }
        if self.is_opening() {
            return None;
        }
        if let Some(services) = self.names.take_dirty(now) {
            let wishes = services.into_iter().map(|key| (self.wish(&key), key));
            let wishes: Vec<_> = wishes.map(|(wish, key)| (key, wish)).collect();
            self.names.refresh(wishes, &mut self.notices);
            self.begin_round();
        }
        if let Some((sink, records)) = self.names.poll_publish(now) {
            return Some(Step::Publish { sink, records });
        }
        if !self.names.is_settled() {
            return None;
        }
        if !self.names.is_dirty() {
            // Nothing else is waited for.
            self.begin_round();
        }
        self.announce();
        let endpoints = self
            .listeners
            .take_to_close(std::mem::take(&mut self.round.to_close));
        (!endpoints.is_empty()).then(|| {
            self.busy = true;
            Step::Close {
                endpoints,
                drain: self.settings.drain,
            }
        })
    }

    /// What was waiting for names waits for those that are wanted now.
    fn begin_round(&mut self) {
        self.round.unannounced.append(&mut self.unannounced);
        self.round.to_close.extend(self.listeners.to_close());
    }

    fn bind(&mut self, bind: Bind) -> Step {
        self.busy = true;
        let Bind {
            service,
            address,
            endpoints,
            all_or_none,
        } = bind;
        Step::Bind {
            service,
            address,
            endpoints,
            all_or_none,
        }
    }

    /// What a service would be called; nothing where that would lead nowhere.
    fn wish(&self, key: &ServiceKey) -> Option<Wish> {
        let service = self.services.get(key)?;
        let addresses = self.reachable(key, service);
        if addresses.is_empty() {
            return None;
        }
        let policy = &self.settings.names;
        let (own, mut refused) = policy.judge(&key.service, &key.environment);
        let mut given = Vec::new();
        for alias in &service.aliases {
            let id = ServiceId {
                name: alias.clone(),
                ..key.service.clone()
            };
            let (names, kept) = policy.judge(&id, &key.environment);
            given.extend(names);
            refused.extend(kept);
        }
        let options = self.settings.listening.services.get(&key.service);
        let right = Right::new(options.and_then(|own| own.order), key.provider.0, service.order);
        let (target, service) = self.target(key, service)?;
        Some(Wish {
            service: key.clone(),
            shown: format!("{key} of {}", self.provider_name(key.provider)),
            addresses,
            behind: Behind {
                service: target.service,
                environment: target.environment,
                ports: service.ports.clone(),
                members: Vec::new(),
            },
            own: own.into_iter().map(Arc::from).collect(),
            given: given.into_iter().map(Arc::from).collect(),
            refused,
            right,
        })
    }

    /// The addresses that a service's names lead to: where something listens for it, or for the service that it is another
    /// name for. A service without ports has its address all the same.
    fn reachable(&self, key: &ServiceKey, service: &Service) -> Vec<IpAddr> {
        match self.target(key, service) {
            Some((target, _)) if self.listeners.is_portless(&target) => self.leases.addresses(&target),
            Some((target, _)) => self.listeners.listening(&target),
            None => Vec::new(),
        }
    }

    /// A service itself, or the one that it is another name for.
    fn target<'a>(&'a self, key: &ServiceKey, service: &'a Service) -> Option<(ServiceKey, &'a Service)> {
        let Some(target) = &service.alias_of else {
            return Some((key.clone(), service));
        };
        let target = ServiceKey {
            service: target.clone(),
            ..key.clone()
        };
        let found = self.services.get(&target)?;
        // One step: another name for another name leads nowhere.
        found.alias_of.is_none().then_some((target, found))
    }

    /// Tells of what is up, once its names are published.
    fn announce(&mut self) {
        if !self.links.iter().all(Link::has_answered)
            || self
                .claims
                .values()
                .any(|claim| matches!(claim, Claim::Wanted | Claim::UnderWay))
            || !self.links.iter().any(|link| link.settled().is_some())
        {
            return;
        }
        for key in std::mem::take(&mut self.round.unannounced).into_keys() {
            self.leases.keep(&key);
            if self.ready
                && !self.notices.is_muted(key.provider)
                && let Some(service) = self.services.get(&key)
            {
                let service = self.report_service(&key, service, &|_| Traffic::default());
                self.notices.push(Event::ServiceUp {
                    service: Box::new(service),
                });
            }
        }
        if !self.ready && self.names.is_published() {
            self.ready = true;
            self.tell_empty_namespace();
            self.tell_unknown_services();
            self.notices.push(Event::Ready {
                status: Box::new(self.report(|_| Traffic::default())),
            });
        }
    }

    /// A namespace that was mistyped gives no name, and no error either.
    fn tell_empty_namespace(&mut self) {
        let Some(active) = &self.settings.names.active else {
            return;
        };
        let found: BTreeSet<_> = self.services.keys().map(|key| &key.service.namespace).collect();
        if found.contains(active) {
            return;
        }
        let distance = |other: &Label| strsim::osa_distance(active.as_str(), other.as_str());
        let nearest = found.into_iter().min_by_key(|other| distance(other));
        let similar = nearest.filter(|other| 2 * distance(other) <= active.as_str().len());
        let event = Event::EmptyNamespace {
            namespace: active.to_string(),
            similar: similar.map(ToString::to_string),
        };
        self.notices.push(event);
    }

    /// Options for a service that was mistyped bind nobody.
    fn tell_unknown_services(&mut self) {
        let found: BTreeSet<_> = self.services.keys().map(|key| &key.service).collect();
        for service in self.settings.listening.services.keys() {
            if found.contains(service) {
                continue;
            }
            let name = service.to_string();
            let distance = |other: &ServiceId| strsim::osa_distance(&name, &other.to_string());
            let nearest = found.iter().copied().min_by_key(|other| distance(other));
            let similar = nearest.filter(|other| 2 * distance(other) <= name.len());
            self.notices.push(Event::UnknownService {
                service: service.clone(),
                similar: similar.cloned(),
            });
        }
    }

    /// Teardown goes the other way round: names, listeners, the machine.
    fn next_undo(&mut self, now: Instant) -> Option<Step> {
        loop {
            let stop = self.stop.as_mut()?;
            let waits = !stop.hurried;
            match stop.phase {
                Phase::WithdrawNames => {
                    // Withdrawn also in a hurry, and then not waited for.
                    if let Some((sink, records)) = self.names.poll_publish(now) {
                        return Some(Step::Publish { sink, records });
                    }
                    if waits && (self.names.is_under_way() || self.busy) {
                        return None;
                    }
                    // Also without a listener: connections of those that were closed before may still drain.
                    stop.phase = Phase::CloseListeners;
                    self.busy = true;
                    return Some(Step::Close {
                        endpoints: self.listeners.take_all(),
                        drain: self.settings.drain,
                    });
                }
                Phase::CloseListeners => {
                    if waits && self.busy {
                        return None;
                    }
                    stop.phase = Phase::Release;
                }
                Phase::Release => {
                    stop.phase = Phase::AwaitRelease;
                    return Some(Step::Release);
                }
                Phase::AwaitRelease | Phase::Done => return None,
            }
        }
    }

    /// The session's state. `traffic` tells what was carried on an endpoint.
    pub fn report(&self, traffic: impl Fn(&Endpoint) -> Traffic) -> StatusReport {
        StatusReport {
            identity: self.settings.identity.clone(),
            providers: self.links.iter().map(Link::report).collect(),
            // One that is about to end is not to be joined.
            ready: self.ready && self.stop.is_none(),
            stopping: self.stop.is_some(),
            services: self
                .services
                .iter()
                .map(|(key, service)| self.report_service(key, service, &traffic))
                .collect(),
            taken: self.names.taken(),
            clashes: self.names.clashes(),
            held: self.names.held(),
            put_back: self.names.put_back(),
            rejected: (self.rejected > 0).then_some(Rejected {
                connections: self.rejected,
                limit: self.settings.max_connections,
            }),
            helper_awaited: None,
        }
    }

    fn report_service(
        &self,
        key: &ServiceKey,
        service: &Service,
        traffic: &dyn Fn(&Endpoint) -> Traffic,
    ) -> ServiceReport {
        let mut ports: Vec<PortReport> = service
            .ports
            .iter()
            .map(|port| {
                let number = port_key(port.port.get(), port.protocol);
                let (state, endpoints) = self.listeners.state(key, number);
                let carried = total(endpoints.iter().map(traffic));
                PortReport {
                    port: number.0,
                    protocol: number.1,
                    name: port.name.as_ref().map(ToString::to_string),
                    target: port.target.clone(),
                    state,
                    connections: carried.connections,
                    active: carried.active,
                    sent_bytes: carried.sent_bytes,
                    received_bytes: carried.received_bytes,
                    last_failure: carried.last_failure,
                    rejected: carried.rejected,
                    strangers: carried.strangers,
                    udp: carried.udp,
                }
            })
            .collect();
        ports.sort_by_key(|port| (port.port, port.protocol));
        let addresses = match &service.alias_of {
            Some(_) => self.reachable(key, service),
            None => self.leases.addresses(key),
        };
        ServiceReport {
            service: key.service.clone(),
            provider: self.provider_name(key.provider),
            environment: key.environment.to_string(),
            addresses,
            names: if self.stop.is_some() {
                // Withdrawn first of all.
                Vec::new()
            } else {
                self.names.of(key)
            },
            readiness: service.readiness.clone(),
            alias_of: service.alias_of.clone(),
            ports,
            unpinned: self.leases.unpinned(key).map(str::to_owned),
            refused: self.names.refused(key),
            held: self.names.held_of(key),
        }
    }

    /// The records that the session wants published, sorted by service.
    pub fn records(&self) -> Records {
        self.names.wanted().clone()
    }

    /// How long one change of the machine may take now.
    pub fn effect_timeout(&self) -> Duration {
        match &self.stop {
            Some(_) => self.settings.effect_timeout.min(Duration::from_secs(3)),
            None => self.settings.effect_timeout,
        }
    }
}

/// Whether an environment's listeners may be opened: an older session has made room.
fn claimed(claims: &BTreeMap<Label, Claim>) -> impl Fn(&ServiceKey) -> bool {
    |service| claims.get(&service.environment) == Some(&Claim::Made)
}

fn port_key(port: u16, protocol: service_catalog::Protocol) -> PortKey {
    let protocol = match protocol {
        service_catalog::Protocol::Tcp => Protocol::Tcp,
        service_catalog::Protocol::Udp => Protocol::Udp,
    };
    (port, protocol)
}

fn total(carried: impl Iterator<Item = Traffic>) -> Traffic {
    carried.fold(Traffic::default(), |sum, one| Traffic {
        connections: sum.connections + one.connections,
        active: sum.active + one.active,
        sent_bytes: sum.sent_bytes + one.sent_bytes,
        received_bytes: sum.received_bytes + one.received_bytes,
        last_failure: sum.last_failure.or(one.last_failure),
        rejected: sum.rejected + one.rejected,
        strangers: sum.strangers + one.strangers,
        udp: match (sum.udp, one.udp) {
            (Some(sum), Some(one)) => Some(sum.and(&one)),
            (sum, one) => sum.or(one),
        },
    })
}

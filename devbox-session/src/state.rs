//! The session as a pure state machine: what happened goes in by `handle_*`, what to do next comes out by
//! [`SessionState::poll_step`], what to tell comes out by [`SessionState::poll_event`]. It never blocks, sleeps,
//! reads a clock or holds a socket.
//!
//! It keeps a wanted state (the catalog) beside an applied one (listeners that are open, names that are written)
//! and always asks for the next step that brings the two together, in the order *address → listener → name*; what
//! leaves goes the other way round. A step that fails degrades its own service and nothing else.

mod reconcile;
mod report;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use devbox_helper_client::{HelperError, HostsEntry, HostsReport};
use ipalloc::{Allocator, Timestamp};
use service_catalog::{Health, Label, Protocol, ServiceId, Update};
use tunnel_bridge::listener::ConnectionCounts;

use crate::host::BindFault;
use crate::provider::ConnectFailure;
use crate::report::{Event, PortState};
use crate::step::{Settings, Step, StopReason};

/// How many candidates a service has where addresses are in use. After that a port is taken to be held on every address.
const CANDIDATES: usize = 4;

/// How long what cannot be offered is left alone before it is tried again: a program that holds a port may end, a right may be
/// given, an address may come free.
const DEGRADED_PAUSE: Duration = Duration::from_secs(5);

/// The session's whole state; one task owns it.
#[derive(Debug)]
pub struct SessionState {
    settings: Settings,
    addresses: Allocator,
    link: Link,
    environment: Option<Label>,
    entries: BTreeMap<ServiceId, Entry>,
    listeners: BTreeMap<SocketAddr, (ServiceId, NonZeroU16)>,
    to_open: BTreeSet<ServiceId>,
    to_close: BTreeSet<SocketAddr>,
    /// Services of which something could not be offered, and when that is tried again.
    degraded: BTreeSet<ServiceId>,
    degraded_until: Option<Instant>,
    hosts: Hosts,
    /// A step that changes this machine is under way; there is never more than one.
    busy: bool,
    claimed: bool,
    seen_catalog: bool,
    ready: bool,
    stale: Option<String>,
    /// The failures that were told last; the same again is no news.
    told_failure: Option<String>,
    told_hosts_failure: Option<String>,
    /// The date as of the last input.
    today: Timestamp,
    stop: Option<(StopReason, StopPhase)>,
    events: VecDeque<Event>,
}

#[derive(Debug)]
enum Link {
    Connecting {
        attempt: u32,
        since: Instant,
    },
    Waiting {
        attempt: u32,
        since: Instant,
        until: Instant,
        reason: String,
    },
    Up {
        attempt: u32,
        since: Instant,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StopPhase {
    WithdrawNames,
    CloseListeners,
    ReleaseHost,
    Done,
}

#[derive(Debug, Default)]
struct Hosts {
    applied: Vec<HostsEntry>,
    stale: bool,
    retry_at: Option<Instant>,
    taken: BTreeMap<String, usize>,
    told: BTreeSet<String>,
}

#[derive(Debug)]
struct Entry {
    address: Option<IpAddr>,
    /// Which of its candidates the address is: 0 is its own, the others are for this session only.
    candidate: usize,
    /// Whether all candidates were in use: then it stands at its own with what can be had there.
    all_in_use: bool,
    ports: BTreeMap<PortKey, PortEntry>,
    announced: bool,
}

/// A service may offer one number by TCP and by UDP.
type PortKey = (NonZeroU16, Protocol);

#[derive(Debug)]
struct PortEntry {
    name: Option<Label>,
    target: Option<String>,
    state: PortState,
    /// The fault that was told last.
    told: Option<String>,
    counts: ConnectionCounts,
}

impl SessionState {
    /// A session that has done nothing yet; its first step is to connect.
    pub fn new(settings: Settings, addresses: Allocator, now: Instant) -> Self {
        Self {
            settings,
            addresses,
            link: Link::Waiting {
                attempt: 0,
                since: now,
                until: now,
                reason: String::new(),
            },
            environment: None,
            entries: BTreeMap::new(),
            listeners: BTreeMap::new(),
            to_open: BTreeSet::new(),
            to_close: BTreeSet::new(),
            degraded: BTreeSet::new(),
            degraded_until: None,
            hosts: Hosts::default(),
            busy: false,
            claimed: false,
            seen_catalog: false,
            ready: false,
            stale: None,
            told_failure: None,
            told_hosts_failure: None,
            today: Timestamp::from_secs(0),
            stop: None,
            events: VecDeque::new(),
        }
    }

    /// The next step, if there is one to take now.
    pub fn poll_step(&mut self, now: Instant) -> Option<Step> {
        if self.stop.is_none()
            && let Link::Waiting {
                attempt,
                since,
                until,
                ..
            } = &self.link
            && *until <= now
        {
            self.link = Link::Connecting {
                attempt: attempt + 1,
                since: *since,
            };
            return Some(Step::Connect);
        }
        if self.busy {
            return None;
        }
        let step = match self.stop {
            Some((_, phase)) => self.next_undo(phase),
            None => self.next_change(now),
        };
        self.busy = step.is_some();
        step
    }

    /// The next thing to tell.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`SessionState::poll_step`] again even if nothing happens.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.stop.is_some() {
            return None;
        }
        let reconnect = match &self.link {
            Link::Waiting { until, .. } => Some(*until),
            Link::Connecting { .. } | Link::Up { .. } => None,
        };
        let hosts = self.hosts.retry_at.filter(|_| self.hosts.stale);
        [reconnect, hosts, self.degraded_until]
            .into_iter()
            .flatten()
            .min()
    }

    /// Why the session ended, once all is undone.
    pub fn finished(&self) -> Option<&StopReason> {
        match &self.stop {
            Some((reason, StopPhase::Done)) if !self.busy => Some(reason),
            _ => None,
        }
    }

    /// Whether the session is on its way to its end.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_some()
    }

    /// Ends the session. The first reason counts.
    pub fn stop(&mut self, reason: StopReason) {
        if self.stop.is_none() {
            self.events.push_back(Event::Stopping {
                reason: reason.to_string(),
            });
            self.stop = Some((reason, StopPhase::WithdrawNames));
        }
    }

    /// The far side answered.
    pub fn handle_connected(&mut self, now: Instant) {
        let Link::Connecting { attempt, since } = self.link else {
            return;
        };
        if self.seen_catalog {
            self.events.push_back(Event::LinkRestored {
                away: now.saturating_duration_since(since),
            });
        }
        self.told_failure = None;
        self.link = Link::Up { attempt, since: now };
    }

    /// The far side did not answer, or refused.
    pub fn handle_connect_failed(&mut self, failure: ConnectFailure, now: Instant) {
        let Link::Connecting { attempt, since } = self.link else {
            return;
        };
        if !self.seen_catalog {
            if failure.is_final() {
                return self.stop(StopReason::Refused(failure));
            }
            if attempt >= self.settings.first_tries {
                let waited = now.saturating_duration_since(since);
                return self.stop(StopReason::Unreachable {
                    last: failure,
                    tries: attempt,
                    waited,
                });
            }
        }
        let retry_in = self.pause(attempt);
        let reason = failure.to_string();
        // Said once: a gateway that is away all night is no news every five seconds.
        if self.told_failure.replace(reason.clone()).as_ref() != Some(&reason) {
            self.events.push_back(Event::ConnectFailed {
                reason: reason.clone(),
                retry_in,
            });
        }
        self.link = Link::Waiting {
            attempt,
            since,
            until: now + retry_in,
            reason,
        };
    }

    /// The link was lost. Listeners and names stay.
    pub fn handle_link_lost(&mut self, reason: String, now: Instant) {
        let Link::Up { attempt, since } = self.link else {
            return;
        };
        if self.stop.is_some() {
            return;
        }
        self.events.push_back(Event::LinkLost {
            reason: reason.clone(),
        });
        // At once: a gateway that was replaced is back already, and one that was not costs a single failed try. A link
        // that did not hold goes on where its tries were.
        let held = now.saturating_duration_since(since) >= self.settings.backoff.1;
        let (attempt, pause) = if held {
            (0, Duration::ZERO)
        } else {
            (attempt, self.pause(attempt))
        };
        self.link = Link::Waiting {
            attempt,
            since: now,
            until: now + pause,
            reason,
        };
    }

    /// The catalog came or changed.
    pub fn handle_update(&mut self, update: Update, now: Timestamp) {
        self.today = now;
        match update {
            Update::Snapshot(catalog) => self.take_snapshot(catalog, now),
            Update::Changed { upserted, removed } => {
                for id in removed {
                    self.remove(&id, now);
                }
                self.take_services(upserted, now);
            }
            Update::Health(Health::Live) => {
                if self.stale.take().is_some() {
                    self.events.push_back(Event::CatalogFresh);
                }
            }
            Update::Health(Health::Stale { reason }) => {
                self.events.push_back(Event::CatalogStale {
                    reason: reason.clone(),
                });
                self.stale = Some(reason);
            }
        }
    }

    /// The outcome of [`Step::Claim`].
    pub fn handle_claimed(&mut self) {
        self.busy = false;
        self.claimed = true;
    }

    /// The outcome of [`Step::Open`], one result for each of its ports.
    pub fn handle_opened(
        &mut self,
        service: &ServiceId,
        address: IpAddr,
        results: Vec<(NonZeroU16, Result<(), BindFault>)>,
        now: Timestamp,
    ) {
        self.busy = false;
        self.today = now;
        let Some(entry) = self.entries.get_mut(service) else {
            // It left the catalog meanwhile: what was opened goes again.
            self.to_close.extend(opened(address, &results));
            return;
        };
        let in_use = results
            .iter()
            .any(|(_, result)| matches!(result, Err(BindFault::InUse { .. })));
        if in_use && entry.may_move() {
            self.to_open.insert(service.clone());
            self.move_on(service);
            return;
        }
        for (port, result) in results {
            let Some(wanted) = entry.ports.get_mut(&(port, Protocol::Tcp)) else {
                if result.is_ok() {
                    self.to_close.insert(SocketAddr::new(address, port.get()));
                }
                continue;
            };
            match result {
                Ok(()) => {
                    // It was told that it is not offered: that it is now is news as well.
                    entry.announced &= wanted.told.take().is_none();
                    wanted.state = PortState::Listening;
                    self.listeners
                        .insert(SocketAddr::new(address, port.get()), (service.clone(), port));
                    self.hosts.stale = true;
                }
                Err(fault) => {
                    if !matches!(fault, BindFault::Other { .. }) {
                        self.degraded.insert(service.clone());
                    }
                    let reason = fault.to_string();
                    let told = wanted.told.replace(reason.clone());
                    if told.as_ref() != Some(&reason) {
                        self.events.push_back(Event::PortDegraded {
                            service: service.clone(),
                            port: port.get(),
                            reason: reason.clone(),
                        });
                    }
                    wanted.state = PortState::Degraded(reason);
                }
            }
        }
    }

    /// The outcome of [`Step::WriteHosts`].
    pub fn handle_hosts_written(
        &mut self,
        entries: Vec<HostsEntry>,
        result: Result<HostsReport, HelperError>,
        now: Instant,
    ) {
        self.busy = false;
        match result {
            Ok(report) => {
                self.hosts.applied = entries;
                self.hosts.retry_at = None;
                self.told_hosts_failure = None;
                self.take_hosts_report(report);
            }
            // While undoing, the helper's own undo at the end is the second try.
            Err(error) if self.stop.is_some() => {
                self.hosts.applied.clear();
                self.events.push_back(Event::HostsFailed {
                    reason: error.to_string(),
                });
            }
            Err(error) if !self.ready => self.stop(StopReason::Hosts { error, entries }),
            Err(error) => {
                let reason = error.to_string();
                if self.told_hosts_failure.replace(reason.clone()).as_ref() != Some(&reason) {
                    self.events.push_back(Event::HostsFailed { reason });
                }
                self.hosts.stale = true;
                self.hosts.retry_at = Some(now + self.settings.backoff.1);
            }
        }
    }

    /// The outcome of [`Step::Close`].
    pub fn handle_closed(&mut self, listeners: &[SocketAddr]) {
        self.busy = false;
        for address in listeners {
            self.listeners.remove(address);
        }
    }

    /// The outcome of [`Step::Release`].
    pub fn handle_released(&mut self, result: Result<(), HelperError>) {
        self.busy = false;
        // A file that could not be written in the first place holds nothing of ours, and a helper that is gone was told of.
        let told = matches!(
            self.stop,
            Some((StopReason::Hosts { .. } | StopReason::HelperLost { .. }, _))
        );
        if let (Err(error), false) = (result, told) {
            self.events.push_back(Event::HostsFailed {
                reason: error.to_string(),
            });
        }
        if let Some((_, phase)) = &mut self.stop {
            *phase = StopPhase::Done;
        }
    }

    /// The helper is gone before it was released: nothing that it did can be undone from here.
    pub fn handle_helper_lost(&mut self) {
        let left = !self.hosts.applied.is_empty();
        self.hosts.applied.clear();
        let hosts_file = self.settings.identity.hosts_file.clone().filter(|_| left);
        self.stop(StopReason::HelperLost { hosts_file });
    }

    /// The counts of a listener, as they stand.
    pub fn handle_counts(&mut self, listener: &SocketAddr, counts: ConnectionCounts) {
        let Some((service, port)) = self.listeners.get(listener) else {
            return;
        };
        if let Some(port) = self
            .entries
            .get_mut(service)
            .and_then(|entry| entry.ports.get_mut(&(*port, Protocol::Tcp)))
        {
            port.counts = counts;
        }
    }

    /// Teardown is the same list backwards.
    fn next_undo(&mut self, phase: StopPhase) -> Option<Step> {
        let mut phase = phase;
        let step = loop {
            match phase {
                StopPhase::WithdrawNames => {
                    phase = StopPhase::CloseListeners;
                    if !self.hosts.applied.is_empty() {
                        break Some(Step::WriteHosts { entries: Vec::new() });
                    }
                }
                StopPhase::CloseListeners => {
                    phase = StopPhase::ReleaseHost;
                    let listeners: Vec<_> = self.listeners.keys().copied().collect();
                    if !listeners.is_empty() {
                        break Some(Step::Close {
                            listeners,
                            drain: self.settings.drain,
                        });
                    }
                }
                StopPhase::ReleaseHost => break Some(Step::Release),
                StopPhase::Done => break None,
            }
        };
        if let Some((_, kept)) = &mut self.stop {
            *kept = phase;
        }
        step
    }

    /// Exponential with jitter between half and the whole, so that many clients of one gateway do not come back in
    /// step.
    fn pause(&mut self, attempt: u32) -> Duration {
        let (shortest, longest) = self.settings.backoff;
        let whole = shortest
            .saturating_mul(1 << attempt.saturating_sub(1).min(16))
            .min(longest);
        // xorshift64 (Marsaglia 2003): no more is needed to spread clients.
        let mut seed = self.settings.seed | 1;
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        self.settings.seed = seed;
        whole / 2 + whole.mul_f64((seed % 1_000) as f64 / 2_000.0)
    }
}

impl PortEntry {
    fn new(protocol: Protocol) -> Self {
        let state = match protocol {
            Protocol::Tcp => PortState::Opening,
            protocol => PortState::Degraded(format!("{protocol} is not carried by this version")),
        };
        Self {
            name: None,
            target: None,
            state,
            told: None,
            counts: ConnectionCounts::default(),
        }
    }
}

impl Entry {
    /// Whether it may take another address where a port is in use.
    fn may_move(&self) -> bool {
        !self.all_in_use && !self.has_listener()
    }

    fn has_listener(&self) -> bool {
        self.ports.values().any(|port| port.state == PortState::Listening)
    }
}

fn opened(
    address: IpAddr,
    results: &[(NonZeroU16, Result<(), BindFault>)],
) -> impl Iterator<Item = SocketAddr> {
    results
        .iter()
        .filter(|(_, result)| result.is_ok())
        .map(move |(port, _)| SocketAddr::new(address, port.get()))
}

//! What a session says about itself: the status report and the events, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use devbox_helper_client::Protocol;
use devbox_provider::Status;
use serde::{Deserialize, Serialize};
use service_catalog::{Readiness, ServiceId};

use crate::names_policy::RefusedName;
use crate::sink::{HeldNames, TakenName};

/// Who a session is; fixed for its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The session's id, unique among all machines: `<environment>-<random>`.
    pub session: String,
    /// The process that runs it.
    pub pid: u32,
    /// The helper process that changes the machine for it, if one does. Another one takes its place where it is killed.
    pub helper_pid: Option<u32>,
    /// The hosts file whose block it keeps; `None` where it writes none.
    pub hosts_file: Option<PathBuf>,
    /// Seconds since the Unix epoch at which it started.
    pub started_at: u64,
}

/// The link to a far side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum LinkState {
    /// The first connect, or a reconnect, is under way; or the link is up and its catalog has not come.
    Connecting {
        /// Tries since the link was last up, this one included.
        attempt: u32,
    },
    /// Connected, to the session's environment.
    Up,
    /// The connection under the link was lost and is being made again: open connections wait for it.
    Interrupted {
        /// For how many milliseconds they do, from the moment of the loss; after that they are reset.
        window_ms: u64,
    },
    /// Waiting before the next try.
    Waiting {
        /// Tries since the link was last up.
        attempt: u32,
        /// What went wrong last.
        reason: String,
    },
    /// Given up: another try cannot help before the user changes something.
    Failed {
        /// Why.
        reason: String,
    },
}

/// One provider of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderReport {
    /// Its name in the configuration.
    pub name: String,
    /// How it is reached.
    #[serde(flatten)]
    pub status: Status,
    /// The environment; known once the first catalog came, or where one was asked for.
    pub environment: Option<String>,
    /// The link to it.
    pub link: LinkState,
    /// Why its catalog is not fresh, if it is not.
    pub stale: Option<String>,
    /// What its catalog says of how it came about, such as a line that could not be understood.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// How often a link to it went on over another connection, with everything that it carried.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub resumed: u64,
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortReport {
    /// The port, the same here as at the service.
    pub port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Its name in the catalog.
    pub name: Option<String>,
    /// Where the far side dials, in its own words.
    pub target: Option<String>,
    /// Whether something listens here for it.
    pub state: PortState,
    /// Connections carried, those open now included. Of UDP, flows: what one source sends and is answered.
    pub connections: u64,
    /// Connections, or flows, open now.
    pub active: u64,
    /// Bytes sent to the service.
    pub sent_bytes: u64,
    /// Bytes received from the service.
    pub received_bytes: u64,
    /// Why the last connection failed, if it did.
    pub last_failure: Option<String>,
    /// Connections that were reset because too many were open; missing where none was.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rejected: u64,
    /// Connections that were reset because who made them may not connect; missing where none was.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub strangers: u64,
    /// What is known of a UDP port beside that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp: Option<UdpReport>,
}

/// What became of the datagrams of a UDP port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdpReport {
    /// Datagrams sent towards the service.
    pub sent: u64,
    /// Datagrams received from it.
    pub received: u64,
    /// Flows that gave way to newer ones.
    pub evicted: u64,
    /// Datagrams that were dropped on this machine, by the reason. What is lost elsewhere, nobody knows.
    pub dropped: DroppedReport,
    /// The longest datagram that is carried, in bytes; known once there was a flow.
    pub max_datagram: Option<usize>,
}

impl UdpReport {
    /// The two together, of one port on several addresses.
    pub(crate) fn and(&self, other: &Self) -> Self {
        let dropped = DroppedReport {
            queue_full: self.dropped.queue_full + other.dropped.queue_full,
            too_many_flows: self.dropped.too_many_flows + other.dropped.too_many_flows,
            too_long: self.dropped.too_long + other.dropped.too_long,
            not_connected: self.dropped.not_connected + other.dropped.not_connected,
        };
        Self {
            sent: self.sent + other.sent,
            received: self.received + other.received,
            evicted: self.evicted + other.evicted,
            dropped,
            max_datagram: self.max_datagram.or(other.max_datagram),
        }
    }
}

/// Datagrams that were dropped on this machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedReport {
    /// The link, or the program, did not take them fast enough.
    pub queue_full: u64,
    /// As many flows as may be were in use.
    pub too_many_flows: u64,
    /// They were longer than the link carries.
    pub too_long: u64,
    /// The far side refused the flow.
    pub not_connected: u64,
}

impl DroppedReport {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.queue_full + self.too_many_flows + self.too_long + self.not_connected
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServicePort {
    /// The service's id.
    pub service: ServiceId,
    /// The port.
    pub port: u16,
}

/// Whether something listens for a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "reason")]
pub enum PortState {
    /// Not yet: the listener is being opened.
    Opening,
    /// Connections are accepted.
    Listening,
    /// It cannot be offered here: why, and what to do about it.
    Degraded(String),
    /// The session ends: no more are accepted, and those that are open may end.
    Closed,
}

/// One service of a catalog, as it is offered on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceReport {
    /// Its id in the catalog.
    pub service: ServiceId,
    /// The provider that it is reached by.
    pub provider: String,
    /// The environment that it belongs to.
    pub environment: String,
    /// Its local addresses, at most one per family; none while it has none.
    pub addresses: Vec<IpAddr>,
    /// Its local names, the canonical one first. Empty while nothing of it can be connected to.
    pub names: Vec<String>,
    /// Whether it can answer, as far as the far side knows.
    pub readiness: Readiness,
    /// The service that it is another name for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias_of: Option<ServiceId>,
    /// Its ports in ascending order.
    pub ports: Vec<PortReport>,
    /// Why it does not have the address that it is pinned to, where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpinned: Option<String>,
    /// The names that it would have but for a rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedName>,
    /// The names that it would have if another session of this machine did not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<String>,
}

impl ServiceReport {
    /// The reasons why parts of it are not offered.
    pub fn faults(&self) -> impl Iterator<Item = (u16, &str)> {
        self.ports.iter().filter_map(|port| match &port.state {
            PortState::Degraded(reason) => Some((port.port, reason.as_str())),
            PortState::Opening | PortState::Listening | PortState::Closed => None,
        })
    }
}

/// A name that two services would have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NameClash {
    /// The name.
    pub name: String,
    /// Who has it: `orders.backend of gateway`.
    pub owner: String,
    /// Who does not.
    pub other: String,
}

/// A place from which another program took the session's names away, so that they were put back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutBack {
    /// The place.
    pub sink: String,
    /// How often.
    pub times: u32,
}

impl PutBack {
    /// Whether it happened so often that the two programs work against each other.
    #[must_use]
    pub fn is_contested(&self) -> bool {
        self.times >= CONTESTED
    }
}

/// Once may be an editor with an old copy, twice an accident.
pub(crate) const CONTESTED: u32 = 3;

/// Some names of many, for a line of text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NameSample {
    /// The first few.
    pub first: Vec<String>,
    /// How many there are.
    pub count: usize,
}

impl NameSample {
    const MAX: usize = 5;

    /// Adds a name; beyond the first few it is only counted.
    pub fn push(&mut self, name: &str) {
        if self.first.len() < Self::MAX {
            self.first.push(name.to_owned());
        }
        self.count += 1;
    }
}

impl<S: AsRef<str>> FromIterator<S> for NameSample {
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> Self {
        let mut sample = Self::default();
        names.into_iter().for_each(|name| sample.push(name.as_ref()));
        sample
    }
}

/// `orders.backend, web.shop and 40 more`.
impl fmt::Display for NameSample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.first.join(", "))?;
        match self.count.saturating_sub(self.first.len()) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Names that another session of this machine holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Held {
    /// The other session.
    pub session: String,
    /// Its helper's process.
    pub helper_pid: Option<u32>,
    /// The names.
    pub names: NameSample,
    /// Whether they were this session's before.
    pub lost: bool,
    /// How many names this session has published all the same.
    pub published: usize,
}

/// Names that one rule keeps from services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusals {
    /// The rule.
    pub why: String,
    /// Whether these services have no other name either.
    pub nameless: bool,
    /// One name of each service; of one without any name, its id.
    pub names: NameSample,
}

impl Refusals {
    /// Puts together what one rule refuses. Of each service it takes its id, whether it has no name at all, and its refused
    /// names.
    pub(crate) fn of<'a>(
        services: impl IntoIterator<Item = (&'a ServiceId, bool, &'a [RefusedName])>,
    ) -> Vec<Self> {
        let mut found: BTreeMap<(bool, &str), NameSample> = BTreeMap::new();
        for (service, nameless, refused) in services {
            let mut told: Vec<&str> = Vec::new();
            for RefusedName { name, why } in refused {
                if told.contains(&why.as_str()) {
                    continue;
                }
                told.push(why);
                let sample = found.entry((!nameless, why)).or_default();
                if nameless {
                    sample.push(&service.to_string());
                } else {
                    sample.push(name);
                }
            }
        }
        let refusals = found.into_iter().map(|((named, why), names)| Self {
            why: why.to_owned(),
            nameless: !named,
            names,
        });
        refusals.collect()
    }
}

/// A session as `status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Who it is.
    #[serde(flatten)]
    pub identity: Identity,
    /// The providers in their configured order.
    pub providers: Vec<ProviderReport>,
    /// Whether everything of the first catalogs is up, and the session is not stopping.
    pub ready: bool,
    /// Whether the session is on its way to its end.
    pub stopping: bool,
    /// The services, by provider and id.
    pub services: Vec<ServiceReport>,
    /// Names that the user's own lines of the hosts file have, and that were left to them.
    pub taken: Vec<TakenName>,
    /// Names that two services would have.
    pub clashes: Vec<NameClash>,
    /// Names that other sessions of this machine hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<HeldNames>,
    /// The places from which another program took the names away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub put_back: Vec<PutBack>,
    /// Connections that were reset because too many were open; missing where none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Rejected>,
    /// Why no helper serves the session at present, while another one is waited for; missing where one serves, or none is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helper_awaited: Option<String>,
}

/// Connections that were reset because too many were open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// How many.
    pub connections: u64,
    /// How many may be open at once.
    pub limit: usize,
}

impl StatusReport {
    /// The environments of the session, in the order of its providers.
    pub fn environments(&self) -> impl Iterator<Item = &str> {
        self.providers
            .iter()
            .filter_map(|provider| provider.environment.as_deref())
    }

    /// The names that rules keep from services, those of services without any name first.
    #[must_use]
    pub fn refusals(&self) -> Vec<Refusals> {
        Refusals::of(self.services.iter().map(|service| {
            let nameless = service.names.is_empty() && service.held.is_empty();
            (&service.service, nameless, service.refused.as_slice())
        }))
    }
}

/// Something that the user would want to hear of while a session runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
#[non_exhaustive]
pub enum Event {
    /// A connect failed and is tried again. Said once for an outage; [`StatusReport`] has the count.
    ConnectFailed {
        /// The provider.
        provider: String,
        /// What went wrong.
        reason: String,
        /// When the next try comes.
        #[serde(rename = "retry_in_ms", serialize_with = "milliseconds")]
        retry_in: Duration,
    },
    /// A provider cannot be used, and the session goes on without it.
    ProviderFailed {
        /// The provider.
        provider: String,
        /// Why.
        reason: String,
        /// Whether it is tried again.
        retried: bool,
    },
    /// What answers at a provider serves another environment: nothing is connected to it.
    WrongEnvironment {
        /// The provider.
        provider: String,
        /// The session's environment.
        wanted: String,
        /// What is served there.
        found: String,
    },
    /// The link was lost; listeners and names stay.
    LinkLost {
        /// The provider.
        provider: String,
        /// Why.
        reason: String,
    },
    /// The connection under the link was lost a second ago and is being made again. Open connections wait for it, new ones are
    /// held.
    LinkInterrupted {
        /// The provider.
        provider: String,
        /// For how long open connections wait, from the moment of the loss; after that they are reset, and it is
        /// [`LinkLost`](Event::LinkLost).
        #[serde(rename = "window_ms", serialize_with = "milliseconds")]
        window: Duration,
    },
    /// The link goes on over another connection: no open connection was lost. Comes after
    /// [`LinkInterrupted`](Event::LinkInterrupted).
    LinkResumed {
        /// The provider.
        provider: String,
        /// How long it was away.
        #[serde(rename = "away_ms", serialize_with = "milliseconds")]
        away: Duration,
    },
    /// The link is back.
    LinkRestored {
        /// The provider.
        provider: String,
        /// How long it was away.
        #[serde(rename = "away_ms", serialize_with = "milliseconds")]
        away: Duration,
    },
    /// The link does not hold: it comes back and is lost again. Further losses are counted and not reported until it
    /// holds.
    LinkUnstable {
        /// The provider.
        provider: String,
        /// How often it was lost in a row.
        losses: u32,
    },
    /// A link that did not hold does again.
    LinkStable {
        /// The provider.
        provider: String,
        /// How often it was lost meanwhile.
        losses: u32,
    },
    /// All services of the first catalogs are up (or degraded), and every sink has published their names.
    Ready {
        /// The session's state.
        status: Box<StatusReport>,
    },
    /// A service came up after the session was ready.
    ServiceUp {
        /// The service.
        service: Box<ServiceReport>,
    },
    /// A service left the catalog; its names and listeners are gone.
    ServiceRemoved {
        /// Its id.
        service: ServiceId,
    },
    /// A port of a service cannot be offered here.
    PortDegraded {
        /// The service.
        service: ServiceId,
        /// The port.
        port: u16,
        /// Why, and what to do about it.
        reason: String,
    },
    /// Ports below the first one that everybody may bind are not offered: this process lacks the right. Told once for all that
    /// a round of binding finds.
    LowPorts {
        /// How many services lack one or more ports for it.
        services: usize,
        /// How many ports of theirs.
        ports: usize,
        /// The first of them, at most three.
        examples: Vec<ServicePort>,
        /// The first port that everybody may bind.
        first_free: u16,
        /// The lowest port that was refused to this session: were it free to everybody, all would be offered.
        lowest: u16,
    },
    /// This process may open no more files: some services are not offered until it may.
    OutOfDescriptors {
        /// How many services lack a listener for it.
        services: usize,
    },
    /// All services that lacked a listener for want of file descriptors have one.
    DescriptorsAvailable,
    /// As many connections are open as may be: further ones are reset, and counted in [`StatusReport`]. Said again only once
    /// there was room meanwhile.
    TooManyConnections {
        /// How many may be open at once.
        limit: usize,
    },
    /// A name was left to the user's own line of the hosts file.
    NameTaken {
        /// The name.
        name: String,
        /// The line that has it, counted from 1.
        line: usize,
    },
    /// Two services would have the same name.
    NameClash(NameClash),
    /// A rule keeps services from having names. Told once for each service.
    NamesRefused(Refusals),
    /// Something about the place that the names went to that the user should know.
    NamesWarning {
        /// What, and where.
        message: String,
    },
    /// The names could not be published; it is tried again.
    NamesFailed {
        /// Where they were to go.
        sink: String,
        /// Why.
        reason: String,
    },
    /// The names were published again after a failure.
    NamesRestored {
        /// Where they went.
        sink: String,
    },
    /// Another session of this machine holds names that this one would have.
    NamesHeld(Held),
    /// Names that another session held are this one's.
    NamesGained {
        /// The names.
        names: NameSample,
    },
    /// Another program had taken the names away, and they were put back. Told the first time, and when it happened so often that
    /// the two programs work against each other; [`StatusReport`] has the count.
    NamesPutBack(PutBack),
    /// A provider's catalog is not fresh; the last good one stays in force.
    CatalogStale {
        /// The provider.
        provider: String,
        /// Why.
        reason: String,
    },
    /// A provider's catalog is fresh again.
    CatalogFresh {
        /// The provider.
        provider: String,
    },
    /// A connect takes longer than a second. Said once for an outage.
    StillConnecting {
        /// The provider.
        provider: String,
        /// Where it is.
        far_side: String,
        /// What is waited for, where that is known: `TCP connection to 10.1.2.3:443`.
        waits_for: Option<String>,
    },
    /// Connections to a service are refused, or not answered, at the far side. Said once for a port and a cause, until a
    /// connection to it works or the cause was not seen for a minute.
    ConnectionFailed {
        /// The service.
        service: ServiceId,
        /// The port.
        port: u16,
        /// What kind of failure it is: `refused`, `timed out`.
        cause: String,
        /// What the far side says of it, the address that it dialed included. May be empty.
        reason: String,
    },
    /// Somebody who may not connect to a service tried to and was reset. Said once for a port and who it was; [`StatusReport`] has
    /// the count.
    StrangerRefused {
        /// The service.
        service: ServiceId,
        /// The port.
        port: u16,
        /// Who it was: `uid 1001`, or an address.
        who: String,
    },
    /// Options are given for a service that no catalog has. Said once, with the first catalogs.
    UnknownService {
        /// The service.
        service: ServiceId,
        /// A service of nearly the same name.
        similar: Option<ServiceId>,
    },
    /// No service is in the namespace whose services were to have bare names. Said once, with the first catalogs.
    EmptyNamespace {
        /// The namespace.
        namespace: String,
        /// A namespace of nearly the same name that has services.
        similar: Option<String>,
    },
    /// The session ends and connections are still open.
    Draining {
        /// How many.
        connections: u64,
        /// How long they are waited for, from the beginning.
        #[serde(rename = "within_ms", serialize_with = "milliseconds")]
        within: Duration,
    },
    /// A provider's catalog changes all the time. Its changes are applied, and what they bring and take is not told one by
    /// one until it is stable again.
    CatalogUnstable {
        /// The provider.
        provider: String,
    },
    /// A catalog that changed all the time does no more; [`StatusReport`] has what it came to.
    CatalogStable {
        /// The provider.
        provider: String,
        /// How many changes were not told.
        changes: u64,
    },
    /// A provider serves another environment now, as was asked for.
    EnvironmentSwitched {
        /// The provider.
        provider: String,
        /// The environment.
        environment: String,
    },
    /// This reader fell behind and missed events. Nothing else is lost: this is the state after them.
    Lagged {
        /// How many events were missed.
        missed: u64,
        /// The session's state.
        status: Box<StatusReport>,
    },
    /// The session ends: what follows is undoing.
    Stopping {
        /// Why.
        reason: String,
    },
}

fn milliseconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

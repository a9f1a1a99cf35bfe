//! What a session says about itself: the status report and the events, for people and for machines.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use service_catalog::ServiceId;

/// Who a session is; fixed for its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The session's id, unique among all machines: `<environment>-<random>`.
    pub session: String,
    /// The process that runs it.
    pub pid: u32,
    /// The helper process that changes the machine for it, if one does.
    pub helper_pid: Option<u32>,
    /// The hosts file whose block it keeps; `None` where it writes none.
    pub hosts_file: Option<PathBuf>,
    /// Where the far side is, for display.
    pub gateway: String,
    /// Seconds since the Unix epoch at which it started.
    pub started_at: u64,
}

/// The link to the far side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum LinkState {
    /// The first connect, or a reconnect, is under way.
    Connecting {
        /// Tries since the link was last up, this one included.
        attempt: u32,
    },
    /// Connected.
    Up,
    /// Waiting before the next try.
    Waiting {
        /// Tries since the link was last up.
        attempt: u32,
        /// What went wrong last.
        reason: String,
    },
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortReport {
    /// The port, the same here as at the service.
    pub port: u16,
    /// Its name in the catalog.
    pub name: Option<String>,
    /// Where the far side dials, as it tells.
    pub target: Option<String>,
    /// Whether something listens here for it.
    pub state: PortState,
    /// Connections carried, those open now included.
    pub connections: u64,
    /// Connections open now.
    pub active: u64,
    /// Bytes sent to the service.
    pub sent_bytes: u64,
    /// Bytes received from the service.
    pub received_bytes: u64,
    /// Why the last connection did not end well, if one did not.
    pub last_failure: Option<String>,
}

/// Whether something listens for a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "reason")]
pub enum PortState {
    /// Not yet: the listener is being opened.
    Opening,
    /// Connections are accepted.
    Listening,
    /// It cannot be offered here; the reason, and what to do about it.
    Degraded(String),
}

/// One service of the catalog, as it stands on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceReport {
    /// Its id in the catalog.
    pub service: ServiceId,
    /// Its local address; `None` while it has none.
    pub address: Option<IpAddr>,
    /// Its local names, the canonical one first. Empty while no port of it listens.
    pub names: Vec<String>,
    /// Its ports in ascending order.
    pub ports: Vec<PortReport>,
}

impl ServiceReport {
    /// The reasons why parts of it are not offered.
    pub fn faults(&self) -> impl Iterator<Item = (u16, &str)> {
        self.ports.iter().filter_map(|port| match &port.state {
            PortState::Degraded(reason) => Some((port.port, reason.as_str())),
            PortState::Opening | PortState::Listening => None,
        })
    }
}

/// A session as `status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Who it is.
    #[serde(flatten)]
    pub identity: Identity,
    /// The environment; known once the first catalog came.
    pub environment: Option<String>,
    /// The link to the far side.
    pub link: LinkState,
    /// Whether everything of the first catalog is up, and the session does not end.
    pub ready: bool,
    /// Why the far side's catalog is not fresh, if it is not.
    pub stale: Option<String>,
    /// The services, in order of their ids.
    pub services: Vec<ServiceReport>,
    /// Names that the user's own lines of the hosts file have, and that were left to them: name and line.
    pub taken: Vec<(String, usize)>,
}

/// Something that the user would want to hear of while a session runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// The first connect failed and is tried again.
    ConnectFailed {
        /// What went wrong.
        reason: String,
        /// When the next try comes.
        #[serde(rename = "retry_in_ms", serialize_with = "milliseconds")]
        retry_in: Duration,
    },
    /// The link was lost; listeners and names stay.
    LinkLost {
        /// Why.
        reason: String,
    },
    /// The link is back.
    LinkRestored {
        /// How long it was away.
        #[serde(rename = "away_ms", serialize_with = "milliseconds")]
        away: Duration,
    },
    /// All services of the first catalog are up (or degraded).
    Ready {
        /// The session as it stands.
        status: Box<StatusReport>,
    },
    /// A service came up after the first catalog.
    ServiceUp {
        /// The service as it stands.
        service: ServiceReport,
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
    /// A name stays with the user's own line of the hosts file.
    NameTaken {
        /// The name.
        name: String,
        /// The line that has it, counted from 1.
        line: usize,
    },
    /// A part of the hosts file will not be read by this system's resolver.
    HostsDiagnostic {
        /// What, and where.
        message: String,
    },
    /// The hosts block could not be brought up to date; it is tried again.
    HostsFailed {
        /// Why.
        reason: String,
    },
    /// The far side's catalog is not fresh; the last good one stays in force.
    CatalogStale {
        /// Why.
        reason: String,
    },
    /// The far side's catalog is fresh again.
    CatalogFresh,
    /// The session ends: what follows is undoing.
    Stopping {
        /// Why.
        reason: String,
    },
}

fn milliseconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

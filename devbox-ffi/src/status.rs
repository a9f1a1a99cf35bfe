//! A session as it is, for other languages: the fields of the engine's report.

use devbox_engine as engine;

/// A session as it is.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Status {
    /// The session's id, unique among all machines.
    pub session: String,
    /// The providers in their configured order.
    pub providers: Vec<ProviderStatus>,
    /// Whether everything of the first catalogs is up, and the session is not stopping.
    pub ready: bool,
    /// Whether the session is on its way to its end.
    pub stopping: bool,
    /// The services, by provider and id.
    pub services: Vec<ServiceStatus>,
}

/// One provider of a session.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct ProviderStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Its kind: `gateway`, `direct`, `kubernetes`.
    pub kind: String,
    /// Where it is, without secrets.
    pub far_side: String,
    /// The environment; known once the first catalog came, or where one was asked for.
    pub environment: Option<String>,
    /// The link to it.
    pub link: LinkState,
    /// Why its catalog is not fresh, if it is not.
    pub stale: Option<String>,
}

/// The link to a far side.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Enum)]
pub enum LinkState {
    /// A connect is under way.
    Connecting {
        /// Tries since the link was last up, this one included.
        attempt: u32,
    },
    /// Connected.
    Up,
    /// The connection was lost and is being made again: open connections wait for it.
    Interrupted {
        /// For how many milliseconds they do; after that they are reset.
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

/// One service as it is offered on this machine.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct ServiceStatus {
    /// Its id in the catalog: `orders.backend`.
    pub service: String,
    /// The provider that it is reached by.
    pub provider: String,
    /// The environment that it belongs to.
    pub environment: String,
    /// Its local addresses, at most one per family; none while it has none.
    pub addresses: Vec<String>,
    /// Its local names, the canonical one first. Empty while nothing of it can be connected to.
    pub names: Vec<String>,
    /// Its ports in ascending order.
    pub ports: Vec<PortStatus>,
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct PortStatus {
    /// The port, the same here as at the service.
    pub port: u16,
    /// Its name in the catalog.
    pub name: Option<String>,
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
    /// Why the last connection failed, if it did.
    pub last_failure: Option<String>,
}

/// Whether something listens for a port.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Enum)]
pub enum PortState {
    /// Not yet.
    Opening,
    /// Connections are accepted.
    Listening,
    /// It cannot be offered here.
    Degraded {
        /// Why, and what to do about it.
        reason: String,
    },
    /// The session ends: no more are accepted.
    Closed,
}

impl From<engine::StatusReport> for Status {
    fn from(report: engine::StatusReport) -> Self {
        Self {
            session: report.identity.session,
            providers: report.providers.into_iter().map(Into::into).collect(),
            ready: report.ready,
            stopping: report.stopping,
            services: report.services.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<engine::ProviderReport> for ProviderStatus {
    fn from(report: engine::ProviderReport) -> Self {
        Self {
            name: report.name,
            kind: report.status.kind,
            far_side: report.status.far_side,
            environment: report.environment,
            link: report.link.into(),
            stale: report.stale,
        }
    }
}

impl From<engine::LinkState> for LinkState {
    fn from(state: engine::LinkState) -> Self {
        match state {
            engine::LinkState::Connecting { attempt } => Self::Connecting { attempt },
            engine::LinkState::Up => Self::Up,
            engine::LinkState::Interrupted { window_ms } => Self::Interrupted { window_ms },
            engine::LinkState::Waiting { attempt, reason } => Self::Waiting { attempt, reason },
            engine::LinkState::Failed { reason } => Self::Failed { reason },
        }
    }
}

impl From<engine::ServiceReport> for ServiceStatus {
    fn from(report: engine::ServiceReport) -> Self {
        Self {
            service: report.service.to_string(),
            provider: report.provider,
            environment: report.environment,
            addresses: report.addresses.iter().map(ToString::to_string).collect(),
            names: report.names,
            ports: report.ports.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<engine::PortReport> for PortStatus {
    fn from(report: engine::PortReport) -> Self {
        Self {
            port: report.port,
            name: report.name,
            state: report.state.into(),
            connections: report.connections,
            active: report.active,
            sent_bytes: report.sent_bytes,
            received_bytes: report.received_bytes,
            last_failure: report.last_failure,
        }
    }
}

impl From<engine::PortState> for PortState {
    fn from(state: engine::PortState) -> Self {
        match state {
            engine::PortState::Opening => Self::Opening,
            engine::PortState::Listening => Self::Listening,
            engine::PortState::Degraded(reason) => Self::Degraded { reason },
            engine::PortState::Closed => Self::Closed,
        }
    }
}

//! What happens to a session, for other languages: the session's events, field by field.

use std::time::Duration;

use devbox_engine as engine;

use crate::notice::Notice;
use crate::status::{ServiceStatus, Status};

/// Something that the user would want to hear of while a session runs.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Enum)]
pub enum Event {
    /// A connect failed and is tried again. Said once for an outage; `Status` has the count.
    ConnectFailed {
        /// The provider.
        provider: String,
        /// What went wrong.
        reason: String,
        /// When the next try comes.
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
        /// `LinkLost`.
        window: Duration,
    },
    /// The link goes on over another connection: no open connection was lost. Comes after
    /// `LinkInterrupted`.
    LinkResumed {
        /// The provider.
        provider: String,
        /// How long it was away.
        away: Duration,
    },
    /// The link is back.
    LinkRestored {
        /// The provider.
        provider: String,
        /// How long it was away.
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
        status: Status,
    },
    /// A service came up after the session was ready.
    ServiceUp {
        /// The service.
        service: ServiceStatus,
    },
    /// A service left the catalog; its names and listeners are gone.
    ServiceRemoved {
        /// Its id.
        service: String,
    },
    /// A port of a service cannot be offered here.
    PortDegraded {
        /// The service.
        service: String,
        /// The port.
        port: u16,
        /// Why, and what to do about it.
        reason: String,
    },
    /// Ports below the first one that everybody may bind are not offered: this process lacks the right. Told once for all that
    /// a round of binding finds.
    LowPorts {
        /// How many services lack one or more ports for it.
        services: u64,
        /// How many ports of theirs.
        ports: u64,
        /// The first of them, at most three.
        examples: Vec<String>,
        /// The first port that everybody may bind.
        first_free: u16,
        /// The lowest port that was refused to this session: were it free to everybody, all would be offered.
        lowest: u16,
    },
    /// This process may open no more files: some services are not offered until it may.
    OutOfDescriptors {
        /// How many services lack a listener for it.
        services: u64,
    },
    /// All services that lacked a listener for want of file descriptors have one.
    DescriptorsAvailable,
    /// As many connections are open as may be: further ones are reset, and counted in `Status`. Said again only once
    /// there was room meanwhile.
    TooManyConnections {
        /// How many may be open at once.
        limit: u64,
    },
    /// A name was left to the user's own line of the hosts file.
    NameTaken {
        /// The name.
        name: String,
        /// The line that has it, counted from 1.
        line: u64,
    },
    /// Two services would have the same name.
    NameClash {
        /// The name.
        name: String,
        /// Who has it: `orders.backend of gateway`.
        owner: String,
        /// Who does not.
        other: String,
    },
    /// A rule keeps services from having names. Told once for each service.
    NamesRefused {
        /// The rule.
        why: String,
        /// Whether these services have no other name either.
        nameless: bool,
        /// Some of the names, and how many more there are.
        names: String,
    },
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
    NamesHeld {
        /// The other session.
        session: String,
        /// Some of the names, and how many more there are.
        names: String,
        /// Whether they were this session's before.
        lost: bool,
        /// How many names this session has published all the same.
        published: u64,
    },
    /// Names that another session held are this one's.
    NamesGained {
        /// The names.
        names: String,
    },
    /// Another program had taken the names away, and they were put back. Told the first time, and when it happened so often that
    /// the two programs work against each other; the status has the count.
    NamesPutBack {
        /// The place.
        sink: String,
        /// How often.
        times: u32,
    },
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
        service: String,
        /// The port.
        port: u16,
        /// What kind of failure it is: `refused`, `timed out`.
        cause: String,
        /// What the far side says of it, the address that it dialed included. May be empty.
        reason: String,
    },
    /// Somebody who may not connect to a service tried to and was reset. Said once for a port and who it was; `Status` has
    /// the count.
    StrangerRefused {
        /// The service.
        service: String,
        /// The port.
        port: u16,
        /// Who it was: `uid 1001`, or an address.
        who: String,
    },
    /// Options are given for a service that no catalog has. Said once, with the first catalogs.
    UnknownService {
        /// The service.
        service: String,
        /// A service of nearly the same name.
        similar: Option<String>,
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
        within: Duration,
    },
    /// A provider's catalog changes all the time. Its changes are applied, and what they bring and take is not told one by
    /// one until it is stable again.
    CatalogUnstable {
        /// The provider.
        provider: String,
    },
    /// A catalog that changed all the time does no more; `Status` has what it came to.
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
        status: Status,
    },
    /// The session ends: what follows is undoing.
    Stopping {
        /// Why.
        reason: String,
    },
    /// Something about the machine that the session runs on.
    Machine {
        /// What.
        notice: Notice,
    },
    /// Something that these bindings have no case for.
    Other {
        /// It, for a log.
        text: String,
    },
}

impl From<engine::EngineEvent> for Event {
    fn from(event: engine::EngineEvent) -> Self {
        match event {
            engine::EngineEvent::Session(event) => event.into(),
            engine::EngineEvent::Notice(notice) => Self::Machine {
                notice: notice.into(),
            },
        }
    }
}

impl From<engine::Event> for Event {
    fn from(event: engine::Event) -> Self {
        match event {
            engine::Event::ConnectFailed {
                provider,
                reason,
                retry_in,
            } => Self::ConnectFailed {
                provider,
                reason,
                retry_in,
            },
            engine::Event::ProviderFailed {
                provider,
                reason,
                retried,
            } => Self::ProviderFailed {
                provider,
                reason,
                retried,
            },
            engine::Event::WrongEnvironment {
                provider,
                wanted,
                found,
            } => Self::WrongEnvironment {
                provider,
                wanted,
                found,
            },
            engine::Event::LinkLost { provider, reason } => Self::LinkLost { provider, reason },
            engine::Event::LinkInterrupted { provider, window } => Self::LinkInterrupted { provider, window },
            engine::Event::LinkResumed { provider, away } => Self::LinkResumed { provider, away },
            engine::Event::LinkRestored { provider, away } => Self::LinkRestored { provider, away },
            engine::Event::LinkUnstable { provider, losses } => Self::LinkUnstable { provider, losses },
            engine::Event::LinkStable { provider, losses } => Self::LinkStable { provider, losses },
            engine::Event::Ready { status } => Self::Ready {
                status: (*status).into(),
            },
            engine::Event::ServiceUp { service } => Self::ServiceUp {
                service: (*service).into(),
            },
            engine::Event::ServiceRemoved { service } => Self::ServiceRemoved {
                service: service.to_string(),
            },
            engine::Event::PortDegraded {
                service,
                port,
                reason,
            } => Self::PortDegraded {
                service: service.to_string(),
                port,
                reason,
            },
            engine::Event::LowPorts {
                services,
                ports,
                examples,
                first_free,
                lowest,
            } => Self::LowPorts {
                services: services as u64,
                ports: ports as u64,
                examples: examples
                    .iter()
                    .map(|port| format!("{}:{}", port.service, port.port))
                    .collect(),
                first_free,
                lowest,
            },
            engine::Event::OutOfDescriptors { services } => Self::OutOfDescriptors {
                services: services as u64,
            },
            engine::Event::DescriptorsAvailable => Self::DescriptorsAvailable,
            engine::Event::TooManyConnections { limit } => Self::TooManyConnections { limit: limit as u64 },
            engine::Event::NameTaken { name, line } => Self::NameTaken {
                name,
                line: line as u64,
            },
            engine::Event::NameClash(clash) => Self::NameClash {
                name: clash.name,
                owner: clash.owner,
                other: clash.other,
            },
            engine::Event::NamesRefused(refused) => Self::NamesRefused {
                why: refused.why,
                nameless: refused.nameless,
                names: refused.names.to_string(),
            },
            engine::Event::NamesWarning { message } => Self::NamesWarning { message },
            engine::Event::NamesFailed { sink, reason } => Self::NamesFailed { sink, reason },
            engine::Event::NamesRestored { sink } => Self::NamesRestored { sink },
            engine::Event::NamesHeld(held) => Self::NamesHeld {
                session: held.session,
                names: held.names.to_string(),
                lost: held.lost,
                published: held.published as u64,
            },
            engine::Event::NamesGained { names } => Self::NamesGained {
                names: names.to_string(),
            },
            engine::Event::NamesPutBack(put_back) => Self::NamesPutBack {
                sink: put_back.sink,
                times: put_back.times,
            },
            engine::Event::CatalogStale { provider, reason } => Self::CatalogStale { provider, reason },
            engine::Event::CatalogFresh { provider } => Self::CatalogFresh { provider },
            engine::Event::StillConnecting {
                provider,
                far_side,
                waits_for,
            } => Self::StillConnecting {
                provider,
                far_side,
                waits_for,
            },
            engine::Event::ConnectionFailed {
                service,
                port,
                cause,
                reason,
            } => Self::ConnectionFailed {
                service: service.to_string(),
                port,
                cause,
                reason,
            },
            engine::Event::StrangerRefused { service, port, who } => Self::StrangerRefused {
                service: service.to_string(),
                port,
                who,
            },
            engine::Event::UnknownService { service, similar } => Self::UnknownService {
                service: service.to_string(),
                similar: similar.map(|similar| similar.to_string()),
            },
            engine::Event::EmptyNamespace { namespace, similar } => {
                Self::EmptyNamespace { namespace, similar }
            }
            engine::Event::Draining { connections, within } => Self::Draining { connections, within },
            engine::Event::CatalogUnstable { provider } => Self::CatalogUnstable { provider },
            engine::Event::CatalogStable { provider, changes } => Self::CatalogStable { provider, changes },
            engine::Event::EnvironmentSwitched {
                provider,
                environment,
            } => Self::EnvironmentSwitched {
                provider,
                environment,
            },
            engine::Event::Lagged { missed, status } => Self::Lagged {
                missed,
                status: (*status).into(),
            },
            engine::Event::Stopping { reason } => Self::Stopping { reason },
            other => Self::Other {
                text: format!("{other:?}"),
            },
        }
    }
}

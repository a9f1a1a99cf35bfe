//! What a session would do: its own state machine, with nobody to carry out its steps.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use devbox_helper_client::Endpoint;
use devbox_provider::{ConnectError, Connection, Wanted};
use devbox_session::sink::{NameSink, PublishError, Published, Registry, hosts_entries};
use devbox_session::{BindFault, Event, ProviderId, SessionState, StatusReport, Step};
use ipalloc::Timestamp;
use netif::conflict::{Clash, Conflict};
use service_catalog::{Label, Update};

use crate::config::{Config, Publish};
use crate::engine::{Prepared, TAG_PREFIX, prepare};
use crate::error::Error;
use crate::host::fault;
use crate::notice::{Notice, Notices};
use crate::obstacles;
use crate::settle::settle;
use crate::sinks::published;
use crate::{hosts, running};

/// What a session would do on this machine.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The session as it would be once ready.
    pub status: StatusReport,
    /// The hosts file that would be changed, if one would.
    pub hosts_file: Option<PathBuf>,
    /// Its change, as a unified diff; empty where it would stay as it is.
    pub diff: String,
    /// What the session would have said before it was ready.
    pub events: Vec<Event>,
    /// What the engine would have said.
    pub notices: Vec<Notice>,
    /// What on this machine would be in the session's way: prefixes, ports, the suffix of its DNS server.
    pub conflicts: Vec<Conflict>,
}

/// Where the hosts file, if there is one, is in the list of sinks.
const HOSTS: usize = 0;

/// Works out what [`start`](crate::start) would do with this configuration, and changes nothing. The providers are asked for
/// their catalogs, and each port is tried for a moment.
///
/// `low_ports` says whether the helper that [`Config::helper`] would be may bind ports that this process may not; it need not
/// be started for a plan. `owner_lives` says whether the process lives that a block in the hosts file names as its owner, as
/// `devbox_helper::owner::is_alive` does: what other living sessions hold would be left to them.
///
/// # Errors
/// As [`start`](crate::start); [`Error::Stopped`] where the session would end before it is ready; [`Error::ReadHosts`].
///
/// # Cancel safety
/// Safe.
pub async fn plan(
    config: &Config,
    low_ports: bool,
    owner_lives: impl Fn(&str) -> bool + Send + Sync,
) -> Result<Plan, Error> {
    let mut config = config.clone();
    settle(&mut config)?;
    let notices = Notices::new();
    let Prepared {
        settings,
        addresses,
        providers,
    } = prepare(&config, &notices).await?;
    let hosts_file = match &config.publish {
        Publish::HostsFile(file) => Some(file.clone()),
        Publish::Registry | Publish::Private { .. } => None,
    };
    let bytes = match &hosts_file {
        Some(file) => tokio::fs::read(file).await.map_err(|source| Error::ReadHosts {
            file: file.clone(),
            source,
        })?,
        None => Vec::new(),
    };
    let tag = format!("{TAG_PREFIX}{}", settings.identity.session);
    let mut sinks: Vec<String> = hosts_file.iter().map(|file| file.display().to_string()).collect();
    sinks.push(Registry::default().describe());
    let mut state = SessionState::new(settings, addresses.allocator, sinks, Instant::now());
    let mut displaced = Displaced::default();
    let mut connections: BTreeMap<ProviderId, Connection> = BTreeMap::new();
    let mut diff = String::new();
    let mut events = Vec::new();
    loop {
        while let Some(step) = state.poll_step(Instant::now()) {
            match step {
                Step::Connect {
                    provider,
                    environment,
                } => {
                    let Some(far_side) = providers.get(provider.0) else {
                        continue;
                    };
                    let wanted = Wanted {
                        generation: 1,
                        environment,
                    };
                    match connect(far_side.as_ref(), wanted).await {
                        Ok((connection, first)) => {
                            connections.insert(provider, connection);
                            let (now, today) = (Instant::now(), Timestamp::from(SystemTime::now()));
                            state.handle_connected(provider, now);
                            state.handle_update(provider, first, now, today);
                        }
                        Err(error) => state.handle_connect_failed(provider, error, Instant::now()),
                    }
                }
                Step::Disconnect { provider } => drop(connections.remove(&provider)),
                // It is over before anything changes.
                Step::Check { .. } => {}
                Step::Claim { environment } => {
                    displaced.find(&environment, hosts_file.as_deref()).await;
                    state.handle_claimed(&environment);
                }
                Step::Bind {
                    service,
                    address,
                    endpoints,
                    all_or_none,
                } => {
                    let tried = endpoints
                        .into_iter()
                        .map(|(endpoint, _)| (endpoint, displaced.probe(endpoint, low_ports)));
                    state.handle_bound(&service, address, all_or_none, tried.collect());
                }
                Step::Publish { sink, records } => {
                    let mut outcome = Ok(Published::default());
                    if let (HOSTS, Some(file)) = (sink, &hosts_file) {
                        let entries = hosts_entries(&records);
                        let others = hosts::Others {
                            displaced: displaced.tag.as_deref(),
                            owner_lives: &owner_lives,
                            take: config.take_names,
                        };
                        match hosts::plan_beside(&bytes, &others, &tag, &entries) {
                            Ok(rendered) => {
                                diff = rendered.diff(file);
                                outcome = Ok(published(rendered.report(file)));
                            }
                            Err(error) => {
                                let message = devbox_provider::with_causes(&error);
                                outcome = Err(PublishError::Other { message });
                            }
                        }
                    }
                    state.handle_published(sink, records, outcome, Instant::now());
                }
                Step::Close { endpoints, .. } => state.handle_closed(&endpoints),
                Step::Release => state.handle_released(Ok(())),
                Step::Admit { .. } | Step::Unclaim { .. } | Step::Retarget { .. } => {}
            }
        }
        while let Some(event) = state.poll_event() {
            if let Event::Ready { status } = event {
                for (_, connection) in connections {
                    connection.close().await;
                }
                let suffix = config.dns.as_ref().map(|dns| &dns.suffix);
                let mut intent = obstacles::intent(&config.pools, suffix);
                intent.ports = obstacles::ports_of(&status);
                let mut conflicts = obstacles::find(intent).await;
                conflicts.retain(|conflict| !displaced.holds(conflict));
                return Ok(Plan {
                    conflicts,
                    status: *status,
                    hosts_file,
                    diff,
                    events,
                    notices: notices.all(),
                });
            }
            events.push(event);
        }
        if let Some(reason) = state.finished() {
            return Err(Error::Stopped(reason.clone()));
        }
        match state.poll_timeout() {
            Some(until) => tokio::time::sleep_until(until.into()).await,
            // It waits for an update of a catalog.
            None => return Err(Error::Crashed),
        }
    }
}

/// Connects, and takes the first update: a far side that lets in and says nothing has not answered.
async fn connect(
    provider: &dyn devbox_provider::Provider,
    wanted: Wanted,
) -> Result<(Connection, Update), ConnectError> {
    let mut connection = provider.connect(wanted).await?;
    let first = connection.source.next().await;
    let first = first.map_err(|error| ConnectError::Unreachable {
        far_side: provider.status().far_side,
        reason: devbox_provider::with_causes(&error),
    })?;
    Ok((connection, first))
}

/// The running session that a real run would displace, as far as the plan has to know it.
#[derive(Default)]
struct Displaced {
    tag: Option<String>,
    listening: Vec<SocketAddr>,
}

impl Displaced {
    async fn find(&mut self, environment: &Label, hosts_file: Option<&Path>) {
        let found = running::find(Some(environment)).await;
        let same = |theirs: Option<&Path>| canonical(theirs) == canonical(hosts_file);
        let Some(found) = found
            .running
            .into_iter()
            .find(|found| same(found.report.identity.hosts_file.as_deref()))
        else {
            return;
        };
        for service in &found.report.services {
            for port in &service.ports {
                let addresses = service.addresses.iter();
                self.listening
                    .extend(addresses.map(|address| SocketAddr::new(*address, port.port)));
            }
        }
        self.tag = Some(format!("{TAG_PREFIX}{}", found.report.identity.session));
    }

    /// Whether it is in the way only for as long as it runs.
    fn holds(&self, conflict: &Conflict) -> bool {
        matches!(&conflict.clash, Clash::Listener { listener } if self.listening.contains(&listener.address))
    }

    /// Whether an endpoint could be listened on: found out by trying, for a moment.
    fn probe(&self, endpoint: Endpoint, low_ports: bool) -> Result<(), BindFault> {
        let address = SocketAddr::new(endpoint.address, endpoint.port);
        let Err(error) = TcpListener::bind(address) else {
            return Ok(());
        };
        match fault(endpoint, &error) {
            BindFault::InUse { .. } if self.listening.contains(&address) => Ok(()),
            // The helper of a real run would bind it.
            BindFault::Denied { .. } if low_ports => Ok(()),
            fault => Err(fault),
        }
    }
}

fn canonical(file: Option<&Path>) -> Option<PathBuf> {
    file.map(Path::canonicalize).and_then(Result::ok)
}

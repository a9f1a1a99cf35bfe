use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use devbox_provider::Provider;
use devbox_session::sink::{NameSink, Registry};
use devbox_session::{
    Handle, Identity, ListenerPolicy, Parts, ProviderId, ProviderSettings, Session, Settings, StatusReport,
    StopReason,
};
use nameserver::Server;
use service_catalog::Label;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{Config, Publish};
use crate::dns;
use crate::error::Error;
use crate::file_watch::FileWatch;
use crate::helper::Helper;
use crate::holders::Holders;
use crate::host::{Claims, Control, MachineHost};
use crate::leases::{Addresses, Writing};
use crate::notice::{Events, Notice, Notices};
use crate::obstacles;
use crate::providers;
use crate::settle::settle;
use crate::shared::Place;
use crate::sinks::{HelperHosts, PrivateHosts, PrivateSink};
use crate::surroundings;
use crate::sys::{self, ControlListener};

/// What the tags of all sessions' blocks begin with.
pub(crate) const TAG_PREFIX: &str = "devbox-";

/// Claims under way whose sockets wait to be served. Further ones wait.
const CONTROL_QUEUE: usize = 8;
/// Control connections of one socket at a time. Further ones wait in the system's queue.
const CONTROL_CONNECTIONS: usize = 64;
/// Commands that hold one shared session. Further ones wait, in vain, and start sessions of their own.
const HOLDERS: usize = 1024;
/// The pause after a control connection could not be accepted: no descriptor may be free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Starts a session. It runs on the tokio runtime of the caller until it is stopped, its last [`Engine`] handle is dropped,
/// or it cannot go on; the reason is what [`Engine::wait`] gives.
///
/// # Errors
/// [`Error`] tells what is wrong with the configuration. A far side that cannot be reached is no error of this function:
/// the session ends then, and says so.
///
/// # Cancel safety
/// Safe: nothing is started.
pub async fn start(config: Config) -> Result<Engine, Error> {
    start_shared(config, None).await
}

/// As [`start`], in the place that [`share`](crate::share) gave: others with this configuration join the session.
/// [`Engine::leave`] gives the place up.
///
/// # Errors
/// As [`start`].
///
/// # Cancel safety
/// Safe: nothing is started.
pub async fn start_shared(mut config: Config, place: Option<Place>) -> Result<Engine, Error> {
    settle(&mut config)?;
    let notices = Notices::new();
    let (prepared, in_the_way) = tokio::join!(
        prepare(&config, &notices),
        obstacles::find(obstacles::intent(&config.pools, None)),
    );
    let Prepared {
        settings,
        addresses,
        providers,
    } = prepared?;
    in_the_way
        .into_iter()
        .map(Notice::Conflict)
        .for_each(|notice| notices.add(notice));
    let identity = settings.identity.clone();
    let names = settings.providers.iter().map(|provider| provider.name.clone());
    let names: Vec<_> = names.collect();

    let registry = Registry::default();
    let mut sinks: Vec<Arc<dyn NameSink>> = Vec::new();
    let mut private = None;
    let mut watch = None;
    match (config.publish, &config.helper) {
        (Publish::Registry, _) => {}
        (Publish::HostsFile(file), Some(helper)) => {
            let watched = watch.insert(Arc::new(FileWatch::new(file.clone())));
            sinks.push(Arc::new(HelperHosts {
                helper: helper.clone(),
                file,
                tag: format!("{TAG_PREFIX}{}", identity.session),
                watch: Arc::clone(watched),
                take: config.take_names,
                notices: notices.clone(),
            }));
        }
        (Publish::HostsFile(file), None) => return Err(Error::HelperNeeded { file }),
        (Publish::Private { base }, _) => {
            let (sink, hosts) = PrivateSink::new(base);
            sinks.push(Arc::new(sink));
            private = Some(hosts);
        }
    }
    let mut served = None;
    if let Some(wanted) = &config.dns {
        let helper = config.helper.as_ref();
        let started = dns::start(wanted, helper, &identity.session, &config.pools, &notices).await?;
        sinks.push(Arc::new(started.sink));
        served = Some((started.server, started.asked));
    }
    // Last: messages that mean the names in general speak of the first one.
    sinks.push(Arc::new(registry.clone()));
    let (control_sender, control) = mpsc::channel(CONTROL_QUEUE);
    let host = MachineHost {
        helper: config.helper.clone(),
        hosts_file: identity.hosts_file.clone(),
        claims: config.claim.then(|| Claims {
            introduction: introduction(&identity),
            control: control_sender,
        }),
        notices: notices.clone(),
        holders: Holders::default(),
    };
    let parts = Parts {
        addresses: addresses.allocator,
        providers,
        host: Arc::new(host),
        sinks,
        keeper: addresses.keeper,
    };
    let (session, handle) = Session::new(settings, parts);
    let events = Events::new(handle.events(), &notices);
    let abandoned = CancellationToken::new();
    let (shared, others) = match place {
        Some(Place(listener)) => {
            let (held, holders) = watch::channel(0);
            let leaving = CancellationToken::new();
            let others = Others {
                holders,
                leaving: leaving.clone(),
            };
            (
                Some(Served {
                    listener,
                    limit: HOLDERS,
                    held,
                    leaving,
                }),
                Some(others),
            )
        }
        None => (None, None),
    };
    let (ended_sender, ended) = watch::channel(None);
    let supervisor = Supervisor {
        handle: handle.clone(),
        control,
        watch,
        sweep: config.helper.filter(|_| identity.hosts_file.is_some()),
        notices: notices.clone(),
        writing: addresses.writing,
        abandoned: abandoned.clone(),
        shared,
    };
    // It ends after the session, which the last handle stops; whoever wants to see the end waits for it.
    tokio::spawn(async move {
        if let Some(reason) = supervisor.run(session).await {
            ended_sender.send_replace(Some(reason));
        }
    });
    Ok(Engine(Arc::new(Shared {
        session: handle,
        identity,
        providers: names,
        registry,
        private,
        dns: served,
        notices,
        first_reader: Mutex::new(Some(events)),
        ended,
        others,
        _abandoned: abandoned.drop_guard(),
    })))
}

/// A running session. Clones are handles to the same one; it is stopped when the last of them is dropped.
#[derive(Debug, Clone)]
pub struct Engine(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    session: Handle,
    identity: Identity,
    providers: Vec<String>,
    registry: Registry,
    private: Option<PrivateHosts>,
    /// The session's DNS server, and whether this system asks it.
    dns: Option<(Server, bool)>,
    notices: Notices,
    /// Subscribed before the session ran, so that the first reader misses nothing.
    first_reader: Mutex<Option<Events>>,
    ended: watch::Receiver<Option<StopReason>>,
    others: Option<Others>,
    _abandoned: DropGuard,
}

/// Those who hold a shared session beside its owner.
#[derive(Debug)]
struct Others {
    /// How many there are; closed once there can be no more.
    holders: watch::Receiver<usize>,
    leaving: CancellationToken,
}

impl Engine {
    /// Who this session is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// The names of the session, in memory: for a resolver in this process.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// The private hosts file, where [`Publish::Private`] asked for one.
    #[must_use]
    pub fn private_hosts(&self) -> Option<PrivateHosts> {
        self.0.private.clone()
    }

    /// Where the session's DNS server answers, if it has one.
    #[must_use]
    pub fn dns_address(&self) -> Option<SocketAddr> {
        let (server, _) = self.0.dns.as_ref()?;
        server.addresses().first().copied()
    }

    /// Whether this system asks the session's DNS server for the names under its suffix, and it alone for those.
    #[must_use]
    pub fn dns_is_asked(&self) -> bool {
        self.0.dns.as_ref().is_some_and(|(_, asked)| *asked)
    }

    /// The session as it is now; `None` once it has ended.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn status(&self) -> Option<StatusReport> {
        self.0.session.status().await
    }

    /// What happens to the session. The first reader gets everything from the start, a later one from here on, and the
    /// notices from the start.
    #[must_use]
    pub fn events(&self) -> Events {
        let first = self
            .0
            .first_reader
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        first.unwrap_or_else(|| Events::new(self.0.session.events(), &self.0.notices))
    }

    /// Waits until every service of the first catalogs can be connected to (or is reported as degraded) and every name is
    /// published.
    ///
    /// # Errors
    /// [`Error::Stopped`] if the session ends first.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn ready(&self) -> Result<StatusReport, Error> {
        let mut changes = self.0.session.changes();
        while let Some(report) = changes.next().await {
            if report.ready {
                return Ok(report);
            }
        }
        Err(Error::Stopped(self.wait().await?))
    }

    /// Asks the session to end; `by` says who does, for its last words. Asked a second time, it no longer waits for open
    /// connections, nor for a part of the machine that does not answer.
    ///
    /// # Cancel safety
    /// Safe: it was asked, or it was not.
    pub async fn stop(&self, by: &str) {
        self.0
            .session
            .stop(StopReason::Requested { by: by.to_owned() })
            .await;
    }

    /// Waits until somebody else holds this session; forever where nobody can.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn held(&self) {
        if let Some(others) = &self.0.others
            && others.holders.clone().wait_for(|count| *count > 0).await.is_ok()
        {
            return;
        }
        std::future::pending::<()>().await;
    }

    /// Waits until nobody else holds this session, and from then on nobody can. At once where it is not shared.
    ///
    /// # Cancel safety
    /// Safe; it stays true that the first moment without a holder is the last.
    pub async fn leave(&self) {
        if let Some(others) = &self.0.others {
            others.leaving.cancel();
            let mut holders = others.holders.clone();
            while holders.changed().await.is_ok() {}
        }
    }

    /// Has a provider serve another environment: the names and addresses of the old one go, those of the new one come.
    ///
    /// # Errors
    /// [`Error::UnknownProvider`], and [`Error::Ending`] where the session is on its way to its end.
    ///
    /// # Cancel safety
    /// Safe: it was asked, or it was not.
    pub async fn switch_environment(&self, provider: &str, environment: Label) -> Result<(), Error> {
        let index = self.0.providers.iter().position(|name| name == provider);
        let provider = index.map(ProviderId).ok_or_else(|| Error::UnknownProvider {
            name: provider.to_owned(),
        })?;
        if self.0.session.switch_environment(provider, environment).await {
            Ok(())
        } else {
            Err(Error::Ending)
        }
    }

    /// Waits until the session has ended and everything is undone; says why it ended.
    ///
    /// # Errors
    /// [`Error::Crashed`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn wait(&self) -> Result<StopReason, Error> {
        let mut ended = self.0.ended.clone();
        let reason = ended
            .wait_for(Option::is_some)
            .await
            .map_err(|_| Error::Crashed)?;
        reason.clone().ok_or(Error::Crashed)
    }
}

/// What a session and a plan of it both need.
pub(crate) struct Prepared {
    pub(crate) settings: Settings,
    pub(crate) addresses: Addresses,
    pub(crate) providers: Vec<Arc<dyn Provider>>,
}

pub(crate) async fn prepare(config: &Config, notices: &Notices) -> Result<Prepared, Error> {
    let identity = Identity {
        session: new_id(config)?,
        pid: std::process::id(),
        helper_pid: config.helper.as_ref().map(Helper::pid),
        hosts_file: match &config.publish {
            Publish::HostsFile(file) => Some(file.clone()),
            Publish::Registry | Publish::Private { .. } => None,
        },
        started_at: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs(),
    };
    let providers = providers::build(
        &config.providers,
        &identity.session,
        config.max_connections,
        notices,
    )
    .await?;
    let lock_file = config.lock_file.as_deref();
    let addresses = Addresses::open(&config.pools, lock_file, config.state_dir.as_deref(), notices).await?;
    let provider_settings = config.providers.iter().map(|provider| ProviderSettings {
        name: provider.name.clone(),
        environment: provider.environment.clone(),
    });
    let seed = u64::from_le_bytes(random()?);
    let mut settings = Settings::new(identity, provider_settings.collect(), seed);
    settings.names = config.names.clone();
    settings.max_connections = config.max_connections;
    settings.listening = ListenerPolicy {
        share: config.share,
        user: sys::own_user(),
        prefixes: config.pools.clone(),
        services: config.services.clone(),
    };
    Ok(Prepared {
        settings,
        addresses,
        providers,
    })
}

/// A new session's id: the environment that is asked for first, if one is, and 32 random bits.
fn new_id(config: &Config) -> Result<String, Error> {
    let random: String = random::<4>()?.iter().map(|byte| format!("{byte:02x}")).collect();
    let environment = config
        .providers
        .iter()
        .find_map(|provider| provider.environment.as_ref());
    // A tag of the hosts file takes 64 bytes, `devbox-` included.
    let environment: String = environment
        .map_or("session", |label| label.as_ref())
        .chars()
        .take(40)
        .collect();
    Ok(format!("{environment}-{random}"))
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Error::Random {
        message: error.to_string(),
    })?;
    Ok(bytes)
}

fn introduction(identity: &Identity) -> String {
    format!("session {} (pid {})", identity.session, identity.pid)
}

/// Owns what runs beside a session: its control sockets, the watch of its hosts file, the sweep at its start, the last write at
/// its end.
struct Supervisor {
    handle: Handle,
    control: mpsc::Receiver<Control>,
    watch: Option<Arc<FileWatch>>,
    sweep: Option<Helper>,
    notices: Notices,
    writing: Option<Writing>,
    abandoned: CancellationToken,
    /// Where others find this session, if it is shared.
    shared: Option<Served>,
}

impl Supervisor {
    /// Runs the session; `None` if it panicked.
    async fn run(mut self, session: Session) -> Option<StopReason> {
        let mut tasks = JoinSet::new();
        if let Some(helper) = self.sweep.take() {
            // Beside the session: a helper that does not answer keeps nobody waiting.
            tasks.spawn(sweep(helper, self.notices.clone()));
        }
        if let Some(watch) = self.watch.take() {
            tasks.spawn(watch.run());
        }
        tasks.spawn(surroundings::watch(self.handle.clone()));
        let stopping = self.handle.clone();
        let abandoned = self.abandoned.clone();
        tasks.spawn(async move {
            abandoned.cancelled().await;
            let by = "its owner is gone".to_owned();
            stopping.stop(StopReason::Requested { by }).await;
        });
        let mut sharing = JoinSet::new();
        if let Some(served) = self.shared.take() {
            sharing.spawn(serve_control(served, self.handle.clone()));
        }
        let mut running = JoinSet::new();
        running.spawn(session.run());
        // One set a socket; dropping it closes the socket.
        let mut served: BTreeMap<Label, JoinSet<()>> = BTreeMap::new();
        let ended = loop {
            tokio::select! {
                ended = running.join_next() => break ended,
                Some(control) = self.control.recv() => match control {
                    Control::Serve(environment, listener) => {
                        let mut serving = JoinSet::new();
                        serving.spawn(serve_control(Served::alone(listener), self.handle.clone()));
                        served.insert(environment, serving);
                    }
                    Control::Close(environment) => drop(served.remove(&environment)),
                },
            }
        };
        for (_, mut serving) in served {
            serving.shutdown().await;
        }
        sharing.shutdown().await;
        if let Some(writing) = self.writing.take() {
            writing.finish().await;
        }
        tasks.shutdown().await;
        match ended? {
            Ok(reason) => Some(reason),
            Err(error) => {
                tracing::error!(%error, "the session's task ended");
                None
            }
        }
    }
}

/// Removes what sessions left that were killed together with their helper: also where this session gets no further.
async fn sweep(helper: Helper, notices: Notices) {
    match helper.sweep().await {
        Ok(report) => {
            for block in report.removed {
                notices.add(Notice::Swept {
                    file: report.file.clone(),
                    tag: block.tag,
                });
            }
        }
        // Whether the file can be written will show when the names are.
        Err(error) => tracing::debug!(error = %devbox_provider::with_causes(&error), "nothing was swept"),
    }
}

/// A control socket that is served.
struct Served {
    listener: ControlListener,
    /// Connections at a time.
    limit: usize,
    /// How many there are.
    held: watch::Sender<usize>,
    /// The socket is closed in the first moment without a connection after this.
    leaving: CancellationToken,
}

impl Served {
    /// For those who ask, and hold nothing.
    fn alone(listener: ControlListener) -> Self {
        Self {
            listener,
            limit: CONTROL_CONNECTIONS,
            held: watch::Sender::new(0),
            leaving: CancellationToken::new(),
        }
    }
}

/// Answers the connections of one control socket until it is dropped, or left.
async fn serve_control(served: Served, handle: Handle) {
    let Served {
        listener,
        limit,
        held,
        leaving,
    } = served;
    let mut connections = JoinSet::new();
    loop {
        held.send_replace(connections.len());
        tokio::select! {
            // Whoever has connected meanwhile and is not accepted sees the end of the stream, and starts over.
            () = leaving.cancelled(), if connections.is_empty() => return,
            accepted = listener.accept(), if connections.len() < limit => match accepted {
                Ok(stream) => {
                    let handle = handle.clone();
                    connections.spawn(async move {
                        if let Err(error) = devbox_session::control::serve(stream, &handle).await {
                            tracing::debug!(%error, "control connection");
                        }
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "control socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

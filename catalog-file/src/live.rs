use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use devbox_provider::{ConnectError, Connection, Provider, Status, Wanted};
use service_catalog::{Health, Protocol, Source, SourceError, Update};
use tokio::sync::watch;
use tunnel_bridge::direct::DirectStream;
use tunnel_bridge::{ByteStream, DatagramFlow, Dialer, Refusal, RefusalKind};

use crate::dial::{dial, dial_udp};
use crate::{DialAddress, DialPolicy, Error, StaticCatalog};

/// A catalog in memory that can be replaced while it is in use, as a provider: its targets are dialed directly, and
/// whoever is connected is told each change.
///
/// Clones stand for the same catalog. Connects may overlap.
///
/// ```
/// use catalog_file::{LiveCatalog, StaticCatalog};
/// use devbox_provider::{Provider as _, Wanted};
/// use service_catalog::Update;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let live = LiveCatalog::new(StaticCatalog::new("dev".parse()?));
/// let mut connection = live.connect(Wanted::default()).await?;
/// assert!(matches!(connection.source.next().await?, Update::Snapshot(_)));
///
/// let mut newer = StaticCatalog::new("dev".parse()?);
/// newer.add("orders.backend".parse()?, None, 5432.try_into()?, "127.0.0.1:15432".parse()?)?;
/// live.replace(newer)?;
/// assert!(matches!(connection.source.next().await?, Update::Changed { .. }));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct LiveCatalog {
    in_force: watch::Sender<Option<Arc<InForce>>>,
    policy: Arc<DialPolicy>,
    shown: Arc<str>,
}

/// A catalog and how far it can be trusted.
#[derive(Debug)]
struct InForce {
    catalog: Arc<StaticCatalog>,
    health: Health,
}

impl LiveCatalog {
    /// A catalog that is in force at once.
    #[must_use]
    pub fn new(catalog: StaticCatalog) -> Self {
        let live = Self::awaited();
        live.put(Arc::new(catalog), Health::Live);
        live
    }

    /// A catalog that is not there yet: until the first [`replace`](Self::replace) its source waits and every dial is
    /// refused.
    #[must_use]
    pub fn awaited() -> Self {
        Self {
            in_force: watch::Sender::new(None),
            policy: Arc::default(),
            shown: "a catalog in memory".into(),
        }
    }

    /// Says what may be dialed. Default: everything.
    #[must_use]
    pub fn dialing(self, policy: DialPolicy) -> Self {
        Self {
            policy: Arc::new(policy),
            ..self
        }
    }

    /// Says what [`status`](Provider::status) shows as the far side. Default: `a catalog in memory`.
    #[must_use]
    pub fn shown_as(self, far_side: &str) -> Self {
        Self {
            shown: far_side.into(),
            ..self
        }
    }

    /// Puts `newer` in force; what was stale is live again.
    ///
    /// # Errors
    /// [`Error::EnvironmentChanged`]; then nothing changes.
    pub fn replace(&self, newer: StaticCatalog) -> Result<(), Error> {
        if let Some(current) = self.current() {
            let (from, to) = (&current.catalog().environment, &newer.catalog().environment);
            if from != to {
                return Err(Error::EnvironmentChanged {
                    from: from.to_string(),
                    to: to.to_string(),
                });
            }
        }
        self.put(Arc::new(newer), Health::Live);
        Ok(())
    }

    /// Says that a newer catalog exists and cannot be used: the one in force stays so. Nothing happens where none is.
    pub fn set_stale(&self, reason: &str) {
        if let Some(catalog) = self.current() {
            self.put(catalog, Health::stale(reason));
        }
    }

    /// The catalog in force.
    #[must_use]
    pub fn current(&self) -> Option<Arc<StaticCatalog>> {
        let in_force = self.in_force.borrow();
        in_force.as_ref().map(|in_force| Arc::clone(&in_force.catalog))
    }

    fn put(&self, catalog: Arc<StaticCatalog>, health: Health) {
        self.in_force
            .send_replace(Some(Arc::new(InForce { catalog, health })));
    }
}

impl From<StaticCatalog> for LiveCatalog {
    fn from(catalog: StaticCatalog) -> Self {
        Self::new(catalog)
    }
}

#[async_trait]
impl Provider for LiveCatalog {
    async fn connect(&self, wanted: Wanted) -> Result<Connection, ConnectError> {
        if let (Some(wanted), Some(current)) = (&wanted.environment, self.current()) {
            let served = &current.catalog().environment;
            if wanted != served {
                return Err(ConnectError::UnknownEnvironment {
                    far_side: self.shown.to_string(),
                    message: format!("the environment is `{served}`, not `{wanted}`"),
                });
            }
        }
        let source = LiveSource {
            in_force: self.in_force.subscribe(),
            told: None,
            untold: VecDeque::new(),
            _catalog: self.clone(),
        };
        Ok(Connection::new(source, Arc::new(LiveDialer(self.clone()))))
    }

    fn status(&self) -> Status {
        Status::new("direct", &*self.shown)
    }
}

struct LiveSource {
    in_force: watch::Receiver<Option<Arc<InForce>>>,
    told: Option<Arc<InForce>>,
    /// At most two: a change of the catalog and one of its health.
    untold: VecDeque<Update>,
    /// A connection outlives the value that it came from; it only hears of no more changes then.
    _catalog: LiveCatalog,
}

#[async_trait]
impl Source for LiveSource {
    async fn next(&mut self) -> Result<Update, SourceError> {
        loop {
            if let Some(update) = self.untold.pop_front() {
                return Ok(update);
            }
            let current = self.in_force.borrow_and_update().clone();
            if let Some(current) = current {
                self.untold.extend(updates(self.told.as_deref(), &current));
                self.told = Some(current);
            }
            if self.untold.is_empty() {
                self.in_force.changed().await.map_err(|_| SourceError::Ended)?;
            }
        }
    }
}

/// What brings somebody who was told `told` up to date. A catalog counts as live until it is told otherwise.
fn updates(told: Option<&InForce>, current: &InForce) -> impl Iterator<Item = Update> {
    let catalog = current.catalog.catalog();
    let change = match told {
        None => Some(Update::Snapshot(catalog.clone())),
        Some(told) => told.catalog.catalog().diff(catalog),
    };
    let told_health = told.map_or(&Health::Live, |told| &told.health);
    let health = (*told_health != current.health).then(|| Update::Health(current.health.clone()));
    change.into_iter().chain(health)
}

struct LiveDialer(LiveCatalog);

#[async_trait]
impl Dialer for LiveDialer {
    async fn dial(&self, target: &tunnel_bridge::Target) -> Result<Box<dyn ByteStream>, Refusal> {
        let address = self.address(target, Protocol::Tcp)?;
        let stream = dial(&address, &self.0.policy).await?;
        Ok(Box::new(DirectStream::from(stream)))
    }

    async fn dial_datagrams(&self, target: &tunnel_bridge::Target) -> Result<Box<dyn DatagramFlow>, Refusal> {
        let address = self.address(target, Protocol::Udp)?;
        Ok(Box::new(dial_udp(&address, &self.0.policy).await?))
    }

    fn carries_datagrams(&self) -> bool {
        true
    }
}

impl LiveDialer {
    /// What a target stands for, which must be of that protocol.
    fn address(&self, target: &tunnel_bridge::Target, protocol: Protocol) -> Result<DialAddress, Refusal> {
        let Ok(asked) = target.as_str().parse::<service_catalog::Target>() else {
            let message = "this is not a target of a catalog";
            return Err(Refusal::new(RefusalKind::NotAllowed, message));
        };
        // The catalog of this very moment: a service that was removed refuses new connections from here on, and the
        // live ones go on until one of their ends closes them.
        let Some(catalog) = self.0.current() else {
            return Err(Refusal::new(RefusalKind::NotFound, "there is no catalog yet"));
        };
        let address = catalog.dial_address(&asked).cloned();
        if address.is_some() && asked.protocol != protocol {
            let message = format!("`{asked}` is not reached by {protocol}");
            return Err(Refusal::new(RefusalKind::NotAllowed, message));
        }
        address.ok_or_else(|| {
            let message = format!(
                "`{asked}` is not in the catalog of `{}`",
                catalog.catalog().environment
            );
            Refusal::new(RefusalKind::NotFound, message)
        })
    }
}

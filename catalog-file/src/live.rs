use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use devbox_provider::{ConnectError, Connection, Provider, Status, Wanted};
use service_catalog::{Health, Protocol, Service, ServiceId, Source, SourceError, Update};
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
    in_force: watch::Sender<Option<InForce>>,
    policy: Arc<DialPolicy>,
    shown: Arc<str>,
}

/// A catalog, how far it can be trusted, and what changed last.
#[derive(Debug)]
struct InForce {
    catalog: Arc<StaticCatalog>,
    health: Health,
    /// Counts the changes of the catalog.
    revision: u64,
    /// What the last ones changed, each service with whether it was there before; the newest leads to `revision`. Who was told an older
    /// catalog is told all of this one.
    changes: VecDeque<BTreeMap<ServiceId, bool>>,
}

/// How many changes a source may be behind.
const REMEMBERED: usize = 64;

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

    /// Changes some services of the catalog in force, as [`StaticCatalog::change`] does; what was stale is live again. It costs what
    /// changes, and not what there is. Nothing happens where no catalog is in force.
    ///
    /// # Errors
    /// As [`StaticCatalog::change`]; then nothing changes.
    pub fn change(&self, upserted: Vec<Service>, removed: &[ServiceId]) -> Result<(), Error> {
        let mut done = Ok(());
        self.in_force.send_if_modified(|in_force| {
            let Some(in_force) = in_force else {
                return false;
            };
            // Somebody who looks at the catalog at this moment keeps what they have.
            match Arc::make_mut(&mut in_force.catalog).change(upserted, removed) {
                Ok(changed) => {
                    in_force.health = Health::Live;
                    in_force.note(changed);
                    true
                }
                Err(error) => {
                    done = Err(error);
                    false
                }
            }
        });
        done
    }

    /// Says that a newer catalog exists and cannot be used: the one in force stays so. Nothing happens where none is.
    pub fn set_stale(&self, reason: &str) {
        self.in_force.send_if_modified(|in_force| {
            if let Some(in_force) = in_force {
                in_force.health = Health::stale(reason);
            }
            in_force.is_some()
        });
    }

    /// The catalog in force.
    #[must_use]
    pub fn current(&self) -> Option<Arc<StaticCatalog>> {
        let in_force = self.in_force.borrow();
        in_force.as_ref().map(|in_force| Arc::clone(&in_force.catalog))
    }

    fn put(&self, catalog: Arc<StaticCatalog>, health: Health) {
        self.in_force.send_modify(|in_force| match in_force {
            Some(in_force) => {
                let former = std::mem::replace(&mut in_force.catalog, catalog);
                in_force.health = health;
                match former.catalog().diff(in_force.catalog.catalog()) {
                    None => {}
                    Some(Update::Changed { upserted, removed }) => {
                        let known = &former.catalog().services;
                        let upserted = upserted.into_iter().map(|service| service.id);
                        let changed = upserted.chain(removed);
                        let changed = changed.map(|id| (known.contains_key(&id), id));
                        in_force.note(changed.map(|(known, id)| (id, known)).collect());
                    }
                    Some(_) => in_force.forget(),
                }
            }
            None => {
                *in_force = Some(InForce {
                    catalog,
                    health,
                    revision: 0,
                    changes: VecDeque::new(),
                });
            }
        });
    }
}

impl InForce {
    /// These services changed.
    fn note(&mut self, services: BTreeMap<ServiceId, bool>) {
        if services.is_empty() {
            return;
        }
        self.revision += 1;
        self.changes.push_back(services);
        if self.changes.len() > REMEMBERED {
            self.changes.pop_front();
        }
    }

    /// It is another catalog.
    fn forget(&mut self) {
        self.revision += 1;
        self.changes.clear();
    }

    /// What brings somebody up to date who was told the catalog of this revision.
    fn change_since(&self, revision: Option<u64>) -> Option<Update> {
        let catalog = self.catalog.catalog();
        let behind = revision.and_then(|told| usize::try_from(self.revision - told).ok());
        let known = behind.and_then(|behind| self.changes.len().checked_sub(behind));
        let Some(known) = known else {
            return Some(Update::Snapshot(catalog.clone()));
        };
        // Whether a service was told is what the first of its changes says.
        let mut changed: BTreeMap<&ServiceId, bool> = BTreeMap::new();
        for (id, was_there) in self.changes.iter().skip(known).flatten() {
            changed.entry(id).or_insert(*was_there);
        }
        let (mut upserted, mut removed) = (Vec::new(), Vec::new());
        for (id, was_there) in changed {
            match catalog.services.get(id) {
                Some(service) => upserted.push(service.clone()),
                None if was_there => removed.push(id.clone()),
                None => {}
            }
        }
        (!upserted.is_empty() || !removed.is_empty()).then_some(Update::Changed { upserted, removed })
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
    in_force: watch::Receiver<Option<InForce>>,
    told: Option<Told>,
    /// At most two: a change of the catalog and one of its health.
    untold: VecDeque<Update>,
    /// A connection outlives the value that it came from; it only hears of no more changes then.
    _catalog: LiveCatalog,
}

/// What somebody knows already.
struct Told {
    revision: u64,
    health: Health,
}

#[async_trait]
impl Source for LiveSource {
    async fn next(&mut self) -> Result<Update, SourceError> {
        loop {
            if let Some(update) = self.untold.pop_front() {
                return Ok(update);
            }
            if let Some(current) = &*self.in_force.borrow_and_update() {
                let (told, untold) = current.tell(self.told.as_ref());
                self.told = Some(told);
                self.untold.extend(untold);
            }
            if self.untold.is_empty() {
                self.in_force.changed().await.map_err(|_| SourceError::Ended)?;
            }
        }
    }
}

impl InForce {
    /// What brings somebody who was told `told` up to date. A catalog counts as live until it is told otherwise.
    fn tell(&self, told: Option<&Told>) -> (Told, impl Iterator<Item = Update> + use<>) {
        let change = self.change_since(told.map(|told| told.revision));
        let told_health = told.map_or(&Health::Live, |told| &told.health);
        let health = (*told_health != self.health).then(|| Update::Health(self.health.clone()));
        let told = Told {
            revision: self.revision,
            health: self.health.clone(),
        };
        (told, change.into_iter().chain(health))
    }
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
        let in_force = self.0.in_force.borrow();
        let Some(catalog) = in_force.as_ref().map(|in_force| &in_force.catalog) else {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use service_catalog::{Catalog, Port};

    use super::*;

    fn service(number: u8, port: u16) -> Service {
        let port = Port {
            target: Some(format!("10.0.0.1:{port}")),
            ..Port::tcp(port.try_into().unwrap())
        };
        Service::new(format!("s{number}.x").parse().unwrap(), vec![port]).unwrap()
    }

    /// What may happen to a catalog, and to somebody who is told of it.
    #[derive(Debug, Clone)]
    enum Happening {
        Replace(Vec<(u8, u16)>, bool),
        Change(Vec<(u8, u16)>, Vec<u8>),
        /// So often that nobody can be told of each.
        Churn(u8),
        Stale,
        Ask,
    }

    fn happening() -> impl Strategy<Value = Happening> {
        let services = || proptest::collection::btree_map(0_u8..6, 1_u16..4, 0..4);
        let services = || services().prop_map(|services| services.into_iter().collect::<Vec<_>>());
        prop_oneof![
            1 => (services(), any::<bool>()).prop_map(|(services, note)| Happening::Replace(services, note)),
            4 => (services(), proptest::collection::vec(0_u8..6, 0..3))
                .prop_map(|(upserted, removed)| Happening::Change(upserted, removed)),
            1 => (0_u8..100).prop_map(Happening::Churn),
            1 => Just(Happening::Stale),
            3 => Just(Happening::Ask),
        ]
    }

    async fn ask(connection: &mut Connection, catalog: &mut Catalog, health: &mut Health) {
        while let Ok(update) = tokio::time::timeout(Duration::ZERO, connection.source.next()).await {
            match update.unwrap() {
                Update::Health(told) => *health = told,
                update => catalog.apply(&update),
            }
        }
    }

    proptest! {
        #[test]
        fn whoever_is_told_changes_ends_with_what_is_in_force(happenings in proptest::collection::vec(happening(), 0..40)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let live = LiveCatalog::new(StaticCatalog::new("dev".parse().unwrap()));
                let mut connection = live.connect(Wanted::default()).await.unwrap();
                let (mut catalog, mut health) = (Catalog::empty("dev".parse().unwrap()), Health::Live);
                let mut expected = (catalog.clone(), Health::Live);
                let several = |services: Vec<(u8, u16)>| services.into_iter().map(|(number, port)| service(number, port));
                for happening in happenings.into_iter().chain([Happening::Ask]) {
                    match happening {
                        Happening::Replace(services, note) => {
                            let mut newer = Catalog::new("dev".parse().unwrap(), several(services)).unwrap();
                            if note {
                                newer.note("a line");
                            }
                            expected = (newer.clone(), Health::Live);
                            live.replace(StaticCatalog::from_targets(newer).unwrap()).unwrap();
                        }
                        Happening::Change(upserted, removed) => {
                            let upserted: Vec<_> = several(upserted).collect();
                            let removed: Vec<_> = removed.iter().map(|number| service(*number, 1).id).collect();
                            live.change(upserted.clone(), &removed).unwrap();
                            expected.0.apply(&Update::Changed { upserted, removed });
                            expected.1 = Health::Live;
                        }
                        Happening::Churn(times) => {
                            for port in 1..=u16::from(times) {
                                live.change(vec![service(0, port)], &[]).unwrap();
                                expected.0.apply(&Update::Changed { upserted: vec![service(0, port)], removed: Vec::new() });
                                expected.1 = Health::Live;
                            }
                        }
                        Happening::Stale => {
                            live.set_stale("why");
                            expected.1 = Health::stale("why");
                        }
                        Happening::Ask => {
                            ask(&mut connection, &mut catalog, &mut health).await;
                            assert_eq!((&catalog, &health), (&expected.0, &expected.1));
                        }
                    }
                    let current = live.current().unwrap();
                    assert_eq!(*current.catalog(), expected.0);
                    assert_eq!(*current, StaticCatalog::from_targets(expected.0.clone()).unwrap(), "so are the addresses");
                }
            });
        }
    }

    #[tokio::test]
    async fn where_nothing_changes_nothing_is_told() {
        let live = LiveCatalog::new(StaticCatalog::new("dev".parse().unwrap()));
        live.change(vec![service(1, 80)], &[]).unwrap();
        let mut connection = live.connect(Wanted::default()).await.unwrap();
        connection.source.next().await.unwrap();
        live.change(vec![service(1, 80)], &[service(2, 80).id]).unwrap();
        live.replace(StaticCatalog::clone(&live.current().unwrap()))
            .unwrap();
        let told = tokio::time::timeout(Duration::ZERO, connection.source.next()).await;
        assert!(told.is_err(), "{told:?}");
        let unusable = Service {
            ports: vec![Port::tcp(80.try_into().unwrap())],
            ..service(3, 80)
        };
        assert!(matches!(
            live.change(vec![service(1, 81), unusable], &[]),
            Err(Error::Port { .. })
        ));
        let told = tokio::time::timeout(Duration::ZERO, connection.source.next()).await;
        assert!(told.is_err(), "{told:?}");
    }
}

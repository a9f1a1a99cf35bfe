//! The catalog that the gateway is given: each endpoint of the watched services, so that the choice among them stays here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use devbox_provider::{ConnectError, Connection, Provider, Status, Wanted};
use service_catalog::{Catalog, Error, Label, Port, Service, ServiceId, Source, SourceError, Target, Update};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tunnel_bridge::{ByteStream, Dialer, Refusal, RefusalKind};

use crate::road::{Endpoint, Host};

/// The endpoints that take new connections, and their changes.
#[derive(Clone)]
pub(crate) struct Feed {
    all: Arc<dyn Fn() -> BTreeSet<Endpoint> + Send + Sync>,
    changes: watch::Receiver<()>,
}

impl Feed {
    /// `all` is asked once more for each change.
    pub(crate) fn new(
        all: impl Fn() -> BTreeSet<Endpoint> + Send + Sync + 'static,
        changes: watch::Receiver<()>,
    ) -> Self {
        Self {
            all: Arc::new(all),
            changes,
        }
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").finish_non_exhaustive()
    }
}

/// What an endpoint is called between us and the gateway: a service for each address or name.
pub(crate) fn target(endpoint: &Endpoint) -> Result<Target, Error> {
    let name = match &endpoint.host {
        Host::Address(IpAddr::V4(address)) => format!("ip-{}", address.to_string().replace('.', "-")),
        Host::Address(IpAddr::V6(address)) => format!("ip-{:032x}", address.to_bits()),
        // A label has at most 63 characters, which many a name outside is longer than.
        Host::Name(name) => {
            let digest = Sha256::digest(name.as_bytes());
            let half = digest.iter().take(16);
            half.fold("name-".to_owned(), |text, byte| text + &format!("{byte:02x}"))
        }
    };
    Ok(Target {
        service: ServiceId::new("endpoints".parse()?, name.parse()?),
        port: endpoint.port,
        protocol: endpoint.protocol,
    })
}

fn catalog(environment: &Label, endpoints: &BTreeSet<Endpoint>) -> Result<Catalog, Error> {
    let mut ports: BTreeMap<ServiceId, BTreeMap<_, Port>> = BTreeMap::new();
    for endpoint in endpoints {
        let Target {
            service,
            port,
            protocol,
        } = target(endpoint)?;
        let entry = Port {
            name: None,
            port,
            protocol,
            target: Some(endpoint.to_string()),
        };
        ports.entry(service).or_default().insert((port, protocol), entry);
    }
    let services = ports
        .into_iter()
        .map(|(id, ports)| Service::new(id, ports.into_values().collect()));
    Catalog::new(environment.clone(), services.collect::<Result<Vec<_>, _>>()?)
}

/// The endpoints as a provider, for whoever pushes them.
#[derive(Debug)]
pub(crate) struct Pushed {
    environment: Label,
    feed: Feed,
}

impl Pushed {
    pub(crate) fn new(environment: Label, feed: Feed) -> Self {
        Self { environment, feed }
    }
}

#[async_trait]
impl Provider for Pushed {
    async fn connect(&self, _: Wanted) -> Result<Connection, ConnectError> {
        let source = PushedSource {
            environment: self.environment.clone(),
            feed: self.feed.clone(),
            told: None,
        };
        Ok(Connection::new(source, Arc::new(Nowhere)))
    }

    fn status(&self) -> Status {
        Status::new("kubernetes", self.environment.to_string())
    }
}

struct PushedSource {
    environment: Label,
    feed: Feed,
    told: Option<Catalog>,
}

#[async_trait]
impl Source for PushedSource {
    async fn next(&mut self) -> Result<Update, SourceError> {
        loop {
            if self.told.is_some() {
                self.feed
                    .changes
                    .changed()
                    .await
                    .map_err(|_| SourceError::Ended)?;
            }
            self.feed.changes.mark_unchanged();
            let newer = catalog(&self.environment, &(self.feed.all)())?;
            let update = match &self.told {
                None => Some(Update::Snapshot(newer.clone())),
                Some(told) => told.diff(&newer),
            };
            self.told = Some(newer);
            if let Some(update) = update {
                return Ok(update);
            }
        }
    }
}

/// Endpoints are dialed by the gateway.
struct Nowhere;

#[async_trait]
impl Dialer for Nowhere {
    async fn dial(&self, target: &tunnel_bridge::Target) -> Result<Box<dyn ByteStream>, Refusal> {
        let message = format!("{target}: endpoints are dialed by the gateway");
        Err(Refusal::new(RefusalKind::Unsupported, message))
    }
}

#[cfg(test)]
mod tests {
    use service_catalog::Protocol;

    use super::*;

    fn endpoint(address: &str, port: u16, protocol: Protocol) -> Endpoint {
        Endpoint {
            host: match address.parse() {
                Ok(address) => Host::Address(address),
                Err(_) => Host::Name(address.into()),
            },
            port: port.try_into().unwrap(),
            protocol,
            pod: None,
        }
    }

    #[test]
    fn each_endpoint_is_a_port_of_its_address() {
        let endpoints = [
            endpoint("10.42.0.7", 53, Protocol::Udp),
            endpoint("10.42.0.7", 53, Protocol::Tcp),
            endpoint("2001:db8::7", 8080, Protocol::Tcp),
            endpoint("db.example", 5432, Protocol::Tcp),
        ];
        let catalog = catalog(&"dev".parse().unwrap(), &endpoints.clone().into()).unwrap();
        let said: Vec<_> = catalog
            .targets()
            .map(|target| {
                (
                    target.to_string(),
                    catalog.port(&target).unwrap().target.clone().unwrap(),
                )
            })
            .collect();
        let expected = [
            ("tcp/endpoints/ip-10-42-0-7/53", "10.42.0.7:53"),
            ("udp/endpoints/ip-10-42-0-7/53", "10.42.0.7:53"),
            (
                "tcp/endpoints/ip-20010db8000000000000000000000007/8080",
                "[2001:db8::7]:8080",
            ),
            (
                "tcp/endpoints/name-b1bfbb98b4f7d8199493d179e58b5c92/5432",
                "db.example:5432",
            ),
        ];
        assert_eq!(
            said,
            expected.map(|(target, dialed)| (target.to_owned(), dialed.to_owned()))
        );
        for endpoint in &endpoints {
            assert!(catalog.port(&target(endpoint).unwrap()).is_some());
        }
    }

    #[tokio::test]
    async fn changes_are_told_and_what_stays_the_same_is_not() {
        let (told, changes) = watch::channel(());
        let known = watch::Sender::new(BTreeSet::from([endpoint("10.0.0.1", 80, Protocol::Tcp)]));
        let all = known.subscribe();
        let pushed = Pushed::new(
            "dev".parse().unwrap(),
            Feed::new(move || all.borrow().clone(), changes),
        );
        let mut source = pushed.connect(Wanted::default()).await.unwrap().source;
        let Update::Snapshot(mut catalog) = source.next().await.unwrap() else {
            panic!("no snapshot");
        };
        assert_eq!(catalog.targets().count(), 1);
        let mut next = source.next();
        told.send_replace(());
        assert!(futures_util::poll!(&mut next).is_pending(), "nothing has changed");
        known.send_replace(BTreeSet::from([endpoint("10.0.0.2", 80, Protocol::Tcp)]));
        told.send_replace(());
        let update = next.await.unwrap();
        assert!(
            matches!(&update, Update::Changed { upserted, removed } if upserted.len() == 1 && removed.len() == 1)
        );
        catalog.apply(&update);
        assert!(
            catalog
                .port(&target(&endpoint("10.0.0.2", 80, Protocol::Tcp)).unwrap())
                .is_some()
        );
    }
}

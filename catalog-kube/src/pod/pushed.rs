//! The catalog that the gateway is given: each endpoint of the watched services, so that the choice among them stays here.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use async_trait::async_trait;
use devbox_provider::{ConnectError, Connection, Provider, Status, Wanted};
use service_catalog::{
    Catalog, Error, Label, Port, Protocol, Service, ServiceId, Source, SourceError, Target, Update,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tunnel_bridge::{ByteStream, Dialer, Refusal, RefusalKind};

use crate::endpoints::Changes;
use crate::road::{Endpoint, Host};

/// Where the endpoints are that take new connections, and how that changes.
#[derive(Clone)]
pub(crate) struct Feed {
    since: Arc<dyn Fn(Option<u64>) -> Changes + Send + Sync>,
    changes: watch::Receiver<()>,
}

impl Feed {
    /// `since` is asked for what is new at each change.
    pub(crate) fn new(
        since: impl Fn(Option<u64>) -> Changes + Send + Sync + 'static,
        changes: watch::Receiver<()>,
    ) -> Self {
        Self {
            since: Arc::new(since),
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
    Ok(Target {
        service: id(&endpoint.host)?,
        port: endpoint.port,
        protocol: endpoint.protocol,
    })
}

fn id(host: &Host) -> Result<ServiceId, Error> {
    let name = match host {
        Host::Address(IpAddr::V4(address)) => format!("ip-{}", address.to_string().replace('.', "-")),
        Host::Address(IpAddr::V6(address)) => format!("ip-{:032x}", address.to_bits()),
        // A label has at most 63 characters, which many a name outside is longer than.
        Host::Name(name) => {
            let digest = Sha256::digest(name.as_bytes());
            let half = digest.iter().take(16);
            half.fold("name-".to_owned(), |text, byte| text + &format!("{byte:02x}"))
        }
    };
    Ok(ServiceId::new("endpoints".parse()?, name.parse()?))
}

/// A host as a service of the catalog.
fn service(host: &Host, ports: &[(NonZeroU16, Protocol)]) -> Result<Service, Error> {
    let port = |&(port, protocol)| {
        let endpoint = Endpoint {
            host: host.clone(),
            port,
            protocol,
            pod: None,
        };
        Port {
            name: None,
            port,
            protocol,
            target: Some(endpoint.to_string()),
        }
    };
    Service::new(id(host)?, ports.iter().map(port).collect())
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
    told: Option<Told>,
}

/// What the other side knows.
struct Told {
    version: u64,
    catalog: Catalog,
}

impl Told {
    /// What is to be told next, if anything. What it costs depends on the changes, not on how much there is.
    fn update(&mut self, changes: Changes) -> Result<Option<Update>, Error> {
        self.version = changes.version;
        if changes.is_everything {
            let services = changes.hosts.iter().map(|(host, ports)| service(host, ports));
            let newer = Catalog::new(
                self.catalog.environment.clone(),
                services.collect::<Result<Vec<_>, _>>()?,
            )?;
            let update = self.catalog.diff(&newer);
            self.catalog = newer;
            return Ok(update);
        }
        let known = &mut self.catalog.services;
        let (mut upserted, mut removed) = (Vec::new(), Vec::new());
        for (host, ports) in changes.hosts {
            let service = service(&host, &ports)?;
            if ports.is_empty() {
                if known.remove(&service.id).is_some() {
                    removed.push(service.id);
                }
            } else if known.get(&service.id) != Some(&service) {
                known.insert(service.id.clone(), service.clone());
                upserted.push(service);
            }
        }
        Ok((!upserted.is_empty() || !removed.is_empty()).then_some(Update::Changed { upserted, removed }))
    }
}

#[async_trait]
impl Source for PushedSource {
    async fn next(&mut self) -> Result<Update, SourceError> {
        let Some(told) = &mut self.told else {
            self.feed.changes.mark_unchanged();
            let mut told = Told {
                version: 0,
                catalog: Catalog::empty(self.environment.clone()),
            };
            told.update((self.feed.since)(None))?;
            let first = Update::Snapshot(told.catalog.clone());
            self.told = Some(told);
            return Ok(first);
        };
        loop {
            let changed = self.feed.changes.changed().await;
            changed.map_err(|_| SourceError::Ended)?;
            let changes = (self.feed.since)(Some(told.version));
            if let Some(update) = told.update(changes)? {
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
    use std::collections::{BTreeMap, BTreeSet};

    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    use super::*;
    use crate::endpoints::Endpoints;
    use crate::objects::{Answers, Place};

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
        let catalog = whole(&endpoints.clone().into());
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

    /// The catalog of these endpoints, made from all of them at once.
    fn whole(endpoints: &BTreeSet<Endpoint>) -> Catalog {
        let mut ports: BTreeMap<ServiceId, BTreeMap<_, Port>> = BTreeMap::new();
        for endpoint in endpoints {
            let Target {
                service,
                port,
                protocol,
            } = target(endpoint).unwrap();
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
            .map(|(id, ports)| Service::new(id, ports.into_values().collect()).unwrap());
        Catalog::new("dev".parse().unwrap(), services).unwrap()
    }

    fn answers(endpoints: impl IntoIterator<Item = Endpoint>) -> Option<Arc<Answers>> {
        let place = |endpoint| Place {
            endpoint: Arc::new(endpoint),
            zone: None,
            for_zones: Vec::new(),
        };
        Some(Arc::new(Answers {
            places: endpoints.into_iter().map(place).collect(),
            because: String::new(),
            affinity: None,
        }))
    }

    fn asked_for(service: usize) -> Target {
        format!("tcp/shop/s{service}/80").parse().unwrap()
    }

    async fn source_of(endpoints: &Endpoints) -> Box<dyn Source> {
        let of = endpoints.clone();
        let feed = Feed::new(move |version| of.changes_since(version), endpoints.changes());
        let pushed = Pushed::new("dev".parse().unwrap(), feed);
        pushed.connect(Wanted::default()).await.unwrap().source
    }

    /// Applies what the source has to tell, and answers how many services that were.
    fn tell(source: &mut dyn Source, catalog: &mut Catalog) -> usize {
        let mut told = 0;
        while let Some(update) = tokio::task::unconstrained(source.next()).now_or_never() {
            let update = update.unwrap();
            told += match &update {
                Update::Changed { upserted, removed } => upserted.len() + removed.len(),
                Update::Snapshot(catalog) => catalog.services.len(),
                Update::Health(_) => 0,
            };
            catalog.apply(&update);
        }
        told
    }

    proptest! {
        #[test]
        fn change_by_change_it_is_the_catalog_of_all_endpoints(
            steps in prop::collection::vec(
                (0..5_usize, prop::option::of(prop::collection::btree_set((0..5_u8, 1..3_u16), 0..4)), any::<bool>()), 0..40,
            ),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let endpoints = Endpoints::new(None);
                let mut source = source_of(&endpoints).await;
                let mut catalog = Catalog::empty("other".parse().unwrap());
                for (service, places, ask) in steps {
                    let places = places.and_then(|places| {
                        answers(places.into_iter().map(|(last, port)| endpoint(&format!("10.0.0.{last}"), port, Protocol::Tcp)))
                    });
                    endpoints.set([(asked_for(service), places)]);
                    if ask {
                        tell(&mut *source, &mut catalog);
                        prop_assert_eq!(&catalog, &whole(&endpoints.all()));
                    }
                }
                tell(&mut *source, &mut catalog);
                prop_assert_eq!(&catalog, &whole(&endpoints.all()));
                Ok(())
            })?;
        }
    }

    /// Prints what a change costs among 10,000 services, and what making the catalog anew would.
    #[tokio::test]
    async fn one_change_among_ten_thousand_services_is_told_alone() {
        let at = |host: usize, port| {
            let address = format!("10.{}.{}.{}", host >> 16, (host >> 8) & 255, host & 255);
            endpoint(&address, port, Protocol::Tcp)
        };
        let endpoints = Endpoints::new(None);
        endpoints.set((0..10_000).map(|number| (asked_for(number), answers([at(number, 80)]))));
        let mut source = source_of(&endpoints).await;
        let mut catalog = Catalog::empty("dev".parse().unwrap());
        assert_eq!(tell(&mut *source, &mut catalog), 10_000);
        let begun = std::time::Instant::now();
        for number in 0..100 {
            endpoints.set([(asked_for(number), answers([at(number, 81)]))]);
            assert_eq!(tell(&mut *source, &mut catalog), 1);
        }
        let alone = begun.elapsed() / 100;
        let begun = std::time::Instant::now();
        let anew = whole(&endpoints.all());
        println!("a change: {alone:?}; the whole catalog: {:?}", begun.elapsed());
        assert_eq!(catalog, anew);
    }

    #[tokio::test]
    async fn what_stays_the_same_is_not_told() {
        let endpoints = Endpoints::new(None);
        let one = || answers([endpoint("10.0.0.1", 80, Protocol::Tcp)]);
        endpoints.set([(asked_for(0), one())]);
        let mut source = source_of(&endpoints).await;
        let mut catalog = Catalog::empty("dev".parse().unwrap());
        assert_eq!(tell(&mut *source, &mut catalog), 1);
        // Another service with the same endpoint, and then without it.
        for other in [one(), answers([]), None] {
            endpoints.set([(asked_for(1), other)]);
            assert_eq!(tell(&mut *source, &mut catalog), 0);
        }
        endpoints.set([(asked_for(0), answers([]))]);
        endpoints.set([(asked_for(0), one())]);
        assert_eq!(
            tell(&mut *source, &mut catalog),
            0,
            "it came back before anybody was told"
        );
    }
}

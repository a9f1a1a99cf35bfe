//! Any provider behind a gateway: here one in memory, that a test steers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use devbox_gateway::{Admission, GatewayConfig, Offer, Rejection, View};
use devbox_provider::{ConnectError, Connection, Provider, Status, Verdict, Wanted};
use service_catalog::{Catalog, Port, Service, Source, SourceError, Update};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tunnel_bridge::{ByteStream, Dialer, LinkEnd, Refusal, RefusalKind, Target};

use super::support::{Client, Running, ping, rejection, soon, start};

/// A provider whose services exist in this process only: each echoes.
#[derive(Default)]
struct InMemory {
    connects: AtomicUsize,
    /// Feeds for the sources of the next connections, in turn.
    feeds: Mutex<Vec<mpsc::Receiver<Result<Update, SourceError>>>>,
}

#[async_trait]
impl Provider for InMemory {
    async fn connect(&self, _wanted: Wanted) -> Result<Connection, ConnectError> {
        self.connects.fetch_add(1, Ordering::Relaxed);
        match self.feeds.lock().await.pop() {
            Some(feed) => Ok(Connection::new(Fed(feed), Arc::new(Echoes))),
            None => Err(ConnectError::Unreachable {
                far_side: "memory".to_owned(),
                reason: "there is nothing left".to_owned(),
            }),
        }
    }

    fn status(&self) -> Status {
        Status::new("memory", "this process")
    }
}

struct Fed(mpsc::Receiver<Result<Update, SourceError>>);

#[async_trait]
impl Source for Fed {
    async fn next(&mut self) -> Result<Update, SourceError> {
        match self.0.recv().await {
            Some(next) => next,
            None => std::future::pending().await,
        }
    }
}

struct Echoes;

#[async_trait]
impl Dialer for Echoes {
    async fn dial(&self, target: &Target) -> Result<Box<dyn ByteStream>, Refusal> {
        if target.as_str().starts_with("tcp/x/gone/") {
            return Err(Refusal::new(RefusalKind::Unreachable, "gone"));
        }
        let (ours, theirs) = tokio::io::duplex(1024);
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(theirs);
            // Ends with its stream.
            tokio::io::copy(&mut reader, &mut writer).await.ok();
        });
        Ok(Box::new(ours))
    }
}

type Feed = mpsc::Sender<Result<Update, SourceError>>;

impl InMemory {
    /// A provider that bears one connection for each of `environments`, the last one first.
    fn with(environments: &[&str]) -> (Arc<Self>, Vec<Feed>) {
        let mut feeds = Vec::new();
        let mut receivers = Vec::new();
        for environment in environments {
            let (sender, receiver) = mpsc::channel(8);
            let snapshot = Update::Snapshot(catalog(environment, &["a"]));
            sender.try_send(Ok(snapshot)).unwrap();
            feeds.push(sender);
            receivers.push(receiver);
        }
        let provider = Self {
            feeds: Mutex::new(receivers),
            ..Self::default()
        };
        (Arc::new(provider), feeds)
    }
}

fn service(name: &str) -> Service {
    let port = Port::tcp(80.try_into().unwrap());
    Service::new(format!("{name}.x").parse().unwrap(), vec![port]).unwrap()
}

fn catalog(environment: &str, names: &[&str]) -> Catalog {
    Catalog::new(
        environment.parse().unwrap(),
        names.iter().map(|name| service(name)),
    )
    .unwrap()
}

/// Lets everybody in: the session `second` sees the second provider, everybody else the first.
struct Open(Arc<dyn Provider>, Arc<dyn Provider>);

#[async_trait]
impl Admission for Open {
    async fn admit(&self, offer: &Offer) -> Result<View, Rejection> {
        assert!(offer.peer.ip().is_loopback());
        Ok(View::of(match &offer.session[..] {
            "second" => Arc::clone(&self.1),
            _ => Arc::clone(&self.0),
        }))
    }
}

async fn serving(provider: &Arc<InMemory>) -> Running {
    let admission = Open(Arc::<InMemory>::clone(provider), Arc::<InMemory>::clone(provider));
    start(GatewayConfig::new(admission, "127.0.0.1:0".parse().unwrap())).await
}

#[tokio::test]
async fn a_provider_without_file_or_sockets_is_served() {
    let (provider, feeds) = InMemory::with(&["dev"]);
    let gateway = serving(&provider).await;
    let client = gateway.client("laptop").await;
    let mut updates = client.updates().await;
    updates.next().await;
    assert_eq!(updates.services(), ["a.x"]);
    let mut stream = client.open("tcp/x/a/80").await.unwrap();
    ping(&mut stream, "through memory").await;
    assert_eq!(
        client.refusal("tcp/x/gone/80").await.kind,
        RefusalKind::Unreachable
    );

    let change = Update::Changed {
        upserted: vec![service("b")],
        removed: vec!["a.x".parse().unwrap()],
    };
    feeds[0].send(Ok(change.clone())).await.unwrap();
    assert_eq!(updates.next().await, change);
    // What lives goes on.
    ping(&mut stream, "still there").await;
    gateway.stop().await;
}

#[tokio::test]
async fn admission_gives_each_client_its_own_view() {
    let (first, _first) = InMemory::with(&["one"]);
    let (second, _second) = InMemory::with(&["two"]);
    let admission = Open(first, second);
    let gateway = start(GatewayConfig::new(admission, "127.0.0.1:0".parse().unwrap())).await;
    for (session, environment) in [("first", "one"), ("second", "two")] {
        let client = gateway.client(session).await;
        let mut updates = client.updates().await;
        updates.next().await;
        assert_eq!(updates.known.environment.as_str(), environment);
    }
    gateway.stop().await;
}

/// Whatever a provider makes of what is wanted, the gateway looks at what it got.
#[tokio::test]
async fn a_provider_of_another_environment_is_not_served() {
    let (provider, _feeds) = InMemory::with(&["dev", "dev"]);
    let gateway = serving(&provider).await;
    let mut options = gateway.options("laptop");
    for environment in ["prod", "No Label"] {
        options.environment = Some(environment.to_owned());
        let error = Client::connect(&options).await.err().unwrap();
        assert_eq!(rejection(&error).0, 404, "{error:?}");
    }
    options.environment = Some("dev".to_owned());
    Client::connect(&options).await.unwrap();
    gateway.stop().await;
}

#[tokio::test]
async fn a_provider_that_cannot_be_reached_is_tried_again() {
    let (provider, _feeds) = InMemory::with(&[]);
    let gateway = serving(&provider).await;
    let client = gateway.options("laptop").provider();
    let error = soon(client.connect(Wanted::default())).await.unwrap_err();
    assert_eq!(error.verdict(), Verdict::Retry);
    assert!(error.to_string().contains("there is nothing left"), "{error}");
    gateway.stop().await;
}

#[tokio::test]
async fn clients_connect_again_when_their_provider_ends() {
    let (provider, feeds) = InMemory::with(&["dev", "dev"]);
    let gateway = serving(&provider).await;
    let client = gateway.options("laptop").provider();
    let mut connection = soon(client.connect(Wanted::default())).await.unwrap();
    soon(connection.source.next()).await.unwrap();
    // The last feed is the first connection's.
    feeds[1].send(Err(SourceError::Ended)).await.unwrap();
    let error = soon(connection.source.next()).await.unwrap_err();
    assert!(matches!(error, SourceError::Leaving { .. }), "{error:?}");
    let mut again = soon(client.connect(Wanted::default())).await.unwrap();
    assert!(matches!(
        soon(again.source.next()).await.unwrap(),
        Update::Snapshot(_)
    ));
    assert_eq!(provider.connects.load(Ordering::Relaxed), 2);
    gateway.stop().await;
}

#[tokio::test]
async fn each_further_catalog_stream_begins_with_the_whole_catalog() {
    let (provider, feeds) = InMemory::with(&["dev", "dev"]);
    let gateway = serving(&provider).await;
    let client = gateway.client("laptop").await;
    let mut first = client.updates().await;
    first.next().await;
    let mut second = client.updates().await;
    assert!(matches!(second.next().await, Update::Snapshot(_)));
    // The dialer is the first connection's, and works when its catalog stream is gone.
    drop(first);
    ping(&mut client.open("tcp/x/a/80").await.unwrap(), "hello").await;
    drop(feeds);
    gateway.stop().await;
}

/// A session that was superseded is told so in its source, and again when it comes back all the same.
#[tokio::test]
async fn who_was_superseded_is_told_so_by_type() {
    let (provider, _feeds) = InMemory::with(&["dev", "dev", "dev"]);
    let gateway = serving(&provider).await;
    let client = gateway.options("laptop").provider();
    let wanted = |generation| Wanted {
        generation,
        environment: None,
    };
    let mut second = soon(client.connect(wanted(2))).await.unwrap();
    soon(second.source.next()).await.unwrap();
    let _third = soon(client.connect(wanted(3))).await.unwrap();
    let error = soon(second.source.next()).await.unwrap_err();
    assert!(matches!(error, SourceError::Superseded { .. }), "{error:?}");

    let error = soon(client.connect(wanted(2))).await.unwrap_err();
    assert_eq!(error.verdict(), Verdict::Superseded, "{error:?}");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_runs_on_several_threads() {
    const CLIENTS: usize = 8;
    let (provider, _feeds) = InMemory::with(&["dev"; CLIENTS]);
    let gateway = serving(&provider).await;
    let mut clients = JoinSet::new();
    for n in 0..CLIENTS {
        let options = gateway.options(&format!("client-{n}"));
        clients.spawn(async move {
            let client = Client::connect(&options).await.unwrap();
            let mut updates = client.updates().await;
            updates.next().await;
            let mut streams = JoinSet::new();
            for stream in 0..20 {
                let mut opened = client.open("tcp/x/a/80").await.unwrap();
                streams.spawn(async move {
                    for round in 0..10 {
                        ping(
                            &mut opened,
                            &format!("client {n}, stream {stream}, round {round}"),
                        )
                        .await;
                    }
                });
            }
            assert_eq!(soon(streams.join_all()).await.len(), 20);
            client
        });
    }
    let clients = soon(clients.join_all()).await;
    assert_eq!(clients.len(), CLIENTS);
    gateway.stop().await;
    for client in clients {
        let end = soon(client.link.closed()).await;
        assert!(matches!(end, LinkEnd::PeerClosed { .. }), "{end:?}");
    }
}

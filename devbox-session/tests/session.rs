//! A whole session on this machine's loopback: a far side whose catalog and link the test holds in its hand, real
//! listeners, and the control protocol over a pipe.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use devbox_helper_client::{HelperError, HostsEntry, HostsReport};
use devbox_session::control::{self, Asking, Request};
use devbox_session::{
    BindFault, ConnectFailure, Event, FarSide, Handle, Host, Identity, LinkState, NamesPolicy, Provider,
    Session, Settings, StatusReport, StopReason,
};
use futures_util::future::{BoxFuture, pending, ready};
use ipalloc::{Allocator, Pool};
use service_catalog::{Catalog, Label, Port, Service, Source, SourceError, Update};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tunnel_bridge::direct::TcpDialer;
use tunnel_bridge::{ByteStream, Dialer, Refusal, Target};

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(20);

/// A far side: each connect takes the next feed of updates; a feed that closes is a lost link.
struct Feeds {
    feeds: mpsc::Receiver<mpsc::Receiver<Update>>,
    echo: SocketAddr,
}

impl Provider for Feeds {
    fn connect(&mut self, _generation: u64) -> BoxFuture<'static, Result<FarSide, ConnectFailure>> {
        let feed = self.feeds.try_recv();
        let dialer: Arc<dyn Dialer> = Arc::new(Echo { at: self.echo });
        Box::pin(ready(match feed {
            Ok(feed) => Ok(FarSide {
                source: Box::new(Feed(feed)),
                dialer,
                close: Box::new(|| Box::pin(ready(()))),
            }),
            Err(_) => Err(ConnectFailure::Unreachable {
                gateway: "test".to_owned(),
                reason: "away".to_owned(),
            }),
        }))
    }
}

struct Feed(mpsc::Receiver<Update>);

#[async_trait::async_trait]
impl Source for Feed {
    async fn next(&mut self) -> Result<Update, SourceError> {
        self.0.recv().await.ok_or(SourceError::Ended)
    }
}

struct Echo {
    at: SocketAddr,
}

#[async_trait::async_trait]
impl Dialer for Echo {
    async fn dial(&self, _target: &Target) -> Result<Box<dyn ByteStream>, Refusal> {
        TcpDialer::default()
            .dial(&Target::new(&self.at.to_string()).unwrap())
            .await
    }
}

/// This machine without a hosts file: what would be written is seen.
struct Seen {
    hosts: watch::Sender<Vec<HostsEntry>>,
}

impl Host for Seen {
    fn claim(&mut self, _environment: Label) -> BoxFuture<'_, ()> {
        Box::pin(ready(()))
    }

    fn bind(&mut self, address: SocketAddr) -> BoxFuture<'_, Result<TcpListener, BindFault>> {
        let bound = tunnel_bridge::listener::bind(address);
        Box::pin(ready(bound.map_err(|error| BindFault::Other {
            address,
            message: error.to_string(),
        })))
    }

    fn write_hosts(&mut self, entries: Vec<HostsEntry>) -> BoxFuture<'_, Result<HostsReport, HelperError>> {
        self.hosts.send_replace(entries);
        Box::pin(ready(Ok(HostsReport {
            file: PathBuf::new(),
            changed: true,
            in_place: false,
            diagnostics: Vec::new(),
            omitted: 0,
            conflicts: Vec::new(),
        })))
    }

    fn release(&mut self) -> BoxFuture<'_, Result<(), HelperError>> {
        Box::pin(ready(Ok(())))
    }

    fn lost(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(pending())
    }
}

struct World {
    feeds: mpsc::Sender<mpsc::Receiver<Update>>,
    hosts: watch::Receiver<Vec<HostsEntry>>,
    handle: Handle,
    running: JoinHandle<StopReason>,
}

impl World {
    /// A session whose addresses come from `pool`: each test has its own, so that they run beside each other.
    async fn start(pool: &str) -> (Self, mpsc::Sender<Update>) {
        let echo = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = echo.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = echo.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        let (feeds, receiver) = mpsc::channel(4);
        let (hosts, seen) = watch::channel(Vec::new());
        let settings = Settings {
            identity: Identity {
                session: "test".to_owned(),
                pid: std::process::id(),
                helper_pid: None,
                hosts_file: None,
                gateway: "test".to_owned(),
                started_at: 0,
            },
            environment: None,
            names: NamesPolicy::default(),
            write_hosts: true,
            first_tries: 3,
            backoff: (Duration::from_millis(10), Duration::from_millis(50)),
            drain: Duration::from_millis(200),
            seed: 3,
        };
        let pool = Pool::new([pool.parse().unwrap()]).unwrap();
        let (session, handle) = Session::new(
            settings,
            Allocator::new(pool),
            Box::new(Feeds {
                feeds: receiver,
                echo: at,
            }),
            Box::new(Seen { hosts }),
        );
        let mut world = Self {
            feeds,
            hosts: seen,
            handle,
            running: tokio::spawn(async { unreachable!() }),
        };
        let updates = world.link().await;
        let mut events = world.handle.events();
        world.running = tokio::spawn(session.run());
        updates.send(Update::Snapshot(catalog(&[4000]))).await.unwrap();
        loop {
            if let Event::Ready { .. } = timeout(LIMIT, events.recv()).await.unwrap().unwrap() {
                return (world, updates);
            }
        }
    }

    /// Makes the next connect succeed; dropping what comes back cuts the link.
    async fn link(&self) -> mpsc::Sender<Update> {
        let (updates, feed) = mpsc::channel(4);
        self.feeds.send(feed).await.unwrap();
        updates
    }

    async fn status(&self) -> StatusReport {
        timeout(LIMIT, self.handle.status())
            .await
            .unwrap()
            .expect("it runs")
    }

    async fn address(&self) -> IpAddr {
        self.status().await.services[0].address.unwrap()
    }
}

fn catalog(ports: &[u16]) -> Catalog {
    let ports = ports
        .iter()
        .map(|port| Port::tcp((*port).try_into().unwrap()))
        .collect();
    let service = Service::new("echo.backend".parse().unwrap(), ports).unwrap();
    Catalog::new("staging".parse().unwrap(), [service]).unwrap()
}

async fn echo(at: SocketAddr) -> String {
    let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    timeout(LIMIT, stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    answer
}

#[tokio::test]
async fn a_service_is_reached_counted_and_taken_back() {
    let (world, updates) = World::start("127.78.1.0/24").await;
    let at = SocketAddr::new(world.address().await, 4000);
    assert_eq!(world.hosts.borrow()[0].address, at.ip());
    assert_eq!(echo(at).await, "hello");
    let counted = async {
        loop {
            let port = world.status().await.services[0].ports[0].clone();
            if port.connections == 1 && port.active == 0 {
                return port;
            }
            tokio::task::yield_now().await;
        }
    };
    let port = timeout(LIMIT, counted).await.expect("the connection is counted");
    assert_eq!((port.sent_bytes, port.received_bytes), (5, 5));

    world
        .handle
        .stop(StopReason::Requested {
            by: "test".to_owned(),
        })
        .await;
    let reason = timeout(LIMIT, world.running).await.unwrap().unwrap();
    assert_eq!(
        reason,
        StopReason::Requested {
            by: "test".to_owned()
        }
    );
    assert!(world.hosts.borrow().is_empty());
    assert!(tokio::net::TcpStream::connect(at).await.is_err());
    drop(updates);
}

#[tokio::test]
async fn a_connection_made_while_the_link_is_away_is_held_until_it_is_back() {
    let (world, updates) = World::start("127.78.2.0/24").await;
    let at = SocketAddr::new(world.address().await, 4000);
    let mut events = world.handle.events();
    drop(updates);
    loop {
        if let Event::LinkLost { .. } = timeout(LIMIT, events.recv()).await.unwrap().unwrap() {
            break;
        }
    }
    let waiting = tokio::spawn(echo(at));
    loop {
        if let Event::ConnectFailed { .. } = timeout(LIMIT, events.recv()).await.unwrap().unwrap() {
            break;
        }
    }
    assert!(!waiting.is_finished());
    assert!(!world.hosts.borrow().is_empty(), "names stay");
    let updates = world.link().await;
    assert_eq!(timeout(LIMIT, waiting).await.unwrap().unwrap(), "hello");
    assert_eq!(world.status().await.link, LinkState::Up);
    drop(updates);
}

#[tokio::test]
async fn the_control_protocol_shows_follows_and_ends_a_session() {
    let (world, updates) = World::start("127.78.3.0/24").await;
    let connect = |handle: Handle| {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(async move { control::serve(theirs, &handle).await });
        ours
    };
    let mut status = Asking::ask(connect(world.handle.clone()), &Request::Status)
        .await
        .unwrap();
    let report = timeout(LIMIT, status.report()).await.unwrap().unwrap().unwrap();
    assert_eq!(report, world.status().await);
    assert!(status.report().await.unwrap().is_none(), "one report");

    let mut watch = Asking::ask(connect(world.handle.clone()), &Request::Watch)
        .await
        .unwrap();
    let first = timeout(LIMIT, watch.report()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.services.len(), 1);
    updates
        .send(Update::Snapshot(
            Catalog::new("staging".parse().unwrap(), []).unwrap(),
        ))
        .await
        .unwrap();
    loop {
        let next = timeout(LIMIT, watch.report())
            .await
            .unwrap()
            .unwrap()
            .expect("it goes on");
        if next.services.is_empty() {
            break;
        }
    }

    let by = "session test-2".to_owned();
    let mut displace = Asking::ask(
        connect(world.handle.clone()),
        &Request::Displace { by: by.clone() },
    )
    .await
    .unwrap();
    assert_eq!(
        timeout(LIMIT, world.running).await.unwrap().unwrap(),
        StopReason::Displaced { by }
    );
    drop(world.handle);
    timeout(LIMIT, displace.ended())
        .await
        .expect("the end of the stream says so")
        .unwrap();
}

#[tokio::test]
async fn what_is_no_request_ends_the_control_connection() {
    let (world, updates) = World::start("127.78.4.0/24").await;
    for line in [
        "\n",
        "{}\n",
        "{\"request\":\"dance\"}\n",
        "not json\n",
        &"x".repeat(8192),
    ] {
        let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
        let handle = world.handle.clone();
        let serving = tokio::spawn(async move { control::serve(theirs, &handle).await });
        ours.write_all(line.as_bytes()).await.unwrap();
        drop(ours);
        assert!(timeout(LIMIT, serving).await.unwrap().unwrap().is_err(), "{line}");
    }
    assert!(world.status().await.ready);
    drop(updates);
}

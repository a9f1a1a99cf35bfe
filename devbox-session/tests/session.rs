//! A whole session on this machine's loopback: far sides whose catalogs and links the test holds in its hand, real
//! listeners, and the control protocol over a pipe.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use devbox_helper_client::Endpoint;
use devbox_provider::{ConnectError, Connection, Provider, Status, Wanted};
use devbox_session::control::{self, AskError, Asking};
use devbox_session::sink::{NameSink, PublishError, Published, Records, Registry};
use devbox_session::{
    BindFault, Event, Events, Forget, Handle, Host, Identity, LeaseChange, LeaseKeeper, LinkState, Parts,
    PortState, ProviderId, ProviderSettings, ServiceReport, Session, Settings, StatusReport, StopReason,
};
use ipalloc::{Allocator, Pool};
use service_catalog::{Catalog, Label, Port, Service, Source, SourceError, Update};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tunnel_bridge::direct::TcpDialer;
use tunnel_bridge::{ByteStream, Dialer, Refusal, Target};

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(20);

/// A far side: each connect takes the next feed of updates; a feed that closes is a lost link.
struct Feeds {
    feeds: Mutex<mpsc::Receiver<Feed>>,
    echo: SocketAddr,
    /// Whether a connect without a feed waits for one, as a silent gateway does, or fails at once.
    silent: bool,
}

type Feed = mpsc::Receiver<Result<Update, SourceError>>;

#[async_trait]
impl Provider for Feeds {
    async fn connect(&self, _wanted: Wanted) -> Result<Connection, ConnectError> {
        let mut feeds = self.feeds.lock().await;
        let feed = if self.silent {
            feeds.recv().await
        } else {
            feeds.try_recv().ok()
        };
        match feed {
            Some(feed) => Ok(Connection::new(Fed(feed), Arc::new(Echo { at: self.echo }))),
            None => Err(ConnectError::Unreachable {
                far_side: "test".to_owned(),
                reason: "away".to_owned(),
            }),
        }
    }

    fn status(&self) -> Status {
        Status::new("test", "a feed")
    }
}

struct Fed(Feed);

#[async_trait]
impl Source for Fed {
    async fn next(&mut self) -> Result<Update, SourceError> {
        self.0.recv().await.unwrap_or(Err(SourceError::Ended))
    }
}

struct Echo {
    at: SocketAddr,
}

#[async_trait]
impl Dialer for Echo {
    async fn dial(&self, _target: &Target) -> Result<Box<dyn ByteStream>, Refusal> {
        let at = Target::new(&self.at.to_string()).unwrap();
        TcpDialer::default().dial(&at).await
    }
}

/// What this machine does when it is asked for a listener, and whether its names can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Works {
    Well,
    /// Nothing is answered: a helper that was stopped.
    Never,
    /// Everything is refused: a disk that is full, ports that are held.
    Badly,
}

struct Machine(Works);

#[async_trait]
impl Host for Machine {
    async fn claim(&self, _environment: Label) {}

    async fn unclaim(&self, _environment: Label) {}

    async fn bind(&self, endpoint: Endpoint) -> Result<TcpListener, BindFault> {
        match self.0 {
            Works::Well => {
                tunnel_bridge::listener::bind(endpoint.socket_addr()).map_err(|error| BindFault::Other {
                    endpoint,
                    message: error.to_string(),
                })
            }
            Works::Never => std::future::pending().await,
            Works::Badly => Err(BindFault::NotAvailable { endpoint }),
        }
    }

    async fn release(&self) -> Result<(), PublishError> {
        match self.0 {
            Works::Never => std::future::pending().await,
            Works::Well | Works::Badly => Ok(()),
        }
    }

    async fn lost(&self) {
        std::future::pending::<()>().await;
    }
}

/// Names that are never published.
struct Stuck;

#[async_trait]
impl NameSink for Stuck {
    fn describe(&self) -> String {
        "a file that nobody writes".to_owned()
    }

    async fn publish(&self, _records: Records) -> Result<Published, PublishError> {
        std::future::pending().await
    }
}

struct World {
    feeds: mpsc::Sender<Feed>,
    registry: Registry,
    handle: Handle,
    running: JoinHandle<StopReason>,
}

type Updates = mpsc::Sender<Result<Update, SourceError>>;

struct Options {
    works: Works,
    silent: bool,
    stuck: bool,
    keeper: Box<dyn LeaseKeeper>,
    drain: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            works: Works::Well,
            silent: false,
            stuck: false,
            keeper: Box::new(Forget),
            drain: Duration::from_millis(200),
        }
    }
}

impl World {
    /// A session whose addresses come from `pool`: each test has its own, so that they run beside each other.
    async fn new(pool: &str, options: Options) -> (Self, Events) {
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
        let registry = Registry::default();
        let identity = Identity {
            session: "test".to_owned(),
            pid: std::process::id(),
            helper_pid: None,
            hosts_file: None,
            started_at: 0,
        };
        let provider = ProviderSettings {
            name: "test".to_owned(),
            environment: None,
        };
        let settings = Settings {
            first_tries: 3,
            backoff: (Duration::from_millis(10), Duration::from_millis(50)),
            drain: options.drain,
            ..Settings::new(identity, vec![provider], 3)
        };
        let sink: Arc<dyn NameSink> = if options.stuck {
            Arc::new(Stuck)
        } else {
            Arc::new(registry.clone())
        };
        let parts = Parts {
            addresses: Allocator::new(Pool::new([pool.parse().unwrap()]).unwrap()),
            providers: vec![Arc::new(Feeds {
                feeds: Mutex::new(receiver),
                echo: at,
                silent: options.silent,
            })],
            host: Arc::new(Machine(options.works)),
            sinks: vec![sink],
            keeper: options.keeper,
        };
        let (session, handle) = Session::new(settings, parts);
        let events = handle.events();
        let world = Self {
            feeds,
            registry,
            handle,
            running: tokio::spawn(session.run()),
        };
        (world, events)
    }

    /// A session that is ready, with one service.
    async fn start(pool: &str) -> (Self, Updates) {
        let options = Options {
            silent: true,
            ..Options::default()
        };
        let (world, mut events) = Self::new(pool, options).await;
        let updates = world.link().await;
        updates
            .send(Ok(Update::Snapshot(catalog(&[4000]))))
            .await
            .unwrap();
        until(&mut events, |event| matches!(event, Event::Ready { .. })).await;
        (world, updates)
    }

    /// Makes the next connect succeed; dropping what comes back cuts the link.
    async fn link(&self) -> Updates {
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
        self.status().await.services[0].addresses[0]
    }

    async fn stop(self) -> StopReason {
        self.handle.stop(requested()).await;
        timeout(LIMIT, self.running).await.unwrap().unwrap()
    }
}

fn requested() -> StopReason {
    StopReason::Requested {
        by: "test".to_owned(),
    }
}

/// Waits for a condition; gives up after so many looks that it will never come true.
async fn eventually(world: &World, wanted: impl Fn(&StatusReport) -> bool) {
    for _ in 0..1_000_000 {
        if wanted(&world.status().await) {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it never comes true");
}

async fn until(events: &mut Events, wanted: impl Fn(&Event) -> bool) -> Event {
    loop {
        let event = timeout(LIMIT, events.next()).await.unwrap().expect("it runs");
        if wanted(&event) {
            return event;
        }
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

fn large_catalog(services: usize) -> Catalog {
    let services = (0..services).map(|n| {
        let id = format!("s{n}.backend").parse().unwrap();
        Service::new(id, vec![Port::tcp(4000.try_into().unwrap())]).unwrap()
    });
    Catalog::new("staging".parse().unwrap(), services).unwrap()
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
    assert_eq!(world.registry.resolve("echo.backend"), [at.ip()]);
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

    let registry = world.registry.clone();
    assert_eq!(world.stop().await, requested());
    assert!(registry.is_empty());
    assert!(tokio::net::TcpStream::connect(at).await.is_err());
    drop(updates);
}

#[tokio::test]
async fn a_connection_made_while_the_link_is_away_is_held_until_it_is_back() {
    let (world, updates) = World::start("127.78.2.0/24").await;
    let at = SocketAddr::new(world.address().await, 4000);
    let mut events = world.handle.events();
    drop(updates);
    until(&mut events, |event| matches!(event, Event::LinkLost { .. })).await;
    let waiting = tokio::spawn(echo(at));
    // Accepted, and held.
    eventually(&world, |status| status.services[0].ports[0].active > 0).await;
    assert!(!waiting.is_finished());
    assert!(!world.registry.is_empty(), "names stay");
    let updates = world.link().await;
    // The link alone is not enough: its catalog must show the session's environment.
    eventually(&world, |status| {
        matches!(status.providers[0].link, LinkState::Connecting { .. })
    })
    .await;
    assert!(!waiting.is_finished());
    updates
        .send(Ok(Update::Snapshot(catalog(&[4000]))))
        .await
        .unwrap();
    assert_eq!(timeout(LIMIT, waiting).await.unwrap().unwrap(), "hello");
    assert_eq!(world.status().await.providers[0].link, LinkState::Up);
    drop(updates);
}

#[tokio::test]
async fn a_far_side_restarted_as_another_environment_gets_no_connection() {
    let (world, updates) = World::start("127.78.5.0/24").await;
    let at = SocketAddr::new(world.address().await, 4000);
    let mut events = world.handle.events();
    drop(updates);
    let other = world.link().await;
    let services = catalog(&[4000]).services.into_values();
    let dev = Catalog::new("dev".parse().unwrap(), services).unwrap();
    other.send(Ok(Update::Snapshot(dev))).await.unwrap();
    until(&mut events, |event| {
        matches!(event, Event::WrongEnvironment { .. })
    })
    .await;
    let waiting = tokio::spawn(echo(at));
    eventually(&world, |status| status.services[0].ports[0].active > 0).await;
    assert!(!waiting.is_finished(), "held for the right environment");
    let right = world.link().await;
    right.send(Ok(Update::Snapshot(catalog(&[4000])))).await.unwrap();
    assert_eq!(timeout(LIMIT, waiting).await.unwrap().unwrap(), "hello");
}

#[tokio::test]
async fn a_catalog_that_flaps_is_applied_at_a_pace_and_told_once() {
    const SERVICES: usize = 50;
    let (world, updates) = World::start("127.78.9.0/24").await;
    let mut events = world.handle.events();
    let flapping = updates.clone();
    // As fast as it is read, in an order that no number of merged updates keeps in step with.
    let flapping = tokio::spawn(async move {
        loop {
            for services in [SERVICES, 0, SERVICES, SERVICES, 0, 0, 0] {
                let update = Update::Snapshot(large_catalog(services));
                flapping.send(Ok(update)).await.unwrap();
            }
        }
    });
    let started = Instant::now();
    let mut told = 0;
    loop {
        match timeout(LIMIT, events.next()).await.unwrap().unwrap() {
            Event::CatalogUnstable { .. } => break,
            Event::ServiceUp { .. } | Event::ServiceRemoved { .. } => told += 1,
            Event::Lagged { missed, .. } => panic!("{missed} events were missed"),
            _ => {}
        }
    }
    // Ten changes are told, four of them may come at once, and the others keep the pace.
    assert!(
        started.elapsed() >= Duration::from_millis(600),
        "{:?}",
        started.elapsed()
    );
    assert!(told <= 13 * 2 * SERVICES, "{told}");
    flapping.abort();
    assert!(flapping.await.unwrap_err().is_cancelled());
    // What it comes to in the end is what counts, and nothing more is told of single services.
    updates
        .send(Ok(Update::Snapshot(large_catalog(7))))
        .await
        .unwrap();
    eventually(&world, |status| {
        let listening = |service: &ServiceReport| service.ports[0].state == PortState::Listening;
        status.services.len() == 7 && status.services.iter().all(listening)
    })
    .await;
    assert_eq!(world.stop().await, requested());
    while let Some(event) = events.next().await {
        assert!(
            !matches!(event, Event::ServiceUp { .. } | Event::ServiceRemoved { .. }),
            "{event:?}"
        );
    }
}

#[tokio::test]
async fn open_connections_are_told_and_shown_while_they_drain() {
    let options = Options {
        silent: true,
        drain: LIMIT,
        ..Options::default()
    };
    let (world, mut events) = World::new("127.78.10.0/24", options).await;
    let updates = world.link().await;
    updates
        .send(Ok(Update::Snapshot(catalog(&[4000]))))
        .await
        .unwrap();
    until(&mut events, |event| matches!(event, Event::Ready { .. })).await;
    let at = SocketAddr::new(world.address().await, 4000);
    let mut open = tokio::net::TcpStream::connect(at).await.unwrap();
    open.write_all(b"hello").await.unwrap();
    open.read_exact(&mut [0; 5]).await.unwrap();
    world.handle.stop(requested()).await;
    let told = until(&mut events, |event| matches!(event, Event::Draining { .. })).await;
    assert_eq!(
        told,
        Event::Draining {
            connections: 1,
            within: LIMIT
        }
    );
    let status = world.status().await;
    assert!(status.stopping && !status.ready);
    let port = &status.services[0].ports[0];
    assert_eq!(
        (port.state.clone(), port.active, port.connections),
        (PortState::Closed, 1, 1)
    );
    assert_eq!(status.services[0].names, [""; 0], "withdrawn");
    drop(open);
    assert_eq!(timeout(LIMIT, world.running).await.unwrap().unwrap(), requested());
}

#[tokio::test]
async fn superseded_ends_the_session() {
    let (world, updates) = World::start("127.78.6.0/24").await;
    let message = "generation 9".to_owned();
    updates
        .send(Err(SourceError::Superseded { message }))
        .await
        .unwrap();
    let reason = timeout(LIMIT, world.running).await.unwrap().unwrap();
    assert!(matches!(reason, StopReason::Superseded { .. }), "{reason:?}");
    assert!(world.registry.is_empty());
}

/// Connects to a session's control socket, here a pipe.
fn connect(handle: &Handle) -> tokio::io::DuplexStream {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let handle = handle.clone();
    tokio::spawn(async move { control::serve(theirs, &handle).await });
    ours
}

#[tokio::test]
async fn the_control_protocol_shows_follows_and_ends_a_session() {
    let (world, updates) = World::start("127.78.3.0/24").await;
    let mut asking = Asking::connect(connect(&world.handle)).await.unwrap();
    for _ in 0..2 {
        let report = timeout(LIMIT, asking.status()).await.unwrap().unwrap();
        assert_eq!(report, world.status().await);
    }
    asking.watch().await.unwrap();
    let first = timeout(LIMIT, asking.next_report()).await.unwrap().unwrap();
    assert_eq!(first.services.len(), 1);
    let empty = Catalog::new("staging".parse().unwrap(), []).unwrap();
    updates.send(Ok(Update::Snapshot(empty))).await.unwrap();
    while !timeout(LIMIT, asking.next_report())
        .await
        .unwrap()
        .unwrap()
        .services
        .is_empty()
    {}

    let mut displace = Asking::connect(connect(&world.handle)).await.unwrap();
    displace.displace("session test-2").await.unwrap();
    let by = "session test-2".to_owned();
    assert_eq!(
        timeout(LIMIT, world.running).await.unwrap().unwrap(),
        StopReason::Displaced { by }
    );
    timeout(LIMIT, displace.ended())
        .await
        .expect("the end of the stream says so")
        .unwrap();
    assert!(matches!(asking.next_report().await, Err(AskError::Ended)));
}

/// What a raw client gets for these lines.
async fn say(handle: &Handle, lines: &str) -> String {
    let mut stream = connect(handle);
    stream.write_all(lines.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    timeout(LIMIT, stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    answer
}

#[tokio::test]
async fn older_and_newer_programs_understand_each_other_or_say_so() {
    let (world, updates) = World::start("127.78.7.0/24").await;
    // A newer one that still speaks our version, with fields that we do not know.
    let newer = "{\"hello\":{\"min\":1,\"max\":7,\"program\":\"devbox 9\",\"colour\":\"blue\"}}\n{\"request\":\"status\"}\n";
    let answer = say(&world.handle, newer).await;
    assert!(answer.starts_with("{\"hello\":{\"version\":1,"), "{answer}");
    assert!(answer.contains("{\"report\":{"), "{answer}");
    // One that is too new, and one from before the hello: told which versions there are.
    for line in [
        "{\"hello\":{\"min\":2,\"max\":7,\"program\":\"devbox 9\"}}\n",
        "{\"request\":\"status\"}\n",
        "{\"request\":\"watch\"}\n",
    ] {
        let answer = say(&world.handle, line).await;
        assert!(
            answer.starts_with("{\"refused\":{\"min\":1,\"max\":1,"),
            "{line}: {answer}"
        );
    }
    // A session from before the hello hangs up on it.
    let (ours, theirs) = tokio::io::duplex(1024);
    drop(theirs);
    assert!(matches!(
        Asking::connect(ours).await,
        Err(AskError::Older | AskError::Io(_))
    ));
    let (ours, mut theirs) = tokio::io::duplex(1024);
    tokio::spawn(async move {
        let mut line = [0; 256];
        assert!(theirs.read(&mut line).await.unwrap() > 0);
    });
    assert!(matches!(Asking::connect(ours).await, Err(AskError::Older)));
    // An older program may still ask a newer session to make room.
    let mut older = connect(&world.handle);
    older
        .write_all(b"{\"request\":\"displace\",\"by\":\"an old one\"}\n")
        .await
        .unwrap();
    let by = "an old one".to_owned();
    assert_eq!(
        timeout(LIMIT, world.running).await.unwrap().unwrap(),
        StopReason::Displaced { by }
    );
    drop(updates);
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

/// Remembers the leases that it was told.
#[derive(Clone, Default)]
struct Remember(Arc<std::sync::Mutex<Vec<LeaseChange>>>);

impl LeaseKeeper for Remember {
    fn keep(&mut self, changes: Vec<LeaseChange>) {
        self.0.lock().unwrap().extend(changes);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_falls_behind_loses_no_state_and_no_lease_is_lost() {
    let remember = Remember::default();
    let options = Options {
        works: Works::Badly,
        silent: true,
        keeper: Box::new(remember.clone()),
        ..Options::default()
    };
    let (world, mut events) = World::new("127.78.0.0/16", options).await;
    let updates = world.link().await;
    updates
        .send(Ok(Update::Snapshot(large_catalog(5000))))
        .await
        .unwrap();
    // Read nothing while 5,000 ports are reported as degraded.
    eventually(&world, |status| status.ready).await;
    let Some(Event::Lagged { missed, status }) = events.next().await else {
        panic!("not told that it lagged")
    };
    assert!(missed >= 5000 - 1024, "{missed}");
    assert_eq!(status.services.len(), 5000);
    assert!(status.ready);
    let removed = Update::Changed {
        upserted: Vec::new(),
        removed: vec!["s7.backend".parse().unwrap()],
    };
    updates.send(Ok(removed)).await.unwrap();
    let next = events.next().await.unwrap();
    assert!(
        matches!(next, Event::ServiceRemoved { .. }),
        "what follows is newer than the state: {next:?}"
    );
    let leased = remember.0.lock().unwrap();
    let kept = leased
        .iter()
        .filter(|change| matches!(change, LeaseChange::Leased { .. }));
    assert_eq!(kept.count(), 5000);
}

/// Whether a session answers everything at once: with the clock stopped, time passes only while everybody waits.
async fn answers_at_once(world: &World) {
    let before = Instant::now();
    world.status().await;
    let mut asking = Asking::connect(connect(&world.handle)).await.unwrap();
    asking.status().await.unwrap();
    let mut displacing = Asking::connect(connect(&world.handle)).await.unwrap();
    displacing.displace("a newer one").await.unwrap();
    // It is stopping, or has ended already.
    while world.handle.status().await.is_some_and(|status| !status.stopping) {}
    assert_eq!(before.elapsed(), Duration::ZERO, "something was waited for");
}

#[tokio::test(start_paused = true)]
async fn a_helper_that_hangs_delays_no_answer() {
    let options = Options {
        works: Works::Never,
        silent: true,
        ..Options::default()
    };
    let (world, _events) = World::new("127.78.8.0/24", options).await;
    let updates = world.link().await;
    updates
        .send(Ok(Update::Snapshot(catalog(&[4000]))))
        .await
        .unwrap();
    eventually(&world, |status| !status.services.is_empty()).await;
    answers_at_once(&world).await;
    // It ends by its deadlines all the same.
    let reason = world.running.await.unwrap();
    assert!(matches!(reason, StopReason::Displaced { .. }));
}

#[tokio::test(start_paused = true)]
async fn names_that_hang_delay_no_answer_and_a_second_stop_waits_for_nothing() {
    let options = Options {
        stuck: true,
        silent: true,
        works: Works::Well,
        ..Options::default()
    };
    let (world, _events) = World::new("127.78.9.0/24", options).await;
    let updates = world.link().await;
    updates
        .send(Ok(Update::Snapshot(catalog(&[4000]))))
        .await
        .unwrap();
    eventually(&world, |status| !status.services.is_empty()).await;
    answers_at_once(&world).await;
    let before = Instant::now();
    world.handle.stop(requested()).await;
    let reason = world.running.await.unwrap();
    assert!(
        matches!(reason, StopReason::Displaced { .. }),
        "the first reason counts"
    );
    assert!(
        before.elapsed() < Duration::from_secs(1),
        "{:?}",
        before.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_far_side_delays_no_answer() {
    let options = Options {
        silent: true,
        ..Options::default()
    };
    let (world, _events) = World::new("127.78.10.0/24", options).await;
    answers_at_once(&world).await;
    assert!(matches!(
        world.running.await.unwrap(),
        StopReason::Displaced { .. }
    ));
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_degraded_services_delay_no_answer() {
    let options = Options {
        works: Works::Badly,
        silent: true,
        ..Options::default()
    };
    let (world, _events) = World::new("127.78.0.0/16", options).await;
    let updates = world.link().await;
    updates
        .send(Ok(Update::Snapshot(large_catalog(10_000))))
        .await
        .unwrap();
    eventually(&world, |status| status.ready).await;
    answers_at_once(&world).await;
    assert!(matches!(
        world.running.await.unwrap(),
        StopReason::Displaced { .. }
    ));
}

#[tokio::test]
async fn a_second_stop_cuts_what_drains_on_every_path() {
    let options = Options {
        silent: true,
        drain: LIMIT,
        ..Options::default()
    };
    let (world, mut events) = World::new("127.78.11.0/24", options).await;
    let updates = world.link().await;
    updates
        .send(Ok(Update::Snapshot(catalog(&[4000]))))
        .await
        .unwrap();
    until(&mut events, |event| matches!(event, Event::Ready { .. })).await;
    let at = SocketAddr::new(world.address().await, 4000);
    let mut open = tokio::net::TcpStream::connect(at).await.unwrap();
    open.write_all(b"x").await.unwrap();
    open.read_exact(&mut [0]).await.unwrap();
    let mut first = Asking::connect(connect(&world.handle)).await.unwrap();
    first.stop("devbox down").await.unwrap();
    eventually(&world, |status| status.stopping).await;
    assert!(!world.running.is_finished(), "a connection drains");
    world.handle.stop(requested()).await;
    let ended = timeout(LIMIT / 2, world.running)
        .await
        .expect("nothing is waited for")
        .unwrap();
    assert!(matches!(ended, StopReason::Requested { by } if by == "devbox down"));
    let left = open.read(&mut [0]).await;
    assert!(left.is_err(), "reset, not ended: {left:?}");
}

#[tokio::test]
async fn a_provider_can_be_switched_to_another_environment() {
    let (world, updates) = World::start("127.78.12.0/24").await;
    let before = world.address().await;
    let mut events = world.handle.events();
    assert!(
        world
            .handle
            .switch_environment(ProviderId(0), "dev".parse().unwrap())
            .await
    );
    assert!(
        !world
            .handle
            .switch_environment(ProviderId(7), "dev".parse().unwrap())
            .await
    );
    let dev = world.link().await;
    let services = catalog(&[4000]).services.into_values();
    let snapshot = Update::Snapshot(Catalog::new("dev".parse().unwrap(), services).unwrap());
    dev.send(Ok(snapshot)).await.unwrap();
    until(&mut events, |event| {
        matches!(event, Event::EnvironmentSwitched { .. })
    })
    .await;
    eventually(&world, |status| {
        status.services[0].ports[0].state == PortState::Listening
    })
    .await;
    let after = world.address().await;
    assert_ne!(
        before, after,
        "an address is derived from the full name, the environment included"
    );
    assert_eq!(echo(SocketAddr::new(after, 4000)).await, "hello");
    drop(updates);
}

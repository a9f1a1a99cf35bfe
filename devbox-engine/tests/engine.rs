//! A session with a far side of one's own: a whole provider in this file, and no change to any other crate.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use devbox_engine::{Config, EngineEvent, Error, Event, ProviderConfig, Publish, StopReason};
use devbox_provider::{ConnectError, Connection, Provider, Status, Wanted};
use service_catalog::{Catalog, Port, Service, Source, SourceError, Update};
use tunnel_bridge::direct::TcpDialer;
use tunnel_bridge::{ByteStream, Dialer, Refusal, Target};

use support::ask;

/// One service, which every target of the catalog leads to.
struct Fixed {
    catalog: Catalog,
    service: SocketAddr,
}

#[async_trait]
impl Provider for Fixed {
    async fn connect(&self, _wanted: Wanted) -> Result<Connection, ConnectError> {
        let dialer = Arc::new(ToOne(self.service));
        Ok(Connection::new(Once(Some(self.catalog.clone())), dialer))
    }

    fn status(&self) -> Status {
        Status::new("fixed", "a list in memory").via("memory", "it is a test")
    }
}

struct Once(Option<Catalog>);

#[async_trait]
impl Source for Once {
    async fn next(&mut self) -> Result<Update, SourceError> {
        match self.0.take() {
            Some(catalog) => Ok(Update::Snapshot(catalog)),
            None => std::future::pending().await,
        }
    }
}

struct ToOne(SocketAddr);

#[async_trait]
impl Dialer for ToOne {
    async fn dial(&self, _target: &Target) -> Result<Box<dyn ByteStream>, Refusal> {
        let target = Target::new(&self.0.to_string()).unwrap();
        TcpDialer::default().dial(&target).await
    }
}

/// A far side with one echo service, `NAME.backend:PORT`.
async fn echo(name: &str, port: u16) -> Fixed {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let service = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    let id = format!("{name}.backend").parse().unwrap();
    let echo = Service::new(id, vec![Port::tcp(port.try_into().unwrap())]).unwrap();
    Fixed {
        catalog: Catalog::new("staging".parse().unwrap(), [echo]).unwrap(),
        service,
    }
}

/// Addresses that no other test has.
fn config(pool: &str, far_side: Fixed) -> Config {
    Config {
        pools: vec![pool.parse().unwrap()],
        ..Config::new([ProviderConfig::custom("mine", far_side)])
    }
}

#[tokio::test]
async fn a_service_is_reached_by_the_name_in_the_registry() {
    let config = config("127.79.1.0/24", echo("echo", 4000).await);
    let engine = devbox_engine::start(config).await.unwrap();
    let status = engine.ready().await.unwrap();
    assert_eq!(status.providers[0].name, "mine");
    assert_eq!(status.providers[0].environment.as_deref(), Some("staging"));
    let addresses = engine.registry().resolve("echo.backend");
    assert_eq!(addresses, status.services[0].addresses);
    assert_eq!(ask(addresses[0], 4000).await, "hello");
    engine.stop("the test").await;
    let reason = engine.wait().await.unwrap();
    assert_eq!(
        reason,
        StopReason::Requested {
            by: "the test".to_owned()
        }
    );
    assert!(engine.registry().is_empty(), "names outlive the session");
    assert_eq!(engine.status().await, None);
}

#[tokio::test]
async fn the_first_reader_gets_every_event_and_the_end() {
    let config = config("127.79.2.0/24", echo("echo", 4001).await);
    let engine = devbox_engine::start(config).await.unwrap();
    // The session is ready before anybody asks for its events.
    engine.ready().await.unwrap();
    let mut events = engine.events();
    let first = events.next().await.unwrap();
    assert!(
        matches!(first, EngineEvent::Session(Event::Ready { .. })),
        "{first:?}"
    );
    engine.stop("the test").await;
    let next = events.next().await.unwrap();
    assert!(
        matches!(&next, EngineEvent::Session(Event::Stopping { reason }) if reason == "the test"),
        "{next:?}"
    );
    while events.next().await.is_some() {}
    engine.wait().await.unwrap();
}

#[tokio::test]
async fn the_session_ends_with_its_last_handle() {
    let config = config("127.79.3.0/24", echo("echo", 4002).await);
    let engine = devbox_engine::start(config).await.unwrap();
    let status = engine.ready().await.unwrap();
    let mut events = engine.events();
    let second = engine.clone();
    drop(engine);
    assert!(second.status().await.is_some());
    drop(second);
    while events.next().await.is_some() {}
    let address = (status.services[0].addresses[0], 4002);
    assert!(
        tokio::net::TcpStream::connect(address).await.is_err(),
        "it still listens"
    );
}

#[tokio::test]
async fn names_of_one_process_tree_are_added_to_its_own_file() {
    let base = b"127.0.0.1 localhost\n".to_vec();
    let config = Config {
        publish: Publish::Private { base: base.clone() },
        ..config("127.79.4.0/24", echo("echo", 4003).await)
    };
    let engine = devbox_engine::start(config).await.unwrap();
    engine.ready().await.unwrap();
    let mut hosts = engine.private_hosts().unwrap();
    let text = String::from_utf8(hosts.content()).unwrap();
    assert!(text.contains(" echo.backend "), "{text}");
    engine.stop("the test").await;
    engine.wait().await.unwrap();
    assert_eq!(hosts.content(), base);
}

#[tokio::test]
async fn a_hosts_file_without_a_helper_is_refused_before_anything_starts() {
    let config = Config {
        publish: Publish::HostsFile("/etc/hosts".into()),
        ..config("127.79.5.0/24", echo("echo", 4004).await)
    };
    let error = devbox_engine::start(config).await.unwrap_err();
    assert!(matches!(error, Error::HelperNeeded { .. }), "{error:?}");
}

#[tokio::test]
async fn a_far_side_that_is_refused_ends_the_session_with_the_typed_reason() {
    struct Refusing;
    #[async_trait]
    impl Provider for Refusing {
        async fn connect(&self, _wanted: Wanted) -> Result<Connection, ConnectError> {
            Err(ConnectError::CredentialRefused {
                far_side: "nowhere".to_owned(),
                file: None,
                message: "no".to_owned(),
            })
        }

        fn status(&self) -> Status {
            Status::new("refusing", "nowhere")
        }
    }
    let config = Config::new([ProviderConfig::custom("closed", Refusing)]);
    let engine = devbox_engine::start(config).await.unwrap();
    let error = engine.ready().await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Stopped(StopReason::Refused(ConnectError::CredentialRefused { .. }))
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_plan_tells_the_change_of_the_hosts_file_and_makes_none() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "127.0.0.1 localhost\n").unwrap();
    let config = Config {
        publish: Publish::HostsFile(file.path().to_owned()),
        ..config("127.79.6.0/24", echo("echo", 4005).await)
    };
    let plan = devbox_engine::plan(&config, false, |_| true).await.unwrap();
    assert!(plan.diff.contains(" echo.backend "), "{}", plan.diff);
    let address = plan.status.services[0].addresses[0];
    assert!(plan.diff.contains(&address.to_string()), "{}", plan.diff);
    assert_eq!(std::fs::read(file.path()).unwrap(), b"127.0.0.1 localhost\n");
    let nobody = tokio::net::TcpStream::connect((address, 4005)).await;
    assert!(nobody.is_err(), "it listens");
}

#[tokio::test]
async fn a_port_in_use_names_its_holder() {
    // On every address: no other address would help.
    let holder = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let config = config("127.79.7.0/24", echo("held", port).await);
    let engine = devbox_engine::start(config).await.unwrap();
    let status = tokio::time::timeout(Duration::from_secs(20), engine.ready())
        .await
        .unwrap()
        .unwrap();
    let (_, reason) = status.services[0].faults().next().unwrap();
    if cfg!(target_os = "linux") {
        let pid = format!("pid {}", std::process::id());
        assert!(reason.contains(&pid), "{reason}");
    }
    engine.stop("the test").await;
    engine.wait().await.unwrap();
}

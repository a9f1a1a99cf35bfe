//! Catalogs that clients bring with them.

use std::net::SocketAddr;
use std::sync::Arc;

use catalog_file::{CatalogFile, DialPolicy, LiveCatalog, StaticCatalog};
use devbox_gateway::{GatewayConfig, MAX_PUSHED_BYTES, PushAdmission, Token, TokenSource};
use devbox_gateway_client::handshake::PUSH_STREAM;
use devbox_provider::{ConnectError, Connection, Provider as _, Wanted};
use service_catalog::{Catalog, Health, Port, Service, Update, wire};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tunnel_bridge::{LinkEnd, MuxStream, RefusalKind, Target};

use super::support::{Client, Files, Running, TOKEN, echo, file, soon, start};

async fn pushable(policy: DialPolicy) -> Running {
    let tokens = TokenSource::Fixed(Token::new(TOKEN).unwrap());
    let admission = PushAdmission::open(tokens, policy).await.unwrap();
    start(GatewayConfig::new(admission, "127.0.0.1:0".parse().unwrap())).await
}

fn catalog(services: &[(&str, SocketAddr)]) -> StaticCatalog {
    let mut catalog = StaticCatalog::new("dev".parse().unwrap());
    for (name, address) in services {
        let address = (*address).try_into().unwrap();
        let id = format!("{name}.x").parse().unwrap();
        catalog.add(id, None, 80.try_into().unwrap(), address).unwrap();
    }
    catalog
}

/// Connects as a session does, with a catalog of its own.
async fn connect(gateway: &Running, session: &str, own: &LiveCatalog) -> Result<Connection, ConnectError> {
    let mut provider = gateway.options(session).provider();
    provider.push = Some(Arc::new(own.clone()));
    soon(provider.connect(Wanted::default())).await
}

async fn services(connection: &mut Connection) -> Vec<String> {
    match soon(connection.source.next()).await.unwrap() {
        Update::Snapshot(catalog) => catalog.services.keys().map(ToString::to_string).collect(),
        other => panic!("no snapshot: {other:?}"),
    }
}

/// Says something on a stream to `target` and gets it back; otherwise why not.
async fn ask(connection: &Connection, target: &str) -> Result<(), RefusalKind> {
    let target = Target::new(target).unwrap();
    let mut stream = connection.dialer.dial(&target).await.unwrap();
    stream.write_all(b"hello").await.ok();
    let mut answer = [0; 5];
    match soon(stream.read_exact(&mut answer)).await {
        Ok(_) => {
            assert_eq!(&answer, b"hello");
            Ok(())
        }
        Err(error) => Err(tunnel_bridge::refusal_of(&error).expect("a refusal").kind),
    }
}

#[tokio::test]
async fn each_client_sees_and_reaches_its_own_catalog_only() {
    let echo = echo().await;
    let gateway = pushable(DialPolicy::loopback()).await;
    let (ours, theirs) = (
        LiveCatalog::new(catalog(&[("ours", echo.address)])),
        LiveCatalog::new(catalog(&[("theirs", echo.address)])),
    );
    let mut a = connect(&gateway, "a", &ours).await.unwrap();
    let mut b = connect(&gateway, "b", &theirs).await.unwrap();
    assert_eq!(services(&mut a).await, ["ours.x"]);
    assert_eq!(services(&mut b).await, ["theirs.x"]);
    assert_eq!(ask(&a, "tcp/x/ours/80").await, Ok(()));
    assert_eq!(ask(&b, "tcp/x/theirs/80").await, Ok(()));
    assert_eq!(ask(&a, "tcp/x/theirs/80").await, Err(RefusalKind::NotFound));
    assert_eq!(ask(&b, "tcp/x/ours/80").await, Err(RefusalKind::NotFound));
    gateway.stop().await;
}

#[tokio::test]
async fn what_the_owner_does_not_allow_is_not_dialed() {
    let echo = echo().await;
    let mut policy = DialPolicy::loopback();
    policy.ports = echo.address.port()..=echo.address.port();
    let gateway = pushable(policy).await;
    let text = format!(
        "environment: dev\nservices:\n  - name: a\n    namespace: x\n    ports:\n\
         \x20     - {{port: 1, target: \"192.0.2.1:{port}\"}}\n\
         \x20     - {{port: 2, target: \"169.254.169.254:{port}\"}}\n\
         \x20     - {{port: 3, target: \"[::ffff:192.0.2.1]:{port}\"}}\n\
         \x20     - {{port: 4, target: \"0.0.0.0:{port}\"}}\n\
         \x20     - {{port: 5, target: \"127.0.0.1:1\"}}\n\
         \x20     - {{port: 6, target: \"localhost:1\"}}\n\
         \x20     - {{port: 7, target: \"localhost:{port}\"}}\n",
        port = echo.address.port()
    );
    let own = LiveCatalog::new(StaticCatalog::parse(&text, "own.yaml").unwrap());
    let connection = connect(&gateway, "a", &own).await.unwrap();
    for port in 1..=6 {
        let asked = ask(&connection, &format!("tcp/x/a/{port}")).await;
        assert_eq!(asked, Err(RefusalKind::NotAllowed), "port {port}");
    }
    assert_eq!(ask(&connection, "tcp/x/a/7").await, Ok(()));
    // The text of an address is no target, as ever.
    let address = echo.address.to_string();
    assert_eq!(ask(&connection, &address).await, Err(RefusalKind::NotAllowed));
    gateway.stop().await;
}

#[tokio::test]
async fn a_pushed_catalog_is_replaced_by_an_edit_and_by_a_reconnect() {
    let echo = echo().await;
    let gateway = pushable(DialPolicy::loopback()).await;
    let files = Files::new(&file(&[("first.x", 80, echo.address)]));
    let mut provider = gateway.options("a").provider();
    provider.push = Some(Arc::new(CatalogFile::open(&files.catalog).await.unwrap()));
    let mut connection = soon(provider.connect(Wanted::default())).await.unwrap();
    assert_eq!(services(&mut connection).await, ["first.x"]);

    files.replace(&files.catalog, &file(&[("second.x", 80, echo.address)]));
    let update = soon(connection.source.next()).await.unwrap();
    assert!(matches!(update, Update::Changed { .. }), "{update:?}");
    assert_eq!(
        ask(&connection, "tcp/x/first/80").await,
        Err(RefusalKind::NotFound)
    );
    assert_eq!(ask(&connection, "tcp/x/second/80").await, Ok(()));

    let other = LiveCatalog::new(catalog(&[("third", echo.address)]));
    let mut again = connect(&gateway, "a", &other).await.unwrap();
    assert_eq!(services(&mut again).await, ["third.x"]);
    assert_eq!(ask(&again, "tcp/x/second/80").await, Err(RefusalKind::NotFound));
    assert_eq!(ask(&again, "tcp/x/third/80").await, Ok(()));
    gateway.stop().await;
}

#[tokio::test]
async fn a_gateway_with_a_catalog_of_its_own_takes_none() {
    let files = Files::new(&file(&[]));
    let gateway = start(files.config().await).await;
    let own = LiveCatalog::new(catalog(&[]));
    let error = connect(&gateway, "a", &own).await.unwrap_err();
    assert!(
        matches!(&error, ConnectError::Setup { message } if message.contains("takes no catalogs")),
        "{error:?}"
    );
    gateway.stop().await;
}

/// The answer to a pushed message.
async fn answer(stream: &mut MuxStream, message: &[u8]) -> Health {
    stream.write_all(message).await.unwrap();
    let mut decoder = wire::Decoder::new();
    let mut piece = [0; 256];
    loop {
        match decoder.poll_update().unwrap() {
            Some(Update::Health(health)) => return health,
            Some(other) => panic!("{other:?}"),
            None => {}
        }
        let n = soon(stream.read(&mut piece)).await.unwrap();
        assert_ne!(n, 0, "no answer");
        decoder.handle_bytes(&piece[..n]);
    }
}

fn encoded(update: &Update) -> Vec<u8> {
    wire::Encoder::new().encode(update).unwrap()
}

fn snapshot(target: Option<&str>, services: usize) -> Vec<u8> {
    let mut catalog = Catalog::empty("dev".parse().unwrap());
    for n in 0..services {
        let mut port = Port::tcp(80.try_into().unwrap());
        port.target = target.map(str::to_owned);
        let service = Service::new(format!("s{n}.x").parse().unwrap(), vec![port]).unwrap();
        catalog.services.insert(service.id.clone(), service);
    }
    encoded(&Update::Snapshot(catalog))
}

#[tokio::test]
async fn what_is_no_good_catalog_is_answered_and_changes_nothing() {
    let gateway = pushable(DialPolicy::loopback()).await;
    let client = gateway.client("a").await;
    let mut updates = client.updates().await;
    let mut push = client.open(PUSH_STREAM).await.unwrap();
    let stale = |health: Health| match health {
        Health::Stale { reason } => reason,
        Health::Live => panic!("taken"),
    };

    let change = Update::Changed {
        upserted: Vec::new(),
        removed: vec!["a.x".parse().unwrap()],
    };
    let reason = stale(answer(&mut push, &encoded(&change)).await);
    assert!(reason.contains("snapshot"), "{reason}");
    let reason = stale(answer(&mut push, &snapshot(None, 1)).await);
    assert!(reason.contains("what to dial"), "{reason}");

    assert_eq!(
        answer(&mut push, &snapshot(Some("127.0.0.1:9"), 1)).await,
        Health::Live
    );
    assert!(matches!(updates.next().await, Update::Snapshot(_)));

    // From here on the good one stays, and the client hears that it is stale.
    let reason = stale(answer(&mut push, &snapshot(Some("nonsense"), 1)).await);
    assert!(reason.contains("`nonsense` is not an address"), "{reason}");
    assert_eq!(updates.next().await, Update::Health(Health::Stale { reason }));
    assert_eq!(updates.services(), ["s0.x"]);

    // One at a time.
    assert_eq!(client.refusal(PUSH_STREAM).await.kind, RefusalKind::TooMany);

    let long = snapshot(Some("127.0.0.1:9"), 20_000);
    assert!(long.len() > MAX_PUSHED_BYTES);
    let reason = stale(answer(&mut push, &long).await);
    assert!(reason.contains("over the limit"), "{reason}");
    // After that nobody knows where a message begins.
    assert_eq!(soon(push.read(&mut [0; 16])).await.unwrap(), 0);
    drop(push);
    soon(async {
        while let Err(refusal) = client.open(PUSH_STREAM).await {
            assert_eq!(refusal.kind, RefusalKind::TooMany);
            tokio::task::yield_now().await;
        }
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_token_for_certain_environments_pushes_no_other() {
    let files = Files::new(&file(&[]));
    let list = format!("tokens:\n  - {{name: ci, token: {TOKEN}, environments: [staging]}}\n");
    std::fs::write(&files.token, list).unwrap();
    let tokens = TokenSource::File(files.token.clone());
    let admission = PushAdmission::open(tokens, DialPolicy::loopback()).await.unwrap();
    let gateway = start(GatewayConfig::new(admission, "127.0.0.1:0".parse().unwrap())).await;
    let mut options = gateway.options("a");
    options.environment = Some("staging".to_owned());
    let client = Client::connect(&options).await.unwrap();
    let mut push = client.open(PUSH_STREAM).await.unwrap();
    let pushed = snapshot(Some("127.0.0.1:9"), 1);
    match answer(&mut push, &pushed).await {
        Health::Stale { reason } => assert_eq!(reason, "the token `ci` is not for the environment `dev`"),
        Health::Live => panic!("taken"),
    }
    let staging = Update::Snapshot(Catalog::empty("staging".parse().unwrap()));
    assert_eq!(answer(&mut push, &encoded(&staging)).await, Health::Live);
    gateway.stop().await;
}

#[tokio::test]
async fn a_push_session_without_an_environment_ends_when_its_token_is_for_certain_ones() {
    let files = Files::new(&file(&[]));
    let list = format!("revoke: true\ntokens:\n  - {{name: ci, token: {TOKEN}}}\n");
    std::fs::write(&files.token, &list).unwrap();
    let tokens = TokenSource::File(files.token.clone());
    let admission = PushAdmission::open(tokens, DialPolicy::loopback()).await.unwrap();
    let gateway = start(GatewayConfig::new(admission, "127.0.0.1:0".parse().unwrap())).await;
    let client = gateway.client("a").await;
    files.replace(&files.token, &list.replace("}\n", ", environments: [staging]}\n"));
    let end = soon(client.link.closed()).await;
    assert!(
        matches!(&end, LinkEnd::PeerClosed { message } if message.contains("revoked")),
        "{end:?}"
    );
    gateway.stop().await;
}

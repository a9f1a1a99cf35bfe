//! What a session is told of a file that changes, and what it reaches.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use catalog_file::{CatalogFile, Error, LiveCatalog, StaticCatalog};
use devbox_provider::{ConnectError, Connection, Provider as _, Wanted};
use service_catalog::{Health, SourceError, Update};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tunnel_bridge::{Refusal, RefusalKind, Target};

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("within the tests' patience")
}

struct File {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl File {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.yaml");
        std::fs::write(&path, text).unwrap();
        Self { path, _dir: dir }
    }

    fn replace(&self, text: &str) {
        let new = self.path.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &self.path).unwrap();
    }
}

fn text(services: &[(&str, SocketAddr)]) -> String {
    let mut text = "environment: dev\nservices:".to_owned();
    if services.is_empty() {
        text.push_str(" []");
    }
    for (name, address) in services {
        text.push_str(&format!(
            "\n  - {{name: {name}, namespace: x, ports: [{{port: 80, target: \"{address}\"}}]}}"
        ));
    }
    text
}

async fn connect(file: &CatalogFile) -> Connection {
    file.connect(Wanted::default()).await.unwrap()
}

async fn next(connection: &mut Connection) -> Update {
    soon(connection.source.next()).await.unwrap()
}

async fn refusal(connection: &Connection, target: &str) -> Refusal {
    let target = Target::new(target).unwrap();
    let dialed = soon(connection.dialer.dial(&target)).await;
    dialed.err().expect("this target should be refused")
}

/// Says its name to whoever connects.
async fn named_service(name: &'static str) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut task = JoinSet::new();
    task.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(name.as_bytes()).await.unwrap();
        }
    });
    (address, task)
}

async fn who(connection: &Connection, target: &str) -> String {
    let target = Target::new(target).unwrap();
    let mut stream = soon(connection.dialer.dial(&target)).await.unwrap();
    let mut name = String::new();
    soon(stream.read_to_string(&mut name)).await.unwrap();
    name
}

#[tokio::test]
async fn targets_are_dialed_at_what_the_catalog_of_that_moment_says() {
    let (first, _first) = named_service("first").await;
    let (second, _second) = named_service("second").await;
    let file = File::new(&text(&[("a", first)]));
    let provider = CatalogFile::open(&file.path).await.unwrap();
    let mut connection = connect(&provider).await;
    next(&mut connection).await;
    assert_eq!(who(&connection, "tcp/x/a/80").await, "first");
    assert_eq!(
        refusal(&connection, "tcp/x/b/80").await.kind,
        RefusalKind::NotFound
    );
    assert_eq!(
        refusal(&connection, "udp/x/a/80").await.kind,
        RefusalKind::NotFound
    );
    let address = first.to_string();
    assert_eq!(refusal(&connection, &address).await.kind, RefusalKind::NotAllowed);

    file.replace(&text(&[("a", second)]));
    assert!(matches!(next(&mut connection).await, Update::Changed { .. }));
    assert_eq!(who(&connection, "tcp/x/a/80").await, "second");
    file.replace(&text(&[]));
    next(&mut connection).await;
    assert_eq!(
        refusal(&connection, "tcp/x/a/80").await.kind,
        RefusalKind::NotFound
    );
    assert_eq!(provider.status().kind, "direct");
    assert_eq!(provider.status().far_side, file.path.display().to_string());
}

/// Whoever reconnects while the file is broken must not take its last good catalog for what is there.
#[tokio::test]
async fn a_stale_catalog_is_stale_for_whoever_connects_as_well() {
    let address = "127.0.0.1:9".parse().unwrap();
    let file = File::new(&text(&[("a", address)]));
    let provider = CatalogFile::open(&file.path).await.unwrap();
    let mut connection = connect(&provider).await;
    next(&mut connection).await;

    file.replace("environment: dev\nservices: [nonsense]\n");
    let Update::Health(Health::Stale { reason }) = next(&mut connection).await else {
        panic!("not stale")
    };
    assert!(
        reason.starts_with(&format!("{}:2:12: ", file.path.display())),
        "{reason}"
    );

    let mut again = connect(&provider).await;
    let Update::Snapshot(catalog) = next(&mut again).await else {
        panic!("no snapshot")
    };
    assert_eq!(catalog.services.len(), 1);
    assert_eq!(next(&mut again).await, Update::Health(Health::Stale { reason }));

    file.replace(&text(&[]));
    for connection in [&mut connection, &mut again] {
        assert!(matches!(next(connection).await, Update::Changed { .. }));
        assert_eq!(next(connection).await, Update::Health(Health::Live));
    }
    // And who connects now is told nothing of what was.
    let mut third = connect(&provider).await;
    assert!(matches!(next(&mut third).await, Update::Snapshot(_)));
    file.replace(&text(&[("b", address)]));
    assert!(matches!(next(&mut third).await, Update::Changed { .. }));
}

#[tokio::test]
async fn another_environment_is_not_served() {
    let file = File::new(&text(&[]));
    let provider = CatalogFile::open(&file.path).await.unwrap();
    let wanted = |environment: &str| Wanted {
        generation: 1,
        environment: Some(environment.parse().unwrap()),
    };
    let error = provider.connect(wanted("prod")).await.unwrap_err();
    assert!(
        matches!(error, ConnectError::UnknownEnvironment { .. }),
        "{error:?}"
    );
    let mut connection = provider.connect(wanted("dev")).await.unwrap();
    next(&mut connection).await;

    // Nor does the file move those who are connected to another one.
    file.replace("environment: prod\nservices: []\n");
    let Update::Health(Health::Stale { reason }) = next(&mut connection).await else {
        panic!("not stale")
    };
    assert!(reason.contains("was `dev` and is `prod`"), "{reason}");
}

#[tokio::test]
async fn a_slow_reader_is_told_the_difference_and_not_each_step() {
    let live = LiveCatalog::new(StaticCatalog::new("dev".parse().unwrap()));
    let mut connection = live.connect(Wanted::default()).await.unwrap();
    next(&mut connection).await;
    for names in [&["a"][..], &["a", "b"], &["b"], &["b", "c"]] {
        let mut newer = StaticCatalog::new("dev".parse().unwrap());
        for name in names {
            let id = format!("{name}.x").parse().unwrap();
            newer
                .add(id, None, 80.try_into().unwrap(), "127.0.0.1:9".parse().unwrap())
                .unwrap();
        }
        live.replace(newer).unwrap();
    }
    let Update::Changed { upserted, removed } = next(&mut connection).await else {
        panic!("no change")
    };
    let upserted: Vec<_> = upserted.iter().map(|service| service.id.to_string()).collect();
    assert_eq!(
        (upserted, removed),
        (vec!["b.x".to_owned(), "c.x".to_owned()], vec![])
    );
}

#[tokio::test]
async fn the_source_waits_until_a_catalog_is_there() {
    let live = LiveCatalog::awaited();
    let mut connection = live.connect(Wanted::default()).await.unwrap();
    assert_eq!(
        refusal(&connection, "tcp/x/a/80").await.kind,
        RefusalKind::NotFound
    );
    // Nothing is there to be stale.
    live.set_stale("why");
    let waiting = connection.source.next();
    tokio::pin!(waiting);
    assert!(futures_poll(waiting.as_mut()).await.is_none());
    live.replace(StaticCatalog::new("dev".parse().unwrap())).unwrap();
    assert!(matches!(soon(waiting).await.unwrap(), Update::Snapshot(_)));
}

/// Polls once.
async fn futures_poll<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(|cx| match std::pin::Pin::new(&mut future).poll(cx) {
        std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}

#[tokio::test]
async fn connections_outlive_the_value_that_follows_the_file() {
    let (address, _service) = named_service("a").await;
    let file = File::new(&text(&[("a", address)]));
    let provider = CatalogFile::open(&file.path).await.unwrap();
    let mut connection = connect(&provider).await;
    next(&mut connection).await;
    drop(provider);
    assert_eq!(who(&connection, "tcp/x/a/80").await, "a");
    let mut waiting: std::pin::Pin<Box<dyn Future<Output = Result<Update, SourceError>> + Send + '_>> =
        Box::pin(connection.source.next());
    assert!(futures_poll(&mut waiting).await.is_none());
}

#[tokio::test]
async fn files_that_cannot_be_used_are_told_when_they_are_opened() {
    let file = File::new("environment: dev\nservices: [{name: A, namespace: b, ports: []}]\n");
    let error = CatalogFile::open(&file.path).await.unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("{}:2:19: `A` is not", file.path.display())),
        "{error}"
    );
    std::fs::write(&file.path, b"environment: dev\nservices: [] # \xff\n").unwrap();
    let error = CatalogFile::open(&file.path).await.unwrap_err().to_string();
    assert!(error.ends_with(":2:16: this is not UTF-8"), "{error}");
    std::fs::write(&file.path, "#".repeat(5 << 20)).unwrap();
    assert!(matches!(
        CatalogFile::open(&file.path).await,
        Err(Error::CatalogTooLarge { .. })
    ));
    std::fs::remove_file(&file.path).unwrap();
    assert!(matches!(
        CatalogFile::open(&file.path).await,
        Err(Error::ReadCatalog { .. })
    ));
}

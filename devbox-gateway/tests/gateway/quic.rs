//! The same gateway over QUIC, with the client that devbox has.

use devbox_gateway::{Error, Gateway, GatewayConfig, TlsFiles, Token, TokenSource};
use devbox_gateway_client::GatewayProvider;
use devbox_provider::{ConnectError, Connection, Provider as _, Wanted};
use service_catalog::{SourceError, Update};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tunnel_bridge::{RefusalKind, Target, is_link_lost, refusal_of};

use super::support::{Files, TOKEN, echo, file, soon};

/// A gateway that listens for QUIC, and how to get there.
struct Running {
    client: GatewayProvider,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

pub(super) async fn with_tls(files: &Files) -> GatewayConfig {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let tls = TlsFiles::new(
        files.dir.path().join("cert.pem"),
        files.dir.path().join("key.pem"),
    );
    std::fs::write(&tls.certificate, certified.cert.pem()).unwrap();
    std::fs::write(&tls.key, certified.signing_key.serialize_pem()).unwrap();
    let mut config = files.config().await;
    config.tls = Some(tls);
    config.quic = Some("127.0.0.1:0".parse().unwrap());
    config
}

impl Running {
    async fn new(files: &Files) -> Self {
        let gateway = Gateway::bind(with_tls(files).await).await.unwrap();
        let url = format!("quic://{}", gateway.quic_addr().unwrap())
            .parse()
            .unwrap();
        let token = TokenSource::Fixed(Token::new(TOKEN).unwrap());
        let mut client = GatewayProvider::new(url, token, "laptop");
        client.trust.ca = Some(files.dir.path().join("cert.pem"));
        let cancel = CancellationToken::new();
        Self {
            client,
            task: tokio::spawn(gateway.run(cancel.clone())),
            cancel,
        }
    }

    async fn connect(&self, generation: u64) -> Result<Connection, ConnectError> {
        let wanted = Wanted {
            generation,
            ..Wanted::default()
        };
        soon(self.client.connect(wanted)).await
    }

    async fn stop(self) {
        self.cancel.cancel();
        soon(self.task).await.unwrap().unwrap();
    }
}

async fn connected(running: &Running, generation: u64) -> Connection {
    let mut connection = running.connect(generation).await.unwrap();
    let update = soon(connection.source.next()).await.unwrap();
    assert!(matches!(update, Update::Snapshot(_)), "{update:?}");
    connection
}

#[tokio::test]
async fn services_are_reached_and_what_is_not_there_is_refused() {
    let echo = echo().await;
    let files = Files::new(&file(&[("a.x", 80, echo.address)]));
    let running = Running::new(&files).await;
    let connection = connected(&running, 1).await;
    let target = Target::new("tcp/x/a/80").unwrap();
    let mut stream = soon(connection.dialer.dial(&target)).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut five = [0; 5];
    soon(stream.read_exact(&mut five)).await.unwrap();
    assert_eq!(&five, b"hello");
    let nowhere = Target::new("tcp/x/b/80").unwrap();
    let mut none = soon(connection.dialer.dial(&nowhere)).await.unwrap();
    let error = soon(none.read_u8()).await.unwrap_err();
    assert_eq!(refusal_of(&error).unwrap().kind, RefusalKind::NotFound);
    drop((stream, none));
    soon(connection.close()).await;
    running.stop().await;
}

#[tokio::test]
async fn a_newer_connection_takes_the_place_of_an_older_one() {
    let files = Files::new(&file(&[]));
    let running = Running::new(&files).await;
    let mut older = connected(&running, 1).await;
    let newer = connected(&running, 2).await;
    let end = soon(older.source.next()).await;
    assert!(matches!(end, Err(SourceError::Superseded { .. })), "{end:?}");
    let late = running.connect(1).await.map(drop);
    assert!(matches!(late, Err(ConnectError::Superseded { .. })), "{late:?}");
    soon(newer.close()).await;
    running.stop().await;
}

#[tokio::test]
async fn a_gateway_that_stops_says_so_and_cuts_what_is_left_without_an_end() {
    let echo = echo().await;
    let files = Files::new(&file(&[("a.x", 80, echo.address)]));
    let running = Running::new(&files).await;
    let mut connection = connected(&running, 1).await;
    let target = Target::new("tcp/x/a/80").unwrap();
    let mut stream = soon(connection.dialer.dial(&target)).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    assert_eq!(soon(stream.read_u8()).await.unwrap(), b'x');
    let stopping = running.stop();
    let seen = async {
        let end = soon(connection.source.next()).await;
        assert!(matches!(end, Err(SourceError::Leaving { .. })), "{end:?}");
        let late = soon(connection.dialer.dial(&target)).await.map(drop);
        assert_eq!(late.unwrap_err().kind, RefusalKind::LinkLost);
        // Until its patience is over.
        let error = soon(stream.read_u8()).await.unwrap_err();
        assert!(is_link_lost(&error), "{error:?}");
    };
    tokio::join!(stopping, seen);
}

#[tokio::test]
async fn a_wrong_token_and_a_wrong_environment_are_told_as_over_tcp() {
    let files = Files::new(&file(&[]));
    let mut running = Running::new(&files).await;
    let elsewhere = Wanted {
        environment: Some("prod".parse().unwrap()),
        ..Wanted::default()
    };
    let error = soon(running.client.connect(elsewhere)).await.map(drop);
    assert!(
        matches!(error, Err(ConnectError::UnknownEnvironment { .. })),
        "{error:?}"
    );
    running.client.token = TokenSource::Fixed(Token::new("guessed").unwrap());
    let error = running.connect(1).await.map(drop);
    assert!(
        matches!(error, Err(ConnectError::CredentialRefused { .. })),
        "{error:?}"
    );
    running.stop().await;
}

#[tokio::test]
async fn quic_needs_a_certificate() {
    let files = Files::new(&file(&[]));
    let mut config = files.config().await;
    config.quic = Some("127.0.0.1:0".parse().unwrap());
    let error = Gateway::bind(config).await.unwrap_err();
    assert!(matches!(error, Error::QuicWithoutTls { .. }), "{error}");
}

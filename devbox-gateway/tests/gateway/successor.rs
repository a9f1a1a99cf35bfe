//! A gateway that leaves sends its clients to another one.

use devbox_gateway::{Gateway, GatewayConfig, Token, TokenSource};
use devbox_gateway_client::GatewayProvider;
use devbox_provider::{Connection, Provider as _, Wanted};
use service_catalog::{SourceError, Update};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tunnel_bridge::Target;
use url::Url;

use super::quic::with_tls;
use super::support::{Files, TOKEN, echo, file, soon};

/// A gateway that listens over TCP and QUIC, with TLS.
struct Running {
    wss: Url,
    quic: Url,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), devbox_gateway::Error>>,
}

async fn start(config: GatewayConfig) -> Running {
    let gateway = Gateway::bind(config).await.unwrap();
    let cancel = CancellationToken::new();
    Running {
        wss: format!("wss://{}", gateway.local_addr()).parse().unwrap(),
        quic: format!("quic://{}", gateway.quic_addr().unwrap())
            .parse()
            .unwrap(),
        task: tokio::spawn(gateway.run(cancel.clone())),
        cancel,
    }
}

/// Connects; the services that are there.
async fn connect(client: &GatewayProvider, generation: u64) -> (Connection, Vec<String>) {
    let wanted = Wanted {
        generation,
        ..Wanted::default()
    };
    let mut connection = soon(client.connect(wanted)).await.unwrap();
    let update = soon(connection.source.next()).await.unwrap();
    let Update::Snapshot(catalog) = update else {
        panic!("{update:?}");
    };
    let services = catalog.services.keys().map(ToString::to_string).collect();
    (connection, services)
}

#[tokio::test]
async fn clients_go_where_a_gateway_that_leaves_sends_them_and_come_back_once_that_is_gone() {
    for (from, to) in [("wss", "wss"), ("wss", "quic"), ("quic", "wss"), ("quic", "quic")] {
        let echo = echo().await;
        let files = Files::new(&file(&[("a.x", 80, echo.address)]));
        let mut config = with_tls(&files).await;
        let tls = config.tls.clone();
        let next_files = Files::new(&file(&[("b.x", 80, echo.address)]));
        let mut next = next_files.config().await;
        next.tls = tls;
        next.quic = config.quic;
        let next = start(next).await;
        let url = |running: &Running, scheme: &str| match scheme {
            "wss" => running.wss.clone(),
            _ => running.quic.clone(),
        };
        config.successor = Some(url(&next, to).to_string());
        let again = config.clone();
        let former = start(config).await;
        let token = TokenSource::Fixed(Token::new(TOKEN).unwrap());
        let mut client = GatewayProvider::new(url(&former, from), token, "laptop");
        client.trust.ca = Some(files.dir.path().join("cert.pem"));

        let (mut connection, services) = connect(&client, 1).await;
        assert_eq!(services, ["a.x"], "{from} to {to}");
        let target = Target::new("tcp/x/a/80").unwrap();
        let mut open = soon(connection.dialer.dial(&target)).await.unwrap();
        open.write_all(b"x").await.unwrap();
        assert_eq!(soon(open.read_u8()).await.unwrap(), b'x');
        former.cancel.cancel();
        let end = soon(connection.source.next()).await;
        assert!(matches!(end, Err(SourceError::Leaving { .. })), "{end:?}");
        // While what is open is served where it is.
        let (mut moved, services) = connect(&client, 2).await;
        assert_eq!(services, ["b.x"], "{from} to {to}");
        open.write_all(b"y").await.unwrap();
        assert_eq!(soon(open.read_u8()).await.unwrap(), b'y');
        drop((open, connection));
        soon(former.task).await.unwrap().unwrap();

        // The successor names none itself: the client is where it began.
        let mut again = again;
        let place = |url: &Url| format!("127.0.0.1:{}", url.port().unwrap()).parse().unwrap();
        again.listen = place(&former.wss);
        again.quic = Some(place(&former.quic));
        let again = start(again).await;
        next.cancel.cancel();
        let end = soon(moved.source.next()).await;
        assert!(matches!(end, Err(SourceError::Leaving { .. })), "{end:?}");
        let (last, services) = connect(&client, 3).await;
        assert_eq!(services, ["a.x"], "{from} to {to}");
        drop((last, moved));
        soon(next.task).await.unwrap().unwrap();
        again.cancel.cancel();
        soon(again.task).await.unwrap().unwrap();
    }
}

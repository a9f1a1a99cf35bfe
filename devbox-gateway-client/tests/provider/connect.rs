//! What a session hears of a gateway, from gateways made by hand: each does one thing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use devbox_gateway_client::handshake::{self, SUBPROTOCOL};
use devbox_gateway_client::{GatewayProvider, Token, TokenIssuer, TokenSource};
use devbox_provider::{ConnectError, Provider as _, Verdict, Wanted};
use service_catalog::{Catalog, SourceError, Update, wire};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tunnel_bridge::ws::Upgrade;
use tunnel_bridge::{GoAwayReason, Link};

/// No wait is longer, unless something is broken.
const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("within the tests' patience")
}

struct Server {
    address: SocketAddr,
    _task: JoinSet<()>,
}

/// Calls `serve` with each connection, one after the other.
async fn server<S, F>(serve: S) -> Server
where
    S: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            connections.spawn(serve(stream));
        }
    });
    Server { address, _task: task }
}

fn provider(server: &Server) -> GatewayProvider {
    let url = format!("ws://{}/mounted/", server.address).parse().unwrap();
    let mut provider =
        GatewayProvider::new(url, TokenSource::Fixed(Token::new("t0ken").unwrap()), "laptop-1");
    provider.connect_timeout = PATIENCE;
    provider
}

async fn error_of(provider: &GatewayProvider) -> ConnectError {
    soon(provider.connect(Wanted::default()))
        .await
        .expect_err("should not connect")
}

fn wanted(generation: u64, environment: &str) -> Wanted {
    Wanted {
        generation,
        environment: Some(environment.parse().unwrap()),
    }
}

fn catalog(environment: &str) -> Catalog {
    Catalog::empty(environment.parse().unwrap())
}

/// Lets the client in and tells it an empty catalog of `dev` on the first stream that it opens. Gives out the link and
/// that stream.
async fn let_in(stream: TcpStream) -> (Link, tunnel_bridge::MuxStream) {
    accept(Upgrade::read(stream).await.unwrap()).await
}

async fn accept(upgrade: Upgrade<TcpStream>) -> (Link, tunnel_bridge::MuxStream) {
    let link = upgrade.accept(SUBPROTOCOL).await.unwrap();
    let incoming = link.accept().await.unwrap();
    assert_eq!(incoming.target().as_str(), "catalog");
    let mut stream = incoming.accept();
    let update = Update::Snapshot(catalog("dev"));
    stream
        .write_all(&wire::Encoder::new().encode(&update).unwrap())
        .await
        .unwrap();
    (link, stream)
}

#[tokio::test]
async fn the_request_says_what_the_protocol_wants() {
    let server = server(|stream| async move {
        let upgrade = Upgrade::read(stream).await.unwrap();
        assert_eq!(upgrade.path(), "/mounted/kube/devbox/tunnel/client/laptop-1");
        assert_eq!(upgrade.header("authorization"), Some("Bearer t0ken"));
        assert_eq!(upgrade.header(handshake::GENERATION), Some("41"));
        assert_eq!(upgrade.header(handshake::ENVIRONMENT), Some("dev"));
        upgrade.check(SUBPROTOCOL).unwrap();
        upgrade.answer(503, "all is well", &[]).await.unwrap();
    })
    .await;
    let error = soon(provider(&server).connect(wanted(41, "dev")))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("all is well"), "{error}");
}

#[tokio::test]
async fn each_answer_means_what_the_protocol_says() {
    use Verdict::{Final, Retry, Superseded};
    type Is = fn(&ConnectError) -> bool;
    let cases: [(u16, bool, Verdict, Is); 10] = [
        (401, true, Final, |e| {
            matches!(e, ConnectError::CredentialRefused { file: None, .. })
        }),
        (403, false, Final, |e| {
            matches!(e, ConnectError::CredentialRefused { .. })
        }),
        (404, true, Final, |e| {
            matches!(e, ConnectError::UnknownEnvironment { .. })
        }),
        (404, false, Final, |e| {
            matches!(e, ConnectError::NotAGateway { .. })
        }),
        (409, true, Superseded, |e| {
            matches!(e, ConnectError::Superseded { .. })
        }),
        (409, false, Final, |e| {
            matches!(e, ConnectError::NotAGateway { .. })
        }),
        (429, false, Retry, |e| {
            matches!(e, ConnectError::Unavailable { .. })
        }),
        (502, false, Retry, |e| {
            matches!(e, ConnectError::Unavailable { .. })
        }),
        (503, true, Retry, |e| {
            matches!(e, ConnectError::Unavailable { .. })
        }),
        (504, false, Retry, |e| {
            matches!(e, ConnectError::Unavailable { .. })
        }),
    ];
    for (status, ours, verdict, is) in cases {
        let server = server(move |stream| async move {
            let upgrade = Upgrade::read(stream).await.unwrap();
            let headers: &[_] = if ours {
                &[(handshake::MESSAGE, "the gateway says why")]
            } else {
                &[]
            };
            upgrade
                .answer(status, "the body says why", headers)
                .await
                .unwrap();
        })
        .await;
        let error = error_of(&provider(&server)).await;
        assert!(is(&error), "{status}: {error:?}");
        assert_eq!(error.verdict(), verdict, "{status}");
        let says = if ours {
            "the gateway says why"
        } else {
            "the body says why"
        };
        assert!(error.to_string().contains(says), "{status}: {error}");
        assert!(!format!("{error:?}").contains("t0ken"));
    }
}

#[tokio::test]
async fn a_gateway_of_another_environment_is_left_before_anything_is_dialed() {
    let server = server(|stream| async move {
        let (link, _stream) = let_in(stream).await;
        // Nothing but the catalog is asked for.
        assert!(link.accept().await.is_none());
    })
    .await;
    let provider = provider(&server);
    match soon(provider.connect(wanted(1, "prod"))).await.unwrap_err() {
        ConnectError::UnknownEnvironment { message, .. } => {
            assert_eq!(message, "the environment is `dev`, not `prod`");
        }
        other => panic!("{other:?}"),
    }
    soon(provider.connect(wanted(2, "dev"))).await.unwrap();
}

#[tokio::test]
async fn a_gateway_that_says_nothing_has_not_answered() {
    let server = server(|stream| async move {
        let upgrade = Upgrade::read(stream).await.unwrap();
        let link = upgrade.accept(SUBPROTOCOL).await.unwrap();
        let _catalog = link.accept().await.unwrap().accept();
        link.closed().await;
    })
    .await;
    let mut provider = provider(&server);
    provider.connect_timeout = Duration::from_millis(200);
    let error = error_of(&provider).await;
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error:?}");
}

#[tokio::test]
async fn what_is_no_catalog_is_no_gateway() {
    for bytes in [&b"\x09\0\0\x01x"[..], b"\x01\0\0\x04nope"] {
        let server = server(move |stream| async move {
            let upgrade = Upgrade::read(stream).await.unwrap();
            let link = upgrade.accept(SUBPROTOCOL).await.unwrap();
            let mut stream = link.accept().await.unwrap().accept();
            stream.write_all(bytes).await.unwrap();
            link.closed().await;
        })
        .await;
        let error = error_of(&provider(&server)).await;
        assert!(matches!(error, ConnectError::NotAGateway { .. }), "{error:?}");
    }
}

/// Each way in which a gateway ends a link arrives as a variant of its own: a session decides on it.
#[tokio::test]
async fn the_source_says_why_the_link_ended() {
    type Is = fn(&SourceError) -> bool;
    let cases: [(Option<GoAwayReason>, Is); 3] = [
        (
            Some(GoAwayReason::Superseded),
            |e| matches!(e, SourceError::Superseded { message } if message == "why"),
        ),
        (
            Some(GoAwayReason::Leaving),
            |e| matches!(e, SourceError::Leaving { message } if message == "why"),
        ),
        (None, |e| matches!(e, SourceError::Lost { .. })),
    ];
    for (reason, is) in cases {
        let server = server(move |stream| async move {
            let (mut near, far) = tokio::io::duplex(64 * 1024);
            // A relay that can be cut.
            let mut stream = stream;
            let relay = tokio::io::copy_bidirectional(&mut stream, &mut near);
            let serve = async move {
                let upgrade = Upgrade::read(far).await.unwrap();
                let link = upgrade.accept(SUBPROTOCOL).await.unwrap();
                let mut catalog_stream = link.accept().await.unwrap().accept();
                let update = Update::Snapshot(catalog("dev"));
                let message = wire::Encoder::new().encode(&update).unwrap();
                catalog_stream.write_all(&message).await.unwrap();
                let incoming = link.accept().await.unwrap();
                assert_eq!(incoming.target().as_str(), "tcp/x/now/1");
                if let Some(reason) = reason {
                    link.close(reason, "why").await;
                }
            };
            tokio::select! { relayed = relay => drop(relayed), () = serve => {} }
        })
        .await;
        let mut connection = soon(provider(&server).connect(Wanted::default())).await.unwrap();
        assert!(matches!(
            connection.source.next().await.unwrap(),
            Update::Snapshot(_)
        ));
        let target = tunnel_bridge::Target::new("tcp/x/now/1").unwrap();
        let _stream = connection.dialer.dial(&target).await.unwrap();
        let error = soon(connection.source.next()).await.unwrap_err();
        assert!(is(&error), "{reason:?}: {error:?}");
        // And says it again.
        assert!(soon(connection.source.next()).await.is_err());
    }
}

#[tokio::test]
async fn what_is_wrong_on_this_side_is_told_before_anything_is_sent() {
    let server = server(|_| async { panic!("nobody should connect") }).await;
    let dir = tempfile::tempdir().unwrap();

    let mut bad = provider(&server);
    bad.session = "a/b".to_owned();
    assert!(matches!(error_of(&bad).await, ConnectError::Setup { message } if message.contains("`a/b`")));
    let mut bad = provider(&server);
    bad.gateway = format!("http://{}", server.address).parse().unwrap();
    assert!(matches!(error_of(&bad).await, ConnectError::Setup { message } if message.contains("ws://")));
    let mut bad = provider(&server);
    bad.gateway.set_password(Some("hunter2")).unwrap();
    let error = error_of(&bad).await;
    assert!(matches!(error, ConnectError::Setup { .. }), "{error:?}");
    assert!(!format!("{error}{error:?}{bad:?}{}", bad.status()).contains("hunter2"));
    let mut bad = provider(&server);
    bad.token = TokenSource::File(dir.path().join("none"));
    assert!(
        matches!(error_of(&bad).await, ConnectError::Setup { message } if message.contains("token file"))
    );
}

#[tokio::test]
async fn a_plain_gateway_asked_for_tls_is_not_a_certificate_problem() {
    let server = server(|stream| async move {
        // As a gateway does: 400 to what is no HTTP.
        drop(Upgrade::read(stream).await);
    })
    .await;
    let mut provider = provider(&server);
    provider.gateway = format!("wss://localhost:{}", server.address.port())
        .parse()
        .unwrap();
    let error = error_of(&provider).await;
    assert!(
        matches!(&error, ConnectError::NotAGateway { message, .. } if message.contains("TLS") && message.contains("ws://")),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_redirect_says_where_to_and_is_not_followed() {
    let server = server(|mut stream| async move {
        let mut request = [0; 1024];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        let answer = "HTTP/1.1 308 Permanent Redirect\r\nLocation: https://login.example/\u{202e}\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let error = error_of(&provider(&server)).await;
    assert_eq!(error.verdict(), Verdict::Final);
    let text = error.to_string();
    assert!(text.contains("redirects to https://login.example/"), "{text}");
    assert!(text.contains("status 308") && text.is_ascii(), "{text}");
}

#[tokio::test]
async fn a_gateway_that_says_nothing_is_told_with_what_is_waited_for() {
    let server = server(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let mut provider = provider(&server);
    provider.connect_timeout = Duration::from_millis(300);
    assert_eq!(provider.status().waits_for, None);
    let handshake = format!("WebSocket handshake with {}", server.address);
    let connecting = provider.connect(Wanted::default());
    let watching = async {
        while provider.status().waits_for.as_ref() != Some(&handshake) {
            tokio::task::yield_now().await;
        }
    };
    let (connected, ()) = soon(async { tokio::join!(connecting, watching) }).await;
    let error = connected.unwrap_err();
    assert!(error.to_string().contains(&handshake), "{error}");
    assert_eq!(provider.status().waits_for, None);
}

#[tokio::test]
async fn a_rotated_token_is_used_at_the_next_connect() {
    let server = server(|stream| async move {
        let upgrade = Upgrade::read(stream).await.unwrap();
        let token = upgrade.header("authorization").unwrap().to_owned();
        upgrade.answer(401, &token, &[]).await.unwrap();
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let mut provider = provider(&server);
    provider.token = TokenSource::File(path.clone());
    for token in ["first", "second"] {
        std::fs::write(&path, format!("{token}\n")).unwrap();
        match error_of(&provider).await {
            ConnectError::CredentialRefused { message, file, .. } => {
                assert!(message.contains(token), "{message}");
                assert_eq!(file.as_deref(), Some(path.as_path()));
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Gives out another token after each that was refused.
#[derive(Debug, Default)]
struct Issuer(AtomicUsize);

#[async_trait]
impl TokenIssuer for Issuer {
    async fn token(&self) -> Result<Token, ConnectError> {
        Ok(Token::new(&format!("token-{}", self.0.load(Ordering::Relaxed))).unwrap())
    }

    async fn refused(&self) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed);
        true
    }
}

#[tokio::test]
async fn a_gateway_that_refuses_an_issued_token_is_shown_another_one_once() {
    let server = server(|stream| async move {
        let upgrade = Upgrade::read(stream).await.unwrap();
        let token = upgrade.header("authorization").unwrap().to_owned();
        if token == "Bearer token-1" {
            let (link, _catalog) = accept(upgrade).await;
            link.closed().await;
        } else {
            upgrade
                .answer(401, &token, &[(handshake::MESSAGE, &token)])
                .await
                .unwrap();
        }
    })
    .await;
    let issuer = Arc::new(Issuer::default());
    let mut provider = provider(&server);
    provider.token = TokenSource::Issued(issuer.clone());
    soon(provider.connect(Wanted::default())).await.unwrap();
    // That one is refused by and by: two are shown, and then it is the gateway's last word.
    issuer.0.store(2, Ordering::Relaxed);
    let error = error_of(&provider).await;
    let told = error.to_string();
    assert!(
        matches!(error, ConnectError::CredentialRefused { .. }) && told.contains("token-3"),
        "{told}"
    );

    // What is not a gateway's answer says nothing of the token.
    let server = self::server(|stream| async move {
        let upgrade = Upgrade::read(stream).await.unwrap();
        upgrade.answer(401, "a proxy's", &[]).await.unwrap();
    })
    .await;
    provider = self::provider(&server);
    provider.token = TokenSource::Issued(issuer.clone());
    error_of(&provider).await;
    assert_eq!(issuer.0.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn closing_says_goodbye() {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let server = server(move |stream| {
        let sender = sender.clone();
        async move {
            let (link, mut stream) = let_in(stream).await;
            let end = link.closed().await;
            // The stream is over with the link.
            assert!(stream.read_u8().await.is_err());
            sender.send(end).await.unwrap();
        }
    })
    .await;
    let connection = soon(provider(&server).connect(Wanted::default())).await.unwrap();
    soon(connection.close()).await;
    let end = soon(receiver.recv()).await.unwrap();
    assert!(
        matches!(end, tunnel_bridge::LinkEnd::PeerClosed { .. }),
        "{end:?}"
    );
}

/// A proxy that answers 403 to what it does not know. How many connections it has seen is told.
async fn picky(to: SocketAddr, seen: Arc<AtomicUsize>) -> Server {
    server(move |mut near| {
        let seen = Arc::clone(&seen);
        async move {
            seen.fetch_add(1, Ordering::Relaxed);
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(near.read_u8().await.unwrap());
            }
            if String::from_utf8_lossy(&head).contains("devbox-tunnel/1") {
                let answer = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
                return near.write_all(answer).await.unwrap();
            }
            let mut far = TcpStream::connect(to).await.unwrap();
            far.write_all(&head).await.unwrap();
            drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
        }
    })
    .await
}

#[tokio::test]
async fn what_does_not_pass_is_remembered_and_shown() {
    let gateway = server(|stream| async move {
        let (link, _catalog) = let_in(stream).await;
        link.closed().await;
    })
    .await;
    let direct = provider(&gateway);
    let connection = soon(direct.connect(Wanted::default())).await.unwrap();
    assert_eq!(direct.status().over.as_deref(), Some("raw upgrade"));
    connection.close().await;

    let seen = Arc::new(AtomicUsize::new(0));
    let proxy = picky(gateway.address, Arc::clone(&seen)).await;
    let provider = provider(&proxy);
    for connections in [2, 3, 4] {
        let connection = soon(provider.connect(Wanted::default())).await.unwrap();
        assert_eq!(
            seen.load(Ordering::Relaxed),
            connections,
            "asked twice the first time only"
        );
        assert_eq!(provider.status().over.as_deref(), Some("WebSocket"));
        connection.close().await;
    }
}

/// As behind a proxy that takes every switch for WebSocket and reads frames where there are none.
#[tokio::test]
async fn a_raw_link_that_never_came_to_life_is_followed_by_a_websocket() {
    let seen = Arc::new(AtomicUsize::new(0));
    let gateway = {
        let seen = Arc::clone(&seen);
        server(move |stream| {
            let first = seen.fetch_add(1, Ordering::Relaxed) == 0;
            async move {
                if first {
                    let upgrade = Upgrade::read(stream).await.unwrap();
                    assert!(upgrade.header("upgrade").unwrap().starts_with("devbox-tunnel/1"));
                    return drop(upgrade.accept(SUBPROTOCOL).await.unwrap());
                }
                let (link, _catalog) = let_in(stream).await;
                link.closed().await;
            }
        })
        .await
    };
    let provider = provider(&gateway);
    soon(provider.connect(Wanted::default())).await.unwrap_err();
    soon(provider.connect(Wanted::default())).await.unwrap();
    assert_eq!(provider.status().over.as_deref(), Some("WebSocket"));
}

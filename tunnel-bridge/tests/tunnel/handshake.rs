//! Who is let in, and what those who are not are told.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tunnel_bridge::client::{self, ConnectError};
use tunnel_bridge::server;
use tunnel_bridge::{Error, Target, Token};

use crate::support::{check, connect_error, options, read_all, refusing_port, service, soon, target};

/// Serves handshakes for ever; links are kept until the test ends.
async fn gateway() -> SocketAddr {
    service(|stream| async move {
        if let Ok((link, _)) = server::accept(stream, check).await {
            link.closed().await;
        }
    })
    .await
}

#[tokio::test]
async fn a_gateway_sees_what_the_client_says_about_itself() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let accepted = tokio::spawn(async move {
        let (stream, _) = socket.accept().await.unwrap();
        let mut offered = None;
        let (link, admitted) = server::accept(stream, |offer| {
            offered = Some(offer.clone());
            check(offer)
        })
        .await
        .unwrap();
        (link, admitted, offered.unwrap())
    });
    let mut options = options(address);
    options.environment = Some("dev".to_owned());
    options.generation = 41;
    let _link = soon("the link", client::connect(&options)).await.unwrap();
    let (_link, admitted, offer) = accepted.await.unwrap();
    assert_eq!(admitted.session, "session-1");
    assert_eq!(admitted.environment.as_deref(), Some("dev"));
    assert_eq!(admitted.generation, 41);
    assert!(!format!("{offer:?}").contains(crate::support::TOKEN));
    assert!(!format!("{options:?}").contains(crate::support::TOKEN));
}

#[tokio::test]
async fn rejections_become_typed_errors() {
    let gateway = gateway().await;
    let good = options(gateway);

    let mut bad = good.clone();
    bad.token = Token::new("wrong").unwrap();
    match connect_error(&bad).await {
        ConnectError::TokenRefused { message } => assert_eq!(message, "this token opens nothing here"),
        other => panic!("{other:?}"),
    }
    let mut bad = good.clone();
    bad.environment = Some("prod".to_owned());
    match connect_error(&bad).await {
        ConnectError::UnknownEnvironment { message } => assert_eq!(message, "no environment prod"),
        other => panic!("{other:?}"),
    }
    let mut bad = good.clone();
    bad.generation = 7;
    assert!(
        matches!(connect_error(&bad).await, ConnectError::Superseded { message } if message == "8 is up")
    );
    let mut bad = good.clone();
    bad.session = "a/b".to_owned();
    assert!(matches!(connect_error(&bad).await, ConnectError::BadUrl { .. }));
    let mut bad = good.clone();
    bad.gateway = format!("http://{gateway}/").parse().unwrap();
    assert!(matches!(connect_error(&bad).await, ConnectError::BadUrl { .. }));
    let mut bad = good.clone();
    bad.gateway = format!("ws://me:hunter2@{gateway}/").parse().unwrap();
    let error = connect_error(&bad).await;
    assert!(matches!(error, ConnectError::BadUrl { .. }) && !error.to_string().contains("hunter2"));
    client::connect(&good).await.unwrap();
}

#[tokio::test]
async fn what_is_no_gateway_is_told_apart() {
    let not_found = service(|mut stream| async move {
        let mut some = [0; 4096];
        assert!(stream.read(&mut some).await.unwrap() > 0);
        let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 10\r\n\r\nno such 42";
        stream.write_all(answer).await.unwrap();
    })
    .await;
    match connect_error(&options(not_found)).await {
        ConnectError::NotAGateway { status: 404, message } => assert_eq!(message, "no such 42"),
        other => panic!("{other:?}"),
    }
    let proxy = service(|mut stream| async move {
        let mut some = [0; 4096];
        assert!(stream.read(&mut some).await.unwrap() > 0);
        stream
            .write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            .await
            .unwrap();
    })
    .await;
    assert!(matches!(
        connect_error(&options(proxy)).await,
        ConnectError::Unavailable { status: 502, .. }
    ));
    let ssh =
        service(|mut stream| async move { stream.write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n").await.unwrap() })
            .await;
    assert!(matches!(
        connect_error(&options(ssh)).await,
        ConnectError::NotAGateway { status: 0, .. }
    ));
    let hangs_up = service(|mut stream| async move {
        let mut some = [0; 4096];
        assert!(stream.read(&mut some).await.unwrap() > 0);
    })
    .await;
    assert!(matches!(
        connect_error(&options(hangs_up)).await,
        ConnectError::Unreachable { .. }
    ));
    let silent = service(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let mut impatient = options(silent);
    impatient.connect_timeout = Duration::from_millis(100);
    assert!(matches!(
        connect_error(&impatient).await,
        ConnectError::TimedOut { .. }
    ));
    let (_refuses, port) = refusing_port();
    match connect_error(&options(port)).await {
        ConnectError::Unreachable { source, .. } => assert_eq!(source.kind(), ErrorKind::ConnectionRefused),
        other => panic!("{other:?}"),
    }
}

async fn http(gateway: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    String::from_utf8(soon("the answer", read_all(&mut stream)).await.unwrap()).unwrap()
}

#[tokio::test]
async fn people_with_a_browser_are_told_what_this_is() {
    let gateway = gateway().await;
    let root = http(gateway, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(
        root.starts_with("HTTP/1.1 200 OK\r\n") && root.contains("This is a devbox gateway"),
        "{root}"
    );
    let other = http(gateway, "GET /favicon.ico HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(
        other.starts_with("HTTP/1.1 404 ") && other.contains("/kube/devbox/tunnel/client/"),
        "{other}"
    );
    let tunnel = http(
        gateway,
        "GET /kube/devbox/tunnel/client/s HTTP/1.1\r\nHost: x\r\n\r\n",
    )
    .await;
    assert!(
        tunnel.starts_with("HTTP/1.1 426 ") && tunnel.contains("wants a WebSocket"),
        "{tunnel}"
    );
    let post = http(
        gateway,
        "POST /kube/devbox/tunnel/client/s HTTP/1.1\r\nHost: x\r\n\r\n",
    )
    .await;
    assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
    let nonsense = http(gateway, "\x16\x03\x01 no HTTP at all\r\n\r\n").await;
    assert!(nonsense.starts_with("HTTP/1.1 400 "), "{nonsense}");
    let endless = http(gateway, &format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(17_000))).await;
    assert!(endless.starts_with("HTTP/1.1 400 "), "{endless}");
}

#[test]
fn targets_and_tokens_are_checked() {
    let long = "x".repeat(513);
    for bad in ["", "a\nb", "\u{85}", long.as_str()] {
        assert!(
            matches!(Target::new(bad), Err(Error::BadTarget { .. })),
            "{bad:?}"
        );
    }
    assert_eq!(target("tcp/ü/x/1").as_str(), "tcp/ü/x/1");
    for bad in ["", "two words", "ü", "tab\t"] {
        assert!(matches!(Token::new(bad), Err(Error::BadToken { .. })), "{bad:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "  abc\r\n").unwrap();
    assert_eq!(Token::read(&path).unwrap().expose(), "abc");
    std::fs::write(&path, "a b").unwrap();
    let error = Token::read(&path).unwrap_err();
    assert!(
        error.to_string().contains(path.to_str().unwrap()) && !error.to_string().contains("a b"),
        "{error}"
    );
    assert!(matches!(
        Token::read(dir.path().join("none")),
        Err(Error::File { .. })
    ));
}

#[cfg(feature = "tls")]
mod tls {
    use std::path::PathBuf;

    use tempfile::TempDir;
    use tunnel_bridge::tls::Acceptor;

    use super::*;

    struct Files {
        dir: TempDir,
    }

    impl Files {
        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }
    }

    /// A certificate authority, and a certificate of it for `localhost`.
    fn files() -> Files {
        let dir = tempfile::tempdir().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::new(params, ca_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = leaf.signed_by(&key, &issuer).unwrap();
        let files = Files { dir };
        std::fs::write(files.path("ca.pem"), ca.pem()).unwrap();
        std::fs::write(files.path("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(files.path("key.pem"), key.serialize_pem()).unwrap();
        files
    }

    async fn tls_gateway(files: &Files) -> SocketAddr {
        let acceptor = Acceptor::from_pem(&files.path("cert.pem"), &files.path("key.pem")).unwrap();
        service(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let Ok((link, _)) = server::accept(stream, check).await else {
                    return;
                };
                while let Some(incoming) = link.accept().await {
                    let (mut read, mut write) = tokio::io::split(incoming.accept());
                    tokio::io::copy(&mut read, &mut write).await.unwrap();
                    write.shutdown().await.unwrap();
                }
            }
        })
        .await
    }

    #[tokio::test]
    async fn a_link_runs_over_tls_when_the_certificate_is_known() {
        let files = files();
        let gateway = tls_gateway(&files).await;
        let mut options = options(gateway);
        options.gateway = format!("wss://localhost:{}/", gateway.port()).parse().unwrap();
        options.tls_ca = Some(files.path("ca.pem"));
        let link = soon("the link", client::connect(&options)).await.unwrap();
        let stream = link.open(&target("x")).await.unwrap();
        let sent = crate::support::pattern(3_000_000, 17);
        let (mut read, mut write) = tokio::io::split(stream);
        let write_all = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let ((), received) = soon("the echo", async { tokio::join!(write_all, read_all(&mut read)) }).await;
        assert!(received.unwrap() == sent);
    }

    #[tokio::test]
    async fn an_unknown_certificate_or_another_name_is_a_tls_error() {
        let files = files();
        let gateway = tls_gateway(&files).await;
        let mut options = options(gateway);
        options.gateway = format!("wss://localhost:{}/", gateway.port()).parse().unwrap();
        // The system's authorities do not know ours.
        assert!(matches!(connect_error(&options).await, ConnectError::Tls { .. }));
        options.tls_ca = Some(files.path("ca.pem"));
        options.gateway = format!("wss://{gateway}/").parse().unwrap();
        assert!(matches!(connect_error(&options).await, ConnectError::Tls { .. }));
        options.tls_ca = Some(files.path("key.pem"));
        let error = connect_error(&options).await;
        assert!(
            matches!(error, ConnectError::Setup(Error::BadPem { what: "CA", .. })),
            "{error:?}"
        );
        options.tls_ca = Some(files.path("none.pem"));
        assert!(matches!(
            connect_error(&options).await,
            ConnectError::Setup(Error::File { .. })
        ));
    }

    #[tokio::test]
    async fn tls_to_a_port_without_it_is_a_tls_error() {
        let gateway = gateway().await;
        let mut options = options(gateway);
        options.gateway = format!("wss://localhost:{}/", gateway.port()).parse().unwrap();
        assert!(matches!(connect_error(&options).await, ConnectError::Tls { .. }));
    }
}

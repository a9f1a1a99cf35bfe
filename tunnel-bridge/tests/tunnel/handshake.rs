//! The WebSocket handshake of both sides: what each hears of the other, and how failures are told apart.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tunnel_bridge::ws::{self, ConnectError, ConnectOptions, NotAWebSocket, Upgrade};
use tunnel_bridge::{Error, Target};

use crate::support::{SUBPROTOCOL, connect_error, options, read_all, refusing_port, service, soon, target};

/// Lets in who knows the password; links are kept until the test ends.
async fn server() -> SocketAddr {
    service(|stream| async move {
        let Ok(upgrade) = Upgrade::read(stream).await else {
            return;
        };
        if let Err(error) = upgrade.check(SUBPROTOCOL) {
            let status = if error == NotAWebSocket::Method { 405 } else { 426 };
            upgrade.answer(status, &error.to_string(), &[]).await.unwrap();
        } else if upgrade.header("x-password") != Some("open sesame") {
            let headers = [("X-Why", "ünknown\r\nX-Injected: yes")];
            upgrade.answer(401, "no such password", &headers).await.unwrap();
        } else {
            let link = upgrade.accept(SUBPROTOCOL).await.unwrap();
            link.closed().await;
        }
    })
    .await
}

fn let_in(server: SocketAddr) -> ConnectOptions {
    options(server).secret_header("X-Password", "open sesame")
}

#[tokio::test]
async fn the_server_sees_path_and_headers() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let read = async {
        let (stream, _) = socket.accept().await.unwrap();
        let upgrade = Upgrade::read(stream).await.unwrap();
        assert_eq!((upgrade.method(), upgrade.path()), ("GET", "/mounted/here"));
        assert_eq!(upgrade.header("x-session"), Some("41"));
        assert_eq!(upgrade.header("X-PASSWORD"), Some("open sesame"));
        assert_eq!(upgrade.header("x-other"), None);
        assert_eq!(upgrade.check("other.2"), Err(NotAWebSocket::Subprotocol));
        upgrade.accept(SUBPROTOCOL).await.unwrap()
    };
    let mut options = let_in(address).header("X-Session", "41");
    options.url.set_query(Some("a=b"));
    assert!(!format!("{options:?}").contains("sesame"), "{options:?}");
    assert!(format!("{options:?}").contains("X-Session: 41"), "{options:?}");
    let (near, _far) = soon("the link", async { tokio::join!(ws::connect(&options), read) }).await;
    near.unwrap();
}

#[tokio::test]
async fn an_answer_that_is_no_switch_comes_whole() {
    let server = server().await;
    match connect_error(&options(server)).await {
        ConnectError::Rejected { response, .. } => {
            assert_eq!(
                (response.status, response.text.as_str()),
                (401, "no such password")
            );
            assert_eq!(response.header("www-authenticate"), Some("Bearer"));
            assert_eq!(response.header("x-why"), Some("?nknown"));
            assert_eq!(response.header("x-injected"), None);
        }
        other => panic!("{other:?}"),
    }
    ws::connect(&let_in(server)).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_asked_for_is_told_before_anything_is_sent() {
    let (_refuses, nobody) = refusing_port();
    for url in [format!("http://{nobody}/"), format!("ws://me:hunter2@{nobody}/")] {
        let url = url.parse().unwrap();
        let error = connect_error(&ConnectOptions::new(url, SUBPROTOCOL)).await;
        assert!(matches!(error, ConnectError::BadRequest { .. }), "{error:?}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    for (name, value) in [("X-A", "a\r\nb"), ("X A", "a"), ("", "a")] {
        let error = connect_error(&options(nobody).header(name, value)).await;
        assert!(
            matches!(error, ConnectError::BadRequest { .. }),
            "{name:?}: {error:?}"
        );
    }
}

#[tokio::test]
async fn what_does_not_speak_websocket_is_told_apart() {
    let not_found = service(|mut stream| async move {
        let mut some = [0; 4096];
        assert!(stream.read(&mut some).await.unwrap() > 0);
        let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 10\r\n\r\nno such 42";
        stream.write_all(answer).await.unwrap();
    })
    .await;
    match connect_error(&options(not_found)).await {
        ConnectError::Rejected { response, .. } => {
            assert_eq!((response.status, response.text.as_str()), (404, "no such 42"));
        }
        other => panic!("{other:?}"),
    }
    let ssh =
        service(|mut stream| async move { stream.write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n").await.unwrap() })
            .await;
    assert!(matches!(
        connect_error(&options(ssh)).await,
        ConnectError::NotAWebSocket { .. }
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
    // The server does not choose the subprotocol.
    let mut other = let_in(server().await);
    other.subprotocol = "other.2".to_owned();
    assert!(matches!(
        connect_error(&other).await,
        ConnectError::Rejected { response, .. } if response.status == 426
    ));
}

async fn http(server: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    String::from_utf8(soon("the answer", read_all(&mut stream)).await.unwrap()).unwrap()
}

#[tokio::test]
async fn requests_by_hand_and_hostile_ones_are_answered() {
    let server = server().await;
    let head = |method: &str, rest: &str| format!("{method} /x?y#z HTTP/1.1\r\nHost: x\r\n{rest}\r\n");
    let full = "Connection: keep-alive\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: other, test-tunnel.1\r\n";
    for (request, status, says) in [
        (head("GET", ""), 426, "expects a request for a tunnel"),
        (head("POST", full), 405, "GET"),
        (
            head("GET", &full.replace("Version: 13", "Version: 8")),
            426,
            "version 13",
        ),
        (
            head("GET", &full.replace("test-tunnel.1", "test-tunnel.2")),
            426,
            "subprotocol",
        ),
        (
            head("GET", &full.replace("Sec-WebSocket-Key", "X-Key")),
            426,
            "Sec-WebSocket-Key",
        ),
        (head("GET", full), 401, "no such password"),
        (
            "\x16\x03\x01 no HTTP at all\r\n\r\n".to_owned(),
            400,
            "not HTTP/1.1",
        ),
        (
            format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(17_000)),
            400,
            "longer than 16 KiB",
        ),
        (head("GET", &"X: y\r\n".repeat(70)), 400, "more than 64 headers"),
    ] {
        let answer = http(server, &request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(says),
            "{request}: {answer}"
        );
    }
}

#[test]
fn targets_are_checked() {
    let long = "x".repeat(513);
    for bad in ["", "a\nb", "\u{85}", long.as_str()] {
        assert!(
            matches!(Target::new(bad), Err(Error::BadTarget { .. })),
            "{bad:?}"
        );
    }
    assert_eq!(target("tcp/ü/x/1").as_str(), "tcp/ü/x/1");
}

#[cfg(feature = "tls")]
mod tls {
    use std::path::PathBuf;

    use tempfile::TempDir;
    use tunnel_bridge::tls::Acceptor;

    use super::*;
    use crate::support::accept;

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

    async fn tls_server(files: &Files) -> SocketAddr {
        let acceptor = Acceptor::from_pem(&files.path("cert.pem"), &files.path("key.pem")).unwrap();
        service(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let Ok(link) = accept(stream).await else {
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

    fn over_tls(server: SocketAddr) -> ConnectOptions {
        let mut options = options(server);
        options.url = format!("wss://localhost:{}/", server.port()).parse().unwrap();
        options
    }

    #[tokio::test]
    async fn a_link_runs_over_tls_when_the_certificate_is_known() {
        let files = files();
        let mut options = over_tls(tls_server(&files).await);
        options.trust.ca = Some(files.path("ca.pem"));
        let link = soon("the link", ws::connect(&options)).await.unwrap();
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
    async fn an_unknown_certificate_or_another_name_is_a_certificate_error() {
        let files = files();
        let server = tls_server(&files).await;
        let mut options = over_tls(server);
        // The system's authorities do not know ours.
        assert!(matches!(
            connect_error(&options).await,
            ConnectError::Certificate { .. }
        ));
        options.trust.ca = Some(files.path("ca.pem"));
        options.url = format!("wss://{server}/").parse().unwrap();
        assert!(matches!(
            connect_error(&options).await,
            ConnectError::Certificate { .. }
        ));
        options.trust.ca = Some(files.path("key.pem"));
        let error = connect_error(&options).await;
        assert!(
            matches!(error, ConnectError::Setup(Error::BadPem { what: "CA", .. })),
            "{error:?}"
        );
        options.trust.ca = Some(files.path("none.pem"));
        assert!(matches!(
            connect_error(&options).await,
            ConnectError::Setup(Error::File { .. })
        ));
    }

    /// A user who has typed `wss://` for `ws://` must not be sent looking for certificates.
    #[tokio::test]
    async fn tls_to_a_port_without_it_is_not_a_certificate_error() {
        let options = over_tls(server().await);
        let error = connect_error(&options).await;
        assert!(matches!(error, ConnectError::Tls { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn no_tls_to_a_port_with_it_does_not_answer_as_a_websocket() {
        let files = files();
        let error = connect_error(&options(tls_server(&files).await)).await;
        assert!(matches!(error, ConnectError::NotAWebSocket { .. }), "{error:?}");
    }
}

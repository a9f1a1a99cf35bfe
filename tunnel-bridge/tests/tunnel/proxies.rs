//! Proxies between a client and its server: what is said to them, and what each kind of failure is told as. The proxies are
//! made by hand here, since each does one thing; real ones are in the end-to-end tests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tunnel_bridge::dial::{Proxies, Proxy, ProxyError, SocksReply};
use tunnel_bridge::ws::{self, ConnectError, ConnectOptions, Upgrade};

use crate::support::{SUBPROTOCOL, connect_error, options, refusing_port, service, soon};

/// A server that lets everybody in.
async fn server() -> SocketAddr {
    service(|stream| async move {
        if let Ok(upgrade) = Upgrade::read(stream).await {
            let link = upgrade.accept(SUBPROTOCOL).await.unwrap();
            link.closed().await;
        }
    })
    .await
}

fn through(server: SocketAddr, proxy: &str) -> ConnectOptions {
    let mut options = options(server);
    options.proxies = Proxies::always(Proxy::parse(proxy).unwrap());
    options
}

/// Reads up to an empty line.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

async fn carry(mut near: TcpStream, to: SocketAddr) {
    let mut far = TcpStream::connect(to).await.unwrap();
    // How the link ends is the test's doing.
    drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
}

/// An HTTP proxy that does as it is told, and tells the test what it was asked.
async fn http_proxy(to: SocketAddr) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let (asked, heard) = mpsc::unbounded_channel();
    let proxy = service(move |mut stream| {
        let asked = asked.clone();
        async move {
            asked.send(read_head(&mut stream).await).unwrap();
            stream
                .write_all(b"HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n")
                .await
                .unwrap();
            carry(stream, to).await;
        }
    })
    .await;
    (proxy, heard)
}

#[tokio::test]
async fn connect_names_the_target_and_carries_the_credentials() {
    let server = server().await;
    let (proxy, mut heard) = http_proxy(server).await;
    let options = through(server, &format!("http://ada:open%20sesame@{proxy}"));
    assert!(!format!("{options:?}").contains("sesame"), "{options:?}");
    let connected = soon("the link", ws::establish(&options)).await.unwrap();
    assert_eq!(connected.peer, proxy);
    assert_eq!(connected.proxy.unwrap().to_string(), format!("http://{proxy}"));
    let asked = heard.recv().await.unwrap();
    assert!(
        asked.starts_with(&format!("CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n")),
        "{asked}"
    );
    // RFC 7617 §2.
    assert!(
        asked.contains("\r\nProxy-Authorization: Basic YWRhOm9wZW4gc2VzYW1l\r\n"),
        "{asked}"
    );
    assert!(!asked.contains("Sec-WebSocket"), "{asked}");

    // A name is the proxy's to resolve.
    let mut by_name = through(server, &format!("http://{proxy}"));
    by_name.url = format!("ws://no-such-host.example:{}/", server.port())
        .parse()
        .unwrap();
    soon("the link", ws::connect(&by_name)).await.unwrap();
    let asked = heard.recv().await.unwrap();
    assert!(
        asked.starts_with(&format!("CONNECT no-such-host.example:{} ", server.port())),
        "{asked}"
    );
    assert!(!asked.contains("Proxy-Authorization"), "{asked}");
}

#[tokio::test]
async fn the_environment_is_obeyed_with_its_exceptions() {
    let server = server().await;
    let (proxy, mut heard) = http_proxy(server).await;
    let variable = format!("http://{proxy}");
    let with = |list: &'static str| {
        let variable = variable.clone();
        Proxies::from_env(move |name| match name {
            "http_proxy" => Some(variable.clone()),
            "no_proxy" => Some(list.to_owned()),
            _ => None,
        })
    };
    let mut options = options(server);
    options.proxies = with("");
    assert!(
        soon("directly", ws::establish(&options))
            .await
            .unwrap()
            .proxy
            .is_none(),
        "this machine itself"
    );
    options.url = format!("ws://far.example:{}/", server.port()).parse().unwrap();
    assert!(
        soon("the link", ws::establish(&options))
            .await
            .unwrap()
            .proxy
            .is_some()
    );
    assert!(heard.recv().await.unwrap().starts_with("CONNECT far.example:"));
    options.proxies = with("other.example .example");
    options.connect_timeout = Duration::from_secs(5);
    // Directly there is no such host.
    let error = connect_error(&options).await;
    assert!(
        matches!(
            error,
            ConnectError::Unreachable { .. } | ConnectError::TimedOut { .. }
        ),
        "{error:?}"
    );
    assert!(heard.try_recv().is_err());
}

async fn failure(answer: &'static [u8], credentials: &str) -> (ProxyError, String) {
    let proxy = service(move |mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(answer).await.unwrap();
        // Held open: the answer alone must do.
        stream.read_to_end(&mut Vec::new()).await.ok();
    })
    .await;
    let server = server().await;
    let options = through(server, &format!("http://{credentials}{proxy}"));
    match connect_error(&options).await {
        ConnectError::Proxy(error) => {
            let told = error.to_string();
            assert!(
                told.contains(&format!("http://{proxy}")) && !told.contains("hunter2"),
                "{told}"
            );
            (error, told)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_a_proxy_refuses_is_told_apart() {
    let (error, told) = failure(
        b"HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic realm=\"x\"\r\nProxy-Authenticate: NTLM\r\n\r\n",
        "",
    )
    .await;
    assert!(
        matches!(error, ProxyError::NeedsCredentials { given: false, .. }),
        "{error:?}"
    );
    assert!(told.contains("Basic, NTLM"), "{told}");
    let (error, _) = failure(b"HTTP/1.1 407 No\r\n\r\n", "ada:hunter2@").await;
    assert!(
        matches!(error, ProxyError::NeedsCredentials { given: true, .. }),
        "{error:?}"
    );
    let (error, _) = failure(b"HTTP/1.1 401 Unauthorized\r\n\r\n", "ada:hunter2@").await;
    assert!(
        matches!(error, ProxyError::NeedsCredentials { given: true, .. }),
        "{error:?}"
    );
    let (error, told) = failure(b"HTTP/1.1 403 Filtered\x20by policy\r\n\r\n", "").await;
    assert!(
        matches!(error, ProxyError::Refused { status: 403, .. }),
        "{error:?}"
    );
    assert!(told.contains("Filtered by policy"), "{told}");
    let (error, _) = failure(b"SSH-2.0-OpenSSH_9.2p1\r\n", "").await;
    assert!(matches!(error, ProxyError::NotAProxy { .. }), "{error:?}");
    let (error, _) = failure(b"HTTP/1.1 200 OK\r\n\r\n<html>", "").await;
    assert!(matches!(error, ProxyError::NotAProxy { .. }), "{error:?}");
}

#[tokio::test]
async fn a_proxy_that_is_away_silent_or_without_end_is_told() {
    let server = server().await;
    let (_refuses, nobody) = refusing_port();
    let error = connect_error(&through(server, &format!("http://{nobody}"))).await;
    assert!(
        matches!(error, ConnectError::Proxy(ProxyError::Unreachable { .. })),
        "{error:?}"
    );

    let hangs_up = service(|mut stream| async move {
        read_head(&mut stream).await;
    })
    .await;
    let error = connect_error(&through(server, &format!("http://{hangs_up}"))).await;
    assert!(
        matches!(error, ConnectError::Proxy(ProxyError::Unreachable { .. })),
        "{error:?}"
    );

    let silent = service(|mut stream| async move {
        stream.read_to_end(&mut Vec::new()).await.ok();
    })
    .await;
    for scheme in ["http", "socks5h"] {
        let mut impatient = through(server, &format!("{scheme}://{silent}"));
        impatient.connect_timeout = Duration::from_millis(200);
        let error = soon("the end", connect_error(&impatient)).await;
        assert!(matches!(error, ConnectError::TimedOut { .. }), "{error:?}");
    }

    // A head that never ends is given up at its bound, long before the time is over.
    let endless = service(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        while stream
            .write_all(&b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(64))
            .await
            .is_ok()
        {}
    })
    .await;
    let mut patient = through(server, &format!("http://{endless}"));
    patient.connect_timeout = Duration::from_secs(600);
    let error = soon("its end", connect_error(&patient)).await;
    assert!(
        matches!(error, ConnectError::Proxy(ProxyError::NotAProxy { .. })),
        "{error:?}"
    );
}

/// What a SOCKS proxy heard: its greeting, credentials and request.
#[derive(Debug, PartialEq)]
struct Heard {
    methods: Vec<u8>,
    credentials: Option<(Vec<u8>, Vec<u8>)>,
    request: Vec<u8>,
}

/// A SOCKS5 proxy that chooses `method`, answers `reply`, and carries to `to`.
async fn socks(
    method: u8,
    reply: &'static [u8],
    to: SocketAddr,
) -> (SocketAddr, mpsc::UnboundedReceiver<Heard>) {
    let (out, heard) = mpsc::unbounded_channel();
    let out = Arc::new(out);
    let proxy = service(move |mut stream| {
        let out = Arc::clone(&out);
        async move {
            let read = async {
                assert_eq!(stream.read_u8().await?, 5);
                let mut methods = vec![0; stream.read_u8().await?.into()];
                stream.read_exact(&mut methods).await?;
                stream.write_all(&[5, method]).await?;
                let mut credentials = None;
                if method == 2 {
                    assert_eq!(stream.read_u8().await?, 1);
                    let mut user = vec![0; stream.read_u8().await?.into()];
                    stream.read_exact(&mut user).await?;
                    let mut password = vec![0; stream.read_u8().await?.into()];
                    stream.read_exact(&mut password).await?;
                    stream.write_all(&[1, u8::from(password != b"hunter2")]).await?;
                    credentials = Some((user, password));
                }
                let mut request = vec![0; 4];
                stream.read_exact(&mut request).await?;
                let address = match request[3] {
                    1 => 4,
                    3 => stream.read_u8().await?.into(),
                    _ => 16,
                };
                let mut rest = vec![0; address + 2];
                stream.read_exact(&mut rest).await?;
                request.extend(rest);
                stream.write_all(reply).await?;
                Ok::<_, std::io::Error>(Heard {
                    methods,
                    credentials,
                    request,
                })
            };
            let Ok(said) = read.await else { return };
            out.send(said).ok();
            carry(stream, to).await;
        }
    })
    .await;
    (proxy, heard)
}

const DONE: &[u8] = &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0];

#[tokio::test]
async fn socks_is_spoken_with_and_without_a_user() {
    let server = server().await;
    let port = server.port().to_be_bytes();
    let (proxy, mut heard) = socks(0, DONE, server).await;
    soon(
        "the link",
        ws::connect(&through(server, &format!("socks5://{proxy}"))),
    )
    .await
    .unwrap();
    let request = [&[5, 1, 0, 1, 127, 0, 0, 1][..], &port].concat();
    let expected = Heard {
        methods: vec![0],
        credentials: None,
        request,
    };
    assert_eq!(heard.recv().await.unwrap(), expected);

    // The bound address may be a name, too.
    let (proxy, mut heard) = socks(2, &[5, 0, 0, 3, 2, b'h', b'i', 0, 1], server).await;
    let mut options = through(server, &format!("socks5h://ada:hunter2@{proxy}"));
    options.url = format!("ws://far.example:{}/", server.port()).parse().unwrap();
    soon("the link", ws::connect(&options)).await.unwrap();
    let request = [&[5, 1, 0, 3][..], b"far.example", &port].concat();
    let expected = Heard {
        methods: vec![0, 2],
        credentials: Some((b"ada".to_vec(), b"hunter2".to_vec())),
        request,
    };
    assert_eq!(heard.recv().await.unwrap(), expected);
}

#[tokio::test]
async fn what_a_socks_proxy_refuses_is_told_apart() {
    let server = server().await;
    for (reply, expected) in [
        (&[5, 1, 0, 1, 0, 0, 0, 0, 0, 0][..], SocksReply::General),
        (&[5, 2, 0, 1, 0, 0, 0, 0, 0, 0], SocksReply::NotAllowed),
        (&[5, 4, 0, 1, 0, 0, 0, 0, 0, 0], SocksReply::HostUnreachable),
        (&[5, 5, 0, 1, 0, 0, 0, 0, 0, 0], SocksReply::Refused),
        (&[5, 99, 0, 1, 0, 0, 0, 0, 0, 0], SocksReply::General),
    ] {
        let (proxy, _heard) = socks(0, reply, server).await;
        match connect_error(&through(server, &format!("socks5h://{proxy}"))).await {
            ConnectError::Proxy(ProxyError::Socks { reply, .. }) => assert_eq!(reply, expected),
            other => panic!("{other:?}"),
        }
    }
    for (method, credentials, given) in [(2, "", false), (0xff, "", false), (2, "ada:wrong@", true)] {
        let (proxy, _heard) = socks(method, DONE, server).await;
        let error = connect_error(&through(server, &format!("socks5h://{credentials}{proxy}"))).await;
        assert!(
            matches!(error, ConnectError::Proxy(ProxyError::NeedsCredentials { given: told, .. }) if told == given),
            "{error:?}"
        );
    }
    let garbage = service(|mut stream| async move {
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        stream.read_to_end(&mut Vec::new()).await.ok();
    })
    .await;
    let error = connect_error(&through(server, &format!("socks5://{garbage}"))).await;
    assert!(
        matches!(error, ConnectError::Proxy(ProxyError::NotAProxy { .. })),
        "{error:?}"
    );
}

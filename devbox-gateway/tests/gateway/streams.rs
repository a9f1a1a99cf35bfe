//! What a client reaches through the gateway, and how a connection ends.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tunnel_bridge::{LinkEnd, RefusalKind};

use super::support::{Files, closed_port, echo, file, ping, soon, start};

#[tokio::test]
async fn only_what_the_catalog_names_is_dialled() {
    let echo = echo().await;
    let files = Files::new(&file(&[("a.x", 80, echo.address)]));
    let gateway = start(files.config().await).await;
    let client = gateway.client("laptop").await;
    let address = echo.address.to_string();
    // What could be in a catalog and is not is not found; what could not is not allowed.
    for target in [
        "tcp/x/a/81",
        "tcp/x/b/80",
        "tcp/y/a/80",
        "udp/x/a/80",
        "tcp/x/a/m/80",
    ] {
        let refusal = client.refusal(target).await;
        assert_eq!(refusal.kind, RefusalKind::NotFound, "{target}: {refusal}");
    }
    for target in [
        address.as_str(),
        "tcp/x/a/080",
        "tcp/x/a",
        "tcp/127.0.0.1/a/80",
        "catalog2",
        "catalog/push",
        "http://127.0.0.1/",
    ] {
        let refusal = client.refusal(target).await;
        assert_eq!(refusal.kind, RefusalKind::NotAllowed, "{target}: {refusal}");
    }
    ping(&mut client.open("tcp/x/a/80").await.unwrap(), "hello").await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_closed_port_is_refused_at_once() {
    let closed = closed_port().await;
    let files = Files::new(&file(&[("a.x", 80, closed)]));
    let gateway = start(files.config().await).await;
    let client = gateway.client("laptop").await;
    let refusal = client.refusal("tcp/x/a/80").await;
    assert_eq!(refusal.kind, RefusalKind::Refused, "{refusal}");
    assert!(refusal.message.contains(&closed.to_string()), "{refusal}");
    gateway.stop().await;
}

#[tokio::test]
async fn a_name_is_resolved_where_the_gateway_is() {
    let echo = echo().await;
    let text = file(&[("a.x", 80, echo.address)]).replace("127.0.0.1:", "localhost:");
    assert!(text.contains("\"localhost:"), "{text}");
    let files = Files::new(&text);
    let gateway = start(files.config().await).await;
    let client = gateway.client("laptop").await;
    ping(&mut client.open("tcp/x/a/80").await.unwrap(), "by name").await;
    gateway.stop().await;
}

#[tokio::test]
async fn an_answer_after_a_half_close_arrives_whole() {
    const ANSWER: usize = 1 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let files = Files::new(&file(&[("a.x", 80, listener.local_addr().unwrap())]));
    let gateway = start(files.config().await).await;
    let client = gateway.client("laptop").await;
    let service = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        stream.read_to_end(&mut request).await.unwrap();
        assert_eq!(request, b"all of it");
        stream.write_all(&vec![7; ANSWER]).await.unwrap();
    });
    let mut stream = client.open("tcp/x/a/80").await.unwrap();
    stream.write_all(b"all of it").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    assert!(
        answer.len() == ANSWER && answer.iter().all(|&b| b == 7),
        "{} bytes",
        answer.len()
    );
    soon(service).await.unwrap();
    gateway.stop().await;
}

#[tokio::test]
async fn a_reset_is_a_reset_on_the_other_side_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let files = Files::new(&file(&[("a.x", 80, listener.local_addr().unwrap())]));
    let gateway = start(files.config().await).await;
    let client = gateway.client("laptop").await;

    // By the service.
    let mut stream = client.open("tcp/x/a/80").await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    accepted.set_zero_linger().unwrap();
    drop(accepted);
    let error = soon(stream.read(&mut [0; 16])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");

    // By the client.
    let stream = client.open("tcp/x/a/80").await.unwrap();
    let (mut accepted, _) = listener.accept().await.unwrap();
    drop(stream);
    let error = soon(accepted.read(&mut [0; 16])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    gateway.stop().await;
}

#[tokio::test]
async fn two_hundred_connections_live_side_by_side() {
    let echo = echo().await;
    let files = Files::new(&file(&[("a.x", 80, echo.address)]));
    let gateway = start(files.config().await).await;
    let client = gateway.client("laptop").await;
    let mut streams = JoinSet::new();
    for n in 0..200 {
        let mut stream = client.open("tcp/x/a/80").await.unwrap();
        streams.spawn(async move {
            for round in 0..5 {
                ping(&mut stream, &format!("stream {n}, round {round}")).await;
            }
            stream
        });
    }
    // All of them stay open until the last has done its work.
    assert_eq!(soon(streams.join_all()).await.len(), 200);
    gateway.stop().await;
}

#[tokio::test]
async fn there_is_a_limit_on_streams_of_a_client() {
    let echo = echo().await;
    let files = Files::new(&file(&[("a.x", 80, echo.address)]));
    let mut config = files.config().await;
    config.limits.max_streams_per_client = 2;
    let gateway = start(config).await;
    let client = gateway.client("laptop").await;
    let mut first = client.open("tcp/x/a/80").await.unwrap();
    let second = client.open("tcp/x/a/80").await.unwrap();
    assert_eq!(client.refusal("tcp/x/a/80").await.kind, RefusalKind::TooMany);
    // The limit is each client's own.
    ping(
        &mut gateway.client("desktop").await.open("tcp/x/a/80").await.unwrap(),
        "other",
    )
    .await;
    ping(&mut first, "first").await;
    drop((first, second));
    soon(async {
        while let Err(refusal) = client.open("tcp/x/a/80").await {
            assert_eq!(refusal.kind, RefusalKind::TooMany, "{refusal}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_gateway_that_ends_lets_streams_finish_and_says_goodbye() {
    let echo = echo().await;
    let files = Files::new(&file(&[("a.x", 80, echo.address)]));
    let mut config = files.config().await;
    config.limits.drain = super::support::PATIENCE;
    let gateway = start(config).await;
    let client = gateway.client("laptop").await;
    let mut stream = client.open("tcp/x/a/80").await.unwrap();
    ping(&mut stream, "before").await;

    gateway.ask_to_stop();
    soon(async {
        while client.open("tcp/x/a/80").await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    ping(&mut stream, "while it drains").await;
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    soon(stream.read_to_end(&mut rest)).await.unwrap();

    let end = soon(client.link.closed()).await;
    assert!(
        matches!(&end, LinkEnd::PeerClosed { message } if message.contains("stopping")),
        "{end:?}"
    );
    gateway.stop().await;
}

#[tokio::test]
async fn a_gateway_that_ends_cuts_what_does_not_finish() {
    let echo = echo().await;
    let files = Files::new(&file(&[("a.x", 80, echo.address)]));
    let mut config = files.config().await;
    config.limits.drain = Duration::from_millis(50);
    let gateway = start(config).await;
    let client = gateway.client("laptop").await;
    let mut stream = client.open("tcp/x/a/80").await.unwrap();
    let address = gateway.address;
    gateway.stop().await;
    let error = soon(stream.read(&mut [0; 16])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    let refused = tokio::net::TcpStream::connect(address).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

//! A client made by hand, byte by byte: what other implementations, proxies and dead networks do.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tunnel_bridge::ws::AcceptError;
use tunnel_bridge::{Link, LinkEnd, RefusalKind, Role, StreamCarrier};

use crate::support::{accept, soon, target};

const REQUEST: &str = "GET /raw HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Protocol: other, test-tunnel.1\r\n\r\n";

/// HELLO of `docs/protocol.md`.
const HELLO: [u8; 28] = [
    1, 0, 0, 20, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0x40, 0, 0, 1, 0, 0, 0, 0, 0x40, 0x40, 0, 0, 1, 0,
];

/// A far end and the raw connection to it, past the HTTP.
async fn raw_client() -> (Link, DuplexStream) {
    let (mut client, stream) = tokio::io::duplex(64 * 1024);
    client.write_all(REQUEST.as_bytes()).await.unwrap();
    let link = accept(stream).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(client.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    // RFC 6455 §1.3 has this key and its answer.
    assert!(
        answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
        "{answer}"
    );
    (link, client)
}

/// A client's WebSocket frame, masked with a key of zeros.
fn web_socket(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![
        0x80 | opcode,
        0x80 | u8::try_from(payload.len()).unwrap(),
        0,
        0,
        0,
        0,
    ];
    bytes.extend_from_slice(payload);
    bytes
}

/// A server's WebSocket frame of less than 126 bytes.
async fn read_web_socket(client: &mut DuplexStream) -> (u8, Vec<u8>) {
    let opcode = client.read_u8().await.unwrap() & 0x0F;
    let mut payload = vec![0; usize::from(client.read_u8().await.unwrap())];
    client.read_exact(&mut payload).await.unwrap();
    (opcode, payload)
}

#[tokio::test]
async fn a_link_survives_what_is_not_for_it_and_any_cutting_into_messages() {
    let (link, mut client) = raw_client().await;
    let (opcode, first) = read_web_socket(&mut client).await;
    // What this side offers: flows of datagrams.
    let mut hello = HELLO;
    hello[11] = 2;
    assert_eq!((opcode, &first[..28]), (2, &hello[..]));
    // Text, Pong and an empty message mean nothing; Ping wants its Pong.
    for (opcode, payload) in [(1, "hello"), (0xA, "unasked"), (2, ""), (9, "there?")] {
        client
            .write_all(&web_socket(opcode, payload.as_bytes()))
            .await
            .unwrap();
    }
    assert_eq!(read_web_socket(&mut client).await, (0xA, b"there?".to_vec()));
    let mut bytes = HELLO.to_vec();
    bytes.extend_from_slice(b"\x10\0\0\x01\0\0\0\x01x\x14\0\0\x02\0\0\0\x01hi");
    for byte in bytes {
        client.write_all(&web_socket(2, &[byte])).await.unwrap();
    }
    let incoming = link.accept().await.unwrap();
    assert_eq!(incoming.target().as_str(), "x");
    let mut stream = incoming.accept();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hi");
}

#[tokio::test]
async fn a_breach_of_the_protocol_is_told_and_ends_the_link() {
    let (link, mut client) = raw_client().await;
    client.write_all(&web_socket(2, &HELLO)).await.unwrap();
    client
        .write_all(&web_socket(2, b"\x13\0\0\x01\0\0\0\x01x"))
        .await
        .unwrap();
    let mut said = Vec::new();
    while !said.windows(13).any(|part| part == b"never opened") && said.len() < 2000 {
        let (opcode, payload) = read_web_socket(&mut client).await;
        said.extend_from_slice(&payload);
        if opcode == 8 {
            break;
        }
    }
    assert!(
        String::from_utf8_lossy(&said).contains("stream 1, which was never opened"),
        "{said:?}"
    );
    drop(client);
    assert!(matches!(link.closed().await, LinkEnd::Protocol { .. }));
}

#[tokio::test(start_paused = true)]
async fn after_a_breach_the_connection_is_closed_though_streams_are_open() {
    let (link, mut client) = raw_client().await;
    client.write_all(&web_socket(2, &HELLO)).await.unwrap();
    client
        .write_all(&web_socket(2, b"\x10\0\0\x01\0\0\0\x01x"))
        .await
        .unwrap();
    let _stream = soon("a request", link.accept()).await.unwrap().accept();
    let since = tokio::time::Instant::now();
    for _ in 0..3 {
        client
            .write_all(&web_socket(2, b"\x13\0\0\x01\0\0\0\x03x"))
            .await
            .unwrap();
    }
    while soon("a Close", read_web_socket(&mut client)).await.0 != 8 {}
    assert!(
        since.elapsed() < Duration::from_millis(100),
        "{:?}",
        since.elapsed()
    );
    drop(client);
    assert!(matches!(link.closed().await, LinkEnd::Protocol { .. }));
}

/// The clock stands still and jumps to the next timer whenever nothing else is to be done.
#[tokio::test(start_paused = true)]
async fn a_black_hole_is_noticed_and_resets_the_streams() {
    let (link, mut client) = raw_client().await;
    client.write_all(&web_socket(2, &HELLO)).await.unwrap();
    client
        .write_all(&web_socket(2, b"\x10\0\0\x01\0\0\0\x01x"))
        .await
        .unwrap();
    let mut stream = link.accept().await.unwrap().accept();
    let since = tokio::time::Instant::now();
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let took = since.elapsed();
    assert!(
        (Duration::from_secs(17)..=Duration::from_secs(20)).contains(&took),
        "{took:?}"
    );
    match link.closed().await {
        LinkEnd::PingTimeout { silent_for } => assert!(silent_for >= Duration::from_secs(17)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_come_is_not_waited_for() {
    let (_client, stream) = tokio::io::duplex(1024);
    let error = accept(stream).await.unwrap_err();
    assert!(matches!(error, AcceptError::TimedOut { .. }), "{error:?}");
}

#[tokio::test]
async fn what_is_dialed_is_on_its_way_also_to_an_end_that_allows_one_request_at_a_time() {
    let (mut far, stream) = tokio::io::duplex(64 * 1024);
    let link = Link::over(StreamCarrier::new(stream), Role::Client);
    let dialer = link.dialer();
    let mut hello = HELLO;
    hello[26..].copy_from_slice(&[0, 1]);
    far.write_all(&hello).await.unwrap();
    let first = soon("the first", dialer.dial(&target("x"))).await.unwrap();
    let waiting = tokio::spawn(async move { dialer.dial(&target("y")).await.map(drop) });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished());
    // The far end leaves before the second request was sent: another link can take it.
    far.write_all(&[4, 0, 0, 2, 0, 0, 0, 0, 0, 1]).await.unwrap();
    let refusal = soon("the second", waiting).await.unwrap().unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::LinkLost);
    drop(first);
}

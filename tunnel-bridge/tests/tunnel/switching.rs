//! The raw protocol and WebSocket: both are offered at once, and WebSocket is what is left where something on the way minds.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tunnel_bridge::ws::{self, Carriage, ConnectError, FellBack, Protocol, Upgrade};
use tunnel_bridge::{Link, LinkEnd, Role, StreamCarrier};

use crate::support::{
    Over, SUBPROTOCOL, connect_error, options, pair, pair_to_cut, pattern, read_all, service, soon, target,
};

/// A server that echoes, and refuses as a gateway does whoever shows a bad password.
async fn server() -> SocketAddr {
    service(|stream| async move {
        let Ok(upgrade) = Upgrade::read(stream).await else {
            return;
        };
        if upgrade.check(SUBPROTOCOL).is_err() {
            return upgrade.answer(426, "no", &[("X-Gateway", "yes")]).await.unwrap();
        }
        if upgrade.header("x-password") == Some("wrong") {
            return upgrade.answer(403, "no", &[("X-Gateway", "yes")]).await.unwrap();
        }
        echo(upgrade.accept(SUBPROTOCOL).await.unwrap()).await;
    })
    .await
}

async fn echo(link: Link) {
    while let Some(incoming) = link.accept().await {
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(incoming.accept());
            if tokio::io::copy(&mut read, &mut write).await.is_ok() {
                write.shutdown().await.ok();
            }
        });
    }
}

async fn works(link: &Link) {
    let stream = link.open(&target("x")).await.unwrap();
    let sent = pattern(700_000, 3);
    let (mut read, mut write) = tokio::io::split(stream);
    let write_all = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let ((), received) = soon("the echo", async { tokio::join!(write_all, read_all(&mut read)) }).await;
    assert!(received.unwrap() == sent);
}

#[tokio::test]
async fn a_server_that_knows_it_chooses_the_raw_protocol() {
    let server = server().await;
    for (carriage, protocol) in [
        (Carriage::Auto, Protocol::Raw),
        (Carriage::Raw, Protocol::Raw),
        (Carriage::WebSocket, Protocol::WebSocket),
    ] {
        let mut options = options(server);
        options.carriage = carriage;
        let connected = soon("the link", ws::establish(&options)).await.unwrap();
        assert_eq!((connected.protocol, connected.fell_back), (protocol, None));
        works(&Link::over(connected.carrier, Role::Client)).await;
    }
}

/// There is no close in the raw protocol but the link's own GOAWAY: with it an end of file is a goodbye, without it a loss.
#[tokio::test]
async fn a_link_over_the_raw_protocol_ends_in_good_order_and_a_cut_one_does_not() {
    let (near, far) = pair(Over::RawUpgrade).await;
    near.shutdown().await;
    let end = soon("its end", far.closed()).await;
    assert!(matches!(end, LinkEnd::PeerClosed { .. }), "{end:?}");
    let (_near, far, relay) = pair_to_cut(Over::RawUpgrade).await;
    relay.cut();
    let end = soon("its end", far.closed()).await;
    assert!(matches!(end, LinkEnd::Lost { .. }), "{end:?}");
}

/// A proxy between client and server that treats the head of each request: `None` has it answered with the bytes.
async fn middlebox(
    to: SocketAddr,
    treat: impl Fn(String) -> Result<String, &'static [u8]> + Clone + Send + Sync + 'static,
) -> SocketAddr {
    service(move |mut near| {
        let treat = treat.clone();
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = near.read_u8().await else { return };
                head.push(byte);
            }
            match treat(String::from_utf8(head).unwrap()) {
                Ok(head) => {
                    let mut far = TcpStream::connect(to).await.unwrap();
                    far.write_all(head.as_bytes()).await.unwrap();
                    drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
                }
                Err(b"") => {
                    // Silence.
                    near.read_to_end(&mut Vec::new()).await.ok();
                }
                Err(b"hang up") => {}
                Err(answer) => near.write_all(answer).await.unwrap(),
            }
        }
    })
    .await
}

fn offers_raw(head: &str) -> bool {
    head.contains("test-tunnel/1")
}

#[tokio::test]
async fn where_the_offer_does_not_pass_websocket_does() {
    let server = server().await;
    type Treat = fn(String) -> Result<String, &'static [u8]>;
    let boxes: [(Treat, FellBack); 6] = [
        // Strips what it does not know: the server sees no upgrade at all.
        (
            |head| {
                let lines = head.split_inclusive("\r\n");
                Ok(lines
                    .filter(|line| !line.starts_with("Upgrade: test-tunnel/1"))
                    .collect())
            },
            FellBack::Status(426),
        ),
        (
            |head| {
                if offers_raw(&head) {
                    Err(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
                } else {
                    Ok(head)
                }
            },
            FellBack::Status(403),
        ),
        (
            |head| {
                if offers_raw(&head) {
                    Err(b"HTTP/1.1 501 Not Implemented\r\n\r\n")
                } else {
                    Ok(head)
                }
            },
            FellBack::Status(501),
        ),
        (
            |head| {
                let h2 = b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
                if offers_raw(&head) { Err(h2) } else { Ok(head) }
            },
            FellBack::Status(101),
        ),
        (
            |head| {
                if offers_raw(&head) {
                    Err(b"hang up")
                } else {
                    Ok(head)
                }
            },
            FellBack::NoAnswer,
        ),
        (
            |head| if offers_raw(&head) { Err(b"") } else { Ok(head) },
            FellBack::Silence,
        ),
    ];
    for (treat, why) in boxes {
        let mut options = options(middlebox(server, treat).await);
        options.answer_header = Some("X-Gateway".to_owned());
        options.offer_timeout = Duration::from_millis(300);
        let connected = soon("the link", ws::establish(&options)).await.unwrap();
        assert_eq!(
            (connected.protocol, connected.fell_back),
            (Protocol::WebSocket, Some(why))
        );
        works(&Link::over(connected.carrier, Role::Client)).await;
        // Whoever wants nothing else gets nothing else.
        options.carriage = Carriage::Raw;
        options.connect_timeout = Duration::from_millis(500);
        connect_error(&options).await;
    }
}

/// A proxy that knows WebSocket rewrites the offer to what it knows: no second attempt is needed.
#[tokio::test]
async fn a_proxy_that_leaves_only_websocket_in_the_offer_costs_nothing() {
    let strict = middlebox(server().await, |head| {
        Ok(head.replace("test-tunnel/1, websocket", "websocket"))
    })
    .await;
    let connected = soon("the link", ws::establish(&options(strict))).await.unwrap();
    assert_eq!(
        (connected.protocol, connected.fell_back),
        (Protocol::WebSocket, None)
    );
    works(&Link::over(connected.carrier, Role::Client)).await;
}

#[tokio::test]
async fn what_the_server_refuses_is_not_asked_again() {
    let server = server().await;
    let (asked, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let counting = middlebox(server, move |head| {
        asked.send(()).unwrap();
        Ok(head)
    })
    .await;
    let mut refused = options(counting).header("X-Password", "wrong");
    refused.answer_header = Some("X-Gateway".to_owned());
    let error = connect_error(&refused).await;
    assert!(matches!(error, ConnectError::Rejected { response, .. } if response.status == 403));
    assert!(
        heard.try_recv().is_ok() && heard.try_recv().is_err(),
        "asked once"
    );
}

#[tokio::test]
async fn silence_costs_no_more_than_the_time_to_connect() {
    let silent = middlebox(server().await, |_| Err(b"")).await;
    let mut options = options(silent);
    options.connect_timeout = Duration::from_millis(600);
    let begun = Instant::now();
    let error = soon("the end", connect_error(&options)).await;
    assert!(
        matches!(error, ConnectError::TimedOut { after, .. } if after == options.connect_timeout),
        "{error:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // A proxy that is silent only about the offer leaves time for WebSocket, however short the time.
    let picky = middlebox(server().await, |head| {
        if offers_raw(&head) { Err(b"") } else { Ok(head) }
    })
    .await;
    let mut options = crate::support::options(picky);
    options.connect_timeout = Duration::from_secs(3);
    let connected = soon("the link", ws::establish(&options)).await.unwrap();
    assert_eq!(connected.fell_back, Some(FellBack::Silence));
}

/// The bytes of docs/protocol.md, by hand: the answer, and the link's own bytes right behind it.
#[tokio::test]
async fn the_raw_protocol_is_the_links_bytes_behind_the_answer() {
    let server = server().await;
    let mut stream = TcpStream::connect(server).await.unwrap();
    let request = "GET /x HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: TEST-tunnel/1\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(soon("the answer", stream.read_u8()).await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap();
    assert_eq!(
        answer,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: test-tunnel/1\r\nConnection: Upgrade\r\n\r\n"
    );
    let link = Link::over(StreamCarrier::new(stream), tunnel_bridge::Role::Client);
    works(&link).await;

    // Another version of it, and the offer of both without what WebSocket needs.
    for (upgrade, status) in [
        ("test-tunnel/2", 426),
        ("websocket, test-tunnel/1", 426),
        ("test-tunnel/1, websocket", 101),
    ] {
        let mut stream = TcpStream::connect(server).await.unwrap();
        let request =
            format!("GET /x HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: {upgrade}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut begin = [0; 12];
        soon("the answer", stream.read_exact(&mut begin)).await.unwrap();
        assert_eq!(begin, *format!("HTTP/1.1 {status}").as_bytes(), "{upgrade}");
    }
}

//! What a link holds when the other end sends, asks and never reads.

use std::alloc::System;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use cap::Cap;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tunnel_bridge::ws::{self, ConnectOptions, Upgrade};
use tunnel_bridge::{ByteStream, Link, MuxStream, Role, StreamCarrier, Target};

/// Counts what is allocated.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const MIB: usize = 1024 * 1024;

const SUBPROTOCOL: &str = "test-tunnel.1";

/// What has been allocated since it was `before`, in MiB.
fn grown_mib(before: usize) -> usize {
    ALLOCATOR.allocated().saturating_sub(before) / MIB
}

/// Waits until no more than `mib` are held.
async fn shrinks_to(mib: usize, before: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while grown_mib(before) > mib {
        assert!(
            Instant::now() < deadline,
            "{} MiB are still held",
            grown_mib(before)
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One test, since the allocator counts for the whole program.
#[tokio::test]
async fn an_end_that_never_reads_costs_a_bounded_amount() {
    pings_to_a_server_are_not_remembered().await;
    pings_to_a_client_are_not_remembered().await;
    streams_that_cannot_be_sent_are_not_read_ahead().await;
    streams_that_nobody_reads_stay_within_the_budget().await;
}

/// 40 MB of WebSocket pings. Unmasked frames are a server's.
async fn flood<S: AsyncWrite + Unpin>(stream: &mut S, masked: bool) {
    let mut ping = vec![0x89, 125];
    if masked {
        ping[1] |= 0x80;
        ping.extend_from_slice(&[0; 4]);
    }
    ping.extend_from_slice(&[b'x'; 125]);
    let pings = ping.repeat(1000);
    let mut sent = 0;
    while sent < 40_000_000 {
        stream.write_all(&pings).await.unwrap();
        sent += pings.len();
    }
}

async fn pings_to_a_server_are_not_remembered() {
    let (mut client, stream) = tokio::io::duplex(64 * 1024);
    let request = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
    );
    client.write_all(request.as_bytes()).await.unwrap();
    let link = Upgrade::read(stream)
        .await
        .unwrap()
        .accept(SUBPROTOCOL)
        .await
        .unwrap();
    let before = ALLOCATOR.allocated();
    flood(&mut client, true).await;
    assert!(grown_mib(before) <= 2, "{} MiB are held", grown_mib(before));
    // Who reads again finds answers, the latest one among them, and a link that works.
    assert!(!link.is_closed());
    let mut answers = [0; 100_000];
    client.read_exact(&mut answers).await.unwrap();
}

async fn pings_to_a_client_are_not_remembered() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", socket.local_addr().unwrap()).parse().unwrap();
    let server = async {
        let (mut stream, _) = socket.accept().await.unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head.push(char::from(stream.read_u8().await.unwrap()));
        }
        let key = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))
            .map(|(_, key)| key)
            .unwrap();
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n",
            derive_accept_key(key.as_bytes())
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream
    };
    let options = ConnectOptions::new(url, SUBPROTOCOL);
    let (link, mut server) = tokio::join!(ws::connect(&options), server);
    let link = link.unwrap();
    let before = ALLOCATOR.allocated();
    flood(&mut server, false).await;
    assert!(grown_mib(before) <= 2, "{} MiB are held", grown_mib(before));
    assert!(!link.is_closed());
}

/// Writes until the stream takes no more; how much that was.
async fn write_all_it_takes(stream: &mut MuxStream) -> usize {
    let block = vec![7; 64 * 1024];
    let mut taken = 0;
    poll_fn(|cx| {
        loop {
            match Pin::new(&mut *stream).poll_write(cx, &block) {
                Poll::Ready(n) => taken += n.unwrap(),
                Poll::Pending => return Poll::Ready(()),
            }
        }
    })
    .await;
    taken
}

/// The other end grants all the credit that there can be, and does not read the link.
async fn streams_that_cannot_be_sent_are_not_read_ahead() {
    const STREAMS: u32 = 4000;
    let (mut peer, stream) = tokio::io::duplex(64 * 1024);
    let before = ALLOCATOR.allocated();
    let link = Link::over(StreamCarrier::new(stream), Role::Server);
    let hello = b"\x01\0\0\x14\0\0\0\0\0\x01\0\0\x40\0\0\0\0\x01\0\0\0\0\x40\0\0\0\x40\0";
    peer.write_all(hello).await.unwrap();
    let mut streams = Vec::new();
    let mut taken = 0;
    for number in 0..STREAMS {
        let mut open = b"\x10\0\0\x01\0\0\0\0x".to_vec();
        open[4..8].copy_from_slice(&(2 * number + 1).to_be_bytes());
        peer.write_all(&open).await.unwrap();
        let mut stream = link.accept().await.unwrap().accept();
        taken += write_all_it_takes(&mut stream).await;
        streams.push(stream);
    }
    assert!(
        taken >= STREAMS as usize * 4 * 1024,
        "each stream takes something"
    );
    let held = grown_mib(before);
    assert!(held <= 64, "{held} MiB are held");
    drop((streams, peer));
    link.closed().await;
    drop(link);
    shrinks_to(1, before).await;
}

async fn streams_that_nobody_reads_stay_within_the_budget() {
    const STREAMS: usize = 1000;
    let (near, far) = tokio::io::duplex(256 * 1024);
    let before = ALLOCATOR.allocated();
    let near = Link::over(StreamCarrier::new(near), Role::Client);
    let far = Link::over(StreamCarrier::new(far), Role::Server);
    let mut unread = Vec::new();
    let mut writers = Vec::new();
    for _ in 0..STREAMS {
        let mut stream = near.open(&Target::new("x").unwrap()).await.unwrap();
        let mut served = far.accept().await.unwrap().accept();
        stream.accepted().await.unwrap();
        unread.push(stream);
        writers.push(tokio::spawn(async move {
            // One for all: what the writers themselves hold is not what the links do.
            static BLOCK: [u8; 16 * 1024] = [7; 16 * 1024];
            while served.write(&BLOCK).await.is_ok() {}
        }));
    }
    // What was taken out of a stream and is still held counts as unread.
    let mut taken = Vec::new();
    let mut rounds_without = 0;
    while rounds_without < 50 {
        let before = taken.len();
        for stream in &mut unread {
            while let Some(chunk) = chunk_of(stream).await {
                taken.push(chunk);
            }
        }
        rounds_without = if taken.len() == before {
            rounds_without + 1
        } else {
            0
        };
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let bytes = taken.iter().map(bytes::Bytes::len).sum::<usize>();
    assert!(
        bytes >= STREAMS * 16 * 1024,
        "each stream carries something: {bytes}"
    );
    let held = grown_mib(before);
    // 64 MiB, 16 KiB for each stream, and what the streams themselves are.
    assert!(held <= 84, "{held} MiB are held");
    // One that is read goes on beside them.
    let mut stream = near.open(&Target::new("y").unwrap()).await.unwrap();
    let mut served = far.accept().await.unwrap().accept();
    let (_, read) = tokio::join!(
        async {
            served.write_all(&vec![1; 20 * MIB]).await.unwrap();
            served.shutdown().await.unwrap();
        },
        read_to_end(&mut stream)
    );
    assert_eq!(read, 20 * MIB);
    drop((taken, unread, stream, served));
    for writer in writers {
        writer.await.unwrap();
    }
    near.shutdown().await;
    far.closed().await;
    drop((near, far));
    shrinks_to(1, before).await;
}

async fn chunk_of(stream: &mut MuxStream) -> Option<bytes::Bytes> {
    poll_fn(|cx| match stream.poll_chunk(cx) {
        Poll::Ready(chunk) => Poll::Ready(chunk.unwrap()),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

async fn read_to_end<S: AsyncRead + Unpin>(stream: &mut S) -> usize {
    let mut block = vec![0; 64 * 1024];
    let mut read = 0;
    loop {
        match stream.read(&mut block).await.unwrap() {
            0 => return read,
            n => read += n,
        }
    }
}

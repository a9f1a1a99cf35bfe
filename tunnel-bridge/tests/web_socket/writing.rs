//! What is sent, as another implementation reads it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use futures_util::{SinkExt, StreamExt};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role as TheirRole;
use tunnel_bridge::{Carrier, ChunkQueue, Role, WebSocketCarrier};

/// A stream that cannot gather.
struct Plain(DuplexStream);

impl AsyncRead for Plain {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, room)
    }
}

impl AsyncWrite for Plain {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Sends `parts`, each as it is taken from above, and then Close; what tungstenite receives.
async fn sent_and_received<S>(
    mut carrier: WebSocketCarrier<S>,
    mut peer: WebSocketStream<DuplexStream>,
    parts: &[Vec<Vec<u8>>],
) -> (Vec<u8>, Option<u16>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let send = async {
        for part in parts {
            std::future::poll_fn(|cx| carrier.poll_ready(cx)).await.unwrap();
            let mut queue = ChunkQueue::new();
            for piece in part {
                queue.push(piece.clone().into());
            }
            carrier.start_send(&mut queue).unwrap();
            assert!(queue.is_empty());
        }
        carrier.start_close().unwrap();
        std::future::poll_fn(|cx| carrier.poll_flush(cx)).await.unwrap();
    };
    let receive = async {
        let mut bytes = Vec::new();
        loop {
            match peer.next().await.unwrap().unwrap() {
                Message::Binary(part) => bytes.extend_from_slice(&part),
                Message::Close(frame) => return (bytes, frame.map(|frame| frame.code.into())),
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::join!(send, receive).1
}

async fn pair(role: Role, room: usize) -> (DuplexStream, WebSocketStream<DuplexStream>) {
    let (near, far) = tokio::io::duplex(room);
    let their_role = match role {
        Role::Client => TheirRole::Server,
        Role::Server => TheirRole::Client,
    };
    (
        near,
        WebSocketStream::from_raw_socket(far, their_role, None).await,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_is_sent_arrives(
        sizes in prop::collection::vec(
            prop::collection::vec(prop_oneof![0..300usize, 4000..5000usize, 60_000..70_000usize], 0..4),
            0..8,
        ),
        room in prop_oneof![1..100usize, 1000..200_000usize],
        client: bool,
        gathers: bool,
    ) {
        let mut next = 0_u8;
        let parts: Vec<Vec<Vec<u8>>> = sizes
            .into_iter()
            .map(|sizes| {
                sizes
                    .into_iter()
                    .map(|size| {
                        (0..size)
                            .map(|_| {
                                next = next.wrapping_mul(5).wrapping_add(3);
                                next
                            })
                            .collect()
                    })
                    .collect()
            })
            .collect();
        let role = if client { Role::Client } else { Role::Server };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (bytes, code) = runtime.block_on(async {
            let (near, peer) = pair(role, room).await;
            if gathers {
                sent_and_received(WebSocketCarrier::new(near, role, b""), peer, &parts).await
            } else {
                sent_and_received(WebSocketCarrier::new(Plain(near), role, b""), peer, &parts).await
            }
        });
        prop_assert!(bytes == parts.concat().concat());
        prop_assert_eq!(code, Some(1001));
    }
}

/// How much a carrier takes while nothing of it leaves.
fn taken_while_stuck(role: Role) -> usize {
    let (near, _far) = tokio::io::duplex(1);
    let mut carrier = WebSocketCarrier::new(near, role, b"");
    let mut cx = Context::from_waker(Waker::noop());
    let mut taken = 0;
    while carrier.poll_ready(&mut cx).is_ready() {
        let mut queue = ChunkQueue::new();
        queue.push(vec![7; 16 * 1024].into());
        taken += queue.len();
        carrier.start_send(&mut queue).unwrap();
        drop(carrier.poll_flush(&mut cx));
    }
    taken
}

#[test]
fn little_is_taken_while_nothing_leaves() {
    for role in [Role::Client, Role::Server] {
        let taken = taken_while_stuck(role);
        assert!((64 * 1024..=128 * 1024).contains(&taken), "{role:?}: {taken}");
    }
}

#[tokio::test]
async fn keys_differ_from_message_to_message() {
    use tokio::io::AsyncReadExt;
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let mut carrier = WebSocketCarrier::new(near, Role::Client, b"");
    let mut keys = std::collections::HashSet::new();
    for _ in 0..200 {
        let mut queue = ChunkQueue::new();
        queue.push_slice(b"x");
        carrier.start_send(&mut queue).unwrap();
        std::future::poll_fn(|cx| carrier.poll_flush(cx)).await.unwrap();
        let mut frame = [0; 7];
        far.read_exact(&mut frame).await.unwrap();
        let [0x82, 0x81, a, b, c, d, masked] = frame else {
            panic!("{frame:?}");
        };
        assert_eq!(masked ^ a, b'x');
        keys.insert([a, b, c, d]);
    }
    assert!(keys.len() >= 199, "{}", keys.len());
}

#[tokio::test]
async fn a_ping_is_answered_between_messages_and_not_behind_a_close() {
    for role in [Role::Client, Role::Server] {
        let (near, mut peer) = pair(role, 256 * 1024).await;
        let mut carrier = WebSocketCarrier::new(near, role, b"");
        let mut queue = ChunkQueue::new();
        queue.push(vec![1; 100_000].into());
        carrier.start_send(&mut queue).unwrap();
        peer.send(Message::Ping("one".into())).await.unwrap();
        assert!(
            std::future::poll_fn(|cx| carrier.poll_receive(cx))
                .await
                .unwrap()
                .is_empty()
        );
        carrier.start_close().unwrap();
        peer.send(Message::Ping("two".into())).await.unwrap();
        assert!(
            std::future::poll_fn(|cx| carrier.poll_receive(cx))
                .await
                .unwrap()
                .is_empty()
        );
        std::future::poll_fn(|cx| carrier.poll_flush(cx)).await.unwrap();
        let mut pongs = Vec::new();
        let mut bytes = 0;
        loop {
            match peer.next().await.unwrap().unwrap() {
                Message::Pong(payload) => pongs.push(payload),
                Message::Binary(part) => bytes += part.len(),
                Message::Close(_) => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((bytes, pongs), (100_000, vec!["one".into()]));
    }
}

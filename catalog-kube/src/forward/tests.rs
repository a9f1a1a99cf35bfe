//! Against an API server that is made of tunnel-bridge's own side of a WebSocket. What the real ones do is tested on a real node.

use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tunnel_bridge::ws::{MessageStream, Piece, Upgrade};
use tunnel_bridge::{ByteStream, CarrierEnd, RefusalKind, refusal_of};

use super::*;
use crate::ClusterOptions;

const PORT: NonZeroU16 = NonZeroU16::new(5432).unwrap();
const DATA: u8 = 0;
const ERRORS: u8 = 1;

/// What a pod's port does with its connection, after the port was named on both channels.
struct Served {
    messages: MessageStream,
}

impl Served {
    async fn send(&mut self, channel: u8, bytes: &[u8]) {
        self.messages.send(Bytes::from([&[channel], bytes].concat()));
        self.messages.flush().await.unwrap();
    }

    /// Ends the connection as the kubelet does.
    async fn close(&mut self) {
        self.messages.start_close();
        self.messages.flush().await.unwrap();
    }

    /// The next message without its channel, which must be that of data.
    async fn message(&mut self) -> Result<Vec<u8>, CarrierEnd> {
        let mut message = Vec::new();
        loop {
            match self.messages.next().await? {
                Piece::Bytes(bytes) => message.extend_from_slice(&bytes),
                Piece::End => {
                    assert_eq!(message.remove(0), DATA);
                    return Ok(message);
                }
            }
        }
    }
}

/// A pod `db-0` in the namespace `orders`, each connection of which is served by `pod`; of other names nothing is known.
struct ApiServer {
    forward: Forward,
    _tasks: JoinSet<()>,
    _home: tempfile::TempDir,
}

impl ApiServer {
    async fn start<F>(pod: impl Fn(Served) -> F + Send + Sync + 'static) -> ApiServer
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let pod = Arc::new(pod);
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let pod = Arc::clone(&pod);
                connections.spawn(async move {
                    // A connection that is kept ready may end without a request.
                    let Ok(upgrade) = Upgrade::read(stream).await else {
                        return;
                    };
                    if let Some(served) = answer(upgrade).await {
                        pod(served).await;
                    }
                });
            }
        });
        let home = tempfile::tempdir().unwrap();
        let forward = Forward::new(cluster(address, &home).await);
        ApiServer {
            forward,
            _tasks: tasks,
            _home: home,
        }
    }

    async fn open(&self) -> Box<dyn ByteStream> {
        self.forward.open_pod("orders", "db-0", PORT).await.unwrap()
    }
}

/// The first messages of a port-forward, as containerd 1.6 sends them; or what an API server says instead.
async fn answer(upgrade: Upgrade<TcpStream>) -> Option<Served> {
    assert_eq!(upgrade.header("authorization"), Some("Bearer s3cret"));
    let refusal = match upgrade.path() {
        "/api/v1/namespaces/orders/pods/db-0/portforward" => None,
        "/api/v1/namespaces/secret/pods/db-0/portforward" => Some((403, r#"{"message":"forbidden"}"#)),
        _ => Some((404, r#"{"kind":"Status","message":"pods \"db-1\" not found"}"#)),
    };
    if let Some((status, text)) = refusal {
        upgrade.answer(status, text, &[]).await.unwrap();
        return None;
    }
    let messages = upgrade.accept_messages(SUBPROTOCOL).await.unwrap();
    let mut served = Served { messages };
    let port = PORT.get().to_le_bytes();
    // One byte at a time, which no server does and any may.
    served.send(DATA, &port[..1]).await;
    served.send(ERRORS, &port).await;
    served.send(DATA, &port[1..]).await;
    Some(served)
}

async fn cluster(address: SocketAddr, home: &tempfile::TempDir) -> Cluster {
    let path = home.path().join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: dev\n\
         clusters: [{{name: dev, cluster: {{server: 'http://{address}'}}}}]\n\
         users: [{{name: dev, user: {{token: s3cret}}}}]\n\
         contexts: [{{name: dev, context: {{cluster: dev, user: dev}}}}]\n"
    );
    std::fs::write(&path, text).unwrap();
    let options = ClusterOptions {
        kubeconfig: Some(path),
        context: None,
    };
    Cluster::open(&options).await.unwrap()
}

async fn echo(mut served: Served) {
    while let Ok(message) = served.message().await {
        for part in message.chunks(32 * 1024) {
            served.send(DATA, part).await;
        }
    }
}

#[tokio::test]
async fn many_connections_carry_bytes_both_ways() {
    let server = ApiServer::start(echo).await;
    for size in [1, 2, 70_000, 3_000_000] {
        let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
        let (mut reading, mut writing) = tokio::io::split(server.open().await);
        let write = async {
            writing.write_all(&bytes).await.unwrap();
            writing.flush().await.unwrap();
        };
        let mut back = vec![0; size];
        let (read, ()) = tokio::join!(reading.read_exact(&mut back), write);
        assert_eq!(read.unwrap(), size);
        assert!(back == bytes, "{size} bytes came back as others");
    }
}

#[tokio::test]
async fn a_refused_port_is_a_typed_refusal_and_the_next_connection_works() {
    let refuses = std::sync::atomic::AtomicBool::new(true);
    let server = ApiServer::start(move |mut served| {
        let refuse = refuses.swap(false, std::sync::atomic::Ordering::SeqCst);
        async move {
            if refuse {
                let text =
                    b"error forwarding port 5432: dial tcp4 127.0.0.1:5432: connect: connection refused";
                served.send(ERRORS, text).await;
                served.close().await;
            } else {
                echo(served).await;
            }
        }
    })
    .await;
    let open = || server.forward.open_pod("orders", "db-0", PORT);
    // Where it takes its time, it is an error of the first read.
    let refusal = match open().await {
        Ok(mut stream) => {
            let error = stream.read_u8().await.unwrap_err();
            assert!(!stream.is_connected());
            refusal_of(&error).unwrap().clone()
        }
        Err(refusal) => refusal,
    };
    assert_eq!(refusal.kind, RefusalKind::Refused, "{refusal}");
    let mut other = server.open().await;
    other.write_all(b"x").await.unwrap();
    other.flush().await.unwrap();
    assert_eq!(other.read_u8().await.unwrap(), b'x');
    assert!(other.is_connected());
}

#[tokio::test]
async fn an_error_behind_data_is_a_reset_and_a_close_is_an_end() {
    let server = ApiServer::start(|mut served| async move {
        let wanted = served.message().await.unwrap();
        served.send(DATA, b"data").await;
        if wanted == b"fail" {
            served.send(ERRORS, b"read: connection reset by peer").await;
        }
        served.close().await;
    })
    .await;
    for (wanted, kind) in [
        ("fail", Some(std::io::ErrorKind::ConnectionReset)),
        ("stop", None),
    ] {
        let mut stream = server.open().await;
        stream.write_all(wanted.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let mut got = Vec::new();
        let read = stream.read_to_end(&mut got).await;
        assert_eq!(
            (read.map_err(|error| error.kind()).err(), got),
            (kind, b"data".to_vec())
        );
        // TCP has a reset for what comes too late.
        let late = stream.write_all(b"late").await.unwrap_err();
        assert_eq!(late.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn a_pod_that_is_gone_and_a_right_that_is_missing_are_told_apart() {
    let server = ApiServer::start(echo).await;
    let open = |namespace, pod| server.forward.open_pod(namespace, pod, PORT);
    let gone = open("orders", "db-1").await.err().unwrap();
    assert_eq!(gone.kind, RefusalKind::NotFound);
    assert!(gone.message.contains(r#"pods "db-1" not found"#), "{gone}");
    let forbidden = open("secret", "db-0").await.err().unwrap();
    assert_eq!(forbidden.kind, RefusalKind::NotAllowed);
    for part in ["`get`", "`create`", "pods/portforward", "namespace secret"] {
        assert!(forbidden.message.contains(part), "{forbidden}");
    }
}

#[tokio::test]
async fn what_is_sent_at_once_is_one_message_and_what_waits_becomes_a_long_one() {
    let (told, mut lengths) = tokio::sync::mpsc::unbounded_channel();
    let server = ApiServer::start(move |mut served| {
        let told = told.clone();
        async move {
            while let Ok(message) = served.message().await {
                told.send(message.len()).unwrap();
            }
        }
    })
    .await;
    let mut stream = server.open().await;
    stream.write_all(b"request").await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(lengths.recv().await, Some(7));
    for _ in 0..8 {
        stream.write_all(&[b'x'; 32 * 1024]).await.unwrap();
    }
    stream.flush().await.unwrap();
    assert_eq!(lengths.recv().await, Some(256 * 1024));
}

#[tokio::test]
async fn a_target_that_does_not_read_holds_up_its_own_connection_only() {
    let stalls = std::sync::atomic::AtomicBool::new(true);
    let server = ApiServer::start(move |served| {
        let stall = stalls.swap(false, std::sync::atomic::Ordering::SeqCst);
        async move {
            if stall {
                std::future::pending::<()>().await;
            }
            echo(served).await;
        }
    })
    .await;
    let mut stalled = server.open().await;
    // Takes what fits into the sockets, and then no more.
    let block = Bytes::from(vec![0; 256 * 1024]);
    let mut taken = 0;
    while std::future::poll_fn(|cx| std::task::Poll::Ready(stalled.poll_write_chunk(cx, &mut block.clone())))
        .await
        .is_ready()
    {
        taken += 1;
        assert!(taken < 200, "a stalled connection takes everything");
        tokio::task::yield_now().await;
    }
    let mut other = server.open().await;
    other.write_all(b"x").await.unwrap();
    other.flush().await.unwrap();
    assert_eq!(other.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn an_ended_direction_lets_the_other_one_go_on_until_nothing_comes() {
    let (told, mut end) = tokio::sync::mpsc::unbounded_channel();
    let server = ApiServer::start(move |mut served| {
        let told = told.clone();
        async move {
            served.message().await.unwrap();
            served.send(DATA, b"answer").await;
            // It waits for an end that the protocol does not carry.
            told.send(served.message().await.unwrap_err()).unwrap();
        }
    })
    .await;
    let mut stream = server.open().await;
    stream.write_all(b"request").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"answer");
    // Nothing is on its way any more: the clock goes straight to what is waited for.
    tokio::time::pause();
    let begin = Instant::now();
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(
        error.kind(),
        std::io::ErrorKind::ConnectionReset,
        "never an end that nobody has seen"
    );
    assert!(begin.elapsed() >= stream::QUIET_TIME / 2, "{:?}", begin.elapsed());
    tokio::time::resume();
    let end = end.recv().await.unwrap();
    assert!(matches!(end, CarrierEnd::Closed { .. }), "{end:?}");
}

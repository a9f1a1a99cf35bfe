//! A gateway, a link to it and targets behind it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tunnel_bridge::direct;
use tunnel_bridge::listener::{ConnectionCounts, Listener, ListenerCounts, ListenerOptions, bind};
use tunnel_bridge::ws::{self, AcceptError, Carriage, ConnectError, ConnectOptions, Upgrade};
use tunnel_bridge::{
    Dialer, End, Link, LinkEnd, Refusal, RefusalKind, Role, StreamCarrier, Target, prepare_socket, splice,
};

pub(crate) const SUBPROTOCOL: &str = "test-tunnel.1";

/// Everything here must happen within this time; on a loaded machine it takes well below a second.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(SOON, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: nothing within {SOON:?}"),
    }
}

pub(crate) fn target(text: impl std::fmt::Display) -> Target {
    Target::new(&format!("{text}")).unwrap()
}

pub(crate) fn options(server: SocketAddr) -> ConnectOptions {
    let url = format!("ws://{server}/mounted/here").parse().unwrap();
    ConnectOptions::new(url, SUBPROTOCOL)
}

/// The server's end of a link, for whoever asks.
pub(crate) async fn accept<S>(stream: S) -> Result<Link, AcceptError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    Upgrade::read(stream).await?.accept(SUBPROTOCOL).await
}

/// What a test's link runs over.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Over {
    /// WebSocket over TCP, with the whole handshake.
    WebSocket,
    /// The raw protocol over TCP, with the whole handshake.
    RawUpgrade,
    /// The bytes of the link as they are: in memory, and over TCP where a test needs a connection to cut.
    Plain,
    /// QUIC, with the whole handshake.
    #[cfg(feature = "quic")]
    Quic,
}

impl Over {
    /// Whether this is how a link ends whose connection is cut. A UDP socket does not tell: QUIC waits for as long as it may.
    pub(crate) fn is_loss(self, end: &LinkEnd) -> bool {
        match self {
            #[cfg(feature = "quic")]
            // Silence, or the system's word that nobody listens there.
            Over::Quic => matches!(end, LinkEnd::PingTimeout { .. } | LinkEnd::Lost { .. }),
            _ => matches!(end, LinkEnd::Lost { .. }),
        }
    }

    /// How many requests for one target may be unanswered. QUIC has no limit of its own for these.
    pub(crate) fn most_unanswered(self) -> usize {
        match self {
            #[cfg(feature = "quic")]
            Over::Quic => usize::MAX,
            _ => 32,
        }
    }

    /// Whether a stream that was reset makes room for another one before its user looks.
    pub(crate) fn frees_what_nobody_reads(self) -> bool {
        match self {
            #[cfg(feature = "quic")]
            Over::Quic => false,
            _ => true,
        }
    }

    /// Whether so many of all dials may have been sent while none was answered. QUIC has no limit of its own for these.
    pub(crate) fn holds_back(self, all: usize, sent: usize) -> bool {
        match self {
            #[cfg(feature = "quic")]
            Over::Quic => (1..=all).contains(&sent),
            _ => (1..all).contains(&sent),
        }
    }
}

/// Runs each of these tests over each kind of carrier.
macro_rules! over_each_carrier {
    ($($(#[$attribute:meta])* $test:ident),* $(,)?) => {
        mod over_websocket {
            $(#[tokio::test] $(#[$attribute])* async fn $test() {
                super::$test($crate::support::Over::WebSocket).await;
            })*
        }
        mod over_a_raw_upgrade {
            $(#[tokio::test] $(#[$attribute])* async fn $test() {
                super::$test($crate::support::Over::RawUpgrade).await;
            })*
        }
        #[cfg(feature = "quic")]
        mod over_quic {
            $(#[tokio::test] $(#[$attribute])* async fn $test() {
                super::$test($crate::support::Over::Quic).await;
            })*
        }
        mod over_a_plain_stream {
            $(#[tokio::test] $(#[$attribute])* async fn $test() {
                super::$test($crate::support::Over::Plain).await;
            })*
        }
    };
}
pub(crate) use over_each_carrier;

/// Two ends of a link.
pub(crate) async fn pair(over: Over) -> (Link, Link) {
    match over {
        Over::WebSocket | Over::RawUpgrade => pair_through(over, |address| async move { address }).await,
        Over::Plain => plain_pair(),
        #[cfg(feature = "quic")]
        Over::Quic => crate::quic::pair_through(None, |address| async move { address }).await,
    }
}

/// Two ends of a link inside this process.
pub(crate) fn plain_pair() -> (Link, Link) {
    let (near, far) = tokio::io::duplex(256 * 1024);
    (
        Link::over(StreamCarrier::new(near), Role::Client),
        Link::over(StreamCarrier::new(far), Role::Server),
    )
}

/// Two ends of a link over TCP, by way of what `road` puts before the far end's address.
pub(crate) async fn pair_through<R, F>(over: Over, road: R) -> (Link, Link)
where
    R: FnOnce(SocketAddr) -> F,
    F: Future<Output = SocketAddr>,
{
    #[cfg(feature = "quic")]
    if matches!(over, Over::Quic) {
        return crate::quic::pair_through(Some(crate::quic::IMPATIENT), road).await;
    }
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let far = tokio::spawn(async move {
        let (stream, _) = socket.accept().await.unwrap();
        prepare_socket(&stream);
        match over {
            Over::WebSocket | Over::RawUpgrade => accept(stream).await.unwrap(),
            _ => Link::over(StreamCarrier::new(stream), Role::Server),
        }
    });
    let address = road(address).await;
    let near = match over {
        Over::WebSocket | Over::RawUpgrade => {
            let mut options = options(address);
            options.carriage = match over {
                Over::RawUpgrade => Carriage::Raw,
                _ => Carriage::WebSocket,
            };
            ws::connect(&options).await.unwrap()
        }
        _ => {
            let stream = TcpStream::connect(address).await.unwrap();
            prepare_socket(&stream);
            Link::over(StreamCarrier::new(stream), Role::Client)
        }
    };
    (near, far.await.unwrap())
}

/// As [`pair_through`], by way of a relay that can be cut.
pub(crate) async fn pair_to_cut(over: Over) -> (Link, Link, Relay) {
    let (relay_out, relay_in) = tokio::sync::oneshot::channel();
    let (near, far) = pair_through(over, |gateway| async move {
        #[cfg(feature = "quic")]
        let relay = match over {
            Over::Quic => crate::quic::relay_to(gateway).await,
            _ => Relay::to(gateway).await,
        };
        #[cfg(not(feature = "quic"))]
        let relay = Relay::to(gateway).await;
        let address = relay.address;
        relay_out.send(relay).map_err(drop).unwrap();
        address
    })
    .await;
    (near, far, relay_in.await.unwrap())
}

/// Connects what the far end is asked for, `host:port`, as a gateway does for its catalog's targets.
pub(crate) fn serve(far: Link) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Some(incoming) = far.accept().await {
            tokio::spawn(async move {
                let address = incoming.target().as_str().to_owned();
                let dialled = tokio::select! {
                    dialled = direct::connect(address, Duration::from_secs(5)) => dialled,
                    () = incoming.abandoned() => return,
                };
                match dialled {
                    Ok(stream) => {
                        splice(stream, Box::new(incoming.accept())).await;
                    }
                    Err(refusal) => incoming.refuse(refusal),
                }
            });
        }
    })
}

/// A relay that can be cut: both its connections end without a word.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    pub(crate) task: JoinHandle<()>,
}

impl Relay {
    pub(crate) async fn to(gateway: SocketAddr) -> Relay {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let (mut near, _) = socket.accept().await.unwrap();
            let mut far = TcpStream::connect(gateway).await.unwrap();
            // Its end is the test's doing.
            drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
        });
        Relay { address, task }
    }

    pub(crate) fn cut(&self) {
        self.task.abort();
    }
}

/// A TCP service: `serve` is called with each connection.
pub(crate) async fn service<S, F>(serve: S) -> SocketAddr
where
    S: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            stream.set_nodelay(true).unwrap();
            tokio::spawn(serve(stream));
        }
    });
    address
}

pub(crate) async fn echo_service() -> SocketAddr {
    service(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        // A client that resets ends this with an error, which some tests do.
        if tokio::io::copy(&mut read, &mut write).await.is_ok() {
            drop(write.shutdown().await);
        }
    })
    .await
}

/// A listener, and what tells that its counts have changed.
pub(crate) struct Listening {
    pub(crate) listener: Listener,
    pub(crate) counts: Arc<ListenerCounts>,
    pub(crate) changed: Arc<Notify>,
}

/// A listener whose connections run over a link to `to`.
pub(crate) fn listen(link: &Link, to: impl std::fmt::Display) -> Listening {
    listen_with(link.dialer(), to)
}

pub(crate) fn listen_with(dialer: Arc<dyn Dialer>, to: impl std::fmt::Display) -> Listening {
    let changed = Arc::new(Notify::new());
    let listener = Listener::spawn(
        bind("127.0.0.1:0".parse().unwrap()).unwrap(),
        target(to),
        dialer,
        ListenerOptions::default(),
        Arc::clone(&changed),
    )
    .unwrap();
    let counts = listener.shared_counts();
    Listening {
        listener,
        counts,
        changed,
    }
}

impl Listening {
    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// Waits until the counts are as wanted, hearing of changes only.
    pub(crate) async fn until(
        &self,
        what: &str,
        wanted: impl Fn(&ConnectionCounts) -> bool,
    ) -> ConnectionCounts {
        soon(what, async {
            loop {
                let counts = self.counts.read();
                assert!(counts.active <= counts.connections, "{counts:?}");
                if wanted(&counts) {
                    return counts;
                }
                self.changed.notified().await;
            }
        })
        .await
    }

    /// Waits for the end of `connections` connections, with none left; what they carried, and how the last one failed.
    pub(crate) async fn closed(&self, connections: u64) -> (u64, u64, Option<End>) {
        let counts = self
            .until("the connections' end", |counts| {
                (counts.connections, counts.active) == (connections, 0)
            })
            .await;
        (counts.sent_bytes, counts.received_bytes, counts.last_failure)
    }
}

/// The whole road: program, listener, link, far end, target.
pub(crate) struct Road {
    pub(crate) near: Link,
    pub(crate) listening: Listening,
}

pub(crate) async fn road(over: Over, to: SocketAddr) -> Road {
    let (near, far) = pair(over).await;
    serve(far);
    let listening = listen(&near, to);
    Road { near, listening }
}

pub(crate) async fn connect_error(options: &ConnectOptions) -> ConnectError {
    match ws::connect(options).await {
        Ok(_) => panic!("connected, against all expectation"),
        Err(error) => error,
    }
}

pub(crate) fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub(crate) async fn read_all(stream: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    Ok(bytes)
}

pub(crate) fn refused() -> Refusal {
    Refusal::new(RefusalKind::NotFound, "no such service")
}

/// A dialer for tests that want none.
pub(crate) fn dialer(link: &Link) -> Arc<dyn Dialer> {
    link.dialer()
}

/// Keeps a connection's writing end open for as long as the test wants.
pub(crate) async fn request(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
}

/// A port that refuses connections for as long as its socket lives: bound, and not listening.
pub(crate) fn refusing_port() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// Any port of an address that no other test's connections come from, where the system has such addresses.
pub(crate) fn any_port_aside() -> SocketAddr {
    let aside = SocketAddr::from(([127, 77, 9, 9], 0));
    if bind(aside).is_ok() {
        aside
    } else {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }
}

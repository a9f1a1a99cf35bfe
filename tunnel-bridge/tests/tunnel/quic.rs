//! What only QUIC has: its handshake, and links whose client moves.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;
use tunnel_bridge::quic::{Listener, Options, Request, connect, connect_with};
use tunnel_bridge::tls::Acceptor;
use tunnel_bridge::ws::{AcceptError, ConnectError, ConnectOptions};
use tunnel_bridge::{DatagramFlow, Dialer as _, Link, LinkEnd, LinkStatus, MuxStream, RefusalKind};

use crate::support::{Relay, soon, target};

/// A certificate for the loopback interface, and its key.
pub(crate) struct Certificate {
    _folder: TempDir,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Certificate {
    pub(crate) fn new(name: &str) -> Certificate {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        Certificate {
            _folder: folder,
            certificate,
            key,
        }
    }

    pub(crate) fn acceptor(&self) -> Acceptor {
        Acceptor::from_pem(&self.certificate, &self.key).unwrap()
    }
}

pub(crate) fn certificate() -> &'static Certificate {
    static MADE: OnceLock<Certificate> = OnceLock::new();
    MADE.get_or_init(|| Certificate::new("127.0.0.1"))
}

/// How long a link may be silent where a test waits for its loss.
pub(crate) const IMPATIENT: Duration = Duration::from_secs(2);

pub(crate) fn listener(options: Options) -> Listener {
    Listener::bind("127.0.0.1:0".parse().unwrap(), &certificate().acceptor(), options).unwrap()
}

pub(crate) fn options(server: SocketAddr) -> ConnectOptions {
    let url = format!("quic://{server}/mounted/here").parse().unwrap();
    let mut options = ConnectOptions::new(url, "");
    options.trust.ca = Some(certificate().certificate.clone());
    options
}

/// Two ends of a link, by way of what `road` puts before the far end's address.
pub(crate) async fn pair_through<R, F>(idle_timeout: Option<Duration>, road: R) -> (Link, Link)
where
    R: FnOnce(SocketAddr) -> F,
    F: Future<Output = SocketAddr>,
{
    let mut limits = Options::default();
    limits.idle_timeout = idle_timeout.unwrap_or(limits.idle_timeout);
    let listener = listener(limits);
    let options = options(road(listener.local_addr()).await);
    let far = async {
        let request = listener.accept().await.unwrap().request().await.unwrap();
        request.accept().await.unwrap()
    };
    let (near, far) = tokio::join!(connect(&options), far);
    (near.unwrap(), far)
}

/// As [`Relay::to`], for datagrams.
pub(crate) async fn relay_to(gateway: SocketAddr) -> Relay {
    relay_while(gateway, Arc::new(AtomicBool::new(true))).await
}

/// A relay that loses everything while it is not `open`.
async fn relay_while(gateway: SocketAddr, open: Arc<AtomicBool>) -> Relay {
    let near = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = near.local_addr().unwrap();
    let far = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    far.connect(gateway).await.unwrap();
    let task = tokio::spawn(async move {
        let (mut client, mut there, mut back) = (None, vec![0; 65_536], vec![0; 65_536]);
        loop {
            // A datagram that cannot be sent on is lost, as it may be anywhere.
            tokio::select! {
                Ok((length, peer)) = near.recv_from(&mut there) => {
                    client = Some(peer);
                    if open.load(Ordering::SeqCst) {
                        drop(far.send(&there[..length]).await);
                    }
                }
                Ok(length) = far.recv(&mut back) => {
                    if let Some(client) = client && open.load(Ordering::SeqCst) {
                        drop(near.send_to(&back[..length], client).await);
                    }
                }
            }
        }
    });
    Relay { address, task }
}

async fn request_of(listener: &Listener) -> Result<Request, AcceptError> {
    soon("an arrival", listener.accept())
        .await
        .unwrap()
        .request()
        .await
}

#[tokio::test]
async fn what_is_asked_for_arrives_and_an_answer_goes_back() {
    let listener = listener(Options::default());
    let options = options(listener.local_addr())
        .header("X-Who", "me")
        .secret_header("Authorization", "Bearer s3cret");
    let serving = async {
        let request = request_of(&listener).await.unwrap();
        assert_eq!((request.method(), request.path()), ("GET", "/mounted/here"));
        assert_eq!(request.header("x-who"), Some("me"));
        assert_eq!(request.header("AUTHORIZATION"), Some("Bearer s3cret"));
        assert_eq!(request.peer_identity(), None);
        request
            .answer(403, "not you", &[("X-Why", "not\r\nyou")])
            .await
            .unwrap();
    };
    let (error, ()) = tokio::join!(connect(&options), serving);
    let Err(ConnectError::Rejected { response, .. }) = error else {
        panic!("{error:?}");
    };
    assert_eq!((response.status, response.text.as_str()), (403, "not you"));
    assert_eq!(response.header("x-why"), Some("not"));
}

#[tokio::test]
async fn a_server_that_is_not_trusted_hears_nothing() {
    let listener = listener(Options::default());
    let other = Certificate::new("127.0.0.1");
    let mut options = options(listener.local_addr());
    options.trust.ca = Some(other.certificate.clone());
    let (error, asked) = tokio::join!(connect(&options), request_of(&listener));
    assert!(
        matches!(error, Err(ConnectError::Certificate { .. })),
        "{error:?}"
    );
    assert!(matches!(asked, Err(AcceptError::Io(_))), "{asked:?}");
}

#[tokio::test]
async fn a_renewed_certificate_is_for_newcomers() {
    let listener = listener(Options::default());
    let before = options(listener.local_addr());
    let serve = async || request_of(&listener).await.unwrap().accept().await.unwrap();
    let (near, far) = tokio::join!(connect(&before), serve());
    let renewed = Certificate::new("127.0.0.1");
    listener.use_certificate(&renewed.acceptor()).unwrap();
    let mut after = before.clone();
    after.trust.ca = Some(renewed.certificate.clone());
    let (newcomer, served) = tokio::join!(connect(&after), serve());
    for (near, far) in [(near.unwrap(), far), (newcomer.unwrap(), served)] {
        echoes(&near, &far).await;
    }
}

async fn echoes(near: &Link, far: &Link) {
    let mut ours = near.open(&target("echo")).await.unwrap();
    ours.write_all(b"hello").await.unwrap();
    let mut theirs = soon("the request", far.accept()).await.unwrap().accept();
    let mut five = [0; 5];
    soon("bytes", theirs.read_exact(&mut five)).await.unwrap();
    theirs.write_all(&five).await.unwrap();
    soon("their way back", ours.read_exact(&mut five)).await.unwrap();
    assert_eq!(&five, b"hello");
}

#[tokio::test]
async fn newcomers_can_be_refused_while_links_go_on() {
    let listener = listener(Options::default());
    let options = options(listener.local_addr());
    let serve = async { request_of(&listener).await.unwrap().accept().await.unwrap() };
    let (near, far) = tokio::join!(connect(&options), serve);
    let near = near.unwrap();
    let error = tokio::select! {
        connected = connect(&options) => connected,
        () = listener.refuse_newcomers() => unreachable!("it never resolves"),
    };
    assert!(
        matches!(error, Err(ConnectError::Unreachable { .. })),
        "{error:?}"
    );
    echoes(&near, &far).await;
    listener.close().await;
    assert!(matches!(
        soon("the end", near.closed()).await,
        LinkEnd::PeerClosed { .. }
    ));
}

#[tokio::test]
async fn a_client_whose_address_was_not_checked_comes_again() {
    let listener = listener(Options::default());
    let options = options(listener.local_addr());
    let serve = async {
        let arrival = listener.accept().await.unwrap();
        assert!(!arrival.is_checked());
        arrival.check();
        let arrival = soon("its return", listener.accept()).await.unwrap();
        assert!(arrival.is_checked());
        arrival.request().await.unwrap().accept().await.unwrap()
    };
    let (near, far) = tokio::join!(connect(&options), serve);
    echoes(&near.unwrap(), &far).await;
}

/// A client that keeps to QUIC and not to the tunnel's protocol.
async fn stranger(
    server: SocketAddr,
    head: &[u8],
) -> (quinn::Endpoint, quinn::Connection, quinn::RecvStream) {
    stranger_with(server, head, quinn::TransportConfig::default()).await
}

async fn stranger_with(
    server: SocketAddr,
    head: &[u8],
    transport: quinn::TransportConfig,
) -> (quinn::Endpoint, quinn::Connection, quinn::RecvStream) {
    let mut roots = rustls::RootCertStore::empty();
    let pem = std::fs::read(&certificate().certificate).unwrap();
    roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"devbox-tunnel/1".to_vec()];
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connecting = endpoint.connect_with(config, server, "127.0.0.1").unwrap();
    let connection = soon("the handshake", connecting).await.unwrap();
    let (mut send, recv) = connection.open_bi().await.unwrap();
    // A head that is refused half-way is not taken to its end.
    drop(send.write_all(head).await);
    // Dropped, it would end.
    let keep = tokio::spawn(async move {
        drop(send.stopped().await);
        send
    });
    drop(keep);
    (endpoint, connection, recv)
}

const HEAD: &[u8] = b"GET /x HTTP/1.1\r\nUpgrade: devbox-tunnel/1\r\nConnection: Upgrade\r\n\r\n";

/// A link to a stranger that was let in.
async fn let_in() -> (Link, quinn::Endpoint, quinn::Connection, quinn::RecvStream) {
    let_in_with(quinn::TransportConfig::default()).await
}

async fn let_in_with(
    transport: quinn::TransportConfig,
) -> (Link, quinn::Endpoint, quinn::Connection, quinn::RecvStream) {
    let listener = listener(Options::default());
    let serve = async { request_of(&listener).await.unwrap().accept().await.unwrap() };
    let connect = stranger_with(listener.local_addr(), HEAD, transport);
    let (far, (endpoint, connection, recv)) = tokio::join!(serve, connect);
    (far, endpoint, connection, recv)
}

#[tokio::test]
async fn heads_that_are_none_or_never_end_are_answered_with_400() {
    let endless = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &vec![b'x'; 60_000]].concat();
    let many = [
        b"GET / HTTP/1.1\r\n".as_slice(),
        &b"X: y\r\n".repeat(100),
        b"\r\n",
    ]
    .concat();
    for head in [endless.as_slice(), &many, b"\x10\0\x05hello\r\n\r\n"] {
        let listener = listener(Options::default());
        let (asked, (_endpoint, _connection, mut recv)) =
            tokio::join!(request_of(&listener), stranger(listener.local_addr(), head));
        assert!(matches!(asked, Err(AcceptError::BadRequest { .. })), "{asked:?}");
        let answer = soon("the answer", recv.read_to_end(4096)).await.unwrap();
        assert!(
            answer.starts_with(b"HTTP/1.1 400 "),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
}

#[tokio::test]
async fn a_stranger_that_was_not_let_in_has_one_stream_and_little_room() {
    let listener = listener(Options::default());
    let arriving = async {
        soon("an arrival", listener.accept())
            .await
            .unwrap()
            .request()
            .await
    };
    let (_asked, (_endpoint, connection, _recv)) =
        tokio::join!(arriving, stranger(listener.local_addr(), HEAD));
    let second = tokio::time::timeout(Duration::from_millis(300), connection.open_bi()).await;
    assert!(second.is_err(), "there is no second stream before it is let in");
}

#[tokio::test]
async fn a_stream_that_begins_with_no_request_ends_the_link() {
    for bad in [b"\x05\0\x01x".as_slice(), b"\x10\0\0", b"\x10\xff\xffxx"] {
        let (far, _endpoint, connection, _recv) = let_in().await;
        let (mut send, _answer) = soon("a stream", connection.open_bi()).await.unwrap();
        send.write_all(bad).await.unwrap();
        let end = soon("the end", far.closed()).await;
        assert!(matches!(end, LinkEnd::Protocol { .. }), "{end:?}");
        let quinn::ConnectionError::ApplicationClosed(close) = connection.closed().await else {
            panic!("not closed by the other end");
        };
        assert_eq!(close.error_code, quinn::VarInt::from_u32(3));
    }
}

#[tokio::test]
async fn streams_for_what_is_not_known_or_no_target_are_refused() {
    let (far, _endpoint, connection, _recv) = let_in().await;
    for (request, code) in [
        (b"\x90\0\x01x".as_slice(), 9),
        (b"\x10\0\x02\xff\xff", 4),
        (b"\x10\0\x01\n", 4),
    ] {
        let (mut send, mut answer) = soon("a stream", connection.open_bi()).await.unwrap();
        send.write_all(request).await.unwrap();
        let answer = soon("the answer", answer.read_to_end(4096)).await.unwrap();
        assert_eq!(answer.get(..3), Some(&[0x12, 0, code][..]));
    }
    assert!(!far.is_closed());
}

async fn received(flow: &mut dyn DatagramFlow) -> std::io::Result<Option<bytes::Bytes>> {
    soon("a datagram", poll_fn(|cx| flow.poll_receive(cx))).await
}

async fn send(flow: &mut dyn DatagramFlow, datagram: Vec<u8>) {
    let datagram = datagram.into();
    poll_fn(|cx| flow.poll_send(cx, &datagram)).await.unwrap();
}

/// A flow that a stranger has opened on its second stream, which is number 4.
async fn flow_of_a_stranger(
    far: &Link,
    connection: &quinn::Connection,
) -> (tunnel_bridge::udp::MuxFlow, quinn::SendStream, quinn::RecvStream) {
    let (mut send, mut recv) = soon("a stream", connection.open_bi()).await.unwrap();
    send.write_all(b"\x20\0\x01x").await.unwrap();
    let flow = soon("the request", far.accept_flow()).await.unwrap().accept();
    let mut answer = [0];
    soon("the answer", recv.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, [0x11]);
    (flow, send, recv)
}

#[tokio::test]
async fn datagrams_are_quics_own_and_long_ones_stand_on_the_flows_stream() {
    let (far, _endpoint, connection, _recv) = let_in().await;
    // It overtakes the request.
    connection.send_datagram(b"\x04early"[..].into()).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (mut flow, mut sending, mut answers) = flow_of_a_stranger(&far, &connection).await;
    assert_eq!(received(&mut flow).await.unwrap().unwrap(), "early");
    connection.send_datagram(b"\x40\x04"[..].into()).unwrap();
    assert_eq!(received(&mut flow).await.unwrap().unwrap(), "");
    // Of a flow that nobody has opened, and of one that only this end could.
    connection.send_datagram(b"\x44\0nobody"[..].into()).unwrap();
    connection.send_datagram(b"\x01nobody"[..].into()).unwrap();

    send(&mut flow, b"answer".to_vec()).await;
    let answer = soon("the answer", connection.read_datagram()).await.unwrap();
    assert_eq!(answer, &b"\x04answer"[..]);
    send(&mut flow, vec![7; 65_507]).await;
    send(&mut flow, vec![7; 65_508]).await;
    assert_eq!(flow.dropped(), 1, "too long for UDP");
    let mut long = vec![0; 2 + 65_507];
    tokio::select! {
        read = answers.read_exact(&mut long) => read.unwrap(),
        // It goes on while the flow is used.
        none = received(&mut flow) => panic!("{none:?}"),
    }
    assert_eq!(long[..3], [0xff, 0xe3, 7]);

    sending.write_all(b"\0\x02on\0\0\0\x06stream").await.unwrap();
    sending.finish().unwrap();
    for expected in ["on", "", "stream"] {
        assert_eq!(received(&mut flow).await.unwrap().unwrap(), expected);
    }
    assert_eq!(received(&mut flow).await.unwrap(), None);
    assert!(!far.is_closed());
}

#[tokio::test]
async fn datagrams_that_nobody_takes_are_bounded_both_ways_and_hold_up_no_stream() {
    let (far, _endpoint, connection, _recv) = let_in().await;
    let (mut flow, _sending, _answers) = flow_of_a_stranger(&far, &connection).await;
    for number in 0..5000u32 {
        let datagram = [&[4][..], &number.to_be_bytes(), &[0; 800]].concat();
        connection.send_datagram_wait(datagram.into()).await.unwrap();
    }
    // All that are not lost on the way have arrived once the last has.
    let all = 1024 * 1024;
    soon("the last datagram", async {
        while connection.datagram_send_buffer_space() + 1024 < all || flow.dropped() < 1000 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let mut of_arrived = 0;
    while flow.dropped() > of_arrived {
        of_arrived = flow.dropped();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // The stranger reads no stream: its windows let 1.25 MB through, and 256 KiB wait here.
    for _ in 0..200 {
        send(&mut flow, vec![0; 60_000]).await;
    }
    let here = flow.dropped() - of_arrived;
    assert!(here >= 170, "{here} of 200 long ones dropped");

    let (mut sending, mut answers) = soon("a stream", connection.open_bi()).await.unwrap();
    sending.write_all(b"\x10\0\x01xhello").await.unwrap();
    let mut stream = soon("the stream", far.accept()).await.unwrap().accept();
    let mut buffer = [0; 5];
    soon("its bytes", stream.read_exact(&mut buffer)).await.unwrap();
    let mut answer = [0];
    soon("its answer", answers.read_exact(&mut answer)).await.unwrap();

    let (mut arrived, mut last) = (0, None);
    while let Ok(datagram) =
        tokio::time::timeout(Duration::from_millis(200), poll_fn(|cx| flow.poll_receive(cx))).await
    {
        let datagram = datagram.unwrap().unwrap();
        last = last.max(Some(u32::from_be_bytes(datagram[..4].try_into().unwrap())));
        arrived += 1;
    }
    assert!((1..=256).contains(&arrived), "{arrived}");
    assert!(last > Some(2500), "the oldest gave way, not the newest: {last:?}");
}

#[tokio::test]
async fn datagrams_that_cannot_be_read_end_the_link() {
    for bad in [&b""[..], b"\x40", b"\xc0\0\0\0\0\0\0", b"\x02x"] {
        let (far, _endpoint, connection, _recv) = let_in().await;
        connection.send_datagram(bad.into()).unwrap();
        let end = soon("the end", far.closed()).await;
        assert!(matches!(end, LinkEnd::Protocol { .. }), "{bad:?}: {end:?}");
    }
    let (far, _endpoint, connection, _recv) = let_in().await;
    let (mut flow, mut sending, _answers) = flow_of_a_stranger(&far, &connection).await;
    sending.write_all(b"\xff\xff").await.unwrap();
    assert!(received(&mut flow).await.is_err());
    let end = soon("the end", far.closed()).await;
    assert!(matches!(end, LinkEnd::Protocol { .. }), "{end:?}");
}

#[tokio::test]
async fn a_far_end_that_takes_no_datagrams_is_asked_for_no_flow() {
    let mut transport = quinn::TransportConfig::default();
    transport.datagram_receive_buffer_size(None);
    let (far, _endpoint, _connection, _recv) = let_in_with(transport).await;
    assert_eq!(far.are_datagrams_carried(), Some(false));
    assert!(!far.dialer().carries_datagrams());
    let refused = soon("the refusal", far.dial_datagrams(&target("x"))).await;
    assert_eq!(
        refused.err().map(|refusal| refusal.kind),
        Some(RefusalKind::Unsupported)
    );
}

#[tokio::test]
async fn thousands_of_streams_that_say_nothing_or_are_given_up_at_once_hold_up_nobody() {
    let (far, _endpoint, connection, _recv) = let_in().await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        let (mut send, recv) = soon("a stream", connection.open_bi()).await.unwrap();
        send.write_all(b"\x10").await.unwrap();
        silent.push((send, recv));
    }
    // Twice as many as may be open at once.
    for _ in 0..33_000 {
        let (mut send, mut recv) = soon("a stream", connection.open_bi()).await.unwrap();
        drop(send.write(b"\x10\0\x05fl").await);
        drop((send.reset(1_u32.into()), recv.stop(1_u32.into())));
    }
    let (mut send, _answer) = soon("a stream", connection.open_bi()).await.unwrap();
    send.write_all(b"\x10\0\x04last").await.unwrap();
    let incoming = soon("the last one", far.accept()).await.unwrap();
    assert_eq!(incoming.target().as_str(), "last");
}

/// A relay whose own address towards the server changes.
struct MovingRelay {
    address: SocketAddr,
    move_on: tokio::sync::mpsc::Sender<()>,
    _task: tokio::task::JoinHandle<()>,
}

impl MovingRelay {
    /// A relay that the server sees as one client. At a word it goes on from another port and forgets the former one, as
    /// a router does whose table was lost.
    async fn to(gateway: SocketAddr) -> MovingRelay {
        let near = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = near.local_addr().unwrap();
        let (move_on, mut moves) = tokio::sync::mpsc::channel(1);
        let task = tokio::spawn(async move {
            let other = async || {
                let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                socket.connect(gateway).await.unwrap();
                socket
            };
            let mut far = other().await;
            let (mut client, mut there, mut back) = (None, vec![0; 65_536], vec![0; 65_536]);
            loop {
                tokio::select! {
                    Ok((length, peer)) = near.recv_from(&mut there) => {
                        client = Some(peer);
                        drop(far.send(&there[..length]).await);
                    }
                    Ok(length) = far.recv(&mut back) => {
                        if let Some(client) = client {
                            drop(near.send_to(&back[..length], client).await);
                        }
                    }
                    Some(()) = moves.recv() => far = other().await,
                }
            }
        });
        MovingRelay {
            address,
            move_on,
            _task: task,
        }
    }
}

/// Serves streams with bytes that never end, 64 KiB each 5 ms.
fn serve_endless(far: Link) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut stream = far.accept().await.unwrap().accept();
        let chunk = vec![7; 64 * 1024];
        while stream.write_all(&chunk).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
}

/// Reads until as much has come as given. How long the longest silence was.
async fn read_on(stream: &mut MuxStream, mut bytes: usize) -> Duration {
    let mut longest = Duration::ZERO;
    let mut buffer = vec![0; 64 * 1024];
    while bytes > 0 {
        let from = std::time::Instant::now();
        let count = soon("more", stream.read(&mut buffer)).await.unwrap();
        assert!(count > 0, "a cut transfer must not look complete");
        longest = longest.max(from.elapsed());
        bytes = bytes.saturating_sub(count);
    }
    longest
}

#[tokio::test]
async fn a_download_goes_on_when_the_clients_port_changes_and_the_old_one_is_forgotten() {
    let listener = listener(Options::default());
    let relay = MovingRelay::to(listener.local_addr()).await;
    let options = options(relay.address);
    let serve = async { request_of(&listener).await.unwrap().accept().await.unwrap() };
    let (near, far) = tokio::join!(connect(&options), serve);
    let near = near.unwrap();
    let serving = serve_endless(far);
    let mut stream = near.open(&target("endless")).await.unwrap();
    read_on(&mut stream, 2_000_000).await;
    for _ in 0..2 {
        relay.move_on.send(()).await.unwrap();
        let silence = read_on(&mut stream, 4_000_000).await;
        assert!(silence < Duration::from_secs(2), "{silence:?}");
    }
    drop(stream);
    soon("the server's end", serving).await.unwrap();
}

#[tokio::test]
async fn a_link_that_is_checked_goes_on_from_another_socket() {
    let listener = listener(Options::default());
    let options = options(listener.local_addr());
    let serve = async { request_of(&listener).await.unwrap().accept().await.unwrap() };
    let (near, far) = tokio::join!(connect(&options), serve);
    let near = near.unwrap();
    echoes(&near, &far).await;
    near.check_now();
    echoes(&near, &far).await;
    near.shutdown().await;
    assert!(matches!(
        soon("the end", far.closed()).await,
        LinkEnd::PeerClosed { .. }
    ));
}

/// Two ends of a link whose ends may have so many streams open, each.
async fn pair_with(near: u32, far: u32) -> (Link, Link) {
    let mut limits = Options::default();
    limits.link.max_streams = far;
    let listener = listener(limits.clone());
    limits.link.max_streams = near;
    let options = options(listener.local_addr());
    let serve = async { request_of(&listener).await.unwrap().accept().await.unwrap() };
    let (near, far) = tokio::join!(connect_with(&options, &limits), serve);
    (near.unwrap(), far)
}

/// What of `future` is still to come, as far as can be seen within a moment.
async fn waits<F: Future>(future: F) -> bool {
    tokio::time::timeout(Duration::from_millis(200), future)
        .await
        .is_err()
}

#[tokio::test]
async fn an_end_opens_as_many_streams_as_it_may_and_the_other_one_lets_it() {
    let (near, far) = pair_with(2, 100).await;
    let one = near.open(&target("one")).await.unwrap();
    let _two = near.open(&target("two")).await.unwrap();
    let refused = near.open(&target("three")).await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::TooMany);
    drop(one);
    let _three = soon("its place", async {
        loop {
            match near.open(&target("three")).await {
                Ok(stream) => return stream,
                Err(refusal) => assert_eq!(refusal.kind, RefusalKind::TooMany),
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    // The other way each end is counted by itself: what is more than the other end takes waits.
    let _first = far.open(&target("first")).await.unwrap();
    let second = far.open(&target("second")).await.unwrap();
    assert!(waits(far.open(&target("third"))).await);
    drop(second);
    drop(soon("the request", near.accept()).await.unwrap());
    drop(soon("the request", near.accept()).await.unwrap());
    soon("room", far.open(&target("third"))).await.unwrap();
}

#[tokio::test]
async fn an_end_that_leaves_names_its_successor_and_neither_end_opens_streams_any_more() {
    let (near, far) = pair_with(100, 1).await;
    let mut ours = near.open(&target("ours")).await.unwrap();
    ours.write_all(b"hello").await.unwrap();
    let mut theirs = soon("the request", far.accept()).await.unwrap().accept();
    // More than the other end takes: it waits, and hears that it waits in vain.
    let waiting = near.clone();
    let waiting = tokio::spawn(async move { waiting.open(&target("waits")).await.map(drop) });
    assert!(waits(far.accept()).await);
    far.drain_to("moving", "quic://b.example/mounted");
    let refused = soon("the refusal", waiting).await.unwrap().unwrap_err();
    assert_eq!(refused.kind, RefusalKind::LinkLost);
    let word = soon("the word", near.leaving()).await.unwrap();
    assert_eq!(word.message, "moving");
    assert_eq!(word.successor.as_deref(), Some("quic://b.example/mounted"));
    for end in [&near, &far] {
        let refused = end.open(&target("late")).await.unwrap_err();
        assert_eq!(refused.kind, RefusalKind::LinkLost);
    }
    soon("the answer", far.drained()).await;
    // What is open goes on.
    theirs.write_all(b"still here").await.unwrap();
    let mut ten = [0; 10];
    soon("bytes", ours.read_exact(&mut ten)).await.unwrap();
    assert_eq!(&ten, b"still here");
    // Both may leave.
    near.drain("as well");
    soon("the answer", near.drained()).await;
}

#[tokio::test]
async fn a_link_that_is_checked_and_answers_nothing_for_a_second_is_interrupted_and_comes_back() {
    let listener = listener(Options::default());
    let open = Arc::new(AtomicBool::new(true));
    let relay = relay_while(listener.local_addr(), Arc::clone(&open)).await;
    let options = options(relay.address);
    let serve = async { request_of(&listener).await.unwrap().accept().await.unwrap() };
    let (near, far) = tokio::join!(connect(&options), serve);
    let near = near.unwrap();
    echoes(&near, &far).await;
    let mut status = near.watch_status();
    for resumes in 1..=2 {
        open.store(false, Ordering::SeqCst);
        near.check_now();
        let checked = std::time::Instant::now();
        soon("the interruption", status.wait_for(|status| !status.is_up()))
            .await
            .unwrap();
        let took = checked.elapsed();
        assert!(
            (Duration::from_millis(900)..Duration::from_secs(3)).contains(&took),
            "{took:?}"
        );
        open.store(true, Ordering::SeqCst);
        soon("the way back", status.wait_for(|status| status.is_up()))
            .await
            .unwrap();
        assert_eq!(near.status(), LinkStatus::Up { resumes });
        echoes(&near, &far).await;
    }
    open.store(false, Ordering::SeqCst);
    near.check_now();
    let end = soon("the end", near.closed()).await;
    assert!(matches!(end, LinkEnd::PingTimeout { .. }), "{end:?}");
}

/// A gateway that is killed says nothing, and its system says that nobody listens there.
#[cfg(unix)]
#[tokio::test]
async fn a_far_end_whose_port_is_closed_without_a_word_is_given_up_within_seconds() {
    let listener = listener(Options::default());
    // Its socket is what the client sees of the far end: it closes with the relay's task.
    let relay = relay_to(listener.local_addr()).await;
    let options = options(relay.address);
    let serve = async { request_of(&listener).await.unwrap().accept().await.unwrap() };
    let (near, far) = tokio::join!(connect(&options), serve);
    let near = near.unwrap();
    echoes(&near, &far).await;
    let mut stream = near.open(&target("echo")).await.unwrap();
    relay.task.abort();
    let began = std::time::Instant::now();
    stream.write_all(b"is anybody there?").await.unwrap();
    let end = soon("the end", near.closed()).await;
    assert!(
        matches!(
            end,
            LinkEnd::Lost {
                kind: std::io::ErrorKind::ConnectionRefused,
                ..
            }
        ),
        "{end:?}"
    );
    // Silence alone would take 20 s.
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

/// Runs a program to its end.
#[cfg(target_os = "linux")]
fn run(program: &str, arguments: &str) -> std::process::Output {
    let output = std::process::Command::new(program)
        .args(arguments.split(' '))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {errors}");
    output
}

#[cfg(target_os = "linux")]
#[test]
fn a_download_goes_on_when_the_clients_address_is_replaced() {
    let possible = std::process::Command::new("unshare")
        .args(["-n", "ip", "link", "set", "lo", "up"])
        .output();
    if !possible.is_ok_and(|output| output.status.success()) {
        eprintln!(
            "SKIP a_download_goes_on_when_the_clients_address_is_replaced: no network namespace, or no ip(8)"
        );
        return;
    }
    let this = std::env::current_exe().unwrap();
    let inner = "--exact --ignored quic::inside_a_namespace_an_address_is_replaced";
    let output = run("unshare", &format!("-n {} {inner}", this.display()));
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("1 passed"), "{told}");
}

#[cfg(target_os = "linux")]
#[ignore = "run by the test above, in a network namespace"]
#[tokio::test]
async fn inside_a_namespace_an_address_is_replaced() {
    for change in [
        "link set lo up",
        "addr add 192.0.2.1/32 dev lo",
        "addr add 192.0.2.2/32 dev lo",
    ] {
        run("ip", change);
    }
    run("ip", "route add local 198.51.100.0/24 dev lo src 192.0.2.1");
    let certificate = Certificate::new("198.51.100.1");
    let address = "198.51.100.1:0".parse().unwrap();
    let listener = Listener::bind(address, &certificate.acceptor(), Options::default()).unwrap();
    let mut options = options(listener.local_addr());
    options.trust.ca = Some(certificate.certificate.clone());
    let serve = async {
        let arrival = soon("an arrival", listener.accept()).await.unwrap();
        assert_eq!(arrival.peer().ip().to_string(), "192.0.2.1");
        arrival.request().await.unwrap().accept().await.unwrap()
    };
    let (near, far) = tokio::join!(connect(&options), serve);
    let near = near.unwrap();
    let serving = serve_endless(far);
    let mut stream = near.open(&target("endless")).await.unwrap();
    read_on(&mut stream, 2_000_000).await;
    for (new, old) in [("2", "1"), ("3", "2")] {
        if new == "3" {
            run("ip", "addr add 192.0.2.3/32 dev lo");
        }
        run(
            "ip",
            &format!("route replace local 198.51.100.0/24 dev lo src 192.0.2.{new}"),
        );
        run("ip", &format!("addr del 192.0.2.{old}/32 dev lo"));
        let silence = read_on(&mut stream, 4_000_000).await;
        assert!(silence < Duration::from_secs(2), "{silence:?}");
    }
    drop(stream);
    soon("the server's end", serving).await.unwrap();
}

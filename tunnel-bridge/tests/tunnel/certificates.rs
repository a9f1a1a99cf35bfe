//! Whom TLS trusts, on both sides: further authorities, pinned keys, client certificates; and what runs over TLS alone.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Poll;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tunnel_bridge::per_stream::{self, TlsDialer};
use tunnel_bridge::tls::{self, Acceptor, LINK_ALPN, ServerOptions, TlsClient};
use tunnel_bridge::ws::{self, ConnectError, ConnectOptions, Upgrade};
use tunnel_bridge::{
    ByteStream as _, Dialer, Identity, Link, Pin, Refusal, RefusalKind, Role, StreamCarrier, Trust,
    refusal_of, splice,
};

use crate::support::{
    SUBPROTOCOL, connect_error, echo_service, options, pattern, read_all, service, soon, target,
};

/// Two authorities, `ca` and `other`, each with a certificate for `localhost` (server) and for `ada.example` (client).
struct Files(TempDir);

impl Files {
    fn new() -> Files {
        let files = Files(tempfile::tempdir().unwrap());
        for ca in ["ca", "other"] {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            // They are told apart by their names.
            params.distinguished_name.push(rcgen::DnType::CommonName, ca);
            let key = KeyPair::generate().unwrap();
            std::fs::write(
                files.path(&format!("{ca}.pem")),
                params.self_signed(&key).unwrap().pem(),
            )
            .unwrap();
            let issuer = Issuer::new(params, key);
            for (name, of) in [("server", "localhost"), ("client", "ada.example")] {
                let key = KeyPair::generate().unwrap();
                let params = CertificateParams::new(vec![of.to_owned()]).unwrap();
                let certificate = params.signed_by(&key, &issuer).unwrap();
                std::fs::write(files.path(&format!("{ca}-{name}.pem")), certificate.pem()).unwrap();
                std::fs::write(files.path(&format!("{ca}-{name}.key")), key.serialize_pem()).unwrap();
            }
        }
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn identity(&self, ca: &str) -> Identity {
        Identity {
            certificate: self.path(&format!("{ca}-client.pem")),
            key: self.path(&format!("{ca}-client.key")),
        }
    }

    fn server(&self, client_ca: bool, optional: bool) -> ServerOptions {
        let mut options = ServerOptions::new(self.path("ca-server.pem"), self.path("ca-server.key"));
        options.client_ca = client_ca.then(|| self.path("ca.pem"));
        options.client_certificate_optional = optional;
        options
    }

    fn trust(&self) -> Trust {
        let mut trust = Trust::default();
        trust.ca = Some(self.path("ca.pem"));
        trust
    }

    /// The pin of a certificate's key, by openssl's definition of it: the digest of what stands in its public key's PEM.
    fn pin(&self, name: &str) -> Pin {
        let key =
            KeyPair::from_pem(&std::fs::read_to_string(self.path(&format!("{name}.key"))).unwrap()).unwrap();
        let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
        Pin::new(<sha2::Sha256 as sha2::Digest>::digest(&spki).into())
    }
}

/// Lets in whoever gets through TLS, and says in the answer's link who it is.
async fn server(options: ServerOptions) -> SocketAddr {
    let acceptor = Acceptor::new(&options).unwrap();
    service(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let name = tls::peer_identity(&stream).map(|peer| peer.names.join(" "));
            let Ok(upgrade) = Upgrade::read(stream).await else {
                return;
            };
            let link = upgrade.accept(SUBPROTOCOL).await.unwrap();
            while let Some(incoming) = link.accept().await {
                let mut stream = incoming.accept();
                read_all(&mut stream).await.unwrap();
                let said = name.as_deref().unwrap_or("nobody").as_bytes();
                stream.write_all(said).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        }
    })
    .await
}

fn over_tls(server: SocketAddr, trust: Trust) -> ConnectOptions {
    let mut options = options(server);
    options.url = format!("wss://localhost:{}/", server.port()).parse().unwrap();
    options.trust = trust;
    options
}

/// Who the server says we are.
async fn who(server: SocketAddr, trust: Trust) -> String {
    let link = soon("the link", ws::connect(&over_tls(server, trust)))
        .await
        .unwrap();
    let mut stream = link.open(&target("x")).await.unwrap();
    stream.shutdown().await.unwrap();
    String::from_utf8(soon("the name", read_all(&mut stream)).await.unwrap()).unwrap()
}

#[tokio::test]
async fn a_further_authority_is_trusted_beside_the_systems() {
    let files = Files::new();
    let server = server(files.server(false, false)).await;
    let error = connect_error(&over_tls(server, Trust::default())).await;
    assert!(matches!(error, ConnectError::Certificate { .. }), "{error:?}");
    let mut trust = Trust::default();
    trust.extra_ca = Some(files.path("ca.pem"));
    assert_eq!(who(server, trust.clone()).await, "nobody");
    // In place of the system's and beside it: both count.
    trust.ca = Some(files.path("other.pem"));
    assert_eq!(who(server, trust.clone()).await, "nobody");
    trust.extra_ca = None;
    let error = connect_error(&over_tls(server, trust)).await;
    assert!(matches!(error, ConnectError::Certificate { .. }), "{error:?}");
}

#[tokio::test]
async fn a_pinned_key_is_asked_for_beside_the_chain() {
    let files = Files::new();
    let server = server(files.server(false, false)).await;
    let (right, wrong) = (files.pin("ca-server"), files.pin("other-server"));
    for (pins, fits) in [
        (vec![right], true),
        (vec![wrong, right], true),
        (vec![wrong], false),
    ] {
        let mut trust = files.trust();
        trust.pins = pins;
        if fits {
            assert_eq!(who(server, trust).await, "nobody");
            continue;
        }
        match connect_error(&over_tls(server, trust)).await {
            // The message has what to pin instead.
            ConnectError::Certificate { message, .. } => {
                assert!(message.contains(&right.to_string()), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
    // A pin does not stand for the chain.
    let mut trust = Trust::default();
    trust.pins = vec![right];
    let error = connect_error(&over_tls(server, trust)).await;
    assert!(matches!(error, ConnectError::Certificate { .. }), "{error:?}");
}

#[tokio::test]
async fn any_certificate_is_taken_only_when_that_is_said_and_never_against_a_pin() {
    let files = Files::new();
    let server = server(files.server(false, false)).await;
    let mut trust = Trust::default();
    trust.danger_accept_any_certificate = true;
    assert_eq!(who(server, trust.clone()).await, "nobody");
    trust.pins = vec![files.pin("ca-server")];
    assert_eq!(who(server, trust.clone()).await, "nobody");
    trust.pins = vec![files.pin("other-server")];
    let error = connect_error(&over_tls(server, trust)).await;
    assert!(matches!(error, ConnectError::Certificate { .. }), "{error:?}");
}

#[tokio::test]
async fn a_client_certificate_is_required_or_optional_and_names_the_client() {
    let files = Files::new();
    let (required, optional) = (
        server(files.server(true, false)).await,
        server(files.server(true, true)).await,
    );
    let with = |ca: Option<&str>| {
        let mut trust = files.trust();
        trust.identity = ca.map(|ca| files.identity(ca));
        trust
    };
    for server in [required, optional] {
        assert_eq!(who(server, with(Some("ca"))).await, "ada.example");
        // One of a stranger is refused in both cases.
        let error = connect_error(&over_tls(server, with(Some("other")))).await;
        assert!(
            matches!(error, ConnectError::ClientCertificate { .. }),
            "{error:?}"
        );
    }
    assert_eq!(who(optional, with(None)).await, "nobody");
    let error = connect_error(&over_tls(required, with(None))).await;
    assert!(
        matches!(error, ConnectError::ClientCertificate { .. }),
        "{error:?}"
    );
    // A certificate with another one's key.
    let mut trust = files.trust();
    trust.identity = Some(Identity {
        certificate: files.path("ca-client.pem"),
        key: files.path("other-client.key"),
    });
    let error = connect_error(&over_tls(required, trust)).await;
    assert!(matches!(error, ConnectError::Setup(_)), "{error:?}");
}

#[tokio::test]
async fn a_link_runs_over_tls_alone() {
    let files = Files::new();
    let mut options = files.server(true, false);
    options.alpn = vec![LINK_ALPN.to_vec()];
    let acceptor = Acceptor::new(&options).unwrap();
    let address = service(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let link = Link::over(StreamCarrier::new(stream), Role::Server);
            while let Some(incoming) = link.accept().await {
                let (mut read, mut write) = tokio::io::split(incoming.accept());
                tokio::io::copy(&mut read, &mut write).await.unwrap();
                write.shutdown().await.unwrap();
            }
        }
    })
    .await;
    let mut trust = files.trust();
    trust.identity = Some(files.identity("ca"));
    let client = TlsClient::new("localhost", address.port(), &trust, LINK_ALPN).unwrap();
    // The second handshake resumes the first one's session.
    for _ in 0..2 {
        let link = soon("the link", client.link()).await.unwrap();
        let stream = link.open(&target("x")).await.unwrap();
        let sent = pattern(1_000_000, 5);
        let (mut read, mut write) = tokio::io::split(stream);
        let write_all = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let ((), received) = soon("the echo", async { tokio::join!(write_all, read_all(&mut read)) }).await;
        assert!(received.unwrap() == sent);
        link.shutdown().await;
    }
    // Another protocol is not spoken there.
    let other = TlsClient::new("localhost", address.port(), &trust, b"http/1.1").unwrap();
    let refusal = soon("the refusal", other.link()).await.err().unwrap();
    assert_eq!(refusal.kind, RefusalKind::Unsupported, "{refusal}");
    let stranger = TlsClient::new("localhost", address.port(), &Trust::default(), LINK_ALPN).unwrap();
    let refusal = soon("the refusal", stranger.link()).await.err().unwrap();
    assert_eq!(refusal.kind, RefusalKind::NotAllowed, "{refusal}");
}

/// A far side that connects each stream to the target that it names, `host:port`.
async fn far_side(files: &Files) -> SocketAddr {
    let mut options = files.server(true, false);
    options.alpn = vec![per_stream::ALPN.to_vec()];
    let acceptor = Acceptor::new(&options).unwrap();
    service(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let Ok(incoming) = per_stream::accept(stream).await else {
                return;
            };
            assert_eq!(incoming.identity().unwrap().names, ["ada.example"]);
            let Ok(address) = incoming.target().as_str().parse::<SocketAddr>() else {
                let refusal = Refusal::new(RefusalKind::NotFound, "no such service\u{7}");
                return incoming.refuse(&refusal).await.unwrap();
            };
            let local = TcpStream::connect(address).await.unwrap();
            splice(local, incoming.accept().await.unwrap()).await;
        }
    })
    .await
}

fn dialer(files: &Files, far_side: SocketAddr) -> Arc<dyn Dialer> {
    let mut trust = files.trust();
    trust.identity = Some(files.identity("ca"));
    Arc::new(TlsDialer::new("localhost", far_side.port(), &trust).unwrap())
}

#[tokio::test]
async fn a_stream_over_a_connection_of_its_own_is_whole_and_half_closes() {
    let files = Files::new();
    let echo = echo_service().await;
    let far = far_side(&files).await;
    let dialer = dialer(&files, far);
    for length in [0, 1, 3_000_000] {
        let stream = soon("the dial", dialer.dial(&target(echo))).await.unwrap();
        let sent = pattern(length, 9);
        let (mut read, mut write) = tokio::io::split(stream);
        let write_all = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let ((), received) = soon("the echo", async { tokio::join!(write_all, read_all(&mut read)) }).await;
        assert!(received.unwrap() == sent, "{length}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_reset_of_a_stream_is_heard_of_while_nothing_is_read_or_written() {
    let files = Files::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialer = dialer(&files, far_side(&files).await);
    let address = listener.local_addr().unwrap();
    let mut stream = soon("the dial", dialer.dial(&target(address))).await.unwrap();
    let (mut there, _) = soon("the connection", listener.accept()).await.unwrap();
    there.write_all(b"never read").await.unwrap();
    // The bytes are at the near end: the answer and some of them were read.
    let mut first = [0];
    soon("a byte", stream.read_exact(&mut first)).await.unwrap();
    let is_broken = std::future::poll_fn(|cx| Poll::Ready(stream.poll_broken(cx).is_ready())).await;
    assert!(!is_broken);
    socket2::SockRef::from(&there)
        .set_linger(Some(std::time::Duration::ZERO))
        .unwrap();
    drop(there);
    let error = soon("the reset", std::future::poll_fn(|cx| stream.poll_broken(cx))).await;
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_refusal_arrives_with_its_kind_and_message() {
    let files = Files::new();
    let dialer = dialer(&files, far_side(&files).await);
    let mut stream = soon("the dial", dialer.dial(&target("nowhere"))).await.unwrap();
    assert!(!stream.is_connected());
    // What is sent meanwhile does not overtake the refusal.
    stream.write_all(&pattern(100_000, 1)).await.unwrap();
    let error = soon("the refusal", stream.read(&mut [0; 16])).await.unwrap_err();
    let refusal = refusal_of(&error).unwrap();
    assert_eq!(
        (refusal.kind, refusal.message.as_str()),
        (RefusalKind::NotFound, "no such service?")
    );
}

#[tokio::test]
async fn a_reset_arrives_as_one_either_way() {
    let files = Files::new();
    let far = far_side(&files).await;
    let dialer = dialer(&files, far);
    // The target sends some and resets.
    let resets = service(|mut stream| async move {
        stream.write_all(b"half of").await.unwrap();
        stream.read_u8().await.unwrap();
        socket2::SockRef::from(&stream)
            .set_linger(Some(std::time::Duration::ZERO))
            .unwrap();
    })
    .await;
    let mut stream = soon("the dial", dialer.dial(&target(resets))).await.unwrap();
    let mut seven = [0; 7];
    stream.read_exact(&mut seven).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    stream.flush().await.unwrap();
    let error = soon("the target's reset", stream.read(&mut seven))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error:?}");

    // Dropped in the middle, it resets the target's connection.
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let waits = service(move |mut stream| {
        let told = told.clone();
        async move {
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
            stream.write_all(&byte).await.unwrap();
            told.send(stream.read(&mut byte).await.map_err(|error| error.kind()))
                .unwrap();
        }
    })
    .await;
    let mut stream = soon("the dial", dialer.dial(&target(waits))).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    stream.flush().await.unwrap();
    // A reset overtakes what has not been read.
    assert_eq!(soon("the echo", stream.read_u8()).await.unwrap(), b'x');
    drop(stream);
    let end = soon("the reset", heard.recv()).await.unwrap();
    assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn what_is_no_preface_is_not_served() {
    let files = Files::new();
    let mut options = files.server(false, false);
    // A client that offers no protocol gets through the handshake.
    options.alpn = Vec::new();
    let acceptor = Acceptor::new(&options).unwrap();
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let address = service(move |stream| {
        let (acceptor, told) = (acceptor.clone(), told.clone());
        async move {
            let stream = acceptor.accept(stream).await.unwrap();
            told.send(
                per_stream::accept(stream)
                    .await
                    .map_err(|error| error.kind())
                    .map(drop),
            )
            .unwrap();
        }
    })
    .await;
    let client = TlsDialer::new("localhost", address.port(), &files.trust()).unwrap();
    let refusal = soon("the refusal", client.dial(&target("x")))
        .await
        .err()
        .unwrap();
    assert_eq!(refusal.kind, RefusalKind::Unsupported, "{refusal}");
    assert_eq!(
        soon("the end", heard.recv()).await.unwrap(),
        Err(std::io::ErrorKind::InvalidData)
    );
}

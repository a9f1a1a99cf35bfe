//! How each carrier is set up at both ends: a function each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_rustls::server::TlsStream;
use tunnel_bridge::dial::Carriage;
use tunnel_bridge::per_stream::{self, IncomingStream, TlsDialer};
use tunnel_bridge::resume::{Desk, DeskOptions};
use tunnel_bridge::tls::{Acceptor, LINK_ALPN, ServerOptions};
use tunnel_bridge::ws::{ConnectOptions, NotAWebSocket, Upgrade};
use tunnel_bridge::{Carrier, Identity, Link, StreamCarrier, Trust, prepare_socket, quic, ws};

use crate::Result;
use crate::arguments::{Choice, Kind};
use crate::certificates::Files;

const SUBPROTOCOL: &str = "tunnel.example.1";

const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// What the server keeps for its clients.
pub(crate) struct Server {
    kind: Kind,
    tls: Option<Acceptor>,
    /// Keeps the links that may be taken up again.
    pub(crate) desk: Option<Desk>,
}

impl Server {
    pub(crate) fn new(carrier: &Choice) -> Result<Server> {
        let tls = if carrier.kind.needs_certificates() {
            let files = Files(&carrier.certificates);
            files.make()?;
            let (certificate, key) = files.server();
            let mut options = ServerOptions::new(certificate, key);
            match carrier.kind {
                Kind::Tls => options.alpn = vec![LINK_ALPN.to_vec()],
                Kind::Mtls => {
                    options.alpn = vec![per_stream::ALPN.to_vec()];
                    options.client_ca = Some(files.ca());
                }
                // HTTP's for WebSocket is the default, and QUIC has one of its own.
                _ => {}
            }
            Some(Acceptor::new(&options).map_err(|error| causes(&error))?)
        } else {
            None
        };
        Ok(Server {
            kind: carrier.kind,
            tls,
            desk: carrier.resume.then(|| Desk::new(DeskOptions::default())),
        })
    }

    /// What a client's connection carries.
    pub(crate) async fn accept(&self, stream: TcpStream) -> Result<Box<dyn Carrier>> {
        match self.kind {
            Kind::Ws | Kind::Raw => {
                prepare_socket(&stream);
                accept_upgrade(stream).await
            }
            Kind::Wss => accept_upgrade(self.secure(stream).await?).await,
            Kind::Tls => Ok(Box::new(StreamCarrier::new(self.secure(stream).await?))),
            Kind::Mtls | Kind::Quic => Err(no_carrier(self.kind)),
        }
    }

    /// The one stream of a client's connection.
    pub(crate) async fn accept_stream(&self, stream: TcpStream) -> Result<IncomingStream> {
        let accepted = per_stream::accept(self.secure(stream).await?).await;
        accepted.map_err(|error| error.to_string())
    }

    /// Listens for links over QUIC.
    pub(crate) fn listen(&self, address: SocketAddr) -> Result<quic::Listener> {
        let bound = quic::Listener::bind(address, self.acceptor()?, quic::Options::default());
        bound.map_err(|error| format!("cannot listen on {address}: {}", causes(&error)))
    }

    async fn secure(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>> {
        prepare_socket(&stream);
        match tokio::time::timeout(HANDSHAKE_TIME, self.acceptor()?.accept(stream)).await {
            Ok(secured) => secured.map_err(|error| format!("TLS: {error}")),
            Err(_) => Err("TLS: the handshake took too long".to_owned()),
        }
    }

    fn acceptor(&self) -> Result<&Acceptor> {
        self.tls
            .as_ref()
            .ok_or_else(|| format!("{} needs certificates", self.kind))
    }
}

/// The carrier that the client has asked for, a WebSocket or the raw protocol.
async fn accept_upgrade<S>(stream: S) -> Result<Box<dyn Carrier>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let upgrade = Upgrade::read(stream).await.map_err(|error| causes(&error))?;
    if let Err(why) = upgrade.check(SUBPROTOCOL) {
        let answered = upgrade.answer(status_of(&why), &format!("{why}\n"), &[]).await;
        return Err(answered.map_or_else(|error| error.to_string(), |()| why.to_string()));
    }
    let accepted = upgrade.accept_carrier(SUBPROTOCOL).await;
    accepted.map_err(|error| causes(&error))
}

/// The link of a client that has come over QUIC.
pub(crate) async fn accept_quic(arrival: quic::Arrival) -> Result<Link> {
    let request = arrival.request().await.map_err(|error| causes(&error))?;
    if let Err(why) = request.check() {
        let answered = request.answer(status_of(&why), &format!("{why}\n"), &[]).await;
        return Err(answered.map_or_else(|error| error.to_string(), |()| why.to_string()));
    }
    request.accept().await.map_err(|error| causes(&error))
}

fn status_of(why: &NotAWebSocket) -> u16 {
    match why {
        NotAWebSocket::Method => 405,
        _ => 426,
    }
}

/// Connects to a server's `host:port`.
pub(crate) async fn connect(server: &str, carrier: &Choice) -> Result<Box<dyn Carrier>> {
    match carrier.kind {
        Kind::Ws => connect_upgrade("ws", Carriage::WebSocket, server, carrier).await,
        Kind::Wss => connect_upgrade("wss", Carriage::WebSocket, server, carrier).await,
        Kind::Raw => connect_upgrade("ws", Carriage::Raw, server, carrier).await,
        Kind::Tls => match tokio::time::timeout(HANDSHAKE_TIME, connect_tls(server, carrier)).await {
            Ok(connected) => connected,
            Err(_) => Err(format!("no TLS connection to {server} within 10 s")),
        },
        kind @ (Kind::Mtls | Kind::Quic) => Err(no_carrier(kind)),
    }
}

async fn connect_upgrade(
    scheme: &str,
    carriage: Carriage,
    server: &str,
    carrier: &Choice,
) -> Result<Box<dyn Carrier>> {
    let mut options = options(scheme, server, carrier)?;
    options.carriage = carriage;
    let connected = ws::connect_carrier(&options).await;
    connected.map_err(|error| causes(&error))
}

pub(crate) async fn connect_quic(server: &str, carrier: &Choice) -> Result<Link> {
    let options = options("quic", server, carrier)?;
    quic::connect(&options).await.map_err(|error| causes(&error))
}

/// Dials a connection to `server` for each stream.
pub(crate) fn stream_dialer(server: &str, carrier: &Choice) -> Result<TlsDialer> {
    let (host, port) = host_and_port(server)?;
    let (certificate, key) = Files(&carrier.certificates).client();
    let mut trust = trust(carrier);
    trust.identity = Some(Identity { certificate, key });
    TlsDialer::new(host, port, &trust).map_err(|error| causes(&error))
}

fn options(scheme: &str, server: &str, carrier: &Choice) -> Result<ConnectOptions> {
    let url = format!("{scheme}://{server}/");
    let url = url.parse().map_err(|error| format!("{url}: {error}"))?;
    let mut options = ConnectOptions::new(url, SUBPROTOCOL);
    options.trust = trust(carrier);
    Ok(options)
}

fn trust(carrier: &Choice) -> Trust {
    let mut trust = Trust::default();
    if carrier.kind.needs_certificates() {
        trust.ca = Some(Files(&carrier.certificates).ca());
    }
    trust
}

/// As [`TlsClient::link`](tunnel_bridge::tls::TlsClient::link) connects, without a link that cannot be taken up again.
async fn connect_tls(server: &str, carrier: &Choice) -> Result<Box<dyn Carrier>> {
    let config = Arc::new(tls_config(carrier)?);
    let (host, _) = host_and_port(server)?;
    let name = host
        .clone()
        .try_into()
        .map_err(|error| format!("{host}: {error}"))?;
    let stream = TcpStream::connect(server)
        .await
        .map_err(|error| format!("cannot connect to {server}: {error}"))?;
    prepare_socket(&stream);
    let stream = TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|error| format!("{server}: TLS: {error}"))?;
    Ok(Box::new(StreamCarrier::new(stream)))
}

fn tls_config(carrier: &Choice) -> Result<ClientConfig> {
    let file = Files(&carrier.certificates).ca();
    let why = |error: &dyn std::error::Error| format!("{}: {error}", file.display());
    let ca = CertificateDer::from_pem_file(&file).map_err(|error| why(&error))?;
    let mut roots = RootCertStore::empty();
    roots.add(ca).map_err(|error| why(&error))?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![LINK_ALPN.to_vec()];
    Ok(config)
}

/// The host without brackets.
fn host_and_port(server: &str) -> Result<(String, u16)> {
    let parts = server
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?)));
    parts.ok_or_else(|| format!("{server}: expected a host and a port"))
}

fn no_carrier(kind: Kind) -> String {
    format!("{kind} has no connection that carries a link")
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

//! How each carrier is set up at both ends: a function each.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tunnel_bridge::resume::{Desk, DeskOptions};
use tunnel_bridge::tls::Acceptor;
use tunnel_bridge::ws::{ConnectOptions, Upgrade};
use tunnel_bridge::{Carrier, StreamCarrier, prepare_socket, ws};

use crate::Result;
use crate::arguments::{Choice, Kind};
use crate::certificates::Files;

const SUBPROTOCOL: &str = "tunnel.example.1";

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
            Some(Acceptor::from_pem(&certificate, &key).map_err(|error| error.to_string())?)
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
        prepare_socket(&stream);
        match (self.kind, &self.tls) {
            (Kind::Raw, _) => Ok(Box::new(StreamCarrier::new(stream))),
            (Kind::Tls, Some(tls)) => {
                let stream = tls
                    .accept(stream)
                    .await
                    .map_err(|error| format!("TLS: {error}"))?;
                Ok(Box::new(StreamCarrier::new(stream)))
            }
            (Kind::Wss, Some(tls)) => {
                let stream = tls
                    .accept(stream)
                    .await
                    .map_err(|error| format!("TLS: {error}"))?;
                accept_web_socket(stream).await
            }
            (Kind::Ws, _) => accept_web_socket(stream).await,
            (kind, None) => Err(format!("{kind} needs certificates")),
        }
    }
}

async fn accept_web_socket<S>(stream: S) -> Result<Box<dyn Carrier>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let upgrade = Upgrade::read(stream).await.map_err(|error| causes(&error))?;
    let accepted = upgrade.accept_carrier(SUBPROTOCOL).await;
    accepted.map_err(|error| causes(&error))
}

/// Connects to a server's `host:port`.
pub(crate) async fn connect(server: &str, carrier: &Choice) -> Result<Box<dyn Carrier>> {
    match carrier.kind {
        Kind::Ws | Kind::Wss => connect_web_socket(server, carrier).await,
        Kind::Raw => Ok(Box::new(StreamCarrier::new(connect_tcp(server).await?))),
        Kind::Tls => connect_tls(server, carrier).await,
    }
}

async fn connect_web_socket(server: &str, carrier: &Choice) -> Result<Box<dyn Carrier>> {
    let url = format!("{}://{server}", carrier.kind);
    let url = url.parse().map_err(|error| format!("{url}: {error}"))?;
    let mut options = ConnectOptions::new(url, SUBPROTOCOL);
    if carrier.kind == Kind::Wss {
        options.trust.ca = Some(Files(&carrier.certificates).ca());
    }
    let connected = ws::connect_carrier(&options).await;
    connected.map_err(|error| causes(&error))
}

async fn connect_tls(server: &str, carrier: &Choice) -> Result<Box<dyn Carrier>> {
    let config = Arc::new(tls_config(carrier)?);
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    let name = host
        .trim_matches(['[', ']'])
        .to_owned()
        .try_into()
        .map_err(|error| format!("{host}: {error}"))?;
    let stream = TlsConnector::from(config)
        .connect(name, connect_tcp(server).await?)
        .await
        .map_err(|error| format!("{server}: TLS: {error}"))?;
    Ok(Box::new(StreamCarrier::new(stream)))
}

async fn connect_tcp(server: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(server)
        .await
        .map_err(|error| format!("cannot connect to {server}: {error}"))?;
    prepare_socket(&stream);
    Ok(stream)
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
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
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

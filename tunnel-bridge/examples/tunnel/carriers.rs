//! How each carrier is set up at both ends: a function each.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tunnel_bridge::tls::Acceptor;
use tunnel_bridge::ws::{ConnectOptions, Upgrade};
use tunnel_bridge::{Link, Role, StreamCarrier, prepare_socket, ws};

use crate::Result;
use crate::arguments::{Carrier, Kind};
use crate::certificates::Files;

const SUBPROTOCOL: &str = "tunnel.example.1";

/// What the server keeps for its clients.
pub(crate) struct Server {
    kind: Kind,
    tls: Option<Acceptor>,
}

impl Server {
    pub(crate) fn new(carrier: &Carrier) -> Result<Server> {
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
        })
    }

    /// Makes a link of a client's connection.
    pub(crate) async fn accept(&self, stream: TcpStream) -> Result<Link> {
        prepare_socket(&stream);
        match (self.kind, &self.tls) {
            (Kind::Raw, _) => Ok(Link::over(StreamCarrier::new(stream), Role::Server)),
            (Kind::Tls, Some(tls)) => {
                let stream = tls
                    .accept(stream)
                    .await
                    .map_err(|error| format!("TLS: {error}"))?;
                Ok(Link::over(StreamCarrier::new(stream), Role::Server))
            }
            (Kind::Wss, Some(tls)) => {
                let stream = tls
                    .accept(stream)
                    .await
                    .map_err(|error| format!("TLS: {error}"))?;
                let upgrade = Upgrade::read(stream).await.map_err(|error| error.to_string())?;
                upgrade
                    .accept(SUBPROTOCOL)
                    .await
                    .map_err(|error| error.to_string())
            }
            (Kind::Ws, _) => {
                let upgrade = Upgrade::read(stream).await.map_err(|error| error.to_string())?;
                upgrade
                    .accept(SUBPROTOCOL)
                    .await
                    .map_err(|error| error.to_string())
            }
            (kind, None) => Err(format!("{kind} needs certificates")),
        }
    }
}

/// Connects to a server's `host:port`.
pub(crate) async fn connect(server: &str, carrier: &Carrier) -> Result<Link> {
    match carrier.kind {
        Kind::Ws | Kind::Wss => connect_web_socket(server, carrier).await,
        Kind::Raw => {
            let stream = connect_tcp(server).await?;
            Ok(Link::over(StreamCarrier::new(stream), Role::Client))
        }
        Kind::Tls => {
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
            Ok(Link::over(StreamCarrier::new(stream), Role::Client))
        }
    }
}

async fn connect_web_socket(server: &str, carrier: &Carrier) -> Result<Link> {
    let url = format!("{}://{server}", carrier.kind);
    let url = url.parse().map_err(|error| format!("{url}: {error}"))?;
    let mut options = ConnectOptions::new(url, SUBPROTOCOL);
    if carrier.kind == Kind::Wss {
        options.tls_ca = Some(Files(&carrier.certificates).ca());
    }
    ws::connect(&options).await.map_err(|error| causes(&error))
}

async fn connect_tcp(server: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(server)
        .await
        .map_err(|error| format!("cannot connect to {server}: {error}"))?;
    prepare_socket(&stream);
    Ok(stream)
}

fn tls_config(carrier: &Carrier) -> Result<ClientConfig> {
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

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tunnel_bridge::Token;

use crate::StaticCatalog;

/// How a [`Gateway`](crate::Gateway) is to run. [`GatewayConfig::new`] has the defaults; the fields can be changed after it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GatewayConfig {
    /// What is served.
    pub catalog: CatalogSource,
    /// Where to listen; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Who is let in.
    pub tokens: TokenSource,
    /// Certificate and key; `None`, the default, speaks plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Whether to listen without TLS where other machines can connect. Default: `false`.
    pub insecure: bool,
    /// Bounds and deadlines.
    pub limits: Limits,
}

impl GatewayConfig {
    /// Without TLS, on loopback only, with the default [`Limits`].
    #[must_use]
    pub fn new(catalog: CatalogSource, listen: SocketAddr, tokens: TokenSource) -> Self {
        Self {
            catalog,
            listen,
            tokens,
            tls: None,
            insecure: false,
            limits: Limits::default(),
        }
    }
}

/// Where the catalog comes from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum CatalogSource {
    /// A YAML file as [`StaticCatalog`] describes it. Followed while the gateway runs, if it is a regular file: see
    /// [`Limits::poll_interval`].
    File(PathBuf),
    /// This one, for as long as the gateway runs.
    Fixed(StaticCatalog),
}

/// Where the token comes from that a client must show.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum TokenSource {
    /// A file with the token, white space around it not counted. Followed while the gateway runs. A new token holds for new
    /// connections; while the file is missing or holds no token, nobody is let in. Connections that are up stay.
    File(PathBuf),
    /// This one.
    Fixed(Token),
}

/// The files for TLS, in PEM form.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate chain, the gateway's own certificate first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Bounds and deadlines of a gateway.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Sessions at a time; one more is answered 503. Default: 1024.
    pub max_clients: usize,
    /// Streams of one client at a time, dials included; one more is refused as
    /// [`TooMany`](tunnel_bridge::RefusalKind::TooMany). Default: 4096.
    pub max_streams_per_client: usize,
    /// Connections that have not said who they are, at a time; further ones wait in the system's queue. Default: 256.
    pub max_handshakes: usize,
    /// How long a connection may take to say who it is, TLS included. Default: 10 s.
    pub handshake_timeout: Duration,
    /// How long a dial may take, resolving included. Default: 10 s.
    pub dial_timeout: Duration,
    /// How often the files are read. A change is taken when two readings in a row agree, so that a half-written file is
    /// not: it is in force after one to two intervals. Default: 100 ms.
    pub poll_interval: Duration,
    /// How long live streams may go on once the gateway is told to end. Default: 2 s.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_clients: 1024,
            max_streams_per_client: 4096,
            max_handshakes: 256,
            handshake_timeout: Duration::from_secs(10),
            dial_timeout: Duration::from_secs(10),
            poll_interval: Duration::from_millis(100),
            drain: Duration::from_secs(2),
        }
    }
}

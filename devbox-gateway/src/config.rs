use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tunnel_bridge::resume::DeskOptions;
use tunnel_bridge::tls::ServerOptions;

use crate::{Admission, Replicas};

/// How a [`Gateway`](crate::Gateway) is to run. [`GatewayConfig::new`] has the defaults; change the fields after it.
#[derive(Clone)]
#[non_exhaustive]
pub struct GatewayConfig {
    /// Who is let in, and what each client is given.
    pub admission: Arc<dyn Admission>,
    /// Where to listen; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Certificate and key; `None`, the default, speaks plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Where to listen for QUIC as well, by UDP, with the certificate and the key of [`tls`](Self::tls), which it needs. The
    /// port may be that of [`listen`](Self::listen). Default: nowhere.
    pub quic: Option<SocketAddr>,
    /// Where `/healthz`, `/readyz` and `/metrics` (Prometheus) are answered, in plain HTTP and to anybody. Default: nowhere.
    pub status: Option<SocketAddr>,
    /// Whether to listen without TLS where other machines can connect. Default: `false`.
    pub insecure: bool,
    /// Links whose connection was lost, which are kept for their clients: for how long, and how many. `None` keeps none: their streams
    /// are reset at once. Default: [`DeskOptions`]'s, 60 s.
    pub resume: Option<DeskOptions>,
    /// Where clients are told to connect to when the gateway is told to end: a URL. They go there where they may show their token to
    /// it. Default: none, they try the same address.
    pub successor: Option<String>,
    /// Other gateways that have the same clients. Default: none, and a session's older connection to another gateway goes on.
    pub replicas: Option<Arc<dyn Replicas>>,
    /// After how long without a connected client [`Gateway::run`](crate::Gateway::run) returns; it returns 5 s after the last client
    /// has said goodbye. A client that lost its connection is not connected. Default: it goes on whether or not there are clients.
    pub exit_when_idle: Option<Duration>,
    /// Bounds and deadlines.
    pub limits: Limits,
}

impl GatewayConfig {
    /// Without TLS, on loopback only, with the default [`Limits`].
    #[must_use]
    pub fn new(admission: impl Admission, listen: SocketAddr) -> Self {
        Self {
            admission: Arc::new(admission),
            listen,
            tls: None,
            quic: None,
            status: None,
            insecure: false,
            resume: Some(DeskOptions::default()),
            successor: None,
            replicas: None,
            exit_when_idle: None,
            limits: Limits::default(),
        }
    }
}

impl fmt::Debug for GatewayConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayConfig")
            .field("listen", &self.listen)
            .field("tls", &self.tls)
            .field("quic", &self.quic)
            .field("status", &self.status)
            .field("insecure", &self.insecure)
            .field("resume", &self.resume)
            .field("successor", &self.successor)
            .field("replicas", &self.replicas)
            .field("exit_when_idle", &self.exit_when_idle)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// The files for TLS, in PEM form. They are followed: a new set that fits is used for new connections.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TlsFiles {
    /// The certificate chain, the gateway's own certificate first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// The authorities whose certificates clients are to show, beside their token (mutual TLS). Default: none is asked for.
    pub client_ca: Option<PathBuf>,
    /// Whether a client may show none although [`client_ca`](Self::client_ca) is set; one that is shown must be valid.
    /// [`Offer::certificate`](crate::Offer::certificate) tells which. Default: `false`.
    pub client_certificate_optional: bool,
}

impl TlsFiles {
    /// A certificate and its key; clients are asked for none.
    pub fn new(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self {
            certificate: certificate.into(),
            key: key.into(),
            client_ca: None,
            client_certificate_optional: false,
        }
    }

    pub(crate) fn server_options(&self) -> ServerOptions {
        let mut options = ServerOptions::new(&self.certificate, &self.key);
        options.client_ca.clone_from(&self.client_ca);
        options.client_certificate_optional = self.client_certificate_optional;
        options
    }
}

/// Bounds and deadlines of a gateway.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Sessions at a time; one more is answered 503. Each costs a file descriptor, and so does each of its streams.
    /// Default: 4096.
    pub max_clients: usize,
    /// Streams of one client at a time, dials included; one more is refused as
    /// [`TooMany`](tunnel_bridge::RefusalKind::TooMany). Default: 16,384.
    pub max_streams_per_client: usize,
    /// Connections at a time that have shown no token yet, or one that was refused and waits for its answer. One more
    /// is let in, and the oldest one leaves of the address that has most. Default: 2048.
    pub max_half_open: usize,
    /// The same for one IPv4 address or one IPv6 network of /64; one more pushes out the oldest one of the same address.
    /// Behind a proxy all clients have the proxy's address. Default: 1024.
    pub max_half_open_per_address: usize,
    /// How long a connection may take to be let in, TLS, admission and the provider's connect included. Default: 10 s.
    pub handshake_timeout: Duration,
    /// How long any dial may take, whatever the provider does. Default: 15 s.
    pub dial_timeout: Duration,
    /// How long live streams may go on once the gateway is told to end. Default: 2 s.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_clients: 4096,
            max_streams_per_client: 16_384,
            max_half_open: 2048,
            max_half_open_per_address: 1024,
            handshake_timeout: Duration::from_secs(10),
            dial_timeout: Duration::from_secs(15),
            drain: Duration::from_secs(2),
        }
    }
}

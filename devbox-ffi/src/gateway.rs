//! The far side for other languages: the `devbox-gateway` crate, with a catalog file.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use catalog_file::CatalogFile;
use devbox_gateway::{GatewayConfig, TlsFiles, Token, TokenAdmission, TokenSource};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::cancel::{Cancellation, end_of};
use crate::config::{parse, wrong};
use crate::error::DevboxError;
use crate::runtime::{on_runtime, runtime};

/// What a gateway is told before it starts.
#[derive(Clone, uniffi::Record)]
pub struct GatewaySettings {
    /// The catalog file whose targets it dials, followed while it runs.
    pub catalog: String,
    /// The file with the token that clients show, or with a list of them; it is followed. Either this or `token`.
    #[uniffi(default = None)]
    pub token_file: Option<String>,
    /// The token itself.
    #[uniffi(default = None)]
    pub token: Option<String>,
    /// Where it listens. With port 0, `Gateway.address` has the one that the system chose.
    #[uniffi(default = "127.0.0.1:0")]
    pub listen: String,
    /// Where it listens for QUIC as well, by UDP; it needs `tls_cert` and `tls_key`.
    #[uniffi(default = None)]
    pub quic: Option<String>,
    /// Where `/healthz`, `/readyz` and `/metrics` are answered, in plain HTTP and to anybody.
    #[uniffi(default = None)]
    pub status: Option<String>,
    /// The PEM file of its certificate chain, with `tls_key`. Without one it speaks plain HTTP.
    #[uniffi(default = None)]
    pub tls_cert: Option<String>,
    /// The PEM file of its private key.
    #[uniffi(default = None)]
    pub tls_key: Option<String>,
    /// The PEM file of the authorities whose certificates clients show, beside their token.
    #[uniffi(default = None)]
    pub tls_client_ca: Option<String>,
    /// Whether to listen without TLS where other machines can connect.
    #[uniffi(default = false)]
    pub insecure: bool,
    /// The URL that clients are told to connect to when it ends.
    #[uniffi(default = None)]
    pub successor: Option<String>,
}

/// Without the token.
impl fmt::Debug for GatewaySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewaySettings")
            .field("catalog", &self.catalog)
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

/// A gateway in this process: it lets in who shows a token, and dials what its catalog has. It ends when the last reference to it is
/// dropped, on any thread.
#[derive(Debug, uniffi::Object)]
pub struct Gateway {
    address: SocketAddr,
    quic: Option<SocketAddr>,
    status: Option<SocketAddr>,
    tls: bool,
    leave: CancellationToken,
    ended: watch::Receiver<Option<Result<(), DevboxError>>>,
    _dropped: DropGuard,
}

#[uniffi::export]
impl Gateway {
    /// Reads the files and listens; clients are served from then on.
    #[uniffi::constructor]
    pub async fn serve(settings: GatewaySettings) -> Result<Arc<Self>, DevboxError> {
        on_runtime(async move {
            let bound = bind(settings).await?;
            let leave = CancellationToken::new();
            let (told, ended) = watch::channel(None);
            let gateway = Self {
                address: bound.gateway.local_addr(),
                quic: bound.gateway.quic_addr(),
                status: bound.gateway.status_addr(),
                tls: bound.tls,
                leave: leave.clone(),
                ended,
                _dropped: leave.clone().drop_guard(),
            };
            // It ends when it is told to, which the guard does at the latest.
            runtime()?.spawn(async move {
                let end = bound.gateway.run(leave).await.map_err(Into::into);
                told.send_replace(Some(end));
            });
            Ok(Arc::new(gateway))
        })
        .await
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Where it listens for QUIC, if it does.
    #[must_use]
    pub fn quic_address(&self) -> Option<String> {
        self.quic.map(|address| address.to_string())
    }

    /// Where it answers about itself, if it does.
    #[must_use]
    pub fn status_address(&self) -> Option<String> {
        self.status.map(|address| address.to_string())
    }

    /// The URL for `GatewayProvider`.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls { "wss" } else { "ws" };
        format!("{scheme}://{}", self.address)
    }

    /// Asks it to end in good order: its clients are told, and open connections are waited for. `wait` tells when it has.
    pub fn stop(&self) {
        self.leave.cancel();
    }

    /// Waits until it has ended.
    #[uniffi::method(default(cancellation = None))]
    pub async fn wait(&self, cancellation: Option<Arc<Cancellation>>) -> Result<(), DevboxError> {
        end_of(self.ended.clone(), cancellation).await
    }
}

struct Bound {
    gateway: devbox_gateway::Gateway,
    tls: bool,
}

async fn bind(settings: GatewaySettings) -> Result<Bound, DevboxError> {
    let tokens = match (settings.token_file, settings.token) {
        (Some(file), None) => TokenSource::File(file.into()),
        (None, Some(token)) => {
            let token = Token::new(&token).map_err(|error| wrong("token", "", &error.to_string()))?;
            TokenSource::Fixed(token)
        }
        (None, None) | (Some(_), Some(_)) => {
            return Err(wrong(
                "token_file",
                "",
                "a gateway needs either `token_file` or `token`",
            ));
        }
    };
    let address = |key: &str, text: Option<String>| text.map(|text| parse(key, &text)).transpose();
    let listen = parse("listen", &settings.listen)?;
    let (quic, status) = (
        address("quic", settings.quic)?,
        address("status", settings.status)?,
    );
    let tls = match (settings.tls_cert, settings.tls_key) {
        (Some(certificate), Some(key)) => {
            let mut files = TlsFiles::new(certificate, key);
            files.client_ca = settings.tls_client_ca.map(Into::into);
            Some(files)
        }
        (None, None) => None,
        (Some(_), None) => return Err(wrong("tls_key", "", "`tls_cert` needs `tls_key`")),
        (None, Some(_)) => return Err(wrong("tls_cert", "", "`tls_key` needs `tls_cert`")),
    };
    let catalog = CatalogFile::open(settings.catalog).await?;
    let admission = TokenAdmission::open(tokens, Arc::new(catalog)).await?;
    let mut config = GatewayConfig::new(admission, listen);
    let speaks_tls = tls.is_some();
    config.tls = tls;
    config.quic = quic;
    config.status = status;
    config.insecure = settings.insecure;
    config.successor = settings.successor;
    Ok(Bound {
        gateway: devbox_gateway::Gateway::bind(config).await?,
        tls: speaks_tls,
    })
}

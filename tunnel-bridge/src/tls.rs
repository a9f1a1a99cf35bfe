//! TLS for `wss://` links: rustls with the *ring* provider, chosen here rather than taken from a process-wide default.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client, server};

use crate::Error;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn setup(error: impl fmt::Display) -> Error {
    Error::Tls {
        why: error.to_string(),
    }
}

/// Settings that trust the authorities in the PEM file `ca`, or the system's.
pub(crate) fn client_config(ca: Option<&Path>) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(setup)?;
    let mut config = match ca {
        None => builder
            .with_platform_verifier()
            .map_err(setup)?
            .with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates("CA", path)? {
                roots
                    .add(certificate)
                    .map_err(|error| bad_pem("CA", path, &error))?;
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    };
    // WebSocket's upgrade is HTTP/1.1's (RFC 6455 §4.1).
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The client's handshake. [`fault_of`] tells what kind of error came of it.
pub(crate) async fn connect(
    config: ClientConfig,
    host: &str,
    stream: TcpStream,
) -> io::Result<client::TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, TlsFailure(error.to_string())))?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// What kind of TLS error a handshake failed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The server's certificate is not accepted.
    Certificate,
    /// Anything else: no TLS at all, no common version, an alert.
    Other,
}

/// The kind of a handshake's error; `None` where the connection under it failed.
pub(crate) fn fault_of(error: &io::Error) -> Option<Fault> {
    let inner = error.get_ref()?;
    if inner.is::<TlsFailure>() {
        return Some(Fault::Other);
    }
    match inner.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
            Some(Fault::Certificate)
        }
        _ => Some(Fault::Other),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct TlsFailure(String);

/// The server's side of TLS. Cloning is cheap.
#[derive(Clone)]
pub struct Acceptor(tokio_rustls::TlsAcceptor);

impl Acceptor {
    /// Reads a certificate chain (the server's own first) and its private key from PEM files.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::BadPem`], and [`Error::Tls`] when the two do not fit.
    pub fn from_pem(certificate: &Path, key: &Path) -> Result<Acceptor, Error> {
        let chain = certificates("certificate", certificate)?;
        let private =
            PrivateKeyDer::from_pem_slice(&read("key", key)?).map_err(|error| bad_pem("key", key, &error))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(setup)?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .map_err(setup)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Acceptor(Arc::new(config).into()))
    }

    /// What it accepts with, for QUIC to change the protocol of.
    #[cfg(feature = "quic")]
    pub(crate) fn config(&self) -> ServerConfig {
        self.0.config().as_ref().clone()
    }

    /// The handshake with a client; its result goes to `ws::Upgrade::read`. Put a deadline on it.
    ///
    /// # Errors
    /// What the handshake or the connection failed with.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn accept<S>(&self, stream: S) -> io::Result<server::TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.0.accept(stream).await
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acceptor(..)")
    }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = read(what, path)?;
    let found = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad_pem(what, path, &error))?;
    if found.is_empty() {
        Err(bad_pem(what, path, &"there is no certificate in it"))
    } else {
        Ok(found)
    }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::File {
        what,
        path: path.into(),
        source,
    })
}

fn bad_pem(what: &'static str, path: &Path, why: &dyn fmt::Display) -> Error {
    Error::BadPem {
        what,
        path: path.into(),
        why: why.to_string(),
    }
}

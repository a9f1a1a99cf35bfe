//! DNS over TLS (RFC 7858): what a server needs of its files, and one question to a server.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// Text that should hold certificates or a key does not.
    #[error("not in PEM format")]
    Pem(#[from] pem::Error),
    /// There is no certificate in the text.
    #[error("there is no certificate in it")]
    NoCertificate,
    /// What should be the server's name is none.
    #[error("{name:?} is neither a name nor an address")]
    Name {
        /// The text.
        name: String,
    },
    /// Certificate and key do not belong together, or cannot be used.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// There was no connection, no agreement, or no answer.
    #[error("no answer over TLS")]
    Io(#[from] io::Error),
}

/// What a server needs for TLS: [`Listening::tls`](crate::Listening::tls).
pub type TlsConfig = Arc<ServerConfig>;

/// The settings of a server, from its certificate chain, its own first, and its private key, both as PEM. Clients are asked for no
/// certificate.
///
/// # Errors
/// [`TlsError::Pem`], [`TlsError::NoCertificate`], [`TlsError::Tls`].
pub fn tls_server(certificates: &[u8], key: &[u8]) -> Result<TlsConfig, TlsError> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain(certificates)?, PrivateKeyDer::from_pem_slice(key)?)?;
    Ok(Arc::new(config))
}

/// Asks a server one question and returns its reply. `name` is what its certificate must be for, a name or an address, and `authorities`
/// are the certificates to trust as PEM. Blocks, each step for no longer than `patience`.
///
/// # Errors
/// [`TlsError`]
pub fn ask_over_tls(
    server: SocketAddr,
    name: &str,
    authorities: &[u8],
    query: &[u8],
    patience: Duration,
) -> Result<Vec<u8>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(authorities)? {
        roots.add(certificate)?;
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let bad_name = |_| TlsError::Name {
        name: name.to_owned(),
    };
    let name = ServerName::try_from(name.to_owned()).map_err(bad_name)?;
    let stream = TcpStream::connect_timeout(&server, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let mut stream = StreamOwned::new(ClientConnection::new(Arc::new(config), name)?, stream);
    let len = u16::try_from(query.len()).map_err(io::Error::other)?;
    // In one record, as in one segment (RFC 7766 §8).
    stream.write_all(&[&len.to_be_bytes(), query].concat())?;
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut reply = vec![0; u16::from_be_bytes(len).into()];
    stream.read_exact(&mut reply)?;
    Ok(reply)
}

/// Chosen here rather than taken from a process-wide default.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    if found.is_empty() {
        return Err(TlsError::NoCertificate);
    }
    Ok(found)
}

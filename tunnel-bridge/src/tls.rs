//! TLS: rustls with the *ring* provider, chosen here rather than taken from a process-wide default.
//!
//! Whom a client trusts and what it shows is in [`Trust`]; [`Acceptor`] is the server's side, which may ask for a client's
//! certificate ([`ServerOptions::client_ca`]) and then knows who it is ([`peer_identity`]).

#[cfg(feature = "websocket")]
mod prepared;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    ServerConfig, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls_platform_verifier::Verifier;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client, server};

use crate::dial::{self, Progress, Proxies, ReachError, Reached, Road};
use crate::rest::WithRest;
use crate::{Error, Link, Pin, Refusal, RefusalKind, Role, StreamCarrier, Trust};
#[cfg(feature = "websocket")]
pub use prepared::Prepared;

/// The protocol's name in the handshake (RFC 7301) of a link that runs over TLS with nothing in between.
pub const LINK_ALPN: &[u8] = b"devbox-tunnel/1";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn setup(error: impl fmt::Display) -> Error {
    Error::Tls {
        why: error.to_string(),
    }
}

/// A client's settings, with the protocols to offer (ALPN). Sessions are resumed.
pub(crate) fn client_config(trust: &Trust, alpn: &[&[u8]]) -> Result<ClientConfig, Error> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let chain: Option<Arc<dyn ServerCertVerifier>> = if trust.danger_accept_any_certificate {
        None
    } else {
        Some(chain_verifier(trust, &provider)?)
    };
    let verifier = Verify {
        chain,
        pins: trust.pins.clone(),
        algorithms,
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(setup)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &trust.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = certificates("client certificate", &identity.certificate)?;
            let private = private_key("client key", &identity.key)?;
            builder.with_client_auth_cert(chain, private).map_err(setup)?
        }
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

fn chain_verifier(
    trust: &Trust,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    let extra = match &trust.extra_ca {
        Some(path) => authorities("CA", path)?,
        None => Vec::new(),
    };
    match &trust.ca {
        None => {
            let verifier = Verifier::new_with_extra_roots(extra, Arc::clone(provider)).map_err(setup)?;
            Ok(Arc::new(verifier))
        }
        Some(path) => {
            let mut trusted = authorities("CA", path)?;
            trusted.extend(extra);
            let roots = Arc::new(root_store(trusted)?);
            let verifier =
                rustls::client::WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider));
            Ok(verifier.build().map_err(setup)?)
        }
    }
}

/// Certificates of authorities, each of which can be trusted as one.
fn authorities(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found = certificates(what, path)?;
    for certificate in &found {
        let mut roots = RootCertStore::empty();
        roots
            .add(certificate.clone())
            .map_err(|error| bad_pem(what, path, &error))?;
    }
    Ok(found)
}

fn root_store(authorities: Vec<CertificateDer<'static>>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in authorities {
        roots.add(certificate).map_err(setup)?;
    }
    Ok(roots)
}

/// Checks the chain, unless any is taken, and the key, where some are pinned.
#[derive(Debug)]
struct Verify {
    chain: Option<Arc<dyn ServerCertVerifier>>,
    pins: Vec<Pin>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verify {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(chain) = &self.chain {
            chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        }
        if !self.pins.is_empty() {
            let bad_encoding = |_| rustls::Error::from(CertificateError::BadEncoding);
            let found = pin_of(end_entity).map_err(bad_encoding)?;
            if !self.pins.contains(&found) {
                let error = OtherError(Arc::new(NotPinned { found }));
                return Err(CertificateError::Other(error).into());
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("its key is {found}, which is none of the pinned ones")]
struct NotPinned {
    found: Pin,
}

fn pin_of(certificate: &CertificateDer<'_>) -> Result<Pin, webpki::Error> {
    let parsed = webpki::EndEntityCert::try_from(certificate)?;
    Ok(Pin::new(Sha256::digest(parsed.subject_public_key_info()).into()))
}

/// A client's connection.
pub(crate) type ClientStream<S> = client::TlsStream<WithRest<S>>;

/// The client's handshake. [`fault_of`] tells what kind of error came of it.
pub(crate) async fn connect<S>(
    config: Arc<ClientConfig>,
    host: &str,
    stream: S,
) -> io::Result<ClientStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, TlsFailure(error.to_string())))?;
    TlsConnector::from(config)
        .connect(name, WithRest::read_ahead(stream))
        .await
}

/// What kind of TLS error a connection failed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The server's certificate is not accepted.
    Certificate,
    /// The server does not accept ours, or that there is none. With TLS 1.3 this comes after the client's handshake.
    ClientCertificate,
    /// Anything else: no TLS at all, no common version, an alert.
    Other,
}

/// The kind of an error; `None` where the connection under TLS failed.
pub(crate) fn fault_of(error: &io::Error) -> Option<Fault> {
    use AlertDescription as A;
    let inner = error.get_ref()?;
    if inner.is::<TlsFailure>() {
        return Some(Fault::Other);
    }
    match inner.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
            Some(Fault::Certificate)
        }
        rustls::Error::AlertReceived(
            A::CertificateRequired
            | A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA
            | A::AccessDenied,
        ) => Some(Fault::ClientCertificate),
        _ => Some(Fault::Other),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct TlsFailure(String);

/// Makes TLS connections to one server. Their sessions are resumed, so one value serves many connections. Cloning is cheap.
///
/// ```
/// use tunnel_bridge::tls::{Acceptor, LINK_ALPN, ServerOptions, TlsClient};
/// use tunnel_bridge::{Link, Role, StreamCarrier, Trust};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
/// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
/// # std::fs::write(&certificate, made.cert.pem())?;
/// # std::fs::write(&key, made.signing_key.serialize_pem())?;
/// let mut server = ServerOptions::new(&certificate, &key);
/// server.alpn = vec![LINK_ALPN.to_vec()];
/// let acceptor = Acceptor::new(&server)?;
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let port = listener.local_addr()?.port();
/// let far = async {
///     let stream = acceptor.accept(listener.accept().await?.0).await?;
///     Ok::<_, std::io::Error>(Link::over(StreamCarrier::new(stream), Role::Server))
/// };
/// let mut trust = Trust::default();
/// trust.ca = Some(certificate.clone());
/// let client = TlsClient::new("localhost", port, &trust, LINK_ALPN)?;
/// let (near, far) = tokio::join!(client.link(), far);
/// let (near, _far) = (near?, far?);
/// near.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TlsClient {
    host: String,
    port: u16,
    trust: Trust,
    proxies: Proxies,
    alpn: &'static [u8],
    config: Arc<ClientConfig>,
}

/// A connection to the server, and what is under it.
pub(crate) enum Secured {
    Direct(Box<ClientStream<TcpStream>>),
    /// Through an `https://` proxy.
    Proxied(Box<ClientStream<ClientStream<TcpStream>>>),
}

impl TlsClient {
    /// A client of the server at `host`, a name or an address without brackets, which must choose the protocol `alpn`. The
    /// files of `trust` are read here, once.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::BadPem`], [`Error::Tls`].
    pub fn new(
        host: impl Into<String>,
        port: u16,
        trust: &Trust,
        alpn: &'static [u8],
    ) -> Result<TlsClient, Error> {
        Ok(TlsClient {
            host: host.into(),
            port,
            trust: trust.clone(),
            proxies: Proxies::none(),
            alpn,
            config: Arc::new(client_config(trust, &[alpn])?),
        })
    }

    /// Goes through these proxies.
    #[must_use]
    pub fn proxies(self, proxies: Proxies) -> TlsClient {
        TlsClient { proxies, ..self }
    }

    /// Connects, and makes the client's end of a link that runs over TLS with nothing in between. Put a deadline on it.
    ///
    /// # Errors
    /// Why there is no connection; [`RefusalKind::NotAllowed`] where one of the two certificates is not accepted, as far
    /// as that is known when the handshake ends. With TLS 1.3 a server refuses a client's only after it.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the attempt.
    pub async fn link(&self) -> Result<Link, Refusal> {
        Ok(match self.connect().await? {
            Secured::Direct(stream) => Link::over(StreamCarrier::new(*stream), Role::Client),
            Secured::Proxied(stream) => Link::over(StreamCarrier::new(*stream), Role::Client),
        })
    }

    pub(crate) async fn connect(&self) -> Result<Secured, Refusal> {
        let proxy = self.proxies.choose(true, &self.host, self.port);
        let proxy = proxy.map_err(|error| self.refusal(RefusalKind::Internal, &error))?;
        let tell = |_: Progress| {};
        let reached = dial::reach(&self.host, self.port, proxy, &self.trust, &tell).await;
        let Reached { road, .. } = reached.map_err(|error| match error {
            ReachError::Io(error) => self.refusal_of(&error),
            ReachError::Proxy(error) => self.refusal(RefusalKind::Unreachable, &error),
            ReachError::Setup(error) => self.refusal(RefusalKind::Internal, &error),
        })?;
        match road {
            Road::Tcp(stream) => self.secure(stream).await.map(Secured::Direct),
            Road::ProxyTls(stream) => self.secure(*stream).await.map(Secured::Proxied),
        }
    }

    async fn secure<S>(&self, stream: S) -> Result<Box<ClientStream<S>>, Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connected = connect(Arc::clone(&self.config), &self.host, stream).await;
        let stream = connected.map_err(|error| self.refusal_of(&error))?;
        if stream.get_ref().1.alpn_protocol() == Some(self.alpn) {
            return Ok(Box::new(stream));
        }
        let wanted = String::from_utf8_lossy(self.alpn);
        Err(self.refusal(RefusalKind::Unsupported, &format!("it does not speak {wanted}")))
    }

    /// What an error of the connection comes to.
    pub(crate) fn refusal_of(&self, error: &io::Error) -> Refusal {
        let kind = match fault_of(error) {
            Some(Fault::Certificate | Fault::ClientCertificate) => RefusalKind::NotAllowed,
            Some(Fault::Other) => RefusalKind::Unsupported,
            None => crate::direct::kind_of(error),
        };
        self.refusal(kind, error)
    }

    pub(crate) fn silent(&self, after: std::time::Duration) -> Refusal {
        let why = format!("no answer within {} s", after.as_secs_f32());
        self.refusal(RefusalKind::TimedOut, &why)
    }

    fn refusal(&self, kind: RefusalKind, why: &dyn fmt::Display) -> Refusal {
        Refusal::new(kind, format!("{}: {why}", dial::authority(&self.host, self.port)))
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// A server's files and what it asks of clients.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerOptions {
    /// PEM file of the certificate chain, the server's own first.
    pub certificate: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
    /// PEM file of the authorities whose certificates clients are to show (mutual TLS). Default: none is asked for.
    pub client_ca: Option<PathBuf>,
    /// Whether a client may show none although [`client_ca`](ServerOptions::client_ca) is set. One that is shown must be
    /// valid either way. Default: `false`.
    pub client_certificate_optional: bool,
    /// The protocols that are spoken (ALPN), the preferred one first. Default: `http/1.1`, which WebSocket needs (RFC 6455
    /// §4.1).
    pub alpn: Vec<Vec<u8>>,
}

impl ServerOptions {
    /// A server that asks clients for no certificate.
    pub fn new(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> ServerOptions {
        ServerOptions {
            certificate: certificate.into(),
            key: key.into(),
            client_ca: None,
            client_certificate_optional: false,
            alpn: vec![b"http/1.1".to_vec()],
        }
    }
}

/// The server's side of TLS. Cloning is cheap. Sessions are resumed, by tickets that only this process can read.
#[derive(Clone)]
pub struct Acceptor {
    tls: tokio_rustls::TlsAcceptor,
    #[cfg(feature = "quic")]
    secret: [u8; 32],
}

impl Acceptor {
    /// Reads a certificate chain (the server's own first) and its private key from PEM files.
    ///
    /// # Errors
    /// As [`new`](Acceptor::new).
    pub fn from_pem(certificate: &Path, key: &Path) -> Result<Acceptor, Error> {
        Acceptor::new(&ServerOptions::new(certificate, key))
    }

    /// Reads a server's files.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::BadPem`], and [`Error::Tls`] when certificate and key do not fit.
    pub fn new(options: &ServerOptions) -> Result<Acceptor, Error> {
        let private = private_key("key", &options.key)?;
        Ok(Acceptor {
            #[cfg(feature = "quic")]
            secret: Sha256::new()
                .chain_update("devbox server secret\0")
                .chain_update(private.secret_der())
                .finalize()
                .into(),
            tls: Arc::new(server_config(options, private)?).into(),
        })
    }

    /// What it accepts with, for QUIC to change the protocol of.
    #[cfg(feature = "quic")]
    pub(crate) fn config(&self) -> ServerConfig {
        self.tls.config().as_ref().clone()
    }

    /// What only this server knows, and still knows after a restart with the same private key.
    #[cfg(feature = "quic")]
    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.secret
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
        self.tls.accept(stream).await
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acceptor(..)")
    }
}

/// A server's settings.
fn server_config(options: &ServerOptions, private: PrivateKeyDer<'static>) -> Result<ServerConfig, Error> {
    let chain = certificates("certificate", &options.certificate)?;
    let provider = provider();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(setup)?;
    let builder = match &options.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(root_store(authorities("client CA", path)?)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            let verifier = if options.client_certificate_optional {
                verifier.allow_unauthenticated()
            } else {
                verifier
            };
            builder.with_client_cert_verifier(verifier.build().map_err(setup)?)
        }
    };
    let mut config = builder.with_single_cert(chain, private).map_err(setup)?;
    config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(setup)?;
    config.alpn_protocols.clone_from(&options.alpn);
    Ok(config)
}

/// Who a client has shown to be: its certificate was issued by an authority of [`ServerOptions::client_ca`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerIdentity {
    /// Its certificate, in DER.
    pub certificate: Vec<u8>,
    /// The certificate's key.
    pub pin: Pin,
    /// The DNS names that the certificate is for (subjectAltName); may be empty.
    pub names: Vec<String>,
}

/// The identity of the client at the other end, if it showed a certificate.
#[must_use]
pub fn peer_identity<S>(stream: &server::TlsStream<S>) -> Option<PeerIdentity> {
    identity_of(stream.get_ref().1.peer_certificates()?)
}

/// The identity in a chain that a handshake has accepted.
pub(crate) fn identity_of(chain: &[CertificateDer<'_>]) -> Option<PeerIdentity> {
    let certificate = chain.first()?;
    // The handshake has read it the same way.
    let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
    Some(PeerIdentity {
        certificate: certificate.to_vec(),
        pin: pin_of(certificate).ok()?,
        names: parsed.valid_dns_names().map(str::to_owned).collect(),
    })
}

fn private_key(what: &'static str, path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(&read(what, path)?).map_err(|error| bad_pem(what, path, &error))
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

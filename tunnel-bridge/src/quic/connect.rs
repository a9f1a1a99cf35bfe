//! The client's side of the handshake.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, EndpointConfig, TokioRuntime};
use tokio::io::AsyncWriteExt as _;
use tokio::net::lookup_host;
use tokio::time::{Instant, sleep_until};
use url::Url;

use super::driver::{self, ControlStream};
use super::native::{Native, unspecified};
use super::{Options, PROTOCOL, socket, transport};
use crate::dial::happy_eyeballs::{self as race, Race};
use crate::http::{self, HeadError, line};
use crate::ws::{ConnectError, ConnectOptions, Progress, Response};
use crate::{Link, tls};

/// TLS alerts (RFC 8446 §6.2) as QUIC's error codes (RFC 9001 §4.8): those that are about a certificate, that one is
/// required, that a signature is wrong, and that the server speaks none of the protocols that were offered.
const ALERTS_ABOUT_A_CERTIFICATE: std::ops::RangeInclusive<u64> = 0x100 + 42..=0x100 + 49;
const CERTIFICATE_REQUIRED: u64 = 0x100 + 116;
const WRONG_SIGNATURE: u64 = 0x100 + 51;
const NO_PROTOCOL: u64 = 0x100 + 120;

/// Connects to a `quic://` URL and makes the client's end of a link.
///
/// The URL's path and the options' headers are what is asked for; the subprotocol means nothing here. Addresses of the host
/// are raced as for the other URLs (RFC 8305): the families take turns, each a quarter of a second after the former one, or as soon as that failed.
///
/// # Errors
/// See [`ConnectError`]. Nothing tells a port that nobody listens on from a network that drops UDP: both are
/// [`ConnectError::TimedOut`].
///
/// # Cancel safety
/// Dropping the future abandons the attempt.
pub async fn connect(options: &ConnectOptions) -> Result<Link, ConnectError> {
    connect_with(options, &Options::default()).await
}

/// As [`connect`], for a link that behaves in another way.
///
/// # Errors
/// As [`connect`].
///
/// # Cancel safety
/// As [`connect`].
pub async fn connect_with(options: &ConnectOptions, link: &Options) -> Result<Link, ConnectError> {
    let attempt = Attempt::of(options, link)?;
    let address = attempt.address.clone();
    let connected = tokio::time::timeout(options.connect_timeout, attempt.connect(options)).await;
    options.tell(None);
    match connected {
        Ok(result) => result,
        Err(_) => Err(ConnectError::TimedOut {
            address,
            after: options.connect_timeout,
        }),
    }
}

/// Where to connect to and what to ask for.
struct Attempt {
    host: String,
    port: u16,
    /// Host and port, as shown.
    address: String,
    head: Vec<u8>,
    /// How the link is to behave.
    link: Options,
}

impl Attempt {
    fn of(options: &ConnectOptions, link: &Options) -> Result<Attempt, ConnectError> {
        let url = &options.url;
        let bad = |why: &str| ConnectError::BadRequest {
            url: shown(url),
            why: why.to_owned(),
        };
        if url.scheme() != "quic" {
            return Err(bad("it must begin with quic://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("it must not contain a user or a password"));
        }
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| bad("it names no host"))?;
        let port = url.port().unwrap_or(443);
        let path = if url.path().is_empty() { "/" } else { url.path() };
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        let mut head = format!(
            "GET {path}{query} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n"
        );
        for (name, value) in options.headers() {
            let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            if name.is_empty() || !name.bytes().all(token) {
                return Err(bad(&format!("`{}` is no header's name", name.escape_debug())));
            }
            if value
                .bytes()
                .any(|byte| byte != b'\t' && (byte < b' ' || byte == 0x7f))
            {
                let why = format!("the value of the header {name} has a character that is not allowed");
                return Err(bad(&why));
            }
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        Ok(Attempt {
            address: format!("{host}:{port}"),
            // A bare IPv6 host has its brackets in the URL and not in the resolver.
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port,
            head: head.into_bytes(),
            link: link.clone(),
        })
    }

    async fn connect(self, options: &ConnectOptions) -> Result<Link, ConnectError> {
        let mut config = tls::client_config(&options.trust, &[PROTOCOL.as_bytes()])?;
        // An early request could be replayed by somebody who recorded it (RFC 9001 §9.2).
        config.enable_early_data = false;
        let config = QuicClientConfig::try_from(config).map_err(|error| crate::Error::Tls {
            why: error.to_string(),
        })?;
        let (endpoint, connection) = self.reach(options, Arc::new(config)).await?;
        options.tell(Some(Progress::Quic(connection.remote_address())));
        let control = self.ask(&connection).await?;
        let native = Native::new(connection, Some(endpoint), &self.link);
        Ok(driver::spawn(native, control))
    }

    /// Connects to the first of the host's addresses that answers.
    async fn reach(
        &self,
        options: &ConnectOptions,
        config: Arc<QuicClientConfig>,
    ) -> Result<(Endpoint, Connection), ConnectError> {
        options.tell(Some(Progress::Resolving));
        let found = lookup_host((self.host.as_str(), self.port)).await;
        let peers = found.map_err(|source| self.unreachable(source))?;
        let clock = || Instant::now().into_std();
        let mut race = Race::new(peers, clock());
        let mut attempts = FuturesUnordered::new();
        let mut last = None;
        loop {
            while let Some(race::Attempt { number, address }) = race.poll_attempt(clock()) {
                options.tell(Some(Progress::Quic(address)));
                let handshake = self.handshake(address, Arc::clone(&config));
                attempts.push(async move { (number, handshake.await) });
            }
            if race.is_lost() {
                let none =
                    || self.unreachable(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
                return Err(last.unwrap_or_else(none));
            }
            let next_at = race.poll_timeout();
            tokio::select! {
                Some((number, done)) = attempts.next() => match done {
                    Ok(connected) => return Ok(connected),
                    Err(error) => {
                        last = Some(error);
                        race.handle_failure(number, clock());
                    }
                },
                () = sleep_until(next_at.unwrap_or_else(clock).into()), if next_at.is_some() => {}
            }
        }
    }

    async fn handshake(
        &self,
        peer: SocketAddr,
        config: Arc<QuicClientConfig>,
    ) -> Result<(Endpoint, Connection), ConnectError> {
        let mut config = ClientConfig::new(config);
        config.transport_config(transport(&self.link, false));
        let bound = socket::bind(unspecified(peer)).and_then(|socket| {
            Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))
        });
        let endpoint = bound.map_err(|source| self.unreachable(source))?;
        let connecting = endpoint
            .connect_with(config, peer, &self.host)
            .map_err(|error| self.unreachable(io::Error::other(error)))?;
        let connection = connecting.await.map_err(|error| self.not_connected(error))?;
        Ok((endpoint, connection))
    }

    /// Asks to be let in, on the first stream, which is the control stream from then on.
    async fn ask(&self, connection: &Connection) -> Result<ControlStream, ConnectError> {
        let lost = |error: ConnectionError| self.not_connected(error);
        let failed = |error: io::Error| match connection.close_reason() {
            Some(reason) => self.not_connected(reason),
            None => self.unreachable(error),
        };
        let (mut send, mut recv) = connection.open_bi().await.map_err(lost)?;
        send.write_all(&self.head)
            .await
            .map_err(|error| failed(error.into()))?;
        send.flush().await.map_err(failed)?;
        // It carries few bytes, and those that others wait for.
        if let Err(error) = send.set_priority(1) {
            tracing::trace!(%error, "the control stream is closed already");
        }
        match http::read_head(&mut recv).await {
            Ok(head) if head.status == 101 => Ok(ControlStream {
                send,
                recv,
                read: head.rest,
            }),
            Ok(mut head) => {
                head.read_some_body(&mut recv).await;
                Err(ConnectError::Rejected {
                    address: self.address.clone(),
                    response: Response::of(&head),
                })
            }
            Err(HeadError::Io(error)) => Err(failed(error)),
            Err(HeadError::Ended) => Err(self.not_a_tunnel("it ended without an answer")),
            Err(HeadError::NotHttp(message)) => Err(self.not_a_tunnel(message)),
        }
    }

    fn not_connected(&self, error: ConnectionError) -> ConnectError {
        let address = self.address.clone();
        match error {
            ConnectionError::TransportError(error) => {
                let code = u64::from(error.code);
                let message = line(&error.reason);
                if code == WRONG_SIGNATURE || ALERTS_ABOUT_A_CERTIFICATE.contains(&code) {
                    ConnectError::Certificate { address, message }
                } else {
                    ConnectError::Tls { address, message }
                }
            }
            ConnectionError::ConnectionClosed(close) if u64::from(close.error_code) == NO_PROTOCOL => {
                self.not_a_tunnel("it speaks QUIC, and not this tunnel's protocol")
            }
            ConnectionError::ConnectionClosed(close)
                if close.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED =>
            {
                self.unreachable(io::ErrorKind::ConnectionRefused.into())
            }
            ConnectionError::ConnectionClosed(close) => {
                let code = u64::from(close.error_code);
                let message = line(&close.to_string());
                if code == CERTIFICATE_REQUIRED || ALERTS_ABOUT_A_CERTIFICATE.contains(&code) {
                    ConnectError::ClientCertificate { address, message }
                } else {
                    ConnectError::Tls { address, message }
                }
            }
            ConnectionError::VersionMismatch => self.not_a_tunnel("it speaks another version of QUIC"),
            error => self.unreachable(io::Error::new(io::ErrorKind::ConnectionAborted, error)),
        }
    }

    fn not_a_tunnel(&self, message: &str) -> ConnectError {
        ConnectError::NotATunnel {
            address: self.address.clone(),
            message: line(message),
        }
    }

    fn unreachable(&self, source: io::Error) -> ConnectError {
        ConnectError::Unreachable {
            address: self.address.clone(),
            source,
        }
    }
}

/// A URL without what is in it of a secret.
fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    // Fails for URLs without a host, which have no password either.
    if shown.set_password(None).is_err() {
        shown.set_path("");
    }
    shown.to_string()
}

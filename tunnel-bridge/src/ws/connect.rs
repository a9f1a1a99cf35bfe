//! The client's side of the handshake.

mod messages;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use url::Url;

use super::offer::Offer;
use crate::dial::{self, Carriage, Progress, Proxies, Proxy, ProxyError, ReachError, Reached, Road};
use crate::http::{self, HeadError};
use crate::{ByteStream, Carrier, Link, Role, Trust, ws};

pub use messages::{Standby, messages, stand_by};

/// Where to connect to, and what to say there.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// `ws://` or `wss://`, with the path to ask for.
    pub url: Url,
    /// The one subprotocol that is offered (RFC 6455 §1.9). A server that does not choose it is an error.
    pub subprotocol: String,
    /// How long connecting may take, all handshakes and attempts included. Default: 10 s.
    pub connect_timeout: Duration,
    /// What may carry the link. Default: [`Carriage::Auto`].
    pub carriage: Carriage,
    /// How long the answer to an offer of both protocols is waited for before WebSocket alone is asked for: a proxy that
    /// does not know the raw one may swallow the request. Default: 4 s.
    pub offer_timeout: Duration,
    /// Whom to trust and what to show, for `wss://`.
    pub trust: Trust,
    /// The TLS configuration to use for `wss://` in place of [`trust`](Self::trust), where another library has read the user's
    /// settings. Default: none.
    #[cfg(feature = "tls")]
    pub tls: Option<crate::tls::Prepared>,
    /// The proxies to go through. Default: none; [`Proxies::from_env`] reads what the environment says.
    pub proxies: Proxies,
    /// What the connection is made over in place of TCP. The URL's host is then only a name, and proxies are not asked. Default: none.
    pub underlay: Option<Arc<dyn Underlay>>,
    /// Told what is being waited for, and at the end that nothing is. Default: nobody.
    pub progress: Option<watch::Sender<Option<Progress>>>,
    /// A header that the server's own answers have and a proxy's have not: a refusal with it is final, and any other one
    /// is taken to be due to the offer of the raw protocol, so that WebSocket alone is asked for. 400, 426 and 501 are
    /// never final, as a proxy may have changed the request on its way. Default: none, and what is not final are these,
    /// 403, 405 and 502.
    pub answer_header: Option<String>,
    headers: Vec<Header>,
}

/// A way to a server that is no TCP connection of our own: a stream through something that is open already.
#[async_trait]
pub trait Underlay: fmt::Debug + Send + Sync + 'static {
    /// A new stream to the server.
    ///
    /// # Errors
    /// Why there is none.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the attempt.
    async fn connect(&self) -> io::Result<Box<dyn ByteStream>>;
}

/// What stands for the other end of a connection over an [`Underlay`].
const NO_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// What a connection was switched to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// The link's bytes as they are.
    Raw,
    /// WebSocket.
    WebSocket,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw upgrade",
            Self::WebSocket => "WebSocket",
        })
    }
}

/// A connection that has switched, and how it was made.
#[non_exhaustive]
pub struct Connected {
    /// What the client's end of the link runs over.
    pub carrier: Box<dyn Carrier>,
    /// What it was switched to.
    pub protocol: Protocol,
    /// The other end of the TCP connection: the server's address, or the proxy's. Unspecified over an [`Underlay`].
    pub peer: SocketAddr,
    /// The proxy in between, if the client goes through one.
    pub proxy: Option<Proxy>,
    /// Why the raw protocol is not used although it was offered first: what became of that offer. `None` where the server
    /// has chosen. Whoever connects again saves an attempt by asking for [`Carriage::WebSocket`].
    pub fell_back: Option<FellBack>,
}

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connected")
            .field("protocol", &self.protocol)
            .field("peer", &self.peer)
            .field("proxy", &self.proxy)
            .field("fell_back", &self.fell_back)
            .finish_non_exhaustive()
    }
}

/// What became of an offer of both protocols that had to be made again for WebSocket alone.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FellBack {
    /// It was answered with this status.
    Status(u16),
    /// There was no answer within [`ConnectOptions::offer_timeout`].
    Silence,
    /// The connection was closed, or the answer was none.
    NoAnswer,
}

impl fmt::Display for FellBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "the raw upgrade was answered with status {status}"),
            Self::Silence => f.write_str("the raw upgrade was not answered"),
            Self::NoAnswer => f.write_str("the connection did not survive the offer of the raw upgrade"),
        }
    }
}

#[derive(Clone)]
struct Header {
    name: String,
    value: String,
    secret: bool,
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = if self.secret { ".." } else { &self.value };
        write!(f, "{}: {value}", self.name)
    }
}

impl ConnectOptions {
    /// Options with the defaults and no further headers.
    #[must_use]
    pub fn new(url: Url, subprotocol: impl Into<String>) -> ConnectOptions {
        ConnectOptions {
            url,
            subprotocol: subprotocol.into(),
            connect_timeout: Duration::from_secs(10),
            carriage: Carriage::default(),
            offer_timeout: Duration::from_secs(4),
            trust: Trust::default(),
            #[cfg(feature = "tls")]
            tls: None,
            proxies: Proxies::none(),
            underlay: None,
            progress: None,
            answer_header: None,
            headers: Vec::new(),
        }
    }

    /// Adds a header to the request.
    #[must_use]
    pub fn header(self, name: &str, value: &str) -> ConnectOptions {
        self.with(name, value, false)
    }

    /// Adds a header whose value is never printed or logged.
    #[must_use]
    pub fn secret_header(self, name: &str, value: &str) -> ConnectOptions {
        self.with(name, value, true)
    }

    /// The names and values of the headers that were added.
    #[cfg(feature = "quic")]
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers
            .iter()
            .map(|header| (header.name.as_str(), header.value.as_str()))
    }

    pub(crate) fn tell(&self, progress: Option<Progress>) {
        // What is waited for over an underlay, that knows.
        if self.underlay.is_none()
            && let Some(told) = &self.progress
        {
            told.send_replace(progress);
        }
    }

    fn with(mut self, name: &str, value: &str, secret: bool) -> ConnectOptions {
        self.headers.push(Header {
            name: name.to_owned(),
            value: value.to_owned(),
            secret,
        });
        self
    }
}

/// An HTTP answer that is not the switch to WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Response {
    /// The status, such as 401.
    pub status: u16,
    /// The body's first line, made fit for a terminal: visible ASCII, at most 300 characters. May be empty.
    pub text: String,
    headers: Vec<(String, String)>,
}

impl Response {
    pub(crate) fn of(head: &http::Head) -> Response {
        let headers = head.headers.iter();
        Response {
            status: head.status,
            text: ws::line(&String::from_utf8_lossy(&head.rest)),
            headers: headers
                .map(|(name, value)| (name.clone(), ws::line(value)))
                .collect(),
        }
    }

    /// The value of a header, made fit for a terminal as [`text`](Response::text) is. The name's case is ignored.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The connection could not be made, or ended before there was an answer.
    #[error("cannot reach {address}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// There was no answer in time.
    #[error("no answer from {address} within {} s", .after.as_secs_f32())]
    TimedOut {
        /// Host and port.
        address: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The server answered the request, but did not switch to a tunnel's protocol.
    #[error("{address} answered with status {}", .response.status)]
    Rejected {
        /// Host and port.
        address: String,
        /// The whole answer.
        response: Response,
    },
    /// The server wants a client certificate, or does not accept ours.
    #[error("{address} does not accept our client certificate: {message}")]
    ClientCertificate {
        /// Host and port.
        address: String,
        /// What it said.
        message: String,
    },
    /// There is no way through the proxy.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// What answered does not speak HTTP, WebSocket or the subprotocol.
    #[error("{address} does not answer as a tunnel: {message}")]
    NotAWebSocket {
        /// Host and port.
        address: String,
        /// What was seen.
        message: String,
    },
    /// What answered over QUIC does not speak the tunnel's protocol.
    #[error("{address} does not answer as a tunnel: {message}")]
    NotATunnel {
        /// Host and port.
        address: String,
        /// What was seen.
        message: String,
    },
    /// The server's certificate is not accepted.
    #[error("the certificate of {address} is not accepted: {message}")]
    Certificate {
        /// Host and port.
        address: String,
        /// What is wrong with it.
        message: String,
    },
    /// The TLS handshake failed for another reason than the certificate. Often the server does not speak TLS at all.
    #[error("TLS with {address} failed: {message}")]
    Tls {
        /// Host and port.
        address: String,
        /// What is wrong.
        message: String,
    },
    /// The URL, or something else that goes into the request, cannot be used.
    #[error("{url} cannot be used: {why}")]
    BadRequest {
        /// The URL, without a password.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file or setting on this side is wrong.
    #[error(transparent)]
    Setup(#[from] crate::Error),
}

/// Connects and makes the client's end of a link.
///
/// # Errors
/// See [`ConnectError`].
///
/// # Cancel safety
/// Dropping the future abandons the attempt.
pub async fn connect(options: &ConnectOptions) -> Result<Link, ConnectError> {
    let carrier = connect_carrier(options).await?;
    Ok(Link::over(carrier, Role::Client))
}

/// Connects and makes no link yet: what [`Link::resumable`], and later its [`Redial`](crate::resume::Redial), want.
///
/// # Errors
/// See [`ConnectError`].
///
/// # Cancel safety
/// Dropping the future abandons the attempt.
pub async fn connect_carrier(options: &ConnectOptions) -> Result<Box<dyn Carrier>, ConnectError> {
    establish(options).await.map(|connected| connected.carrier)
}

/// [`connect_carrier`], which also tells how the connection was made.
///
/// # Errors
/// See [`ConnectError`].
///
/// # Cancel safety
/// Dropping the future abandons the attempt.
pub async fn establish(options: &ConnectOptions) -> Result<Connected, ConnectError> {
    let attempt = Attempt::of(options)?;
    let connected = timeout(options.connect_timeout, attempt.connect()).await;
    options.tell(None);
    match connected {
        Ok(result) => result,
        Err(_) => Err(attempt.timed_out(options.connect_timeout)),
    }
}

/// Where to connect to and what to ask for.
struct Attempt<'a> {
    options: &'a ConnectOptions,
    /// Without brackets.
    host: String,
    port: u16,
    /// Host and port, as shown.
    address: String,
    proxy: Option<&'a Proxy>,
    /// The request up to what the offer adds.
    begin: String,
    /// The headers behind it.
    end: String,
    #[cfg(feature = "tls")]
    config: Option<std::sync::Arc<rustls::ClientConfig>>,
}

/// How one attempt failed.
enum Failed {
    /// The answer to the offer may be a proxy's: WebSocket alone may fare better.
    Offer(FellBack, ConnectError),
    /// Another attempt would fail the same way.
    Finally(ConnectError),
}

impl From<ConnectError> for Failed {
    fn from(error: ConnectError) -> Failed {
        Failed::Finally(error)
    }
}

impl<'a> Attempt<'a> {
    fn of(options: &'a ConnectOptions) -> Result<Attempt<'a>, ConnectError> {
        let url = &options.url;
        let bad = |why: &str| {
            let mut shown = url.clone();
            // Fails for URLs without a host, which have no password either.
            if shown.set_password(None).is_err() {
                shown.set_path("");
            }
            ConnectError::BadRequest {
                url: shown.to_string(),
                why: why.to_owned(),
            }
        };
        let tls = match url.scheme() {
            "ws" => false,
            "wss" if cfg!(feature = "tls") => true,
            "wss" => return Err(bad("this build has no TLS")),
            _ => return Err(bad("it must begin with ws:// or wss://")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("it must not contain a user or a password"));
        }
        let host = url.host_str().ok_or_else(|| bad("it names no host"))?;
        let port = url.port_or_known_default().ok_or_else(|| bad("it has no port"))?;
        let authority = url
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        let begin = format!("GET {}{query} HTTP/1.1\r\nHost: {authority}\r\n", url.path());
        let mut end = String::new();
        for Header { name, value, .. } in &options.headers {
            // What the name is does not matter in the error of a bad name, and may be anything.
            HeaderName::try_from(name)
                .map_err(|_| bad("a header's name has a character that is not allowed"))?;
            HeaderValue::try_from(value).map_err(|_| {
                bad(&format!(
                    "the value of the header {name} has a character that is not allowed"
                ))
            })?;
            end.push_str(&format!("{name}: {value}\r\n"));
        }
        end.push_str("\r\n");
        let address = format!("{host}:{port}");
        // A bare IPv6 host has its brackets in the URL and not in the resolver.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Attempt {
            proxy: match options.underlay {
                Some(_) => None,
                None => options.proxies.choose(tls, &host, port)?,
            },
            #[cfg(feature = "tls")]
            config: match (tls, &options.tls) {
                (false, _) => None,
                (true, Some(prepared)) => Some(prepared.config()),
                (true, None) => Some(crate::tls::client_config(&options.trust, &[b"http/1.1"])?.into()),
            },
            options,
            host,
            port,
            address,
            begin,
            end,
        })
    }

    fn timed_out(&self, after: Duration) -> ConnectError {
        ConnectError::TimedOut {
            address: self.address.clone(),
            after,
        }
    }

    fn unreachable(&self, source: io::Error) -> ConnectError {
        ConnectError::Unreachable {
            address: self.address.clone(),
            source,
        }
    }

    async fn connect(&self) -> Result<Connected, ConnectError> {
        let subprotocol = &self.options.subprotocol;
        let offer = match self.options.carriage {
            Carriage::Auto => Offer::new(true, true, subprotocol),
            Carriage::Raw => Offer::new(true, false, subprotocol),
            Carriage::WebSocket => Offer::new(false, true, subprotocol),
        };
        let fell_back = match self.try_once(&offer).await {
            Ok(connected) => return Ok(connected),
            Err(Failed::Offer(why, _)) if self.options.carriage == Carriage::Auto => why,
            Err(Failed::Offer(_, error) | Failed::Finally(error)) => return Err(error),
        };
        tracing::debug!(address = %self.address, why = %fell_back, "asking for WebSocket alone");
        match self.try_once(&Offer::new(false, true, subprotocol)).await {
            Ok(connected) => Ok(Connected {
                fell_back: Some(fell_back),
                ..connected
            }),
            Err(Failed::Offer(_, error) | Failed::Finally(error)) => Err(error),
        }
    }

    async fn reach(&self) -> Result<Reached, ConnectError> {
        let options = self.options;
        let tell = |progress| options.tell(Some(progress));
        let reached = dial::reach(&self.host, self.port, self.proxy, &options.trust, &tell).await;
        reached.map_err(|error| match error {
            ReachError::Io(source) => self.unreachable(source),
            ReachError::Proxy(error) => error.into(),
            ReachError::Setup(error) => error.into(),
        })
    }

    async fn try_once(&self, offer: &Offer) -> Result<Connected, Failed> {
        if let Some(underlay) = &self.options.underlay {
            let stream = underlay
                .connect()
                .await
                .map_err(|error| self.unreachable(error))?;
            return self.secure(stream, NO_ADDRESS, offer).await;
        }
        let Reached { road, peer } = self.reach().await?;
        match road {
            Road::Tcp(stream) => self.secure(stream, peer, offer).await,
            #[cfg(feature = "tls")]
            Road::ProxyTls(stream) => self.secure(stream, peer, offer).await,
        }
    }

    #[cfg(feature = "tls")]
    async fn secure<S>(&self, stream: S, peer: SocketAddr, offer: &Offer) -> Result<Connected, Failed>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        match &self.config {
            None => self.switch(stream, peer, offer).await,
            Some(config) => {
                let stream = self.handshake(config, stream, peer).await?;
                self.switch(stream, peer, offer).await
            }
        }
    }

    #[cfg(feature = "tls")]
    async fn handshake<S>(
        &self,
        config: &std::sync::Arc<rustls::ClientConfig>,
        stream: S,
        peer: SocketAddr,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.options.tell(Some(Progress::Tls(peer)));
        let prepared = self.options.tls.as_ref();
        let name = prepared.and_then(crate::tls::Prepared::server_name);
        let name = name.unwrap_or(&self.host);
        let handshake = crate::tls::connect(std::sync::Arc::clone(config), name, stream);
        handshake.await.map_err(|error| self.failed_io(error))
    }

    #[cfg(not(feature = "tls"))]
    async fn secure<S>(&self, stream: S, peer: SocketAddr, offer: &Offer) -> Result<Connected, Failed>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.switch(stream, peer, offer).await
    }

    /// What an error of the connection means, TLS or not.
    fn failed_io(&self, error: io::Error) -> ConnectError {
        #[cfg(feature = "tls")]
        if self.config.is_some()
            && let Some(fault) = crate::tls::fault_of(&error)
        {
            use crate::tls::Fault;
            let (address, message) = (self.address.clone(), ws::line(&error.to_string()));
            return match fault {
                Fault::Certificate => ConnectError::Certificate { address, message },
                Fault::ClientCertificate => ConnectError::ClientCertificate { address, message },
                Fault::Other => ConnectError::Tls { address, message },
            };
        }
        self.unreachable(error)
    }

    async fn switch<S>(&self, mut stream: S, peer: SocketAddr, offer: &Offer) -> Result<Connected, Failed>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (protocol, behind) = self.ask(&mut stream, peer, offer).await?;
        Ok(Connected {
            carrier: ws::carrier_over(protocol, stream, Role::Client, behind),
            protocol,
            peer,
            proxy: self.proxy.cloned(),
            fell_back: None,
        })
    }

    /// Asks to switch, and reads the answer: what it was switched to, and what came behind.
    async fn ask<S>(
        &self,
        mut stream: &mut S,
        peer: SocketAddr,
        offer: &Offer,
    ) -> Result<(Protocol, Vec<u8>), Failed>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + ?Sized,
    {
        self.options.tell(Some(Progress::WebSocket(peer)));
        let request = [&self.begin, &offer.headers(), &self.end]
            .map(String::as_str)
            .concat();
        let ask = async {
            stream.write_all(request.as_bytes()).await?;
            stream.flush().await?;
            http::read_head(&mut stream).await
        };
        let answered = if self.options.carriage == Carriage::Auto && offer.is_of_both() {
            // The second attempt needs its time as well.
            let limit = self.options.offer_timeout.min(self.options.connect_timeout / 2);
            match timeout(limit, ask).await {
                Ok(answered) => answered,
                Err(_) => {
                    let error = self.timed_out(limit);
                    return Err(Failed::Offer(FellBack::Silence, error));
                }
            }
        } else {
            ask.await
        };
        let mut head = match answered {
            Ok(head) => head,
            Err(HeadError::Io(error)) => {
                return Err(match self.failed_io(error) {
                    error @ ConnectError::Unreachable { .. } => Failed::Offer(FellBack::NoAnswer, error),
                    error => error.into(),
                });
            }
            Err(HeadError::Ended) => {
                let error = self.unreachable(io::ErrorKind::UnexpectedEof.into());
                return Err(Failed::Offer(FellBack::NoAnswer, error));
            }
            Err(HeadError::NotHttp(message)) => {
                return Err(self.not_a_web_socket(message).into());
            }
        };
        if head.status != 101 {
            head.read_some_body(&mut stream).await;
            return Err(self.rejected(Response::of(&head)));
        }
        let protocol = offer
            .switched_to(&head)
            .map_err(|message| Failed::Offer(FellBack::Status(101), self.not_a_web_socket(message)))?;
        Ok((protocol, head.rest))
    }

    fn not_a_web_socket(&self, message: &str) -> ConnectError {
        ConnectError::NotAWebSocket {
            address: self.address.clone(),
            message: message.to_owned(),
        }
    }

    /// An answer that is no switch. What the server itself has answered stands; a proxy that does not know the raw
    /// protocol may have answered in its place, or taken the request for one without an offer before passing it on.
    fn rejected(&self, response: Response) -> Failed {
        let status = response.status;
        let is_servers = match &self.options.answer_header {
            Some(name) => response.header(name).is_some() && !matches!(status, 400 | 426 | 501),
            None => !matches!(status, 400 | 403 | 405 | 426 | 501 | 502),
        };
        let error = ConnectError::Rejected {
            address: self.address.clone(),
            response,
        };
        if is_servers {
            Failed::Finally(error)
        } else {
            Failed::Offer(FellBack::Status(status), error)
        }
    }
}

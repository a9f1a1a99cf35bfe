//! The client's side of the handshake.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::watch;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::http;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Request};
use url::Url;

use crate::{Carrier, Link, WebSocketCarrier, carrier, ws};

/// Where to connect to, and what to say there.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// `ws://` or `wss://`, with the path to ask for.
    pub url: Url,
    /// The one subprotocol that is offered (RFC 6455 §1.9). A server that does not choose it is an error.
    pub subprotocol: String,
    /// How long connecting may take, all handshakes included. Default: 10 s.
    pub connect_timeout: Duration,
    /// PEM file of the certificate authorities to trust in place of the system's, for `wss://`.
    pub tls_ca: Option<PathBuf>,
    /// Told what is being waited for, and at the end that nothing is. Default: nobody.
    pub progress: Option<watch::Sender<Option<Progress>>>,
    headers: Vec<Header>,
}

/// What a connect is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// The addresses of the host.
    Resolving,
    /// The TCP connection to an address.
    Tcp(SocketAddr),
    /// The TLS handshake with it.
    Tls(SocketAddr),
    /// The WebSocket handshake with it.
    WebSocket(SocketAddr),
    /// The QUIC handshake with an address.
    Quic(SocketAddr),
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolving => f.write_str("name resolution"),
            Self::Tcp(address) => write!(f, "TCP connection to {address}"),
            Self::Tls(address) => write!(f, "TLS handshake with {address}"),
            Self::WebSocket(address) => write!(f, "WebSocket handshake with {address}"),
            Self::Quic(address) => write!(f, "QUIC handshake with {address}"),
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
            tls_ca: None,
            progress: None,
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
        if let Some(told) = &self.progress {
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
    /// An answer whose texts are fit for a terminal.
    #[cfg(feature = "quic")]
    pub(crate) fn new(status: u16, text: String, headers: Vec<(String, String)>) -> Response {
        Response {
            status,
            text,
            headers,
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
    /// The server answered the request, but did not switch to WebSocket.
    #[error("{address} answered with status {}", .response.status)]
    Rejected {
        /// Host and port.
        address: String,
        /// The whole answer.
        response: Response,
    },
    /// What answered does not speak HTTP, WebSocket or the subprotocol.
    #[error("{address} does not answer as a WebSocket: {message}")]
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
    Ok(Link::over(carrier, tunnel_proto::Role::Client))
}

/// Connects and makes no link yet: what [`Link::resumable`], and later its [`Redial`](crate::resume::Redial), want.
///
/// # Errors
/// See [`ConnectError`].
///
/// # Cancel safety
/// Dropping the future abandons the attempt.
pub async fn connect_carrier(options: &ConnectOptions) -> Result<Box<dyn Carrier>, ConnectError> {
    let attempt = Attempt::of(options)?;
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
    tls: bool,
    request: Request<()>,
}

impl Attempt {
    fn of(options: &ConnectOptions) -> Result<Attempt, ConnectError> {
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
        let mut request = Request::builder()
            .uri(format!("{}://{authority}{}{query}", url.scheme(), url.path()))
            .header("Host", &authority)
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", generate_key())
            .header("Sec-WebSocket-Protocol", &options.subprotocol);
        for Header { name, value, secret } in &options.headers {
            let mut value = HeaderValue::try_from(value).map_err(|_| {
                bad(&format!(
                    "the value of the header {name} has a character that is not allowed"
                ))
            })?;
            // Keeps it out of what the HTTP types print.
            value.set_sensitive(*secret);
            request = request.header(name, value);
        }
        let request = request.body(()).map_err(|error| bad(&error.to_string()))?;
        Ok(Attempt {
            address: format!("{host}:{port}"),
            // A bare IPv6 host has its brackets in the URL and not in the resolver.
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port,
            tls,
            request,
        })
    }

    async fn connect(self, options: &ConnectOptions) -> Result<Box<dyn Carrier>, ConnectError> {
        let (tcp, peer) = self
            .reach(options)
            .await
            .map_err(|source| ConnectError::Unreachable {
                address: self.address.clone(),
                source,
            })?;
        carrier::prepare_socket(&tcp);
        if !self.tls {
            options.tell(Some(Progress::WebSocket(peer)));
            return self.upgrade(tcp).await;
        }
        options.tell(Some(Progress::Tls(peer)));
        #[cfg(feature = "tls")]
        {
            use crate::tls;
            let config = tls::client_config(options.tls_ca.as_deref())?;
            let address = self.address.clone();
            let stream = tls::connect(config, &self.host, tcp).await.map_err(|error| {
                let message = ws::line(&error.to_string());
                match tls::fault_of(&error) {
                    Some(tls::Fault::Certificate) => ConnectError::Certificate { address, message },
                    Some(tls::Fault::Other) => ConnectError::Tls { address, message },
                    None => ConnectError::Unreachable {
                        address,
                        source: error,
                    },
                }
            })?;
            options.tell(Some(Progress::WebSocket(peer)));
            self.upgrade(stream).await
        }
        #[cfg(not(feature = "tls"))]
        {
            let address = self.address;
            Err(ConnectError::Tls {
                address,
                message: format!("this build has no TLS; CA {:?}", options.tls_ca),
            })
        }
    }

    /// Connects to the host's addresses, one after the other.
    async fn reach(&self, options: &ConnectOptions) -> io::Result<(TcpStream, SocketAddr)> {
        options.tell(Some(Progress::Resolving));
        let mut last = None;
        for peer in lookup_host((self.host.as_str(), self.port)).await? {
            options.tell(Some(Progress::Tcp(peer)));
            match TcpStream::connect(peer).await {
                Ok(stream) => return Ok((stream, peer)),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
    }

    async fn upgrade<S>(self, stream: S) -> Result<Box<dyn Carrier>, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let address = self.address;
        let config = Some(carrier::web_socket_config());
        match client_async_with_config(self.request, stream, config).await {
            Ok((socket, _)) => Ok(Box::new(WebSocketCarrier::new(socket))),
            Err(tungstenite::Error::Http(response)) => Err(ConnectError::Rejected {
                address,
                response: response_of(&response),
            }),
            Err(tungstenite::Error::Io(source)) => Err(ConnectError::Unreachable { address, source }),
            // The peer closed the connection instead of answering.
            Err(tungstenite::Error::Protocol(ProtocolError::HandshakeIncomplete)) => {
                let source = io::ErrorKind::UnexpectedEof.into();
                Err(ConnectError::Unreachable { address, source })
            }
            Err(error) => Err(ConnectError::NotAWebSocket {
                address,
                message: ws::line(&error.to_string()),
            }),
        }
    }
}

fn response_of(response: &http::Response<Option<Vec<u8>>>) -> Response {
    let body = response.body().as_deref().unwrap_or_default();
    Response {
        status: response.status().as_u16(),
        text: ws::line(&String::from_utf8_lossy(body)),
        headers: response
            .headers()
            .iter()
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes());
                (name.to_string(), ws::line(&value))
            })
            .collect(),
    }
}

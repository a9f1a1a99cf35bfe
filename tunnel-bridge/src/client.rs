//! The near end: connect to a gateway.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Request, Response};
use url::Url;

use crate::server::is_session;
use crate::{Link, Token, WebSocketCarrier, carrier, http, sys};

/// The WebSocket subprotocol of this tunnel, and its version.
pub const SUBPROTOCOL: &str = "devbox-tunnel.1";

/// Where a gateway is and who asks.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// The gateway, `ws://` or `wss://`. Its path is where the gateway is mounted.
    pub gateway: Url,
    /// Who we are.
    pub token: Token,
    /// The session's name: a new connection of the same session takes the former one's place.
    pub session: String,
    /// Grows with each start of the session; the gateway lets the larger one win.
    pub generation: u64,
    /// The environment wanted; `None` for the gateway's only one.
    pub environment: Option<String>,
    /// How long connecting may take, the handshakes included. Default 10 s.
    pub connect_timeout: Duration,
    /// PEM file of the certificate authorities to trust in place of the system's, for `wss://`.
    pub tls_ca: Option<PathBuf>,
}

impl ConnectOptions {
    /// Options with the defaults.
    #[must_use]
    pub fn new(gateway: Url, token: Token, session: impl Into<String>) -> ConnectOptions {
        ConnectOptions {
            gateway,
            token,
            session: session.into(),
            generation: 0,
            environment: None,
            connect_timeout: Duration::from_secs(10),
            tls_ca: None,
        }
    }
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No connection to the gateway's address.
    #[error("cannot reach {address}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The gateway did not answer in time.
    #[error("no answer from {address} within {} s", .after.as_secs_f32())]
    TimedOut {
        /// Host and port.
        address: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The gateway does not take the token.
    #[error("the gateway refused the token{}", with(.message))]
    TokenRefused {
        /// What the gateway said.
        message: String,
    },
    /// The gateway has no such environment.
    #[error("the gateway does not know the environment{}", with(.message))]
    UnknownEnvironment {
        /// What the gateway said.
        message: String,
    },
    /// A connection of the same session with a larger generation is up.
    #[error("a newer connection of this session is up{}", with(.message))]
    Superseded {
        /// What the gateway said.
        message: String,
    },
    /// There is a gateway, or a proxy before it, that cannot serve at the moment.
    #[error("the gateway is not available (status {status}){}", with(.message))]
    Unavailable {
        /// The HTTP status: 429, 502, 503 or 504.
        status: u16,
        /// What it said.
        message: String,
    },
    /// What answered is not a gateway of this protocol.
    #[error("what answers there is not a devbox gateway (status {status}){}", with(.message))]
    NotAGateway {
        /// The HTTP status; 0 when the answer was no HTTP.
        status: u16,
        /// What it said.
        message: String,
    },
    /// The TLS handshake failed, the gateway's certificate above all.
    #[error("tls with {address} failed: {message}")]
    Tls {
        /// Host and port.
        address: String,
        /// What is wrong.
        message: String,
    },
    /// The gateway's URL, or a name that goes into the request, cannot be used.
    #[error("{url} cannot be used: {why}")]
    BadUrl {
        /// The URL, without a password.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file or setting of ours is wrong.
    #[error(transparent)]
    Setup(#[from] crate::Error),
}

fn with(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

/// Connects to a gateway.
///
/// # Errors
/// See [`ConnectError`].
///
/// # Cancel safety
/// Dropping it gives the connection up.
pub async fn connect(options: &ConnectOptions) -> Result<Link, ConnectError> {
    let gateway = Gateway::of(options)?;
    let address = gateway.address.clone();
    match tokio::time::timeout(options.connect_timeout, gateway.connect(options)).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::TimedOut {
            address,
            after: options.connect_timeout,
        }),
    }
}

/// Where to connect to and what to ask for.
struct Gateway {
    host: String,
    port: u16,
    /// Host and port, as shown.
    address: String,
    tls: bool,
    request: Request<()>,
}

impl Gateway {
    fn of(options: &ConnectOptions) -> Result<Gateway, ConnectError> {
        let url = &options.gateway;
        let bad = |why: &str| {
            let mut shown = url.clone();
            // Fails for URLs without a host, which have no password either.
            if shown.set_password(None).is_err() {
                shown.set_path("");
            }
            ConnectError::BadUrl {
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
            return Err(bad(
                "a user or password in it would be sent to nobody; use a token file",
            ));
        }
        let host = url.host_str().ok_or_else(|| bad("it names no host"))?;
        let port = url.port_or_known_default().ok_or_else(|| bad("it has no port"))?;
        if !is_session(&options.session) {
            return Err(bad(
                "the session's name must be 1 to 128 letters, digits, '-', '.', '_' or '~'",
            ));
        }
        let authority = url
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let path = format!(
            "{}{}{}",
            url.path().trim_end_matches('/'),
            http::TUNNEL_PATH,
            options.session
        );
        let secret = secret(&options.token).map_err(|_| bad("the token cannot stand in a header"))?;
        let mut request = Request::builder()
            .uri(format!("{}://{authority}{path}", url.scheme()))
            .header("Host", &authority)
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", generate_key())
            .header("Sec-WebSocket-Protocol", SUBPROTOCOL)
            .header(http::GENERATION, options.generation)
            .header("Authorization", secret);
        if let Some(environment) = &options.environment {
            request = request.header(http::ENVIRONMENT, environment);
        }
        let request = request.body(()).map_err(|error| bad(&error.to_string()))?;
        // A bare IPv6 host has its brackets in the URL and not in the resolver.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Gateway {
            host,
            port,
            address: format!("{}:{port}", url.host_str().unwrap_or_default()),
            tls,
            request,
        })
    }

    async fn connect(self, options: &ConnectOptions) -> Result<Link, ConnectError> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|source| ConnectError::Unreachable {
                address: self.address.clone(),
                source,
            })?;
        sys::prepare_link(&tcp);
        if !self.tls {
            return self.upgrade(tcp).await;
        }
        #[cfg(feature = "tls")]
        {
            let config = crate::tls::client_config(options.tls_ca.as_deref())?;
            let tls = crate::tls::connect(config, &self.host, tcp)
                .await
                .map_err(|error| {
                    if crate::tls::is_tls(&error) {
                        ConnectError::Tls {
                            address: self.address.clone(),
                            message: error.to_string(),
                        }
                    } else {
                        ConnectError::Unreachable {
                            address: self.address.clone(),
                            source: error,
                        }
                    }
                })?;
            self.upgrade(tls).await
        }
        #[cfg(not(feature = "tls"))]
        {
            let address = self.address;
            Err(ConnectError::Tls {
                address,
                message: format!("no TLS in this build; CA {:?}", options.tls_ca),
            })
        }
    }

    async fn upgrade<S>(self, stream: S) -> Result<Link, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let config = Some(carrier::web_socket_config());
        match client_async_with_config(self.request, stream, config).await {
            Ok((socket, _)) => Ok(Link::over(
                WebSocketCarrier::new(socket),
                tunnel_proto::Role::Client,
            )),
            Err(tungstenite::Error::Http(response)) => Err(refused(&response)),
            Err(tungstenite::Error::Io(source)) => Err(ConnectError::Unreachable {
                address: self.address,
                source,
            }),
            // The peer ended the connection in place of an answer.
            Err(tungstenite::Error::Protocol(ProtocolError::HandshakeIncomplete)) => {
                let source = io::ErrorKind::UnexpectedEof.into();
                Err(ConnectError::Unreachable {
                    address: self.address,
                    source,
                })
            }
            Err(error) => Err(ConnectError::NotAGateway {
                status: 0,
                message: http::line(&error.to_string()),
            }),
        }
    }
}

fn secret(token: &Token) -> Result<HeaderValue, tungstenite::http::Error> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose()))?;
    // Keeps it out of what the HTTP types print.
    value.set_sensitive(true);
    Ok(value)
}

fn refused(response: &Response<Option<Vec<u8>>>) -> ConnectError {
    let status = response.status().as_u16();
    let said = response
        .headers()
        .get(http::MESSAGE)
        .map(|value| String::from_utf8_lossy(value.as_bytes()));
    let ours = said.is_some();
    let body = || {
        response
            .body()
            .as_deref()
            .map(String::from_utf8_lossy)
            .unwrap_or_default()
    };
    let message = http::line(&said.unwrap_or_else(body));
    match status {
        401 | 403 => ConnectError::TokenRefused { message },
        404 if ours => ConnectError::UnknownEnvironment { message },
        409 if ours => ConnectError::Superseded { message },
        429 | 502 | 503 | 504 => ConnectError::Unavailable { status, message },
        _ => ConnectError::NotAGateway { status, message },
    }
}

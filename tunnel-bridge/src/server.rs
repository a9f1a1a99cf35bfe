//! The far end: take a connection that a client made.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol;

use crate::http::{self, Request};
use crate::{Link, Token, WebSocketCarrier, carrier, sys};

/// How long a client may take for its request.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// Longest name of a session.
const MAX_SESSION_BYTES: usize = 128;

const WHAT_THIS_IS: &str =
    "This is a devbox gateway. It carries tunnels for the devbox command: devbox up --gateway ...";
const NOT_HERE: &str =
    "This is a devbox gateway, and here is nothing. Tunnels are at /kube/devbox/tunnel/client/{session}.";

/// What a client asks for, before it is let in.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Offer {
    /// The session's name.
    pub session: String,
    /// The token it shows, if any.
    pub token: Option<Token>,
    /// The environment it wants, if it named one.
    pub environment: Option<String>,
    /// The connection's generation; the larger one of a session wins.
    pub generation: u64,
}

/// Who was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Admitted {
    /// The session's name.
    pub session: String,
    /// The environment it wants, if it named one.
    pub environment: Option<String>,
    /// The connection's generation.
    pub generation: u64,
}

/// Why a client is not let in: an HTTP status that [`ConnectError`](crate::client::ConnectError) is made of, and a
/// line for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// 401 and 403: the token. 404: the environment. 409: a newer generation is connected. 503: not now.
    pub status: u16,
    /// One line.
    pub message: String,
}

impl Rejection {
    /// The token is missing or wrong.
    pub fn token(message: impl Into<String>) -> Rejection {
        Rejection {
            status: 401,
            message: message.into(),
        }
    }

    /// There is no such environment here.
    pub fn unknown_environment(message: impl Into<String>) -> Rejection {
        Rejection {
            status: 404,
            message: message.into(),
        }
    }

    /// A newer connection of the session is up.
    pub fn superseded(message: impl Into<String>) -> Rejection {
        Rejection {
            status: 409,
            message: message.into(),
        }
    }

    /// Not now.
    pub fn unavailable(message: impl Into<String>) -> Rejection {
        Rejection {
            status: 503,
            message: message.into(),
        }
    }
}

/// Why a connection did not become a link. The client has been answered, where it could be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The request did not come in time.
    #[error("no request within {} s", .after.as_secs())]
    TimedOut {
        /// How long it was waited for.
        after: Duration,
    },
    /// It is no HTTP request that we can read.
    #[error("not a request: {why}")]
    BadRequest {
        /// What is wrong with it.
        why: &'static str,
    },
    /// It is a request for something else; answered with a short text.
    #[error("a request for {path}, which is no tunnel")]
    NotATunnel {
        /// What it asked for.
        path: String,
    },
    /// The client was not let in.
    #[error("not let in (status {status}): {message}")]
    Rejected {
        /// The HTTP status that it was told.
        status: u16,
        /// The line that it was told.
        message: String,
    },
}

/// Reads a client's request, asks `check` whether to let it in, and makes the link.
///
/// # Errors
/// See [`ServerError`].
///
/// # Cancel safety
/// Dropping it closes the connection.
pub async fn accept<S, F>(stream: S, check: F) -> Result<(Link, Admitted), ServerError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    F: FnOnce(&Offer) -> Result<(), Rejection>,
{
    let mut stream = stream;
    let request = match tokio::time::timeout(REQUEST_TIME, Request::read(&mut stream)).await {
        Err(_) => return Err(ServerError::TimedOut { after: REQUEST_TIME }),
        Ok(Err(error @ ServerError::BadRequest { why })) => {
            http::answer(&mut stream, 400, why, false).await?;
            return Err(error);
        }
        Ok(request) => request?,
    };
    let Some(session) = session_of(&request.path) else {
        let (status, text) = if request.path == "/" {
            (200, WHAT_THIS_IS)
        } else {
            (404, NOT_HERE)
        };
        http::answer(&mut stream, status, text, false).await?;
        return Err(ServerError::NotATunnel {
            path: http::line(&request.path),
        });
    };
    if request.method != "GET" {
        http::answer(&mut stream, 405, "a tunnel is asked for with GET", true).await?;
        return Err(ServerError::BadRequest {
            why: "its method is not GET",
        });
    }
    let key = match request.web_socket_key() {
        Ok(key) => key,
        Err(why) => {
            http::answer(&mut stream, 426, why, true).await?;
            return Err(ServerError::BadRequest { why });
        }
    };
    let Some(generation) = request
        .header(http::GENERATION)
        .map_or(Some(0), |text| text.parse().ok())
    else {
        let why = "its Devbox-Generation is no number";
        http::answer(&mut stream, 400, why, true).await?;
        return Err(ServerError::BadRequest { why });
    };
    let bearer = request.header("authorization").and_then(bearer);
    let offer = Offer {
        session: session.to_owned(),
        token: bearer.and_then(|text| Token::new(text).ok()),
        environment: request.header(http::ENVIRONMENT).map(http::line),
        generation,
    };
    if let Err(Rejection { status, message }) = check(&offer) {
        http::answer(&mut stream, status, &message, true).await?;
        return Err(ServerError::Rejected { status, message });
    }
    http::switch_protocols(&mut stream, key).await?;
    let config = Some(carrier::web_socket_config());
    let socket =
        WebSocketStream::from_partially_read(stream, request.rest.clone(), protocol::Role::Server, config)
            .await;
    let admitted = Admitted {
        session: offer.session,
        environment: offer.environment,
        generation,
    };
    Ok((
        Link::over(WebSocketCarrier::new(socket), tunnel_proto::Role::Server),
        admitted,
    ))
}

/// Prepares the socket under a link as its other end does: small writes at once, a dead peer noticed, and little
/// queued in the kernel, so that small requests overtake bulk. Call it on what was accepted, before TLS.
pub fn prepare_socket(stream: &tokio::net::TcpStream) {
    sys::prepare_link(stream);
}

/// The session in a tunnel's path; what stands before is where the gateway is mounted.
fn session_of(path: &str) -> Option<&str> {
    let (_, session) = path.rsplit_once(http::TUNNEL_PATH)?;
    is_session(session).then_some(session)
}

/// Whether a text can be a session's name: it stands in a path as it is.
pub(crate) fn is_session(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    (1..=MAX_SESSION_BYTES).contains(&text.len()) && text.bytes().all(allowed)
}

/// The token of an Authorization header; the scheme's case is free (RFC 9110 §11.1).
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

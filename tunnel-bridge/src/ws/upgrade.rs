//! The server's side of the handshake: one request, one answer.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Protocol;
use crate::carrier::MessageStream;
use crate::{Carrier, Link, Role, ws};

/// How long a client may take to send its request.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// The longest head of a request.
const MAX_HEAD_BYTES: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;

/// Why a connection did not become a link.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// The connection failed, or ended inside the request.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The request did not arrive in time.
    #[error("no request within {} s", .after.as_secs())]
    TimedOut {
        /// How long it was waited for.
        after: Duration,
    },
    /// It is no HTTP request, or one over the limits. The client was answered with 400.
    #[error("not a request: {why}")]
    BadRequest {
        /// What is wrong with it.
        why: &'static str,
    },
    /// The request does not ask for this protocol.
    #[error(transparent)]
    NotAWebSocket(#[from] NotAWebSocket),
}

/// Why a request cannot be answered by switching: neither to the raw protocol nor to WebSocket (RFC 6455 §4.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotAWebSocket {
    /// Its method is not GET.
    #[error("a WebSocket is asked for with GET")]
    Method,
    /// It asks for no upgrade, or for one to something else.
    #[error("this address expects a WebSocket")]
    NoUpgrade,
    /// It wants another version of WebSocket than 13.
    #[error("only version 13 of WebSocket is known here")]
    Version,
    /// It does not offer the subprotocol, or the raw protocol in another version.
    #[error("the client does not offer the subprotocol that is spoken here")]
    Subprotocol,
    /// It has no key.
    #[error("the request has no Sec-WebSocket-Key")]
    NoKey,
}

/// A client's request that has been read and waits for its answer.
///
/// Its head has at most 16 KiB and 64 headers and arrived within 10 s. Nothing in it has been checked but that it is
/// HTTP/1.1. Dropping it closes the connection without an answer.
#[derive(Debug)]
pub struct Upgrade<S> {
    stream: S,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    /// What came behind the head.
    rest: Vec<u8>,
}

impl<S> Upgrade<S>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    /// Reads a client's request.
    ///
    /// # Errors
    /// [`AcceptError::Io`], [`AcceptError::TimedOut`], and [`AcceptError::BadRequest`], which was answered with 400.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn read(mut stream: S) -> Result<Upgrade<S>, AcceptError> {
        match tokio::time::timeout(REQUEST_TIME, read_head(&mut stream)).await {
            Err(_) => Err(AcceptError::TimedOut { after: REQUEST_TIME }),
            Ok(Ok(head)) => Ok(Upgrade {
                stream,
                method: head.method,
                path: head.path,
                headers: head.headers,
                rest: head.rest,
            }),
            Ok(Err(error)) => {
                if let AcceptError::BadRequest { why } = error {
                    respond(&mut stream, 400, why, &[]).await?;
                }
                Err(error)
            }
        }
    }

    /// The method, such as `GET`.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The path, without query and fragment.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The value of the first header of this name, without white space around it. The name's case is ignored.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }

    /// What [`accept`](Upgrade::accept) switches to: of the raw protocol and a WebSocket of this subprotocol the one that
    /// the client prefers.
    ///
    /// # Errors
    /// [`NotAWebSocket`]; 426 is the status to [`answer`](Upgrade::answer) with, 405 for
    /// [`NotAWebSocket::Method`].
    pub fn check(&self, subprotocol: &str) -> Result<Protocol, NotAWebSocket> {
        Ok(match self.wanted(subprotocol)? {
            Switch::Raw(_) => Protocol::Raw,
            Switch::WebSocket(_) => Protocol::WebSocket,
        })
    }

    /// Switches, and makes the server's end of a link.
    ///
    /// # Errors
    /// [`AcceptError::NotAWebSocket`] where [`check`](Upgrade::check) fails; then the client gets no answer.
    /// [`AcceptError::Io`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn accept(self, subprotocol: &str) -> Result<Link, AcceptError> {
        let carrier = self.accept_carrier(subprotocol).await?;
        Ok(Link::over(carrier, Role::Server))
    }

    /// Switches, and makes no link yet: what a [`Desk`](crate::resume::Desk) takes.
    ///
    /// # Errors
    /// As [`accept`](Upgrade::accept).
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn accept_carrier(mut self, subprotocol: &str) -> Result<Box<dyn Carrier>, AcceptError> {
        let protocol = match self.wanted(subprotocol)? {
            Switch::Raw(name) => {
                self.switch(&format!("Upgrade: {name}\r\n")).await?;
                Protocol::Raw
            }
            Switch::WebSocket(key) => {
                let headers = web_socket(key, subprotocol);
                self.switch(&headers).await?;
                Protocol::WebSocket
            }
        };
        Ok(ws::carrier_over(protocol, self.stream, Role::Server, self.rest))
    }

    /// Switches to a WebSocket whose messages mean something by themselves. The raw protocol is none.
    ///
    /// # Errors
    /// As [`accept`](Upgrade::accept).
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn accept_messages(mut self, subprotocol: &str) -> Result<MessageStream, AcceptError> {
        let Switch::WebSocket(key) = self.wanted(subprotocol)? else {
            return Err(NotAWebSocket::NoUpgrade.into());
        };
        let headers = web_socket(key, subprotocol);
        self.switch(&headers).await?;
        Ok(MessageStream::new(
            Box::new(self.stream),
            Role::Server,
            &self.rest,
        ))
    }

    async fn switch(&mut self, headers: &str) -> io::Result<()> {
        let head = format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n{headers}\r\n");
        self.stream.write_all(head.as_bytes()).await?;
        self.stream.flush().await
    }

    /// Answers with a short text and closes the connection. What cannot stand in a header becomes `?`.
    ///
    /// # Errors
    /// What the connection failed with.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn answer(mut self, status: u16, text: &str, headers: &[(&str, &str)]) -> io::Result<()> {
        respond(&mut self.stream, status, text, headers).await
    }

    /// What the request asks for, of what is known here.
    fn wanted(&self, subprotocol: &str) -> Result<Switch<'_>, NotAWebSocket> {
        if self.method != "GET" {
            return Err(NotAWebSocket::Method);
        }
        if !self.lists("connection", "upgrade") {
            return Err(NotAWebSocket::NoUpgrade);
        }
        let raw = ws::raw_protocol(subprotocol);
        let mut other_version = false;
        // In the client's order of preference (RFC 9110 §7.8).
        for protocol in self.list("upgrade") {
            if protocol.eq_ignore_ascii_case(&raw) {
                return Ok(Switch::Raw(raw));
            }
            if protocol.eq_ignore_ascii_case("websocket") {
                return self.key(subprotocol).map(Switch::WebSocket);
            }
            let name = |text: &'_ str| text.split('/').next().unwrap_or_default().to_ascii_lowercase();
            other_version |= name(protocol) == name(&raw);
        }
        Err(if other_version {
            NotAWebSocket::Subprotocol
        } else {
            NotAWebSocket::NoUpgrade
        })
    }

    fn key(&self, subprotocol: &str) -> Result<&str, NotAWebSocket> {
        if self.header("sec-websocket-version") != Some("13") {
            return Err(NotAWebSocket::Version);
        }
        if !self.lists("sec-websocket-protocol", subprotocol) {
            return Err(NotAWebSocket::Subprotocol);
        }
        self.header("sec-websocket-key").ok_or(NotAWebSocket::NoKey)
    }

    /// Whether a header that is a list has this item.
    fn lists(&self, name: &str, item: &str) -> bool {
        self.list(name).any(|part| part.eq_ignore_ascii_case(item))
    }

    /// The items of a header that is a list. It may be in the head more than once (RFC 9110 §5.3).
    fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |(known, _)| known.eq_ignore_ascii_case(name))
            .flat_map(|(_, value)| value.split(','))
            .map(str::trim)
    }
}

/// The headers of an answer that switches to a WebSocket.
fn web_socket(key: &str, subprotocol: &str) -> String {
    let accept = derive_accept_key(key.as_bytes());
    format!(
        "Upgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\
         Sec-WebSocket-Protocol: {subprotocol}\r\n"
    )
}

/// What a request asks for.
enum Switch<'a> {
    /// The raw protocol, by its name.
    Raw(String),
    /// A WebSocket, with this key.
    WebSocket(&'a str),
}

/// The head of a request, and what came behind it.
#[derive(Debug, Default)]
pub(crate) struct Head {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) rest: Vec<u8>,
}

pub(crate) async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Head, AcceptError> {
    let mut bytes = Vec::with_capacity(2048);
    loop {
        if let Some(head) = parse_head(&bytes)? {
            return Ok(head);
        }
        if bytes.len() >= MAX_HEAD_BYTES {
            let why = "its head is longer than 16 KiB";
            return Err(AcceptError::BadRequest { why });
        }
        let room = (MAX_HEAD_BYTES - bytes.len()) as u64;
        if (&mut *stream).take(room).read_buf(&mut bytes).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

fn parse_head(bytes: &[u8]) -> Result<Option<Head>, AcceptError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            let why = "it has more than 64 headers";
            return Err(AcceptError::BadRequest { why });
        }
        Err(_) => {
            let why = "it is not HTTP/1.1";
            return Err(AcceptError::BadRequest { why });
        }
    };
    let path = parsed.path.unwrap_or_default();
    Ok(Some(Head {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: path.split(['?', '#']).next().unwrap_or_default().to_owned(),
        headers: parsed
            .headers
            .iter()
            .map(|header| {
                let value = String::from_utf8_lossy(header.value).into_owned();
                (header.name.to_owned(), value)
            })
            .collect(),
        rest: bytes[length..].to_vec(),
    }))
}

pub(crate) async fn respond<S>(
    stream: &mut S,
    status: u16,
    text: &str,
    headers: &[(&str, &str)],
) -> io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Error",
    };
    // RFC 9110 §11.6.1, §15.5.6 and §15.5.22 require these.
    let mut extra = match status {
        401 => "WWW-Authenticate: Bearer\r\n",
        405 => "Allow: GET\r\n",
        426 => "Upgrade: websocket\r\n",
        _ => "",
    }
    .to_owned();
    for (name, value) in headers {
        extra.push_str(&format!("{name}: {}\r\n", ws::line(value)));
    }
    let response = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n{extra}\r\n{text}\n",
        text.len() + 1
    );
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

//! The little HTTP that a link begins with: one request, one answer.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::client::SUBPROTOCOL;
use crate::server::ServerError;

/// What tunnels are under, on every gateway.
pub(crate) const TUNNEL_PATH: &str = "/kube/devbox/tunnel/client/";

pub(crate) const ENVIRONMENT: &str = "devbox-environment";
pub(crate) const GENERATION: &str = "devbox-generation";
/// On every answer of a gateway to a tunnel request that it understood: one line for a person.
pub(crate) const MESSAGE: &str = "devbox-message";

/// Longest head of a request: a token has 4 KiB at most.
const MAX_HEAD_BYTES: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;

/// The head of a request, and what came behind it.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    headers: Vec<(String, String)>,
    pub(crate) rest: Vec<u8>,
}

impl Request {
    /// Reads a request's head.
    pub(crate) async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Request, ServerError> {
        let mut bytes = Vec::with_capacity(2048);
        loop {
            if let Some(request) = Request::parse(&bytes)? {
                return Ok(request);
            }
            if bytes.len() >= MAX_HEAD_BYTES {
                return Err(ServerError::BadRequest {
                    why: "its head is longer than 16 KiB",
                });
            }
            let room = (MAX_HEAD_BYTES - bytes.len()) as u64;
            if (&mut *stream).take(room).read_buf(&mut bytes).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    fn parse(bytes: &[u8]) -> Result<Option<Request>, ServerError> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Request::new(&mut headers);
        let len = match parsed.parse(bytes) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => {
                return Err(ServerError::BadRequest {
                    why: "it is no HTTP/1.1",
                });
            }
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let path = parsed.path.unwrap_or_default();
        Ok(Some(Request {
            method: parsed.method.unwrap_or_default().to_owned(),
            path: path.split(['?', '#']).next().unwrap_or_default().to_owned(),
            headers: parsed
                .headers
                .iter()
                .map(|h| (h.name.to_ascii_lowercase(), text(h.value)))
                .collect(),
            rest: bytes[len..].to_vec(),
        }))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.trim())
    }

    fn lists(&self, name: &str, item: &str) -> bool {
        let listed = |value: &String| {
            value
                .split(',')
                .any(|part| part.trim().eq_ignore_ascii_case(item))
        };
        self.headers.iter().any(|(n, value)| n == name && listed(value))
    }

    /// The key of a request that asks for a WebSocket of ours, or why it is none (RFC 6455 §4.2.1).
    pub(crate) fn web_socket_key(&self) -> Result<&str, &'static str> {
        if !self.lists("connection", "upgrade") || !self.lists("upgrade", "websocket") {
            return Err("this is the address of a tunnel: it wants a WebSocket");
        }
        if self.header("sec-websocket-version") != Some("13") {
            return Err("only version 13 of WebSocket is known here");
        }
        if !self.lists("sec-websocket-protocol", SUBPROTOCOL) {
            return Err("this gateway speaks devbox-tunnel.1 only; is the client of another version?");
        }
        self.header("sec-websocket-key")
            .ok_or("the request has no Sec-WebSocket-Key")
    }
}

/// Says that the WebSocket stands.
pub(crate) async fn switch_protocols<S>(stream: &mut S, key: &str) -> std::io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    let accept = derive_accept_key(key.as_bytes());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await
}

/// Answers with a short text and ends the connection. `message`: whether the answer is a gateway's own, to a tunnel
/// request that it understood.
pub(crate) async fn answer<S>(stream: &mut S, status: u16, text: &str, ours: bool) -> std::io::Result<()>
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
        503 => "Service Unavailable",
        _ => "Error",
    };
    let extra = match status {
        // RFC 9110 §11.6.1, §15.5.6 and §15.5.22 want these.
        401 => "WWW-Authenticate: Bearer\r\n",
        405 => "Allow: GET\r\n",
        426 => "Upgrade: websocket\r\n",
        _ => "",
    };
    let message = if ours {
        format!("{MESSAGE}: {}\r\n", line(text))
    } else {
        String::new()
    };
    let response = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n{extra}{message}\r\n{text}\n",
        text.len() + 1
    );
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

/// What of a text may stand in a header and be shown: one line of visible ASCII, at most 300 characters.
pub(crate) fn line(text: &str) -> String {
    let visible = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    text.trim()
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(300)
        .map(visible)
        .collect()
}

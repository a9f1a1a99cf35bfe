//! One TLS connection for each stream, in place of a link that carries them all: the kernel's own windows, and nothing
//! shared between streams but the session that later handshakes resume.
//!
//! [`TlsDialer`] is the near side, [`accept`] the far side. Behind the handshake the client says its target, and its bytes
//! may follow at once; the server answers whether it is connected, and what follows is the stream itself. close_notify ends
//! one direction (RFC 8446 §6.1), and TCP's RST resets the stream: an end of file without close_notify counts as a reset.
//!
//! ```
//! use std::sync::Arc;
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use tunnel_bridge::per_stream::{self, TlsDialer};
//! use tunnel_bridge::tls::{Acceptor, ServerOptions};
//! use tunnel_bridge::{Dialer, Target, Trust};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
//! # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
//! # std::fs::write(&certificate, made.cert.pem())?;
//! # std::fs::write(&key, made.signing_key.serialize_pem())?;
//! let mut server = ServerOptions::new(&certificate, &key);
//! server.alpn = vec![per_stream::ALPN.to_vec()];
//! let acceptor = Acceptor::new(&server)?;
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let port = listener.local_addr()?.port();
//! let far = async {
//!     let stream = acceptor.accept(listener.accept().await?.0).await?;
//!     let incoming = per_stream::accept(stream).await?;
//!     assert_eq!(incoming.target().as_str(), "echo");
//!     let mut stream = incoming.accept().await?;
//!     stream.write_all(b"hello").await?;
//!     stream.shutdown().await
//! };
//! let mut trust = Trust::default();
//! trust.ca = Some(certificate.clone());
//! let dialer = TlsDialer::new("localhost", port, &trust)?;
//! let near = async {
//!     let mut stream = dialer.dial(&Target::new("echo")?).await?;
//!     let mut text = String::new();
//!     stream.read_to_string(&mut text).await?;
//!     Ok::<_, Box<dyn std::error::Error>>(text)
//! };
//! let (text, served) = tokio::join!(near, far);
//! served?;
//! assert_eq!(text?, "hello");
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsStream, server};

use crate::dial::Proxies;
use crate::direct::DIAL_TIMEOUT;
use crate::rest::WithRest;
use crate::stream::Broken;
use crate::tls::{ClientStream, Secured, TlsClient};
use crate::{ByteStream, Dialer, Error, MAX_TARGET_BYTES, Refusal, RefusalKind, Target, Trust, sys, tls};

/// The protocol's name in the handshake (RFC 7301).
pub const ALPN: &[u8] = b"devbox-stream/1";

/// How long a client may take to say its target.
const PREFACE_TIME: Duration = Duration::from_secs(10);

/// The longest message of a refusal.
const MAX_MESSAGE_BYTES: usize = 1024;

const CONNECTED: u8 = 0;

/// Dials each target over a TLS connection of its own.
///
/// A dial returns once the handshake is over (optimistic open): the bytes behind it leave with the target.
#[derive(Debug, Clone)]
pub struct TlsDialer {
    client: TlsClient,
    timeout: Duration,
}

impl TlsDialer {
    /// A dialer to the server at `host`, a name or an address without brackets. The files of `trust` are read here, once.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::BadPem`], [`Error::Tls`].
    pub fn new(host: impl Into<String>, port: u16, trust: &Trust) -> Result<TlsDialer, Error> {
        Ok(TlsDialer {
            client: TlsClient::new(host, port, trust, ALPN)?,
            timeout: DIAL_TIMEOUT,
        })
    }

    /// Goes through these proxies.
    #[must_use]
    pub fn proxies(self, proxies: Proxies) -> TlsDialer {
        TlsDialer {
            client: self.client.proxies(proxies),
            ..self
        }
    }

    /// How long connecting to the server may take, its handshake included. Default: [`DIAL_TIMEOUT`].
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> TlsDialer {
        TlsDialer { timeout, ..self }
    }

    async fn dial_in_any_time(&self, target: &Target) -> Result<Box<dyn ByteStream>, Refusal> {
        match self.client.connect().await? {
            Secured::Direct(stream) => self.open((*stream).into(), target).await,
            Secured::Proxied(stream) => self.open((*stream).into(), target).await,
        }
    }

    async fn open<S>(&self, stream: TlsStream<S>, target: &Target) -> Result<Box<dyn ByteStream>, Refusal>
    where
        S: Connected + AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut stream = SecureStream::new(stream, Answer::Awaited);
        let text = target.as_str().as_bytes();
        // `Target` has checked the length.
        let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
        let preface = [&length.to_be_bytes()[..], text].concat();
        let say = async {
            stream.write_all(&preface).await?;
            stream.flush().await
        };
        say.await.map_err(|error| self.client.refusal_of(&error))?;
        Ok(Box::new(stream))
    }
}

#[async_trait]
impl Dialer for TlsDialer {
    async fn dial(&self, target: &Target) -> Result<Box<dyn ByteStream>, Refusal> {
        let dialing = tokio::time::timeout(self.timeout, self.dial_in_any_time(target));
        dialing
            .await
            .unwrap_or_else(|_| Err(self.client.silent(self.timeout)))
    }
}

/// A client's stream that waits for its answer. Dropping it resets the stream.
#[derive(Debug)]
pub struct IncomingStream {
    stream: SecureStream<TcpStream>,
    target: Target,
}

/// Reads the target of a stream behind the handshake. It has 10 s, and a target one to [`MAX_TARGET_BYTES`] bytes.
///
/// # Errors
/// [`InvalidData`](io::ErrorKind::InvalidData) for what is no target, [`TimedOut`](io::ErrorKind::TimedOut), and what
/// the connection failed with; it is reset.
///
/// # Cancel safety
/// Dropping the future resets the connection.
pub async fn accept(stream: server::TlsStream<TcpStream>) -> io::Result<IncomingStream> {
    let speaks = stream.get_ref().1.alpn_protocol() == Some(ALPN);
    let mut stream = SecureStream::new(stream.into(), Answer::Connected);
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why);
    if !speaks {
        return Err(invalid("the client does not speak devbox-stream/1"));
    }
    let read = async {
        let length = usize::from(stream.read_u16().await?);
        if !(1..=MAX_TARGET_BYTES).contains(&length) {
            return Err(invalid("a target has 1 to 512 bytes"));
        }
        let mut text = vec![0; length];
        stream.read_exact(&mut text).await?;
        let text = String::from_utf8(text).map_err(|_| invalid("a target is UTF-8"))?;
        Target::new(&text).map_err(|error| invalid(&error.to_string()))
    };
    let target = tokio::time::timeout(PREFACE_TIME, read).await??;
    Ok(IncomingStream { stream, target })
}

impl IncomingStream {
    /// What the client wants to be connected to.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Who the client is, if it showed a certificate.
    #[must_use]
    pub fn identity(&self) -> Option<tls::PeerIdentity> {
        match &self.stream.stream {
            TlsStream::Server(stream) => tls::peer_identity(stream),
            TlsStream::Client(_) => None,
        }
    }

    /// Tells the client that it is connected.
    ///
    /// # Errors
    /// What the connection failed with.
    ///
    /// # Cancel safety
    /// Dropping the future resets the stream.
    pub async fn accept(mut self) -> io::Result<Box<dyn ByteStream>> {
        self.stream.write_u8(CONNECTED).await?;
        self.stream.flush().await?;
        Ok(Box::new(self.stream))
    }

    /// Tells the client why it is not connected.
    ///
    /// # Errors
    /// What the connection failed with.
    ///
    /// # Cancel safety
    /// Dropping the future resets the stream.
    pub async fn refuse(mut self, refusal: &Refusal) -> io::Result<()> {
        // Codes are small, and none of them is 0.
        let code = u8::try_from(refusal.kind.code()).unwrap_or(u8::MAX);
        let mut answer = vec![code];
        let message = refusal.message.as_bytes();
        answer.extend_from_slice(&message[..message.len().min(MAX_MESSAGE_BYTES)]);
        self.stream.write_all(&answer).await?;
        self.stream.shutdown().await?;
        // Unread bytes of the client would turn our end into a reset, which may overtake the answer.
        let mut sink = [0; 4096];
        let drain = async { while matches!(self.stream.read(&mut sink).await, Ok(1..)) {} };
        drop(tokio::time::timeout(LINGER, drain).await);
        Ok(())
    }
}

/// How long a client may take to read why it was refused.
const LINGER: Duration = Duration::from_secs(1);

/// What a stream's TLS runs over.
trait Connected {
    /// The connection at the bottom of it.
    fn connection(&self) -> &TcpStream;
}

impl Connected for TcpStream {
    fn connection(&self) -> &TcpStream {
        self
    }
}

impl<S: Connected> Connected for WithRest<S> {
    fn connection(&self) -> &TcpStream {
        self.stream().connection()
    }
}

impl<S: Connected> Connected for ClientStream<S> {
    fn connection(&self) -> &TcpStream {
        self.get_ref().0.connection()
    }
}

/// A TLS connection that ends as a [`ByteStream`] should: dropped before both directions are finished, it is reset.
///
/// It holds no read buffer while there is nothing to read; TLS keeps the part of a record that has arrived.
struct SecureStream<S: Connected> {
    stream: TlsStream<S>,
    answer: Answer,
    /// Tells of a reset while nothing is read.
    failure: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    failed: bool,
    read_finished: bool,
    write_finished: bool,
}

impl<S: Connected> fmt::Debug for SecureStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecureStream")
            .field("answer", &self.answer)
            .finish_non_exhaustive()
    }
}

/// What the server says before anything else; on its own side, that it has been said.
#[derive(Debug)]
enum Answer {
    Awaited,
    Connected,
    /// A refusal of this code whose message is being read.
    Refusing {
        code: u8,
        message: Vec<u8>,
    },
    Refused(Refusal),
}

impl<S: Connected> SecureStream<S> {
    fn new(stream: TlsStream<S>, answer: Answer) -> SecureStream<S> {
        SecureStream {
            stream,
            answer,
            failure: None,
            failed: false,
            read_finished: false,
            write_finished: false,
        }
    }
}

impl<S: Connected + AsyncRead + AsyncWrite + Unpin> SecureStream<S> {
    fn poll_raw(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf).map_err(as_reset)
    }

    /// Waits for the server's answer; an error where it is a refusal.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [0; 256];
        loop {
            match &mut self.answer {
                Answer::Connected => return Poll::Ready(Ok(())),
                Answer::Refused(refusal) => {
                    return Poll::Ready(Err(Broken::Refused(refusal.clone()).to_error()));
                }
                Answer::Awaited => {
                    let mut first = ReadBuf::new(&mut bytes[..1]);
                    ready!(self.poll_raw(cx, &mut first))?;
                    self.answer = match first.filled() {
                        [CONNECTED] => Answer::Connected,
                        [code] => Answer::Refusing {
                            code: *code,
                            message: Vec::new(),
                        },
                        _ => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                    };
                }
                Answer::Refusing { .. } => {
                    let mut more = ReadBuf::new(&mut bytes);
                    // Where the message breaks off, what has come of it is told.
                    let is_over = ready!(self.poll_raw(cx, &mut more)).is_err() || more.filled().is_empty();
                    let Answer::Refusing { code, message } = &mut self.answer else {
                        continue;
                    };
                    message.extend_from_slice(more.filled());
                    if is_over || message.len() >= MAX_MESSAGE_BYTES {
                        let text = crate::http::line(&String::from_utf8_lossy(message));
                        let kind = RefusalKind::from_code((*code).into());
                        self.answer = Answer::Refused(Refusal::new(kind, text));
                    }
                }
            }
        }
    }
}

/// A cut connection must not look like an end: rustls tells an end of file without close_notify (RFC 8446 §6.1) by its kind.
fn as_reset(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(io::ErrorKind::ConnectionReset, error),
        _ => error,
    }
}

impl<S: Connected + AsyncRead + AsyncWrite + Unpin> AsyncRead for SecureStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_answer(cx))?;
        let before = buf.filled().len();
        let Poll::Ready(read) = self.poll_raw(cx, buf) else {
            // Everything was read: the next read tells.
            self.failure = None;
            return Poll::Pending;
        };
        read?;
        if buf.filled().len() == before && buf.remaining() > 0 {
            self.read_finished = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Connected + AsyncRead + AsyncWrite + Unpin> AsyncWrite for SecureStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        self.write_finished = true;
        Poll::Ready(Ok(()))
    }
}

impl<S: Connected + AsyncRead + AsyncWrite + Send + Unpin> ByteStream for SecureStream<S> {
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if !self.failed {
            if self.failure.is_none() {
                self.failure = sys::failure_of(self.stream.get_ref().0.connection());
            }
            let Some(failure) = &mut self.failure else {
                return Poll::Pending;
            };
            ready!(failure.as_mut().poll(cx));
            self.failure = None;
            self.failed = true;
        }
        Poll::Ready(io::ErrorKind::ConnectionReset.into())
    }

    fn is_connected(&self) -> bool {
        matches!(self.answer, Answer::Connected)
    }
}

impl<S: Connected> Drop for SecureStream<S> {
    fn drop(&mut self) {
        if !(self.read_finished && self.write_finished) {
            sys::reset_on_close(self.stream.get_ref().0.connection());
        }
    }
}

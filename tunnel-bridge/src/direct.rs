//! Direct TCP: how the far side of a tunnel reaches targets, and how a session without a tunnel dials.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, ToSocketAddrs, lookup_host};
use tokio::time::{Instant, timeout_at};

use crate::{ByteStream, Dialer, Refusal, RefusalKind, Target, dial, sys};

/// How long a dial may take by default.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to an address (`host:port` or a socket address) with Nagle's delay off and, beyond this machine, keepalive on. All addresses of a
/// name get their chance (RFC 8305), and an address that is silent does not hide one that answers.
///
/// # Errors
/// [`RefusalKind::Refused`], [`RefusalKind::Unreachable`] (no route, or the name has no address),
/// [`RefusalKind::TimedOut`] after `timeout`, [`RefusalKind::NotAllowed`] where the system forbids it,
/// [`RefusalKind::Internal`] for the rest; the message names the address.
///
/// # Cancel safety
/// Dropping the future abandons the connection.
pub async fn connect<A>(address: A, timeout: Duration) -> Result<TcpStream, Refusal>
where
    A: ToSocketAddrs + std::fmt::Display,
{
    let deadline = Instant::now() + timeout;
    let addresses: Vec<_> = match timeout_at(deadline, lookup_host(&address)).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => return Err(Refusal::new(kind_of(&error), format!("{address}: {error}"))),
        Err(_) => return Err(silent(&address, timeout)),
    };
    connect_to_any(&address, addresses, timeout, deadline).await
}

/// Connects to one of the addresses of a `name`, which the error names, as [`connect`] does: those of both families get
/// their chance (RFC 8305), a quarter of a second apart. The addresses are in the resolver's order.
///
/// For whoever resolves names and judges the addresses before they are dialed.
///
/// # Errors
/// As [`connect`].
///
/// # Cancel safety
/// Dropping the future abandons the connection.
pub async fn connect_any(
    name: &(impl std::fmt::Display + ?Sized),
    addresses: Vec<SocketAddr>,
    timeout: Duration,
) -> Result<TcpStream, Refusal> {
    connect_to_any(name, addresses, timeout, Instant::now() + timeout).await
}

async fn connect_to_any(
    name: &(impl std::fmt::Display + ?Sized),
    addresses: Vec<SocketAddr>,
    timeout: Duration,
    deadline: Instant,
) -> Result<TcpStream, Refusal> {
    match dial::race(addresses, Some(deadline), |_| {}).await {
        Ok((stream, address)) => {
            sys::prepare_target(&stream, address);
            Ok(stream)
        }
        // Of several addresses the error says which of them were silent.
        Err(error) if error.kind() == io::ErrorKind::TimedOut && !dial::is_of_several(&error) => {
            Err(silent(name, timeout))
        }
        Err(error) => Err(Refusal::new(kind_of(&error), format!("{name}: {error}"))),
    }
}

fn silent(name: &(impl std::fmt::Display + ?Sized), timeout: Duration) -> Refusal {
    // What resolving took is not worth a fraction.
    let seconds = (timeout.as_secs_f32() * 10.0).ceil() / 10.0;
    let message = format!("{name}: no answer within {seconds} s");
    Refusal::new(RefusalKind::TimedOut, message)
}

pub(crate) fn kind_of(error: &io::Error) -> RefusalKind {
    use io::ErrorKind as K;
    match error.kind() {
        K::ConnectionRefused => RefusalKind::Refused,
        K::TimedOut => RefusalKind::TimedOut,
        K::HostUnreachable | K::NetworkUnreachable | K::NetworkDown | K::AddrNotAvailable => {
            RefusalKind::Unreachable
        }
        K::PermissionDenied => RefusalKind::NotAllowed,
        // Errors of getaddrinfo(3) have neither a kind nor an error number.
        _ if error.raw_os_error().is_none() => RefusalKind::Unreachable,
        _ => RefusalKind::Internal,
    }
}

/// A [`Dialer`] that takes the target's text as `host:port` and connects to it by TCP.
///
/// It connects to whatever it is asked for. Where targets come from another machine, check them first.
#[derive(Debug, Clone, Copy)]
pub struct TcpDialer {
    timeout: Duration,
}

impl TcpDialer {
    /// A dialer that gives up after `timeout`.
    #[must_use]
    pub const fn new(timeout: Duration) -> TcpDialer {
        TcpDialer { timeout }
    }
}

impl Default for TcpDialer {
    /// With [`DIAL_TIMEOUT`].
    fn default() -> TcpDialer {
        TcpDialer::new(DIAL_TIMEOUT)
    }
}

#[async_trait]
impl Dialer for TcpDialer {
    async fn dial(&self, target: &Target) -> Result<Box<dyn ByteStream>, Refusal> {
        let stream = connect(target.as_str(), self.timeout).await?;
        Ok(Box::new(DirectStream::from(stream)))
    }
}

/// A TCP connection that ends as a [`ByteStream`] should: dropped before both directions are finished, it is reset.
#[derive(Debug)]
pub struct DirectStream {
    /// Empty only once it was given out.
    stream: Option<TcpStream>,
    read_finished: bool,
    write_finished: bool,
}

impl From<TcpStream> for DirectStream {
    fn from(stream: TcpStream) -> DirectStream {
        DirectStream {
            stream: Some(stream),
            read_finished: false,
            write_finished: false,
        }
    }
}

impl DirectStream {
    fn pinned(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        Ok(Pin::new(stream))
    }
}

impl AsyncRead for DirectStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(self.pinned()?.poll_read(cx, buf))?;
        if buf.filled().len() == before && buf.remaining() > 0 {
            self.read_finished = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for DirectStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.pinned()?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pinned()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.pinned()?.poll_shutdown(cx))?;
        self.write_finished = true;
        Poll::Ready(Ok(()))
    }
}

impl ByteStream for DirectStream {
    fn take_tcp(&mut self) -> Option<TcpStream> {
        self.stream.take()
    }
}

impl Drop for DirectStream {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream
            && !(self.read_finished && self.write_finished)
        {
            sys::reset_on_close(stream);
        }
    }
}

//! The traits that providers of byte streams implement, and how such streams report their end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::TcpStream;

use crate::{Refusal, RefusalKind, ResetReason, Target, buffer};

/// A connection to a target: bytes both ways, each direction with an end of its own.
///
/// * `shutdown()` ends our direction (FIN, half-close); reading continues until the other side ends its own.
/// * Dropping it before both directions are finished resets it (RST on the far side).
/// * A reset or a lost link arrives as an [`io::Error`] of kind [`ConnectionReset`](io::ErrorKind::ConnectionReset),
///   never as an end of file; a refusal as an error from which [`refusal_of`] takes the [`Refusal`].
///
/// The methods have defaults that work through [`AsyncRead`] and [`AsyncWrite`], so that
/// `impl ByteStream for MyStream {}` is enough. A type that wraps another byte stream should delegate them: then
/// [`splice`](crate::splice) still moves whole buffers without copying, and hears of a reset at once.
///
/// ```
/// use std::io;
/// use std::pin::Pin;
/// use std::task::{Context, Poll};
///
/// use bytes::Bytes;
/// use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
/// use tunnel_bridge::ByteStream;
///
/// /// Counts what it reads.
/// struct Counted<S> {
///     inner: S,
///     received: usize,
/// }
///
/// impl<S: ByteStream> ByteStream for Counted<S> {
///     fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
///         let polled = self.inner.poll_chunk(cx);
///         if let Poll::Ready(Ok(Some(chunk))) = &polled {
///             self.received += chunk.len();
///         }
///         polled
///     }
///     fn poll_write_chunk(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<io::Result<usize>> {
///         self.inner.poll_write_chunk(cx, bytes)
///     }
///     fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
///         self.inner.poll_room(cx)
///     }
///     fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
///         self.inner.poll_broken(cx)
///     }
///     fn is_connected(&self) -> bool {
///         self.inner.is_connected()
///     }
/// }
///
/// impl<S: ByteStream> AsyncRead for Counted<S> {
///     fn poll_read(
///         mut self: Pin<&mut Self>,
///         cx: &mut Context<'_>,
///         buf: &mut ReadBuf<'_>,
///     ) -> Poll<io::Result<()>> {
///         let before = buf.filled().len();
///         let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
///         self.received += buf.filled().len() - before;
///         polled
///     }
/// }
/// # impl<S: ByteStream> AsyncWrite for Counted<S> {
/// #     fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, b: &[u8]) -> Poll<io::Result<usize>> {
/// #         Pin::new(&mut self.inner).poll_write(cx, b)
/// #     }
/// #     fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
/// #         Pin::new(&mut self.inner).poll_flush(cx)
/// #     }
/// #     fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
/// #         Pin::new(&mut self.inner).poll_shutdown(cx)
/// #     }
/// # }
/// ```
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {
    /// The next bytes; `None` at the end. Unless overridden, it reads into a buffer that is held only while there is
    /// something to read.
    ///
    /// # Errors
    /// As [`AsyncRead`]'s.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        buffer::poll_chunk(self, &mut buffer::ReadSize::fixed(), cx)
    }

    /// Takes bytes from the front of `bytes`, at least one unless it is empty, and returns how many. Unless
    /// overridden, it copies them with [`AsyncWrite::poll_write`].
    ///
    /// # Errors
    /// As [`AsyncWrite`]'s.
    fn poll_write_chunk(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let n = ready!(Pin::new(self).poll_write(cx, bytes))?;
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        bytes.advance(n);
        Poll::Ready(Ok(n))
    }

    /// Waits until something may be written and returns how many bytes would be taken without waiting, which is how
    /// much a caller should read for it. Unless overridden, there is no bound, and only writing waits.
    ///
    /// # Errors
    /// As [`AsyncWrite`]'s.
    fn poll_room(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(usize::MAX))
    }

    /// Resolves when the stream has been reset or its link was lost, also while nothing is read or written. It shares
    /// the waker of whoever writes. Unless overridden, only reads and writes tell.
    fn poll_broken(&mut self, _cx: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }

    /// Whether the far side has connected the stream to its target: `false` only after an optimistic open, until the
    /// answer arrives. Unless overridden, it has.
    fn is_connected(&self) -> bool {
        true
    }

    /// Whether the target hears of the end of our direction while its own goes on. Where it does not,
    /// [`splice`](crate::splice) ends the stream when the local program has closed its connection. Unless overridden, it does.
    fn carries_half_close(&self) -> bool {
        true
    }

    /// Gives out the TCP connection of a stream that is one and nothing else, so that whoever carries it can use the
    /// socket itself; the stream has ended for its user then. A type that wraps another byte stream does not delegate
    /// this, and keeps seeing what passes. Unless overridden, there is none.
    fn take_tcp(&mut self) -> Option<TcpStream> {
        None
    }
}

impl<S: ByteStream + ?Sized> ByteStream for Box<S> {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        (**self).poll_chunk(cx)
    }

    fn poll_write_chunk(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<io::Result<usize>> {
        (**self).poll_write_chunk(cx, bytes)
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        (**self).poll_room(cx)
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        (**self).poll_broken(cx)
    }

    fn is_connected(&self) -> bool {
        (**self).is_connected()
    }

    fn carries_half_close(&self) -> bool {
        (**self).carries_half_close()
    }

    fn take_tcp(&mut self) -> Option<TcpStream> {
        (**self).take_tcp()
    }
}

/// Dropped early, it is closed and not reset; [`DirectStream`](crate::direct::DirectStream) resets.
impl ByteStream for TcpStream {}

/// A pair in memory, for tests and for targets inside the process. It knows no reset: dropping it is an end of file.
impl ByteStream for DuplexStream {}

/// Connects to targets: through a tunnel, or directly ([`crate::direct`]).
#[async_trait]
pub trait Dialer: Send + Sync + 'static {
    /// Opens a stream to `target`.
    ///
    /// May return before the far side has connected (optimistic open): a refusal then arrives as an error of the
    /// first read or write.
    ///
    /// # Errors
    /// The [`Refusal`], where it is known at once.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the dial.
    async fn dial(&self, target: &Target) -> Result<Box<dyn ByteStream>, Refusal>;

    /// Opens a flow of datagrams to `target`. Unless overridden, datagrams are refused.
    ///
    /// # Errors
    /// The [`Refusal`]; [`RefusalKind::Unsupported`] where only byte streams are carried.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the dial.
    async fn dial_datagrams(&self, target: &Target) -> Result<Box<dyn DatagramFlow>, Refusal> {
        Err(Refusal::new(
            RefusalKind::Unsupported,
            format!("{target}: datagrams are not carried here"),
        ))
    }

    /// Whether [`Dialer::dial_datagrams`] may succeed at all: a far side that is older carries none. Unless overridden, it may
    /// not.
    fn carries_datagrams(&self) -> bool {
        false
    }
}

/// Datagrams to and from one target: whole, unordered, and lost when there is no room for them. Dropping it ends it.
///
/// There is one source for all datagrams of a flow: the target sees them come from one address and port, for as long as the flow
/// lasts.
pub trait DatagramFlow: Send {
    /// Sends one datagram, or drops it where the path has no room, or where it is longer than
    /// [`max_datagram`](DatagramFlow::max_datagram).
    ///
    /// # Errors
    /// As [`ByteStream`]'s: the flow is over.
    fn poll_send(&mut self, cx: &mut Context<'_>, datagram: &Bytes) -> Poll<io::Result<()>>;

    /// The next datagram; `None` when the flow has ended.
    ///
    /// # Errors
    /// As [`ByteStream`]'s: the flow is over.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>>;

    /// The longest datagram that it carries, in bytes. Unless overridden, what UDP over IPv4 can carry at all.
    fn max_datagram(&self) -> usize {
        tunnel_proto::MAX_DATAGRAM_BYTES
    }

    /// Ends the flow, and tells the other end why; dropping it does not say. Unless overridden, it does nothing.
    fn reset(&mut self, _reason: ResetReason) {}

    /// How many datagrams this end has dropped so far for want of room, in both directions. Unless overridden, it does not know.
    fn dropped(&self) -> u64 {
        0
    }
}

/// The refusal inside an error of a stream, if it is one.
#[must_use]
pub fn refusal_of(error: &io::Error) -> Option<&Refusal> {
    error.get_ref()?.downcast_ref()
}

/// The reason inside an error of a stream that the other side reset, if it is one.
#[must_use]
pub fn reset_of(error: &io::Error) -> Option<ResetReason> {
    error
        .get_ref()?
        .downcast_ref::<StreamReset>()
        .map(|reset| reset.reason)
}

/// Whether an error of a stream says that the link under it was lost.
#[must_use]
pub fn is_link_lost(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<LinkLost>())
}

/// The other side reset the stream.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("stream reset: {reason}")]
pub(crate) struct StreamReset {
    pub(crate) reason: ResetReason,
}

/// The link under the stream is gone.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the link to the far side was lost")]
pub(crate) struct LinkLost;

/// How a stream ended early; turned into an [`io::Error`] at each call.
#[derive(Debug, Clone)]
pub(crate) enum Broken {
    Refused(Refusal),
    Reset(ResetReason),
    LinkLost,
}

impl Broken {
    pub(crate) fn to_error(&self) -> io::Error {
        match self {
            Broken::Refused(refusal) => io::Error::new(io::ErrorKind::ConnectionRefused, refusal.clone()),
            Broken::Reset(reason) => {
                io::Error::new(io::ErrorKind::ConnectionReset, StreamReset { reason: *reason })
            }
            Broken::LinkLost => io::Error::new(io::ErrorKind::ConnectionReset, LinkLost),
        }
    }
}

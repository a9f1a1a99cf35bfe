//! What a link runs over: an ordered pipe of bytes with a clean close.

#[cfg(feature = "websocket")]
mod web_socket;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tunnel_proto::ChunkQueue;

#[cfg(feature = "websocket")]
pub use web_socket::WebSocketCarrier;
#[cfg(feature = "websocket")]
pub(crate) use web_socket::config as web_socket_config;

use crate::{buffer, sys};

/// An ordered pipe of bytes in both directions, under a [`Link`](crate::Link).
///
/// The link's task polls it; an implementation keeps no task of its own. How the bytes are cut means nothing. All
/// methods return the end of the carrier as an error, and none is called after that.
///
/// [`StreamCarrier`] carries a link over anything that can be read and written, `WebSocketCarrier` (feature
/// `websocket`) over a WebSocket.
pub trait Carrier: Send + Unpin + 'static {
    /// Waits until [`start_send`](Carrier::start_send) may be called.
    ///
    /// It should wait while a good deal of earlier bytes is unsent: what waits above the carrier is still put in
    /// order, small requests before bulk.
    ///
    /// # Errors
    /// The carrier's end.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierEnd>>;

    /// Takes all of `bytes`, which are some tens of KiB at most unless a single write was larger, to be sent by
    /// [`poll_flush`](Carrier::poll_flush) or earlier. Called only after `poll_ready` was ready.
    ///
    /// # Errors
    /// The carrier's end.
    fn start_send(&mut self, bytes: &mut ChunkQueue) -> Result<(), CarrierEnd>;

    /// Sends what was taken, and the close if that was started.
    ///
    /// # Errors
    /// The carrier's end.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierEnd>>;

    /// The next bytes that arrived. They may be empty, after the carrier dealt with something of its own.
    ///
    /// The buffer behind the bytes should be at most a few times their size, since a stream that is not read keeps
    /// parts of it.
    ///
    /// # Errors
    /// The carrier's end, which is how receiving stops.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, CarrierEnd>>;

    /// Begins a clean close behind what was taken; `poll_flush` carries it out. Nothing is sent afterwards.
    ///
    /// # Errors
    /// The carrier's end.
    fn start_close(&mut self) -> Result<(), CarrierEnd>;
}

impl<C: Carrier + ?Sized> Carrier for Box<C> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierEnd>> {
        (**self).poll_ready(cx)
    }

    fn start_send(&mut self, bytes: &mut ChunkQueue) -> Result<(), CarrierEnd> {
        (**self).start_send(bytes)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierEnd>> {
        (**self).poll_flush(cx)
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, CarrierEnd>> {
        (**self).poll_receive(cx)
    }

    fn start_close(&mut self) -> Result<(), CarrierEnd> {
        (**self).start_close()
    }
}

/// How a [`Carrier`] ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CarrierEnd {
    /// The other end closed it cleanly.
    #[error("closed by the other end{}", crate::link::colon(.message))]
    Closed {
        /// What it said, often nothing.
        message: String,
    },
    /// The connection failed, or ended without a close.
    #[error("the connection was lost")]
    Lost(#[from] io::Error),
    /// The other end broke the carrier's own protocol.
    #[error("protocol broken: {message}")]
    Broken {
        /// How.
        message: String,
    },
}

impl CarrierEnd {
    /// An end of file where a close was due.
    fn cut() -> CarrierEnd {
        CarrierEnd::Lost(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the connection ended without a close",
        ))
    }
}

/// A [`Carrier`] over anything that can be read and written: a TCP or TLS connection, a pipe, or
/// [`tokio::io::duplex`] for a link inside one process.
///
/// Such a stream has no close of its own that differs from being cut, so its end of file counts as a loss unless the
/// other end has said that it leaves, which a link does.
///
/// ```
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// use tunnel_bridge::{Link, Role, StreamCarrier, Target};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (near, far) = tokio::io::duplex(64 * 1024);
/// let near = Link::over(StreamCarrier::new(near), Role::Client);
/// let far = Link::over(StreamCarrier::new(far), Role::Server);
///
/// let mut stream = near.open(&Target::new("echo")?).await?;
/// stream.write_all(b"hello").await?;
/// let mut served = far.accept().await.ok_or("the link is gone")?.accept();
/// let mut five = [0; 5];
/// served.read_exact(&mut five).await?;
/// assert_eq!(&five, b"hello");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct StreamCarrier<S> {
    stream: S,
    size: buffer::ReadSize,
    out: ChunkQueue,
    unflushed: bool,
    close: Close,
}

#[derive(Debug, PartialEq, Eq)]
enum Close {
    No,
    Wanted,
    Done,
}

impl<S> StreamCarrier<S> {
    /// A carrier over `stream`. For a TCP connection call [`prepare_socket`] on it first.
    pub fn new(stream: S) -> StreamCarrier<S> {
        StreamCarrier {
            stream,
            size: buffer::ReadSize::up_to(READ_BYTES),
            out: ChunkQueue::new(),
            unflushed: false,
            close: Close::No,
        }
    }
}

impl<S: AsyncWrite + Unpin> StreamCarrier<S> {
    /// Writes until no more than `keep` bytes are left.
    fn poll_write_down_to(&mut self, keep: usize, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.out.len() > keep {
            let mut slices = [io::IoSlice::new(&[]); GATHER_CHUNKS];
            let filled = self.out.chunks_vectored(&mut slices);
            let n = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..filled]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(n);
            self.unflushed = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Carrier for StreamCarrier<S> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierEnd>> {
        if self.out.len() >= UNSENT_BYTES {
            ready!(self.poll_write_down_to(UNSENT_BYTES / 2, cx))?;
        }
        Poll::Ready(Ok(()))
    }

    fn start_send(&mut self, bytes: &mut ChunkQueue) -> Result<(), CarrierEnd> {
        self.out.append(bytes);
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierEnd>> {
        ready!(self.poll_write_down_to(0, cx))?;
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        if self.close == Close::Wanted {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.close = Close::Done;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, CarrierEnd>> {
        let chunk = ready!(buffer::poll_chunk(&mut self.stream, &mut self.size, cx))?;
        Poll::Ready(chunk.ok_or_else(CarrierEnd::cut))
    }

    fn start_close(&mut self) -> Result<(), CarrierEnd> {
        if self.close == Close::No {
            self.close = Close::Wanted;
        }
        Ok(())
    }
}

/// Sets the options that fit a socket under a link: small writes leave at once, a dead peer is noticed, and little is
/// queued in the kernel, so that small requests overtake bulk. Call it before TLS.
///
/// An option that the system lacks is logged and left out.
pub fn prepare_socket(stream: &TcpStream) {
    sys::prepare_link(stream);
}

/// Unsent bytes from which on a carrier takes no more.
const UNSENT_BYTES: usize = 256 * 1024;

/// Most that is read at once: a few frames of the usual size, so that one that is not read keeps no more than these.
const READ_BYTES: usize = 128 * 1024;

/// What one vectored write gathers.
const GATHER_CHUNKS: usize = 16;

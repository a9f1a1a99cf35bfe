//! What a link runs over: an ordered pipe of bytes with a clean close.

mod stream;
#[cfg(feature = "websocket")]
mod web_socket;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tunnel_proto::ChunkQueue;

pub use stream::StreamCarrier;
#[cfg(feature = "websocket")]
pub(crate) use web_socket::Duplex;
#[cfg(feature = "websocket")]
pub use web_socket::{MessageStream, Piece, WebSocketCarrier};

use crate::sys;

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

/// Sets the options that fit a socket under a link: small writes leave at once, a dead peer is noticed, and little is
/// queued in the kernel, so that small requests overtake bulk. Call it before TLS.
///
/// An option that the system lacks is logged and left out.
pub fn prepare_socket(stream: &TcpStream) {
    sys::prepare_link(stream);
}

/// Unsent bytes from which on a carrier takes no more. What waits above it is still put in order, small requests before
/// bulk; a write of this size costs little more for each byte than a larger one.
const UNSENT_BYTES: usize = 64 * 1024;

/// What one vectored write gathers.
const GATHER_CHUNKS: usize = 16;

/// Writes some of `out`, gathered, or all.
fn poll_write_some<S>(stream: &mut S, out: &mut ChunkQueue, cx: &mut Context<'_>) -> Poll<io::Result<()>>
where
    S: AsyncWrite + Unpin,
{
    let mut slices = [io::IoSlice::new(&[]); GATHER_CHUNKS];
    let filled = out.chunks_vectored(&mut slices);
    if filled > 0 {
        let n = ready!(Pin::new(stream).poll_write_vectored(cx, &slices[..filled]))?;
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        out.advance(n);
    }
    Poll::Ready(Ok(()))
}

//! A stream of a link, over whichever kind of link.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::mux;
#[cfg(feature = "quic")]
use crate::quic::QuicStream;
use crate::{ByteStream, Refusal, ResetReason};

/// A stream of a [`Link`](crate::Link): see [`ByteStream`] for how it ends.
///
/// Over a [`Carrier`](crate::Carrier), writes wait while the far side grants no credit, and when 256 KiB are on their way to
/// the wire, less where other streams of the link have much waiting; what arrives waits in this stream, bounded by the
/// credit that was granted, and stops no other stream. Over QUIC the windows are QUIC's.
#[derive(Debug)]
pub struct MuxStream(Kind);

#[derive(Debug)]
enum Kind {
    Mux(mux::MuxStream),
    #[cfg(feature = "quic")]
    Quic(Box<QuicStream>),
}

impl From<mux::MuxStream> for MuxStream {
    fn from(stream: mux::MuxStream) -> MuxStream {
        MuxStream(Kind::Mux(stream))
    }
}

#[cfg(feature = "quic")]
impl From<QuicStream> for MuxStream {
    fn from(stream: QuicStream) -> MuxStream {
        MuxStream(Kind::Quic(Box::new(stream)))
    }
}

/// Does the same with either kind.
macro_rules! either {
    ($kind:expr, $stream:ident => $does:expr) => {
        match $kind {
            Kind::Mux($stream) => $does,
            #[cfg(feature = "quic")]
            Kind::Quic($stream) => $does,
        }
    };
}

impl MuxStream {
    /// Resolves when the far side has connected this stream to its target. Reading and writing need not wait for it.
    ///
    /// # Errors
    /// The far side's [`Refusal`]; kind [`RefusalKind::LinkLost`](crate::RefusalKind::LinkLost) when the link is gone,
    /// [`RefusalKind::Internal`](crate::RefusalKind::Internal) when the stream was reset first.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn accepted(&mut self) -> Result<(), Refusal> {
        either!(&mut self.0, stream => stream.accepted().await)
    }

    /// Resets the stream and says why; dropping it says [`ResetReason::Cancelled`].
    pub fn reset(self, reason: ResetReason) {
        either!(self.0, stream => stream.reset(reason));
    }

    /// Whether both directions have ended in good order.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        either!(&self.0, stream => stream.is_finished())
    }

    /// Resolves when the stream has ended early. Shares the waker of whoever writes.
    pub(crate) fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        either!(&self.0, stream => stream.poll_reset(cx))
    }

    /// Accepts what the other end requests. Whether that is done: otherwise the link's driver is to be told.
    pub(crate) fn accept(&mut self) -> bool {
        match &mut self.0 {
            Kind::Mux(_) => false,
            #[cfg(feature = "quic")]
            Kind::Quic(stream) => {
                stream.accept();
                true
            }
        }
    }

    /// Refuses what the other end requests. Gives out what is left where the link's driver is to be told.
    #[cfg_attr(
        not(feature = "quic"),
        expect(unused_variables, reason = "a mux stream's refusal is the driver's to send")
    )]
    pub(crate) fn refuse(self, refusal: &Refusal) -> Option<mux::MuxStream> {
        match self.0 {
            Kind::Mux(stream) => Some(stream),
            #[cfg(feature = "quic")]
            Kind::Quic(stream) => {
                stream.refuse(refusal);
                None
            }
        }
    }
}

impl AsyncRead for MuxStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Mux(stream) => Pin::new(stream).poll_read(cx, buf),
            #[cfg(feature = "quic")]
            Kind::Quic(stream) => stream.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Kind::Mux(stream) => Pin::new(stream).poll_write(cx, buf),
            #[cfg(feature = "quic")]
            Kind::Quic(stream) => stream.poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Mux(stream) => Pin::new(stream).poll_flush(cx),
            #[cfg(feature = "quic")]
            Kind::Quic(stream) => stream.poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Mux(stream) => Pin::new(stream).poll_shutdown(cx),
            #[cfg(feature = "quic")]
            Kind::Quic(stream) => stream.poll_shutdown(cx),
        }
    }
}

impl ByteStream for MuxStream {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        either!(&mut self.0, stream => stream.poll_chunk(cx))
    }

    fn poll_write_chunk(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<io::Result<usize>> {
        either!(&mut self.0, stream => stream.poll_write_chunk(cx, bytes))
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Kind::Mux(stream) => stream.poll_room(cx),
            #[cfg(feature = "quic")]
            Kind::Quic(stream) => stream.poll_room(),
        }
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        either!(&mut self.0, stream => stream.poll_broken(cx))
    }

    fn is_connected(&self) -> bool {
        either!(&self.0, stream => stream.is_connected())
    }
}

//! The one trait for providers of byte streams, and how such streams tell their end.

use std::any::Any;
use std::io;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{Refusal, RefusalKind, ResetReason, Target};

/// A connection to a target: bytes both ways, each direction with an end of its own.
///
/// * `shutdown()` ends our direction (FIN, half-close); reading goes on until the other side ends its own.
/// * Dropping it before both directions are finished resets it (RST to the far side).
/// * A reset or a lost link arrives as an [`io::Error`] of kind [`ConnectionReset`](io::ErrorKind::ConnectionReset),
///   never as an end of file; a refusal as an error from which [`refusal_of`] takes the [`Refusal`].
///
/// Every type that can be read and written is one.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + Any {
    /// The stream as [`Any`], so that [`splice`](crate::splice) can hand over whole buffers where it knows the type.
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send>;
    /// Whether the stream is of the type `T`.
    fn type_is(&self, id: std::any::TypeId) -> bool {
        id == self.type_id()
    }
}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + Any> ByteStream for T {
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

/// Connects to targets: through a tunnel, or directly ([`crate::direct`]).
#[async_trait]
pub trait Dialer: Send + Sync + 'static {
    /// A stream to `target`.
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

    /// A flow of datagrams to `target`. Unless a dialer says otherwise it carries none.
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
}

/// Datagrams to and from one target: whole, unordered, and lost when there is no room for them.
pub trait DatagramFlow: Send {
    /// Sends one datagram, or drops it where the path has no room.
    ///
    /// # Errors
    /// As [`ByteStream`]'s: the flow is over.
    fn poll_send(&mut self, cx: &mut Context<'_>, datagram: &Bytes) -> Poll<io::Result<()>>;

    /// The next datagram; `None` when the flow has ended.
    ///
    /// # Errors
    /// As [`ByteStream`]'s: the flow is over.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>>;
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

/// How a stream ended before its time; turned into an [`io::Error`] at each call.
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

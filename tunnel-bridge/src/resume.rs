//! Links that outlive the connection under them: when that is lost, the client makes another one and both ends go on where they
//! were, with every stream whole.
//!
//! The client's end is made with [`Link::resumable`](crate::Link::resumable) and knows how to [`Redial`]. The server's ends come
//! from a [`Desk`], which takes every new connection and finds out whether it begins a link or takes one up again. With a peer that does
//! not offer this, a link ends with its connection, as one made by [`Link::over`](crate::Link::over) does.
//!
//! ```
//! use async_trait::async_trait;
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use tokio::net::{TcpListener, TcpStream};
//! use tunnel_bridge::resume::{Desk, DeskOptions, Options, Received, Redial, RedialError};
//! use tunnel_bridge::{Carrier, Link, StreamCarrier, Target};
//!
//! struct Again(std::net::SocketAddr);
//!
//! #[async_trait]
//! impl Redial for Again {
//!     async fn redial(&self) -> Result<Box<dyn Carrier>, RedialError> {
//!         let stream = TcpStream::connect(self.0).await.map_err(RedialError::later)?;
//!         Ok(Box::new(StreamCarrier::new(stream)))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = TcpListener::bind("127.0.0.1:0").await?;
//! let address = listener.local_addr()?;
//! let server = tokio::spawn(async move {
//!     let desk = Desk::new(DeskOptions::default());
//!     loop {
//!         let (stream, _) = listener.accept().await.unwrap();
//!         match desk.receive(StreamCarrier::new(stream), "somebody").await {
//!             Ok(Received::New(link)) => return link,
//!             Ok(Received::Resumed(_)) => println!("a link goes on"),
//!             Err(error) => println!("{error}"),
//!         }
//!     }
//! });
//! let carrier = Again(address).redial().await?;
//! let near = Link::resumable(carrier, Again(address), Options::default());
//! let far = server.await?;
//!
//! let mut stream = near.open(&Target::new("echo")?).await?;
//! stream.write_all(b"hello").await?;
//! let mut served = far.accept().await.ok_or("the link is gone")?.accept();
//! let mut five = [0; 5];
//! served.read_exact(&mut five).await?;
//! assert_eq!(&five, b"hello");
//! # Ok(())
//! # }
//! ```

pub(crate) mod desk;
pub(crate) mod handshake;

use std::ops::RangeInclusive;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{Carrier, LinkEnd, LinkOptions};

pub use desk::{Desk, DeskError, DeskOptions, Received};

/// Makes another connection to the far side of a link whose connection was lost.
///
/// The link's task calls it: at once when the connection is lost, then with growing, jittered pauses from 0.1 s to 5 s, for as long as
/// the link can be taken up again. [`Link::check_now`](crate::Link::check_now) drops an attempt that has been under way for a
/// second and makes a new one without a pause, as whatever it waits for may be gone with the network that it began on.
#[async_trait]
pub trait Redial: Send + Sync + 'static {
    /// A new carrier to the same far side, admitted as the same client. Nothing has been sent on it.
    ///
    /// An attempt is given up after 10 s.
    ///
    /// # Errors
    /// [`RedialError`] says whether another attempt makes sense.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time, and must leave nothing behind then.
    async fn redial(&self) -> Result<Box<dyn Carrier>, RedialError>;
}

/// Why there is no new carrier.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedialError {
    /// Not this time: it is tried again.
    #[error("{message}")]
    Later {
        /// What went wrong.
        message: String,
    },
    /// It will not come: the link ends like this, at once.
    #[error("{end}")]
    Final {
        /// The end that the link's owners see.
        end: LinkEnd,
    },
}

impl RedialError {
    /// A failure after which it is tried again.
    pub fn later(error: impl std::fmt::Display) -> RedialError {
        RedialError::Later {
            message: error.to_string(),
        }
    }
}

/// What a client offers for a link that may be taken up again.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Most bytes that are kept for sending again, until the other end has them. When they are used up, streams wait. Default 16 MiB;
    /// at least 1 MiB: a server acknowledges only after each 256 KiB.
    pub replay_bytes: u32,
    /// The limits of the link.
    pub link: LinkOptions,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            replay_bytes: 16 * 1024 * 1024,
            link: LinkOptions::default(),
        }
    }
}

/// Whether a link has a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkStatus {
    /// It has one.
    Up {
        /// How many times the link was taken up again on a new one.
        resumes: u64,
    },
    /// Its connection was lost and is being made again, or awaited. Streams stay, and what is written waits.
    Detached {
        /// When the loss was noticed.
        since: Instant,
        /// When the link is given up.
        until: Instant,
        /// As in [`LinkStatus::Up`].
        resumes: u64,
    },
}

impl LinkStatus {
    /// Whether the link has a connection.
    #[must_use]
    pub const fn is_up(self) -> bool {
        matches!(self, LinkStatus::Up { .. })
    }

    /// How many times the link was taken up again on a new connection.
    #[must_use]
    pub const fn resumes(self) -> u64 {
        match self {
            LinkStatus::Up { resumes } | LinkStatus::Detached { resumes, .. } => resumes,
        }
    }
}

/// What either side may keep for sending again, in bytes. The other one acknowledges after 256 KiB (`tunnel_proto`): with less than four
/// times that, senders would wait for acknowledgements that are only on their way.
pub(crate) const REPLAY_BYTES: RangeInclusive<u32> = 1024 * 1024..=1 << 30;

/// How long one attempt may take, with the answer to RESUME.
pub(crate) const ATTEMPT_TIME: Duration = Duration::from_secs(10);

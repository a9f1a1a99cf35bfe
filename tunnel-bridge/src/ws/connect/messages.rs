//! A WebSocket for messages of somebody else's protocol, at once or on a connection that was made ahead of need.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Context;

use futures_util::task::noop_waker_ref;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::time::timeout;

use super::{Attempt, ConnectError, ConnectOptions, Failed, Reached, Road};
use crate::Role;
use crate::carrier::{Duplex, MessageStream};
use crate::ws::offer::Offer;

/// Connects, and asks for a WebSocket alone, whatever [`ConnectOptions::carriage`] says.
///
/// # Errors
/// See [`ConnectError`].
///
/// # Cancel safety
/// Dropping the future abandons the attempt.
pub async fn messages(options: &ConnectOptions) -> Result<MessageStream, ConnectError> {
    let attempt = Attempt::of(options)?;
    attempt
        .in_time(async {
            let standby = attempt.stand_by().await?;
            attempt.ask_messages(standby).await
        })
        .await
}

/// Connects, with TLS if the URL says so, and asks for nothing yet: what a [`Standby`] is for.
///
/// # Errors
/// See [`ConnectError`].
///
/// # Cancel safety
/// Dropping the future abandons the attempt.
pub async fn stand_by(options: &ConnectOptions) -> Result<Standby, ConnectError> {
    let attempt = Attempt::of(options)?;
    attempt.in_time(attempt.stand_by()).await
}

/// A connection on which nothing has been asked for: made ahead of need, it saves the time that TCP and TLS take.
///
/// A server waits for a request for a limited time, often half a minute.
pub struct Standby {
    stream: Box<dyn Duplex>,
    peer: SocketAddr,
}

impl std::fmt::Debug for Standby {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Standby")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl Standby {
    /// Whether the server has not closed it, as far as that is known here.
    pub fn is_open(&mut self) -> bool {
        let mut byte = [0];
        let mut cx = Context::from_waker(noop_waker_ref());
        // A server says nothing before it is asked.
        Pin::new(&mut self.stream)
            .poll_read(&mut cx, &mut ReadBuf::new(&mut byte))
            .is_pending()
    }

    /// Asks for the WebSocket, with the path and the headers of `options`, whose server must be the one that this was made with.
    ///
    /// # Errors
    /// See [`ConnectError`]. [`ConnectError::Unreachable`] may be due to the time that has passed.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the attempt.
    pub async fn messages(self, options: &ConnectOptions) -> Result<MessageStream, ConnectError> {
        let attempt = Attempt::of(options)?;
        attempt.in_time(attempt.ask_messages(self)).await
    }
}

impl Attempt<'_> {
    async fn in_time<T>(
        &self,
        connecting: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T, ConnectError> {
        let limit = self.options.connect_timeout;
        let connected = timeout(limit, connecting).await;
        self.options.tell(None);
        connected.unwrap_or_else(|_| Err(self.timed_out(limit)))
    }

    async fn stand_by(&self) -> Result<Standby, ConnectError> {
        let Reached { road, peer } = self.reach().await?;
        let stream = match road {
            Road::Tcp(stream) => self.secured(stream, peer).await?,
            #[cfg(feature = "tls")]
            Road::ProxyTls(stream) => self.secured(stream, peer).await?,
        };
        Ok(Standby { stream, peer })
    }

    #[cfg_attr(
        not(feature = "tls"),
        expect(clippy::unused_async, reason = "there is no handshake without TLS")
    )]
    async fn secured<S>(&self, stream: S, peer: SocketAddr) -> Result<Box<dyn Duplex>, ConnectError>
    where
        S: Duplex + 'static,
    {
        #[cfg(feature = "tls")]
        if let Some(config) = &self.config {
            return Ok(Box::new(self.handshake(config, stream, peer).await?));
        }
        #[cfg(not(feature = "tls"))]
        let _no_handshake_with = peer;
        Ok(Box::new(stream))
    }

    async fn ask_messages(&self, standby: Standby) -> Result<MessageStream, ConnectError> {
        let Standby { mut stream, peer } = standby;
        let offer = Offer::new(false, true, &self.options.subprotocol);
        match self.ask(&mut *stream, peer, &offer).await {
            Ok((_, behind)) => Ok(MessageStream::new(stream, Role::Client, &behind)),
            Err(Failed::Offer(_, error) | Failed::Finally(error)) => Err(error),
        }
    }
}

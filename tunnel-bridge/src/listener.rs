//! A local port whose connections are carried to one target.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::splice::{End, Side, splice_until};
use crate::{Dialer, Error, Refusal, RefusalKind, Target, sys};

/// First wait after a failed accept (out of descriptors, say); doubles up to [`LONGEST_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(10);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

/// Connections that the kernel may hold for us before we accept them.
const BACKLOG: i32 = 1024;

/// How a [`Listener`] treats its connections.
#[derive(Debug, Clone)]
pub struct ListenerOptions {
    /// How long a dial may take, waiting for the link to come back included. Default 15 s; then the local
    /// connection is reset.
    pub dial_timeout: Duration,
    /// How many connections may be open at once; more are reset at once. Default 4096.
    pub max_connections: usize,
}

impl Default for ListenerOptions {
    fn default() -> ListenerOptions {
        ListenerOptions {
            dial_timeout: Duration::from_secs(15),
            max_connections: 4096,
        }
    }
}

/// What happens to the connections of a [`Listener`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionEvent {
    /// A local program has connected.
    Opened {
        /// The listener's address.
        listener: SocketAddr,
        /// The program's address.
        peer: SocketAddr,
    },
    /// Its connection is over.
    Closed {
        /// The listener's address.
        listener: SocketAddr,
        /// The program's address.
        peer: SocketAddr,
        /// Bytes from the program to the target.
        sent: u64,
        /// Bytes from the target to the program.
        received: u64,
        /// How long it was open.
        open_for: Duration,
        /// How it ended.
        end: End,
    },
}

/// One local address and port whose connections go to one target.
///
/// Dropping it stops accepting and resets its connections; [`Listener::close`] lets them finish.
#[derive(Debug)]
pub struct Listener {
    local: SocketAddr,
    /// Stops accepting.
    stop: CancellationToken,
    /// Says that the port is free.
    stopped: CancellationToken,
    /// Resets what is left.
    abort: CancellationToken,
    task: Option<JoinHandle<()>>,
}

/// Binds a listening socket with the settings that fit a [`Listener`]: restarts find the port free (`SO_REUSEADDR`
/// on Unix), nobody else can share it (no `SO_REUSEPORT`), 1024 connections may wait.
///
/// # Errors
/// What the system says, [`AddrInUse`](io::ErrorKind::AddrInUse) and
/// [`PermissionDenied`](io::ErrorKind::PermissionDenied) being the usual ones.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    sys::allow_restart(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Listener {
    /// Accepts connections on `socket` and carries each to `target` by way of `dialer`, in a task of its own.
    ///
    /// `events` tells what happens; when that channel is full, events are dropped and no connection waits.
    ///
    /// # Errors
    /// [`Error::Listen`] when the socket cannot be used.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn(
        socket: std::net::TcpListener,
        target: Target,
        dialer: Arc<dyn Dialer>,
        options: ListenerOptions,
        events: mpsc::Sender<ConnectionEvent>,
    ) -> Result<Listener, Error> {
        let listen = |source| Error::Listen { source };
        socket.set_nonblocking(true).map_err(listen)?;
        let local = socket.local_addr().map_err(listen)?;
        let socket = TcpListener::from_std(socket).map_err(listen)?;
        let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
        let stopped = CancellationToken::new();
        let accepting = Accepting {
            context: Arc::new(Context {
                local,
                target,
                dialer,
                options,
                events,
                abort: abort.clone(),
            }),
            stop: stop.clone(),
            stopped: stopped.clone(),
            connections: JoinSet::new(),
        };
        let task = tokio::spawn(accepting.run(socket));
        Ok(Listener {
            local,
            stop,
            stopped,
            abort,
            task: Some(task),
        })
    }

    /// The address it listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Stops accepting; the port is free when this returns. Connections that are open go on.
    ///
    /// # Cancel safety
    /// Safe: it stops all the same.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.stopped.cancelled().await;
    }

    /// Stops accepting at once, lets the connections finish for at most `drain`, then resets what is left. The port
    /// is free at the latest when this returns.
    ///
    /// # Cancel safety
    /// Dropping it before its end resets what is left at once.
    pub async fn close(mut self, drain: Duration) {
        self.stop.cancel();
        let Some(mut task) = self.task.take() else { return };
        if tokio::time::timeout(drain, &mut task).await.is_err() {
            self.abort.cancel();
            if let Err(error) = task.await {
                tracing::warn!(%error, "a listener's task failed");
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.cancel();
        self.abort.cancel();
    }
}

struct Accepting {
    context: Arc<Context>,
    stop: CancellationToken,
    stopped: CancellationToken,
    connections: JoinSet<()>,
}

struct Context {
    local: SocketAddr,
    target: Target,
    dialer: Arc<dyn Dialer>,
    options: ListenerOptions,
    events: mpsc::Sender<ConnectionEvent>,
    abort: CancellationToken,
}

impl Accepting {
    async fn run(mut self, socket: TcpListener) {
        // However this ends: nobody waits for a port that nobody holds.
        let stopped = self.stopped.clone().drop_guard();
        let mut backoff = FIRST_BACKOFF;
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                Some(_) = self.connections.join_next() => continue,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    backoff = FIRST_BACKOFF;
                    self.start(stream, peer);
                }
                // The program left before we came (accept(2)).
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(listener = %self.context.local, %error, wait = ?backoff, "cannot accept");
                    tokio::select! {
                        () = self.stop.cancelled() => break,
                        () = tokio::time::sleep(backoff) => {}
                    }
                    backoff = (backoff * 2).min(LONGEST_BACKOFF);
                }
            }
        }
        drop(socket);
        drop(stopped);
        while self.connections.join_next().await.is_some() {}
    }

    fn start(&mut self, stream: TcpStream, peer: SocketAddr) {
        if self.connections.len() >= self.context.options.max_connections {
            tracing::warn!(listener = %self.context.local, limit = self.connections.len(), "too many connections");
            sys::reset_on_close(&stream);
            return;
        }
        sys::prepare_local(&stream);
        self.connections
            .spawn(Arc::clone(&self.context).carry(stream, peer));
    }
}

impl Context {
    async fn carry(self: Arc<Context>, stream: TcpStream, peer: SocketAddr) {
        let since = Instant::now();
        self.tell(ConnectionEvent::Opened {
            listener: self.local,
            peer,
        });
        let dial = tokio::time::timeout(self.options.dial_timeout, self.dialer.dial(&self.target));
        let dialled = tokio::select! {
            dialled = dial => dialled.unwrap_or_else(|_| Err(self.took_too_long())),
            () = self.abort.cancelled() => {
                Err(Refusal::new(RefusalKind::Internal, "the listener was closed"))
            }
        };
        let (sent, received, end) = match dialled {
            Ok(remote) => {
                let report = splice_until(stream, remote, self.abort.cancelled()).await;
                (report.sent, report.received, report.end)
            }
            Err(refusal) => {
                sys::reset_on_close(&stream);
                drop(stream);
                let end = match refusal.kind {
                    _ if self.abort.is_cancelled() => End::Reset { by: Side::Neither },
                    RefusalKind::LinkLost => End::LinkLost,
                    _ => End::Refused(refusal),
                };
                (0, 0, end)
            }
        };
        tracing::debug!(listener = %self.local, %peer, sent, received, %end, "connection closed");
        let open_for = since.elapsed();
        self.tell(ConnectionEvent::Closed {
            listener: self.local,
            peer,
            sent,
            received,
            open_for,
            end,
        });
    }

    fn took_too_long(&self) -> Refusal {
        let message = format!(
            "no stream to {} within {:?}",
            self.target, self.options.dial_timeout
        );
        Refusal::new(RefusalKind::TimedOut, message)
    }

    fn tell(&self, event: ConnectionEvent) {
        if self.events.try_send(event).is_err() {
            tracing::trace!(listener = %self.local, "event dropped: nobody takes them");
        }
    }
}

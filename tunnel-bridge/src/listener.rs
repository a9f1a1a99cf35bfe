//! A local port whose connections are carried to one target.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::splice::{End, Side, Traffic, splice_until};
use crate::{Dialer, Error, Refusal, RefusalKind, Target, program, sys};

/// First wait after a failed accept, for example when out of descriptors; doubles up to [`LONGEST_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(10);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

/// Connections that the kernel may hold for us before we accept them.
const BACKLOG: i32 = 1024;

/// How a [`Listener`] treats its connections.
#[derive(Debug, Clone)]
pub struct ListenerOptions {
    /// How long a dial may take, including waiting for the link to come back. Default 15 s; then the local connection is
    /// reset.
    pub dial_timeout: Duration,
    /// How many connections may be open at once; more are reset at once. Listeners may share one. Default: 16,384 of its own.
    pub limit: Arc<ConnectionLimit>,
    /// Who hears of each connection that the far side refused, by the address that was connected to. What does not fit into
    /// the channel is not told. Default: nobody.
    pub refusals: Option<mpsc::Sender<(SocketAddr, Refusal)>>,
}

/// How many connections may be open at once, of one listener or of several that share it.
#[derive(Debug)]
pub struct ConnectionLimit {
    most: usize,
    open: AtomicUsize,
    rejected: AtomicU64,
}

impl ConnectionLimit {
    /// A limit of `most` connections.
    #[must_use]
    pub const fn new(most: usize) -> ConnectionLimit {
        ConnectionLimit {
            most,
            open: AtomicUsize::new(0),
            rejected: AtomicU64::new(0),
        }
    }

    /// The limit.
    #[must_use]
    pub const fn most(&self) -> usize {
        self.most
    }

    /// How many are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// How many were reset because the limit was reached.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// A place for one connection, for as long as the result lives.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Place> {
        let free = |open| (open < self.most).then_some(open + 1);
        match self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, free) {
            Ok(_) => Some(Place {
                limit: Arc::clone(self),
            }),
            Err(_) => {
                self.rejected.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }
}

impl Default for ConnectionLimit {
    /// A limit of 16,384.
    fn default() -> ConnectionLimit {
        ConnectionLimit::new(16 * 1024)
    }
}

#[derive(Debug)]
pub(crate) struct Place {
    limit: Arc<ConnectionLimit>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.limit.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Default for ListenerOptions {
    fn default() -> ListenerOptions {
        ListenerOptions {
            dial_timeout: Duration::from_secs(15),
            limit: Arc::default(),
            refusals: None,
        }
    }
}

/// What came of a [`Listener`]'s connections so far, exactly.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionCounts {
    /// Connections that were accepted.
    pub connections: u64,
    /// Those of them that are open.
    pub active: u64,
    /// Connections that were reset at once because of [`ListenerOptions::limit`].
    pub rejected: u64,
    /// Bytes from programs to the target, those of open connections included.
    pub sent_bytes: u64,
    /// Bytes from the target to programs, those of open connections included.
    pub received_bytes: u64,
    /// How the connection that ended last failed; `None` when it finished in good order.
    pub last_failure: Option<End>,
    /// How often accepting failed, whatever the cause.
    pub accept_failures: u64,
    /// Whether connections wait because this process, or the system, has no file descriptor left. The listener goes on
    /// by itself when one is free.
    pub out_of_descriptors: bool,
}

/// The counts of a [`Listener`], kept up to date. Reading them never waits, and they stay readable after its end.
#[derive(Debug)]
pub struct ListenerCounts {
    connections: AtomicU64,
    active: AtomicU64,
    rejected: AtomicU64,
    traffic: Traffic,
    last_failure: Mutex<Option<End>>,
    accept_failures: AtomicU64,
    out_of_descriptors: AtomicBool,
    changed: Arc<Notify>,
}

impl ListenerCounts {
    fn new(changed: Arc<Notify>) -> ListenerCounts {
        ListenerCounts {
            connections: AtomicU64::new(0),
            active: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            traffic: Traffic::default(),
            last_failure: Mutex::new(None),
            accept_failures: AtomicU64::new(0),
            out_of_descriptors: AtomicBool::new(false),
            changed,
        }
    }

    /// The counts as they stand.
    #[must_use]
    pub fn read(&self) -> ConnectionCounts {
        // `active` before `connections`, so that it is never the larger one.
        let active = self.active.load(Ordering::Acquire);
        ConnectionCounts {
            active,
            connections: self.connections.load(Ordering::Acquire),
            rejected: self.rejected.load(Ordering::Relaxed),
            sent_bytes: self.traffic.sent.load(Ordering::Relaxed),
            received_bytes: self.traffic.received.load(Ordering::Relaxed),
            last_failure: self.last_failure().clone(),
            accept_failures: self.accept_failures.load(Ordering::Relaxed),
            out_of_descriptors: self.out_of_descriptors.load(Ordering::Relaxed),
        }
    }

    /// Counts a connection for as long as the result lives.
    fn open(self: &Arc<Self>) -> Active {
        self.connections.fetch_add(1, Ordering::AcqRel);
        self.active.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_one();
        Active {
            counts: Arc::clone(self),
        }
    }

    fn ended(&self, end: &End) {
        *self.last_failure() = match end {
            End::Finished => None,
            failure => Some(failure.clone()),
        };
    }

    fn reject(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
    }

    fn accept_failed(&self, out_of_descriptors: bool) {
        self.accept_failures.fetch_add(1, Ordering::Relaxed);
        self.set_out_of_descriptors(out_of_descriptors);
    }

    fn set_out_of_descriptors(&self, out: bool) {
        if self.out_of_descriptors.swap(out, Ordering::Relaxed) != out {
            self.changed.notify_one();
        }
    }

    fn last_failure(&self) -> MutexGuard<'_, Option<End>> {
        self.last_failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open connection, as counted; however its task ends.
struct Active {
    counts: Arc<ListenerCounts>,
}

impl Drop for Active {
    fn drop(&mut self) {
        self.counts.active.fetch_sub(1, Ordering::AcqRel);
        self.counts.changed.notify_one();
    }
}

/// One local address and port whose connections go to one target.
///
/// Dropping it stops accepting and resets its connections; [`Listener::close`] lets them finish.
#[derive(Debug)]
pub struct Listener {
    local: SocketAddr,
    counts: Arc<ListenerCounts>,
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
    /// `changed` is notified when a connection begins, ends or is rejected, and when descriptors run out or are free again;
    /// bytes and further failures to accept are counted in silence. Many listeners may share one: whoever waits for it reads the [`Listener::counts`] that it
    /// reports, so that nothing is lost, nothing queues up, and no connection waits for a reader.
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
        changed: Arc<Notify>,
    ) -> Result<Listener, Error> {
        let listen = |source| Error::Listen { source };
        socket.set_nonblocking(true).map_err(listen)?;
        let local = socket.local_addr().map_err(listen)?;
        let socket = TcpListener::from_std(socket).map_err(listen)?;
        let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
        let stopped = CancellationToken::new();
        let counts = Arc::new(ListenerCounts::new(changed));
        let accepting = Accepting {
            context: Arc::new(Context {
                local,
                target,
                dialer,
                options,
                counts: Arc::clone(&counts),
                abort: abort.clone(),
            }),
            stop: stop.clone(),
            stopped: stopped.clone(),
            connections: JoinSet::new(),
        };
        let task = tokio::spawn(accepting.run(socket));
        Ok(Listener {
            local,
            counts,
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

    /// What came of its connections so far.
    #[must_use]
    pub fn counts(&self) -> ConnectionCounts {
        self.counts.read()
    }

    /// The counts, to be read after the listener has been closed as well.
    #[must_use]
    pub fn shared_counts(&self) -> Arc<ListenerCounts> {
        Arc::clone(&self.counts)
    }

    /// Stops accepting; the port is free when this returns. Connections that are open go on.
    ///
    /// # Cancel safety
    /// The listener stops even if the future is dropped after its first poll.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.stopped.cancelled().await;
    }

    /// Stops accepting at once, lets the connections finish for at most `drain`, then resets what is left. The port
    /// is free at the latest when this returns.
    ///
    /// # Cancel safety
    /// Dropping the future resets what is left at once.
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
    counts: Arc<ListenerCounts>,
    abort: CancellationToken,
}

impl Accepting {
    async fn run(mut self, socket: TcpListener) {
        // However this ends, whoever waits for the port hears that it is free.
        let stopped = self.stopped.clone().drop_guard();
        let counts = Arc::clone(&self.context.counts);
        let mut backoff = FIRST_BACKOFF;
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                Some(_) = self.connections.join_next() => continue,
                accepted = accept(&socket, &counts) => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    backoff = FIRST_BACKOFF;
                    counts.set_out_of_descriptors(false);
                    self.start(stream, peer);
                }
                // The program left before it was accepted (accept(2)).
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::debug!(listener = %self.context.local, %error, wait = ?backoff, "cannot accept");
                    counts.accept_failed(sys::is_out_of_descriptors(&error));
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
        let Some(place) = self.context.options.limit.take() else {
            self.context.counts.reject();
            sys::reset_on_close(&stream);
            return;
        };
        sys::prepare_local(&stream);
        self.connections
            .spawn(Arc::clone(&self.context).carry(stream, peer, place));
    }
}

/// The next connection. That there is none yet shows that a descriptor would be free for it.
async fn accept(socket: &TcpListener, counts: &ListenerCounts) -> io::Result<(TcpStream, SocketAddr)> {
    poll_fn(|cx| {
        let accepted = socket.poll_accept(cx);
        if accepted.is_pending() {
            counts.set_out_of_descriptors(false);
        }
        accepted
    })
    .await
}

impl Context {
    async fn carry(self: Arc<Context>, stream: TcpStream, peer: SocketAddr, place: Place) {
        let since = Instant::now();
        let active = self.counts.open();
        let dial = tokio::time::timeout(self.options.dial_timeout, self.dialer.dial(&self.target));
        let dialled = tokio::select! {
            // Most dials are done at once, and then nothing else needs watching.
            biased;
            dialled = dial => dialled
                .unwrap_or_else(|_| Err(self.took_too_long()))
                .map_err(|refusal| match refusal.kind {
                    RefusalKind::LinkLost => End::LinkLost,
                    _ => End::Refused(refusal),
                }),
            () = self.abort.cancelled() => Err(End::Reset { by: Side::Neither }),
            () = program::gave_up(&stream) => Err(End::Reset { by: Side::Local }),
        };
        let (sent, received, end) = match dialled {
            Ok(remote) => {
                let traffic = &self.counts.traffic;
                let report = splice_until(stream, remote, self.abort.cancelled(), traffic).await;
                (report.sent, report.received, report.end)
            }
            Err(end) => {
                sys::reset_on_close(&stream);
                drop(stream);
                (0, 0, end)
            }
        };
        let open_for = since.elapsed();
        tracing::debug!(listener = %self.local, %peer, sent, received, ?open_for, %end, "connection closed");
        self.counts.ended(&end);
        drop((active, place));
        if let (End::Refused(refusal), Some(refusals)) = (end, &self.options.refusals) {
            drop(refusals.try_send((self.local, refusal)));
        }
    }

    fn took_too_long(&self) -> Refusal {
        let message = format!(
            "no stream to {} within {:?}",
            self.target, self.options.dial_timeout
        );
        Refusal::new(RefusalKind::TimedOut, message)
    }
}

//! A local port whose connections are carried to one target.

mod access;
mod bandwidth;
mod proxy_header;

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

pub use self::access::{Access, Stranger, Transport};
pub use self::bandwidth::Bandwidth;
pub(crate) use self::bandwidth::{Meter, Way};
use crate::splice::{End, Limits, Side, Traffic, remote_end, splice_until};
use crate::{ByteStream, Dialer, Error, Refusal, RefusalKind, Target, program, sys};

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
    /// Who hears of each connection of somebody who may not connect, by the address that was connected to. What does not fit
    /// into the channel is not told. Default: nobody.
    pub strangers: Option<mpsc::Sender<(SocketAddr, Stranger)>>,
    /// Who may connect, and what each connection is held to. Default: everybody, to nothing.
    pub rules: Rules,
}

/// Who may connect to a [`Listener`], and what each connection is held to. [`Listener::set_rules`] gives it others.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use tunnel_bridge::listener::{Access, ConnectionLimit, Rules};
///
/// let rules = Rules {
///     access: Access::Users([0, 1000].into()),
///     limit: Some(Arc::new(ConnectionLimit::new(50))),
///     idle_timeout: Some(Duration::from_secs(600)),
///     ..Rules::default()
/// };
/// assert!(rules.bandwidth.is_none());
/// ```
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Who may connect; others are reset at once and counted. Default: everybody.
    pub access: Access,
    /// A second limit beside [`ListenerOptions::limit`], for the connections of one service. Default: none.
    pub limit: Option<Arc<ConnectionLimit>>,
    /// After how long without a byte either way a connection is reset at both ends: a FIN would say that what was sent is
    /// complete. Default: never.
    pub idle_timeout: Option<Duration>,
    /// The bound on bytes a second; listeners may share one. Default: none.
    pub bandwidth: Option<Arc<Bandwidth>>,
    /// Whether the target first gets a PROXY protocol header (version 2) with the program's address and ours. It must expect
    /// one. Default: no.
    pub proxy_protocol: bool,
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

/// A connection's place under each limit.
type Places = (Place, Option<Place>);

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
            strangers: None,
            rules: Rules::default(),
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
    /// Connections that were reset at once because of [`ListenerOptions::limit`] or [`Rules::limit`].
    pub rejected: u64,
    /// Connections that were reset at once because of [`Rules::access`].
    pub strangers: u64,
    /// Bytes from programs to the target, those of open connections included.
    pub sent_bytes: u64,
    /// Bytes from the target to programs, those of open connections included.
    pub received_bytes: u64,
    /// How the connection that failed last did; `None` once one that began after it has finished in good order.
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
    strangers: AtomicU64,
    traffic: Traffic,
    /// With the number of the connection.
    last_failure: Mutex<Option<(u64, End)>>,
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
            strangers: AtomicU64::new(0),
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
            strangers: self.strangers.load(Ordering::Relaxed),
            sent_bytes: self.traffic.sent.load(Ordering::Relaxed),
            received_bytes: self.traffic.received.load(Ordering::Relaxed),
            last_failure: self.last_failure().as_ref().map(|(_, end)| end.clone()),
            accept_failures: self.accept_failures.load(Ordering::Relaxed),
            out_of_descriptors: self.out_of_descriptors.load(Ordering::Relaxed),
        }
    }

    /// Counts a connection for as long as the result lives.
    fn open(self: &Arc<Self>) -> Active {
        let number = self.connections.fetch_add(1, Ordering::AcqRel);
        self.active.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_one();
        Active {
            counts: Arc::clone(self),
            number,
        }
    }

    fn reject(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
    }

    fn turn_away(&self) {
        self.strangers.fetch_add(1, Ordering::Relaxed);
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

    fn last_failure(&self) -> MutexGuard<'_, Option<(u64, End)>> {
        self.last_failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open connection, as counted; however its task ends.
struct Active {
    counts: Arc<ListenerCounts>,
    number: u64,
}

impl Active {
    fn ended(&self, end: &End) {
        let mut last = self.counts.last_failure();
        match end {
            // That one which was there before still ends says nothing about those that begin now.
            End::Finished => drop(last.take_if(|(failed, _)| *failed < self.number)),
            failure => *last = Some((self.number, failure.clone())),
        }
    }
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
    rules: Arc<Mutex<Arc<Rules>>>,
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
        mut options: ListenerOptions,
        changed: Arc<Notify>,
    ) -> Result<Listener, Error> {
        let listen = |source| Error::Listen { source };
        socket.set_nonblocking(true).map_err(listen)?;
        let local = socket.local_addr().map_err(listen)?;
        let socket = TcpListener::from_std(socket).map_err(listen)?;
        sys::prepare_listener(&socket);
        let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
        let stopped = CancellationToken::new();
        let counts = Arc::new(ListenerCounts::new(changed));
        let rules = Arc::new(Mutex::new(Arc::new(std::mem::take(&mut options.rules))));
        let accepting = Accepting {
            context: Arc::new(Context {
                local,
                target,
                dialer,
                options,
                rules: Arc::clone(&rules),
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
            rules,
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

    /// Holds the connections that are accepted from here on to other rules.
    pub fn set_rules(&self, rules: Rules) {
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
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
    rules: Arc<Mutex<Arc<Rules>>>,
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
        let context = &self.context;
        let rules = Arc::clone(&context.rules.lock().unwrap_or_else(PoisonError::into_inner));
        let local = context.connected_to(&stream);
        if let Err(stranger) = rules.access.admit(Transport::Tcp, local, peer) {
            tracing::debug!(listener = %context.local, %peer, %stranger, "turned away");
            context.counts.turn_away();
            sys::reset_on_close(&stream);
            if let Some(strangers) = &context.options.strangers
                && strangers.try_send((context.local, stranger)).is_err()
            {
                tracing::trace!("nobody hears of it: it is counted");
            }
            return;
        }
        let Some(places) = context.places(&rules) else {
            context.counts.reject();
            sys::reset_on_close(&stream);
            return;
        };
        sys::prepare_accepted(&stream);
        self.connections
            .spawn(Arc::clone(context).carry(stream, peer, rules, places));
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
    /// What a program has connected to: a listener may be bound to every address.
    fn connected_to(&self, stream: &TcpStream) -> SocketAddr {
        if self.local.ip().is_unspecified() {
            stream.local_addr().unwrap_or(self.local)
        } else {
            self.local
        }
    }

    /// A place under each limit.
    fn places(&self, rules: &Rules) -> Option<Places> {
        let service = match &rules.limit {
            Some(limit) => Some(limit.take()?),
            None => None,
        };
        Some((self.options.limit.take()?, service))
    }

    async fn carry(
        self: Arc<Context>,
        stream: TcpStream,
        peer: SocketAddr,
        rules: Arc<Rules>,
        places: Places,
    ) {
        let since = Instant::now();
        let active = self.counts.open();
        // Boxed: what dialing needs should not be held by the connection that comes of it.
        let dialled = Box::pin(self.dial(&stream, peer, &rules)).await;
        let (sent, received, end) = match dialled {
            Ok(remote) => {
                let limits = Limits {
                    idle: rules.idle_timeout,
                    bandwidth: rules.bandwidth.clone(),
                };
                let traffic = &self.counts.traffic;
                let report = splice_until(stream, remote, self.abort.cancelled(), traffic, &limits).await;
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
        active.ended(&end);
        drop((active, places));
        if let (End::Refused(refusal), Some(refusals)) = (end, &self.options.refusals) {
            drop(refusals.try_send((self.local, refusal)));
        }
    }

    /// A stream to the target that has been told who connects, where it is to be told.
    async fn dial(
        &self,
        stream: &TcpStream,
        peer: SocketAddr,
        rules: &Rules,
    ) -> Result<Box<dyn ByteStream>, End> {
        let dial = tokio::time::timeout(self.options.dial_timeout, async {
            let mut remote = self.dialer.dial(&self.target).await.map_err(End::Refused)?;
            if rules.proxy_protocol {
                let local = self.connected_to(stream);
                let mut header = proxy_header::header(peer, local);
                while !header.is_empty() {
                    poll_fn(|cx| remote.poll_write_chunk(cx, &mut header))
                        .await
                        .map_err(|error| remote_end(&error))?;
                }
            }
            Ok(remote)
        });
        tokio::select! {
            // Most dials are done at once, and then nothing else needs watching.
            biased;
            dialled = dial => dialled.unwrap_or_else(|_| Err(End::Refused(self.took_too_long()))),
            () = self.abort.cancelled() => Err(End::Reset { by: Side::Neither }),
            () = program::gave_up(stream) => Err(End::Reset { by: Side::Local }),
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

//! A local UDP port whose datagrams are carried to one target, a flow for each source.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, Id, JoinError, JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tunnel_proto::MAX_DATAGRAM_BYTES;

use super::relay::end_of;
use super::table::{Caps, FlowId, FlowTable, Verdict};
use crate::listener::{Access, ConnectionLimit, Place, Stranger, Transport};
use crate::{DatagramFlow, Dialer, End, Error, Refusal, RefusalKind, Side, Target, sys};

/// Datagrams of a flow that wait for it to be connected, and those of all flows of a listener, in bytes. Further ones are dropped.
const WAITING: usize = 64;
const WAITING_BYTES: usize = 4 * 1024 * 1024;

/// Datagrams for local programs that wait for the socket. Flows wait while it is full, and drop what they have no room for.
const ANSWERS: usize = 1024;

/// Datagrams received, or sent, before something else gets its turn.
const TURN: usize = 64;

/// Whoever was refused is not asked for again before this has passed, however many datagrams come.
const REFUSED_REST: Duration = Duration::from_secs(1);

/// How long an answer to whether a source may send holds, and how many of those that may not are remembered.
const ASK_AGAIN: Duration = Duration::from_secs(1);
const MOST_TURNED_AWAY: usize = 1024;

/// After a failure to receive.
const BACKOFF: Duration = Duration::from_millis(100);

/// How a [`UdpListener`] treats its flows.
#[derive(Debug, Clone)]
pub struct UdpOptions {
    /// How long a dial may take, including waiting for the link to come back. Default 15 s; datagrams wait for it, up to 64 of a
    /// flow.
    pub dial_timeout: Duration,
    /// How many flows this listener may have at once. For one more the flow that has rested longest gives way, if it has rested for a
    /// second; otherwise the new one's datagrams are dropped. Default 4,096.
    pub max_flows: usize,
    /// The same for the flows of one source address. Default 2,048: on a loopback address, all programs share one.
    pub max_flows_per_client: usize,
    /// How many flows may be open at once, of all listeners that share it; the datagrams of further ones are dropped.
    /// Default: 16,384 of its own.
    pub limit: Arc<ConnectionLimit>,
    /// Who may send here; the datagrams of others are dropped and counted. It is asked as a flow
    /// begins, and again each second while it lasts. Default: everybody.
    pub access: Access,
    /// Who hears of each source that was turned away, by the address that it sent to. What does not fit into the channel is not told.
    /// Default: nobody.
    pub strangers: Option<mpsc::Sender<(SocketAddr, Stranger)>>,
    /// Who hears of each flow that the far side refused, by the address that it came to. What does not fit into the channel is not
    /// told. Default: nobody.
    pub refusals: Option<mpsc::Sender<(SocketAddr, Refusal)>>,
}

impl Default for UdpOptions {
    fn default() -> UdpOptions {
        UdpOptions {
            dial_timeout: Duration::from_secs(15),
            max_flows: 4096,
            max_flows_per_client: 2048,
            limit: Arc::default(),
            access: Access::Everybody,
            strangers: None,
            refusals: None,
        }
    }
}

/// Datagrams that a [`UdpListener`] has dropped, by the reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DroppedDatagrams {
    /// There was no room where they had to wait: for the link, for the flow to be connected, or for the local program.
    pub queue_full: u64,
    /// As many flows as may be were in use.
    pub too_many_flows: u64,
    /// Longer than the link carries.
    pub too_long: u64,
    /// The far side had just refused the flow, or it could not be dialed.
    pub not_connected: u64,
    /// Who sent them may not.
    pub strangers: u64,
}

impl DroppedDatagrams {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.queue_full + self.too_many_flows + self.too_long + self.not_connected + self.strangers
    }
}

/// What came of a [`UdpListener`]'s flows so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlowCounts {
    /// Flows that were begun.
    pub flows: u64,
    /// Those of them that are open.
    pub active: u64,
    /// Flows that gave way to others.
    pub evicted: u64,
    /// Datagrams from programs that were given to the target's flow.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Datagrams from the target that were given to programs.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Datagrams that were dropped here. What is lost elsewhere, nobody knows.
    pub dropped: DroppedDatagrams,
    /// The longest datagram that the latest flow carries, in bytes; `None` before there was one.
    pub max_datagram: Option<usize>,
    /// How the flow that ended last failed; `None` when it rested or ended in good order.
    pub last_failure: Option<End>,
}

/// The counts of a [`UdpListener`], kept up to date. Reading them never waits, and they stay readable after its end.
#[derive(Debug)]
pub struct UdpCounts {
    flows: AtomicU64,
    active: AtomicU64,
    evicted: AtomicU64,
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    received: AtomicU64,
    received_bytes: AtomicU64,
    queue_full: AtomicU64,
    too_many_flows: AtomicU64,
    too_long: AtomicU64,
    not_connected: AtomicU64,
    strangers: AtomicU64,
    max_datagram: AtomicUsize,
    last_failure: Mutex<Option<End>>,
    changed: Arc<Notify>,
}

impl UdpCounts {
    fn new(changed: Arc<Notify>) -> UdpCounts {
        UdpCounts {
            flows: AtomicU64::new(0),
            active: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            received: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            queue_full: AtomicU64::new(0),
            too_many_flows: AtomicU64::new(0),
            too_long: AtomicU64::new(0),
            not_connected: AtomicU64::new(0),
            strangers: AtomicU64::new(0),
            max_datagram: AtomicUsize::new(0),
            last_failure: Mutex::new(None),
            changed,
        }
    }

    /// The counts as they stand.
    #[must_use]
    pub fn read(&self) -> FlowCounts {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        // `active` before `flows`, so that it is never the larger one.
        let active = self.active.load(Ordering::Acquire);
        let longest = self.max_datagram.load(Ordering::Relaxed);
        FlowCounts {
            active,
            flows: self.flows.load(Ordering::Acquire),
            evicted: of(&self.evicted),
            sent: of(&self.sent),
            sent_bytes: of(&self.sent_bytes),
            received: of(&self.received),
            received_bytes: of(&self.received_bytes),
            dropped: DroppedDatagrams {
                queue_full: of(&self.queue_full),
                too_many_flows: of(&self.too_many_flows),
                too_long: of(&self.too_long),
                not_connected: of(&self.not_connected),
                strangers: of(&self.strangers),
            },
            max_datagram: (longest > 0).then_some(longest),
            last_failure: self.last_failure().clone(),
        }
    }

    fn open(self: &Arc<Self>) -> Active {
        self.flows.fetch_add(1, Ordering::AcqRel);
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

    fn last_failure(&self) -> MutexGuard<'_, Option<End>> {
        self.last_failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// An open flow, as counted; however its task ends.
struct Active {
    counts: Arc<UdpCounts>,
}

impl Drop for Active {
    fn drop(&mut self) {
        self.counts.active.fetch_sub(1, Ordering::AcqRel);
        self.counts.changed.notify_one();
    }
}

/// Binds a UDP socket with the settings that fit a [`UdpListener`]: nobody else can share it, and a burst fits into its queue as far as
/// the system allows.
///
/// # Errors
/// What the system says, [`AddrInUse`](io::ErrorKind::AddrInUse) and
/// [`PermissionDenied`](io::ErrorKind::PermissionDenied) being the usual ones.
pub fn bind(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    prepare(&socket);
    Ok(socket)
}

/// Gives a socket that another process has bound what [`bind`] would have: room for a burst, as far as the system allows.
pub fn prepare(socket: &std::net::UdpSocket) {
    sys::prepare_datagrams(socket);
}

/// One local address and port whose datagrams go to one target: a flow for each source address and port, so that each source has a
/// source port of its own at the far side for as long as its flow lasts.
///
/// A flow ends when it has rested for 30 s without ever being answered, or for 2 min. Dropping the listener ends all of them.
///
/// ```
/// use std::sync::Arc;
/// use tokio::net::UdpSocket;
/// use tokio::sync::Notify;
/// use tunnel_bridge::Target;
/// use tunnel_bridge::udp::{self, UdpDialer, UdpListener, UdpOptions};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = UdpSocket::bind("127.0.0.1:0").await?;
/// let target = Target::new(&server.local_addr()?.to_string())?;
/// let listener = UdpListener::spawn(
///     udp::bind("127.0.0.1:0".parse()?)?,
///     target,
///     // A tunnel's `Link::dialer()`, or, as here, directly.
///     Arc::new(UdpDialer::default()),
///     UdpOptions::default(),
///     Arc::new(Notify::new()),
/// )?;
/// let program = UdpSocket::bind("127.0.0.1:0").await?;
/// program.send_to(b"who?", listener.local_addr()).await?;
/// let mut question = [0; 16];
/// let (len, source) = server.recv_from(&mut question).await?;
/// server.send_to(&question[..len], source).await?;
/// let (len, from) = program.recv_from(&mut question).await?;
/// assert_eq!((&question[..len], from), (&b"who?"[..], listener.local_addr()));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct UdpListener {
    local: SocketAddr,
    counts: Arc<UdpCounts>,
    access: Arc<Mutex<Access>>,
    end_flows: watch::Sender<()>,
    stop: CancellationToken,
    stopped: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl UdpListener {
    /// Carries the datagrams that come to `socket` to `target` by way of `dialer`.
    ///
    /// `changed` is notified when a flow begins or ends, or is dropped for [`UdpOptions`]' limits; datagrams are counted in silence.
    /// Many listeners may share one.
    ///
    /// # Errors
    /// [`Error::Listen`] when the socket cannot be used.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn(
        socket: std::net::UdpSocket,
        target: Target,
        dialer: Arc<dyn Dialer>,
        options: UdpOptions,
        changed: Arc<Notify>,
    ) -> Result<UdpListener, Error> {
        let listen = |source| Error::Listen { source };
        socket.set_nonblocking(true).map_err(listen)?;
        let local = socket.local_addr().map_err(listen)?;
        let socket = UdpSocket::from_std(socket).map_err(listen)?;
        let counts = Arc::new(UdpCounts::new(changed));
        let (stop, stopped) = (CancellationToken::new(), CancellationToken::new());
        let (answers_sender, answers) = mpsc::channel(ANSWERS);
        let caps = Caps {
            all: options.max_flows,
            per_client: options.max_flows_per_client,
        };
        let access = Arc::new(Mutex::new(options.access.clone()));
        let (end_flows, to_end) = watch::channel(());
        let task = Task {
            socket,
            access: Arc::clone(&access),
            to_end,
            table: FlowTable::new(caps),
            slots: HashMap::new(),
            turned_away: HashMap::new(),
            ids: HashMap::new(),
            tasks: JoinSet::new(),
            answers,
            context: Arc::new(Carrying {
                local,
                target,
                dialer,
                options,
                counts: Arc::clone(&counts),
                answers: answers_sender,
                waiting: AtomicUsize::new(0),
            }),
        };
        let task = tokio::spawn(task.run(stop.clone(), stopped.clone()));
        Ok(UdpListener {
            local,
            counts,
            access,
            end_flows,
            stop,
            stopped,
            task: Some(task),
        })
    }

    /// The address it listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Holds the flows that begin from here on to another rule.
    pub fn set_access(&self, access: Access) {
        *self.access.lock().unwrap_or_else(PoisonError::into_inner) = access;
    }

    /// Ends the flows that there are. What is taken from the socket from here on begins new ones: those are dialed anew, and held
    /// to the rule that holds then.
    pub fn end_flows(&self) {
        self.end_flows.send_replace(());
    }

    /// What came of its flows so far.
    #[must_use]
    pub fn counts(&self) -> FlowCounts {
        self.counts.read()
    }

    /// The counts, to be read after the listener has been closed as well.
    #[must_use]
    pub fn shared_counts(&self) -> Arc<UdpCounts> {
        Arc::clone(&self.counts)
    }

    /// Closes the socket and ends the flows. UDP has nothing that could be waited for. The port is free when this returns.
    ///
    /// # Cancel safety
    /// It is closed even if the future is dropped after its first poll.
    pub async fn close(mut self) {
        self.stop.cancel();
        self.stopped.cancelled().await;
        if let Some(task) = self.task.take()
            && let Err(error) = task.await
        {
            tracing::warn!(%error, "a listener's task failed");
        }
    }
}

impl Drop for UdpListener {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The task that has the socket and the table.
struct Task {
    socket: UdpSocket,
    access: Arc<Mutex<Access>>,
    /// Changed when all flows are to be ended.
    to_end: watch::Receiver<()>,
    table: FlowTable,
    slots: HashMap<FlowId, Slot>,
    turned_away: HashMap<SocketAddr, Instant>,
    ids: HashMap<Id, FlowId>,
    tasks: JoinSet<()>,
    answers: mpsc::Receiver<(FlowId, Bytes)>,
    context: Arc<Carrying>,
}

struct Slot {
    to_flow: mpsc::Sender<Waiting>,
    task: AbortHandle,
    /// When it was asked last whether its source may send.
    asked: Instant,
}

/// A datagram on its way to its flow's task.
struct Waiting {
    datagram: Bytes,
    context: Arc<Carrying>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.context
            .waiting
            .fetch_sub(self.datagram.len(), Ordering::AcqRel);
    }
}

impl Task {
    async fn run(mut self, stop: CancellationToken, stopped: CancellationToken) {
        // However this ends, whoever waits for the port hears that it is free.
        let stopped = stopped.drop_guard();
        let mut buffer = vec![0; MAX_DATAGRAM_BYTES + 1];
        while !stop.is_cancelled() {
            let due = self.table.poll_timeout();
            tokio::select! {
                () = stop.cancelled() => break,
                Ok(()) = self.to_end.changed() => self.end_all(),
                Some(done) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => self.handle_ended(&done),
                Some(answer) = self.answers.recv() => self.give(answer),
                () = sleep_until(due), if due.is_some() => self.end_idle(),
                readable = self.socket.readable() => {
                    if let Err(error) = readable.and_then(|()| self.take(&mut buffer)) {
                        tracing::debug!(listener = %self.context.local, %error, "cannot receive");
                        tokio::time::sleep(BACKOFF).await;
                    }
                }
            }
        }
        self.tasks.shutdown().await;
        drop(self);
        drop(stopped);
    }

    /// Receives what there is, as far as its turn goes.
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        // What is received from here on must not go to the old ones.
        if self.to_end.has_changed().unwrap_or(false) {
            self.to_end.mark_unchanged();
            self.end_all();
        }
        let now = clock();
        for _ in 0..TURN {
            match self.socket.try_recv_from(buffer) {
                Ok((len, source)) => self.handle_datagram(&buffer[..len], source, now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // Windows: an answer of ours found nobody. It says nothing about what comes.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn handle_datagram(&mut self, datagram: &[u8], source: SocketAddr, now: Instant) {
        // Before the table is asked: a stranger must not make another flow go.
        if !self.is_let_in(source, now) {
            return;
        }
        let counts = &self.context.counts;
        let id = match self.table.handle_datagram(source, now) {
            Verdict::Known(id) => id,
            Verdict::New { id, evicted } => {
                if let Some(evicted) = evicted {
                    count(&counts.evicted);
                    self.end(evicted);
                }
                if !self.begin(id) {
                    self.table.remove(id);
                    return;
                }
                id
            }
            Verdict::Full => {
                count(&counts.too_many_flows);
                counts.changed.notify_one();
                return;
            }
        };
        let Some(slot) = self.slots.get(&id) else { return };
        let waiting = self.context.waiting.fetch_add(datagram.len(), Ordering::AcqRel);
        let datagram = Waiting {
            datagram: Bytes::copy_from_slice(datagram),
            context: Arc::clone(&self.context),
        };
        let counts = &self.context.counts;
        if waiting > WAITING_BYTES {
            return count(&counts.queue_full);
        }
        match slot.to_flow.try_send(datagram) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => count(&counts.queue_full),
            Err(mpsc::error::TrySendError::Closed(_)) => count(&counts.not_connected),
        }
    }

    /// Whether a source may send. It is asked again from time to time: a port that one user gives up another one may take, and the
    /// flow with it.
    fn is_let_in(&mut self, source: SocketAddr, now: Instant) -> bool {
        let flow = self.table.flow_of(source);
        if let Some(slot) = flow.and_then(|id| self.slots.get(&id))
            && now < slot.asked + ASK_AGAIN
        {
            return true;
        }
        // A stranger that floods costs no question for each datagram.
        if self
            .turned_away
            .get(&source)
            .is_some_and(|at| now < *at + ASK_AGAIN)
        {
            count(&self.context.counts.strangers);
            return false;
        }
        if self.admits(source) {
            if let Some(slot) = flow.and_then(|id| self.slots.get_mut(&id)) {
                slot.asked = now;
            }
            return true;
        }
        if self.turned_away.len() >= MOST_TURNED_AWAY {
            self.turned_away.clear();
        }
        self.turned_away.insert(source, now);
        if let Some(id) = flow {
            self.table.remove(id);
            self.end(id);
        }
        false
    }

    fn admits(&self, source: SocketAddr) -> bool {
        let context = &self.context;
        let access = self.access.lock().unwrap_or_else(PoisonError::into_inner);
        let Err(stranger) = access.admit(Transport::Udp, context.local, source) else {
            return true;
        };
        tracing::debug!(listener = %context.local, %source, %stranger, "turned away");
        count(&context.counts.strangers);
        context.counts.changed.notify_one();
        if let Some(strangers) = &context.options.strangers
            && strangers.try_send((context.local, stranger)).is_err()
        {
            tracing::trace!("nobody hears of it: it is counted");
        }
        false
    }

    /// Starts a flow's task, if there is a place for it.
    fn begin(&mut self, id: FlowId) -> bool {
        let context = &self.context;
        let Some(place) = context.options.limit.take() else {
            count(&context.counts.too_many_flows);
            context.counts.changed.notify_one();
            return false;
        };
        let (to_flow, from_listener) = mpsc::channel(WAITING);
        let active = context.counts.open();
        let carry = Arc::clone(context).carry(id, from_listener, active, place);
        let task = self.tasks.spawn(carry);
        self.ids.insert(task.id(), id);
        self.slots.insert(
            id,
            Slot {
                to_flow,
                task,
                asked: clock(),
            },
        );
        true
    }

    /// Gives answers to the local programs, as far as its turn goes.
    fn give(&mut self, first: (FlowId, Bytes)) {
        let now = clock();
        self.give_one(first, now);
        for _ in 1..TURN {
            match self.answers.try_recv() {
                Ok(next) => self.give_one(next, now),
                Err(_) => return,
            }
        }
    }

    fn give_one(&mut self, (id, datagram): (FlowId, Bytes), now: Instant) {
        if let Some(source) = self.table.handle_answer(id, now) {
            let counts = &self.context.counts;
            // Whether the socket is full, the system says, and nobody waits for it.
            let socket = SockRef::from(&self.socket);
            if socket.send_to(&datagram, &source.into()).is_ok() {
                count(&counts.received);
                let bytes = datagram.len() as u64;
                counts.received_bytes.fetch_add(bytes, Ordering::Relaxed);
            } else {
                count(&counts.queue_full);
            }
        }
    }

    fn end_idle(&mut self) {
        let now = clock();
        while let Some(id) = self.table.poll_idle(now) {
            self.end(id);
        }
    }

    fn end_all(&mut self) {
        for (id, slot) in self.slots.drain() {
            self.table.remove(id);
            slot.task.abort();
        }
    }

    /// Ends a flow that has left the table.
    fn end(&mut self, id: FlowId) {
        if let Some(slot) = self.slots.remove(&id) {
            slot.task.abort();
        }
    }

    fn handle_ended(&mut self, done: &Result<(Id, ()), JoinError>) {
        let task = match done {
            Ok((task, ())) => *task,
            Err(error) => error.id(),
        };
        if let Some(id) = self.ids.remove(&task) {
            self.table.remove(id);
            self.slots.remove(&id);
        }
    }
}

/// What the tasks of a listener's flows share.
struct Carrying {
    local: SocketAddr,
    target: Target,
    dialer: Arc<dyn Dialer>,
    options: UdpOptions,
    counts: Arc<UdpCounts>,
    answers: mpsc::Sender<(FlowId, Bytes)>,
    /// Bytes of datagrams on their way to flows' tasks.
    waiting: AtomicUsize,
}

impl Carrying {
    /// Carries the datagrams of one flow until it ends, or is aborted.
    async fn carry(
        self: Arc<Carrying>,
        id: FlowId,
        mut from_listener: mpsc::Receiver<Waiting>,
        active: Active,
        place: Place,
    ) {
        let counts = &self.counts;
        let dial = self.dialer.dial_datagrams(&self.target);
        let dialed = tokio::time::timeout(self.options.dial_timeout, dial).await;
        let end = match dialed.unwrap_or_else(|_| Err(self.took_too_long())) {
            Ok(mut flow) => {
                counts.max_datagram.store(flow.max_datagram(), Ordering::Relaxed);
                self.pump(id, &mut *flow, &mut from_listener).await
            }
            Err(refusal) => End::Refused(refusal),
        };
        tracing::debug!(listener = %self.local, %end, "flow ended");
        counts.ended(&end);
        if let (End::Refused(refusal), Some(refusals)) = (&end, &self.options.refusals) {
            drop(refusals.try_send((self.local, refusal.clone())));
        }
        if end != End::Finished {
            from_listener.close();
            while let Ok(waiting) = from_listener.try_recv() {
                count(&counts.not_connected);
                drop(waiting);
            }
            tokio::time::sleep(REFUSED_REST).await;
        }
        drop((active, place));
    }

    async fn pump(
        &self,
        id: FlowId,
        flow: &mut dyn DatagramFlow,
        from_listener: &mut mpsc::Receiver<Waiting>,
    ) -> End {
        let counts = &self.counts;
        let longest = flow.max_datagram();
        let mut dropped = 0;
        loop {
            let moved = tokio::select! {
                waiting = from_listener.recv() => match waiting {
                    None => return End::Finished,
                    Some(waiting) if waiting.datagram.len() > longest => {
                        count(&counts.too_long);
                        Ok(())
                    }
                    Some(waiting) => {
                        count(&counts.sent);
                        let bytes = waiting.datagram.len() as u64;
                        counts.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
                        poll_fn(|cx| flow.poll_send(cx, &waiting.datagram)).await
                    }
                },
                received = poll_fn(|cx| flow.poll_receive(cx)) => match received {
                    Ok(Some(datagram)) => {
                        // Fails only when the listener is gone, and then this task is aborted.
                        drop(self.answers.send((id, datagram)).await);
                        Ok(())
                    }
                    Ok(None) => return End::Finished,
                    Err(error) => Err(error),
                },
            };
            let all = flow.dropped();
            counts.queue_full.fetch_add(all - dropped, Ordering::Relaxed);
            dropped = all;
            if let Err(error) = moved {
                return end_of(&error, Side::Remote);
            }
        }
    }

    fn took_too_long(&self) -> Refusal {
        let message = format!(
            "no flow to {} within {:?}",
            self.target, self.options.dial_timeout
        );
        Refusal::new(RefusalKind::TimedOut, message)
    }
}

async fn sleep_until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due.into()).await;
    }
}

/// The runtime's clock, which tests can stop.
fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

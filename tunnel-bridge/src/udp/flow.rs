//! One flow of a link: as its user holds it, and as the driver does.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tokio::sync::{Mutex, mpsc};
use tunnel_proto::{Connection, Error, Event, Features, MAX_DATAGRAM_BYTES, StreamId};

use crate::link::{Command, link_lost};
use crate::stream::Broken;
use crate::udp::IncomingFlow;
use crate::{DatagramFlow, Refusal, RefusalKind, ResetReason, Target};

/// Requests of the other end that nobody has taken yet; more are refused.
const INCOMING_QUEUE: usize = 256;

/// Datagrams of one flow that the driver has not taken yet, or that its user has not. Of the former further ones are dropped,
/// of the latter the oldest.
pub(crate) const QUEUE_DATAGRAMS: usize = 256;
pub(crate) const QUEUE_BYTES: usize = 256 * 1024;

/// The same of all flows of a link together, each datagram with [`KEEPING`].
const LINK_BYTES: usize = 8 * 1024 * 1024;

/// What keeping a datagram costs beside its bytes.
const KEEPING: usize = 64;

/// What flows ask of the driver. At most [`QUEUE_DATAGRAMS`] of a flow wait, and [`LINK_BYTES`] of all.
#[derive(Debug)]
pub(crate) enum Request {
    Open { target: Target, flow: Arc<Shared> },
    Send { flow: Arc<Shared>, datagram: Bytes },
    Accept { id: StreamId },
    Refuse { id: StreamId, refusal: Refusal },
    Reset { flow: Arc<Shared>, reason: ResetReason },
}

/// What a flow and the driver share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The flow's number; 0 until the driver has opened it.
    id: AtomicU32,
    longest: AtomicUsize,
    /// Datagrams that were given to the driver and not taken by it, and their bytes.
    handed: AtomicUsize,
    handed_bytes: AtomicUsize,
    received: StdMutex<Received>,
    waker: AtomicWaker,
    /// Set once, when the flow ended early.
    broken: OnceLock<Broken>,
    open_sent: AtomicBool,
    dropped: AtomicU64,
    link: Arc<LinkBytes>,
}

#[derive(Debug, Default)]
struct Received {
    queue: VecDeque<Bytes>,
    bytes: usize,
    finished: bool,
}

/// What the flows of a link hold together, each way.
#[derive(Debug, Default)]
pub(crate) struct LinkBytes {
    sending: AtomicUsize,
    received: AtomicUsize,
}

impl Shared {
    pub(crate) fn new(link: Arc<LinkBytes>) -> Shared {
        Shared {
            id: AtomicU32::new(0),
            longest: AtomicUsize::new(MAX_DATAGRAM_BYTES),
            handed: AtomicUsize::new(0),
            handed_bytes: AtomicUsize::new(0),
            received: StdMutex::default(),
            waker: AtomicWaker::new(),
            broken: OnceLock::new(),
            open_sent: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            link,
        }
    }

    /// Registers whoever waits for a datagram.
    #[cfg(feature = "quic")]
    pub(crate) fn wake_when_received(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn id(&self) -> StreamId {
        StreamId::from_number(self.id.load(Ordering::Acquire))
    }

    fn received(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes room for a datagram on its way to the driver, if there is any.
    fn hand_over(&self, len: usize) -> bool {
        let room = self.handed.load(Ordering::Acquire) < QUEUE_DATAGRAMS
            && self.handed_bytes.load(Ordering::Acquire) + len <= QUEUE_BYTES
            && self.link.sending.load(Ordering::Acquire) + len + KEEPING <= LINK_BYTES;
        if room {
            self.handed.fetch_add(1, Ordering::AcqRel);
            self.handed_bytes.fetch_add(len, Ordering::AcqRel);
            self.link.sending.fetch_add(len + KEEPING, Ordering::AcqRel);
        }
        room
    }

    fn taken(&self, len: usize) {
        self.handed.fetch_sub(1, Ordering::AcqRel);
        self.handed_bytes.fetch_sub(len, Ordering::AcqRel);
        self.link.sending.fetch_sub(len + KEEPING, Ordering::AcqRel);
    }

    /// A datagram of the far side. It waits for the user, unless there are too many: then the oldest gives way.
    pub(crate) fn receive(&self, datagram: Bytes) {
        let mut received = self.received();
        while received.queue.len() >= QUEUE_DATAGRAMS || received.bytes + datagram.len() > QUEUE_BYTES {
            let Some(oldest) = received.queue.pop_front() else {
                break;
            };
            received.bytes -= oldest.len();
            self.link
                .received
                .fetch_sub(oldest.len() + KEEPING, Ordering::AcqRel);
            self.drop_one();
        }
        if self.link.received.load(Ordering::Acquire) + datagram.len() + KEEPING > LINK_BYTES {
            return self.drop_one();
        }
        self.link
            .received
            .fetch_add(datagram.len() + KEEPING, Ordering::AcqRel);
        received.bytes += datagram.len();
        received.queue.push_back(datagram);
        drop(received);
        self.waker.wake();
    }

    pub(crate) fn pop(&self) -> Option<Bytes> {
        let mut received = self.received();
        let datagram = received.queue.pop_front()?;
        received.bytes -= datagram.len();
        if received.queue.is_empty() {
            received.queue = VecDeque::new();
        }
        self.link
            .received
            .fetch_sub(datagram.len() + KEEPING, Ordering::AcqRel);
        Some(datagram)
    }

    /// The request for it is on its way.
    fn sent(&self, longest: usize) {
        self.longest.store(longest, Ordering::Release);
        self.open_sent.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn finish(&self) {
        self.received().finished = true;
        self.waker.wake();
    }

    /// The flow is over. The first reason stands.
    fn break_with(&self, broken: Broken) {
        if self.broken.set(broken).is_ok() {
            self.waker.wake();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let received = self.received.get_mut().unwrap_or_else(PoisonError::into_inner);
        let held = received.bytes + received.queue.len() * KEEPING;
        self.link.received.fetch_sub(held, Ordering::AcqRel);
        let handed = *self.handed_bytes.get_mut() + *self.handed.get_mut() * KEEPING;
        self.link.sending.fetch_sub(handed, Ordering::AcqRel);
    }
}

const UNKNOWN: u8 = 0;
const CARRIED: u8 = 1;
const NOT_CARRIED: u8 = 2;

/// The flows of a link, as its handles have them.
#[derive(Debug, Clone)]
pub(crate) struct LinkFlows {
    commands: mpsc::WeakUnboundedSender<Command>,
    bytes: Arc<LinkBytes>,
    incoming: Arc<Mutex<mpsc::Receiver<IncomingFlow>>>,
    carried: Arc<AtomicU8>,
}

impl LinkFlows {
    /// Whether both ends carry datagrams; `None` before the other end has said so.
    pub(crate) fn are_carried(&self) -> Option<bool> {
        match self.carried.load(Ordering::Acquire) {
            UNKNOWN => None,
            carried => Some(carried == CARRIED),
        }
    }

    /// Where flows are offered that the other end opens on QUIC streams.
    #[cfg(feature = "quic")]
    pub(crate) fn native(
        commands: &mpsc::UnboundedSender<Command>,
    ) -> (mpsc::Sender<IncomingFlow>, LinkFlows) {
        let (flows, of_link) = Flows::new(commands);
        (flows.incoming.clone(), of_link)
    }

    /// Opens a flow, and waits until the request for it is on its way.
    pub(crate) async fn open(&self, target: &Target) -> Result<CarrierFlow, Refusal> {
        let commands = self.commands.upgrade().ok_or_else(link_lost)?;
        let flow = Arc::new(Shared::new(Arc::clone(&self.bytes)));
        let request = Request::Open {
            target: target.clone(),
            flow: Arc::clone(&flow),
        };
        let sent = commands.send(Command::Flow(request));
        sent.map_err(|_| link_lost())?;
        // Dropped from here on, it is withdrawn.
        let flow = CarrierFlow { flow, commands };
        poll_fn(|cx| {
            flow.flow.waker.register(cx.waker());
            if flow.flow.open_sent.load(Ordering::Acquire) {
                return Poll::Ready(Ok(()));
            }
            match flow.flow.broken.get() {
                Some(broken) => Poll::Ready(Err(refusal_for(broken))),
                None => Poll::Pending,
            }
        })
        .await?;
        Ok(flow)
    }

    pub(crate) async fn accept(&self) -> Option<IncomingFlow> {
        self.incoming.lock().await.recv().await
    }
}

/// The flows of a link, as its driver has them.
#[derive(Debug)]
pub(crate) struct Flows {
    table: HashMap<StreamId, Arc<Shared>>,
    incoming: mpsc::Sender<IncomingFlow>,
    commands: mpsc::WeakUnboundedSender<Command>,
    bytes: Arc<LinkBytes>,
    carried: Arc<AtomicU8>,
}

impl Flows {
    pub(crate) fn new(commands: &mpsc::UnboundedSender<Command>) -> (Flows, LinkFlows) {
        let (incoming_sender, incoming) = mpsc::channel(INCOMING_QUEUE);
        let flows = Flows {
            table: HashMap::new(),
            incoming: incoming_sender,
            commands: commands.downgrade(),
            bytes: Arc::default(),
            carried: Arc::new(AtomicU8::new(UNKNOWN)),
        };
        let of_link = LinkFlows {
            commands: commands.downgrade(),
            bytes: Arc::clone(&flows.bytes),
            incoming: Arc::new(Mutex::new(incoming)),
            carried: Arc::clone(&flows.carried),
        };
        (flows, of_link)
    }

    pub(crate) fn obey(
        &mut self,
        request: Request,
        connection: &mut Connection,
        now: Instant,
    ) -> Result<(), Error> {
        match request {
            Request::Open { target, flow } => {
                self.open(&target, flow, connection, now);
                Ok(())
            }
            Request::Send { flow, datagram } => {
                flow.taken(datagram.len());
                let dropped = match connection.send_datagram(flow.id(), datagram) {
                    Ok(dropped) => dropped,
                    // Both ends' limits were known only after it was taken.
                    Err(Error::DatagramTooLong { .. }) => 1,
                    Err(error) => return Err(error),
                };
                flow.dropped.fetch_add(dropped.into(), Ordering::Relaxed);
                Ok(())
            }
            Request::Accept { id } => connection.accept(id, now),
            Request::Refuse { id, refusal } => {
                self.table.remove(&id);
                connection.refuse(id, &refusal)
            }
            Request::Reset { flow, reason } => {
                self.table.remove(&flow.id());
                connection.reset(flow.id(), reason)
            }
        }
    }

    fn open(&mut self, target: &Target, flow: Arc<Shared>, connection: &mut Connection, now: Instant) {
        let (kind, message) = match connection.open_flow(target.as_str().as_bytes(), now) {
            Ok(id) => {
                flow.id.store(id.number(), Ordering::Release);
                if !connection.is_held(id) {
                    flow.sent(connection.max_datagram());
                }
                self.table.insert(id, flow);
                return;
            }
            Err(Error::Unsupported { .. }) => {
                let message = "the other end of the link carries no datagrams: it may be older";
                (RefusalKind::Unsupported, message.to_owned())
            }
            Err(error @ Error::TooManyStreams { .. }) => (RefusalKind::TooMany, error.to_string()),
            Err(Error::GoingAway | Error::StreamIdsUsedUp | Error::Violation(_)) => {
                (RefusalKind::LinkLost, "the link takes no new flows".to_owned())
            }
            Err(error) => (RefusalKind::Internal, error.to_string()),
        };
        flow.break_with(Broken::Refused(Refusal::new(kind, message)));
    }

    /// So many of a flow's datagrams were dropped by the connection, in either direction.
    pub(crate) fn count_dropped(&self, id: StreamId, dropped: u64) {
        if let Some(flow) = self.table.get(&id) {
            flow.dropped.fetch_add(dropped, Ordering::Relaxed);
        }
    }

    /// Takes what happened to a flow; gives out what is about something else.
    pub(crate) fn handle(&mut self, event: Event, connection: &mut Connection) -> Option<Event> {
        match event {
            Event::Datagram { id, bytes } => {
                if let Some(flow) = self.table.get(&id) {
                    flow.receive(bytes);
                }
            }
            Event::FlowOpened { id, target } => self.offer(id, &target, connection),
            Event::Ready => {
                let carried = connection
                    .features()
                    .is_some_and(|features| features.contains(Features::DATAGRAMS));
                self.carried
                    .store(if carried { CARRIED } else { NOT_CARRIED }, Ordering::Release);
                return Some(event);
            }
            Event::OpenSent { id } => match self.table.get(&id) {
                Some(flow) => flow.sent(connection.max_datagram()),
                None => return Some(event),
            },
            Event::Finished { id } => match self.table.get(&id) {
                Some(flow) => flow.finish(),
                None => return Some(event),
            },
            Event::Accepted { id } if self.table.contains_key(&id) => {}
            Event::Closed { id } if self.table.contains_key(&id) => {
                self.table.remove(&id);
            }
            Event::Refused { id, refusal } => match self.table.remove(&id) {
                Some(flow) => flow.break_with(Broken::Refused(refusal)),
                None => return Some(Event::Refused { id, refusal }),
            },
            Event::Reset { id, reason } => match self.table.remove(&id) {
                Some(flow) => flow.break_with(Broken::Reset(reason)),
                None => return Some(event),
            },
            other => return Some(other),
        }
        None
    }

    /// Offers a flow of the other end to whoever accepts.
    fn offer(&mut self, id: StreamId, target: &[u8], connection: &mut Connection) {
        let target = std::str::from_utf8(target).map(Target::new);
        let refused = match (target, self.commands.upgrade()) {
            (Ok(Ok(target)), Some(commands)) => {
                let flow = Arc::new(Shared::new(Arc::clone(&self.bytes)));
                flow.id.store(id.number(), Ordering::Release);
                flow.sent(connection.max_datagram());
                self.table.insert(id, Arc::clone(&flow));
                IncomingFlow::new(target, CarrierFlow { flow, commands }).offer(&self.incoming);
                return;
            }
            (Ok(Ok(_)), None) => Refusal::new(RefusalKind::Internal, "this end is leaving"),
            _ => Refusal::new(RefusalKind::NotAllowed, "not a target"),
        };
        if let Err(error) = connection.refuse(id, &refused) {
            tracing::debug!(%error, "a request was over before it was refused");
        }
    }

    /// The link leaves, or is gone.
    pub(crate) fn break_all(&mut self, connection: &mut Connection) {
        for (id, flow) in self.table.drain() {
            // Fails only for a flow that is over.
            if connection.reset(id, ResetReason::Leaving).is_err() {
                tracing::trace!(%id, "over before we left");
            }
            flow.break_with(Broken::LinkLost);
        }
    }

    /// A request that the driver will not hear any more.
    pub(crate) fn lose(request: &Request) {
        if let Request::Open { flow, .. } = request {
            flow.break_with(Broken::LinkLost);
        }
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        for (_, flow) in self.table.drain() {
            flow.break_with(Broken::LinkLost);
        }
    }
}

/// A flow of a link over a carrier. Dropping it ends it at both ends, which says [`ResetReason::Cancelled`].
#[derive(Debug)]
pub(crate) struct CarrierFlow {
    flow: Arc<Shared>,
    commands: mpsc::UnboundedSender<Command>,
}

impl CarrierFlow {
    fn end(&self, reason: ResetReason) {
        if self.flow.broken.get().is_none() {
            self.flow.break_with(Broken::Reset(reason));
            self.command(Request::Reset {
                flow: Arc::clone(&self.flow),
                reason,
            });
        }
    }

    /// Resolves when the flow has ended early.
    pub(crate) fn poll_ended(&self, cx: &Context<'_>) -> Poll<()> {
        self.flow.waker.register(cx.waker());
        match self.flow.broken.get() {
            Some(_) => Poll::Ready(()),
            None => Poll::Pending,
        }
    }

    /// Accepts what the other end requests.
    pub(crate) fn accept(&self) {
        self.command(Request::Accept { id: self.flow.id() });
    }

    /// Refuses what the other end requests.
    pub(crate) fn refuse(self, refusal: Refusal) {
        // Dropped, it says nothing more.
        self.flow.break_with(Broken::Refused(refusal.clone()));
        let id = self.flow.id();
        self.command(Request::Refuse { id, refusal });
    }

    fn command(&self, request: Request) {
        // Fails only when the driver is gone.
        if let Err(mpsc::error::SendError(Command::Flow(Request::Send { flow, datagram }))) =
            self.commands.send(Command::Flow(request))
        {
            flow.taken(datagram.len());
            flow.break_with(Broken::LinkLost);
        }
    }
}

impl DatagramFlow for CarrierFlow {
    fn poll_send(&mut self, _cx: &mut Context<'_>, datagram: &Bytes) -> Poll<io::Result<()>> {
        if let Some(broken) = self.flow.broken.get() {
            return Poll::Ready(Err(broken.to_error()));
        }
        if datagram.len() <= self.max_datagram() && self.flow.hand_over(datagram.len()) {
            self.command(Request::Send {
                flow: Arc::clone(&self.flow),
                datagram: datagram.clone(),
            });
        } else {
            self.flow.drop_one();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        for registered in [false, true] {
            // Looked at first: what arrived before the end is in the queue by then.
            let broken = self.flow.broken.get();
            let finished = self.flow.received().finished;
            if let Some(datagram) = self.flow.pop() {
                return Poll::Ready(Ok(Some(datagram)));
            }
            if let Some(broken) = broken {
                return Poll::Ready(Err(broken.to_error()));
            }
            if finished {
                return Poll::Ready(Ok(None));
            }
            if !registered {
                self.flow.waker.register(cx.waker());
            }
        }
        Poll::Pending
    }

    fn max_datagram(&self) -> usize {
        self.flow.longest.load(Ordering::Acquire)
    }

    fn reset(&mut self, reason: ResetReason) {
        self.end(reason);
    }

    fn dropped(&self) -> u64 {
        self.flow.dropped()
    }
}

impl Drop for CarrierFlow {
    fn drop(&mut self) {
        self.end(ResetReason::Cancelled);
    }
}

fn refusal_for(broken: &Broken) -> Refusal {
    match broken {
        Broken::Refused(refusal) => refusal.clone(),
        Broken::Reset(reason) => Refusal::new(RefusalKind::Internal, reason.to_string()),
        Broken::LinkLost => link_lost(),
    }
}

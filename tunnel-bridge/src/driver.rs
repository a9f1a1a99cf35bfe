//! The task that owns a link: it moves bytes between the carrier and the state machine, and between that and the
//! streams. It never waits for a stream.

mod attach;
mod revival;

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::Sleep;
use tunnel_proto::{ChunkQueue, Config, Connection, Error, Event, Features, Role, StreamId};

use crate::carrier::Carrier;
use crate::link::{Command, Incoming, Leaving, Link, LinkEnd, LinkOptions, SurelySent};
use crate::mux::{Flow, MuxStream, Unsent};
use crate::resume::desk::Registration;
use crate::resume::{Options, REPLAY_BYTES, Redial};
use crate::stream::Broken;
use crate::udp;
use crate::{GoAwayReason, Refusal, RefusalKind, ResetReason, Target};
pub(crate) use revival::{Adopt, Fresh};
use revival::{Awaiting, Redialing, Revival, Standing};

/// About how much is handed to the carrier at once.
const MESSAGE_BYTES: usize = 64 * 1024;

/// Commands and messages handled before the others, and sending, get their turn.
const COMMANDS_PER_ROUND: usize = 256;
const MESSAGES_PER_ROUND: usize = 8;

/// Rounds before the driver gives way to the tasks of its thread, and bytes received: who reads them finds them in the
/// processor's cache.
const ROUNDS: usize = 4;
const TURN_BYTES: usize = 256 * 1024;

/// What little counts as, since frames of a few bytes are work as well, and what is nothing for the link: a whole read may have
/// been full of it.
const LEAST_COST: usize = 32 * 1024;
const EMPTY_COST: usize = 128 * 1024;

/// How long leaving in good order may take.
const CLOSING_TIME: Duration = Duration::from_secs(1);

/// Streams that the other end opened and nobody has taken yet. As many as may wait for an answer; more are refused.
const INCOMING_QUEUE: usize = 256;

/// A link that ends with its carrier.
pub(crate) fn plain(carrier: Box<dyn Carrier>, role: Role, options: &LinkOptions) -> Link {
    let config = Config {
        features: Features::DATAGRAMS,
        ..Config::default()
    };
    let connection = connection(role, options.apply(config));
    spawn(connection, carrier, Bytes::new(), Revival::Never)
}

/// The client's end of a link that `redial` can give another carrier.
pub(crate) fn resumable(carrier: Box<dyn Carrier>, redial: Arc<dyn Redial>, options: &Options) -> Link {
    let config = Config {
        features: Features::RESUME | Features::DATAGRAMS,
        replay_bytes: options
            .replay_bytes
            .clamp(*REPLAY_BYTES.start(), *REPLAY_BYTES.end()),
        ..Config::default()
    };
    let connection = connection(Role::Client, options.link.apply(config));
    let (redialing, trouble) = Redialing::new(redial);
    spawn(connection, carrier, Bytes::new(), Revival::Client(redialing)).with_trouble(trouble)
}

/// The server's end of a link of a desk. `rest` has come on the carrier already.
pub(crate) fn serve(
    connection: Connection,
    carrier: Box<dyn Carrier>,
    rest: Bytes,
    adopted: mpsc::Receiver<Adopt>,
    registration: Registration,
) -> Link {
    let revival = Revival::Server(Awaiting::new(adopted, registration));
    spawn(connection, carrier, rest, revival)
}

#[expect(
    clippy::expect_used,
    reason = "a test of tunnel-proto holds the default limits to be sound"
)]
fn connection(role: Role, config: Config) -> Connection {
    Connection::new(role, config, clock()).expect("the default limits are sound")
}

/// Starts the driver of a link. Its task ends with the link, which [`Link::closed`] waits for, and with its last
/// handle and stream; it is stopped by the runtime's end otherwise.
fn spawn(connection: Connection, carrier: Box<dyn Carrier>, rest: Bytes, revival: Revival) -> Link {
    // No bound: see `Command`.
    let (sender, commands) = mpsc::unbounded_channel();
    let (incoming_sender, incoming) = mpsc::channel(INCOMING_QUEUE);
    let (leaving_sender, leaving) = watch::channel(None);
    let (drained_sender, drained) = watch::channel(false);
    let (end_sender, end) = watch::channel(None);
    let (flows, flows_of_link) = udp::Flows::new(&sender);
    let unsent = Arc::new(Unsent::default());
    let (standing, status) = Standing::new();
    let surely_sent = Arc::new(SurelySent::default());
    let mut driver = Driver {
        carrier: Some(carrier),
        revival,
        standing,
        successor: None,
        timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        timer_due: None,
        connection,
        commands,
        sender: sender.downgrade(),
        incoming: incoming_sender,
        unsent: Arc::clone(&unsent),
        streams: HashMap::default(),
        flows,
        out: ChunkQueue::new(),
        leaving: leaving_sender,
        drained: drained_sender,
        closing: None,
        surely_sent: Arc::clone(&surely_sent),
    };
    tokio::spawn(async move {
        driver.take_bytes(rest, clock());
        let end = poll_fn(|cx| driver.poll(cx)).await;
        tracing::debug!(%end, "link closed");
        // Streams fail before anybody hears of the link's end.
        drop(driver);
        end_sender.send_replace(Some(end));
    });
    Link::new(
        sender,
        unsent,
        incoming,
        leaving,
        drained,
        end,
        status,
        surely_sent,
        flows_of_link,
    )
}

struct Driver {
    /// Nothing while the link is without a connection.
    carrier: Option<Box<dyn Carrier>>,
    revival: Revival,
    standing: Standing,
    connection: Connection,
    timer: Pin<Box<Sleep>>,
    timer_due: Option<Instant>,
    commands: mpsc::UnboundedReceiver<Command>,
    /// For the streams that the other end opens.
    sender: mpsc::WeakUnboundedSender<Command>,
    incoming: mpsc::Sender<Incoming>,
    unsent: Arc<Unsent>,
    streams: HashMap<StreamId, Arc<Flow>, foldhash::fast::RandomState>,
    flows: udp::Flows,
    out: ChunkQueue,
    /// Where the other end said that one should connect to.
    successor: Option<String>,
    /// What the other end said about its leaving.
    leaving: watch::Sender<Option<Leaving>>,
    /// Whether the other end has heard that we drain.
    drained: watch::Sender<bool>,
    closing: Option<Closing>,
    /// Set when the other end has said what it allows.
    surely_sent: Arc<SurelySent>,
}

struct Closing {
    end: LinkEnd,
    close_sent: bool,
    deadline: Pin<Box<Sleep>>,
}

impl Closing {
    /// Then no stream ends in good order any more.
    const fn is_for_a_violation(&self) -> bool {
        matches!(self.end, LinkEnd::Protocol { .. })
    }
}

impl Driver {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<LinkEnd> {
        let mut left = TURN_BYTES;
        for _ in 0..ROUNDS {
            let now = clock();
            let mut busy = self.take_commands(cx, now);
            if self.connection.is_detached() {
                // Stale datagrams help nobody.
                self.connection.drop_datagrams();
            }
            match self.exchange(cx, now, &mut left) {
                Ok(more) => busy |= more,
                Err(end) => {
                    if let Some(end) = self.lose_carrier(end, now) {
                        return Poll::Ready(self.final_end(end));
                    }
                    busy = true;
                }
            }
            match self.revive(cx, now) {
                Ok(more) => busy |= more,
                Err(end) => return Poll::Ready(self.final_end(end)),
            }
            if let Some(closing) = &mut self.closing
                && (self.carrier.is_none() || closing.deadline.as_mut().poll(cx).is_ready())
            {
                return Poll::Ready(closing.end.clone());
            }
            if !busy {
                return Poll::Pending;
            }
            if left == 0 {
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Receives, lets time pass and transmits. An error is the carrier's end, or the link's.
    fn exchange(&mut self, cx: &mut Context<'_>, now: Instant, left: &mut usize) -> Result<bool, LinkEnd> {
        let received = self.receive(cx, now, left);
        if received.is_ok() {
            self.check_time(cx, now);
        }
        // What came before the end is still theirs to read.
        self.deliver_events()?;
        let busy = received?;
        self.transmit(cx)?;
        Ok(busy)
    }

    fn take_commands(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        for taken in 0..COMMANDS_PER_ROUND {
            match self.commands.poll_recv(cx) {
                Poll::Ready(Some(command)) => self.obey(command, now),
                Poll::Ready(None) => {
                    self.leave(GoAwayReason::Leaving, "", LinkEnd::Drained);
                    return taken > 0;
                }
                Poll::Pending => return taken > 0,
            }
        }
        true
    }

    fn obey(&mut self, command: Command, now: Instant) {
        let result = match command {
            Command::Open { target, flow } => {
                self.open(&target, flow, now);
                Ok(())
            }
            Command::Accept { id } => self.connection.accept(id, now),
            Command::Refuse { id, refusal } => {
                self.streams.remove(&id);
                self.connection.refuse(id, &refusal)
            }
            Command::Data { flow, bytes } => self.connection.send(id_of(&flow), bytes),
            Command::Finish { flow } => self.connection.finish(id_of(&flow), now),
            Command::Reset { flow, reason } => {
                self.streams.remove(&id_of(&flow));
                self.connection.reset(id_of(&flow), reason)
            }
            Command::Consumed { flow, bytes } => self.connection.consumed(id_of(&flow), bytes, now),
            Command::Drain { message, successor } => {
                if let Some(url) = successor
                    && let Err(error) = self.connection.name_successor(&url)
                {
                    tracing::warn!(%error, "no successor is named");
                }
                self.connection.drain(&message, now);
                Ok(())
            }
            Command::Check => {
                self.check_now(now);
                Ok(())
            }
            Command::Flow(request) => self.flows.obey(request, &mut self.connection, now),
            Command::Close { reason, message } => {
                self.leave(reason, &message, LinkEnd::Drained);
                Ok(())
            }
        };
        match result {
            // The other end's reset, or the link's end, crossed with it; the stream hears of that.
            Ok(()) | Err(Error::NotOpen { .. } | Error::Violation(_)) => {}
            Err(error) => tracing::debug!(%error, "a stream asked for what it cannot have"),
        }
    }

    fn open(&mut self, target: &Target, flow: Arc<Flow>, now: Instant) {
        let kind = match self.connection.open(target.as_str().as_bytes(), now) {
            Ok(id) => {
                flow.id.store(id.number(), Ordering::Release);
                if !self.connection.is_held(id) {
                    flow.open_sent();
                }
                self.streams.insert(id, flow);
                return;
            }
            Err(Error::TooManyStreams { limit }) => {
                flow.break_with(Broken::Refused(Refusal::new(
                    RefusalKind::TooMany,
                    format!("{limit} streams are open on this link"),
                )));
                return;
            }
            Err(Error::GoingAway | Error::StreamIdsUsedUp | Error::Violation(_)) => RefusalKind::LinkLost,
            Err(_) => RefusalKind::Internal,
        };
        flow.break_with(Broken::Refused(Refusal::new(
            kind,
            "the link takes no new streams",
        )));
    }

    /// Reads what has come, about as much as is `left`. An error is the link's end.
    fn receive(&mut self, cx: &mut Context<'_>, now: Instant, left: &mut usize) -> Result<bool, LinkEnd> {
        for taken in 0..MESSAGES_PER_ROUND {
            let Some(carrier) = &mut self.carrier else {
                return Ok(false);
            };
            match carrier.poll_receive(cx) {
                Poll::Pending => return Ok(taken > 0),
                Poll::Ready(bytes) => {
                    let bytes = bytes?;
                    let cost = if bytes.is_empty() {
                        EMPTY_COST
                    } else {
                        bytes.len().max(LEAST_COST)
                    };
                    *left = left.saturating_sub(cost);
                    self.take_bytes(bytes, now);
                }
            }
            // A message may hold many small frames: what they led to does not wait for the next one.
            self.deliver_events()?;
            if *left == 0 {
                break;
            }
        }
        Ok(true)
    }

    fn take_bytes(&mut self, bytes: Bytes, now: Instant) {
        if self.closing.as_ref().is_some_and(Closing::is_for_a_violation) {
            // It is not looked at any more.
            return;
        }
        if let Err(error) = self.connection.handle_bytes(bytes, now) {
            let message = error.to_string();
            tracing::warn!(message, "the other end broke the tunnel's protocol");
            self.leave(
                GoAwayReason::Protocol,
                &message,
                LinkEnd::Protocol {
                    message: message.clone(),
                },
            );
        }
    }

    fn check_time(&mut self, cx: &mut Context<'_>, now: Instant) {
        let due = self.connection.poll_timeout();
        if due.is_some_and(|due| due <= now) {
            self.connection.handle_timeout(now);
        }
        let due = self.connection.poll_timeout();
        if due != self.timer_due {
            self.timer_due = due;
            if let Some(due) = due {
                self.timer.as_mut().reset(due.into());
            }
        }
        if due.is_some() && self.timer.as_mut().poll(cx).is_ready() {
            // It fired between the look at the clock and here.
            cx.waker().wake_by_ref();
        }
    }

    fn deliver_events(&mut self) -> Result<(), LinkEnd> {
        while let Some(event) = self.connection.poll_event() {
            let Some(event) = self.flows.handle(event, &mut self.connection) else {
                continue;
            };
            match event {
                Event::Opened { id, target } => self.offer(id, &target),
                Event::OpenSent { id } => self.tell(id, Flow::open_sent),
                Event::Accepted { id } => self.tell(id, Flow::accept),
                Event::Data { id, bytes } => self.tell(id, |flow| flow.receive(bytes)),
                Event::Finished { id } => self.tell(id, Flow::finish),
                Event::Sent { id, bytes } => self.tell(id, |flow| flow.sent(bytes)),
                Event::Credit { id, bytes } => self.tell(id, |flow| flow.add_credit(bytes)),
                Event::CreditReturned { id, bytes } => self.tell(id, |flow| flow.return_credit(bytes)),
                Event::Refused { id, refusal } => self.fail(id, Broken::Refused(refusal)),
                Event::Reset { id, reason } => self.fail(id, Broken::Reset(reason)),
                Event::Closed { id } => {
                    self.streams.remove(&id);
                }
                Event::GoingAway { reason, message } => {
                    let successor = self.successor.clone();
                    self.leaving.send_replace(Some(Leaving {
                        reason,
                        message,
                        successor,
                    }));
                }
                Event::Drained => {
                    self.drained.send_replace(true);
                }
                Event::Successor { url } => self.successor = Some(url),
                Event::Expired => return Err(self.standing.loss.clone().unwrap_or(LinkEnd::Drained)),
                // Nothing that we send would arrive.
                Event::Dead { silent_for } => return Err(LinkEnd::PingTimeout { silent_for }),
                Event::Ready => {
                    tracing::debug!("the other end speaks the tunnel's protocol");
                    if let Some(limit) = self.connection.open_limit() {
                        self.surely_sent.set_limit(limit);
                    }
                }
                // Not shown: it may have somebody's data.
                _ => {}
            }
        }
        while let Some((id, dropped)) = self.connection.poll_dropped() {
            self.flows.count_dropped(id, dropped);
        }
        Ok(())
    }

    /// Offers a stream of the other end to whoever accepts.
    fn offer(&mut self, id: StreamId, target: &[u8]) {
        let refused = match (
            std::str::from_utf8(target).map(Target::new),
            self.sender.upgrade(),
        ) {
            (Ok(Ok(target)), Some(sender)) => {
                let flow = Arc::new(Flow::new(Arc::clone(&self.unsent), None));
                flow.id.store(id.number(), Ordering::Release);
                let stream = MuxStream::new(Arc::clone(&flow), sender.clone());
                self.streams.insert(id, flow);
                match self
                    .incoming
                    .try_send(Incoming::new(target, id, stream.into(), sender))
                {
                    // A request that is dropped here refuses itself, so it is put right below.
                    Err(mpsc::error::TrySendError::Full(incoming)) => {
                        incoming.refuse(Refusal::new(RefusalKind::TooMany, "too many requests wait"));
                    }
                    Err(mpsc::error::TrySendError::Closed(incoming)) => {
                        incoming.refuse(Refusal::new(RefusalKind::NotAllowed, "this end takes no streams"));
                    }
                    Ok(()) => {}
                }
                return;
            }
            (Ok(Ok(_)), None) => Refusal::new(RefusalKind::Internal, "this end is leaving"),
            _ => Refusal::new(RefusalKind::NotAllowed, "not a target"),
        };
        if let Err(error) = self.connection.refuse(id, &refused) {
            tracing::debug!(%error, "a request was over before it was refused");
        }
    }

    /// A stream that was dropped has its reset on the way to us, and is told nothing.
    fn tell(&self, id: StreamId, what: impl FnOnce(&Flow)) {
        if let Some(flow) = self.streams.get(&id) {
            what(flow);
        }
    }

    fn fail(&mut self, id: StreamId, broken: Broken) {
        if let Some(flow) = self.streams.remove(&id) {
            flow.break_with(broken);
        }
    }

    /// Puts what there is on the wire, as far as the carrier takes it.
    fn transmit(&mut self, cx: &mut Context<'_>) -> Result<(), LinkEnd> {
        let Some(carrier) = &mut self.carrier else {
            return Ok(());
        };
        let mut blocked = false;
        loop {
            match carrier.poll_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => {
                    blocked = true;
                    break;
                }
            }
            // The answer to a client that comes back may wait there.
            if self.out.is_empty() && !self.connection.poll_transmit(&mut self.out, MESSAGE_BYTES) {
                break;
            }
            carrier.start_send(&mut self.out)?;
        }
        if let Some(closing) = &mut self.closing
            && !blocked
            && !closing.close_sent
            && (self.connection.stream_count() == 0 || closing.is_for_a_violation())
        {
            closing.close_sent = true;
            carrier.start_close()?;
        }
        if let Poll::Ready(flushed) = carrier.poll_flush(cx) {
            flushed?;
        }
        // What was sent makes room for those who wait to write.
        self.deliver_events()
    }

    /// Begins to leave: streams fail now, what was finished may still go out, then the carrier closes.
    fn leave(&mut self, reason: GoAwayReason, message: &str, end: LinkEnd) {
        if self.closing.is_some() {
            return;
        }
        self.connection.go_away(reason, message);
        self.flows.break_all(&mut self.connection);
        for (id, flow) in self.streams.drain() {
            if !self.connection.is_ending(id) {
                // Fails only for a stream that is over.
                if self.connection.reset(id, ResetReason::Leaving).is_err() {
                    tracing::trace!(%id, "over before we left");
                }
                flow.break_with(Broken::LinkLost);
            }
        }
        let deadline = Box::pin(tokio::time::sleep(CLOSING_TIME));
        self.closing = Some(Closing {
            end,
            close_sent: false,
            deadline,
        });
    }

    /// The link's end as its owners see it: our own leaving and the other end's words count for more than how the
    /// socket ended.
    fn final_end(&self, end: LinkEnd) -> LinkEnd {
        if let Some(closing) = &self.closing {
            return closing.end.clone();
        }
        match self.leaving.borrow().clone() {
            Some(Leaving { reason, message, .. }) => match reason {
                GoAwayReason::Superseded => LinkEnd::Superseded { message },
                GoAwayReason::Protocol => LinkEnd::Protocol { message },
                _ => LinkEnd::PeerClosed { message },
            },
            None => end,
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Open { flow, .. } => flow.break_with(Broken::LinkLost),
                Command::Flow(request) => udp::Flows::lose(&request),
                _ => {}
            }
        }
        for (_, flow) in self.streams.drain() {
            flow.break_with(Broken::LinkLost);
        }
    }
}

/// The runtime's clock, which tests can stop.
pub(crate) fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn id_of(flow: &Flow) -> StreamId {
    StreamId::from_number(flow.id.load(Ordering::Acquire))
}

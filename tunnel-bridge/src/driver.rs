//! The task that owns a link: it moves bytes between the carrier and the state machine, and between that and the
//! streams. It never waits for a stream.

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
use tunnel_proto::{ChunkQueue, Config, Connection, Error, Event, Role, StreamId};

use crate::carrier::Carrier;
use crate::link::{Command, Incoming, Leaving, Link, LinkEnd, SurelySent};
use crate::mux::{Flow, MuxStream, Unsent};
use crate::stream::Broken;
use crate::{GoAwayReason, Refusal, RefusalKind, ResetReason, Target};

/// About how much is handed to the carrier at once.
const MESSAGE_BYTES: usize = 64 * 1024;

/// Commands and messages handled before the others, and sending, get their turn.
const COMMANDS_PER_ROUND: usize = 256;
const MESSAGES_PER_ROUND: usize = 8;

/// Rounds before the driver gives way to the tasks of its thread.
const ROUNDS: usize = 4;

/// How long leaving in good order may take.
const CLOSING_TIME: Duration = Duration::from_secs(1);

/// Streams that the other end opened and nobody has taken yet. As many as may wait for an answer; more are refused.
const INCOMING_QUEUE: usize = 256;

/// Starts the driver of a link. Its task ends with the link, which [`Link::closed`] waits for, and with its last
/// handle and stream; it is stopped by the runtime's end otherwise.
pub(crate) fn spawn<C: Carrier>(carrier: C, role: Role) -> Link {
    #[expect(
        clippy::expect_used,
        reason = "a test of tunnel-proto holds the default limits to be sound"
    )]
    let connection = Connection::new(role, Config::default(), clock()).expect("the default limits are sound");
    // No bound: see `Command`.
    let (sender, commands) = mpsc::unbounded_channel();
    let (incoming_sender, incoming) = mpsc::channel(INCOMING_QUEUE);
    let (leaving_sender, leaving) = watch::channel(None);
    let (drained_sender, drained) = watch::channel(false);
    let (end_sender, end) = watch::channel(None);
    let unsent = Arc::new(Unsent::default());
    let (_status_sender, status) = watch::channel(crate::LinkStatus::Up { resumes: 0 });
    let surely_sent = Arc::new(SurelySent::default());
    let mut driver = Driver {
        carrier,
        timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        timer_due: None,
        connection,
        commands,
        sender: sender.downgrade(),
        incoming: incoming_sender,
        unsent: Arc::clone(&unsent),
        streams: HashMap::new(),
        out: ChunkQueue::new(),
        leaving: leaving_sender,
        drained: drained_sender,
        closing: None,
        surely_sent: Arc::clone(&surely_sent),
    };
    tokio::spawn(async move {
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
    )
}

struct Driver<C> {
    carrier: C,
    connection: Connection,
    timer: Pin<Box<Sleep>>,
    timer_due: Option<Instant>,
    commands: mpsc::UnboundedReceiver<Command>,
    /// For the streams that the other end opens.
    sender: mpsc::WeakUnboundedSender<Command>,
    incoming: mpsc::Sender<Incoming>,
    unsent: Arc<Unsent>,
    streams: HashMap<StreamId, Arc<Flow>>,
    out: ChunkQueue,
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

impl<C: Carrier> Driver<C> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<LinkEnd> {
        for _ in 0..ROUNDS {
            let now = clock();
            let mut busy = self.take_commands(cx, now);
            match self.receive(cx, now) {
                Ok(more) => busy |= more,
                Err(end) => {
                    // What came before the end is still theirs to read.
                    let told = self.deliver_events();
                    return Poll::Ready(self.final_end(told.err().unwrap_or(end)));
                }
            }
            self.check_time(cx, now);
            if let Err(end) = self.deliver_events() {
                return Poll::Ready(end);
            }
            if let Err(end) = self.transmit(cx) {
                return Poll::Ready(self.final_end(end));
            }
            if let Some(closing) = &mut self.closing
                && closing.deadline.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(closing.end.clone());
            }
            if !busy {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
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
            Command::Accept { id } => self.connection.accept(id),
            Command::Refuse { id, refusal } => {
                self.streams.remove(&id);
                self.connection.refuse(id, &refusal)
            }
            Command::Data { flow, bytes } => self.connection.send(id_of(&flow), bytes),
            Command::Finish { flow } => self.connection.finish(id_of(&flow)),
            Command::Reset { flow, reason } => {
                self.streams.remove(&id_of(&flow));
                self.connection.reset(id_of(&flow), reason)
            }
            Command::Consumed { flow, bytes } => self.connection.consumed(id_of(&flow), bytes, now),
            Command::Drain { message } => {
                self.connection.drain(&message, now);
                Ok(())
            }
            Command::Check => Ok(()),
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

    /// Reads what has come. An error is the link's end.
    fn receive(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, LinkEnd> {
        for taken in 0..MESSAGES_PER_ROUND {
            match self.carrier.poll_receive(cx) {
                Poll::Pending => return Ok(taken > 0),
                Poll::Ready(bytes) => self.take_bytes(bytes?, now),
            }
            // A message may hold many small frames: what they led to does not wait for the next one.
            self.deliver_events()?;
        }
        Ok(true)
    }

    fn take_bytes(&mut self, bytes: Bytes, now: Instant) {
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
                    self.leaving.send_replace(Some(Leaving { reason, message }));
                }
                Event::Drained => {
                    self.drained.send_replace(true);
                }
                // Nothing that we send would arrive.
                Event::Dead { silent_for } => return Err(LinkEnd::PingTimeout { silent_for }),
                Event::Ready => {
                    tracing::debug!("the other end speaks the tunnel's protocol");
                    if let Some(limit) = self.connection.open_limit() {
                        self.surely_sent.set_limit(limit);
                    }
                }
                other => tracing::debug!(?other, "event that means nothing here"),
            }
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
        let mut blocked = false;
        loop {
            match self.carrier.poll_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => {
                    blocked = true;
                    break;
                }
            }
            if !self.connection.poll_transmit(&mut self.out, MESSAGE_BYTES) {
                break;
            }
            self.carrier.start_send(&mut self.out)?;
        }
        if let Some(closing) = &mut self.closing
            && !blocked
            && !closing.close_sent
            && self.connection.stream_count() == 0
        {
            closing.close_sent = true;
            self.carrier.start_close()?;
        }
        if let Poll::Ready(flushed) = self.carrier.poll_flush(cx) {
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
            Some(Leaving { reason, message }) => match reason {
                GoAwayReason::Superseded => LinkEnd::Superseded { message },
                GoAwayReason::Protocol => LinkEnd::Protocol { message },
                _ => LinkEnd::PeerClosed { message },
            },
            None => end,
        }
    }
}

impl<C> Drop for Driver<C> {
    fn drop(&mut self) {
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Open { flow, .. } = command {
                flow.break_with(Broken::LinkLost);
            }
        }
        for (_, flow) in self.streams.drain() {
            flow.break_with(Broken::LinkLost);
        }
    }
}

/// The runtime's clock, which tests can stop.
fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn id_of(flow: &Flow) -> StreamId {
    StreamId::from_number(flow.id.load(Ordering::Acquire))
}

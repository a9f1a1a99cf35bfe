//! The task of a link over QUIC: the control stream, the streams that the other end opens, and the end.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use quinn::{ConnectionError, ReadError, ReadExactError, RecvStream, SendStream, VarInt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tunnel_proto::StreamId;

use super::flow::QuicFlow;
use super::knock;
use super::native::Native;
use super::stream::QuicStream;
use super::wire::{self, Control, ControlReader, Kind, REQUEST_HEAD, Violation};
use crate::link::{Command, Incoming, Leaving, Link, LinkEnd};
use crate::udp::{IncomingFlow, LinkFlows};
use crate::{GoAwayReason, LinkStatus, MuxStream, Refusal, RefusalKind, ResetReason, Target};

/// Streams that the other end opened and nobody has taken yet. More wait with the other end.
const INCOMING_QUEUE: usize = 256;

/// How long a stream may take to say what it is for.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// How long leaving in good order may take.
const CLOSING_TIME: Duration = Duration::from_secs(1);

/// How often a client looks whether it still sends from where it did, whether a transfer has fallen silent, and whether a link that
/// was silent is heard again.
const LOOK: Duration = Duration::from_millis(500);

/// How long a link that was checked may say nothing until it counts as interrupted.
const NOTICE_TIME: Duration = Duration::from_secs(1);

/// How long until it is given up. Longer: its streams are lost with it, while QUIC goes on over another path by itself.
const CHECK_TIME: Duration = Duration::from_secs(5);

/// The control stream, and what has been read of it.
pub(super) struct ControlStream {
    pub(super) send: SendStream,
    pub(super) recv: RecvStream,
    pub(super) read: Vec<u8>,
}

/// Starts the task of a link. It ends with the link, or with its last handle and stream.
pub(super) fn spawn(native: Native, control: ControlStream) -> Link {
    let native = Arc::new(native);
    // No bound: what this link's own owner asks for, a call each.
    let (sender, commands) = mpsc::unbounded_channel();
    let (incoming_sender, incoming) = mpsc::channel(INCOMING_QUEUE);
    let (leaving_sender, leaving) = watch::channel(None);
    let (drained_sender, drained) = watch::channel(false);
    let (end_sender, end) = watch::channel(None);
    let (status_sender, status) = watch::channel(LinkStatus::Up { resumes: 0 });
    let (flows_sender, flows) = LinkFlows::native(&sender);
    let driver = Driver {
        native: Arc::clone(&native),
        flows: flows_sender,
        link: sender.downgrade(),
        leaving: leaving_sender,
        status: status_sender,
        drain: Drain {
            drained: drained_sender,
            taken: AtomicU64::new(0),
            opened: AtomicU64::new(u64::MAX),
        },
    };
    tokio::spawn(async move {
        let end = driver.run(control, commands, incoming_sender).await;
        tracing::debug!(%end, "link closed");
        end_sender.send_replace(Some(end));
    });
    Link::native(native, sender, incoming, leaving, drained, end, status, flows)
}

struct Driver {
    native: Arc<Native>,
    /// Where the flows go that the other end opens.
    flows: mpsc::Sender<IncomingFlow>,
    /// For the streams that the other end opens.
    link: mpsc::WeakUnboundedSender<Command>,
    leaving: watch::Sender<Option<Leaving>>,
    /// Its sender goes after the end is known.
    status: watch::Sender<LinkStatus>,
    drain: Drain,
}

/// How far this end has got in taking what was opened before the other end heard that this one leaves.
struct Drain {
    drained: watch::Sender<bool>,
    /// How many streams were offered to whoever accepts, the control stream included.
    taken: AtomicU64,
    /// How many there are to be. The largest number until the other end has said so.
    opened: AtomicU64,
}

impl Drain {
    fn check(&self) {
        if self.taken.load(Ordering::Acquire) >= self.opened.load(Ordering::Acquire) {
            self.drained
                .send_if_modified(|drained| !std::mem::replace(drained, true));
        }
    }
}

/// Frames that may wait for the control stream.
const WORDS: usize = 64;

/// What is going on while a link is up.
enum Happened {
    Lost(ConnectionError),
    Asked(Option<Command>),
    Broke(Violation),
    /// It is time to look whether the other end has answered.
    Due,
    /// Nobody listens where the other end was.
    Deserted,
}

impl Driver {
    async fn run(
        &self,
        control: ControlStream,
        mut commands: mpsc::UnboundedReceiver<Command>,
        incoming: mpsc::Sender<Incoming>,
    ) -> LinkEnd {
        // What has no room is not said: only a peer that reads none of it makes it fill up.
        let (words, to_say) = mpsc::channel(WORDS);
        let mut saying = pin!(say(control.send, to_say));
        let mut hearing = pin!(self.hear(control.recv, control.read, &words));
        let mut accepting = pin!(self.accept(incoming));
        let mut routing = pin!(self.route());
        let mut looking = pin!(self.look(&words));
        let mut deserted = pin!(self.deserted());
        let mut check = Check::default();
        loop {
            let happened = tokio::select! {
                error = self.native.connection.closed() => Happened::Lost(error),
                command = commands.recv() => Happened::Asked(command),
                violation = &mut hearing => Happened::Broke(violation),
                violation = &mut accepting => Happened::Broke(violation),
                violation = &mut routing => Happened::Broke(violation),
                () = check.due() => Happened::Due,
                () = &mut deserted => Happened::Deserted,
                never = &mut looking => match never {},
                never = &mut saying => match never {},
            };
            let (reason, message) = match happened {
                Happened::Lost(error) => return self.end_of(&error),
                Happened::Broke(violation) => {
                    self.native.break_protocol(&violation);
                    self.close(GoAwayReason::Protocol, violation.0).await;
                    return self.end_of(&ConnectionError::LocallyClosed);
                }
                Happened::Deserted => {
                    self.native.connection.close(VarInt::from_u32(0), b"");
                    return self.final_end(LinkEnd::Lost {
                        kind: io::ErrorKind::ConnectionRefused,
                        message: "nobody listens at the other end's port any more".to_owned(),
                    });
                }
                Happened::Due => {
                    let has_network = self.native.source_address().is_some();
                    match check.look(Instant::now(), self.native.received(), has_network) {
                        Found::Answer => {}
                        Found::Silence => drop(words.try_send(Control::Ping)),
                        Found::Interruption { until } => {
                            self.interrupted(until);
                            drop(words.try_send(Control::Ping));
                        }
                        Found::Return => self.heard_again(),
                        Found::Loss => {
                            self.native.connection.close(VarInt::from_u32(0), b"");
                            let silent_for = CHECK_TIME;
                            return self.final_end(LinkEnd::PingTimeout { silent_for });
                        }
                    }
                    continue;
                }
                Happened::Asked(Some(Command::Drain { message, successor })) => {
                    self.native.open_no_more();
                    let named = successor.filter(|url| {
                        let fits = wire::is_successor(url.as_bytes());
                        if !fits {
                            tracing::warn!(
                                "a successor that is not 1 to 1024 visible ASCII characters is not named"
                            );
                        }
                        fits
                    });
                    let leaving = Leaving {
                        reason: GoAwayReason::Leaving,
                        message,
                        successor: named,
                    };
                    drop(words.try_send(Control::GoAway(leaving)));
                    continue;
                }
                Happened::Asked(Some(Command::Check)) => {
                    self.native.rebind();
                    drop(words.try_send(Control::Ping));
                    check.begin(Instant::now(), self.native.received());
                    continue;
                }
                Happened::Asked(Some(Command::Close { reason, message })) => (reason, message),
                Happened::Asked(Some(_)) => {
                    tracing::debug!("a command that means nothing to a link over QUIC");
                    continue;
                }
                Happened::Asked(None) => (GoAwayReason::Leaving, String::new()),
            };
            // What was finished still goes out, while the control stream goes on.
            let leaving = Leaving::of(reason, message.clone());
            drop(words.try_send(Control::GoAway(leaving)));
            let settled = timeout(CLOSING_TIME, self.native.settle());
            tokio::select! {
                settled = settled => tracing::trace!(in_time = settled.is_ok(), "left"),
                never = &mut saying => match never {},
            }
            self.close(reason, &message).await;
            return LinkEnd::Drained;
        }
    }

    /// The other end says nothing: until then the link waits for it.
    fn interrupted(&self, until: Instant) {
        let resumes = self.status.borrow().resumes();
        self.status.send_replace(LinkStatus::Detached {
            since: Instant::now(),
            until,
            resumes,
        });
    }

    fn heard_again(&self) {
        let resumes = self.status.borrow().resumes() + 1;
        self.status.send_replace(LinkStatus::Up { resumes });
    }

    async fn close(&self, reason: GoAwayReason, message: &str) {
        let code = VarInt::from_u32(reason.code().into());
        self.native.connection.close(code, message.as_bytes());
        match &self.native.endpoint {
            // Its socket closes with it: what it still has to say goes out first.
            Some(endpoint) => {
                if timeout(CLOSING_TIME / 4, endpoint.wait_idle()).await.is_err() {
                    tracing::trace!("the connection is not forgotten yet");
                }
            }
            None => tokio::task::yield_now().await,
        }
    }

    /// Reads the control stream. Returns only what breaks the protocol: its end comes with the connection's.
    async fn hear(&self, mut recv: RecvStream, read: Vec<u8>, words: &mpsc::Sender<Control>) -> Violation {
        let mut reader = ControlReader::default();
        let mut some = Bytes::from(read);
        loop {
            reader.handle_bytes(&some);
            loop {
                match reader.poll() {
                    Ok(Some(control)) => self.obey(control, words),
                    Ok(None) => break,
                    Err(violation) => return violation,
                }
            }
            some = match recv.read_chunk(usize::MAX, true).await {
                Ok(Some(chunk)) => chunk.bytes,
                Ok(None) | Err(ReadError::Reset(_)) => return Violation("the control stream ended"),
                Err(_) => std::future::pending().await,
            };
        }
    }

    fn obey(&self, control: Control, words: &mpsc::Sender<Control>) {
        match control {
            Control::Ping => {}
            Control::GoAway(leaving) => {
                // In this order: who opens a stream meanwhile is refused, or counted.
                self.leaving.send_replace(Some(leaving));
                // Once: it does not change, and a peer that does not read must not make answers pile up.
                if let Some(opened) = self.native.hear_of_leaving() {
                    drop(words.try_send(Control::Heard(opened)));
                }
            }
            Control::Heard(opened) => {
                self.drain.opened.store(opened, Ordering::Release);
                self.drain.check();
            }
        }
    }

    /// Takes the streams that the other end opens, in their order.
    async fn accept(&self, incoming: mpsc::Sender<Incoming>) -> Violation {
        if self.native.connection.side().is_server() {
            // The client's first one is the control stream.
            self.drain.taken.store(1, Ordering::Release);
        }
        let mut requests = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(done) = requests.next(), if !requests.is_empty() => {
                    if let Err(violation) = done {
                        return violation;
                    }
                    self.drain.taken.fetch_add(1, Ordering::AcqRel);
                    self.drain.check();
                }
                (permit, streams) = self.next(&incoming) => requests.push(self.take(permit, streams)),
            }
        }
    }

    /// The next stream, once there is room for it.
    async fn next(
        &self,
        incoming: &mpsc::Sender<Incoming>,
    ) -> (Option<mpsc::OwnedPermit<Incoming>>, (SendStream, RecvStream)) {
        // Nobody holds the link any more, only streams of it, when there is none.
        let permit = incoming.clone().reserve_owned().await.ok();
        match self.native.connection.accept_bi().await {
            Ok(streams) => (permit, streams),
            Err(_) => std::future::pending().await,
        }
    }

    /// Hands the datagrams that come to their flows. Returns only what breaks the protocol.
    async fn route(&self) -> Violation {
        let connection = &self.native.connection;
        loop {
            match connection.read_datagram().await {
                Ok(datagram) => {
                    if let Err(violation) = self.native.inboxes.receive(connection.side(), &datagram) {
                        return violation;
                    }
                }
                Err(_) => std::future::pending().await,
            }
            // The rest of the task has its turn as well while they come without end.
            tokio::task::consume_budget().await;
        }
    }

    /// Reads what a stream is for and offers it to whoever accepts.
    async fn take(
        &self,
        permit: Option<mpsc::OwnedPermit<Incoming>>,
        (send, mut recv): (SendStream, RecvStream),
    ) -> Result<(), Violation> {
        let Some(link) = self.link.upgrade() else {
            return Ok(());
        };
        let request = timeout(REQUEST_TIME, read_request(&mut recv)).await;
        let stream = QuicStream::requested((send, recv), Arc::clone(&self.native), link.clone());
        let (kind, target) = match request {
            Ok(Ok(request)) => request,
            Ok(Err(NoRequest::Violation(violation))) => return Err(violation),
            Ok(Err(NoRequest::Over)) => return Ok(()),
            Err(_) => {
                stream.reset(ResetReason::TimedOut);
                return Ok(());
            }
        };
        let target = std::str::from_utf8(&target)
            .ok()
            .and_then(|text| Target::new(text).ok());
        let refusal = match (kind, target, permit) {
            (Kind::Stream, Some(target), Some(permit)) => {
                let stream = MuxStream::from(stream);
                permit.send(Incoming::new(target, StreamId::from_number(1), stream, link));
                return Ok(());
            }
            (Kind::Flow, Some(target), _) => {
                let flow = QuicFlow::new(stream, Arc::clone(&self.native));
                IncomingFlow::new(target, flow).offer(&self.flows);
                return Ok(());
            }
            (Kind::Unknown, ..) => {
                Refusal::new(RefusalKind::Unsupported, "not known what this stream is for")
            }
            (Kind::Stream | Kind::Flow, None, _) => Refusal::new(RefusalKind::NotAllowed, "not a target"),
            (Kind::Stream, Some(_), None) => {
                Refusal::new(RefusalKind::NotAllowed, "this end takes no streams")
            }
        };
        stream.refuse(&refusal);
        Ok(())
    }

    /// Looks after the road while streams of this end are open: a client that has moved says so, and one whose transfer
    /// falls silent makes itself heard, as a device on the way may have forgotten it.
    async fn look(&self, words: &mpsc::Sender<Control>) -> Infallible {
        let native = &self.native;
        if native.endpoint.is_none() {
            return std::future::pending().await;
        }
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut road = Road {
            source: native.source_address(),
            ..Road::default()
        };
        loop {
            if !native.is_busy() {
                native.busy.notified().await;
                ticks.reset();
            }
            ticks.tick().await;
            match road.look(native.source_address(), native.received()) {
                Seen::Moved => native.rebind(),
                Seen::Silent => drop(words.try_send(Control::Ping)),
                Seen::Nothing => {}
            }
        }
    }

    /// Resolves when nothing of what was sent is answered and nobody listens where it went: the other end's process is gone
    /// without a word, and its connections with it. Without that word of the system the link waits for its idle timeout.
    async fn deserted(&self) {
        let native = &self.native;
        if native.endpoint.is_none() {
            // Packets reach a client through ports that others keep open for it.
            return std::future::pending().await;
        }
        loop {
            let (sent, received) = (native.sent(), native.received());
            // An idle link sends nothing but what keeps it alive, each quarter of its timeout.
            let most = native.idle_timeout / 8;
            let wait = if native.is_busy() {
                NOTICE_TIME.min(most)
            } else {
                most
            };
            sleep(wait).await;
            let is_unanswered = native.sent() != sent && native.received() == received;
            if is_unanswered
                && knock::is_nobody_there(native.connection.remote_address()).await
                && native.received() == received
            {
                return;
            }
        }
    }

    fn end_of(&self, error: &ConnectionError) -> LinkEnd {
        if let Some(Violation(message)) = self.native.violation() {
            return LinkEnd::Protocol {
                message: message.to_owned(),
            };
        }
        let lost = |kind: io::ErrorKind| LinkEnd::Lost {
            kind,
            message: error.to_string(),
        };
        match error {
            ConnectionError::ApplicationClosed(close) => {
                let code = u16::try_from(close.error_code.into_inner()).unwrap_or(u16::MAX);
                // Code 0 is what a connection closes with whose owner was torn down.
                if code == 0 {
                    return self.final_end(lost(io::ErrorKind::ConnectionReset));
                }
                let message = String::from_utf8_lossy(&close.reason).into_owned();
                let reason = GoAwayReason::from_code(code);
                self.leaving.send_replace(Some(Leaving::of(reason, message)));
                self.final_end(LinkEnd::Drained)
            }
            ConnectionError::TimedOut => self.final_end(LinkEnd::PingTimeout {
                silent_for: self.native.idle_timeout,
            }),
            ConnectionError::TransportError(_) => self.final_end(LinkEnd::Protocol {
                message: error.to_string(),
            }),
            ConnectionError::LocallyClosed => LinkEnd::Drained,
            _ => self.final_end(lost(io::ErrorKind::ConnectionReset)),
        }
    }

    /// What the other end said counts for more than how the connection ended.
    fn final_end(&self, end: LinkEnd) -> LinkEnd {
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

/// Writes the control stream, for as long as the link is there.
async fn say(mut send: SendStream, mut words: mpsc::Receiver<Control>) -> Infallible {
    while let Some(word) = words.recv().await {
        if let Err(error) = send.write_chunk(word.encode()).await {
            tracing::trace!(%error, "a word was not said");
        }
    }
    std::future::pending().await
}

enum NoRequest {
    Violation(Violation),
    /// The stream was given up before.
    Over,
}

async fn read_request(recv: &mut RecvStream) -> Result<(Kind, Vec<u8>), NoRequest> {
    let over = |_: ReadExactError| NoRequest::Over;
    let mut head = [0; REQUEST_HEAD];
    recv.read_exact(&mut head).await.map_err(over)?;
    let (kind, length) = wire::request_head(head).map_err(NoRequest::Violation)?;
    let mut target = vec![0; length];
    recv.read_exact(&mut target).await.map_err(over)?;
    Ok((kind, target))
}

/// What a client knows of its road.
#[derive(Debug, Default)]
struct Road {
    source: Option<IpAddr>,
    received: u64,
    flowing: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    /// The system sends from another address.
    Moved,
    /// Packets came until a moment ago.
    Silent,
}

impl Road {
    fn look(&mut self, source: Option<IpAddr>, received: u64) -> Seen {
        let flowed = std::mem::replace(&mut self.flowing, received != self.received);
        self.received = received;
        match source {
            // Without a network there is nowhere to send from; it counts as moved once there is one.
            Some(address) if self.source.replace(address) != Some(address) => Seen::Moved,
            _ if flowed && !self.flowing => Seen::Silent,
            _ => Seen::Nothing,
        }
    }
}

/// Whether the other end is heard after a check. Time and the number of packets that have come are told to it.
#[derive(Debug, Default)]
struct Check {
    awaited: Option<Awaited>,
}

/// A sign of life that is waited for.
#[derive(Debug, Clone, Copy)]
struct Awaited {
    /// How many packets had come before.
    received: u64,
    look_at: Instant,
    give_up_at: Instant,
    /// It was told that there is none.
    interrupted: bool,
}

/// What a look shows.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// There was an answer, in time.
    Answer,
    /// There was none for too long to take it for a delay.
    Interruption { until: Instant },
    /// Still none.
    Silence,
    /// After an interruption the other end is heard again.
    Return,
    /// It is given up.
    Loss,
}

impl Check {
    fn begin(&mut self, now: Instant, received: u64) {
        let interrupted = self.awaited.is_some_and(|awaited| awaited.interrupted);
        self.awaited = Some(Awaited {
            received,
            look_at: now + NOTICE_TIME,
            give_up_at: now + CHECK_TIME,
            interrupted,
        });
    }

    /// Resolves when it is time to look.
    async fn due(&self) {
        match &self.awaited {
            Some(awaited) => sleep_until(awaited.look_at).await,
            None => std::future::pending().await,
        }
    }

    /// Without a network nobody can be heard, and the other end is not given up for that.
    fn look(&mut self, now: Instant, received: u64, has_network: bool) -> Found {
        let Some(awaited) = &mut self.awaited else {
            return Found::Answer;
        };
        if received != awaited.received {
            let found = if awaited.interrupted {
                Found::Return
            } else {
                Found::Answer
            };
            self.awaited = None;
            return found;
        }
        if !has_network {
            awaited.give_up_at = now + CHECK_TIME;
        }
        if now >= awaited.give_up_at {
            return Found::Loss;
        }
        awaited.look_at = now + LOOK;
        if std::mem::replace(&mut awaited.interrupted, true) {
            return Found::Silence;
        }
        let until = awaited.give_up_at;
        Found::Interruption { until }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_tells_of_silence_after_a_second_and_gives_up_after_five() {
        let start = Instant::now();
        let at = |seconds: f32| start + Duration::from_secs_f32(seconds);
        let mut check = Check::default();
        assert_eq!(check.look(at(0.0), 7, true), Found::Answer, "nobody asked");
        check.begin(at(0.0), 7);
        assert_eq!(check.look(at(1.0), 8, true), Found::Answer);
        check.begin(at(2.0), 8);
        assert_eq!(
            check.look(at(3.0), 8, true),
            Found::Interruption { until: at(7.0) }
        );
        assert_eq!(check.look(at(3.5), 8, true), Found::Silence);
        assert_eq!(check.look(at(4.0), 9, true), Found::Return);
        assert_eq!(check.look(at(9.0), 9, true), Found::Answer, "nobody asked again");
        // A further check does not make it news again, and gives another chance.
        check.begin(at(10.0), 9);
        assert!(matches!(
            check.look(at(11.0), 9, true),
            Found::Interruption { .. }
        ));
        check.begin(at(14.0), 9);
        assert_eq!(check.look(at(15.0), 9, true), Found::Silence);
        assert_eq!(check.look(at(18.5), 9, true), Found::Silence);
        // Without a network nothing can be heard.
        assert_eq!(check.look(at(19.0), 9, false), Found::Silence);
        assert_eq!(check.look(at(23.9), 9, true), Found::Silence);
        assert_eq!(check.look(at(24.0), 9, true), Found::Loss);
    }

    #[test]
    fn a_road_tells_that_it_moved_and_that_it_fell_silent() {
        let first: Option<IpAddr> = "192.0.2.1".parse().ok();
        let second: Option<IpAddr> = "192.0.2.2".parse().ok();
        let mut road = Road {
            source: first,
            ..Road::default()
        };
        assert_eq!(road.look(first, 0), Seen::Nothing, "nothing has come yet");
        assert_eq!(road.look(first, 9), Seen::Nothing, "it flows");
        assert_eq!(road.look(first, 9), Seen::Silent);
        assert_eq!(road.look(first, 9), Seen::Nothing, "told once");
        assert_eq!(road.look(first, 10), Seen::Nothing);
        assert_eq!(road.look(None, 20), Seen::Nothing, "no network");
        assert_eq!(road.look(second, 20), Seen::Moved);
        assert_eq!(road.look(second, 20), Seen::Nothing);
        assert_eq!(road.look(None, 20), Seen::Nothing);
        assert_eq!(road.look(second, 20), Seen::Nothing, "where it was");
    }
}

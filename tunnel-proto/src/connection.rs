//! The state machine of one side of a link.

mod credit;
mod events;
mod flows;
mod later;
mod opens;
mod ping;
mod receive;
mod replay;
mod resume;
mod stream;
mod streams;
mod transmit;

use std::collections::VecDeque;
use std::fmt;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use crate::config::Config;
use crate::frame::{self, Hello, MAX_SUCCESSOR_BYTES, MAX_TARGET_BYTES, Reader};
use crate::{Error, Event, Features, GoAwayReason, Refusal, RefusalKind, ResetReason, Violation};
use credit::{Memory, grant_resting};
use events::Events;
use flows::Flows;
use later::{LITTLE, Later};
use opens::Opens;
use ping::Ping;
use resume::Resume;
use stream::{Fin, Phase, Stream};
use streams::Streams;

/// A stream's number: odd for streams that the client opened, even for the server's. Never used twice.
///
/// It is also the number on the wire, except for a stream of ours whose OPEN had to wait for longer than a later one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u32);

impl StreamId {
    /// The number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The id with this number, as [`StreamId::number`] gave it.
    #[must_use]
    pub const fn from_number(number: u32) -> StreamId {
        StreamId(number)
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Which side of the link this is. The two differ only in the numbers of the streams that they open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Who made the connection.
    Client,
    /// Who was connected to.
    Server,
}

/// One side of a link: streams of bytes both ways, multiplexed.
///
/// It holds no socket and reads no clock. Its owner
/// * hands over what was received ([`handle_bytes`](Connection::handle_bytes)) and says when time has passed
///   ([`handle_timeout`](Connection::handle_timeout), due at [`poll_timeout`](Connection::poll_timeout)),
/// * asks for what to send ([`poll_transmit`](Connection::poll_transmit)) and for what happened
///   ([`poll_event`](Connection::poll_event)) until there is nothing more.
///
/// Bytes that are given to [`send`](Connection::send) wait without a bound of their own: the owner bounds them, by
/// counting [`Event::Sent`]. Bytes that are received are bounded by the credit that was granted for them.
///
/// ```
/// use std::time::Instant;
/// use bytes::BytesMut;
/// use tunnel_proto::{Config, Connection, Event, Role};
///
/// # fn main() -> Result<(), tunnel_proto::Error> {
/// let now = Instant::now();
/// let mut client = Connection::new(Role::Client, Config::default(), now)?;
/// let mut server = Connection::new(Role::Server, Config::default(), now)?;
/// let asked = client.open(b"tcp/backend/orders/5432", now)?;
/// client.send(asked, "hello".into())?;
///
/// // A link, here without a network: what one side transmits, the other one handles.
/// let mut wire = BytesMut::new();
/// let mut seen = Vec::new();
/// for _ in 0..3 {
///     while client.poll_transmit(&mut wire, 64 * 1024) {
///         server.handle_bytes(wire.split().freeze(), now)?;
///     }
///     while server.poll_transmit(&mut wire, 64 * 1024) {
///         client.handle_bytes(wire.split().freeze(), now)?;
///     }
/// }
/// while let Some(event) = server.poll_event() {
///     if let Event::Data { bytes, .. } = event {
///         seen.extend_from_slice(&bytes);
///     }
/// }
/// assert_eq!(seen, b"hello");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Connection {
    role: Role,
    config: Config,
    /// Nothing of streams is sent before it is known what the peer takes.
    peer: Option<Hello>,
    reader: Reader,
    streams: Streams,
    events: Events,

    /// Frames that go before all data, encoded.
    control: BytesMut,
    later: Later,
    /// The answer to the latest PING.
    pong: Option<u64>,
    opens: Opens,
    /// Opens of the peer that our owner has not answered.
    unanswered_by_us: u32,
    /// Streams with little to send, and with much; each in one of them at most, once.
    brief: VecDeque<u32>,
    bulk: VecDeque<u32>,
    /// Turns of brief streams and of datagrams since the last one of a bulk stream.
    brief_turns: u32,
    flows: Flows,

    memory: Memory,

    resume: Resume,
    ping: Ping,
    leaving: Leaving,
    peer_leaving: bool,
    violation: Option<Violation>,
}

/// How far we have gone in leaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    /// GOAWAY was sent, and then this PING: until its answer, the peer's OPENs may have crossed with the GOAWAY.
    Draining {
        ping: u64,
    },
    /// The peer has heard of it: what it opens is refused.
    Drained,
    /// We were told to go away, whatever the peer has heard.
    Gone,
}

impl Connection {
    /// A side of a link that has just come up.
    ///
    /// # Errors
    /// [`Error::LimitOutOfRange`] for a limit that makes no sense.
    pub fn new(role: Role, config: Config, now: Instant) -> Result<Connection, Error> {
        config.check()?;
        let mut control = BytesMut::new();
        frame::put_hello(
            &mut control,
            &Hello {
                features: config.features,
                initial_window: config.initial_window,
                max_frame: config.max_frame,
                max_streams: config.max_streams,
                max_pending_opens: config.max_pending_opens,
            },
        );
        let mut connection = Connection {
            role,
            peer: None,
            reader: Reader::new(config.max_frame),
            streams: Streams::new(role),
            events: Events::default(),
            control,
            later: Later::new(config.coalesce_delay),
            pong: None,
            opens: Opens::default(),
            unanswered_by_us: 0,
            brief: VecDeque::new(),
            bulk: VecDeque::new(),
            brief_turns: 0,
            flows: Flows::default(),
            memory: Memory::new(config.initial_window),
            resume: Resume::new(&config),
            ping: Ping::new(now, config.ping_interval),
            leaving: Leaving::No,
            peer_leaving: false,
            violation: None,
            config,
        };
        // The first answer tells the round trip, by which windows grow.
        connection.ask(now);
        Ok(connection)
    }

    /// Opens a stream to `target`, 1 to [`MAX_TARGET_BYTES`] bytes that mean something to the peer's owner.
    /// Data may be sent at once.
    ///
    /// # Errors
    /// [`Error::TargetLength`], [`Error::TooManyStreams`] (our limit or the peer's), [`Error::StreamIdsUsedUp`],
    /// [`Error::GoingAway`], or the [`Error::Violation`] that ended the connection.
    pub fn open(&mut self, target: &[u8], now: Instant) -> Result<StreamId, Error> {
        let id = self.check_open(target)?;
        // Its credit is known with the peer's HELLO; OPEN waits for that in any case.
        let initial = self.config.initial_window;
        let windows = (initial, self.resting_window());
        let mut stream = Stream::new(Phase::Held, 0, 0, windows, now);
        self.memory.settle(id, &mut stream, initial, now);
        Ok(self.hold(id, target, stream))
    }

    /// A number for a stream or a flow that is about to be opened, if it may be.
    fn check_open(&mut self, target: &[u8]) -> Result<u32, Error> {
        self.check_alive()?;
        if target.is_empty() || target.len() > MAX_TARGET_BYTES {
            return Err(Error::TargetLength { len: target.len() });
        }
        if self.leaving != Leaving::No || self.peer_leaving {
            return Err(Error::GoingAway);
        }
        let limit = self
            .config
            .max_streams
            .min(self.peer.map_or(u32::MAX, |peer| peer.max_streams));
        if self.streams.len() >= limit as usize {
            return Err(Error::TooManyStreams { limit });
        }
        if self.streams.len() + self.later.ends() >= limit as usize {
            // The peer hears first of those whose places are taken.
            self.release_ends();
        }
        self.streams.next_id()
    }

    fn hold(&mut self, id: u32, target: &[u8], mut stream: Stream) -> StreamId {
        stream.target = Bytes::copy_from_slice(target);
        self.opens.hold(stream.target.clone(), id);
        self.streams.insert(id, stream);
        self.release_held(Some(id));
        StreamId(id)
    }

    /// Whether the OPEN of a stream of ours waits for the answers of others. Should the peer leave meanwhile, it is never
    /// sent, and another connection can take the stream.
    #[must_use]
    pub fn is_held(&self, id: StreamId) -> bool {
        self.streams
            .get(id.0)
            .is_some_and(|stream| matches!(stream.phase, Phase::Held))
    }

    /// How many opens of ours may be unanswered, by our limit and the peer's; `None` before it has told its own.
    #[must_use]
    pub fn open_limit(&self) -> Option<u32> {
        self.peer
            .map(|peer| self.config.max_pending_opens.min(peer.max_pending_opens))
    }

    /// The optional parts of the protocol that both sides have offered; `None` before the peer has.
    #[must_use]
    pub fn features(&self) -> Option<Features> {
        self.peer.map(|peer| peer.features & self.config.features)
    }

    /// Accepts a stream that the peer opened: its target is connected.
    ///
    /// # Errors
    /// [`Error::NotOpen`] when it is over, [`Error::WrongState`] when it has been answered.
    pub fn accept(&mut self, id: StreamId, now: Instant) -> Result<(), Error> {
        self.check_alive()?;
        let stream = self.streams.of_owner(id)?;
        if stream.phase != Phase::AwaitOwner {
            return Err(Error::WrongState {
                id,
                what: "be accepted",
            });
        }
        stream.phase = Phase::Open;
        self.unanswered_by_us -= 1;
        // A peer that has sent more than a little may soon need the credit.
        let waits = stream.granted.saturating_add(LITTLE) >= self.config.initial_window;
        let out = if waits {
            self.later.accept(&mut self.control, now)
        } else {
            &mut self.control
        };
        frame::put_accept(out, stream.wire);
        if !stream.peer_finished {
            grant_resting(out, stream);
        }
        self.limit_later();
        Ok(())
    }

    /// Refuses a stream that the peer opened. It is over.
    ///
    /// # Errors
    /// [`Error::NotOpen`] when it is over already, [`Error::WrongState`] when it has been answered.
    pub fn refuse(&mut self, id: StreamId, refusal: &Refusal) -> Result<(), Error> {
        self.check_alive()?;
        let stream = self.streams.of_owner(id)?;
        if stream.phase != Phase::AwaitOwner {
            return Err(Error::WrongState {
                id,
                what: "be refused",
            });
        }
        let wire = stream.wire;
        self.forget(id.0);
        frame::put_code(
            &mut self.control,
            frame::REFUSE,
            wire,
            refusal.kind.code(),
            &refusal.message,
        );
        Ok(())
    }

    /// Sends bytes on a stream, as soon as the peer's credit and the other streams' turns let them.
    ///
    /// # Errors
    /// [`Error::NotOpen`] when it is over, [`Error::WrongState`] when it is not accepted or our direction has ended.
    pub fn send(&mut self, id: StreamId, bytes: Bytes) -> Result<(), Error> {
        self.check_alive()?;
        let stream = self.streams.of_owner(id)?;
        if stream.phase == Phase::AwaitOwner || stream.fin != Fin::No || stream.datagrams.is_some() {
            return Err(Error::WrongState { id, what: "send" });
        }
        if !bytes.is_empty() {
            stream.queue.push(bytes);
            stream.heard_last = false;
            self.enter_ring(id.0);
        }
        Ok(())
    }

    /// Ends our direction of a stream, behind what was given to [`send`](Connection::send).
    ///
    /// # Errors
    /// As [`send`](Connection::send).
    pub fn finish(&mut self, id: StreamId, now: Instant) -> Result<(), Error> {
        self.check_alive()?;
        let stream = self.streams.of_owner(id)?;
        if stream.phase == Phase::AwaitOwner || stream.fin != Fin::No {
            return Err(Error::WrongState {
                id,
                what: "be finished",
            });
        }
        let nothing_else = stream.queue.is_empty() && stream.datagrams.is_none();
        if nothing_else && stream.heard_last {
            stream.fin = Fin::Sent;
            self.later.end(&mut self.control, stream.wire, now);
            self.limit_later();
            self.close_if_over(id.0);
        } else {
            stream.fin = Fin::Wanted;
            self.enter_ring(id.0);
        }
        Ok(())
    }

    /// Ends a stream at once, both directions; what waits to be sent is dropped.
    ///
    /// # Errors
    /// [`Error::NotOpen`] when it is over already.
    pub fn reset(&mut self, id: StreamId, reason: ResetReason) -> Result<(), Error> {
        self.check_alive()?;
        let stream = self.streams.of_owner(id)?;
        let (wire, known) = (stream.wire, stream.phase != Phase::Held);
        // The end of our direction may wait.
        self.release_ends();
        // What the peer never heard of needs no end. The end goes out before the OPEN that it makes room for.
        if known {
            frame::put_code(&mut self.control, frame::RESET, wire, reason.code(), "");
        }
        self.forget(id.0);
        Ok(())
    }

    /// Announces that we leave ([`GoAwayReason::Leaving`]) and open no new streams, while everything goes on: streams
    /// that are open, and those that the peer opened before it heard of this. What it opens afterwards is refused.
    ///
    /// Streams of ours whose OPEN was not sent yet are refused with [`RefusalKind::LinkLost`].
    pub fn drain(&mut self, message: &str, now: Instant) {
        if self.leaving == Leaving::No {
            frame::put_go_away(&mut self.control, GoAwayReason::Leaving.code(), message);
            self.ask(now);
            self.leaving = Leaving::Draining {
                ping: self.ping.token,
            };
            self.refuse_all_held("this side is leaving");
        }
    }

    /// Says where the peer should connect to from now on, with a URL of 1 to [`MAX_SUCCESSOR_BYTES`](crate::MAX_SUCCESSOR_BYTES) visible
    /// ASCII characters. To be called before [`drain`](Connection::drain) or [`go_away`](Connection::go_away); a peer that does not know of
    /// successors ignores it.
    ///
    /// # Errors
    /// [`Error::BadSuccessor`] for any other text.
    pub fn name_successor(&mut self, url: &str) -> Result<(), Error> {
        if !(1..=MAX_SUCCESSOR_BYTES).contains(&url.len()) || !url.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::BadSuccessor);
        }
        frame::put_successor(&mut self.control, url);
        Ok(())
    }

    /// Says that we take no new streams and open none, from this moment. Streams that are open go on. After
    /// [`drain`](Connection::drain) it says so again, with its own reason.
    pub fn go_away(&mut self, reason: GoAwayReason, message: &str) {
        if self.leaving != Leaving::Gone {
            self.leaving = Leaving::Gone;
            frame::put_go_away(&mut self.control, reason.code(), message);
            self.refuse_all_held("this side is leaving");
        }
    }

    /// What happened; `None` when that is all.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop()?;
        self.flows.handle_polled(&event);
        Some(event)
    }

    /// When to call [`handle_timeout`](Connection::handle_timeout) next; `None` once the link is dead.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.violation.is_some() {
            None
        } else if self.is_detached() {
            self.resume.until()
        } else {
            let ping = self.ping.due()?;
            let others = [self.memory.due(), self.resume.ack_due(), self.later.due()];
            Some(others.into_iter().flatten().fold(ping, Instant::min))
        }
    }

    /// Lets time pass: asks whether the peer is there and reports when it is not ([`Event::Dead`]), acknowledges what has come, sends
    /// what has waited for something to go with, and shrinks the windows of streams that have been quiet.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return;
        }
        if self.resume.check_time(now) {
            self.events.push(Event::Expired);
        }
        if self.is_detached() {
            return;
        }
        self.release_due(now);
        if self.memory.due().is_some_and(|due| now >= due) {
            self.shrink_quiet(now);
        }
        self.check_peer(now);
    }

    /// Whether both directions of a stream have ended but for what waits to be sent.
    #[must_use]
    pub fn is_ending(&self, id: StreamId) -> bool {
        self.streams
            .get(id.0)
            .is_some_and(|stream| stream.peer_finished && stream.fin != Fin::No)
    }

    /// How many streams are open, or about to be.
    #[must_use]
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    fn check_alive(&self) -> Result<(), Error> {
        self.violation
            .clone()
            .map_or(Ok(()), |violation| Err(violation.into()))
    }

    /// Takes a stream out of the tables. The rings forget it when its turn comes.
    fn forget(&mut self, id: u32) -> Option<Box<Stream>> {
        let stream = self.streams.remove(id)?;
        self.memory.forget(id, &stream);
        self.flows.forget(&stream);
        match stream.phase {
            Phase::Held => self.opens.withdraw(&stream.target, id),
            Phase::AwaitAnswer => {
                self.opens.answered(&stream.target);
                self.release_held(None);
            }
            Phase::AwaitOwner => self.unanswered_by_us -= 1,
            Phase::Open => {}
        }
        Some(stream)
    }

    /// Forgets a stream that has come to its end both ways.
    fn close_if_over(&mut self, id: u32) {
        if self.streams.get(id).is_some_and(Stream::is_over) {
            self.forget(id);
            self.events.push(Event::Closed { id: StreamId(id) });
        }
    }

    /// Sends the OPENs that may be sent. Whoever opens the stream `opening` sees for itself whether it is among them.
    fn release_held(&mut self, opening: Option<u32>) {
        let (Some(peer), Some(limit)) = (self.peer, self.open_limit()) else {
            return;
        };
        // Without a connection requests wait: they can still be withdrawn, or be made on another link.
        if self.peer_leaving || self.leaving != Leaving::No || self.is_detached() {
            return;
        }
        let per_target = self.config.max_pending_opens_per_target;
        while let Some(id) = self.opens.next(limit, per_target) {
            match self.streams.send(id) {
                Ok(Some(stream)) => {
                    if stream.datagrams.is_some() {
                        frame::put_open(&mut self.control, frame::OPEN_FLOW, stream.wire, &stream.target);
                    } else {
                        stream.credit = peer.initial_window;
                        frame::put_open(&mut self.control, frame::OPEN, stream.wire, &stream.target);
                        grant_resting(&mut self.control, stream);
                        self.events.add_credit(
                            StreamId(id),
                            &mut stream.credit_place,
                            peer.initial_window,
                            0,
                        );
                    }
                    self.enter_ring(id);
                    if opening != Some(id) {
                        self.events.push(Event::OpenSent { id: StreamId(id) });
                    }
                }
                Ok(None) => {}
                Err(error) => self.refuse_held(id, &error.to_string()),
            }
        }
    }

    fn refuse_all_held(&mut self, why: &str) {
        for id in self.opens.held() {
            self.refuse_held(id, why);
        }
    }

    /// Refuses a stream of ours whose OPEN will not be sent: another connection can take it.
    fn refuse_held(&mut self, id: u32, why: &str) {
        self.forget(id);
        self.events.push(Event::Refused {
            id: StreamId(id),
            refusal: Refusal::new(RefusalKind::LinkLost, why),
        });
    }
}

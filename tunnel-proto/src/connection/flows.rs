//! Flows of datagrams beside the streams: numbered, opened, answered and ended as streams are, without credit. What
//! finds no room is dropped, so that a flow holds nobody up.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;

use super::stream::{Fin, Phase, Stream};
use super::{Connection, StreamId};
use crate::frame::{self, Control};
use crate::{Error, Event, Features, Refusal, RefusalKind, TransmitSink, Violation};

/// What may wait to be sent of one flow, in datagrams and in bytes.
const FLOW_DATAGRAMS: usize = 256;
const FLOW_BYTES: usize = 256 * 1024;

/// What may wait to be sent of all flows.
const ALL_DATAGRAMS: usize = 16 * 1024;
const ALL_BYTES: usize = 4 * 1024 * 1024;

/// A flow may have this part of what the others leave, so that however many fill their queues, there is room for one more.
const SHARE: usize = 4;

/// Datagrams that wait for [`Connection::poll_event`]. An owner that polls as it should never has as many: it is for a peer
/// that puts hundreds of thousands of empty ones into one message.
const MAX_UNPOLLED: usize = 8 * 1024;

/// What waits to be sent of one flow.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    queue: VecDeque<Bytes>,
    bytes: usize,
}

impl Datagrams {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    fn pop(&mut self) -> Option<Bytes> {
        let datagram = self.queue.pop_front()?;
        self.bytes -= datagram.len();
        if self.queue.is_empty() {
            // An idle flow holds nothing.
            self.queue = VecDeque::new();
        }
        Some(datagram)
    }
}

/// What all flows of a connection have together.
#[derive(Debug, Default)]
pub(super) struct Flows {
    /// Flows that may send, each once.
    ring: VecDeque<u32>,
    /// The last turn was one of datagrams, not of a stream.
    had_turn: bool,
    /// What waits to be sent.
    datagrams: usize,
    bytes: usize,
    /// Events of datagrams that were not polled.
    unpolled: usize,
    /// Datagrams that were dropped for want of room.
    dropped: u64,
    /// Those that nobody was told of, by flow. At most [`MAX_UNPOLLED`] flows.
    untold: BTreeMap<u32, u64>,
}

impl Flows {
    pub(super) fn wants_transmit(&self) -> bool {
        !self.ring.is_empty()
    }

    pub(super) fn enter(&mut self, id: u32) {
        self.ring.push_back(id);
    }

    /// The flow whose turn it is, if it is one's: brief streams and flows alternate.
    pub(super) fn take_turn(&mut self, alone: bool) -> Option<u32> {
        self.had_turn = alone || !self.had_turn;
        if self.had_turn {
            self.ring.pop_front()
        } else {
            None
        }
    }

    /// What waited on a flow is dropped with it.
    pub(super) fn forget(&mut self, stream: &Stream) {
        if let Some(gone) = &stream.datagrams {
            self.datagrams -= gone.queue.len();
            self.bytes -= gone.bytes;
        }
    }

    pub(super) fn handle_polled(&mut self, event: &Event) {
        if matches!(event, Event::Datagram { .. }) {
            self.unpolled -= 1;
        }
    }

    /// Datagrams of a flow were dropped, and its owner is to hear of it.
    fn count_untold(&mut self, id: u32, dropped: u64) {
        self.dropped += dropped;
        if let Some(untold) = self.untold.get_mut(&id) {
            *untold += dropped;
        } else if dropped > 0 && self.untold.len() < MAX_UNPOLLED {
            self.untold.insert(id, dropped);
        }
    }

    /// Puts a datagram behind the others of its flow, and drops of these the oldest for as long as there is no room: what has
    /// waited longest is worth least. Gives out how many were dropped, the new one among them where even that did not help.
    fn push(&mut self, flow: &mut Datagrams, datagram: Bytes) -> u32 {
        let others = (self.datagrams - flow.queue.len(), self.bytes - flow.bytes);
        let most = FLOW_DATAGRAMS.min(ALL_DATAGRAMS.saturating_sub(others.0) / SHARE);
        let most_bytes = FLOW_BYTES.min(ALL_BYTES.saturating_sub(others.1) / SHARE);
        let mut dropped = 0;
        while flow.queue.len() >= most || flow.bytes + datagram.len() > most_bytes {
            dropped += 1;
            if let Some(oldest) = flow.pop() {
                self.datagrams -= 1;
                self.bytes -= oldest.len();
            } else {
                self.dropped += u64::from(dropped);
                return dropped;
            }
        }
        self.datagrams += 1;
        self.bytes += datagram.len();
        flow.bytes += datagram.len();
        flow.queue.push_back(datagram);
        self.dropped += u64::from(dropped);
        dropped
    }
}

impl Connection {
    /// Opens a flow of datagrams to `target`, as [`open`](Connection::open) opens a stream. It is accepted, refused, finished and
    /// reset as a stream is, and counts as one. Datagrams may be sent at once.
    ///
    /// ```
    /// # use std::time::Instant;
    /// # use bytes::BytesMut;
    /// # use tunnel_proto::{Config, Connection, Event, Features, Role};
    /// # fn main() -> Result<(), tunnel_proto::Error> {
    /// # let now = Instant::now();
    /// let config = Config { features: Features::DATAGRAMS, ..Config::default() };
    /// let mut client = Connection::new(Role::Client, config.clone(), now)?;
    /// let mut server = Connection::new(Role::Server, config, now)?;
    /// let flow = client.open_flow(b"udp/backend/dns/53", now)?;
    /// client.send_datagram(flow, "who?".into())?;
    /// # let mut wire = BytesMut::new();
    /// # for _ in 0..3 {
    /// #     while client.poll_transmit(&mut wire, 64 * 1024) {
    /// #         server.handle_bytes(wire.split().freeze(), now)?;
    /// #     }
    /// #     while server.poll_transmit(&mut wire, 64 * 1024) {
    /// #         client.handle_bytes(wire.split().freeze(), now)?;
    /// #     }
    /// # }
    /// # let mut seen = Vec::new();
    /// // … the bytes travel …
    /// while let Some(event) = server.poll_event() {
    ///     if let Event::Datagram { bytes, .. } = event {
    ///         seen.push(bytes);
    ///     }
    /// }
    /// assert_eq!(seen, ["who?"]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`open`](Connection::open), and [`Error::Unsupported`] where one of the sides does not offer
    /// [`Features::DATAGRAMS`]. Where that is not known yet, it is refused with [`RefusalKind::Unsupported`] later.
    pub fn open_flow(&mut self, target: &[u8], now: Instant) -> Result<StreamId, Error> {
        let offered = self.features().unwrap_or(self.config.features);
        if !offered.contains(Features::DATAGRAMS) {
            return Err(Error::Unsupported { what: "datagrams" });
        }
        let id = self.check_open(target)?;
        Ok(self.hold(id, target, flow(Phase::Held, 0, now)))
    }

    /// Sends a datagram on a flow, before all bulk. There is no credit: of what waits, up to 256 datagrams and 256 KiB a flow,
    /// and less where other flows have much waiting, the oldest are dropped. Gives out how many were.
    ///
    /// # Errors
    /// [`Error::DatagramTooLong`]; otherwise as [`send`](Connection::send).
    pub fn send_datagram(&mut self, id: StreamId, datagram: Bytes) -> Result<u32, Error> {
        self.check_alive()?;
        let most = self.max_datagram();
        let stream = self.streams.of_owner(id)?;
        let ended = stream.phase == Phase::AwaitOwner || stream.fin != Fin::No;
        let Some(flow) = stream.datagrams.as_mut().filter(|_| !ended) else {
            return Err(Error::WrongState {
                id,
                what: "send a datagram",
            });
        };
        if datagram.len() > most {
            return Err(Error::DatagramTooLong {
                len: datagram.len(),
                most,
            });
        }
        let dropped = self.flows.push(flow, datagram);
        self.enter_ring(id.0);
        Ok(dropped)
    }

    /// The longest datagram that both sides take, in bytes: the smaller `max_frame`, and at most
    /// [`MAX_DATAGRAM_BYTES`](crate::MAX_DATAGRAM_BYTES).
    #[must_use]
    pub fn max_datagram(&self) -> usize {
        let theirs = self.peer.map_or(u32::MAX, |peer| peer.max_frame);
        frame::max_datagram(self.config.max_frame.min(theirs)) as usize
    }

    /// Drops the datagrams that wait to be sent, as when the link has nothing to send them on for a while: nobody wants them
    /// late. Gives out how many there were; [`poll_dropped`](Connection::poll_dropped) says of which flows.
    pub fn drop_datagrams(&mut self) -> usize {
        let before = self.flows.datagrams;
        // Those in the ring are all that have any; a flow that is held, or whose FIN waits, stays as it is.
        for id in std::mem::take(&mut self.flows.ring) {
            let Some(stream) = self.streams.get_mut(id) else {
                continue;
            };
            stream.in_ring = false;
            if let Some(flow) = &mut stream.datagrams {
                let dropped = flow.queue.len();
                self.flows.datagrams -= dropped;
                self.flows.bytes -= flow.bytes;
                **flow = Datagrams::default();
                self.flows.count_untold(id, dropped as u64);
            }
            self.enter_ring(id);
        }
        before - self.flows.datagrams
    }

    /// A flow of which datagrams were dropped since the last time, and how many: those that
    /// [`drop_datagrams`](Connection::drop_datagrams) dropped, and those of the peer that came faster than events were polled. What
    /// [`send_datagram`](Connection::send_datagram) drops, it says itself.
    pub fn poll_dropped(&mut self) -> Option<(StreamId, u64)> {
        let (id, dropped) = self.flows.untold.pop_first()?;
        Some((StreamId(id), dropped))
    }

    /// How many datagrams this side has dropped for want of room, of all flows.
    #[must_use]
    pub fn dropped_datagrams(&self) -> u64 {
        self.flows.dropped
    }

    pub(super) fn carries_datagrams(&self) -> bool {
        self.features()
            .is_some_and(|features| features.contains(Features::DATAGRAMS))
    }

    /// The peer opened a flow, and may.
    pub(super) fn take_flow(&mut self, wire: u32, target: &Bytes, now: Instant) {
        self.unanswered_by_us += 1;
        self.streams.insert(wire, flow(Phase::AwaitOwner, wire, now));
        self.events.push(Event::FlowOpened {
            id: StreamId(wire),
            target: Bytes::copy_from_slice(target),
        });
    }

    pub(super) fn handle_datagram(&mut self, control: &Control) -> Result<(), Violation> {
        let (kind, wire) = (control.kind, control.stream);
        let Some((id, stream)) = self.streams.of_peer(kind, wire)? else {
            return Ok(());
        };
        if stream.datagrams.is_none() || stream.phase == Phase::AwaitAnswer || stream.peer_finished {
            return Err(Violation::OutOfPlace { kind, id: wire });
        }
        if self.flows.unpolled >= MAX_UNPOLLED {
            self.flows.count_untold(id, 1);
            return Ok(());
        }
        self.flows.unpolled += 1;
        self.events.push(Event::Datagram {
            id: StreamId(id),
            // A datagram that waits must not keep the buffer that it came in.
            bytes: Bytes::copy_from_slice(&control.payload),
        });
        Ok(())
    }

    /// Puts a flow's next datagram, or its end, into `out`; how many bytes that took.
    pub(super) fn put_datagram<S: TransmitSink>(&mut self, id: u32, out: &mut S) -> usize {
        let Some(stream) = self.streams.get_mut(id) else {
            return 0;
        };
        stream.in_ring = false;
        let next = stream.datagrams.as_mut().and_then(|flow| flow.pop());
        let put = if let Some(datagram) = next {
            self.flows.datagrams -= 1;
            self.flows.bytes -= datagram.len();
            let head = frame::data_head(frame::DATAGRAM, stream.wire, datagram.len());
            out.put_slice(&head);
            let put = head.len() + datagram.len();
            out.put_bytes(datagram);
            put
        } else if stream.fin == Fin::Wanted {
            stream.fin = Fin::Sent;
            let head = frame::data_head(frame::FIN, stream.wire, 0);
            out.put_slice(&head);
            head.len()
        } else {
            0
        };
        self.enter_ring(id);
        self.close_if_over(id);
        put
    }

    /// The peer has said what it offers: flows that were opened before are refused if it does not carry any.
    pub(super) fn refuse_unsupported(&mut self) {
        if self.carries_datagrams() {
            return;
        }
        for id in self.opens.held() {
            if self.streams.get(id).is_some_and(|held| held.datagrams.is_some()) {
                self.forget(id);
                self.events.push(Event::Refused {
                    id: StreamId(id),
                    refusal: Refusal::new(
                        RefusalKind::Unsupported,
                        "the other side carries no datagrams: it may be older",
                    ),
                });
            }
        }
    }
}

/// A flow has no window and no credit.
fn flow(phase: Phase, wire: u32, now: Instant) -> Stream {
    let mut stream = Stream::new(phase, wire, 0, (0, 0), now);
    stream.datagrams = Some(Box::default());
    stream
}

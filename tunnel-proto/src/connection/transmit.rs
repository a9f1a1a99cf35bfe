//! What goes on the wire, and in which order: control first, then streams in turn, a frame each, those with little to
//! send, and flows of datagrams, before those with much.

use super::stream::Fin;
use super::{Connection, StreamId};
use crate::{Event, TransmitSink, frame};

/// A stream with no more than this to send is brief: a request or an answer, not bulk.
const BRIEF_BYTES: usize = 4 * 1024;

/// After this many turns of brief streams a bulk stream gets its turn.
const BRIEF_TURNS: u32 = 16;

impl Connection {
    /// Appends what there is to send to `out`, until that has taken about `limit` bytes (one frame more at most).
    /// `false` when there was nothing.
    ///
    /// Into a [`ChunkQueue`](crate::ChunkQueue) payloads go as they are, into a
    /// [`BytesMut`](bytes::BytesMut) as a copy. Control frames may exceed `limit`; there are few of them.
    pub fn poll_transmit<S: TransmitSink>(&mut self, out: &mut S, limit: usize) -> bool {
        self.transmit(out, limit)
    }

    /// Puts new frames into `out`: control, and DATA until `data_limit` bytes are there. How many bytes that took.
    pub(super) fn put_frames<S: TransmitSink>(&mut self, out: &mut S, data_limit: usize) -> usize {
        let mut put = 0;
        let something = self.wants_transmit();
        if something {
            self.release_accepts();
        }
        if let Some(token) = self.pong.take() {
            frame::put_ping(&mut self.control, frame::PONG, token);
        }
        if !self.control.is_empty() {
            put += self.control.len();
            out.put_slice(&self.control);
            self.control.clear();
        }
        while put < data_limit && self.violation.is_none() {
            let brief_first = self.brief_turns < BRIEF_TURNS || self.bulk.is_empty();
            let flow = if brief_first {
                self.flows.take_turn(self.brief.is_empty())
            } else {
                None
            };
            if let Some(id) = flow {
                let len = self.put_datagram(id, out);
                let turns = 1 + u32::try_from(len / BRIEF_BYTES).unwrap_or(BRIEF_TURNS);
                self.brief_turns = self.brief_turns.saturating_add(turns);
                put += len;
                continue;
            }
            let next = if brief_first { self.brief.pop_front() } else { None };
            self.brief_turns = if next.is_some() {
                self.brief_turns.saturating_add(1)
            } else {
                0
            };
            let Some(id) = next.or_else(|| self.bulk.pop_front()) else {
                break;
            };
            put += self.put_frame(id, out);
        }
        if something {
            // Behind everything else: what begins is more urgent.
            self.later.give_ends(|ends| {
                put += ends.len();
                out.put_slice(ends);
            });
        }
        put
    }

    /// Whether [`poll_transmit`](Connection::poll_transmit) has anything to send.
    #[must_use]
    pub fn wants_transmit(&self) -> bool {
        let data = (!self.brief.is_empty() || !self.bulk.is_empty() || self.flows.wants_transmit())
            && self.resume.has_room(self.config.replay_bytes);
        if self.is_detached() {
            return false;
        }
        self.resume.wants_transmit()
            || self.pong.is_some()
            || !self.control.is_empty()
            || (data && self.violation.is_none())
    }

    /// Puts the stream's next frame into `out`, if it may send one; how many bytes that took.
    fn put_frame<S: TransmitSink>(&mut self, id: u32, out: &mut S) -> usize {
        let max_frame = self
            .config
            .max_frame
            .min(self.peer.map_or(0, |peer| peer.max_frame));
        let Some(stream) = self.streams.get_mut(id) else {
            return 0;
        };
        stream.in_ring = false;
        if !stream.may_send() {
            return 0;
        }
        let queued = stream.queue.len();
        let len = queued.min(stream.credit as usize).min(max_frame as usize);
        let last = len == queued && stream.fin == Fin::Wanted;
        let head = frame::data_head(if last { frame::FIN } else { frame::DATA }, stream.wire, len);
        out.put_slice(&head);
        let mut left = len;
        while left > 0
            && let Some(chunk) = stream.queue.pop_up_to(left)
        {
            left -= chunk.len();
            out.put_bytes(chunk);
        }
        stream.credit -= u32::try_from(len).unwrap_or(stream.credit);
        if last {
            stream.fin = Fin::Sent;
        }
        if len > 0 {
            stream.heard_last = false;
            self.events.push(Event::Sent {
                id: StreamId(id),
                bytes: len,
            });
        }
        self.enter_ring(id);
        if last {
            self.close_if_over(id);
        }
        head.len() + len
    }

    /// Lets a stream wait for its turn, if it may send and does not wait yet.
    pub(super) fn enter_ring(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(id) else {
            return;
        };
        if !stream.in_ring && stream.may_send() {
            stream.in_ring = true;
            let ring = if stream.datagrams.is_some() {
                return self.flows.enter(id);
            } else if stream.queue.len() <= BRIEF_BYTES {
                &mut self.brief
            } else {
                &mut self.bulk
            };
            ring.push_back(id);
        }
    }
}

//! What goes on the wire, and in which order: control first, then streams in turn, a frame each, those with little
//! to send before those with much.

use bytes::BytesMut;

use super::stream::Fin;
use super::{Connection, StreamId};
use crate::{Event, frame};

/// A stream with no more than this to send is brief: a request or an answer, not bulk.
const BRIEF_BYTES: usize = 4 * 1024;

/// After so many turns of brief streams a bulk one gets its turn.
const BRIEF_TURNS: u32 = 16;

impl Connection {
    /// Appends what there is to send to `out`, until that holds about `limit` bytes (one frame more at most).
    /// `false` when there was nothing.
    ///
    /// Control frames are not held to `limit`; there are few of them.
    pub fn poll_transmit(&mut self, out: &mut BytesMut, limit: usize) -> bool {
        let before = out.len();
        if let Some(token) = self.pong.take() {
            frame::put_ping(&mut self.control, frame::PONG, token);
        }
        if !self.control.is_empty() {
            out.extend_from_slice(&self.control);
            self.control.clear();
        }
        let mut brief_turns = 0;
        while out.len() - before < limit && self.violation.is_none() {
            let brief_first = brief_turns < BRIEF_TURNS || self.bulk.is_empty();
            let next = if brief_first { self.brief.pop_front() } else { None };
            brief_turns = if next.is_some() { brief_turns + 1 } else { 0 };
            let Some(id) = next.or_else(|| self.bulk.pop_front()) else {
                break;
            };
            self.put_frame(id, out);
        }
        out.len() > before
    }

    /// Whether [`poll_transmit`](Connection::poll_transmit) has something.
    #[must_use]
    pub fn wants_transmit(&self) -> bool {
        let data = !self.brief.is_empty() || !self.bulk.is_empty();
        self.pong.is_some() || !self.control.is_empty() || (data && self.violation.is_none())
    }

    fn put_frame(&mut self, id: u32, out: &mut BytesMut) {
        let max_frame = self
            .config
            .max_frame
            .min(self.peer.map_or(0, |peer| peer.max_frame));
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.in_ring = false;
        if !stream.may_send() {
            return;
        }
        let len = stream.queued.min(stream.credit as usize).min(max_frame as usize);
        let last = len == stream.queued && stream.fin == Fin::Wanted;
        frame::put_data_head(out, if last { frame::FIN } else { frame::DATA }, id, len);
        let mut left = len;
        while left > 0 {
            let Some(first) = stream.queue.front_mut() else {
                break;
            };
            let n = left.min(first.len());
            out.extend_from_slice(&first.split_to(n));
            if first.is_empty() {
                stream.queue.pop_front();
            }
            left -= n;
        }
        stream.queued -= len;
        stream.credit -= u32::try_from(len).unwrap_or(stream.credit);
        if last {
            stream.fin = Fin::Sent;
        }
        if len > 0 {
            self.events.push_back(Event::Sent {
                id: StreamId(id),
                bytes: len,
            });
        }
        self.enter_ring(id);
        if last {
            self.close_if_over(id);
        }
    }

    /// Lets a stream wait for its turn, if it may send and does not wait yet.
    pub(super) fn enter_ring(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if !stream.in_ring && stream.may_send() {
            stream.in_ring = true;
            let ring = if stream.queued <= BRIEF_BYTES {
                &mut self.brief
            } else {
                &mut self.bulk
            };
            ring.push_back(id);
        }
    }
}

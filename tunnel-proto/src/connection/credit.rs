//! How much the peer may send: granted per stream, never for the connection as a whole, since with a credit that all
//! streams share a few stalled ones stop the others.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::stream::Stream;
use super::{Connection, StreamId};
use crate::config::WINDOW_FLOOR;
use crate::{Error, Violation, frame};

/// A stream that was granted nothing for this long has no use for a window above the initial one.
const QUIET: Duration = Duration::from_secs(10);

/// What all streams together may make us hold, beside each one's initial window.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// What the data that were received and not consumed keep alive.
    held: u64,
    /// How far windows, or credit that the peer still has, exceed the initial window.
    reserved: u64,
    /// The streams that have something reserved.
    large: BTreeSet<u32>,
    /// When to look at those next.
    due: Option<Instant>,
}

impl Memory {
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    fn used(&self) -> u64 {
        self.held + self.reserved
    }

    /// Data of `len` bytes arrived that keep `pins` bytes alive.
    pub(super) fn receive(&mut self, stream: &mut Stream, len: u32, pins: u64) {
        stream.granted -= len;
        stream.unread += len;
        stream.held += pins;
        self.held += pins;
    }

    pub(super) fn forget(&mut self, id: u32, stream: &Stream) {
        self.held -= stream.held;
        self.reserved -= u64::from(stream.reserved);
        self.large.remove(&id);
    }

    /// Counts anew what a stream has reserved.
    fn settle(&mut self, id: u32, stream: &mut Stream, initial: u32, now: Instant) {
        let reserved = stream.exposure().saturating_sub(initial);
        self.reserved = self.reserved - u64::from(stream.reserved) + u64::from(reserved);
        stream.reserved = reserved;
        if reserved == 0 {
            self.large.remove(&id);
        } else if self.large.insert(id) && self.due.is_none() {
            self.due = Some(now + QUIET);
        }
    }
}

impl Connection {
    /// Says that the owner has used up `bytes` of what [`Event::Data`](crate::Event::Data) gave it, so that the peer
    /// may send more.
    ///
    /// # Errors
    /// [`Error::NotOpen`] when the stream is over, which is no fault; [`Error::WrongState`] when it did not receive
    /// that many.
    pub fn consumed(&mut self, id: StreamId, bytes: u32, now: Instant) -> Result<(), Error> {
        let rtt = self.ping.rtt;
        let initial = self.config.initial_window;
        let budget = self.config.receive_budget;
        let stream = self.streams.of_owner(id)?;
        let left = stream.unread.checked_sub(bytes).ok_or(Error::WrongState {
            id,
            what: "consume more than it received",
        })?;
        // Which buffers these bytes were slices of is not known: they free their share.
        let share = u128::from(stream.held) * u128::from(bytes) / u128::from(stream.unread.max(1));
        let freed = u64::try_from(share).unwrap_or(stream.held);
        stream.unread = left;
        stream.held -= freed;
        self.memory.held -= freed;
        if stream.peer_finished {
            return Ok(());
        }

        let since = now.saturating_duration_since(stream.last_grant);
        let used = stream.window.saturating_sub(stream.granted + stream.unread);
        if since >= QUIET {
            stream.window = initial;
        } else if used >= stream.window / 2 && rtt.is_some_and(|rtt| since < 2 * rtt) {
            // Half a window within two round trips: the window holds the stream back (yamux's rule).
            let larger = stream.window.saturating_mul(2).min(self.config.max_window);
            let growth = u64::from(larger.saturating_sub(stream.exposure()));
            if self.memory.used() + growth <= budget {
                stream.window = larger;
            }
        }
        self.memory.settle(id.0, stream, initial, now);

        let tight = self.memory.used() >= budget;
        let window = if tight {
            stream.window.min(WINDOW_FLOOR)
        } else {
            stream.window
        };
        let grant = window.saturating_sub(stream.granted + stream.unread);
        if grant >= window / 2 {
            stream.granted += grant;
            stream.last_grant = now;
            stream.asked_back = false;
            frame::put_credit(&mut self.control, frame::CREDIT, stream.wire, grant);
        }
        Ok(())
    }

    /// Shrinks the windows of quiet streams, and asks the peer to give back the credit that it has for them. What it
    /// does not give back stays counted: it may still send that much.
    pub(super) fn shrink_quiet(&mut self, now: Instant) {
        let initial = self.config.initial_window;
        for id in self.memory.large.iter().copied().collect::<Vec<_>>() {
            let Some(stream) = self.streams.get_mut(id) else {
                continue;
            };
            if now.saturating_duration_since(stream.last_grant) < QUIET {
                continue;
            }
            stream.window = initial;
            if stream.granted > initial && !stream.asked_back {
                stream.asked_back = true;
                frame::put_credit(&mut self.control, frame::RECLAIM, stream.wire, initial);
            }
            self.memory.settle(id, stream, initial, now);
        }
        self.memory.due = (!self.memory.large.is_empty()).then(|| now + QUIET);
    }

    /// The peer asks for the credit above `keep` of a stream. It gets that when nothing waits to be sent.
    pub(super) fn give_back(&mut self, id: u32, keep: u32) {
        if let Some(stream) = self.streams.get_mut(id)
            && stream.queue.is_empty()
            && stream.credit > keep
        {
            frame::put_credit(
                &mut self.control,
                frame::RETURN,
                stream.wire,
                stream.credit - keep,
            );
            stream.credit = keep;
        }
    }

    /// The peer gives credit back.
    pub(super) fn take_back(&mut self, id: u32, bytes: u32, now: Instant) -> Result<(), Violation> {
        let initial = self.config.initial_window;
        if let Some(stream) = self.streams.get_mut(id) {
            stream.granted = stream
                .granted
                .checked_sub(bytes)
                .ok_or(Violation::CreditExceeded { id })?;
            self.memory.settle(id, stream, initial, now);
        }
        Ok(())
    }
}

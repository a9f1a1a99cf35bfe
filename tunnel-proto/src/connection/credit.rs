//! How much the peer may send: granted per stream, never for the connection as a whole, since with a credit that all
//! streams share a few stalled ones stop the others.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::stream::Stream;
use super::{Connection, StreamId};
use crate::{Error, Violation, frame};

/// A stream that was granted nothing for this long has no use for a window above the resting one.
const QUIET: Duration = Duration::from_secs(10);

/// A window grows to at most this part of what the others have left of the budget, so that something is left for more, however many
/// streams grow and are not read any more. Only what is left above half of the budget goes to whoever comes first.
const GROWN_PART: u64 = 8;

/// A stream that opens or rests has a window of at most this part of what three quarters of the budget have left: those that others
/// have grown for themselves, and later ones, find room as well.
const RESTING_PART: u64 = 16;

/// What all streams together may make us hold beyond their initial windows: what they hold, and what the peers may still send.
#[derive(Debug)]
pub(super) struct Memory {
    /// What every stream has on top.
    initial: u64,
    used: u64,
    /// The streams that exceed the initial window.
    large: BTreeSet<u32>,
    /// When to look at those next.
    due: Option<Instant>,
}

impl Memory {
    pub(super) fn new(initial_window: u32) -> Memory {
        Memory {
            initial: initial_window.into(),
            used: 0,
            large: BTreeSet::new(),
            due: None,
        }
    }

    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(super) const fn used(&self) -> u64 {
        self.used
    }

    /// Data of `len` bytes arrived that keep `pins` bytes alive.
    pub(super) fn receive(&mut self, stream: &mut Stream, len: u32, pins: u64) {
        stream.granted -= len;
        stream.unread += len;
        stream.held += pins;
        self.count(stream);
    }

    /// What all streams but this one have left of `budget`.
    fn left_by_others(&self, stream: &Stream, budget: u64) -> u64 {
        budget.saturating_sub(self.used - stream.counted)
    }

    pub(super) fn forget(&mut self, id: u32, stream: &Stream) {
        self.used -= stream.counted;
        self.large.remove(&id);
    }

    fn count(&mut self, stream: &mut Stream) {
        let exposure = stream.exposure().saturating_sub(self.initial);
        self.used = self.used - stream.counted + exposure;
        stream.counted = exposure;
    }

    /// Counts a stream anew, after its window or its credit has changed.
    pub(super) fn settle(&mut self, id: u32, stream: &mut Stream, initial: u32, now: Instant) {
        self.count(stream);
        if stream.window.max(stream.granted) <= initial {
            self.large.remove(&id);
        } else if self.large.insert(id) && self.due.is_none() {
            self.due = Some(now + QUIET);
        }
    }
}

impl Connection {
    /// The window of a stream that opens or has rested.
    pub(super) fn resting_window(&self) -> u32 {
        let left = (self.config.receive_budget / 4 * 3).saturating_sub(self.memory.used());
        u32::try_from(left / RESTING_PART)
            .unwrap_or(u32::MAX)
            .clamp(self.config.initial_window, self.config.resting_window)
    }

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
        let resting = self.resting_window();
        let stream = self.streams.of_owner(id)?;
        if stream.datagrams.is_some() {
            return Err(Error::WrongState {
                id,
                what: "have credit",
            });
        }
        let left = stream.unread.checked_sub(bytes).ok_or(Error::WrongState {
            id,
            what: "consume more than it received",
        })?;
        // Which buffers these bytes were slices of is not known: they free their share.
        let share = u128::from(stream.held) * u128::from(bytes) / u128::from(stream.unread.max(1));
        stream.unread = left;
        stream.held -= u64::try_from(share).unwrap_or(stream.held);
        if stream.peer_finished {
            self.memory.settle(id.0, stream, initial, now);
            return Ok(());
        }

        let since = now.saturating_duration_since(stream.last_grant);
        let used = stream.window.saturating_sub(stream.granted + stream.unread);
        if since >= QUIET {
            stream.window = resting;
        } else if used >= stream.window / 2 && rtt.is_some_and(|rtt| since < 2 * rtt) {
            // Half a window within two round trips: the window, with less than four times what fits on the way, may hold the stream
            // back (yamux's rule).
            let left = self.memory.left_by_others(stream, budget);
            let most = (left / GROWN_PART).max(left.saturating_sub(budget / 2));
            let most = u32::try_from(most).unwrap_or(u32::MAX);
            let larger = stream.window.saturating_mul(2).min(self.config.max_window);
            stream.window = stream.window.max(larger.min(most));
        }
        self.memory.settle(id.0, stream, initial, now);

        let tight = self.memory.used() >= budget;
        let window = if tight {
            stream.window.min(initial)
        } else {
            stream.window
        };
        let grant = window.saturating_sub(stream.granted + stream.unread);
        if grant >= window / 2 && grant > 0 {
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
            let resting = self.resting_window();
            let Some(stream) = self.streams.get_mut(id) else {
                continue;
            };
            if now.saturating_duration_since(stream.last_grant) < QUIET {
                continue;
            }
            stream.window = stream.window.min(resting);
            if stream.granted > resting && !stream.asked_back {
                stream.asked_back = true;
                frame::put_credit(&mut self.control, frame::RECLAIM, stream.wire, resting);
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
            let bytes = stream.credit - keep;
            stream.credit = keep;
            self.events
                .add_credit(StreamId(id), &mut stream.credit_place, 0, bytes);
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

/// Grants a stream what its window has above what the peer may send and what waits to be read.
pub(super) fn grant_resting(control: &mut BytesMut, stream: &mut Stream) {
    let grant = stream.window.saturating_sub(stream.granted + stream.unread);
    if grant > 0 {
        stream.granted += grant;
        frame::put_credit(control, frame::CREDIT, stream.wire, grant);
    }
}

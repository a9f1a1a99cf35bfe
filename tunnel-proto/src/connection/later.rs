//! What nobody waits for, and may therefore wait itself for a moment: it goes with what is sent next, which is one message less on the way there.
//!
//! - ACCEPT: the peer sends without waiting for one, and it can go with what the target answers.
//! - The end of our direction, where the peer was the last to send on the stream: whoever has an answer and closes then is in no hurry, and the
//!   end can go with the next request. What ends behind data of its own does not wait: it may be a request that ends there. Nor does any end
//!   for a while after one has waited in vain: somebody may be waiting for it before they send anything else.

use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::Connection;
use crate::frame;

/// No more than this waits: a peer that opens very many at once may be out of opens.
const MOST_BYTES: usize = 512;

/// For this long after an end has waited in vain, the next ones do not wait.
const IN_VAIN: Duration = Duration::from_millis(50);

/// Who has sent more than this may soon need the credit that comes with ACCEPT.
pub(super) const LITTLE: u32 = 4 * 1024;

#[derive(Debug)]
pub(super) struct Later {
    delay: Duration,
    /// ACCEPTs, encoded, each with the credit that it brings.
    accepts: BytesMut,
    /// Ends, encoded.
    ends: BytesMut,
    due: Option<Instant>,
    /// Until then, no end waits.
    hurry_until: Option<Instant>,
}

impl Later {
    /// Nothing waits for longer than this; where it is zero, nothing waits.
    pub(super) fn new(delay: Duration) -> Later {
        Later {
            delay,
            accepts: BytesMut::new(),
            ends: BytesMut::new(),
            due: None,
            hurry_until: None,
        }
    }

    /// Where the next ACCEPT goes.
    pub(super) fn accept<'a>(&'a mut self, control: &'a mut BytesMut, now: Instant) -> &'a mut BytesMut {
        if self.delay.is_zero() {
            return control;
        }
        self.due.get_or_insert(now + self.delay);
        &mut self.accepts
    }

    /// Ends our direction of the stream with this number on the wire.
    pub(super) fn end(&mut self, control: &mut BytesMut, wire: u32, now: Instant) {
        let hurry = self.hurry_until.is_some_and(|until| now < until);
        let out = if self.delay.is_zero() || hurry {
            control
        } else {
            self.due.get_or_insert(now + self.delay);
            &mut self.ends
        };
        out.extend_from_slice(&frame::data_head(frame::FIN, wire, 0));
    }

    /// How many ends the peer has not heard of.
    pub(super) fn ends(&self) -> usize {
        self.ends.len() / frame::HEAD_BYTES
    }

    /// Gives out the ends; where nothing else waits, nothing does any more.
    pub(super) fn give_ends(&mut self, to: impl FnOnce(&[u8])) {
        if !self.ends.is_empty() {
            to(&self.ends);
            self.ends.clear();
        }
        if self.accepts.is_empty() {
            self.due = None;
        }
    }

    /// Nothing came that they could go with.
    fn handle_in_vain(&mut self, now: Instant) {
        if !self.ends.is_empty() {
            self.hurry_until = Some(now + IN_VAIN);
        }
    }

    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }
}

impl Connection {
    /// Does not let more wait than is good.
    pub(super) fn limit_later(&mut self) {
        if self.later.accepts.len() + self.later.ends.len() >= MOST_BYTES {
            self.release_later();
        }
    }

    /// Lets what has waited long enough be sent.
    pub(super) fn release_due(&mut self, now: Instant) {
        if self.later.due.is_some_and(|due| now >= due) {
            self.later.handle_in_vain(now);
            self.release_later();
        }
    }

    /// Lets everything that waits be sent.
    pub(super) fn release_later(&mut self) {
        self.release_accepts();
        self.release_ends();
    }

    /// Lets ends go before what is asked for from here on.
    pub(super) fn release_ends(&mut self) {
        let control = &mut self.control;
        self.later.give_ends(|ends| control.extend_from_slice(ends));
    }

    /// Lets ACCEPTs go before the frames that are sent next: those may be of the same streams.
    pub(super) fn release_accepts(&mut self) {
        if !self.later.accepts.is_empty() {
            self.later.accepts.extend_from_slice(&self.control);
            std::mem::swap(&mut self.later.accepts, &mut self.control);
            self.later.accepts.clear();
        }
    }
}

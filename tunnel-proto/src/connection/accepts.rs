//! ACCEPTs that wait for a moment. The peer sends without waiting for one, so that it can go with what the target answers: one message on
//! the way there instead of two.

use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::Connection;

/// No more than this waits: a peer that opens very many at once may be out of opens.
const MOST_BYTES: usize = 512;

/// Who has sent more than this may soon need the credit that comes with ACCEPT.
pub(super) const LITTLE: u32 = 4 * 1024;

#[derive(Debug, Default)]
pub(super) struct Accepts {
    /// ACCEPTs, encoded, each with the credit that it brings.
    frames: BytesMut,
    due: Option<Instant>,
}

impl Accepts {
    /// Where the next one goes, which is sent `delay` after the first one at the latest.
    pub(super) fn wait(&mut self, now: Instant, delay: Duration) -> &mut BytesMut {
        self.due.get_or_insert(now + delay);
        &mut self.frames
    }

    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn are_enough(&self) -> bool {
        self.frames.len() >= MOST_BYTES
    }
}

impl Connection {
    /// Lets the ACCEPTs that wait go with the frames that are sent next. They come first: those may be of the same streams.
    pub(super) fn release_accepts(&mut self) {
        if self.accepts.due.take().is_some() {
            self.accepts.frames.extend_from_slice(&self.control);
            std::mem::swap(&mut self.accepts.frames, &mut self.control);
            self.accepts.frames.clear();
        }
    }
}

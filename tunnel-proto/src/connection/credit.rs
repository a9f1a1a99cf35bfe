//! How much the peer may send: granted per stream, never for the connection as a whole, since a credit that all
//! share lets a few stalled streams stop the others.

use std::time::{Duration, Instant};

use super::{Connection, StreamId};
use crate::config::WINDOW_FLOOR;
use crate::{Error, frame};

/// A stream that was quiet for so long starts again with the initial window.
const QUIET: Duration = Duration::from_secs(10);

impl Connection {
    /// Says that the owner has used up `bytes` of what [`Event::Data`](crate::Event::Data) gave it, so that the peer
    /// may send more.
    ///
    /// # Errors
    /// [`Error::NotOpen`] when the stream is over, which is no fault; [`Error::WrongState`] when there were not so many.
    pub fn consumed(&mut self, id: StreamId, bytes: u32, now: Instant) -> Result<(), Error> {
        let rtt = self.ping.rtt;
        let initial = self.config.initial_window;
        let stream = self.streams.get_mut(&id.0).ok_or(Error::NotOpen { id })?;
        stream.unread = stream.unread.checked_sub(bytes).ok_or(Error::WrongState {
            id,
            what: "consume more than it received",
        })?;
        self.unread -= u64::from(bytes);
        if stream.peer_finished {
            return Ok(());
        }

        let since = now.saturating_duration_since(stream.last_grant);
        let used = stream.window.saturating_sub(stream.granted + stream.unread);
        if since >= QUIET && stream.window > initial {
            self.grown -= u64::from(stream.window - initial);
            stream.window = initial;
        } else if used >= stream.window / 2 && rtt.is_some_and(|rtt| since < 2 * rtt) {
            // Half a window within two round trips: the window holds the stream back (yamux's rule).
            let larger = stream.window.saturating_mul(2).min(self.config.max_window);
            let growth = u64::from(larger - stream.window);
            if self.unread + self.grown + growth <= self.config.receive_budget {
                self.grown += growth;
                stream.window = larger;
            }
        }

        let tight = self.unread + self.grown >= self.config.receive_budget;
        let window = if tight {
            stream.window.min(WINDOW_FLOOR)
        } else {
            stream.window
        };
        let grant = window.saturating_sub(stream.granted + stream.unread);
        if grant >= window / 2 {
            stream.granted += grant;
            stream.last_grant = now;
            frame::put_credit(&mut self.control, id.0, grant);
        }
        Ok(())
    }
}

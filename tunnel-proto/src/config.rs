//! The limits of one connection.

use std::time::Duration;

use crate::Error;

/// Smallest initial window, and the largest grant while the receive budget is used up.
pub(crate) const WINDOW_FLOOR: u32 = 64 * 1024;

/// Largest window.
const WINDOW_CEILING: u32 = 1 << 30;

/// The limits of one side of a connection. Each side has its own, and announces them in its HELLO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Bytes of a new stream that the peer may send before it is granted more. Default 256 KiB; at least 64 KiB.
    pub initial_window: u32,
    /// The most bytes of one stream that may be in flight to us: windows grow up to here while a stream uses them up
    /// within two round trips. Default 8 MiB.
    pub max_window: u32,
    /// Largest payload of a frame, sent or received. Default 64 KiB; at least 1 KiB, at most
    /// half of `initial_window`, so that a frame never waits for credit that only its own arrival would bring.
    pub max_frame: u32,
    /// Memory for the unread bytes and grown windows of all streams, in bytes. When it is used up, grants are limited to
    /// 64 KiB; no stream is ever stopped by it. Default 64 MiB, with each stream's initial window on top.
    pub receive_budget: u64,
    /// Streams that may be open at once, both sides' together. Default 4096.
    pub max_streams: u32,
    /// Opens that may be unanswered by the other side. Further ones are held back here. Default 256.
    pub max_pending_opens: u32,
    /// Opens of one target that may be unanswered, so that a target that does not answer leaves room for others.
    /// Default 32.
    pub max_pending_opens_per_target: u32,
    /// How often to ask whether the other side is there. Default 10 s.
    pub ping_interval: Duration,
    /// After how many silent intervals in a row the link is dead. Default 2, which takes 20 to 30 s.
    pub missed_pings: u32,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            initial_window: 256 * 1024,
            max_window: 8 * 1024 * 1024,
            max_frame: 64 * 1024,
            receive_budget: 64 * 1024 * 1024,
            max_streams: 4096,
            max_pending_opens: 256,
            max_pending_opens_per_target: 32,
            ping_interval: Duration::from_secs(10),
            missed_pings: 2,
        }
    }
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let within = |what, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(Error::LimitOutOfRange {
                    what,
                    value,
                    low,
                    high,
                })
            }
        };
        let ceiling = u64::from(WINDOW_CEILING);
        within(
            "initial_window",
            self.initial_window.into(),
            WINDOW_FLOOR.into(),
            ceiling,
        )?;
        within(
            "max_window",
            self.max_window.into(),
            self.initial_window.into(),
            ceiling,
        )?;
        within(
            "max_frame",
            self.max_frame.into(),
            1024,
            u64::from(self.initial_window / 2).min((1 << 24) - 1),
        )?;
        within("max_streams", self.max_streams.into(), 1, 1 << 20)?;
        within(
            "max_pending_opens",
            self.max_pending_opens.into(),
            1,
            self.max_streams.into(),
        )?;
        within(
            "max_pending_opens_per_target",
            self.max_pending_opens_per_target.into(),
            1,
            u64::from(u32::MAX),
        )?;
        within("missed_pings", self.missed_pings.into(), 1, 1000)?;
        let millis = u64::try_from(self.ping_interval.as_millis()).unwrap_or(u64::MAX);
        within("ping_interval (ms)", millis, 1, 3_600_000)
    }
}

//! The limits of one connection.

use std::time::Duration;

use crate::{Error, Features};

/// Smallest initial window.
const WINDOW_FLOOR: u32 = 4 * 1024;

/// Largest window.
const WINDOW_CEILING: u32 = 1 << 30;

/// The limits of one side of a connection. Each side has its own, and announces them in its HELLO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Bytes of a new stream that the peer may send before it is granted more, whatever else is held. It is announced once, for all
    /// streams to come, and is what a stream falls back to while the budget is used up. Default 16 KiB; at least 4 KiB.
    pub initial_window: u32,
    /// The window that a stream is granted as it opens, and that it returns to after a rest, while three quarters of the budget have room for it.
    /// Default 256 KiB; at least `initial_window`.
    pub resting_window: u32,
    /// The most bytes of one stream that may be in flight to us: windows grow up to here while a stream uses them up
    /// within two round trips. Default 32 MiB, which is 1.5 GiB/s over 20 ms.
    pub max_window: u32,
    /// Largest payload of a frame, sent or received. Default 64 KiB; at least 1 KiB.
    pub max_frame: u32,
    /// Memory for what all streams together hold unread and may still be sent, in bytes. When it is used up, a stream has no more than
    /// its initial window; no stream is ever stopped by it. Default 64 MiB, with each stream's initial window on top.
    pub receive_budget: u64,
    /// Streams that may be open at once, both sides' together. Default 16,448: as many connections as a devbox session has at most, and
    /// room for what is not a connection.
    pub max_streams: u32,
    /// Opens that may be unanswered by the other side. Further ones are held back here. Default 256.
    pub max_pending_opens: u32,
    /// Opens of one target that may be unanswered, so that a target that does not answer leaves room for others.
    /// Default 32.
    pub max_pending_opens_per_target: u32,
    /// How long what nobody waits for may wait for something to go with, which is one message less on the way there: an ACCEPT, and the end of
    /// our direction where the peer was the last to send. For 50 ms after an end has waited in vain, the next ones do not wait. Default 0: each
    /// is sent at once.
    pub coalesce_delay: Duration,
    /// For how long nothing may come until the other side is asked whether it is there. Default 6 s.
    pub ping_interval: Duration,
    /// How many questions in a row may go unanswered, an interval each, until the link is dead. Default 2: it is dead 18 s after the
    /// last byte.
    pub missed_pings: u32,
    /// Optional parts of the protocol that are offered to the peer. Default: none.
    pub features: Features,
    /// With [`Features::RESUME`]: most bytes that are kept for sending again until the peer acknowledges them, with control frames and a
    /// frame of data on top. When they are used up, data waits. Default 16 MiB; at least 64 KiB.
    pub replay_bytes: u32,
    /// With [`Features::RESUME`], at the server: for how long the link can be taken up again after its connection was lost, in whole
    /// seconds. Default 60 s.
    pub resume_window: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            initial_window: 16 * 1024,
            resting_window: 256 * 1024,
            max_window: 32 * 1024 * 1024,
            max_frame: 64 * 1024,
            receive_budget: 64 * 1024 * 1024,
            max_streams: 16 * 1024 + 64,
            max_pending_opens: 256,
            max_pending_opens_per_target: 32,
            coalesce_delay: Duration::ZERO,
            ping_interval: Duration::from_secs(6),
            missed_pings: 2,
            features: Features::NONE,
            replay_bytes: 16 * 1024 * 1024,
            resume_window: Duration::from_secs(60),
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
            "resting_window",
            self.resting_window.into(),
            self.initial_window.into(),
            self.max_window.into(),
        )?;
        within("max_frame", self.max_frame.into(), 1024, (1 << 24) - 1)?;
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
        within("ping_interval (ms)", millis, 1, 3_600_000)?;
        within("replay_bytes", self.replay_bytes.into(), 64 * 1024, 1 << 30)?;
        within(
            "resume_window (s)",
            self.resume_window.as_secs(),
            1,
            u16::MAX.into(),
        )
    }
}

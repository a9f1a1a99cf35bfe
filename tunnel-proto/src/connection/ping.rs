//! Whether the peer is there, and how far away it is.

use std::time::{Duration, Instant};

use super::Connection;
use crate::{Event, frame};

/// While this much comes between two looks at the clock the round trip is measured again: windows follow it.
const BUSY_BYTES: u64 = 1024 * 1024;

/// What comes within this time of a probe may have been on its way before.
const STALE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Ping {
    /// When to look next whether something has come.
    due: Instant,
    last_received: Instant,
    /// Something has come since the last look.
    heard: bool,
    /// How many PINGs were sent since something came.
    missed: u32,
    dead: bool,
    pub(super) token: u64,
    pub(super) asked: Option<Instant>,
    pub(super) rtt: Option<Duration>,
    /// Until when something must come, and since when that is wanted.
    pub(super) probe: Option<Probe>,
    /// How much had come when the last PING was sent.
    received_when_asked: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Probe {
    since: Instant,
    due: Instant,
}

impl Ping {
    pub(super) fn new(now: Instant, interval: Duration) -> Ping {
        Ping {
            due: now + interval,
            last_received: now,
            heard: false,
            missed: 0,
            dead: false,
            token: 0,
            asked: None,
            rtt: None,
            probe: None,
            received_when_asked: 0,
        }
    }

    /// `None` once the peer is dead.
    pub(super) fn due(&self) -> Option<Instant> {
        let probe = self.probe.map_or(self.due, |probe| probe.due);
        (!self.dead).then_some(self.due.min(probe))
    }

    pub(super) fn hear(&mut self, now: Instant) {
        self.heard = true;
        self.last_received = now;
        if self.probe.is_some_and(|probe| now > probe.since + STALE) {
            self.probe = None;
        }
    }

    /// The connection is gone: nothing is awaited.
    pub(super) fn suspend(&mut self) {
        self.asked = None;
        self.probe = None;
        self.dead = false;
    }

    /// A new connection.
    pub(super) fn begin(&mut self, now: Instant, interval: Duration) {
        self.suspend();
        self.due = now + interval;
        self.last_received = now;
        self.heard = false;
        self.missed = 0;
    }
}

impl Connection {
    /// The round trip, once it has been measured.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.ping.rtt
    }

    /// Makes sure that the peer is there: asks it, and where nothing comes within `patience` reports [`Event::Dead`]. Without a
    /// connection there is nothing to be sure of.
    pub fn probe(&mut self, patience: Duration, now: Instant) {
        if !self.is_detached() && !self.ping.dead && self.ping.probe.is_none() {
            self.ask(now);
            self.ping.probe = Some(Probe {
                since: now,
                due: now + patience,
            });
        }
    }

    pub(super) fn ask(&mut self, now: Instant) {
        self.ping.token += 1;
        self.ping.asked = (!self.is_detached()).then_some(now);
        self.ping.received_when_asked = self.received_bytes();
        frame::put_ping(&mut self.control, frame::PING, self.ping.token);
        self.acknowledge_soon();
    }

    pub(super) fn check_peer(&mut self, now: Instant) {
        if self.ping.probe.is_some_and(|probe| now >= probe.due) {
            self.ping.dead = true;
        } else if now >= self.ping.due {
            self.look(now);
        }
        if self.ping.dead {
            let silent_for = now.saturating_duration_since(self.ping.last_received);
            self.events.push(Event::Dead { silent_for });
        }
    }

    /// Asks the peer after an interval of silence, counted from the last byte, and gives it up after as many questions as it may miss and
    /// one more interval.
    fn look(&mut self, now: Instant) {
        let interval = self.config.ping_interval;
        // A look that is late by that much says that the machine slept, and nothing of the peer.
        let slept = now >= self.ping.due + interval;
        if std::mem::take(&mut self.ping.heard) || slept {
            self.ping.missed = 0;
            self.ping.due = self.ping.last_received + interval;
            if self.ping.due > now {
                if self.received_bytes() - self.ping.received_when_asked >= BUSY_BYTES {
                    self.ask(now);
                }
                return;
            }
        }
        if self.ping.missed >= self.config.missed_pings {
            self.ping.dead = true;
        } else {
            self.ping.missed += 1;
            self.ping.due = now + interval;
            self.ask(now);
        }
    }
}

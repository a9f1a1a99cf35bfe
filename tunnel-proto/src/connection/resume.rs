//! A link that goes on over another connection: both sides count the bytes of the link and keep those that the other one has not
//! acknowledged.

use std::time::{Duration, Instant};

use super::receive::MAX_CONTROL_BACKLOG;
use super::replay::{Keeping, Replay};
use super::{Connection, Role};
use crate::frame::{self, Control};
use crate::{Config, Error, Event, Features, ResumeToken, TransmitSink, Violation};

/// At the latest after this many bytes the peer is told that they have come.
const ACK_STEP: u64 = 256 * 1024;

/// ... or after this part of what it keeps itself, or of what the server says that it keeps. What a client keeps nobody says: it should be four
/// times [`ACK_STEP`] at least.
const ACK_PART: u64 = 16;

/// More than this is acknowledged after [`ACK_DELAY`]. Less is not worth a frame: it keeps next to nothing at the peer, and a link at rest stays
/// quiet.
const ACK_LEAST: u64 = 4 * 1024;

const ACK_DELAY: Duration = Duration::from_millis(100);

/// What a connection knows for going on elsewhere.
#[derive(Debug)]
pub(super) struct Resume {
    /// What may have to be sent again; nothing where one of the sides does not offer it.
    replay: Option<Replay>,
    /// Bytes of the link that have come.
    received: u64,
    /// How many of them the peer was told of.
    acknowledged: u64,
    ack_due: Option<Instant>,
    ack_at_once: bool,
    step: u64,
    token: Option<ResumeToken>,
    window: Duration,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Attached,
    /// Without a connection, until then.
    Detached {
        until: Instant,
    },
    /// That time has passed.
    Expired,
}

impl Resume {
    pub(super) fn new(config: &Config) -> Resume {
        let offered = config.features.contains(Features::RESUME);
        Resume {
            replay: offered.then(Replay::default),
            received: 0,
            acknowledged: 0,
            ack_due: None,
            ack_at_once: false,
            step: ACK_STEP.min(u64::from(config.replay_bytes) / ACK_PART),
            token: None,
            window: config.resume_window,
            state: State::Attached,
        }
    }

    pub(super) fn is_attached(&self) -> bool {
        self.state == State::Attached
    }

    /// When the time without a connection is over.
    pub(super) const fn until(&self) -> Option<Instant> {
        match self.state {
            State::Detached { until } => Some(until),
            State::Attached | State::Expired => None,
        }
    }

    pub(super) const fn ack_due(&self) -> Option<Instant> {
        self.ack_due
    }

    /// Whether something is to be sent before, or beside, the frames.
    pub(super) fn wants_transmit(&self) -> bool {
        self.ack_at_once || self.replay.as_ref().is_some_and(Replay::is_behind)
    }

    /// Whether what is kept leaves room for data, of which `most` bytes may be kept.
    pub(super) fn has_room(&self, most: u32) -> bool {
        self.kept() < most as usize
    }

    pub(super) fn receive(&mut self, bytes: usize, now: Instant) {
        self.received += bytes as u64;
        if self.replay.is_none() {
            return;
        }
        let unacknowledged = self.received - self.acknowledged;
        if unacknowledged >= self.step {
            self.ack_at_once = true;
        } else if unacknowledged >= ACK_LEAST.min(self.step) && self.ack_due.is_none() {
            self.ack_due = Some(now + ACK_DELAY);
        }
    }

    /// Lets time pass; `true` when the time without a connection is over.
    pub(super) fn check_time(&mut self, now: Instant) -> bool {
        if self.ack_due.is_some_and(|due| now >= due) {
            self.ack_at_once = true;
            self.ack_due = None;
        }
        let expired = self.until().is_some_and(|until| now >= until);
        if expired {
            self.state = State::Expired;
        }
        expired
    }

    /// Puts an ACK into `out` if one is due.
    fn put_ack<S: TransmitSink>(&mut self, out: &mut S) -> usize {
        if !std::mem::take(&mut self.ack_at_once) {
            return 0;
        }
        self.ack_due = None;
        self.acknowledged = self.received;
        let ack = frame::ack(self.received);
        out.put_slice(&ack);
        ack.len()
    }

    fn kept(&self) -> usize {
        self.replay.as_ref().map_or(0, Replay::len)
    }
}

impl Connection {
    /// Gives the token that the client may take this link up again with. Only the server's side does, and once; it is told as soon as
    /// both sides are known to offer [`Features::RESUME`].
    pub fn set_resume_token(&mut self, token: ResumeToken) {
        if self.role == Role::Server && self.resume.token.is_none() {
            self.resume.token = Some(token);
            self.tell_token();
        }
    }

    /// The token with which this link can be taken up again, once both sides know it.
    #[must_use]
    pub fn resume_token(&self) -> Option<ResumeToken> {
        self.resume.token.filter(|_| self.offers_resume())
    }

    /// For how long this link can be taken up again after its connection was lost.
    #[must_use]
    pub const fn resume_window(&self) -> Duration {
        self.resume.window
    }

    /// How many bytes of the link have come, which is what the peer must be told to go on.
    #[must_use]
    pub const fn received_bytes(&self) -> u64 {
        self.resume.received
    }

    /// How many bytes are kept for sending again.
    #[must_use]
    pub fn replay_len(&self) -> usize {
        self.resume.kept()
    }

    /// Whether the link is without a connection.
    #[must_use]
    pub fn is_detached(&self) -> bool {
        !self.resume.is_attached()
    }

    /// The connection under the link was lost. Where the link can be taken up again, everything stays as it is until
    /// [`handle_resume`](Connection::handle_resume): streams, credit, and what is queued; nothing is sent and nobody is asked. Until when
    /// that may be, after which comes [`Event::Expired`]; `None` where the link cannot be taken up again, and is over.
    pub fn handle_carrier_lost(&mut self, now: Instant) -> Option<Instant> {
        if self.violation.is_some() || self.resume_token().is_none() {
            return None;
        }
        if self.resume.is_attached() {
            self.resume.state = State::Detached {
                until: now + self.resume.window,
            };
            self.ping.suspend();
        }
        self.resume.until()
    }

    /// Whether the link could go on with a peer that has received `peer_received` of its bytes.
    #[must_use]
    pub fn can_resume(&self, peer_received: u64) -> bool {
        let reaches = |replay: &Replay| replay.reaches(peer_received);
        self.violation.is_none()
            && self.resume.state != State::Expired
            && self.resume_token().is_some()
            && self.resume.replay.as_ref().is_some_and(reaches)
    }

    /// The link goes on over a new connection, to a peer that has received `peer_received` of its bytes and knows how many
    /// [this side](Connection::received_bytes) has: what it has not is sent again, before anything else.
    ///
    /// # Errors
    /// [`Error::CannotResume`] where what the peer is missing is not there; nothing has changed then.
    pub fn handle_resume(&mut self, peer_received: u64, now: Instant) -> Result<(), Error> {
        if !self.can_resume(peer_received) {
            return Err(Error::CannotResume {
                offset: peer_received,
            });
        }
        if let Some(replay) = &mut self.resume.replay {
            replay.rewind(peer_received);
        }
        self.resume.state = State::Attached;
        self.resume.acknowledged = self.resume.received;
        self.resume.ack_due = None;
        self.resume.ack_at_once = false;
        self.ping.begin(now, self.config.ping_interval);
        // The way may be another one, and its round trip.
        self.ask(now);
        self.release_held(None);
        Ok(())
    }

    /// What both sides offer has just become known.
    pub(super) fn agree_on_resume(&mut self) {
        if self.offers_resume() {
            self.tell_token();
        } else {
            self.resume.replay = None;
            self.resume.ack_at_once = false;
            self.resume.ack_due = None;
        }
    }

    fn offers_resume(&self) -> bool {
        self.features()
            .is_some_and(|features| features.contains(Features::RESUME))
    }

    fn tell_token(&mut self) {
        if let Some(token) = self.resume_token()
            && self.role == Role::Server
        {
            let secs = u16::try_from(self.resume.window.as_secs()).unwrap_or(u16::MAX);
            frame::put_token(&mut self.control, &token, secs, self.config.replay_bytes);
        }
    }

    /// ACK, TOKEN, and what has no place within a link.
    pub(super) fn handle_resume_frame(&mut self, control: Control) -> Result<(), Violation> {
        let kind = control.kind;
        if !self.offers_resume() {
            return Err(Violation::UnknownKind { kind });
        }
        match kind {
            frame::ACK => {
                let received = control.number()?;
                let replay = self.resume.replay.as_mut();
                if !replay.is_some_and(|replay| replay.acknowledge(received)) {
                    return Err(Violation::AckAhead { received });
                }
            }
            frame::TOKEN if self.role == Role::Client && self.resume.token.is_none() => {
                let (token, window_secs, replay_bytes) = control.token()?;
                self.resume.token = Some(token);
                self.resume.window = Duration::from_secs(window_secs.into());
                let part = u64::from(replay_bytes) / ACK_PART;
                self.resume.step = self.resume.step.min(part).max(1);
                self.events.push(Event::Resumable);
            }
            _ => return Err(Violation::OutOfPlace { kind, id: 0 }),
        }
        Ok(())
    }

    /// What the peer makes us keep although it acknowledges nothing has a bound.
    pub(super) fn check_replay(&self) -> Result<(), Violation> {
        let most = self.config.replay_bytes as usize + 2 * MAX_CONTROL_BACKLOG;
        if self.resume.kept() > most {
            return Err(Violation::Flood);
        }
        Ok(())
    }

    /// What has come is acknowledged with a PING or a PONG, however little it is.
    pub(super) fn acknowledge_soon(&mut self) {
        let unacknowledged = self.resume.received - self.resume.acknowledged;
        if self.resume.replay.is_some() && unacknowledged >= ACK_LEAST {
            self.resume.ack_at_once = true;
        }
    }

    /// As [`poll_transmit`](Connection::poll_transmit).
    pub(super) fn transmit<S: TransmitSink>(&mut self, out: &mut S, limit: usize) -> bool {
        if self.is_detached() {
            return false;
        }
        if self.pong.is_some() {
            self.acknowledge_soon();
        }
        let Some(mut replay) = self.resume.replay.take() else {
            return self.put_frames(out, limit) > 0;
        };
        let put = if replay.is_behind() {
            replay.put_again(out, limit.max(1));
            true
        } else {
            let kept = replay.len();
            let mut keeping = Keeping {
                out,
                replay: &mut replay,
            };
            let mut put = self.resume.put_ack(&mut keeping);
            // Data waits for acknowledgements first, and when nobody reads them, all but these.
            let room = (self.config.replay_bytes as usize).saturating_sub(kept);
            if room > 0 || kept < self.config.replay_bytes as usize + MAX_CONTROL_BACKLOG {
                put += self.put_frames(&mut keeping, limit.min(room));
            }
            put > 0
        };
        self.resume.replay = Some(replay);
        put
    }
}

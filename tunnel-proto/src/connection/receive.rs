//! What the peer sent, checked.

use std::time::Instant;

use bytes::Bytes;

use super::credit::grant_resting;
use super::later::LITTLE;
use super::stream::{Phase, Stream};
use super::{Connection, Leaving, StreamId};
use crate::frame::{self, Control, Data, Piece};
use crate::{Error, Event, GoAwayReason, Refusal, RefusalKind, ResetReason, Violation};

/// Payloads below this size are copied out of what was received.
const COPY_BELOW: usize = 4 * 1024;

/// Most bytes of answers that are queued for a peer that does not read.
pub(super) const MAX_CONTROL_BACKLOG: usize = 4 * 1024 * 1024;

impl Connection {
    /// Takes bytes of the link, cut anywhere.
    ///
    /// Large payloads are handed on as slices of `bytes`. The buffer behind `bytes` should therefore not be several
    /// times their size: who reads slowly keeps it.
    ///
    /// # Errors
    /// [`Error::Violation`] when the peer broke the protocol; the connection is over then, and what was in `bytes`
    /// before has been handled.
    pub fn handle_bytes(&mut self, mut bytes: Bytes, now: Instant) -> Result<(), Error> {
        self.check_alive()?;
        if !bytes.is_empty() {
            self.ping.hear(now);
            self.resume.receive(bytes.len(), now);
        }
        match self.handle_pieces(&mut bytes, now) {
            Ok(()) => Ok(()),
            Err(violation) => {
                self.go_away(GoAwayReason::Protocol, &violation.to_string());
                self.violation = Some(violation.clone());
                Err(violation.into())
            }
        }
    }

    fn handle_pieces(&mut self, bytes: &mut Bytes, now: Instant) -> Result<(), Violation> {
        let buffer = bytes.len();
        while let Some(piece) = self.reader.next(bytes)? {
            match piece {
                Piece::Control(control) => self.handle_control(control, now)?,
                Piece::Data(data) => self.handle_data(data, buffer)?,
            }
            if self.control.len() > MAX_CONTROL_BACKLOG {
                return Err(Violation::Flood);
            }
        }
        self.check_replay()
    }

    fn handle_control(&mut self, control: Control, now: Instant) -> Result<(), Violation> {
        if (control.kind == frame::HELLO) != self.peer.is_none() {
            return Err(Violation::HelloMisplaced);
        }
        match control.kind {
            frame::HELLO => {
                self.peer = Some(control.hello()?);
                self.agree_on_resume();
                self.events.push(Event::Ready);
                self.refuse_unsupported();
                self.release_held(None);
            }
            frame::PING => self.pong = Some(control.number()?),
            frame::PONG => self.handle_pong(control.number()?, now),
            frame::GOAWAY => {
                let (code, message) = control.code()?;
                self.peer_leaving = true;
                self.refuse_all_held("the other side is leaving");
                self.events.push(Event::GoingAway {
                    reason: GoAwayReason::from_code(code),
                    message,
                });
            }
            frame::OPEN => self.handle_open(control, now)?,
            frame::OPEN_FLOW | frame::DATAGRAM if !self.carries_datagrams() => {
                return Err(Violation::UnknownKind { kind: control.kind });
            }
            frame::OPEN_FLOW => self.handle_open(control, now)?,
            frame::DATAGRAM => self.handle_datagram(&control)?,
            frame::ACCEPT => self.handle_accept(control.stream)?,
            frame::REFUSE => self.handle_refuse(control)?,
            frame::RESET => self.handle_reset(control)?,
            frame::CREDIT => self.handle_credit(control)?,
            frame::RECLAIM => {
                let (wire, keep) = (control.stream, control.credit()?);
                if let Some((id, _)) = self.streams.of_peer(frame::RECLAIM, wire)? {
                    self.give_back(id, keep);
                }
            }
            frame::RETURN => {
                let (wire, bytes) = (control.stream, control.credit()?);
                if let Some((id, _)) = self.streams.of_peer(frame::RETURN, wire)? {
                    self.take_back(id, bytes, now)?;
                }
            }
            frame::RESUME | frame::RESUMED | frame::ACK | frame::TOKEN | frame::NOT_RESUMED => {
                self.handle_resume_frame(control)?;
            }
            frame::SUCCESSOR => {
                let url = control.url()?;
                self.events.push(Event::Successor { url });
            }
            // The reader gives out no other kinds.
            kind => return Err(Violation::UnknownKind { kind }),
        }
        Ok(())
    }

    fn handle_pong(&mut self, token: u64, now: Instant) {
        if let Leaving::Draining { ping } = self.leaving
            && token >= ping
        {
            self.leaving = Leaving::Drained;
            self.events.push(Event::Drained);
        }
        if token != self.ping.token {
            return;
        }
        self.ping.probe = None;
        if let Some(asked) = self.ping.asked.take() {
            let sample = now.saturating_duration_since(asked);
            // The estimate rises slowly: a long sample may only have waited behind bulk.
            self.ping.rtt = Some(self.ping.rtt.map_or(sample, |rtt| sample.min(rtt + rtt / 4)));
        }
    }

    fn handle_open(&mut self, control: Control, now: Instant) -> Result<(), Violation> {
        let Control {
            kind,
            stream: id,
            payload: target,
        } = control;
        self.streams.open_by_peer(id)?;
        if target.is_empty() || target.len() > frame::MAX_TARGET_BYTES {
            return Err(Violation::BadPayload { kind });
        }
        let refusal = if matches!(self.leaving, Leaving::Drained | Leaving::Gone) {
            Refusal::new(RefusalKind::Internal, "leaving")
        } else if self.streams.len() >= self.config.max_streams as usize {
            Refusal::new(
                RefusalKind::TooMany,
                format!("{} streams are open", self.config.max_streams),
            )
        } else if self.unanswered_by_us >= self.config.max_pending_opens {
            Refusal::new(
                RefusalKind::TooMany,
                format!("{} opens wait", self.config.max_pending_opens),
            )
        } else if kind == frame::OPEN_FLOW {
            self.take_flow(id, &target, now);
            return Ok(());
        } else {
            let credit = self.peer.map_or(0, |peer| peer.initial_window);
            let initial = self.config.initial_window;
            let windows = (initial, self.resting_window());
            let mut stream = Stream::new(Phase::AwaitOwner, id, credit, windows, now);
            self.memory.settle(id, &mut stream, initial, now);
            self.unanswered_by_us += 1;
            // A target is short: it must not keep the buffer that it came in.
            let target = Bytes::copy_from_slice(&target);
            self.events.push(Event::Opened {
                id: StreamId(id),
                target,
            });
            self.events
                .add_credit(StreamId(id), &mut stream.credit_place, credit, 0);
            self.streams.insert(id, stream);
            return Ok(());
        };
        frame::put_code(
            &mut self.control,
            frame::REFUSE,
            id,
            refusal.kind.code(),
            &refusal.message,
        );
        Ok(())
    }

    fn handle_accept(&mut self, wire: u32) -> Result<(), Violation> {
        let kind = frame::ACCEPT;
        let Some((id, stream)) = self.streams.of_peer(kind, wire)? else {
            return Ok(());
        };
        if stream.phase != Phase::AwaitAnswer {
            return Err(Violation::OutOfPlace { kind, id: wire });
        }
        stream.phase = Phase::Open;
        let target = std::mem::take(&mut stream.target);
        self.opens.answered(&target);
        self.events.push(Event::Accepted { id: StreamId(id) });
        self.release_held(None);
        Ok(())
    }

    fn handle_refuse(&mut self, control: Control) -> Result<(), Violation> {
        let (kind, wire) = (control.kind, control.stream);
        let (code, message) = control.code()?;
        let Some((id, stream)) = self.streams.of_peer(kind, wire)? else {
            return Ok(());
        };
        if stream.phase != Phase::AwaitAnswer {
            return Err(Violation::OutOfPlace { kind, id: wire });
        }
        self.forget(id);
        let refusal = Refusal {
            kind: RefusalKind::from_code(code),
            message,
        };
        self.events.push(Event::Refused {
            id: StreamId(id),
            refusal,
        });
        Ok(())
    }

    fn handle_reset(&mut self, control: Control) -> Result<(), Violation> {
        let (kind, wire) = (control.kind, control.stream);
        let (code, _) = control.code()?;
        if let Some((id, _)) = self.streams.of_peer(kind, wire)? {
            self.forget(id);
            let reason = ResetReason::from_code(code);
            self.events.push(Event::Reset {
                id: StreamId(id),
                reason,
            });
        }
        Ok(())
    }

    fn handle_credit(&mut self, control: Control) -> Result<(), Violation> {
        let (kind, wire) = (control.kind, control.stream);
        let bytes = control.credit()?;
        let Some((id, stream)) = self.streams.of_peer(kind, wire)? else {
            return Ok(());
        };
        if stream.datagrams.is_some() {
            return Err(Violation::OutOfPlace { kind, id: wire });
        }
        let credit = stream
            .credit
            .checked_add(bytes)
            .filter(|&credit| credit <= i32::MAX as u32);
        stream.credit = credit.ok_or(Violation::CreditOverflow { id: wire })?;
        if bytes > 0 {
            self.events
                .add_credit(StreamId(id), &mut stream.credit_place, bytes, 0);
            self.enter_ring(id);
        }
        Ok(())
    }

    /// Takes a payload that is part of a buffer of `buffer` bytes.
    fn handle_data(&mut self, data: Data, buffer: usize) -> Result<(), Violation> {
        let Data {
            kind,
            stream: wire,
            bytes,
            whole,
        } = data;
        if self.peer.is_none() {
            return Err(Violation::HelloMisplaced);
        }
        let Some((id, stream)) = self.streams.of_peer(kind, wire)? else {
            return Ok(());
        };
        // A flow's end carries nothing, and it has no other data.
        let of_flow = stream.datagrams.is_some() && !(kind == frame::FIN && bytes.is_empty() && whole);
        if stream.phase == Phase::AwaitAnswer || stream.peer_finished || of_flow {
            return Err(Violation::OutOfPlace { kind, id: wire });
        }
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if len > stream.granted {
            return Err(Violation::CreditExceeded { id: wire });
        }
        // A part of a buffer keeps all of it alive: a small one is copied, a large one counts as the whole. Where memory gets
        // scarce, nothing is kept but what is to be read.
        let scarce = self.memory.used() >= self.config.receive_budget / 8 * 7;
        let copy = bytes.len() < COPY_BELOW || bytes.len() < buffer / 4 || (scarce && bytes.len() < buffer);
        let pins = if copy { bytes.len() } else { buffer };
        let finished = kind == frame::FIN && whole;
        stream.peer_finished = finished;
        stream.heard_last = true;
        self.memory.receive(stream, len, pins as u64);
        // Most requests fit into the initial window, and the rest of it goes with ACCEPT. One that is long does not wait for that.
        if stream.phase == Phase::AwaitOwner && !finished && stream.granted < self.config.initial_window / 2 {
            grant_resting(&mut self.control, stream);
        }
        if !bytes.is_empty() {
            self.events.add_data(StreamId(id), &mut stream.place, |waiting| {
                if copy && waiting.is_empty() {
                    waiting.push(Bytes::copy_from_slice(&bytes));
                } else if copy {
                    waiting.push_slice(&bytes);
                } else {
                    waiting.push(bytes);
                }
            });
        }
        if finished {
            self.events.push(Event::Finished { id: StreamId(id) });
            self.close_if_over(id);
        }
        if len > LITTLE {
            self.release_later();
        }
        Ok(())
    }
}

//! Losing the carrier of a link, and getting another one.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tunnel_proto::{ChunkQueue, NotResumedReason, ResumeAnswer};

use super::{Driver, Fresh};
use crate::{GoAwayReason, LinkEnd};

/// How long a connection that is checked may be silent: where losing it costs nothing but another one, and where it costs every stream.
const PATIENCE: Duration = Duration::from_secs(1);
const PATIENCE_WITHOUT_RESUME: Duration = Duration::from_secs(5);

impl Driver {
    /// The carrier has ended. The link goes on without one if it may; otherwise this is its end.
    pub(super) fn lose_carrier(&mut self, end: LinkEnd, now: Instant) -> Option<LinkEnd> {
        if self.carrier.is_none() || !self.may_go_on(&end) {
            return Some(end);
        }
        let Some(until) = self.connection.handle_carrier_lost(now) else {
            return Some(end);
        };
        self.carrier = None;
        self.out = ChunkQueue::new();
        if !self
            .revival
            .begin(&self.connection, &end, self.waiting_bytes(), now)
        {
            tracing::debug!("there is no room for a link that waits for its client");
            return Some(end);
        }
        self.standing.detached(end, until);
        None
    }

    /// What the streams' users have not taken, or the wire has not.
    fn waiting_bytes(&self) -> usize {
        let unread: usize = self.streams.values().map(|flow| flow.unread()).sum();
        unread + self.unsent.bytes()
    }

    /// Whether the loss of the carrier is no more than that: who leaves says so, and ends every stream before it closes.
    fn may_go_on(&self, end: &LinkEnd) -> bool {
        let lost = matches!(
            end,
            LinkEnd::Lost { .. } | LinkEnd::PingTimeout { .. } | LinkEnd::PeerClosed { .. }
        );
        let left = match &*self.leaving.borrow() {
            None => false,
            Some(word) => {
                let closed = matches!(end, LinkEnd::PeerClosed { .. });
                word.reason != GoAwayReason::Leaving || closed || self.connection.stream_count() == 0
            }
        };
        lost && !left && self.closing.is_none() && self.revival.is_possible()
    }

    /// Takes another carrier, if there is one. An error is the link's end.
    pub(super) fn revive(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, LinkEnd> {
        match self.revival.poll(cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(fresh) => self.attach(fresh?, now).map(|()| true),
        }
    }

    fn attach(&mut self, fresh: Fresh, now: Instant) -> Result<(), LinkEnd> {
        let Fresh {
            carrier,
            peer_received,
            rest,
            adopted,
        } = fresh;
        let refused = if self.closing.is_some() {
            Some(NotResumedReason::Unknown)
        } else {
            let resumed = self.connection.handle_resume(peer_received, now);
            resumed.is_err().then_some(NotResumedReason::Offset)
        };
        match (refused, adopted) {
            (None, adopted) => {
                // The former one, where there is one still, is cut here: what it would have brought comes again.
                self.carrier = Some(carrier);
                self.out = ChunkQueue::new();
                if let Some(answer) = adopted {
                    let received = self.connection.received_bytes();
                    self.out.push(ResumeAnswer::Resumed { received }.to_bytes());
                    if answer.send(Ok(())).is_err() {
                        tracing::debug!("nobody waits for the link that goes on");
                    }
                }
                self.revival.end(&self.connection, now);
                self.standing.up_again();
                self.take_bytes(rest, now);
                Ok(())
            }
            (Some(reason), Some(answer)) => {
                if answer.send(Err((reason, carrier))).is_err() {
                    tracing::debug!("a connection was given up before it was refused");
                }
                Ok(())
            }
            (Some(_), None) => Err(LinkEnd::NotResumed {
                message: "the other end has lost what this end is missing".to_owned(),
            }),
        }
    }

    /// Makes sure of the carrier, or has another one made at once.
    pub(super) fn check_now(&mut self, now: Instant) {
        if self.carrier.is_none() {
            self.revival.hurry(now);
        } else if self.revival.is_possible() && self.connection.resume_token().is_some() {
            self.connection.probe(PATIENCE, now);
        } else {
            self.connection.probe(PATIENCE_WITHOUT_RESUME, now);
        }
    }
}

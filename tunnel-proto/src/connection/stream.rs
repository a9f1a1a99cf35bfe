//! What a connection keeps of one stream.

use std::time::Instant;

use bytes::Bytes;

use super::events::Place;
use super::flows::Datagrams;
use crate::ChunkQueue;

/// How far a stream has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Ours; OPEN has not been sent, since too many others are unanswered.
    Held,
    /// Ours; OPEN is on its way, the answer is awaited.
    AwaitAnswer,
    /// The peer's; our owner's answer is awaited.
    AwaitOwner,
    /// Accepted.
    Open,
}

/// The end of our direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fin {
    No,
    Wanted,
    Sent,
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) phase: Phase,
    /// Its number on the wire; 0 while its OPEN is held.
    pub(crate) wire: u32,
    /// Kept until OPEN is answered.
    pub(crate) target: Bytes,

    /// Given to us, not yet sent.
    pub(crate) queue: ChunkQueue,
    /// What the peer lets us send.
    pub(crate) credit: u32,
    pub(crate) fin: Fin,
    /// It is in one of the rings of streams that may send.
    pub(crate) in_ring: bool,

    /// How much may be under way to us or unread at once.
    pub(crate) window: u32,
    /// What the peer may still send.
    pub(crate) granted: u32,
    /// Received and not consumed.
    pub(crate) unread: u32,
    /// What the unread bytes keep alive, which is more than they are where they are slices of a larger buffer.
    pub(crate) held: u64,
    /// Its exposure, as counted for the connection.
    pub(crate) counted: u64,
    pub(crate) last_grant: Instant,
    /// The peer was asked to give credit back, and has been granted none since.
    pub(crate) asked_back: bool,
    /// Where data wait for the owner.
    pub(super) place: Place,
    /// Where changes of its credit wait for the owner.
    pub(super) credit_place: Place,
    pub(crate) peer_finished: bool,
    /// The peer has sent on it since we last did.
    pub(crate) heard_last: bool,
    /// What waits to be sent of a flow of datagrams; `None` for a stream of bytes.
    pub(super) datagrams: Option<Box<Datagrams>>,
}

impl Stream {
    /// A stream of which the peer may send `granted`, and whose window is to be `window`.
    pub(crate) fn new(
        phase: Phase,
        wire: u32,
        credit: u32,
        (granted, window): (u32, u32),
        now: Instant,
    ) -> Stream {
        Stream {
            phase,
            wire,
            target: Bytes::new(),
            queue: ChunkQueue::new(),
            credit,
            fin: Fin::No,
            in_ring: false,
            window,
            granted,
            unread: 0,
            held: 0,
            counted: 0,
            last_grant: now,
            asked_back: false,
            place: Place::default(),
            credit_place: Place::default(),
            peer_finished: false,
            heard_last: false,
            datagrams: None,
        }
    }

    /// Whether it has something that it may send.
    pub(crate) fn may_send(&self) -> bool {
        let started = matches!(self.phase, Phase::AwaitAnswer | Phase::Open);
        let (waits, allowed) = match &self.datagrams {
            Some(datagrams) => (!datagrams.is_empty(), true),
            None => (!self.queue.is_empty(), self.credit > 0),
        };
        let fin = !waits && self.fin == Fin::Wanted;
        started && ((waits && allowed) || fin)
    }

    /// The most that may have to be held for it at once.
    pub(crate) fn exposure(&self) -> u64 {
        let held = self.held.max(self.unread.into());
        if self.peer_finished {
            held
        } else {
            u64::from(self.window).max(u64::from(self.granted) + held)
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.fin == Fin::Sent && self.peer_finished
    }
}

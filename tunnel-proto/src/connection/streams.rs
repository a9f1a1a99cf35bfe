//! The streams there are, by our numbers and by those on the wire.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::stream::{Phase, Stream};
use super::{Role, StreamId};
use crate::{Error, Violation};

/// The table of streams.
///
/// A stream of ours has its number from the start, while numbers on the wire must rise from OPEN to OPEN. One whose
/// OPEN is sent after that of a later stream gets a new number for the wire; for all others the two are the same.
#[derive(Debug)]
pub(super) struct Streams {
    role: Role,
    /// Each in a box of its own, so that the table's free places are small.
    table: HashMap<u32, Box<Stream>, RandomState>,
    next_id: u32,
    /// The last number of ours on the wire.
    last_sent: u32,
    last_peer_id: u32,
    /// Our numbers of the streams that have another one on the wire, by that.
    renumbered: HashMap<u32, u32, RandomState>,
}

impl Streams {
    pub(super) fn new(role: Role) -> Streams {
        Streams {
            role,
            table: HashMap::default(),
            next_id: if role == Role::Client { 1 } else { 2 },
            last_sent: 0,
            last_peer_id: 0,
            renumbered: HashMap::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn get(&self, id: u32) -> Option<&Stream> {
        self.table.get(&id).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Stream> {
        self.table.get_mut(&id).map(Box::as_mut)
    }

    /// The stream that the owner means.
    pub(super) fn of_owner(&mut self, id: StreamId) -> Result<&mut Stream, Error> {
        self.get_mut(id.0).ok_or(Error::NotOpen { id })
    }

    pub(super) fn insert(&mut self, id: u32, stream: Stream) {
        self.table.insert(id, Box::new(stream));
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<Box<Stream>> {
        let stream = self.table.remove(&id)?;
        if stream.wire != id {
            self.renumbered.remove(&stream.wire);
        }
        Some(stream)
    }

    /// A number for a new stream of ours.
    pub(super) fn next_id(&mut self) -> Result<u32, Error> {
        let id = self.next_id;
        self.next_id = id.checked_add(2).ok_or(Error::StreamIdsUsedUp)?;
        Ok(id)
    }

    /// Gives a held stream its number on the wire, and out to be sent.
    pub(super) fn send(&mut self, id: u32) -> Result<Option<&mut Stream>, Error> {
        if !self.table.contains_key(&id) {
            return Ok(None);
        }
        let wire = if id > self.last_sent { id } else { self.next_id()? };
        self.last_sent = wire;
        if wire != id {
            self.renumbered.insert(wire, id);
        }
        if let Some(stream) = self.get_mut(id) {
            stream.wire = wire;
            stream.phase = Phase::AwaitAnswer;
            return Ok(Some(stream));
        }
        Ok(None)
    }

    /// Checks the number of a stream that the peer opens.
    pub(super) fn open_by_peer(&mut self, id: u32) -> Result<(), Violation> {
        if self.is_ours(id) || id <= self.last_peer_id {
            return Err(Violation::OpenedOutOfTurn { id });
        }
        self.last_peer_id = id;
        Ok(())
    }

    /// The stream that a frame of the peer is for, and our number of it; `None` when it is over, in which case frames
    /// that crossed its end are ignored.
    pub(super) fn of_peer(&mut self, kind: u8, wire: u32) -> Result<Option<(u32, &mut Stream)>, Violation> {
        let opened = if self.is_ours(wire) {
            wire <= self.last_sent
        } else {
            wire <= self.last_peer_id
        };
        let id = self.renumbered.get(&wire).copied().unwrap_or(wire);
        match self.table.get_mut(&id).map(Box::as_mut) {
            Some(stream) if stream.wire == wire => Ok(Some((id, stream))),
            // What has our number and another one on the wire, or none yet, is not what the peer can mean.
            Some(_) => Err(Violation::NeverOpened { kind, id: wire }),
            None if opened => Ok(None),
            None => Err(Violation::NeverOpened { kind, id: wire }),
        }
    }

    fn is_ours(&self, id: u32) -> bool {
        id % 2 == if self.role == Role::Client { 1 } else { 0 }
    }
}

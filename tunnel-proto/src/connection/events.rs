//! What happened and has not been polled yet.

use std::collections::VecDeque;

use super::StreamId;
use crate::{ChunkQueue, Event};

/// Events in order. The data of a stream that wait are gathered in one place, however small the frames were that
/// brought them.
#[derive(Debug, Default)]
pub(super) struct Events {
    queue: VecDeque<Queued>,
    /// Entries that have left the queue: the number of its first one.
    gone: u64,
}

#[derive(Debug)]
enum Queued {
    Event(Event),
    Data { id: StreamId, chunks: ChunkQueue },
}

/// The number of the entry that a stream's latest data wait in, if they still do.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place(Option<u64>);

impl Events {
    pub(super) fn push(&mut self, event: Event) {
        self.queue.push_back(Queued::Event(event));
    }

    /// Lets `put` add data of a stream to those that wait, if any do. Nothing may have been pushed for the stream since
    /// `place` was set that must come before them.
    pub(super) fn add_data(&mut self, id: StreamId, place: &mut Place, put: impl FnOnce(&mut ChunkQueue)) {
        let waiting = place
            .0
            .and_then(|number| usize::try_from(number.checked_sub(self.gone)?).ok())
            .and_then(|index| self.queue.get_mut(index));
        if let Some(Queued::Data { chunks, .. }) = waiting {
            put(chunks);
        } else {
            let mut chunks = ChunkQueue::new();
            put(&mut chunks);
            place.0 = Some(self.gone + self.queue.len() as u64);
            self.queue.push_back(Queued::Data { id, chunks });
        }
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        loop {
            if let Some(Queued::Data { id, chunks }) = self.queue.front_mut()
                && let Some(bytes) = chunks.pop()
            {
                return Some(Event::Data { id: *id, bytes });
            }
            let Some(first) = self.queue.pop_front() else {
                // What a burst needed is not kept.
                if self.queue.capacity() > KEPT_SLOTS {
                    self.queue = VecDeque::new();
                }
                return None;
            };
            self.gone += 1;
            if let Queued::Event(event) = first {
                return Some(event);
            }
        }
    }
}

/// Slots that an empty queue may keep.
const KEPT_SLOTS: usize = 256;

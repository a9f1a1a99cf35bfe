//! What happened and has not been polled yet.

use std::collections::VecDeque;
use std::num::NonZeroU64;

use super::StreamId;
use crate::{ChunkQueue, Event};

/// Events in order. The data of a stream that wait are gathered in one place, however small the frames were that
/// brought them, and so are its changes of credit.
#[derive(Debug, Default)]
pub(super) struct Events {
    queue: VecDeque<Queued>,
    /// Entries that have left the queue: the number of its first one.
    gone: u64,
}

#[derive(Debug)]
enum Queued {
    Event(Event),
    Data {
        id: StreamId,
        chunks: ChunkQueue,
    },
    Credit {
        id: StreamId,
        granted: u32,
        returned: u32,
    },
}

/// The number of the entry that a stream's latest data, or its latest changes of credit, wait in, if they still do. The first
/// entry has number 1.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place(Option<NonZeroU64>);

impl Events {
    pub(super) fn push(&mut self, event: Event) {
        self.queue.push_back(Queued::Event(event));
    }

    /// Lets `put` add data of a stream to those that wait, if any do. Nothing may have been pushed for the stream since
    /// `place` was set that must come before them.
    pub(super) fn add_data(&mut self, id: StreamId, place: &mut Place, put: impl FnOnce(&mut ChunkQueue)) {
        if let Some(Queued::Data { chunks, .. }) = self.waiting(*place) {
            put(chunks);
        } else {
            let mut chunks = ChunkQueue::new();
            put(&mut chunks);
            *place = self.push_at(Queued::Data { id, chunks });
        }
    }

    /// The peer granted credit for a stream, or was given some of it back.
    pub(super) fn add_credit(&mut self, id: StreamId, place: &mut Place, granted: u32, returned: u32) {
        if let Some(Queued::Credit {
            granted: all_granted,
            returned: all_returned,
            ..
        }) = self.waiting(*place)
            && let (Some(sum_granted), Some(sum_returned)) = (
                all_granted.checked_add(granted),
                all_returned.checked_add(returned),
            )
        {
            (*all_granted, *all_returned) = (sum_granted, sum_returned);
        } else {
            *place = self.push_at(Queued::Credit {
                id,
                granted,
                returned,
            });
        }
    }

    fn waiting(&mut self, place: Place) -> Option<&mut Queued> {
        let index = usize::try_from((place.0?.get() - 1).checked_sub(self.gone)?).ok()?;
        self.queue.get_mut(index)
    }

    fn push_at(&mut self, entry: Queued) -> Place {
        let place = Place(NonZeroU64::new(self.gone + self.queue.len() as u64 + 1));
        self.queue.push_back(entry);
        place
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        loop {
            match self.queue.front_mut() {
                Some(Queued::Data { id, chunks }) => {
                    if let Some(bytes) = chunks.pop() {
                        return Some(Event::Data { id: *id, bytes });
                    }
                }
                Some(Queued::Credit {
                    id,
                    granted,
                    returned,
                }) => {
                    let id = *id;
                    match (std::mem::take(granted), returned) {
                        (0, returned) => {
                            let bytes = std::mem::take(returned);
                            if bytes > 0 {
                                return Some(Event::CreditReturned { id, bytes });
                            }
                        }
                        (bytes, _) => return Some(Event::Credit { id, bytes }),
                    }
                }
                Some(Queued::Event(_)) | None => {}
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

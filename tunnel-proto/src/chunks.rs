//! Bytes that wait, without copying what is large and without an allocation for each piece that is small.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// Where [`Connection::poll_transmit`](crate::Connection::poll_transmit) writes to.
///
/// A sink that only takes slices copies every payload once; one that also takes [`Bytes`] need not copy them at all.
pub trait TransmitSink {
    /// Appends a copy of `bytes`.
    fn put_slice(&mut self, bytes: &[u8]);

    /// Appends `bytes`, by keeping them where the sink can.
    fn put_bytes(&mut self, bytes: Bytes);
}

impl TransmitSink for BytesMut {
    fn put_slice(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn put_bytes(&mut self, bytes: Bytes) {
        self.extend_from_slice(&bytes);
    }
}

/// A queue of bytes in which large pieces stay the buffers they came in and small ones are gathered.
///
/// The memory it holds for `n` bytes is at most a small multiple of `n`, however small the pieces were: pieces below
/// 4 KiB are copied into shared blocks. It is a [`Buf`], whose
/// [`chunks_vectored`](Buf::chunks_vectored) makes one vectored write of many pieces.
///
/// ```
/// use bytes::{Buf, Bytes};
/// use tunnel_proto::ChunkQueue;
///
/// let mut queue = ChunkQueue::new();
/// for _ in 0..1000 {
///     queue.push(Bytes::from_static(b"x"));
/// }
/// queue.push(Bytes::from(vec![b'y'; 100_000]));
/// assert_eq!(queue.len(), 101_000);
/// assert!(queue.chunk_count() <= 3);
/// queue.advance(1000);
/// assert_eq!(queue.pop().map(|chunk| chunk.len()), Some(100_000));
/// assert_eq!(queue.pop(), None);
/// ```
#[derive(Debug, Default)]
pub struct ChunkQueue {
    /// The first piece, in place: most streams never have a second one waiting. When it is empty, what there is is in `rest`.
    first: Bytes,
    /// What comes behind it.
    rest: Option<Box<Rest>>,
    len: usize,
}

#[derive(Debug, Default)]
struct Rest {
    chunks: VecDeque<Bytes>,
    /// Small pieces behind `chunks`, gathered.
    tail: BytesMut,
}

impl ChunkQueue {
    /// An empty queue, which holds no memory.
    #[must_use]
    pub fn new() -> ChunkQueue {
        ChunkQueue::default()
    }

    /// How many bytes it holds.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// In how many pieces [`ChunkQueue::pop`] would give the bytes out.
    #[must_use]
    pub fn chunk_count(&self) -> usize {
        let rest = |rest: &Rest| rest.chunks.len() + usize::from(!rest.tail.is_empty());
        usize::from(!self.first.is_empty()) + self.rest.as_deref().map_or(0, rest)
    }

    /// Appends `bytes`: as they are when they are large or alone, otherwise as a copy.
    pub fn push(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        let alone = self.len == 0;
        self.len += bytes.len();
        if alone {
            // A request or an answer that is read before the next one comes is never copied.
            self.first = bytes;
        } else if bytes.len() >= GATHER_BELOW {
            let rest = self.rest.get_or_insert_default();
            rest.seal();
            rest.chunks.push_back(bytes);
        } else {
            self.rest.get_or_insert_default().gather(&bytes);
        }
    }

    /// Appends a copy of `bytes`.
    pub fn push_slice(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.len += bytes.len();
            self.rest.get_or_insert_default().gather(bytes);
        }
    }

    /// Moves everything out of `other` to the end of this queue.
    pub fn append(&mut self, other: &mut ChunkQueue) {
        if self.is_empty() {
            std::mem::swap(self, other);
            return;
        }
        while let Some(chunk) = other.pop() {
            self.push(chunk);
        }
    }

    /// Takes the first piece.
    pub fn pop(&mut self) -> Option<Bytes> {
        let chunk = if self.first.is_empty() {
            self.rest.as_deref_mut()?.pop()?
        } else {
            std::mem::take(&mut self.first)
        };
        self.taken(chunk.len());
        Some(chunk)
    }

    /// Takes the first piece, or its first `limit` bytes when it is longer; nothing when `limit` is 0.
    pub fn pop_up_to(&mut self, limit: usize) -> Option<Bytes> {
        if limit == 0 {
            return None;
        }
        let chunk = if !self.first.is_empty() {
            if self.first.len() <= limit {
                return self.pop();
            }
            self.first.split_to(limit)
        } else {
            let rest = self.rest.as_deref_mut()?;
            match rest.chunks.front_mut() {
                Some(first) if first.len() > limit => first.split_to(limit),
                None if rest.tail.len() > limit => rest.tail.split_to(limit).freeze(),
                _ => return self.pop(),
            }
        };
        self.taken(chunk.len());
        Some(chunk)
    }

    fn taken(&mut self, bytes: usize) {
        self.len -= bytes;
        // An idle stream keeps no memory of the burst before.
        if self.len == 0 && self.rest.as_deref().is_some_and(Rest::holds_memory) {
            self.rest = None;
        }
    }
}

impl Rest {
    fn holds_memory(&self) -> bool {
        self.chunks.capacity() > 0 || self.tail.capacity() > 0
    }

    fn pop(&mut self) -> Option<Bytes> {
        match self.chunks.pop_front() {
            Some(chunk) => Some(chunk),
            None if self.tail.is_empty() => None,
            None => Some(std::mem::take(&mut self.tail).freeze()),
        }
    }

    fn gather(&mut self, bytes: &[u8]) {
        if self.tail.len() + bytes.len() > BLOCK_BYTES {
            self.seal();
        }
        self.tail.extend_from_slice(bytes);
    }

    /// Makes what was gathered a piece of its own.
    fn seal(&mut self) {
        if !self.tail.is_empty() {
            // What is left of the block's capacity serves the next pieces.
            self.chunks.push_back(self.tail.split().freeze());
        }
    }
}

impl TransmitSink for ChunkQueue {
    fn put_slice(&mut self, bytes: &[u8]) {
        self.push_slice(bytes);
    }

    fn put_bytes(&mut self, bytes: Bytes) {
        self.push(bytes);
    }
}

impl Buf for ChunkQueue {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        match self.rest.as_deref() {
            Some(rest) if self.first.is_empty() => {
                rest.chunks.front().map_or(&rest.tail[..], |first| &first[..])
            }
            _ => &self.first,
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let rest = self.rest.as_deref().into_iter();
        let rest = rest.flat_map(|rest| rest.chunks.iter().map(|chunk| &chunk[..]).chain([&rest.tail[..]]));
        let chunks = std::iter::once(&self.first[..]).chain(rest);
        let mut filled = 0;
        for (slice, chunk) in slices.iter_mut().zip(chunks.filter(|chunk| !chunk.is_empty())) {
            *slice = IoSlice::new(chunk);
            filled += 1;
        }
        filled
    }

    /// # Panics
    /// When `bytes` is more than [`ChunkQueue::len`], as every [`Buf`].
    fn advance(&mut self, bytes: usize) {
        let mut left = bytes - bytes.min(self.first.len());
        if bytes - left == self.first.len() {
            // Else it would keep its buffer.
            self.first = Bytes::new();
        } else {
            self.first.advance(bytes - left);
        }
        if left > 0
            && let Some(rest) = self.rest.as_deref_mut()
        {
            while let Some(first) = rest.chunks.front_mut() {
                if left < first.len() {
                    first.advance(left);
                    left = 0;
                    break;
                }
                left -= first.len();
                rest.chunks.pop_front();
            }
            if left > 0 {
                rest.tail.advance(left);
            }
        }
        self.taken(bytes);
    }
}

/// Pieces below this size are gathered: a page's copy costs no more than a piece of its own.
const GATHER_BELOW: usize = 4 * 1024;

/// A block of gathered pieces is no larger, so that reading frees it bit by bit.
const BLOCK_BYTES: usize = 64 * 1024;

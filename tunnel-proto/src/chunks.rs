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
    chunks: VecDeque<Bytes>,
    /// Small pieces behind `chunks`, gathered.
    tail: BytesMut,
    len: usize,
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
        self.chunks.len() + usize::from(!self.tail.is_empty())
    }

    /// Appends `bytes`: as they are when they are large or alone, otherwise as a copy.
    pub fn push(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.len += bytes.len();
        if bytes.len() >= GATHER_BELOW {
            self.seal();
            self.chunks.push_back(bytes);
        } else if self.len == bytes.len() {
            // A request or an answer that is read before the next one comes is never copied.
            self.chunks.push_back(bytes);
        } else {
            self.gather(&bytes);
        }
    }

    /// Appends a copy of `bytes`.
    pub fn push_slice(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        self.gather(bytes);
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
        let chunk = match self.chunks.pop_front() {
            Some(chunk) => chunk,
            None if self.tail.is_empty() => return None,
            None => std::mem::take(&mut self.tail).freeze(),
        };
        self.taken(chunk.len());
        Some(chunk)
    }

    /// Takes the first piece, or its first `limit` bytes when it is longer; nothing when `limit` is 0.
    pub fn pop_up_to(&mut self, limit: usize) -> Option<Bytes> {
        if limit == 0 {
            return None;
        }
        let chunk = if let Some(first) = self.chunks.front_mut() {
            if first.len() <= limit {
                return self.pop();
            }
            first.split_to(limit)
        } else if self.tail.len() <= limit {
            return self.pop();
        } else {
            self.tail.split_to(limit).freeze()
        };
        self.taken(chunk.len());
        Some(chunk)
    }

    fn taken(&mut self, bytes: usize) {
        self.len -= bytes;
        // An idle stream keeps no memory of the burst before.
        if self.len == 0 && self.chunks.capacity() > KEPT_SLOTS {
            self.chunks = VecDeque::new();
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
        self.chunks.front().map_or(&self.tail[..], |first| &first[..])
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let tail = (!self.tail.is_empty()).then_some(&self.tail[..]);
        let chunks = self.chunks.iter().map(|chunk| &chunk[..]).chain(tail);
        let mut filled = 0;
        for (slice, chunk) in slices.iter_mut().zip(chunks) {
            *slice = IoSlice::new(chunk);
            filled += 1;
        }
        filled
    }

    /// # Panics
    /// When `bytes` is more than [`ChunkQueue::len`], as every [`Buf`].
    fn advance(&mut self, bytes: usize) {
        let mut left = bytes;
        while let Some(first) = self.chunks.front_mut() {
            if left < first.len() {
                first.advance(left);
                left = 0;
                break;
            }
            left -= first.len();
            self.chunks.pop_front();
        }
        if self.chunks.is_empty() && left > 0 {
            self.tail.advance(left);
        }
        self.taken(bytes);
    }
}

/// Pieces below this size are gathered: a page's copy costs no more than a piece of its own.
const GATHER_BELOW: usize = 4 * 1024;

/// A block of gathered pieces is no larger, so that reading frees it bit by bit.
const BLOCK_BYTES: usize = 64 * 1024;

/// Slots for pieces that an empty queue may keep.
const KEPT_SLOTS: usize = 8;
